/* SPDX-License-Identifier: Apache-2.0 */
/* Environment of commands; see env.h. */
#include "guest-kernel/agent/env.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void env_fini(struct env *v)
{
	for (size_t i = 0; i < v->len; i++)
		free(v->list[i]);
	free(v->list);
	*v = (struct env){0};
}

/* Takes @entry, which may be NULL for "no memory". */
static void env_take(struct env *v, char *entry)
{
	/* One more than is used: for the NULL at the end. */
	if (entry && v->len + 1 >= v->cap) {
		size_t cap = v->cap ? v->cap * 2 : 32;
		char **list = reallocarray(v->list, cap, sizeof(*list));

		if (list) {
			v->list = list;
			v->cap = cap;
		} else {
			free(entry);
			entry = NULL;
		}
	}
	if (entry)
		v->list[v->len++] = entry;
	else
		v->failed = -ENOMEM;
}

void env_add(struct env *v, const char *entry)
{
	const char *eq = strchr(entry, '=');

	if (eq && eq != entry)
		env_take(v, strdup(entry));
}

void env_set(struct env *v, const char *name, const char *value)
{
	char *entry = NULL;

	env_take(v, asprintf(&entry, "%s=%s", name, value) < 0 ? NULL : entry);
}

void env_add_base(struct env *v, const struct user *u)
{
	env_add(v, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
	env_set(v, "HOME", u->home);
	env_set(v, "USER", u->name);
	env_set(v, "LOGNAME", u->name);
	env_set(v, "SHELL", u->shell);
	env_add(v, "LANG=en_US.UTF-8");
}

static void add_line(struct env *v, const char *line, size_t len)
{
	static const char prefix[] = "export ";
	const char *eq;
	char *entry = NULL;
	size_t name_len;

	while (len && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len && strchr(" \t\r", line[len - 1]))
		len--;
	if (len > strlen(prefix) && !memcmp(line, prefix, strlen(prefix))) {
		line += strlen(prefix);
		len -= strlen(prefix);
	}
	eq = memchr(line, '=', len);
	if (!len || *line == '#' || !eq || eq == line)
		return;
	name_len = (size_t)(eq - line);
	len -= name_len + 1;
	eq++;
	if (len >= 2 && (*eq == '"' || *eq == '\'') && eq[len - 1] == *eq) {
		eq++;
		len -= 2;
	}
	env_take(v, asprintf(&entry, "%.*s=%.*s", (int)name_len, line, (int)len, eq) < 0 ? NULL
											 : entry);
}

void env_add_file(struct env *v, const char *text)
{
	while (text && *text) {
		size_t len = strcspn(text, "\n");

		add_line(v, text, len);
		text += len + (text[len] == '\n');
	}
}

struct ranked {
	char *entry;
	size_t rank;
};

static int compare_names(const char *a, const char *b)
{
	size_t i = 0;

	while (a[i] == b[i] && a[i] != '=')
		i++;
	return (a[i] == '=' ? 0 : (unsigned char)a[i]) - (b[i] == '=' ? 0 : (unsigned char)b[i]);
}

static int compare_ranked(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	int c = compare_names(x->entry, y->entry);

	return c ? c : (x->rank > y->rank) - (x->rank < y->rank);
}

/* Sorted, because a request may carry very many entries: comparing each to each would not end. */
int env_finish(struct env *v)
{
	struct ranked *r = reallocarray(NULL, v->len + 1, sizeof(*r));
	size_t kept = 0;

	if (!r || v->failed || !v->list) {
		free(r);
		return -ENOMEM;
	}
	for (size_t i = 0; i < v->len; i++)
		r[i] = (struct ranked){v->list[i], i};
	qsort(r, v->len, sizeof(*r), compare_ranked);
	for (size_t i = 0; i < v->len; i++) {
		if (i + 1 < v->len && !compare_names(r[i].entry, r[i + 1].entry))
			free(r[i].entry);
		else
			v->list[kept++] = r[i].entry;
	}
	v->len = kept;
	v->list[kept] = NULL;
	free(r);
	return 0;
}

const char *env_get(const struct env *v, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < v->len; i++)
		if (!strncmp(v->list[i], name, len) && v->list[i][len] == '=')
			return v->list[i] + len + 1;
	return NULL;
}
