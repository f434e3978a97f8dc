/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest-kernel/agent/env.h"
#include "lib/base64.h"
#include "server/http/request.h"
#include "server/manager/manifest.h"

#define STEP(type, args) "{\"steps\":[{\"type\":\"" type "\",\"args\":" args "}]}"

static int parse(const char *text, struct manifest *m, struct err *e)
{
	json_t *json = json_parse_object(text, strlen(text), e);
	int rc;

	cr_assert_not_null(json, "%s: %s", text, e->msg);
	rc = manifest_parse(text, strlen(text), json, m, e);
	json_decref(json);
	return rc;
}

static void expect_hash(const char *text, const char *hash)
{
	struct manifest m;
	struct err e;

	cr_assert_eq(parse(text, &m, &e), 0, "%s: %s", text, e.msg);
	cr_assert_str_eq(m.hash, hash, "%s: %s", text, m.hash);
	manifest_fini(&m);
}

static void refuse(const char *text, const char *why)
{
	struct manifest m;
	struct err e;

	cr_assert_eq(parse(text, &m, &e), -EINVAL, "%s", text);
	cr_assert_not_null(strstr(e.msg, why), "%s: %s", text, e.msg);
}

Test(manifest, the_hash_is_that_of_the_client)
{
	static const char empty[] =
	    "485f603ddf675cfc9b285fed0d9d5e85c4c09c66e8cb4fc0cc0720acc08874ef";

	expect_hash("{\"base\":\"base\",\"steps\":[]}", empty);
	expect_hash("{}", empty);
	/* Blanks, order and what is no content of the image do not count. */
	expect_hash(" { \"steps\" : [ ] ,\n\t\"builderMemoryMB\": 8192, \"base\" : \"base\" } ",
		    empty);
	expect_hash("{\"base\":\"base\",\"steps\":[{\"type\":\"env\",\"args\":{\"vars\":{\"B\":"
		    "\"1\",\"A\":\"<x>\"}}},{\"type\":\"add_file\",\"args\":{\"path\":\"/a\","
		    "\"content\":\"w6k=\",\"encoding\":\"base64\"}}]}",
		    "b91590aa5a1f4392d1a332c0c28cf927b56a016e7ad782e41e809f0519c202b5");
	/* Blanks in strings do, and escaped quotes do not end one. */
	expect_hash("{ \"base\": \"base\", \"steps\": [ {\"type\": \"run\", \"args\": "
		    "{\"commands\": [\"a  \\\\\\\" b\"] } } ] }",
		    "e2af351356ef327c5be56b4954d82f6a5ccb5560675a62a827f340c4a7f84819");
}

Test(manifest, steps_are_known_by_what_they_do)
{
	struct manifest a, b;
	struct err e;

	cr_assert_eq(parse(STEP("add_file", "{\"path\":\"/a\",\"content\":\"x\"}"), &a, &e), 0);
	cr_assert_eq(
	    parse("{\"steps\":[{\"content\":\"x\",\"path\":\"/a\",\"type\":\"add_file\"}]}", &b,
		  &e),
	    0);
	cr_assert_str_eq(a.steps[0].digest, b.steps[0].digest);
	cr_assert_str_neq(a.hash, b.hash);
	manifest_fini(&b);
	cr_assert_eq(parse(STEP("add_file", "{\"path\":\"/b\",\"content\":\"x\"}"), &b, &e), 0);
	cr_assert_str_neq(a.steps[0].digest, b.steps[0].digest);
	manifest_fini(&a);
	manifest_fini(&b);
}

Test(manifest, mistakes_are_refused_with_their_step)
{
	refuse("{\"steps\":[{\"type\":\"run\",\"args\":{\"commands\":[\"a\"]}},{\"type\":\"x\"}]}",
	       "image: step 2: unknown step type: x");
	refuse("{\"steps\":{}}", "steps");
	refuse("{\"steps\":[1]}", "step 1");
	refuse("{\"steps\":[{\"args\":{}}]}", "step 1: type");
	refuse("{\"base\":7}", "base");
	refuse("{\"builderMemoryMB\":-1}", "builderMemoryMB");
	refuse(STEP("run", "{}"), "step 1: run: commands");
	refuse(STEP("run", "{\"commands\":[]}"), "commands");
	refuse(STEP("run", "{\"commands\":[\"a\\u0000b\"]}"), "commands: item 1");
	refuse(STEP("run", "{\"commands\":\"ls\"}"), "commands");
	refuse(STEP("apt_install", "{\"packages\":[]}"), "packages");
	refuse(STEP("apt_install", "{\"packages\":[\"a\",\"\"]}"), "item 2");
	refuse(STEP("pip_install", "{\"packages\":[\"-r\"]}"), "option");
	refuse(STEP("env", "{\"vars\":{\"A B\":\"x\"}}"), "A B");
	refuse(STEP("env", "{\"vars\":{\"\":\"x\"}}"), "not a variable");
	refuse(STEP("env", "{\"vars\":{\"1A\":\"x\"}}"), "1A");
	refuse(STEP("env", "{\"vars\":{\"A\":1}}"), "A");
	refuse(STEP("env", "{\"vars\":{\"A\":\"x\\ny\"}}"), "more than one line");
	refuse(STEP("env", "{\"vars\":[]}"), "vars");
	refuse(STEP("workdir", "{\"path\":\"app\"}"), "not absolute");
	refuse(STEP("workdir", "{\"path\":\"/a/../b\"}"), "/a/../b");
	refuse(STEP("workdir", "{\"path\":\"/\"}"), "directory");
	refuse(STEP("add_file", "{\"path\":\"/a\"}"), "content");
	refuse(STEP("add_file", "{\"path\":\"a\",\"content\":\"\"}"), "absolute");
	refuse(STEP("add_file", "{\"path\":\"/a/\",\"content\":\"\"}"), "/a/");
	refuse(STEP("add_file", "{\"path\":\"/a\",\"content\":\"x\",\"encoding\":\"base64\"}"),
	       "not base64");
	refuse(STEP("add_file", "{\"path\":\"/a\",\"content\":\"x\",\"encoding\":\"hex\"}"), "hex");
	refuse(STEP("add_file", "{\"path\":\"/a\",\"content\":\"x\",\"encoding\":5}"), "encoding");
}

static void refuse_below(const char *below)
{
	char text[256];

	snprintf(text, sizeof(text),
		 STEP("add_dir",
		      "{\"path\":\"/d\",\"files\":[{\"relativePath\":\"%s\",\"content\":\"\"}]}"),
		 below);
	refuse(text, "step 1: add_dir: files: item 1: relativePath");
}

Test(manifest, files_stay_below_their_directory)
{
	refuse_below("/etc/passwd");
	refuse_below("../x");
	refuse_below("a/../../x");
	refuse_below("a//b");
	refuse_below("a/");
	refuse_below(".");
	refuse_below("");
	refuse(STEP("add_dir", "{\"path\":\"/d\"}"), "files");
	refuse(STEP("add_dir", "{\"path\":\"/d\",\"files\":[{\"relativePath\":\"a\",\"content\":"
			       "\"=\"}]}"),
	       "not base64");
}

/* A manifest of @n files of @size bytes in one step each. */
static int parse_files(size_t n, size_t size, struct manifest *m, struct err *e)
{
	json_t *image = json_object(), *steps = json_array();
	size_t encoded = (size + 2) / 3 * 4;
	char *content = malloc(encoded + 1);
	int rc;

	memset(content, 'A', encoded);
	for (size_t i = size % 3; i && i < 3; i++)
		content[encoded - (3 - i)] = '=';
	for (size_t i = 0; i < n; i++)
		json_array_append_new(steps, json_pack("{ss, s{ss, ss, ss%}}", "type", "add_file",
						       "args", "path", "/a", "encoding", "base64",
						       "content", content, encoded));
	json_object_set_new(image, "steps", steps);
	rc = manifest_parse("{}", 2, image, m, e);
	json_decref(image);
	free(content);
	return rc;
}

Test(manifest, fifty_megabytes_of_files_are_the_limit)
{
	struct manifest m;
	struct err e;

	cr_assert_eq(parse_files(2, 25 << 20, &m, &e), 0, "%s", e.msg);
	manifest_fini(&m);
	cr_assert_eq(parse_files(2, (25 << 20) + 1, &m, &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "step 2: add_file: more than 50 MB"), "%s", e.msg);
	cr_assert_eq(parse_files(MANIFEST_STEPS_MAX + 1, 1, &m, &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "steps"), "%s", e.msg);
}

Test(manifest, its_text_is_kept_but_for_much_content)
{
	struct manifest m;
	struct err e;
	char *text, *big;

	cr_assert_eq(parse("{ \"base\" : \"base\",\n\"x\": \" y\" }", &m, &e), 0);
	cr_assert_str_eq(m.text, "{\"base\":\"base\",\"x\":\" y\"}");
	manifest_fini(&m);
	big = calloc(1, MANIFEST_TEXT_MAX + 1);
	memset(big, 'A', MANIFEST_TEXT_MAX);
	cr_assert_gt(asprintf(&text, STEP("add_file", "{\"path\":\"/a\",\"content\":\"%s\"}"), big),
		     0);
	cr_assert_eq(parse(text, &m, &e), 0, "%s", e.msg);
	cr_assert_str_eq(m.text, STEP("add_file", "{\"path\":\"/a\",\"contentLength\":1048576}"));
	manifest_fini(&m);
	free(text);
	free(big);
}

static void expect_base64(const char *text, const char *bytes, ssize_t n)
{
	uint8_t out[64];

	cr_assert_eq(base64_decode(text, strlen(text), out), n, "%s", text);
	cr_assert_eq(base64_decode(text, strlen(text), NULL), n, "%s", text);
	cr_assert(n < 0 || !memcmp(out, bytes, (size_t)n), "%s", text);
}

Test(manifest, base64)
{
	expect_base64("", "", 0);
	expect_base64("QQ==", "A", 1);
	expect_base64("QUI=", "AB", 2);
	expect_base64("QUJD", "ABC", 3);
	expect_base64("+/+/", "\xfb\xff\xbf", 3);
	expect_base64("Q", "", -EINVAL);
	expect_base64("QQ", "", -EINVAL);
	expect_base64("====", "", -EINVAL);
	expect_base64("Q===", "", -EINVAL);
	expect_base64("QQ==QQ==", "", -EINVAL);
	expect_base64("QU-D", "", -EINVAL);
	expect_base64("QU\nD", "", -EINVAL);
}

static void expect_member(const char *text, const char *name, const char *value)
{
	const char *found = "";
	size_t n = json_text_member(text, strlen(text), name, &found);

	cr_assert_eq(n, strlen(value), "%s: %zu", text, n);
	cr_assert(!memcmp(found, value, n), "%s", text);
}

Test(manifest, members_are_found_in_their_text)
{
	expect_member("{\"a\":1}", "a", "1");
	expect_member(" {\"b\" : {\"a\":[2,{\"a\":3}]} , \"a\" : [ 1 ] } ", "a", "[ 1 ]");
	expect_member("{\"x\":\"\\\",\\\"a\\\":1\",\"a\":\"}\"}", "a", "\"}\"");
	expect_member("{\"a\":1,\"a\":2}", "a", "2");
	expect_member("{\"ab\":1}", "a", "");
	expect_member("[\"a\",1]", "a", "");
	expect_member("{\"a", "a", "");
	expect_member("{\"", "a", "");
	expect_member("{\"a\"", "a", "");
	expect_member("{\"a\":", "a", "");
	expect_member("", "a", "");
}

Test(manifest, files_come_out_decoded)
{
	struct manifest_file f;
	struct manifest m;
	struct err e;

	cr_assert_eq(
	    parse("{\"steps\":[{\"type\":\"add_file\",\"args\":{\"path\":\"/a/b\","
		  "\"content\":\"QUI=\"}},{\"type\":\"add_dir\",\"args\":{\"path\":\"/d/\","
		  "\"files\":[{\"relativePath\":\"e/f\",\"content\":\"QUI=\"}]}},"
		  "{\"type\":\"add_dir\",\"args\":{\"path\":\"/d\",\"files\":[]}}]}",
		  &m, &e),
	    0, "%s", e.msg);
	cr_assert(step_files(&m.steps[0]) == 1 && step_files(&m.steps[1]) == 1 &&
		  step_files(&m.steps[2]) == 0);
	cr_assert_eq(step_file(&m.steps[0], 0, &f), 0);
	cr_assert_str_eq(f.path, "/a/b");
	cr_assert(f.len == 4 && !memcmp(f.data, "QUI=", 4));
	free(f.path);
	free(f.data);
	cr_assert_eq(step_file(&m.steps[1], 0, &f), 0);
	cr_assert_str_eq(f.path, "/d//e/f");
	cr_assert(f.len == 2 && !memcmp(f.data, "AB", 2));
	free(f.path);
	free(f.data);
	manifest_fini(&m);
}

/* What bash makes of the commands of a step. */
static int run_commands(const char *commands, char *out, size_t size)
{
	char text[512], file[] = "/tmp/dm-script-XXXXXX", command[64];
	struct manifest m;
	struct err e;
	FILE *f;
	int fd = mkstemp(file);

	snprintf(text, sizeof(text), STEP("run", "{\"commands\":%s}"), commands);
	cr_assert_eq(parse(text, &m, &e), 0, "%s: %s", text, e.msg);
	char *script = step_script(&m.steps[0]);

	cr_assert_eq(write(fd, script, strlen(script)), (ssize_t)strlen(script));
	close(fd);
	snprintf(command, sizeof(command), "bash %s 2>&1", file);
	f = popen(command, "r");
	out[fread(out, 1, size - 1, f)] = '\0';
	unlink(file);
	free(script);
	manifest_fini(&m);
	return pclose(f);
}

Test(manifest, commands_run_in_order_to_the_first_failure)
{
	char out[256];

	cr_assert_eq(run_commands("[\"cd /tmp\",\"pwd\",\"echo a # b\",\"\",\"cat <<E\\nx\\nE\"]",
				  out, sizeof(out)),
		     0);
	cr_assert_str_eq(out, "/tmp\na\nx\n");
	cr_assert_neq(run_commands("[\"echo 1\",\"false\",\"echo 2\"]", out, sizeof(out)), 0);
	cr_assert_str_eq(out, "1\n");
	cr_assert_neq(run_commands("[\"echo 1\",\"exit 7; echo 2\",\"echo 3\"]", out, sizeof(out)),
		      0);
	cr_assert_str_eq(out, "1\n");
}

static const char *lookup(const char *text, const char *name, char *value, size_t size)
{
	static struct env env;
	const char *found = "(none)";

	memset(&env, 0, sizeof(env));
	env_add_file(&env, text);
	cr_assert_eq(env_finish(&env), 0);
	for (char **v = env.list; *v; v++)
		if (!strncmp(*v, name, strlen(name)) && (*v)[strlen(name)] == '=')
			found = *v + strlen(name) + 1;
	snprintf(value, size, "%s", found);
	env_fini(&env);
	return value;
}

/* A value, written for both readers: the agent, and a shell. */
static void expect_kept(const char *value)
{
	json_t *vars = json_pack("{ss}", "A", value);
	char *file = environment_merge("B=1\nA=old\n  export A=older\n# c", vars, false);
	char *script = environment_merge(NULL, vars, true), *command, got[256];
	FILE *f;

	cr_assert_str_eq(lookup(file, "A", got, sizeof(got)), value);
	cr_assert_str_eq(lookup(file, "B", got, sizeof(got)), "1");
	cr_assert_null(strstr(file, "old"), "%s", file);
	cr_assert_not_null(strstr(file, "# c\n"));
	setenv("SCRIPT", script, 1);
	cr_assert_gt(asprintf(&command, "eval \"$SCRIPT\"; printf %%s \"$A\""), 0);
	f = popen(command, "r");
	got[fread(got, 1, sizeof(got) - 1, f)] = '\0';
	pclose(f);
	cr_assert_str_eq(got, value);
	free(command);
	free(script);
	free(file);
	json_decref(vars);
}

Test(manifest, variables_keep_their_values)
{
	expect_kept("plain");
	expect_kept("");
	expect_kept(" blanks around ");
	expect_kept("a \"b\" 'c' $HOME `d` \\ # e");
	expect_kept("\"quoted\"");
	expect_kept("it's");
	expect_kept("'");
	expect_kept("\"");
	expect_kept("\xc3\xa9=\t");
}
