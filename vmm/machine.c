/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's life: configured, booted, paused, reset, ended. See vm.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"
#include "vmm/vm_state.h"

/* Boots in a row that may end by panic or triple fault before the machine gives up. */
#define MAX_FAILED_BOOTS 3
#define DTB_BYTES	 8192

/* --- configure and prepare -------------------------------------------------------------- */

static bool is_up(const struct vm *vm)
{
	return vm->state == VM_RUNNING || vm->state == VM_PAUSED;
}

void machine_forget(struct vm *vm)
{
	unmake(vm);
	vm->boots = vm->failed_boots = 0;
	vm->ready = vm->panicked = vm->restored = vm->unresumed = false;
	vm->restore_ns = 0;
	vm->exits_before = vm->exits_last = (struct exit_counts){0};
	exit_trace_stop(&vm->trace);
	vm->exit_reason[0] = '\0';
	vm->state = VM_NEW;
}

int machine_configure(struct vm *vm, struct vm_config *c, struct err *e)
{
	struct vm_shape shape = vm_shape_of(c);
	int rc;

	if (is_up(vm)) {
		vm_config_fini(c);
		return err_set(e, -EBUSY, "a machine is running");
	}
	machine_forget(vm);
	vm->config = *c;
	*c = (struct vm_config){0};
	rc = make_shape(vm, &shape, e);
	if (!rc)
		rc = memory_clear(vm, e);
	if (!rc)
		rc = make_kernel(vm, e);
	if (!rc)
		rc = make_files(vm, false, e);
	if (rc)
		machine_forget(vm);
	else
		vm->state = VM_CONFIGURED;
	return rc;
}

int machine_prepare(struct vm *vm, const struct vm_shape *shape, const struct vm_ends *ends,
		    struct err *e)
{
	int rc;

	if (is_up(vm))
		return err_set(e, -EBUSY, "a machine is running");
	if (vm->state != VM_NEW && vm->state != VM_EXITED)
		return err_set(e, -EINVAL, "a shell cannot be made of a machine that is %s",
			       vm_state_name(vm->state));
	machine_forget(vm);
	rc = make_shape(vm, shape, e);
	if (!rc)
		rc = make_ends(vm, ends, e);
	if (!rc) {
		platform_reset(vm);
		rc = make_kvm(vm, e);
	}
	if (rc)
		machine_forget(vm);
	else
		vm->state = VM_SHELL;
	return rc;
}

/* --- boot and reset ------------------------------------------------------------------ */

static int write_guest(struct vm *vm, struct err *e)
{
	struct dt_virtio virtio[DEVICES_MAX];
	struct dt_config dc = {
	    .cpus = vm->shape.cpus,
	    .virtio = virtio,
	    .virtio_n = devices_count(vm->devices),
	};
	uint8_t dtb[DTB_BYTES];
	struct boot_setup s = {
	    .mem = &vm->mem,
	    .memory_bytes = vm->base_bytes,
	    .cmdline = vm->config.cmdline,
	    .dtb = dtb,
	};
	int rc;

	for (unsigned int i = 0; i < dc.virtio_n; i++)
		virtio[i] = (struct dt_virtio){LAYOUT_VIRTIO + (uint64_t)i * DEVICE_MMIO_BYTES,
					       LAYOUT_IRQ_VIRTIO + i};
	rc = dt_build(&dc, dtb, sizeof(dtb));
	if (rc < 0)
		return err_sys(e, rc, "building the device tree");
	s.dtb_bytes = (size_t)rc;
	rc = boot_load_kernel(&vm->mem, vm->kernel_fd, &vm->kernel, e);
	return rc ? rc : boot_write(&s, e);
}

/* Devices are at power-on, memory is zero, no KVM objects exist. */
static int start(struct vm *vm, struct err *e)
{
	int rc;

	vm->ready = vm->panicked = false;
	vm->restored = vm->unresumed = vm->time_held = false;
	vm->request = VM_REQUEST_NONE;
	exit_trace_clear(&vm->trace);
	vm->boots++;
	platform_reset(vm);
	rc = vm->kernel_fd < 0 ? make_kernel(vm, e) : 0;
	if (!rc)
		rc = write_guest(vm, e);
	if (!rc)
		rc = make_kvm(vm, e);
	if (rc)
		return rc;
	rc = kvm_arch_boot_state(vm, e);
	if (!rc)
		rc = kvm_bind_irqs(vm, e);
	if (rc) {
		unmake_kvm(vm);
		return rc;
	}
	vm->state = VM_RUNNING;
	vcpus_release(vm);
	return 0;
}

int machine_boot(struct vm *vm, struct err *e)
{
	int rc;

	if (vm->state != VM_CONFIGURED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be booted",
			       vm_state_name(vm->state));
	vm->boot_ns = clock_mono_ns();
	rc = start(vm, e);
	if (rc)
		memory_clear(vm, NULL);
	return rc;
}

int machine_reset(struct vm *vm, const char *reason, struct err *e)
{
	int rc;

	if (!is_up(vm))
		return err_set(e, -EINVAL, "a machine that is %s cannot be reset",
			       vm_state_name(vm->state));
	if (vm->request == VM_REQUEST_PLUG)
		return err_set(e, -ESHUTDOWN, "the machine is being shut down");
	vm->boot_ns = clock_mono_ns();
	unmake_kvm(vm);
	devices_reset(vm->devices);
	size_changed(vm);
	rc = memory_clear(vm, e);
	if (!rc)
		rc = start(vm, e);
	if (rc)
		return rc;
	control_event(
	    vm, json_pack("{sssssi}", "event", "reset", "reason", reason, "boots", (int)vm->boots));
	return 0;
}

int machine_pause(struct vm *vm, struct err *e)
{
	if (vm->state == VM_PAUSED)
		return 0;
	if (vm->state != VM_RUNNING)
		return err_set(e, -EINVAL, "a machine that is %s cannot be paused",
			       vm_state_name(vm->state));
	vcpus_hold(vm);
	devices_quiesce(vm->devices);
	vm->state = VM_PAUSED;
	return 0;
}

int machine_resume(struct vm *vm, struct err *e)
{
	if (vm->state == VM_RUNNING)
		return 0;
	if (vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be resumed",
			       vm_state_name(vm->state));
	if (vm->unresumed) {
		int rc = vm_state_post_restore(vm, e);

		if (rc)
			return rc;
	}
	vm->time_held = false;
	vm->state = VM_RUNNING;
	vcpus_release(vm);
	return kvm_bind_irqs(vm, e);
}

void machine_end(struct vm *vm, const char *reason, int code, const char *message)
{
	bool ran = is_up(vm);

	unmake(vm);
	if (ran || vm->state == VM_CONFIGURED || vm->state == VM_SHELL) {
		snprintf(vm->exit_reason, sizeof(vm->exit_reason), "%s", reason);
		snprintf(vm->exit_message, sizeof(vm->exit_message), "%s", message);
		vm->state = VM_EXITED;
	}
	vm->exit_code = code;
	if (ran)
		log_info("the machine has ended: %s (%s)", reason, message);
	control_event(vm, json_pack("{sssssiss}", "event", "exit", "reason", reason, "code", code,
				    "message", message));
	if (!vm->stay)
		loop_stop(&vm->loop);
}

/* --- what the guest does ---------------------------------------------------------------- */

void machine_ready(struct vm *vm)
{
	struct exit_counts now = vcpus_exits(vm);

	if (vm->ready)
		return; /* an agent that was started again */
	vm->ready = true;
	vm->failed_boots = 0;
	vm->boot_to_ready_us = (clock_mono_ns() - vm->boot_ns) / 1000;
	vm->exits_until_ready = exit_counts_total(&now);
	control_event(vm, json_pack("{sssIsIsi}", "event", "ready", "boot_to_ready_us",
				    (json_int_t)vm->boot_to_ready_us, "exits",
				    (json_int_t)vm->exits_until_ready, "boots", (int)vm->boots));
}

void machine_panicked(struct vm *vm)
{
	if (vm->panicked)
		return;
	vm->panicked = true;
	console_flush(vm->console);
	log_warn("the guest kernel has panicked");
	control_event(vm, json_pack("{sssi}", "event", "panic", "boots", (int)vm->boots));
}

void vm_post_request(struct vm *vm, enum vm_request_kind kind, const char *fmt, ...)
{
	uint64_t one = 1;
	va_list ap;

	/* Whoever pulls the plug must not lose against a guest that resets at the same moment. */
	if (vm->request != VM_REQUEST_NONE && kind != VM_REQUEST_PLUG)
		return;
	va_start(ap, fmt);
	vsnprintf(vm->request_message, sizeof(vm->request_message), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&vm->park_lock);
	vm->request = kind;
	/* The vCPU that asks must leave the guest too. */
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vm->park_lock);
	if (write(vm->request_fd, &one, sizeof(one)) < 0)
		log_error("request of the guest: %s", strerror(errno));
}

static void reset_by_guest(struct vm *vm, bool accident)
{
	const char *reason = vm->request == VM_REQUEST_RESET ? "guest" : "triple-fault";
	struct err e;

	if (vm->run_mode && vm->panicked)
		return machine_end(vm, "error", VM_EXIT_PANIC, "the guest kernel has panicked");
	if (!accident || vm->ready)
		vm->failed_boots = 0;
	else if (++vm->failed_boots >= MAX_FAILED_BOOTS)
		return machine_end(vm, "error", vm->panicked ? VM_EXIT_PANIC : VM_EXIT_FATAL,
				   vm->panicked ? "the guest kernel panics at every boot"
						: "the guest triple-faults at every boot");
	if (machine_reset(vm, reason, &e))
		log_error("reset: %s", e.msg);
}

static void handle_request(struct loop_source *s, uint32_t events)
{
	struct vm *vm = container_of(s, struct vm, request_source);
	char message[sizeof(vm->request_message)];
	struct err why;
	uint64_t times;

	(void)events;
	if (read(vm->request_fd, &times, sizeof(times)) < 0)
		return;
	memcpy(message, vm->request_message, sizeof(message));
	switch (vm->request) {
	case VM_REQUEST_NONE: /* a reset or an end has come before */
		return;
	case VM_REQUEST_RESET:
		return reset_by_guest(vm, vm->panicked);
	case VM_REQUEST_TRIPLE_FAULT:
		return reset_by_guest(vm, true);
	case VM_REQUEST_POWEROFF:
		return machine_end(vm, "shutdown", vm->panicked ? VM_EXIT_PANIC : VM_EXIT_OK,
				   message);
	case VM_REQUEST_PLUG:
		return machine_end(vm, "request", VM_EXIT_OK, message);
	case VM_REQUEST_FATAL:
		/* A vCPU that has run into memory that cannot be loaded knows less of it. */
		return machine_end(vm, "error", VM_EXIT_FATAL,
				   loading_failed(vm, &why) ? why.msg : message);
	}
}

/* --- the structure itself ------------------------------------------------------------------ */

int vm_init(struct vm *vm, struct err *e)
{
	int rc;

	*vm = (struct vm){
	    .kvm_fd = -1,
	    .vm_fd = -1,
	    .kernel_fd = -1,
	    .request_fd = -1,
	    .image = RAM_IMAGE_CLOSED,
	};
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->park_lock, NULL);
	pthread_cond_init(&vm->parked, NULL);
	rc = loop_init(&vm->loop, &vm->lock);
	if (rc)
		return err_sys(e, rc, "event loop");
	vm->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = vm->request_fd < 0 ? -errno
				: loop_add(&vm->loop, &vm->request_source, vm->request_fd, EPOLLIN,
					   handle_request);
	return rc ? err_sys(e, rc, "event loop") : 0;
}

void vm_fini(struct vm *vm)
{
	unmake(vm);
	exit_trace_stop(&vm->trace);
	if (vm->asking)
		pthread_join(vm->asker, NULL);
	free(vm->cpuid);
	free(vm->msrs);
	fd_close(&vm->kvm_fd);
	loop_remove(&vm->loop, &vm->request_source);
	fd_close(&vm->request_fd);
	loop_fini(&vm->loop);
	pthread_cond_destroy(&vm->parked);
	pthread_mutex_destroy(&vm->park_lock);
	pthread_mutex_destroy(&vm->lock);
}

const char *vm_state_name(enum vm_state s)
{
	static const char *const names[] = {"new",     "configured", "shell",
					    "running", "paused",     "exited"};

	return names[s];
}
