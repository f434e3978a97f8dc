/* SPDX-License-Identifier: Apache-2.0 */
/* An ext4 file system in a file, by libext2fs; see ext4.h. */
#include "server/oci/ext4.h"

#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK	       4096u
#define INODE_BYTES    256
#define INODE_RATIO    16384u
#define GROUP_BLOCKS   32768u
#define DESCRIPTORS    (BLOCK / 32) /* in a block */
#define GROW_TO_BLOCKS 67108864ull  /* 256 GiB */
#define JOURNAL_BLOCKS 4096	    /* 16 MiB */
#define LABEL	       "dormouse-root"

struct ext4 {
	ext2_filsys fs;
	uint64_t size_mib;
	ext2_file_t file; /* of the last ext4_add(); or NULL */
	uint64_t file_size, written;
	errcode_t dropped; /* what went wrong there */
};

static int fail(const struct ext4 *x, errcode_t code, const char *what, struct err *e)
{
	switch (code) {
	case EXT2_ET_BLOCK_ALLOC_FAIL:
		return err_set(e, -ENOSPC, "%s: no room is left on a disk of %llu MiB", what,
			       (unsigned long long)x->size_mib);
	case EXT2_ET_INODE_ALLOC_FAIL:
		return err_set(e, -ENOSPC, "%s: a disk of %llu MiB has no room for so many files",
			       what, (unsigned long long)x->size_mib);
	case EXT2_ET_EA_NO_SPACE:
		return err_set(e, -E2BIG, "%s: its extended attributes are too large", what);
	case ENOSPC:
		return err_set(e, -EDQUOT, "%s: no room is left on the server's disk", what);
	case EXT2_ET_NO_MEMORY:
		return err_set(e, -ENOMEM, "out of memory");
	default:
		return err_set(e, -EIO, "%s: %s", what, error_message(code));
	}
}

/* --- making it ------------------------------------------------------------------------------- */

static void set_params(struct ext2_super_block *p, uint64_t size_mib)
{
	uint64_t blocks = size_mib * (1024 * 1024 / BLOCK);
	uint64_t groups = (blocks + GROUP_BLOCKS - 1) / GROUP_BLOCKS;
	uint64_t has = (groups + DESCRIPTORS - 1) / DESCRIPTORS;
	uint64_t wants = GROW_TO_BLOCKS / GROUP_BLOCKS / DESCRIPTORS;

	memset(p, 0, sizeof(*p));
	p->s_rev_level = EXT2_DYNAMIC_REV;
	p->s_log_block_size = p->s_log_cluster_size = 2;
	ext2fs_blocks_count_set(p, blocks);
	p->s_inodes_count = (uint32_t)(blocks * BLOCK / INODE_RATIO);
	p->s_inode_size = INODE_BYTES;
	p->s_log_groups_per_flex = 4;
	p->s_reserved_gdt_blocks = (uint16_t)(wants > has ? wants - has : 0);
	p->s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_RESIZE_INODE |
			      EXT2_FEATURE_COMPAT_DIR_INDEX;
	p->s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
				EXT4_FEATURE_INCOMPAT_FLEX_BG;
	p->s_feature_ro_compat =
	    EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
	    EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM |
	    EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE;
}

/* The same for all: forks of images tell themselves apart by other means. */
static void set_identity(struct ext2_super_block *sb)
{
	static const unsigned char uuid[16] = {0x0d, 0x0e, 0x3a, 0x5e, 0x6d, 0x6f, 0x45, 0x73,
					       0x80, 0x00, 0,	 0,    0,    0,	   0,	 0x01};

	memcpy(sb->s_uuid, uuid, sizeof(uuid));
	memcpy(sb->s_hash_seed, uuid, sizeof(uuid));
	((unsigned char *)sb->s_hash_seed)[15] = 2;
	sb->s_def_hash_version = EXT2_HASH_HALF_MD4;
	sb->s_flags |= EXT2_FLAGS_UNSIGNED_HASH;
	memcpy(sb->s_volume_name, LABEL, sizeof(LABEL) - 1);
	sb->s_min_extra_isize = sb->s_want_extra_isize = 32;
	sb->s_max_mnt_count = -1;
	sb->s_checkinterval = 0;
	/* As mke2fs: extended attributes and ACLs of users. */
	sb->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
}

/* The file reads as zeros where nothing was written: neither we nor the guest's kernel need to
 * write tables of inodes. */
static void mark_tables(ext2_filsys fs)
{
	for (dgrp_t i = 0; i < fs->group_desc_count; i++) {
		ext2fs_bg_flags_set(fs, i, EXT2_BG_INODE_ZEROED);
		ext2fs_group_desc_csum_set(fs, i);
	}
}

static errcode_t reserve(ext2_filsys fs)
{
	for (ext2_ino_t i = EXT2_BAD_INO; i < EXT2_FIRST_INODE(fs->super); i++)
		ext2fs_inode_alloc_stats2(fs, i, +1, i == EXT2_ROOT_INO);
	return ext2fs_update_bb_inode(fs, NULL);
}

static errcode_t lay_out(struct ext4 *x)
{
	errcode_t code = ext2fs_allocate_tables(x->fs);

	if (code)
		return code;
	mark_tables(x->fs);
	code = reserve(x->fs);
	if (!code)
		code = ext2fs_create_resize_inode(x->fs);
	/* Now, so that it lies in one piece. */
	if (!code)
		code = ext2fs_add_journal_inode(
		    x->fs, JOURNAL_BLOCKS, EXT2_MKJOURNAL_NO_MNT_CHECK | EXT2_MKJOURNAL_LAZYINIT);
	return code;
}

int ext4_create(int fd, uint64_t size_mib, struct ext4 **out, struct err *e)
{
	struct ext4 *x = calloc(1, sizeof(*x));
	struct ext2_super_block params;
	char path[40];
	errcode_t code;
	int rc;

	if (!x)
		return err_set(e, -ENOMEM, "out of memory");
	initialize_ext2_error_table();
	x->size_mib = size_mib;
	set_params(&params, size_mib);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	code = ftruncate(fd, (off_t)(size_mib << 20)) ? errno : 0;
	if (!code)
		code = ext2fs_initialize(path, EXT2_FLAG_EXCLUSIVE | EXT2_FLAG_64BITS, &params,
					 unix_io_manager, &x->fs);
	if (!code) {
		set_identity(x->fs->super);
		x->fs->now = time(NULL);
		code = lay_out(x);
	}
	if (!code) {
		*out = x;
		return 0;
	}
	rc = fail(x, code, "making a file system", e);
	ext4_destroy(x);
	return rc;
}

void ext4_destroy(struct ext4 *x)
{
	if (!x)
		return;
	if (x->file)
		ext2fs_file_close(x->file);
	if (x->fs)
		ext2fs_free(x->fs);
	free(x);
}

/* --- files ----------------------------------------------------------------------------------- */

static uint32_t clamp_time(int64_t t)
{
	return (uint32_t)(t < 0 ? 0 : t > INT32_MAX ? INT32_MAX : t);
}

static void fill_inode(struct ext2_inode *inode, const struct tree_file *f, unsigned int links)
{
	memset(inode, 0, sizeof(*inode));
	inode->i_mode = (uint16_t)f->mode;
	inode->i_uid = (uint16_t)f->uid;
	ext2fs_set_i_uid_high(*inode, (uint16_t)(f->uid >> 16));
	inode->i_gid = (uint16_t)f->gid;
	ext2fs_set_i_gid_high(*inode, (uint16_t)(f->gid >> 16));
	inode->i_mtime = inode->i_ctime = inode->i_atime = clamp_time(f->mtime);
	inode->i_links_count = (uint16_t)links;
}

/* As the kernel encodes numbers of devices. */
static void set_device(struct ext2_inode *inode, const struct tree_file *f)
{
	uint32_t major = f->dev_major, minor = f->dev_minor;

	if (major < 256 && minor < 256)
		inode->i_block[0] = major << 8 | minor;
	else
		inode->i_block[1] = (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12;
}

static errcode_t set_xattrs(ext2_filsys fs, const struct tree_file *f)
{
	struct ext2_xattr_handle *h = NULL;
	errcode_t code, closed;

	if (!f->xattrs_n)
		return 0;
	code = ext2fs_xattrs_open(fs, f->ino, &h);
	if (!code)
		code = ext2fs_xattrs_read(h);
	for (size_t i = 0; !code && i < f->xattrs_n; i++)
		code = ext2fs_xattr_set(h, f->xattrs[i].name, f->xattrs[i].value, f->xattrs[i].len);
	closed = h ? ext2fs_xattrs_close(&h) : 0;
	return code ? code : closed;
}

static bool has_extents(const struct tree_file *f)
{
	if (S_ISLNK(f->mode))
		return f->size >= sizeof(((struct ext2_inode *)0)->i_block);
	return S_ISREG(f->mode) || S_ISDIR(f->mode);
}

static void set_content(struct ext2_inode *inode, const struct tree_file *f)
{
	if (has_extents(f)) {
		inode->i_flags |= EXT4_EXTENTS_FL;
	} else if (S_ISLNK(f->mode)) {
		memcpy(inode->i_block, f->target, f->size);
		inode->i_size = (uint32_t)f->size;
	} else {
		set_device(inode, f);
	}
}

static errcode_t add_inode(struct ext4 *x, struct tree_file *f, unsigned int links)
{
	struct ext2_inode inode;
	ext2_ino_t ino = f->ino;
	errcode_t code = 0;

	fill_inode(&inode, f, links);
	set_content(&inode, f);
	if (!ino) {
		code = ext2fs_new_inode(x->fs, 0, (int)f->mode, NULL, &ino);
		if (code)
			return code;
		ext2fs_inode_alloc_stats2(x->fs, ino, +1, S_ISDIR(f->mode));
		f->ino = ino;
	}
	code = ext2fs_write_new_inode(x->fs, ino, &inode);
	if (!code)
		code = set_xattrs(x->fs, f);
	if (!code && has_extents(f))
		code = ext2fs_file_open(x->fs, ino, EXT2_FILE_WRITE, &x->file);
	x->file_size = has_extents(f) ? f->size : 0;
	x->written = 0;
	return code;
}

static errcode_t put(struct ext4 *x, uint64_t offset, const void *data, size_t len)
{
	const char *from = data;
	errcode_t code = 0;

	if (offset != x->written)
		code = ext2fs_file_llseek(x->file, offset, EXT2_SEEK_SET, NULL);
	while (!code && len) {
		unsigned int n = 0, most = len > 1u << 20 ? 1u << 20 : (unsigned int)len;

		code = ext2fs_file_write(x->file, from, most, &n);
		from += n;
		len -= n;
		offset += n;
	}
	x->written = offset;
	return code;
}

static errcode_t end_file(struct ext4 *x)
{
	errcode_t code = 0, closed;

	if (!x->file)
		return 0;
	if (x->written < x->file_size)
		code = ext2fs_file_set_size2(x->file, (ext2_off64_t)x->file_size);
	closed = ext2fs_file_close(x->file);
	x->file = NULL;
	return code ? code : closed;
}

int ext4_add(struct ext4 *x, struct tree_file *f, struct err *e)
{
	errcode_t code;

	if (f->size / BLOCK > ext2fs_free_blocks_count(x->fs->super))
		return fail(x, EXT2_ET_BLOCK_ALLOC_FAIL, "a file", e);
	code = add_inode(x, f, 1);
	if (!code && x->file && S_ISLNK(f->mode)) {
		code = put(x, 0, f->target, f->size);
		if (!code)
			code = end_file(x);
	}
	return code ? fail(x, code, "a file", e) : 0;
}

int ext4_write(struct ext4 *x, uint64_t offset, const void *data, size_t len, struct err *e)
{
	errcode_t code;

	if (offset < x->written || offset > x->file_size || len > x->file_size - offset)
		return err_set(e, -EINVAL, "content beyond its size");
	code = put(x, offset, data, len);
	return code ? fail(x, code, "writing", e) : 0;
}

int ext4_write_end(struct ext4 *x, struct err *e)
{
	errcode_t code = end_file(x);

	return code ? fail(x, code, "writing", e) : 0;
}

char *ext4_read(struct ext4 *x, const struct tree_file *f, size_t max)
{
	ext2_file_t file;
	unsigned int got = 0;
	size_t have = 0;
	char *text;
	errcode_t code;

	if (!S_ISREG(f->mode) || !f->ino || f->size > max)
		return NULL;
	text = malloc(f->size + 1);
	if (!text || ext2fs_file_open(x->fs, f->ino, 0, &file)) {
		free(text);
		return NULL;
	}
	do {
		code = ext2fs_file_read(file, text + have, (unsigned int)(f->size - have), &got);
		have += got;
	} while (!code && got && have < f->size);
	ext2fs_file_close(file);
	if (!code && have == f->size) {
		text[have] = '\0';
		return text;
	}
	free(text);
	return NULL;
}

void ext4_drop(struct ext4 *x, struct tree_file *f)
{
	struct ext2_inode_large inode;
	struct ext2_inode *small = (struct ext2_inode *)&inode;
	errcode_t code;

	if (!f->ino || f->ino == EXT2_ROOT_INO)
		return;
	code = ext2fs_read_inode_full(x->fs, f->ino, small, sizeof(inode));
	if (!code)
		code = ext2fs_free_ext_attr(x->fs, f->ino, &inode);
	if (!code && has_extents(f))
		code = ext2fs_punch(x->fs, f->ino, small, NULL, 0, ~0ull);
	if (!code) {
		memset(&inode, 0, sizeof(inode));
		code = ext2fs_write_inode_full(x->fs, f->ino, small, sizeof(inode));
	}
	ext2fs_inode_alloc_stats2(x->fs, f->ino, -1, 0);
	if (code)
		x->dropped = code;
}

/* --- directories: at the end, each at once ---------------------------------------------------- */

struct listing {
	char *data; /* owned; blocks */
	size_t len, cap;
	size_t at; /* of the last entry */
	unsigned int subdirs;
};

static unsigned int entry_bytes(size_t name_len)
{
	return (unsigned int)(8 + name_len + 3) & ~3u;
}

static unsigned int type_of(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return EXT2_FT_DIR;
	case S_IFLNK:
		return EXT2_FT_SYMLINK;
	case S_IFCHR:
		return EXT2_FT_CHRDEV;
	case S_IFBLK:
		return EXT2_FT_BLKDEV;
	case S_IFIFO:
		return EXT2_FT_FIFO;
	case S_IFSOCK:
		return EXT2_FT_SOCK;
	default:
		return EXT2_FT_REG_FILE;
	}
}

/* The last entry of a block reaches to its end. */
static int list(struct listing *l, uint32_t ino, uint32_t mode, const char *name)
{
	size_t len = strlen(name), used = l->len ? l->at % BLOCK : BLOCK;
	struct ext2_dir_entry_2 *d = NULL;

	if (l->len) {
		d = (struct ext2_dir_entry_2 *)(l->data + l->at);
		used += entry_bytes(d->name_len);
	}
	if (used + entry_bytes(len) > BLOCK) {
		if (l->len == l->cap) {
			size_t cap = l->cap ? l->cap * 2 : BLOCK;
			char *grown = realloc(l->data, cap);

			if (!grown)
				return -ENOMEM;
			l->data = grown;
			l->cap = cap;
		}
		memset(l->data + l->len, 0, BLOCK);
		l->at = l->len;
		l->len += BLOCK;
		used = 0;
	} else if (d) {
		d->rec_len = (uint16_t)entry_bytes(d->name_len);
		l->at = l->len - BLOCK + used;
	}
	d = (struct ext2_dir_entry_2 *)(l->data + l->at);
	d->inode = ino;
	d->rec_len = (uint16_t)(BLOCK - used);
	d->name_len = (uint8_t)len;
	d->file_type = (uint8_t)type_of(mode);
	memcpy(d->name, name, len);
	return 0;
}

static int list_children(struct ext4 *x, struct tree_node *n, struct listing *l, struct err *e)
{
	const struct tree_node *up = n->parent ? n->parent : n;
	int rc = list(l, n->file->ino, S_IFDIR, ".");

	if (!rc)
		rc = list(l, up->file->ino, S_IFDIR, "..");
	for (struct tree_node *c = n->children; !rc && c; c = c->next) {
		if (S_ISDIR(c->file->mode)) {
			errcode_t code = 0;

			l->subdirs++;
			if (!c->file->ino)
				code = ext2fs_new_inode(x->fs, 0, S_IFDIR, NULL, &c->file->ino);
			if (code)
				return fail(x, code, c->name, e);
			ext2fs_inode_alloc_stats2(x->fs, c->file->ino, +1, 1);
		}
		rc = list(l, c->file->ino, c->file->mode, c->name);
	}
	return rc ? err_set(e, rc, "out of memory") : 0;
}

static int write_dir(struct ext4 *x, struct tree_node *n, struct err *e)
{
	struct listing l = {0};
	errcode_t code;
	int rc = list_children(x, n, &l, e);

	if (!rc) {
		n->file->size = l.len;
		/* 1: more than can be counted (dir_nlink). */
		code = add_inode(x, n->file, l.subdirs + 2 > TREE_LINKS_MAX ? 1 : l.subdirs + 2);
		if (!code)
			code = put(x, 0, l.data, l.len);
		if (!code)
			code = end_file(x);
		rc = code ? fail(x, code, n->parent ? n->name : "/", e) : 0;
	}
	free(l.data);
	return rc;
}

static int set_links(struct ext4 *x, const struct tree_node *n, struct err *e)
{
	struct ext2_inode inode;
	errcode_t code;

	if (n->file->links < 2)
		return 0;
	code = ext2fs_read_inode(x->fs, n->file->ino, &inode);
	if (!code && inode.i_links_count != n->file->links) {
		inode.i_links_count = (uint16_t)n->file->links;
		code = ext2fs_write_inode(x->fs, n->file->ino, &inode);
	}
	return code ? fail(x, code, n->name, e) : 0;
}

static struct tree_node *next_of(struct tree_node *n)
{
	if (n->children)
		return n->children;
	while (n && !n->next)
		n = n->parent;
	return n ? n->next : NULL;
}

int ext4_finish(struct ext4 *x, struct tree *t, struct err *e)
{
	errcode_t code = x->dropped;
	int rc = code ? fail(x, code, "removing a file", e) : 0;

	t->root->file->ino = EXT2_ROOT_INO;
	for (struct tree_node *n = t->root; !rc && n; n = next_of(n))
		rc = S_ISDIR(n->file->mode) ? write_dir(x, n, e) : set_links(x, n, e);
	if (rc)
		return rc;
	x->fs->super->s_state = EXT2_VALID_FS;
	ext2fs_mark_super_dirty(x->fs);
	code = ext2fs_close_free(&x->fs);
	return code ? fail(x, code, "writing the file system", e) : 0;
}
