/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: one table of commands, each in a file of its own kind.
 *
 * Commands print results to stdout and everything else to stderr. An error
 * says what to do next. With --json a command prints one JSON value and
 * nothing else on stdout; errors stay text on stderr.
 */
#ifndef TOOLS_CLI_CLI_H
#define TOOLS_CLI_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "lib/err.h"

/* Exit codes; `exec` otherwise passes on the code of the command. */
enum {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_EXEC_FAILED = 125, /* exec: the command was not run, or its end is not known */
	/* 126 and 127 come from the guest: not executable, not found */
	EXIT_INTERRUPTED = 130,
};

struct cli {
	const struct command *command; /* the one that runs; borrowed */
	bool json;
};

struct command {
	const char *name;
	const char *synopsis; /* after the name */
	const char *summary;  /* one line */
	const char *details;  /* options and the rest of --help; may be "" */
	int (*run)(struct cli *c, int argc, char **argv);
};

extern const struct command cli_commands[];
extern const size_t cli_num_commands;

const struct command *cli_find_command(const char *name);
void cli_print_help(const struct command *c, FILE *out);

/* What option handlers that are the same in all commands want of the caller. */
enum cli_opt { CLI_OPT_OTHER, CLI_OPT_DONE, CLI_OPT_HELP, CLI_OPT_BAD };

/* The long options every command has; put first into each option table. */
/* clang-format off */
#define CLI_COMMON_OPTIONS \
	{"json", no_argument, NULL, 'j'}, \
	{"help", no_argument, NULL, 'h'}
/* clang-format on */

/**
 * cli_getopt() - getopt_long() that handles --json and --help itself
 * @opt:	Set to the option for CLI_OPT_OTHER
 *
 * Return: CLI_OPT_OTHER with an option of the command's own, CLI_OPT_DONE at the
 *	   end, CLI_OPT_HELP after printing help (exit 0), CLI_OPT_BAD after
 *	   printing what is wrong (exit EXIT_USAGE)
 */
enum cli_opt cli_getopt(struct cli *c, int argc, char **argv, const char *letters,
			const struct option *options, int *opt);

/* Print "dormouse NAME: text" and where help is. Return: EXIT_USAGE. */
int cli_usage_error(const struct cli *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Print "dormouse NAME: message". Return: EXIT_FAILED. */
int cli_fail(const struct cli *c, const struct err *e);

/* Print a JSON value and a newline; takes the reference. Return: EXIT_OK or EXIT_FAILED. */
int cli_print_json(json_t *v);

/* The commands. */
int cmd_doctor(struct cli *c, int argc, char **argv);
int cmd_version(struct cli *c, int argc, char **argv);

#endif
