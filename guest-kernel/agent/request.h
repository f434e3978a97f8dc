/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of the protocol, parsed and checked. Touches nothing but memory. */
#ifndef AGENT_REQUEST_H
#define AGENT_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/proto.h"

/* All that requests can carry; which fields a request has is checked by request_parse(). */
struct request {
	enum proto_type type;
	uint32_t version_min, version_max; /* HELLO */
	uint64_t session;		   /* EXEC, ATTACH, CONNECT */
	char **argv;			   /* EXEC; NULL-terminated; owned list */
	char **sandbox_env, **env;	   /* likewise */
	size_t argc, sandbox_env_len, env_len;
	char *cwd, *user;		       /* EXEC; in strings */
	uint32_t timeout_ms, flags;	       /* EXEC */
	uint32_t rows, cols;		       /* EXEC; as said, or the defaults */
	uint64_t stdout_offset, stderr_offset; /* ATTACH; UINT64_MAX: absent */
	uint8_t *label;			       /* EXEC; in strings, NULL if absent */
	size_t label_len;
	uint32_t port;		       /* CONNECT */
	char *path;		       /* FILE_*; in strings */
	uint32_t shutdown_mode;	       /* SHUTDOWN */
	uint32_t freeze_flags;	       /* FREEZE */
	uint8_t *generation, *entropy; /* RENEW; in strings */
	size_t generation_len, entropy_len;
	uint64_t realtime_ns, root_bytes; /* RENEW */
	char *hostname, *machine_id;	  /* RENEW; in strings, NULL if absent */
	uint32_t renew_flags;		  /* RENEW */

	char *strings; /* owned; all strings and bytes, each with a NUL after it */
	size_t strings_len, strings_cap;
};

/**
 * request_parse() - Parse the payload of a request frame
 * @r:	Filled; release with request_fini() on success and on failure
 *
 * Return: 0, -EPROTO for malformed TLVs, -EOPNOTSUPP for a mandatory field that is
 *	   unknown (to this type of request), -EINVAL for bad values or missing fields
 */
int request_parse(enum proto_type type, const void *payload, size_t len, struct request *r,
		  struct err *e);
void request_fini(struct request *r);

#endif
