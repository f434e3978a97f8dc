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
