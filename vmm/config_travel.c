/* SPDX-License-Identifier: Apache-2.0 */
/* What a controller says of shells, saved machines and checkpoints. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/config.h"
#include "vmm/config_int.h"

/* --- saved machines ---------------------------------------------------------------------- */

void vm_saved_fini(struct vm_saved *s)
{
	free(s->state);
	free(s->ram);
	*s = (struct vm_saved){0};
}

int config_saved(const char *state, const char *ram, const char *format, struct vm_saved *s,
		 struct err *e)
{
	int rc;

	s->cold = format && !strcmp(format, "cold");
	if (format && !s->cold && strcmp(format, "raw"))
		return err_set(e, -EINVAL, "ram_format: must be \"raw\" or \"cold\"");
	rc = config_copy(&s->state, state, e);
	return rc ? rc : config_copy(&s->ram, ram, e);
}

struct rollback_body {
	json_int_t id;
	const char *op, *state, *ram, *ram_format;
	json_t *disks;
};

static const struct json_field rollback_fields[] = {
    JSON_FIELD(struct rollback_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct rollback_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct rollback_body, state, "state", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct rollback_body, ram, "ram", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct rollback_body, ram_format, "ram_format", JSON_F_STRING),
    JSON_FIELD(struct rollback_body, disks, "disks", JSON_F_ARRAY),
};

int config_rollback_from_json(json_t *obj, struct vm_config *c, struct vm_saved *s, struct err *e)
{
	struct rollback_body b = {0};
	int rc;

	vm_config_init(c);
	*s = (struct vm_saved){0};
	rc = CONFIG_BIND(obj, rollback_fields, &b, e);
	if (!rc)
		rc = config_saved(b.state, b.ram, b.ram_format, s, e);
	return rc ? rc : config_read_disks(b.disks, c, e);
}

/* --- shells -------------------------------------------------------------------------------- */

struct prepare_body {
	json_int_t id;
	const char *op;
	int64_t cpus, memory_mib, disks, vsock_cid;
	bool vsock;
	json_t *net;
	const char *vsock_path, *console;
};

static const struct json_field prepare_fields[] = {
    JSON_FIELD(struct prepare_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct prepare_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct prepare_body, cpus, "cpus", JSON_F_INT, .min = 1, .max = VM_MAX_CPUS),
    JSON_FIELD(struct prepare_body, memory_mib, "memory_mib", JSON_F_INT, .min = VM_MEMORY_MIN_MIB,
	       .max = VM_MEMORY_MAX_MIB),
    JSON_FIELD(struct prepare_body, disks, "disks", JSON_F_INT, .min = 0, .max = VM_MAX_DISKS),
    JSON_FIELD(struct prepare_body, vsock, "vsock", JSON_F_BOOL),
    JSON_FIELD(struct prepare_body, net, "net", JSON_F_OBJECT),
    JSON_FIELD(struct prepare_body, vsock_path, "vsock_path", JSON_F_STRING,
	       .flags = JSON_NONEMPTY),
    JSON_FIELD(struct prepare_body, vsock_cid, "vsock_cid", JSON_F_INT, .min = 3,
	       .max = UINT32_MAX - 1),
    JSON_FIELD(struct prepare_body, console, "console", JSON_F_STRING, .flags = JSON_NONEMPTY),
};

static int read_ends(const struct prepare_body *b, struct vm_ends *ends, struct err *e)
{
	int rc = b->console ? config_copy(&ends->console, b->console, e) : 0;

	if (rc || !b->vsock_path)
		return rc;
	if (!b->vsock)
		return err_set(e, -EINVAL, "vsock_path: without vsock");
	ends->vsock_cid = (uint32_t)b->vsock_cid;
	return config_copy(&ends->vsock_path, b->vsock_path, e);
}

int config_shell_from_json(json_t *obj, struct vm_shape *out, struct vm_ends *ends, struct err *e)
{
	struct prepare_body b = {.cpus = 1, .memory_mib = 512, .vsock_cid = 3};
	int rc = CONFIG_BIND(obj, prepare_fields, &b, e);

	*ends = (struct vm_ends){0};
	if (!rc)
		rc = read_ends(&b, ends, e);
	if (rc)
		return rc;
	if (b.memory_mib % VM_MEMORY_STEP_MIB)
		return err_set(e, -EINVAL, "memory_mib: %lld is not a multiple of %d",
			       (long long)b.memory_mib, VM_MEMORY_STEP_MIB);
	*out = (struct vm_shape){
	    .cpus = (unsigned int)b.cpus,
	    .disks = (unsigned int)b.disks,
	    .memory_mib = (uint64_t)b.memory_mib,
	    .vsock = b.vsock,
	};
	return config_read_net(b.net, &out->net, e);
}

/* --- checkpoints --------------------------------------------------------------------------- */

void vm_checkpoint_config_fini(struct vm_checkpoint_config *c)
{
	free(c->name);
	free(c->state);
	free(c->ram);
	free(c->parent_ram);
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++)
		free(c->overlays[i]);
	*c = (struct vm_checkpoint_config){0};
}

struct checkpoint_body {
	json_int_t id;
	const char *op, *name, *state, *ram, *parent_ram;
	json_t *disks;
	bool resume;
};

static const struct json_field checkpoint_fields[] = {
    JSON_FIELD(struct checkpoint_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct checkpoint_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct checkpoint_body, name, "name", JSON_F_STRING, .flags = JSON_REQUIRED),
    JSON_FIELD(struct checkpoint_body, state, "state", JSON_F_STRING, .flags = JSON_NONEMPTY),
    JSON_FIELD(struct checkpoint_body, ram, "ram", JSON_F_STRING, .flags = JSON_NONEMPTY),
    JSON_FIELD(struct checkpoint_body, parent_ram, "parent_ram", JSON_F_STRING,
	       .flags = JSON_NONEMPTY),
    JSON_FIELD(struct checkpoint_body, disks, "disks", JSON_F_ARRAY),
    JSON_FIELD(struct checkpoint_body, resume, "resume", JSON_F_BOOL),
};

struct switch_body {
	const char *overlay;
};

static const struct json_field switch_fields[] = {
    JSON_FIELD(struct switch_body, overlay, "overlay", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
};

static int read_overlays(json_t *list, struct vm_checkpoint_config *c, struct err *e)
{
	size_t n = json_array_size(list);

	if (n > VM_MAX_DISKS)
		return err_set(e, -EINVAL, "disks: %zu are more than %d", n, VM_MAX_DISKS);
	c->overlays_n = (unsigned int)n;
	for (size_t i = 0; i < n; i++) {
		struct switch_body b = {0};
		int rc;

		if (json_is_null(json_array_get(list, i)))
			continue;
		rc = CONFIG_BIND(json_array_get(list, i), switch_fields, &b, e);
		if (rc)
			return err_wrap(e, rc, "disks[%zu]", i);
		rc = config_copy(&c->overlays[i], b.overlay, e);
		if (rc)
			return rc;
	}
	return 0;
}

int config_checkpoint_from_json(json_t *obj, struct vm_checkpoint_config *c, struct err *e)
{
	struct checkpoint_body b = {.resume = true};
	int rc;

	*c = (struct vm_checkpoint_config){0};
	rc = CONFIG_BIND(obj, checkpoint_fields, &b, e);
	if (rc)
		return rc;
	if (!b.state != !b.ram)
		return err_set(e, -EINVAL, "state and ram belong together");
	if (b.parent_ram && !b.ram)
		return err_set(e, -EINVAL, "parent_ram: has no meaning without ram");
	c->resume = b.resume;
	rc = config_copy(&c->name, b.name, e);
	if (!rc)
		rc = config_copy(&c->state, b.state, e);
	if (!rc)
		rc = config_copy(&c->ram, b.ram, e);
	if (!rc)
		rc = config_copy(&c->parent_ram, b.parent_ram, e);
	return rc ? rc : read_overlays(b.disks, c, e);
}
