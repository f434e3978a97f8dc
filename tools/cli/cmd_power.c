/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse hibernate, wake, reboot, power-cycle. */
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/cli/each.h"
#include "tools/cli/table.h"

int cmd_hibernate(struct cli *c, int argc, char **argv)
{
	static const struct each x = {
	    .method = "POST", .suffix = "/hibernate", .done = "hibernated"};
	int code;

	if (!cli_no_options(c, argc, argv, 1, -1, &code))
		return code;
	return each_sandbox(c, &x, argc - optind, argv + optind);
}

/* A wake that had to boot is a success: the disk is there. The processes are not. */
static void tell_cold_boot(const struct cli *c, const char *id, const json_t *answer)
{
	const char *why = json_string_value(json_object_get(answer, "message"));
	char clean[200];

	if (!json_is_true(json_object_get(answer, "coldBoot")))
		return;
	fprintf(
	    stderr,
	    "dormouse %s: %s: booted from its disk, its processes are gone: its memory could not "
	    "be used: %s\n",
	    c->command->name, id, table_clean(why ? why : "no reason given", clean, sizeof(clean)));
}

int cmd_wake(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"timeout", required_argument, NULL, 't'}, {0}};
	json_t *body = json_object();
	struct each x = {.method = "POST",
			 .suffix = "/wake",
			 .done = "awake",
			 .body = body,
			 .remark = tell_cold_boot};
	enum cli_opt what;
	int opt, code;

	while ((what = cli_getopt(c, argc, argv, "h", options, &opt)) == CLI_OPT_OTHER) {
		if (cli_set_option(c, body, opt, optarg)) {
			what = CLI_OPT_BAD;
			break;
		}
	}
	code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (what == CLI_OPT_DONE)
		code = cli_check_count(c, argc - optind, 1, -1);
	if (what == CLI_OPT_DONE && !code)
		code = each_sandbox(c, &x, argc - optind, argv + optind);
	json_decref(body);
	return code;
}

int cmd_reboot(struct cli *c, int argc, char **argv)
{
	static const struct each x = {.method = "POST", .suffix = "/reboot", .done = "rebooted"};
	int code;

	if (!cli_no_options(c, argc, argv, 1, -1, &code))
		return code;
	return each_sandbox(c, &x, argc - optind, argv + optind);
}

int cmd_power_cycle(struct cli *c, int argc, char **argv)
{
	static const struct each x = {
	    .method = "POST", .suffix = "/power-cycle", .done = "powerCycled"};
	int code;

	if (!cli_no_options(c, argc, argv, 1, -1, &code))
		return code;
	return each_sandbox(c, &x, argc - optind, argv + optind);
}
