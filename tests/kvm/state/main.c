/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine is saved and restored within this process, on the native /dev/kvm: the guest
 * counts on, and what was restored is saved as the same bytes. Prints TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "tests/kvm/harness.h"
#include "vmm/vm_state.h"

#define COUNT_GPA 0x50000u
#define GUEST	  "build/guests/state.elf"
#define STEPS	  100

static struct vm a, b;

static void make(struct vm *vm)
{
	struct vm_config c;
	struct err e;

	check(!vm_init(vm, &e), "%s", e.msg);
	pthread_mutex_lock(&vm->lock);
	vm_config_init(&c);
	free(c.kernel);
	c.kernel = strdup(GUEST);
	if (!c.cmdline)
		c.cmdline = strdup("");
	c.memory_mib = 64;
	c.cpus = 2;
	check(!machine_configure(vm, &c, &e), "%s", e.msg);
}

static uint64_t count_of(struct vm *vm)
{
	uint64_t n = 0;

	check(!guest_mem_read(&vm->mem, COUNT_GPA, &n, sizeof(n)), "guest memory");
	return n;
}

static struct kvm_regs regs_of(struct vm *vm)
{
	struct kvm_regs r;

	check(!ioctl(vm->vcpus[0].fd, KVM_GET_REGS, &r), "%s", strerror(errno));
	return r;
}

/* Let it run until it has counted @steps further, then pause it. */
static void run_on(struct vm *vm, uint64_t steps)
{
	uint64_t from = count_of(vm);

	while (count_of(vm) < from + steps) {
		/* The vCPU thread takes the lock at each step. */
		pthread_mutex_unlock(&vm->lock);
		usleep(1000);
		pthread_mutex_lock(&vm->lock);
		check(vm->request == VM_REQUEST_NONE, "%s", vm->request_message);
	}
	check(!machine_pause(vm, NULL), "pause");
}

static void save(struct vm *vm, struct state_io *io)
{
	struct err e;

	state_save_init(io);
	vm_state_save(vm, io);
	check(!state_finish(io, &e), "%s", e.msg);
}

/* Boot a, let it count, save it into @io; make b with the same memory. */
static void two_machines(struct state_io *io)
{
	struct err e;

	log_init("test", LOG_ERROR, 2);
	make(&a);
	check(!machine_boot(&a, &e), "%s", e.msg);
	run_on(&a, STEPS);
	save(&a, io);
	make(&b);
	memcpy(b.ram, a.ram, a.ram_bytes);
}

/* As a restore does, but that the memory is there already. */
static int load(struct vm *vm, const struct state_io *from, struct err *e)
{
	struct state_io io;
	int rc = state_restore_init(&io, from->data, from->len, e);

	if (!rc && !vm->vcpus_n) {
		platform_reset(vm);
		rc = make_kvm(vm, e);
	}
	if (!rc)
		rc = vm_state_load(vm, &io, NULL, e);
	state_fini(&io);
	if (!rc)
		vm->state = VM_PAUSED;
	return rc;
}

static void finish(struct vm *vm)
{
	machine_end(vm, "request", 0, "the test is over");
	pthread_mutex_unlock(&vm->lock);
	vm_fini(vm);
}

static void expect_same(const struct state_io *x, const struct state_io *y)
{
	check(x->len == y->len, "%zu and %zu bytes", x->len, y->len);
	for (size_t i = 0; i < x->len; i++) {
		unsigned int s = 0;

		while (s + 1 < x->n && x->sections[s + 1].offset <= i)
			s++;
		check(x->data[i] == y->data[i], "byte %zu, %zu of section %.4s %u", i,
		      i - x->sections[s].offset, (const char *)&x->sections[s].tag,
		      x->sections[s].instance);
	}
}

static void the_law(void)
{
	struct state_io first, again, restored;
	uint64_t began;
	struct err e;

	two_machines(&first);
	save(&a, &again);
	expect_same(&first, &again);
	check(!load(&b, &first, &e), "%s", e.msg);
	save(&b, &restored);
	expect_same(&first, &restored);
	began = clock_mono_ns();
	state_fini(&again);
	save(&a, &again);
	printf("# %zu bytes, %u sections; saved in %llu us\n", first.len, first.n,
	       (unsigned long long)(clock_mono_ns() - began) / 1000);
	state_fini(&first);
	state_fini(&again);
	state_fini(&restored);
	finish(&a);
	finish(&b);
}

static void it_counts_on(void)
{
	struct kvm_regs before, after;
	struct state_io io;
	struct err e;
	uint64_t count;
	uint8_t id[16];

	two_machines(&io);
	before = regs_of(&a);
	count = count_of(&a);
	check(!load(&b, &io, &e), "%s", e.msg);
	memcpy(id, b.platform_pages + 0x1000, sizeof(id));
	after = regs_of(&b);
	check(!memcmp(&before, &after, sizeof(before)), "registers");
	check(serial_read(&b.serial, 7) == 0x40, "the serial port's register");
	check(!machine_resume(&b, &e), "%s", e.msg);
	check(memcmp(id, b.platform_pages + 0x1000, sizeof(id)), "no new generation");
	run_on(&b, STEPS);
	after = regs_of(&b);
	check(after.rbx >= count + STEPS && after.r15 == 0x123456789, "%llu",
	      (unsigned long long)after.rbx);
	/* The original lives on, too. */
	check(count_of(&a) == count, "it ran while it was paused");
	check(!machine_resume(&a, &e), "%s", e.msg);
	run_on(&a, STEPS);
	state_fini(&io);
	finish(&a);
	finish(&b);
}

static void what_does_not_fit_is_refused(void)
{
	struct state_io io;
	struct err e;

	two_machines(&io);
	io.data[io.len / 2] ^= 1;
	check(load(&b, &io, &e) == -EINVAL, "damaged");
	check(strstr(e.msg, "damaged: checksum"), "%s", e.msg);
	io.data[io.len / 2] ^= 1;
	b.shape.memory_mib = 128;
	check(load(&b, &io, &e) == -EINVAL, "other memory");
	check(strstr(e.msg, "MiB of memory: 64 in the saved state, 128 here"), "%s", e.msg);
	b.shape.memory_mib = 64;
	unmake_kvm(&b);
	memory_clear(&b, NULL);
	/* And is still good for a boot. */
	check(!machine_boot(&b, &e), "%s", e.msg);
	run_on(&b, 1);
	state_fini(&io);
	finish(&a);
	finish(&b);
}

int main(void)
{
	static const struct test tests[] = {
	    {"a machine that is saved, restored and saved again is the same", the_law},
	    {"a restored guest counts on, and so does the original", it_counts_on},
	    {"a state that does not fit is refused", what_does_not_fit_is_refused},
	};
	const char *skip = access("/dev/kvm", R_OK | W_OK) ? "no usable /dev/kvm" : NULL;

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), skip);
}
