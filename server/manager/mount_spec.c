/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for mounts: what they must be; see mounts.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/manager/mounts.h"

#define PATH_MAX_BYTES	 1024
#define WORDS_MAX	 256
#define CONFIG_MAX_BYTES (64u << 10)

/* The names that clients use, and rclone's. */
static const struct {
	const char *name, *type;
} backends[] = {{"s3", "s3"},
		{"gcs", "google cloud storage"},
		{"azureblob", "azureblob"},
		{"sftp", "sftp"},
		{"webdav", "webdav"},
		{"dropbox", "dropbox"}};

static const char *rclone_type(const char *backend)
{
	for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
		if (!strcmp(backends[i].name, backend))
			return backends[i].type;
	return NULL;
}

/* One line of text, as in a configuration file or in /proc/mounts. */
static bool is_plain(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			return false;
	return true;
}

static int check_path(const char *path, struct err *e)
{
	size_t len = path ? strlen(path) : 0;

	if (!len || path[0] != '/')
		return err_set(e, -EINVAL, "path is required, an absolute one");
	if (len > PATH_MAX_BYTES || !is_plain(path))
		return err_set(e, -EINVAL, "path: too long, or with control characters");
	if (len < 2 || path[len - 1] == '/' || strstr(path, "//") || strstr(path, "/./") ||
	    strstr(path, "/../") || !strcmp(path + len - 2, "/.") ||
	    (len > 2 && !strcmp(path + len - 3, "/..")))
		return err_set(e, -EINVAL, "path: \"%.100s\" is not in its shortest form", path);
	return 0;
}

static int check_words(const json_t *list, const char *name, struct err *e)
{
	json_t *word;
	size_t i;

	if (list && (!json_is_array(list) || json_array_size(list) > WORDS_MAX))
		return err_set(e, -EINVAL, "%s: must be an array of at most %d strings", name,
			       WORDS_MAX);
	json_array_foreach((json_t *)list, i, word)
	{
		const char *text = json_string_value(word);

		if (!text || strlen(text) != json_string_length(word))
			return err_set(e, -EINVAL, "%s[%zu]: must be a string without NUL", name,
				       i);
	}
	return 0;
}

/* @plain: values are one line each */
static int check_map(const json_t *map, const char *name, bool plain, struct err *e)
{
	const char *key;
	json_t *value;

	if (map && !json_is_object(map))
		return err_set(e, -EINVAL, "%s: must be an object of strings", name);
	json_object_foreach((json_t *)map, key, value)
	{
		const char *text = json_string_value(value);

		if (!*key || key[strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					     "0123456789_")])
			return err_set(e, -EINVAL, "%s: \"%.64s\" is not a name", name, key);
		if (!text || strlen(text) != json_string_length(value) ||
		    (plain && !is_plain(text)))
			return err_set(e, -EINVAL, "%s.%.64s: must be a string%s", name, key,
				       plain ? " of one line" : " without NUL");
	}
	return 0;
}

/* [name], type, and what the backend needs. */
static int make_config(struct mount_spec *spec, const json_t *creds, struct err *e)
{
	const char *colon = strchr(spec->remote, ':'), *key, *type = rclone_type(spec->backend);
	json_t *value;
	size_t size;
	FILE *f;

	if (!type)
		return err_set(e, -EINVAL,
			       "backend: \"%.32s\" is none of s3, gcs, azureblob, sftp, "
			       "webdav, dropbox",
			       spec->backend);
	f = open_memstream(&spec->config, &size);
	if (!f)
		return err_set(e, -ENOMEM, "out of memory");
	fprintf(f, "[%.*s]\ntype = %s\n", (int)(colon - spec->remote), spec->remote, type);
	json_object_foreach((json_t *)creds, key, value)
	    fprintf(f, "%s = %s\n", key, json_string_value(value));
	return fclose(f) ? err_set(e, -ENOMEM, "out of memory") : 0;
}

static int parse_rclone(const json_t *body, struct mount_spec *spec, struct err *e)
{
	const char *raw = json_string_value(json_object_get(body, "rcloneConfig"));
	const json_t *creds = json_object_get(body, "creds");
	const char *colon;
	int rc;

	spec->remote = json_string_value(json_object_get(body, "remote"));
	spec->backend = json_string_value(json_object_get(body, "backend"));
	spec->options = json_object_get(body, "mountOptions");
	colon = spec->remote ? strchr(spec->remote, ':') : NULL;
	if (!colon || colon == spec->remote || !is_plain(spec->remote) ||
	    strcspn(spec->remote, "[]/") < (size_t)(colon - spec->remote) || *spec->remote == '-')
		return err_set(e, -EINVAL, "remote is required, as \"name:bucket/prefix\"");
	rc = check_words(spec->options, "mountOptions", e);
	if (!rc)
		rc = check_map(creds, "creds", true, e);
	if (rc)
		return rc;
	if (!raw == !spec->backend)
		return err_set(e, -EINVAL,
			       "either backend, with creds, or rcloneConfig is required");
	if (!raw)
		return make_config(spec, creds, e);
	spec->config = strdup(raw);
	return spec->config ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int parse_command(const json_t *body, struct mount_spec *spec, struct err *e)
{
	int rc;

	spec->command = json_object_get(body, "command");
	spec->env = json_object_get(body, "env");
	spec->secrets = json_object_get(body, "secrets");
	if (!json_is_array(spec->command) || !json_array_size(spec->command))
		return err_set(e, -EINVAL, "command is required, an array of strings");
	rc = check_words(spec->command, "command", e);
	if (!rc)
		rc = check_map(spec->env, "env", false, e);
	return rc ? rc : check_map(spec->secrets, "secrets", false, e);
}

int mount_spec_parse(const json_t *body, struct mount_spec *spec, struct err *e)
{
	const json_t *driver = json_object_get(body, "driver");
	const json_t *read_only = json_object_get(body, "readOnly");
	int rc;

	*spec = (struct mount_spec){.read_only = true};
	spec->path = json_string_value(json_object_get(body, "path"));
	spec->driver = driver ? json_string_value(driver) : "rclone";
	rc = check_path(spec->path, e);
	if (rc)
		return rc;
	if (read_only && !json_is_boolean(read_only))
		return err_set(e, -EINVAL, "readOnly: must be a boolean");
	spec->read_only = !read_only || json_is_true(read_only);
	if (spec->driver && !strcmp(spec->driver, "rclone"))
		rc = parse_rclone(body, spec, e);
	else if (spec->driver && !strcmp(spec->driver, "command"))
		rc = parse_command(body, spec, e);
	else
		rc = err_set(e, -EINVAL, "driver: must be rclone or command");
	if (!rc && spec->config && strlen(spec->config) > CONFIG_MAX_BYTES)
		rc = err_set(e, -EINVAL, "the configuration of rclone is longer than %u KiB",
			     CONFIG_MAX_BYTES >> 10);
	if (rc)
		mount_spec_fini(spec);
	return rc;
}

void mount_spec_fini(struct mount_spec *spec)
{
	/* It has keys in it. */
	if (spec->config)
		explicit_bzero(spec->config, strlen(spec->config));
	free(spec->config);
	spec->config = NULL;
}
