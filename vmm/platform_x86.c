/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine beside virtio: serial port, reset port, IOAPIC, generation id,
 * panic and power-off registers.
 *
 * IOAPIC and generation id lie in pages that the guest reads directly; the IOAPIC's two
 * registers are brought up to date there after each write.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/console.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

_Static_assert(LAYOUT_IRQ_PINS_MAX <= IOAPIC_MAX_PINS, "the IOAPIC has enough pins");
_Static_assert(LAYOUT_IRQ_PINS_MAX >= LAYOUT_IRQ_VIRTIO + DEVICES_MAX, "a pin for each device");

#define I8042_COMMAND	  0x64u
#define I8042_OUTPUT_FULL 0x01u
#define I8042_RESET	  0xfeu /* pulses the CPU's reset line */

#define PVPANIC_PANICKED     1u
#define PVPANIC_CRASH_LOADED 2u

static void show_ioapic(struct vm *vm)
{
	uint32_t select = ioapic_read(&vm->ioapic, IOAPIC_REGSEL);
	uint32_t window = ioapic_read(&vm->ioapic, IOAPIC_WINDOW);

	memcpy(vm->platform_pages + IOAPIC_REGSEL, &select, sizeof(select));
	memcpy(vm->platform_pages + IOAPIC_WINDOW, &window, sizeof(window));
}

static void routes_changed(void *opaque)
{
	kvm_arch_update_routes(opaque);
}

int platform_create(struct vm *vm, struct err *e)
{
	/* Shared: a fork of the process must not make us write to a copy. */
	void *pages = mmap(NULL, LAYOUT_PLATFORM_BYTES, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		return err_sys(e, -errno, "memory for registers");
	vm->platform_pages = pages;
	vm->ioapic = (struct ioapic){
	    .pins = LAYOUT_IRQ_VIRTIO, /* platform_reset() counts the devices in */
	    .changed = routes_changed,
	    .opaque = vm,
	};
	vm->serial = (struct serial){
	    .sink = console_write,
	    .opaque = vm->console,
	    .irq_fd = -1, /* a kernel without PCI takes no interrupt of a port from the tree */
	};
	return 0;
}

/* A machine that boots is a new generation; the pool is ready long before us. */
static void set_generation(struct vm *vm)
{
	uint8_t *id = vm->platform_pages + (LAYOUT_VMGENID - LAYOUT_PLATFORM);

	if (getrandom(id, PLATFORM_GENERATION_BYTES, 0) != PLATFORM_GENERATION_BYTES)
		log_error("no random generation id: %s", strerror(errno));
}

void platform_reset(struct vm *vm)
{
	serial_reset(&vm->serial);
	vm->ioapic.pins = LAYOUT_IRQ_VIRTIO + devices_count(vm->devices);
	ioapic_reset(&vm->ioapic);
	show_ioapic(vm);
	set_generation(vm);
}

void platform_state(struct vm *vm, struct state_io *io)
{
	serial_state(&vm->serial, io);
	ioapic_state(&vm->ioapic, io);
	if (state_begin(io, STATE_TAG('G', 'E', 'N', 'I'), 0, 1, STATE_MANDATORY)) {
		state_bytes(io, vm->platform_pages + (LAYOUT_VMGENID - LAYOUT_PLATFORM),
			    PLATFORM_GENERATION_BYTES);
		state_end(io);
	}
	show_ioapic(vm);
}

void platform_new_generation(struct vm *vm)
{
	set_generation(vm);
	/* Before the guest executes anything with the random numbers of its twin. */
	kvm_arch_interrupt(vm, LAYOUT_IRQ_VMGENID);
}

const uint8_t *platform_generation(const struct vm *vm)
{
	return vm->platform_pages ? vm->platform_pages + (LAYOUT_VMGENID - LAYOUT_PLATFORM) : NULL;
}

void platform_destroy(struct vm *vm)
{
	if (vm->platform_pages)
		munmap(vm->platform_pages, LAYOUT_PLATFORM_BYTES);
	vm->platform_pages = NULL;
}

void platform_io(struct vm *vm, uint16_t port, bool write, uint8_t *data, unsigned int len_bytes)
{
	unsigned int reg = port - LAYOUT_SERIAL_PORT;

	if (reg < SERIAL_PORTS && len_bytes == 1) {
		if (write)
			serial_write(&vm->serial, reg, *data);
		else
			*data = serial_read(&vm->serial, reg);
		return;
	}
	if (write) {
		if (port == I8042_COMMAND && *data == I8042_RESET)
			vm_post_request(vm, VM_REQUEST_RESET, "reset port");
		return;
	}
	/*
	 * Nobody drives the bus. The keyboard controller takes commands at once (a reboot waits for
	 * that) but never empties its output: drivers that probe for a real one give up quickly.
	 */
	memset(data, 0xff, len_bytes);
	if (port == I8042_COMMAND)
		*data = I8042_OUTPUT_FULL;
}

static void registers_access(struct vm *vm, uint64_t gpa, bool write, uint8_t *data,
			     unsigned int len_bytes)
{
	uint32_t value = 0;

	if (!write) {
		memset(data, 0, len_bytes);
		if (gpa == LAYOUT_PVPANIC)
			*data = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
		return;
	}
	memcpy(&value, data, len_bytes < sizeof(value) ? len_bytes : sizeof(value));
	if (gpa == LAYOUT_PVPANIC && (value & PVPANIC_PANICKED))
		machine_panicked(vm);
	else if (gpa == LAYOUT_SYSCON && value == LAYOUT_SYSCON_POWEROFF)
		vm_post_request(vm, VM_REQUEST_POWEROFF, "power-off register");
}

void platform_mmio(struct vm *vm, uint64_t gpa, bool write, uint8_t *data, unsigned int len_bytes)
{
	uint64_t i = (gpa - LAYOUT_VIRTIO) / DEVICE_MMIO_BYTES;

	if (gpa >= LAYOUT_VIRTIO && i < devices_count(vm->devices)) {
		uint64_t offset = (gpa - LAYOUT_VIRTIO) % DEVICE_MMIO_BYTES;
		struct device *d = devices_get(vm->devices, (unsigned int)i);

		if (write)
			device_mmio_write(d, offset, data, len_bytes);
		else
			device_mmio_read(d, offset, data, len_bytes);
	} else if (gpa >= LAYOUT_IOAPIC && gpa < LAYOUT_IOAPIC + 0x1000 && write) {
		uint32_t value = 0;

		memcpy(&value, data, len_bytes < sizeof(value) ? len_bytes : sizeof(value));
		ioapic_write(&vm->ioapic, gpa - LAYOUT_IOAPIC, value);
		show_ioapic(vm);
	} else if (gpa >= LAYOUT_REGISTERS && gpa < LAYOUT_REGISTERS + 0x2000) {
		registers_access(vm, gpa, write, data, len_bytes);
	} else if (!write) {
		memset(data, 0xff, len_bytes);
	}
}
