/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tools/doctor/doctor.h"

struct speed_case {
	double ns;
	enum check_status want;
};

ParameterizedTestParameters(doctor, the_speed_of_guest_kernel_code_is_classified)
{
	static struct speed_case cases[] = {
	    {0.2, CHECK_OK},	  {3, CHECK_OK},	 {29.9, CHECK_OK},
	    {30, CHECK_DEGRADED}, {199, CHECK_DEGRADED}, {200, CHECK_MISSING},
	    {560, CHECK_MISSING}, {2000, CHECK_MISSING}, {-1, CHECK_MISSING},
	};
	return cr_make_param_array(struct speed_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct speed_case *c, doctor, the_speed_of_guest_kernel_code_is_classified)
{
	cr_assert_eq(doctor_speed_status(c->ns), c->want, "%f", c->ns);
}

static void says_fine(const struct doctor_options *o, struct check_result *r)
{
	check_ok(r, "state at %s", o->state_dir);
	r->ns_per_turn = 0.5;
}

static void hangs(const struct doctor_options *o, struct check_result *r)
{
	(void)o;
	(void)r;
	signal(SIGTERM, SIG_IGN);
	for (;;)
		pause();
}

static void dies(const struct doctor_options *o, struct check_result *r)
{
	(void)o;
	(void)r;
	raise(SIGKILL);
}

static const struct doctor_options options = {.state_dir = "/s"};

Test(doctor, a_check_reports_from_its_own_process)
{
	struct check c = {"x", true, true, says_fine};
	struct check_result r;

	check_run(&c, &options, 10000, &r);
	cr_assert_eq(r.status, CHECK_OK);
	cr_assert_str_eq(r.detail, "state at /s");
	cr_assert_eq(r.ns_per_turn, 0.5);
}

Test(doctor, a_check_that_hangs_is_missing_and_killed, .timeout = 20)
{
	struct check c = {"x", true, true, hangs};
	struct check_result r;

	check_run(&c, &options, 50, &r);
	cr_assert_eq(r.status, CHECK_MISSING);
	cr_assert_str_eq(r.detail, "did not finish within 50 ms");
}

Test(doctor, a_check_that_dies_is_missing)
{
	struct check c = {"x", true, true, dies};
	struct check_result r;

	check_run(&c, &options, 10000, &r);
	cr_assert_eq(r.status, CHECK_MISSING);
	cr_assert_not_null(strstr(r.detail, "died"));
}

static const struct check three[] = {
    {"fast", true, true, says_fine},
    {"ring", true, false, says_fine},
    {"extra", false, false, says_fine},
};

Test(doctor, only_essential_checks_that_are_missing_decide)
{
	struct check_result r[3] = {{.status = CHECK_OK}, {.status = CHECK_DEGRADED}};

	r[2].status = CHECK_MISSING;
	cr_assert(doctor_verdict(three, r, 3, false));
	r[1].status = CHECK_MISSING;
	cr_assert_not(doctor_verdict(three, r, 3, false));
	cr_assert(doctor_verdict(three, r, 3, true), "KVM itself is usable");
	r[0].status = CHECK_MISSING;
	cr_assert_not(doctor_verdict(three, r, 3, true));
}

Test(doctor, the_json_report_has_the_documented_form)
{
	struct check_result r[3] = {{.status = CHECK_MISSING, .ns_per_turn = 560},
				    {.ns_per_turn = -1},
				    {.ns_per_turn = -1}};
	json_t *report, *want;

	check_not_ok(&r[0], CHECK_MISSING, "the cost", "the fix", "found %d", 7);
	check_ok(&r[1], "fine");
	check_not_ok(&r[2], CHECK_DEGRADED, "c", "f", "so so");
	report = doctor_json(three, r, 3);
	want = json_loads(
	    "{\"ok\":false,\"kvm\":{\"usable\":false,\"nsPerTurn\":560.0},\"checks\":["
	    "{\"name\":\"fast\",\"status\":\"missing\",\"detail\":\"found 7\","
	    "\"cost\":\"the cost\",\"fix\":\"the fix\"},"
	    "{\"name\":\"ring\",\"status\":\"ok\",\"detail\":\"fine\",\"cost\":\"\",\"fix\":\"\"},"
	    "{\"name\":\"extra\",\"status\":\"degraded\",\"detail\":\"so so\","
	    "\"cost\":\"c\",\"fix\":\"f\"}]}",
	    0, NULL);
	cr_assert_not_null(want);
	cr_assert(json_equal(report, want));
	json_decref(report);
	json_decref(want);
}

Test(doctor, a_speed_that_was_not_measured_is_null)
{
	struct check_result r[3] = {{.ns_per_turn = -1}, {.ns_per_turn = -1}, {.ns_per_turn = -1}};
	json_t *report = doctor_json(three, r, 3);

	cr_assert(json_is_null(json_object_get(json_object_get(report, "kvm"), "nsPerTurn")));
	json_decref(report);
}

Test(doctor, every_check_of_the_table_answers_with_what_to_do_about_it)
{
	for (size_t i = 0; i < doctor_num_checks; i++) {
		struct check_result r;

		check_run(&doctor_checks[i], &options, 15000, &r);
		cr_expect_null(strstr(r.detail, "died"), "%s", doctor_checks[i].name);
		cr_expect(*r.detail, "%s", doctor_checks[i].name);
		cr_expect_eq(r.status == CHECK_OK, !*r.fix, "%s", doctor_checks[i].name);
		cr_expect_eq(r.status == CHECK_OK, !*r.cost, "%s", doctor_checks[i].name);
	}
}
