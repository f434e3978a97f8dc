/* SPDX-License-Identifier: Apache-2.0 */
/* Indexes, manifests and configurations of images; see choose.h. */
#include "server/oci/choose.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"

#define OCI    "application/vnd.oci.image."
#define DOCKER "application/vnd.docker."

/* The names that images of layouts have. */
static const char *const name_keys[] = {"org.opencontainers.image.ref.name",
					"io.containerd.image.name"};

#if defined(__x86_64__)
static const char arch[] = "amd64";
#elif defined(__aarch64__)
static const char arch[] = "arm64";
#endif

int digest_parse(const char *text, char digest[DIGEST_SIZE], struct err *e)
{
	static const char kind[] = "sha256:";
	const char *hex;

	if (!text || strncmp(text, kind, sizeof(kind) - 1))
		return err_set(e, -EINVAL, "\"%.80s\" is no SHA-256 digest", text ? text : "");
	hex = text + sizeof(kind) - 1;
	if (strlen(hex) != DIGEST_SIZE - 1 || strspn(hex, "0123456789abcdef") != DIGEST_SIZE - 1)
		return err_set(e, -EINVAL, "\"%.80s\" is no SHA-256 digest", text);
	memcpy(digest, hex, DIGEST_SIZE);
	return 0;
}

static bool equal_or_tag(const char *name, const char *ref)
{
	const char *slash = strrchr(name, '/'), *tag = strrchr(slash ? slash : name, ':');

	return !strcmp(name, ref) || (tag && !strcmp(tag + 1, ref)) ||
	       (tag && !strcmp(tag, ":latest") && strlen(ref) == (size_t)(tag - name) &&
		!memcmp(name, ref, (size_t)(tag - name)));
}

bool ref_matches(const char *name, const char *ref)
{
	static const char *const prefixes[] = {"", "docker.io/", "docker.io/library/"};

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		size_t len = strlen(prefixes[i]);

		if (!strncmp(name, prefixes[i], len) && equal_or_tag(name + len, ref))
			return true;
	}
	return false;
}

static const char *text_of(const json_t *obj, const char *key)
{
	return json_string_value(json_object_get(obj, key));
}

/* --- members that are JSON ------------------------------------------------------------------- */

static int read_json(const struct outer *o, const char *name, const char *digest, json_t **out,
		     struct err *e)
{
	const struct member *m = outer_find(o, name);
	cleanup_free char *text = NULL;
	json_error_t where;
	size_t len;
	int rc;

	if (!m)
		return err_set(e, -EINVAL, "%.128s is not in the archive", name);
	rc = outer_read(o, m, IMAGE_JSON_MAX, digest, &text, &len, e);
	if (rc)
		return rc;
	*out = json_loadb(text, len, 0, &where);
	if (*out)
		return 0;
	return err_set(e, -EINVAL, "%.100s: line %d: %.150s", name, where.line, where.text);
}

static void blob_name(const char *digest, char name[DIGEST_SIZE + 16])
{
	snprintf(name, DIGEST_SIZE + 16, "blobs/sha256/%s", digest);
}

/* What a descriptor names. */
static int read_blob_json(const struct outer *o, const json_t *descriptor, json_t **out,
			  struct err *e)
{
	char digest[DIGEST_SIZE], name[DIGEST_SIZE + 16];
	int rc = digest_parse(text_of(descriptor, "digest"), digest, e);

	if (rc)
		return rc;
	blob_name(digest, name);
	return read_json(o, name, digest, out, e);
}

/* --- the configuration ------------------------------------------------------------------------ */

static int check_config(struct image *image, struct err *e)
{
	const char *is_arch = text_of(image->config, "architecture");
	const char *os = text_of(image->config, "os");
	json_t *rootfs = json_object_get(image->config, "rootfs");
	json_t *diffs = json_object_get(rootfs, "diff_ids");

	if (!is_arch || !os || strcmp(os, "linux") || strcmp(is_arch, arch))
		return err_set(e, -EINVAL,
			       "the image is for %.40s on %.40s, this server is linux on %s",
			       os ? os : "?", is_arch ? is_arch : "?", arch);
	if (!json_is_array(diffs) || json_array_size(diffs) != image->n)
		return err_set(e, -EINVAL, "its configuration has %zu diff_ids for %zu layers",
			       json_array_size(diffs), image->n);
	for (size_t i = 0; i < image->n; i++) {
		int rc = digest_parse(json_string_value(json_array_get(diffs, i)),
				      image->layers[i].diff, e);

		if (rc)
			return err_wrap(e, rc, "diff_ids");
	}
	return 0;
}

static int make_layers(struct image *image, const json_t *list, struct err *e)
{
	image->n = json_array_size(list);
	if (!json_is_array(list) || !image->n || image->n > IMAGE_LAYERS_MAX) {
		image->n = 0;
		return err_set(e, -EINVAL, "its manifest has no layers, or more than %d",
			       IMAGE_LAYERS_MAX);
	}
	image->layers = calloc(image->n, sizeof(*image->layers));
	if (image->layers)
		return 0;
	image->n = 0;
	return err_set(e, -ENOMEM, "out of memory");
}

/* --- OCI image layouts ------------------------------------------------------------------------ */

static bool is_one_of(const char *type, const char *const *known)
{
	for (; type && *known; known++)
		if (!strcmp(type, *known))
			return true;
	return false;
}

static const char *const indexes[] = {OCI "index.v1+json",
				      DOCKER "distribution.manifest.list.v2+json", NULL};
static const char *const manifests[] = {OCI "manifest.v1+json",
					DOCKER "distribution.manifest.v2+json", NULL};
static const char *const configs[] = {OCI "config.v1+json", DOCKER "container.image.v1+json", NULL};
static const char *const layers[] = {OCI "layer.v1.tar",
				     OCI "layer.v1.tar+gzip",
				     OCI "layer.v1.tar+zstd",
				     OCI "layer.nondistributable.v1.tar",
				     OCI "layer.nondistributable.v1.tar+gzip",
				     OCI "layer.nondistributable.v1.tar+zstd",
				     DOCKER "image.rootfs.diff.tar",
				     DOCKER "image.rootfs.diff.tar.gzip",
				     DOCKER "image.rootfs.diff.tar.zstd",
				     DOCKER "image.rootfs.foreign.diff.tar.gzip",
				     NULL};

static int set_oci_layer(const struct outer *o, struct image_layer *l, const json_t *descriptor,
			 struct err *e)
{
	const char *type = text_of(descriptor, "mediaType");
	const json_t *size = json_object_get(descriptor, "size");
	char name[DIGEST_SIZE + 16];
	const struct member *m;
	int rc;

	if (!is_one_of(type, layers))
		return err_set(e, -EINVAL, "media type \"%.100s\" is unknown", type ? type : "");
	rc = digest_parse(text_of(descriptor, "digest"), l->blob, e);
	if (rc)
		return rc;
	blob_name(l->blob, name);
	m = outer_find(o, name);
	if (!m)
		return err_set(e, -EINVAL, "%s is not in the archive", name);
	l->size = json_is_integer(size) ? json_integer_value(size) : -1;
	if (l->size != m->size)
		return err_set(e, -EINVAL, "%s has %lld bytes, not %lld", name, (long long)m->size,
			       (long long)l->size);
	l->member = strdup(name);
	return l->member ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int take_manifest(const struct outer *o, const json_t *manifest, struct image *image,
			 struct err *e)
{
	const json_t *config = json_object_get(manifest, "config");
	const char *type = text_of(config, "mediaType");
	const json_t *list = json_object_get(manifest, "layers");
	int rc = make_layers(image, list, e);

	if (!rc && !is_one_of(type, configs))
		rc = err_set(e, -EINVAL, "its configuration: media type \"%.100s\" is unknown",
			     type ? type : "");
	if (!rc)
		rc = read_blob_json(o, config, &image->config, e);
	for (size_t i = 0; !rc && i < image->n; i++) {
		rc = set_oci_layer(o, &image->layers[i], json_array_get(list, i), e);
		if (rc)
			err_wrap(e, rc, "layer %zu of %zu", i + 1, image->n);
	}
	return rc ? rc : check_config(image, e);
}

static bool has_ref(const json_t *descriptor, const char *ref)
{
	const json_t *notes = json_object_get(descriptor, "annotations");

	for (size_t i = 0; i < 2; i++) {
		const char *name = text_of(notes, name_keys[i]);

		if (name && ref_matches(name, ref))
			return true;
	}
	return false;
}

static bool is_ours(const json_t *descriptor)
{
	const json_t *platform = json_object_get(descriptor, "platform");
	const char *os = text_of(platform, "os"), *is = text_of(platform, "architecture");

	return !platform || (os && is && !strcmp(os, "linux") && !strcmp(is, arch));
}

/* All names of an archive, for who has to choose. */
static void add_name(char *names, size_t size, const char *name)
{
	size_t used = strlen(names);

	if (name && used + 1 < size)
		snprintf(names + used, size - used, "%s%.60s", used ? ", " : "", name);
}

static void list_names(const json_t *list, char *names, size_t size)
{
	const json_t *d;
	size_t i;

	names[0] = '\0';
	json_array_foreach(list, i, d)
	{
		const json_t *notes = json_object_get(d, "annotations");
		const char *name = text_of(notes, name_keys[1]);

		add_name(names, size, name ? name : text_of(notes, name_keys[0]));
	}
}

/* The one that is meant. @n: how many there were to choose from */
static const json_t *pick(const json_t *list, const char *ref, size_t *n)
{
	const json_t *d, *found = NULL;
	size_t i;

	*n = 0;
	json_array_foreach(list, i, d)
	{
		if (!is_ours(d) || (ref && !has_ref(d, ref)))
			continue;
		/* The same under another name is no other. */
		if (found && text_of(found, "digest") && text_of(d, "digest") &&
		    !strcmp(text_of(found, "digest"), text_of(d, "digest")))
			continue;
		found = found ? found : d;
		++*n;
	}
	return found;
}

static int choose_wrong(const json_t *list, const char *ref, size_t n, struct err *e)
{
	char names[256];

	list_names(list, names, sizeof(names));
	if (n > 1)
		return err_set(e, -EINVAL, "%zu images %s: say which one (--ref)%s%s", n,
			       ref ? "have that name" : "are in the archive", *names ? ": " : "",
			       names);
	if (ref)
		return err_set(e, -ENOENT, "there is no image %.100s in the archive%s%s", ref,
			       *names ? ", but " : "", names);
	return err_set(e, -EINVAL, "there is no image for linux on %s in the archive", arch);
}

static int take_index(const struct outer *o, json_t *index, const char *ref, struct image *image,
		      struct err *e)
{
	json_t *at = json_incref(index), *next = NULL;
	int rc = -EINVAL;

	for (int depth = 0;; depth++) {
		const json_t *list = json_object_get(at, "manifests"), *d;
		const char *type;
		size_t n;

		d = pick(list, ref, &n);
		if (n != 1) {
			rc = choose_wrong(list, ref, n, e);
			break;
		}
		type = text_of(d, "mediaType");
		if (!is_one_of(type, indexes) && !is_one_of(type, manifests)) {
			rc = err_set(e, -EINVAL, "media type \"%.100s\" is unknown",
				     type ? type : "");
			break;
		}
		rc = depth < IMAGE_DEPTH_MAX
			 ? read_blob_json(o, d, &next, e)
			 : err_set(e, -EINVAL, "indexes in indexes, more than %d deep",
				   IMAGE_DEPTH_MAX);
		if (rc)
			break;
		json_decref(at);
		at = next;
		/* Names are those of the outermost. */
		ref = NULL;
		if (is_one_of(type, manifests)) {
			rc = take_manifest(o, at, image, e);
			break;
		}
	}
	json_decref(at);
	return rc;
}

static int choose_layout(const struct outer *o, const char *ref, struct image *image, struct err *e)
{
	json_t *head = NULL, *index = NULL;
	const char *version;
	int rc = read_json(o, "oci-layout", NULL, &head, e);

	if (rc)
		return rc;
	version = text_of(head, "imageLayoutVersion");
	if (!version || strncmp(version, "1.", 2))
		rc = err_set(e, -EINVAL, "oci-layout: version \"%.40s\" is unknown",
			     version ? version : "");
	if (!rc)
		rc = read_json(o, "index.json", NULL, &index, e);
	if (!rc)
		rc = take_index(o, index, ref, image, e);
	json_decref(index);
	json_decref(head);
	return rc;
}

/* --- docker save ------------------------------------------------------------------------------ */

static bool has_tag(const json_t *entry, const char *ref)
{
	const json_t *tag;
	size_t i;

	json_array_foreach(json_object_get(entry, "RepoTags"), i, tag)
	{
		if (json_is_string(tag) && ref_matches(json_string_value(tag), ref))
			return true;
	}
	return false;
}

static int find_saved(const json_t *list, const char *ref, const json_t **out, struct err *e)
{
	char names[256] = "";
	const json_t *entry, *tag;
	size_t i, k, n = 0;

	json_array_foreach(list, i, entry)
	{
		json_array_foreach(json_object_get(entry, "RepoTags"), k, tag)
		    add_name(names, sizeof(names), json_string_value(tag));
		if (ref && !has_tag(entry, ref))
			continue;
		*out = entry;
		n++;
	}
	if (n == 1)
		return 0;
	if (!n && ref)
		return err_set(e, -ENOENT, "there is no image %.100s in the archive%s%s", ref,
			       *names ? ", but " : "", names);
	if (!n)
		return err_set(e, -EINVAL, "manifest.json: there is no image in it");
	return err_set(e, -EINVAL, "%zu images are in the archive: say which one (--ref): %s", n,
		       names);
}

/* The digest that is in the name of a configuration: "HEX.json", "blobs/sha256/HEX". */
static void digest_in_name(const char *name, char digest[DIGEST_SIZE])
{
	const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
	size_t n = strspn(last, "0123456789abcdef");

	digest[0] = '\0';
	if (n != DIGEST_SIZE - 1 || (last[n] && strcmp(last + n, ".json") != 0))
		return;
	memcpy(digest, last, n);
	digest[n] = '\0';
}

static int take_saved(const struct outer *o, const json_t *entry, struct image *image,
		      struct err *e)
{
	const json_t *list = json_object_get(entry, "Layers");
	const char *config = text_of(entry, "Config");
	char digest[DIGEST_SIZE];
	int rc = make_layers(image, list, e);

	if (rc)
		return rc;
	if (!config)
		return err_set(e, -EINVAL, "manifest.json: an image has no Config");
	digest_in_name(config, digest);
	rc = read_json(o, config, digest, &image->config, e);
	for (size_t i = 0; !rc && i < image->n; i++) {
		const char *name = json_string_value(json_array_get(list, i));

		image->layers[i].size = -1;
		if (!name || !outer_find(o, name))
			rc = err_set(e, -EINVAL, "layer %zu of %zu: %.128s is not in the archive",
				     i + 1, image->n, name ? name : "it");
		else if (!(image->layers[i].member = strdup(name)))
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	return rc ? rc : check_config(image, e);
}

static int choose_saved(const struct outer *o, const char *ref, struct image *image, struct err *e)
{
	const json_t *entry = NULL;
	json_t *list = NULL;
	int rc = read_json(o, "manifest.json", NULL, &list, e);

	if (!rc)
		rc = find_saved(list, ref, &entry, e);
	if (!rc)
		rc = take_saved(o, entry, image, e);
	json_decref(list);
	return rc;
}

int choose_image(const struct outer *o, const char *ref, struct image *image, struct err *e)
{
	*image = (struct image){0};
	/* New archives of docker save are both: this way has more digests. */
	if (outer_find(o, "oci-layout"))
		return choose_layout(o, ref, image, e);
	if (outer_find(o, "manifest.json"))
		return choose_saved(o, ref, image, e);
	return err_set(e, -EINVAL,
		       "it is no image: neither oci-layout nor manifest.json is in the archive");
}

void image_fini(struct image *image)
{
	for (size_t i = 0; i < image->n; i++)
		free(image->layers[i].member);
	free(image->layers);
	json_decref(image->config);
	memset(image, 0, sizeof(*image));
}
