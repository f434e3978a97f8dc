/* SPDX-License-Identifier: Apache-2.0 */
/* What all commands share: finding them, help, options, errors; see cli.h. */
#include "tools/cli/cli.h"

#include <stdarg.h>
#include <string.h>

#include "tools/cli/table.h"

const struct command *cli_find_command(const char *name)
{
	for (size_t i = 0; i < cli_num_commands; i++) {
		if (!strcmp(cli_commands[i].name, name))
			return &cli_commands[i];
	}
	return NULL;
}

void cli_print_help(const struct command *c, FILE *out)
{
	fprintf(out, "usage: dormouse %s%s%s\n\n%c%s.\n\n", c->name, *c->synopsis ? " " : "",
		c->synopsis, c->summary[0] - 'a' + 'A', c->summary + 1);
	fputs("  --json            print JSON\n"
	      "  -h, --help        print this\n",
	      out);
	fputs(c->details, out);
}

enum cli_opt cli_getopt(struct cli *c, int argc, char **argv, const char *letters,
			const struct option *options, int *opt)
{
	for (;;) {
		*opt = getopt_long(argc, argv, letters, options, NULL);
		switch (*opt) {
		case -1:
			return CLI_OPT_DONE;
		case 'j':
			c->json = true;
			break;
		case 'h':
			cli_print_help(c->command, stdout);
			return CLI_OPT_HELP;
		case '?':
		case ':':
			fprintf(stderr, "Try: dormouse %s --help\n", c->command->name);
			return CLI_OPT_BAD;
		default:
			return CLI_OPT_OTHER;
		}
	}
}

int cli_usage_error(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "dormouse %s: ", c->command->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry: dormouse %s --help\n", c->command->name);
	return EXIT_USAGE;
}

int cli_fail(const struct cli *c, const struct err *e)
{
	char text[sizeof(e->msg)];

	fprintf(stderr, "dormouse %s: %s\n", c->command->name,
		table_clean(e->msg, text, sizeof(text)));
	return EXIT_FAILED;
}

int cli_print_json(json_t *v)
{
	int rc =
	    v ? json_dumpf(v, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : -1;

	json_decref(v);
	if (rc < 0 || putchar('\n') == EOF || fflush(stdout) == EOF) {
		fputs("dormouse: the result could not be written\n", stderr);
		return EXIT_FAILED;
	}
	return EXIT_OK;
}
