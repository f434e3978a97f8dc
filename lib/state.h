/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a stopped machine as a stream of checked sections.
 *
 * Theory of operation
 *
 * One function per object both saves and restores it: it hands pointers to its
 * fields to state_u32() and the like, and the direction is in the state_io. So
 * the two directions cannot disagree. The layout is described in
 * docs/snapshot-format.md; it is little-endian and has no padding.
 *
 * A stream is a header, sections and an end. Each section has a tag, an instance,
 * a version and a checksum of its own; the end has one of the whole stream.
 * state_restore_init() checks all of this before a single field is restored: a
 * truncated, damaged, foreign or newer stream changes nothing. What a section
 * says is still not to be trusted: its owner validates it as it would a
 * guest's input.
 *
 * Sections are found by tag and instance, in any order. One that nobody asked for
 * is skipped if it is optional; if it is mandatory, state_finish() refuses the
 * stream. A section may only grow at its end, with a higher version: owners
 * look at state_version().
 *
 * The first failure sticks: all later calls do nothing, and leave the fields they
 * are given as they are. So an owner checks once, before it uses what it has read,
 * with state_ok().
 *
 * Memory: when saving, at most STATE_MAX_BYTES, owned; when restoring, the caller's
 * stream is only borrowed.
 */
#ifndef LIB_STATE_H
#define LIB_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define STATE_FORMAT	   1u
#define STATE_MAX_BYTES	   (4u << 20)
#define STATE_MAX_SECTIONS 128u

#define STATE_TAG(a, b, c, d)                                                                      \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* Flags of a section. */
#define STATE_OPTIONAL	0u /* whoever does not know it can do without */
#define STATE_MANDATORY 1u

struct state_section {
	uint32_t tag, instance;
	uint16_t version, flags;
	uint32_t offset, len_bytes; /* of the payload in the stream */
	bool used;
};

struct state_io {
	bool restoring;
	struct err err;	 /* the first failure; code 0: none */
	uint8_t *data;	 /* owned when saving, borrowed (and not changed) when restoring */
	size_t len, cap; /* of data */
	size_t pos;	 /* next byte of the open section, when restoring */
	struct state_section *open;
	struct state_section sections[STATE_MAX_SECTIONS];
	unsigned int n;
	unsigned int skipped; /* optional sections that nobody asked for; after state_finish() */
};

/* Begin to save. Release with state_fini(). */
void state_save_init(struct state_io *io);

/**
 * state_restore_init() - Begin to restore, and check the whole stream
 * @data:	Borrowed until state_fini()
 * @e:		What is wrong with it
 *
 * Return: 0, -EINVAL if it is no state at all or a damaged one, -ENOTSUP if it is of a
 *	   format that this program does not know
 */
int state_restore_init(struct state_io *io, const void *data, size_t len_bytes, struct err *e);

/**
 * state_finish() - The last section is done
 *
 * Saving: io->data and io->len are the complete stream after it. Restoring:
 * refuses a stream with mandatory sections that nobody asked for.
 *
 * Return: 0, or the first failure since the beginning
 */
int state_finish(struct state_io *io, struct err *e);

/* Release what is owned. Also after a failed state_restore_init(). */
void state_fini(struct state_io *io);

/**
 * state_begin() - Open a section
 * @version:	The newest that the caller knows; written when saving
 * @flags:	STATE_MANDATORY: it must be there when restoring, and who does not know it must
 *		refuse the stream
 *
 * Sections do not nest.
 *
 * Return: true if its fields are to be transferred now, up to state_end(). False: it is
 *	   optional and missing, or something has failed
 */
bool state_begin(struct state_io *io, uint32_t tag, uint32_t instance, uint16_t version,
		 uint16_t flags);
/* Close it. What is left of it when restoring is an error: it is not what it says it is. */
void state_end(struct state_io *io);

/* Of the open section. */
uint16_t state_version(const struct state_io *io);

static inline bool state_restoring(const struct state_io *io)
{
	return io->restoring;
}

static inline bool state_ok(const struct state_io *io)
{
	return io->err.code == 0;
}

void state_u8(struct state_io *io, uint8_t *v);
void state_u16(struct state_io *io, uint16_t *v);
void state_u32(struct state_io *io, uint32_t *v);
void state_u64(struct state_io *io, uint64_t *v);
/* One byte; anything but 0 and 1 is refused. */
void state_bool(struct state_io *io, bool *v);
void state_bytes(struct state_io *io, void *data, size_t len_bytes);

/* A number of things to follow: refused if it is more than @max. @what: for the message. */
void state_count(struct state_io *io, uint32_t *n, uint32_t max, const char *what);

/**
 * state_expect() - Something that must be the same here as where the state was saved
 * @what:	For the message, as in "bytes of the disk"
 */
void state_expect(struct state_io *io, uint64_t value, const char *what);

/**
 * state_fail() - The owner of a section cannot save it, or refuses what it has read
 *
 * The message says which section it was. Only the first failure counts.
 *
 * Return: the code of the first failure
 */
int state_fail(struct state_io *io, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Bytes left of the open section, when restoring. */
size_t state_left(const struct state_io *io);

#endif
