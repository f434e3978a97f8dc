/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse-net: the network of one sandbox, in user mode (docs/network.md).
 *
 *	dormouse-net --frames-fd N [--socket-fd N --socket PATH] [--policy JSON] [--no-jail]
 *
 * It ends when the other side of the frames' socket closes.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"
#include "server/net/jail.h"
#include "server/net/wire.h"

/*
 * What a connection needs is allocated with it and freed with it: without a reserve, each took
 * memory from the kernel and gave it back.
 */
#define HEAP_RESERVE (1 << 20)

static const struct option options[] = {
    {"frames-fd", required_argument, NULL, 'f'}, {"socket-fd", required_argument, NULL, 's'},
    {"socket", required_argument, NULL, 'S'},	 {"policy", required_argument, NULL, 'p'},
    {"no-jail", no_argument, NULL, 'J'},	 {NULL, 0, NULL, 0},
};

static int parse_fd(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	return *text >= '0' && *text <= '9' && !*end && n < 1024 ? (int)n : -1;
}

static int parse_policy(const char *text, struct policy *p, struct err *e)
{
	json_t *obj = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	int rc = policy_parse(obj, p, e);

	json_decref(obj);
	return rc;
}

static int parse(int argc, char **argv, struct wire_config *c, struct err *e)
{
	int opt, rc = 0;

	while (!rc && (opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (opt) {
		case 'f':
			c->frames_fd = parse_fd(optarg);
			break;
		case 's':
			c->listen_fd = parse_fd(optarg);
			break;
		case 'S':
			c->path = optarg;
			break;
		case 'p':
			rc = parse_policy(optarg, &c->policy, e);
			break;
		case 'J':
			c->jail = false;
			break;
		default:
			return err_set(e, -EINVAL, "see docs/network.md");
		}
	}
	if (!rc && (c->frames_fd < 0 || optind != argc || (c->listen_fd >= 0) != (c->path != NULL)))
		rc = err_set(e, -EINVAL, "--frames-fd is needed, and --socket with --socket-fd");
	return rc;
}

int main(int argc, char **argv)
{
	struct wire_config c = {.frames_fd = -1, .listen_fd = -1, .jail = true};
	struct err e;
	int keep[2];

	log_init("net", LOG_INFO, 2);
	mallopt(M_TOP_PAD, HEAP_RESERVE);
	mallopt(M_TRIM_THRESHOLD, 4 * HEAP_RESERVE);
	if (parse(argc, argv, &c, &e)) {
		log_error("%s", e.msg);
		return 2;
	}
	keep[0] = c.frames_fd;
	keep[1] = c.listen_fd;
	if (jail_start(keep, 2, &e) || (c.jail && jail_limits(&e)) || wire_run(&c, &e)) {
		log_error("%s", e.msg);
		return 1;
	}
	return 0;
}
