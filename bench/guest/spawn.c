/* Spawns /bin/true many times and prints the nanoseconds of one fork, exec and wait.
   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o spawn spawn.c */

static long call(long number, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

enum { SYS_WRITE = 1, SYS_FORK = 57, SYS_EXECVE = 59, SYS_EXIT = 60, SYS_WAIT4 = 61, SYS_CLOCK_GETTIME = 228 };
enum { MONOTONIC = 1, ROUNDS = 10 };

static long now(void)
{
	long time[2] = { 0, 0 };
	call(SYS_CLOCK_GETTIME, MONOTONIC, (long)time, 0, 0);
	return time[0] * 1000000000L + time[1];
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
	static char path[] = "/bin/true";
	char *argv[] = { path, 0 };
	char *envp[] = { 0 };
	long begin = now();
	for (int i = 0; i < ROUNDS; i++) {
		int status = 1;
		long pid = call(SYS_FORK, 0, 0, 0, 0);
		if (pid == 0) {
			call(SYS_EXECVE, (long)path, (long)argv, (long)envp, 0);
			call(SYS_EXIT, 127, 0, 0, 0);
		}
		call(SYS_WAIT4, pid, (long)&status, 0, 0);
		if (pid < 0 || status != 0)
			call(SYS_EXIT, 1, 0, 0, 0);
	}
	unsigned long each = (unsigned long)(now() - begin) / ROUNDS;
	char text[24];
	int at = sizeof text;
	text[--at] = '\n';
	do {
		text[--at] = (char)('0' + each % 10);
		each /= 10;
	} while (each && at > 0);
	call(SYS_WRITE, 1, (long)(text + at), (long)sizeof text - at, 0);
	call(SYS_EXIT, 0, 0, 0, 0);
}
