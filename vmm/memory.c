/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's RAM: one range of private memory, taken up as it is touched.
 *
 * The range is chosen first, and memory slots may be made for it while nothing is mapped there: to
 * put a mapping in the place of another one KVM looks through all of the slot, however large and
 * empty.
 *
 * Behind what the machine boots with there is room for as much as a machine can have: memory that
 * the guest is given later is mapped there, so RAM stays one range, and its image one file. Behind
 * all that there is as much room again, see set_aside().
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

#define HUGE_PAGE_BYTES (2ull << 20)
/*
 * Where RAM may be: 32 TiB that the kernel gives to nobody who does not ask for them, as it begins
 * at the top of the address space.
 */
#define AREA_START (32ull << 40)
#define AREA_BYTES (32ull << 40)

#define DROPPED_BYTES (VM_MEMORY_SPAN / 4096 / 8)

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/*
 * A random place, on 2 MiB: only then can KVM map 2 MiB of the guest with one entry of its tables.
 */
static int choose_place(void **out)
{
	uint64_t n, places = (AREA_BYTES - 2 * VM_MEMORY_SPAN) / HUGE_PAGE_BYTES;

	if (getrandom(&n, sizeof(n), 0) != sizeof(n))
		return -EIO;
	*out = (void *)(uintptr_t)(AREA_START + n % places * HUGE_PAGE_BYTES); /* NOLINT */
	return 0;
}

static void advise(const struct vm *vm, uint64_t from, bool huge)
{
	uint8_t *at = (uint8_t *)vm->ram + from;

	/*
	 * A guest that boots touches most of what it uses once: 512 times fewer faults, and a fork
	 * of the process copies one entry for 2 MiB. A private mapping of a file has no huge pages,
	 * and wants none: a restored guest would copy 2 MiB for the first byte that it writes.
	 */
	if (huge)
		madvise(at, vm->ram_bytes - from, MADV_HUGEPAGE);
	/* Core dumps of this process must not hold what is the tenant's. */
	madvise(at, vm->ram_bytes - from, MADV_DONTDUMP);
}

/* Linux plugs in blocks of 128 MiB: the rest of the region would never be used. */
static void set_more_region(struct vm *vm, uint64_t low)
{
	const uint64_t block = 128ull << 20;
	uint64_t end = LAYOUT_HOLE_END + vm->base_bytes - low;

	vm->more_gpa = (end + LAYOUT_MORE_ALIGN - 1) / LAYOUT_MORE_ALIGN * LAYOUT_MORE_ALIGN;
	vm->more_region = (VM_MEMORY_SPAN - vm->base_bytes) / block * block;
}

static int create_dropped(struct vm *vm, struct err *e)
{
	void *map = mmap(NULL, DROPPED_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return err_sys(e, -errno, "a map of guest memory");
	vm->dropped = map;
	guest_mem_note_drops(&vm->mem, map, vm->ram);
	return 0;
}

/* All pages are what somebody has put there. */
static void forget_drops(struct vm *vm)
{
	madvise(vm->dropped, DROPPED_BYTES, MADV_DONTNEED);
}

int memory_fit(const struct vm *vm, uint64_t image_bytes)
{
	return image_bytes >= vm->base_bytes && image_bytes - vm->base_bytes <= vm->more_region
		   ? 0
		   : -EINVAL;
}

int memory_resize(struct vm *vm, uint64_t more_bytes, struct err *e)
{
	uint64_t old = vm->ram_bytes, want = vm->base_bytes + more_bytes;
	uint8_t *end = (uint8_t *)vm->ram + old, *more = (uint8_t *)vm->ram + vm->base_bytes;
	struct device *d = devices_find(vm->devices, DEVICE_MEM);
	int rc;

	if (want == old)
		return 0;
	if (want > old && !vm->ram_vacant &&
	    mmap(end, want - old, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
		 0) == MAP_FAILED)
		return err_sys(e, -errno, "mapping more guest memory");
	vm->ram_bytes = want;
	if (want > old && !vm->ram_vacant)
		advise(vm, old, true);
	rc = kvm_more_slots(vm, e);
	if (!rc) {
		rc = guest_mem_set(&vm->mem, vm->more_gpa, more, more_bytes);
		if (rc)
			err_sys(e, rc, "describing guest memory");
	}
	if (rc)
		want = old;
	if (!vm->ram_vacant && vm->ram_bytes != want)
		munmap((uint8_t *)vm->ram + want, vm->ram_bytes - want);
	else if (!vm->ram_vacant && want < old)
		munmap((uint8_t *)vm->ram + want, old - want);
	vm->ram_bytes = want;
	if (!rc)
		device_mem_set_usable(d, more_bytes);
	return rc;
}

int memory_create(struct vm *vm, struct err *e)
{
	uint64_t low;
	int rc;

	vm->ram_bytes = vm->base_bytes = vm->shape.memory_mib << 20;
	low = boot_low_bytes(vm->ram_bytes);
	rc = choose_place(&vm->ram);
	if (rc)
		return err_sys(e, rc, "a place for guest memory");
	vm->ram_vacant = true;
	set_more_region(vm, low);
	rc = create_dropped(vm, e);
	if (rc)
		return rc;
	rc = guest_mem_add(&vm->mem, 0, vm->ram, low);
	if (!rc && vm->ram_bytes > low)
		rc = guest_mem_add(&vm->mem, LAYOUT_HOLE_END, (uint8_t *)vm->ram + low,
				   vm->ram_bytes - low);
	return rc ? err_sys(e, rc, "describing guest memory") : 0;
}

int memory_clear(struct vm *vm, struct err *e)
{
	int fixed = vm->ram_vacant ? MAP_FIXED_NOREPLACE : MAP_FIXED;

	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	forget_drops(vm);
	if (!vm->ram_vacant && vm->image.fd < 0)
		return madvise(vm->ram, vm->ram_bytes, MADV_DONTNEED) < 0
			   ? err_sys(e, -errno, "clearing guest memory")
			   : 0;
	/* Dropping pages of an image would show the image's. */
	if (mmap(vm->ram, vm->ram_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0) == MAP_FAILED)
		return err_sys(e, -errno, "mapping %llu MiB of guest memory",
			       (unsigned long long)vm->ram_bytes >> 20);
	vm->ram_vacant = false;
	ram_image_close(&vm->image);
	advise(vm, 0, true);
	return 0;
}

/* --- replacing what a machine has in its memory ------------------------------------------ */

static void *aside(const struct vm *vm)
{
	return (uint8_t *)vm->ram + VM_MEMORY_SPAN;
}

/**
 * set_aside() - Give the guest's pages to another mapping, for memory_drop_aside() to free them
 *
 * Moving page tables costs a fraction of freeing pages, for which the guest would have to wait.
 * What is left in RAM's place is the same mapping, of which nothing was touched yet.
 *
 * Return: false if the kernel does not do it
 */
static bool set_aside(struct vm *vm)
{
	memory_drop_wait(vm);
	if (mremap(vm->ram, vm->ram_bytes, vm->ram_bytes,
		   MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, aside(vm)) == MAP_FAILED)
		return false;
	vm->ram_aside = true;
	vm->aside_bytes = vm->ram_bytes;
	return true;
}

/* Return: 0 or -errno, then the guest's memory is lost. */
static int take_back(struct vm *vm)
{
	vm->ram_aside = false;
	return mremap(aside(vm), vm->aside_bytes, vm->aside_bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
		      vm->ram) == MAP_FAILED
		   ? -errno
		   : 0;
}

static void *drop(void *opaque)
{
	struct vm *vm = opaque;

	munmap(aside(vm), vm->aside_bytes);
	return NULL;
}

void memory_drop_aside(struct vm *vm)
{
	sigset_t all, old;

	if (!vm->ram_aside)
		return;
	vm->ram_aside = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	vm->dropping = pthread_create(&vm->dropper, NULL, drop, vm) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!vm->dropping)
		drop(vm);
}

void memory_drop_wait(struct vm *vm)
{
	if (vm->dropping)
		pthread_join(vm->dropper, NULL);
	vm->dropping = false;
}

int memory_map_image(struct vm *vm, struct ram_image *img, struct err *e)
{
	bool same = vm->image.fd >= 0 && !memcmp(vm->image.id, img->id, sizeof(img->id));
	bool moved;
	int rc = 0;

	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	forget_drops(vm);
	moved = !vm->ram_vacant && set_aside(vm);
	/* The same image: without what the guest has written, it shows again. */
	if (same && (moved || madvise(vm->ram, vm->ram_bytes, MADV_DONTNEED) == 0)) {
		ram_image_close(img);
		return 0;
	}
	rc = ram_image_map(img, vm->ram, vm->ram_vacant, e);
	if (rc) {
		ram_image_close(img);
		if (moved && take_back(vm))
			return err_wrap(e, rc, "guest memory is lost");
		return rc;
	}
	vm->ram_vacant = false;
	advise(vm, 0, false);
	ram_image_close(&vm->image);
	vm->image = *img;
	*img = (struct ram_image)RAM_IMAGE_CLOSED;
	return 0;
}

void memory_destroy(struct vm *vm)
{
	loading_stop(vm);
	vm->loaded = (struct ram_pager_progress){0};
	memory_drop_aside(vm);
	memory_drop_wait(vm);
	if (vm->ram && !vm->ram_vacant)
		munmap(vm->ram, vm->ram_bytes);
	ram_image_close(&vm->image);
	if (vm->dropped)
		munmap(vm->dropped, DROPPED_BYTES);
	vm->dropped = NULL;
	vm->ram = NULL;
	vm->ram_bytes = vm->base_bytes = 0;
	vm->target_mib = 0;
	vm->balloon_rest = false;
	vm->ram_vacant = false;
	vm->mem = (struct guest_mem){0};
}
