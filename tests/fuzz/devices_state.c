/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that are restored from anything, and then driven on.
 *
 * Input: the kind of device; then the program of device_fuzz.h, in which opcode 7 restores a
 * state whose sections have the payloads {length8, bytes} that follow, with valid headers
 * and checksums. What is accepted must be saved as the same bytes.
 */
#include <stdio.h>

#include "device_fuzz.h"
#include "tests/unit/devices/fake_disk.c"

static char dir[] = "/tmp/fuzz-state-XXXXXX", uds[64];
static struct fake_disk disk;

static void section(struct state_io *io, uint32_t tag, struct reader *r)
{
	size_t len = read_u8(r);
	const uint8_t *p;

	if (len > reader_left(r))
		len = reader_left(r);
	p = read_bytes(r, len);
	if (!state_begin(io, tag, 0, 1, STATE_MANDATORY))
		return;
	if (p)
		state_bytes(io, (void *)(uintptr_t)p, len);
	state_end(io);
}

static void restore(struct fuzz *f, struct reader *r)
{
	struct state_io built, in, saved;

	state_save_init(&built);
	if (state_begin(&built, STATE_TAG('D', 'E', 'V', 'S'), 0, 1, STATE_MANDATORY)) {
		state_expect(&built, 1, "devices");
		state_end(&built);
	}
	section(&built, STATE_TAG('V', 'I', 'R', 'T'), r);
	if (f->d->ops->state)
		section(&built, STATE_TAG('V', 'D', 'E', 'V'), r);
	if (state_finish(&built, NULL) < 0 ||
	    state_restore_init(&in, built.data, built.len, NULL) < 0)
		abort();
	if (f->d->kind == DEVICE_MEM)
		device_mem_set_usable(f->d, 10 * DEVICE_MEM_BLOCK);
	devices_state(f->ds, &in);
	if (state_finish(&in, NULL) == 0) {
		state_save_init(&saved);
		devices_state(f->ds, &saved);
		if (state_finish(&saved, NULL) < 0 || saved.len != built.len ||
		    memcmp(saved.data, built.data, built.len))
			abort();
		state_fini(&saved);
		devices_post_restore(f->ds);
	}
	state_fini(&built);
}

static void remove_dir(void)
{
	rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_BLK};
	struct fuzz f = {.own = restore};

	if (!size)
		return 0;
	if (!uds[0]) {
		if (!mkdtemp(dir))
			abort();
		snprintf(uds, sizeof(uds), "%s/v", dir);
		atexit(remove_dir);
	}
	c.kind = (enum device_kind)(data[0] % DEVICE_KINDS);
	if (c.kind == DEVICE_BLK) {
		fake_disk_init(&disk);
		c.blk.disk = &disk.disk;
	} else if (c.kind == DEVICE_MEM) {
		c.mem.gpa = 1ull << 32;
		c.mem.region_bytes = 64 * DEVICE_MEM_BLOCK;
	} else if (c.kind == DEVICE_VSOCK) {
		c.vsock.guest_cid = 3;
		c.vsock.uds_path = uds;
	}
	fuzz_run(&f, &c, data + 1, size - 1);
	return 0;
}
