/* SPDX-License-Identifier: Apache-2.0 */
/* How answers of the server are shown: fields, lists, sizes, ages. */
#ifndef TOOLS_CLI_OUTPUT_H
#define TOOLS_CLI_OUTPUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "tools/cli/cli.h"

/* Makes a text of a value, to be freed, or NULL for nothing. */
typedef char *output_format(const json_t *value);

struct output_column {
	const char *title, *field;
	output_format *format; /* NULL: output_text() */
};

/* Strings as they are, others as JSON; NULL for null, "" and {}. */
char *output_text(const json_t *value);
/* A number of bytes: "512 B", "1.5 GiB". */
char *output_size(const json_t *value);
/* An RFC 3339 time as how long ago it was: "5 min". What is no such time is shown as it is. */
char *output_age(const json_t *value);

/* Write @bytes as above. Return: @out. */
char *output_bytes(int64_t bytes, char *out, size_t len);
/* Write the time from @then to @now as one number with its unit. Return: @out. */
char *output_duration(int64_t seconds, char *out, size_t len);
/* Parse an RFC 3339 time in UTC. Return: 0 or -EINVAL. */
int output_parse_time(const char *text, time_t *out);

/* A table of an array's objects; @columns ends with one without a title. */
void output_list(const json_t *list, const struct output_column *columns);
/* The fields of an object that are set, one per line. */
void output_fields(const json_t *object);

/**
 * output_call() - Send a request and print its answer, as JSON or by @print
 * @type:	What the answer must be
 *
 * Return: the exit code of the command
 */
int output_call(struct cli *c, const struct http_request *r, json_type type,
		void (*print)(const json_t *v));
/* The same; @more adds what other requests tell to the answer. */
int output_call_more(struct cli *c, const struct http_request *r, json_type type,
		     void (*more)(struct http *h, const struct http_request *r, json_t *v),
		     void (*print)(const json_t *v));

/* Fail if the answer is not of @type. Return: 0, or EXIT_FAILED after printing. */
int output_check_type(const struct cli *c, const json_t *v, json_type type);

#endif
