/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's RAM: one reserved range of private memory, taken up as it is touched. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

#define HUGE_PAGE_BYTES (2ull << 20)

/**
 * reserve() - Reserve memory whose address is a multiple of 2 MiB
 *
 * Only then can KVM map 2 MiB of the guest with one entry of its tables.
 *
 * Return: the memory or MAP_FAILED
 */
static void *reserve(uint64_t bytes)
{
	uint8_t *p = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (p == MAP_FAILED)
		return p;
	before = -(uintptr_t)p % HUGE_PAGE_BYTES;
	if (before)
		munmap(p, before);
	munmap(p + before + bytes, HUGE_PAGE_BYTES - before);
	return p + before;
}

static void advise(struct vm *vm, bool huge)
{
	/*
	 * A guest that boots touches most of what it uses once: 512 times fewer faults, and a fork
	 * of the process copies one entry for 2 MiB. A private mapping of a file has no huge pages,
	 * and wants none: a restored guest would copy 2 MiB for the first byte that it writes.
	 */
	if (huge)
		madvise(vm->ram, vm->ram_bytes, MADV_HUGEPAGE);
	/* Core dumps of this process must not hold what is the tenant's. */
	madvise(vm->ram, vm->ram_bytes, MADV_DONTDUMP);
}

int memory_create(struct vm *vm, struct err *e)
{
	uint64_t low;
	int rc;

	vm->ram_bytes = vm->shape.memory_mib << 20;
	low = boot_low_bytes(vm->ram_bytes);
	vm->ram = reserve(vm->ram_bytes);
	if (vm->ram == MAP_FAILED) {
		vm->ram = NULL;
		return err_sys(e, -errno, "reserving %llu MiB of memory",
			       (unsigned long long)vm->shape.memory_mib);
	}
	advise(vm, true);
	rc = guest_mem_add(&vm->mem, 0, vm->ram, low);
	if (!rc && vm->ram_bytes > low)
		rc = guest_mem_add(&vm->mem, LAYOUT_HOLE_END, (uint8_t *)vm->ram + low,
				   vm->ram_bytes - low);
	return rc ? err_sys(e, rc, "describing guest memory") : 0;
}

int memory_clear(struct vm *vm, struct err *e)
{
	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	if (vm->image.fd < 0)
		return madvise(vm->ram, vm->ram_bytes, MADV_DONTNEED) < 0
			   ? err_sys(e, -errno, "clearing guest memory")
			   : 0;
	/* Dropping pages of an image would show the image's. */
	if (mmap(vm->ram, vm->ram_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return err_sys(e, -errno, "clearing guest memory");
	ram_image_close(&vm->image);
	advise(vm, true);
	return 0;
}

int memory_map_image(struct vm *vm, struct ram_image *img, struct err *e)
{
	bool same = vm->image.fd >= 0 && !memcmp(vm->image.id, img->id, sizeof(img->id));
	int rc = 0;

	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	/* The same image: what the guest has written is dropped, and the image shows again. */
	if (same && madvise(vm->ram, vm->ram_bytes, MADV_DONTNEED) == 0) {
		ram_image_close(img);
		return 0;
	}
	rc = ram_image_map(img, vm->ram, e);
	if (rc) {
		ram_image_close(img);
		return rc;
	}
	advise(vm, false);
	ram_image_close(&vm->image);
	vm->image = *img;
	*img = (struct ram_image)RAM_IMAGE_CLOSED;
	return 0;
}

void memory_destroy(struct vm *vm)
{
	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	if (vm->ram)
		munmap(vm->ram, vm->ram_bytes);
	ram_image_close(&vm->image);
	vm->ram = NULL;
	vm->ram_bytes = 0;
	vm->mem = (struct guest_mem){0};
}
