/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints of a machine that runs; see vm.h.
 *
 * Theory of operation
 *
 * While the vCPUs stand still: devices end what is in flight, the state is saved to memory, the
 * process is cloned, disks go on in new layers. The clone (checkpoint_child.c) shares all of guest
 * RAM copy-on-write and so holds it as it was; what the pause costs depends on the page tables of
 * what the guest has touched, not on the size of RAM or of disks. Then the guest runs on, while the
 * clone writes RAM and state, and the loop seals the layers that were frozen. When both have ended,
 * the `checkpoint` event says so, and everything is durable.
 *
 * All of RAM, disks and state is of one instant: between stopping and resuming, nobody
 * releases the device lock while something of it is taken.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/disk_layers.h"
#include "vmm/checkpoint_int.h"
#include "vmm/control.h"
#include "vmm/vm_state.h"

/* #syscalls waitid pidfd_send_signal clone[0&0x7e020000==0] */

/* --- its life --------------------------------------------------------------------------- */

/* @keep: false removes what was written. Idempotent. */
static void close_files(struct checkpoint *c, bool keep)
{
	if (c->has_ram)
		ram_image_writer_close(&c->ram, keep);
	if (!keep && c->state_fd >= 0)
		unlink(c->state_path);
	ram_image_close(&c->parent);
	fd_close(&c->state_fd);
	fd_close(&c->state_dir_fd);
	fd_close(&c->pidfd);
}

static void destroy(struct checkpoint *c)
{
	close_files(c, false);
	state_fini(&c->state);
	if (c->result)
		munmap(c->result, sizeof(*c->result));
	free(c->state_path);
	free(c->name);
	free(c);
}

static int create_state_file(struct checkpoint *c, struct err *e)
{
	cleanup_free char *copy = strdup(c->state_path);

	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	c->state_dir_fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->state_dir_fd < 0)
		return err_sys(e, -errno, "state %s: its directory", c->state_path);
	c->state_fd = open(c->state_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return c->state_fd < 0 ? err_sys(e, -errno, "state %s", c->state_path) : 0;
}

/* The image that most pages are equal to, if there is one. */
static int find_parent(struct checkpoint *c, const char *path, const struct ram_image **out,
		       struct err *e)
{
	struct vm *vm = c->vm;
	int rc;

	*out = vm->image.fd >= 0 ? &vm->image : NULL;
	c->knows_parent = *out;
	if (!path)
		return 0;
	rc = ram_image_open(&c->parent, path, 0, e);
	if (rc)
		return err_wrap(e, rc, "parent");
	*out = &c->parent;
	c->knows_parent =
	    vm->image.fd >= 0 && !memcmp(vm->image.id, c->parent.id, sizeof(c->parent.id));
	return 0;
}

static int create_files(struct checkpoint *c, const struct vm_checkpoint_config *cfg, struct err *e)
{
	const struct ram_image *parent;
	int rc;

	if (!cfg->ram)
		return 0;
	c->state_path = strdup(cfg->state);
	c->result = mmap(NULL, sizeof(*c->result), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c->result == MAP_FAILED)
		c->result = NULL;
	if (!c->state_path || !c->result)
		return err_set(e, -ENOMEM, "out of memory");
	rc = find_parent(c, cfg->parent_ram, &parent, e);
	if (!rc)
		rc = create_state_file(c, e);
	if (!rc)
		rc = ram_image_writer_open(&c->ram, cfg->ram, c->vm->ram_bytes, parent, c->ram_id,
					   e);
	c->has_ram = !rc;
	return rc;
}

static int create(struct checkpoint **out, struct vm *vm, const struct vm_checkpoint_config *cfg,
		  struct err *e)
{
	struct checkpoint *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->vm = vm;
	c->parent = (struct ram_image)RAM_IMAGE_CLOSED;
	c->state_fd = c->state_dir_fd = c->pidfd = c->pagemap_fd = -1;
	c->state.restoring = true; /* nothing to free yet */
	c->name = strdup(cfg->name);
	rc = c->name ? create_files(c, cfg, e) : err_set(e, -ENOMEM, "out of memory");
	if (rc)
		destroy(c);
	else
		*out = c;
	return rc;
}

static void tell(struct checkpoint *c)
{
	json_int_t ram = c->result ? (json_int_t)c->result->stored_bytes : 0;

	if (c->err.code) {
		const char *code = strerrorname_np(-c->err.code);

		log_error("checkpoint %s: %s", c->name, c->err.msg);
		control_event(c->vm,
			      json_pack("{sssssbssss}", "event", "checkpoint", "name", c->name,
					"ok", 0, "error", c->err.msg, "code", code ? code : "EIO"));
		return;
	}
	control_event(c->vm, json_pack("{sssssbsIsIsI}", "event", "checkpoint", "name", c->name,
				       "ok", 1, "ram_bytes", ram, "state_bytes",
				       (json_int_t)(c->has_ram ? c->state.len : 0), "disk_bytes",
				       (json_int_t)c->disk_bytes));
}

/* One of its parts has ended. The last one tells. */
static void part_ended(struct checkpoint *c, int rc, const char *what)
{
	if (rc && !c->err.code)
		err_sys(&c->err, rc, "%s", what);
	if (--c->pending)
		return;
	c->vm->checkpoint = NULL;
	/* Whoever hears of a failure finds no files. */
	close_files(c, !c->err.code);
	if (!c->refused)
		tell(c);
	destroy(c);
}

void checkpoint_abort(struct vm *vm, const char *why)
{
	struct checkpoint *c = vm->checkpoint;
	siginfo_t info;

	if (!c)
		return;
	if (!c->err.code)
		err_set(&c->err, -ECANCELED, "%s", why);
	/* Disks that are being sealed end their part when they are closed. */
	if (c->pidfd < 0)
		return;
	loop_remove(&vm->loop, &c->source);
	syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
	waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED);
	fd_close(&c->pidfd);
	part_ended(c, -ECANCELED, why);
}

/* --- the child ---------------------------------------------------------------------------- */

static void child_ended(struct loop_source *s, uint32_t events)
{
	struct checkpoint *c = container_of(s, struct checkpoint, source);
	siginfo_t info = {0};

	(void)events;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	loop_remove(&c->vm->loop, &c->source);
	fd_close(&c->pidfd);
	if (c->result->done)
		part_ended(c, c->result->rc, c->result->what);
	else
		part_ended(c, -EINTR, "the process that wrote it was killed");
}

/*
 * By the system call: fork() of the C library would wait for its locks and run handlers, for a
 * child that uses neither.
 */
static int clone_process(struct checkpoint *c, struct err *e)
{
	pid_t parent = getpid();
	int pidfd = -1, rc;
	long pid = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);

	if (pid < 0)
		return err_sys(e, -errno, "cloning the process");
	if (pid == 0)
		checkpoint_child(c, parent);
	c->pidfd = pidfd;
	rc = loop_add(&c->vm->loop, &c->source, pidfd, EPOLLIN, child_ended);
	c->pending++;
	return rc ? err_sys(e, rc, "watching the process that writes") : 0;
}

/* --- disks -------------------------------------------------------------------------------- */

static void disk_sealed(void *opaque, int result)
{
	struct checkpoint_seal *seal = opaque;
	struct checkpoint *c = seal->checkpoint;
	struct disk_layers_info info;

	if (!result) {
		disk_layers_info(c->vm->disks[seal->disk], &info);
		c->disk_bytes += info.frozen_bytes;
	}
	part_ended(c, result, "sealing a layer of the disk");
}

static void unprepare_disks(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->shape.disks; i++)
		disk_layers_unprepare(vm->disks[i]);
}

/* Files are made before the pause: a file system may let wait for that. */
static int prepare_disks(struct vm *vm, const struct vm_checkpoint_config *cfg, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < cfg->overlays_n && !rc; i++) {
		if (cfg->overlays[i])
			rc = disk_layers_prepare(vm->disks[i], cfg->overlays[i], e);
		if (rc)
			err_wrap(e, rc, "disks[%u]", i);
	}
	if (rc)
		unprepare_disks(vm);
	return rc;
}

static int switch_disks(struct checkpoint *c, const struct vm_checkpoint_config *cfg, struct err *e)
{
	for (unsigned int i = 0; i < cfg->overlays_n; i++) {
		int rc;

		if (!cfg->overlays[i])
			continue;
		c->seals[i] = (struct checkpoint_seal){c, i};
		rc = disk_layers_switch(c->vm->disks[i], cfg->overlays[i], disk_sealed,
					&c->seals[i], e);
		if (rc)
			return err_wrap(e, rc, "disks[%u]", i);
		c->pending++;
	}
	return 0;
}

/* --- the pause ------------------------------------------------------------------------------ */

static int save_state(struct checkpoint *c, struct err *e)
{
	state_save_init(&c->state);
	memcpy(c->vm->ram_id, c->ram_id, sizeof(c->ram_id));
	vm_state_save(c->vm, &c->state);
	return state_finish(&c->state, e);
}

/* vCPUs stand still, nothing is in flight. */
static int take(struct checkpoint *c, const struct vm_checkpoint_config *cfg, struct err *e)
{
	int rc = c->has_ram ? save_state(c, e) : 0;

	if (!rc && c->has_ram)
		rc = clone_process(c, e);
	return rc ? rc : switch_disks(c, cfg, e);
}

static int check_request(const struct vm *vm, const struct vm_checkpoint_config *cfg, struct err *e)
{
	bool disks = false;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "there is no checkpoint of a machine that is %s",
			       vm_state_name(vm->state));
	if (vm->request == VM_REQUEST_PLUG)
		return err_set(e, -ESHUTDOWN, "the machine is being shut down");
	if (vm->checkpoint)
		return err_set(e, -EBUSY, "checkpoint %s is being written", vm->checkpoint->name);
	if (cfg->overlays_n > vm->shape.disks)
		return err_set(e, -EINVAL, "disks: the machine has %u", vm->shape.disks);
	for (unsigned int i = 0; i < cfg->overlays_n; i++)
		disks = disks || cfg->overlays[i];
	if (!cfg->ram && !disks)
		return err_set(e, -EINVAL, "neither RAM nor a disk is to be saved");
	return 0;
}

/* It did not come about: as if it had never been asked for, but for disks that were switched. */
static void give_up(struct vm *vm, struct checkpoint *c, const struct err *e)
{
	if (!c->pending) {
		destroy(c);
		return;
	}
	vm->checkpoint = c;
	c->refused = true;
	checkpoint_abort(vm, e ? e->msg : "it could not be taken");
}

int machine_checkpoint(struct vm *vm, const struct vm_checkpoint_config *cfg, uint64_t *pause_us,
		       struct err *e)
{
	bool ran = vm->state == VM_RUNNING;
	struct checkpoint *c = NULL;
	uint64_t began;
	int rc = check_request(vm, cfg, e);

	/* The clone would see zeros where nothing is loaded yet. */
	if (!rc && cfg->ram)
		rc = loading_finish(vm, e);
	if (!rc)
		rc = create(&c, vm, cfg, e);
	if (rc)
		return rc;
	/* Last: a layer that cannot be removed again would look as if it had been switched to. */
	rc = prepare_disks(vm, cfg, e);
	if (rc) {
		destroy(c);
		return rc;
	}
	began = clock_mono_ns();
	vcpus_hold(vm);
	devices_quiesce(vm->devices);
	vm->state = VM_PAUSED;
	rc = take(c, cfg, e);
	if ((rc && ran) || (!rc && cfg->resume)) {
		int rc2 = machine_resume(vm, rc ? NULL : e);

		rc = rc ? rc : rc2;
	}
	*pause_us = (clock_mono_ns() - began) / 1000;
	unprepare_disks(vm);
	if (rc)
		give_up(vm, c, e);
	else
		vm->checkpoint = c;
	return rc;
}
