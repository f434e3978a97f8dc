/* SPDX-License-Identifier: Apache-2.0 */
/* What build.c, build_step.c and image.c share. */
#ifndef SERVER_MANAGER_BUILD_INT_H
#define SERVER_MANAGER_BUILD_INT_H

#include "server/manager/build.h"
#include "server/manager/internal.h"

#define BUILD_ERROR_MAX 2048

struct log_line {
	int step;
	const char *type; /* static */
	char *message;	  /* owned */
};

struct build {
	struct manager *m; /* borrowed; outlives it */
	unsigned int refs; /* under the lock of builds, as all that changes */
	struct build *next;
	struct manifest manifest;
	char (*keys)[HASH_SIZE]; /* owned; manifest.n_steps + 1: [i] is that of i steps */
	const char *base;	 /* borrowed: the image's real name, its path */
	const char *base_image;
	char *base_version;	  /* owned */
	int64_t cpus, memory_mib; /* of the sandboxes that are to come */
	int64_t builder_mib;
	uint64_t deadline_ms; /* of the whole; 0: it has not begun */

	struct log_line *lines; /* owned */
	size_t n_lines, cap_lines, log_bytes;
	uint64_t first_line; /* how many were dropped in front of lines[0] */
	bool done, passes, cached;
	char error[BUILD_ERROR_MAX]; /* "": none */
	char checkpoint_id[UUID_SIZE];
};

struct builds {
	pthread_mutex_t lock; /* before the store's */
	pthread_cond_t changed;
	struct build *list; /* in progress */
	unsigned int running;
};

/* Under the lock: until something changes, for @ms at most. */
void builds_wait_change(struct builds *bs, unsigned int ms);
void build_free(struct build *b);

/* A line for its readers; @type is static. */
void build_log(struct build *b, int step, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for output of a process, whatever its bytes. */
void build_log_bytes(struct build *b, int step, const char *type, const char *bytes, size_t len);

/* Where it is: the steps before decide where commands run. */
struct build_at {
	struct sandbox *s;
	const char *workdir; /* borrowed from the manifest; NULL: at home */
};

/**
 * build_run_step() - Do one step in the guest
 * @i:		From 0
 * @why:	Set on failure, BUILD_ERROR_MAX bytes: exit code, end of the output
 *
 * Return: 0; -EREMOTEIO: the step has failed; -ECANCELED: the server stops
 */
int build_run_step(struct build *b, const struct build_at *at, size_t i, char *why);

/* --- image.c ---------------------------------------------------------------------------------- */

/**
 * image_pin() - The image of a key, if it is there with all its files
 * @c:	checkpoint_row_fini() after checkpoint_unpin()
 *
 * One whose files have vanished is forgotten. Return: 0; -ENOENT; -errno
 */
int image_pin(struct manager *m, const char *key, struct checkpoint_row *c, struct err *e);

/* Are all files of its disk there? */
bool image_is_whole(struct manager *m, const struct checkpoint_row *c);

/* Forget those that were not used for long, beyond what is kept. */
void images_evict(struct manager *m);

/* What tells one version of an image file from another; the caller frees. NULL and @e on failure.
 */
char *image_version(const char *path, struct err *e);

#endif
