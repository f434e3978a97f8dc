/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP server of a test's own; see fake_server.h. */
#include "fake_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/cli.h"

/* Read up to the blank line; what came after it is in the same stream. */
static void read_head(FILE *in, struct fake_request *r)
{
	char line[2048];
	size_t length = 0;

	r->method[0] = '\0';
	if (!fgets(line, sizeof(line), in) ||
	    sscanf(line, "%15s %1023s", r->method, r->target) != 2)
		return;
	while (fgets(line, sizeof(line), in) && strcmp(line, "\r\n")) {
		sscanf(line, "Content-Length: %zu", &length);
		sscanf(line, "X-API-Key: %299[^\r\n]", r->api_key);
		if (!strncasecmp(line, "Transfer-Encoding: chunked", 26))
			r->chunked = true;
	}
	r->body_len = length;
}

static void read_body(FILE *in, struct fake_request *r)
{
	char line[64];
	size_t n;

	if (!r->chunked) {
		r->body = calloc(1, r->body_len + 1);
		r->body_len = fread(r->body, 1, r->body_len, in);
		return;
	}
	r->body = calloc(1, 1);
	r->body_len = 0;
	while (fgets(line, sizeof(line), in) && (n = strtoul(line, NULL, 16)) > 0) {
		r->body = realloc(r->body, r->body_len + n + 1);
		r->body_len += fread(r->body + r->body_len, 1, n, in);
		r->body[r->body_len] = '\0';
		fgets(line, sizeof(line), in);
	}
}

static void *serve(void *arg)
{
	struct fake_server *s = arg;

	for (;;) {
		int fd = accept(s->listen_fd, NULL, NULL);
		struct fake_request r = {0};
		FILE *in;
		size_t used;

		if (fd < 0)
			return NULL;
		in = fdopen(dup(fd), "r");
		read_head(in, &r);
		if (r.method[0]) {
			read_body(in, &r);
			used = strlen(s->log);
			snprintf(s->log + used, sizeof(s->log) - used, "%s %s %.200s\n", r.method,
				 r.target, r.body_len < 200 ? r.body : "");
			s->handler(s, &r, fd);
		}
		free(r.body);
		fclose(in);
		close(fd);
	}
}

static void listen_tcp(struct fake_server *s)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(s->listen_fd, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(listen(s->listen_fd, 16), 0);
	getsockname(s->listen_fd, (struct sockaddr *)&a, &len);
	snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%d", ntohs(a.sin_port));
}

void fake_start(struct fake_server *s, bool tcp,
		void (*handler)(struct fake_server *, const struct fake_request *, int fd))
{
	char path[100];
	struct err e;

	memset(s, 0, sizeof(*s));
	signal(SIGPIPE, SIG_IGN);
	snprintf(s->dir, sizeof(s->dir), "/tmp/dormouse-cli-XXXXXX");
	cr_assert_not_null(mkdtemp(s->dir));
	s->handler = handler;
	if (tcp) {
		listen_tcp(s);
	} else {
		snprintf(path, sizeof(path), "%s/sock", s->dir);
		snprintf(s->url, sizeof(s->url), "unix:%s", path);
		s->listen_fd = fd_unix_listen(path, 0600, &e);
		cr_assert_geq(s->listen_fd, 0);
		/* accept() here is to wait. */
		fcntl(s->listen_fd, F_SETFL, 0);
	}
	setenv("DORMOUSE_URL", s->url, 1);
	cr_assert_eq(pthread_create(&s->thread, NULL, serve, s), 0);
}

void fake_stop(struct fake_server *s)
{
	char command[100];

	shutdown(s->listen_fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->listen_fd);
	snprintf(command, sizeof(command), "rm -rf %s", s->dir);
	cr_assert_eq(system(command), 0);
}

void fake_reply_bytes(int fd, int status, const void *body, size_t len)
{
	char head[200];

	snprintf(head, sizeof(head),
		 "HTTP/1.1 %d Text\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
		 len);
	if (fd_write_full(fd, head, strlen(head)) == 0)
		fd_write_full(fd, body, len);
}

void fake_reply(int fd, int status, const char *body)
{
	fake_reply_bytes(fd, status, body, strlen(body));
}

int fake_dormouse(const char *first, ...)
{
	char *argv[20] = {(char *)"dormouse", (char *)first};
	int argc = 2;
	va_list ap;

	va_start(ap, first);
	while (argc < 19 && (argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	return cli_main(argc, argv);
}

/* --- file routes on a real directory --------------------------------------- */

static void decode(const char *in, char *out, size_t len)
{
	size_t n = 0;

	for (; *in && *in != '&' && n + 1 < len; in++) {
		unsigned int c;

		if (*in == '%' && sscanf(in + 1, "%2x", &c) == 1) {
			out[n++] = (char)c;
			in += 2;
		} else {
			out[n++] = *in;
		}
	}
	out[n] = '\0';
}

static void send_list(const char *path, int fd)
{
	json_t *list = json_array();
	DIR *d = opendir(path);
	struct dirent *entry;
	char *text;

	while ((entry = readdir(d))) {
		struct stat st;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW);
		json_array_append_new(list, json_pack("{s:s, s:b, s:I}", "name", entry->d_name,
						      "isDir", S_ISDIR(st.st_mode), "size",
						      (json_int_t)st.st_size));
	}
	closedir(d);
	text = json_dumps(list, JSON_COMPACT);
	fake_reply(fd, 200, text);
	free(text);
	json_decref(list);
}

void fake_files(struct fake_server *s, const struct fake_request *r, int fd)
{
	char path[600], wanted[300] = "";
	const char *query = strstr(r->target, "?path=");
	struct stat st = {0};
	bool exists;
	char *data;
	size_t len;

	decode(query ? query + 6 : "", wanted, sizeof(wanted));
	snprintf(path, sizeof(path), "%s/guest/%s", s->dir, wanted);
	exists = stat(path, &st) == 0;
	if (strstr(r->target, "/files/list?")) {
		if (exists && S_ISDIR(st.st_mode))
			send_list(path, fd);
		else
			fake_reply(fd, 500, "{\"error\":\"no such directory\"}");
	} else if (strstr(r->target, "/files/mkdir?")) {
		mkdir(path, 0755);
		fake_reply(fd, 204, "");
	} else if (!strcmp(r->method, "PUT")) {
		int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

		fake_reply(fd, out >= 0 && !fd_write_full(out, r->body, r->body_len) ? 204 : 500,
			   "");
		close(out);
	} else if (exists && S_ISDIR(st.st_mode)) {
		fake_reply(fd, 200, "");
	} else if (fd_read_file(AT_FDCWD, path, 1 << 28, &data, &len) == 0) {
		fake_reply_bytes(fd, 200, data, len);
		free(data);
	} else {
		fake_reply(fd, 500, "{\"error\":\"no such file\"}");
	}
}
