/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the guest's log console goes: stdout or a file.
 *
 * Bytes are gathered to lines. Nothing blocks: what a reader of stdout does not
 * take is dropped. A file never grows beyond CONSOLE_FILE_MAX_BYTES: it starts again, so that a
 * guest cannot fill the host's disk. All under the device lock.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/loop.h"

#define CONSOLE_FILE_MAX_BYTES (8u << 20)

struct console;

/* Drops everything until it is opened. */
int console_create(struct console **out, struct loop *loop, struct err *e);
/* Once. @path: a file to append to, "-" for stdout, NULL to drop everything. */
int console_open(struct console *c, const char *path, struct err *e);
void console_destroy(struct console *c);
/* A sink of struct serial; @opaque is a struct console. */
void console_write(void *opaque, const uint8_t *data, size_t len_bytes);
void console_flush(struct console *c);

#endif
