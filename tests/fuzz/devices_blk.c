/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk under a hostile driver; the disk aborts on a range outside of it. */
#include "device_fuzz.h"
#include "tests/unit/devices/fake_disk.c"

static struct fake_disk disk;

static void disk_op(struct fuzz *f, struct reader *r)
{
	(void)f;
	switch (read_u8(r) & 3) {
	case 0:
		disk.hold = true;
		break;
	case 1:
		disk.hold = false;
		fake_disk_release(&disk);
		break;
	case 2:
		disk.fail = -(int)(read_u8(r) % 100);
		break;
	default:
		disk.fail = 0;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_BLK};
	struct fuzz f = {.own = disk_op};

	fake_disk_init(&disk);
	c.blk.disk = &disk.disk;
	c.blk.serial = "fuzz";
	fuzz_run(&f, &c, data, size);
	return 0;
}
