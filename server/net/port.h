/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's end of the wire: a socket (SOCK_SEQPACKET) of frames, each with a struct
 * virtio_net_hdr_v1 in front. From the guest a message is one frame; to the guest it is those that
 * there are at a time (lib/net_message.h).
 */
#ifndef SERVER_NET_PORT_H
#define SERVER_NET_PORT_H

#include "lib/err.h"
#include "server/net/frame.h"

struct port;

/* @fd: taken over, also on failure. port_destroy() frees it. Return: 0 or -errno */
int port_create(struct port **out, int fd, struct err *e);
void port_destroy(struct port *p);

/**
 * port_receive() - Take what has come, up to some dozens of frames
 * @take:	Called with each that is whole, its checksum completed; @data may be changed
 *
 * Return: 0; -EPIPE: the other side has closed; another -errno
 */
int port_receive(struct port *p, void (*take)(void *arg, uint8_t *data, size_t len), void *arg);

/* So long a FRAME_OPENS waits for what a server says first, as network cards wait before they
 * interrupt, and a FRAME_LATER for others to go with. */
#define PORT_OPENS_US 50
#define PORT_LATER_MS 20

/* Send a frame when port_push() says so, or as there is no room for it beside the others. An end of
 * TCP is made a part of the data before it. */
void port_send(struct port *p, const struct frame *f);
/**
 * port_push() - Let go what was sent, if it is time
 *
 * Called after each look at the sockets. What the guest does not take waits, or is lost when it is
 * too much.
 *
 * Return: in how many microseconds to look and call it again, if nothing happens before; -1:
 * nothing is left
 */
int port_push(struct port *p, uint64_t now_ms);
/* When it can be written to. Return: 0 or -errno */
int port_flush(struct port *p);
/* For poll(). */
int port_fd(const struct port *p);
/* Does something wait? */
bool port_waits(const struct port *p);
/* So much that nothing more should be made for it? */
bool port_is_full(const struct port *p);
/* Frames that came malformed at the level of the card, and those that were lost. */
void port_counts(const struct port *p, uint64_t *bad, uint64_t *lost);

#endif
