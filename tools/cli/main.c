/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse: the command line. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tools/cli/cli.h"

static void print_usage(FILE *out)
{
	fputs("usage: dormouse [--json] COMMAND [ARGUMENTS]\n\nCommands:\n", out);
	for (size_t i = 0; i < cli_num_commands; i++)
		fprintf(out, "  %-9s %s\n", cli_commands[i].name, cli_commands[i].summary);
	fputs("\n`dormouse COMMAND --help` tells more.\n", out);
}

int main(int argc, char **argv)
{
	struct cli c = {0};
	int i = 1;

	/* A closed pipe is an error to report, not a silent death in the middle of a copy. */
	signal(SIGPIPE, SIG_IGN);
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json")) {
			c.json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			print_usage(stdout);
			return EXIT_OK;
		} else if (!strcmp(argv[i], "--version")) {
			c.command = cli_find_command("version");
			return cmd_version(&c, 1, argv);
		} else {
			fprintf(stderr, "dormouse: unknown option %s\n", argv[i]);
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (i == argc) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	c.command = cli_find_command(argv[i]);
	if (!c.command) {
		fprintf(stderr, "dormouse: there is no command %s\n", argv[i]);
		print_usage(stderr);
		return EXIT_USAGE;
	}
	return c.command->run(&c, argc - i, argv + i);
}
