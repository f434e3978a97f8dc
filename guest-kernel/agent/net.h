/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's network interface. */
#ifndef AGENT_NET_H
#define AGENT_NET_H

/*
 * Give eth0 its addresses and routes, which are the same in every sandbox (the host translates),
 * and write /etc/resolv.conf. Does nothing without an interface, or if it is up already.
 */
void net_up(void);

/*
 * End the TCP connections that went through eth0: their other ends know nothing of a guest that was
 * restored. Who waits for one is told at once. Connections within the guest go on.
 */
void net_forget_connections(void);

#endif
