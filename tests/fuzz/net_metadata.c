/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the metadata service, in pieces: what comes out is one of few questions. */
#include <stdlib.h>
#include <string.h>

#include "server/net/metadata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const known[] = {"status", "limits", "metadata", "scale"};
	struct metadata_request r;
	struct metadata_question q;
	size_t piece = size ? data[0] % 16 + 1u : 1;
	int found = 0;

	metadata_request_init(&r);
	while (size && !r.complete) {
		size_t n = piece < size ? piece : size;

		if (metadata_request_feed(&r, (const char *)data, n))
			return 0;
		data += n;
		size -= n;
	}
	if (!r.complete)
		return 0;
	metadata_request_read(&r, &q);
	for (size_t i = 0; q.what && i < sizeof(known) / sizeof(known[0]); i++)
		found |= !strcmp(q.what, known[i]);
	if (q.what ? !found : q.status < 200 || !q.text)
		__builtin_trap();
	if (q.what && !strcmp(q.what, "scale") && q.memory_mb < 1)
		__builtin_trap();
	return 0;
}
