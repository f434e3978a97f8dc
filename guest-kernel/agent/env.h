/* SPDX-License-Identifier: Apache-2.0 */
/* The environment of a command, composed in layers (api.md 18.6). */
#ifndef AGENT_ENV_H
#define AGENT_ENV_H

#include <stddef.h>

#include "guest-kernel/agent/users.h"

/* Later entries win over earlier ones of the same name. */
struct env {
	char **list; /* owned, as each string in it */
	size_t len, cap;
	int failed; /* 0 or -ENOMEM, sticks until env_finish() */
};

void env_fini(struct env *v);
/* "NAME=value"; entries without a name are ignored. */
void env_add(struct env *v, const char *entry);
void env_set(struct env *v, const char *name, const char *value);
/* PATH, HOME, USER, LOGNAME, SHELL, LANG. */
void env_add_base(struct env *v, const struct user *u);
/* The lines of an /etc/environment: NAME=value, quotes, `export`, comments. */
void env_add_file(struct env *v, const char *text);
/* Keep the last entry of each name and end the list with NULL. Return: 0 or -ENOMEM. */
int env_finish(struct env *v);
/* After env_finish(). Borrowed; NULL if absent. */
const char *env_get(const struct env *v, const char *name);

#endif
