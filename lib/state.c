/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a stopped machine as a stream of checked sections; see state.h. */
#include "lib/state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "lib/cursor.h"

/* Header: magic, format (u32), length of the whole stream (u32). */
#define MAGIC	     "DORMSTAT"
#define MAGIC_BYTES  8u
#define HEADER_BYTES 16u
/* Section: tag, instance (u32), version, flags (u16), length, checksum (u32); payload. */
#define SECTION_BYTES 20u
#define CHECKED_BYTES 16u /* of a section's header: all but the checksum */
/* End: a section whose payload is the number of sections and the checksum of all before. */
#define TAG_END	    STATE_TAG('E', 'N', 'D', '.')
#define END_BYTES   8u
#define END_VERSION 1u
#define FIRST_BYTES 4096u

static void tag_name(uint32_t tag, char name[12])
{
	for (int i = 0; i < 4; i++) {
		unsigned char c = (unsigned char)(tag >> (8 * i));

		if (c <= ' ' || c > '~') {
			snprintf(name, 12, "%#x", tag);
			return;
		}
		name[i] = (char)c;
	}
	name[4] = '\0';
}

int state_fail(struct state_io *io, int code, const char *fmt, ...)
{
	char text[sizeof(io->err.msg)], name[12];
	va_list ap;

	if (!state_ok(io))
		return io->err.code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!io->open)
		return err_set(&io->err, code, "%s", text);
	tag_name(io->open->tag, name);
	return err_set(&io->err, code, "section %s %u: %s", name, io->open->instance, text);
}

/* --- saving ------------------------------------------------------------------------- */

void state_save_init(struct state_io *io)
{
	struct writer w;

	memset(io, 0, sizeof(*io));
	io->data = malloc(FIRST_BYTES);
	if (!io->data) {
		state_fail(io, -ENOMEM, "out of memory");
		return;
	}
	io->cap = FIRST_BYTES;
	io->len = HEADER_BYTES;
	w = writer_of(io->data, HEADER_BYTES);
	write_bytes(&w, MAGIC, MAGIC_BYTES);
	write_u32(&w, STATE_FORMAT);
	write_u32(&w, 0); /* the length, by state_finish() */
}

/* Room for @n more bytes, which the caller fills. NULL: failed. */
static uint8_t *grow(struct state_io *io, size_t n)
{
	uint8_t *at;

	if (!state_ok(io))
		return NULL;
	if (n > STATE_MAX_BYTES - io->len) {
		state_fail(io, -E2BIG, "a state of more than %u bytes", STATE_MAX_BYTES);
		return NULL;
	}
	if (n > io->cap - io->len) {
		size_t cap = io->cap;
		uint8_t *data;

		while (cap - io->len < n)
			cap *= 2;
		data = realloc(io->data, cap);
		if (!data) {
			state_fail(io, -ENOMEM, "out of memory");
			return NULL;
		}
		io->data = data;
		io->cap = cap;
	}
	at = io->data + io->len;
	io->len += n;
	return at;
}

static uint32_t checksum(const uint8_t *data, size_t from, size_t to, uint32_t crc)
{
	return (uint32_t)crc32(crc, data + from, (uInt)(to - from));
}

/* Of a section whose payload is at @s->offset. */
static uint32_t section_checksum(const uint8_t *data, const struct state_section *s)
{
	uint32_t crc =
	    checksum(data, s->offset - SECTION_BYTES, s->offset - SECTION_BYTES + CHECKED_BYTES, 0);

	return checksum(data, s->offset, s->offset + s->len_bytes, crc);
}

static void save_begin(struct state_io *io, const struct state_section *s)
{
	uint8_t *at = grow(io, SECTION_BYTES);
	struct writer w;

	if (!at)
		return;
	w = writer_of(at, SECTION_BYTES);
	write_u32(&w, s->tag);
	write_u32(&w, s->instance);
	write_u16(&w, s->version);
	write_u16(&w, s->flags);
	write_u32(&w, 0); /* the length and the checksum, by save_end() */
	write_u32(&w, 0);
	io->sections[io->n] = *s;
	io->open = &io->sections[io->n++];
	io->open->offset = (uint32_t)io->len;
}

static void save_end(struct state_io *io)
{
	struct state_section *s = io->open;
	struct writer w = writer_of(io->data + s->offset - 8, 8);

	s->len_bytes = (uint32_t)io->len - s->offset;
	write_u32(&w, s->len_bytes);
	write_u32(&w, section_checksum(io->data, s));
}

static void save_finish(struct state_io *io)
{
	struct state_section end = {.tag = TAG_END, .version = END_VERSION};
	uint32_t n = io->n, total;
	struct writer w;

	if (!state_ok(io))
		return;
	end.flags = STATE_MANDATORY;
	w = writer_of(io->data + HEADER_BYTES - 4, 4);
	write_u32(&w, (uint32_t)io->len + SECTION_BYTES + END_BYTES);
	total = checksum(io->data, 0, io->len, 0);
	save_begin(io, &end);
	state_u32(io, &n);
	state_u32(io, &total);
	if (state_ok(io))
		save_end(io);
	io->open = NULL;
}

/* --- checking ----------------------------------------------------------------------- */

static struct state_section *find(struct state_io *io, uint32_t tag, uint32_t instance)
{
	for (unsigned int i = 0; i < io->n; i++)
		if (io->sections[i].tag == tag && io->sections[i].instance == instance)
			return &io->sections[i];
	return NULL;
}

static int check_header(struct state_io *io)
{
	struct reader r = reader_of(io->data, io->len);
	const uint8_t *magic = read_bytes(&r, MAGIC_BYTES);
	uint32_t format = read_u32(&r), len = read_u32(&r);

	if (!magic || memcmp(magic, MAGIC, MAGIC_BYTES))
		return state_fail(io, -EINVAL, "this is no saved machine state");
	if (r.failed)
		return state_fail(io, -EINVAL, "truncated in its header");
	if (format != STATE_FORMAT)
		return state_fail(io, -ENOTSUP,
				  "saved in format %u; this program knows format %u only", format,
				  STATE_FORMAT);
	if (io->len < len)
		return state_fail(io, -EINVAL, "truncated: %zu of %u bytes", io->len, len);
	if (io->len > len)
		return state_fail(io, -EINVAL, "%zu bytes follow its end", io->len - len);
	return 0;
}

/* One section's header at *@pos; *@pos is moved behind its payload. */
static int check_section(struct state_io *io, size_t *pos, struct state_section *s)
{
	struct reader r = reader_of(io->data + *pos, io->len - *pos);
	uint32_t crc;
	char name[12];

	s->tag = read_u32(&r);
	s->instance = read_u32(&r);
	s->version = read_u16(&r);
	s->flags = read_u16(&r);
	s->len_bytes = read_u32(&r);
	crc = read_u32(&r);
	s->offset = (uint32_t)(*pos + SECTION_BYTES);
	tag_name(s->tag, name);
	if (r.failed || s->len_bytes > reader_left(&r))
		return state_fail(io, -EINVAL, "damaged: the section at byte %zu is too long",
				  *pos);
	if (crc != section_checksum(io->data, s))
		return state_fail(io, -EINVAL, "damaged: checksum of section %s %u at byte %zu",
				  name, s->instance, *pos);
	if (s->flags & ~STATE_MANDATORY)
		return state_fail(io, -ENOTSUP, "section %s %u has unknown flags %#x", name,
				  s->instance, s->flags & ~STATE_MANDATORY);
	if (find(io, s->tag, s->instance))
		return state_fail(io, -EINVAL, "section %s %u is there twice", name, s->instance);
	*pos = s->offset + s->len_bytes;
	return 0;
}

static int check_end(struct state_io *io, const struct state_section *s, size_t start)
{
	struct reader r = reader_of(io->data + s->offset, s->len_bytes);
	uint32_t n = read_u32(&r), total = read_u32(&r);

	if (r.failed || reader_left(&r) || s->version != END_VERSION ||
	    s->flags != STATE_MANDATORY || s->instance)
		return state_fail(io, -EINVAL, "damaged: its end is malformed");
	if (s->offset + s->len_bytes != io->len)
		return state_fail(io, -EINVAL, "damaged: sections follow its end");
	if (n != io->n)
		return state_fail(io, -EINVAL, "damaged: %u of %u sections", io->n, n);
	if (total != checksum(io->data, 0, start, 0))
		return state_fail(io, -EINVAL, "damaged: checksum of the whole");
	return 0;
}

static int check(struct state_io *io)
{
	size_t pos = HEADER_BYTES;
	int rc;

	if (io->len > STATE_MAX_BYTES)
		return state_fail(io, -E2BIG, "a state of more than %u bytes", STATE_MAX_BYTES);
	rc = check_header(io);
	while (!rc) {
		struct state_section s = {0};
		size_t start = pos;

		rc = check_section(io, &pos, &s);
		if (rc)
			break;
		if (s.tag == TAG_END)
			return check_end(io, &s, start);
		if (io->n == STATE_MAX_SECTIONS)
			return state_fail(io, -E2BIG, "more than %u sections", STATE_MAX_SECTIONS);
		io->sections[io->n++] = s;
	}
	return rc;
}

int state_restore_init(struct state_io *io, const void *data, size_t len_bytes, struct err *e)
{
	memset(io, 0, sizeof(*io));
	io->restoring = true;
	/* It is only read: grow() is for saving. */
	io->data = (uint8_t *)(uintptr_t)data;
	io->len = len_bytes;
	return check(io) ? err_set(e, io->err.code, "%s", io->err.msg) : 0;
}

/* --- both --------------------------------------------------------------------------- */

int state_finish(struct state_io *io, struct err *e)
{
	if (!io->restoring)
		save_finish(io);
	for (unsigned int i = 0; i < io->n && io->restoring; i++) {
		const struct state_section *s = &io->sections[i];
		char name[12];

		tag_name(s->tag, name);
		if (!s->used && (s->flags & STATE_MANDATORY))
			state_fail(io, -ENOTSUP,
				   "section %s %u (version %u) is mandatory, and unknown here",
				   name, s->instance, s->version);
		io->skipped += !s->used;
	}
	return state_ok(io) ? 0 : err_set(e, io->err.code, "%s", io->err.msg);
}

void state_fini(struct state_io *io)
{
	if (!io->restoring)
		free(io->data);
	io->data = NULL;
	io->len = io->cap = 0;
}

bool state_begin(struct state_io *io, uint32_t tag, uint32_t instance, uint16_t version,
		 uint16_t flags)
{
	struct state_section s = {
	    .tag = tag, .instance = instance, .version = version, .flags = flags};
	struct state_section *there = find(io, tag, instance);
	char name[12];

	if (!state_ok(io))
		return false;
	tag_name(tag, name);
	if (!io->restoring) {
		/* One place is the end's. */
		if (there || tag == TAG_END || io->n + 1 >= STATE_MAX_SECTIONS)
			state_fail(io, -E2BIG, "section %s %u: no place for it", name, instance);
		else
			save_begin(io, &s);
		return state_ok(io);
	}
	if (!there || there->used) {
		if (flags & STATE_MANDATORY)
			state_fail(io, -EINVAL, "section %s %u is missing", name, instance);
		return false;
	}
	if (there->version > version || !there->version) {
		state_fail(io, -ENOTSUP,
			   "section %s %u has version %u; this program knows up to %u", name,
			   instance, there->version, version);
		return false;
	}
	there->used = true;
	io->open = there;
	io->pos = there->offset;
	return true;
}

void state_end(struct state_io *io)
{
	if (state_ok(io) && io->restoring && state_left(io))
		state_fail(io, -EINVAL, "%zu bytes too long", state_left(io));
	else if (state_ok(io) && !io->restoring)
		save_end(io);
	io->open = NULL;
}

uint16_t state_version(const struct state_io *io)
{
	return io->open ? io->open->version : 0;
}

size_t state_left(const struct state_io *io)
{
	return io->open && io->restoring ? io->open->offset + io->open->len_bytes - io->pos : 0;
}

/* The next @n bytes, to be read or to be written. NULL: failed. */
static uint8_t *field(struct state_io *io, size_t n)
{
	uint8_t *at;

	if (!state_ok(io))
		return NULL;
	if (!io->open) {
		state_fail(io, -EINVAL, "a field outside of any section");
		return NULL;
	}
	if (!io->restoring)
		return grow(io, n);
	if (n > state_left(io)) {
		state_fail(io, -EINVAL, "it ends too early");
		return NULL;
	}
	at = io->data + io->pos;
	io->pos += n;
	return at;
}

/* An integer of @n bytes, little-endian. */
static uint64_t number(struct state_io *io, uint64_t v, size_t n)
{
	uint8_t *at = field(io, n);

	if (!at)
		return v;
	if (!io->restoring) {
		for (size_t i = 0; i < n; i++)
			at[i] = (uint8_t)(v >> (8 * i));
		return v;
	}
	v = 0;
	for (size_t i = 0; i < n; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

void state_u8(struct state_io *io, uint8_t *v)
{
	*v = (uint8_t)number(io, *v, sizeof(*v));
}

void state_u16(struct state_io *io, uint16_t *v)
{
	*v = (uint16_t)number(io, *v, sizeof(*v));
}

void state_u32(struct state_io *io, uint32_t *v)
{
	*v = (uint32_t)number(io, *v, sizeof(*v));
}

void state_u64(struct state_io *io, uint64_t *v)
{
	*v = number(io, *v, sizeof(*v));
}

void state_bool(struct state_io *io, bool *v)
{
	uint8_t byte = *v;

	state_u8(io, &byte);
	if (byte > 1)
		state_fail(io, -EINVAL, "a flag has the value %u", byte);
	else
		*v = byte;
}

void state_bytes(struct state_io *io, void *data, size_t len_bytes)
{
	uint8_t *at = field(io, len_bytes);

	if (!at || !len_bytes)
		return;
	if (io->restoring)
		memcpy(data, at, len_bytes);
	else
		memcpy(at, data, len_bytes);
}

void state_count(struct state_io *io, uint32_t *n, uint32_t max, const char *what)
{
	uint32_t v = *n;

	state_u32(io, &v);
	if (v > max)
		state_fail(io, -EINVAL, "%u %s; at most %u are possible", v, what, max);
	else
		*n = v;
}

void state_expect(struct state_io *io, uint64_t value, const char *what)
{
	uint64_t v = value;

	state_u64(io, &v);
	if (v != value)
		state_fail(io, -EINVAL, "%s: %llu in the saved state, %llu here", what,
			   (unsigned long long)v, (unsigned long long)value);
}
