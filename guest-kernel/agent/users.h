/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image's users, groups and environment, read from /etc without NSS (a
 * static program has none). Kept in memory and read again when a file changed:
 * an exec then costs three stat calls and no reading.
 */
#ifndef AGENT_USERS_H
#define AGENT_USERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "lib/err.h"

#define USER_GROUPS_MAX 64

struct user {
	char name[64];
	char home[256];
	char shell[256];
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX]; /* supplementary ones, with gid */
	size_t groups_len;
};

/* One file of /etc and what identifies the version that was read. */
struct etc_file {
	char *text; /* owned; NULL if missing */
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct userdb {
	pthread_mutex_t lock;
	struct etc_file passwd, group, environment, image;
};

void userdb_init(struct userdb *db);
void userdb_fini(struct userdb *db);

/**
 * userdb_find() - Look a user up
 * @etc:	Folder of the files
 * @who:	Name or decimal uid. A uid that has no entry is a user without a name, with
 *		the group of the same number and home `/`. Behind a colon may be the name or gid
 *		of the only group it then has
 *
 * Return: 0, or -EINVAL if there is no user or group of that name
 */
int userdb_find(struct userdb *db, const char *etc, const char *who, struct user *u, struct err *e);

/* The text of ETC/environment, malloc'ed; NULL if there is none. */
char *userdb_environment(struct userdb *db, const char *etc);

/**
 * userdb_setting() - What an imported image says of its commands: ETC/dormouse-image, "KEY=VALUE"
 * @key:	"user" or "workdir"
 *
 * Return: true and @value; false if nothing is said, or more than fits
 */
bool userdb_setting(struct userdb *db, const char *etc, const char *key, char *value, size_t size);

#endif
