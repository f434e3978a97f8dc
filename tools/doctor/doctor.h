/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does this machine have what Dormouse needs?
 *
 * Theory of operation: every check is one function in the table of table.c. It
 * tries the real thing (opens the device, sets up the ring, clones the file)
 * rather than reading version numbers. Each one runs in a child process of its
 * own with a time limit, so that a check that crashes, hangs in the kernel or
 * unshares its namespaces is a line in the report and nothing more.
 */
#ifndef TOOLS_DOCTOR_DOCTOR_H
#define TOOLS_DOCTOR_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum check_status {
	CHECK_OK,
	CHECK_DEGRADED, /* works, but slower or with less: see cost */
	CHECK_MISSING,
};

/* Crosses a pipe from the check's process: no pointers. */
struct check_result {
	enum check_status status;
	double ns_per_turn; /* kvm-speed only: of a ring-0 guest loop; negative: not measured */
	char detail[200];   /* what was found */
	char cost[200];	    /* what one loses; empty if ok */
	char fix[240];	    /* what to do; empty if ok */
};

struct doctor_options {
	const char *state_dir; /* borrowed; need not exist yet */
};

struct check {
	const char *name;
	bool essential; /* if missing, no guest can run here */
	bool is_kvm;	/* counts for kvm.usable */
	void (*run)(const struct doctor_options *o, struct check_result *r);
};

extern const struct check doctor_checks[];
extern const size_t doctor_num_checks;

/* Verdicts for the checks; detail is printf-formatted. */
void check_ok(struct check_result *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void check_not_ok(struct check_result *r, enum check_status status, const char *cost,
		  const char *fix, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

const char *check_status_name(enum check_status s);

/**
 * check_run() - Run one check in a process of its own
 * @timeout_ms:	After this it is killed and reported as missing; so is one that crashes
 * @r:		Always filled
 */
void check_run(const struct check *c, const struct doctor_options *o, int timeout_ms,
	       struct check_result *r);

/**
 * doctor_speed_status() - What the time of one turn of a ring-0 loop means
 *
 * A loop of two instructions takes below 1 ns on hardware and 1 to 5 ns in an
 * emulated machine with SVM. Where guest kernel code is interpreted it takes over 1000 ns.
 * Negative: not measured, so missing.
 */
enum check_status doctor_speed_status(double ns_per_turn);

/* True if none of the essential checks (@kvm_only: of those about KVM) is missing. */
bool doctor_verdict(const struct check *checks, const struct check_result *results, size_t n,
		    bool kvm_only);

/**
 * doctor_json() - The report of `dormouse doctor --json`; the format is in docs/cli.md
 *
 * Return: a new reference, or NULL without memory
 */
json_t *doctor_json(const struct check *checks, const struct check_result *results, size_t n);

/* --- the checks, by file ------------------------------------------------- */
/* check_kvm.c */
void check_kvm_device(const struct doctor_options *o, struct check_result *r);
void check_kvm_speed(const struct doctor_options *o, struct check_result *r);
void check_kvm_caps(const struct doctor_options *o, struct check_result *r);
void check_kvm_paging(const struct doctor_options *o, struct check_result *r);
/* check_kernel.c */
void check_io_uring(const struct doctor_options *o, struct check_result *r);
void check_userfaultfd(const struct doctor_options *o, struct check_result *r);
void check_pagemap_scan(const struct doctor_options *o, struct check_result *r);
/* check_isolation.c */
void check_landlock(const struct doctor_options *o, struct check_result *r);
void check_seccomp(const struct doctor_options *o, struct check_result *r);
void check_namespaces(const struct doctor_options *o, struct check_result *r);
void check_cgroup(const struct doctor_options *o, struct check_result *r);
void check_tun(const struct doctor_options *o, struct check_result *r);
/* check_resources.c */
void check_disk(const struct doctor_options *o, struct check_result *r);
void check_reflink(const struct doctor_options *o, struct check_result *r);
void check_memory(const struct doctor_options *o, struct check_result *r);
void check_huge_pages(const struct doctor_options *o, struct check_result *r);
void check_limits(const struct doctor_options *o, struct check_result *r);

/**
 * speed_probe_run() - Time a loop in kernel mode of a scratch VM (speed_x86.c)
 * @kvm_fd:	/dev/kvm
 * @ns:		Set to nanoseconds per turn
 * @why:	Set to a text if it fails; static
 *
 * Return: 0 or -errno
 */
int speed_probe_run(int kvm_fd, double *ns, const char **why);

#endif
