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
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

#include "lib/err.h"
#include "tools/cli/http.h"

/* Exit codes; `exec` and `shell` otherwise pass on the code of the command. */
enum {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_EXEC_FAILED = 125, /* exec: the command was not run, or its end is not known */
	/* 126 and 127 come from the guest: not executable, not found */
	EXIT_EXEC_TIMEOUT = 124, /* exec: --timeout ended it, as with timeout(1) */
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

/* All of the program but its signals. Return: the exit code. */
int cli_main(int argc, char **argv);

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

/**
 * cli_no_options() - For commands that have only the common options
 * @min, @max:	How many arguments may follow; -1: any number. They begin at argv[optind]
 * @code:	Set to the exit code if it is not to go on
 */
bool cli_no_options(struct cli *c, int argc, char **argv, int min, int max, int *code);
/* The check of the number alone, after own options. Return: 0 or EXIT_USAGE. */
int cli_check_count(const struct cli *c, int count, int min, int max);

/* Print "dormouse NAME: text" and where help is. Return: EXIT_USAGE. */
int cli_usage_error(const struct cli *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Print "dormouse NAME: message". Return: EXIT_FAILED. */
int cli_fail(const struct cli *c, const struct err *e);

/* Print a JSON value and a newline; takes the reference. Return: EXIT_OK or EXIT_FAILED. */
int cli_print_json(json_t *v);

/**
 * cli_connect() - Prepare the client for the server that the environment names
 *
 * Return: 0, or an exit code after printing what is wrong
 */
int cli_connect(const struct cli *c, struct http *h);

/* Sandbox ids are put into paths. Return: 0, or EXIT_USAGE after printing. */
int cli_check_id(const struct cli *c, const char *id);

/**
 * cli_add_pair() - Put KEY=VALUE into a JSON object
 * @from_env:	KEY alone takes its value from our environment, and nothing if it is not set
 *
 * Return: 0, or EXIT_USAGE after printing
 */
int cli_add_pair(const struct cli *c, json_t *object, const char *text, bool from_env);

/* Read a whole number. Return: 0, or EXIT_USAGE after printing. */
int cli_parse_number(const struct cli *c, const char *option, const char *text, long long min,
		     long long max, long long *out);

/* Put an option of create, fork or wake into a request: a number ('m', 'c', 'd', 't'), a pair of
 * the environment ('e') or a label ('M'). Return: 0, or EXIT_USAGE after printing. */
int cli_set_option(const struct cli *c, json_t *body, int letter, const char *text);

/*
 * From now on SIGINT and SIGTERM set the flag that is returned; the second one
 * of a kind ends the process as usual.
 */
const volatile sig_atomic_t *cli_catch_interrupt(void);

/* cmd_attach.c: started commands. */
#define FOLLOW_STDIN   1u /* our input is its input */
#define FOLLOW_KILL    2u /* an interruption kills it, else it runs on */
#define FOLLOW_REPLAY  4u /* from what the server has kept, else from the beginning */
#define FOLLOW_TIMEOUT 8u /* it has a time limit: what has no code was ended by that */
/* Show its output to its end. Return: its exit code, or one of ours. */
int cli_follow_session(struct cli *c, struct http *h, const char *sandbox, const char *id,
		       unsigned int flags);
/* Start one with the body of an exec. Return: 0 with its id and the answer; or an exit code. */
int cli_start_session(struct cli *c, struct http *h, const char *sandbox, const json_t *body,
		      char id[64], json_t **answer);

/* The commands. */
int cmd_serve(struct cli *c, int argc, char **argv);
int cmd_create(struct cli *c, int argc, char **argv);
int cmd_ls(struct cli *c, int argc, char **argv);
int cmd_info(struct cli *c, int argc, char **argv);
int cmd_exec(struct cli *c, int argc, char **argv);
int cmd_attach(struct cli *c, int argc, char **argv);
int cmd_shell(struct cli *c, int argc, char **argv);
int cmd_cp(struct cli *c, int argc, char **argv);
int cmd_forward(struct cli *c, int argc, char **argv);
int cmd_kill(struct cli *c, int argc, char **argv);
int cmd_logs(struct cli *c, int argc, char **argv);
int cmd_checkpoint(struct cli *c, int argc, char **argv);
int cmd_checkpoints(struct cli *c, int argc, char **argv);
int cmd_restore(struct cli *c, int argc, char **argv);
int cmd_rm_checkpoint(struct cli *c, int argc, char **argv);
int cmd_fork(struct cli *c, int argc, char **argv);
int cmd_tree(struct cli *c, int argc, char **argv);
int cmd_hibernate(struct cli *c, int argc, char **argv);
int cmd_wake(struct cli *c, int argc, char **argv);
int cmd_reboot(struct cli *c, int argc, char **argv);
int cmd_power_cycle(struct cli *c, int argc, char **argv);
int cmd_scale(struct cli *c, int argc, char **argv);
int cmd_patch(struct cli *c, int argc, char **argv);
int cmd_image(struct cli *c, int argc, char **argv);
int cmd_snapshot(struct cli *c, int argc, char **argv);
int cmd_top(struct cli *c, int argc, char **argv);
int cmd_store(struct cli *c, int argc, char **argv);
int cmd_doctor(struct cli *c, int argc, char **argv);
int cmd_version(struct cli *c, int argc, char **argv);

#endif
