/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of a layer's tar, one after the other; see layer.h. */
#include "server/oci/layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define XATTRS_MAX 64
#define TARGET_MAX 4095 /* of a symbolic link in ext4 */
#define TEXT_MAX   (1u << 20)
#define NO_LAYER   (~0u - 1) /* above all layers: ours */

static void drop(void *ctx, struct tree_file *f)
{
	struct rootfs *r = ctx;

	ext4_drop(r->fs, f);
}

int rootfs_init(struct rootfs *r, int fd, uint64_t size_mib, struct err *e)
{
	*r = (struct rootfs){0};
	if (tree_init(&r->tree, drop, r))
		return err_set(e, -ENOMEM, "out of memory");
	return ext4_create(fd, size_mib, &r->fs, e);
}

void rootfs_fini(struct rootfs *r)
{
	if (r->tree.root)
		tree_fini(&r->tree);
	ext4_destroy(r->fs);
	r->fs = NULL;
}

/* --- one entry ------------------------------------------------------------------------------- */

static bool is_wanted(const char *name)
{
	static const char *const spaces[] = {"user.", "security.", "trusted."};

	for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
		if (!strncmp(name, spaces[i], strlen(spaces[i])) && name[strlen(spaces[i])])
			return true;
	return false;
}

static int add_xattr(struct tree_file *f, const char *name, const void *value, size_t len)
{
	struct tree_xattr *grown = realloc(f->xattrs, (f->xattrs_n + 1) * sizeof(*grown)), *x;

	if (!grown)
		return -ENOMEM;
	f->xattrs = grown;
	x = &grown[f->xattrs_n];
	x->name = strdup(name);
	x->value = malloc(len + 1);
	x->len = len;
	if (!x->name || !x->value) {
		free(x->name);
		free(x->value);
		return -ENOMEM;
	}
	memcpy(x->value, value, len);
	f->xattrs_n++;
	return 0;
}

static int take_xattrs(struct tree_file *f, struct archive_entry *entry, struct err *e)
{
	const char *name;
	const void *value;
	size_t len;

	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &len) == ARCHIVE_OK) {
		if (!name || !is_wanted(name))
			continue;
		if (f->xattrs_n == XATTRS_MAX || len > 65536 || strlen(name) > TREE_NAME_MAX)
			return err_set(e, -E2BIG, "its extended attributes are too large");
		if (add_xattr(f, name, value, len))
			return err_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

static int take_ids(struct tree_file *f, struct archive_entry *entry, struct err *e)
{
	la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return err_set(e, -EINVAL, "its owner, %lld:%lld, is none", (long long)uid,
			       (long long)gid);
	f->uid = (uint32_t)uid;
	f->gid = (uint32_t)gid;
	return 0;
}

static int take_kind(struct tree_file *f, struct archive_entry *entry, struct err *e)
{
	const char *target = archive_entry_symlink(entry);

	switch (f->mode & S_IFMT) {
	case S_IFREG:
		if (archive_entry_size(entry) < 0)
			return err_set(e, -EINVAL, "its size is negative");
		f->size = (uint64_t)archive_entry_size(entry);
		return 0;
	case S_IFLNK:
		if (!target || !*target || strlen(target) > TARGET_MAX)
			return err_set(e, -EINVAL, "the target of the symbolic link is none");
		f->target = strdup(target);
		f->size = strlen(target);
		return f->target ? 0 : err_set(e, -ENOMEM, "out of memory");
	case S_IFCHR:
	case S_IFBLK:
		f->dev_major = (uint32_t)archive_entry_rdevmajor(entry);
		f->dev_minor = (uint32_t)archive_entry_rdevminor(entry);
		if (f->dev_major > 0xfff || f->dev_minor > 0xfffff)
			return err_set(e, -EINVAL, "there is no such device");
		return 0;
	case S_IFDIR:
	case S_IFIFO:
		return 0;
	default:
		return err_set(e, -EINVAL, "its type is unknown");
	}
}

static int take_file(struct archive_entry *entry, struct tree_file **out, struct err *e)
{
	uint32_t mode = archive_entry_filetype(entry) | (archive_entry_perm(entry) & 07777);
	struct tree_file *f;
	int rc;

	/* Members whose type says nothing are files. */
	if (!(mode & S_IFMT))
		mode |= S_IFREG;
	f = tree_file_new(mode);
	if (!f)
		return err_set(e, -ENOMEM, "out of memory");
	f->mtime = archive_entry_mtime(entry);
	rc = take_ids(f, entry, e);
	if (!rc)
		rc = take_kind(f, entry, e);
	if (!rc)
		rc = take_xattrs(f, entry, e);
	if (rc)
		tree_file_free(f);
	else
		*out = f;
	return rc;
}

static int copy_content(struct rootfs *r, struct layer_stream *s, struct err *e)
{
	const void *data;
	la_int64_t at;
	size_t len;
	int got, rc = 0;

	while (!rc && (got = archive_read_data_block(s->tar, &data, &len, &at)) != ARCHIVE_EOF) {
		if (got != ARCHIVE_OK)
			return layer_fail(s, "its content", e);
		if (len)
			rc = ext4_write(r->fs, (uint64_t)at, data, len, e);
	}
	return rc ? rc : ext4_write_end(r->fs, e);
}

static int put_entry(struct rootfs *r, struct layer_stream *s, unsigned int number,
		     const char *path, struct archive_entry *entry, struct err *e)
{
	struct tree_file *f = NULL;
	int rc = take_file(entry, &f, e);

	if (rc)
		return rc;
	if (!S_ISDIR(f->mode))
		rc = ext4_add(r->fs, f, e);
	if (!rc && S_ISREG(f->mode))
		rc = copy_content(r, s, e);
	if (!rc)
		rc = tree_put(&r->tree, path, number, f, e);
	if (rc)
		tree_file_free(f);
	return rc;
}

static int put_link(struct rootfs *r, unsigned int number, const char *path, const char *target,
		    struct err *e)
{
	struct tree_node *n = tree_find(&r->tree, target);

	if (!n)
		return err_set(e, -ENOENT, "a link to %.128s, which is not there", target);
	if (S_ISDIR(n->file->mode))
		return err_set(e, -EISDIR, "a link to %.128s, which is a directory", target);
	if (tree_find(&r->tree, path) == n)
		return 0;
	return tree_put(&r->tree, path, number, n->file, e);
}

static int apply_entry(struct rootfs *r, struct layer_stream *s, unsigned int number,
		       struct archive_entry *entry, struct err *e)
{
	const char *path = archive_entry_pathname(entry), *link = archive_entry_hardlink(entry);
	int rc;

	if (!path || !*path)
		return err_set(e, -EINVAL, "an entry has a name that cannot be read");
	rc = tree_mark(&r->tree, path, number, e);
	if (rc > 0)
		return 0;
	if (!rc)
		rc = link ? put_link(r, number, path, link, e)
			  : put_entry(r, s, number, path, entry, e);
	/* Some messages begin with it. */
	if (rc && strncmp(e->msg, path, strnlen(path, 64)) != 0)
		return err_wrap(e, rc, "%.128s", path);
	return rc;
}

int layer_apply(struct rootfs *r, struct layer_stream *s, unsigned int number, struct err *e)
{
	struct archive_entry *entry;
	int rc = 0, got;

	while (!rc && (got = archive_read_next_header(s->tar, &entry)) != ARCHIVE_EOF) {
		if (got < ARCHIVE_WARN)
			return layer_fail(s, "", e);
		rc = apply_entry(r, s, number, entry, e);
	}
	return rc;
}

/* --- files of ours --------------------------------------------------------------------------- */

int rootfs_put(struct rootfs *r, const char *path, uint32_t mode, const void *data, size_t len,
	       struct err *e)
{
	struct tree_file *f = tree_file_new(S_IFREG | mode);
	int rc;

	if (!f)
		return err_set(e, -ENOMEM, "out of memory");
	f->size = len;
	rc = ext4_add(r->fs, f, e);
	if (!rc)
		rc = ext4_write(r->fs, 0, data, len, e);
	if (!rc)
		rc = ext4_write_end(r->fs, e);
	if (!rc)
		rc = tree_put(&r->tree, path, NO_LAYER, f, e);
	if (rc)
		tree_file_free(f);
	return rc ? err_wrap(e, rc, "writing %.128s", path) : 0;
}

int rootfs_mkdir(struct rootfs *r, const char *path, uint32_t mode, struct err *e)
{
	struct tree_file *f;
	int rc;

	if (tree_find_end(&r->tree, path))
		return 0;
	f = tree_file_new(S_IFDIR | mode);
	if (!f)
		return err_set(e, -ENOMEM, "out of memory");
	rc = tree_put(&r->tree, path, NO_LAYER, f, e);
	if (rc)
		tree_file_free(f);
	return rc;
}

char *rootfs_read(struct rootfs *r, const char *path)
{
	struct tree_node *n = tree_find_end(&r->tree, path);

	return n ? ext4_read(r->fs, n->file, TEXT_MAX) : NULL;
}
