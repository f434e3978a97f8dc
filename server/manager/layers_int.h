/* SPDX-License-Identifier: Apache-2.0 */
/* What layers.c and gc.c share. */
#ifndef SERVER_MANAGER_LAYERS_INT_H
#define SERVER_MANAGER_LAYERS_INT_H

#include <pthread.h>

#include "server/manager/layers.h"

struct pin {
	char id[UUID_SIZE];
	unsigned int count;
};

struct layers {
	int layers_fd, checkpoints_fd; /* directories */
	pthread_mutex_t lock;	       /* before the store's */
	struct pin *pins;	       /* owned; a few per operation in progress */
	size_t n, cap;

	pthread_cond_t done; /* with `lock`: a checkpoint is not being written any more */
	bool kicked;	     /* atomic: a collection is due */

	pthread_mutex_t gc_lock; /* one collection at a time; before `lock` */
};

#endif
