/* SPDX-License-Identifier: Apache-2.0 */
/* Failures of the host, and kill -9 of the process, at every change of the files. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_kit.h"

#define BASE_BYTES (64u * 4096 + 1024) /* its end is inside a cluster */
#define SIZE_BYTES (96u * 4096 + 512)

static uint8_t base_or_zero(uint64_t offset)
{
	return offset < BASE_BYTES ? kit_base_byte(offset) : 0;
}

static uint8_t zero(uint64_t offset)
{
	(void)offset;
	return 0;
}

static uint8_t written(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

struct faults {
	unsigned int *seen; /* shared with the child; counts the points passed */
	unsigned int at;    /* which one */
	int error;	    /* what happens there: -errno, or 0 for SIGKILL */
};

static int fault_at(void *opaque, const char *point)
{
	struct faults *f = opaque;

	(void)point;
	if (__atomic_add_fetch(f->seen, 1, __ATOMIC_SEQ_CST) != f->at)
		return 0;
	if (!f->error)
		raise(SIGKILL);
	return f->error;
}

Test(layers_crash, a_full_host_fails_the_request_and_keeps_the_old_bytes)
{
	unsigned int seen = 0;
	struct faults f = {&seen, 2, -ENOSPC};
	uint8_t buf[4096] = {0};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_assert_eq(kit_write(&k, 8192, buf, 4096), -ENOSPC);
	kit_expect(&k, 8192, 4096, base_or_zero, "after the failure");
	kit_write_bytes(&k, 8192, 4096, written);
	kit_expect(&k, 8192, 4096, written, "when there is room again");
	kit_fini(&k);
}

Test(layers_crash, a_map_that_cannot_be_written_fails_the_flush_and_the_next_one_writes_it)
{
	unsigned int seen = 0;
	/* 1 header, 2 write, 3 sync, 4 map */
	struct faults f = {&seen, 4, -ENOSPC};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_write_bytes(&k, 8192, 4096, written);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -ENOSPC);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_expect(&k, 8192, 4096, written, "flushed at the second try");
	kit_fini(&k);
}

Test(layers_crash, after_a_failed_sync_no_flush_succeeds)
{
	unsigned int seen = 0;
	struct faults f = {&seen, 3, -EIO};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_write_bytes(&k, 8192, 4096, written);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	kit_fini(&k);
}

/*
 * The workload of the kill test: round i fills a few places with byte i and flushes.
 * What the child has flushed it notes in shared memory, after the flush's answer.
 */
#define ROUNDS 12

static const struct place {
	uint64_t offset, len;
} places[] = {
    {4096, 4096}, {4096 * 9 + 512, 1024}, {4096 * 30, 4096 * 6}, {BASE_BYTES - 512, 4096}};
#define PLACES (sizeof(places) / sizeof(places[0]))

static void workload(struct disk_kit *k, unsigned int *flushed)
{
	for (unsigned int i = 1; i <= ROUNDS; i++) {
		for (size_t p = 0; p < PLACES; p++) {
			uint8_t *buf = malloc(places[p].len);

			memset(buf, (int)i, places[p].len);
			if (kit_write(k, places[p].offset, buf, places[p].len) < 0)
				_exit(1);
			free(buf);
		}
		/* And a cluster that the map did not have. */
		if (kit_write(k, 4096 * (70 + i), (uint8_t[512]){(uint8_t)i}, 512) < 0)
			_exit(1);
		if (i == 5 && kit_do(k, DISK_DISCARD, 4096 * 50, 4096) < 0)
			_exit(1);
		if (kit_do(k, DISK_FLUSH, 0, 0) < 0)
			_exit(1);
		__atomic_store_n(flushed, i, __ATOMIC_SEQ_CST);
	}
}

/* Every sector holds the round that was flushed, or the one that ran when the child died. */
static void verify(struct disk_kit *k, unsigned int flushed)
{
	for (size_t p = 0; p < PLACES; p++) {
		for (uint64_t s = 0; s < places[p].len; s += 512) {
			uint64_t at = places[p].offset + s;
			uint8_t buf[512];

			cr_assert_eq(kit_read(k, at, buf, sizeof(buf)), 0);
			if (flushed == 0 && !memcmp(buf, (uint8_t[]){base_or_zero(at)}, 1)) {
				for (uint64_t i = 0; i < sizeof(buf); i++)
					cr_assert_eq(buf[i], base_or_zero(at + i), "torn base");
				continue;
			}
			for (uint64_t i = 0; i < sizeof(buf); i++)
				cr_assert(buf[i] == buf[0], "torn sector at %llu",
					  (unsigned long long)at);
			cr_assert(buf[0] == flushed || buf[0] == flushed + 1,
				  "round %u was flushed, sector %llu has %u", flushed,
				  (unsigned long long)at, buf[0]);
		}
	}
	for (unsigned int i = 1; i <= flushed; i++) {
		uint8_t buf[512];

		cr_assert_eq(kit_read(k, 4096 * (70 + i), buf, sizeof(buf)), 0);
		cr_assert(buf[0] == i && !buf[1], "the cluster of round %u is lost", i);
	}
	if (flushed >= 5)
		kit_expect(k, 4096 * 50, 4096, zero, "discarded and flushed");
	kit_expect(k, 4096 * 60, 4096, base_or_zero, "what nobody touched");
}

/* Return: false when the workload ended before the @at-th point. */
static bool kill_at(unsigned int at)
{
	unsigned int *shared =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct faults f = {&shared[0], at, 0};
	struct disk_kit k;
	int status;
	pid_t pid;

	kit_init(&k, BASE_BYTES);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		k.fault = fault_at;
		k.fault_opaque = &f;
		if (kit_open(&k, SIZE_BYTES, NULL) < 0)
			_exit(1);
		workload(&k, &shared[1]);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "point %u: the child failed",
		  at);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0, "point %u", at);
	verify(&k, shared[1]);
	kit_fini(&k);
	munmap(shared, 4096);
	return WIFSIGNALED(status);
}

Test(layers_crash, what_was_flushed_survives_kill_9_at_every_write_point)
{
	unsigned int at = 1;

	while (kill_at(at))
		at++;
	cr_expect_gt(at, ROUNDS * 8, "only %u points were passed", at);
}
