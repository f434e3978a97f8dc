/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of vCPUs and of the VM's clock on x86-64, for state.c.
 *
 * Theory of operation
 *
 * What KVM gives as one of its structures is saved as it is: <asm/kvm.h> is an ABI that
 * never changes. The order is what KVM needs: CPUID before everything whose validity
 * depends on it (SREGS, XSAVE, MSRs), the local APIC after SREGS, which say its
 * mode, and before MSRs, of which one is its timer. Events come after all that can cause some.
 *
 * Time stands still in a saved machine: the TSC of each vCPU and the clock are noted at
 * the first save of a pause, or restored into those notes, and only written when a restored machine
 * goes on. So a state that was restored is saved as the same bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/cpuid.h"
#include "vmm/vm.h"
#include "vmm/vm_state.h"

#define TAG_VCPU STATE_TAG('V', 'C', 'P', 'U')
#define TAG_TIME STATE_TAG('T', 'I', 'M', 'E')

#define MSR_TSC		 0x10u
#define MSR_TSC_DEADLINE 0x6e0u

#define MAX_MSRS  1024u
#define MAX_XSAVE (64u << 10)
#define MIN_XSAVE 4096u
/* By how much the TSC of another host may differ without being scaled, in millionths, as KVM does.
 */
#define TSC_TOLERANCE_PPM 250u

/* --- CPUID --------------------------------------------------------------------------- */

/* Registers that are sets of features: what a guest has seen must be here, too. */
static const struct {
	uint32_t function, index;
	unsigned int reg; /* eax, ebx, ecx, edx */
	uint32_t ignored; /* bits that follow the guest's own registers, or that we set */
} feature_regs[] = {
    {0x1, 0, 2, CPUID_OURS_1_ECX | 1u << 27 | 1u << 3 /* OSXSAVE, MONITOR */},
    {0x1, 0, 3, CPUID_OURS_1_EDX | 1u << 9 /* APIC */},
    {0x7, 0, 1, 0},
    {0x7, 0, 2, 1u << 4 /* OSPKE */},
    {0x7, 0, 3, 0},
    {0x7, 1, 0, 0},
    {0xd, 0, 0, 0},
    {0xd, 1, 0, 0},
    {0x40000001, 0, 0, 0},
    {0x80000001, 0, 2, 0},
    {0x80000001, 0, 3, 1u << 9},
    {0x80000007, 0, 3, 0},
    {0x80000008, 0, 1, 0},
    {0x80000021, 0, 0, 0},
};

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

static uint32_t leaf_reg(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index,
			 unsigned int reg)
{
	const struct kvm_cpuid_entry2 *l = leaf(c, function, index);

	if (!l)
		return 0;
	return reg == 0 ? l->eax : reg == 1 ? l->ebx : reg == 2 ? l->ecx : l->edx;
}

int vm_state_check_cpuid(const struct kvm_cpuid2 *saved, const struct kvm_cpuid2 *here,
			 const struct kvm_cpuid2 *also, struct state_io *io)
{
	static const char *const names[] = {"EAX", "EBX", "ECX", "EDX"};

	for (unsigned int r = 1; r < 4; r++)
		if (leaf_reg(saved, 0, 0, r) != leaf_reg(here, 0, 0, r))
			return state_fail(io, -ENOTSUP, "saved on a CPU of another vendor");
	for (size_t i = 0; i < sizeof(feature_regs) / sizeof(feature_regs[0]); i++) {
		uint32_t f = feature_regs[i].function, x = feature_regs[i].index;
		uint32_t lacking = leaf_reg(saved, f, x, feature_regs[i].reg) &
				   ~leaf_reg(here, f, x, feature_regs[i].reg) &
				   ~leaf_reg(also, f, x, feature_regs[i].reg) &
				   ~feature_regs[i].ignored;

		if (lacking)
			return state_fail(io, -ENOTSUP,
					  "this CPU lacks features: CPUID %#x.%u %s bits %#x", f, x,
					  names[feature_regs[i].reg], lacking);
	}
	return 0;
}

static void cpuid_fields(struct state_io *io, struct kvm_cpuid2 *c)
{
	state_count(io, &c->nent, CPUID_MAX_ENTRIES, "CPUID leaves");
	for (uint32_t i = 0; i < c->nent && state_ok(io); i++) {
		struct kvm_cpuid_entry2 *l = &c->entries[i];

		if (state_restoring(io))
			*l = (struct kvm_cpuid_entry2){0};
		state_u32(io, &l->function);
		state_u32(io, &l->index);
		state_u32(io, &l->flags);
		state_u32(io, &l->eax);
		state_u32(io, &l->ebx);
		state_u32(io, &l->ecx);
		state_u32(io, &l->edx);
	}
}

/* Bits that KVM derives from the guest's own registers. */
static const struct {
	uint32_t function, index, eax, ebx, ecx, edx;
} derived[] = {
    {0x1, 0, 0, 0, 1u << 27 | 1u << 3, 1u << 9}, /* OSXSAVE, MONITOR, APIC */
    {0x7, 0, 0, 0, 1u << 4, 0},			 /* OSPKE */
    {0xd, 0, 0, ~0u, 0, 0},			 /* size of what XCR0 says */
    {0xd, 1, 0, ~0u, 0, 0},
    {0x80000001, 0, 0, 0, 0, 1u << 9},
};

static bool same_leaf(const struct kvm_cpuid_entry2 *a, const struct kvm_cpuid_entry2 *b)
{
	uint32_t eax = a->eax ^ b->eax, ebx = a->ebx ^ b->ebx;
	uint32_t ecx = a->ecx ^ b->ecx, edx = a->edx ^ b->edx;

	for (size_t i = 0; i < sizeof(derived) / sizeof(derived[0]); i++)
		if (a->function == derived[i].function && a->index == derived[i].index) {
			eax &= ~derived[i].eax;
			ebx &= ~derived[i].ebx;
			ecx &= ~derived[i].ecx;
			edx &= ~derived[i].edx;
		}
	return a->function == b->function && a->index == b->index && a->flags == b->flags &&
	       !(eax | ebx | ecx | edx);
}

bool vm_state_same_cpuid(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	if (a->nent != b->nent)
		return false;
	for (uint32_t i = 0; i < a->nent; i++)
		if (!same_leaf(&a->entries[i], &b->entries[i]))
			return false;
	return true;
}

/* @c: from the state. */
static void cpuid_restore(struct vcpu *v, struct state_io *io, struct kvm_cpuid2 *c)
{
	/* What kvm_create() has set, or a restore before: to ask KVM for it costs more. */
	const struct kvm_cpuid2 *here = v->cpuid;
	int rc;

	if (vm_state_same_cpuid(c, here))
		return;
	/* What this CPU can do; the vCPU may have been told less, or shown more than KVM lists. */
	if (vm_state_check_cpuid(c, v->vm->cpuid, here, io))
		return;
	if (v->ran) {
		v->vm->stale_cpuid = true;
		state_fail(io, -ESTALE, "its vCPU has another CPUID");
		return;
	}
	memcpy(v->cpuid, c, sizeof(*c) + c->nent * sizeof(c->entries[0]));
	rc = kvm_arch_set_cpuid(v);
	if (rc)
		state_fail(io, -EINVAL, "KVM refuses the CPUID: %s", strerror(-rc));
}

static void cpuid_state(struct vcpu *v, struct state_io *io)
{
	cleanup_free struct kvm_cpuid2 *c = malloc(CPUID_BYTES);

	if (!c) {
		state_fail(io, -ENOMEM, "out of memory");
		return;
	}
	c->padding = 0;
	c->nent = state_restoring(io) ? 0 : CPUID_MAX_ENTRIES;
	if (!state_restoring(io) && ioctl(v->fd, KVM_GET_CPUID2, c) < 0)
		state_fail(io, -errno, "KVM_GET_CPUID2: %s", strerror(errno));
	cpuid_fields(io, c);
	if (state_restoring(io) && state_ok(io))
		cpuid_restore(v, io, c);
}

/* --- MSRs ------------------------------------------------------------------------------ */

/* One at a time: the list has some that a CPU, or this CPUID, lacks. Return: true if it is there.
 */
static bool msr_access(struct vcpu *v, unsigned long request, uint32_t index, uint64_t *data)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry = {.index = index, .data = *data}};

	if (ioctl(v->fd, request, &m) != 1)
		return false;
	*data = m.entry.data;
	return true;
}

struct msr_work {
	struct kvm_msr_entry msrs[MAX_MSRS];
	uint32_t n;
	union {
		struct kvm_msr_list list;
		uint8_t list_room[sizeof(struct kvm_msr_list) + MAX_MSRS * sizeof(uint32_t)];
	};
	union {
		struct kvm_msrs call;
		uint8_t
		    call_room[sizeof(struct kvm_msrs) + MAX_MSRS * sizeof(struct kvm_msr_entry)];
	};
};

/*
 * From the @from-th on, many at once: one by one they would cost as much as all of the rest.
 * KVM stops at the first that it refuses. Return: how many were done
 */
static uint32_t msrs_access(struct vcpu *v, unsigned long request, struct msr_work *w,
			    uint32_t from)
{
	int rc;

	w->call.nmsrs = w->n - from;
	w->call.pad = 0;
	memcpy(w->call.entries, w->msrs + from, (w->n - from) * sizeof(w->msrs[0]));
	rc = ioctl(v->fd, request, &w->call);
	return rc > 0 ? (uint32_t)rc : 0;
}

struct msr_list {
	uint32_t n;
	uint32_t indices[MAX_MSRS];
};

/* All vCPUs of a machine have the same. To find them out takes a system call for each missing one.
 */
static void remember_msrs(struct vm *vm, const struct msr_work *w)
{
	if (!vm->msrs)
		vm->msrs = malloc(sizeof(*vm->msrs));
	if (!vm->msrs)
		return;
	vm->msrs->n = w->n;
	for (uint32_t i = 0; i < w->n; i++)
		vm->msrs->indices[i] = w->msrs[i].index;
}

/* Return: false if they are not known, or others by now. */
static bool read_known_msrs(struct vcpu *v, struct msr_work *w)
{
	const struct msr_list *known = v->vm->msrs;

	if (!known)
		return false;
	w->n = known->n;
	for (uint32_t i = 0; i < known->n; i++)
		w->msrs[i] = (struct kvm_msr_entry){.index = known->indices[i]};
	if (msrs_access(v, KVM_GET_MSRS, w, 0) == w->n) {
		memcpy(w->msrs, w->call.entries, w->n * sizeof(w->msrs[0]));
		return true;
	}
	w->n = 0;
	return false;
}

/* The MSRs of KVM's list that this vCPU has, with their values. */
static int msrs_read(struct vcpu *v, struct msr_work *w)
{
	if (read_known_msrs(v, w))
		return 0;
	w->list.nmsrs = MAX_MSRS;
	if (ioctl(v->vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &w->list) < 0)
		return -errno;
	/* The TSC moves, and is saved by itself. */
	for (uint32_t i = 0; i < w->list.nmsrs; i++)
		if (w->list.indices[i] != MSR_TSC)
			w->msrs[w->n++] = (struct kvm_msr_entry){.index = w->list.indices[i]};
	for (uint32_t i = 0; i < w->n;) {
		uint32_t done = msrs_access(v, KVM_GET_MSRS, w, i);

		memcpy(w->msrs + i, w->call.entries, done * sizeof(w->msrs[0]));
		i += done;
		/* The list has some that this CPU, or its CPUID, lacks. */
		if (i < w->n) {
			w->n--;
			memmove(w->msrs + i, w->msrs + i + 1, (w->n - i) * sizeof(w->msrs[0]));
		}
	}
	remember_msrs(v->vm, w);
	return 0;
}

static void msrs_write(struct vcpu *v, struct state_io *io, struct msr_work *w)
{
	for (uint32_t i = 0; i < w->n && state_ok(io); i++) {
		const struct kvm_msr_entry *m;
		uint64_t here = 0;

		i += msrs_access(v, KVM_SET_MSRS, w, i);
		m = &w->msrs[i];
		if (i >= w->n)
			break;
		/* Some are for reading alone; and one that is missing here, but was 0, is no loss.
		 */
		if (msr_access(v, KVM_GET_MSRS, m->index, &here) ? here != m->data : m->data != 0)
			state_fail(io, -ENOTSUP, "KVM refuses MSR %#x with the value %#llx",
				   m->index, (unsigned long long)m->data);
	}
}

static uint64_t msr_value(const struct msr_work *w, uint32_t index)
{
	for (uint32_t i = 0; i < w->n; i++)
		if (w->msrs[i].index == index)
			return w->msrs[i].data;
	return 0;
}

static void msrs_transfer(struct vcpu *v, struct state_io *io, struct msr_work *w)
{
	int rc = state_restoring(io) ? 0 : msrs_read(v, w);

	if (rc < 0) {
		state_fail(io, rc, "its MSRs: %s", strerror(-rc));
		return;
	}
	state_count(io, &w->n, MAX_MSRS, "MSRs");
	for (uint32_t i = 0; i < w->n && state_ok(io); i++) {
		uint64_t data = w->msrs[i].data;

		w->msrs[i].reserved = 0;
		state_u32(io, &w->msrs[i].index);
		state_u64(io, &data);
		w->msrs[i].data = data;
	}
	if (!state_restoring(io) || !state_ok(io))
		return;
	v->held_deadline = msr_value(w, MSR_TSC_DEADLINE);
	msrs_write(v, io, w);
	if (state_ok(io))
		remember_msrs(v->vm, w);
}

static void msrs_state(struct vcpu *v, struct state_io *io)
{
	/* Large, and little of it is used: it is not cleared. */
	struct msr_work *w = malloc(sizeof(*w));

	if (!w) {
		state_fail(io, -ENOMEM, "out of memory");
		return;
	}
	w->n = 0;
	msrs_transfer(v, io, w);
	free(w);
}

/* --- what KVM gives as a structure -------------------------------------------------------- */

/* @initial: what a vCPU has that was just created, which then need not be set; NULL: set it always
 */
static void kvm_struct_from(struct vcpu *v, struct state_io *io, unsigned long get,
			    unsigned long set, void *data, size_t len, const void *initial,
			    const char *what)
{
	memset(data, 0, len);
	if (!state_restoring(io) && ioctl(v->fd, get, data) < 0)
		state_fail(io, -errno, "reading its %s: %s", what, strerror(errno));
	state_expect(io, len, what);
	state_bytes(io, data, len);
	if (!state_restoring(io) || !state_ok(io))
		return;
	if (initial && !v->ran && !v->loaded && !memcmp(data, initial, len))
		return;
	if (ioctl(v->fd, set, data) < 0)
		state_fail(io, -EINVAL, "KVM refuses its %s: %s", what, strerror(errno));
}

static void kvm_struct(struct vcpu *v, struct state_io *io, unsigned long get, unsigned long set,
		       void *data, size_t len, const char *what)
{
	kvm_struct_from(v, io, get, set, data, len, NULL, what);
}

static void registers_state(struct vcpu *v, struct state_io *io)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_xcrs xcrs;

	kvm_struct(v, io, KVM_GET_SREGS, KVM_SET_SREGS, &sregs, sizeof(sregs), "special registers");
	kvm_struct(v, io, KVM_GET_REGS, KVM_SET_REGS, &regs, sizeof(regs), "registers");
	kvm_struct(v, io, KVM_GET_XCRS, KVM_SET_XCRS, &xcrs, sizeof(xcrs),
		   "extended control registers");
}

static void xsave_state(struct vcpu *v, struct state_io *io)
{
	int size = ioctl(v->vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	bool wide = size > (int)MIN_XSAVE;
	size_t len = wide ? (size_t)size : MIN_XSAVE;
	cleanup_free void *data = len <= MAX_XSAVE ? malloc(len) : NULL;

	if (!data) {
		state_fail(io, -ENOMEM, "no memory for %zu bytes of vector registers", len);
		return;
	}
	kvm_struct(v, io, wide ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, KVM_SET_XSAVE, data, len,
		   "bytes of vector registers");
}

static void events_state(struct vcpu *v, struct state_io *io)
{
	const struct kvm_mp_state first_mp = {v->index ? KVM_MP_STATE_UNINITIALIZED
						       : KVM_MP_STATE_RUNNABLE};
	const struct kvm_debugregs first_debug = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_debugregs debug;

	kvm_struct(v, io, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, &events, sizeof(events),
		   "pending events");
	kvm_struct_from(v, io, KVM_GET_MP_STATE, KVM_SET_MP_STATE, &mp, sizeof(mp), &first_mp,
			"run state");
	kvm_struct_from(v, io, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, &debug, sizeof(debug),
			&first_debug, "debug registers");
}

static void lapic_state(struct vcpu *v, struct state_io *io)
{
	struct kvm_lapic_state lapic;

	kvm_struct(v, io, KVM_GET_LAPIC, KVM_SET_LAPIC, &lapic, sizeof(lapic), "local APIC");
}

/* --- time ---------------------------------------------------------------------------------- */

/* The TSC runs at @khz where the state comes from. */
static void check_tsc_rate(struct vcpu *v, struct state_io *io, uint32_t khz)
{
	uint64_t here = v->tsc_khz, tolerance = (uint64_t)khz * TSC_TOLERANCE_PPM / 1000000;

	if (here && here + tolerance >= khz && here <= khz + tolerance)
		return;
	if (ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
		state_fail(io, -ENOTSUP, "its TSC runs at %u kHz; here at %u, and cannot be scaled",
			   khz, v->tsc_khz);
	else
		v->tsc_khz = khz;
}

static void tsc_state(struct vcpu *v, struct state_io *io)
{
	if (!state_restoring(io) && !v->vm->time_held) {
		v->held_tsc_khz = v->tsc_khz;
		if (!msr_access(v, KVM_GET_MSRS, MSR_TSC, &v->held_tsc))
			state_fail(io, -EIO, "the TSC cannot be read");
	}
	state_u32(io, &v->held_tsc_khz);
	state_u64(io, &v->held_tsc);
	if (state_restoring(io) && state_ok(io))
		check_tsc_rate(v, io, v->held_tsc_khz);
}

static void clock_state(struct vm *vm, struct state_io *io)
{
	if (!state_begin(io, TAG_TIME, 0, 1, STATE_MANDATORY))
		return;
	if (!state_restoring(io) && !vm->time_held) {
		struct kvm_clock_data c = {0};

		if (ioctl(vm->vm_fd, KVM_GET_CLOCK, &c) < 0)
			state_fail(io, -errno, "KVM_GET_CLOCK: %s", strerror(errno));
		vm->held_clock_ns = c.clock;
	}
	state_u64(io, &vm->held_clock_ns);
	state_end(io);
}

/*
 * KVM turns a deadline into a time when it is written, by the TSC of that moment, and takes no
 * notice of a TSC that is set later: the timer would be late by all the time that the guest has
 * been up.
 */
static int resume_vcpu_time(struct vcpu *v, struct err *e)
{
	if (!msr_access(v, KVM_SET_MSRS, MSR_TSC, &v->held_tsc))
		return err_set(e, -EIO, "KVM refuses the TSC of vCPU %u", v->index);
	if (v->held_deadline && !msr_access(v, KVM_SET_MSRS, MSR_TSC_DEADLINE, &v->held_deadline))
		return err_set(e, -EIO, "KVM refuses the timer of vCPU %u", v->index);
	return 0;
}

int vm_state_arch_resume_time(struct vm *vm, struct err *e)
{
	struct kvm_clock_data c = {.clock = vm->held_clock_ns};
	int rc = 0;

	if (ioctl(vm->vm_fd, KVM_SET_CLOCK, &c) < 0)
		return err_sys(e, -errno, "setting the VM's clock");
	for (unsigned int i = 0; i < vm->vcpus_n && !rc; i++)
		rc = resume_vcpu_time(&vm->vcpus[i], e);
	return rc;
}

/* --- all ------------------------------------------------------------------------------------ */

void vm_state_arch(struct vm *vm, struct state_io *io)
{
	for (unsigned int i = 0; i < vm->vcpus_n && state_ok(io); i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!state_begin(io, TAG_VCPU, i, 1, STATE_MANDATORY))
			return;
		cpuid_state(v, io);
		tsc_state(v, io);
		registers_state(v, io);
		xsave_state(v, io);
		lapic_state(v, io);
		msrs_state(v, io);
		events_state(v, io);
		v->loaded = v->loaded || state_restoring(io);
		state_end(io);
	}
	clock_state(vm, io);
}
