/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the disk share: a scratch directory, a base image, waiting for requests. */
#ifndef TESTS_DISK_KIT_H
#define TESTS_DISK_KIT_H

#include <stdint.h>

#include "snapshot/disk_layers.h"

#define KIT_LAYERS     40
#define KIT_BASE_BYTES (64u * 4096 + 1024) /* its end is inside a cluster */
#define KIT_SIZE_BYTES (96u * 4096 + 512)

struct disk_kit {
	char dir[64], base[96];
	char overlay[96];	     /* the writable layer; empty: none */
	char layers[KIT_LAYERS][96]; /* immutable ones below it, oldest first */
	unsigned int layers_n, files_n;
	bool no_base;
	struct loop loop;
	struct disk *disk;
	unsigned int seals; /* how many switches have reported */
	int sealed;	    /* what the last one did */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
};

/* A base of @base_bytes: byte i of sector s is (s * 7 + i) & 0xff. Not opened yet. */
void kit_init(struct disk_kit *k, uint64_t base_bytes);
/*
 * The same in memory, for tests that kill and fail at each of hundreds of points: what a
 * process wrote is there after its death, durable or not, so disks would only be slow.
 */
void kit_init_in_memory(struct disk_kit *k, uint64_t base_bytes);
/* Close if open, remove everything. */
void kit_fini(struct disk_kit *k);
/* Return: as disk_layers_open(). */
int kit_open(struct disk_kit *k, uint64_t size_bytes, struct err *e);
void kit_close(struct disk_kit *k);
/* Go on in a new layer; @sealed of it is not waited for. Return: as disk_layers_switch(). */
int kit_switch(struct disk_kit *k, struct err *e);
/* Run the loop until the last switch has reported. Return: what. */
int kit_wait_sealed(struct disk_kit *k);
/* Bytes written by no guest: overwrite a part of a file. */
void kit_patch(const char *path, uint64_t offset, const void *bytes, size_t len);
/* The byte of the base. */
uint8_t kit_base_byte(uint64_t offset);
/* Of a disk on a base of KIT_BASE_BYTES that nobody has written to, and of nothing. */
uint8_t kit_base_or_zero(uint64_t offset);
uint8_t kit_zero(uint64_t offset);

/* One request, run to its end in the loop. Return: its result. */
int kit_read(struct disk_kit *k, uint64_t offset, void *buf, uint64_t len);
int kit_write(struct disk_kit *k, uint64_t offset, const void *buf, uint64_t len);
int kit_do(struct disk_kit *k, enum disk_op op, uint64_t offset, uint64_t len);

/* The same for a range of bytes that a function describes, in one request. */
typedef uint8_t kit_byte(uint64_t offset);
void kit_write_bytes(struct disk_kit *k, uint64_t offset, uint64_t len, kit_byte *byte);
void kit_expect(struct disk_kit *k, uint64_t offset, uint64_t len, kit_byte *want,
		const char *what);

#endif
