/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests of images: whatever is accepted can be used, and is known again by its text. */
#include <stdlib.h>
#include <string.h>

#include "server/http/request.h"
#include "server/manager/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_step(const struct step *s)
{
	for (size_t i = 0; i < step_files(s); i++) {
		struct manifest_file f;

		if (step_file(s, i, &f))
			abort();
		if (f.path[0] != '/' || strstr(f.path, "/../") || f.len > MANIFEST_BYTES_MAX)
			abort();
		free(f.path);
		free(f.data);
	}
	if (s->type == STEP_RUN)
		free(step_script(s));
	if (s->type == STEP_ENV) {
		const json_t *vars = json_object_get(s->args, "vars");
		char *once = environment_merge("A=1\n", vars, false);
		char *twice = environment_merge(once, vars, false);

		if (strcmp(once, twice))
			abort();
		free(once);
		free(twice);
		free(environment_merge(NULL, vars, true));
	}
}

static void parse(const char *text, size_t len)
{
	struct manifest m, again;
	struct err e;
	json_t *json = json_parse_object(text, len, &e);

	if (!json)
		return;
	if (!manifest_parse(text, len, json, &m, &e)) {
		json_t *kept = json_parse_object(m.text, strlen(m.text), &e);

		for (size_t i = 0; i < m.n_steps; i++)
			use_step(&m.steps[i]);
		if (!kept || manifest_parse(m.text, strlen(m.text), kept, &again, &e) ||
		    strcmp(m.hash, again.hash))
			abort();
		json_decref(kept);
		manifest_fini(&again);
		manifest_fini(&m);
	}
	json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *value = "", *text = (const char *)data;
	size_t n = json_text_member(text, size, "image", &value);

	if (n > size || (n && (value < text || value + n > text + size)))
		abort();
	parse(text, size);
	if (n)
		parse(value, n);
	return 0;
}
