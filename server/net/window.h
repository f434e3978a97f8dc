/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP windows beyond 64 KiB, which libslirp does not know (it has no window scaling).
 *
 * Stands between the filter and libslirp, and sees every frame that either gives the other. It
 * offers the guest window scaling (RFC 7323), and acknowledges to libslirp in the guest's place
 * what it has kept a copy of, as long as there is room in the guest's window: libslirp goes on,
 * with hundreds of KiB under way. What the guest loses, it gets again from the copy.
 *
 * One thread. Frames are the guest's and so hostile; a guest that lies about what it has got harms
 * its own connection.
 */
#ifndef SERVER_NET_WINDOW_H
#define SERVER_NET_WINDOW_H

#include "server/net/frame.h"

/* Bytes on the way to the guest that libslirp has been told have arrived: of one connection, and of
 * all, beyond which each has what it would have without this. */
#define WINDOW_AHEAD	 (512u << 10)
#define WINDOW_AHEAD_ALL (16u << 20)
#define WINDOW_FLOWS	 1024 /* more are left alone: they work, with small windows */
#define WINDOW_RESEND_MS 300  /* without an acknowledgement; doubled each time, to 16 s */
/* A connection whose first segment the guest has not acknowledged for so long is ended, as by
 * libslirp (its TCPTV_KEEP_INIT). */
#define WINDOW_OPENING_MS 75000
/* A server that has answered a SYN so soon may say something as soon, if it is one that speaks
 * first: those that did the last time are waited for. */
#define WINDOW_NEAR_MS 1

struct window;

/**
 * window_create() - Make it
 * @to_guest:	Called with each frame for the guest, which may be changed in place; its `hurry`
 *		and `unheard` are set
 * @to_stack:	Called by window_settle() and window_end() with segments for libslirp
 *
 * Return: NULL if out of memory
 */
struct window *window_create(void (*to_guest)(void *arg, struct frame *f),
			     void (*to_stack)(void *arg, uint8_t *data, size_t len), void *arg);
void window_destroy(struct window *w);

/* A FRAME_WHOLE for libslirp, on its way there: may be changed. Return: false if it is to go no
 * further. */
bool window_from_guest(struct window *w, struct frame *f, uint64_t now_ms);
/* A frame of libslirp. */
void window_from_stack(struct window *w, struct frame *f, uint64_t now_ms);

/* After libslirp had a turn: acknowledge what it has sent, and send again what is due. Not from
 * within a call of libslirp. */
void window_settle(struct window *w, uint64_t now_ms);
/* The socket that libslirp has made for a SYN of the guest. */
void window_socket(struct window *w, const struct frame *f, int fd);
/**
 * window_end() - Make libslirp forget the connections that are over
 * @busy:	Whether libslirp has something to write to a socket yet
 *
 * As window_settle(), not from within a call of libslirp.
 */
void window_end(struct window *w, bool (*busy)(void *arg, int fd));
/* When window_settle() is due though nothing happens, in ms; -1: never. */
int window_due(const struct window *w, uint64_t now_ms);

#endif
