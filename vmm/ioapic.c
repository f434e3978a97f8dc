/* SPDX-License-Identifier: Apache-2.0 */
/* The register model of the IOAPIC; see ioapic.h. */
#include "vmm/ioapic.h"

#include <errno.h>
#include <string.h>

#define REG_ID	    0x00u
#define REG_VERSION 0x01u
#define REG_ARB	    0x02u
#define REG_ENTRIES 0x10u
#define VERSION	    0x11u
#define ID_BITS	    0x0f000000u

#define ENTRY_VECTOR   0xffull
#define ENTRY_DELIVERY 0x700ull
#define ENTRY_LOGICAL  (1ull << 11)
#define ENTRY_READONLY (1ull << 12 | 1ull << 14) /* delivery status, remote IRR */
#define ENTRY_MASKED   (1ull << 16)

void ioapic_reset(struct ioapic *a)
{
	a->select = 0;
	a->id = 0;
	for (unsigned int i = 0; i < IOAPIC_MAX_PINS; i++)
		a->entries[i] = ENTRY_MASKED;
	if (a->changed)
		a->changed(a->opaque);
}

void ioapic_state(struct ioapic *a, struct state_io *io)
{
	uint64_t pins = a->pins;
	bool possible;

	if (!state_begin(io, STATE_TAG('I', 'O', 'A', 'P'), 0, 1, STATE_MANDATORY))
		return;
	/* Devices that are newer than the saved machine have the last pins, masked. */
	state_u64(io, &pins);
	if (state_ok(io) && (!pins || pins > a->pins))
		state_fail(io, -EINVAL, "devices with interrupts: %llu in the saved state, %u here",
			   (unsigned long long)pins, a->pins);
	state_u32(io, &a->select);
	state_u32(io, &a->id);
	possible = a->select <= 0xff && !(a->id & ~ID_BITS);
	for (unsigned int i = 0; i < a->pins && state_ok(io); i++) {
		if (i < pins)
			state_u64(io, &a->entries[i]);
		else
			a->entries[i] = ENTRY_MASKED;
		possible = possible && !(a->entries[i] & ENTRY_READONLY);
	}
	if (state_restoring(io) && !possible)
		state_fail(io, -EINVAL, "impossible registers");
	if (state_restoring(io) && state_ok(io) && a->changed)
		a->changed(a->opaque);
	state_end(io);
}

static uint32_t read_window(const struct ioapic *a)
{
	uint32_t pin = (a->select - REG_ENTRIES) / 2;

	switch (a->select) {
	case REG_ID:
	case REG_ARB:
		return a->id;
	case REG_VERSION:
		return VERSION | (a->pins - 1) << 16;
	}
	if (a->select < REG_ENTRIES || pin >= a->pins)
		return 0;
	return (uint32_t)(a->entries[pin] >> (a->select & 1 ? 32 : 0));
}

uint32_t ioapic_read(const struct ioapic *a, uint64_t offset)
{
	if (offset == IOAPIC_REGSEL)
		return a->select;
	return offset == IOAPIC_WINDOW ? read_window(a) : 0;
}

static void write_entry(struct ioapic *a, unsigned int pin, bool high, uint32_t value)
{
	uint64_t old = a->entries[pin], v = old;

	if (high)
		v = (v & 0xffffffffull) | (uint64_t)value << 32;
	else
		v = (v & ~0xffffffffull) | value;
	v &= ~ENTRY_READONLY;
	a->entries[pin] = v;
	/* While it stays masked nothing changes for anybody. */
	if (v != old && !((v & old) & ENTRY_MASKED) && a->changed)
		a->changed(a->opaque);
}

void ioapic_write(struct ioapic *a, uint64_t offset, uint32_t value)
{
	if (offset == IOAPIC_REGSEL) {
		a->select = value & 0xff;
		return;
	}
	if (offset != IOAPIC_WINDOW)
		return;
	if (a->select == REG_ID)
		a->id = value & ID_BITS;
	else if (a->select >= REG_ENTRIES && (a->select - REG_ENTRIES) / 2 < a->pins)
		write_entry(a, (a->select - REG_ENTRIES) / 2, a->select & 1, value);
}

bool ioapic_route(const struct ioapic *a, unsigned int pin, struct ioapic_msi *out)
{
	uint64_t v;

	if (pin >= a->pins || (a->entries[pin] & ENTRY_MASKED))
		return false;
	v = a->entries[pin];
	out->address = 0xfee00000u | (uint32_t)(v >> 56) << 12 | (v & ENTRY_LOGICAL ? 4u : 0u);
	out->data = (uint32_t)(v & (ENTRY_VECTOR | ENTRY_DELIVERY));
	return true;
}
