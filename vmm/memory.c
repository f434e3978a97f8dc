/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's RAM: one reserved range of private memory, taken up as it is touched. */
#include <errno.h>
#include <sys/mman.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

int memory_create(struct vm *vm, struct err *e)
{
	uint64_t low;
	int rc;

	vm->ram_bytes = vm->config.memory_mib << 20;
	low = boot_low_bytes(vm->ram_bytes);
	vm->ram = mmap(NULL, vm->ram_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->ram == MAP_FAILED) {
		vm->ram = NULL;
		return err_sys(e, -errno, "reserving %llu MiB of memory",
			       (unsigned long long)vm->config.memory_mib);
	}
	/* Core dumps of this process must not hold what is the tenant's. */
	madvise(vm->ram, vm->ram_bytes, MADV_DONTDUMP);
	rc = guest_mem_add(&vm->mem, 0, vm->ram, low);
	if (!rc && vm->ram_bytes > low)
		rc = guest_mem_add(&vm->mem, LAYOUT_HOLE_END, (uint8_t *)vm->ram + low,
				   vm->ram_bytes - low);
	return rc ? err_sys(e, rc, "describing guest memory") : 0;
}

int memory_clear(struct vm *vm, struct err *e)
{
	if (madvise(vm->ram, vm->ram_bytes, MADV_DONTNEED) < 0)
		return err_sys(e, -errno, "clearing guest memory");
	return 0;
}

void memory_destroy(struct vm *vm)
{
	if (vm->ram)
		munmap(vm->ram, vm->ram_bytes);
	vm->ram = NULL;
	vm->ram_bytes = 0;
	vm->mem = (struct guest_mem){0};
}
