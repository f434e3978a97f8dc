/* SPDX-License-Identifier: Apache-2.0 */
/* Checking manifests and hashing them; see manifest.h. */
#include "server/manager/manifest.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base64.h"
#include "lib/json.h"

#define STRINGS_MAX 1000
#define PACKAGE_MAX 512
#define PATH_LEN    4095
#define VALUE_MAX   (32u << 10)

static const char *const type_names[] = {
    [STEP_APT_INSTALL] = "apt_install",
    [STEP_PIP_INSTALL] = "pip_install",
    [STEP_RUN] = "run",
    [STEP_ENV] = "env",
    [STEP_WORKDIR] = "workdir",
    [STEP_ADD_FILE] = "add_file",
    [STEP_ADD_DIR] = "add_dir",
};

#define N_TYPES (sizeof(type_names) / sizeof(type_names[0]))

const char *step_type_name(enum step_type type)
{
	return type_names[type];
}

/* What the files of all steps have in common. */
struct totals {
	size_t files, bytes;
};

/* --- strings ------------------------------------------------------------------------------- */

static bool has_nul(const json_t *s)
{
	return strlen(json_string_value(s)) != json_string_length(s);
}

static int get_string(const json_t *args, const char *name, const char **out, struct err *e)
{
	const json_t *s = json_object_get(args, name);

	if (!json_is_string(s))
		return err_set(e, -EINVAL, "%s: a string is required", name);
	if (has_nul(s))
		return err_set(e, -EINVAL, "%s: contains NUL", name);
	*out = json_string_value(s);
	return 0;
}

static int get_array(const json_t *args, const char *name, size_t max, json_t **out, struct err *e)
{
	*out = json_object_get(args, name);
	if (!json_is_array(*out))
		return err_set(e, -EINVAL, "%s: a list is required", name);
	if (json_array_size(*out) > max)
		return err_set(e, -EINVAL, "%s: more than %zu", name, max);
	return 0;
}

/* Every part of a path: not empty, not "." or "..". A directory's may end with a slash. */
static bool path_is_plain(const char *path, bool is_dir)
{
	for (bool first = true;; first = false) {
		size_t len = strcspn(path, "/");

		if (is_dir && !first && !*path)
			return true;
		if (!len || len > 255 || (len == 1 && *path == '.') ||
		    (len == 2 && !memcmp(path, "..", 2)))
			return false;
		if (!path[len])
			return true;
		path += len + 1;
	}
}

static int get_path(const json_t *args, const char **out, bool is_dir, struct err *e)
{
	int rc = get_string(args, "path", out, e);
	size_t len = rc ? 0 : strlen(*out);

	if (rc)
		return rc;
	if (**out != '/')
		return err_set(e, -EINVAL, "path: \"%.64s\" is not absolute", *out);
	if (len > PATH_LEN)
		return err_set(e, -EINVAL, "path: longer than %d bytes", PATH_LEN);
	if (!path_is_plain(*out + 1, is_dir))
		return err_set(e, -EINVAL, "path: \"%.64s\" does not name a %s", *out,
			       is_dir ? "directory" : "file");
	return 0;
}

/* --- the types of steps ---------------------------------------------------------------------- */

/* Options are a matter of `run`: here they would change what the step means. */
static int check_packages(const json_t *args, struct totals *t, struct err *e)
{
	json_t *list, *item;
	size_t i;
	int rc = get_array(args, "packages", STRINGS_MAX, &list, e);

	(void)t;
	if (rc)
		return rc;
	if (!json_array_size(list))
		return err_set(e, -EINVAL, "packages: there are none");
	json_array_foreach(list, i, item)
	{
		const char *name = json_string_value(item);

		if (!name || !*name || has_nul(item) || strlen(name) > PACKAGE_MAX ||
		    strpbrk(name, "\r\n"))
			return err_set(e, -EINVAL, "packages: item %zu is no name of a package",
				       i + 1);
		if (*name == '-')
			return err_set(e, -EINVAL,
				       "packages: \"%.64s\" is an option, which a run step can use",
				       name);
	}
	return 0;
}

/* Somebody else than the sandbox's user. */
static int check_user(const json_t *args, struct err *e)
{
	const char *user;
	int rc;

	if (!json_object_get(args, "user"))
		return 0;
	rc = get_string(args, "user", &user, e);
	if (!rc && (!*user || strlen(user) > 64))
		rc = err_set(e, -EINVAL, "user: \"%.64s\" is no user", user);
	return rc;
}

static int check_run(const json_t *args, struct totals *t, struct err *e)
{
	json_t *list, *item;
	size_t i, size = 0;
	int rc = get_array(args, "commands", STRINGS_MAX, &list, e);

	if (!rc)
		rc = check_user(args, e);

	(void)t;
	if (rc)
		return rc;
	if (!json_array_size(list))
		return err_set(e, -EINVAL, "commands: there are none");
	json_array_foreach(list, i, item)
	{
		if (!json_is_string(item) || has_nul(item))
			return err_set(e, -EINVAL, "commands: item %zu is no command", i + 1);
		size += json_string_length(item) + 8;
	}
	if (size > MANIFEST_SCRIPT_MAX)
		return err_set(e, -EINVAL, "commands: longer than %u KiB together",
			       MANIFEST_SCRIPT_MAX >> 10);
	return 0;
}

static bool is_variable(const char *name)
{
	if (!*name || isdigit((unsigned char)*name) || strlen(name) > 256)
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && *name != '_')
			return false;
	return true;
}

static int check_env(const json_t *args, struct totals *t, struct err *e)
{
	json_t *vars = json_object_get(args, "vars"), *value;
	const char *name;

	(void)t;
	if (!json_is_object(vars))
		return err_set(e, -EINVAL, "vars: an object is required");
	if (json_object_size(vars) > STRINGS_MAX)
		return err_set(e, -EINVAL, "vars: more than %d", STRINGS_MAX);
	json_object_foreach(vars, name, value)
	{
		if (!is_variable(name))
			return err_set(e, -EINVAL, "vars: \"%.64s\" is not a variable name", name);
		if (!json_is_string(value))
			return err_set(e, -EINVAL, "vars: %.64s: a string is required", name);
		if (json_string_length(value) > VALUE_MAX)
			return err_set(e, -EINVAL, "vars: %.64s: longer than %u KiB", name,
				       VALUE_MAX >> 10);
		/* The file that keeps them has one line for each. */
		if (has_nul(value) || strpbrk(json_string_value(value), "\r\n"))
			return err_set(e, -EINVAL, "vars: %.64s: more than one line", name);
	}
	return 0;
}

static int check_workdir(const json_t *args, struct totals *t, struct err *e)
{
	const char *path;

	(void)t;
	return get_path(args, &path, true, e);
}

/* @plain: content is the text itself unless the encoding says otherwise. */
static int check_content(const json_t *file, const char *encoding, struct totals *t, struct err *e)
{
	const json_t *content = json_object_get(file, "content");
	ssize_t n;

	if (!json_is_string(content))
		return err_set(e, -EINVAL, "content: a string is required");
	if (encoding && strcmp(encoding, "base64"))
		return err_set(e, -EINVAL, "encoding: \"%.32s\" is not base64", encoding);
	n = (ssize_t)json_string_length(content);
	if (encoding)
		n = base64_decode(json_string_value(content), (size_t)n, NULL);
	if (n < 0)
		return err_set(e, -EINVAL, "content: not base64");
	t->bytes += (size_t)n;
	if (++t->files > MANIFEST_FILES_MAX)
		return err_set(e, -EINVAL, "more than %d files in all", MANIFEST_FILES_MAX);
	if (t->bytes > MANIFEST_BYTES_MAX)
		return err_set(e, -EINVAL, "more than %u MB of files in all",
			       MANIFEST_BYTES_MAX >> 20);
	return 0;
}

static int check_file(const json_t *args, struct totals *t, struct err *e)
{
	const json_t *encoding = json_object_get(args, "encoding");
	const char *path;
	int rc = get_path(args, &path, false, e);

	if (!rc && encoding && !json_is_null(encoding) && !json_is_string(encoding))
		rc = err_set(e, -EINVAL, "encoding: a string is required");
	return rc ? rc : check_content(args, json_string_value(encoding), t, e);
}

static int check_dir(const json_t *args, struct totals *t, struct err *e)
{
	json_t *list, *item;
	const char *path;
	size_t i;
	int rc = get_path(args, &path, true, e);

	if (!rc)
		rc = get_array(args, "files", MANIFEST_FILES_MAX, &list, e);
	if (rc)
		return rc;
	json_array_foreach(list, i, item)
	{
		const char *below;

		if (!json_is_object(item))
			return err_set(e, -EINVAL, "files: item %zu is no object", i + 1);
		rc = get_string(item, "relativePath", &below, e);
		if (!rc &&
		    (!path_is_plain(below, false) || strlen(below) + strlen(path) > PATH_LEN))
			rc = err_set(e, -EINVAL,
				     "relativePath: \"%.64s\" is not a path below the directory",
				     below);
		if (!rc)
			rc = check_content(item, "base64", t, e);
		if (rc)
			return err_wrap(e, rc, "files: item %zu", i + 1);
	}
	return 0;
}

static int (*const checks[N_TYPES])(const json_t *args, struct totals *t, struct err *e) = {
    [STEP_APT_INSTALL] = check_packages,
    [STEP_PIP_INSTALL] = check_packages,
    [STEP_RUN] = check_run,
    [STEP_ENV] = check_env,
    [STEP_WORKDIR] = check_workdir,
    [STEP_ADD_FILE] = check_file,
    [STEP_ADD_DIR] = check_dir,
};

/* --- digests ------------------------------------------------------------------------------- */

static int digest_end(EVP_MD_CTX *md, char hash[HASH_SIZE])
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	if (EVP_DigestFinal_ex(md, bytes, &n) != 1 || 2 * n + 1 != HASH_SIZE)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++)
		snprintf(hash + (size_t)2 * i, 3, "%02x", bytes[i]);
	return 0;
}

static EVP_MD_CTX *digest_begin(void)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();

	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1)
		return md;
	EVP_MD_CTX_free(md);
	return NULL;
}

static int digest_dump(const char *text, size_t size, void *md)
{
	return EVP_DigestUpdate(md, text, size) == 1 ? 0 : -1;
}

/* With members in the order of their names: two clients may differ in that. */
static int digest_step(struct step *s)
{
	EVP_MD_CTX *md = digest_begin();
	int rc = -ENOMEM;

	if (md && !digest_dump(step_type_name(s->type), strlen(step_type_name(s->type)), md) &&
	    !json_dump_callback(s->args, digest_dump, md, JSON_COMPACT | JSON_SORT_KEYS))
		rc = digest_end(md, s->digest);
	EVP_MD_CTX_free(md);
	return rc;
}

/* @fn gets the text without the blanks between its tokens, in pieces. */
static int without_blanks(const char *text, size_t len,
			  int (*fn)(const char *text, size_t size, void *arg), void *arg)
{
	bool in_string = false;
	size_t from = 0;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
			if (i > from && fn(text + from, i - from, arg))
				return -ENOMEM;
			from = i + 1;
		}
	}
	return len > from && fn(text + from, len - from, arg) ? -ENOMEM : 0;
}

static int digest_member(EVP_MD_CTX *md, const char *text, size_t len, const char *name,
			 const char *otherwise)
{
	const char *value = otherwise;
	size_t n = json_text_member(text, len, name, &value);

	return without_blanks(value, n ? n : strlen(otherwise), digest_dump, md);
}

/* As the TypeScript client's cacheKey(): of {"base":...,"steps":...} as they were sent. */
static int content_hash(const char *text, size_t len, char hash[HASH_SIZE])
{
	EVP_MD_CTX *md = digest_begin();
	int rc = -ENOMEM;

	if (md && !digest_dump("{\"base\":", 8, md) &&
	    !digest_member(md, text, len, "base", "\"base\"") &&
	    !digest_dump(",\"steps\":", 9, md) && !digest_member(md, text, len, "steps", "[]") &&
	    !digest_dump("}", 1, md))
		rc = digest_end(md, hash);
	EVP_MD_CTX_free(md);
	return rc;
}

/* --- text to keep ---------------------------------------------------------------------------- */

static int write_text(const char *text, size_t size, void *f)
{
	return fwrite(text, 1, size, f) == size ? 0 : -1;
}

static void leave_out(json_t *file)
{
	const json_t *content = json_object_get(file, "content");

	if (json_is_string(content) && json_string_length(content) > 256) {
		json_object_set_new(file, "contentLength",
				    json_integer((json_int_t)json_string_length(content)));
		json_object_del(file, "content");
	}
}

static char *text_without_contents(const json_t *image)
{
	json_t *copy = json_deep_copy(image), *step, *file;
	char *text;
	size_t i, k;

	json_array_foreach(json_object_get(copy, "steps"), i, step)
	{
		json_t *args = json_object_get(step, "args");

		args = args ? args : step;
		leave_out(args);
		json_array_foreach(json_object_get(args, "files"), k, file) leave_out(file);
	}
	text = copy ? json_dumps(copy, JSON_COMPACT) : NULL;
	json_decref(copy);
	return text;
}

static char *text_to_keep(const char *text, size_t len, const json_t *image)
{
	char *kept = NULL;
	size_t size;
	FILE *f;
	int rc;

	if (len > MANIFEST_TEXT_MAX)
		return text_without_contents(image);
	f = open_memstream(&kept, &size);
	if (!f)
		return NULL;
	rc = without_blanks(text, len, write_text, f);
	if (!fclose(f) && !rc)
		return kept;
	free(kept);
	return NULL;
}

/* --- the whole ------------------------------------------------------------------------------- */

static int find_type(const json_t *step, enum step_type *type, struct err *e)
{
	const json_t *name = json_object_get(step, "type");

	if (!json_is_string(name))
		return err_set(e, -EINVAL, "type: a string is required");
	for (size_t i = 0; i < N_TYPES; i++)
		if (!strcmp(json_string_value(name), type_names[i])) {
			*type = (enum step_type)i;
			return 0;
		}
	return err_set(e, -EINVAL, "unknown step type: %.64s", json_string_value(name));
}

/* Some put the arguments beside the type. */
static json_t *args_of(json_t *step)
{
	json_t *args = json_object_get(step, "args");

	if (json_is_object(args))
		return json_incref(args);
	args = json_copy(step);
	json_object_del(args, "type");
	json_object_del(args, "args");
	return args;
}

static int parse_step(json_t *json, struct step *s, struct totals *t, struct err *e)
{
	int rc;

	if (!json_is_object(json))
		return err_set(e, -EINVAL, "an object is required");
	rc = find_type(json, &s->type, e);
	if (rc)
		return rc;
	s->args = args_of(json);
	if (!s->args)
		return err_set(e, -ENOMEM, "out of memory");
	rc = checks[s->type](s->args, t, e);
	if (rc)
		return err_wrap(e, rc, "%s", step_type_name(s->type));
	return digest_step(s) ? err_set(e, -ENOMEM, "out of memory") : 0;
}

static int parse_steps(struct manifest *m, json_t *steps, struct err *e)
{
	struct totals t = {0};
	size_t n = json_array_size(steps);

	if (n > MANIFEST_STEPS_MAX)
		return err_set(e, -EINVAL, "steps: more than %d", MANIFEST_STEPS_MAX);
	m->steps = calloc(n + 1, sizeof(*m->steps));
	if (!m->steps)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		int rc = parse_step(json_array_get(steps, i), &m->steps[i], &t, e);

		m->n_steps++;
		if (rc)
			return err_wrap(e, rc, "step %zu", i + 1);
	}
	return 0;
}

struct top {
	const char *base;
	json_t *steps;
	int64_t builder_mib, runtime_mib;
};

static int parse(const char *text, size_t len, json_t *image, struct manifest *m, struct err *e)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct top, base, "base", JSON_F_STRING),
	    JSON_FIELD(struct top, steps, "steps", JSON_F_ARRAY),
	    JSON_FIELD(struct top, builder_mib, "builderMemoryMB", JSON_F_INT, .min = 0,
		       .max = INT32_MAX),
	    JSON_FIELD(struct top, runtime_mib, "runtimeMemoryMB", JSON_F_INT, .min = 0,
		       .max = INT32_MAX),
	};
	struct top top = {.base = "base"};
	int rc;

	if (!json_is_object(image))
		return err_set(e, -EINVAL, "an object is required");
	rc = json_bind(image, fields, sizeof(fields) / sizeof(fields[0]), JSON_IGNORE_UNKNOWN, &top,
		       e);
	if (rc)
		return rc;
	m->json = json_incref(image);
	m->base = top.base;
	m->builder_mib = top.builder_mib;
	m->runtime_mib = top.runtime_mib;
	rc = parse_steps(m, top.steps, e);
	if (rc)
		return rc;
	m->text = text_to_keep(text, len, image);
	if (!m->text || content_hash(text, len, m->hash))
		return err_set(e, -ENOMEM, "out of memory");
	return 0;
}

int manifest_parse(const char *text, size_t len, json_t *image, struct manifest *out, struct err *e)
{
	int rc;

	memset(out, 0, sizeof(*out));
	rc = parse(text, len, image, out, e);
	if (rc)
		manifest_fini(out);
	return rc ? err_wrap(e, rc, "image") : 0;
}

void manifest_fini(struct manifest *m)
{
	for (size_t i = 0; i < m->n_steps; i++)
		json_decref(m->steps[i].args);
	free(m->steps);
	json_decref(m->json);
	free(m->text);
	memset(m, 0, sizeof(*m));
}
