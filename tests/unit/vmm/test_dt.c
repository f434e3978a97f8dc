/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <libfdt.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"

static uint8_t tree[16384];

static void build(unsigned int cpus, unsigned int virtio_n)
{
	struct dt_virtio v[8];
	struct dt_config c = {.cpus = cpus, .virtio = v, .virtio_n = virtio_n};

	for (unsigned int i = 0; i < virtio_n; i++)
		v[i] = (struct dt_virtio){LAYOUT_VIRTIO + 0x1000 * i, LAYOUT_IRQ_VIRTIO + i};
	cr_assert_gt(dt_build(&c, tree, sizeof(tree)), 0);
	cr_assert_eq(fdt_check_full(tree, sizeof(tree)), 0);
}

static uint32_t cell(int node, const char *name, int index)
{
	int len;
	const fdt32_t *v = fdt_getprop(tree, node, name, &len);

	cr_assert(v && len >= 4 * (index + 1), "property %s", name);
	return fdt32_to_cpu(v[index]);
}

static int nodes_with(const char *compatible, int *first)
{
	int n = 0;

	for (int node = fdt_node_offset_by_compatible(tree, -1, compatible); node >= 0;
	     node = fdt_node_offset_by_compatible(tree, node, compatible)) {
		if (!n && first)
			*first = node;
		n++;
	}
	return n;
}

Test(dt, each_cpu_has_a_node_with_the_id_of_its_apic)
{
	for (unsigned int cpus = 1; cpus <= 4; cpus++) {
		int node, n = 0, parent;

		build(cpus, 2);
		parent = fdt_path_offset(tree, "/cpus");
		fdt_for_each_subnode(node, tree, parent)
		{
			cr_assert_str_eq(fdt_getprop(tree, node, "device_type", NULL), "cpu");
			cr_assert_eq(cell(node, "reg", 0), (uint32_t)n);
			n++;
		}
		cr_assert_eq(n, (int)cpus);
	}
}

Test(dt, each_virtio_device_has_registers_and_an_edge_interrupt)
{
	int node, n = 0, soc;

	build(2, 8);
	soc = fdt_path_offset(tree, "/soc");
	fdt_for_each_subnode(node, tree, soc)
	{
		if (fdt_node_check_compatible(tree, node, "virtio,mmio"))
			continue;
		cr_assert_eq(cell(node, "reg", 0), LAYOUT_VIRTIO + 0x1000u * (unsigned)n);
		cr_assert_eq(cell(node, "reg", 1), 0x1000);
		cr_assert_eq(cell(node, "interrupts", 0), LAYOUT_IRQ_VIRTIO + (unsigned)n);
		cr_assert_eq(cell(node, "interrupts", 1), 3);
		n++;
	}
	cr_assert_eq(n, 8);
}

Test(dt, interrupts_lead_to_the_ioapic)
{
	int ioapic = -1, soc;

	build(1, 1);
	cr_assert_eq(nodes_with("intel,ce4100-ioapic", &ioapic), 1);
	soc = fdt_path_offset(tree, "/soc");
	cr_assert_eq(cell(soc, "interrupt-parent", 0), fdt_get_phandle(tree, ioapic));
	cr_assert_eq(cell(ioapic, "#interrupt-cells", 0), 2);
	cr_assert_eq(cell(ioapic, "reg", 0), LAYOUT_IOAPIC);
}

Test(dt, the_machine_can_be_powered_off_by_one_write)
{
	int off = -1, syscon;

	build(1, 1);
	cr_assert_eq(nodes_with("syscon-poweroff", &off), 1);
	syscon = fdt_node_offset_by_phandle(tree, cell(off, "regmap", 0));
	cr_assert_eq(fdt_node_check_compatible(tree, syscon, "syscon"), 0);
	cr_assert_eq(cell(syscon, "reg", 0) + cell(off, "offset", 0), LAYOUT_SYSCON);
	cr_assert_eq(cell(off, "value", 0), LAYOUT_SYSCON_POWEROFF);
}

Test(dt, panic_and_generation_devices_are_there)
{
	build(1, 1);
	cr_assert_eq(nodes_with("qemu,pvpanic-mmio", NULL), 1);
	cr_assert_eq(nodes_with("microsoft,vmgenid", NULL), 1);
	cr_assert_eq(nodes_with("intel,ce4100-lapic", NULL), 1);
}

Test(dt, a_buffer_that_is_too_small_is_an_error_at_every_size)
{
	struct dt_virtio v = {LAYOUT_VIRTIO, 2};
	struct dt_config c = {.cpus = 4, .virtio = &v, .virtio_n = 1};
	int need = dt_build(&c, tree, sizeof(tree));

	cr_assert_gt(need, 0);
	for (int cap = 0; cap < need; cap += 13)
		cr_assert_eq(dt_build(&c, tree, (size_t)cap), -ENOSPC, "%d bytes", cap);
}
