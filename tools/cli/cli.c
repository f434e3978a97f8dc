/* SPDX-License-Identifier: Apache-2.0 */
/* What all commands share: finding them, help, options, errors; see cli.h. */
#include "tools/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
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

int cli_check_count(const struct cli *c, int count, int min, int max)
{
	if (count < min)
		return cli_usage_error(c, "too few arguments");
	if (max >= 0 && count > max)
		return cli_usage_error(c, "too many arguments");
	return 0;
}

bool cli_no_options(struct cli *c, int argc, char **argv, int min, int max, int *code)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS, {0}};
	int opt;

	switch (cli_getopt(c, argc, argv, "h", options, &opt)) {
	case CLI_OPT_DONE:
		*code = cli_check_count(c, argc - optind, min, max);
		return *code == 0;
	case CLI_OPT_HELP:
		*code = EXIT_OK;
		return false;
	default:
		*code = EXIT_USAGE;
		return false;
	}
}

int cli_connect(const struct cli *c, struct http *h)
{
	struct endpoint ep;
	struct err e = {0};

	*h = (struct http){0};
	if (endpoint_from_env(&ep, &e) < 0) {
		cli_fail(c, &e);
		return EXIT_USAGE;
	}
	return http_init(h, &ep, &e) < 0 ? cli_fail(c, &e) : 0;
}

int cli_check_id(const struct cli *c, const char *id)
{
	static const char allowed[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";

	if (!*id || id[strspn(id, allowed)])
		return cli_usage_error(
		    c, "\"%s\" is not the id of a sandbox; `dormouse ls` shows them", id);
	return 0;
}

int cli_add_pair(const struct cli *c, json_t *object, const char *text, bool from_env)
{
	const char *eq = strchr(text, '='), *value = eq ? eq + 1 : NULL;
	char *key;
	int rc;

	if (!eq && from_env) {
		value = getenv(text);
		if (!value && *text)
			return 0;
	}
	if (!value || eq == text)
		return cli_usage_error(c, "\"%s\" is not of the form KEY=VALUE", text);
	key = eq ? strndup(text, (size_t)(eq - text)) : strdup(text);
	rc = key ? json_object_set_new(object, key, json_string(value)) : -1;
	free(key);
	return rc < 0 ? cli_usage_error(c, "\"%s\" is not valid UTF-8", text) : 0;
}

int cli_parse_number(const struct cli *c, const char *option, const char *text, long long min,
		     long long max, long long *out)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(text, &end, 10);
	if (end == text || *end || errno || n < min || n > max)
		return cli_usage_error(c, "%s: \"%s\" is not a whole number from %lld to %lld",
				       option, text, min, max);
	*out = n;
	return 0;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

const volatile sig_atomic_t *cli_catch_interrupt(void)
{
	/* No SA_RESTART: a blocking call ends, so that the flag is seen. */
	struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	return &interrupted;
}

static void print_usage(FILE *out)
{
	fputs("usage: dormouse [--json] COMMAND [ARGUMENTS]\n\nCommands:\n", out);
	for (size_t i = 0; i < cli_num_commands; i++)
		fprintf(out, "  %-13s %s\n", cli_commands[i].name, cli_commands[i].summary);
	fputs("\n`dormouse COMMAND --help` tells more.\n", out);
}

int cli_main(int argc, char **argv)
{
	struct cli c = {0};
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json")) {
			c.json = true;
		} else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			print_usage(stdout);
			return EXIT_OK;
		} else if (!strcmp(argv[i], "--version")) {
			c.command = cli_find_command("version");
			optind = 0;
			return cmd_version(&c, 1, (char *[]){argv[0], NULL});
		} else {
			fprintf(stderr, "dormouse: unknown option %s\n", argv[i]);
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	c.command = i < argc ? cli_find_command(argv[i]) : NULL;
	if (!c.command) {
		if (i < argc)
			fprintf(stderr, "dormouse: there is no command %s\n", argv[i]);
		print_usage(stderr);
		return EXIT_USAGE;
	}
	/* getopt_long() names the program by argv[0] in its messages. */
	argv += i;
	optind = 0;
	return c.command->run(&c, argc - i, argv);
}
