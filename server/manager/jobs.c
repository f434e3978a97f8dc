/* SPDX-License-Identifier: Apache-2.0 */
/* Background work; see jobs.h. */
#include "server/manager/jobs.h"

#include <errno.h>
#include <stdlib.h>

#define JOB_STACK (512u << 10) /* only what is touched is used */

struct job {
	struct jobs *jobs;
	void (*fn)(void *arg);
	void *arg;
};

void jobs_init(struct jobs *j)
{
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->ended, NULL);
	j->running = 0;
}

static void end_job(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	j->running--;
	pthread_cond_broadcast(&j->ended);
	pthread_mutex_unlock(&j->lock);
}

static void *job_main(void *arg)
{
	struct job job = *(struct job *)arg;

	free(arg);
	job.fn(job.arg);
	end_job(job.jobs);
	return NULL;
}

int jobs_run(struct jobs *j, void (*fn)(void *arg), void *arg)
{
	struct job *job = malloc(sizeof(*job));
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	if (!job)
		return -ENOMEM;
	*job = (struct job){j, fn, arg};
	pthread_mutex_lock(&j->lock);
	j->running++;
	pthread_mutex_unlock(&j->lock);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, JOB_STACK);
	rc = -pthread_create(&thread, &attr, job_main, job);
	pthread_attr_destroy(&attr);
	if (rc) {
		free(job);
		end_job(j);
	}
	return rc;
}

void jobs_wait(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	while (j->running)
		pthread_cond_wait(&j->ended, &j->lock);
	pthread_mutex_unlock(&j->lock);
}

void jobs_fini(struct jobs *j)
{
	pthread_mutex_destroy(&j->lock);
	pthread_cond_destroy(&j->ended);
}
