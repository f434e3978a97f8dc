/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 (RFC 4648, 4), decoding only: bytes that JSON cannot hold come so. */
#ifndef LIB_BASE64_H
#define LIB_BASE64_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * base64_decode() - Decode @len characters
 * @out:	Room for at least len / 4 * 3 bytes; NULL: only count and check
 *
 * Return: the number of bytes, or -EINVAL for what is not padded base64
 */
ssize_t base64_decode(const char *in, size_t len, uint8_t *out);

#endif
