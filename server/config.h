/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What dormoused was told: options and the configuration file, from one table.
 *
 * Every setting is an option `--name VALUE` and a member "name" of the file. Options win over the
 * file; lists add up. docs/server.md describes them.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

struct config_list {
	char **items; /* owned */
	size_t n;
};

/* All strings are owned; config_fini(). */
struct config {
	struct config_list listen;
	struct config_list images;     /* "NAME=PATH" */
	struct config_list image_dirs; /* every NAME.ext4 in them is an image */
	struct config_list prewarm;    /* names of templates */
	char *state;
	char *api_key_file;
	struct config_list net_allow, net_deny; /* ranges of addresses */
	/* Of each sandbox, a second; 0: no limit. */
	int64_t net_in_bytes, net_out_bytes, net_in_frames, net_out_frames;
	char *kernel, *vmm, *tools, *net;
	char *cgroup; /* of limits of processor time */
	char *public_url, *sandbox_domain, *preview_host, *region;
	char *log_level, *log_format;
	int64_t max_cpus, max_memory_mib, max_disk_mib, max_sandboxes;
	int64_t boot_timeout_s, exit_grace_s, pool_size;
	int64_t flatten_above, cold_after_s; /* 0: never */
	int64_t build_step_timeout_s, build_timeout_s;
	bool no_auth, stop_sandboxes_on_exit;
	bool strict;	    /* previews of listed ports only */
	bool help, version; /* then nothing else was checked */
};

/**
 * config_parse() - Read options and the file that --config names; fill in defaults
 *
 * Return: 0, or -EINVAL (or what reading the file gave) with a message for the user.
 *	   config_fini() is due in each case.
 */
int config_parse(struct config *c, int argc, char **argv, struct err *e);
void config_fini(struct config *c);

/* The text for --help, made from the same table. */
void config_print_help(void);

#endif
