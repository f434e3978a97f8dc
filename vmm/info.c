/* SPDX-License-Identifier: Apache-2.0 */
/* What "info" and "metrics" say. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "snapshot/disk_layers.h"
#include "vmm/control.h"
#include "vmm/isolate.h"
#include "vmm/layout_x86.h"
#include "vmm/version.h"
#include "vmm/vm.h"

/* --- memory: /proc/self/smaps ---------------------------------------------------------- */

struct memory_use {
	uint64_t private_kib;  /* of everything but guest RAM */
	uint64_t resident_kib; /* of guest RAM */
};

static struct memory_use memory_use(const struct vm *vm)
{
	uint64_t ram = (uintptr_t)vm->ram, start, end, kib;
	struct memory_use use = {0};
	bool in_ram = false;
	char line[256];
	int fd = isolate_open_proc("smaps");
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");

	if (!f) {
		fd_close(&fd);
		return use;
	}
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			/* With what a rollback has left there. */
			in_ram = vm->ram && start >= ram && end <= ram + 2 * VM_MEMORY_SPAN;
		else if (in_ram && sscanf(line, "Rss: %lu kB", &kib) == 1)
			use.resident_kib += kib;
		else if (!in_ram && (sscanf(line, "Private_Clean: %lu kB", &kib) == 1 ||
				     sscanf(line, "Private_Dirty: %lu kB", &kib) == 1))
			use.private_kib += kib;
	}
	fclose(f);
	return use;
}

/* Of /proc/self/pagemap. */
#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE	   (1ull << 61)
#define PM_BATCH   512u /* pages; a multiple of 8 */

static uint64_t count_free(const uint8_t *dropped, const uint64_t *map)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < PM_BATCH; i++) {
		bool own = (map[i] & PM_SWAPPED) || ((map[i] & PM_PRESENT) && !(map[i] & PM_FILE));

		sum += !own && (dropped[i / 8] >> i % 8 & 1);
	}
	return sum;
}

/* What is unplugged was given back, too, but is no memory of the guest's any more. */
static bool is_of_guest(const struct vm *vm, uint64_t offset)
{
	static_assert(PM_BATCH * 4096ull == DEVICE_MEM_BLOCK, "a batch is a block");

	return offset < vm->base_bytes ||
	       (vm->devices && device_mem_is_plugged(devices_find(vm->devices, DEVICE_MEM),
						     offset - vm->base_bytes));
}

/* What the guest has given back and not taken again. */
static uint64_t free_kib(const struct vm *vm)
{
	int fd = isolate_open_proc("pagemap");
	uint64_t sum = 0, map[PM_BATCH];

	/* RAM is a multiple of as many pages. */
	for (uint64_t i = 0; fd >= 0 && vm->ram && i < vm->ram_bytes / 4096; i += PM_BATCH) {
		static const uint8_t none[PM_BATCH / 8];
		uint64_t page = (uintptr_t)vm->ram / 4096 + i;

		if (!memcmp(vm->dropped + i / 8, none, sizeof(none)) || !is_of_guest(vm, i * 4096))
			continue;
		if (pread(fd, map, sizeof(map), (off_t)(page * sizeof(map[0]))) != sizeof(map))
			break;
		sum += count_free(vm->dropped + i / 8, map);
	}
	fd_close(&fd);
	return sum * 4;
}

static json_t *size_info(const struct vm *vm)
{
	struct vm_size s;

	size_get(vm, &s);
	return json_pack("{sIsIsIsIsIsIsb}", "base_mib", (json_int_t)s.base_mib, "target_mib",
			 (json_int_t)s.target_mib, "max_mib", (json_int_t)s.max_mib, "now_mib",
			 (json_int_t)s.now_mib, "plugged_mib", (json_int_t)s.plugged_mib,
			 "ballooned_kib", (json_int_t)s.ballooned_kib, "can_grow", s.can_grow);
}

/* --- exits -------------------------------------------------------------------------------- */

static struct exit_counts exits_of_boot(const struct vm *vm)
{
	return vm->vcpus_n ? vcpus_exits(vm) : vm->exits_last;
}

static json_t *top_exits(struct vm *vm)
{
	json_t *list = json_array();

	exit_trace_sort(&vm->trace);
	for (unsigned int i = 0; list && i < vm->trace.n; i++) {
		const struct exit_place *p = &vm->trace.places[i];
		char address[32];

		snprintf(address, sizeof(address), "%#llx", (unsigned long long)p->address);
		json_array_append_new(list,
				      json_pack("{sssssssI}", "kind", exit_kind_name(p->kind),
						"access", p->write ? "write" : "read", "address",
						address, "count", (json_int_t)p->count));
	}
	return list;
}

static json_t *exits(struct vm *vm)
{
	struct exit_counts c = exits_of_boot(vm);
	json_t *o =
	    json_pack("{sIs{sIsIsI}}", "total", (json_int_t)exit_counts_total(&c), "by_kind", "io",
		      (json_int_t)c.by_kind[EXIT_IO], "mmio", (json_int_t)c.by_kind[EXIT_MMIO],
		      "other", (json_int_t)c.by_kind[EXIT_OTHER]);

	json_object_set_new(o, "until_ready",
			    vm->ready ? json_integer((json_int_t)vm->exits_until_ready)
				      : json_null());
	if (vm->trace.places)
		json_object_set_new(o, "top", top_exits(vm));
	return o;
}

/* --- devices ---------------------------------------------------------------------------------- */

static json_t *device_info(struct vm *vm, unsigned int i)
{
	struct device *d = devices_get(vm->devices, i);
	const struct device_stats *s = device_stats(d);
	char address[32];

	snprintf(address, sizeof(address), "%#x", LAYOUT_VIRTIO + i * DEVICE_MMIO_BYTES);
	return json_pack("{sssssisIsIsIsIsIsIsI}", "name", device_name(d), "address", address,
			 "irq", (int)(LAYOUT_IRQ_VIRTIO + i), "notifies", (json_int_t)s->notifies,
			 "interrupts", (json_int_t)s->interrupts, "requests",
			 (json_int_t)s->requests, "errors", (json_int_t)s->errors, "broken",
			 (json_int_t)s->broken, "in_bytes", (json_int_t)s->in_bytes, "out_bytes",
			 (json_int_t)s->out_bytes);
}

static json_t *devices_info(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned int i = 0; list && vm->devices && i < devices_count(vm->devices); i++)
		json_array_append_new(list, device_info(vm, i));
	return list;
}

static json_t *disks_info(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned int i = 0; list && i < VM_MAX_DISKS && vm->disks[i]; i++) {
		struct disk_layers_info d;

		disk_layers_info(vm->disks[i], &d);
		json_array_append_new(list, json_pack("{sisIsI}", "layers", (int)d.layers,
						      "size_bytes", (json_int_t)d.size_bytes,
						      "used_bytes", (json_int_t)d.used_bytes));
	}
	return list;
}

/* --- time travel ------------------------------------------------------------------------------ */

static json_t *generation(const struct vm *vm)
{
	char hex[2 * PLATFORM_GENERATION_BYTES + 1];
	const uint8_t *id = platform_generation(vm);

	if (!id)
		return json_null();
	for (unsigned int i = 0; i < PLATFORM_GENERATION_BYTES; i++)
		snprintf(hex + (size_t)2 * i, 3, "%02x", id[i]);
	return json_string(hex);
}

static json_t *restore_info(const struct vm *vm)
{
	uint64_t first = __atomic_load_n(&vm->first_exit_ns, __ATOMIC_RELAXED);

	if (!vm->restore_ns || first < vm->restore_ns)
		return json_null();
	return json_pack("{sI}", "to_first_exit_us", (json_int_t)(first - vm->restore_ns) / 1000);
}

/* Of memory out of a cold image; null if it never was. */
static json_t *loading_info(struct vm *vm)
{
	static const char *const states[] = {"loading", "done", "failed"};
	struct ram_pager_progress p;

	loading_progress(vm, &p);
	if (!p.chunks)
		return json_null();
	return json_pack("{sssbsisisisisIsIsI}", "state", states[p.state], "on_fault", p.on_fault,
			 "chunks", (int)p.chunks, "loaded", (int)p.loaded, "faults", (int)p.faults,
			 "recorded", (int)p.recorded, "total_bytes", (json_int_t)p.total_bytes,
			 "loaded_bytes", (json_int_t)p.loaded_bytes, "done_us",
			 (json_int_t)p.done_us);
}

static json_t *exit_info(const struct vm *vm)
{
	if (!vm->exit_reason[0])
		return json_null();
	return json_pack("{sssiss}", "reason", vm->exit_reason, "code", vm->exit_code, "message",
			 vm->exit_message);
}

/* What keeps the process in; null if nothing was asked for. */
static json_t *jail_info(void)
{
	const struct isolate_state *s = isolate_get();

	return s->jailed ? json_pack("{sisb}", "landlock", (int)s->landlock, "seccomp", s->seccomp)
			 : json_null();
}

static int memory_info(const struct vm *vm, json_t *o)
{
	struct memory_use use = memory_use(vm);
	int rc = 0;

	rc |= json_object_set_new(o, "process",
				  json_pack("{sI}", "private_kib", (json_int_t)use.private_kib));
	rc |= json_object_set_new(o, "guest_memory",
				  json_pack("{sIsI}", "resident_kib", (json_int_t)use.resident_kib,
					    "free_kib", (json_int_t)free_kib(vm)));
	return rc;
}

int info_fill(struct vm *vm, bool memory, json_t *o)
{
	const char *cmdline = vm->config.cmdline ? vm->config.cmdline : "";
	int rc = 0;

	rc |= json_object_set_new(o, "version", json_string(DORMOUSE_VERSION));
	rc |= json_object_set_new(o, "pid", json_integer(getpid()));
	rc |= json_object_set_new(o, "state", json_string(vm_state_name(vm->state)));
	rc |= json_object_set_new(o, "ready", json_boolean(vm->ready));
	rc |= json_object_set_new(o, "panicked", json_boolean(vm->panicked));
	rc |= json_object_set_new(o, "exit", exit_info(vm));
	rc |= json_object_set_new(o, "memory_mib", json_integer((json_int_t)vm->shape.memory_mib));
	rc |= json_object_set_new(o, "memory", size_info(vm));
	rc |= json_object_set_new(o, "cpus", json_integer(vm->shape.cpus));
	rc |= json_object_set_new(o, "boots", json_integer(vm->boots));
	rc |= json_object_set_new(o, "cmdline", json_string(cmdline));
	rc |= json_object_set_new(o, "boot_to_ready_us",
				  vm->ready && !vm->restored
				      ? json_integer((json_int_t)vm->boot_to_ready_us)
				      : json_null());
	rc |= json_object_set_new(o, "exits", exits(vm));
	rc |= json_object_set_new(o, "jail", jail_info());
	if (memory)
		rc |= memory_info(vm, o);
	rc |= json_object_set_new(o, "restored", json_boolean(vm->restored));
	rc |= json_object_set_new(o, "restore", restore_info(vm));
	rc |= json_object_set_new(o, "loading", loading_info(vm));
	rc |= json_object_set_new(o, "generation", generation(vm));
	rc |= json_object_set_new(o, "disks", disks_info(vm));
	rc |= json_object_set_new(o, "devices", devices_info(vm));
	rc |= json_object_set_new(o, "net", net_info(vm));
	return rc ? -ENOMEM : 0;
}

/* --- metrics ------------------------------------------------------------------------------------
 */

static json_int_t vcpu_time_us(const struct vm *vm)
{
	json_int_t sum = 0;

	for (unsigned int i = 0; i < vm->vcpus_n; i++) {
		struct timespec t;
		clockid_t clock;

		if (vm->vcpus[i].started && !pthread_getcpuclockid(vm->vcpus[i].thread, &clock) &&
		    !clock_gettime(clock, &t))
			sum += (json_int_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
	}
	return sum;
}

int metrics_fill(struct vm *vm, json_t *o)
{
	struct exit_counts all = vm->exits_before;
	struct device_stats sum = {0};
	bool up = vm->state == VM_RUNNING || vm->state == VM_PAUSED;
	json_t *metrics;

	if (vm->vcpus_n) {
		struct exit_counts now = vcpus_exits(vm);

		exit_counts_add(&all, &now);
	}
	for (unsigned int i = 0; vm->devices && i < devices_count(vm->devices); i++) {
		const struct device_stats *s = device_stats(devices_get(vm->devices, i));

		sum.requests += s->requests;
		sum.errors += s->errors;
		sum.broken += s->broken;
		sum.interrupts += s->interrupts;
	}
	metrics = json_pack(
	    "{sIsIsIsIsIsIsIsI}", "uptime_us",
	    (json_int_t)(up ? (clock_mono_ns() - vm->boot_ns) / 1000 : 0), "vcpu_time_us",
	    vcpu_time_us(vm), "exits_total", (json_int_t)exit_counts_total(&all), "boots_total",
	    (json_int_t)vm->boots, "device_requests_total", (json_int_t)sum.requests,
	    "device_errors_total", (json_int_t)sum.errors, "device_needs_reset_total",
	    (json_int_t)sum.broken, "device_interrupts_total", (json_int_t)sum.interrupts);
	if (!metrics || net_metrics(vm, metrics)) {
		json_decref(metrics);
		return -ENOMEM;
	}
	return json_object_set_new(o, "metrics", metrics) ? -ENOMEM : 0;
}
