/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse forward: a local port that is a port of a sandbox.
 *
 * Each connection gets a thread and a connection to the server of its own, which
 * libcurl makes (TCP, TLS or the Unix socket) and which is raw bytes after a 101.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/cli.h"
#include "tools/cli/tunnel.h"

#define BACKLOG 64

struct forward {
	struct cli *c;
	struct endpoint ep;
	const char *id;
	unsigned int local, port;
};

struct connection {
	struct forward *f; /* borrowed; outlives all threads, which end with the process */
	int fd;
};

static int read_port(const struct cli *c, const char *text, long long min, unsigned int *port)
{
	long long n;

	if (cli_parse_number(c, "port", text, min, 65535, &n))
		return EXIT_USAGE;
	*port = (unsigned int)n;
	return 0;
}

/* [LOCAL:]PORT */
static int read_ports(const struct cli *c, char *text, struct forward *f)
{
	char *colon = strchr(text, ':');
	int code;

	if (colon) {
		*colon = '\0';
		code = read_port(c, text, 0, &f->local);
		return code ? code : read_port(c, colon + 1, 1, &f->port);
	}
	code = read_port(c, text, 1, &f->port);
	f->local = f->port;
	return code;
}

static int listen_local(struct forward *f, struct err *e)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)f->local),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len = sizeof(sa);
	int on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&sa, len) || listen(fd, BACKLOG) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len))
		return err_sys(e, -errno, "listen on 127.0.0.1:%u", f->local);
	f->local = ntohs(sa.sin_port);
	return fd_steal(&fd);
}

static void *serve(void *arg)
{
	struct connection x = *(struct connection *)arg;
	struct tunnel *t;
	char path[128];
	struct err e;

	free(arg);
	snprintf(path, sizeof(path), "/sandboxes/%s/tcp/%u", x.f->id, x.f->port);
	if (tunnel_open(&x.f->ep, path, &t, &e)) {
		fprintf(stderr, "dormouse forward: %s\n", e.msg);
	} else {
		tunnel_pump(t, x.fd);
		tunnel_close(t);
	}
	close(x.fd);
	return NULL;
}

static void take(struct forward *f, int listen_fd)
{
	struct connection *x = malloc(sizeof(*x));
	pthread_t thread;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (x)
		*x = (struct connection){f, fd};
	if (x && fd >= 0 && !pthread_create(&thread, NULL, serve, x)) {
		pthread_detach(thread);
		return;
	}
	if (fd >= 0)
		close(fd);
	free(x);
}

static int run(struct forward *f)
{
	const volatile sig_atomic_t *stop = cli_catch_interrupt();
	struct err e;
	int fd = listen_local(f, &e);

	if (fd < 0)
		return cli_fail(f->c, &e);
	printf("127.0.0.1:%u -> %s:%u\n", f->local, f->id, f->port);
	fflush(stdout);
	while (!*stop) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		/* The signal that sets the flag may come before the wait. */
		if (poll(&pfd, 1, 500) > 0)
			take(f, fd);
	}
	close(fd);
	return EXIT_OK;
}

int cmd_forward(struct cli *c, int argc, char **argv)
{
	struct forward f = {.c = c};
	struct http h;
	int code;

	if (!cli_no_options(c, argc, argv, 2, 2, &code))
		return code;
	f.id = argv[optind];
	code = cli_check_id(c, f.id);
	if (!code)
		code = read_ports(c, argv[optind + 1], &f);
	if (!code)
		code = cli_connect(c, &h);
	if (code)
		return code;
	f.ep = h.ep;
	code = run(&f);
	http_fini(&h);
	return code;
}
