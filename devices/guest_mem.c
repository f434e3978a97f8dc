/* SPDX-License-Identifier: Apache-2.0 */
/* The only way to the memory of the guest; see guest_mem.h. */
#include "devices/guest_mem.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool overlaps(const struct guest_mem *m, const struct guest_region *but, uint64_t gpa,
		     uint64_t end)
{
	for (unsigned int i = 0; i < m->n; i++) {
		const struct guest_region *r = &m->regions[i];

		if (r != but && gpa < r->gpa + r->len_bytes && r->gpa < end)
			return true;
	}
	return false;
}

int guest_mem_set(struct guest_mem *m, uint64_t gpa, void *hva, uint64_t len_bytes)
{
	struct guest_region *r = m->regions;
	uint64_t end;

	while (r < m->regions + m->n && r->gpa != gpa)
		r++;
	if (r == m->regions + m->n)
		return len_bytes ? guest_mem_add(m, gpa, hva, len_bytes) : 0;
	if (__builtin_add_overflow(gpa, len_bytes, &end))
		return -EINVAL;
	if (overlaps(m, r, gpa, end))
		return -EEXIST;
	*r = len_bytes ? (struct guest_region){gpa, len_bytes, hva} : m->regions[--m->n];
	return 0;
}

void guest_mem_note_drops(struct guest_mem *m, uint8_t *map, const void *base)
{
	m->dropped = map;
	m->dropped_base = base;
}

static void note_drop(const struct guest_mem *m, const uint8_t *p, uint64_t len, uint64_t page)
{
	uint64_t first;

	if (!m->dropped)
		return;
	first = (uint64_t)(p - m->dropped_base) / page;
	for (uint64_t i = first; i < first + len / page; i++)
		m->dropped[i / 8] |= (uint8_t)(1u << i % 8);
}

int guest_mem_add(struct guest_mem *m, uint64_t gpa, void *hva, uint64_t len_bytes)
{
	uint64_t end;

	if (!len_bytes || __builtin_add_overflow(gpa, len_bytes, &end))
		return -EINVAL;
	if (overlaps(m, NULL, gpa, end))
		return -EEXIST;
	if (m->n == GUEST_MEM_MAX_REGIONS)
		return -ENOSPC;
	m->regions[m->n++] = (struct guest_region){gpa, len_bytes, hva};
	return 0;
}

/**
 * span_at() - The pointer to @gpa and how many bytes follow it in its region
 * @left:	How much is wanted; set to what there is, if that is less
 *
 * Return: NULL if @gpa is in a hole
 */
static uint8_t *span_at(const struct guest_mem *m, uint64_t gpa, uint64_t *left)
{
	for (unsigned int i = 0; i < m->n; i++) {
		const struct guest_region *r = &m->regions[i];
		uint64_t off = gpa - r->gpa;

		if (gpa < r->gpa || off >= r->len_bytes)
			continue;
		if (*left > r->len_bytes - off)
			*left = r->len_bytes - off;
		return r->hva + off;
	}
	return NULL;
}

/* Is all of the range RAM? An empty range is, wherever it is. */
static bool range_ok(const struct guest_mem *m, uint64_t gpa, uint64_t len)
{
	uint64_t end;

	if (__builtin_add_overflow(gpa, len, &end))
		return false;
	while (len) {
		uint64_t n = len;

		if (!span_at(m, gpa, &n))
			return false;
		gpa += n;
		len -= n;
	}
	return true;
}

void guest_mem_set_loader(struct guest_mem *m,
			  int (*load)(void *opaque, const void *at, uint64_t len_bytes),
			  void *opaque)
{
	m->load = load;
	m->load_opaque = opaque;
}

static bool loaded(const struct guest_mem *m, const void *at, uint64_t len)
{
	return !m->load || m->load(m->load_opaque, at, len) == 0;
}

int guest_mem_read(const struct guest_mem *m, uint64_t gpa, void *dst, size_t len_bytes)
{
	uint8_t *to = dst;

	if (!range_ok(m, gpa, len_bytes))
		return -EFAULT;
	while (len_bytes) {
		uint64_t n = len_bytes;
		const uint8_t *p = span_at(m, gpa, &n);

		if (!loaded(m, p, n))
			return -EFAULT;
		memcpy(to, p, n);
		to += n;
		gpa += n;
		len_bytes -= n;
	}
	return 0;
}

int guest_mem_write(const struct guest_mem *m, uint64_t gpa, const void *src, size_t len_bytes)
{
	const uint8_t *from = src;

	if (!range_ok(m, gpa, len_bytes))
		return -EFAULT;
	while (len_bytes) {
		uint64_t n = len_bytes;
		uint8_t *p = span_at(m, gpa, &n);

		if (!loaded(m, p, n))
			return -EFAULT;
		memcpy(p, from, n);
		from += n;
		gpa += n;
		len_bytes -= n;
	}
	return 0;
}

int guest_mem_iov(const struct guest_mem *m, uint64_t gpa, uint64_t len_bytes, struct iovec *iov,
		  unsigned int max)
{
	unsigned int used = 0;

	if (!range_ok(m, gpa, len_bytes))
		return -EFAULT;
	while (len_bytes) {
		uint64_t n = len_bytes;
		uint8_t *p = span_at(m, gpa, &n);

		if (used == max)
			return -E2BIG;
		iov[used].iov_base = p;
		iov[used++].iov_len = n;
		gpa += n;
		len_bytes -= n;
	}
	return (int)used;
}

/* @gpa: 2-aligned, so that the value cannot straddle two regions that are page-aligned. */
static uint16_t *cell16(const struct guest_mem *m, uint64_t gpa)
{
	uint64_t n = sizeof(uint16_t);
	uint8_t *p = span_at(m, gpa, &n);

	if (!p || n != sizeof(uint16_t) || (uintptr_t)p % sizeof(uint16_t) ||
	    !loaded(m, p, sizeof(uint16_t)))
		return NULL;
	return (uint16_t *)(void *)p;
}

int guest_mem_load16(const struct guest_mem *m, uint64_t gpa, uint16_t *value)
{
	const uint16_t *p = cell16(m, gpa);

	if (!p)
		return -EFAULT;
	*value = __atomic_load_n(p, __ATOMIC_ACQUIRE);
	return 0;
}

int guest_mem_store16(const struct guest_mem *m, uint64_t gpa, uint16_t value)
{
	uint16_t *p = cell16(m, gpa);

	if (!p)
		return -EFAULT;
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
	return 0;
}

int guest_mem_discard(const struct guest_mem *m, uint64_t gpa, uint64_t len_bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (!range_ok(m, gpa, len_bytes))
		return -EFAULT;
	if (gpa % page || len_bytes % page)
		return -EINVAL;
	while (len_bytes) {
		uint64_t n = len_bytes;
		uint8_t *p = span_at(m, gpa, &n);

		if ((uintptr_t)p % page || n % page)
			return -EINVAL;
		/* MADV_REMOVE is for shared mappings, and refuses private ones. */
		if (madvise(p, n, MADV_REMOVE) < 0 && madvise(p, n, MADV_DONTNEED) < 0)
			return -errno;
		note_drop(m, p, n, page);
		gpa += n;
		len_bytes -= n;
	}
	return 0;
}

uint64_t guest_mem_total(const struct guest_mem *m)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < m->n; i++)
		sum += m->regions[i].len_bytes;
	return sum;
}
