/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-ram: memory images: pack, unpack, verify, info; see docs/memory-images.md. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/log.h"
#include "snapshot/cold_image.h"
#include "snapshot/cold_pack.h"
#include "snapshot/ram_image.h"

enum format { FORMAT_NONE, FORMAT_RAW, FORMAT_COLD };

struct options {
	enum format format;
	struct cold_pack_options pack;
	bool json, progress;
	char **paths;
	int paths_n;
};

static const char usage[] =
    "usage: dormouse-ram pack [--chunk KIB] [--level 1-9] RAW COLD\n"
    "       dormouse-ram unpack COLD RAW\n"
    "       dormouse-ram verify --format raw|cold FILE\n"
    "       dormouse-ram info --format raw|cold FILE\n"
    "\n"
    "  --json      the result as one JSON object\n"
    "  --progress  tell on stderr how far it is\n"
    "  --nice N    run with less priority\n"
    "\n"
    "Exit status: 0 done; 1 failed, with the reason on stderr; 2 bad usage.\n";

static volatile sig_atomic_t canceled;

static void on_signal(int sig)
{
	(void)sig;
	canceled = 1;
}

/* Return: -1 if it is not a number from @min to @max */
static long number(const char *s, long min, long max)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(s, &end, 10);
	return errno || end == s || *end || n < min || n > max ? -1 : n;
}

static bool set_option(struct options *o, int c, const char *arg)
{
	long n;

	switch (c) {
	case 'f':
		o->format = !strcmp(arg, "raw")	   ? FORMAT_RAW
			    : !strcmp(arg, "cold") ? FORMAT_COLD
						   : FORMAT_NONE;
		return o->format != FORMAT_NONE;
	case 'c':
		n = number(arg, COLD_CHUNK_MIN >> 10, COLD_CHUNK_MAX >> 10);
		o->pack.chunk_bytes = (uint32_t)n << 10;
		return n > 0;
	case 'l':
		n = number(arg, 1, 9);
		o->pack.level = (int)n;
		return n > 0;
	case 'n':
		n = number(arg, 0, 19);
		return n >= 0 && setpriority(PRIO_PROCESS, 0, (int)n) == 0;
	case 'j':
		o->json = true;
		return true;
	case 'p':
		o->progress = true;
		return true;
	default:
		return false;
	}
}

static bool parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
	    {"format", required_argument, NULL, 'f'},
	    {"chunk", required_argument, NULL, 'c'},
	    {"level", required_argument, NULL, 'l'},
	    {"nice", required_argument, NULL, 'n'},
	    {"json", no_argument, NULL, 'j'},
	    {"progress", no_argument, NULL, 'p'},
	    {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
		if (!set_option(o, c, optarg))
			return false;
	o->paths = argv + optind;
	o->paths_n = argc - optind;
	return true;
}

static bool step(void *opaque, uint64_t done, uint64_t total)
{
	const struct options *o = opaque;

	if (o->progress)
		fprintf(stderr, "%" PRIu64 " of %" PRIu64 " bytes\n", done, total);
	return !canceled;
}

/* --- results -------------------------------------------------------------------------- */

struct result {
	const char *format;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	uint64_t ram_bytes, stored_bytes; /* of pages that are not zero */
	uint64_t file_bytes;		  /* that the file takes on its disk */
	uint32_t chunk_bytes;
};

static int look(struct result *r, enum format format, const char *path, struct err *e)
{
	struct stat st;
	int rc;

	if (stat(path, &st) < 0)
		return err_sys(e, -errno, "%s", path);
	r->file_bytes = (uint64_t)st.st_blocks * 512;
	if (format == FORMAT_RAW) {
		struct ram_image raw;

		rc = ram_image_open(&raw, path, 0, e);
		if (rc)
			return rc;
		r->format = "raw";
		memcpy(r->id, raw.id, sizeof(r->id));
		r->ram_bytes = raw.ram_bytes;
		r->stored_bytes = raw.stored_bytes;
		r->chunk_bytes = RAM_IMAGE_CHUNK;
		ram_image_close(&raw);
	} else {
		struct cold_image cold;

		rc = cold_open(&cold, path, e);
		if (rc)
			return rc;
		r->format = "cold";
		memcpy(r->id, cold.image_id, sizeof(r->id));
		r->ram_bytes = cold.ram_bytes;
		r->stored_bytes = cold.page_count * COLD_PAGE;
		r->chunk_bytes = cold.chunk_bytes;
		cold_close(&cold);
	}
	return 0;
}

static int show(const struct options *o, enum format format, const char *path, struct err *e)
{
	char id[2 * RAM_IMAGE_ID_BYTES + 1];
	struct result r = {0};
	int rc = look(&r, format, path, e);

	if (rc)
		return rc;
	for (size_t i = 0; i < sizeof(r.id); i++)
		snprintf(id + 2 * i, 3, "%02x", r.id[i]);
	if (o->json)
		printf("{\"format\":\"%s\",\"id\":\"%s\",\"ramBytes\":%" PRIu64
		       ",\"storedBytes\":%" PRIu64 ",\"fileBytes\":%" PRIu64
		       ",\"chunkBytes\":%u}\n",
		       r.format, id, r.ram_bytes, r.stored_bytes, r.file_bytes, r.chunk_bytes);
	else
		printf("%s: %s image %s, %" PRIu64 " MiB of memory, %.1f MiB of it not zero, "
		       "%.1f MiB on disk, chunks of %u KiB\n",
		       path, r.format, id, r.ram_bytes >> 20, (double)r.stored_bytes / (1 << 20),
		       (double)r.file_bytes / (1 << 20), r.chunk_bytes >> 10);
	return 0;
}

/* --- commands ------------------------------------------------------------------------------ */

static int verify(const struct options *o, const struct pack_progress *p, struct err *e)
{
	struct ram_image raw;
	int rc;

	if (o->format == FORMAT_COLD)
		return cold_verify(o->paths[0], p, e);
	rc = ram_image_open(&raw, o->paths[0], 0, e);
	if (!rc) {
		rc = ram_image_verify(&raw, e);
		ram_image_close(&raw);
	}
	return rc;
}

/* Return: 0 or -errno; -ENOEXEC: bad usage */
static int run(const char *command, const struct options *o, struct err *e)
{
	struct pack_progress p = {step, (void *)(uintptr_t)o};
	bool one = o->paths_n == 1 && o->format != FORMAT_NONE && !o->pack.chunk_bytes;
	bool two = o->paths_n == 2 && o->format == FORMAT_NONE;
	int rc;

	if (!strcmp(command, "pack") && two) {
		rc = cold_pack(o->paths[0], o->paths[1], &o->pack, &p, e);
		return rc ? rc : show(o, FORMAT_COLD, o->paths[1], e);
	}
	if (!strcmp(command, "unpack") && two) {
		rc = cold_unpack(o->paths[0], o->paths[1], &p, e);
		return rc ? rc : show(o, FORMAT_RAW, o->paths[1], e);
	}
	if (!strcmp(command, "verify") && one) {
		rc = verify(o, &p, e);
		return rc ? rc : show(o, o->format, o->paths[0], e);
	}
	if (!strcmp(command, "info") && one)
		return show(o, o->format, o->paths[0], e);
	return -ENOEXEC;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct options o = {0};
	struct err e = {0};
	int rc = -ENOEXEC;

	log_init("dormouse-ram", LOG_INFO, 2);
	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"))) {
		fputs(usage, stdout);
		return 0;
	}
	/* What is half written is removed on the way out. */
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (argc > 1 && parse(&o, argc - 1, argv + 1))
		rc = run(argv[1], &o, &e);
	if (rc == -ENOEXEC) {
		fputs(usage, stderr);
		return 2;
	}
	if (rc) {
		fprintf(stderr, "dormouse-ram: %s\n", e.msg);
		return 1;
	}
	return fflush(stdout) ? 1 : 0;
}
