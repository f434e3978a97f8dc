/* SPDX-License-Identifier: Apache-2.0 */
/* The vCPUs' threads: entering the guest, parking, ending. See vm.h for the theory. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "vmm/vm.h"

/* #syscalls ioctl[1&0xff00==0xae00] tgkill[2==10] */

#define KICK_SIGNAL SIGUSR1
/* Only what is touched is used; KVM's exits need no depth. */
#define STACK_BYTES (64u << 10)
#define SPIN_NS	    50000

static void kick_handler(int sig)
{
	(void)sig; /* its arrival makes KVM_RUN return -EINTR */
}

static bool must_park(const struct vm *vm)
{
	return vm->hold || vm->request != VM_REQUEST_NONE;
}

/* For who measures a restore: by then the guest runs. */
static void note_first_exit(struct vcpu *v)
{
	struct vm *vm = v->vm;

	if (v->index == 0 && !__atomic_load_n(&vm->first_exit_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&vm->first_exit_ns, clock_mono_ns(), __ATOMIC_RELAXED);
}

/* Run the guest until KVM_RUN says that it was interrupted, or cannot go on. */
static void run_guest(struct vcpu *v)
{
	for (;;) {
		if (ioctl(v->fd, KVM_RUN, 0) == 0) {
			note_first_exit(v);
			vcpu_handle_exit(v);
			if (v->lost)
				return;
			continue;
		}
		switch (errno) {
		case EINTR:
			return;
		case EAGAIN: /* a vCPU that the guest has not started yet */
			if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
				return;
			continue;
		default:
			pthread_mutex_lock(&v->vm->lock);
			vm_post_request(v->vm, VM_REQUEST_FATAL, "vCPU %u: KVM_RUN: %s", v->index,
					strerror(errno));
			pthread_mutex_unlock(&v->vm->lock);
			return;
		}
	}
}

/*
 * What KVM does once for a VM or a vCPU when it is first run, among that starting a thread: in a
 * shell, that is before anybody waits. The guest is not entered.
 */
static void warm_up(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
	ioctl(v->fd, KVM_RUN, 0);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;

	warm_up(v);
	pthread_mutex_lock(&vm->park_lock);
	while (!vm->stopping) {
		if (must_park(vm)) {
			__atomic_store_n(&v->parked, true, __ATOMIC_RELEASE);
			pthread_cond_broadcast(&vm->parked);
			pthread_cond_wait(&vm->parked, &vm->park_lock);
			continue;
		}
		v->parked = false;
		v->ran = true;
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELEASE);
		pthread_mutex_unlock(&vm->park_lock);
		run_guest(v);
		pthread_mutex_lock(&vm->park_lock);
	}
	v->parked = true;
	pthread_cond_broadcast(&vm->parked);
	pthread_mutex_unlock(&vm->park_lock);
	return NULL;
}

static void kick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
	if (v->started)
		pthread_kill(v->thread, KICK_SIGNAL);
}

static int start_thread(struct vcpu *v)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int rc;

	/* Signals of the process are the main thread's; this one only gets kicks. */
	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	sigdelset(&all, SIGSYS);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	v->started = rc == 0;
	return -rc;
}

int vcpus_start(struct vm *vm, struct err *e)
{
	struct sigaction sa = {.sa_handler = kick_handler};

	/* No SA_RESTART: the signal is there to interrupt. */
	sigaction(KICK_SIGNAL, &sa, NULL);
	vm->hold = true;
	vm->stopping = false;
	for (unsigned int i = 0; i < vm->vcpus_n; i++) {
		int rc = start_thread(&vm->vcpus[i]);

		if (rc) {
			vcpus_stop(vm);
			return err_sys(e, rc, "starting the thread of vCPU %u", i);
		}
	}
	return 0;
}

static bool all_parked(const struct vm *vm)
{
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		if (vm->vcpus[i].started &&
		    !__atomic_load_n(&vm->vcpus[i].parked, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

/* They park within microseconds, as a rule: to sleep and be woken takes longer, in each pause. */
static void spin_for_parked(const struct vm *vm)
{
	uint64_t until_ns = clock_mono_ns() + SPIN_NS;
	cpu_set_t cpus;

	/* On one CPU they would wait for us. */
	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0 || CPU_COUNT(&cpus) < 2)
		return;
	while (!all_parked(vm) && clock_mono_ns() < until_ns)
		;
}

/* Both locks held. A vCPU on its way may need the device lock first. */
static void wait_parked(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		if (vm->vcpus[i].started)
			kick(&vm->vcpus[i]);
	pthread_mutex_unlock(&vm->park_lock);
	pthread_mutex_unlock(&vm->lock);
	spin_for_parked(vm);
	pthread_mutex_lock(&vm->park_lock);
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		while (vm->vcpus[i].started && !vm->vcpus[i].parked)
			pthread_cond_wait(&vm->parked, &vm->park_lock);
	pthread_mutex_unlock(&vm->park_lock);
	pthread_mutex_lock(&vm->lock);
}

void vcpus_hold(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	vm->hold = true;
	wait_parked(vm);
}

void vcpus_release(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	vm->hold = false;
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		vm->vcpus[i].parked = false;
	pthread_cond_broadcast(&vm->parked);
	pthread_mutex_unlock(&vm->park_lock);
}

void vcpus_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	vm->hold = true;
	vm->stopping = true;
	pthread_cond_broadcast(&vm->parked);
	wait_parked(vm);
	for (unsigned int i = 0; i < vm->vcpus_n; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->started)
			continue;
		pthread_mutex_unlock(&vm->lock);
		pthread_join(v->thread, NULL);
		pthread_mutex_lock(&vm->lock);
		v->started = false;
	}
}

void vcpus_doom(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	/* Once they are being stopped, they may be gone at any time, and enter nothing any more. */
	for (unsigned int i = 0; !vm->stopping && i < vm->vcpus_n; i++)
		kick(&vm->vcpus[i]);
	if (vm->request == VM_REQUEST_NONE)
		vm->request = VM_REQUEST_FATAL;
	pthread_mutex_unlock(&vm->park_lock);
}

struct exit_counts vcpus_exits(const struct vm *vm)
{
	struct exit_counts sum = {0};

	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		exit_counts_add(&sum, &vm->vcpus[i].exits);
	return sum;
}
