/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-vmm: one process, one virtual machine. docs/vmm.md is the manual. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/config.h"
#include "vmm/control.h"
#include "vmm/fault.h"
#include "vmm/isolate.h"
#include "vmm/version.h"
#include "vmm/vm.h"

static const char usage[] =
    "usage: dormouse-vmm run --kernel FILE [options]   boot a machine in the foreground\n"
    "       dormouse-vmm --socket PATH [options]       wait for a controller\n"
    "\n"
    "run:\n"
    "  --kernel FILE      x86-64 ELF vmlinux\n"
    "  --disk FILE[,overlay=FILE][,size=MIB][,ro]\n"
    "                     repeatable, the first is vda; without an overlay it is read-only\n"
    "  --memory MIB       64 to 65536 (default 512)\n"
    "  --cpus N           1 to 4 (default 1)\n"
    "  --cmdline TEXT     the whole kernel command line\n"
    "  --append TEXT      more words after the default command line\n"
    "  --vsock PATH       Unix socket to the guest's vsock ports\n"
    "  --net tap=NAME     a network interface, with this tap device of the host\n"
    "  --console -|FILE   where the log console goes (default: stdout)\n"
    "  --socket PATH      also listen for controllers there\n"
    "  --trace-exits      count exits per port and address, and print them at the end\n"
    "\n"
    "controlled:\n"
    "  --socket PATH      listen there; JSON lines, see docs/vmm.md\n"
    "  --socket-fd N      PATH is bound already, and is descriptor N\n"
    "  --stay             do not end with the machine\n"
    "  --parent PID       end when PID ends, which has started this process\n"
    "  --log FILE         log there in place of stderr\n"
    "  --log-level LEVEL  debug, info, warn or error (default: info)\n"
    "  --jail             reach nothing of the host but what is named here:\n"
    "  --read PATH        a file to be read, or a directory with all below it; repeatable\n"
    "  --write PATH       the same, to be written, too; repeatable\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 the guest shut down, 1 it could not be started, 2 the guest panicked,\n"
    "3 KVM could not go on\n";

struct options {
	const char *socket, *log;
	int socket_fd;
	pid_t parent; /* 0: nobody in particular */
	bool stay, jail;
	struct isolate_path *paths; /* owned; the strings are not */
	unsigned int paths_n;
	enum log_level level;
};

/* --- one process ------------------------------------------------------------------- */

struct process {
	struct vm vm;
	struct loop_source signal_source;
	int signal_fd;
	const char *unlink_path; /* the socket that we made; borrowed */
};

static void signal_arrived(struct loop_source *s, uint32_t events)
{
	struct process *p = container_of(s, struct process, signal_source);
	struct signalfd_siginfo info;

	(void)events;
	if (read(p->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	p->vm.stay = false;
	machine_end(&p->vm, "request", VM_EXIT_OK, "a signal asked for it");
}

/* #syscalls signalfd4 */
static int process_init(struct process *p, struct err *e)
{
	sigset_t set;
	int rc = vm_init(&p->vm, e);

	p->signal_fd = -1;
	if (rc)
		return rc;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p->signal_fd < 0)
		return err_sys(e, -errno, "signalfd");
	rc = loop_add(&p->vm.loop, &p->signal_source, p->signal_fd, EPOLLIN, signal_arrived);
	return rc ? err_sys(e, rc, "signals") : 0;
}

static int listen_for_controllers(struct process *p, const char *path, int fd, struct err *e)
{
	if (fd < 0)
		fd = fd_unix_listen(path, 0600, e);
	if (fd < 0)
		return fd;
	p->unlink_path = path;
	return control_create(&p->vm.control, &p->vm, fd, e);
}

/* Run the loop to its end. Return: the exit status. */
static int process_run(struct process *p)
{
	int rc = loop_run(&p->vm.loop);

	if (rc) {
		log_error("event loop: %s", strerror(-rc));
		return VM_EXIT_FATAL;
	}
	return p->vm.exit_code;
}

static void process_fini(struct process *p)
{
	pthread_mutex_lock(&p->vm.lock);
	control_destroy(p->vm.control);
	p->vm.control = NULL;
	loop_remove(&p->vm.loop, &p->signal_source);
	pthread_mutex_unlock(&p->vm.lock);
	fd_close(&p->signal_fd);
	vm_fini(&p->vm);
	if (p->unlink_path)
		unlink(p->unlink_path);
}

/* --- run ------------------------------------------------------------------------------- */

static void print_trace(struct vm *vm)
{
	struct exit_counts c = vm->exits_last;

	fprintf(stderr, "exits: %llu (io %llu, mmio %llu, other %llu), until ready: %llu\n",
		(unsigned long long)exit_counts_total(&c), (unsigned long long)c.by_kind[EXIT_IO],
		(unsigned long long)c.by_kind[EXIT_MMIO], (unsigned long long)c.by_kind[EXIT_OTHER],
		(unsigned long long)vm->exits_until_ready);
	exit_trace_sort(&vm->trace);
	for (unsigned int i = 0; i < vm->trace.n; i++)
		fprintf(stderr, "%8llu %-4s %-5s %#llx\n",
			(unsigned long long)vm->trace.places[i].count,
			exit_kind_name(vm->trace.places[i].kind),
			vm->trace.places[i].write ? "write" : "read",
			(unsigned long long)vm->trace.places[i].address);
}

static int start_foreground(struct process *p, struct vm_config *c, const char *socket,
			    struct err *e)
{
	int rc = process_init(p, e);

	if (!rc && socket)
		rc = listen_for_controllers(p, socket, -1, e);
	if (rc)
		return rc;
	p->vm.run_mode = true;
	pthread_mutex_lock(&p->vm.lock);
	rc = machine_configure(&p->vm, c, e);
	if (!rc && p->vm.config.tap)
		rc = net_open_tap(&p->vm, e);
	if (!rc)
		rc = machine_boot(&p->vm, e);
	pthread_mutex_unlock(&p->vm.lock);
	return rc;
}

static int run_foreground(int argc, char **argv)
{
	struct process p = {0};
	struct vm_config c;
	const char *socket;
	struct err e = {0};
	int status;

	log_init("vmm", LOG_WARN, 2);
	if (argc == 1 && !strcmp(argv[0], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	if (config_from_args(argc, argv, &c, &socket, &e)) {
		fprintf(stderr, "dormouse-vmm run: %s\nTry 'dormouse-vmm --help'.\n", e.msg);
		vm_config_fini(&c);
		return VM_EXIT_USAGE;
	}
	if (isolate_start(-1, &e) || start_foreground(&p, &c, socket, &e)) {
		fprintf(stderr, "dormouse-vmm: %s\n", e.msg);
		vm_config_fini(&c);
		if (p.vm.loop.lock)
			process_fini(&p);
		return VM_EXIT_USAGE;
	}
	status = process_run(&p);
	if (status != VM_EXIT_OK)
		fprintf(stderr, "dormouse-vmm: %s\n", p.vm.exit_message);
	if (p.vm.trace.places)
		print_trace(&p.vm);
	process_fini(&p);
	return status;
}

/* --- controlled --------------------------------------------------------------------------- */

static int parse_level(const char *text, enum log_level *out)
{
	static const char *const names[] = {"debug", "info", "warn", "error"};

	for (int i = 0; i < 4; i++)
		if (!strcmp(text, names[i])) {
			*out = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

static int parse_number(const char *text, int min, int max, int *out)
{
	char *end;
	long v = strtol(text, &end, 10);

	if (end == text || *end || v < min || v > max)
		return -EINVAL;
	*out = (int)v;
	return 0;
}

static int parse_jail(struct options *o, int c, int argc)
{
	if (c == 'j') {
		o->jail = true;
		return 0;
	}
	if (!o->paths)
		o->paths = calloc((size_t)argc, sizeof(*o->paths));
	if (!o->paths)
		return -ENOMEM;
	o->paths[o->paths_n++] = (struct isolate_path){optarg, c == 'w'};
	return 0;
}

/* Return: 0 go on, 1 done, or -EINVAL after a message. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
	    {"socket", required_argument, NULL, 's'}, {"socket-fd", required_argument, NULL, 'f'},
	    {"log", required_argument, NULL, 'l'},    {"log-level", required_argument, NULL, 'L'},
	    {"stay", no_argument, NULL, 'S'},	      {"help", no_argument, NULL, 'h'},
	    {"parent", required_argument, NULL, 'p'}, {"version", no_argument, NULL, 'V'},
	    {"jail", no_argument, NULL, 'j'},	      {"read", required_argument, NULL, 'r'},
	    {"write", required_argument, NULL, 'w'},  {NULL, 0, NULL, 0},
	};
	int c, rc = 0;

	while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 's')
			o->socket = optarg;
		else if (c == 'f')
			rc = parse_number(optarg, 3, 1 << 20, &o->socket_fd);
		else if (c == 'p')
			rc = parse_number(optarg, 2, INT_MAX, &o->parent);
		else if (c == 'l')
			o->log = optarg;
		else if (c == 'L')
			rc = parse_level(optarg, &o->level);
		else if (c == 'S')
			o->stay = true;
		else if (c == 'j' || c == 'r' || c == 'w')
			rc = parse_jail(o, c, argc);
		else if (c == 'h')
			return fputs(usage, stdout) < 0 ? -EIO : 1;
		else if (c == 'V')
			return puts("dormouse-vmm " DORMOUSE_VERSION) < 0 ? -EIO : 1;
		else
			rc = -EINVAL;
	}
	if (!rc && (optind != argc || !o->socket || (o->paths && !o->jail)))
		rc = -EINVAL;
	if (rc)
		fprintf(stderr, "dormouse-vmm: bad arguments\nTry 'dormouse-vmm --help'.\n");
	return rc;
}

static int open_log(const struct options *o)
{
	int fd = 2;

	if (o->log) {
		fd = open(o->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (fd < 0) {
			fprintf(stderr, "dormouse-vmm: %s: %s\n", o->log, strerror(errno));
			return -errno;
		}
	}
	log_init("vmm", o->level, fd);
	return 0;
}

/* Everything up to the first request. */
static int start_controlled(struct process *p, const struct options *o, struct err *e)
{
	int rc = process_init(p, e);

	if (!rc)
		rc = listen_for_controllers(p, o->socket, o->socket_fd, e);
	/* It reads /dev/urandom, which is in no jail. */
	json_object_seed(0);
	if (!rc && o->jail)
		rc = isolate_setup(o->paths, o->paths_n, e);
	if (!rc && o->jail)
		rc = isolate_run(e);
	return rc;
}

static int run_controlled(int argc, char **argv)
{
	struct options o = {.socket_fd = -1, .level = LOG_INFO};
	struct process p = {0};
	struct err e = {0};
	int rc = parse_options(argc, argv, &o), status;

	if (rc)
		return rc > 0 ? 0 : VM_EXIT_USAGE;
	if (o.parent && isolate_with_parent(o.parent))
		return VM_EXIT_USAGE;
	rc = isolate_start(o.socket_fd, &e);
	if (!rc && open_log(&o))
		return VM_EXIT_USAGE;
	if (!rc)
		rc = start_controlled(&p, &o, &e);
	free(o.paths);
	if (rc) {
		fprintf(stderr, "dormouse-vmm: %s\n", e.msg);
		if (p.vm.loop.lock)
			process_fini(&p);
		return VM_EXIT_USAGE;
	}
	p.vm.stay = o.stay;
	/* Takes half a millisecond, once; who cannot use KVM hears of it when it is needed. */
	kvm_open(&p.vm, NULL);
	status = process_run(&p);
	process_fini(&p);
	return status;
}

int main(int argc, char **argv)
{
	/* One heap for all threads: an arena per vCPU would be private memory for nothing. */
	mallopt(M_ARENA_MAX, 1);
	fault_init();
	if (argc > 1 && !strcmp(argv[1], "run"))
		return run_foreground(argc - 2, argv + 2);
	return run_controlled(argc, argv);
}
