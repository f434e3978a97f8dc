/* SPDX-License-Identifier: Apache-2.0 */
/* The operations of the control socket: one table. */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/json.h"
#include "vmm/config.h"
#include "vmm/control.h"
#include "vmm/vm.h"

struct plain_body {
	int64_t id;
	const char *op;
};

static const struct json_field plain_fields[] = {
    JSON_FIELD(struct plain_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct plain_body, op, "op", JSON_F_STRING),
};

static int check_plain(json_t *body, struct err *e)
{
	struct plain_body b;

	return json_bind(body, plain_fields, 2, JSON_REFUSE_UNKNOWN, &b, e);
}

static int op_configure(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct vm_config c;
	int rc = config_from_json(body, &c, e);

	(void)answer;
	if (!rc)
		return machine_configure(vm, &c, e);
	vm_config_fini(&c);
	return rc;
}

static int op_boot(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	(void)answer;
	return machine_boot(vm, e);
}

static int op_pause(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	(void)answer;
	return machine_pause(vm, e);
}

static int op_resume(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	(void)answer;
	return machine_resume(vm, e);
}

static int op_reset(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	(void)answer;
	return machine_reset(vm, "request", e);
}

/* Done by the loop after the answer is on its way. */
static int op_shutdown(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	(void)answer;
	(void)e;
	vm_post_request(vm, VM_REQUEST_PLUG, "a controller asked for it");
	return 0;
}

static int answer_us(json_t *answer, const char *name, uint64_t us, struct err *e)
{
	return json_object_set_new(answer, name, json_integer((json_int_t)us))
		   ? err_set(e, -ENOMEM, "out of memory")
		   : 0;
}

static uint64_t since_request_us(const struct vm *vm)
{
	return (clock_mono_ns() - vm->request_ns) / 1000;
}

static int op_prepare(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct vm_shape shape;
	struct vm_ends ends;
	int rc = config_shell_from_json(body, &shape, &ends, e);

	(void)answer;
	if (!rc)
		rc = machine_prepare(vm, &shape, &ends, e);
	vm_ends_fini(&ends);
	return rc;
}

static int op_restore(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct vm_saved saved;
	struct vm_config c;
	bool resume;
	int rc = config_restore_from_json(body, &c, &saved, &resume, e);

	if (!rc)
		rc = machine_restore(vm, &c, &saved, resume, e);
	else
		vm_config_fini(&c);
	vm_saved_fini(&saved);
	return rc ? rc : answer_us(answer, "restore_us", since_request_us(vm), e);
}

static int op_rollback(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct vm_saved saved;
	struct vm_config c;
	int rc = config_rollback_from_json(body, &c, &saved, e);

	if (!rc)
		rc = machine_rollback(vm, &c, &saved, e);
	else
		vm_config_fini(&c);
	vm_saved_fini(&saved);
	return rc ? rc : answer_us(answer, "rollback_us", since_request_us(vm), e);
}

static int op_checkpoint(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct vm_checkpoint_config c;
	uint64_t pause_us = 0;
	int rc = config_checkpoint_from_json(body, &c, e);

	if (!rc)
		rc = machine_checkpoint(vm, &c, &pause_us, e);
	vm_checkpoint_config_fini(&c);
	return rc ? rc : answer_us(answer, "pause_us", pause_us, e);
}

struct memory_body {
	int64_t id;
	const char *op;
	int64_t target_mib;
	bool balloon;
};

static const struct json_field memory_fields[] = {
    JSON_FIELD(struct memory_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct memory_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct memory_body, target_mib, "target_mib", JSON_F_INT, .flags = JSON_REQUIRED,
	       .min = VM_MEMORY_MIN_MIB, .max = VM_MEMORY_MAX_MIB),
    JSON_FIELD(struct memory_body, balloon, "balloon", JSON_F_BOOL),
};

static int op_memory(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct memory_body b = {0};
	int rc = json_bind(body, memory_fields, 4, JSON_REFUSE_UNKNOWN, &b, e);

	(void)answer;
	if (!rc && b.target_mib % VM_MEMORY_STEP_MIB)
		rc = err_set(e, -EINVAL, "target_mib: %lld is not a multiple of %d",
			     (long long)b.target_mib, VM_MEMORY_STEP_MIB);
	return rc ? rc : machine_resize(vm, (uint64_t)b.target_mib, b.balloon, e);
}

struct info_body {
	int64_t id;
	const char *op;
	bool memory;
};

static const struct json_field info_fields[] = {
    JSON_FIELD(struct info_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct info_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct info_body, memory, "memory", JSON_F_BOOL),
};

static int op_info(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct info_body b = {.memory = true};
	int rc = json_bind(body, info_fields, 3, JSON_REFUSE_UNKNOWN, &b, e);

	if (!rc && info_fill(vm, b.memory, answer))
		rc = err_set(e, -ENOMEM, "out of memory");
	return rc;
}

static int op_metrics(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	(void)body;
	return metrics_fill(vm, answer) ? err_set(e, -ENOMEM, "out of memory") : 0;
}

static const struct op {
	const char *name;
	int (*handle)(struct vm *vm, json_t *body, json_t *answer, struct err *e);
	bool has_body; /* the handler checks the fields itself */
} ops[] = {
    {"configure", op_configure, true},
    {"boot", op_boot, false},
    {"prepare", op_prepare, true},
    {"restore", op_restore, true},
    {"rollback", op_rollback, true},
    {"checkpoint", op_checkpoint, true},
    {"pause", op_pause, false},
    {"resume", op_resume, false},
    {"reset", op_reset, false},
    {"shutdown", op_shutdown, false},
    {"info", op_info, true},
    {"metrics", op_metrics, false},
    {"memory", op_memory, true},
    {"net_attach", op_net_attach, true},
    {"net_detach", op_net_detach, false},
    {"net_limits", op_net_limits, true},
};

static int dispatch(struct vm *vm, json_t *line, json_t *answer, struct err *e)
{
	const char *name = json_string_value(json_object_get(line, "op"));
	json_t *id = json_object_get(line, "id");

	if (!json_is_object(line))
		return err_set(e, -EINVAL, "a request is a JSON object");
	if (id && !json_is_integer(id))
		return err_set(e, -EINVAL, "id: must be an integer");
	if (!name)
		return err_set(e, -EINVAL, "op is required, a string");
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		int rc;

		if (strcmp(ops[i].name, name))
			continue;
		rc = ops[i].has_body ? 0 : check_plain(line, e);
		if (!rc)
			rc = ops[i].handle(vm, line, answer, e);
		return rc ? err_wrap(e, rc, "%s", name) : 0;
	}
	return err_set(e, -EINVAL, "unknown operation \"%.64s\"", name);
}

/* A message may quote a path that was cut in the middle of a character. */
static json_t *refusal(int rc, struct err *e)
{
	const char *code = strerrorname_np(-rc);

	for (char *c = e->msg; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return json_pack("{sbs{ssss}}", "ok", 0, "error", "code", code ? code : "EIO", "message",
			 e->msg);
}

json_t *ops_handle(struct vm *vm, json_t *line, int *passed_fd)
{
	struct err e = {0};
	json_t *answer = json_object(), *id = json_object_get(line, "id");
	int rc;

	if (!answer)
		return NULL;
	vm->request_ns = clock_mono_ns();
	vm->request_passed_fd = passed_fd;
	rc = dispatch(vm, line, answer, &e);
	vm->request_passed_fd = NULL;
	if (rc) {
		json_decref(answer);
		answer = refusal(rc, &e);
	} else if (json_object_set_new(answer, "ok", json_true())) {
		json_decref(answer);
		return NULL;
	}
	if (answer && json_is_integer(id) && json_object_set(answer, "id", id)) {
		json_decref(answer);
		return NULL;
	}
	return answer;
}
