/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs in guests that are saved and restored: sees what a program can see of it. Both forms go on
 * for ever, and keep a line of key=value in FILE (in a tmpfs).
 *
 * vm-witness FILE
 *
 *   rounds	how often it went around
 *   backwards	how often CLOCK_MONOTONIC was less than before
 *   vector_bytes	width of the vector registers it watches: 32 with AVX2, else 16
 *   vector_bad	how often a vector register had lost what was in it
 *   steps	how often CLOCK_REALTIME moved otherwise than CLOCK_MONOTONIC by > 1 s
 *
 * vm-witness FILE DISK-FILE: writes blocks of the disk, past the page cache, in turn and each with
 * another number, and looks first whether there is what it remembers. A disk that is older
 * or newer than the memory is found out.
 *
 *   rounds	blocks that were written
 *   disk_bad	how often a block was not what it had been
 */
#include <fcntl.h>
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SPIN	   20000
#define BLOCK	   4096
#define BLOCKS	   64
#define LINE_BYTES 200

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/*
 * Fill four 256-bit registers, stay in user space for a while with nothing but
 * them, then look. A machine that is saved in between must bring back all of it, upper halves too.
 */
__attribute__((target("avx2"))) static int vectors_lose(uint64_t seed)
{
	uint64_t in[16], out[16];
	uint64_t n = SPIN;

	for (unsigned int i = 0; i < 16; i++)
		in[i] = (seed + i) * 0x9e3779b97f4a7c15ULL;
	__asm__ volatile("vmovdqu (%1), %%ymm12\n\t"
			 "vmovdqu 32(%1), %%ymm13\n\t"
			 "vmovdqu 64(%1), %%ymm14\n\t"
			 "vmovdqu 96(%1), %%ymm15\n"
			 "1:\n\t"
			 "dec %0\n\t"
			 "jnz 1b\n\t"
			 "vmovdqu %%ymm12, (%2)\n\t"
			 "vmovdqu %%ymm13, 32(%2)\n\t"
			 "vmovdqu %%ymm14, 64(%2)\n\t"
			 "vmovdqu %%ymm15, 96(%2)\n\t"
			 "vzeroupper"
			 : "+r"(n)
			 : "r"(in), "r"(out)
			 : "memory", "cc", "xmm12", "xmm13", "xmm14", "xmm15");
	return memcmp(in, out, sizeof(in)) != 0;
}

/* The same with the lower halves alone, where the guest has no more. */
static int halves_lose(uint64_t seed)
{
	uint64_t in[8], out[8];
	uint64_t n = SPIN;

	for (unsigned int i = 0; i < 8; i++)
		in[i] = (seed + i) * 0x9e3779b97f4a7c15ULL;
	__asm__ volatile("movdqu (%1), %%xmm12\n\t"
			 "movdqu 16(%1), %%xmm13\n\t"
			 "movdqu 32(%1), %%xmm14\n\t"
			 "movdqu 48(%1), %%xmm15\n"
			 "1:\n\t"
			 "dec %0\n\t"
			 "jnz 1b\n\t"
			 "movdqu %%xmm12, (%2)\n\t"
			 "movdqu %%xmm13, 16(%2)\n\t"
			 "movdqu %%xmm14, 32(%2)\n\t"
			 "movdqu %%xmm15, 48(%2)"
			 : "+r"(n)
			 : "r"(in), "r"(out)
			 : "memory", "cc", "xmm12", "xmm13", "xmm14", "xmm15");
	return memcmp(in, out, sizeof(in)) != 0;
}

/* The machine is to be looked at, not to be kept busy. */
static int watch(int fd)
{
	uint64_t rounds = 0, backwards = 0, vector_bad = 0, steps = 0, mono, last, real, offset;
	int wide = __builtin_cpu_supports("avx2");
	char line[LINE_BYTES];

	last = now_ns(CLOCK_MONOTONIC);
	offset = now_ns(CLOCK_REALTIME) - last;
	for (;;) {
		vector_bad += (wide ? vectors_lose(rounds) : halves_lose(rounds)) ? 1 : 0;
		mono = now_ns(CLOCK_MONOTONIC);
		real = now_ns(CLOCK_REALTIME);
		backwards += mono < last ? 1 : 0;
		last = mono;
		if (real - mono - offset + 1000000000ULL > 2000000000ULL) {
			steps++;
			offset = real - mono;
		}
		rounds++;
		snprintf(line, sizeof(line),
			 "rounds=%-20llu backwards=%-20llu vector_bad=%-20llu steps=%-20llu "
			 "vector_bytes=%d\n",
			 (unsigned long long)rounds, (unsigned long long)backwards,
			 (unsigned long long)vector_bad, (unsigned long long)steps, wide ? 32 : 16);
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
		if (pwrite(fd, line, strlen(line), 0) < 0)
			return 1;
	}
}

static bool is_filled(const uint64_t *block, uint64_t number)
{
	for (size_t i = 0; i < BLOCK / sizeof(*block); i++)
		if (block[i] != number)
			return false;
	return true;
}

static int write_and_compare(int fd, int disk)
{
	uint64_t there[BLOCKS] = {0}, rounds = 0, bad = 0;
	uint64_t *block = aligned_alloc(BLOCK, BLOCK);
	char line[LINE_BYTES];

	if (!block)
		return 1;
	for (;;) {
		unsigned int at = rounds % BLOCKS;

		if (rounds >= BLOCKS && pread(disk, block, BLOCK, at * BLOCK) != BLOCK)
			return 1;
		bad += rounds >= BLOCKS && !is_filled(block, there[at]) ? 1 : 0;
		there[at] = ++rounds;
		for (size_t i = 0; i < BLOCK / sizeof(*block); i++)
			block[i] = rounds;
		if (pwrite(disk, block, BLOCK, at * BLOCK) != BLOCK)
			return 1;
		snprintf(line, sizeof(line), "rounds=%-20llu disk_bad=%-20llu\n",
			 (unsigned long long)rounds, (unsigned long long)bad);
		if (pwrite(fd, line, strlen(line), 0) < 0)
			return 1;
	}
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
	int disk =
	    argc > 2 ? open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0644) : -1;

	if (fd < 0 || argc > 3 || (argc == 3 && disk < 0)) {
		fputs("usage: vm-witness FILE [DISK-FILE]\n", stderr);
		return 2;
	}
	return argc == 3 ? write_and_compare(fd, disk) : watch(fd);
}
