/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the server asks of a VMM: boot, restore, checkpoint, roll back, reset.
 *
 * All of them are called by the one thread that has the sandbox's `lifecycle` lock, except
 * vm_checkpoint_wait(), which may run beside anything.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/vmm_client.h"
#include "server/manager/internal.h"

#define RESTORE_MS    60000 /* the first pages of a cold image may be slow to come */
#define CHECKPOINT_MS 60000 /* until the guest runs again */
#define BUSY_RETRY_MS 100

/* A checkpoint between its request and the one who waits for its end; under s->lock. */
struct vm_wait {
	struct vm_wait *next;
	char name[64];
	bool done;
	int rc;
	uint64_t ram_bytes, disk_bytes;
	char error[200];
};

/* --- requests ----------------------------------------------------------------------------------
 */

static int set_string(json_t *o, const char *name, const char *value)
{
	return value ? json_object_set_new(o, name, json_string(value)) : 0;
}

static int disk_of_chain(struct vm_disk *d, const struct manager *m, const char *base,
			 const struct chain *c, int64_t size_mib, struct err *e)
{
	*d = (struct vm_disk){.size_mib = size_mib};
	if (!c->n)
		return err_set(e, -EINVAL, "the disk has no layer to write to");
	d->layers = calloc(c->n, sizeof(*d->layers));
	for (size_t i = 0; d->layers && i + 1 < c->n; i++) {
		d->layers[i] = layer_path(m, c->ids[i]);
		if (!d->layers[i])
			break;
	}
	d->base = strdup(base);
	d->overlay = layer_path(m, c->ids[c->n - 1]);
	if (d->layers && d->base && d->overlay && (c->n < 2 || d->layers[c->n - 2]))
		return 0;
	vm_disk_fini(d);
	return err_set(e, -ENOMEM, "out of memory");
}

int vm_disk_of_row(struct vm_disk *d, const struct sandbox *s, struct err *e)
{
	return disk_of_chain(d, s->m, s->row.base_image, &s->row.layers, s->row.disk_mib, e);
}

void vm_disk_fini(struct vm_disk *d)
{
	for (size_t i = 0; d->layers && d->layers[i]; i++)
		free(d->layers[i]);
	free(d->layers);
	free(d->base);
	free(d->overlay);
	memset(d, 0, sizeof(*d));
}

static json_t *disk_json(const struct vm_disk *d)
{
	json_t *disk = json_pack("{ss, ss, sI}", "path", d->base, "overlay", d->overlay, "size_mib",
				 (json_int_t)d->size_mib);
	json_t *layers = json_array();

	for (size_t i = 0; d->layers[i]; i++)
		json_array_append_new(layers, json_string(d->layers[i]));
	if (!disk || (d->layers[0] && json_object_set(disk, "layers", layers))) {
		json_decref(disk);
		disk = NULL;
	}
	json_decref(layers);
	return disk;
}

/* {"op": @op} with all fields of `configure`. */
static json_t *machine_request(struct sandbox *s, const char *op, const struct vm_disk *d)
{
	cleanup_free char *vsock = sandbox_path(s, "vsock.sock");
	cleanup_free char *console = sandbox_path(s, "console.log");
	json_t *disk = disk_json(d);

	if (!vsock || !console || !disk) {
		json_decref(disk);
		return NULL;
	}
	return json_pack("{ss, ss, sI, sI, s[o], s{ss}, s{ss}, ss}", "op", op, "kernel",
			 s->m->config->kernel, "memory_mib", (json_int_t)s->row.memory_mib, "cpus",
			 (json_int_t)s->row.cpus, "disks", disk, "vsock", "path", vsock, "net",
			 "backend", "user", "console", console);
}

static int set_image(json_t *request, const struct vm_image *image)
{
	if (set_string(request, "state", image->state) || set_string(request, "ram", image->ram))
		return -ENOMEM;
	return image->cold ? set_string(request, "ram_format", "cold") : 0;
}

/* --- operations ----------------------------------------------------------------------------------
 */

int vm_prepare(struct sandbox *s, int64_t cpus, int64_t memory_mib, struct err *e)
{
	cleanup_free char *vsock = sandbox_path(s, "vsock.sock");
	cleanup_free char *console = sandbox_path(s, "console.log");

	if (!vsock || !console)
		return err_set(e, -ENOMEM, "out of memory");
	return vm_call(s,
		       json_pack("{ss, sI, sI, si, sb, s{ss}, ss, ss}", "op", "prepare", "cpus",
				 (json_int_t)cpus, "memory_mib", (json_int_t)memory_mib, "disks", 1,
				 "vsock", 1, "net", "backend", "user", "vsock_path", vsock,
				 "console", console),
		       VM_CALL_MS, NULL, e);
}

int vm_boot(struct sandbox *s, const struct vm_disk *d, struct err *e)
{
	int rc = vm_call(s, machine_request(s, "configure", d), VM_CALL_MS, NULL, e);

	__atomic_add_fetch(&s->boots, 1, __ATOMIC_RELEASE);
	return rc ? rc : vm_call(s, json_pack("{ss}", "op", "boot"), VM_CALL_MS, NULL, e);
}

int vm_restore(struct sandbox *s, const struct vm_disk *d, const struct vm_image *image,
	       bool resume, struct err *e)
{
	json_t *request = machine_request(s, "restore", d);

	if (request && (set_image(request, image) ||
			json_object_set_new(request, "resume", json_boolean(resume)))) {
		json_decref(request);
		request = NULL;
	}
	return vm_call(s, request, RESTORE_MS, NULL, e);
}

int vm_resume(struct sandbox *s, struct err *e)
{
	return vm_call(s, json_pack("{ss}", "op", "resume"), VM_CALL_MS, NULL, e);
}

int vm_reset(struct sandbox *s, struct err *e)
{
	bool ready;
	int rc;

	pthread_mutex_lock(&s->lock);
	/* `ready` of the new boot may come before the answer. */
	ready = s->ready;
	s->ready = false;
	pthread_mutex_unlock(&s->lock);
	rc = vm_call(s, json_pack("{ss}", "op", "reset"), VM_CALL_MS, NULL, e);
	if (rc && ready)
		sandbox_set_ready(s);
	return rc;
}

int vm_rollback(struct sandbox *s, const struct vm_image *image, struct err *e)
{
	json_t *request, *disk;
	struct vm_disk d;
	int rc = disk_of_chain(&d, s->m, image->base_image, image->layers, s->row.disk_mib, e);

	if (rc)
		return rc;
	request = json_pack("{ss}", "op", "rollback");
	disk = disk_json(&d);
	vm_disk_fini(&d);
	if (!request || !disk || set_image(request, image) ||
	    json_object_set_new(request, "disks", json_pack("[O]", disk))) {
		json_decref(request);
		request = NULL;
	}
	json_decref(disk);
	vm_checkpoints_settle(s);
	pthread_mutex_lock(&s->lock);
	s->ready = false;
	s->settled = false;
	pthread_mutex_unlock(&s->lock);
	__atomic_add_fetch(&s->rewinds, 1, __ATOMIC_RELEASE);
	__atomic_add_fetch(&s->epoch, 1, __ATOMIC_RELEASE);
	rc = vm_call(s, request, RESTORE_MS, NULL, e);
	agent_pool_reset(s->pool);
	return rc;
}

/* --- checkpoints
 * ------------------------------------------------------------------------------------ */

static struct vm_wait **find_wait(struct sandbox *s, const char *name)
{
	struct vm_wait **p = &s->waits;

	while (*p && strcmp((*p)->name, name))
		p = &(*p)->next;
	return p;
}

/* On the reader's thread. */
void vm_on_checkpoint(struct sandbox *s, json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "name"));
	const char *error = json_string_value(json_object_get(event, "error"));
	const char *code = json_string_value(json_object_get(event, "code"));
	struct vm_wait *w;

	pthread_mutex_lock(&s->lock);
	w = name ? *find_wait(s, name) : NULL;
	if (w) {
		w->done = true;
		w->rc = json_is_true(json_object_get(event, "ok")) ? 0 : -vmm_errno(code);
		w->ram_bytes = (uint64_t)json_integer_value(json_object_get(event, "ram_bytes"));
		w->disk_bytes = (uint64_t)json_integer_value(json_object_get(event, "disk_bytes"));
		snprintf(w->error, sizeof(w->error), "%s", error ? error : "no reason given");
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
}

/* The VM has ended. Under s->lock. */
void vm_checkpoints_fail(struct sandbox *s)
{
	for (struct vm_wait *w = s->waits; w; w = w->next) {
		if (w->done)
			continue;
		w->done = true;
		w->rc = -EIO;
		snprintf(w->error, sizeof(w->error), "%s", s->exit_reason);
	}
}

static bool any_under_way(const struct sandbox *s)
{
	for (const struct vm_wait *w = s->waits; w; w = w->next)
		if (!w->done)
			return true;
	return false;
}

void vm_checkpoints_settle(struct sandbox *s)
{
	uint64_t deadline = clock_mono_ms() + CHECKPOINT_WRITE_MS;

	pthread_mutex_lock(&s->lock);
	while (any_under_way(s) && !s->doomed)
		if (sandbox_wait(s, deadline))
			break;
	pthread_mutex_unlock(&s->lock);
}

static json_t *checkpoint_request(const struct vm_checkpoint *c)
{
	json_t *request =
	    json_pack("{ss, ss, sb}", "op", "checkpoint", "name", c->name, "resume", c->resume);

	if (request && !set_string(request, "state", c->state) &&
	    !set_string(request, "ram", c->ram) &&
	    !set_string(request, "parent_ram", c->parent_ram) &&
	    (!c->overlay ||
	     !json_object_set_new(request, "disks", json_pack("[{ss}]", "overlay", c->overlay))))
		return request;
	json_decref(request);
	return NULL;
}

/* Take it out of the list. Under s->lock. */
static struct vm_wait *take_wait(struct sandbox *s, const char *name)
{
	struct vm_wait **p = find_wait(s, name), *w = *p;

	if (w)
		*p = w->next;
	return w;
}

int vm_checkpoint_begin(struct sandbox *s, const struct vm_checkpoint *c, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + CHECKPOINT_WRITE_MS;
	struct vm_wait *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return err_set(e, -ENOMEM, "out of memory");
	snprintf(w->name, sizeof(w->name), "%s", c->name);
	/* The VMM does one at a time. */
	vm_checkpoints_settle(s);
	pthread_mutex_lock(&s->lock);
	w->next = s->waits;
	s->waits = w;
	pthread_mutex_unlock(&s->lock);
	/* One that a daemon before us began: its end is not told to us. */
	while ((rc = vm_call(s, checkpoint_request(c), CHECKPOINT_MS, NULL, e)) == -EBUSY &&
	       clock_mono_ms() < deadline && !manager_interrupted(s->m))
		poll(NULL, 0, BUSY_RETRY_MS);
	if (!rc)
		return 0;
	pthread_mutex_lock(&s->lock);
	w = take_wait(s, c->name);
	pthread_mutex_unlock(&s->lock);
	free(w);
	return rc;
}

int vm_checkpoint_wait(struct sandbox *s, const char *name, uint64_t *ram_bytes,
		       uint64_t *disk_bytes, struct err *e)
{
	struct vm_wait *w;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while ((w = *find_wait(s, name)) && !w->done && !rc)
		if (sandbox_wait(s, UINT64_MAX))
			rc = err_set(e, -ECANCELED, "the server stops");
	w = take_wait(s, name);
	pthread_mutex_unlock(&s->lock);
	if (!w)
		return err_set(e, -ENOENT, "no checkpoint %s is under way", name);
	if (!rc && w->rc)
		rc = err_set(e, w->rc, "%s", w->error);
	if (ram_bytes)
		*ram_bytes = w->ram_bytes;
	if (disk_bytes)
		*disk_bytes = w->disk_bytes;
	free(w);
	return rc;
}

void vm_waits_free(struct sandbox *s)
{
	while (s->waits) {
		struct vm_wait *w = s->waits;

		s->waits = w->next;
		free(w);
	}
}
