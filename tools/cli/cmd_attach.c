/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse attach, and exec with -i or -d: clients of started commands. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/session.h"

int cli_follow_session(struct cli *c, struct http *h, const char *sandbox, const char *id,
		       unsigned int flags)
{
	struct session s = {.c = c,
			    .h = h,
			    .sandbox = sandbox,
			    .id = id,
			    .with_stdin = flags & FOLLOW_STDIN,
			    .kill_on_stop = flags & FOLLOW_KILL,
			    .replay = flags & FOLLOW_REPLAY};
	struct err e = {0};
	int rc = session_follow(&s, &e);

	if (rc && s.kill_on_stop && (rc == -EINTR || rc == -EPIPE))
		session_kill(&s);
	if (rc == -EINTR)
		return EXIT_INTERRUPTED;
	if (rc) {
		cli_fail(c, &e);
		return EXIT_EXEC_FAILED;
	}
	if (s.code >= 0 && s.code <= 255)
		return s.code;
	return flags & FOLLOW_TIMEOUT ? EXIT_EXEC_TIMEOUT : EXIT_EXEC_FAILED;
}

int cli_start_session(struct cli *c, struct http *h, const char *sandbox, const json_t *body,
		      char id[64], json_t **answer)
{
	char path[300];
	struct http_request r = {.method = "POST", .path = path, .json = body};
	struct http_answer a;
	struct err e = {0};
	const char *text;
	int rc, code = EXIT_EXEC_FAILED;

	snprintf(path, sizeof(path), "/sandboxes/%.200s/exec", sandbox);
	rc = http_call(h, &r, &a, &e);
	text = json_string_value(json_object_get(a.json, "sessionID"));
	if (rc == -EINTR) {
		code = EXIT_INTERRUPTED;
	} else if (rc < 0) {
		cli_fail(c, &e);
	} else if (!text || cli_check_id(c, text)) {
		err_set(&e, -EIO, "the answer makes no sense");
		cli_fail(c, &e);
	} else {
		snprintf(id, 64, "%.60s", text);
		*answer = json_incref(a.json);
		code = 0;
	}
	http_answer_fini(&a);
	return code;
}

int cmd_attach(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"interactive", no_argument, NULL, 'i'}, {0}};
	unsigned int flags = FOLLOW_REPLAY;
	enum cli_opt what;
	struct http h;
	int opt, code;

	while ((what = cli_getopt(c, argc, argv, "+hi", options, &opt)) == CLI_OPT_OTHER)
		flags |= FOLLOW_STDIN;
	if (what != CLI_OPT_DONE)
		return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (c->json)
		return cli_usage_error(c, "there is no --json here");
	if (cli_check_count(c, argc - optind, 2, 2))
		return EXIT_USAGE;
	if (cli_check_id(c, argv[optind]) || cli_check_id(c, argv[optind + 1]))
		return EXIT_USAGE;
	code = cli_connect(c, &h);
	if (code)
		return code;
	h.stop = cli_catch_interrupt();
	code = cli_follow_session(c, &h, argv[optind], argv[optind + 1], flags);
	http_fini(&h);
	return code;
}
