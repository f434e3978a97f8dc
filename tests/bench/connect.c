/* SPDX-License-Identifier: Apache-2.0 */
/* Runs in the guest: connect N ADDRESS PORT: N connections, one after the other, each of which gets
 * a byte and is closed. Prints the seconds that all took. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	double begun = now_s();

	if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons((uint16_t)atoi(argv[3]));
	for (int n = atoi(argv[1]); n > 0; n--) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		char byte;

		if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) ||
		    read(fd, &byte, 1) != 1) {
			perror("a connection");
			return 1;
		}
		close(fd);
	}
	printf("%.6f\n", now_s() - begun);
	return 0;
}
