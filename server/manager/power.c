/* SPDX-License-Identifier: Apache-2.0 */
/* Reboot and power cycle: another boot from the same disk, api.md 3.8. */
#include <errno.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/internal.h"

/* What files hold is to be found after the boot. A guest that does not answer is why some do this.
 */
static void settle_guest(struct sandbox *s)
{
	struct err e;

	if (guest_freeze(s, true, &e))
		log_warn("sandbox %s: restarting it without a sync: %s", s->id, e.msg);
}

static int reboot(struct sandbox *s, struct err *e)
{
	int rc;

	settle_guest(s);
	rc = vm_reset(s, e);
	if (!rc)
		return sandbox_finish_boot(s, e);
	guest_thaw(s, NULL); /* it goes on; without an agent there is nothing to thaw */
	return rc;
}

int sandbox_boot_anew(struct sandbox *s, struct err *e)
{
	struct vm_disk disk;
	int rc = vm_disk_of_row(&disk, s, e);

	vm_end(s);
	if (!rc) {
		rc = vm_spawn(s, s->row.base_image, e);
		if (!rc)
			rc = vm_boot(s, &disk, e);
		vm_disk_fini(&disk);
	}
	if (!rc)
		rc = sandbox_finish_boot(s, e);
	if (!rc)
		rc = sandbox_go_live(s, e);
	if (!rc)
		return 0;
	vm_end(s);
	manager_unreserve(s->m);
	sandbox_set_failed(s, e->msg);
	return rc;
}

static int power_cycle(struct sandbox *s, struct err *e)
{
	/* A checkpoint that is being written would be lost with the process. */
	vm_checkpoints_settle(s);
	settle_guest(s);
	return sandbox_boot_anew(s, e);
}

static int restart(struct manager *m, const char *id, int (*how)(struct sandbox *s, struct err *e),
		   const char *what, struct err *e)
{
	uint64_t start_ms = clock_mono_ms();
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lifecycle);
	rc = sandbox_check_running(s, e);
	if (!rc)
		rc = sandbox_change_begin(s, CHANGE_PATIENCE_MS, e);
	if (!rc) {
		rc = how(s, e);
		sandbox_change_end(s);
		if (rc)
			rc = err_wrap(e, lifecycle_errno(rc), "%s of sandbox %s", what, id);
	}
	pthread_mutex_unlock(&s->lifecycle);
	sandbox_touch(s);
	if (!rc)
		log_info("sandbox %s: %s, %llu ms", id, what,
			 (unsigned long long)(clock_mono_ms() - start_ms));
	sandbox_put(s);
	return rc;
}

int sandbox_reboot(struct manager *m, const char *id, struct err *e)
{
	return restart(m, id, reboot, "reboot", e);
}

int sandbox_power_cycle(struct manager *m, const char *id, struct err *e)
{
	return restart(m, id, power_cycle, "power cycle", e);
}
