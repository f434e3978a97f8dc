/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock between a hostile driver and clients that come, talk and go at any time. */
#include <stdio.h>
#include <sys/socket.h>

#include "device_fuzz.h"
#include "lib/fd.h"

#define CLIENTS 6

static int clients[CLIENTS];
static char dir[] = "/tmp/fuzz-vsock-XXXXXX", uds[64], peer[80];
static int peer_listener = -1;

static void remove_dir(void)
{
	unlink(peer);
	rmdir(dir);
}

static void prepare_once(void)
{
	if (peer_listener >= 0)
		return;
	if (!mkdtemp(dir))
		abort();
	snprintf(uds, sizeof(uds), "%s/v", dir);
	snprintf(peer, sizeof(peer), "%s_80", uds);
	peer_listener = fd_unix_listen(peer, 0600, NULL);
	if (peer_listener < 0)
		abort();
	atexit(remove_dir);
}

static void client_op(struct fuzz *f, struct reader *r)
{
	uint8_t what = read_u8(r);
	int *fd = &clients[(what >> 4) % CLIENTS];
	uint8_t buf[4096] = "CONNECT 80\n";

	(void)f;
	switch (what & 7) {
	case 0:
		fd_close(fd);
		*fd = fd_unix_connect(uds, NULL);
		break;
	case 1:
		if (*fd >= 0)
			send(*fd, buf, 11, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 2:
		if (*fd >= 0)
			send(*fd, buf, (size_t)read_u8(r) * 16, MSG_DONTWAIT | MSG_NOSIGNAL);
		break;
	case 3:
		if (*fd >= 0 && recv(*fd, buf, sizeof(buf), MSG_DONTWAIT) < 0)
			break;
		break;
	case 4:
		fd_close(fd);
		break;
	case 5:
		if (*fd >= 0)
			shutdown(*fd, read_u8(r) % 3);
		break;
	default:
		/* A connection that the guest made. */
		fd_close(fd);
		*fd = accept4(peer_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		break;
	}
}

static void knock(void *opaque)
{
	(void)opaque;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct device_config c = {.kind = DEVICE_VSOCK};
	struct fuzz f = {.own = client_op};
	int fd;

	prepare_once();
	c.vsock.guest_cid = 3;
	c.vsock.uds_path = uds;
	c.vsock.on_knock = knock;
	c.vsock.knock_port = 1025;
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = -1;
	fuzz_run(&f, &c, data, size);
	for (int i = 0; i < CLIENTS; i++)
		fd_close(&clients[i]);
	while ((fd = accept4(peer_listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
	return 0;
}
