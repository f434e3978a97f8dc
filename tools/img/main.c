/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-img: disk layers outside of a machine. The work is in snapshot/disk_image.h. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "snapshot/disk_image.h"

#ifndef DORMOUSE_VERSION
#define DORMOUSE_VERSION "0.1.0"
#endif

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DAMAGED = 3 };

static const char usage[] =
    "usage: dormouse-img COMMAND [OPTION]... FILE...\n"
    "\n"
    "  info LAYER...                        what layers say of themselves\n"
    "  check [--base RAW] LAYER...          all checksums, and that each layer is the parent\n"
    "                                       of the next\n"
    "  flatten [--base RAW] --out FILE LAYER...\n"
    "                                       one layer that takes the place of these; FILE may\n"
    "                                       be the newest of them, with --replace\n"
    "  export [--base RAW] --out FILE LAYER...\n"
    "                                       the disk's content as a sparse raw file\n"
    "  import [--raw] --out FILE RAW        a raw file as a layer without base; with --raw as\n"
    "                                       a sparse raw file\n"
    "  seal LAYER...                        add the checksums that a crash kept from a layer\n"
    "\n"
    "Layers are named oldest first. RAW is the base below the lowest; it is never written.\n"
    "\n"
    "  --base RAW      the base\n"
    "  --out FILE      the result; FILE.part until it is complete and durable\n"
    "  --replace       an existing FILE\n"
    "  --background    with the lowest priority for processor and disk\n"
    "  --progress      tell on standard error how far it is\n"
    "  --json          one JSON object on standard output, also for failures; with\n"
    "                  --progress one per line and step before it\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 done, 1 failed, 2 wrong usage, 3 check found damage\n";

struct options {
	const char *command, *base, *out;
	bool replace, background, progress, json, raw;
	const char *const *files;
	unsigned int files_n;
	uint64_t told_ns; /* when progress was told last */
};

/* --- output ---------------------------------------------------------------------------- */

static int print_json(json_t *object)
{
	int rc = object ? json_dumpf(object, stdout, JSON_COMPACT) : -1;

	json_decref(object);
	putchar('\n');
	return rc || fflush(stdout) ? EXIT_FAILED : EXIT_OK;
}

static int failed(const struct options *o, const struct err *e, int rc)
{
	if (o->json)
		print_json(json_pack("{sbsssi}", "ok", 0, "error", e->msg, "errno", -rc));
	else
		fprintf(stderr, "dormouse-img: %s\n", e->msg);
	return EXIT_FAILED;
}

static void tell_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct options *o = opaque;
	uint64_t now = clock_mono_ns();

	if (!o->progress || (done < total && now - o->told_ns < 200000000))
		return;
	o->told_ns = now;
	if (o->json)
		print_json(json_pack("{s{sIsI}}", "progress", "done_bytes", (json_int_t)done,
				     "total_bytes", (json_int_t)total));
	else
		fprintf(stderr, "\r%5.1f %%%s",
			total ? 100.0 * (double)done / (double)total : 100.0,
			done >= total ? "\n" : "");
}

/* --- commands ---------------------------------------------------------------------------- */

static json_t *info_json(const char *path, const struct disk_image_info *i)
{
	return json_pack("{ssssss*sbsbsIsIsIsI}", "path", path, "id", i->id, "parent",
			 i->parent[0] ? i->parent : NULL, "sealed", i->sealed, "flat", i->flat,
			 "size_bytes", (json_int_t)i->size_bytes, "base_bytes",
			 (json_int_t)i->base_bytes, "content_bytes", (json_int_t)i->content_bytes,
			 "used_bytes", (json_int_t)i->used_bytes);
}

static void print_info(const char *path, const struct disk_image_info *i)
{
	printf("%s\n  id       %s\n  parent   %s\n", path, i->id,
	       i->parent[0] ? i->parent : "none");
	if (i->base_bytes)
		printf("  base     %.1f MiB\n", (double)i->base_bytes / 1048576);
	printf("  disk     %.1f MiB\n  content  %.1f MiB\n  on disk  %.1f MiB\n  sealed   %s\n",
	       (double)i->size_bytes / 1048576, (double)i->content_bytes / 1048576,
	       (double)i->used_bytes / 1048576, i->sealed ? "yes" : "no");
	if (i->flat)
		printf("  made of several by flattening\n");
}

static int run_info(struct options *o)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < o->files_n; i++) {
		struct disk_image_info info;
		struct err e;
		int rc = disk_layers_describe(o->files[i], &info, &e);

		if (rc < 0) {
			json_decref(list);
			return failed(o, &e, rc);
		}
		if (o->json)
			json_array_append_new(list, info_json(o->files[i], &info));
		else
			print_info(o->files[i], &info);
	}
	if (o->json)
		return print_json(json_pack("{sbso}", "ok", 1, "layers", list));
	json_decref(list);
	return EXIT_OK;
}

struct problems {
	const struct options *o;
	json_t *list; /* owned */
};

static void add_problem(void *opaque, const char *text)
{
	struct problems *p = opaque;

	if (p->o->json)
		json_array_append_new(p->list, json_string(text));
	else
		printf("%s\n", text);
}

static int run_check(struct options *o, const struct disk_image_source *s,
		     const struct disk_image_env *env)
{
	struct problems p = {o, json_array()};
	struct err e;
	int rc = disk_layers_check(s, add_problem, &p, env, &e);

	if (rc < 0) {
		json_decref(p.list);
		return failed(o, &e, rc);
	}
	if (o->json)
		print_json(json_pack("{sbso}", "ok", rc == 0, "problems", p.list));
	else
		json_decref(p.list);
	if (!o->json && !rc)
		printf("%u layers: no damage\n", o->files_n);
	return rc ? EXIT_DAMAGED : EXIT_OK;
}

static int run_seal(struct options *o, const struct disk_image_env *env)
{
	for (unsigned int i = 0; i < o->files_n; i++) {
		struct err e;
		int rc = disk_layers_seal(o->files[i], env, &e);

		if (rc < 0)
			return failed(o, &e, rc);
	}
	return o->json ? print_json(json_pack("{sb}", "ok", 1)) : EXIT_OK;
}

static int run_copy(struct options *o, const struct disk_image_source *s,
		    const struct disk_image_env *env)
{
	const struct disk_image_source raw = {.base_path = o->files[0]};
	struct err e;
	int rc;

	if (!strcmp(o->command, "flatten"))
		rc = disk_layers_flatten(s, o->out, env, &e);
	else if (!strcmp(o->command, "export"))
		rc = disk_layers_export(s, o->out, env, &e);
	else if (o->raw)
		rc = disk_layers_export(&raw, o->out, env, &e);
	else
		rc = disk_layers_import(&raw, o->out, env, &e);
	if (rc < 0)
		return failed(o, &e, rc);
	return o->json ? print_json(json_pack("{sbss}", "ok", 1, "out", o->out)) : EXIT_OK;
}

/* --- arguments ----------------------------------------------------------------------------- */

static int wrong_usage(const char *what, const char *which)
{
	fprintf(stderr, "dormouse-img: %s%s (see --help)\n", what, which);
	return EXIT_USAGE;
}

/* What a command takes: 'b' base, 'o' out (needed), 'r' raw. NULL: no such command. */
static const char *takes(const char *command)
{
	static const char *const table[][2] = {{"info", ""},	  {"check", "b"},
					       {"flatten", "bo"}, {"export", "bo"},
					       {"import", "or"},  {"seal", ""}};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (!strcmp(table[i][0], command))
			return table[i][1];
	return NULL;
}

static int check_options(const struct options *o)
{
	const char *may = takes(o->command);

	if (!may)
		return wrong_usage("no such command: ", o->command);
	if (o->base && !strchr(may, 'b'))
		return wrong_usage("--base has no meaning for ", o->command);
	if (!strchr(may, 'o') && (o->out || o->replace))
		return wrong_usage("there is no result of ", o->command);
	if (strchr(may, 'o') && !o->out)
		return wrong_usage("--out is missing for ", o->command);
	if (o->raw && !strchr(may, 'r'))
		return wrong_usage("--raw has no meaning for ", o->command);
	if (strchr(may, 'r') && o->files_n != 1)
		return wrong_usage("one file is needed for ", o->command);
	if (!o->files_n && !(o->base && !strcmp(o->command, "export")))
		return wrong_usage("a file is missing for ", o->command);
	return 0;
}

/* Return: EXIT_OK to go on, or what to exit with; -1: done, with success. */
static int parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
	    {"base", required_argument, NULL, 'b'}, {"out", required_argument, NULL, 'o'},
	    {"replace", no_argument, NULL, 'R'},    {"background", no_argument, NULL, 'B'},
	    {"progress", no_argument, NULL, 'p'},   {"json", no_argument, NULL, 'j'},
	    {"raw", no_argument, NULL, 'r'},	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'V'},    {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'b':
			o->base = optarg;
			break;
		case 'o':
			o->out = optarg;
			break;
		case 'R':
			o->replace = true;
			break;
		case 'B':
			o->background = true;
			break;
		case 'p':
			o->progress = true;
			break;
		case 'j':
			o->json = true;
			break;
		case 'r':
			o->raw = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return -1;
		case 'V':
			puts("dormouse-img " DORMOUSE_VERSION);
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind >= argc)
		return wrong_usage("a command is missing", "");
	o->command = argv[optind++];
	o->files = (const char *const *)(argv + optind);
	o->files_n = (unsigned int)(argc - optind);
	return check_options(o);
}

/* Behind everything else on processor and disk. */
static void go_background(void)
{
	const int idle = 3 << 13; /* IOPRIO_CLASS_IDLE */

	if (nice(19) < 0 && errno)
		log_warn("nice: %s", strerror(errno));
	if (syscall(SYS_ioprio_set, 1, 0, idle) < 0)
		log_warn("ioprio_set: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	struct options o = {0};
	struct disk_image_env env = {.progress = tell_progress, .progress_opaque = &o};
	struct disk_image_source s;
	int rc = parse(&o, argc, argv);

	if (rc)
		return rc < 0 ? EXIT_OK : rc;
	log_init("dormouse-img", LOG_INFO, 2);
	if (o.background)
		go_background();
	env.replace = o.replace;
	s = (struct disk_image_source){o.base, o.files, o.files_n};
	if (!strcmp(o.command, "info"))
		return run_info(&o);
	if (!strcmp(o.command, "check"))
		return run_check(&o, &s, &env);
	if (!strcmp(o.command, "seal"))
		return run_seal(&o, &env);
	return run_copy(&o, &s, &env);
}
