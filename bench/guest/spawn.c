/* Spawns /bin/true many times and prints the nanoseconds of one fork, exec and wait: first in a tight loop, then
   with a pause before each, which is not counted. The second is what a machine that was idle needs.
   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o spawn spawn.c */

#include "spawn.h"

enum { SYS_WRITE = 1, SYS_NANOSLEEP = 35, SYS_CLOCK_GETTIME = 228 };
enum { MONOTONIC = 1, ROUNDS = 10, PAUSE = 30000000 };

static long now(void)
{
	long time[2] = { 0, 0 };
	call(SYS_CLOCK_GETTIME, MONOTONIC, (long)time, 0, 0);
	return time[0] * 1000000000L + time[1];
}

static void print(unsigned long number, char end)
{
	char text[24];
	int at = sizeof text;
	text[--at] = end;
	do {
		text[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number && at > 0);
	call(SYS_WRITE, 1, (long)(text + at), (long)sizeof text - at, 0);
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
	long pause[2] = { 0, PAUSE };
	long begin = now();
	for (int i = 0; i < ROUNDS; i++)
		spawn();
	long tight = now() - begin;
	long paused = 0;
	for (int i = 0; i < ROUNDS; i++) {
		call(SYS_NANOSLEEP, (long)pause, 0, 0, 0);
		begin = now();
		spawn();
		paused += now() - begin;
	}
	print((unsigned long)tight / ROUNDS, ' ');
	print((unsigned long)paused / ROUNDS, '\n');
	call(SYS_EXIT, 0, 0, 0, 0);
}
