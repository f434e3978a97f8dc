/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of requests; see request.h. */
#include "guest-kernel/agent/request.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum field_kind { FIELD_U32, FIELD_U64, FIELD_STRING, FIELD_BYTES, FIELD_LIST };

/* A field, the types of request that have it, and where it goes. */
struct field {
	enum proto_tag tag;
	enum field_kind kind;
	uint64_t types;	 /* bit per request type: these are below 64 */
	uint64_t needed; /* likewise, of those that cannot do without */
	size_t offset, len_offset;
};

#define TYPE(t)	 (1ULL << PROTO_##t)
#define OFF(m)	 offsetof(struct request, m)
#define SESSIONS (TYPE(EXEC) | TYPE(ATTACH) | TYPE(CONNECT))
#define FILES                                                                                      \
	(TYPE(FILE_READ) | TYPE(FILE_WRITE) | TYPE(FILE_LIST) | TYPE(FILE_MKDIR) |                 \
	 TYPE(FILE_REMOVE) | TYPE(FILE_STAT))

static const struct field fields[] = {
    {PROTO_TAG_VERSION_MIN, FIELD_U32, TYPE(HELLO), TYPE(HELLO), OFF(version_min), 0},
    {PROTO_TAG_VERSION_MAX, FIELD_U32, TYPE(HELLO), TYPE(HELLO), OFF(version_max), 0},
    {PROTO_TAG_SESSION, FIELD_U64, SESSIONS, SESSIONS, OFF(session), 0},
    {PROTO_TAG_ARG, FIELD_LIST, TYPE(EXEC), TYPE(EXEC), OFF(argv), OFF(argc)},
    {PROTO_TAG_SANDBOX_ENV, FIELD_LIST, TYPE(EXEC), 0, OFF(sandbox_env), OFF(sandbox_env_len)},
    {PROTO_TAG_ENV, FIELD_LIST, TYPE(EXEC), 0, OFF(env), OFF(env_len)},
    {PROTO_TAG_CWD, FIELD_STRING, TYPE(EXEC), 0, OFF(cwd), 0},
    {PROTO_TAG_USER, FIELD_STRING, TYPE(EXEC), 0, OFF(user), 0},
    {PROTO_TAG_TIMEOUT_MS, FIELD_U32, TYPE(EXEC), 0, OFF(timeout_ms), 0},
    {PROTO_TAG_EXEC_FLAGS, FIELD_U32, TYPE(EXEC), 0, OFF(flags), 0},
    {PROTO_TAG_ROWS, FIELD_U32, TYPE(EXEC), 0, OFF(rows), 0},
    {PROTO_TAG_COLS, FIELD_U32, TYPE(EXEC), 0, OFF(cols), 0},
    {PROTO_TAG_LABEL, FIELD_BYTES, TYPE(EXEC), 0, OFF(label), OFF(label_len)},
    {PROTO_TAG_STDOUT_OFFSET, FIELD_U64, TYPE(ATTACH), 0, OFF(stdout_offset), 0},
    {PROTO_TAG_STDERR_OFFSET, FIELD_U64, TYPE(ATTACH), 0, OFF(stderr_offset), 0},
    {PROTO_TAG_PORT, FIELD_U32, TYPE(CONNECT), TYPE(CONNECT), OFF(port), 0},
    {PROTO_TAG_PATH, FIELD_STRING, FILES, FILES, OFF(path), 0},
    {PROTO_TAG_SHUTDOWN_MODE, FIELD_U32, TYPE(SHUTDOWN), TYPE(SHUTDOWN), OFF(shutdown_mode), 0},
    {PROTO_TAG_FREEZE_FLAGS, FIELD_U32, TYPE(FREEZE), 0, OFF(freeze_flags), 0},
    {PROTO_TAG_GENERATION, FIELD_BYTES, TYPE(RENEW), TYPE(RENEW), OFF(generation),
     OFF(generation_len)},
    {PROTO_TAG_REALTIME, FIELD_U64, TYPE(RENEW), TYPE(RENEW), OFF(realtime_ns), 0},
    {PROTO_TAG_HOSTNAME, FIELD_STRING, TYPE(RENEW), 0, OFF(hostname), 0},
    {PROTO_TAG_MACHINE_ID, FIELD_STRING, TYPE(RENEW), 0, OFF(machine_id), 0},
    {PROTO_TAG_ENTROPY, FIELD_BYTES, TYPE(RENEW), TYPE(RENEW), OFF(entropy), OFF(entropy_len)},
    {PROTO_TAG_RENEW_FLAGS, FIELD_U32, TYPE(RENEW), 0, OFF(renew_flags), 0},
    {PROTO_TAG_ROOT_BYTES, FIELD_U64, TYPE(RENEW), 0, OFF(root_bytes), 0},
};
#define FIELDS_LEN (sizeof(fields) / sizeof(fields[0]))

/* A copy with a NUL, in the one buffer that holds all strings of the request. */
static char *keep_bytes(struct request *r, const struct proto_tlv *t, struct err *e)
{
	char *s = r->strings + r->strings_len;

	/* A TLV's header is longer than a NUL: what comes out is shorter than what went in. */
	if (t->len >= r->strings_cap - r->strings_len) {
		err_set(e, -EINVAL, "field 0x%x does not fit", t->tag);
		return NULL;
	}
	if (t->len)
		memcpy(s, t->value, t->len);
	s[t->len] = '\0';
	r->strings_len += t->len + 1;
	return s;
}

/* Lists double when their length is a power of two; one place is kept for the NULL. */
static int append(char ***list, size_t *len, char *s, struct err *e)
{
	size_t n = *len + 1;

	if ((n & (n - 1)) == 0) {
		char **p = reallocarray(*list, n * 2, sizeof(*p));

		if (!p)
			return err_set(e, -ENOMEM, "out of memory");
		*list = p;
	}
	(*list)[*len] = s;
	(*list)[n] = NULL;
	*len = n;
	return 0;
}

static int take_field(struct request *r, const struct field *f, const struct proto_tlv *t,
		      struct err *e)
{
	void *at = (char *)r + f->offset;
	char *s;

	if (f->kind == FIELD_U32)
		return proto_tlv_u32(t, at, e);
	if (f->kind == FIELD_U64)
		return proto_tlv_u64(t, at, e);
	if (f->kind != FIELD_BYTES && t->len && memchr(t->value, 0, t->len))
		return err_set(e, -EINVAL, "field 0x%x has a NUL byte inside", t->tag);
	s = keep_bytes(r, t, e);
	if (!s)
		return -EINVAL;
	if (f->kind == FIELD_BYTES)
		*(size_t *)((char *)r + f->len_offset) = t->len;
	if (f->kind == FIELD_LIST)
		return append(at, (size_t *)((char *)r + f->len_offset), s, e);
	*(char **)at = s;
	return 0;
}

static int check_env(char *const *list, struct err *e)
{
	for (; list && *list; list++)
		if (!strchr(*list, '=') || **list == '=')
			return err_set(e, -EINVAL, "environment entry without a name");
	return 0;
}

static int check_hostname(const char *name, struct err *e)
{
	static const char legal[] =
	    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-";
	size_t len = strlen(name);

	if (!len || len > PROTO_HOSTNAME_MAX || strspn(name, legal) != len)
		return err_set(e, -EINVAL, "bad host name");
	return 0;
}

static int check_renew(const struct request *r, struct err *e)
{
	if (r->generation_len != PROTO_GENERATION_LEN)
		return err_set(e, -EINVAL, "generation of %zu bytes", r->generation_len);
	if (!r->entropy_len || r->entropy_len > PROTO_ENTROPY_MAX)
		return err_set(e, -EINVAL, "entropy of %zu bytes", r->entropy_len);
	if (r->realtime_ns > INT64_MAX)
		return err_set(e, -EINVAL, "time out of range");
	if (r->machine_id && (strlen(r->machine_id) != PROTO_MACHINE_ID_LEN ||
			      strspn(r->machine_id, "0123456789abcdef") != PROTO_MACHINE_ID_LEN))
		return err_set(e, -EINVAL, "machine id that is not 32 hexadecimal digits");
	if (r->renew_flags & ~PROTO_RENEW_FLAGS)
		return err_set(e, -EINVAL, "unknown renew flags 0x%x", r->renew_flags);
	return r->hostname ? check_hostname(r->hostname, e) : 0;
}

static int check_values(const struct request *r, struct err *e)
{
	int rc = check_env(r->sandbox_env, e);

	if (!rc)
		rc = check_env(r->env, e);
	if (rc)
		return rc;
	if ((SESSIONS & (1ULL << r->type)) && !r->session)
		return err_set(e, -EINVAL, "session id 0");
	if (r->type == PROTO_CONNECT && (!r->port || r->port > UINT16_MAX))
		return err_set(e, -EINVAL, "no port %u", r->port);
	if (r->type == PROTO_EXEC && !r->argv[0][0])
		return err_set(e, -EINVAL, "empty program name");
	if (r->flags & ~PROTO_EXEC_FLAGS)
		return err_set(e, -EINVAL, "unknown exec flags 0x%x", r->flags);
	if (!r->rows || r->rows > UINT16_MAX || !r->cols || r->cols > UINT16_MAX)
		return err_set(e, -EINVAL, "terminal of %u rows and %u columns", r->rows, r->cols);
	if (r->label_len > PROTO_LABEL_MAX)
		return err_set(e, -EINVAL, "label of %zu bytes", r->label_len);
	if (r->path && !r->path[0])
		return err_set(e, -EINVAL, "empty path");
	if ((r->path && strlen(r->path) >= PATH_MAX) || (r->cwd && strlen(r->cwd) >= PATH_MAX))
		return err_set(e, -ENAMETOOLONG, "path of more than %d bytes", PATH_MAX - 1);
	if (r->shutdown_mode > PROTO_REBOOT)
		return err_set(e, -EINVAL, "unknown shutdown mode %u", r->shutdown_mode);
	if (r->freeze_flags & ~PROTO_FREEZE_FLAGS)
		return err_set(e, -EINVAL, "unknown freeze flags 0x%x", r->freeze_flags);
	return r->type == PROTO_RENEW ? check_renew(r, e) : 0;
}

int request_parse(enum proto_type type, const void *payload, size_t len, struct request *r,
		  struct err *e)
{
	struct reader in = reader_of(payload, len);
	uint64_t bit = 1ULL << type, seen = 0;
	struct proto_tlv t;
	int rc;

	*r = (struct request){.type = type,
			      .rows = 24,
			      .cols = 80,
			      .stdout_offset = UINT64_MAX,
			      .stderr_offset = UINT64_MAX,
			      .strings_cap = len + 1};
	r->strings = malloc(len + 1);
	if (!r->strings)
		return err_set(e, -ENOMEM, "out of memory");
	while ((rc = proto_tlv_next(&in, &t, e)) > 0) {
		size_t i = 0;

		while (i < FIELDS_LEN && (fields[i].tag != t.tag || !(fields[i].types & bit)))
			i++;
		if (i == FIELDS_LEN)
			rc = proto_tlv_unknown(&t, e);
		else if (fields[i].kind != FIELD_LIST && (seen & (1ULL << i)))
			rc = err_set(e, -EINVAL, "field 0x%x twice", t.tag);
		else
			rc = take_field(r, &fields[i], &t, e);
		if (rc)
			return rc;
		if (i < FIELDS_LEN)
			seen |= 1ULL << i;
	}
	if (rc)
		return rc;
	for (size_t i = 0; i < FIELDS_LEN; i++)
		if ((fields[i].needed & bit) && !(seen & (1ULL << i)))
			return err_set(e, -EINVAL, "%s request without field 0x%x",
				       proto_type_name(type), fields[i].tag);
	return check_values(r, e);
}

void request_fini(struct request *r)
{
	free(r->strings);
	free(r->argv);
	free(r->sandbox_env);
	free(r->env);
	*r = (struct request){0};
}
