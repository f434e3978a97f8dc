/* SPDX-License-Identifier: Apache-2.0 */
/* A dormouse-vmm process under measurement; see vmm.h. */
#include "tools/bench/vmm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/vmm_client.h"

#define READ_BYTES 65536

int vmm_start(struct vmm *v, const struct vmm_spawn *how, const char *dir, struct err *e)
{
	char own[sizeof(v->dir)], log[200];
	struct vmm_spawn s = *how;

	s.socket_path = v->socket;
	s.log_path = log;
	snprintf(own, sizeof(own), "%s", dir); /* it may be v->dir */
	*v = (struct vmm){.fd = -1, .pidfd = -1};
	memcpy(v->dir, own, sizeof(own));
	snprintf(v->socket, sizeof(v->socket), "%s/vmm.sock", v->dir);
	snprintf(log, sizeof(log), "%s/vmm.log", v->dir);
	v->events = json_array();
	return vmm_client_spawn(&s, &v->pid, &v->pidfd, e);
}

int vmm_connect(struct vmm *v, struct err *e)
{
	v->fd = fd_unix_connect(v->socket, e);
	return v->fd < 0 ? v->fd : 0;
}

void vmm_kill(const struct vmm *v)
{
	if (v->pid)
		kill(v->pid, SIGKILL);
}

void vmm_stop(struct vmm *v)
{
	if (!v->events)
		return;
	vmm_kill(v);
	if (v->pid)
		waitpid(v->pid, NULL, 0);
	v->pid = 0;
	fd_close(&v->pidfd);
	fd_close(&v->fd);
	free(v->buf);
	v->buf = NULL;
	json_decref(v->events);
	v->events = NULL;
}

int vmm_send(struct vmm *v, json_t *request, struct err *e)
{
	cleanup_free char *text = NULL;
	size_t len;
	int rc;

	if (request)
		json_object_set_new(request, "id", json_integer(++v->next_id));
	text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!text)
		return err_set(e, -ENOMEM, "out of memory");
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	v->sent_ns = clock_mono_ns();
	rc = fd_write_full(v->fd, text, len + 1);
	return rc < 0 ? err_sys(e, rc, "sending to the VMM in %s", v->dir) : 0;
}

/* Read more bytes, or fail with what the VMM's log says. */
static int fill(struct vmm *v, struct err *e)
{
	struct pollfd p = {.fd = v->fd, .events = POLLIN};
	ssize_t n;

	if (v->size - v->used < READ_BYTES) {
		char *grown = realloc(v->buf, v->size + READ_BYTES);

		if (!grown)
			return err_set(e, -ENOMEM, "out of memory");
		v->buf = grown;
		v->size += READ_BYTES;
	}
	if (poll(&p, 1, VMM_HANG_MS) == 0)
		return err_set(e, -ETIMEDOUT, "no answer of the VMM in %s", v->dir);
	n = read(v->fd, v->buf + v->used, v->size - v->used);
	if (n <= 0)
		return err_set(e, -EPIPE, "the VMM in %s has ended: see its vmm.log", v->dir);
	v->used += (size_t)n;
	return 0;
}

/* The next line. Return: 0 or -errno. */
static int next_line(struct vmm *v, json_t **line, struct err *e)
{
	json_error_t je;
	char *end;
	size_t len;

	while (v->used == 0 || !(end = memchr(v->buf, '\n', v->used))) {
		int rc = fill(v, e);

		if (rc < 0)
			return rc;
	}
	len = (size_t)(end - v->buf) + 1;
	*line = json_loadb(v->buf, len, 0, &je);
	memmove(v->buf, v->buf + len, v->used - len);
	v->used -= len;
	return *line ? 0 : err_set(e, -EPROTO, "the VMM's line is no JSON: %s", je.text);
}

static int check_answer(json_t *line, json_t **answer, struct err *e)
{
	const json_t *error = json_object_get(line, "error");
	const char *text = json_string_value(json_object_get(error, "message"));

	if (!json_is_true(json_object_get(line, "ok"))) {
		err_set(e, -EREMOTEIO, "%.240s", text ? text : "refused without a reason");
		json_decref(line);
		return -EREMOTEIO;
	}
	if (answer)
		*answer = line;
	else
		json_decref(line);
	return 0;
}

int vmm_finish(struct vmm *v, json_t **answer, struct err *e)
{
	json_t *line;
	int rc;

	for (;;) {
		rc = next_line(v, &line, e);
		if (rc < 0)
			return rc;
		if (json_object_get(line, "event"))
			json_array_append_new(v->events, line);
		else if (json_integer_value(json_object_get(line, "id")) == v->next_id)
			return check_answer(line, answer, e);
		else
			json_decref(line);
	}
}

int vmm_call(struct vmm *v, json_t *request, json_t **answer, struct err *e)
{
	const char *op = json_string_value(json_object_get(request, "op"));
	char name[40];
	int rc;

	snprintf(name, sizeof(name), "%s", op ? op : "?");
	rc = vmm_send(v, request, e);
	if (rc == 0)
		rc = vmm_finish(v, answer, e);
	return rc < 0 ? err_wrap(e, rc, "%s", name) : 0;
}

int vmm_op(struct vmm *v, const char *op, json_t **answer, struct err *e)
{
	return vmm_call(v, json_pack("{s:s}", "op", op), answer, e);
}

int vmm_event(struct vmm *v, const char *name, json_t **event, struct err *e)
{
	for (;;) {
		json_t *line = json_incref(json_array_get(v->events, 0));
		const char *got;
		int rc;

		if (line)
			json_array_remove(v->events, 0);
		rc = line ? 0 : next_line(v, &line, e);
		if (rc < 0)
			return rc;
		got = json_string_value(json_object_get(line, "event"));
		if (got && !strcmp(got, name)) {
			if (event)
				*event = line;
			else
				json_decref(line);
			return 0;
		}
		if (got && (!strcmp(got, "exit") || !strcmp(got, "panic")))
			rc = err_set(e, -EPIPE, "the machine ended (%s) before %s came", got, name);
		json_decref(line);
		if (rc < 0)
			return rc;
	}
}

int vmm_number(const json_t *answer, const char *field, double *out, struct err *e)
{
	const json_t *v = json_object_get(answer, field);

	if (!json_is_number(v))
		return err_set(e, -EPROTO, "the VMM's answer has no number %s", field);
	*out = json_number_value(v);
	return 0;
}
