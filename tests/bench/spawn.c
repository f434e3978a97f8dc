/* SPDX-License-Identifier: Apache-2.0 */
/* Runs in the guest: spawn N PROGRAM [ARG...]: the times of posix_spawn() + wait, one a line, in
 * ns. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	for (int n = atoi(argv[1]); n > 0; n--) {
		long long begun = now_ns();
		int status;
		pid_t pid;

		if (posix_spawn(&pid, argv[2], NULL, NULL, argv + 2, environ) ||
		    waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "%s did not run, or failed\n", argv[2]);
			return 1;
		}
		printf("%lld\n", now_ns() - begun);
	}
	return 0;
}
