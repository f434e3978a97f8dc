/* SPDX-License-Identifier: Apache-2.0 */
/* File streams and listings over the agent protocol; see agent_client.h. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "lib/agent_conn.h"

int conn_parse_stat(struct agent_conn *c, struct reader r, struct agent_stat *st, struct err *e)
{
	struct proto_tlv t;
	int rc;

	*st = (struct agent_stat){0};
	while ((rc = proto_tlv_next(&r, &t, e)) > 0) {
		switch (t.tag) {
		case PROTO_TAG_MODE:
			rc = proto_tlv_u32(&t, &st->mode, e);
			break;
		case PROTO_TAG_UID:
			rc = proto_tlv_u32(&t, &st->uid, e);
			break;
		case PROTO_TAG_GID:
			rc = proto_tlv_u32(&t, &st->gid, e);
			break;
		case PROTO_TAG_SIZE:
			rc = proto_tlv_u64(&t, &st->size, e);
			break;
		case PROTO_TAG_MTIME:
			rc = proto_tlv_u64(&t, &st->mtime_ns, e);
			break;
		default:
			rc = proto_tlv_unknown(&t, e);
		}
		if (rc < 0)
			break;
	}
	return rc < 0 ? conn_break(c, rc) : 0;
}

static int open_request(struct agent_conn *c, enum proto_type type, enum conn_state state,
			const char *path, struct err *e)
{
	int rc = conn_request(c, type, state, e);

	if (rc)
		return rc;
	if (path)
		proto_put_tlv_str(&c->out, PROTO_TAG_PATH, PROTO_MANDATORY, path);
	return conn_request_send(c, e);
}

int agent_read_open(struct agent_conn *c, const char *path, struct agent_stat *st, struct err *e)
{
	struct proto_header h;
	struct reader r;
	int rc = open_request(c, PROTO_FILE_READ, CONN_READ, path, e);

	if (!rc)
		rc = conn_answer(c, &h, &r, e);
	if (rc)
		return rc;
	if (h.type != PROTO_FILE_INFO)
		return conn_unexpected(c, &h, e);
	return conn_parse_stat(c, r, st, e);
}

/*
 * The next frame of a stream into c->rest. Without a time limit: a FIFO has data when it has,
 * and sorting a huge directory takes as long as it takes; agent_conn_abort() ends it.
 *
 * Return: 1, 0 at the end (the connection is idle again), or -errno
 */
static int next_piece(struct agent_conn *c, enum proto_type type, struct err *e)
{
	struct proto_header h;
	struct reader r;
	int rc = conn_frame(c, -1, &h, &r, e);

	if (rc)
		return rc;
	if (h.type == PROTO_END) {
		conn_done(c);
		return 0;
	}
	/* A piece without bytes would look like the end of a file. */
	if (h.type != type || (type == PROTO_CHUNK && !h.len))
		return conn_unexpected(c, &h, e);
	c->rest = r;
	return 1;
}

ssize_t agent_read(struct agent_conn *c, void *buf, size_t len, struct err *e)
{
	if (c->state != CONN_READ)
		return 0;
	if (!reader_left(&c->rest)) {
		int rc = next_piece(c, PROTO_CHUNK, e);

		if (rc <= 0)
			return rc;
	}
	if (len > reader_left(&c->rest))
		len = reader_left(&c->rest);
	if (len)
		memcpy(buf, read_bytes(&c->rest, len), len);
	return (ssize_t)len;
}

int agent_write_open(struct agent_conn *c, const char *path, struct err *e)
{
	return open_request(c, PROTO_FILE_WRITE, CONN_WRITE, path, e);
}

/* The answer to a write: a RESULT after DATA_END, an ERROR at any time. */
static int write_answer(struct agent_conn *c, bool committed, struct err *e)
{
	struct proto_header h;
	struct reader r;
	/* Committing waits for nothing but the guest's page cache and a rename. */
	int rc = conn_frame(c, -1, &h, &r, e);

	if (rc)
		return rc;
	if (h.type != PROTO_RESULT || !committed)
		return conn_unexpected(c, &h, e);
	conn_done(c);
	return 0;
}

int agent_write(struct agent_conn *c, const void *buf, size_t len, struct err *e)
{
	const uint8_t *p = buf;

	if (c->state != CONN_WRITE)
		return err_set(e, -EINVAL, "no write is under way on this connection");
	while (len) {
		struct proto_header h = {
		    .version = PROTO_VERSION,
		    .type = PROTO_DATA,
		    .len = (uint32_t)(len < PROTO_FRAME_MAX ? len : PROTO_FRAME_MAX),
		    .id = c->id};
		struct pollfd pfd = {.fd = c->fd, .events = POLLIN};
		uint8_t head[PROTO_HEADER_LEN];
		int rc;

		/* Any answer now is a failure (disk full, ...): no use in sending the rest. */
		if (c->in_start != c->in_end || poll(&pfd, 1, 0) > 0)
			return write_answer(c, false, e);
		proto_header_encode(&h, head);
		rc = conn_send_two(c, head, sizeof(head), p, h.len, e);
		if (rc)
			return rc;
		p += h.len;
		len -= h.len;
	}
	return 0;
}

int agent_write_commit(struct agent_conn *c, struct err *e)
{
	int rc;

	if (c->state != CONN_WRITE)
		return err_set(e, -EINVAL, "no write is under way on this connection");
	proto_buf_reset(&c->out);
	proto_begin(&c->out, PROTO_DATA_END, c->id);
	proto_end(&c->out);
	rc = conn_send(c, e);
	return rc ? rc : write_answer(c, true, e);
}

int agent_list_open(struct agent_conn *c, const char *path, struct err *e)
{
	return open_request(c, PROTO_FILE_LIST, CONN_LIST, path, e);
}

/* Names become parts of paths on the host's side of the API: no way out of their directory. */
static bool name_is_sane(const char *name, size_t len)
{
	if (!len || len > 255 || memchr(name, '/', len) || memchr(name, 0, len))
		return false;
	return !(len == 1 && name[0] == '.') && !(len == 2 && name[0] == '.' && name[1] == '.');
}

static int parse_entry(struct agent_conn *c, struct agent_entry *entry, struct err *e)
{
	struct proto_tlv t;
	struct reader r;
	size_t len;
	int rc = proto_tlv_next(&c->rest, &t, e);

	if (rc <= 0)
		return conn_break(c, rc < 0 ? rc : -EPROTO);
	if (t.tag != PROTO_TAG_ENTRY || t.len < PROTO_ENTRY_LEN)
		return conn_break(c, err_set(e, -EPROTO, "malformed directory entry"));
	r = reader_of(t.value, t.len);
	entry->mode = read_u32(&r);
	entry->size = read_u64(&r);
	entry->mtime_ns = read_u64(&r);
	len = reader_left(&r);
	if (!name_is_sane((const char *)t.value + PROTO_ENTRY_LEN, len))
		return conn_break(c, err_set(e, -EPROTO, "malformed name in a directory"));
	memcpy(c->name, t.value + PROTO_ENTRY_LEN, len);
	c->name[len] = '\0';
	entry->name = c->name;
	return 1;
}

int agent_list_next(struct agent_conn *c, struct agent_entry *entry, struct err *e)
{
	if (c->state != CONN_LIST)
		return 0;
	while (!reader_left(&c->rest)) {
		int rc = next_piece(c, PROTO_ENTRIES, e);

		if (rc <= 0)
			return rc;
	}
	return parse_entry(c, entry, e);
}

/* ---- sessions: not files, but a list as well ---- */

int agent_sessions_open(struct agent_conn *c, struct err *e)
{
	if (!(c->hello.flags & PROTO_HELLO_SESSIONS))
		return err_set(e, -EOPNOTSUPP, "the agent of this image cannot list sessions");
	return open_request(c, PROTO_SESSIONS, CONN_LIST, NULL, e);
}

int agent_sessions_next(struct agent_conn *c, struct agent_session *s, struct err *e)
{
	struct proto_tlv t;
	struct reader r;
	int rc;

	if (c->state != CONN_LIST)
		return 0;
	while (!reader_left(&c->rest)) {
		rc = next_piece(c, PROTO_ENTRIES, e);
		if (rc <= 0)
			return rc;
	}
	rc = proto_tlv_next(&c->rest, &t, e);
	if (rc <= 0)
		return conn_break(c, rc < 0 ? rc : -EPROTO);
	if (t.tag != PROTO_TAG_SESSION_ENTRY || t.len < PROTO_SESSION_ENTRY_LEN ||
	    t.len > PROTO_SESSION_ENTRY_LEN + PROTO_LABEL_MAX)
		return conn_break(c, err_set(e, -EPROTO, "malformed entry of a session"));
	r = reader_of(t.value, t.len);
	s->id = read_u64(&r);
	s->running = read_u32(&r);
	s->label_len = reader_left(&r);
	s->label = t.value + PROTO_SESSION_ENTRY_LEN;
	return 1;
}
