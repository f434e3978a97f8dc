/* SPDX-License-Identifier: Apache-2.0 */
/* What the steps of a manifest come to: scripts, files, lines. See manifest.h. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base64.h"
#include "server/manager/manifest.h"

/* --- files ----------------------------------------------------------------------------------- */

size_t step_files(const struct step *s)
{
	if (s->type == STEP_ADD_FILE)
		return 1;
	return s->type == STEP_ADD_DIR ? json_array_size(json_object_get(s->args, "files")) : 0;
}

static int fill_data(struct manifest_file *f, const json_t *content, bool encoded)
{
	const char *text = json_string_value(content);
	size_t len = json_string_length(content);

	f->data = malloc(len + 1);
	if (!f->data)
		return -ENOMEM;
	if (encoded) {
		f->len = (size_t)base64_decode(text, len, f->data);
	} else {
		memcpy(f->data, text, len);
		f->len = len;
	}
	return 0;
}

int step_file(const struct step *s, size_t i, struct manifest_file *f)
{
	const char *path = json_string_value(json_object_get(s->args, "path")), *below;
	const json_t *file = s->args;
	bool encoded = true;

	memset(f, 0, sizeof(*f));
	if (s->type == STEP_ADD_FILE) {
		encoded = json_is_string(json_object_get(file, "encoding"));
		f->path = strdup(path);
	} else {
		file = json_array_get(json_object_get(s->args, "files"), i);
		below = json_string_value(json_object_get(file, "relativePath"));
		if (asprintf(&f->path, "%s/%s", path, below) < 0)
			f->path = NULL;
	}
	if (f->path && !fill_data(f, json_object_get(file, "content"), encoded))
		return 0;
	free(f->path);
	f->path = NULL;
	return -ENOMEM;
}

/* --- scripts ----------------------------------------------------------------------------------
 */

/* In braces of their own lines, so that a command may have several, or end with a comment or a
 * here document. */
char *step_script(const struct step *s)
{
	char *script = NULL;
	size_t i, size;
	FILE *f = open_memstream(&script, &size);
	const json_t *command;

	if (!f)
		return NULL;
	json_array_foreach(json_object_get(s->args, "commands"), i, command)
	{
		/* An empty one would be a syntax error. */
		fprintf(f, "%s{ :\n%s\n}", i ? " && " : "", json_string_value(command));
	}
	if (!fclose(f))
		return script;
	free(script);
	return NULL;
}

/* --- the environment --------------------------------------------------------------------------
 */

/* Does the line set one of @vars? Its name is in front of '=', maybe after "export". */
static bool sets_one(const char *line, size_t len, const json_t *vars)
{
	char name[257];
	size_t n;

	while (len && (*line == ' ' || *line == '\t'))
		line++, len--;
	if (len > 7 && !memcmp(line, "export ", 7))
		line += 7, len -= 7;
	for (n = 0; n < len && line[n] != '='; n++)
		;
	if (n == len || n >= sizeof(name))
		return false;
	memcpy(name, line, n);
	name[n] = '\0';
	return json_object_get(vars, name) != NULL;
}

static void keep_lines(FILE *f, const char *old, const json_t *vars)
{
	while (old && *old) {
		size_t len = strcspn(old, "\n");

		if (!sets_one(old, len, vars))
			fprintf(f, "%.*s\n", (int)len, old);
		old += len + (old[len] == '\n');
	}
}

/* Nothing means anything between single quotes; they themselves are written outside. */
static void write_quoted(FILE *f, const char *value)
{
	fputc('\'', f);
	for (; *value; value++)
		if (*value == '\'')
			fputs("'\\''", f);
		else
			fputc(*value, f);
	fputc('\'', f);
}

char *environment_merge(const char *old, const json_t *vars, bool shell)
{
	char *text = NULL;
	const json_t *value;
	const char *name;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	keep_lines(f, old, vars);
	json_object_foreach((json_t *)vars, name, value)
	{
		fprintf(f, "%s%s=", shell ? "export " : "", name);
		/* In /etc/environment the outer quotes go, and nothing else has a meaning. */
		if (shell)
			write_quoted(f, json_string_value(value));
		else
			fprintf(f, "\"%s\"", json_string_value(value));
		fputc('\n', f);
	}
	if (!fclose(f))
		return text;
	free(text);
	return NULL;
}
