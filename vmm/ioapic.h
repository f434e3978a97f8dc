/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small 82093AA: the register model alone, without KVM.
 *
 * The local APICs are the kernel's; a pin that the guest has programmed becomes an
 * MSI route, over which devices interrupt without passing through here. Edges on
 * a masked pin are lost, as in the hardware. All interrupts of this machine are
 * edges: a level-triggered entry works as an edge.
 */
#ifndef VMM_IOAPIC_H
#define VMM_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/state.h"

#define IOAPIC_MAX_PINS 24
#define IOAPIC_REGSEL	0x00u /* offsets of the two registers that an access reaches */
#define IOAPIC_WINDOW	0x10u

struct ioapic {
	unsigned int pins;
	uint32_t select, id;
	uint64_t entries[IOAPIC_MAX_PINS];
	/* Told when what ioapic_route() says of any pin has changed. May be NULL. */
	void (*changed)(void *opaque);
	void *opaque; /* borrowed */
};

struct ioapic_msi {
	uint32_t address, data;
};

/* Power-on state; keeps pins, changed and opaque. */
void ioapic_reset(struct ioapic *a);

/* Save or restore; changed() is told of what was restored. */
void ioapic_state(struct ioapic *a, struct state_io *io);

/* Any offset and value is harmless. */
uint32_t ioapic_read(const struct ioapic *a, uint64_t offset);
void ioapic_write(struct ioapic *a, uint64_t offset, uint32_t value);

/* Where a pin's interrupt goes. Return: false if it is masked. */
bool ioapic_route(const struct ioapic *a, unsigned int pin, struct ioapic_msi *out);

#endif
