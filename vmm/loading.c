/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RAM that comes out of a cold image while the machine runs; see snapshot/ram_pager.h.
 *
 * From its start to its end the pager belongs to the machine: it goes before the memory does, and
 * after the vCPUs that may wait for it. What it has to tell comes to the loop by an eventfd, as its
 * threads never take vm->lock: who holds that may be waiting for them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/ram_pager.h"
#include "vmm/vm.h"

struct loading {
	struct vm *vm; /* borrowed */
	struct ram_pager *pager;
	int over_fd;
	struct loop_source source;
};

/* A thread of the pager. */
static void over(void *opaque, bool failed)
{
	const struct loading *l = opaque;
	uint64_t one = 1;

	/* Before anybody who waits for the memory goes on without it. */
	if (failed)
		vcpus_doom(l->vm);
	if (write(l->over_fd, &one, sizeof(one)) < 0)
		log_error("loading memory: %s", strerror(errno));
}

static void handle_over(struct loop_source *s, uint32_t events)
{
	struct loading *l = container_of(s, struct loading, source);
	struct vm *vm = l->vm;

	(void)events;
	ram_pager_progress(l->pager, &vm->loaded);
	if (vm->loaded.state == RAM_PAGER_FAILED) {
		/* A copy: with the machine goes what it has said. */
		struct err why = vm->loaded.error;

		log_error("%s", why.msg);
		machine_end(vm, "error", VM_EXIT_FATAL, why.msg);
		return;
	}
	log_info("memory: all %llu MiB loaded after %llu ms",
		 (unsigned long long)vm->loaded.total_bytes >> 20,
		 (unsigned long long)vm->loaded.done_us / 1000);
	loading_stop(vm);
}

static int need(void *opaque, const void *at, uint64_t len_bytes)
{
	return ram_pager_need(opaque, at, len_bytes);
}

static int start(struct loading *l, struct cold_image *img, struct err *e)
{
	struct vm *vm = l->vm;
	cleanup_free char *order = NULL;
	struct ram_pager_config c = {.image = img,
				     .ram = vm->ram,
				     .ram_bytes = vm->ram_bytes,
				     .uffd = -1,
				     .over = over,
				     .opaque = l};
	int rc;

	if (asprintf(&order, "%s.order", img->path) < 0) {
		order = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	c.order_path = order;
	l->over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->over_fd < 0)
		return err_sys(e, -errno, "eventfd");
	rc = loop_add(&vm->loop, &l->source, l->over_fd, EPOLLIN, handle_over);
	return rc ? err_sys(e, rc, "loading memory") : ram_pager_start(&l->pager, &c, e);
}

int loading_start(struct vm *vm, struct cold_image *img, struct err *e)
{
	struct loading *l;
	int rc = memory_clear(vm, e);

	if (rc) {
		cold_close(img);
		return rc;
	}
	l = calloc(1, sizeof(*l));
	if (!l) {
		cold_close(img);
		return err_set(e, -ENOMEM, "out of memory");
	}
	*l = (struct loading){.vm = vm, .over_fd = -1, .source.fd = -1};
	vm->loading = l;
	rc = start(l, img, e);
	cold_close(img);
	if (!rc) {
		ram_pager_progress(l->pager, &vm->loaded);
		guest_mem_set_loader(&vm->mem, need, l->pager);
	}
	/* Everything was loaded at once: there is nothing to wait for. */
	if (rc || !vm->loaded.on_fault)
		loading_stop(vm);
	return rc;
}

void loading_stop(struct vm *vm)
{
	struct loading *l = vm->loading;

	if (!l)
		return;
	guest_mem_set_loader(&vm->mem, NULL, NULL);
	loop_remove(&vm->loop, &l->source);
	ram_pager_stop(l->pager);
	fd_close(&l->over_fd);
	free(l);
	vm->loading = NULL;
}

int loading_finish(struct vm *vm, struct err *e)
{
	return vm->loading ? ram_pager_finish(vm->loading->pager, e) : 0;
}

bool loading_failed(struct vm *vm, struct err *e)
{
	if (!vm->loading)
		return false;
	ram_pager_progress(vm->loading->pager, &vm->loaded);
	if (vm->loaded.state != RAM_PAGER_FAILED)
		return false;
	err_set(e, -EIO, "%s", vm->loaded.error.msg);
	return true;
}

void loading_progress(struct vm *vm, struct ram_pager_progress *out)
{
	if (vm->loading)
		ram_pager_progress(vm->loading->pager, &vm->loaded);
	*out = vm->loaded;
}
