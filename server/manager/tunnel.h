/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP connection to a port of a sandbox, for previews and `dormouse forward`.
 *
 * Theory of operation
 * -------------------
 * A tunnel is a session of the agent like a command's, and it is driven like one whose
 * request waits for it (session_drive.c): by the one thread that holds it. It does not keep the
 * sandbox from hibernating, nor from being rolled back: its connection to the agent ends then, and
 * it asks for the session again when the guest is back, from the first byte that it lacks; of what
 * it has sent it keeps as much as the guest may not have received. Only a sandbox that went back to
 * before what was exchanged, or has booted, knows no such session any more: a reset.
 *
 * A tunnel belongs to one thread.
 */
#ifndef SERVER_MANAGER_TUNNEL_H
#define SERVER_MANAGER_TUNNEL_H

#include <stdbool.h>
#include <sys/types.h>

#include "server/manager/manager.h"

#define TUNNELS_MAX 512u /* at a time, of one sandbox: others are to have some, too */

struct tunnel;

/**
 * tunnel_open() - Connect to a port; wakes the sandbox
 * @out:	tunnel_close()
 *
 * Return: 0; -ECONNREFUSED, -ETIMEDOUT: the guest's answer; -EAGAIN beyond TUNNELS_MAX; as
 *	   sandbox_agent_get()
 */
int tunnel_open(struct sandbox *s, unsigned int port, struct tunnel **out, struct err *e);
/* Resets it, if it has not ended in both directions. NULL is fine. */
void tunnel_close(struct tunnel *t);

/**
 * tunnel_read() - Take what the port has said; does not wait
 *
 * Return: bytes, 0 at its end, -EAGAIN; -ECONNRESET, or why the sandbox is gone: the end, too
 */
ssize_t tunnel_read(struct tunnel *t, void *buf, size_t max, struct err *e);

/**
 * tunnel_write() - Send to the port; wakes a hibernated sandbox, and only for that it waits
 *
 * Return: bytes taken, 0 without room: tunnel_wait(); failures as above
 */
ssize_t tunnel_write(struct tunnel *t, const void *buf, size_t len, struct err *e);
/* No more will be written. Does not wake: a sandbox that sleeps hears of it when it is awake. */
void tunnel_write_end(struct tunnel *t);

/**
 * tunnel_wait() - Until the tunnel or another descriptor may go on
 * @want_tunnel: tunnel_read() or tunnel_write() said that there is nothing, or no room
 * @fd, @events: The other one, as for poll(); -1: none
 *
 * Return: revents of @fd, 0: the tunnel, or the time is over; -ECANCELED: the daemon stops
 */
int tunnel_wait(struct tunnel *t, bool want_tunnel, int fd, short events, int timeout_ms);

/* For preview_allowed() and the like: the sandbox. Borrowed. */
struct sandbox *tunnel_sandbox(const struct tunnel *t);

#endif
