/* SPDX-License-Identifier: Apache-2.0 */
/* Failures on demand; see fault.h. */
#include "vmm/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* #syscalls kill[1==9] kill[1==19] pause getppid */

/* The environment is the process's, and so is this. */
static struct {
	char point[32], action[16];
	unsigned long left;
} the_fault;

static const struct {
	const char *name;
	int code;
} errnos[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}};

void fault_init(void)
{
	const char *text = getenv("DORMOUSE_VMM_FAULT");
	const char *n = text ? strchr(text, ':') : NULL, *action;
	char *end;

	if (!n || (size_t)(n - text) >= sizeof(the_fault.point))
		return;
	the_fault.left = strtoul(n + 1, &end, 10);
	action = end + 1;
	if (*end != ':' || strlen(action) >= sizeof(the_fault.action)) {
		the_fault.left = 0;
		return;
	}
	memcpy(the_fault.point, text, (size_t)(n - text));
	strcpy(the_fault.action, action);
}

static bool is_here(const char *prefix, const char *name)
{
	size_t n = strlen(prefix);

	return !strncmp(the_fault.point, prefix, n) && !strcmp(the_fault.point + n, name);
}

int fault_point(const char *prefix, const char *name)
{
	if (!the_fault.left || !is_here(prefix, name) || --the_fault.left)
		return 0;
	for (size_t i = 0; i < sizeof(errnos) / sizeof(errnos[0]); i++)
		if (!strcmp(the_fault.action, errnos[i].name))
			return -errnos[i].code;
	if (!strcmp(the_fault.action, "stop")) {
		kill(getpid(), SIGSTOP);
		return 0;
	}
	if (!strcmp(the_fault.action, "kill"))
		kill(getpid(), SIGKILL);
	if (!strcmp(the_fault.action, "kill-vmm"))
		kill(getppid(), SIGKILL);
	/* Until the signal comes, or that of the parent's death. */
	for (;;)
		pause();
}
