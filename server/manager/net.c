/* SPDX-License-Identifier: Apache-2.0 */
/* Networks of sandboxes; see net.h. */
#include "server/manager/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

#define RESOLV_CONF	"/etc/resolv.conf"
#define RESOLV_CONF_MAX (64u << 10)
#define CALL_MS		5000

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

extern char **environ;

struct net_shared {
	pthread_mutex_t lock; /* all of it */
	char dns[INET6_ADDRSTRLEN];
	struct stat resolv;
	int *children; /* owned; pidfds of processes of ours that are not reaped */
	size_t children_n, children_cap;
};

/* --- what the host says --------------------------------------------------------------------- */

/*
 * The first name server with an IPv4 address, else the first one with an IPv6 address; "": none.
 * One with a scope (fe80::1%eth0) is none: its interface means nothing to a packet of the guest.
 */
static void find_dns(const char *text, char dns[INET6_ADDRSTRLEN])
{
	*dns = '\0';
	for (const char *line = text; line; line = strchr(line, '\n')) {
		struct in6_addr a;
		char word[64];

		line += *line == '\n';
		if (sscanf(line, "nameserver%*[ \t]%63[^ \t\n#;]", word) != 1)
			continue;
		if (inet_pton(AF_INET, word, &a) == 1) {
			snprintf(dns, INET6_ADDRSTRLEN, "%.15s", word);
			return;
		}
		if (!*dns && inet_pton(AF_INET6, word, &a) == 1)
			snprintf(dns, INET6_ADDRSTRLEN, "%.45s", word);
	}
}

/* Return: whether it is another one than before. */
static bool refresh_dns(struct net_shared *n)
{
	char dns[INET6_ADDRSTRLEN] = "";
	cleanup_free char *text = NULL;
	struct stat st = {0};
	bool changed;

	stat(RESOLV_CONF, &st);
	pthread_mutex_lock(&n->lock);
	changed = st.st_ino != n->resolv.st_ino || st.st_dev != n->resolv.st_dev ||
		  st.st_size != n->resolv.st_size ||
		  st.st_mtim.tv_sec != n->resolv.st_mtim.tv_sec ||
		  st.st_mtim.tv_nsec != n->resolv.st_mtim.tv_nsec;
	n->resolv = st;
	pthread_mutex_unlock(&n->lock);
	if (!changed)
		return false;
	if (!fd_read_file(AT_FDCWD, RESOLV_CONF, RESOLV_CONF_MAX, &text, NULL))
		find_dns(text, dns);
	pthread_mutex_lock(&n->lock);
	changed = strcmp(n->dns, dns) != 0;
	memcpy(n->dns, dns, sizeof(n->dns));
	pthread_mutex_unlock(&n->lock);
	return changed;
}

static json_t *ranges(const struct config_list *l)
{
	json_t *a = json_array();

	for (size_t i = 0; i < l->n; i++)
		json_array_append_new(a, json_string(l->items[i]));
	return a;
}

static json_t *policy_of(struct sandbox *s)
{
	struct net_shared *n = s->m->net;
	char dns[INET6_ADDRSTRLEN];
	bool internet;

	pthread_mutex_lock(&n->lock);
	memcpy(dns, n->dns, sizeof(dns));
	pthread_mutex_unlock(&n->lock);
	pthread_mutex_lock(&s->lock);
	internet = s->row.network;
	pthread_mutex_unlock(&s->lock);
	return json_pack("{ss, sb, ss, so, so}", "op", "policy", "internet", (int)internet, "dns",
			 dns, "allow", ranges(&s->m->config->net_allow), "deny",
			 ranges(&s->m->config->net_deny));
}

/* --- processes -------------------------------------------------------------------------------- */

static void reap(struct net_shared *n)
{
	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->children_n;) {
		siginfo_t info = {0};

		if (!waitid(P_PIDFD, (id_t)n->children[i], &info, WEXITED | WNOHANG) &&
		    !info.si_pid) {
			i++;
			continue;
		}
		close(n->children[i]);
		n->children[i] = n->children[--n->children_n];
	}
	pthread_mutex_unlock(&n->lock);
}

/* Room for one more before it is started, so that it cannot be lost. */
static int make_room(struct net_shared *n)
{
	int rc = 0;

	pthread_mutex_lock(&n->lock);
	/* Jobs may be at it side by side: each needs one. */
	if (n->children_n + 64 > n->children_cap) {
		int *grown = reallocarray(n->children, n->children_cap + 128, sizeof(*grown));

		if (grown) {
			n->children = grown;
			n->children_cap += 128;
		} else {
			rc = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&n->lock);
	return rc;
}

static void keep_child(struct net_shared *n, pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	pthread_mutex_lock(&n->lock);
	if (pidfd >= 0 && n->children_n < n->children_cap)
		n->children[n->children_n++] = pidfd;
	else
		log_warn("dormouse-net %d: it will not be reaped", (int)pid);
	pthread_mutex_unlock(&n->lock);
}

#define CHILD_FRAMES 3
#define CHILD_LISTEN 4

static int spawn_actions(posix_spawn_file_actions_t *fa, const char *log, int frames, int listener)
{
	int rc = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDONLY, 0);

	if (!rc)
		rc = posix_spawn_file_actions_addopen(fa, 2, log, O_WRONLY | O_CREAT | O_APPEND,
						      0600);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(fa, 2, 1);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(fa, frames, CHILD_FRAMES);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(fa, listener, CHILD_LISTEN);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(fa, CHILD_LISTEN + 1);
	return rc;
}

static int spawn_with(char **argv, const char *log, int frames, int listener, pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc = posix_spawn_file_actions_init(&fa);

	if (rc)
		return -rc;
	sigemptyset(&none);
	sigfillset(&all);
	rc = posix_spawnattr_init(&attr);
	if (!rc) {
		posix_spawnattr_setsigmask(&attr, &none);
		posix_spawnattr_setsigdefault(&attr, &all);
		posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						    POSIX_SPAWN_SETSIGDEF);
		rc = spawn_actions(&fa, log, frames, listener);
		if (!rc)
			rc = posix_spawn(pid, argv[0], &fa, &attr, argv, environ);
		posix_spawnattr_destroy(&attr);
	}
	posix_spawn_file_actions_destroy(&fa);
	return -rc;
}

/* @frames and @listener are above what they become in the child: see above_child(). */
static int spawn(struct sandbox *s, const char *path, int frames, int listener, struct err *e)
{
	cleanup_free char *log = sandbox_path(s, "net.log"), *policy = NULL;
	json_t *said = policy_of(s);
	pid_t pid;
	int rc;

	policy = json_dumps(said, JSON_COMPACT);
	json_decref(said);
	if (!log || !policy || make_room(s->m->net))
		return err_set(e, -ENOMEM, "out of memory");
	rc = spawn_with((char *[]){s->m->config->net, "--frames-fd", "3", "--socket-fd", "4",
				   "--socket", (char *)path, "--policy", policy, NULL},
			log, frames, listener, &pid);
	if (rc)
		return err_sys(e, rc, "starting %s", s->m->config->net);
	keep_child(s->m->net, pid);
	return 0;
}

/* dup2() onto itself would leave close-on-exec set, and one must not overwrite the other. */
static int above_child(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, CHILD_LISTEN + 1);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

/* --- the connection to it ----------------------------------------------------------------------
 */

static void on_event(void *arg, const char *name, json_t *event)
{
	if (!strcmp(name, "metadata"))
		net_answer(arg, event);
}

static int connect_to(struct sandbox *s, const char *path, struct err *e)
{
	static const struct vmm_client_ops ops = {.on_event = on_event};
	struct vmm_client *client;
	int rc = vmm_client_connect(path, &ops, s, &client, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->net.client = client;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int net_call(struct sandbox *s, json_t *request, json_t **answer, struct err *e)
{
	struct vmm_client *client;
	int rc;

	pthread_mutex_lock(&s->lock);
	client = s->net.client;
	s->net.calls += client != NULL;
	pthread_mutex_unlock(&s->lock);
	if (!client) {
		json_decref(request);
		if (answer)
			*answer = NULL;
		return err_set(e, -ENOTCONN, "its network is not in use");
	}
	rc = vmm_client_call(client, request, CALL_MS, answer, e);
	pthread_mutex_lock(&s->lock);
	s->net.calls--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void net_leave(struct sandbox *s)
{
	struct vmm_client *client;

	pthread_mutex_lock(&s->lock);
	client = s->net.client;
	s->net.client = NULL;
	pthread_mutex_unlock(&s->lock);
	if (!client)
		return;
	vmm_client_abort(client);
	pthread_mutex_lock(&s->lock);
	while (s->net.calls)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	vmm_client_destroy(client);
}

int net_tell(struct sandbox *s, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->net.lock);
	rc = net_call(s, policy_of(s), NULL, e);
	pthread_mutex_unlock(&s->net.lock);
	/* Without a process, or with one that has just ended: the next one begins with it. */
	return rc == -ENOTCONN || rc == -EPIPE ? 0 : rc;
}

/* --- starting ------------------------------------------------------------------------------------
 */

/*
 * The VMM keeps limits with the machine that it runs, and neither saves nor is asked for them: a
 * fork, a wake or a restore may be another process. But each of them asks for its network anew, so
 * they are set before it is given one, and with a daemon that may have been given other ones.
 */
static int set_limits(struct sandbox *s, struct err *e)
{
	const struct config *c = s->m->config;

	return vm_call(s,
		       json_pack("{ss, s{sI, sI}, s{sI, sI}}", "op", "net_limits", "in",
				 "bytes_per_s", (json_int_t)c->net_in_bytes, "frames_per_s",
				 (json_int_t)c->net_in_frames, "out", "bytes_per_s",
				 (json_int_t)c->net_out_bytes, "frames_per_s",
				 (json_int_t)c->net_out_frames),
		       VM_CALL_MS, NULL, e);
}

static int attach(struct sandbox *s, int fd, struct err *e)
{
	int rc = set_limits(s, e);

	if (rc)
		return rc;
	return vm_call_fd(s, json_pack("{ss, ss}", "op", "net_attach", "kind", "user"), fd,
			  VM_CALL_MS, NULL, e);
}

static int start_with(struct sandbox *s, const char *path, int pair[2], int *listener,
		      struct err *e)
{
	/* The name may still be that of one that is about to end. */
	unlink(path);
	*listener = fd_unix_listen(path, 0600, e);
	if (*listener < 0)
		return *listener;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) || above_child(&pair[1]) ||
	    above_child(listener))
		return err_sys(e, -errno, "sockets");
	return spawn(s, path, pair[1], *listener, e);
}

static int start(struct sandbox *s, struct err *e)
{
	cleanup_free char *path = sandbox_path(s, "net.sock");
	int pair[2] = {-1, -1}, listener = -1, rc;

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	net_leave(s);
	rc = start_with(s, path, pair, &listener, e);
	fd_close(&pair[1]);
	fd_close(&listener);
	if (!rc)
		rc = connect_to(s, path, e);
	if (!rc)
		rc = attach(s, pair[0], e);
	fd_close(&pair[0]);
	return rc;
}

static void start_job(void *arg)
{
	struct sandbox *s = arg;
	struct err e;
	int rc;

	pthread_mutex_lock(&s->net.lock);
	rc = start(s, &e);
	pthread_mutex_lock(&s->lock);
	s->net.starting = false;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->net.lock);
	if (rc && rc != -EPIPE) {
		log_warn("sandbox %s: no network: %s", s->id, e.msg);
		/* So that it asks again. */
		vm_call(s, json_pack("{ss}", "op", "net_detach"), VM_CALL_MS, NULL, NULL);
	}
	/* It may have changed after the process was given it. */
	if (!rc && net_tell(s, &e))
		log_warn("sandbox %s: its network: %s", s->id, e.msg);
	sandbox_put(s);
}

void net_on_wanted(struct sandbox *s)
{
	bool begins;

	pthread_mutex_lock(&s->lock);
	begins = !s->net.starting && !manager_interrupted(s->m);
	s->net.starting = s->net.starting || begins;
	pthread_mutex_unlock(&s->lock);
	if (!begins)
		return;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	if (jobs_run(&s->m->jobs, start_job, s)) {
		pthread_mutex_lock(&s->lock);
		s->net.starting = false;
		pthread_mutex_unlock(&s->lock);
		log_warn("sandbox %s: no network: no thread", s->id);
		sandbox_put(s);
	}
}

void net_adopt(struct sandbox *s, bool wanted)
{
	cleanup_free char *path = sandbox_path(s, "net.sock");
	struct err e = {.msg = "out of memory"};

	if (wanted) {
		net_on_wanted(s);
		return;
	}
	/* Not there: it has not been needed yet. */
	if (path && access(path, F_OK))
		return;
	if (!path || connect_to(s, path, &e) || net_tell(s, &e) || set_limits(s, &e))
		log_info("sandbox %s: its network is not controlled: %s", s->id, e.msg);
}

static void set_network(struct sandbox_row *row, const void *arg)
{
	row->network = *(const bool *)arg;
}

int sandbox_set_network(struct manager *m, const char *id, bool enabled, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	rc = sandbox_update_settings(s, set_network, &enabled, e);
	if (!rc)
		rc = net_tell(s, e);
	sandbox_put(s);
	return rc;
}

/* --- life ----------------------------------------------------------------------------------------
 */

void net_begin(struct sandbox *s)
{
	pthread_mutex_init(&s->net.lock, NULL);
}

void net_free(struct sandbox *s)
{
	vmm_client_destroy(s->net.client);
	pthread_mutex_destroy(&s->net.lock);
}

int net_init(struct manager *m, struct err *e)
{
	m->net = calloc(1, sizeof(*m->net));
	if (!m->net)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&m->net->lock, NULL);
	refresh_dns(m->net);
	return 0;
}

void net_fini(struct manager *m)
{
	if (!m->net)
		return;
	for (size_t i = 0; i < m->net->children_n; i++)
		close(m->net->children[i]);
	free(m->net->children);
	pthread_mutex_destroy(&m->net->lock);
	free(m->net);
	m->net = NULL;
}

static void tell_quietly(struct sandbox *s)
{
	struct err e;

	if (net_tell(s, &e))
		log_warn("sandbox %s: its network: %s", s->id, e.msg);
}

static void tell_all(void *arg)
{
	for_each_sandbox(arg, tell_quietly);
}

void net_tick(struct manager *m)
{
	reap(m->net);
	if (refresh_dns(m->net) && jobs_run(&m->jobs, tell_all, m))
		log_warn("the new name server of the host is not told to networks that run");
}
