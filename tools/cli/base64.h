/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 (RFC 4648, 4), decoding only: bytes that JSON cannot hold come so. */
#ifndef TOOLS_CLI_BASE64_H
#define TOOLS_CLI_BASE64_H

#include <stddef.h>
#include <sys/types.h>

/**
 * base64_decode() - Decode @len characters
 * @out:	Room for at least len / 4 * 3 bytes
 *
 * Return: the number of bytes, or -EINVAL for what is not padded base64
 */
ssize_t base64_decode(const char *in, size_t len, unsigned char *out);

#endif
