/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "vmm/config.h"

static int read_json(const char *text, struct vm_config *c, struct err *e)
{
	json_t *body = json_loads(text, 0, NULL);
	int rc;

	cr_assert(body, "the test's own JSON: %s", text);
	rc = config_from_json(body, c, e);
	json_decref(body);
	return rc;
}

Test(config, only_the_kernel_is_required)
{
	struct vm_config c;
	struct err e;

	cr_assert_eq(read_json("{\"op\":\"configure\",\"id\":1,\"kernel\":\"k\"}", &c, &e), 0);
	cr_assert_str_eq(c.kernel, "k");
	cr_assert_eq(c.memory_mib, 512);
	cr_assert_eq(c.cpus, 1);
	cr_assert_eq(c.disks_n, 0);
	cr_assert_null(c.vsock_path);
	cr_assert_null(c.console);
	cr_assert_null(strstr(c.cmdline, "root="), "there is no disk");
	vm_config_fini(&c);
}

Test(config, every_field_arrives)
{
	struct vm_config c;
	struct err e;

	cr_assert_eq(read_json("{\"kernel\":\"k\",\"memory_mib\":8192,\"cpus\":4,"
			       "\"disks\":[{\"path\":\"a\",\"layers\":[\"l0\",\"l1\"],"
			       "\"overlay\":\"o\",\"size_mib\":20480},"
			       "{\"path\":\"b\",\"read_only\":true}],"
			       "\"vsock\":{\"path\":\"v\",\"cid\":7},\"console\":\"log\","
			       "\"append\":\"x=1\",\"trace_exits\":true}",
			       &c, &e),
		     0);
	cr_assert_eq(c.memory_mib, 8192);
	cr_assert_eq(c.cpus, 4);
	cr_assert_eq(c.disks_n, 2);
	cr_assert_str_eq(c.disks[0].overlay, "o");
	cr_assert_eq(c.disks[0].layers_n, 2);
	cr_assert_str_eq(c.disks[0].layers[0], "l0");
	cr_assert_str_eq(c.disks[0].layers[1], "l1");
	cr_assert_eq(c.disks[1].layers_n, 0);
	cr_assert_eq(c.disks[0].size_mib, 20480);
	cr_assert_not(c.disks[0].read_only);
	cr_assert(c.disks[1].read_only);
	cr_assert_str_eq(c.vsock_path, "v");
	cr_assert_eq(c.vsock_cid, 7);
	cr_assert_str_eq(c.console, "log");
	cr_assert(c.trace_exits);
	cr_assert_eq(strncmp(c.cmdline, "root=/dev/vda rw ", 17), 0);
	cr_assert_str_eq(c.cmdline + strlen(c.cmdline) - 4, " x=1");
	vm_config_fini(&c);
}

Test(config, a_root_without_an_overlay_is_mounted_read_only)
{
	struct vm_config c;
	struct err e;

	cr_assert_eq(read_json("{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\"}]}", &c, &e), 0);
	cr_assert(c.disks[0].read_only);
	cr_assert_eq(strncmp(c.cmdline, "root=/dev/vda ro ", 17), 0);
	vm_config_fini(&c);
}

Test(config, each_bad_field_is_refused_and_named)
{
	static const struct {
		const char *json, *named;
	} bad[] = {
	    {"{}", "kernel"},
	    {"{\"kernel\":\"\"}", "kernel"},
	    {"{\"kernel\":5}", "kernel"},
	    {"{\"kernel\":\"k\",\"fast\":true}", "\"fast\""},
	    {"{\"kernel\":\"k\",\"memory_mib\":62}", "memory_mib"},
	    {"{\"kernel\":\"k\",\"memory_mib\":65}", "memory_mib"},
	    {"{\"kernel\":\"k\",\"memory_mib\":65538}", "memory_mib"},
	    {"{\"kernel\":\"k\",\"memory_mib\":\"512\"}", "memory_mib"},
	    {"{\"kernel\":\"k\",\"memory_mib\":-512}", "memory_mib"},
	    {"{\"kernel\":\"k\",\"cpus\":0}", "cpus"},
	    {"{\"kernel\":\"k\",\"cpus\":5}", "cpus"},
	    {"{\"kernel\":\"k\",\"cpus\":1.5}", "cpus"},
	    {"{\"kernel\":\"k\",\"disks\":{}}", "disks"},
	    {"{\"kernel\":\"k\",\"disks\":[5]}", "disks[0]"},
	    {"{\"kernel\":\"k\",\"disks\":[{}]}", "disks[0]: path"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\"},{\"path\":\"\"}]}", "disks[1]: path"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"mode\":1}]}", "\"mode\""},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"overlay\":\"\"}]}", "overlay"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"layers\":\"l\"}]}", "layers"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"layers\":[\"l\",5]}]}", "layers[1]"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"layers\":[\"\"]}]}", "layers[0]"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"overlay\":\"o\",\"read_only\":true}]}",
	     "read-only"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"size_mib\":5}]}", "size_mib"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\",\"overlay\":\"o\",\"size_mib\":0}]}",
	     "size_mib"},
	    {"{\"kernel\":\"k\",\"disks\":[{\"path\":\"a\"},{\"path\":\"a\"},{\"path\":\"a\"},"
	     "{\"path\":\"a\"},{\"path\":\"a\"}]}",
	     "disks"},
	    {"{\"kernel\":\"k\",\"vsock\":\"v\"}", "vsock"},
	    {"{\"kernel\":\"k\",\"vsock\":{}}", "vsock: path"},
	    {"{\"kernel\":\"k\",\"vsock\":{\"path\":\"v\",\"cid\":2}}", "vsock: cid"},
	    {"{\"kernel\":\"k\",\"vsock\":{\"path\":\"v\",\"port\":2}}", "\"port\""},
	    {"{\"kernel\":\"k\",\"console\":\"\"}", "console"},
	    {"{\"kernel\":\"k\",\"cmdline\":\"a\",\"append\":\"b\"}", "append"},
	    {"{\"kernel\":\"k\",\"trace_exits\":1}", "trace_exits"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vm_config c;
		struct err e;

		cr_assert_eq(read_json(bad[i].json, &c, &e), -EINVAL, "%s", bad[i].json);
		cr_assert(strstr(e.msg, bad[i].named), "%s: \"%s\"", bad[i].json, e.msg);
		vm_config_fini(&c);
	}
}

Test(config, a_command_line_that_is_too_long_is_refused)
{
	char text[VM_CMDLINE_BYTES + 100], words[VM_CMDLINE_BYTES + 1] = "";
	struct vm_config c;
	struct err e;

	memset(words, 'a', VM_CMDLINE_BYTES - 1);
	snprintf(text, sizeof(text), "{\"kernel\":\"k\",\"cmdline\":\"%s\"}", words);
	cr_assert_eq(read_json(text, &c, &e), 0);
	vm_config_fini(&c);
	words[VM_CMDLINE_BYTES - 1] = 'a';
	snprintf(text, sizeof(text), "{\"kernel\":\"k\",\"cmdline\":\"%s\"}", words);
	cr_assert_eq(read_json(text, &c, &e), -EINVAL);
	cr_assert(strstr(e.msg, "cmdline"));
	vm_config_fini(&c);
}

static int read_args(int argc, const char *const *argv, struct vm_config *c, struct err *e)
{
	const char *socket;

	return config_from_args(argc, (char **)argv, c, &socket, e);
}

Test(config, the_command_line_says_the_same_as_json)
{
	static const char *const argv[] = {
	    "--kernel", "k",	      "--disk",	       "base.ext4,overlay=o,size=20480",
	    "--disk",	"b,ro",	      "--cpus",	       "2",
	    "--memory", "1024",	      "--vsock",       "v",
	    "--append", "loglevel=7", "--trace-exits",
	};
	struct vm_config c;
	struct err e;

	cr_assert_eq(read_args(sizeof(argv) / sizeof(argv[0]), argv, &c, &e), 0, "%s", e.msg);
	cr_assert_str_eq(c.disks[0].path, "base.ext4");
	cr_assert_str_eq(c.disks[0].overlay, "o");
	cr_assert_eq(c.disks[0].size_mib, 20480);
	cr_assert(c.disks[1].read_only);
	cr_assert_eq(c.memory_mib, 1024);
	cr_assert_eq(c.cpus, 2);
	cr_assert_str_eq(c.console, "-");
	cr_assert_str_eq(c.vsock_path, "v");
	cr_assert(c.trace_exits);
	vm_config_fini(&c);
}

Test(config, bad_command_lines_are_refused_and_named)
{
	static const struct {
		const char *argv[4];
		const char *named;
	} bad[] = {
	    {{"--kernel", "k", "--fast", "1"}, "--fast"},
	    {{"--kernel", "k", "--memory", "lots"}, "--memory"},
	    {{"--kernel", "k", "--memory", ""}, "--memory"},
	    {{"--kernel", "k", "--cpus", "9"}, "cpus"},
	    {{"--kernel", "k", "--disk", "a,mode=1"}, "mode=1"},
	    {{"--kernel", "k", "--disk", ",overlay=o"}, "path"},
	    {{"--kernel", "k", "vmlinux", "x"}, "vmlinux"},
	    {{"--memory", "512", "--cpus", "1"}, "kernel"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vm_config c;
		struct err e;

		cr_assert_eq(read_args(4, bad[i].argv, &c, &e), -EINVAL, "%s", bad[i].named);
		cr_assert(strstr(e.msg, bad[i].named), "\"%s\"", e.msg);
		vm_config_fini(&c);
	}
}

/* --- shells, saved machines, checkpoints --------------------------------------------------- */

static json_t *parse(const char *text)
{
	json_t *body = json_loads(text, 0, NULL);

	cr_assert(body, "the test's own JSON: %s", text);
	return body;
}

Test(config, the_cpu_is_the_baseline_unless_the_host_is_asked_for)
{
	struct vm_config c;
	struct err e;

	cr_assert_eq(read_json("{\"kernel\":\"k\"}", &c, &e), 0);
	cr_expect_not(c.host_cpu);
	vm_config_fini(&c);
	cr_assert_eq(read_json("{\"kernel\":\"k\",\"cpu\":\"host\"}", &c, &e), 0);
	cr_expect(c.host_cpu);
	vm_config_fini(&c);
	cr_assert_eq(read_json("{\"kernel\":\"k\",\"cpu\":\"fast\"}", &c, &e), -EINVAL);
	cr_expect(strstr(e.msg, "cpu"), "%s", e.msg);
	vm_config_fini(&c);
}

Test(config, a_restore_is_a_configuration_and_two_files)
{
	json_t *body = parse("{\"kernel\":\"k\",\"cpus\":2,\"state\":\"s\",\"ram\":\"r\","
			     "\"ram_format\":\"cold\",\"resume\":false}");
	struct vm_saved saved;
	struct vm_config c;
	struct err e;
	bool resume;

	cr_assert_eq(config_restore_from_json(body, &c, &saved, &resume, &e), 0, "%s", e.msg);
	cr_expect_eq(c.cpus, 2);
	cr_expect_str_eq(saved.state, "s");
	cr_expect_str_eq(saved.ram, "r");
	cr_expect(saved.cold);
	cr_expect_not(resume);
	vm_config_fini(&c);
	vm_saved_fini(&saved);
	cr_expect_eq(config_from_json(body, &c, &e), -EINVAL);
	cr_expect(strstr(e.msg, "\"state\"") || strstr(e.msg, "\"ram"), "%s", e.msg);
	vm_config_fini(&c);
	json_decref(body);
}

Test(config, bad_bodies_of_the_other_requests_are_refused_and_named)
{
	static const struct {
		char kind;
		const char *text, *named;
	} bad[] = {
	    {'r', "{\"kernel\":\"k\",\"ram\":\"r\"}", "state"},
	    {'r', "{\"kernel\":\"k\",\"state\":\"s\"}", "ram"},
	    {'r', "{\"state\":\"s\",\"ram\":\"r\"}", "kernel"},
	    {'r', "{\"kernel\":\"k\",\"state\":\"s\",\"ram\":\"r\",\"ram_format\":\"x\"}",
	     "ram_format"},
	    {'b', "{\"state\":\"s\",\"ram\":\"r\",\"kernel\":\"k\"}", "\"kernel\""},
	    {'b', "{\"state\":\"s\",\"ram\":\"r\",\"disks\":[{}]}", "disks[0]: path"},
	    {'c', "{\"state\":\"s\",\"ram\":\"r\"}", "name"},
	    {'c', "{\"name\":\"n\",\"state\":\"s\"}", "belong together"},
	    {'c', "{\"name\":\"n\",\"parent_ram\":\"p\"}", "parent_ram"},
	    {'c', "{\"name\":\"n\",\"disks\":[null,{\"path\":\"p\"}]}", "disks[1]"},
	    {'c', "{\"name\":\"n\",\"disks\":[null,null,null,null,null]}", "more than 4"},
	    {'p', "{\"cpus\":5}", "cpus"},
	    {'p', "{\"memory_mib\":65}", "memory_mib"},
	    {'p', "{\"disks\":[]}", "disks"},
	    {'p', "{\"kernel\":\"k\"}", "\"kernel\""},
	    {'p', "{\"vsock_path\":\"p\"}", "vsock_path"},
	    {'p', "{\"net\":{}}", "backend"},
	    {'p', "{\"net\":{\"backend\":\"wire\"}}", "backend"},
	    {'p', "{\"net\":{\"backend\":\"tap\",\"name\":\"t\"}}", "name"},
	    {'p', "{\"net\":{\"backend\":\"tap\",\"mac\":\"\"}}", "mac"},
	    {'p', "{\"net\":{\"backend\":\"tap\",\"mac\":\"2:3:4:5:6:7\"}}", "mac"},
	    {'p', "{\"net\":{\"backend\":\"tap\",\"mac\":\"02:03:04:05:06:07:08\"}}", "mac"},
	    {'p', "{\"net\":{\"backend\":\"tap\",\"mac\":\"01:03:04:05:06:07\"}}", "mac"},
	    {'p', "{\"vsock\":true,\"vsock_path\":\"\"}", "vsock_path"},
	    {'p', "{\"vsock\":true,\"vsock_path\":\"p\",\"vsock_cid\":2}", "vsock_cid"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vm_checkpoint_config cc = {0};
		struct vm_saved saved = {0};
		struct vm_config c = {0};
		struct vm_shape shape;
		struct vm_ends ends = {0};
		json_t *body = parse(bad[i].text);
		struct err e = {0};
		bool resume;
		int rc = 0;

		if (bad[i].kind == 'r')
			rc = config_restore_from_json(body, &c, &saved, &resume, &e);
		else if (bad[i].kind == 'b')
			rc = config_rollback_from_json(body, &c, &saved, &e);
		else if (bad[i].kind == 'c')
			rc = config_checkpoint_from_json(body, &cc, &e);
		else
			rc = config_shell_from_json(body, &shape, &ends, &e);
		cr_expect_eq(rc, -EINVAL, "%s", bad[i].text);
		cr_expect(strstr(e.msg, bad[i].named), "\"%s\" does not say %s", e.msg,
			  bad[i].named);
		vm_config_fini(&c);
		vm_saved_fini(&saved);
		vm_checkpoint_config_fini(&cc);
		vm_ends_fini(&ends);
		json_decref(body);
	}
}

Test(config, a_shell_may_be_told_where_it_is_met)
{
	json_t *body = parse("{\"disks\":1,\"vsock\":true,\"vsock_path\":\"v\",\"console\":\"c\"}");
	struct vm_shape shape;
	struct vm_ends ends;
	struct err e;

	cr_assert_eq(config_shell_from_json(body, &shape, &ends, &e), 0, "%s", e.msg);
	cr_expect(shape.vsock);
	cr_expect_eq(shape.disks, 1);
	cr_expect_str_eq(ends.vsock_path, "v");
	cr_expect_eq(ends.vsock_cid, 3);
	cr_expect_str_eq(ends.console, "c");
	vm_ends_fini(&ends);
	json_decref(body);
	body = parse("{}");
	cr_assert_eq(config_shell_from_json(body, &shape, &ends, &e), 0, "%s", e.msg);
	cr_expect_null(ends.vsock_path);
	cr_expect_null(ends.console);
	json_decref(body);
}

Test(config, a_network_has_a_kind_and_an_address)
{
	json_t *body = parse("{\"kernel\":\"k\",\"net\":{\"backend\":\"user\"}}");
	const char *args[] = {"--kernel", "k", "--net", "tap=tap7"};
	struct vm_config c;
	const char *socket;
	struct err e;

	cr_assert_eq(config_from_json(body, &c, &e), 0, "%s", e.msg);
	cr_expect(c.net.present);
	cr_expect_eq(c.net.backend, NET_USER);
	cr_expect_arr_eq(c.net.mac, "\x02\x6f\x63\0\0\1", 6);
	vm_config_fini(&c);
	json_decref(body);
	body =
	    parse("{\"kernel\":\"k\",\"net\":{\"backend\":\"tap\",\"mac\":\"aa:0B:cc:00:10:f1\"}}");
	cr_assert_eq(config_from_json(body, &c, &e), 0, "%s", e.msg);
	cr_expect_eq(c.net.backend, NET_TAP);
	cr_expect_arr_eq(c.net.mac, "\xaa\x0b\xcc\0\x10\xf1", 6);
	vm_config_fini(&c);
	json_decref(body);
	cr_assert_eq(config_from_args(4, (char **)args, &c, &socket, &e), 0, "%s", e.msg);
	cr_expect_eq(c.net.backend, NET_TAP);
	cr_expect_str_eq(c.tap, "tap7");
	vm_config_fini(&c);
	args[3] = "user";
	cr_expect_eq(config_from_args(4, (char **)args, &c, &socket, &e), -EINVAL);
	cr_expect(strstr(e.msg, "--net"), "%s", e.msg);
	vm_config_fini(&c);
}

Test(config, a_checkpoint_may_leave_disks_as_they_are)
{
	json_t *body = parse("{\"name\":\"n\",\"state\":\"s\",\"ram\":\"r\","
			     "\"disks\":[null,{\"overlay\":\"o\"}]}");
	struct vm_checkpoint_config c;
	struct err e;

	cr_assert_eq(config_checkpoint_from_json(body, &c, &e), 0, "%s", e.msg);
	cr_expect_eq(c.overlays_n, 2);
	cr_expect_null(c.overlays[0]);
	cr_expect_str_eq(c.overlays[1], "o");
	cr_expect(c.resume);
	vm_checkpoint_config_fini(&c);
	json_decref(body);
}
