/* SPDX-License-Identifier: Apache-2.0 */
/* Members of the archive, through libarchive; see outer.h. */
#include "server/oci/outer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"

#define CHUNK (256u << 10)

static int damaged(struct archive *a, const char *what, struct err *e)
{
	const char *why = archive_error_string(a);

	return err_set(e, -EINVAL, "%s: %.300s", what, why ? why : "it is damaged");
}

/* No programs are run: only what is linked in. */
static void support_compression(struct archive *a)
{
	archive_read_support_filter_none(a);
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
}

static struct archive *open_tar(int fd, int64_t at, struct err *e)
{
	struct archive *a = archive_read_new();

	if (!a) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	support_compression(a);
	archive_read_support_format_tar(a);
	if (lseek(fd, at, SEEK_SET) >= 0 && archive_read_open_fd(a, fd, CHUNK) == ARCHIVE_OK)
		return a;
	damaged(a, "the archive", e);
	archive_read_free(a);
	return NULL;
}

/* --- members --------------------------------------------------------------------------------- */

static char *clean_name(const char *name)
{
	while (*name == '/' || (name[0] == '.' && name[1] == '/'))
		name += *name == '/' ? 1 : 2;
	return strdup(name);
}

/* The target of a symbolic link, from the folder that has it, as a name of a member. */
static char *link_name(const char *name, const char *target)
{
	const char *slash = strrchr(name, '/');
	size_t len = slash ? (size_t)(slash - name) : 0;
	char *joined;

	while (!strncmp(target, "../", 3) || !strncmp(target, "./", 2)) {
		if (target[1] == '/') {
			target += 2;
			continue;
		}
		target += 3;
		while (len && name[len - 1] != '/')
			len--;
		len -= len != 0;
	}
	if (asprintf(&joined, "%.*s%s%s", (int)len, name, len ? "/" : "", target) < 0)
		return NULL;
	return joined;
}

static int add_member(struct outer *o, struct archive *a, struct archive_entry *entry,
		      struct err *e)
{
	const char *name = archive_entry_pathname(entry), *link;
	struct member *grown, *m;

	if (!name)
		return err_set(e, -EINVAL, "the archive: a name cannot be read");
	if (o->n == OUTER_MEMBERS_MAX)
		return err_set(e, -EFBIG, "the archive: more than %d members", OUTER_MEMBERS_MAX);
	if (!(o->n & (o->n - 1)) || !o->n) {
		grown = realloc(o->items, (o->n ? o->n * 2 : 1) * sizeof(*grown));
		if (!grown)
			return err_set(e, -ENOMEM, "out of memory");
		o->items = grown;
	}
	m = &o->items[o->n];
	*m = (struct member){.at = archive_read_header_position(a),
			     .size = archive_entry_size(entry),
			     .name = clean_name(name)};
	if (!m->name)
		return err_set(e, -ENOMEM, "out of memory");
	o->n++;
	link = archive_entry_hardlink(entry);
	if (link)
		m->link = clean_name(link);
	else if (archive_entry_filetype(entry) == AE_IFLNK && archive_entry_symlink(entry))
		m->link = link_name(m->name, archive_entry_symlink(entry));
	return 0;
}

static int list_members(struct outer *o, struct archive *a, struct err *e)
{
	struct archive_entry *entry;
	int rc = 0, got;

	while (!rc && (got = archive_read_next_header(a, &entry)) != ARCHIVE_EOF) {
		if (got < ARCHIVE_WARN)
			return damaged(a, "the archive", e);
		if (archive_entry_filetype(entry) != AE_IFDIR)
			rc = add_member(o, a, entry, e);
	}
	return rc;
}

/* The whole file, uncompressed. */
static int unpack(int fd, int scratch_fd, uint64_t max_bytes, struct err *e)
{
	struct archive *a = archive_read_new();
	struct archive_entry *entry;
	uint64_t total = 0;
	const void *data;
	size_t len;
	la_int64_t at;
	int rc = 0, got;

	if (!a)
		return err_set(e, -ENOMEM, "out of memory");
	support_compression(a);
	archive_read_support_format_raw(a);
	if (lseek(fd, 0, SEEK_SET) < 0 || archive_read_open_fd(a, fd, CHUNK) != ARCHIVE_OK ||
	    archive_read_next_header(a, &entry) != ARCHIVE_OK)
		rc = damaged(a, "the archive", e);
	while (!rc && (got = archive_read_data_block(a, &data, &len, &at)) != ARCHIVE_EOF) {
		if (got != ARCHIVE_OK)
			rc = damaged(a, "the archive", e);
		else if ((total += len) > max_bytes)
			rc = err_set(e, -EFBIG, "the archive: unpacked it is larger than %llu MiB",
				     (unsigned long long)(max_bytes >> 20));
		else
			rc = fd_write_full(scratch_fd, data, len);
		if (rc && e->code != rc)
			err_sys(e, rc, "unpacking the archive");
	}
	archive_read_free(a);
	return rc;
}

int outer_open(struct outer *o, int fd, int scratch_fd, uint64_t max_bytes, struct err *e)
{
	struct archive_entry *entry;
	struct archive *a;
	int rc = 0;

	*o = (struct outer){.fd = fd};
	*e = (struct err){0};
	a = open_tar(fd, 0, e);
	if (!a)
		return e->code;
	if (archive_read_next_header(a, &entry) < ARCHIVE_WARN) {
		rc = damaged(a, "the archive", e);
	} else if (archive_filter_code(a, 0) != ARCHIVE_FILTER_NONE) {
		rc = unpack(fd, scratch_fd, max_bytes, e);
		o->fd = scratch_fd;
	}
	archive_read_free(a);
	if (rc)
		return rc;
	a = open_tar(o->fd, 0, e);
	if (!a)
		return e->code;
	rc = list_members(o, a, e);
	archive_read_free(a);
	return rc;
}

void outer_fini(struct outer *o)
{
	for (size_t i = 0; i < o->n; i++) {
		free(o->items[i].name);
		free(o->items[i].link);
	}
	free(o->items);
	memset(o, 0, sizeof(*o));
}

const struct member *outer_find(const struct outer *o, const char *name)
{
	cleanup_free char *clean = clean_name(name);

	for (int hops = 0; clean && hops < 8; hops++) {
		size_t i = o->n;

		/* The last of a name counts. */
		while (i && strcmp(o->items[i - 1].name, clean))
			i--;
		if (!i)
			return NULL;
		if (!o->items[i - 1].link)
			return &o->items[i - 1];
		free(clean);
		clean = strdup(o->items[i - 1].link);
	}
	return NULL;
}

static struct archive *open_member(const struct outer *o, const struct member *m, struct err *e)
{
	struct archive *a = open_tar(o->fd, m->at, e);
	struct archive_entry *entry;

	if (a && archive_read_next_header(a, &entry) < ARCHIVE_WARN) {
		damaged(a, m->name, e);
		archive_read_free(a);
		return NULL;
	}
	return a;
}

/* --- digests --------------------------------------------------------------------------------- */

static void print_digest(EVP_MD_CTX *ctx, char text[DIGEST_SIZE])
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	text[0] = '\0';
	if (EVP_DigestFinal_ex(ctx, bytes, &n) != 1)
		return;
	for (unsigned int i = 0; i < n && 2 * i + 2 < DIGEST_SIZE; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", bytes[i]);
}

static EVP_MD_CTX *begin_digest(void)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1) {
		EVP_MD_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

static int compare(EVP_MD_CTX *ctx, const char *wanted, const char *what, struct err *e)
{
	char is[DIGEST_SIZE];

	if (!wanted || !*wanted)
		return 0;
	print_digest(ctx, is);
	if (!strcmp(is, wanted))
		return 0;
	return err_set(e, -EINVAL, "%s: its SHA-256 is %s, not %s", what, is, wanted);
}

int outer_read(const struct outer *o, const struct member *m, size_t max, const char *digest,
	       char **text, size_t *len, struct err *e)
{
	struct archive *a;
	EVP_MD_CTX *ctx;
	la_ssize_t got = 0;
	int rc = 0;

	if (m->size < 0 || (uint64_t)m->size > max)
		return err_set(e, -EFBIG, "%.128s: larger than %zu bytes", m->name, max);
	*len = (size_t)m->size;
	*text = malloc(*len + 1);
	ctx = begin_digest();
	a = *text && ctx ? open_member(o, m, e) : NULL;
	if (!a)
		rc = *text && ctx ? e->code : err_set(e, -ENOMEM, "out of memory");
	else if (*len)
		got = archive_read_data(a, *text, *len);
	if (!rc && got != (la_ssize_t)*len)
		rc = damaged(a, m->name, e);
	if (!rc) {
		(*text)[*len] = '\0';
		EVP_DigestUpdate(ctx, *text, *len);
		rc = compare(ctx, digest, m->name, e);
	}
	archive_read_free(a);
	EVP_MD_CTX_free(ctx);
	if (rc) {
		free(*text);
		*text = NULL;
	}
	return rc;
}

/* --- layers ---------------------------------------------------------------------------------- */

/* The next block of @from, counted into @digest. */
static la_ssize_t pass_on(struct archive *a, struct archive *from, EVP_MD_CTX *digest,
			  const void **data)
{
	la_int64_t at;
	size_t len = 0;
	int got;

	do {
		got = archive_read_data_block(from, data, &len, &at);
	} while (got == ARCHIVE_OK && !len);
	if (got == ARCHIVE_EOF)
		return 0;
	if (got != ARCHIVE_OK) {
		archive_set_error(a, EINVAL, "%s", archive_error_string(from));
		return -1;
	}
	EVP_DigestUpdate(digest, *data, len);
	return (la_ssize_t)len;
}

static la_ssize_t read_blob(struct archive *a, void *arg, const void **data)
{
	struct layer_stream *s = arg;

	return pass_on(a, s->outer, s->blob, data);
}

static la_ssize_t read_diff(struct archive *a, void *arg, const void **data)
{
	struct layer_stream *s = arg;
	la_ssize_t n = pass_on(a, s->raw, s->diff, data);

	if (n <= 0)
		return n;
	s->bytes += (uint64_t)n;
	if (s->bytes <= s->max_bytes)
		return n;
	err_set(&s->err, -EFBIG, "unpacked it is larger than %llu MiB",
		(unsigned long long)(s->max_bytes >> 20));
	return -1;
}

int layer_fail(const struct layer_stream *s, const char *what, struct err *e)
{
	if (s->err.code)
		return err_set(e, s->err.code, "%.150s%s%.300s", what, *what ? ": " : "",
			       s->err.msg);
	return damaged(s->tar ? s->tar : s->raw ? s->raw : s->outer, *what ? what : "the layer", e);
}

int layer_open(struct layer_stream *s, const struct outer *o, const struct member *m,
	       uint64_t max_bytes, struct err *e)
{
	struct archive_entry *entry;

	*s = (struct layer_stream){.max_bytes = max_bytes};
	s->blob = begin_digest();
	s->diff = begin_digest();
	s->outer = open_member(o, m, e);
	if (!s->outer)
		return e->code;
	s->raw = archive_read_new();
	s->tar = archive_read_new();
	if (!s->blob || !s->diff || !s->raw || !s->tar)
		return err_set(e, -ENOMEM, "out of memory");
	support_compression(s->raw);
	archive_read_support_format_raw(s->raw);
	archive_read_support_format_empty(s->raw);
	archive_read_support_format_tar(s->tar);
	archive_read_support_format_empty(s->tar);
	if (archive_read_open(s->raw, s, NULL, read_blob, NULL) != ARCHIVE_OK)
		return damaged(s->raw, "the layer", e);
	/* Of an empty one there is no header. */
	if (archive_read_next_header(s->raw, &entry) < ARCHIVE_WARN)
		return damaged(s->raw, "the layer", e);
	if (archive_read_open(s->tar, s, NULL, read_diff, NULL) != ARCHIVE_OK)
		return layer_fail(s, "", e);
	return 0;
}

int layer_check(struct layer_stream *s, const char *blob, const char *diff, struct err *e)
{
	const void *data;
	la_ssize_t n;

	while ((n = read_diff(s->tar, s, &data)) > 0)
		;
	while (n == 0 && (n = read_blob(s->raw, s, &data)) > 0)
		;
	if (n < 0)
		return layer_fail(s, "", e);
	n = compare(s->blob, blob, "its blob", e);
	return n ? (int)n : compare(s->diff, diff, "its content (diff_id)", e);
}

void layer_close(struct layer_stream *s)
{
	archive_read_free(s->tar);
	archive_read_free(s->raw);
	archive_read_free(s->outer);
	EVP_MD_CTX_free(s->blob);
	EVP_MD_CTX_free(s->diff);
	memset(s, 0, sizeof(*s));
}
