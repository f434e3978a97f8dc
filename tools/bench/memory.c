/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-bench memory: what a fork takes beside what its guest dirties. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/bench/bench.h"

#define SMAPS_MAX (8u << 20)

/* Private KiB of a process, but for mappings of @except. Return: 0 or -errno. */
static int private_kib(pid_t pid, const char *except, double *out, struct err *e)
{
	cleanup_free char *text = NULL;
	char path[40], *save = NULL;
	bool counted = true;
	int rc;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	rc = fd_read_file(AT_FDCWD, path, SMAPS_MAX, &text, NULL);
	if (rc < 0)
		return err_sys(e, rc, "%s", path);
	*out = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long from, to, kib;
		char kind[8];

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			counted = !strstr(line, except);
		else if (sscanf(line, "Private_%7[A-Za-z]: %lu kB", kind, &kib) == 2 && counted)
			*out += (double)kib;
	}
	return 0;
}

/* The kernel's memory of all kinds that grow with processes and VMs, in KiB. */
static double kernel_kib(void)
{
	static const char *const names[] = {"Slab",	     "KernelStack", "PageTables",
					    "SecPageTables", "Percpu",	    "VmallocUsed"};
	cleanup_free char *text = NULL;
	double sum = 0;

	if (fd_read_file(AT_FDCWD, "/proc/meminfo", 1 << 16, &text, NULL) < 0)
		return 0;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char wanted[40], *at;

		snprintf(wanted, sizeof(wanted), "\n%s:", names[i]);
		at = strstr(text, wanted);
		if (at)
			sum += strtod(at + strlen(wanted), NULL);
	}
	return sum;
}

/* Forks that live all at once, so that what they share is counted as shared. */
static int measure(struct bench *b, const struct scene *s, struct vmm *v, struct series *t,
		   struct err *e)
{
	double before = kernel_kib(), us, kib = 0;
	int rc = 0;

	for (int i = 0; i < b->forks && rc == 0; i++) {
		rc = machine_start(b, &v[i], e);
		if (rc == 0)
			rc = vmm_call(&v[i], scene_prepare_request(b, &v[i]), NULL, e);
		if (rc == 0)
			rc = vmm_call(&v[i], scene_restore_request(b, s, &v[i]), NULL, e);
		if (rc == 0)
			rc = machine_first_exit(&v[i], &us, e);
	}
	if (rc == 0)
		json_object_set_new(b->facts, "kernel_kib_per_vm",
				    json_real((kernel_kib() - before) / b->forks));
	for (int i = 0; i < b->forks && rc == 0; i++) {
		rc = private_kib(v[i].pid, s->ram, &kib, e);
		if (rc == 0 && series_add(t, kib) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	return rc;
}

int bench_memory(struct bench *b, struct err *e)
{
	struct series t = {.name = "fork_private_kib",
			   .unit = "KiB",
			   .what =
			       "private memory of the process of a fork, its guest's RAM aside"};
	struct vmm *v = calloc((size_t)b->forks, sizeof(*v));
	struct scene s = {0};
	int rc = v ? scene_make(b, 0, false, &s, e) : err_set(e, -ENOMEM, "out of memory");

	if (rc == 0)
		rc = measure(b, &s, v, &t, e);
	for (int i = 0; v && i < b->forks; i++)
		vmm_kill(&v[i]);
	for (int i = 0; v && i < b->forks; i++)
		machine_end(&v[i]);
	free(v);
	scene_fini(&s);
	return rc ? err_wrap(e, rc, "memory") : bench_add(b, &t, e);
}
