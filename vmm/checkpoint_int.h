/* SPDX-License-Identifier: Apache-2.0 */
/* A checkpoint that is being written: what its two processes share. */
#ifndef VMM_CHECKPOINT_INT_H
#define VMM_CHECKPOINT_INT_H

#include "lib/state.h"
#include "snapshot/ram_image.h"
#include "vmm/vm.h"

/* Memory of both processes: what the child says at its end. */
struct checkpoint_result {
	int rc;		  /* 0 or -errno */
	const char *what; /* it was doing when that happened; a literal */
	uint64_t stored_bytes;
	bool done; /* it came to its end; else it was killed */
};

struct checkpoint {
	struct vm *vm; /* borrowed */
	char *name;    /* owned, as all below */

	/* The child's work; has_ram is false for disks alone. */
	bool has_ram;
	struct ram_image_writer ram;
	uint8_t ram_id[RAM_IMAGE_ID_BYTES];
	struct ram_image parent; /* that the controller named; else closed */
	bool knows_parent;	 /* RAM is a mapping of the parent */
	int state_fd, state_dir_fd;
	char *state_path;
	struct state_io state;
	int pagemap_fd;			  /* the child's own */
	uint64_t pagemap[512];		  /* entries of the pages of a chunk */
	struct checkpoint_result *result; /* shared mapping */

	/* The parent's. */
	int pidfd;
	struct loop_source source;
	unsigned int
	    pending; /* parts that have not ended: the child, and each disk that is sealed */
	/* Of each disk that goes on in a new layer. */
	struct checkpoint_seal {
		struct checkpoint *checkpoint;
		unsigned int disk;
	} seals[VM_MAX_DISKS];
	bool refused;	/* the request has failed, and its answer says it: no event */
	struct err err; /* the first failure */
	uint64_t disk_bytes;
};

/* The child: writes state and RAM, makes them durable, and ends the process. System calls only. */
_Noreturn void checkpoint_child(struct checkpoint *c, pid_t parent);

#endif
