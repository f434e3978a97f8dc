/* SPDX-License-Identifier: Apache-2.0 */
/* The recorded order of chunks; see ram_order.h. */
#include "snapshot/ram_order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "lib/fd.h"

static uint32_t order_crc(const struct ram_order_header *h, const void *chunks)
{
	uLong crc = crc32(0, (const Bytef *)h, offsetof(struct ram_order_header, crc));

	return (uint32_t)crc32(crc, chunks, (uInt)(h->n * sizeof(uint32_t)));
}

/* @bytes: @len of them, aligned. Fills @out, which has room for all chunks. */
static int64_t parse(const struct cold_image *c, const char *bytes, size_t len, uint32_t *out,
		     struct err *e)
{
	struct ram_order_header h;
	cleanup_free uint8_t *seen = calloc(1, c->chunks / 8 + 1);

	if (!seen)
		return err_set(e, -ENOMEM, "out of memory");
	if (len < sizeof(h))
		return err_set(e, -EINVAL, "truncated: %zu bytes", len);
	memcpy(&h, bytes, sizeof(h));
	if (memcmp(h.magic, RAM_ORDER_MAGIC, sizeof(h.magic)) != 0 ||
	    h.version != RAM_ORDER_VERSION)
		return err_set(e, -EINVAL, "not a record of version %d", RAM_ORDER_VERSION);
	if (h.n > c->chunks || len != sizeof(h) + h.n * sizeof(uint32_t) ||
	    h.crc != order_crc(&h, bytes + sizeof(h)))
		return err_set(e, -EINVAL, "truncated or damaged (checksum)");
	if (memcmp(h.image_id, c->image_id, sizeof(h.image_id)) != 0 ||
	    h.chunk_bytes != c->chunk_bytes)
		return err_set(e, -EINVAL, "of another image");
	memcpy(out, bytes + sizeof(h), h.n * sizeof(uint32_t));
	for (uint32_t i = 0; i < h.n; i++) {
		if (out[i] >= c->chunks || seen[out[i] / 8] >> (out[i] % 8) & 1)
			return err_set(e, -EINVAL, "chunk %u is impossible", out[i]);
		seen[out[i] / 8] = (uint8_t)(seen[out[i] / 8] | 1u << (out[i] % 8));
	}
	return h.n;
}

int64_t ram_order_read(const char *path, const struct cold_image *c, uint32_t **out, struct err *e)
{
	size_t max = sizeof(struct ram_order_header) + c->chunks * sizeof(uint32_t), len;
	cleanup_free char *bytes = NULL;
	int64_t n = fd_read_file(AT_FDCWD, path, max, &bytes, &len);

	*out = NULL;
	if (n < 0)
		return err_sys(e, (int)n, "record %s", path);
	*out = calloc(c->chunks, sizeof(uint32_t));
	if (!*out)
		return err_set(e, -ENOMEM, "out of memory");
	n = parse(c, bytes, len, *out, e);
	if (n < 0) {
		free(*out);
		*out = NULL;
		return err_wrap(e, (int)n, "record %s", path);
	}
	return n;
}

int ram_order_write(const char *path, const struct cold_image *c, const uint32_t *chunks,
		    uint32_t n, struct err *e)
{
	struct ram_order_header h = {.magic = RAM_ORDER_MAGIC,
				     .version = RAM_ORDER_VERSION,
				     .chunk_bytes = c->chunk_bytes,
				     .n = n};
	size_t len = sizeof(h) + n * sizeof(uint32_t);
	cleanup_free char *bytes = malloc(len);
	int rc;

	if (!bytes)
		return err_set(e, -ENOMEM, "out of memory");
	memcpy(h.image_id, c->image_id, sizeof(h.image_id));
	h.crc = order_crc(&h, chunks);
	memcpy(bytes, &h, sizeof(h));
	memcpy(bytes + sizeof(h), chunks, n * sizeof(uint32_t));
	rc = fd_write_file_atomic(AT_FDCWD, path, bytes, len, 0600);
	return rc ? err_sys(e, rc, "record %s", path) : 0;
}
