/* SPDX-License-Identifier: Apache-2.0 */
/* The jail, from within: what a process can do that has been taken over by its guest. */
#include "vmm/isolate.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/seccomp.h"
#include "snapshot/ram_image.h"

static char dir[] = "/tmp/dormouse-isolate-XXXXXX";

static const char *at(const char *name)
{
	static char paths[8][64];
	static int next;
	char *p = paths[next++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static void put(const char *name)
{
	int fd = open(at(name), O_WRONLY | O_CREAT | O_EXCL, 0600);

	cr_assert(fd >= 0 && write(fd, "x", 1) == 1);
	close(fd);
}

static void set_up(void)
{
	cr_assert(mkdtemp(dir));
	cr_assert(!mkdir(at("in"), 0700) && !mkdir(at("out"), 0700) && !mkdir(at("ro"), 0700));
	put("in/file");
	put("out/file");
	put("ro/file");
	put("one");
	put("two");
}

static void tear_down(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	cr_assert(!system(command));
}

TestSuite(isolate, .init = set_up, .fini = tear_down);

/* In the child a failed check ends it with its line. */
#define must(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond,              \
				strerror(errno));                                                  \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static void enter(void)
{
	const struct isolate_path paths[] = {
	    {at("in"), true}, {at("ro"), false}, {at("one"), false}, {at("missing"), true}};
	struct err e;

	must(!isolate_start(-1, &e));
	must(!isolate_setup(paths, 4, &e));
	must(isolate_get()->jailed);
}

/* Run @inside in a process in a jail. Return: its wait status. */
static int jailed(void (*inside)(void))
{
	pid_t pid = fork();
	int status;

	cr_assert(pid >= 0);
	if (pid == 0) {
		enter();
		inside();
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

/* Return: 0 or -errno */
static int try_open(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* What a kernel without Landlock cannot do is not shown by passing. */
static void need_landlock(unsigned int version)
{
	long has = syscall(444, NULL, 0, 1);

	if (has < (long)version)
		cr_skip_test("Landlock of this kernel: %ld, needed: %u", has, version);
}

/* --- files ------------------------------------------------------------------------------- */

static void use_files(void)
{
	must(!try_open(at("in/file"), O_RDWR | O_TRUNC));
	must(!try_open(at("in/new"), O_RDWR | O_CREAT | O_EXCL));
	must(!try_open(at("in"), O_RDONLY | O_DIRECTORY));
	must(!rename(at("in/new"), at("in/newer")) && !unlink(at("in/newer")));
	must(!try_open(at("one"), O_RDONLY) && !try_open(at("ro/file"), O_RDONLY));

	must(try_open(at("out/file"), O_RDONLY) == -EACCES);
	must(try_open(at("two"), O_RDONLY) == -EACCES);
	must(try_open(at("one"), O_WRONLY) == -EACCES);
	must(try_open(at("ro"), O_RDONLY | O_DIRECTORY) == -EACCES);
	must(try_open(at("ro/new"), O_WRONLY | O_CREAT) == -EACCES);
	must(try_open(at("out/new"), O_WRONLY | O_CREAT) == -EACCES);
	must(try_open("/etc/passwd", O_RDONLY) == -EACCES);
	must(try_open("/proc/self/maps", O_RDONLY) == -EACCES);
	must(try_open("/dev/null", O_RDONLY) == -EACCES);
	must(truncate(at("one"), 0) < 0 && errno == EACCES);
	must(unlink(at("ro/file")) < 0 && unlink(at("two")) < 0);
	/* Nothing leaves the directory, or comes into it from outside. */
	must(rename(at("in/file"), at("out/gone")) < 0 && link(at("one"), at("in/link")) < 0);
	must(symlink("/etc/passwd", at("in/link")) < 0 && mkdir(at("in/dir"), 0700) < 0);
	must(mknod(at("in/dev"), S_IFCHR | 0600, 0x103) < 0);
}

Test(isolate, files_outside_of_the_jail_cannot_be_opened)
{
	need_landlock(3);
	cr_assert_eq(jailed(use_files), 0);
}

static void use_proc(void)
{
	char text[4096];
	int fd = isolate_open_proc("smaps");

	must(fd >= 0 && read(fd, text, sizeof(text)) > 0);
	must(isolate_open_proc("no-such") < 0);
}

Test(isolate, a_process_sees_itself_in_proc)
{
	cr_assert_eq(jailed(use_proc), 0);
}

/* What it says of a clone is of the clone, or it is not said. */
static void use_proc_of_a_child(void)
{
	char want[32], text[4096] = "";
	int status, fd;
	pid_t pid = fork();

	must(pid >= 0);
	if (pid == 0) {
		fd = isolate_open_proc("stat");
		if (fd < 0)
			_exit(fd == -EACCES && geteuid() != 0 ? 0 : 1);
		snprintf(want, sizeof(want), "%d (", getpid());
		must(read(fd, text, sizeof(text) - 1) > 0);
		_exit(strncmp(text, want, strlen(want)) != 0);
	}
	must(waitpid(pid, &status, 0) == pid && status == 0);
}

Test(isolate, a_child_sees_itself_in_proc)
{
	cr_assert_eq(jailed(use_proc_of_a_child), 0);
}

/* --- others ------------------------------------------------------------------------------ */

static void use_tcp(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(fd >= 0);
	sa.sin_port = htons(1);
	must(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno == EACCES);
	must(bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno == EACCES);
}

Test(isolate, there_is_no_tcp)
{
	need_landlock(4);
	cr_assert_eq(jailed(use_tcp), 0);
}

static struct sockaddr_un abstract;
static socklen_t abstract_len;

static void use_others(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(fd >= 0 && connect(fd, (struct sockaddr *)&abstract, abstract_len) < 0);
	must(errno == EPERM);
	must(kill(getppid(), 0) < 0 && errno == EPERM);
}

Test(isolate, other_processes_are_out_of_reach)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	need_landlock(6);
	abstract.sun_family = AF_UNIX;
	snprintf(abstract.sun_path + 1, sizeof(abstract.sun_path) - 1, "dormouse-isolate-%d",
		 getpid());
	abstract_len =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract.sun_path + 1));
	cr_assert(!bind(fd, (struct sockaddr *)&abstract, abstract_len) && !listen(fd, 1));
	cr_assert_eq(jailed(use_others), 0);
	close(fd);
}

static void trace_parent(void)
{
	must(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL) < 0 && errno == EPERM);
}

Test(isolate, nobody_outside_can_be_traced)
{
	need_landlock(1);
	cr_assert_eq(jailed(trace_parent), 0);
}

static void use_privileges(void)
{
	struct rlimit core, files, more;

	must(mount("none", at("in"), "tmpfs", 0, NULL) < 0 && errno == EPERM);
	must(chown(at("in/file"), 1, 1) < 0 && errno == EPERM);
	must(setuid(1) < 0 && errno == EPERM);
	must(!getrlimit(RLIMIT_CORE, &core) && core.rlim_max == 0);
	must(!getrlimit(RLIMIT_NOFILE, &files));
	more = files;
	more.rlim_cur = more.rlim_max = files.rlim_max + 1;
	must(setrlimit(RLIMIT_NOFILE, &more) < 0 && errno == EPERM);
}

Test(isolate, root_is_a_user_like_others)
{
	cr_assert_eq(jailed(use_privileges), 0);
}

/* --- system calls ------------------------------------------------------------------------ */

/* Run @call after the last stage. @said: set to what was logged. Return: the wait status. */
static int filtered(void (*call)(void), char *said, size_t len)
{
	int status, out[2];
	ssize_t n;
	pid_t pid;

	cr_assert(!pipe2(out, O_CLOEXEC));
	pid = fork();
	cr_assert(pid >= 0);
	if (pid == 0) {
		struct err e;

		must(dup2(out[1], 2) == 2);
		enter();
		must(!isolate_run(&e) && isolate_get()->seccomp);
		call();
		_exit(0);
	}
	close(out[1]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	n = read(out[0], said, len - 1);
	said[n > 0 ? n : 0] = '\0';
	close(out[0]);
	return status;
}

static void internet(void)
{
	socket(AF_INET, SOCK_STREAM, 0);
}

static void datagrams(void)
{
	socket(AF_UNIX, SOCK_DGRAM, 0);
}

static void execute(void)
{
	execl("/bin/true", "true", (char *)NULL);
}

static void trace(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static void mount_something(void)
{
	mount("none", at("in"), "tmpfs", 0, NULL);
}

static void enter_namespaces(void)
{
	unshare(CLONE_NEWUSER);
}

static void clone_namespaces(void)
{
	syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
}

static void run_memory(void)
{
	(void)mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		   0);
}

static void make_memory_run(void)
{
	mprotect((void *)((uintptr_t)&run_memory & ~4095ul), 4096, PROT_READ | PROT_EXEC);
}

static void change_modes(void)
{
	chmod(at("in/file"), 0600);
}

static void make_set_user_id(void)
{
	(void)openat(AT_FDCWD, at("in/suid"), O_WRONLY | O_CREAT, 04755);
}

static void ask_a_terminal(void)
{
	ioctl(0, 0x5412 /* TIOCSTI */, "x");
}

Test(isolate, other_system_calls_end_the_process)
{
	static const struct {
		void (*call)(void);
		long nr;
	} calls[] = {{internet, SYS_socket},	      {datagrams, SYS_socket},
		     {execute, SYS_execve},	      {trace, SYS_ptrace},
		     {mount_something, SYS_mount},    {enter_namespaces, SYS_unshare},
		     {clone_namespaces, SYS_clone},   {run_memory, SYS_mmap},
		     {make_memory_run, SYS_mprotect}, {change_modes, SYS_chmod},
		     {make_set_user_id, SYS_openat},  {ask_a_terminal, SYS_ioctl}};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		char said[256], want[64];
		int status = filtered(calls[i].call, said, sizeof(said));

		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == SECCOMP_EXIT, "%zu: %#x: %s",
			  i, status, said);
		snprintf(want, sizeof(want), "denied system call number %ld\n", calls[i].nr);
		cr_assert(strstr(said, want), "%zu: %s", i, said);
	}
}

static void *do_nothing(void *arg)
{
	return arg;
}

static void what_is_refused(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "/run/any"};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char params[256] = {0};
	pthread_t t;

	/* A guest may ask for both, so to say: they are no offence. */
	must(fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno == EACCES);
	must(syscall(SYS_io_uring_setup, 8, params) < 0 && errno == EPERM);
	must(!pthread_create(&t, NULL, do_nothing, NULL) && !pthread_join(t, NULL));
}

Test(isolate, some_are_refused_and_threads_are_made)
{
	char said[256];

	cr_assert_eq(filtered(what_is_refused, said, sizeof(said)), 0, "%s", said);
}

static void listen_there(void)
{
	struct err e;
	int fd = fd_unix_listen(at("in/sock"), 0600, &e);
	struct stat st;

	must(fd >= 0 && !stat(at("in/sock"), &st) && (st.st_mode & 0777) == 0600);
	/* Whether somebody listens cannot be told: it is left alone. */
	must(fd_unix_listen(at("in/sock"), 0600, &e) == -EADDRINUSE);
}

Test(isolate, sockets_are_made_with_their_modes)
{
	char said[256];

	cr_assert_eq(filtered(listen_there, said, sizeof(said)), 0, "%s", said);
}

static void write_as_a_child(void)
{
	isolate_child();
	(void)openat(AT_FDCWD, at("in/file"), O_RDONLY);
}

Test(isolate, who_writes_a_checkpoint_opens_no_files)
{
	char said[256];
	int status = filtered(write_as_a_child, said, sizeof(said));

	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == SECCOMP_EXIT, "%#x: %s", status,
		  said);
}

/* With a parent that is compared, as after a rollback; and what sharing its blocks needs. */
static void write_an_image(void)
{
	struct ram_image parent = RAM_IMAGE_CLOSED;
	uint8_t id[RAM_IMAGE_ID_BYTES], *ram;
	uint64_t bytes = 2 * RAM_IMAGE_CHUNK;
	struct ram_image_writer w;
	struct err e;

	ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(ram != MAP_FAILED);
	memset(ram, 1, 8192);
	must(!ram_image_writer_open(&w, at("in/parent"), bytes, NULL, id, &e));
	must(!ram_image_write(&w, ram));
	ram_image_writer_close(&w, true);
	must(!ram_image_open(&parent, at("in/parent"), bytes, &e));
	must(!ram_image_writer_open(&w, at("in/image"), bytes, &parent, id, &e));
	memset(ram, 0, 4096);
	memset(ram + 65536, 2, 4096);
	w.compare_own = true;
	isolate_child();
	must(!ram_image_write(&w, ram));
	must(!fallocate(w.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	/* _exit() of a sanitizer makes other calls. */
	syscall(SYS_exit_group, 0);
}

Test(isolate, who_writes_a_checkpoint_can_write_it)
{
	char said[256];

	cr_assert_eq(filtered(write_an_image, said, sizeof(said)), 0, "%s", said);
}
