/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtual machine: everything that one dormouse-vmm process is about.
 *
 * Theory of operation
 * -------------------
 * Threads: the main thread runs the loop (controllers, devices, requests of the
 * guest); each vCPU has a thread. One lock, vm->lock, which is the loop's, guards all of
 * struct vm and every device: handlers of the loop run under it, vCPU threads take it for
 * each access that exits to user space. Functions below are called with the lock held
 * unless they say otherwise.
 *
 * Life: vm_init -> [machine_configure -> machine_boot -> ... -> machine_end] * n -> vm_fini,
 * or machine_restore in place of the first two, with or without machine_prepare before it.
 * What a machine is made of comes in three layers (make.c):
 *	shape	memory range, registers and devices without what is behind them
 *	files	disks, the vsock socket, the console: what makes it this machine and no other
 *	KVM	VM, memory slots, interrupt controller, vCPUs, threads, bindings of the devices
 * machine_configure makes shape and files, machine_boot KVM. machine_prepare makes shape
 * and KVM, a shell; machine_restore gives it files and a saved state (restore.c).
 * Within KVM: memory slots first, then the interrupt controller, then vCPUs (with an irqchip
 * before them, slots wait ~7 ms for a grace period).
 * A reset destroys the KVM objects and makes them anew over the same memory and devices: the
 * one way to have every register of the machine at its power-on value.
 *
 * The address of guest memory never changes, so memory slots live as long as the KVM objects:
 * memory of an image is mapped over what is there (memory.c).
 *
 * Stopping vCPUs: set `hold`, kick each thread (immediate_exit and a signal), wait until all
 * are parked. A kicked KVM_RUN first completes the access that its last exit was about, so a parked
 * vCPU has no access half done. Parking has a lock of its own: a vCPU that is released goes on at
 * once, while the operation that released it still has vm->lock.
 *
 * A vCPU thread cannot stop the machine itself: it posts a request (vm_post_request),
 * parks, and the main thread does the rest.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/device.h"
#include "devices/guest_mem.h"
#include "devices/serial.h"
#include "lib/err.h"
#include "lib/loop.h"
#include "snapshot/ram_image.h"
#include "snapshot/ram_pager.h"
#include "vmm/elf.h"
#include "vmm/exits.h"
#include "vmm/ioapic.h"

#define VM_MAX_CPUS	 4
#define VM_MAX_DISKS	 4
#define VM_MAX_LAYERS	 512 /* of a disk */
#define VM_CMDLINE_BYTES 2048
#define VM_READY_PORT	 1025 /* the guest knocks here when its agent listens */

#define VM_MEMORY_MIN_MIB  64
#define VM_MEMORY_MAX_MIB  65536
#define VM_MEMORY_STEP_MIB 2
#define VM_MEMORY_SPAN	   ((uint64_t)VM_MEMORY_MAX_MIB << 20)

struct disk;
struct control;

struct vm_disk_config {
	char *path, *overlay; /* owned; overlay NULL: read-only */
	char **layers;	      /* owned; immutable ones between the two, oldest first */
	unsigned int layers_n;
	uint64_t size_mib; /* 0: as large as the file */
	bool read_only;
};

/* The network device. */
struct vm_net_config {
	bool present;
	enum net_backend backend;
	uint8_t mac[NET_MAC_BYTES];
};

/* What is to be booted. Owned strings; vm_config_fini() frees them. */
struct vm_config {
	char *kernel;
	char *cmdline; /* complete */
	uint64_t memory_mib;
	unsigned int cpus;
	struct vm_disk_config disks[VM_MAX_DISKS];
	unsigned int disks_n;
	char *vsock_path; /* NULL: no vsock device */
	uint32_t vsock_cid;
	struct vm_net_config net;
	char *tap;     /* of "run": the tap device to attach; NULL: none */
	char *console; /* NULL: dropped; "-": stdout */
	bool host_cpu; /* the guest sees all features of this CPU, not the baseline (cpuid.h) */
	bool trace_exits;
};

/* What the KVM objects of a machine depend on; they can be made before the rest is known. */
struct vm_shape {
	unsigned int cpus, disks;
	uint64_t memory_mib;
	bool vsock;
	struct vm_net_config net;
};

/* The files through which the host meets a machine: they can be made with the shell. Owned strings.
 */
struct vm_ends {
	char *console;	  /* NULL: not open */
	char *vsock_path; /* NULL: nobody listens */
	uint32_t vsock_cid;
};

/* Where a saved machine is: docs/snapshot-format.md. Owned strings. */
struct vm_saved {
	char *state, *ram;
	bool cold; /* format of ram */
};

/* What a checkpoint is to write, and where. Owned strings, NULL: not. */
struct vm_checkpoint_config {
	char *name; /* of the event */
	char *state, *ram;
	char *parent_ram;	      /* NULL: the image that RAM was restored from */
	char *overlays[VM_MAX_DISKS]; /* new writable layers */
	unsigned int overlays_n;
	bool resume;
};

enum vm_state { VM_NEW, VM_CONFIGURED, VM_SHELL, VM_RUNNING, VM_PAUSED, VM_EXITED };

enum vm_request_kind {
	VM_REQUEST_NONE,
	VM_REQUEST_RESET,	 /* the guest asked for it */
	VM_REQUEST_TRIPLE_FAULT, /* a reset too, by accident or on purpose */
	VM_REQUEST_POWEROFF,
	VM_REQUEST_PLUG,  /* the plug is to be pulled: a controller, or a signal */
	VM_REQUEST_FATAL, /* KVM cannot go on */
};

enum vm_exit_code { VM_EXIT_OK = 0, VM_EXIT_USAGE = 1, VM_EXIT_PANIC = 2, VM_EXIT_FATAL = 3 };

struct vm;

struct vcpu {
	struct vm *vm; /* borrowed */
	unsigned int index;
	int fd;
	struct kvm_run *run; /* mapped, run_bytes */
	size_t run_bytes;
	pthread_t thread;
	bool started; /* thread exists */
	bool parked;  /* is not in KVM_RUN and will not enter it */
	bool ran;     /* the guest was entered: KVM takes no other CPUID any more */
	bool loaded;  /* a state was: its registers are no longer those of a reset */
	bool lost;    /* in the middle of an access that must not be completed */
	struct exit_counts exits;
	struct kvm_cpuid2 *cpuid; /* owned: that it has */
	uint32_t tsc_khz;	  /* 0: not known */
	uint64_t held_tsc;	  /* while vm->time_held */
	uint32_t held_tsc_khz;
	uint64_t
	    held_deadline; /* of a restored machine: the TSC at which its timer fires; 0: none */
};

struct vm {
	pthread_mutex_t lock; /* the device lock */
	struct loop loop;
	/* Guards hold, stopping, request, parked of vCPUs; taken alone, or within lock. */
	pthread_mutex_t park_lock;
	pthread_cond_t parked; /* a vCPU has parked, or may go on */

	enum vm_state state;
	struct vm_config config;
	struct elf_image kernel;
	int kernel_fd;

	/* Memory: one reserved range. */
	struct vm_shape shape;
	struct vm_ends ends; /* that are there already */
	struct guest_mem mem;
	void *ram;	     /* owned mapping of ram_bytes; NULL when there is none */
	uint64_t ram_bytes;  /* base_bytes, and what of more_region is memory now */
	uint64_t base_bytes; /* what the machine boots with */
	uint64_t more_gpa, more_region;
	unsigned int more_slots; /* of KVM, for the first more_slots_bytes of the region */
	uint64_t more_slots_bytes;
	uint8_t *dropped; /* owned; a bit for each page: guest_mem_note_drops() */
	/* What the guest is to have; 0: as booted. See size.c. */
	uint64_t target_mib;
	bool balloon_rest; /* what cannot be unplugged goes into the balloon */

	bool ram_vacant; /* nothing is mapped there yet, and nothing may touch it */
	bool ram_aside;	 /* the pages of before a rollback are behind it, aside_bytes of them */
	uint64_t aside_bytes;
	bool dropping; /* dropper exists: it frees them */
	pthread_t dropper;
	struct ram_image image;	 /* that ram is a private mapping of; closed: ram is anonymous */
	struct loading *loading; /* owned: ram comes out of a cold image now */
	struct ram_pager_progress loaded; /* as it was last looked at; no chunks: never */

	/* KVM objects; -1 and NULL between boots. */
	int kvm_fd, vm_fd;
	struct kvm_cpuid2 *cpuid; /* owned: what KVM supports; of kvm_arch_cpuid() */
	pthread_t asker;	  /* while asking: fills in cpuid and cpuid_rc */
	bool asking;
	int cpuid_rc;
	struct msr_list *msrs; /* owned: those of our vCPUs; NULL: not known yet */
	size_t run_bytes;
	struct vcpu vcpus[VM_MAX_CPUS];
	unsigned int vcpus_n;
	bool irqs_bound; /* kvm_bind_irqs() */
	bool hold;	 /* vCPUs are to park */
	bool stopping;	 /* vCPU threads are to end */

	/* State (vm_state.h). */
	bool restored;	/* this machine goes on from a saved one */
	bool unresumed; /* it was restored, and did not go on yet */
	bool time_held; /* since the first save of this pause, or a restore */
	uint64_t held_clock_ns;
	uint8_t ram_id[RAM_IMAGE_ID_BYTES]; /* of the memory image that belongs to the state */
	bool stale_cpuid;		    /* a restore needs vCPUs that have not run */
	struct checkpoint *checkpoint;	    /* owned: that is being written */

	/* Devices. */
	struct disk *disks[VM_MAX_DISKS]; /* owned */
	struct devices *devices;	  /* owned */
	struct ioapic ioapic;
	uint8_t *platform_pages; /* owned mapping, LAYOUT_PLATFORM_BYTES: read without exits */
	struct serial serial;
	struct console *console; /* owned */

	/* What the guest asked for. */
	enum vm_request_kind request;
	char request_message[160];
	int request_fd;
	struct loop_source request_source;

	/* What is reported. */
	bool ready, panicked;
	unsigned int boots;
	unsigned int failed_boots; /* in a row, that ended by accident before they were ready */
	uint64_t boot_ns;	   /* when the boot or reset began */
	uint64_t boot_to_ready_us;
	uint64_t request_ns;	/* when the controller's request that is carried out came */
	int *request_passed_fd; /* borrowed: the descriptor that came with it; -1: none */
	uint64_t restore_ns;	/* when the last restore or rollback was asked for; 0: none */
	uint64_t first_exit_ns; /* of vCPU 0 after it; 0: not yet */
	uint64_t exits_until_ready;
	struct exit_counts exits_before; /* of all boots that are over */
	struct exit_counts exits_last;	 /* of the last of them */
	struct exit_trace trace;
	char exit_reason[16], exit_message[256];
	int exit_code;

	bool stay, run_mode;	 /* of main(): go on after an end; foreground run */
	struct control *control; /* borrowed; NULL: nobody to tell */
};

/* --- main.c's ---------------------------------------------------------------- */

int vm_init(struct vm *vm, struct err *e);
void vm_fini(struct vm *vm);
const char *vm_state_name(enum vm_state s);

/* --- config.c ------------------------------------------------------------------- */

void vm_config_init(struct vm_config *c);
void vm_config_fini(struct vm_config *c);
void vm_saved_fini(struct vm_saved *s);
void vm_checkpoint_config_fini(struct vm_checkpoint_config *c);

/* --- machine.c: the operations -------------------------------------------------- */

/**
 * machine_configure() - Set what is to be booted, and check all of it
 * @c:	Taken over, also on failure
 *
 * Return: 0 or -errno; then the state is VM_NEW and the machine can be configured again.
 *	   -EBUSY while one runs
 */
int machine_configure(struct vm *vm, struct vm_config *c, struct err *e);
int machine_boot(struct vm *vm, struct err *e);

/**
 * machine_prepare() - Make a shell: everything that does not depend on which machine it will be
 * @ends:	Those that it will have, if they are known. Borrowed. Making files is a good part of
 *the time of a restore
 *
 * Return: 0 or -errno; then the state is VM_NEW. -EBUSY while a machine runs, -EINVAL in a state
 *	   other than VM_NEW and VM_EXITED
 */
int machine_prepare(struct vm *vm, const struct vm_shape *shape, const struct vm_ends *ends,
		    struct err *e);

/**
 * machine_restore() - Become a saved machine
 * @c:		Taken over, also on failure
 * @resume:	Let it run; else it is paused
 *
 * A shell of the same shape is used, -EINVAL for one of another. Without a shell everything is made
 * on the spot.
 *
 * Return: 0 or -errno; then the state is VM_NEW
 */
int machine_restore(struct vm *vm, struct vm_config *c, const struct vm_saved *saved, bool resume,
		    struct err *e);

/**
 * machine_rollback() - Let a machine that runs go on from a saved state
 * @c:	Its disks are taken over, also on failure; the rest is not looked at
 *
 * Return: 0 or -errno. Then the machine is as before; or, if it could not be kept, it has ended
 */
int machine_rollback(struct vm *vm, struct vm_config *c, const struct vm_saved *saved,
		     struct err *e);

/**
 * machine_checkpoint() - Save a running or paused machine, and let it run on
 * @c:		Only borrowed
 * @pause_us:	Set to how long the guest stood still
 *
 * What takes time is done afterwards; a `checkpoint` event tells of its end.
 *
 * Return: 0; -EBUSY while another is being written; or -errno, then the machine is as before, but
 *	   some disks may be on their new layers already
 */
int machine_checkpoint(struct vm *vm, const struct vm_checkpoint_config *c, uint64_t *pause_us,
		       struct err *e);

int machine_pause(struct vm *vm, struct err *e);
int machine_resume(struct vm *vm, struct err *e);
/* A failure in the middle ends the machine. @reason: for the event. */
int machine_reset(struct vm *vm, const char *reason, struct err *e);

/**
 * machine_end() - Pull the plug: everything of the machine is released
 * @reason:	"shutdown", "request" or "error"
 *
 * Controllers get the `exit` event; then the loop stops, unless vm->stay. In any state;
 * without a machine only the loop stops.
 */
void machine_end(struct vm *vm, const char *reason, int code, const char *message);

/* The agent in the guest answers from now on. */
void machine_ready(struct vm *vm);
/* The guest kernel says that it has panicked. */
void machine_panicked(struct vm *vm);

/**
 * vm_post_request() - A vCPU thread wants the machine to reset or to end
 *
 * The first request counts, but VM_REQUEST_PLUG always does. The caller leaves KVM_RUN alone from
 * then on.
 */
void vm_post_request(struct vm *vm, enum vm_request_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* --- make.c: what a machine is made of -------------------------------------------- */

struct vm_shape vm_shape_of(const struct vm_config *c);
/* Memory, registers, devices without disks and clients. There is nothing of a machine yet. */
int make_shape(struct vm *vm, const struct vm_shape *shape, struct err *e);
/* Open what is not open yet; -EINVAL if something else is. */
int make_ends(struct vm *vm, const struct vm_ends *want, struct err *e);
void vm_ends_fini(struct vm_ends *ends);
/* What vm->config says of console, disks and vsock. @later: as for make_disks() */
int make_files(struct vm *vm, bool later, struct err *e);
/*
 * Open the disks of @c into @disks. After a failure none is open. @later: writable layers may be
 * left to make_disks_finish()
 */
int make_disks(struct vm *vm, const struct vm_config *c, bool later,
	       struct disk *disks[VM_MAX_DISKS], struct err *e);
/* Before the device lock is released. */
int make_disks_finish(struct vm *vm, struct err *e);
void make_use_disks(struct vm *vm);
/* KVM objects and vCPU threads, which do not enter the guest before vcpus_release(). */
int make_kvm(struct vm *vm, struct err *e);
/* Threads and KVM objects go; what the exits were is kept. */
void unmake_kvm(struct vm *vm);
/* Everything goes, whatever of it there is. */
void unmake(struct vm *vm);
/* As unmake(), and the counters of the machine's life; the state is VM_NEW. */
void machine_forget(struct vm *vm);
/* The kernel of vm->config: vm->kernel_fd and vm->kernel. */
int make_kernel(struct vm *vm, struct err *e);

/* --- checkpoint.c ------------------------------------------------------------------ */

/* The machine ends: what is being written is given up, and the event says so. */
void checkpoint_abort(struct vm *vm, const char *why);

/* --- net.c ------------------------------------------------------------------------- */

/* What a device is made of. */
void net_device_config(struct vm *vm, struct device_config *c);
/* Make the tap device of vm->config and attach it. Return: 0 or -errno */
int net_open_tap(struct vm *vm, struct err *e);

/* --- memory.c ---------------------------------------------------------------------- */

/* Choose where RAM will be. Nothing is mapped before memory_clear() or memory_map_image(). */
int memory_create(struct vm *vm, struct err *e);
/* All RAM reads zero, again or for the first time. No vCPU may run. */
int memory_clear(struct vm *vm, struct err *e);
/**
 * memory_map_image() - RAM has the content of an image again, or for the first time
 * @img:	Of vm->ram_bytes; taken over, also on failure
 *
 * Under live memory slots; no vCPU runs, no device works. What RAM had before is freed by
 * memory_drop_aside(), which the caller calls when the machine runs.
 *
 * Return: 0, or -errno: RAM is as before, unless the message says otherwise
 */
int memory_map_image(struct vm *vm, struct ram_image *img, struct err *e);
/* Free in the background what a rollback has left, if anything. */
void memory_drop_aside(struct vm *vm);
/* All of that is free. */
void memory_drop_wait(struct vm *vm);
void memory_destroy(struct vm *vm);

/**
 * memory_resize() - RAM is @more_bytes longer than what the machine boots with
 *
 * What is added reads zero. What is taken away may not be in use: only for machines that are about
 * to be restored. Return: 0, or -errno: nothing has changed
 */
int memory_resize(struct vm *vm, uint64_t more_bytes, struct err *e);
/* The size that an image of @image_bytes makes RAM have. -EINVAL: it is not of this machine */
int memory_fit(const struct vm *vm, uint64_t image_bytes);

/* --- size.c: how much memory the guest has ------------------------------------------- */

/**
 * machine_resize() - The guest is to have @target_mib of memory, with what it was booted with
 * @rest:	What the guest does not unplug goes into the balloon
 *
 * More is plugged, less is unplugged or goes into the balloon: both are done by the guest's
 * drivers, in their own time; size_get() says how far they are.
 *
 * Return: 0; -EINVAL more than the machine can have; -ENOTSUP the guest has no driver for it
 */
int machine_resize(struct vm *vm, uint64_t target_mib, bool rest, struct err *e);

struct vm_size {
	uint64_t base_mib, target_mib, max_mib;
	uint64_t plugged_mib, ballooned_kib;
	uint64_t now_mib; /* what the guest has at the moment */
	bool can_grow;	  /* its driver is there */
};
void size_get(const struct vm *vm, struct vm_size *out);
/* The guest has plugged or unplugged, or boots again. */
void size_changed(struct vm *vm);

/* --- loading.c: memory out of a cold image ------------------------------------------- */

/**
 * loading_start() - RAM is to have the content of a cold image, which is loaded when it is touched
 * @img:	Of vm->ram_bytes; taken over, also on failure
 *
 * As memory_map_image(), but after a failure RAM is undefined. If a part of the image turns
 * out to be damaged, the machine ends, with the reason.
 */
int loading_start(struct vm *vm, struct cold_image *img, struct err *e);
/* No vCPU waits for memory. What is not loaded reads as zero. Idempotent. */
void loading_stop(struct vm *vm);
/* Load everything now. Return: 0 or -EIO */
int loading_finish(struct vm *vm, struct err *e);
/* @e: set to why, if it has */
bool loading_failed(struct vm *vm, struct err *e);
void loading_progress(struct vm *vm, struct ram_pager_progress *out);

/* --- kvm.c, kvm_x86.c: the VM's KVM objects ------------------------------------------ */

/* Open /dev/kvm and check what it can do. Once per process. */
int kvm_open(struct vm *vm, struct err *e);
/* VM, memory slots, interrupt controller, vCPUs, notifications of devices. All or nothing. */
int kvm_create(struct vm *vm, struct err *e);
/**
 * kvm_bind_irqs() - Let interrupts of devices reach the guest
 *
 * For a machine that is restored this comes when it runs already: it waits for a grace period of
 * KVM's, for as long as all of the vCPUs' state takes. What devices raise until then arrives then.
 */
int kvm_bind_irqs(struct vm *vm, struct err *e);
/* Memory slots for what of more_region is memory: also of a VM that runs. */
int kvm_more_slots(struct vm *vm, struct err *e);
/* No vCPU thread may exist. Idempotent. */
void kvm_destroy(struct vm *vm);

/* Architecture: before and after the memory slots; per vCPU. */
int kvm_arch_check(struct vm *vm, struct err *e);
/* What KVM supports, from kvm_arch_check(); waits for the answer. @out: lives as long as @vm. */
int kvm_arch_cpuid(struct vm *vm, const struct kvm_cpuid2 **out, struct err *e);
int kvm_arch_create_irqchip(struct vm *vm, struct err *e);
int kvm_arch_vcpu_init(struct vcpu *v, struct err *e);
/* Set v->cpuid, and make it what KVM has made of it. */
int kvm_arch_set_cpuid(struct vcpu *v);
/* The first vCPU is where a kernel expects it, which lies in memory. */
int kvm_arch_boot_state(struct vm *vm, struct err *e);
/* Does nothing before kvm_bind_irqs(), which does it. */
void kvm_arch_update_routes(struct vm *vm);
/* Raise @pin at once, whether interrupts are bound or not. */
void kvm_arch_interrupt(struct vm *vm, uint32_t pin);

/* --- vcpu.c: threads ------------------------------------------------------------------- */

/* Start all threads; they wait for vcpus_release(). */
int vcpus_start(struct vm *vm, struct err *e);
/* Park all vCPUs and wait until they are. Releases the lock while it waits. */
void vcpus_hold(struct vm *vm);
void vcpus_release(struct vm *vm);
/* End all threads. Releases the lock while it waits. */
void vcpus_stop(struct vm *vm);
/**
 * vcpus_doom() - No vCPU executes another instruction: the machine is to end
 *
 * For a thread that has none of the locks, and waits for nobody; what is to be said of it comes
 * through the loop.
 */
void vcpus_doom(struct vm *vm);
/* Sum over all vCPUs since the last boot. */
struct exit_counts vcpus_exits(const struct vm *vm);
/* One exit of KVM_RUN is handled by the architecture's file. Takes the lock itself where it must.
 */
void vcpu_handle_exit(struct vcpu *v);

/* --- platform_x86.c: everything that is not virtio ----------------------------------------- */

int platform_create(struct vm *vm, struct err *e);
void platform_reset(struct vm *vm);
void platform_state(struct vm *vm, struct state_io *io);
/* Its present id, PLATFORM_GENERATION_BYTES of it; NULL without a machine. */
#define PLATFORM_GENERATION_BYTES 16
const uint8_t *platform_generation(const struct vm *vm);
/* The guest is to notice that it is a copy: another generation id, and its interrupt. */
void platform_new_generation(struct vm *vm);
void platform_destroy(struct vm *vm);
void platform_io(struct vm *vm, uint16_t port, bool write, uint8_t *data, unsigned int len_bytes);
void platform_mmio(struct vm *vm, uint64_t gpa, bool write, uint8_t *data, unsigned int len_bytes);

#endif
