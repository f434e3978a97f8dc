/* SPDX-License-Identifier: Apache-2.0 */
/* Container images become templates; see import.h. */
#include "server/manager/import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/internal.h"
#include "server/manager/snapshot.h"
#include "server/manager/template.h"
#include "server/manager/tool.h"

#define NAME_MAX_BYTES 128
#define REF_MAX	       512
#define IMPORTS_MAX    4 /* at once, from the first byte of the archive on */
#define PENDING	       ".new"
#define SAID_BAD       1 /* exit code of dormouse-oci: the archive is at fault */

struct import {
	struct manager *m;    /* borrowed; outlives it */
	char *name, *ref;     /* owned */
	char *pending, *path; /* owned; of the image, while it is made and then */
	int dir_fd, archive_fd;
	bool counted; /* among IMPORTS_MAX */
	uint64_t bytes, max_bytes;
};

/* --- at a start ------------------------------------------------------------------------------ */

static char *images_dir(const struct manager *m)
{
	char *path;

	return asprintf(&path, "%s/images", m->state_dir) < 0 ? NULL : path;
}

static bool is_pending(const char *name)
{
	size_t len = strlen(name), suffix = strlen(PENDING);

	return len > suffix && !strcmp(name + len - suffix, PENDING);
}

static void remove_pending(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (is_pending(entry->d_name) && unlinkat(dirfd(d), entry->d_name, 0))
			log_warn("%s/%s: %s", path, entry->d_name, strerror(errno));
	if (d)
		closedir(d);
}

int imports_load(struct manager *m, struct err *e)
{
	cleanup_free char *path = images_dir(m);

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_sys(e, -errno, "%s", path);
	remove_pending(path);
	return images_load_dir(&m->images, path, e);
}

/* --- what is sent ------------------------------------------------------------------------------
 */

static int check_name(struct manager *m, const char *name, struct err *e)
{
	static const char good[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	struct snapshot_row row;
	int rc;

	if (!*name || strlen(name) > NAME_MAX_BYTES || strspn(name, good) != strlen(name) ||
	    *name == '.' || *name == '-' || !strcmp(name, "default"))
		return err_set(e, -EINVAL,
			       "name: \"%.64s\" is none: letters, digits, dots, _ and - make one",
			       name);
	if (images_find_name(&m->images, name) < images_count(&m->images))
		return err_set(e, -EEXIST, "there is a template %.128s already", name);
	rc = snapshot_get(m, name, &row, e);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	snapshot_row_fini(&row);
	return err_set(e, -EEXIST, "there is a snapshot %.128s already", name);
}

/* A file that nobody else finds. */
static int open_unnamed(const char *dir, struct err *e)
{
	cleanup_free char *path = NULL;
	int fd;

	if (asprintf(&path, "%s/archive-XXXXXX" PENDING, dir) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	fd = mkostemps(path, strlen(PENDING), O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, -errno, "%s", path);
	unlink(path);
	return fd;
}

static int open_files(struct import *i, struct err *e)
{
	cleanup_free char *dir = images_dir(i->m);
	char id[UUID_SIZE];
	int rc = uuid_make(id, e);

	if (rc)
		return rc;
	if (!dir || asprintf(&i->pending, "%s/%s" PENDING, dir, id) < 0) {
		i->pending = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (asprintf(&i->path, "%s/%s.ext4", dir, i->name) < 0) {
		i->path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	i->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (i->dir_fd < 0)
		return err_sys(e, -errno, "%s", dir);
	i->archive_fd = open_unnamed(dir, e);
	return i->archive_fd < 0 ? i->archive_fd : 0;
}

static int check_tools(struct manager *m, struct err *e)
{
	struct tool t;
	int rc = tool_init(&t, m, "dormouse-oci", e);

	tool_fini(&t);
	if (!rc) {
		rc = tool_init(&t, m, "dormouse-agent", e);
		tool_fini(&t);
	}
	return rc;
}

/* No waiting: whoever sends an archive is on a thread that serves others, too. */
static int take_place(struct import *i, struct err *e)
{
	unsigned int *n = &i->m->imports;

	if (__atomic_add_fetch(n, 1, __ATOMIC_RELAXED) <= IMPORTS_MAX) {
		i->counted = true;
		return 0;
	}
	__atomic_sub_fetch(n, 1, __ATOMIC_RELAXED);
	return err_set(e, -EAGAIN, "%d imports are under way, no more run at once", IMPORTS_MAX);
}

int import_new(struct manager *m, const char *name, const char *ref, struct import **out,
	       struct err *e)
{
	struct import *i;
	int rc = check_name(m, name, e);

	if (!rc && ref && strlen(ref) > REF_MAX)
		rc = err_set(e, -EINVAL, "ref: it is too long");
	if (!rc)
		rc = check_tools(m, e);
	if (rc)
		return rc;
	i = calloc(1, sizeof(*i));
	if (!i)
		return err_set(e, -ENOMEM, "out of memory");
	i->m = m;
	i->dir_fd = i->archive_fd = -1;
	i->max_bytes = (uint64_t)m->config->max_disk_mib << 20;
	i->name = strdup(name);
	i->ref = ref && *ref ? strdup(ref) : NULL;
	rc = !i->name || (ref && *ref && !i->ref) ? err_set(e, -ENOMEM, "out of memory")
						  : take_place(i, e);
	if (!rc)
		rc = open_files(i, e);
	if (rc)
		import_free(i);
	else
		*out = i;
	return rc;
}

int import_write(struct import *i, const void *data, size_t len, struct err *e)
{
	int rc;

	i->bytes += len;
	if (i->bytes > i->max_bytes)
		return err_set(e, -EINVAL, "the archive is larger than %llu MiB",
			       (unsigned long long)(i->max_bytes >> 20));
	rc = fd_write_full(i->archive_fd, data, len);
	return rc ? err_sys(e, rc, "writing the archive") : 0;
}

void import_free(struct import *i)
{
	if (!i)
		return;
	fd_close(&i->archive_fd);
	fd_close(&i->dir_fd);
	if (i->counted)
		__atomic_sub_fetch(&i->m->imports, 1, __ATOMIC_RELAXED);
	free(i->pending);
	free(i->path);
	free(i->name);
	free(i->ref);
	free(i);
}

/* --- making the template ---------------------------------------------------------------------- */

struct numbers {
	char text[5][16];
};

static void add_arguments(struct tool *t, const struct import *i, struct numbers *n)
{
	static const char *const names[] = {"--archive", "--scratch", "--image", "--agent"};

	for (size_t k = 0; k < 4; k++) {
		snprintf(n->text[k], sizeof(n->text[k]), "%d", t->fds[k]);
		tool_add(t, names[k]);
		tool_add(t, n->text[k]);
	}
	snprintf(n->text[4], sizeof(n->text[4]), "%d", SANDBOX_DEFAULT_DISK_MIB);
	tool_add(t, "--size-mib");
	tool_add(t, n->text[4]);
	if (i->ref) {
		tool_add(t, "--ref");
		tool_add(t, i->ref);
	}
}

static int judge(const struct tool_result *r, struct err *e)
{
	const char *said = *r->said ? r->said : "it failed, and did not say why";

	if (!r->status)
		return 0;
	if (r->status == SAID_BAD)
		return err_set(e, -EINVAL, "%s", said);
	return err_set(e, -EIO, "dormouse-oci: exit code %d: %s", r->status, said);
}

static int run_tool(const struct import *i, struct tool *t, int image_fd, struct err *e)
{
	cleanup_free char *dir = images_dir(i->m), *agent = NULL;
	cleanup_close int scratch_fd = dir ? open_unnamed(dir, e) : -ENOMEM;
	cleanup_close int agent_fd = -1;
	struct tool_result r;
	struct numbers n;
	int rc;

	if (scratch_fd < 0)
		return dir ? scratch_fd : err_set(e, -ENOMEM, "out of memory");
	if (asprintf(&agent, "%s/dormouse-agent", i->m->config->tools) < 0) {
		agent = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	agent_fd = open(agent, O_RDONLY | O_CLOEXEC);
	if (agent_fd < 0)
		return err_sys(e, -errno, "%s", agent);
	t->fds[0] = i->archive_fd;
	t->fds[1] = scratch_fd;
	t->fds[2] = image_fd;
	t->fds[3] = agent_fd;
	t->n_fds = 4;
	add_arguments(t, i, &n);
	rc = tool_run(t, i->m, &r, e);
	if (!rc) {
		rc = judge(&r, e);
		free(r.out);
	}
	return rc;
}

static int make_file(const struct import *i, void (*say)(void *ctx, const char *line), void *ctx,
		     int64_t *bytes, struct err *e)
{
	cleanup_close int fd = open(i->pending, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct tool t;
	struct stat st;
	int rc;

	if (fd < 0)
		return err_sys(e, -errno, "%s", i->pending);
	rc = tool_init(&t, i->m, "dormouse-oci", e);
	t.on_line = say;
	t.ctx = ctx;
	if (!rc)
		rc = run_tool(i, &t, fd, e);
	tool_fini(&t);
	if (!rc && fstat(fd, &st))
		rc = err_sys(e, -errno, "%s", i->pending);
	if (!rc)
		*bytes = (int64_t)st.st_blocks * 512;
	return rc;
}

/* Whoever had the name first keeps it. */
static int give_name(const struct import *i, bool *named, struct err *e)
{
	if (renameat2(AT_FDCWD, i->pending, AT_FDCWD, i->path, RENAME_NOREPLACE)) {
		if (errno == EEXIST)
			return err_set(e, -EEXIST, "there is a template %.128s already", i->name);
		return err_sys(e, -errno, "%s", i->path);
	}
	*named = true;
	return fsync(i->dir_fd) ? err_sys(e, -errno, "%s", i->path) : 0;
}

/* So that the first create is as fast as the next; and what does not boot is no template. */
static int boot(const struct import *i, struct err *e)
{
	struct sandbox_spec shape = {.template = i->name,
				     .alias = "",
				     .cpus = SANDBOX_DEFAULT_CPUS,
				     .memory_mib = SANDBOX_DEFAULT_MEMORY_MIB};
	const struct checkpoint_row *template;
	struct err why;
	int rc = template_get(i->m, &shape, i->path, NULL, &template, &why);

	if (!rc) {
		template_put(i->m, template);
		return 0;
	}
	if (lifecycle_passes(rc)) {
		log_warn("template %s: it was not booted: %s", i->name, why.msg);
		return 0;
	}
	return err_set(e, -EINVAL, "the image does not boot: %.300s", why.msg);
}

int import_finish(struct import *i, void (*say)(void *ctx, const char *line), void *ctx,
		  int64_t *bytes, struct err *e)
{
	int rc = make_file(i, say, ctx, bytes, e);
	bool named = false;

	/* Its room is needed no more. */
	fd_close(&i->archive_fd);
	if (!rc)
		rc = give_name(i, &named, e);
	if (!rc) {
		say(ctx, "Booting it once");
		rc = boot(i, e);
	}
	if (!rc)
		rc = images_add(&i->m->images, i->name, i->path, e);
	if (!rc) {
		log_info("template %s: imported, %lld bytes", i->name, (long long)*bytes);
		return 0;
	}
	unlink(i->pending);
	if (named)
		unlink(i->path);
	log_warn("import of %s: %s", i->name, e->msg);
	return rc;
}
