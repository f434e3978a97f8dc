/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and TLVs of the host-agent protocol; see proto.h. */
#include "lib/proto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct frame_type {
	uint8_t type;
	const char *name;
	bool client, agent; /* who may send it */
};

static const struct frame_type frame_types[] = {
    {PROTO_HELLO, "HELLO", true, true},
    {PROTO_PING, "PING", true, false},
    {PROTO_EXEC, "EXEC", true, false},
    {PROTO_ATTACH, "ATTACH", true, false},
    {PROTO_SESSIONS, "SESSIONS", true, false},
    {PROTO_CONNECT, "CONNECT", true, false},
    {PROTO_FILE_READ, "FILE_READ", true, false},
    {PROTO_FILE_WRITE, "FILE_WRITE", true, false},
    {PROTO_FILE_LIST, "FILE_LIST", true, false},
    {PROTO_FILE_MKDIR, "FILE_MKDIR", true, false},
    {PROTO_FILE_REMOVE, "FILE_REMOVE", true, false},
    {PROTO_FILE_STAT, "FILE_STAT", true, false},
    {PROTO_SYNC, "SYNC", true, false},
    {PROTO_SHUTDOWN, "SHUTDOWN", true, false},
    {PROTO_FREEZE, "FREEZE", true, false},
    {PROTO_THAW, "THAW", true, false},
    {PROTO_RENEW, "RENEW", true, false},
    {PROTO_STDIN, "STDIN", true, false},
    {PROTO_STDIN_EOF, "STDIN_EOF", true, false},
    {PROTO_SIGNAL, "SIGNAL", true, false},
    {PROTO_ACK, "ACK", true, false},
    {PROTO_DATA, "DATA", true, false},
    {PROTO_DATA_END, "DATA_END", true, false},
    {PROTO_WINSIZE, "WINSIZE", true, false},
    {PROTO_RESULT, "RESULT", false, true},
    {PROTO_ERROR, "ERROR", false, true},
    {PROTO_STARTED, "STARTED", false, true},
    {PROTO_STDOUT, "STDOUT", false, true},
    {PROTO_STDERR, "STDERR", false, true},
    {PROTO_STDIN_ACK, "STDIN_ACK", false, true},
    {PROTO_EXIT, "EXIT", false, true},
    {PROTO_FILE_INFO, "FILE_INFO", false, true},
    {PROTO_CHUNK, "CHUNK", false, true},
    {PROTO_ENTRIES, "ENTRIES", false, true},
    {PROTO_END, "END", false, true},
};

static const struct frame_type *frame_type_of(unsigned int type)
{
	for (size_t i = 0; i < sizeof(frame_types) / sizeof(frame_types[0]); i++)
		if (frame_types[i].type == type)
			return &frame_types[i];
	return NULL;
}

const char *proto_type_name(unsigned int type)
{
	const struct frame_type *t = frame_type_of(type);

	return t ? t->name : "unknown";
}

bool proto_is_request(unsigned int type)
{
	return type < 0x40 && frame_type_of(type);
}

void proto_header_encode(const struct proto_header *h, uint8_t out[PROTO_HEADER_LEN])
{
	struct writer w = writer_of(out, PROTO_HEADER_LEN);

	write_u8(&w, h->version);
	write_u8(&w, h->type);
	write_u16(&w, h->flags);
	write_u32(&w, h->len);
	write_u64(&w, h->id);
}

int proto_header_decode(const uint8_t in[PROTO_HEADER_LEN], enum proto_side from,
			struct proto_header *h, struct err *e)
{
	struct reader r = reader_of(in, PROTO_HEADER_LEN);
	const struct frame_type *t;
	uint32_t max;

	h->version = read_u8(&r);
	h->type = read_u8(&r);
	h->flags = read_u16(&r);
	h->len = read_u32(&r);
	h->id = read_u64(&r);
	if (h->version != PROTO_VERSION)
		return err_set(e, -EPROTONOSUPPORT, "frame of protocol version %u, this is %u",
			       h->version, PROTO_VERSION);
	t = frame_type_of(h->type);
	if (!t || !(from == PROTO_FROM_CLIENT ? t->client : t->agent))
		return err_set(e, -EPROTO, "unexpected frame type 0x%02x (%s)", h->type,
			       proto_type_name(h->type));
	if (h->flags)
		return err_set(e, -EPROTO, "%s frame with unknown flags 0x%x", t->name, h->flags);
	max = from == PROTO_FROM_CLIENT && proto_is_request(h->type) ? PROTO_REQUEST_MAX
								     : PROTO_FRAME_MAX;
	if (h->len > max)
		return err_set(e, -EMSGSIZE, "%s frame of %u bytes, the limit is %u", t->name,
			       h->len, max);
	return 0;
}

int proto_tlv_next(struct reader *r, struct proto_tlv *t, struct err *e)
{
	if (!reader_left(r) && !r->failed)
		return 0;
	t->tag = read_u16(r);
	t->flags = read_u16(r);
	t->len = read_u32(r);
	t->value = read_bytes(r, t->len);
	if (r->failed)
		return err_set(e, -EPROTO, "a field is cut short");
	if (t->flags & ~PROTO_MANDATORY)
		return err_set(e, -EPROTO, "field 0x%x with unknown flags 0x%x", t->tag, t->flags);
	return 1;
}

int proto_tlv_unknown(const struct proto_tlv *t, struct err *e)
{
	if (t->flags & PROTO_MANDATORY)
		return err_set(e, -EOPNOTSUPP, "mandatory field 0x%x is not known here", t->tag);
	return 0;
}

static int tlv_number(const struct proto_tlv *t, uint32_t len, struct reader *r, struct err *e)
{
	if (t->len != len)
		return err_set(e, -EPROTO, "field 0x%x has %u bytes instead of %u", t->tag, t->len,
			       len);
	*r = reader_of(t->value, t->len);
	return 0;
}

int proto_tlv_u32(const struct proto_tlv *t, uint32_t *v, struct err *e)
{
	struct reader r;
	int rc = tlv_number(t, 4, &r, e);

	if (!rc)
		*v = read_u32(&r);
	return rc;
}

int proto_tlv_u64(const struct proto_tlv *t, uint64_t *v, struct err *e)
{
	struct reader r;
	int rc = tlv_number(t, 8, &r, e);

	if (!rc)
		*v = read_u64(&r);
	return rc;
}

int proto_tlv_str(const struct proto_tlv *t, size_t max, char **out, struct err *e)
{
	char *s;

	if (t->len > max)
		return err_set(e, -ENAMETOOLONG, "field 0x%x has %u bytes, the limit is %zu",
			       t->tag, t->len, max);
	if (t->len && memchr(t->value, 0, t->len))
		return err_set(e, -EINVAL, "field 0x%x has a NUL byte inside", t->tag);
	s = malloc((size_t)t->len + 1);
	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	if (t->len)
		memcpy(s, t->value, t->len);
	s[t->len] = '\0';
	free(*out);
	*out = s;
	return 0;
}

void proto_buf_fini(struct proto_buf *b)
{
	free(b->data);
	*b = (struct proto_buf){0};
}

void proto_buf_reset(struct proto_buf *b)
{
	b->len = b->frame = 0;
	b->failed = 0;
}

/* Room for several frames in one buffer: a request of the full size and its header, twice. */
#define BUF_MAX (2 * ((size_t)PROTO_REQUEST_MAX + PROTO_HEADER_LEN))

static uint8_t *buf_extend(struct proto_buf *b, size_t len)
{
	uint8_t *p;

	if (b->failed)
		return NULL;
	if (len > BUF_MAX - b->len) {
		b->failed = -EMSGSIZE;
		return NULL;
	}
	if (len > b->cap - b->len) {
		size_t cap = b->cap ? b->cap : 512;

		while (cap < b->len + len)
			cap *= 2;
		p = realloc(b->data, cap);
		if (!p) {
			b->failed = -ENOMEM;
			return NULL;
		}
		b->data = p;
		b->cap = cap;
	}
	p = b->data + b->len;
	b->len += len;
	return p;
}

void proto_put_bytes(struct proto_buf *b, const void *src, size_t len)
{
	uint8_t *p = buf_extend(b, len);

	if (p && len)
		memcpy(p, src, len);
}

uint8_t *proto_put_space(struct proto_buf *b, size_t len)
{
	return buf_extend(b, len);
}

void proto_put_u64(struct proto_buf *b, uint64_t v)
{
	uint8_t *p = buf_extend(b, 8);

	if (p) {
		struct writer w = writer_of(p, 8);

		write_u64(&w, v);
	}
}

void proto_begin(struct proto_buf *b, enum proto_type type, uint64_t id)
{
	struct proto_header h = {.version = PROTO_VERSION, .type = (uint8_t)type, .id = id};
	uint8_t *p;

	b->frame = b->len;
	p = buf_extend(b, PROTO_HEADER_LEN);
	if (p)
		proto_header_encode(&h, p);
}

int proto_end(struct proto_buf *b)
{
	int rc = b->failed;
	size_t len;

	if (!rc) {
		unsigned int type = b->data[b->frame + offsetof(struct proto_header, type)];
		struct writer w = writer_of(b->data + b->frame + offsetof(struct proto_header, len),
					    sizeof(uint32_t));

		len = b->len - b->frame - PROTO_HEADER_LEN;
		if (len > (proto_is_request(type) ? PROTO_REQUEST_MAX : PROTO_FRAME_MAX))
			rc = -EMSGSIZE;
		else
			write_u32(&w, (uint32_t)len);
	}
	if (rc)
		b->len = b->frame;
	b->failed = 0;
	return rc;
}

void proto_put_tlv(struct proto_buf *b, enum proto_tag tag, unsigned int flags, const void *value,
		   size_t len)
{
	uint8_t *p;

	if (len > PROTO_REQUEST_MAX) {
		b->failed = b->failed ? b->failed : -EMSGSIZE;
		return;
	}
	p = buf_extend(b, PROTO_TLV_LEN);
	if (p) {
		struct writer w = writer_of(p, PROTO_TLV_LEN);

		write_u16(&w, (uint16_t)tag);
		write_u16(&w, (uint16_t)flags);
		write_u32(&w, (uint32_t)len);
	}
	proto_put_bytes(b, value, len);
}

void proto_put_tlv_u32(struct proto_buf *b, enum proto_tag tag, unsigned int flags, uint32_t v)
{
	uint8_t bytes[4];
	struct writer w = writer_of(bytes, sizeof(bytes));

	write_u32(&w, v);
	proto_put_tlv(b, tag, flags, bytes, sizeof(bytes));
}

void proto_put_tlv_u64(struct proto_buf *b, enum proto_tag tag, unsigned int flags, uint64_t v)
{
	uint8_t bytes[8];
	struct writer w = writer_of(bytes, sizeof(bytes));

	write_u64(&w, v);
	proto_put_tlv(b, tag, flags, bytes, sizeof(bytes));
}

void proto_put_tlv_str(struct proto_buf *b, enum proto_tag tag, unsigned int flags, const char *s)
{
	proto_put_tlv(b, tag, flags, s, strlen(s));
}
