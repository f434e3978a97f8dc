/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse serve, dormouse logs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/cli/table.h"

/* The server beside our own program, as it is in the build tree and in an installation. */
static bool find_beside(char *out, size_t len)
{
	ssize_t n = readlink("/proc/self/exe", out, len - 1);
	char *slash;

	if (n <= 0)
		return false;
	out[n] = '\0';
	slash = strrchr(out, '/');
	if (!slash || (size_t)(slash - out) + sizeof("/dormoused") > len)
		return false;
	memcpy(slash, "/dormoused", sizeof("/dormoused"));
	return access(out, X_OK) == 0;
}

int cmd_serve(struct cli *c, int argc, char **argv)
{
	char path[4096];
	struct err e;

	/* All other options are the server's, and so is the word on them. */
	if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		cli_print_help(c->command, stdout);
		return EXIT_OK;
	}
	argv[0] = (char *)"dormoused";
	signal(SIGPIPE, SIG_DFL);
	if (find_beside(path, sizeof(path)))
		execv(path, argv);
	else
		execvp("dormoused", argv);
	err_sys(&e, -errno, "dormoused, beside this program or in PATH");
	return cli_fail(c, &e);
}

/* A guest wrote this: on a terminal, it must not be able to give it orders. */
static int print_console(const char *text, size_t len)
{
	bool terminal = isatty(STDOUT_FILENO);

	for (size_t i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)text[i];
		bool order = (ch < 0x20 && ch != '\n' && ch != '\t') || (ch >= 0x7f && ch < 0xa0);

		if (terminal && ch == '\r')
			continue;
		putchar(terminal && order ? '?' : ch);
	}
	return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}

/* JSON holds UTF-8 only; a console may hold anything. */
static json_t *console_json(char *text, size_t len)
{
	json_t *v = json_stringn(text, len);

	if (v)
		return v;
	for (size_t i = 0; i < len; i++)
		text[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	return json_stringn(text, len);
}

int cmd_logs(struct cli *c, int argc, char **argv)
{
	char path[300];
	struct http_request r = {.method = "GET", .path = path};
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code;

	if (!cli_no_options(c, argc, argv, 1, 1, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/console", argv[optind]);
	code = cli_connect(c, &h);
	if (!code && http_call(&h, &r, &a, &e) < 0)
		code = cli_fail(c, &e);
	else if (!code && c->json)
		code = cli_print_json(json_pack("{s:s, s:o}", "sandboxID", argv[optind], "console",
						console_json(a.text, a.length)));
	else if (!code)
		code = print_console(a.text, a.length);
	http_answer_fini(&a);
	http_fini(&h);
	return code;
}
