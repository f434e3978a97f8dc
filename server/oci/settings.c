/* SPDX-License-Identifier: Apache-2.0 */
/* ENV, WORKDIR, USER and the agent; see settings.h. */
#include "server/oci/settings.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "server/manager/manifest.h"

#define AGENT_MAX  (64u << 20)
#define LINE_BYTES 512

/* --- ENV ------------------------------------------------------------------------------------- */

static bool is_name(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!(isalpha((unsigned char)text[i]) || text[i] == '_' ||
		      (i && isdigit((unsigned char)text[i]))))
			return false;
	return len > 0 && len <= 256;
}

static void say_left_out(void (*say)(const char *line), const char *var, const char *why)
{
	char line[LINE_BYTES];

	snprintf(line, sizeof(line), "ENV %.64s is left out: %s", var, why);
	say(line);
}

static int collect_env(const json_t *list, json_t *vars, void (*say)(const char *line),
		       struct err *e)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const char *text = json_string_value(item),
			   *equals = text ? strchr(text, '=') : NULL;
		char name[257];

		if (!equals || !is_name(text, (size_t)(equals - text))) {
			say_left_out(say, text ? text : "?", "this is no name of a variable");
			continue;
		}
		snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
		if (strpbrk(equals, "\n\r"))
			say_left_out(say, name, "its value has several lines");
		else if (json_object_set_new(vars, name, json_string(equals + 1)))
			return err_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

static int merge_into(struct rootfs *r, const char *path, const json_t *vars, bool shell,
		      struct err *e)
{
	cleanup_free char *old = rootfs_read(r, path);
	cleanup_free char *text = environment_merge(old, vars, shell);

	if (!text)
		return err_set(e, -ENOMEM, "out of memory");
	return rootfs_put(r, path, 0644, text, strlen(text), e);
}

static int apply_env(struct rootfs *r, const json_t *list, void (*say)(const char *line),
		     struct err *e)
{
	json_t *vars = json_object();
	int rc = vars ? collect_env(list, vars, say, e) : err_set(e, -ENOMEM, "out of memory");

	if (!rc && json_object_size(vars)) {
		rc = merge_into(r, "/etc/environment", vars, false, e);
		if (!rc)
			rc = merge_into(r, "/etc/profile.d/image-env.sh", vars, true, e);
	}
	json_decref(vars);
	return rc;
}

/* --- USER and WORKDIR ------------------------------------------------------------------------ */

static bool is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 10;
}

/* Has a file like /etc/passwd a line of that name? */
static bool has_entry(struct rootfs *r, const char *path, const char *name)
{
	cleanup_free char *text = rootfs_read(r, path);
	size_t len = strlen(name);

	for (const char *line = text; line && *line;) {
		if (!strncmp(line, name, len) && line[len] == ':')
			return true;
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return false;
}

static int check_user(struct rootfs *r, const char *user, struct err *e)
{
	char name[128];
	const char *colon = strchr(user, ':');
	size_t len = colon ? (size_t)(colon - user) : strlen(user);

	if (strlen(user) >= sizeof(name) || strpbrk(user, "\n\r/") || !len)
		return err_set(e, -EINVAL, "USER \"%.64s\" is none", user);
	memcpy(name, user, len);
	name[len] = '\0';
	if (!is_number(name) && !has_entry(r, "/etc/passwd", name))
		return err_set(e, -EINVAL, "USER %.64s: there is no such user in its /etc/passwd",
			       name);
	if (colon && !is_number(colon + 1) && !has_entry(r, "/etc/group", colon + 1))
		return err_set(e, -EINVAL, "USER %.64s: there is no such group in its /etc/group",
			       user);
	return 0;
}

static int make_workdir(struct rootfs *r, const char *given, char path[TREE_PATH_MAX],
			struct err *e)
{
	struct tree_node *n;
	int rc;

	if (strlen(given) + 2 > TREE_PATH_MAX || strpbrk(given, "\n\r"))
		return err_set(e, -EINVAL, "WORKDIR %.64s is none", given);
	snprintf(path, TREE_PATH_MAX, "%s%s", *given == '/' ? "" : "/", given);
	rc = rootfs_mkdir(r, path, 0755, e);
	if (rc)
		return err_wrap(e, rc, "WORKDIR");
	n = tree_find_end(&r->tree, path);
	if (n && S_ISDIR(n->file->mode))
		return 0;
	return err_set(e, -EINVAL, "WORKDIR %.64s is no directory", given);
}

static int apply_places(struct rootfs *r, const char *user, const char *workdir, struct err *e)
{
	char path[TREE_PATH_MAX] = "/", text[TREE_PATH_MAX + 160];
	int rc = 0;

	/* No USER is root, whoever else is in its passwd. */
	if (!user || !*user)
		user = "0";
	else
		rc = check_user(r, user, e);
	if (!rc && workdir && *workdir)
		rc = make_workdir(r, workdir, path, e);
	if (rc)
		return rc;
	snprintf(text, sizeof(text), "user=%s\nworkdir=%s\n", user, path);
	return rootfs_put(r, SETTINGS_FILE, 0644, text, strlen(text), e);
}

int settings_apply(struct rootfs *r, const json_t *config, void (*say)(const char *line),
		   struct err *e)
{
	const json_t *c = json_object_get(config, "config");
	int rc = apply_env(r, json_object_get(c, "Env"), say, e);

	if (rc)
		return rc;
	return apply_places(r, json_string_value(json_object_get(c, "User")),
			    json_string_value(json_object_get(c, "WorkingDir")), e);
}

/* --- what guests need ------------------------------------------------------------------------ */

static int read_agent(int fd, char **data, size_t *len, struct err *e)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st))
		return err_sys(e, -errno, "the agent");
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > AGENT_MAX)
		return err_set(e, -EINVAL, "the agent is no program");
	*len = (size_t)st.st_size;
	*data = malloc(*len);
	if (!*data)
		return err_set(e, -ENOMEM, "out of memory");
	rc = fd_read_full(fd, *data, *len);
	return rc ? err_sys(e, rc, "the agent") : 0;
}

/* Where nobody else has put them, as container runtimes do. */
static int put_hosts(struct rootfs *r, struct err *e)
{
	static const char hosts[] = "127.0.0.1\tlocalhost\n::1\tlocalhost\n";
	cleanup_free char *old = rootfs_read(r, "/etc/hosts");

	return old && *old ? 0 : rootfs_put(r, "/etc/hosts", 0644, hosts, sizeof(hosts) - 1, e);
}

int settings_put_agent(struct rootfs *r, int agent_fd, struct err *e)
{
	static const struct {
		const char *path;
		uint32_t mode;
	} folders[] = {{"/dev", 0755},	{"/proc", 0555}, {"/sys", 0555},       {"/run", 0755},
		       {"/tmp", 01777}, {"/etc", 0755},	 {"/lost+found", 0700}};
	cleanup_free char *data = NULL;
	size_t len = 0;
	int rc = read_agent(agent_fd, &data, &len, e);

	for (size_t i = 0; !rc && i < sizeof(folders) / sizeof(folders[0]); i++)
		rc = rootfs_mkdir(r, folders[i].path, folders[i].mode, e);
	if (!rc)
		rc = put_hosts(r, e);
	return rc ? rc : rootfs_put(r, "/sbin/dormouse-agent", 0755, data, len, e);
}
