/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP server of a test's own on a Unix socket or on loopback, one request per connection. */
#ifndef TESTS_UNIT_CLI_FAKE_SERVER_H
#define TESTS_UNIT_CLI_FAKE_SERVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct fake_request {
	char method[16], target[1024]; /* target: path and query */
	char api_key[300];	       /* empty without the header */
	bool chunked;
	char *body; /* NUL-terminated */
	size_t body_len;
};

struct fake_server {
	int listen_fd;
	char url[200]; /* for DORMOUSE_URL */
	char dir[64];  /* scratch directory of the test */
	pthread_t thread;
	void (*handler)(struct fake_server *s, const struct fake_request *r, int fd);
	char log[8192]; /* "METHOD target body\n" of each request; read after fake_stop() */
};

/* Start one; DORMOUSE_URL is set to it. */
void fake_start(struct fake_server *s, bool tcp,
		void (*handler)(struct fake_server *, const struct fake_request *, int fd));
void fake_stop(struct fake_server *s);

void fake_reply(int fd, int status, const char *body);
void fake_reply_bytes(int fd, int status, const void *body, size_t len);

/* Run `dormouse ARGS...`, the last one NULL. Return: its exit code. */
int fake_dormouse(const char *first, ...);

/* Serves the file routes on the directory s->dir/guest. */
void fake_files(struct fake_server *s, const struct fake_request *r, int fd);

#endif
