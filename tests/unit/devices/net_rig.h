/* SPDX-License-Identifier: Apache-2.0 */
/* A network device of kind "user" in a rig, and the other end of its backend. */
#ifndef TESTS_UNIT_DEVICES_NET_RIG_H
#define TESTS_UNIT_DEVICES_NET_RIG_H

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/fd.h"
#include "rig.h"

#define VERSION_1 (1ULL << 32)
#define EVENT_IDX (1ULL << 29)
#define USER_ALL                                                                                   \
	(VERSION_1 | EVENT_IDX | NET_F_MAC | NET_F_MTU | NET_F_MRG_RXBUF | NET_F_GUEST_CSUM)
#define HEADER 12u
#define TX     (RIG_DATA + 0x100000)

static struct rig r;
static int host = -1; /* the backend's end */
static unsigned int wanted;

static inline void on_wanted(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

static inline struct device_config config(enum net_backend backend)
{
	struct device_config c = {.kind = DEVICE_NET};

	c.net.backend = backend;
	memcpy(c.net.mac, "\x02\x6f\x63\0\0\1", 6);
	c.net.on_wanted = on_wanted;
	c.net.opaque = &wanted;
	return c;
}

static inline void begin(uint64_t features, uint16_t size)
{
	struct device_config c = config(NET_USER);

	rig_init(&r, &c);
	cr_assert_eq(rig_start(&r, features, size), 15);
}

static inline void attach(void)
{
	struct err e = {0};
	int pair[2];

	fd_close(&host);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
		     0);
	host = pair[1];
	cr_assert_eq(device_net_attach(r.d, NET_USER, pair[0], &e), 0, "%s", e.msg);
}

static inline void teardown(void)
{
	if (r.ds)
		rig_fini(&r);
	fd_close(&host);
}

/* A frame of the guest: header and @bytes of it, told apart by @mark. */
static inline void guest_sends(size_t bytes, uint8_t mark)
{
	struct rig_buf b = {TX, (uint32_t)(HEADER + bytes), false};
	uint8_t *p = rig_ptr(&r, TX);

	memset(p, 0, HEADER);
	memset(p + HEADER, mark, bytes);
	rig_send(&r, NET_Q_TX, &b, 1);
}

static inline ssize_t host_gets(uint8_t *buf, size_t cap)
{
	rig_step(&r);
	return recv(host, buf, cap, 0);
}

static inline uint64_t rx_gpa(unsigned int i)
{
	return RIG_DATA + 0x1000ull * i;
}

static inline void give_buffers(unsigned int from, unsigned int n, uint32_t len)
{
	for (unsigned int i = 0; i < n; i++) {
		struct rig_buf b = {rx_gpa(from + i), len, true};

		memset(rig_ptr(&r, b.gpa), 0xee, len);
		rig_add(&r, NET_Q_RX, &b, 1);
	}
	rig_notify(&r, NET_Q_RX);
}

static inline void host_sends(const struct net_header *h, size_t bytes, uint8_t mark)
{
	static uint8_t buf[NET_FRAME_MAX + 16];

	memcpy(buf, h, HEADER);
	memset(buf + HEADER, mark, bytes);
	cr_assert_eq(send(host, buf, HEADER + bytes, 0), (ssize_t)(HEADER + bytes));
	rig_step(&r);
}

static inline struct net_info info(void)
{
	struct net_info i;

	device_net_info(r.d, &i);
	return i;
}

static const struct net_header plain;

#endif
