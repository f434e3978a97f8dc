/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Archives of images: nothing in them gets anywhere but into the file system that is made. The
 * first byte says what the others are: the archive, its JSON, or a layer, for which an archive with
 * no more than that is made.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/oci/choose.h"
#include "server/oci/layer.h"
#include "server/oci/settings.h"

#define SIZE_MIB 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void say(const char *line)
{
	if (strchr(line, '\n'))
		abort();
}

static int file_of(const void *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
		abort();
	return fd;
}

/* Members with the same content. */
static int archive_of(const char *const *names, const void *data, size_t size)
{
	size_t most = 8 * (size + 4096), used = 0;
	char *buf = malloc(most);
	struct archive *a = archive_write_new();
	int fd;

	archive_write_set_format_ustar(a);
	if (archive_write_open_memory(a, buf, most, &used) != ARCHIVE_OK)
		abort();
	for (; *names; names++) {
		struct archive_entry *entry = archive_entry_new();

		archive_entry_set_pathname(entry, *names);
		archive_entry_set_filetype(entry, AE_IFREG);
		archive_entry_set_size(entry, (la_int64_t)size);
		if (archive_write_header(a, entry) != ARCHIVE_OK ||
		    archive_write_data(a, data, size) < 0)
			abort();
		archive_entry_free(entry);
	}
	if (archive_write_close(a) != ARCHIVE_OK)
		abort();
	archive_write_free(a);
	fd = file_of(buf, used);
	free(buf);
	return fd;
}

static void try_archive(int fd)
{
	int scratch = file_of("", 0);
	struct image image = {0};
	struct outer o;
	struct err e;

	if (!outer_open(&o, fd, scratch, 1 << 20, &e) && !choose_image(&o, NULL, &image, &e)) {
		for (size_t i = 0; i < image.n; i++)
			if (strlen(image.layers[i].diff) != DIGEST_SIZE - 1)
				abort();
	}
	image_fini(&image);
	outer_fini(&o);
	close(scratch);
}

/* What the tree says of links is so. */
static void check(struct tree *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n_buckets; i++)
		for (struct tree_node *c = t->buckets[i]; c; c = c->chain) {
			n++;
			if (!c->file->links || !*c->name || strchr(c->name, '/') ||
			    !strcmp(c->name, ".") || !strcmp(c->name, "..") ||
			    c->depth > TREE_DEPTH_MAX || !S_ISDIR(c->parent->file->mode))
				abort();
		}
	if (n != t->n)
		abort();
}

static void try_layer(int fd)
{
	int image_fd = file_of("", 0), agent_fd = file_of("agent", 5), scratch = file_of("", 0);
	json_t *config =
	    json_loads("{\"config\": {\"Env\": [\"A=b\"], \"WorkingDir\": \"/w/x\"}}", 0, NULL);
	struct layer_stream s = {0};
	struct rootfs r;
	struct outer o;
	struct err e;
	int rc = rootfs_init(&r, image_fd, SIZE_MIB, &e);

	if (rc || outer_open(&o, fd, scratch, 1 << 20, &e))
		abort();
	for (unsigned int number = 1; !rc && number <= 2; number++) {
		rc = layer_open(&s, &o, &o.items[0], 16 << 20, &e);
		if (!rc)
			rc = layer_apply(&r, &s, number, &e);
		if (!rc)
			rc = layer_check(&s, "", "", &e);
		layer_close(&s);
		check(&r.tree);
	}
	lseek(agent_fd, 0, SEEK_SET);
	if (!rc)
		rc = settings_apply(&r, config, say, &e);
	if (!rc)
		rc = settings_put_agent(&r, agent_fd, &e);
	if (!rc)
		ext4_finish(r.fs, &r.tree, &e);
	rootfs_fini(&r);
	outer_fini(&o);
	json_decref(config);
	close(image_fd);
	close(agent_fd);
	close(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const layout[] = {"oci-layout", "index.json", NULL};
	static const char *const saved[] = {"manifest.json", "c.json", "layer.tar", NULL};
	static const char *const layer[] = {"layer", NULL};
	int fd;

	if (!size)
		return 0;
	switch (*data & 3) {
	case 0:
		fd = file_of(data + 1, size - 1);
		try_archive(fd);
		break;
	case 1:
		fd = archive_of(layout, data + 1, size - 1);
		try_archive(fd);
		break;
	case 2:
		fd = archive_of(saved, data + 1, size - 1);
		try_archive(fd);
		break;
	default:
		fd = archive_of(layer, data + 1, size - 1);
		try_layer(fd);
	}
	close(fd);
	return 0;
}
