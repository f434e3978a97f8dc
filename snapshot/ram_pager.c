/* SPDX-License-Identifier: Apache-2.0 */
/* Loading RAM from a cold image: chunks, faults, life; see ram_pager.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/ram_order.h"
#include "snapshot/ram_pager_int.h"
#include "snapshot/uffd.h"

/* #syscalls poll ppoll */

#define DEFAULT_DEPTH	8
#define DEFAULT_CALM_MS 50
#define FAULTS_BATCH	16
/* Runs of zero chunks of this size are not registered: the kernel's own faults are faster. */
#define GAP_BYTES (2u << 20)

static uint8_t *chunk_at(const struct ram_pager *p, uint32_t chunk)
{
	return p->ram + (uint64_t)chunk * p->image.chunk_bytes;
}

static uint64_t chunk_plain(const struct ram_pager *p, uint32_t chunk)
{
	return p->image.index[chunk].plain_bytes / COLD_PAGE * COLD_PAGE;
}

/* --- chunks ----------------------------------------------------------------------- */

static void set_state(struct ram_pager *p, uint32_t chunk, enum chunk_state s)
{
	__atomic_store_n(&p->state[chunk], (uint8_t)s, __ATOMIC_RELEASE);
}

/* The lock is held. The first reason counts. Return: whether this is it. */
static bool set_failed(struct ram_pager *p, const struct err *e)
{
	bool first = p->now.state == RAM_PAGER_LOADING;

	if (first) {
		p->now.state = RAM_PAGER_FAILED;
		p->now.error = *e;
	}
	pthread_cond_broadcast(&p->changed);
	return first;
}

void pager_fail(struct ram_pager *p, const struct err *e)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = set_failed(p, e);
	pthread_mutex_unlock(&p->lock);
	if (first)
		p->over(p->opaque, true);
}

/*
 * Nobody may see anything where the chunk should be. The owner hears of it first, so that what
 * he says is the reason and not what the vCPU says that runs into it.
 */
static void give_up(struct ram_pager *p, uint32_t chunk, const struct err *e)
{
	pager_fail(p, e);
	if (mprotect(chunk_at(p, chunk), p->image.chunk_bytes, PROT_NONE) < 0) {
		/* Then who waits there waits until the process ends. */
		log_error("%s; and it cannot be closed off: %s", e->msg, strerror(errno));
		return;
	}
	pthread_mutex_lock(&p->lock);
	set_state(p, chunk, CHUNK_BAD);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	if (p->uffd >= 0)
		uffd_wake(p->uffd, chunk_at(p, chunk), p->image.chunk_bytes);
}

static int place(struct ram_pager *p, uint8_t *at, const uint8_t *content, uint64_t len)
{
	if (p->uffd >= 0)
		return uffd_copy(p->uffd, at, content, len);
	memcpy(at, content, len);
	return 0;
}

static int place_all(struct ram_pager *p, uint32_t chunk, const struct cold_pages *pages,
		     struct err *e)
{
	const uint8_t *from = pages->content;
	uint32_t page = 0, n, all = p->image.chunk_bytes / COLD_PAGE;

	while ((n = cold_next_run(pages, &page, all)) > 0) {
		uint64_t len = (uint64_t)n * COLD_PAGE;
		int rc = place(p, chunk_at(p, chunk) + (uint64_t)page * COLD_PAGE, from, len);

		if (rc)
			return err_sys(e, rc, "memory image %s: putting chunk %u in place",
				       p->image.path, chunk);
		from += len;
		page += n;
	}
	return 0;
}

int pager_load(struct ram_pager *p, uint32_t chunk, const void *stored, struct cold_codec *k)
{
	struct cold_pages pages;
	struct err e;
	int rc;

	rc = stored ? cold_decode(&p->image, chunk, stored, k, &pages, &e)
		    : cold_read(&p->image, chunk, k, &pages, &e);
	if (!rc)
		rc = place_all(p, chunk, &pages, &e);
	if (rc) {
		give_up(p, chunk, &e);
		return -EIO;
	}
	pthread_mutex_lock(&p->lock);
	set_state(p, chunk, CHUNK_LOADED);
	p->now.loaded++;
	p->now.loaded_bytes += chunk_plain(p, chunk);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	/*
	 * Only now: who wakes and faults again, on a page that is not stored, is told by
	 * the state that it is one of zeros.
	 */
	if (p->uffd >= 0)
		uffd_wake(p->uffd, chunk_at(p, chunk), p->image.chunk_bytes);
	return 0;
}

void pager_note_fault(struct ram_pager *p, uint32_t chunk)
{
	pthread_mutex_lock(&p->lock);
	p->order[p->now.faults++] = chunk;
	pthread_mutex_unlock(&p->lock);
}

bool pager_must_end(struct ram_pager *p)
{
	bool end;

	pthread_mutex_lock(&p->lock);
	end = p->stopping || p->now.state != RAM_PAGER_LOADING;
	pthread_mutex_unlock(&p->lock);
	return end;
}

static void record(struct ram_pager *p)
{
	struct err e;

	if (!p->order_path || p->plan_n || !p->now.faults)
		return;
	/* A hint for later: no reason to fail anything. */
	if (ram_order_write(p->order_path, &p->image, p->order, p->now.faults, &e) < 0)
		log_warn("%s", e.msg);
}

void pager_done(struct ram_pager *p)
{
	/* Also those ranges that never were registered: nobody minds. */
	int rc = uffd_unregister(p->uffd, p->ram, p->image.ram_bytes);
	struct err e;

	if (rc) {
		err_sys(&e, rc, "memory image %s: releasing the memory", p->image.path);
		return pager_fail(p, &e);
	}
	record(p);
	pthread_mutex_lock(&p->lock);
	p->now.state = RAM_PAGER_DONE;
	p->now.done_us = (clock_mono_ns() - p->start_ns) / 1000;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	p->over(p->opaque, false);
}

/* --- faults ------------------------------------------------------------------------- */

static void answer(struct ram_pager *p, uint8_t *at)
{
	uint64_t offset = (uint64_t)(at - p->ram) / COLD_PAGE * COLD_PAGE;
	uint32_t chunk = (uint32_t)(offset / p->image.chunk_bytes);

	if (offset >= p->image.ram_bytes)
		return;
	if (pager_claim(p, chunk)) {
		pager_note_fault(p, chunk);
		pager_load(p, chunk, NULL, p->fault_codec);
		return;
	}
	/* Whoever loads it wakes all that wait for it. */
	if (pager_chunk(p, chunk) == CHUNK_LOADING)
		return;
	/* -EEXIST: the page came after the fault. In doubt the access is just tried again. */
	if (pager_chunk(p, chunk) == CHUNK_BAD || uffd_zero(p->uffd, p->ram + offset, COLD_PAGE))
		uffd_wake(p->uffd, p->ram + offset, COLD_PAGE);
}

static void *fault_main(void *arg)
{
	struct ram_pager *p = arg;
	struct pollfd fds[2] = {{.fd = p->uffd, .events = POLLIN},
				{.fd = p->stop_fd, .events = POLLIN}};
	void *at[FAULTS_BATCH];

	pthread_setname_np(pthread_self(), "ram-faults");
	for (;;) {
		int n;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			break;
		n = uffd_next(p->uffd, at, FAULTS_BATCH);
		if (n < 0) {
			struct err e;

			err_sys(&e, n, "memory image %s: reading faults", p->image.path);
			pager_fail(p, &e);
			break;
		}
		for (int i = 0; i < n; i++)
			answer(p, at[i]);
	}
	return NULL;
}

/* --- for this process's own accesses ---------------------------------------------------- */

/* Return: 0 when the chunk is loaded, -EIO if it never will be. */
static int need_chunk(struct ram_pager *p, uint32_t chunk, bool is_fault)
{
	enum chunk_state s = pager_chunk(p, chunk);

	if (s == CHUNK_EMPTY) {
		pthread_mutex_lock(&p->need_lock);
		if (pager_claim(p, chunk)) {
			if (is_fault)
				pager_note_fault(p, chunk);
			pager_load(p, chunk, NULL, p->need_codec);
		}
		pthread_mutex_unlock(&p->need_lock);
		s = pager_chunk(p, chunk);
	}
	if (s == CHUNK_LOADING) {
		pthread_mutex_lock(&p->lock);
		while ((s = pager_chunk(p, chunk)) == CHUNK_LOADING)
			pthread_cond_wait(&p->changed, &p->lock);
		pthread_mutex_unlock(&p->lock);
	}
	return s == CHUNK_LOADED ? 0 : -EIO;
}

int ram_pager_need(struct ram_pager *p, const void *at, uint64_t len_bytes)
{
	uint64_t offset = (uint64_t)((const uint8_t *)at - p->ram);
	uint32_t last;

	/* Memory that was added since is behind it, and there. */
	if (!len_bytes || offset >= p->image.ram_bytes)
		return 0;
	if (len_bytes > p->image.ram_bytes - offset)
		len_bytes = p->image.ram_bytes - offset;
	last = (uint32_t)((offset + len_bytes - 1) / p->image.chunk_bytes);
	for (uint32_t i = (uint32_t)(offset / p->image.chunk_bytes); i <= last; i++) {
		int rc = need_chunk(p, i, true);

		if (rc)
			return rc;
	}
	return 0;
}

int ram_pager_finish(struct ram_pager *p, struct err *e)
{
	struct err why;
	bool ok;

	pthread_mutex_lock(&p->lock);
	p->hurry = true;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	for (uint32_t i = 0; i < p->image.chunks; i++)
		if (need_chunk(p, i, false))
			break;
	pthread_mutex_lock(&p->lock);
	while (p->now.state == RAM_PAGER_LOADING)
		pthread_cond_wait(&p->changed, &p->lock);
	ok = p->now.state == RAM_PAGER_DONE;
	why = p->now.error;
	pthread_mutex_unlock(&p->lock);
	return ok ? 0 : err_set(e, -EIO, "%s", why.msg);
}

void ram_pager_progress(struct ram_pager *p, struct ram_pager_progress *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->now;
	pthread_mutex_unlock(&p->lock);
}

/* --- life ----------------------------------------------------------------------------------- */

static bool is_zero(const struct ram_pager *p, uint32_t chunk)
{
	return p->image.index[chunk].method == COLD_ZERO;
}

/* Register everything but the larger holes. */
static int register_ram(struct ram_pager *p, struct err *e)
{
	uint32_t gap = GAP_BYTES / p->image.chunk_bytes, chunks = p->image.chunks;

	for (uint32_t first = 0, end; first < chunks; first = end) {
		uint32_t zeros = 0;
		int rc;

		end = first;
		if (is_zero(p, first)) {
			end++;
			continue;
		}
		while (end < chunks && zeros < gap)
			zeros = is_zero(p, end++) ? zeros + 1 : 0;
		rc = uffd_register(p->uffd, chunk_at(p, first),
				   (uint64_t)(end - zeros - first) * p->image.chunk_bytes);
		if (rc)
			return err_sys(e, rc, "loading memory on fault");
	}
	return 0;
}

static int start_thread(pthread_t *t, void *(*main)(void *), struct ram_pager *p)
{
	sigset_t all, old;
	int rc;

	/* Signals of the process are for others. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(t, NULL, main, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

static void read_order(struct ram_pager *p)
{
	struct err e;
	int64_t n;

	if (!p->order_path)
		return;
	n = ram_order_read(p->order_path, &p->image, &p->plan, &e);
	if (n < 0 && n != -ENOENT)
		log_warn("%s: it is ignored", e.msg);
	p->plan_n = n > 0 ? (uint32_t)n : 0;
	p->now.recorded = p->plan_n;
}

static int start_faulting(struct ram_pager *p, struct err *e)
{
	int rc;

	read_order(p);
	rc = register_ram(p, e);
	if (rc)
		return rc;
	rc = start_thread(&p->fault_thread, fault_main, p);
	p->faulting = !rc;
	if (!rc) {
		rc = start_thread(&p->prefetch_thread, prefetch_main, p);
		p->prefetching = !rc;
	}
	return rc ? err_sys(e, rc, "loading memory on fault: starting a thread") : 0;
}

static int load_eagerly(struct ram_pager *p, struct err *e)
{
	fd_close(&p->uffd);
	for (uint32_t i = 0; i < p->image.chunks; i++)
		if (need_chunk(p, i, false))
			return err_set(e, -EIO, "%s", p->now.error.msg);
	p->now.state = RAM_PAGER_DONE;
	p->now.done_us = (clock_mono_ns() - p->start_ns) / 1000;
	return 0;
}

static int open_image(struct ram_pager *p, const struct ram_pager_config *c, struct err *e)
{
	int rc = p->image.fd < 0 ? cold_open(&p->image, c->path, e) : 0;

	if (rc)
		return rc;
	if (c->image_id && memcmp(c->image_id, p->image.image_id, COLD_IMAGE_ID_BYTES) != 0)
		return err_set(e, -EINVAL,
			       "memory image %s: not the image that belongs to this state",
			       p->image.path);
	if (p->image.ram_bytes != c->ram_bytes)
		return err_set(e, -EINVAL,
			       "memory image %s: %llu MiB of memory; the machine has %llu",
			       p->image.path, (unsigned long long)p->image.ram_bytes >> 20,
			       (unsigned long long)c->ram_bytes >> 20);
	return 0;
}

static int allocate(struct ram_pager *p, const struct ram_pager_config *c, struct err *e)
{
	uint32_t chunk_bytes = p->image.chunk_bytes;

	p->state = calloc(p->image.chunks, 1);
	p->order = calloc(p->image.chunks, sizeof(*p->order));
	p->order_path = c->order_path ? strdup(c->order_path) : NULL;
	p->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (!p->state || !p->order || (c->order_path && !p->order_path) || p->stop_fd < 0)
		return err_set(e, -ENOMEM, "memory image %s: out of memory", p->image.path);
	for (uint32_t i = 0; i < p->image.chunks; i++) {
		if (is_zero(p, i)) {
			p->state[i] = CHUNK_LOADED;
			continue;
		}
		p->now.chunks++;
		p->now.total_bytes += chunk_plain(p, i);
	}
	if (cold_codec_create(&p->need_codec, chunk_bytes, e) < 0 ||
	    cold_codec_create(&p->fault_codec, chunk_bytes, e) < 0 ||
	    cold_codec_create(&p->prefetch_codec, chunk_bytes, e) < 0)
		return -ENOMEM;
	return 0;
}

static int start(struct ram_pager *p, const struct ram_pager_config *c, struct err *e)
{
	int rc = open_image(p, c, e);

	if (!rc)
		rc = allocate(p, c, e);
	if (rc)
		return rc;
	if (p->uffd < 0 && c->mode == RAM_PAGER_FAULT) {
		struct err why;

		p->uffd = uffd_open(&why);
		if (p->uffd < 0)
			log_warn("%s; everything is loaded first", why.msg);
	}
	if (c->mode == RAM_PAGER_EAGER || p->uffd < 0)
		return load_eagerly(p, e);
	p->now.on_fault = true;
	return start_faulting(p, e);
}

static void nobody(void *opaque, bool failed)
{
	(void)opaque;
	(void)failed;
}

int ram_pager_start(struct ram_pager **out, const struct ram_pager_config *c, struct err *e)
{
	struct ram_pager *p = calloc(1, sizeof(*p));
	int rc;

	*out = NULL;
	if (!p) {
		if (c->uffd >= 0)
			close(c->uffd);
		if (c->image)
			cold_close(c->image);
		return err_set(e, -ENOMEM, "out of memory");
	}
	p->image.fd = p->stop_fd = -1;
	if (c->image) {
		p->image = *c->image;
		*c->image = (struct cold_image){.fd = -1};
	}
	p->uffd = c->uffd;
	p->ram = c->ram;
	p->depth = c->depth ? c->depth : DEFAULT_DEPTH;
	p->calm_ms = c->calm_ms ? c->calm_ms : DEFAULT_CALM_MS;
	p->no_uring = c->no_uring;
	p->over = nobody;
	p->opaque = c->opaque;
	p->start_ns = clock_mono_ns();
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->need_lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	/* An eager load reports by its result. */
	if (c->over && c->mode == RAM_PAGER_FAULT)
		p->over = c->over;
	rc = start(p, c, e);
	if (rc) {
		ram_pager_stop(p);
		return rc;
	}
	*out = p;
	return 0;
}

static void end_threads(struct ram_pager *p)
{
	uint64_t one = 1;

	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	if (p->stop_fd >= 0 && write(p->stop_fd, &one, sizeof(one)) < 0)
		log_error("stopping the pager: %s", strerror(errno));
	if (p->prefetching)
		pthread_join(p->prefetch_thread, NULL);
	if (p->faulting)
		pthread_join(p->fault_thread, NULL);
}

void ram_pager_stop(struct ram_pager *p)
{
	if (!p)
		return;
	end_threads(p);
	for (uint32_t i = 0; p->state && i < p->image.chunks; i++)
		if (pager_chunk(p, i) == CHUNK_BAD)
			mprotect(chunk_at(p, i), p->image.chunk_bytes, PROT_READ | PROT_WRITE);
	/* Closing it releases the memory as unregistering does. */
	fd_close(&p->uffd);
	fd_close(&p->stop_fd);
	cold_close(&p->image);
	cold_codec_destroy(p->need_codec);
	cold_codec_destroy(p->fault_codec);
	cold_codec_destroy(p->prefetch_codec);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->need_lock);
	pthread_mutex_destroy(&p->lock);
	free(p->order_path);
	free(p->state);
	free(p->order);
	free(p->plan);
	free(p);
}
