/* SPDX-License-Identifier: Apache-2.0 */
/* Counting of exits to user space; see exits.h. */
#include "vmm/exits.h"

#include <errno.h>
#include <stdlib.h>

void exit_counts_add(struct exit_counts *sum, const struct exit_counts *c)
{
	for (int k = 0; k < EXIT_KINDS; k++)
		sum->by_kind[k] += __atomic_load_n(&c->by_kind[k], __ATOMIC_RELAXED);
}

uint64_t exit_counts_total(const struct exit_counts *c)
{
	uint64_t total = 0;

	for (int k = 0; k < EXIT_KINDS; k++)
		total += c->by_kind[k];
	return total;
}

const char *exit_kind_name(enum exit_kind k)
{
	static const char *const names[EXIT_KINDS] = {"io", "mmio", "other"};

	return names[k];
}

int exit_trace_start(struct exit_trace *t)
{
	exit_trace_stop(t);
	t->places = calloc(EXIT_TRACE_PLACES, sizeof(*t->places));
	return t->places ? 0 : -ENOMEM;
}

void exit_trace_note(struct exit_trace *t, enum exit_kind kind, uint64_t address, bool write)
{
	if (!t->places)
		return;
	for (unsigned int i = 0; i < t->n; i++) {
		struct exit_place *p = &t->places[i];

		if (p->address == address && p->kind == kind && p->write == write) {
			p->count++;
			return;
		}
	}
	if (t->n == EXIT_TRACE_PLACES) {
		t->lost++;
		return;
	}
	t->places[t->n++] = (struct exit_place){address, 1, kind, write};
}

static int compare(const void *a, const void *b)
{
	const struct exit_place *x = a, *y = b;

	return (x->count < y->count) - (x->count > y->count);
}

void exit_trace_sort(struct exit_trace *t)
{
	if (t->n)
		qsort(t->places, t->n, sizeof(*t->places), compare);
}

void exit_trace_clear(struct exit_trace *t)
{
	t->n = 0;
	t->lost = 0;
}

void exit_trace_stop(struct exit_trace *t)
{
	free(t->places);
	*t = (struct exit_trace){0};
}
