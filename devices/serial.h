/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An 8250/16550A as log console: what the guest writes goes to a sink.
 *
 * There is no input. The transmitter is always ready, so that an early console
 * that polls LSR never waits. The interrupt of an empty transmitter is given, as
 * Linux' tty path needs it. The sink must not block; it takes whole bursts.
 */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/state.h"

#define SERIAL_PORTS 8 /* I/O ports, from the base (0x3f8) */

struct serial {
	/* Called with what the guest sent; must not block, may drop. NULL: dropped. */
	void (*sink)(void *opaque, const uint8_t *data, size_t len_bytes);
	void *opaque; /* borrowed */
	int irq_fd;   /* borrowed eventfd, one edge per write; -1: no interrupt */
	uint64_t out_bytes;

	/* Registers. */
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	bool fifo;
	bool thr_empty; /* raised and not yet seen in IIR */
};

/* All registers to their power-on values; keeps sink and irq_fd. */
void serial_reset(struct serial *s);

/* Save or restore the registers. Under the device lock. */
void serial_state(struct serial *s, struct state_io *io);

/* @port: 0-7. Under the device lock. Any value is harmless. */
uint8_t serial_read(struct serial *s, unsigned int port);
void serial_write(struct serial *s, unsigned int port, uint8_t value);
/* As serial_write() to port 0 for each byte: for string output (REP OUTSB) in one exit. */
void serial_write_bytes(struct serial *s, const uint8_t *data, size_t len_bytes);

#endif
