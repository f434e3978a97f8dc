/* SPDX-License-Identifier: Apache-2.0 */
/* From the archive to the file system; see import.h. */
#include "server/oci/import.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/oci/choose.h"
#include "server/oci/settings.h"

static void say_layer(const struct import_config *c, const struct image *image, size_t i,
		      int64_t size)
{
	char line[160];

	snprintf(line, sizeof(line), "Step %zu/%zu: layer sha256:%.12s, %.1f MB", i + 1, image->n,
		 image->layers[i].diff, (double)size / 1e6);
	c->say(line);
}

/* @left: how much may be unpacked in all; less after it */
static int apply_layer(const struct import_config *c, const struct outer *o,
		       const struct image *image, size_t i, uint64_t *left, struct rootfs *r,
		       struct err *e)
{
	const struct image_layer *l = &image->layers[i];
	const struct member *m = outer_find(o, l->member);
	struct layer_stream s;
	int rc;

	if (!m)
		return err_set(e, -EINVAL, "%.128s is not in the archive", l->member);
	say_layer(c, image, i, m->size);
	rc = layer_open(&s, o, m, *left, e);
	if (!rc)
		rc = layer_apply(r, &s, (unsigned int)i + 1, e);
	if (!rc)
		rc = layer_check(&s, l->blob, l->diff, e);
	*left -= s.bytes < *left ? s.bytes : *left;
	layer_close(&s);
	return rc ? err_wrap(e, rc, "layer %zu of %zu", i + 1, image->n) : 0;
}

static int apply_image(const struct import_config *c, const struct outer *o,
		       const struct image *image, struct rootfs *r, struct err *e)
{
	uint64_t left = (c->size_mib << 20) * IMPORT_UNPACKED_MAX;
	int rc = 0;

	for (size_t i = 0; !rc && i < image->n; i++)
		rc = apply_layer(c, o, image, i, &left, r, e);
	if (!rc)
		rc = settings_apply(r, image->config, c->say, e);
	if (!rc)
		rc = settings_put_agent(r, c->agent_fd, e);
	if (rc)
		return rc;
	c->say("Writing the file system");
	rc = ext4_finish(r->fs, &r->tree, e);
	if (!rc && fsync(c->image_fd))
		rc = err_sys(e, -errno, "writing the image");
	return rc;
}

int import_run(const struct import_config *c, struct rootfs *r, struct err *e)
{
	struct image image = {0};
	struct outer o;
	int rc = outer_open(&o, c->archive_fd, c->scratch_fd,
			    (c->size_mib << 20) * IMPORT_UNPACKED_MAX, e);

	if (!rc)
		rc = choose_image(&o, c->ref, &image, e);
	if (!rc)
		rc = apply_image(c, &o, &image, r, e);
	image_fini(&image);
	outer_fini(&o);
	return rc;
}
