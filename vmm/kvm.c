/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM objects of a machine, in the order that is fast: memory slots before the
 * interrupt controller, as a slot that comes after it waits ~7 ms for an SRCU grace
 * period.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fd.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

#define KVM_API 12

enum { SLOT_DEVICES = GUEST_MEM_MAX_REGIONS, SLOT_PLATFORM, SLOT_MORE };

static int open_checked(struct vm *vm, struct err *e)
{
	int rc = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);

	if (rc != KVM_API)
		return err_set(e, -ENOTSUP, "/dev/kvm has interface version %d, not %d", rc,
			       KVM_API);
	rc = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (rc < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOTSUP, "/dev/kvm: no vCPU mapping");
	vm->run_bytes = (size_t)rc;
	return kvm_arch_check(vm, e);
}

int kvm_open(struct vm *vm, struct err *e)
{
	int rc;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		return err_sys(e, -errno, "opening /dev/kvm");
	rc = open_checked(vm, e);
	if (rc)
		fd_close(&vm->kvm_fd);
	return rc;
}

static int set_slot(struct vm *vm, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva,
		    uint64_t len_bytes)
{
	struct kvm_userspace_memory_region r = {
	    .slot = slot,
	    .flags = flags,
	    .guest_phys_addr = gpa,
	    .memory_size = len_bytes,
	    .userspace_addr = (uintptr_t)hva,
	};

	return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

/*
 * Slots cannot grow. So there are ones of 1, 1, 2, 4, ... GiB, and memory behind them as far as the
 * guest has been given some: who touches what is not there ends his machine.
 */
int kvm_more_slots(struct vm *vm, struct err *e)
{
	uint64_t want = vm->ram_bytes - vm->base_bytes;

	while (vm->vm_fd >= 0 && vm->more_slots_bytes < want) {
		uint64_t from = vm->more_slots_bytes, len = from ? from : LAYOUT_MORE_ALIGN;
		uint8_t *hva = (uint8_t *)vm->ram + vm->base_bytes + from;
		int rc;

		if (len > vm->more_region - from)
			len = vm->more_region - from;
		rc = set_slot(vm, SLOT_MORE + vm->more_slots, 0, vm->more_gpa + from, hva, len);
		if (rc)
			return err_sys(e, rc, "giving more memory to the VM");
		vm->more_slots++;
		vm->more_slots_bytes += len;
	}
	return 0;
}

static int create_slots(struct vm *vm, struct err *e)
{
	uint64_t len_bytes = 0;
	void *pages = devices_register_pages(vm->devices, &len_bytes);
	int rc = 0;

	/* Registers that the guest reads without an exit; writes to them exit. */
	if (len_bytes)
		rc = set_slot(vm, SLOT_DEVICES, KVM_MEM_READONLY, LAYOUT_VIRTIO, pages, len_bytes);
	if (!rc)
		rc = set_slot(vm, SLOT_PLATFORM, KVM_MEM_READONLY, LAYOUT_PLATFORM,
			      vm->platform_pages, LAYOUT_PLATFORM_BYTES);
	/*
	 * RAM last: KVM makes tables for each page of it, and each slot waits for a grace period,
	 * which after that has taken three times as long.
	 */
	for (unsigned int i = 0; i < vm->mem.n && !rc; i++)
		if (vm->mem.regions[i].gpa != vm->more_gpa)
			rc = set_slot(vm, i, 0, vm->mem.regions[i].gpa, vm->mem.regions[i].hva,
				      vm->mem.regions[i].len_bytes);
	return rc ? err_sys(e, rc, "giving memory to the VM") : kvm_more_slots(vm, e);
}

static int bind_irq(struct vm *vm, int fd, uint32_t pin)
{
	struct kvm_irqfd irq = {.fd = (uint32_t)fd, .gsi = pin};

	return ioctl(vm->vm_fd, KVM_IRQFD, &irq) < 0 ? -errno : 0;
}

static int bind_write(struct vm *vm, int fd, uint64_t gpa, uint64_t value)
{
	struct kvm_ioeventfd ev = {
	    .datamatch = value,
	    .addr = gpa,
	    .len = 4,
	    .fd = fd,
	    .flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	return ioctl(vm->vm_fd, KVM_IOEVENTFD, &ev) < 0 ? -errno : 0;
}

static int bind_device(struct vm *vm, unsigned int i)
{
	struct device *d = devices_get(vm->devices, i);
	uint64_t gpa = LAYOUT_VIRTIO + (uint64_t)i * DEVICE_MMIO_BYTES;
	int rc = 0;

	for (unsigned int q = 0; q < device_queue_count(d) && !rc; q++)
		rc = bind_write(vm, device_notify_fd(d, q), gpa + DEVICE_MMIO_NOTIFY, q);
	if (!rc)
		rc = bind_write(vm, devices_ack_fd(vm->devices), gpa + DEVICE_MMIO_ACK, 1);
	return rc;
}

static int bind_devices(struct vm *vm, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < devices_count(vm->devices) && !rc; i++)
		rc = bind_device(vm, i);
	return rc ? err_sys(e, rc, "binding the devices to the VM") : 0;
}

int kvm_bind_irqs(struct vm *vm, struct err *e)
{
	int rc = 0;

	if (vm->irqs_bound)
		return 0;
	vm->irqs_bound = true;
	kvm_arch_update_routes(vm);
	for (unsigned int i = 0; i < devices_count(vm->devices) && !rc; i++)
		rc =
		    bind_irq(vm, device_irq_fd(devices_get(vm->devices, i)), LAYOUT_IRQ_VIRTIO + i);
	return rc ? err_sys(e, rc, "binding interrupts to the VM") : 0;
}

static int create_vcpu(struct vm *vm, unsigned int index, struct err *e)
{
	struct vcpu *v = &vm->vcpus[index];
	void *run;

	*v = (struct vcpu){.vm = vm, .index = index, .fd = -1};
	v->fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (v->fd < 0)
		return err_sys(e, -errno, "creating vCPU %u", index);
	run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return err_sys(e, -errno, "mapping vCPU %u", index);
	v->run = run;
	v->run_bytes = vm->run_bytes;
	/* A process that holds a copy of guest memory must not keep the VM alive with it. */
	madvise(run, vm->run_bytes, MADV_DONTFORK);
	return kvm_arch_vcpu_init(v, e);
}

static int create_all(struct vm *vm, struct err *e)
{
	int rc;

	vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->vm_fd < 0)
		return err_sys(e, -errno, "creating a VM");
	rc = create_slots(vm, e);
	if (!rc)
		rc = kvm_arch_create_irqchip(vm, e);
	for (unsigned int i = 0; i < vm->shape.cpus && !rc; i++) {
		vm->vcpus_n = i + 1;
		rc = create_vcpu(vm, i, e);
	}
	return rc ? rc : bind_devices(vm, e);
}

int kvm_create(struct vm *vm, struct err *e)
{
	int rc = create_all(vm, e);

	if (rc)
		kvm_destroy(vm);
	return rc;
}

void kvm_destroy(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->vcpus_n; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (v->run)
			munmap(v->run, v->run_bytes);
		v->run = NULL;
		free(v->cpuid);
		v->cpuid = NULL;
		fd_close(&v->fd);
	}
	vm->vcpus_n = 0;
	vm->irqs_bound = false;
	vm->more_slots = 0;
	vm->more_slots_bytes = 0;
	fd_close(&vm->vm_fd);
}
