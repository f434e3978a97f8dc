/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse patch add, ls, rm: scripts that run in the forks of a checkpoint. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/cli/checkpoint.h"
#include "tools/cli/cli.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

#define MAX_SCRIPT (1u << 20)

/* Read @path, or standard input for "-". Return: the text, to be freed, or NULL after printing. */
static char *read_script(const struct cli *c, const char *path)
{
	char *text = NULL;
	struct err e;
	int rc = fd_read_file(AT_FDCWD, strcmp(path, "-") ? path : "/dev/stdin", MAX_SCRIPT, &text,
			      NULL);

	if (rc < 0) {
		err_sys(&e, rc, "%.200s", path);
		cli_fail(c, &e);
		return NULL;
	}
	return text;
}

static void print_added(const json_t *answer)
{
	char clean[64];
	const char *id = json_string_value(json_object_get(json_object_get(answer, "patch"), "id"));

	puts(table_clean(id ? id : "?", clean, sizeof(clean)));
}

static void print_patches(const json_t *list)
{
	static const struct output_column columns[] = {
	    {"ID", "id", NULL},
	    {"SEQUENCE", "sequence", NULL},
	    {"AGE", "createdAt", output_age},
	    {"DESCRIPTION", "description", NULL},
	    {0},
	};

	output_list(list, columns);
}

/* The path of the patches of @ref, with room for the id of one. Return: 0 or an exit code. */
static int patches_path(struct cli *c, const char *ref, char *path, size_t len)
{
	char id[CHECKPOINT_ID_MAX];
	struct http h;
	int code = cli_connect(c, &h);

	if (!code)
		code = checkpoint_find_global(c, &h, ref, id);
	http_fini(&h);
	if (!code)
		snprintf(path, len, "/sandboxes/checkpoints/%s/patches", id);
	return code;
}

static int add(struct cli *c, int argc, char **argv, const char *description)
{
	cleanup_free char *script = NULL;
	char path[200];
	struct http_request r = {.method = "POST", .path = path};
	json_t *body;
	int code = cli_check_count(c, argc, 2, 2);

	if (code)
		return code;
	script = read_script(c, argv[1]);
	if (!script)
		return EXIT_FAILED;
	code = patches_path(c, argv[0], path, sizeof(path));
	if (code)
		return code;
	body = json_pack("{s:s, s:s}", "script", script, "description", description);
	if (!body)
		return cli_usage_error(c, "the script or its description is not valid UTF-8");
	r.json = body;
	code = output_call(c, &r, JSON_OBJECT, print_added);
	json_decref(body);
	return code;
}

static int list(struct cli *c, int argc, char **argv)
{
	char path[200];
	struct http_request r = {.method = "GET", .path = path};
	int code = cli_check_count(c, argc, 1, 1);

	if (!code)
		code = patches_path(c, argv[0], path, sizeof(path));
	return code ? code : output_call(c, &r, JSON_ARRAY, print_patches);
}

static int rm(struct cli *c, int argc, char **argv)
{
	char patches[200], path[300];
	struct http_request r = {.method = "DELETE", .path = path};
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code = cli_check_count(c, argc, 2, 2);

	if (!code && !checkpoint_is_id(argv[1]))
		code = cli_usage_error(
		    c, "\"%s\" is not the id of a patch; `dormouse patch ls` shows them", argv[1]);
	if (!code)
		code = patches_path(c, argv[0], patches, sizeof(patches));
	if (code)
		return code;
	code = cli_connect(c, &h);
	snprintf(path, sizeof(path), "%s/%s", patches, argv[1]);
	if (!code && http_call(&h, &r, &a, &e) < 0)
		code = cli_fail(c, &e);
	http_answer_fini(&a);
	http_fini(&h);
	if (code)
		return code;
	if (c->json)
		return cli_print_json(json_pack("{s:s, s:b}", "patch", argv[1], "removed", 1));
	puts(argv[1]);
	return EXIT_OK;
}

int cmd_patch(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"description", required_argument, NULL, 'd'}, {0}};
	const char *verb, *description = NULL;
	enum cli_opt what;
	int opt;

	while ((what = cli_getopt(c, argc, argv, "hd:", options, &opt)) == CLI_OPT_OTHER)
		description = optarg;
	if (what != CLI_OPT_DONE)
		return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (cli_check_count(c, argc - optind, 1, -1))
		return EXIT_USAGE;
	verb = argv[optind];
	argc -= optind + 1;
	argv += optind + 1;
	if (!strcmp(verb, "add"))
		return add(c, argc, argv, description ? description : "");
	if (description)
		return cli_usage_error(c, "--description is for add");
	if (!strcmp(verb, "ls"))
		return list(c, argc, argv);
	if (!strcmp(verb, "rm"))
		return rm(c, argc, argv);
	return cli_usage_error(c, "\"%s\" is none of add, ls, rm", verb);
}
