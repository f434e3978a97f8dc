/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <string.h>

#include "lib/json.h"

struct bound {
	const char *name;
	int64_t count;
	bool flag;
	json_t *args, *envs;
};

static const struct json_field fields[] = {
    JSON_FIELD(struct bound, name, "name", JSON_F_STRING, .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct bound, count, "count", JSON_F_INT, .min = 1, .max = 4),
    JSON_FIELD(struct bound, flag, "flag", JSON_F_BOOL),
    JSON_FIELD(struct bound, args, "args", JSON_F_STRINGS),
    JSON_FIELD(struct bound, envs, "envs", JSON_F_MAP),
};

static int bind(const char *text, struct bound *b, struct err *e)
{
	json_t *obj = json_loads(text, JSON_ALLOW_NUL, NULL);
	int rc;

	cr_assert_not_null(obj, "%s", text);
	rc = json_bind(obj, fields, sizeof(fields) / sizeof(fields[0]), JSON_REFUSE_UNKNOWN, b, e);
	/* The bound strings are borrowed; these tests look at numbers only. */
	json_decref(obj);
	return rc;
}

Test(json, absent_and_null_fields_keep_their_defaults)
{
	struct bound b = {.count = 3, .flag = true};

	cr_assert_eq(bind("{\"name\":\"x\",\"count\":null}", &b, NULL), 0);
	cr_assert_eq(b.count, 3);
	cr_assert(b.flag);
}

struct bad {
	char text[96], says[64];
};

ParameterizedTestParameters(json, bad_objects)
{
	static struct bad cases[] = {
	    {"{}", "name is required"},
	    {"{\"name\":null}", "name is required"},
	    {"{\"name\":\"\"}", "name is required"},
	    {"{\"name\":1}", "name: must be a string"},
	    {"{\"name\":\"a\\u0000b\"}", "name: must not contain NUL"},
	    {"{\"name\":\"x\",\"count\":0}", "count: 0 is not within 1 to 4"},
	    {"{\"name\":\"x\",\"count\":5}", "count: 5 is not within 1 to 4"},
	    {"{\"name\":\"x\",\"count\":1.5}", "count: must be an integer"},
	    {"{\"name\":\"x\",\"flag\":1}", "flag: must be true or false"},
	    {"{\"name\":\"x\",\"args\":[1]}", "args: items must be strings"},
	    {"{\"name\":\"x\",\"args\":{}}", "args: must be an array"},
	    {"{\"name\":\"x\",\"envs\":{\"A\":1}}", "envs: values must be strings"},
	    {"{\"name\":\"x\",\"other\":1}", "unknown field \"other\""},
	    {"[]", "a JSON object is expected"},
	};
	return cr_make_param_array(struct bad, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct bad *c, json, bad_objects)
{
	struct bound b = {0};
	struct err e = {0};

	cr_assert_eq(bind(c->text, &b, &e), -EINVAL, "%s", c->text);
	cr_assert_str_eq(e.msg, c->says);
}
