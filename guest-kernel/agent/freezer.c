/* SPDX-License-Identifier: Apache-2.0 */
/* The cgroup v2 freezer; see freezer.h. */
#include "guest-kernel/agent/freezer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/proto.h"

#define WAIT_MS 5000u
/* The kernel tells of a change by POLLPRI; looking now and then costs nothing. */
#define LOOK_MS 50

void freezer_init(struct freezer *f, const char *root)
{
	pthread_condattr_t attr;

	*f = (struct freezer){.root = root, .limit_ms = PROTO_FREEZE_MS, .wait_ms = WAIT_MS};
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &attr);
	pthread_condattr_destroy(&attr);
}

/* ---- files of a group ---- */

static int group_file(const char *root, const char *name, const char *file, int flags)
{
	char path[PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s/%s", root, name, file) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int write_freeze(const char *root, const char *name, const char *value)
{
	cleanup_close int fd = group_file(root, name, "cgroup.freeze", O_WRONLY);

	if (fd < 0)
		return fd;
	return write(fd, value, 1) < 0 ? -errno : 0;
}

/* 1 if somebody froze it, 0 if not, -errno if it cannot be frozen (or is gone). */
static int read_freeze(const char *root, const char *name)
{
	cleanup_close int fd = group_file(root, name, "cgroup.freeze", O_RDONLY);
	char value;

	if (fd < 0)
		return fd;
	return read(fd, &value, 1) == 1 ? value == '1' : -EIO;
}

/* 1 if all in it stand still, also when it is gone; 0, or -errno. */
static int is_frozen(int fd)
{
	char text[256];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return errno == ENODEV ? 1 : -errno;
	text[n] = '\0';
	return strstr(text, "frozen 1") != NULL;
}

static int wait_frozen(const char *root, const char *name, uint64_t until_ms)
{
	cleanup_close int fd = group_file(root, name, "cgroup.events", O_RDONLY);
	int rc;

	if (fd < 0)
		return fd == -ENOENT || fd == -ENODEV ? 0 : fd;
	while ((rc = is_frozen(fd)) == 0) {
		struct pollfd p = {.fd = fd, .events = POLLPRI};

		if (clock_mono_ms() >= until_ms)
			return -ETIMEDOUT;
		poll(&p, 1, LOOK_MS);
	}
	return rc < 0 ? rc : 0;
}

/* Call @fn for each group at the top. Return: 0 or the first thing that is not. */
static int each_group(const char *root, int (*fn)(const char *root, const char *name, void *arg),
		      void *arg)
{
	DIR *dir = opendir(root);
	struct dirent *d;
	int rc = 0;

	if (!dir)
		return -errno;
	while (!rc && (d = readdir(dir)) != NULL)
		if (d->d_type == DT_DIR && d->d_name[0] != '.')
			rc = fn(root, d->d_name, arg);
	closedir(dir);
	return rc;
}

/* ---- freezing and thawing, under the lock ---- */

static int keep_name(struct freezer *f, const char *name)
{
	char *copy = strdup(name);

	if (copy && f->names_len == f->names_cap) {
		size_t cap = f->names_cap ? 2 * f->names_cap : 8;
		char **names = reallocarray(f->names, cap, sizeof(*names));

		if (names) {
			f->names = names;
			f->names_cap = cap;
		} else {
			free(copy);
			copy = NULL;
		}
	}
	if (!copy)
		return -ENOMEM;
	f->names[f->names_len++] = copy;
	return 0;
}

static int freeze_group(const char *root, const char *name, void *arg)
{
	struct freezer *f = arg;
	int rc = read_freeze(root, name);

	/* Gone meanwhile, or no group at all; or frozen by somebody, who will thaw it. */
	if (rc)
		return rc == 1 || rc == -ENOENT || rc == -ENODEV ? 0 : rc;
	rc = keep_name(f, name);
	if (!rc)
		rc = write_freeze(root, name, "1");
	return rc == -ENOENT || rc == -ENODEV ? 0 : rc;
}

static int thaw_locked(struct freezer *f, struct err *e)
{
	int rc = 0;

	while (f->names_len) {
		char *name = f->names[--f->names_len];
		int one = write_freeze(f->root, name, "0");

		if (one && one != -ENOENT && one != -ENODEV)
			rc = err_sys(e, one, "thaw cgroup %s", name);
		free(name);
	}
	f->frozen = false;
	return rc;
}

static int freeze_groups(struct freezer *f, uint64_t until_ms, struct err *e)
{
	size_t still = 0, before;
	int rc;

	/* Until a look finds none that is new: who did not stand still yet can have made one. */
	do {
		before = f->names_len;
		rc = each_group(f->root, freeze_group, f);
		if (rc)
			return err_sys(e, rc, "freeze processes");
		for (; still < f->names_len; still++) {
			rc = wait_frozen(f->root, f->names[still], until_ms);
			if (rc)
				return err_sys(e, rc, "cgroup %s does not stand still",
					       f->names[still]);
		}
	} while (f->names_len > before);
	return 0;
}

static int freeze_locked(struct freezer *f, struct err *e)
{
	int rc = f->root ? freeze_groups(f, clock_mono_ms() + f->wait_ms, e) : 0;

	if (rc) {
		thaw_locked(f, NULL);
		return rc;
	}
	f->frozen = true;
	f->thaw_at_ms = clock_mono_ms() + f->limit_ms;
	pthread_cond_signal(&f->changed);
	return 0;
}

static void *watch(void *arg)
{
	struct freezer *f = arg;

	pthread_mutex_lock(&f->lock);
	while (!f->stop) {
		struct timespec ts = {.tv_sec = (time_t)(f->thaw_at_ms / 1000),
				      .tv_nsec = (long)(f->thaw_at_ms % 1000) * 1000000};

		if (!f->frozen) {
			pthread_cond_wait(&f->changed, &f->lock);
		} else if (clock_mono_ms() < f->thaw_at_ms) {
			pthread_cond_timedwait(&f->changed, &f->lock, &ts);
		} else {
			log_warn("frozen for %u ms, and nobody comes: thawing", f->limit_ms);
			thaw_locked(f, NULL);
		}
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

int freezer_freeze(struct freezer *f, bool do_sync, struct err *e)
{
	int rc = 0;

	if (do_sync)
		sync();
	pthread_mutex_lock(&f->lock);
	if (!f->has_thread) {
		rc = -pthread_create(&f->thread, NULL, watch, f);
		f->has_thread = !rc;
		if (rc)
			err_sys(e, rc, "no thread to thaw again");
	}
	if (!rc)
		rc = freeze_locked(f, e);
	pthread_mutex_unlock(&f->lock);
	if (rc || !do_sync)
		return rc;
	/* Without the lock: who stands still must be let go in time, however slow the disk is. */
	sync();
	pthread_mutex_lock(&f->lock);
	if (!f->frozen)
		rc = err_set(e, -ETIMEDOUT, "frozen, but sync took too long: thawed again");
	pthread_mutex_unlock(&f->lock);
	return rc;
}

int freezer_thaw(struct freezer *f, struct err *e)
{
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = thaw_locked(f, e);
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static int thaw_group(const char *root, const char *name, void *arg)
{
	(void)arg;
	if (read_freeze(root, name) == 1)
		write_freeze(root, name, "0");
	return 0;
}

void freezer_thaw_all(const char *root)
{
	each_group(root, thaw_group, NULL);
}

void freezer_fini(struct freezer *f)
{
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	thaw_locked(f, NULL);
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (f->has_thread)
		pthread_join(f->thread, NULL);
	free(f->names);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
}
