/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of the agent protocol against a guest that says anything.
 *
 * Input: a byte that chooses the request, a byte that chooses raw bytes or
 * frames, then either the bytes, or frames as {type, length (2), payload} that
 * get a valid header, so that the fuzzer need not find one.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/agent_conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_frames(int fd, struct reader *in)
{
	struct proto_buf b = {0};

	proto_begin(&b, PROTO_HELLO, 1);
	proto_put_tlv_u32(&b, PROTO_TAG_VERSION, 0, PROTO_VERSION);
	proto_put_tlv_u32(&b, PROTO_TAG_HELLO_FLAGS, 0, PROTO_HELLO_RENEW | PROTO_HELLO_CONNECT);
	proto_end(&b);
	while (reader_left(in) && b.len < 100000) {
		uint8_t type = read_u8(in);
		size_t len = read_u16(in);

		if (len > reader_left(in))
			len = reader_left(in);
		proto_begin(&b, type, 2);
		proto_put_bytes(&b, read_bytes(in, len), len);
		proto_end(&b);
	}
	if (send(fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		b.len = 0;
	proto_buf_fini(&b);
}

static void use_exec(struct agent_conn *c, unsigned int how)
{
	const char *argv[] = {"x", NULL};
	struct agent_exec_spec spec = {
	    .session = 1, .argv = argv, .flags = PROTO_EXEC_STDIN, .manual_ack = how != 0};
	volatile uint8_t sum = 0;
	struct agent_event ev;
	uint8_t stdin_data[600] = {0};

	if (how == 2 ? agent_tunnel_start(c, 1, 80, true, NULL)
	    : how    ? agent_exec_attach(c, 1, 5, 5, true, NULL)
		     : agent_exec_start(c, &spec, NULL))
		return;
	for (;;) {
		agent_exec_stdin(c, stdin_data, sizeof(stdin_data), NULL);
		agent_exec_winsize(c, 24, 80, NULL);
		if (agent_exec_next(c, -1, &ev, NULL))
			return;
		for (size_t i = 0; i < ev.len; i++)
			sum = (uint8_t)(sum + ev.data[i]);
		if (ev.type == AGENT_EXIT)
			return;
	}
}

static void use_files(struct agent_conn *c, unsigned int which)
{
	struct agent_entry entry;
	struct agent_stat st;
	uint8_t buf[777] = {0};

	switch (which) {
	case 0:
		if (!agent_read_open(c, "f", &st, NULL))
			while (agent_read(c, buf, sizeof(buf), NULL) > 0)
				;
		break;
	case 1:
		if (!agent_list_open(c, "d", NULL))
			while (agent_list_next(c, &entry, NULL) > 0)
				if (!entry.name[0] || strchr(entry.name, '/'))
					__builtin_trap();
		break;
	case 2:
		if (!agent_write_open(c, "f", NULL) && !agent_write(c, buf, sizeof(buf), NULL))
			agent_write_commit(c, NULL);
		break;
	case 3:
		agent_stat(c, "f", &st, NULL);
		break;
	default:
		agent_mkdir(c, "f", NULL);
	}
}

static void use_renew(struct agent_conn *c, unsigned int which)
{
	static const struct agent_identity id = {.realtime_ns = 1};
	struct err e;
	int rc;

	if (which == 0) {
		agent_freeze(c, true, NULL);
		return;
	}
	rc = agent_renew(c, &id, &e);
	/* Parts that failed are told in text, and leave the connection as it should be. */
	if (rc == -EREMOTEIO && !agent_conn_broken(c) && !e.msg[0])
		__builtin_trap();
	if (rc == 0 && agent_conn_broken(c))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_addr addr = {.timeout_ms = 1000};
	struct reader in = reader_of(data, size < 60000 ? size : 60000);
	uint8_t what = read_u8(&in), raw = read_u8(&in);
	struct agent_conn *c;
	int fds[2];

	if (in.failed || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return 0;
	if (raw & 2)
		addr.vsock_port = PROTO_AGENT_PORT;
	if ((raw & 2) && send(fds[1], "OK 1\n", 5, MSG_NOSIGNAL) < 0)
		return 0;
	if (raw & 1) {
		size_t left = reader_left(&in);

		if (send(fds[1], read_bytes(&in, left), left, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			addr.timeout_ms = 1000;
	} else {
		send_frames(fds[1], &in);
	}
	/* Everything the guest will ever say is there: nobody waits. */
	shutdown(fds[1], SHUT_WR);
	if (!conn_create(fds[0], &addr, &c, NULL)) {
		if (what & 0x80)
			use_renew(c, what & 1);
		else if (what % 8 < 2)
			use_exec(c, what & 0x40 ? 2 : what % 8);
		else
			use_files(c, what % 8 - 2);
		agent_close(c);
	}
	close(fds[1]);
	return 0;
}
