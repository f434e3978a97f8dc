/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VMM process may reach of the host (`--jail` in docs/vmm.md): to read, the kernel and
 * images; to write, its sandbox's directory, and layers and checkpoints, whose files get their
 * names later. What it is given are the files that have these names when it is started: of those to
 * be read is recorded which they were.
 */
#ifndef SERVER_MANAGER_JAIL_H
#define SERVER_MANAGER_JAIL_H

#include "server/manager/internal.h"

struct jail {
	const char **readable;	    /* owned, the strings are borrowed; NULL-terminated */
	char *layers, *checkpoints; /* owned */
	const char *writable[4];
	struct file_id *given; /* owned; one for each of `readable` */
	size_t given_n;
};

/**
 * jail_init() - What the next process of a sandbox may reach
 * @image:	The only image that it needs, or NULL: all templates'; borrowed until jail_fini()
 *
 * jail_fini() is due, also after a failure.
 *
 * Return: 0 or -ENOMEM
 */
int jail_init(struct jail *j, const struct sandbox *s, const char *image);
void jail_fini(struct jail *j);

/* The process of @s was started with @j. Called, as jail_covers(), by who starts processes in @s.
 */
void jail_record(struct sandbox *s, struct jail *j);

/* Can the process of @s, a shell, read the kernel and @image as they are now? */
bool jail_covers(const struct sandbox *s, const char *image);

#endif
