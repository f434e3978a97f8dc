/* SPDX-License-Identifier: Apache-2.0 */
/* Failures of the host, and kill -9 of the process, at every change of the files. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_kit.h"

static uint8_t written(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

struct faults {
	unsigned int *seen; /* shared with the child; counts the points passed */
	unsigned int at;    /* which one */
	int error;	    /* what happens there: -errno, or 0 for SIGKILL */
	bool sync;	    /* it was one that makes durable what the guest wrote */
};

static int fault_at(void *opaque, const char *point)
{
	struct faults *f = opaque;

	if (__atomic_add_fetch(f->seen, 1, __ATOMIC_SEQ_CST) != f->at)
		return 0;
	if (!f->error)
		raise(SIGKILL);
	f->sync = !strcmp(point, "sync") || !strcmp(point, "dir");
	return f->error;
}

Test(layers_crash, a_full_host_fails_the_request_and_keeps_the_old_bytes)
{
	unsigned int seen = 0;
	struct faults f = {&seen, 2, -ENOSPC, false};
	uint8_t buf[4096] = {0};
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_assert_eq(kit_write(&k, 8192, buf, 4096), -ENOSPC);
	kit_expect(&k, 8192, 4096, kit_base_or_zero, "after the failure");
	kit_write_bytes(&k, 8192, 4096, written);
	kit_expect(&k, 8192, 4096, written, "when there is room again");
	kit_fini(&k);
}

Test(layers_crash, a_map_that_cannot_be_written_fails_the_flush_and_the_next_one_writes_it)
{
	unsigned int seen = 0;
	/* 1 header, 2 write, 3 sync, 4 map */
	struct faults f = {&seen, 4, -ENOSPC, false};
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
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
	struct faults f = {&seen, 3, -EIO, false};
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_write_bytes(&k, 8192, 4096, written);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	kit_fini(&k);
}

/*
 * The workload: round i fills a few places with byte i and flushes; at some, half of it
 * goes to the layer below, as a switch is in the middle. What has been flushed is noted
 * after the flush's answer, in shared memory if a child does it that will be killed.
 */
#define ROUNDS 12

static const struct place {
	uint64_t offset, len;
} places[] = {
    {4096, 4096}, {4096 * 9 + 512, 1024}, {4096 * 30, 4096 * 6}, {KIT_BASE_BYTES - 512, 4096}};
#define PLACES (sizeof(places) / sizeof(places[0]))

struct work {
	struct disk_kit *k;
	unsigned int *flushed;
	bool again;	    /* after a failure once more, which must succeed */
	unsigned int fails; /* of requests and switches */
	unsigned int unsealed;
	struct faults *faults;
};

/* Return: did it? */
static bool done(struct work *w, int rc)
{
	if (rc == 0)
		return true;
	w->fails++;
	if (!w->again || w->fails > 1)
		_exit(3);
	return false;
}

static void fill(struct work *w, uint64_t offset, uint64_t len, unsigned int byte)
{
	uint8_t *buf = malloc(len);

	memset(buf, (int)byte, len);
	while (!done(w, kit_write(w->k, offset, buf, len)))
		;
	free(buf);
}

/* Return: false when nothing can be made durable any more. */
static bool flush(struct work *w)
{
	int rc;

	while ((rc = kit_do(w->k, DISK_FLUSH, 0, 0)) < 0) {
		if (w->faults->sync)
			return false;
		done(w, rc);
	}
	return true;
}

static void switch_layer(struct work *w)
{
	while (!done(w, kit_switch(w->k, NULL)))
		;
}

static void wait_sealed(struct work *w, unsigned int seals)
{
	while (w->k->seals < seals)
		kit_wait_sealed(w->k);
	if (w->k->sealed < 0)
		w->unsealed++;
}

static void workload(struct work *w)
{
	for (unsigned int i = 1; i <= ROUNDS; i++) {
		for (size_t p = 0; p < PLACES; p++) {
			fill(w, places[p].offset, places[p].len, i);
			if (i % 3 == 0 && p == 1)
				switch_layer(w);
		}
		/* And a cluster that the map did not have. */
		fill(w, 4096 * (70 + i), 512, i);
		while (i == 5 && !done(w, kit_do(w->k, DISK_DISCARD, 4096 * 50, 4096)))
			;
		/* Now before the sealing, now after it. */
		if (i % 6 == 0)
			wait_sealed(w, i / 3);
		if (flush(w))
			__atomic_store_n(w->flushed, i, __ATOMIC_SEQ_CST);
		if (i % 6 == 3)
			wait_sealed(w, i / 3);
	}
}

/* Every sector holds the round that was flushed, or a later one, up to @newest. */
static void verify(struct disk_kit *k, unsigned int flushed, unsigned int newest)
{
	for (size_t p = 0; p < PLACES; p++) {
		for (uint64_t s = 0; s < places[p].len; s += 512) {
			uint64_t at = places[p].offset + s;
			uint8_t buf[512];

			cr_assert_eq(kit_read(k, at, buf, sizeof(buf)), 0);
			if (flushed == 0 && !memcmp(buf, (uint8_t[]){kit_base_or_zero(at)}, 1)) {
				for (uint64_t i = 0; i < sizeof(buf); i++)
					cr_assert_eq(buf[i], kit_base_or_zero(at + i), "torn base");
				continue;
			}
			for (uint64_t i = 0; i < sizeof(buf); i++)
				cr_assert(buf[i] == buf[0], "torn sector at %llu",
					  (unsigned long long)at);
			cr_assert(buf[0] >= flushed && buf[0] <= newest,
				  "round %u was flushed, sector %llu has %u", flushed,
				  (unsigned long long)at, buf[0]);
		}
	}
	for (unsigned int i = 1; i <= flushed; i++) {
		uint8_t buf[512];

		cr_assert_eq(kit_read(k, 4096 * (70 + i), buf, sizeof(buf)), 0);
		cr_assert(buf[0] == i && buf[511] == i, "the cluster of round %u is lost", i);
	}
	if (flushed >= 5)
		kit_expect(k, 4096 * 50, 4096, kit_zero, "discarded and flushed");
	kit_expect(k, 4096 * 60, 4096, kit_base_or_zero, "what nobody touched");
}

/* As a controller does: a layer that was to be the next is, if its file exists. */
static void find_layers(struct disk_kit *k)
{
	k->layers_n = 0;
	k->files_n = 0;
	snprintf(k->overlay, sizeof(k->overlay), "%s/overlay", k->dir);
	for (;;) {
		char next[sizeof(k->overlay)];

		snprintf(next, sizeof(next), "%s/layer%u", k->dir, k->files_n + 1);
		if (access(next, F_OK) < 0)
			return;
		k->files_n++;
		memcpy(k->layers[k->layers_n++], k->overlay, sizeof(k->overlay));
		memcpy(k->overlay, next, sizeof(next));
	}
}

/* Return: false when the workload ended before the @at-th point. */
static bool kill_at(unsigned int at)
{
	unsigned int *shared =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct faults f = {&shared[0], at, 0, false};
	struct disk_kit k;
	struct err e;
	int status;
	pid_t pid;

	kit_init_in_memory(&k, KIT_BASE_BYTES);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		struct work w = {.k = &k, .flushed = &shared[1], .faults = &f};

		k.fault = fault_at;
		k.fault_opaque = &f;
		if (kit_open(&k, KIT_SIZE_BYTES, NULL) < 0)
			_exit(1);
		workload(&w);
		_exit(w.unsealed ? 2 : 0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "point %u: the child failed: %d",
		  at, WEXITSTATUS(status));
	find_layers(&k);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "point %u: %s", at, e.msg);
	verify(&k, shared[1], shared[1] + 1);
	/* And it goes on from there. */
	cr_assert_eq(kit_switch(&k, &e), 0, "point %u: %s", at, e.msg);
	cr_assert_eq(kit_wait_sealed(&k), 0, "point %u", at);
	verify(&k, shared[1], shared[1] + 1);
	kit_fini(&k);
	munmap(shared, 4096);
	return WIFSIGNALED(status);
}

Test(layers_crash, what_was_flushed_survives_kill_9_at_every_write_point, .timeout = 300)
{
	unsigned int at = 1;

	while (kill_at(at))
		at++;
	/* Each round has its writes, its FLUSH; four have a switch and a sealing. */
	cr_expect_gt(at, ROUNDS * 8 + 4 * 6, "only %u points were passed", at);
}

/* One failure, at the @at-th point. Return: false when there was none. */
static bool fail_at(unsigned int at, int error)
{
	unsigned int seen = 0, flushed = 0;
	struct faults f = {&seen, at, error, false};
	struct disk_kit k;
	struct work w = {.k = &k, .flushed = &flushed, .again = true, .faults = &f};
	struct err e;
	bool hit;
	int rc;

	kit_init_in_memory(&k, KIT_BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	rc = kit_open(&k, KIT_SIZE_BYTES, &e);
	if (rc < 0) {
		cr_assert_eq(seen, at);
		cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	}
	workload(&w);
	hit = seen >= at;
	f.at = 0;
	if (!f.sync) {
		cr_assert_eq(flushed, ROUNDS, "point %u", at);
		cr_assert_leq(w.fails + w.unsealed, 2, "point %u", at);
	}
	/* Who was told of no failure has met none. */
	cr_assert(!hit || rc < 0 || w.fails || w.unsealed || flushed < ROUNDS,
		  "point %u failed unseen", at);
	verify(&k, ROUNDS, ROUNDS);
	cr_assert_eq(kit_switch(&k, &e), 0, "point %u: %s", at, e.msg);
	cr_assert_eq(kit_wait_sealed(&k), f.sync ? -EIO : 0, "point %u", at);
	verify(&k, ROUNDS, ROUNDS);
	kit_close(&k);
	k.fault = NULL;
	cr_assert_eq(kit_open(&k, 0, &e), 0, "point %u: %s", at, e.msg);
	verify(&k, flushed, ROUNDS);
	kit_fini(&k);
	return hit;
}

Test(layers_crash, a_full_host_at_any_point_is_told_and_loses_nothing, .timeout = 300)
{
	unsigned int at = 1;

	while (fail_at(at, -ENOSPC))
		at++;
	cr_expect_gt(at, ROUNDS * 8 + 4 * 6, "only %u points were passed", at);
}
