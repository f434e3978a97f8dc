/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's device tree.
 *
 * x86 Linux with CONFIG_OF and neither ACPI nor MP tables takes CPUs, IOAPIC and
 * devices from it. Interrupts have two cells: pin of the IOAPIC and trigger, where 3
 * is "edge, rising" (of_ioapic_type[] in the kernel's devicetree.c).
 */
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>
#include <string.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"

#define EDGE_RISING    3u
#define PHANDLE_IOAPIC 1u
#define PHANDLE_SYSCON 2u
#define PAGE	       4096u

/* libfdt's calls in a row; the first failure sticks. */
struct dt {
	void *fdt;
	int rc;
};

static void begin(struct dt *d, const char *name)
{
	if (!d->rc)
		d->rc = fdt_begin_node(d->fdt, name);
}

static void begin_at(struct dt *d, const char *name, uint64_t unit)
{
	char full[48];

	snprintf(full, sizeof(full), "%s@%llx", name, (unsigned long long)unit);
	begin(d, full);
}

static void end(struct dt *d)
{
	if (!d->rc)
		d->rc = fdt_end_node(d->fdt);
}

static void prop_string(struct dt *d, const char *name, const char *value)
{
	if (!d->rc)
		d->rc = fdt_property(d->fdt, name, value, (int)strlen(value) + 1);
}

static void prop_u32(struct dt *d, const char *name, uint32_t value)
{
	if (!d->rc)
		d->rc = fdt_property_u32(d->fdt, name, value);
}

static void prop_empty(struct dt *d, const char *name)
{
	if (!d->rc)
		d->rc = fdt_property(d->fdt, name, NULL, 0);
}

static void prop_cells(struct dt *d, const char *name, uint32_t a, uint32_t b)
{
	fdt32_t cells[2] = {cpu_to_fdt32(a), cpu_to_fdt32(b)};

	if (!d->rc)
		d->rc = fdt_property(d->fdt, name, cells, sizeof(cells));
}

static void cells_of(struct dt *d, uint32_t address, uint32_t size)
{
	prop_u32(d, "#address-cells", address);
	prop_u32(d, "#size-cells", size);
}

/* A device node with its registers, to be closed by end(). */
static void device(struct dt *d, const char *name, const char *compatible, uint64_t gpa,
		   uint32_t len_bytes)
{
	begin_at(d, name, gpa);
	prop_string(d, "compatible", compatible);
	prop_cells(d, "reg", (uint32_t)gpa, len_bytes);
}

static void put_cpus(struct dt *d, unsigned int n)
{
	begin(d, "cpus");
	cells_of(d, 1, 0);
	for (uint32_t i = 0; i < n; i++) {
		begin_at(d, "cpu", i);
		prop_string(d, "device_type", "cpu");
		prop_string(d, "compatible", "intel,ce4100");
		prop_u32(d, "reg", i); /* the id of its local APIC */
		end(d);
	}
	end(d);
}

static void put_interrupt_controllers(struct dt *d)
{
	device(d, "lapic", "intel,ce4100-lapic", LAYOUT_LAPIC, PAGE);
	/* Without it the kernel looks for an IMCR to take the machine out of PIC mode. */
	prop_empty(d, "intel,virtual-wire-mode");
	end(d);
	device(d, "ioapic", "intel,ce4100-ioapic", LAYOUT_IOAPIC, PAGE);
	prop_empty(d, "interrupt-controller");
	prop_u32(d, "#interrupt-cells", 2);
	prop_u32(d, "phandle", PHANDLE_IOAPIC);
	end(d);
}

static void put_devices(struct dt *d, const struct dt_config *c)
{
	for (unsigned int i = 0; i < c->virtio_n; i++) {
		device(d, "virtio", "virtio,mmio", c->virtio[i].gpa, PAGE);
		prop_cells(d, "interrupts", c->virtio[i].irq, EDGE_RISING);
		end(d);
	}
	device(d, "vmgenid", "microsoft,vmgenid", LAYOUT_VMGENID, PAGE);
	prop_cells(d, "interrupts", LAYOUT_IRQ_VMGENID, EDGE_RISING);
	end(d);
	device(d, "pvpanic", "qemu,pvpanic-mmio", LAYOUT_PVPANIC, 2);
	end(d);
	device(d, "syscon", "syscon", LAYOUT_SYSCON, 4);
	prop_u32(d, "reg-io-width", 4);
	prop_u32(d, "phandle", PHANDLE_SYSCON);
	end(d);
}

/* The one register that ends the machine. */
static void put_poweroff(struct dt *d)
{
	begin(d, "poweroff");
	prop_string(d, "compatible", "syscon-poweroff");
	prop_u32(d, "regmap", PHANDLE_SYSCON);
	prop_u32(d, "offset", 0);
	prop_u32(d, "value", LAYOUT_SYSCON_POWEROFF);
	end(d);
}

int dt_build(const struct dt_config *c, void *buf, size_t cap)
{
	struct dt d = {.fdt = buf};

	d.rc = fdt_create(buf, (int)cap);
	if (!d.rc)
		d.rc = fdt_finish_reservemap(buf);
	begin(&d, "");
	cells_of(&d, 1, 1);
	prop_string(&d, "model", "dormouse");
	prop_string(&d, "compatible", "dormouse,vm");
	put_cpus(&d, c->cpus);
	begin(&d, "soc");
	prop_string(&d, "compatible", "simple-bus");
	cells_of(&d, 1, 1);
	prop_empty(&d, "ranges");
	prop_u32(&d, "interrupt-parent", PHANDLE_IOAPIC);
	put_interrupt_controllers(&d);
	put_devices(&d, c);
	end(&d);
	put_poweroff(&d);
	end(&d);
	if (!d.rc)
		d.rc = fdt_finish(buf);
	/* Only room can be missing: the structure is ours. */
	return d.rc ? -ENOSPC : (int)fdt_totalsize(buf);
}
