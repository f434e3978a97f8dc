/* SPDX-License-Identifier: Apache-2.0 */
/* Reading Dockerfiles; see dockerfile.h. */
#include "server/manager/dockerfile.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/fd.h"

#define LINES_MAX  4000
#define MARKER_MAX 64

struct reader {
	const char *at; /* the next line; borrowed */
	int line;	/* of the last one that was read; 1 is the first */
	json_t *base;	/* owned; NULL: no FROM yet */
	json_t *steps;	/* owned */
	char user[64];
	char workdir[4096];
};

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory");
}

/* --- lines ----------------------------------------------------------------------------------- */

/* The next line as it is. Return: false at the end. */
static bool take_line(struct reader *r, const char **line, size_t *len)
{
	if (!*r->at)
		return false;
	*line = r->at;
	*len = strcspn(r->at, "\n");
	r->at += *len + (r->at[*len] == '\n');
	r->line++;
	if (*len && (*line)[*len - 1] == '\r')
		--*len;
	return true;
}

static const char *skip(const char *s)
{
	return s + strspn(s, " \t");
}

static bool is_comment(const char *line, size_t len)
{
	size_t blanks = strspn(line, " \t");

	return blanks < len && line[blanks] == '#';
}

/* An instruction: its lines joined where they end with a backslash, comments between them left
 * out. The caller frees. Return: 0 and NULL at the end; -errno */
static int take_instruction(struct reader *r, char **out, struct err *e)
{
	char *text = NULL;
	const char *line;
	size_t size, len;
	bool more = true, any = false;
	FILE *f = open_memstream(&text, &size);

	*out = NULL;
	if (!f)
		return no_memory(e);
	while (more && take_line(r, &line, &len)) {
		if (is_comment(line, len) || (!any && strspn(line, " \t") >= len))
			continue;
		while (len && (line[len - 1] == ' ' || line[len - 1] == '\t'))
			len--;
		more = len && line[len - 1] == '\\';
		fprintf(f, "%.*s", (int)(more ? len - 1 : len), line);
		any = true;
	}
	if (fclose(f)) {
		free(text);
		return no_memory(e);
	}
	if (any)
		*out = text;
	else
		free(text);
	return 0;
}

/* `<<EOF`: the lines up to one that is the marker. *@quoted: nothing in it is to be expanded.
 * @rest: what follows the marker. The caller frees @body. */
static int take_heredoc(struct reader *r, const char *text, char **body, bool *quoted,
			const char **rest, struct err *e)
{
	char marker[MARKER_MAX], *out = NULL;
	const char *p = text + 2, *line;
	size_t n, size, len;
	bool found = false;
	FILE *f;

	*quoted = *p == '"' || *p == '\'';
	n = strspn(p + *quoted, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
	if (!n || n >= sizeof(marker) || (*quoted && p[1 + n] != *p))
		return err_set(e, -EINVAL, "a here document needs a word behind <<");
	snprintf(marker, sizeof(marker), "%.*s", (int)n, p + *quoted);
	*rest = skip(p + n + (*quoted ? 2 : 0));
	f = open_memstream(&out, &size);
	if (!f)
		return no_memory(e);
	while (!found && take_line(r, &line, &len)) {
		found = len == n && !memcmp(line, marker, n);
		if (!found)
			fprintf(f, "%.*s\n", (int)len, line);
	}
	if (fclose(f)) {
		free(out);
		return no_memory(e);
	}
	if (!found) {
		free(out);
		return err_set(e, -EINVAL, "the here document has no end: %s", marker);
	}
	*body = out;
	return 0;
}

/* --- steps -------------------------------------------------------------------------------------
 */

/* @args: a new reference, taken over; NULL is no memory. */
static int add_step(struct reader *r, const char *type, json_t *args, struct err *e)
{
	json_t *step = args ? json_pack("{s:s, s:o}", "type", type, "args", args) : NULL;

	if (!step || json_array_append_new(r->steps, step))
		return err_set(e, -EINVAL, "not valid UTF-8");
	return 0;
}

static int add_run(struct reader *r, const char *command, struct err *e)
{
	return add_step(r, "run", json_pack("{s:[s], s:s}", "commands", command, "user", r->user),
			e);
}

/* RUN ["a", "b"]: a word each, for the shell. */
static int run_words(struct reader *r, const json_t *words, struct err *e)
{
	char *command = NULL;
	const json_t *word;
	size_t i, size;
	FILE *f = open_memstream(&command, &size);
	int rc = 0;

	if (!f)
		return no_memory(e);
	json_array_foreach(words, i, word)
	{
		if (!json_is_string(word))
			rc = err_set(e, -EINVAL, "RUN: a list of strings is expected");
		fputs(i ? " '" : "'", f);
		for (const char *p = rc ? "" : json_string_value(word); *p; p++)
			fputs(*p == '\'' ? "'\\''" : (const char[]){*p, '\0'}, f);
		fputc('\'', f);
	}
	if (fclose(f))
		rc = no_memory(e);
	else if (!rc && !json_array_size(words))
		rc = err_set(e, -EINVAL, "RUN: a command is required");
	if (!rc)
		rc = add_run(r, command, e);
	free(command);
	return rc;
}

static int do_run(struct reader *r, const char *text, struct err *e)
{
	cleanup_free char *body = NULL;
	const char *rest;
	json_t *words;
	bool quoted;
	int rc;

	if (!strncmp(text, "<<", 2)) {
		rc = take_heredoc(r, text, &body, &quoted, &rest, e);
		if (!rc && *rest)
			rc = err_set(e, -EINVAL, "RUN: nothing can follow the here document");
		return rc ? rc : add_run(r, body, e);
	}
	words = *text == '[' ? json_loads(text, 0, NULL) : NULL;
	rc = json_is_array(words) ? run_words(r, words, e) : add_run(r, text, e);
	json_decref(words);
	return rc;
}

/* One word with quotes and backslashes taken away; @s goes behind it. @out has room for it. */
static int take_word(const char **s, char *out, struct err *e)
{
	char quote = '\0';

	for (; **s && (quote || (**s != ' ' && **s != '\t')); ++*s) {
		char c = **s;

		if (quote == c || (!quote && (c == '"' || c == '\''))) {
			quote = quote ? '\0' : c;
			continue;
		}
		if (c == '\\' && quote != '\'' && (*s)[1])
			c = *++*s;
		else if (c == '$' && quote != '\'')
			return err_set(
			    e, -EINVAL,
			    "variables are not expanded here: use '$' in quotes like these");
		*out++ = c;
	}
	*out = '\0';
	return quote ? err_set(e, -EINVAL, "a quote has no end") : 0;
}

static int set_variable(json_t *vars, char *word, struct err *e)
{
	char *equals = strchr(word, '=');

	if (!equals || equals == word)
		return err_set(e, -EINVAL, "ENV: NAME=value is expected");
	*equals = '\0';
	return json_object_set_new(vars, word, json_string(equals + 1))
		   ? err_set(e, -EINVAL, "not valid UTF-8")
		   : 0;
}

/* ENV a=b c="d e", or the old form, ENV a value. */
static int do_env(struct reader *r, const char *text, struct err *e)
{
	cleanup_free char *word = malloc(strlen(text) + 2);
	json_t *vars = json_object();
	size_t name = strcspn(text, " \t=");
	int rc = word && vars ? 0 : no_memory(e);

	if (!rc && text[name] && text[name] != '=' && *skip(text + name)) {
		const char *rest = skip(text + name);

		memcpy(word, text, name);
		word[name] = '=';
		strcpy(word + name + 1, rest);
		if (strchr(rest, '$'))
			rc = err_set(e, -EINVAL, "variables are not expanded here");
		if (!rc)
			rc = set_variable(vars, word, e);
	} else {
		while (!rc && *text) {
			rc = take_word(&text, word, e);
			if (!rc)
				rc = set_variable(vars, word, e);
			text = skip(text);
		}
	}
	if (!rc)
		return add_step(r, "env", json_pack("{s:o}", "vars", vars), e);
	json_decref(vars);
	return rc;
}

static int do_workdir(struct reader *r, const char *text, struct err *e)
{
	char path[sizeof(r->workdir)];
	int n;

	if (strpbrk(text, "$\"'"))
		return err_set(e, -EINVAL, "WORKDIR: neither quotes nor variables are possible");
	n = *text == '/' ? snprintf(path, sizeof(path), "%s", text)
			 : snprintf(path, sizeof(path), "%s/%s", r->workdir, text);
	if (n >= (int)sizeof(path) || path[0] != '/')
		return err_set(e, -EINVAL, "WORKDIR: \"%.64s\" is not a path", text);
	memcpy(r->workdir, path, sizeof(path));
	return add_step(r, "workdir", json_pack("{s:s}", "path", path), e);
}

static int do_copy(struct reader *r, const char *text, struct err *e)
{
	cleanup_free char *body = NULL;
	const char *path;
	bool quoted;
	int rc;

	if (strncmp(text, "<<", 2) != 0)
		return err_set(e, -EINVAL,
			       "COPY: there are no files to copy, only content in a here document");
	rc = take_heredoc(r, text, &body, &quoted, &path, e);
	if (!rc && *path != '/')
		rc = err_set(e, -EINVAL, "COPY: an absolute path is expected");
	if (!rc && !quoted && strchr(body, '$'))
		rc = err_set(e, -EINVAL, "COPY: variables are not expanded here: write <<\"EOF\"");
	return rc ? rc
		  : add_step(r, "add_file", json_pack("{s:s, s:s}", "path", path, "content", body),
			     e);
}

static int do_user(struct reader *r, const char *text, struct err *e)
{
	if (strlen(text) >= sizeof(r->user) || strpbrk(text, " \t:$"))
		return err_set(e, -EINVAL, "USER: \"%.64s\" is no user", text);
	snprintf(r->user, sizeof(r->user), "%s", text);
	return 0;
}

static int do_from(struct reader *r, const char *text, struct err *e)
{
	size_t len = strcspn(text, " \t");
	static const char latest[] = ":latest";

	if (r->base)
		return err_set(e, -EINVAL, "FROM: one is possible");
	if (*skip(text + len) && strncasecmp(skip(text + len), "AS ", 3) != 0)
		return err_set(e, -EINVAL, "FROM: one template is expected");
	if (len > strlen(latest) && !memcmp(text + len - strlen(latest), latest, strlen(latest)))
		len -= strlen(latest);
	r->base = json_stringn(text, len);
	return r->base ? 0 : err_set(e, -EINVAL, "not valid UTF-8");
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static const struct {
	const char *name;
	int (*fn)(struct reader *r, const char *text, struct err *e);
} instructions[] = {
    {"FROM", do_from}, {"RUN", do_run},	  {"ENV", do_env},
    {"USER", do_user}, {"COPY", do_copy}, {"WORKDIR", do_workdir},
};

static int do_instruction(struct reader *r, const char *text, struct err *e)
{
	const char *rest;
	size_t len;

	text = skip(text);
	len = strcspn(text, " \t");
	rest = skip(text + len);
	for (size_t i = 0; i < sizeof(instructions) / sizeof(instructions[0]); i++) {
		if (strlen(instructions[i].name) != len ||
		    strncasecmp(instructions[i].name, text, len) != 0)
			continue;
		if (!r->base && instructions[i].fn != do_from)
			return err_set(e, -EINVAL, "FROM must come first");
		if (!*rest)
			return err_set(e, -EINVAL, "%s: something must follow",
				       instructions[i].name);
		if (!strncmp(rest, "--", 2))
			return err_set(e, -EINVAL, "%s: flags are not possible",
				       instructions[i].name);
		return instructions[i].fn(r, rest, e);
	}
	return err_set(e, -EINVAL, "%.*s: only FROM, RUN, ENV, WORKDIR, USER and COPY are possible",
		       (int)(len < 32 ? len : 32), text);
}

static int read_all(struct reader *r, struct err *e)
{
	int rc = 0;

	while (!rc) {
		cleanup_free char *text = NULL;

		rc = take_instruction(r, &text, e);
		if (rc || !text)
			break;
		rc = r->line > LINES_MAX ? err_set(e, -EINVAL, "more than %d lines", LINES_MAX)
					 : do_instruction(r, text, e);
		if (rc)
			rc = err_wrap(e, rc, "dockerfile: line %d", r->line);
	}
	if (!rc && !r->base)
		rc = err_set(e, -EINVAL, "dockerfile: FROM is required");
	return rc;
}

int dockerfile_parse(const char *text, json_t **manifest, struct err *e)
{
	struct reader r = {.at = text, .steps = json_array(), .user = "root"};
	int rc = r.steps ? 0 : no_memory(e);

	if (!rc && strlen(text) > DOCKERFILE_MAX)
		rc = err_set(e, -EINVAL, "dockerfile: longer than %u bytes", DOCKERFILE_MAX);
	if (!rc)
		rc = read_all(&r, e);
	if (!rc) {
		*manifest = json_pack("{s:O, s:O}", "base", r.base, "steps", r.steps);
		rc = *manifest ? 0 : no_memory(e);
	}
	json_decref(r.base);
	json_decref(r.steps);
	return rc;
}
