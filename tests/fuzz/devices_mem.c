/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-mem under a hostile driver: no more is ever plugged than was requested and is memory. */
#include "device_fuzz.h"

#define GPA    0x100000000ull
#define BLOCKS 16u

static void check(struct fuzz *f)
{
	struct device_mem_info info;

	device_mem_get(f->d, &info);
	if (info.plugged_bytes > info.usable_bytes || info.plugged_bytes % DEVICE_MEM_BLOCK)
		abort();
}

static void own(struct fuzz *f, struct reader *r)
{
	uint8_t what = read_u8(r), n = read_u8(r);
	struct device_mem_info info;

	device_mem_get(f->d, &info);
	if (what & 1)
		device_mem_request(f->d, n % (info.usable_bytes / DEVICE_MEM_BLOCK + 1) *
					     DEVICE_MEM_BLOCK);
	else if (info.usable_bytes < BLOCKS * DEVICE_MEM_BLOCK)
		device_mem_set_usable(f->d, BLOCKS * DEVICE_MEM_BLOCK);
	else
		devices_reset(f->ds);
	check(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Nothing is memory there for the harness: what is unplugged cannot be dropped, as if the
	 * VMM had lost it. The usable part only grows. */
	struct device_config c = {.kind = DEVICE_MEM,
				  .mem = {.gpa = GPA, .region_bytes = 64 * DEVICE_MEM_BLOCK}};
	struct fuzz f = {.own = own};

	fuzz_run(&f, &c, data, size);
	return 0;
}
