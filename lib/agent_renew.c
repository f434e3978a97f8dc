/* SPDX-License-Identifier: Apache-2.0 */
/* Quiescing a guest and giving it a new identity; see agent_client.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/agent_conn.h"

/* For what depends on the amount of work and not on the agent's health, but must end. */
#define WORK_MS 60000

/* The connection's timeout, and more for work. */
static int limit_ms(const struct agent_conn *c, bool work)
{
	if (!work)
		return c->timeout_ms;
	return c->timeout_ms < INT32_MAX - WORK_MS ? c->timeout_ms + WORK_MS : INT32_MAX;
}

static int begin(struct agent_conn *c, enum proto_type type, struct err *e)
{
	if (!(c->hello.flags & PROTO_HELLO_RENEW))
		return err_set(e, -EOPNOTSUPP, "the agent in this image (%s) does not know %s",
			       c->hello.agent, proto_type_name(type));
	return conn_request(c, type, CONN_SIMPLE, e);
}

int agent_freeze(struct agent_conn *c, bool do_sync, struct err *e)
{
	struct reader r;
	int rc = begin(c, PROTO_FREEZE, e);

	if (rc)
		return rc;
	proto_put_tlv_u32(&c->out, PROTO_TAG_FREEZE_FLAGS, PROTO_MANDATORY,
			  do_sync ? PROTO_FREEZE_SYNC : 0);
	return conn_simple_finish(c, limit_ms(c, do_sync), &r, e);
}

int agent_thaw(struct agent_conn *c, struct err *e)
{
	struct reader r;
	int rc = begin(c, PROTO_THAW, e);

	return rc ? rc : conn_simple_finish(c, c->timeout_ms, &r, e);
}

static int64_t realtime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void put_identity(struct proto_buf *b, const struct agent_identity *id)
{
	proto_put_tlv(b, PROTO_TAG_GENERATION, PROTO_MANDATORY, id->generation,
		      sizeof(id->generation));
	proto_put_tlv(b, PROTO_TAG_ENTROPY, PROTO_MANDATORY, id->entropy, sizeof(id->entropy));
	if (id->hostname)
		proto_put_tlv_str(b, PROTO_TAG_HOSTNAME, PROTO_MANDATORY, id->hostname);
	if (id->machine_id[0])
		proto_put_tlv(b, PROTO_TAG_MACHINE_ID, PROTO_MANDATORY, id->machine_id,
			      strnlen(id->machine_id, sizeof(id->machine_id)));
	proto_put_tlv_u32(b, PROTO_TAG_RENEW_FLAGS, PROTO_MANDATORY, id->flags);
	if (id->root_bytes)
		proto_put_tlv_u64(b, PROTO_TAG_ROOT_BYTES, PROTO_MANDATORY, id->root_bytes);
	/* Last: the time of sending. */
	proto_put_tlv_u64(b, PROTO_TAG_REALTIME, PROTO_MANDATORY,
			  (uint64_t)(id->realtime_ns ? id->realtime_ns : realtime_ns()));
}

/* What the RESULT says: whose generation it is, and which parts failed. */
static int parse_result(struct agent_conn *c, struct reader r, const struct agent_identity *id,
			struct err *e)
{
	char failed[sizeof(e->msg)] = "";
	bool confirmed = false, complete = true;
	struct proto_tlv t;
	size_t len;
	int rc;

	while ((rc = proto_tlv_next(&r, &t, e)) > 0) {
		if (t.tag == PROTO_TAG_GENERATION) {
			confirmed = t.len == sizeof(id->generation) &&
				    !memcmp(t.value, id->generation, sizeof(id->generation));
		} else if (t.tag == PROTO_TAG_FAILURE) {
			complete = false;
			len = strlen(failed);
			snprintf(failed + len, sizeof(failed) - len, "%s", len ? "; " : "");
			len = strlen(failed);
			if (len < sizeof(failed) - 1)
				conn_printable(failed + len, sizeof(failed) - len, t.value, t.len);
		} else if ((rc = proto_tlv_unknown(&t, e)) < 0) {
			break;
		}
	}
	if (!rc && !confirmed)
		rc = err_set(e, -EPROTO, "the agent did not confirm the new generation");
	if (rc < 0)
		return conn_break(c, rc);
	return complete ? 0 : err_set(e, -EREMOTEIO, "%s", failed[0] ? failed : "unknown");
}

int agent_renew(struct agent_conn *c, const struct agent_identity *id, struct err *e)
{
	struct reader r;
	int rc = begin(c, PROTO_RENEW, e);

	if (rc)
		return rc;
	put_identity(&c->out, id);
	rc = conn_simple_finish(c, limit_ms(c, id->flags & PROTO_RENEW_GROW_ROOT), &r, e);
	return rc ? rc : parse_result(c, r, id, e);
}
