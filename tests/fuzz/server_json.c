/* SPDX-License-Identifier: Apache-2.0 */
/* JSON bodies in, JSON strings out: what is written must be read again, and be the same then. */
#include <stdlib.h>
#include <string.h>

#include "server/http/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_read(const void *bytes, size_t len)
{
	struct strbuf once = {0}, twice = {0};
	json_t *parsed;

	strbuf_json_string(&once, bytes, len);
	parsed = json_loadb(once.data, once.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (!parsed)
		abort();
	strbuf_json_string(&twice, json_string_value(parsed), json_string_length(parsed));
	if (once.len != twice.len || memcmp(once.data, twice.data, once.len))
		abort();
	json_decref(parsed);
	strbuf_fini(&once);
	strbuf_fini(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e;
	json_t *body = json_parse_object((const char *)data, size, &e);
	const char *name;
	json_t *value;

	if (body)
		json_object_foreach(body, name, value) if (json_is_string(value))
		    write_and_read(json_string_value(value), json_string_length(value));
	json_decref(body);
	write_and_read(data, size);
	return 0;
}
