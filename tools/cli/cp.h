/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse cp: the parts that its files share. */
#ifndef TOOLS_CLI_CP_H
#define TOOLS_CLI_CP_H

#include <stdint.h>

#include "tools/cli/cli.h"

/* Directories deeper than this are refused: a guest can show any depth. */
#define CP_MAX_DEPTH 100

/* One side of a copy. */
struct cp_side {
	bool remote;
	bool stdio;
	char id[64];	  /* if remote */
	const char *path; /* borrowed; local, or in the guest */
};

struct cp {
	struct cli *c;
	struct http h;
	const char *id; /* the sandbox */
	uint64_t files, directories, bytes, skipped;
};

/**
 * cp_parse_side() - Read "-", "ID:PATH" or a local path
 *
 * A name with a colon is remote if only characters of ids stand before the
 * first colon; ./a:b is local. "ID:" is the home directory.
 */
void cp_parse_side(const char *text, struct cp_side *s);

/* Last part of a path without trailing slashes, into @out. Return: 0, -EINVAL without one. */
int cp_base_name(const char *path, char *out, size_t len);

/* "DIR/NAME" without doubling the slash. Return: malloc'ed or NULL. */
char *cp_join(const char *dir, const char *name);

/* Path of a request on files, such as "files" or "files/list". Return: malloc'ed or NULL. */
char *cp_url(const struct cp *x, const char *what, const char *path);

/* Entries of a guest directory. Return: 0, -ENOTDIR if it is none or missing, -errno. */
int cp_list(struct cp *x, const char *path, json_t **list, struct err *e);

/* A line on stderr for what is left out; counted. */
void cp_skip(struct cp *x, const char *path, const char *why);

/* The two directions. Return: 0 or -errno with @e set. */
int cp_upload(struct cp *x, const char *from, const char *to, struct err *e);
int cp_download(struct cp *x, const char *from, const char *to, struct err *e);
/* From and to a descriptor, for "-". */
int cp_upload_fd(struct cp *x, int fd, int64_t len, const char *to, struct err *e);
int cp_download_fd(struct cp *x, const char *from, int fd, uint64_t *got, struct err *e);

#endif
