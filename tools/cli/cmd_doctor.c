/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse doctor, dormouse version. */
#include <stdlib.h>

#include "tools/cli/cli.h"
#include "tools/cli/table.h"
#include "tools/doctor/doctor.h"

#define CHECK_TIMEOUT_MS 15000
#define DEFAULT_STATE	 "/var/lib/dormouse"
#define VERSION		 "0.1.0"

static void print_report(const struct check_result *results)
{
	bool can_run = doctor_verdict(doctor_checks, results, doctor_num_checks, false);
	struct table t;

	table_init(&t, 3);
	table_add_row(&t, (const char *[]){"CHECK", "STATUS", "FOUND"});
	for (size_t i = 0; i < doctor_num_checks; i++)
		table_add_row(&t, (const char *[]){doctor_checks[i].name,
						   check_status_name(results[i].status),
						   results[i].detail});
	table_print(&t, stdout);
	table_fini(&t);
	for (size_t i = 0; i < doctor_num_checks; i++) {
		if (results[i].status != CHECK_OK)
			printf("\n%s is %s%s\n  cost: %s\n  fix:  %s\n", doctor_checks[i].name,
			       check_status_name(results[i].status),
			       doctor_checks[i].essential ? "" : " (not essential)",
			       results[i].cost, results[i].fix);
	}
	puts(can_run ? "\nLinux guests can run on this machine."
		     : "\nNo Linux guest can run on this machine as it is.");
}

int cmd_doctor(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"state", required_argument, NULL, 's'}, {0}};
	struct doctor_options o = {.state_dir = DEFAULT_STATE};
	struct check_result *results;
	bool can_run;
	int opt, rc = 0;

	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "h", options, &opt);

		if (what == CLI_OPT_DONE)
			break;
		if (what != CLI_OPT_OTHER)
			return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
		o.state_dir = optarg;
	}
	if (optind < argc)
		return cli_usage_error(c, "unexpected argument %s", argv[optind]);
	results = calloc(doctor_num_checks, sizeof(*results));
	if (!results)
		return cli_fail(c, &(struct err){.msg = "out of memory"});
	for (size_t i = 0; i < doctor_num_checks; i++)
		check_run(&doctor_checks[i], &o, CHECK_TIMEOUT_MS, &results[i]);
	can_run = doctor_verdict(doctor_checks, results, doctor_num_checks, false);
	if (c->json)
		rc = cli_print_json(doctor_json(doctor_checks, results, doctor_num_checks));
	else
		print_report(results);
	free(results);
	return rc ? rc : can_run ? EXIT_OK : EXIT_FAILED;
}

int cmd_version(struct cli *c, int argc, char **argv)
{
	int code;

	if (!cli_no_options(c, argc, argv, 0, 0, &code))
		return code;
	if (c->json)
		return cli_print_json(json_pack("{s:s}", "version", VERSION));
	puts("dormouse " VERSION);
	return EXIT_OK;
}
