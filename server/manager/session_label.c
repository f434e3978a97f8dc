/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of sessions: the server's own knowledge of them, kept by the guest; see session_int.h. */
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"
#include "server/manager/session_int.h"

#define LABEL_VERSION 1
#define CMD_MAX	      512 /* of a command whose whole text has no room */

/* Up to a limit, without half a character. */
static json_t *shortened(const char *text)
{
	size_t len = strlen(text) < CMD_MAX ? strlen(text) : CMD_MAX;

	while (len && ((uint8_t)text[len] & 0xc0) == 0x80)
		len--;
	return json_stringn(text, len);
}

static char *dump(const struct exec_session *x, const char *sandbox, bool whole)
{
	json_t *label =
	    json_pack("{si, ss, ss, si, so, sI, sI, sb, sb, sI, si, si}", "v", LABEL_VERSION,
		      "sandbox", sandbox, "id", x->id, "kind", (int)x->kind, "cmd",
		      whole ? json_string(x->cmd) : shortened(x->cmd), "started",
		      (json_int_t)x->started_ms, "alone", (json_int_t)x->max_alone_s, "stdin",
		      (int)x->has_stdin, "foreground", (int)x->foreground, "keep",
		      (json_int_t)x->keep, "rows", (int)x->rows, "cols", (int)x->cols);
	char *text = NULL;

	if (label && (!whole || !json_object_set(label, "args", x->args)))
		text = json_dumps(label, JSON_COMPACT);
	json_decref(label);
	return text;
}

char *label_make(const struct exec_session *x, const char *sandbox)
{
	char *text = dump(x, sandbox, true);

	if (text && strlen(text) <= PROTO_LABEL_MAX)
		return text;
	free(text);
	return dump(x, sandbox, false);
}

struct fields {
	int64_t version, kind, started, alone, keep, rows, cols;
	const char *sandbox, *id, *cmd;
	json_t *args;
	bool with_stdin, foreground;
};

static const struct json_field label_fields[] = {
    JSON_FIELD(struct fields, version, "v", JSON_F_INT, .flags = JSON_REQUIRED),
    JSON_FIELD(struct fields, sandbox, "sandbox", JSON_F_STRING, .flags = JSON_REQUIRED),
    JSON_FIELD(struct fields, id, "id", JSON_F_STRING, .flags = JSON_REQUIRED),
    JSON_FIELD(struct fields, kind, "kind", JSON_F_INT, .flags = JSON_REQUIRED, .max = EXEC_AGENT),
    JSON_FIELD(struct fields, cmd, "cmd", JSON_F_STRING, .flags = JSON_REQUIRED),
    JSON_FIELD(struct fields, args, "args", JSON_F_STRINGS),
    JSON_FIELD(struct fields, started, "started", JSON_F_INT, .flags = JSON_REQUIRED),
    JSON_FIELD(struct fields, alone, "alone", JSON_F_INT, .max = INT32_MAX),
    JSON_FIELD(struct fields, keep, "keep", JSON_F_INT, .min = 64 << 10, .max = EXEC_KEEP_BYTES),
    JSON_FIELD(struct fields, rows, "rows", JSON_F_INT, .max = UINT16_MAX),
    JSON_FIELD(struct fields, cols, "cols", JSON_F_INT, .max = UINT16_MAX),
    JSON_FIELD(struct fields, with_stdin, "stdin", JSON_F_BOOL),
    JSON_FIELD(struct fields, foreground, "foreground", JSON_F_BOOL),
};

static struct exec_session *make_session(const struct fields *f)
{
	struct exec_spec spec = {.kind = (enum exec_kind)f->kind,
				 .cmd = f->cmd,
				 .args = f->args,
				 .with_stdin = f->with_stdin,
				 .foreground = f->foreground,
				 .keep = (size_t)f->keep,
				 .rows = (unsigned int)f->rows,
				 .cols = (unsigned int)f->cols,
				 .max_alone_s = f->alone};
	struct exec_session *x = session_new(&spec);

	if (!x)
		return NULL;
	if (!x->cmd || !x->args) {
		exec_put(x);
		return NULL;
	}
	memcpy(x->id, f->id, sizeof(x->id));
	x->started_ms = f->started;
	x->seen = x->followed = true;
	return x;
}

struct exec_session *label_parse(const void *label, size_t len, const char *sandbox)
{
	struct fields f = {.keep = EXEC_KEEP_BYTES};
	json_t *json = json_loadb(label, len, 0, NULL);
	struct exec_session *x = NULL;

	/* The guest may have changed it: it is believed as much as a client is. */
	if (json_is_object(json) &&
	    !json_bind(json, label_fields, sizeof(label_fields) / sizeof(label_fields[0]),
		       JSON_IGNORE_UNKNOWN, &f, NULL) &&
	    f.version == LABEL_VERSION && !strcmp(f.sandbox, sandbox) && strlen(f.id) == 8 &&
	    strspn(f.id, "0123456789abcdef") == 8)
		x = make_session(&f);
	json_decref(json);
	return x;
}
