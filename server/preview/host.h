/* SPDX-License-Identifier: Apache-2.0 */
/* Host names of previews: `<sandboxID>-p<port>.<whatever>`, with or without `:port` behind. */
#ifndef SERVER_PREVIEW_HOST_H
#define SERVER_PREVIEW_HOST_H

#include <stdbool.h>
#include <stddef.h>

#define PREVIEW_ID_SIZE 32

struct preview_host {
	char id[PREVIEW_ID_SIZE]; /* of the sandbox, in lower case */
	unsigned int port;	  /* 1-65535 */
};

/**
 * preview_host_parse() - Is this the name of a preview?
 * @host:	Value of a Host header; @len bytes of anything
 *
 * The first label alone decides. It begins with "sb-", as ids do, so that no other name of
 * a server is taken for one.
 */
bool preview_host_parse(const char *host, size_t len, struct preview_host *out);

#endif
