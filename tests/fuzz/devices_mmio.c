/* SPDX-License-Identifier: Apache-2.0 */
/* The MMIO transport under a hostile driver, with the simplest device behind it. */
#include "device_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct fuzz f = {0};

	fuzz_run(&f, &c, data, size);
	return 0;
}
