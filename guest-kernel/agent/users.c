/* SPDX-License-Identifier: Apache-2.0 */
/* Users and groups from /etc; see users.h. */
#include "guest-kernel/agent/users.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define ETC_FILE_MAX (4u << 20)

void userdb_init(struct userdb *db)
{
	*db = (struct userdb){0};
	pthread_mutex_init(&db->lock, NULL);
}

void userdb_fini(struct userdb *db)
{
	free(db->passwd.text);
	free(db->group.text);
	free(db->environment.text);
	free(db->image.text);
	pthread_mutex_destroy(&db->lock);
}

/* Have the present version of the file in memory; the lock is held. */
static void refresh(struct etc_file *f, const char *etc, const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", etc, name);
	if (stat(path, &st) < 0) {
		free(f->text);
		*f = (struct etc_file){0};
		return;
	}
	if (f->text && f->ino == st.st_ino && f->size == st.st_size &&
	    f->mtime.tv_sec == st.st_mtim.tv_sec && f->mtime.tv_nsec == st.st_mtim.tv_nsec)
		return;
	free(f->text);
	*f = (struct etc_file){.ino = st.st_ino, .size = st.st_size, .mtime = st.st_mtim};
	if (fd_read_file(AT_FDCWD, path, ETC_FILE_MAX, &f->text, NULL) < 0)
		f->text = NULL;
}

/* One line of colon-separated fields, copied apart. */
struct line {
	char text[1024];
	char *field[8];
	size_t fields;
};

/* The next line of *@p that fits and is no comment; false at the end. */
static bool next_line(const char **p, struct line *l)
{
	while (**p) {
		size_t len = strcspn(*p, "\n");
		const char *start = *p;
		char *rest = l->text;

		*p += len + ((*p)[len] == '\n');
		if (!len || *start == '#' || len >= sizeof(l->text))
			continue;
		memcpy(l->text, start, len);
		l->text[len] = '\0';
		for (l->fields = 0; rest && l->fields < 8; l->fields++)
			l->field[l->fields] = strsep(&rest, ":");
		return true;
	}
	return false;
}

static bool parse_id(const char *s, unsigned int *id)
{
	unsigned long v;
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	v = strtoul(s, &end, 10);
	if (*end || errno || v >= UINT_MAX)
		return false;
	*id = (unsigned int)v;
	return true;
}

/* False for an entry that is not what it should be. */
static bool take_passwd(const struct line *l, struct user *u)
{
	if (l->fields < 7 || !parse_id(l->field[2], &u->uid) || !parse_id(l->field[3], &u->gid) ||
	    strlen(l->field[0]) >= sizeof(u->name) || strlen(l->field[5]) >= sizeof(u->home) ||
	    strlen(l->field[6]) >= sizeof(u->shell))
		return false;
	strcpy(u->name, l->field[0]);
	strcpy(u->home, l->field[5][0] ? l->field[5] : "/");
	strcpy(u->shell, l->field[6][0] ? l->field[6] : "/bin/sh");
	return true;
}

static bool find_passwd(const char *text, const char *who, struct user *u)
{
	unsigned int uid;
	bool by_uid = parse_id(who, &uid);
	struct line l;

	while (text && next_line(&text, &l))
		if (take_passwd(&l, u) && (!strcmp(u->name, who) || (by_uid && u->uid == uid)))
			return true;
	if (!by_uid)
		return false;
	*u = (struct user){.uid = uid, .gid = uid, .home = "/", .shell = "/bin/sh"};
	snprintf(u->name, sizeof(u->name), "%u", uid);
	return true;
}

static bool is_member(char *members, const char *name)
{
	for (char *m; (m = strsep(&members, ",")) != NULL;)
		if (!strcmp(m, name))
			return true;
	return false;
}

static void find_groups(const char *text, struct user *u)
{
	struct line l;
	gid_t gid;

	u->groups[0] = u->gid;
	u->groups_len = 1;
	while (text && next_line(&text, &l) && u->groups_len < USER_GROUPS_MAX)
		if (l.fields >= 4 && parse_id(l.field[2], &gid) && gid != u->gid &&
		    is_member(l.field[3], u->name))
			u->groups[u->groups_len++] = gid;
}

static bool find_group(const char *text, const char *who, gid_t *gid)
{
	bool by_gid = parse_id(who, gid);
	struct line l;

	while (!by_gid && text && next_line(&text, &l))
		if (l.fields >= 3 && !strcmp(l.field[0], who))
			return parse_id(l.field[2], gid);
	return by_gid;
}

/* With the lock held: "user" or "user:group". */
static bool find_pair(const struct userdb *db, const char *who, struct user *u)
{
	const char *colon = strchr(who, ':');
	char name[sizeof(u->name)];

	if (!colon) {
		if (!find_passwd(db->passwd.text, who, u))
			return false;
		find_groups(db->group.text, u);
		return true;
	}
	if ((size_t)(colon - who) >= sizeof(name))
		return false;
	memcpy(name, who, (size_t)(colon - who));
	name[colon - who] = '\0';
	if (!find_passwd(db->passwd.text, name, u) ||
	    !find_group(db->group.text, colon + 1, &u->gid))
		return false;
	u->groups[0] = u->gid;
	u->groups_len = 1;
	return true;
}

int userdb_find(struct userdb *db, const char *etc, const char *who, struct user *u, struct err *e)
{
	bool found;

	pthread_mutex_lock(&db->lock);
	refresh(&db->passwd, etc, "passwd");
	refresh(&db->group, etc, "group");
	found = find_pair(db, who, u);
	pthread_mutex_unlock(&db->lock);
	return found ? 0 : err_set(e, -EINVAL, "no user %s in this image", who);
}

char *userdb_environment(struct userdb *db, const char *etc)
{
	char *copy = NULL;

	pthread_mutex_lock(&db->lock);
	refresh(&db->environment, etc, "environment");
	if (db->environment.text)
		copy = strdup(db->environment.text);
	pthread_mutex_unlock(&db->lock);
	return copy;
}

bool userdb_setting(struct userdb *db, const char *etc, const char *key, char *value, size_t size)
{
	size_t len = strlen(key), n;
	bool found = false;

	pthread_mutex_lock(&db->lock);
	refresh(&db->image, etc, "dormouse-image");
	for (const char *line = db->image.text; line && *line && !found;
	     line += n, line += *line == '\n') {
		n = strcspn(line, "\n");
		found = n > len + 1 && n - len - 1 < size && !memcmp(line, key, len) &&
			line[len] == '=';
		if (!found)
			continue;
		memcpy(value, line + len + 1, n - len - 1);
		value[n - len - 1] = '\0';
	}
	pthread_mutex_unlock(&db->lock);
	return found;
}
