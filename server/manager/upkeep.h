/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work on the store that nobody waits for: long chains of layers get shorter, memory images that
 * are not used get smaller.
 *
 * Theory of operation
 * -------------------
 * One pass at a time, on a thread of its own; dormouse-img and dormouse-ram do the work, with
 * the lowest priority. Everything is so that a crash between two steps leaves what works.
 *
 * Layers: a run of sealed ones becomes one file in the place of the newest of them (renamed into
 * it), which says in its header that those beneath it, down to its parent, are part of it. So
 * chains that name them all are right before and after. Rows forget the others then, and gc_run()
 * removes them. But a VMM that has opened the old file goes on to read the others: so the row of a
 * sandbox that runs keeps what its VMM was told.
 *
 * Images: `ram` is the raw form, `ram.cold` the packed one, and the row's `cold` says which of
 * them is the image. The other one, if it is there, is removed when nobody has the image pinned.
 * When a packed one is used it is unpacked again. The time of the last use is that of the file.
 */
#ifndef SERVER_MANAGER_UPKEEP_H
#define SERVER_MANAGER_UPKEEP_H

#include "server/manager/manager.h"

int upkeep_init(struct manager *m, struct err *e);
void upkeep_fini(struct manager *m);
/* Once a second. */
void upkeep_tick(struct manager *m);
/* A pass soon, in the background. */
void upkeep_kick(struct manager *m);
/* A memory image is about to be used. */
void upkeep_image_used(struct manager *m, const struct checkpoint_row *row);
/* For GET /store: what was done since the start. A new reference, or NULL. */
json_t *upkeep_report(struct manager *m);

#endif
