/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A WebSocket against a client that says anything; and headers of a handshake.
 *
 * Input: a byte that says how much of the rest came with the handshake, then what the client sends.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handshake(const uint8_t *data, size_t size)
{
	char text[4][256], accept[WS_ACCEPT_SIZE];
	struct ws_handshake h = {"GET",	  "HTTP/1.1", text[0], text[1], text[2],
				 text[3], NULL,	      NULL,    false};

	for (int i = 0; i < 4; i++) {
		size_t n = size / 4 < 255 ? size / 4 : 255;

		memcpy(text[i], data + (size_t)i * (size / 4), n);
		text[i][n] = '\0';
	}
	if (!ws_handshake_check(&h, accept, NULL) && strlen(accept) != WS_ACCEPT_SIZE - 1)
		abort();
}

static void drain(int fd)
{
	char buf[4096];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t early, total = 0;
	bool in_message = false;
	struct ws_piece p;
	struct ws *w;
	int fds[2], rc;

	if (!size)
		return 0;
	handshake(data, size);
	early = data[0] < size ? data[0] : size - 1;
	if (size > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return 0;
	w = ws_new(fds[0], data + 1, early);
	if (size - 1 - early &&
	    send(fds[1], data + 1 + early, size - 1 - early, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		abort();
	shutdown(fds[1], SHUT_WR);
	/* The socket has an end, so this has one, too. */
	while (w && (rc = ws_recv(w, &p)) >= 0) {
		if (!rc) {
			/* Pongs must go out before more is read. */
			ws_wait(w, -1, true, 0);
			drain(fds[1]);
			continue;
		}
		/* Pieces of a message come one after the other, and nothing is invented. */
		if (p.first == in_message)
			abort();
		in_message = !p.last;
		total += p.len;
		if (total > size)
			abort();
	}
	if (w)
		ws_close(w, WS_NORMAL, "end");
	ws_free(w);
	close(fds[0]);
	close(fds[1]);
	return 0;
}
