/* SPDX-License-Identifier: Apache-2.0 */
/* An 8250/16550A as log console; see serial.h. Register names as in the datasheet. */
#include "devices/serial.h"

#include <errno.h>
#include <unistd.h>

enum { THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_THRI 0x02
#define IER_MASK 0x0f
#define IIR_NONE 0x01
#define IIR_THRI 0x02
#define IIR_FIFO 0xc0
#define LCR_DLAB 0x80
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f
#define LSR_IDLE 0x60 /* THRE and TEMT: always room */
#define MSR_LINE 0xb0 /* DCD, DSR, CTS: somebody listens */

void serial_reset(struct serial *s)
{
	s->ier = s->lcr = s->mcr = s->scr = s->dlm = 0;
	s->dll = 1;
	s->fifo = s->thr_empty = false;
}

void serial_state(struct serial *s, struct state_io *io)
{
	if (!state_begin(io, STATE_TAG('S', 'E', 'R', 'I'), 0, 1, STATE_MANDATORY))
		return;
	/* Any value is one that a guest can write, but for what serial_write() cuts off. */
	state_u8(io, &s->ier);
	state_u8(io, &s->lcr);
	state_u8(io, &s->mcr);
	state_u8(io, &s->scr);
	state_u8(io, &s->dll);
	state_u8(io, &s->dlm);
	state_bool(io, &s->fifo);
	state_bool(io, &s->thr_empty);
	if (state_ok(io) && (s->ier & ~IER_MASK || s->mcr & ~MCR_MASK))
		state_fail(io, -EINVAL, "impossible registers: IER %#x, MCR %#x", s->ier, s->mcr);
	state_end(io);
}

static void raise_thr_empty(struct serial *s)
{
	uint64_t one = 1;

	s->thr_empty = true;
	/* A driver that polls leaves IER at 0: then a write costs no interrupt. */
	if (!(s->ier & IER_THRI) || s->irq_fd < 0)
		return;
	if (write(s->irq_fd, &one, sizeof(one)) < 0)
		return;
}

static void send(struct serial *s, const uint8_t *data, size_t len)
{
	s->out_bytes += len;
	if (s->sink && !(s->mcr & MCR_LOOP))
		s->sink(s->opaque, data, len);
	raise_thr_empty(s);
}

uint8_t serial_read(struct serial *s, unsigned int port)
{
	bool pending = s->thr_empty && (s->ier & IER_THRI);

	switch (port) {
	case THR:
		return s->lcr & LCR_DLAB ? s->dll : 0;
	case IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case IIR_FCR:
		/* Reading IIR is what acknowledges this interrupt. */
		if (pending)
			s->thr_empty = false;
		return (uint8_t)((pending ? IIR_THRI : IIR_NONE) | (s->fifo ? IIR_FIFO : 0));
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return LSR_IDLE;
	case MSR:
		/* In loop mode RTS, DTR, OUT1, OUT2 come back as CTS, DSR, RI, DCD: autodetection.
		 */
		if (s->mcr & MCR_LOOP)
			return (uint8_t)((s->mcr & 0x02 ? 0x10 : 0) | (s->mcr & 0x01 ? 0x20 : 0) |
					 (s->mcr & 0x04 ? 0x40 : 0) |
					 (s->mcr & MCR_OUT2 ? 0x80 : 0));
		return MSR_LINE;
	case SCR:
		return s->scr;
	default:
		return 0;
	}
}

void serial_write(struct serial *s, unsigned int port, uint8_t value)
{
	switch (port) {
	case THR:
		if (s->lcr & LCR_DLAB)
			s->dll = value;
		else
			send(s, &value, 1);
		break;
	case IER:
		if (s->lcr & LCR_DLAB) {
			s->dlm = value;
			break;
		}
		value &= IER_MASK;
		/* The transmitter is empty: enabling its interrupt raises it at once. */
		if (~s->ier & value & IER_THRI) {
			s->ier = value;
			raise_thr_empty(s);
		}
		s->ier = value;
		break;
	case IIR_FCR:
		s->fifo = value & 1;
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & MCR_MASK;
		break;
	case SCR:
		s->scr = value;
		break;
	default:
		break;
	}
}

void serial_write_bytes(struct serial *s, const uint8_t *data, size_t len_bytes)
{
	if (!(s->lcr & LCR_DLAB)) {
		if (len_bytes)
			send(s, data, len_bytes);
		return;
	}
	for (size_t i = 0; i < len_bytes; i++)
		serial_write(s, THR, data[i]);
}
