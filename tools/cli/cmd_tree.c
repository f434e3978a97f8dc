/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse tree: the checkpoints of sandboxes, as a tree. */
#include <langinfo.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/cli/output.h"
#include "tools/cli/tree.h"

static bool locale_is_utf8(void)
{
	return setlocale(LC_CTYPE, "") && !strcmp(nl_langinfo(CODESET), "UTF-8");
}

/* GET @path. Return: a new reference to an answer of @type, or NULL with *code set. */
static json_t *get(struct cli *c, struct http *h, const char *path, json_type type, int *code)
{
	struct http_request r = {.method = "GET", .path = path};
	struct http_answer a;
	struct err e = {0};
	json_t *v = NULL;

	*code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e) : output_check_type(c, a.json, type);
	if (!*code)
		v = json_incref(a.json);
	http_answer_fini(&a);
	return v;
}

static json_t *get_tree(struct cli *c, struct http *h, const char *id, int *code)
{
	char path[300];

	snprintf(path, sizeof(path), "/sandboxes/%.200s/tree", id);
	return get(c, h, path, JSON_OBJECT, code);
}

/* Return: a new array of the trees of all sandboxes, or NULL with *code set. */
static json_t *get_all_trees(struct cli *c, struct http *h, int *code)
{
	json_t *list = get(c, h, "/sandboxes", JSON_ARRAY, code), *item, *tree;
	json_t *trees = list ? json_array() : NULL;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const char *id = json_string_value(json_object_get(item, "sandboxID"));

		if (*code || !id || cli_check_id(c, id))
			continue;
		tree = get_tree(c, h, id, code);
		if (tree)
			json_array_append_new(trees, tree);
	}
	json_decref(list);
	return trees;
}

static int draw(const struct cli *c, const json_t *tree, bool utf8)
{
	return tree_draw(tree, utf8, stdout) < 0 ? output_check_type(c, NULL, JSON_OBJECT) : 0;
}

static int draw_trees(const struct cli *c, const json_t *trees, bool utf8)
{
	json_t *tree;
	size_t i;
	int code = 0;

	json_array_foreach(trees, i, tree)
	{
		if (i && !code)
			putchar('\n');
		if (!code)
			code = draw(c, tree, utf8);
	}
	return code;
}

int cmd_tree(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"ascii", no_argument, NULL, 'A'}, {0}};
	bool utf8 = true;
	enum cli_opt what;
	json_t *answer;
	struct http h;
	int opt, code;

	while ((what = cli_getopt(c, argc, argv, "h", options, &opt)) == CLI_OPT_OTHER)
		utf8 = false;
	if (what != CLI_OPT_DONE)
		return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (cli_check_count(c, argc - optind, 0, 1))
		return EXIT_USAGE;
	if (optind < argc && cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	code = cli_connect(c, &h);
	if (code)
		return code;
	answer = optind < argc ? get_tree(c, &h, argv[optind], &code) : get_all_trees(c, &h, &code);
	http_fini(&h);
	utf8 = utf8 && locale_is_utf8();
	if (!code && c->json)
		code = cli_print_json(json_incref(answer));
	else if (!code)
		code = json_is_array(answer) ? draw_trees(c, answer, utf8) : draw(c, answer, utf8);
	json_decref(answer);
	return code;
}
