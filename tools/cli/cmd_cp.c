/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse cp: its arguments and what both directions need. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/cp.h"
#include "tools/cli/table.h"

void cp_parse_side(const char *text, struct cp_side *s)
{
	const char *colon = strchr(text, ':');
	size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	*s = (struct cp_side){.path = text, .stdio = !strcmp(text, "-")};
	if (!colon || n == 0 || text + n != colon || n >= sizeof(s->id))
		return;
	s->remote = true;
	memcpy(s->id, text, n);
	s->path = colon[1] ? colon + 1 : ".";
}

int cp_base_name(const char *path, char *out, size_t len)
{
	size_t end = strlen(path), start;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/';)
		start--;
	if (start == end || end - start >= len)
		return -EINVAL;
	memcpy(out, path + start, end - start);
	out[end - start] = '\0';
	return strcmp(out, ".") && strcmp(out, "..") ? 0 : -EINVAL;
}

char *cp_join(const char *dir, const char *name)
{
	size_t n = strlen(dir);
	char *out;

	return asprintf(&out, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name) < 0 ? NULL
											  : out;
}

char *cp_url(const struct cp *x, const char *what, const char *path)
{
	cleanup_free char *escaped = http_escape(path);
	char *out;

	if (!escaped || asprintf(&out, "/sandboxes/%s/%s?path=%s", x->id, what, escaped) < 0)
		return NULL;
	return out;
}

int cp_list(struct cp *x, const char *path, json_t **list, struct err *e)
{
	cleanup_free char *url = cp_url(x, "files/list", path);
	struct http_request r = {.method = "GET", .path = url};
	struct http_answer a;
	int rc;

	if (!url)
		return err_set(e, -ENOMEM, "out of memory");
	rc = http_call(&x->h, &r, &a, e);
	/* 404 and 410 are about the sandbox; on one that lives, the server has 500 for the path. */
	if (rc == -EREMOTEIO && (a.status == 500 || a.status == 400))
		rc = -ENOTDIR;
	if (rc == 0 && json_is_array(a.json))
		*list = json_incref(a.json);
	else if (rc == 0)
		*list = json_array();
	http_answer_fini(&a);
	return rc;
}

void cp_skip(struct cp *x, const char *path, const char *why)
{
	char clean[500];

	x->skipped++;
	fprintf(stderr, "dormouse cp: %s: skipped: %s\n", table_clean(path, clean, sizeof(clean)),
		why);
}

static int copy(struct cp *x, const struct cp_side *from, const struct cp_side *to, struct err *e)
{
	if (from->stdio)
		return cp_upload_fd(x, STDIN_FILENO, -1, to->path, e);
	if (to->stdio)
		return cp_download_fd(x, from->path, STDOUT_FILENO, &x->bytes, e);
	if (to->remote)
		return cp_upload(x, from->path, to->path, e);
	return cp_download(x, from->path, to->path, e);
}

int cmd_cp(struct cli *c, int argc, char **argv)
{
	struct cp x = {.c = c};
	struct cp_side from, to;
	struct err e = {0};
	int code, rc;

	if (!cli_no_options(c, argc, argv, 2, 2, &code))
		return code;
	cp_parse_side(argv[optind], &from);
	cp_parse_side(argv[optind + 1], &to);
	if (from.remote == to.remote)
		return cli_usage_error(c,
				       "one of the two is in a sandbox (ID:PATH), the other here");
	if (to.stdio && c->json)
		return cli_usage_error(c, "--json and the file cannot both go to stdout");
	x.id = from.remote ? from.id : to.id;
	code = cli_connect(c, &x.h);
	if (code)
		return code;
	x.h.stop = cli_catch_interrupt();
	rc = copy(&x, &from, &to, &e);
	http_fini(&x.h);
	if (rc == -EINTR)
		return EXIT_INTERRUPTED;
	if (rc < 0)
		return cli_fail(c, &e);
	if (c->json &&
	    cli_print_json(json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)x.files,
				     "directories", (json_int_t)x.directories, "bytes",
				     (json_int_t)x.bytes, "skipped", (json_int_t)x.skipped)))
		return EXIT_FAILED;
	return x.skipped ? EXIT_FAILED : EXIT_OK;
}
