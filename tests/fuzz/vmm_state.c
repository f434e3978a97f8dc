/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine that is given a state from anywhere: above all what goes from it to KVM.
 *
 * Input: changes to the state of a machine that has not run, {section8, how8, offset16, length8,
 * bytes}. how 0: overwrite; 1: insert; 2: cut off there. The stream that comes of it has valid
 * headers and checksums. What is accepted can be saved again.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cursor.h"
#include "lib/log.h"
#include "vmm/vm_state.h"

#define SKIPPED	    99 /* tests/run counts it; libFuzzer itself uses 1, 70 to 77 */
#define PAYLOAD_MAX 0x10000u

struct payload {
	size_t len;
	uint8_t bytes[PAYLOAD_MAX];
};

static struct vm vm;
static struct state_io base;
static struct payload payloads[STATE_MAX_SECTIONS];
static unsigned int sections_n; /* without the end, which is made anew */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int rc, const struct err *e)
{
	if (!rc)
		return;
	fprintf(stderr, "%s\n", e->msg);
	abort();
}

static void save(struct state_io *io)
{
	struct err e;

	state_save_init(io);
	vm_state_save(&vm, io);
	must(state_finish(io, &e), &e);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct vm_shape shape = {.cpus = 1, .memory_mib = 64, .vsock = true};
	struct err e;

	(void)argc;
	(void)argv;
	if (access("/dev/kvm", R_OK | W_OK)) {
		fprintf(stderr, "SKIP no usable /dev/kvm\n");
		exit(SKIPPED);
	}
	log_init("fuzz", LOG_ERROR, 2);
	must(vm_init(&vm, &e), &e);
	pthread_mutex_lock(&vm.lock);
	must(machine_prepare(&vm, &shape, &(struct vm_ends){0}, &e), &e);
	must(memory_clear(&vm, &e), &e);
	save(&base);
	sections_n = base.n - 1;
	return 0;
}

static void change(struct reader *r)
{
	struct payload *p = &payloads[read_u8(r) % sections_n];
	uint8_t how = read_u8(r) % 3;
	size_t at = read_u16(r), len = read_u8(r);
	const uint8_t *bytes;

	if (len > reader_left(r))
		len = reader_left(r);
	bytes = read_bytes(r, len);
	if (at > p->len)
		at = p->len;
	if (how == 2) {
		p->len = at;
	} else if (bytes && p->len + len <= PAYLOAD_MAX) {
		if (how == 1)
			memmove(p->bytes + at + len, p->bytes + at, p->len - at);
		memcpy(p->bytes + at, bytes, len);
		p->len = how == 1 ? p->len + len : p->len > at + len ? p->len : at + len;
	}
}

static void build(struct state_io *io)
{
	struct err e;

	state_save_init(io);
	for (unsigned int i = 0; i < sections_n; i++) {
		const struct state_section *s = &base.sections[i];

		if (!state_begin(io, s->tag, s->instance, s->version, s->flags))
			break;
		state_bytes(io, payloads[i].bytes, payloads[i].len);
		state_end(io);
	}
	must(state_finish(io, &e), &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state_io built, in, again;
	struct reader r;
	struct err e;

	for (unsigned int i = 0; i < sections_n; i++) {
		const struct state_section *s = &base.sections[i];

		payloads[i].len = s->len_bytes;
		memcpy(payloads[i].bytes, base.data + s->offset, s->len_bytes);
	}
	r = reader_of(data, size);
	while (reader_left(&r))
		change(&r);
	build(&built);
	must(state_restore_init(&in, built.data, built.len, &e), &e);
	if (!vm_state_load(&vm, &in, NULL, &e)) {
		save(&again);
		state_fini(&again);
	}
	state_fini(&in);
	state_fini(&built);
	return 0;
}
