/* The least that a command line can do to run something in a guest: one byte out, one byte back, no memory asked for.
   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o ask ask.c */

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

enum { SYS_READ = 0, SYS_WRITE = 1, SYS_EXIT = 60 };

void _start(void)
{
	char byte = 'x';
	long ok = call(SYS_WRITE, 1, (long)&byte, 1) == 1 && call(SYS_READ, 0, (long)&byte, 1) == 1;
	call(SYS_EXIT, !ok, 0, 0);
}
