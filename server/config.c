/* SPDX-License-Identifier: Apache-2.0 */
/* Options and the configuration file; see config.h. */
#include "server/config.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "server/http/listen.h"
#include "server/net/policy.h"

#define FILE_MAX       (1u << 20)
#define DEFAULT_LISTEN "unix:/run/dormouse/dormouse.sock" /* where `dormouse` looks */

enum kind { TEXT, NUMBER, FLAG, LIST };

struct setting {
	const char *name;
	enum kind kind;
	size_t offset;
	int64_t min, max;
	const char *arg, *help;
};

#define AT(member) offsetof(struct config, member)

static const struct setting settings[] = {
    {"listen", LIST, AT(listen), 0, 0, "unix:PATH|tcp:ADDR:PORT",
     "where to serve; repeatable (default: unix:/run/dormouse/dormouse.sock)"},
    {"state", TEXT, AT(state), 0, 0, "DIR",
     "everything durable (default: /var/lib/dormouse, or ~/.local/state/dormouse)"},
    {"api-key-file", TEXT, AT(api_key_file), 0, 0, "FILE", "accepted API keys, one a line"},
    {"no-auth", FLAG, AT(no_auth), 0, 0, NULL, "serve TCP without API keys: development only"},
    {"kernel", TEXT, AT(kernel), 0, 0, "FILE", "guest kernel (default: `kernel` beside dormoused)"},
    {"image", LIST, AT(images), 0, 0, "NAME=FILE", "a template; repeatable"},
    {"images", LIST, AT(image_dirs), 0, 0, "DIR",
     "every NAME.ext4 in it is a template (default: the folder of dormoused)"},
    {"vmm", TEXT, AT(vmm), 0, 0, "FILE", "dormouse-vmm (default: beside dormoused)"},
    {"net", TEXT, AT(net), 0, 0, "FILE", "dormouse-net (default: beside dormoused)"},
    {"net-allow", LIST, AT(net_allow), 0, 0, "ADDR/BITS",
     "sandboxes may reach this, too, besides the internet; repeatable"},
    {"net-deny", LIST, AT(net_deny), 0, 0, "ADDR/BITS", "sandboxes may not reach this; repeatable"},
    {"net-in-bytes", NUMBER, AT(net_in_bytes), 0, 1000000000000, "N",
     "most bytes a second to a sandbox from its network (default 0: no limit)"},
    {"net-out-bytes", NUMBER, AT(net_out_bytes), 0, 1000000000000, "N", "the same, from it"},
    {"net-in-frames", NUMBER, AT(net_in_frames), 0, 1000000000000, "N",
     "most Ethernet frames a second to a sandbox (default 0: no limit)"},
    {"net-out-frames", NUMBER, AT(net_out_frames), 0, 1000000000000, "N", "the same, from it"},
    {"tools", TEXT, AT(tools), 0, 0, "DIR",
     "of dormouse-img and dormouse-ram (default: that of dormoused)"},
    {"cgroup", TEXT, AT(cgroup), 0, 0, "DIR",
     "cgroup v2 for CPU limits, made if it is missing (default /sys/fs/cgroup/dormouse)"},
    {"max-cpus", NUMBER, AT(max_cpus), 1, 4, "N", "most vCPUs of a sandbox (default 4)"},
    {"max-memory", NUMBER, AT(max_memory_mib), 64, 65536, "MIB",
     "most memory of a sandbox (default 8192)"},
    {"max-disk", NUMBER, AT(max_disk_mib), 20480, 262144, "MIB",
     "largest disk of a sandbox (default 262144)"},
    {"max-sandboxes", NUMBER, AT(max_sandboxes), 1, 1000000, "N",
     "most running sandboxes (default 1000)"},
    {"pool-size", NUMBER, AT(pool_size), 0, 1000, "N",
     "VMM processes made in advance, for fast creates (default 2)"},
    {"prewarm", LIST, AT(prewarm), 0, 0, "NAME",
     "boot this template and checkpoint it at the start, not at the first create; repeatable"},
    {"flatten-above", NUMBER, AT(flatten_above), 0, 400, "N",
     "merge layers of disks that have more than N (default 32; 0: never)"},
    {"cold-after", NUMBER, AT(cold_after_s), 0, 1000000000, "SECONDS",
     "pack memory of checkpoints that were not used for so long (default 0: never)"},
    {"build-step-timeout", NUMBER, AT(build_step_timeout_s), 1, 86400, "SECONDS",
     "for one step of an image's build (default 300)"},
    {"build-timeout", NUMBER, AT(build_timeout_s), 1, 86400, "SECONDS",
     "for the whole build of an image (default 1800)"},
    {"boot-timeout", NUMBER, AT(boot_timeout_s), 1, 3600, "SECONDS",
     "until a new guest must answer (default 60)"},
    {"exit-grace", NUMBER, AT(exit_grace_s), 0, 3600, "SECONDS",
     "for requests in progress when stopping (default 5)"},
    {"public-url", TEXT, AT(public_url), 0, 0, "URL", "how clients reach this server"},
    {"sandbox-domain", TEXT, AT(sandbox_domain), 0, 0, "DOMAIN", "suffix of preview host names"},
    {"preview-host", TEXT, AT(preview_host), 0, 0, "HOST",
     "the Host header that servers in sandboxes see (default: the client's)"},
    {"strict", FLAG, AT(strict), 0, 0, NULL,
     "route previews only to ports that have a preview URL"},
    {"region", TEXT, AT(region), 0, 0, "NAME", "shown in sandbox objects (default local)"},
    {"stop-sandboxes-on-exit", FLAG, AT(stop_sandboxes_on_exit), 0, 0, NULL,
     "end the VMs when the server stops; by default they run on and the next server takes them"},
    {"log-level", TEXT, AT(log_level), 0, 0, "debug|info|warn|error", "(default info)"},
    {"log-format", TEXT, AT(log_format), 0, 0, "text|json",
     "json: one object a line, with sandbox ids (default text)"},
};

#define N_SETTINGS (sizeof(settings) / sizeof(settings[0]))

static const struct setting *find(const char *name)
{
	for (size_t i = 0; i < N_SETTINGS; i++)
		if (!strcmp(settings[i].name, name))
			return &settings[i];
	return NULL;
}

static int list_add(struct config_list *l, const char *text)
{
	char **grown = realloc(l->items, (l->n + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	l->items = grown;
	l->items[l->n] = strdup(text);
	return l->items[l->n++] ? 0 : -ENOMEM;
}

static int set_number(const struct setting *s, int64_t v, int64_t *place, struct err *e)
{
	if (v < s->min || v > s->max)
		return err_set(e, -EINVAL, "%s: %lld is not within %lld to %lld", s->name,
			       (long long)v, (long long)s->min, (long long)s->max);
	*place = v;
	return 0;
}

/* Set from a text. @v does not matter to a flag. */
static int set_text(struct config *c, const struct setting *s, const char *v, struct err *e)
{
	void *place = (char *)c + s->offset;
	char *end, *copy;
	long long n;

	if (!v && s->kind != FLAG)
		return err_set(e, -EINVAL, "%s: needs a value", s->name);
	switch (s->kind) {
	case FLAG:
		*(bool *)place = true;
		return 0;
	case NUMBER:
		errno = 0;
		n = strtoll(v, &end, 10);
		if (errno || end == v || *end)
			return err_set(e, -EINVAL, "%s: \"%.64s\" is not a number", s->name, v);
		return set_number(s, n, place, e);
	case LIST:
		if (list_add(place, v))
			return err_set(e, -ENOMEM, "out of memory");
		return 0;
	case TEXT:
		break;
	}
	copy = strdup(v);
	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	free(*(char **)place);
	*(char **)place = copy;
	return 0;
}

/* --- the file ---------------------------------------------------------------------- */

static int set_json_list(struct config *c, const struct setting *s, json_t *v, struct err *e)
{
	json_t *item;
	size_t i;
	int rc;

	if (!json_is_array(v))
		return err_set(e, -EINVAL, "%s: must be an array of strings", s->name);
	json_array_foreach(v, i, item)
	{
		if (!json_is_string(item))
			return err_set(e, -EINVAL, "%s: must be an array of strings", s->name);
		rc = set_text(c, s, json_string_value(item), e);
		if (rc)
			return rc;
	}
	return 0;
}

static int set_json(struct config *c, const char *name, json_t *v, struct err *e)
{
	const struct setting *s = find(name);

	if (!s)
		return err_set(e, -EINVAL, "unknown setting \"%.64s\"", name);
	switch (s->kind) {
	case FLAG:
		if (!json_is_boolean(v))
			return err_set(e, -EINVAL, "%s: must be true or false", s->name);
		*(bool *)((char *)c + s->offset) = json_is_true(v);
		return 0;
	case NUMBER:
		if (!json_is_integer(v))
			return err_set(e, -EINVAL, "%s: must be an integer", s->name);
		return set_number(s, json_integer_value(v), (int64_t *)((char *)c + s->offset), e);
	case LIST:
		return set_json_list(c, s, v, e);
	case TEXT:
		break;
	}
	if (!json_is_string(v))
		return err_set(e, -EINVAL, "%s: must be a string", s->name);
	return set_text(c, s, json_string_value(v), e);
}

static int read_file(struct config *c, const char *path, struct err *e)
{
	cleanup_free char *text = NULL;
	json_error_t where;
	const char *name;
	json_t *file, *v;
	int rc = fd_read_file(AT_FDCWD, path, FILE_MAX, &text, NULL);

	if (rc)
		return err_sys(e, rc, "configuration %s", path);
	file = json_loads(text, JSON_REJECT_DUPLICATES, &where);
	if (!json_is_object(file)) {
		rc = file ? err_set(e, -EINVAL, "configuration %s: not a JSON object", path)
			  : err_set(e, -EINVAL, "configuration %s: line %d: %s", path, where.line,
				    where.text);
		json_decref(file);
		return rc;
	}
	json_object_foreach(file, name, v)
	{
		rc = set_json(c, name, v, e);
		if (rc) {
			err_wrap(e, rc, "configuration %s", path);
			break;
		}
	}
	json_decref(file);
	return rc;
}

/* --- options ------------------------------------------------------------------------- */

/* Split "--name=value" or "--name value"; *@i moves over what was used. */
static int next_option(int argc, char **argv, int *i, char name[64], const char **value,
		       struct err *e)
{
	const char *arg = argv[*i], *equals = strchr(arg, '=');
	size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
	const struct setting *s;

	if (len < 3 || len >= 64 || strncmp(arg, "--", 2))
		return err_set(e, -EINVAL, "\"%.64s\" is not an option; see --help", arg);
	snprintf(name, 64, "%.*s", (int)(len - 2), arg + 2);
	s = find(name);
	if (!s && strcmp(name, "config"))
		return err_set(e, -EINVAL, "unknown option --%s; see --help", name);
	if (s && s->kind == FLAG) {
		if (equals)
			return err_set(e, -EINVAL, "--%s takes no value", name);
		return 0;
	}
	*value = equals ? equals + 1 : *i + 1 < argc ? argv[++*i] : "";
	if (!**value)
		return err_set(e, -EINVAL, "--%s needs a value", name);
	return 0;
}

/* @files: only --config; else all but it. So the file is read before any option counts. */
static int read_options(struct config *c, int argc, char **argv, bool files, struct err *e)
{
	for (int i = 1; i < argc; i++) {
		const char *value = "";
		char name[64];
		int rc;

		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			c->help = true;
		else if (!strcmp(argv[i], "--version"))
			c->version = true;
		if (c->help || c->version)
			return 0;
		rc = next_option(argc, argv, &i, name, &value, e);
		if (!rc && !strcmp(name, "config"))
			rc = files ? read_file(c, value, e) : 0;
		else if (!rc && !files)
			rc = set_text(c, find(name), value, e);
		if (rc)
			return rc;
	}
	return 0;
}

/* --- defaults and checks ---------------------------------------------------------------- */

static int own_folder(char dir[PATH_MAX], struct err *e)
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	char *slash;

	if (n < 0)
		return err_sys(e, -errno, "/proc/self/exe");
	dir[n] = '\0';
	slash = strrchr(dir, '/');
	*(slash ? slash : dir) = '\0';
	return 0;
}

static char *default_state(void)
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int n;

	if (geteuid() == 0)
		return strdup("/var/lib/dormouse");
	n = base && *base ? asprintf(&path, "%s/dormouse", base)
			  : asprintf(&path, "%s/.local/state/dormouse", home ? home : "");
	return n < 0 ? NULL : path;
}

static int fill_beside(char **place, const char *dir, const char *name)
{
	return *place || asprintf(place, "%s/%s", dir, name) >= 0 ? 0 : -ENOMEM;
}

static int fill_defaults(struct config *c, struct err *e)
{
	char dir[PATH_MAX];
	int rc = own_folder(dir, e);

	if (rc)
		return rc;
	if (!c->state)
		c->state = default_state();
	if (!c->state || fill_beside(&c->kernel, dir, "kernel") ||
	    fill_beside(&c->vmm, dir, "dormouse-vmm") ||
	    fill_beside(&c->net, dir, "dormouse-net") || (!c->tools && !(c->tools = strdup(dir))))
		rc = -ENOMEM;
	if (!rc && !c->images.n && !c->image_dirs.n)
		rc = list_add(&c->image_dirs, dir);
	if (!rc && !c->listen.n)
		rc = list_add(&c->listen, DEFAULT_LISTEN);
	if (!rc && !c->cgroup)
		rc = (c->cgroup = strdup("/sys/fs/cgroup/dormouse")) ? 0 : -ENOMEM;
	if (!rc && !c->region)
		rc = (c->region = strdup("local")) ? 0 : -ENOMEM;
	if (!rc && !c->log_format)
		rc = (c->log_format = strdup("text")) ? 0 : -ENOMEM;
	if (!rc && !c->log_level)
		rc = (c->log_level = strdup("info")) ? 0 : -ENOMEM;
	return rc ? err_set(e, rc, "out of memory") : 0;
}

static int check_ranges(const struct config_list *l, const char *option, struct err *e)
{
	struct net_prefix p;

	if (l->n > POLICY_RANGES)
		return err_set(e, -EINVAL, "--%s: more than %d", option, POLICY_RANGES);
	for (size_t i = 0; i < l->n; i++)
		if (net_prefix_parse(l->items[i], &p))
			return err_set(e, -EINVAL, "--%s %s: not of the form 10.0.0.0/8", option,
				       l->items[i]);
	return 0;
}

static int check(const struct config *c, struct err *e)
{
	int rc = check_ranges(&c->net_allow, "net-allow", e);

	if (!rc)
		rc = check_ranges(&c->net_deny, "net-deny", e);
	if (rc)
		return rc;
	for (size_t i = 0; i < c->listen.n; i++) {
		rc = listen_check(c->listen.items[i], e);

		if (rc)
			return rc;
		if (!strncmp(c->listen.items[i], "tcp:", 4) && !c->api_key_file && !c->no_auth)
			return err_set(
			    e, -EINVAL,
			    "--listen %s needs --api-key-file (or --no-auth, for development)",
			    c->listen.items[i]);
	}
	if (c->api_key_file && c->no_auth)
		return err_set(e, -EINVAL, "--api-key-file and --no-auth exclude each other");
	for (size_t i = 0; i < c->images.n; i++)
		if (strcspn(c->images.items[i], "=") == 0 || !strchr(c->images.items[i], '='))
			return err_set(e, -EINVAL, "--image %s: not of the form NAME=FILE",
				       c->images.items[i]);
	if (strcmp(c->log_format, "text") && strcmp(c->log_format, "json"))
		return err_set(e, -EINVAL, "--log-format %s: neither text nor json", c->log_format);
	if (strcmp(c->log_level, "debug") && strcmp(c->log_level, "info") &&
	    strcmp(c->log_level, "warn") && strcmp(c->log_level, "error"))
		return err_set(e, -EINVAL, "--log-level %s: not debug, info, warn or error",
			       c->log_level);
	return 0;
}

int config_parse(struct config *c, int argc, char **argv, struct err *e)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->max_cpus = 4;
	c->max_memory_mib = 8192;
	c->max_disk_mib = 262144;
	c->max_sandboxes = 1000;
	c->boot_timeout_s = 60;
	c->exit_grace_s = 5;
	c->pool_size = 2;
	c->flatten_above = 32;
	c->build_step_timeout_s = 300;
	c->build_timeout_s = 1800;
	rc = read_options(c, argc, argv, true, e);
	if (!rc && !c->help && !c->version)
		rc = read_options(c, argc, argv, false, e);
	if (rc || c->help || c->version)
		return rc;
	rc = fill_defaults(c, e);
	return rc ? rc : check(c, e);
}

static void list_fini(struct config_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->items[i]);
	free(l->items);
}

void config_fini(struct config *c)
{
	for (size_t i = 0; i < N_SETTINGS; i++)
		if (settings[i].kind == TEXT)
			free(*(char **)((char *)c + settings[i].offset));
	list_fini(&c->listen);
	list_fini(&c->images);
	list_fini(&c->image_dirs);
	list_fini(&c->prewarm);
	list_fini(&c->net_allow);
	list_fini(&c->net_deny);
	memset(c, 0, sizeof(*c));
}

void config_print_help(void)
{
	puts("usage: dormoused [OPTION]...\nServes the sandbox API. docs/server.md has the "
	     "details.\n");
	for (size_t i = 0; i < N_SETTINGS; i++)
		printf("  --%s%s%s\n        %s\n", settings[i].name, settings[i].arg ? " " : "",
		       settings[i].arg ? settings[i].arg : "", settings[i].help);
	puts("  --config FILE\n        a JSON object with these names as members; options win over "
	     "it\n"
	     "  --help, --version");
}
