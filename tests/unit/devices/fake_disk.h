/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in memory whose requests end when the test says so. */
#ifndef TESTS_FAKE_DISK_H
#define TESTS_FAKE_DISK_H

#include <stddef.h>

#include "devices/disk.h"

#define FAKE_DISK_BYTES (256u * 1024)

struct fake_disk {
	struct disk disk;
	uint8_t bytes[FAKE_DISK_BYTES];
	bool hold; /* keep requests until fake_disk_release() */
	int fail;  /* -errno for the next requests, or 0 */
	unsigned int flushes, kicks, held;
	struct disk_req *first;
};

void fake_disk_init(struct fake_disk *f);
/* End all that are held, the last first. */
void fake_disk_release(struct fake_disk *f);

#endif
