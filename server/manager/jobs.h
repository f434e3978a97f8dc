/* SPDX-License-Identifier: Apache-2.0 */
/* Work that no request waits for, each piece on a thread of its own; they are counted. */
#ifndef SERVER_MANAGER_JOBS_H
#define SERVER_MANAGER_JOBS_H

#include <pthread.h>

struct jobs {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	unsigned int running;
};

void jobs_init(struct jobs *j);
/* Return: 0, or -errno and @fn is not called. */
int jobs_run(struct jobs *j, void (*fn)(void *arg), void *arg);
/* Until none runs. What they wait for must have been interrupted. */
void jobs_wait(struct jobs *j);
void jobs_fini(struct jobs *j);

#endif
