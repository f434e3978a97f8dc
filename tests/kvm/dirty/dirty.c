/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kvm/dirty/dirty.h"

#include <string.h>
#include <unistd.h>

#include "snapshot/ram_image.h"

struct machine source;

const char *at(const char *name)
{
	static char paths[16][128];
	static int next;
	char *p = paths[next++ % 16];

	snprintf(p, sizeof(paths[0]), "%s/%s", source.dir, name);
	return p;
}

json_int_t number(json_t *o, const char *name)
{
	check(json_is_integer(json_object_get(o, name)), "%s", name);
	return json_integer_value(json_object_get(o, name));
}

const char *text(json_t *o, const char *name)
{
	const char *v = json_string_value(json_object_get(o, name));

	check(v, "%s", name);
	return v;
}

json_t *request(const char *op, json_t *body)
{
	check(body && !json_object_set_new(body, "op", json_string(op)), "request");
	return body;
}

json_t *must(struct machine *m, const char *op, json_t *body)
{
	json_t *answer;
	struct err e;

	check(!vmm_client_call(m->client, request(op, body), WAIT_MS, &answer, &e), "%s: %s", op,
	      e.msg);
	return answer;
}

void refused(struct machine *m, const char *op, json_t *body, int code, const char *reason)
{
	struct err e = {0};
	int rc = vmm_client_call(m->client, request(op, body), WAIT_MS, NULL, &e);

	check(rc == code, "%s: %d %s", reason, rc, e.msg);
	check(strstr(e.msg, reason), "\"%s\" does not say \"%s\"", e.msg, reason);
}

const char *state_of(struct machine *m)
{
	return text(machine_must(m, "info"), "state");
}

json_int_t exits(struct machine *m)
{
	return number(json_object_get(machine_must(m, "metrics"), "metrics"), "exits_total");
}

void run_on(struct machine *m, json_int_t steps)
{
	json_int_t from = exits(m);

	while (exits(m) < from + steps)
		;
}

/* The image must be sound, and of one instant. Return: how far its guest has counted */
uint64_t count_in(const char *name)
{
	uint64_t count, v, newest = 0;
	struct ram_image img;
	char file[64];
	struct err e;

	snprintf(file, sizeof(file), "%s.ram", name);
	check(!ram_image_open(&img, at(file), 64 << 20, &e), "%s", e.msg);
	check(!ram_image_verify(&img, &e), "%s", e.msg);
	check(pread(img.fd, &count, 8, COUNT_GPA) == 8, "count");
	for (unsigned int i = 0; i < RING_PAGES; i++) {
		check(pread(img.fd, &v, 8, RING_GPA + (off_t)i * 4096) == 8, "page %u", i);
		check(v % RING_PAGES == i && v <= count + 1 && v + RING_PAGES > count, "page %u",
		      i);
		newest = v > newest ? v : newest;
	}
	check(newest == count || newest == count + 1, "%llu and %llu", (unsigned long long)newest,
	      (unsigned long long)count);
	ram_image_close(&img);
	return count;
}

bool printed(struct machine *m, const char *what)
{
	char *got = machine_console(m);
	bool there = strstr(got, what);

	free(got);
	return there;
}

/* It counts on, in another generation, and has noticed nothing else. */
void expect_life(struct machine *m)
{
	run_on(m, STEPS);
	check(!strcmp(state_of(m), "running"), "%s", state_of(m));
	while (!printed(m, "another generation\n"))
		run_on(m, 1);
	check(!printed(m, "torn"), "torn");
}

void end(struct machine *m)
{
	machine_must(m, "shutdown");
	machine_next_event(m, "exit");
	check(machine_wait(m) == 0, "exit status");
}
