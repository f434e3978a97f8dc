/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the disk share: a scratch directory, a base image, waiting for requests. */
#ifndef TESTS_DISK_KIT_H
#define TESTS_DISK_KIT_H

#include <stdint.h>

#include "snapshot/disk_overlay.h"

struct disk_kit {
	char dir[64], base[96], overlay[96];
	struct loop loop;
	struct disk *disk;
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
};

/* A base of @base_bytes: byte i of sector s is (s * 7 + i) & 0xff. Not opened yet. */
void kit_init(struct disk_kit *k, uint64_t base_bytes);
/* Close if open, remove everything. */
void kit_fini(struct disk_kit *k);
/* Return: as disk_overlay_open(). */
int kit_open(struct disk_kit *k, uint64_t size_bytes, struct err *e);
void kit_close(struct disk_kit *k);
/* The byte of the base. */
uint8_t kit_base_byte(uint64_t offset);

/* One request, run to its end in the loop. Return: its result. */
int kit_read(struct disk_kit *k, uint64_t offset, void *buf, uint64_t len);
int kit_write(struct disk_kit *k, uint64_t offset, const void *buf, uint64_t len);
int kit_do(struct disk_kit *k, enum disk_op op, uint64_t offset, uint64_t len);

#endif
