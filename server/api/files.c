/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /sandboxes/:id/files: read, write, list, make, remove (api.md 5.1, 5.2).
 *
 * Bytes pass through in both directions, one block at a time, at the speed of the slower
 * side: the agent's flow control and TCP's are the only buffers. What the agent refuses is a 500
 * with its reason, as clients expect it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/api/api.h"

#define PROBE_BYTES (64u << 10)

/* The sandbox, the path and a connection; false after having replied. Unknown sandboxes first. */
struct file_op {
	struct sandbox *sandbox; /* a reference */
	const char *path;	 /* borrowed from the request */
	struct agent_conn *conn;
	char *first; /* owned; bytes that were read before the reply began */
	size_t first_len, first_pos;
};

static void file_op_end(struct file_op *op)
{
	if (!op->sandbox)
		return;
	sandbox_touch(op->sandbox);
	sandbox_agent_put(op->sandbox, op->conn);
	sandbox_put(op->sandbox);
	free(op->first);
	memset(op, 0, sizeof(*op));
}

static bool file_op_begin(struct request *r, struct file_op *op, const char *default_path)
{
	struct err e;
	int rc;

	memset(op, 0, sizeof(*op));
	op->sandbox = api_sandbox(r);
	if (!op->sandbox)
		return false;
	op->path = url_query(&r->url, "path");
	if (!op->path || !*op->path)
		op->path = default_path;
	if (!op->path) {
		reply_error(r, 400, "path is required");
		file_op_end(op);
		return false;
	}
	sandbox_touch(op->sandbox);
	rc = sandbox_agent_get(op->sandbox, &op->conn, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		file_op_end(op);
	}
	return !rc;
}

/* What the agent refused is the guest's failure, 500; the rest is explained. */
static void file_op_fail(struct request *r, struct file_op *op, int rc, struct err *e)
{
	bool by_guest = !agent_conn_broken(op->conn);

	rc = sandbox_explain(op->sandbox, op->conn, rc, e);
	if (by_guest)
		reply_error(r, 500, "%s", e->msg);
	else
		reply_errno(r, rc, e);
	file_op_end(op);
}

/* --- read ----------------------------------------------------------------------------------- */

static ssize_t read_block(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct file_op *op = cls;
	struct err e;
	ssize_t n;

	(void)pos;
	if (op->first_pos < op->first_len) {
		n = (ssize_t)(op->first_len - op->first_pos);
		n = n > (ssize_t)max ? (ssize_t)max : n;
		memcpy(buf, op->first + op->first_pos, (size_t)n);
		op->first_pos += (size_t)n;
		return n;
	}
	n = agent_read(op->conn, buf, max, &e);
	if (n < 0)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	return n ? n : MHD_CONTENT_READER_END_OF_STREAM;
}

static void read_release(void *cls)
{
	struct file_op *op = cls;
	struct err e;
	char byte;

	/* A body of known length ends before the agent's end mark was read: take that too, so that
	 * the connection can be used again. */
	if (!agent_conn_broken(op->conn) && !agent_conn_idle(op->conn))
		agent_read(op->conn, &byte, 1, &e);
	file_op_end(op);
	free(op);
}

static void reply_file(struct request *r, struct file_op *op, uint64_t size)
{
	struct file_op *kept = malloc(sizeof(*kept));

	if (!kept) {
		file_op_end(op);
		reply_error(r, 503, "out of memory");
		return;
	}
	*kept = *op;
	reply_stream(r, 200, "application/octet-stream", size, read_block, kept, read_release);
}

/* Files of size 0 may have content all the same (/proc): look, before saying how long it is. */
static void reply_probed(struct request *r, struct file_op *op)
{
	struct err e = {.msg = "out of memory"};
	ssize_t n = -ENOMEM;

	op->first = malloc(PROBE_BYTES);
	while (op->first && op->first_len < PROBE_BYTES) {
		n = agent_read(op->conn, op->first + op->first_len, PROBE_BYTES - op->first_len,
			       &e);
		if (n <= 0)
			break;
		op->first_len += (size_t)n;
	}
	if (n < 0) {
		file_op_fail(r, op, (int)n, &e);
	} else if (n == 0) {
		reply_bytes(r, 200, "application/octet-stream", op->first, op->first_len);
		file_op_end(op);
	} else {
		reply_file(r, op, MHD_SIZE_UNKNOWN);
	}
}

void api_file_read(struct request *r)
{
	struct agent_stat st;
	struct file_op op;
	struct err e;
	int rc;

	if (!file_op_begin(r, &op, NULL))
		return;
	rc = agent_read_open(op.conn, op.path, &st, &e);
	if (rc)
		file_op_fail(r, &op, rc, &e);
	else if (S_ISREG(st.mode) && st.size)
		reply_file(r, &op, st.size);
	else
		reply_probed(r, &op);
}

/* --- write -------------------------------------------------------------------------------------
 */

static void write_begin(struct request *r)
{
	struct file_op op, *kept;
	struct err e;
	int rc;

	if (!file_op_begin(r, &op, NULL))
		return;
	kept = malloc(sizeof(*kept));
	rc = kept ? agent_write_open(op.conn, op.path, &e) : err_set(&e, -ENOMEM, "out of memory");
	if (rc) {
		file_op_fail(r, &op, rc, &e);
		free(kept);
		return;
	}
	*kept = op;
	r->upload = kept;
}

static void write_data(struct request *r, const void *data, size_t len)
{
	struct file_op *op = r->upload;
	struct err e;
	int rc = agent_write(op->conn, data, len, &e);

	if (!rc)
		return;
	file_op_fail(r, op, rc, &e);
	free(op);
	r->upload = NULL;
}

static void write_end(struct request *r)
{
	struct file_op *op = r->upload;
	struct err e;
	int rc = agent_write_commit(op->conn, &e);

	r->upload = NULL;
	if (rc) {
		file_op_fail(r, op, rc, &e);
	} else {
		reply_empty(r, 204);
		file_op_end(op);
	}
	free(op);
}

/* Without a commit the file keeps what it had. */
static void write_abort(struct request *r)
{
	file_op_end(r->upload);
	free(r->upload);
	r->upload = NULL;
}

const struct upload_ops api_file_write = {
    .begin = write_begin,
    .data = write_data,
    .end = write_end,
    .abort = write_abort,
};

/* --- the others ----------------------------------------------------------------------------------
 */

static void write_entry(struct strbuf *b, const char *dir, const struct agent_entry *entry)
{
	size_t dir_len = strlen(dir);
	struct strbuf path = {0};

	while (dir_len && dir[dir_len - 1] == '/')
		dir_len--;
	strbuf_add(&path, dir, dir_len);
	strbuf_adds(&path, "/");
	strbuf_adds(&path, entry->name);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "name", entry->name);
	strbuf_json_bool(b, "isDir", S_ISDIR(entry->mode));
	strbuf_json_strn(b, "path", path.data ? path.data : "", path.len);
	strbuf_json_int(b, "size", (int64_t)entry->size);
	strbuf_adds(b, "}");
	b->failed |= path.failed;
	strbuf_fini(&path);
}

void api_file_list(struct request *r)
{
	struct strbuf b = {0};
	struct agent_entry entry;
	struct file_op op;
	struct err e;
	int rc;

	if (!file_op_begin(r, &op, "/"))
		return;
	strbuf_adds(&b, "[");
	rc = agent_list_open(op.conn, op.path, &e);
	while (!rc && (rc = agent_list_next(op.conn, &entry, &e)) == 1) {
		write_entry(&b, op.path, &entry);
		rc = 0;
	}
	if (rc) {
		strbuf_fini(&b);
		file_op_fail(r, &op, rc, &e);
		return;
	}
	strbuf_adds(&b, "]");
	file_op_end(&op);
	reply_json(r, 200, &b);
}

void api_file_mkdir(struct request *r)
{
	struct file_op op;
	struct err e;
	int rc;

	if (!file_op_begin(r, &op, NULL))
		return;
	rc = agent_mkdir(op.conn, op.path, &e);
	if (rc) {
		file_op_fail(r, &op, rc, &e);
		return;
	}
	file_op_end(&op);
	reply_empty(r, 204);
}

/* "/", "//", "/..", "/a/../": all of them are the root. Relative paths are not below it here. */
static bool is_root(const char *path)
{
	int depth = 0;

	if (*path != '/')
		return false;
	while (*path) {
		size_t len = strcspn(path, "/");

		if (len == 2 && !strncmp(path, "..", 2))
			depth -= depth > 0;
		else if (len && !(len == 1 && *path == '.'))
			depth++;
		path += len;
		path += strspn(path, "/");
	}
	return depth == 0;
}

void api_file_remove(struct request *r)
{
	struct file_op op;
	struct err e;
	int rc;

	if (!file_op_begin(r, &op, NULL))
		return;
	if (is_root(op.path)) {
		reply_error(r, 400, "path: the root directory cannot be removed");
		file_op_end(&op);
		return;
	}
	rc = agent_remove(op.conn, op.path, &e);
	if (rc) {
		file_op_fail(r, &op, rc, &e);
		return;
	}
	file_op_end(&op);
	reply_empty(r, 204);
}
