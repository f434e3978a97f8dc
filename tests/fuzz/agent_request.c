/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent against a client, and an image, that say anything. Nothing is
 * executed and no file is touched: requests are parsed, and frames drive a
 * session that has no process.
 *
 * Input: a byte that chooses what, then the bytes for it.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "guest-kernel/agent/env.h"
#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/request.h"
#include "guest-kernel/agent/tty.h"
#include "lib/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_request(const uint8_t *data, size_t size)
{
	struct request r;
	char path[PATH_MAX];

	if (!size)
		return;
	if (!request_parse(data[0] & 0x3f, data + 1, size - 1, &r, NULL)) {
		/* Checked: so these hold. */
		if (r.type == PROTO_EXEC &&
		    (!r.session || !r.argc || !r.argv[0][0] || r.argv[r.argc] ||
		     r.flags & ~PROTO_EXEC_FLAGS || !r.rows || r.rows > 65535 || !r.cols ||
		     r.cols > 65535))
			__builtin_trap();
		if (r.type == PROTO_CONNECT && (!r.session || !r.port || r.port > 65535))
			__builtin_trap();
		if (r.type == PROTO_RENEW &&
		    (r.generation_len != PROTO_GENERATION_LEN || !r.entropy_len ||
		     r.entropy_len > PROTO_ENTROPY_MAX || r.realtime_ns > INT64_MAX ||
		     (r.machine_id && strlen(r.machine_id) != PROTO_MACHINE_ID_LEN)))
			__builtin_trap();
		if (r.path && !path_resolve("/home/sandbox", r.path, path) &&
		    (path[0] != '/' || strstr(path, "/../") || strstr(path, "//")))
			__builtin_trap();
	}
	request_fini(&r);
}

static void compose_env(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct env v = {0};

	memcpy(text, data, size);
	text[size] = '\0';
	env_add(&v, "PATH=x");
	env_add_file(&v, text);
	if (!env_finish(&v))
		for (size_t i = 0; i < v.len; i++)
			if (!strchr(v.list[i], '=') || v.list[i][0] == '=')
				__builtin_trap();
	env_fini(&v);
	free(text);
}

/* One for all runs: that somebody reads what the session writes to it is not needed. */
static void give_terminal(struct session *s)
{
	static const struct user nobody = {.uid = 65534};
	static int master = -1, slave = -1;

	if (master < 0 && tty_open(&nobody, 24, 80, &master, &slave))
		__builtin_trap();
	tcflush(slave, TCIOFLUSH);
	s->terminal = true;
	s->in_fd = fcntl(master, F_DUPFD_CLOEXEC, 0);
	s->out_fd[0] = fcntl(master, F_DUPFD_CLOEXEC, 0);
}

/* Frames that belong to a running exec, terminal or tunnel, and everything else. */
static void drive(const uint8_t *data, size_t size, bool tunnel, bool terminal)
{
	static const uint64_t sent[2] = {0, 0};
	struct sessions t;
	struct session *s;
	struct peer p;
	int fds[2], in[2], end;

	signal(SIGPIPE, SIG_IGN); /* the agent blocks all signals */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) ||
	    (tunnel ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in)
		    : pipe2(in, O_CLOEXEC)))
		return;
	if (size > 60000)
		size = 60000;
	if (size && send(fds[1], data, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		size = 0;
	shutdown(fds[1], SHUT_WR);
	sessions_init(&t);
	if (!peer_init(&p, fds[0]) && !sessions_add(&t, 1, &p, &s, NULL)) {
		s->in_fd = in[1];
		if (terminal) {
			close(in[1]);
			give_terminal(s);
		}
		fd_set_nonblock(s->in_fd);
		session_say(s, 0, "some output", 11);
		session_say(s, 1, "and more", 8);
		if (tunnel) {
			s->tunnel = true;
			s->out_fd[0] = dup(s->in_fd);
			t.orphan_ms = 0;
			if (send(in[0], "from the port", 13, MSG_NOSIGNAL) < 0)
				__builtin_trap();
		}
		end = session_drive(&t, s, &p, 2, sent);
		/* Only a tunnel can be ended by what the client says. */
		if (end != DRIVE_LOST && !(tunnel && end == DRIVE_FINISHED && s->finished))
			__builtin_trap();
		if (tunnel && session_drive(&t, s, &p, 2, sent) != DRIVE_FINISHED)
			__builtin_trap();
		if (s->in.end - s->in.start > PROTO_WINDOW || s->out[0].start > s->out[0].end)
			__builtin_trap();
		peer_fini(&p);
	}
	sessions_fini(&t);
	close(in[0]);
	close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	switch (data[0] % 5) {
	case 0:
	case 1:
		parse_request(data + 1, size - 1);
		break;
	case 2:
		compose_env(data + 1, size - 1);
		break;
	case 3:
		drive(data + 1, size - 1, false, data[0] & 0x80);
		break;
	case 4:
		drive(data + 1, size - 1, true, false);
	}
	return 0;
}
