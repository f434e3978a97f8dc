/* SPDX-License-Identifier: Apache-2.0 */
/* Setting a guest up; see guest.h. */
#include "guest-kernel/agent/guest.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"

#define CGROUP_PATH CGROUP_ROOT "/sandbox"
/*
 * A public look-up expects 128, which is no limit to work under: it counts
 * threads, and one Node.js process has a dozen. This one stops a fork bomb and
 * nothing else.
 */
#define CGROUP_PIDS 4096

#ifndef EXT4_IOC_RESIZE_FS
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)
#endif

struct mount_entry {
	const char *source, *target, *type, *options;
	unsigned long flags;
	mode_t mode; /* of the folder, should it be missing */
};

static const struct mount_entry mounts[] = {
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555},
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555},
    {"devtmpfs", "/dev", "devtmpfs", "mode=0755", MS_NOSUID, 0755},
    {"devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC, 0755},
    {"tmpfs", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV, 01777},
    {"tmpfs", "/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV, 0755},
    {"cgroup2", "/sys/fs/cgroup", "cgroup2", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0},
};

static void mount_one(const struct mount_entry *m)
{
	for (int tries = 0; tries < 2; tries++) {
		if (!mount(m->source, m->target, m->type, m->flags, m->options) || errno == EBUSY)
			return; /* EBUSY: the kernel has mounted it already (devtmpfs) */
		if (errno != ENOENT || mkdir(m->target, m->mode) < 0)
			break;
	}
	log_warn("mount %s: %s", m->target, strerror(errno));
}

/* The names that a device manager would make. */
static void link_devices(void)
{
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
					       {"/proc/self/fd/0", "/dev/stdin"},
					       {"/proc/self/fd/1", "/dev/stdout"},
					       {"/proc/self/fd/2", "/dev/stderr"}};

	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			log_warn("symlink %s: %s", links[i][1], strerror(errno));
}

static void loopback_up(void)
{
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "lo"};

	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		log_warn("loopback: %s", strerror(errno));
}

void guest_setup(void)
{
	static const struct rlimit files = {1048576, 1048576};

	umask(022);
	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++)
		mount_one(&mounts[i]);
	link_devices();
	loopback_up();
	if (sethostname("sandbox", strlen("sandbox")) < 0)
		log_warn("host name: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("file limit: %s", strerror(errno));
}

int guest_listen(void)
{
	struct sockaddr_vm sa = {
	    .svm_family = AF_VSOCK, .svm_port = PROTO_AGENT_PORT, .svm_cid = VMADDR_CID_ANY};
	cleanup_close int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 1024) < 0)
		return -errno;
	return fd_steal(&fd);
}

void guest_knock(void)
{
	struct sockaddr_vm sa = {
	    .svm_family = AF_VSOCK, .svm_port = PROTO_KNOCK_PORT, .svm_cid = VMADDR_CID_HOST};
	cleanup_close int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* The host refuses it: having asked is all. */
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno != ECONNRESET &&
	    errno != ECONNREFUSED)
		log_warn("knock: %s", strerror(errno));
}

/* One folder, two names (api.md 18.6); a mount, so that `df /workspace` names it. */
void guest_bind_workspace(void)
{
	static const char home[] = "/home/sandbox", workspace[] = "/workspace";
	struct stat a, b;

	if (stat(home, &a) < 0)
		return;
	if (mkdir(workspace, 0755) < 0 && errno != EEXIST)
		log_warn("mkdir %s: %s", workspace, strerror(errno));
	/* After a restart of the server it is there already. */
	if (!stat(workspace, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
		return;
	if (mount(home, workspace, NULL, MS_BIND, NULL) < 0)
		log_warn("mount %s: %s", workspace, strerror(errno));
}

static void write_text(const char *path, const char *text)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		log_warn("write %s: %s", path, strerror(errno));
}

int guest_make_cgroup(void)
{
	char text[64];
	struct sysinfo si;
	int fd;

	write_text(CGROUP_ROOT "/cgroup.subtree_control", "+memory +pids +cpu");
	if (mkdir(CGROUP_PATH, 0755) < 0 && errno != EEXIST) {
		log_warn("cgroup: %s", strerror(errno));
		return -1;
	}
	snprintf(text, sizeof(text), "%d", CGROUP_PIDS);
	write_text(CGROUP_PATH "/pids.max", text);
	if (!sysinfo(&si)) {
		snprintf(text, sizeof(text), "%llu",
			 (unsigned long long)si.totalram * si.mem_unit / 10 * 9);
		write_text(CGROUP_PATH "/memory.max", text);
	}
	snprintf(text, sizeof(text), "%ld 100000", sysconf(_SC_NPROCESSORS_ONLN) * 100000);
	write_text(CGROUP_PATH "/cpu.max", text);
	fd = open(CGROUP_PATH, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd;
}

/* ---- growing the root file system ---- */

#define DISK_WAIT_MS 5000u

/* A file of /sys/dev/block/ about the disk that / is on; NULL if it is on none. */
static char *root_disk_text(const char *file)
{
	char path[64], *text = NULL;
	struct stat st;

	if (stat("/", &st) < 0)
		return NULL;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(st.st_dev), minor(st.st_dev),
		 file);
	return fd_read_file(AT_FDCWD, path, 4096, &text, NULL) ? NULL : text;
}

static uint64_t root_disk_bytes(void)
{
	cleanup_free char *text = root_disk_text("size");

	return text ? strtoull(text, NULL, 10) * 512 : 0;
}

static int open_root_disk(void)
{
	cleanup_free char *text = root_disk_text("uevent");
	char *name = text ? strstr(text, "DEVNAME=") : NULL;
	char path[64];

	if (!name)
		return -ENODEV;
	name += strlen("DEVNAME=");
	snprintf(path, sizeof(path), "/dev/%.*s", (int)strcspn(name, "\n"), name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/*
 * Size of the mounted file system by its superblock, which the kernel keeps up to
 * date in the very page that is read here: statfs() leaves the tables out. 0 if it is no ext4.
 */
static uint64_t root_fs_blocks(uint64_t *block_bytes)
{
	cleanup_close int fd = open_root_disk();
	struct {
		uint32_t inodes, blocks_lo, free[4], log_block_size, rest1[7];
		uint16_t magic, rest2[19];
		uint32_t incompat, rest3[59];
		uint32_t blocks_hi;
	} sb;

	static_assert(offsetof(typeof(sb), magic) == 0x38 &&
			  offsetof(typeof(sb), incompat) == 0x60 &&
			  offsetof(typeof(sb), blocks_hi) == 0x150 && sizeof(sb) <= 1024,
		      "layout on disk");
	if (fd < 0 || pread(fd, &sb, sizeof(sb), 1024) != sizeof(sb) || sb.magic != 0xef53 ||
	    sb.log_block_size > 6)
		return 0;
	*block_bytes = 1024ULL << sb.log_block_size;
	return sb.blocks_lo | (sb.incompat & 0x80 ? (uint64_t)sb.blocks_hi << 32 : 0);
}

static int grow_root_locked(uint64_t disk_bytes, struct err *e)
{
	cleanup_close int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t until_ms = clock_mono_ms() + DISK_WAIT_MS, bytes, blocks, has, block_bytes;

	while ((bytes = root_disk_bytes()) < disk_bytes && clock_mono_ms() < until_ms)
		poll(NULL, 0, 1);
	if (bytes < disk_bytes)
		return err_set(e, -ETIMEDOUT, "root disk has %llu bytes, not %llu",
			       (unsigned long long)bytes, (unsigned long long)disk_bytes);
	has = root_fs_blocks(&block_bytes);
	if (fd < 0 || !has)
		return 0;
	blocks = bytes / block_bytes;
	if (blocks <= has)
		return 0;
	/* The new part of the disk reads as zeros: no inode tables need to be written. */
	if (mount(NULL, "/", NULL, MS_REMOUNT, "noinit_itable") < 0 ||
	    ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0)
		return err_sys(e, -errno, "grow the root file system");
	return 0;
}

int guest_grow_root(uint64_t disk_bytes, struct err *e)
{
	/* One that begins while another is at it would be refused. */
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int rc;

	pthread_mutex_lock(&lock);
	rc = grow_root_locked(disk_bytes, e);
	pthread_mutex_unlock(&lock);
	return rc;
}
