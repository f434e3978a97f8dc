/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the server asks of a guest's agent around checkpoints and restores.
 *
 * These do not wait for the sandbox to be usable: they are the steps of what makes it so.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/internal.h"

#define HOSTNAME "sandbox" /* api.md 18.6 */

/*
 * As patient as with a guest that boots: on a machine that has too much to do one attempt may not
 * be enough, and what follows a failure here (a boot, say) would cost the user processes, and the
 * machine more than the wait.
 */
int guest_reach(struct sandbox *s, struct agent_conn **conn, struct err *e)
{
	uint64_t deadline_ms = clock_mono_ms() + (uint64_t)s->m->config->boot_timeout_s * 1000;
	int rc;

	do
		rc = agent_pool_get(s->pool, conn, e);
	while (rc == -ETIMEDOUT && clock_mono_ms() < deadline_ms);
	return rc;
}

int guest_freeze(struct sandbox *s, bool sync, struct err *e)
{
	struct agent_conn *conn;
	int rc = guest_reach(s, &conn, e);

	if (rc)
		return err_wrap(e, rc, "the guest's agent does not answer");
	rc = agent_freeze(conn, sync, e);
	agent_pool_put(s->pool, conn);
	return rc ? err_wrap(e, rc, "freezing the guest's processes") : 0;
}

int guest_thaw(struct sandbox *s, struct err *e)
{
	struct agent_conn *conn;
	int rc = guest_reach(s, &conn, e);

	if (rc)
		return err_wrap(e, rc, "the guest's agent does not answer");
	rc = agent_thaw(conn, e);
	agent_pool_put(s->pool, conn);
	return rc ? err_wrap(e, rc, "thawing the guest's processes") : 0;
}

/* The same for a sandbox through all of its life, another one for every other. */
static int machine_id(const struct sandbox *s, char id[PROTO_MACHINE_ID_LEN + 1])
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	char text[128];
	int len = snprintf(text, sizeof(text), "machine-id of %s, %lld", s->id,
			   (long long)s->row.created_ms);

	if (EVP_Digest(text, (size_t)len, hash, NULL, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	for (size_t i = 0; i < PROTO_MACHINE_ID_LEN / 2; i++)
		snprintf(id + 2 * i, 3, "%02x", hash[i]);
	return 0;
}

static int hex_bytes(const char *text, uint8_t *bytes, size_t n)
{
	if (!text || strlen(text) != 2 * n)
		return -EPROTO;
	for (size_t i = 0; i < n; i++) {
		unsigned int byte;

		if (sscanf(text + 2 * i, "%2x", &byte) != 1)
			return -EPROTO;
		bytes[i] = (uint8_t)byte;
	}
	return 0;
}

static int read_generation(struct sandbox *s, uint8_t generation[PROTO_GENERATION_LEN],
			   struct err *e)
{
	json_t *info;
	int rc = vm_call(s, json_pack("{sssb}", "op", "info", "memory", 0), VM_CALL_MS, &info, e);

	if (rc)
		return rc;
	rc = hex_bytes(json_string_value(json_object_get(info, "generation")), generation,
		       PROTO_GENERATION_LEN);
	json_decref(info);
	return rc ? err_set(e, rc, "the VMM tells no generation id") : 0;
}

int guest_renew(struct sandbox *s, struct err *e)
{
	struct agent_identity id = {
	    .hostname = HOSTNAME,
	    .flags = PROTO_RENEW_GROW_ROOT,
	    .root_bytes = (uint64_t)s->row.disk_mib << 20,
	};
	struct agent_conn *conn;
	int rc = read_generation(s, id.generation, e);

	if (!rc && (machine_id(s, id.machine_id) ||
		    getrandom(id.entropy, sizeof(id.entropy), 0) != sizeof(id.entropy)))
		rc = err_set(e, -ENOMEM, "making an identity");
	if (!rc)
		rc = guest_reach(s, &conn, e);
	if (rc)
		return err_wrap(e, rc, "renewing the guest's identity");
	rc = agent_renew(conn, &id, e);
	agent_pool_put(s->pool, conn);
	if (rc == -EREMOTEIO) {
		/* A full disk, say: no reason to keep the sandbox from its owner. */
		log_warn("sandbox %s: its identity is renewed, but: %s", s->id, e->msg);
		return 0;
	}
	return rc ? err_wrap(e, rc, "renewing the guest's identity") : 0;
}
