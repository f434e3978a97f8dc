/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect N ADDRESS PORT [ask]: in the guest: N connections, one after the other, each of which
 * gets a byte and is closed. Prints the seconds that all took. ask: it sends a byte before.
 *
 * connect serve PORT [ask]: the other end. As small as can be: what it takes is in the time of all
 * that are compared.
 */
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int serve(uint16_t port, bool ask)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 128)) {
		perror("listening");
		return 1;
	}
	for (;;) {
		int c = accept(fd, NULL, NULL);
		char byte;

		if (c < 0 || (ask && recv(c, &byte, 1, 0) != 1) ||
		    send(c, "x", 1, MSG_NOSIGNAL) != 1)
			perror("a connection");
		close(c);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	bool ask = argc > 3 && !strcmp(argv[argc - 1], "ask");
	double begun = now_s();

	argc -= ask;
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve((uint16_t)atoi(argv[2]), ask);
	if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons((uint16_t)atoi(argv[3]));
	for (int n = atoi(argv[1]); n > 0; n--) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		char byte;

		if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) ||
		    (ask && write(fd, "?", 1) != 1) || read(fd, &byte, 1) != 1) {
			perror("a connection");
			return 1;
		}
		close(fd);
	}
	printf("%.6f\n", now_s() - begun);
	return 0;
}
