/* SPDX-License-Identifier: Apache-2.0 */
/* GET /top, an addition to the API: what the sandboxes that run take of the host. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "server/api/api.h"

#define PROC_FILE_MAX 4096

/* In bytes and ms of all processors; zeros for a process that has just ended. */
struct usage {
	uint64_t resident, cpu_ms;
};

static char *read_proc(int64_t pid, const char *file)
{
	char path[64], *text = NULL;

	snprintf(path, sizeof(path), "/proc/%lld/%s", (long long)pid, file);
	return fd_read_file(AT_FDCWD, path, PROC_FILE_MAX, &text, NULL) ? NULL : text;
}

/* The name in parentheses may contain anything: what follows its end counts. */
static void read_cpu(int64_t pid, struct usage *u)
{
	cleanup_free char *stat = read_proc(pid, "stat");
	const char *rest = stat ? strrchr(stat, ')') : NULL;
	unsigned long long user, system;
	long ticks = sysconf(_SC_CLK_TCK);

	if (rest && ticks > 0 &&
	    sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
		   &system) == 2)
		u->cpu_ms = (user + system) * 1000 / (unsigned long long)ticks;
}

static void read_memory(int64_t pid, struct usage *u)
{
	cleanup_free char *statm = read_proc(pid, "statm");
	unsigned long long pages;

	if (statm && sscanf(statm, "%*u %llu", &pages) == 1)
		u->resident = pages * (unsigned long long)sysconf(_SC_PAGESIZE);
}

static void write_row(struct strbuf *b, const struct sandbox_row *row)
{
	struct usage u = {0};

	read_cpu(row->vmm_pid, &u);
	read_memory(row->vmm_pid, &u);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "sandboxID", row->id);
	strbuf_json_str(b, "alias", row->alias);
	strbuf_json_str(b, "template", row->template);
	strbuf_json_time(b, "startedAt", row->created_ms);
	strbuf_json_time(b, "lastUsedAt", row->used_ms);
	strbuf_json_int(b, "timeout", row->timeout_s);
	strbuf_json_int(b, "cpuCount", row->cpus);
	strbuf_json_int(b, "memoryMB", sandbox_row_memory(row));
	strbuf_json_int(b, "cpuMs", (int64_t)u.cpu_ms);
	strbuf_json_int(b, "residentBytes", (int64_t)u.resident);
	strbuf_adds(b, "}");
}

void api_top(struct request *r)
{
	struct sandbox_row *rows = NULL;
	struct strbuf b = {0};
	struct err e;
	size_t n = 0;
	int rc = sandbox_list(api_manager(r), sandbox_status_name(SANDBOX_RUNNING), &rows, &n, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < n; i++) {
		write_row(&b, &rows[i]);
		sandbox_row_fini(&rows[i]);
	}
	strbuf_adds(&b, "]");
	free(rows);
	reply_json(r, 200, &b);
}
