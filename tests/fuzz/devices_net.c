/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net between a hostile driver and a backend that comes, sends anything and goes. */
#include <sys/socket.h>

#include "device_fuzz.h"
#include "devices/net_int.h"
#include "lib/fd.h"

static int host = -1;

static void backend_op(struct fuzz *f, struct reader *r)
{
	static uint8_t frame[NET_FRAME_MAX + 16];
	uint8_t what = read_u8(r);
	struct net_limit in, out;
	size_t len = read_u16(r);
	int pair[2];

	switch (what & 7) {
	case 0:
		fd_close(&host);
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
			abort();
		host = pair[1];
		device_net_attach(f->d, NET_USER, pair[0], NULL);
		break;
	case 1:
	case 2:
		/* A header of the input's, and any length. */
		for (unsigned int i = 0; i < sizeof(struct net_header); i++)
			frame[i] = read_u8(r);
		if (host >= 0)
			send(host, frame, len + (what & 16 ? 30u : 0u), MSG_NOSIGNAL);
		break;
	case 3:
		while (host >= 0 && recv(host, frame, sizeof(frame), 0) > 0)
			;
		break;
	case 4:
		fd_close(&host);
		break;
	case 5:
		device_net_detach(f->d);
		break;
	case 6:
		in = (struct net_limit){read_u32(r), read_u16(r)};
		out = (struct net_limit){read_u32(r), read_u16(r)};
		device_net_limit(f->d, &in, &out);
		break;
	default:
		device_net_limit(f->d, &(struct net_limit){0}, &(struct net_limit){0});
		break;
	}
}

static void wanted(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_NET};
	struct fuzz f = {.own = backend_op};
	unsigned int asked = 0;

	c.net.on_wanted = wanted;
	c.net.opaque = &asked;
	fuzz_run(&f, &c, data, size);
	fd_close(&host);
	return 0;
}
