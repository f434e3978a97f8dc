/* SPDX-License-Identifier: Apache-2.0 */
/* Dockerfiles: what is accepted is a manifest, or has a mistake that manifests have. */
#include <stdlib.h>
#include <string.h>

#include "server/manager/dockerfile.h"
#include "server/manager/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *dumped;
	json_t *image = NULL;
	struct manifest m;
	struct err e;

	memcpy(text, data, size);
	text[size] = '\0';
	if (!dockerfile_parse(text, &image, &e)) {
		dumped = json_dumps(image, JSON_COMPACT);
		if (!dumped || !json_is_string(json_object_get(image, "base")))
			abort();
		if (!manifest_parse(dumped, strlen(dumped), image, &m, &e))
			manifest_fini(&m);
		free(dumped);
		json_decref(image);
	}
	free(text);
	return 0;
}
