/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the processor itself run kernel-mode guest code?
 *
 * A /dev/kvm need not be backed by VMX or SVM: there are hosts where guest user
 * code runs at full speed and guest kernel code is interpreted, a thousand
 * times slower and with instructions missing, so that no Linux boots. No
 * capability tells. So: a VM with one vCPU, in 64-bit mode at CPL 0 as Linux
 * is entered, counts down a register and halts; we time it.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "tools/doctor/doctor.h"

#define MEM_SIZE   0x10000u
#define PML4_GPA   0x1000u
#define PDPT_GPA   0x2000u
#define PD_GPA	   0x3000u
#define CODE_GPA   0x4000u
#define RUN_MAX_MS 2000 /* longer is interpreted anyway */

/* Page table entry bits, and the control bits of 64-bit mode (SDM 3, 2.5 and 4.5). */
#define PTE_TABLE 0x3u	/* present, writable */
#define PTE_LARGE 0x83u /* present, writable, 2 MiB */
#define CR0_BITS  0x80000011u
#define CR4_PAE	  0x20u
#define EFER_LM	  0x500u /* LME, LMA */

static const unsigned char loop_code[] = {
    0xff, 0xc9, /* 1: dec %ecx */
    0x75, 0xfc, /* jnz 1b */
    0xf4,	/* hlt */
};

struct probe {
	int vm_fd, vcpu_fd;
	const char *step; /* what is being done, for the message if it fails */
	unsigned char *mem;
	struct kvm_run *run;
	size_t run_len;
};

/* For the signal handler, which has no other way to reach the running vCPU. */
static struct kvm_run *volatile interrupted_run;

static void on_time_limit(int sig)
{
	(void)sig;
	if (interrupted_run)
		interrupted_run->immediate_exit = 1;
}

/* Deliver SIGUSR1 to this thread after @ms; 0 disarms. */
static int arm_limit(timer_t timer, long ms)
{
	struct itimerspec t = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}};

	return timer_settime(timer, 0, &t, NULL) < 0 ? -errno : 0;
}

static void put64(unsigned char *mem, unsigned int gpa, uint64_t v)
{
	memcpy(mem + gpa, &v, sizeof(v));
}

static int set_registers(struct probe *p)
{
	struct kvm_segment code = {
	    .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = code;
	struct kvm_sregs s;

	if (ioctl(p->vcpu_fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	data.selector = 16;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = CR0_BITS;
	s.cr3 = PML4_GPA;
	s.cr4 = CR4_PAE;
	s.efer = EFER_LM;
	return ioctl(p->vcpu_fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

/* A real processor refuses 64-bit registers for a vCPU whose CPUID does not have that mode. */
static int set_cpuid(const struct probe *p, int kvm_fd)
{
	const unsigned int max = 256;
	cleanup_free struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + max * sizeof(c->entries[0]));

	if (!c)
		return -ENOMEM;
	c->nent = max;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) < 0 ||
	    ioctl(p->vcpu_fd, KVM_SET_CPUID2, c) < 0)
		return -errno;
	return 0;
}

static int probe_init(struct probe *p, int kvm_fd)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEM_SIZE};
	int len, rc;

	p->step = "creating a scratch VM";
	p->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (p->vm_fd < 0)
		return -errno;
	p->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->mem == MAP_FAILED)
		return -errno;
	put64(p->mem, PML4_GPA, PDPT_GPA | PTE_TABLE);
	put64(p->mem, PDPT_GPA, PD_GPA | PTE_TABLE);
	put64(p->mem, PD_GPA, PTE_LARGE);
	memcpy(p->mem + CODE_GPA, loop_code, sizeof(loop_code));
	p->step = "giving memory to a scratch VM";
	slot.userspace_addr = (uintptr_t)p->mem;
	if (ioctl(p->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return -errno;
	p->step = "creating a vCPU";
	p->vcpu_fd = ioctl(p->vm_fd, KVM_CREATE_VCPU, 0);
	if (p->vcpu_fd < 0)
		return -errno;
	len = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (len < (int)sizeof(*p->run))
		return -EINVAL;
	p->run_len = (size_t)len;
	p->run = mmap(NULL, p->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu_fd, 0);
	if (p->run == MAP_FAILED)
		return -errno;
	p->step = "setting the CPUID of a vCPU";
	if ((rc = set_cpuid(p, kvm_fd)) < 0)
		return rc;
	p->step = "setting the registers of a vCPU";
	return set_registers(p);
}

static void probe_fini(struct probe *p)
{
	interrupted_run = NULL;
	if (p->run != MAP_FAILED)
		munmap(p->run, p->run_len);
	fd_close(&p->vcpu_fd);
	fd_close(&p->vm_fd);
	if (p->mem != MAP_FAILED)
		munmap(p->mem, MEM_SIZE);
}

/* Run @turns turns. Return: 0, -ETIMEDOUT, -ENOEXEC for another exit than the halt, -errno. */
static int run_turns(struct probe *p, timer_t timer, unsigned int turns, uint64_t *ns)
{
	struct kvm_regs regs = {.rip = CODE_GPA, .rcx = turns, .rflags = 2};
	uint64_t start;
	int rc;

	if (ioctl(p->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return -errno;
	p->run->immediate_exit = 0;
	rc = arm_limit(timer, RUN_MAX_MS);
	if (rc < 0)
		return rc;
	start = clock_mono_ns();
	rc = ioctl(p->vcpu_fd, KVM_RUN, 0) < 0 ? -errno : 0;
	*ns = clock_mono_ns() - start;
	arm_limit(timer, 0);
	if (rc == -EINTR)
		return -ETIMEDOUT;
	if (rc < 0)
		return rc;
	if (p->run->exit_reason != KVM_EXIT_HLT)
		return -ENOEXEC;
	return 0;
}

/*
 * The entry into the guest costs microseconds, the first ones in an emulated
 * machine milliseconds. So the loop grows until it dominates, which on an
 * interpreter is soon, and of each length the best of three counts: that
 * leaves out what other programs on this machine took.
 */
static int measure(struct probe *p, timer_t timer, double *ns_per_turn)
{
	const uint64_t long_enough_ns = 4000000;
	uint64_t ns = 0, best = 0;
	unsigned int turns;

	for (turns = 500; best < long_enough_ns && turns <= 32000000; turns *= 4) {
		best = UINT64_MAX;
		for (int i = 0; i < 3; i++) {
			int rc = run_turns(p, timer, turns, &ns);

			if (rc < 0)
				return rc;
			if (ns < best)
				best = ns;
		}
		*ns_per_turn = (double)best / turns;
	}
	return 0;
}

int speed_probe_run(int kvm_fd, double *ns, const char **why)
{
	struct probe p = {.vm_fd = -1, .vcpu_fd = -1, .mem = MAP_FAILED, .run = MAP_FAILED};
	struct sigaction sa = {.sa_handler = on_time_limit};
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	timer_t timer;
	int rc;

	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	sigaction(SIGUSR1, &sa, NULL);
	*why = "no timer";
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0)
		return -errno;
	rc = probe_init(&p, kvm_fd);
	*why = p.step;
	if (rc == 0) {
		interrupted_run = p.run;
		rc = measure(&p, timer, ns);
		*why = rc == -ETIMEDOUT ? "the guest loop did not end within 2 s"
		       : rc == -ENOEXEC ? "the guest loop stopped before its end"
					: "running a scratch VM";
	}
	timer_delete(timer);
	probe_fini(&p);
	return rc;
}
