/* SPDX-License-Identifier: Apache-2.0 */
/* On what was measured: figures without that are worth nothing. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/bench/bench.h"

/* Below this a turn of a ring-0 loop is run by the processor; docs/cli.md, doctor. */
#define HARDWARE_MAX_NS 30

/* The value of "@key: value" in a file of /proc. */
static void proc_field(const char *path, const char *key, char *out, size_t len)
{
	cleanup_free char *text = NULL;
	char *at;

	snprintf(out, len, "unknown");
	if (fd_read_file(AT_FDCWD, path, 1 << 20, &text, NULL) < 0)
		return;
	at = strstr(text, key);
	at = at ? strchr(at, ':') : NULL;
	if (!at)
		return;
	at += 1 + strspn(at + 1, " \t");
	at[strcspn(at, "\n")] = '\0';
	snprintf(out, len, "%s", at);
}

/* What `dormouse doctor`, which is beside us, measures: ns of a turn, or -1. */
static double ns_per_turn(void)
{
	char self[PATH_MAX], command[PATH_MAX + 40], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	json_t *answer, *v;
	double ns = -1;
	FILE *f;

	if (n < 0)
		return -1;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	snprintf(command, sizeof(command), "'%s/dormouse' doctor --json 2>/dev/null", self);
	f = popen(command, "re");
	answer = f ? json_loadf(f, 0, NULL) : NULL;
	v = json_object_get(json_object_get(answer, "kvm"), "nsPerTurn");
	if (json_is_number(v))
		ns = json_number_value(v);
	json_decref(answer);
	if (f)
		pclose(f);
	return ns;
}

static const char *backend(double ns)
{
	if (getenv("DORMOUSE_IN_LAB"))
		return "lab";
	if (ns < 0)
		return "unknown";
	return ns < HARDWARE_MAX_NS ? "hardware" : "interpreted CPL 0";
}

json_t *bench_machine(void)
{
	char cpu[128], memory[64];
	double ns = ns_per_turn();
	struct utsname u;
	json_t *o;

	uname(&u);
	proc_field("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
	proc_field("/proc/meminfo", "MemTotal", memory, sizeof(memory));
	o = json_pack("{s:s, s:I, s:s, s:s, s:s, s:s}", "cpu", cpu, "cores",
		      (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory", memory, "kernel",
		      u.release, "arch", u.machine, "backend", backend(ns));
	if (ns >= 0)
		json_object_set_new(o, "ring0_ns_per_turn", json_real(ns));
	return o;
}
