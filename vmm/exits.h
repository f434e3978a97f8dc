/* SPDX-License-Identifier: Apache-2.0 */
/* Counting of exits to user space: they are what a boot costs. */
#ifndef VMM_EXITS_H
#define VMM_EXITS_H

#include <stdbool.h>
#include <stdint.h>

enum exit_kind { EXIT_IO, EXIT_MMIO, EXIT_OTHER, EXIT_KINDS };

/* Each vCPU has its own, written by its thread alone, read by any. */
struct exit_counts {
	uint64_t by_kind[EXIT_KINDS];
};

struct exit_place {
	uint64_t address;
	uint64_t count;
	enum exit_kind kind;
	bool write;
};

#define EXIT_TRACE_PLACES 128

/* Where the exits are, if somebody wants to know. Under the device lock. */
struct exit_trace {
	struct exit_place *places; /* owned; NULL: off */
	unsigned int n;
	uint64_t lost; /* exits at places that there was no room for */
};

static inline void exit_count(struct exit_counts *c, enum exit_kind kind)
{
	__atomic_store_n(&c->by_kind[kind], c->by_kind[kind] + 1, __ATOMIC_RELAXED);
}

void exit_counts_add(struct exit_counts *sum, const struct exit_counts *c);
uint64_t exit_counts_total(const struct exit_counts *c);
const char *exit_kind_name(enum exit_kind k);

int exit_trace_start(struct exit_trace *t);
void exit_trace_note(struct exit_trace *t, enum exit_kind kind, uint64_t address, bool write);
/* Most frequent first. */
void exit_trace_sort(struct exit_trace *t);
void exit_trace_clear(struct exit_trace *t);
void exit_trace_stop(struct exit_trace *t);

#endif
