/* SPDX-License-Identifier: Apache-2.0 */
/* Which checkpoint is meant; see checkpoint.h. */
#include "tools/cli/checkpoint.h"

#include <ctype.h>
#include <string.h>

#include "tools/cli/output.h"

bool checkpoint_is_id(const char *text)
{
	size_t i;

	for (i = 0; text[i]; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	}
	return i == CHECKPOINT_ID_MAX - 1;
}

json_t *checkpoint_list(struct cli *c, struct http *h, const char *sandbox, int *code)
{
	char path[300];
	struct http_request r = {.method = "GET", .path = path};
	struct http_answer a;
	struct err e = {0};
	json_t *list = NULL;

	snprintf(path, sizeof(path), "/sandboxes/%.200s/checkpoints", sandbox);
	*code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e)
					     : output_check_type(c, a.json, JSON_ARRAY);
	if (!*code)
		list = json_incref(a.json);
	http_answer_fini(&a);
	return list;
}

int checkpoint_find(struct cli *c, struct http *h, const char *sandbox, const char *ref, char *id)
{
	const char *name, *found = NULL;
	struct err e;
	json_t *list, *item;
	size_t i;
	int code;

	if (checkpoint_is_id(ref)) {
		strcpy(id, ref);
		return 0;
	}
	list = checkpoint_list(c, h, sandbox, &code);
	json_array_foreach(list, i, item)
	{
		name = json_string_value(json_object_get(item, "name"));
		if (name && !strcmp(name, ref))
			found = json_string_value(json_object_get(item, "id"));
	}
	if (found && checkpoint_is_id(found)) {
		strcpy(id, found);
	} else if (list) {
		err_set(
		    &e, 0,
		    "%.60s has no checkpoint \"%.80s\"; `dormouse checkpoints %.60s` lists them",
		    sandbox, ref, sandbox);
		code = cli_fail(c, &e);
	}
	json_decref(list);
	return code;
}

int checkpoint_find_global(struct cli *c, struct http *h, const char *ref, char *id)
{
	const char *colon = strchr(ref, ':');
	char sandbox[100];

	if (checkpoint_is_id(ref)) {
		strcpy(id, ref);
		return 0;
	}
	if (!colon || colon == ref || !colon[1] || (size_t)(colon - ref) >= sizeof(sandbox))
		return cli_usage_error(
		    c, "\"%s\" is neither the id of a checkpoint nor SANDBOX:NAME", ref);
	memcpy(sandbox, ref, (size_t)(colon - ref));
	sandbox[colon - ref] = '\0';
	if (cli_check_id(c, sandbox))
		return EXIT_USAGE;
	return checkpoint_find(c, h, sandbox, colon + 1, id);
}
