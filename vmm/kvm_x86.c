/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86-64 parts of the KVM objects: split irqchip, interrupt routes, CPUID, the state
 * that a vCPU enters the guest with.
 */
#include <asm/kvm.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/cpuid.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

#define CR0_PE	 (1ull << 0)
#define CR0_ET	 (1ull << 4)
#define CR0_PG	 (1ull << 31)
#define CR4_PAE	 (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)

#define MSR_MTRR_DEF_TYPE     0x2ffu
#define MTRR_ENABLE_WRITEBACK (1ull << 11 | 6)
#define MSR_MISC_ENABLE	      0x1a0u
#define MISC_FAST_STRINGS     1ull

static int need(struct vm *vm, unsigned long cap, const char *name, struct err *e)
{
	int rc = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, cap);

	return rc > 0 ? 0 : err_set(e, -ENOTSUP, "/dev/kvm lacks %s", name);
}

/* --- CPUID ----------------------------------------------------------------------------------- */

static void *ask(void *opaque)
{
	struct vm *vm = opaque;

	vm->cpuid_rc = ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid) < 0 ? -errno : 0;
	return NULL;
}

/*
 * Under another hypervisor each of the CPUID instructions that KVM executes for the answer is an
 * exit: a third of a millisecond, in which as much of a machine can be made as needs no CPUID.
 */
static int start_asking(struct vm *vm, struct err *e)
{
	sigset_t all, old;

	free(vm->cpuid);
	vm->cpuid = calloc(1, CPUID_BYTES);
	if (!vm->cpuid)
		return err_set(e, -ENOMEM, "out of memory");
	vm->cpuid->nent = CPUID_MAX_ENTRIES;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	vm->asking = pthread_create(&vm->asker, NULL, ask, vm) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!vm->asking)
		ask(vm);
	return 0;
}

int kvm_arch_cpuid(struct vm *vm, const struct kvm_cpuid2 **out, struct err *e)
{
	if (vm->asking)
		pthread_join(vm->asker, NULL);
	vm->asking = false;
	*out = vm->cpuid;
	return vm->cpuid_rc ? err_sys(e, vm->cpuid_rc, "asking KVM for its CPUID") : 0;
}

int kvm_arch_check(struct vm *vm, struct err *e)
{
	int rc = need(vm, KVM_CAP_SPLIT_IRQCHIP, "a split irqchip", e);

	if (!rc)
		rc = need(vm, KVM_CAP_IRQFD, "irqfd", e);
	if (!rc)
		rc = need(vm, KVM_CAP_IOEVENTFD, "ioeventfd", e);
	if (!rc)
		rc = need(vm, KVM_CAP_READONLY_MEM, "read-only memory", e);
	if (!rc)
		rc = need(vm, KVM_CAP_IMMEDIATE_EXIT, "immediate_exit", e);
	return rc ? rc : start_asking(vm, e);
}

int kvm_arch_create_irqchip(struct vm *vm, struct err *e)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = vm->ioapic.pins};
	struct kvm_enable_cap pmu = {.cap = KVM_CAP_PMU_CAPABILITY, .args[0] = KVM_PMU_CAP_DISABLE};

	/* Intel without unrestricted guests wants it; nobody else minds. */
	if (ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_TSS) < 0)
		log_debug("KVM_SET_TSS_ADDR: %s", strerror(errno));
	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &split) < 0)
		return err_sys(e, -errno, "creating the split irqchip");
	/* Must come before the vCPUs. Older kernels lack it; CPUID shows no PMU anyway. */
	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &pmu) < 0)
		log_debug("KVM_CAP_PMU_CAPABILITY: %s", strerror(errno));
	return 0;
}

void kvm_arch_update_routes(struct vm *vm)
{
	_Alignas(8) uint8_t room[sizeof(struct kvm_irq_routing) +
				 LAYOUT_IRQ_PINS_MAX * sizeof(struct kvm_irq_routing_entry)] = {0};
	struct kvm_irq_routing *table = (struct kvm_irq_routing *)room;

	if (!vm->irqs_bound)
		return;
	for (unsigned int pin = 0; pin < vm->ioapic.pins; pin++) {
		struct ioapic_msi msi;

		if (!ioapic_route(&vm->ioapic, pin, &msi))
			continue;
		table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		    .gsi = pin,
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = msi.address, .data = msi.data},
		};
	}
	if (ioctl(vm->vm_fd, KVM_SET_GSI_ROUTING, table) < 0)
		log_guest("KVM refuses the guest's interrupt routes: %s", strerror(errno));
}

void kvm_arch_interrupt(struct vm *vm, uint32_t pin)
{
	struct ioapic_msi route;
	struct kvm_msi msi;

	if (!ioapic_route(&vm->ioapic, pin, &route))
		return;
	msi = (struct kvm_msi){.address_lo = (uint32_t)route.address, .data = route.data};
	if (ioctl(vm->vm_fd, KVM_SIGNAL_MSI, &msi) < 0)
		log_error("interrupt %u: %s", pin, strerror(errno));
}

int kvm_arch_set_cpuid(struct vcpu *v)
{
	if (ioctl(v->fd, KVM_SET_CPUID2, v->cpuid) < 0)
		return -errno;
	v->cpuid->nent = CPUID_MAX_ENTRIES;
	return ioctl(v->fd, KVM_GET_CPUID2, v->cpuid) < 0 ? -errno : 0;
}

static int set_cpuid(struct vcpu *v, struct err *e)
{
	const struct kvm_cpuid2 *supported;
	int rc = kvm_arch_cpuid(v->vm, &supported, e);

	if (rc)
		return rc;
	v->cpuid = malloc(CPUID_BYTES);
	if (!v->cpuid)
		return err_set(e, -ENOMEM, "out of memory");
	rc = cpuid_for_vcpu(supported, v->index, v->vm->shape.cpus, v->vm->config.host_cpu,
			    v->cpuid);
	if (!rc)
		rc = kvm_arch_set_cpuid(v);
	return rc ? err_sys(e, rc, "setting the CPUID of vCPU %u", v->index) : 0;
}

static int set_msrs(struct vcpu *v, struct err *e)
{
	_Alignas(8) uint8_t room[sizeof(struct kvm_msrs) + 2 * sizeof(struct kvm_msr_entry)] = {0};
	struct kvm_msrs *m = (struct kvm_msrs *)room;
	int rc;

	m->nmsrs = 2;
	m->entries[0].index = MSR_MTRR_DEF_TYPE;
	m->entries[0].data = MTRR_ENABLE_WRITEBACK;
	m->entries[1].index = MSR_MISC_ENABLE;
	m->entries[1].data = MISC_FAST_STRINGS;
	rc = ioctl(v->fd, KVM_SET_MSRS, m);

	if (rc < 0)
		return err_sys(e, -errno, "setting MSRs of vCPU %u", v->index);
	if (rc < 1)
		return err_set(e, -EIO, "KVM refuses MSR %#x", MSR_MTRR_DEF_TYPE);
	return 0; /* the second one is Intel's alone */
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){
	    .base = 0,
	    .limit = 0xffffffff,
	    .selector = selector,
	    .type = type,
	    .present = 1,
	    .dpl = 0,
	    .db = !code,
	    .s = 1,
	    .l = code,
	    .g = 1,
	};
}

/*
 * Let the guest's TSC run at the host's present rate (0). KVM takes the rate that the host had when
 * KVM was loaded; where the host has refined its calibration since by more than 250 ppm and the CPU
 * cannot scale, creating the vCPU leaves its ratio at 0 ("user requested TSC rate below hardware
 * speed" in the host's log). KVM's own view of the guest's TSC then stands still, and each timer is
 * late by the guest's uptime.
 */
static void set_tsc_rate(struct vcpu *v)
{
	int khz;

	if (ioctl(v->fd, KVM_SET_TSC_KHZ, 0ul) < 0)
		log_warn("vCPU %u: setting the TSC's rate: %s", v->index, strerror(errno));
	khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	v->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
}

int kvm_arch_vcpu_init(struct vcpu *v, struct err *e)
{
	set_tsc_rate(v);
	return set_cpuid(v, e);
}

/* The state that the 64-bit boot protocol asks for; boot_x86.c wrote the tables. */
int kvm_arch_boot_state(struct vm *vm, struct err *e)
{
	/* The others wait for the guest's INIT and SIPI, as KVM creates them. */
	struct vcpu *v = &vm->vcpus[0];
	struct kvm_regs regs = {
	    .rip = vm->kernel.entry_gpa,
	    .rsi = LAYOUT_BOOT_PARAMS,
	    .rsp = LAYOUT_STACK_TOP,
	    .rflags = 2,
	};
	struct kvm_sregs s;

	for (unsigned int i = 0; i < vm->vcpus_n; i++) {
		int rc = set_msrs(&vm->vcpus[i], e);

		if (rc)
			return rc;
	}
	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return err_sys(e, -errno, "reading the registers of vCPU 0");
	s.cs = segment(0x10, 0xb, true);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(0x18, 0x3, false);
	s.gdt.base = LAYOUT_GDT;
	s.gdt.limit = 4 * 8 - 1;
	s.idt.base = 0;
	s.idt.limit = 0;
	s.cr3 = LAYOUT_PAGE_TABLES;
	s.cr4 = CR4_PAE;
	s.cr0 = CR0_PE | CR0_ET | CR0_PG;
	s.efer = EFER_LME | EFER_LMA;
	if (ioctl(v->fd, KVM_SET_SREGS, &s) < 0 || ioctl(v->fd, KVM_SET_REGS, &regs) < 0)
		return err_sys(e, -errno, "setting the registers of vCPU 0");
	return 0;
}
