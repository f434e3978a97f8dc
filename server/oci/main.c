/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse-oci: makes a root image of a container image (docs/images.md).
 *
 *	dormouse-oci --archive FD --scratch FD --image FD --agent FD --size-mib N [--ref REF]
 *
 * All files are given to it open. How far it is goes to standard output, why it failed to standard
 * error; exit code 1 if the archive is at fault, 3 if it is not.
 */
#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "server/oci/import.h"
#include "server/oci/jail.h"

#define EXIT_USAGE   2
#define EXIT_MACHINE 3

static const struct option options[] = {
    {"archive", required_argument, NULL, 'a'},
    {"scratch", required_argument, NULL, 's'},
    {"image", required_argument, NULL, 'i'},
    {"agent", required_argument, NULL, 'g'},
    {"size-mib", required_argument, NULL, 'm'},
    {"ref", required_argument, NULL, 'r'},
    {NULL, 0, NULL, 0},
};

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

static long parse_number(const char *text, long max)
{
	char *end;
	long n = strtol(text, &end, 10);

	return *text >= '0' && *text <= '9' && !*end && n <= max ? n : -1;
}

static int parse(int argc, char **argv, struct import_config *c)
{
	long size = -1;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (opt) {
		case 'a':
			c->archive_fd = (int)parse_number(optarg, 1023);
			break;
		case 's':
			c->scratch_fd = (int)parse_number(optarg, 1023);
			break;
		case 'i':
			c->image_fd = (int)parse_number(optarg, 1023);
			break;
		case 'g':
			c->agent_fd = (int)parse_number(optarg, 1023);
			break;
		case 'm':
			size = parse_number(optarg, 262144);
			break;
		case 'r':
			c->ref = optarg;
			break;
		default:
			return -EINVAL;
		}
	}
	c->size_mib = size < 0 ? 0 : (uint64_t)size;
	if (optind != argc || c->archive_fd < 3 || c->scratch_fd < 3 || c->image_fd < 3 ||
	    c->agent_fd < 3 || size < 64)
		return -EINVAL;
	return 0;
}

/* Is it the archive that is wrong, or what we have to work with? */
static int exit_code(int rc)
{
	switch (rc) {
	case -ENOMEM:
	case -EIO:
	case -EDQUOT:
	case -ENOSYS:
		return EXIT_MACHINE;
	default:
		return EXIT_FAILURE;
	}
}

int main(int argc, char **argv)
{
	struct import_config c = {
	    .archive_fd = -1, .scratch_fd = -1, .image_fd = -1, .agent_fd = -1, .say = say};
	struct rootfs r = {0};
	struct err e;
	int keep[4], rc;

	log_init("oci", LOG_INFO, 2);
	if (parse(argc, argv, &c)) {
		fprintf(stderr, "dormouse-oci: see docs/images.md\n");
		return EXIT_USAGE;
	}
	keep[0] = c.archive_fd;
	keep[1] = c.scratch_fd;
	keep[2] = c.image_fd;
	keep[3] = c.agent_fd;
	/* Names in archives are UTF-8, whatever the server's locale is. */
	setlocale(LC_CTYPE, "C.UTF-8");
	rc = jail_start(keep, 4, (c.size_mib << 20) * IMPORT_UNPACKED_MAX, &e);
	if (!rc)
		rc = rootfs_init(&r, c.image_fd, c.size_mib, &e);
	if (!rc)
		rc = jail_enter(&e);
	if (rc) {
		fprintf(stderr, "%s\n", e.msg);
		rootfs_fini(&r);
		return EXIT_MACHINE;
	}
	rc = import_run(&c, &r, &e);
	if (rc)
		fprintf(stderr, "%s\n", e.msg);
	rootfs_fini(&r);
	return rc ? exit_code(rc) : 0;
}
