/* SPDX-License-Identifier: Apache-2.0 */
/* JSON lines with the controller; see control.h. */
#include "server/net/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"

void control_init(struct control *c, control_handle *handle, void *arg)
{
	*c = (struct control){.fd = -1, .handle = handle, .arg = arg};
}

void control_fini(struct control *c)
{
	fd_close(&c->fd);
	free(c->in);
	c->in = NULL;
	c->used = 0;
}

void control_accept(struct control *c, int fd)
{
	control_fini(c);
	c->in = malloc(CONTROL_LINE_MAX);
	if (!c->in) {
		close(fd);
		return;
	}
	c->fd = fd;
}

bool control_send(struct control *c, json_t *message)
{
	char *text = c->fd >= 0 && message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t len;

	json_decref(message);
	if (!text)
		return false;
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	/* Who lets so much pile up that a line does not fit is no controller. */
	if (send(c->fd, text, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)(len + 1))
		control_fini(c);
	free(text);
	return c->fd >= 0;
}

static void handle_line(struct control *c, const char *text, size_t len)
{
	json_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	const char *op = json_string_value(json_object_get(line, "op"));
	json_t *answer = json_pack("{sb}", "ok", 1);
	json_t *id = json_object_get(line, "id");
	struct err e;
	int rc;

	if (!op)
		rc = err_set(&e, -EINVAL, "not a line of JSON with an \"op\"");
	else
		rc = c->handle(c->arg, op, line, answer, &e);
	if (rc) {
		const char *name = strerrorname_np(-rc);

		json_decref(answer);
		answer = json_pack("{sbs{ssss}}", "ok", 0, "error", "code", name ? name : "EIO",
				   "message", e.msg);
	}
	if (id)
		json_object_set(answer, "id", id);
	control_send(c, answer);
	json_decref(line);
}

bool control_read(struct control *c)
{
	ssize_t n = recv(c->fd, c->in + c->used, CONTROL_LINE_MAX - c->used, MSG_DONTWAIT);
	size_t start = 0;
	char *nl;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n > 0)
		c->used += (size_t)n;
	while (n > 0 && c->fd >= 0 && (nl = memchr(c->in + start, '\n', c->used - start))) {
		size_t end = (size_t)(nl - c->in);

		handle_line(c, c->in + start, end - start);
		start = end + 1;
	}
	if (n <= 0 || c->fd < 0 || (!start && c->used == CONTROL_LINE_MAX)) {
		control_fini(c);
		return false;
	}
	c->used -= start;
	memmove(c->in, c->in + start, c->used);
	return true;
}
