/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon under a hostile driver: only RAM of the guest may ever be dropped. */
#include "device_fuzz.h"

static void set_target(struct fuzz *f, struct reader *r)
{
	device_balloon_set_target(f->d, read_u32(r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_BALLOON};
	struct fuzz f = {.own = set_target};

	fuzz_run(&f, &c, data, size);
	return 0;
}
