/* SPDX-License-Identifier: Apache-2.0 */
/* Base64, decoding; see base64.h. */
#include "lib/base64.h"

#include <errno.h>

static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ssize_t base64_decode(const char *in, size_t len, uint8_t *out)
{
	size_t pad = 0, n = 0;

	if (len % 4)
		return -EINVAL;
	while (pad < 2 && pad < len && in[len - pad - 1] == '=')
		pad++;
	for (size_t i = 0; i < len; i += 4) {
		size_t have = i + 4 == len ? 4 - pad : 4;
		uint32_t bits = 0;

		for (size_t k = 0; k < 4; k++) {
			int v = k < have ? value_of(in[i + k]) : 0;

			if (v < 0)
				return -EINVAL;
			bits = bits << 6 | (uint32_t)v;
		}
		for (size_t k = 0; k + 1 < have; k++, n++)
			if (out)
				out[n] = (uint8_t)(bits >> (16 - 8 * k));
	}
	return (ssize_t)n;
}
