/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent for an image import: a file as it is, a directory with an OCI image layout as a tar.
 */
#ifndef TOOLS_CLI_PACK_H
#define TOOLS_CLI_PACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct pack_file {
	char *path, *name; /* owned; name: in the tar */
	int64_t size;
};

struct pack {
	struct pack_file *files; /* owned */
	size_t n;
	bool raw;      /* one file, without a tar around it */
	int64_t total; /* bytes that come; -1: not known */
	int64_t sent;
	size_t at;	/* the file that is being sent */
	int fd;		/* of it; -1: its header comes next */
	int64_t pos;	/* in it, with header and padding */
	struct err err; /* why pack_read() failed */
};

/* "-": standard input. pack_close() is due, also after a failure. */
int pack_open(struct pack *p, const char *path, struct err *e);
/* As http_request.source. */
ssize_t pack_read(void *ctx, void *buf, size_t len);
void pack_close(struct pack *p);

#endif
