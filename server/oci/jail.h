/* SPDX-License-Identifier: Apache-2.0 */
/* The jail of dormouse-oci: what parses archives of strangers has its files open, and no more. */
#ifndef SERVER_OCI_JAIL_H
#define SERVER_OCI_JAIL_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

/* First of all: other descriptors are closed, limits are set. @file_bytes: the largest file */
int jail_start(const int *keep, size_t n, uint64_t file_bytes, struct err *e);
/* When all is open. No file can be opened any more, and no other program run. */
int jail_enter(struct err *e);

#endif
