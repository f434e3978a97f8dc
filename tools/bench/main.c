/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-bench: options, subcommands, results; see bench.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/bench/bench.h"

static const struct {
	const char *name;
	int (*run)(struct bench *b, struct err *e);
	const char *what;
} commands[] = {
    {"fork", bench_fork, "machines made of one image: from nothing, a process, a shell; many"},
    {"checkpoint", bench_checkpoint, "pause of a running machine for a checkpoint"},
    {"rollback", bench_rollback, "a running machine taken back in place"},
    {"wake", bench_wake, "a hibernated machine runs on"},
    {"depth", bench_depth, "restore from a chain of 32 checkpoints beside one of 1"},
    {"memory", bench_memory, "memory of a fork, its guest's aside"},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

int bench_add(struct bench *b, struct series *s, struct err *e)
{
	json_t *o = series_json(s);

	fprintf(stderr, "%-24s %10.1f %10.1f %-6s %4zu\n", s->name, series_percentile(s, 50),
		series_percentile(s, 99), s->unit, s->n);
	series_fini(s);
	return json_array_append_new(b->series, o) < 0 ? err_set(e, -ENOMEM, "out of memory") : 0;
}

int bench_make_dir(struct bench *b, char *out, size_t len, struct err *e)
{
	snprintf(out, len, "%.90s/%u", b->dir, b->next_dir++);
	return mkdir(out, 0700) < 0 ? err_sys(e, -errno, "%s", out) : 0;
}

void bench_remove_dir(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		unlinkat(dirfd(d), entry->d_name, 0);
	if (d)
		closedir(d);
	rmdir(dir);
}

static int usage(FILE *out)
{
	fputs(
	    "usage: dormouse-bench [OPTIONS] COMMAND...\n\n"
	    "Measure the host's side of time travel, with real VMM processes and a tiny guest.\n\n"
	    "Commands:\n",
	    out);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].what);
	fputs(
	    "  all         all of them\n\n"
	    "Options:\n"
	    "  --json FILE    write all samples there (-: standard output)\n"
	    "  --samples N    of each kind (default 40)\n"
	    "  --forks N      how many at once, in fork and memory (default 100)\n"
	    "  --memory MIB   RAM of a guest (default 512)\n"
	    "  --fill MIB     how much of it is not zero (default 256)\n"
	    "  --dir DIR      scratch space (default $DORMOUSE_SCRATCH, or /var/tmp)\n"
	    "  --vmm FILE     dormouse-vmm (default: beside this program)\n"
	    "  --guests DIR   where bench.elf is (default: guests/ beside this program)\n"
	    "  --no-jail      VMM processes without a jail\n"
	    "  --linux        a Linux guest, in place of COMMAND: boot, create, wake, each to the\n"
	    "                 answer of a first command in it. Needs KVM that runs Linux\n"
	    "  --kernel FILE  of the Linux guest (default: kernel beside this program)\n"
	    "  --image FILE   its root image (default: mini.ext4 beside this program)\n"
	    "  -h, --help     print this\n\n"
	    "Exit code: 0 if all was measured, 1 if not, 2 for wrong usage.\n",
	    out);
	return out == stdout ? 0 : 2;
}

static int parse_number(const char *text, int min, int max, int *out)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < min || n > max) {
		fprintf(stderr, "dormouse-bench: \"%s\" is not a number from %d to %d\n", text, min,
			max);
		return -EINVAL;
	}
	*out = (int)n;
	return 0;
}

/* @name beside this program, malloc'ed. */
static char *beside(const char *name)
{
	char self[PATH_MAX], *slash, *out;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n < 0 ? 0 : n] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	return asprintf(&out, "%s/%s", self, name) < 0 ? NULL : out;
}

static void replace(char **path, const char *by)
{
	free(*path);
	*path = strdup(by);
}

/* Return: 0, or an exit code + 1. */
static int parse(struct bench *b, int argc, char **argv, const char **scratch)
{
	static const struct option options[] = {{"json", required_argument, NULL, 'j'},
						{"samples", required_argument, NULL, 's'},
						{"forks", required_argument, NULL, 'f'},
						{"memory", required_argument, NULL, 'm'},
						{"fill", required_argument, NULL, 'F'},
						{"dir", required_argument, NULL, 'd'},
						{"vmm", required_argument, NULL, 'v'},
						{"guests", required_argument, NULL, 'g'},
						{"linux", no_argument, NULL, 'l'},
						{"realtime", no_argument, NULL, 'r'},
						{"kernel", required_argument, NULL, 'k'},
						{"image", required_argument, NULL, 'i'},
						{"no-jail", no_argument, NULL, 'J'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	int opt, bad = 0;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (opt == 'j')
			b->json_path = optarg;
		else if (opt == 's')
			bad |= parse_number(optarg, 1, 100000, &b->samples);
		else if (opt == 'f')
			bad |= parse_number(optarg, 1, 1000, &b->forks);
		else if (opt == 'm')
			bad |= parse_number(optarg, 128, 3072, &b->memory_mib);
		else if (opt == 'F')
			bad |= parse_number(optarg, 0, 3072, &b->fill_mib);
		else if (opt == 'd')
			*scratch = optarg;
		else if (opt == 'v')
			b->vmm = optarg;
		else if (opt == 'g')
			b->guests = optarg;
		else if (opt == 'r')
			b->realtime = true;
		else if (opt == 'J')
			b->no_jail = true;
		else if (opt == 'l')
			b->linux_guest = true;
		else if (opt == 'k')
			replace(&b->kernel, optarg);
		else if (opt == 'i')
			replace(&b->image, optarg);
		else
			return 1 + usage(opt == 'h' ? stdout : stderr);
	}
	if (bad || (optind == argc) != b->linux_guest)
		return 1 + usage(stderr);
	if (!b->linux_guest && b->fill_mib > b->memory_mib - 32) {
		fprintf(stderr, "dormouse-bench: %d MiB of %d cannot be filled: 32 are taken\n",
			b->fill_mib, b->memory_mib);
		return 3;
	}
	return 0;
}

static int find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		if (!strcmp(commands[i].name, name))
			return (int)i;
	}
	return -1;
}

static int run(struct bench *b, int argc, char **argv)
{
	struct err e = {0};
	int rc = 0;

	fprintf(stderr, "%-24s %10s %10s %-6s %4s\n", "", "p50", "p99", "", "n");
	if (b->linux_guest && bench_linux(b, &e) < 0) {
		fprintf(stderr, "dormouse-bench: --linux: %s\n", e.msg);
		return 1;
	}
	for (int i = 0; i < argc; i++) {
		int one = find_command(argv[i]);

		for (size_t k = 0; k < COMMANDS; k++) {
			if (one >= 0 && (size_t)one != k)
				continue;
			if (commands[k].run(b, &e) < 0) {
				fprintf(stderr, "dormouse-bench: %s: %s\n", commands[k].name,
					e.msg);
				rc = 1;
			}
		}
	}
	return rc;
}

static int write_results(const struct bench *b)
{
	json_t *o =
	    json_pack("{s:i, s:o, s:b, s:i, s:i, s:i, s:s, s:O, s:O}", "format", 1, "machine",
		      bench_machine(), "realtime", b->realtime, "memory_mib", b->memory_mib,
		      "fill_mib", b->fill_mib, "forks", b->forks, "guest",
		      b->linux_guest ? "linux" : "tiny", "facts", b->facts, "series", b->series);
	int rc = -1;

	if (o && !strcmp(b->json_path, "-"))
		rc = json_dumpf(o, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
	else if (o)
		rc = json_dump_file(o, b->json_path, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
	json_decref(o);
	if (rc < 0)
		fprintf(stderr, "dormouse-bench: %s could not be written\n", b->json_path);
	return rc < 0;
}

/* A hundred machines have some descriptors each. */
static void raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

/* For a machine that others use, too. The VMM processes inherit it. Return: 0, or exit code + 1. */
static int become_realtime(void)
{
	struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_FIFO, &p) == 0)
		return 0;
	fprintf(stderr, "dormouse-bench: --realtime: %s\n", strerror(errno));
	return 2;
}

/* As the server does it. */
static void set_jail(struct bench *b)
{
	unsigned int n = 0;

	b->spawn.program = b->vmm;
	b->spawn.with_parent = true;
	if (b->no_jail)
		return;
	b->readable[n++] = b->guests;
	if (b->kernel && b->image) {
		b->readable[n++] = b->kernel;
		b->readable[n] = b->image;
	}
	b->writable[0] = b->dir;
	b->spawn.readable = b->readable;
	b->spawn.writable = b->writable;
}

static int run_in_scratch(struct bench *b, const char *scratch, int argc, char **argv)
{
	char path[150];
	int rc;

	snprintf(b->dir, sizeof(b->dir), "%.60s/dormouse-bench-XXXXXX", scratch);
	if (strlen(scratch) > 60 || !mkdtemp(b->dir)) {
		fprintf(stderr, "dormouse-bench: no scratch directory in %s\n", scratch);
		return 1;
	}
	set_jail(b);
	b->series = json_array();
	b->facts = json_object();
	rc = run(b, argc, argv);
	if (b->json_path)
		rc |= write_results(b);
	json_decref(b->series);
	json_decref(b->facts);
	snprintf(path, sizeof(path), "%s/disk", b->dir);
	unlink(path);
	rmdir(b->dir);
	return rc;
}

int main(int argc, char **argv)
{
	cleanup_free char *vmm = beside("dormouse-vmm"), *guests = beside("guests");
	const char *scratch = getenv("DORMOUSE_SCRATCH");
	struct bench b = {.vmm = vmm,
			  .guests = guests,
			  .samples = 40,
			  .forks = 100,
			  .memory_mib = 512,
			  .fill_mib = 256,
			  .kernel = beside("kernel"),
			  .image = beside("mini.ext4")};
	int code = parse(&b, argc, argv, &scratch);

	for (int i = optind; i < argc && !code; i++) {
		if (find_command(argv[i]) < 0 && strcmp(argv[i], "all") != 0) {
			fprintf(stderr, "dormouse-bench: there is no command %s\n", argv[i]);
			code = 1 + usage(stderr);
		}
	}
	signal(SIGPIPE, SIG_IGN);
	raise_limits();
	if (!code && b.realtime)
		code = become_realtime();
	code =
	    code ? code - 1
		 : run_in_scratch(&b, scratch ? scratch : "/var/tmp", argc - optind, argv + optind);
	free(b.kernel);
	free(b.image);
	return code;
}
