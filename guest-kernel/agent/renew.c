/* SPDX-License-Identifier: Apache-2.0 */
/* A new identity for a restored guest; see renew.h. */
#include "guest-kernel/agent/renew.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/guest.h"
#include "guest-kernel/agent/net.h"
#include "lib/fd.h"
#include "lib/log.h"

#define DBUS_DIR "/var/lib/dbus"

int freeze_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		 struct err *e)
{
	int rc = freezer_freeze(&a->freezer, r->freeze_flags & PROTO_FREEZE_SYNC, e);

	if (!rc)
		put_result(p, id);
	return rc;
}

int thaw_serve(struct agent *a, struct peer *p, uint64_t id, struct err *e)
{
	int rc = freezer_thaw(&a->freezer, e);

	if (!rc)
		put_result(p, id);
	return rc;
}

static int set_clock(uint64_t realtime_ns, struct err *e)
{
	struct timespec t = {.tv_sec = (time_t)(realtime_ns / 1000000000ULL),
			     .tv_nsec = (long)(realtime_ns % 1000000000ULL)};

	return clock_settime(CLOCK_REALTIME, &t) < 0 ? err_sys(e, -errno, "clock") : 0;
}

/* The bytes count as random in full: the host took them from its own generator. */
static int add_entropy(const void *bytes, size_t len, struct err *e)
{
	_Alignas(
	    struct rand_pool_info) char space[sizeof(struct rand_pool_info) + PROTO_ENTROPY_MAX];
	struct rand_pool_info *info = (struct rand_pool_info *)space;
	cleanup_close int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	int rc = 0;

	info->entropy_count = (int)len * 8;
	info->buf_size = (int)len;
	memcpy(space + sizeof(*info), bytes, len);
	/* The pool alone would be used at the next reseed, up to a minute later. */
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		rc = err_sys(e, -errno, "entropy");
	explicit_bzero(space, sizeof(space));
	return rc;
}

/*
 * Readers see the old one or the new one. Not fsynced: a crash that brings the
 * old one back brings a cold boot, which comes with a new identity again.
 */
static int replace_machine_id(const char *dir, const char *machine_id, struct err *e)
{
	static const char next[] = ".machine-id.dormouse";
	cleanup_close int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int fd = -1;
	char line[PROTO_MACHINE_ID_LEN + 1];
	int rc = 0;

	memcpy(line, machine_id, PROTO_MACHINE_ID_LEN);
	line[PROTO_MACHINE_ID_LEN] = '\n';
	if (dir_fd < 0)
		return err_sys(e, -errno, "machine id: %s", dir);
	unlinkat(dir_fd, next, 0);
	fd = openat(dir_fd, next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (fd < 0)
		return err_sys(e, -errno, "machine id: %s/%s", dir, next);
	rc = fd_write_full(fd, line, sizeof(line));
	if (!rc && renameat(dir_fd, next, dir_fd, "machine-id") < 0)
		rc = -errno;
	if (rc) {
		unlinkat(dir_fd, next, 0);
		err_sys(e, rc, "machine id: %s/machine-id", dir);
	}
	return rc;
}

static int set_machine_id(const struct agent *a, const char *machine_id, struct err *e)
{
	struct stat st;
	int rc;

	if (a->test && !strcmp(a->etc, "/etc"))
		return 0;
	rc = replace_machine_id(a->etc, machine_id, e);
	/* Where it is no link to the one in /etc but a copy. */
	if (!rc && !a->test && !lstat(DBUS_DIR "/machine-id", &st) && S_ISREG(st.st_mode))
		rc = replace_machine_id(DBUS_DIR, machine_id, e);
	return rc;
}

static int set_hostname(const char *name, struct err *e)
{
	return sethostname(name, strlen(name)) < 0 ? err_sys(e, -errno, "host name") : 0;
}

static void put_failure(struct peer *p, const struct err *e)
{
	log_warn("renew: %s", e->msg);
	proto_put_tlv_str(&p->out, PROTO_TAG_FAILURE, 0, e->msg);
}

bool agent_enter_generation(struct agent *a, const uint8_t generation[PROTO_GENERATION_LEN])
{
	bool is_new;

	pthread_mutex_lock(&a->lock);
	is_new =
	    !a->has_generation || memcmp(a->generation, generation, sizeof(a->generation)) != 0;
	a->has_generation = true;
	memcpy(a->generation, generation, sizeof(a->generation));
	pthread_mutex_unlock(&a->lock);
	return is_new;
}

int renew_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r)
{
	struct err e;

	proto_begin(&p->out, PROTO_RESULT, id);
	proto_put_tlv(&p->out, PROTO_TAG_GENERATION, 0, r->generation, r->generation_len);
	/* The clock first: its value grows old. */
	if (!a->test && set_clock(r->realtime_ns, &e))
		put_failure(p, &e);
	if (!a->test && add_entropy(r->entropy, r->entropy_len, &e))
		put_failure(p, &e);
	if (!a->test && r->hostname && set_hostname(r->hostname, &e))
		put_failure(p, &e);
	/* A server that was started again repeats what the last one may have said: those are ours.
	 */
	if (agent_enter_generation(a, r->generation) && !a->test)
		net_forget_connections();
	if (r->machine_id && set_machine_id(a, r->machine_id, &e))
		put_failure(p, &e);
	if (!a->test && (r->renew_flags & PROTO_RENEW_GROW_ROOT) &&
	    guest_grow_root(r->root_bytes, &e))
		put_failure(p, &e);
	if (freezer_thaw(&a->freezer, &e))
		put_failure(p, &e);
	return proto_end(&p->out);
}
