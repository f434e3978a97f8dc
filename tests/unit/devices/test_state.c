/* SPDX-License-Identifier: Apache-2.0 */
/* Devices are saved after real traffic, restored into new ones, and used on. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "devices/serial.h"
#include "devices/vsock_int.h"
#include "fake_disk.h"
#include "lib/fd.h"
#include "state_rig.h"

#define BLK_FLUSH (1ULL << 9)
#define CID	  7

TestSuite(state, .fini = state_teardown, .timeout = 60);

/* --- net ------------------------------------------------------------------------------ */

#define NET_ALL (VERSION_1 | EVENT_IDX | NET_F_MRG_RXBUF | NET_F_GUEST_CSUM | NET_F_MTU)

static unsigned int net_wanted;

static void on_net_wanted(void *opaque)
{
	(void)opaque;
	net_wanted++;
}

static struct device_config net_config(void)
{
	struct device_config c = {.kind = DEVICE_NET};

	memcpy(c.net.mac, "\2abcde", NET_MAC_BYTES);
	c.net.on_wanted = on_net_wanted;
	return c;
}

static int net_attach(struct rig *g)
{
	struct err e;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(device_net_attach(g->d, NET_USER, pair[0], &e), 0, "%s", e.msg);
	return pair[1];
}

Test(state, net_goes_on_without_its_backend_and_asks_for_one)
{
	struct rig_buf rx = {RIG_DATA, 1526, true}, tx = {RIG_DATA + 4096, 100, false};
	struct device_config c = net_config();
	uint8_t frame[100] = {0};
	struct net_info info;
	int host;

	rig_init(&from, &c);
	rig_start(&from, NET_ALL, 64);
	host = net_attach(&from);
	for (int i = 0; i < 70; i++) {
		rig_send(&from, 1, &tx, 1);
		cr_assert_eq(read(host, frame, sizeof(frame)), 100);
		rig_wait(&from, 1);
		rig_send(&from, 0, &rx, 1);
		cr_assert_eq(write(host, frame, sizeof(frame)), 100);
		cr_assert_eq(rig_wait(&from, 0), 100);
	}
	rig_send(&from, 0, &rx, 1);
	state_law(&c);
	device_net_info(to.d, &info);
	cr_expect_not(info.attached);
	device_net_info(from.d, &info);
	cr_expect(info.attached, "who is saved goes on as before");
	net_wanted = 0;
	rig_step(&to);
	cr_expect_eq(net_wanted, 0);
	rig_send(&to, 1, &tx, 1);
	cr_expect_eq(net_wanted, 1);
	close(host);
	host = net_attach(&to);
	cr_assert_eq(read(host, frame, sizeof(frame)), 100);
	rig_wait(&to, 1);
	cr_assert_eq(write(host, frame, sizeof(frame)), 100);
	cr_expect_eq(rig_wait(&to, 0), 100);
	close(host);
}

Test(state, net_frames_that_wait_for_a_backend_are_saved_and_ask)
{
	struct rig_buf tx = {RIG_DATA + 4096, 100, false};
	struct device_config c = net_config();

	net_wanted = 0;
	rig_init(&from, &c);
	rig_start(&from, NET_ALL, 64);
	rig_send(&from, 1, &tx, 1);
	cr_expect_eq(net_wanted, 1);
	state_law(&c);
	while (net_wanted < 2)
		rig_step(&to);
}

Test(state, net_of_another_kind_or_address_is_refused)
{
	struct device_config c = net_config();
	struct state_io a;
	struct err e;

	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 64);
	cr_assert_eq(state_save(&from, &a, &e), 0, "%s", e.msg);
	c.net.mac[5] = 1;
	rig_init(&to, &c);
	cr_expect_eq(state_restore(&to, &a, &e), -EINVAL);
	cr_expect(strstr(e.msg, "MAC address"), "%s", e.msg);
	rig_fini(&to);
	c = net_config();
	c.net.backend = NET_TAP;
	rig_init(&to, &c);
	cr_expect_eq(state_restore(&to, &a, &e), -EINVAL);
	cr_expect(strstr(e.msg, "MTU"), "%s", e.msg);
	state_fini(&a);
}

/* --- rng, balloon ------------------------------------------------------------------- */

Test(state, rng_goes_on_where_it_was)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf b = {RIG_DATA, 32, true};

	rig_init(&from, &c);
	rig_start(&from, VERSION_1 | EVENT_IDX, 8);
	for (int i = 0; i < 5; i++) {
		rig_send(&from, 0, &b, 1);
		cr_assert_eq(rig_wait(&from, 0), 32);
	}
	state_law(&c);
	for (int i = 0; i < 20; i++) {
		rig_send(&to, 0, &b, 1);
		cr_assert_eq(rig_wait(&to, 0), 32);
	}
}

Test(state, a_notification_that_nobody_has_seen_yet_is_not_lost)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf b = {RIG_DATA, 32, true};

	rig_init(&from, &c);
	rig_start(&from, VERSION_1 | EVENT_IDX, 8);
	/* In the ring; its notification is in an eventfd, or on its way there. */
	rig_add(&from, 0, &b, 1);
	state_law(&c);
	rig_step(&to);
	cr_expect_eq(rig_wait(&to, 0), 32);
}

Test(state, an_interrupt_that_was_on_its_way_comes_again)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf b = {RIG_DATA, 32, true};

	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 8);
	rig_send(&from, 0, &b, 1);
	state_law(&c);
	cr_expect_eq(rig_irqs(&to), 1);
}

Test(state, a_device_that_is_not_started_or_half_set_up_or_broken_stays_so)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf bad = {RIG_DATA, 32, false}, good = {RIG_DATA, 32, true};

	rig_init(&from, &c);
	state_law(&c);
	state_fini_rig(&to);
	rig_set(&from, 0x70, 3);
	rig_set(&from, 0x14, 1);
	rig_set(&from, 0x24, 7);
	rig_set(&from, 0x20, 0xdeadbeef);
	rig_set(&from, 0x30, 99);
	state_law(&c);
	state_fini_rig(&to);
	rig_set(&from, 0x24, 0);
	rig_set(&from, 0x20, 0);
	rig_set(&from, 0x24, 1);
	rig_set(&from, 0x20, 1);
	rig_set(&from, 0x70, 11);
	rig_set_queue(&from, 0, 8);
	state_law(&c);
	/* The driver finishes on the other side. */
	rig_set(&to, 0x70, 15);
	rig_send(&to, 0, &good, 1);
	cr_expect_eq(rig_wait(&to, 0), 32);
	state_fini_rig(&to);
	rig_set(&from, 0x70, 15);
	rig_send(&from, 0, &bad, 1);
	cr_assert_not(device_active(from.d));
	state_law(&c);
	cr_expect_not(device_active(to.d));
	cr_expect_eq(rig_start(&to, VERSION_1, 8), 15, "its driver can reset it");
}

Test(state, balloon_keeps_target_and_actual)
{
	struct device_config c = {.kind = DEVICE_BALLOON, .balloon.target_pages = 3};
	uint32_t pfn = 0x220, actual = 1;
	struct rig_buf b = {RIG_DATA, sizeof(pfn), false};

	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 32);
	memcpy(rig_ptr(&from, RIG_DATA), &pfn, sizeof(pfn));
	rig_send(&from, 0, &b, 1);
	device_mmio_write(from.d, 0x104, &actual, 4);
	device_balloon_set_target(from.d, 512);
	/* The config of another machine is not what was set here. */
	c.balloon.target_pages = 0;
	state_law(&c);
	cr_expect_eq(device_balloon_actual(to.d), 1);
	cr_expect_eq(rig_get(&to, 0x100), 512);
}

/* --- blk ---------------------------------------------------------------------------- */

static struct fake_disk disks[2];

static struct device_config blk_config(int i)
{
	struct device_config c = {.kind = DEVICE_BLK};

	c.blk.disk = &disks[i].disk;
	return c;
}

static void blk_write(struct rig *g, uint64_t sector)
{
	struct rig_buf b[] = {
	    {RIG_DATA, 16, false}, {RIG_DATA + 0x1000, 512, false}, {RIG_DATA + 0x800, 1, true}};
	uint32_t type = 1;

	memcpy(rig_ptr(g, RIG_DATA), &type, 4);
	memcpy(rig_ptr(g, RIG_DATA + 8), &sector, 8);
	rig_send(g, 0, b, 3);
}

static void blk_setup(void)
{
	struct device_config c = blk_config(0);

	fake_disk_init(&disks[0]);
	fake_disk_init(&disks[1]);
	rig_init(&from, &c);
	rig_start(&from, VERSION_1 | EVENT_IDX | BLK_FLUSH, 16);
	for (uint64_t i = 0; i < 9; i++) {
		blk_write(&from, i);
		rig_wait(&from, 0);
	}
}

Test(state, blk_goes_on_where_it_was)
{
	struct device_config c = blk_config(1);

	blk_setup();
	state_law(&c);
	memset(rig_ptr(&to, RIG_DATA + 0x1000), 0x5a, 512);
	for (uint64_t i = 0; i < 40; i++) {
		blk_write(&to, i);
		rig_wait(&to, 0);
		cr_assert_eq(*rig_ptr(&to, RIG_DATA + 0x800), 0);
	}
	cr_expect_eq(disks[1].bytes[39 * 512], 0x5a);
}

Test(state, blk_with_requests_in_flight_is_not_saved)
{
	struct state_io io;
	struct err e;

	blk_setup();
	disks[0].hold = true;
	blk_write(&from, 3);
	/* Without the quiesce of state_save(). */
	state_save_init(&io);
	cr_expect_eq(devices_state(from.ds, &io), -EBUSY);
	cr_expect_eq(state_finish(&io, &e), -EBUSY);
	cr_expect_str_eq(e.msg, "section VIRT 0: queue 0 has 1 requests in flight");
	state_fini(&io);
	fake_disk_release(&disks[0]);
}

Test(state, a_disk_that_has_grown_is_announced_and_one_that_has_shrunk_is_refused)
{
	struct device_config c = blk_config(1);
	struct state_io io;
	struct err e;

	blk_setup();
	disks[1].disk.size_bytes = FAKE_DISK_BYTES / 2;
	rig_init(&to, &c);
	state_move_guest();
	cr_assert_eq(state_save(&from, &io, &e), 0);
	cr_expect_eq(state_restore(&to, &io, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "section VDEV 0: a disk of 512 sectors, which has 256 here");
	cr_expect_eq(rig_get(&to, 0x70), 0, "reset after a failure");
	state_fini(&io);

	state_fini_rig(&from);
	state_fini_rig(&to);
	disks[0].disk.size_bytes = FAKE_DISK_BYTES / 2;
	disks[1].disk.size_bytes = FAKE_DISK_BYTES;
	c = blk_config(0);
	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 16);
	c = blk_config(1);
	state_law(&c);
	cr_expect_eq(rig_get(&to, 0x100), 512);
	cr_expect_eq(rig_get(&to, 0x60) & 2, 2);
	cr_expect_geq(rig_irqs(&to), 1);
}

/* --- vsock -------------------------------------------------------------------------- */

static char dir[64], uds[2][96];

static struct device_config vsock_config(int i)
{
	struct device_config c = {.kind = DEVICE_VSOCK};

	if (!dir[0]) {
		strcpy(dir, "/tmp/state-test-XXXXXX");
		cr_assert(mkdtemp(dir));
		snprintf(uds[0], sizeof(uds[0]), "%s/0", dir);
		snprintf(uds[1], sizeof(uds[1]), "%s/1", dir);
	}
	c.vsock.guest_cid = CID;
	c.vsock.uds_path = uds[i];
	return c;
}

static struct rig_buf rx_buf(unsigned int i)
{
	return (struct rig_buf){RIG_DATA + i * 1024, 1024, true};
}

static struct rig_buf event_buf(unsigned int i)
{
	return (struct rig_buf){RIG_DATA + 0x10000 + i * 64, 8, true};
}

/* The next packet to the guest. */
static struct vsock_header vsock_receive(struct rig *g)
{
	struct vsock_header h;
	uint32_t id, len;

	while (!rig_used(g, VSOCK_Q_RX, &id, &len))
		rig_step(g);
	memcpy(&h, rig_ptr(g, rx_buf(id).gpa), sizeof(h));
	return h;
}

static void vsock_setup(unsigned int events)
{
	struct device_config c = vsock_config(0);

	rig_init(&from, &c);
	cr_assert_eq(rig_start(&from, VERSION_1 | EVENT_IDX, 16), 15);
	for (unsigned int i = 0; i < 16; i++) {
		struct rig_buf b = rx_buf(i);

		rig_add(&from, VSOCK_Q_RX, &b, 1);
	}
	rig_notify(&from, VSOCK_Q_RX);
	for (unsigned int i = 0; i < events; i++) {
		struct rig_buf b = event_buf(i);

		rig_add(&from, VSOCK_Q_EVENT, &b, 1);
	}
	rig_notify(&from, VSOCK_Q_EVENT);
}

static int vsock_client(struct rig *g, int i)
{
	static const char line[] = "CONNECT 1024\n";
	int fd = fd_unix_connect(uds[i], NULL);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_full(fd, line, strlen(line)), 0);
	rig_step(g);
	rig_step(g);
	return fd;
}

static void vsock_finish(void)
{
	state_teardown();
	rmdir(dir);
}

Test(state, vsock_connections_are_gone_and_the_guest_is_told_before_anything_new)
{
	struct device_config c = vsock_config(1);
	struct rig_buf b = event_buf(0);
	struct vsock_header h;
	uint32_t id, len, event = 99, first_port;
	int a, later;

	vsock_setup(4);
	a = vsock_client(&from, 0);
	first_port = vsock_receive(&from).src_port;
	state_law(&c);
	cr_assert(rig_used(&to, VSOCK_Q_EVENT, &id, &len));
	cr_expect_eq(len, 4);
	memcpy(&event, rig_ptr(&to, event_buf(id).gpa), 4);
	cr_expect_eq(event, 0, "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET");
	/* A client comes before the guest has handled it: it would be reset, too. */
	later = vsock_client(&to, 1);
	rig_step(&to);
	cr_expect_not(rig_used(&to, VSOCK_Q_RX, &id, &len));
	/* The guest gives the buffer back: with event indices it must know that we wait. */
	memcpy(&id, rig_ptr(&to, to.q[VSOCK_Q_EVENT].used_gpa + 4 + 8 * to.q[VSOCK_Q_EVENT].size),
	       2);
	cr_expect_eq((uint16_t)id, to.q[VSOCK_Q_EVENT].avail, "the next one notifies");
	rig_send(&to, VSOCK_Q_EVENT, &b, 1);
	h = vsock_receive(&to);
	cr_expect_eq(h.op, VSOCK_OP_REQUEST);
	cr_expect_neq(h.src_port, first_port, "the guest may know that one still");
	close(a);
	close(later);
	vsock_finish();
}

Test(state, vsock_news_wait_for_a_buffer)
{
	struct device_config c = vsock_config(1);
	uint32_t id, len;
	int fd;

	vsock_setup(0);
	state_law(&c);
	fd = vsock_client(&to, 1);
	cr_expect_not(rig_used(&to, VSOCK_Q_RX, &id, &len));
	for (unsigned int i = 0; i < 2; i++) {
		struct rig_buf b = event_buf(i);

		rig_send(&to, VSOCK_Q_EVENT, &b, 1);
		cr_expect_eq(rig_used(&to, VSOCK_Q_EVENT, &id, &len), i == 0);
	}
	cr_expect_eq(vsock_receive(&to).op, VSOCK_OP_REQUEST);
	/* It is told once, and nothing of it is left after a reset. */
	rig_set(&to, 0x70, 0);
	cr_expect_eq(rig_start(&to, VERSION_1, 16), 15);
	close(fd);
	vsock_finish();
}

Test(state, vsock_resets_that_wait_for_a_buffer_are_saved)
{
	struct device_config c = vsock_config(0);
	struct vsock_header h = {.src_cid = CID,
				 .dst_cid = 2,
				 .src_port = 5,
				 .dst_port = 6,
				 .type = 1,
				 .op = VSOCK_OP_REQUEST};
	struct rig_buf tx = {RIG_DATA + 0x20000, sizeof(h), false}, rx = rx_buf(0);

	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 16);
	memcpy(rig_ptr(&from, tx.gpa), &h, sizeof(h));
	rig_send(&from, VSOCK_Q_TX, &tx, 1);
	c = vsock_config(1);
	state_law(&c);
	rig_send(&to, VSOCK_Q_RX, &rx, 1);
	h = vsock_receive(&to);
	cr_expect_eq(h.op, VSOCK_OP_RST);
	cr_expect_eq(h.dst_port, 5);
	vsock_finish();
}

/* --- serial ------------------------------------------------------------------------- */

Test(state, serial_registers_are_the_same_again)
{
	struct serial a = {.irq_fd = -1}, b = {.irq_fd = -1};
	struct state_io io, again;
	struct err e;

	serial_reset(&a);
	serial_reset(&b);
	for (unsigned int p = 1; p < SERIAL_PORTS; p++)
		serial_write(&a, p, (uint8_t)(0xf1 + p));
	state_save_init(&io);
	serial_state(&a, &io);
	cr_assert_eq(state_finish(&io, &e), 0);
	cr_assert_eq(state_restore_init(&again, io.data, io.len, &e), 0);
	serial_state(&b, &again);
	cr_assert_eq(state_finish(&again, &e), 0, "%s", e.msg);
	state_save_init(&again);
	serial_state(&b, &again);
	cr_assert_eq(state_finish(&again, &e), 0);
	cr_assert_eq(again.len, io.len);
	cr_expect_arr_eq(again.data, io.data, io.len);
	for (unsigned int p = 0; p < SERIAL_PORTS; p++)
		cr_expect_eq(serial_read(&a, p), serial_read(&b, p));
	state_fini(&io);
	state_fini(&again);
}

/* --- hostile states ------------------------------------------------------------------- */

struct lie {
	unsigned int at; /* in the payload of VIRT 0, of a started rng */
	uint64_t value;
	unsigned int bytes;
	int rc;
	const char *why;
};

/* The state of a started rng whose transport says something else. */
static void lying_state(struct state_io *out, const struct state_io *saved, const struct lie *l)
{
	struct state_io in;
	uint8_t payload[256];
	size_t n;

	cr_assert_eq(state_restore_init(&in, saved->data, saved->len, NULL), 0);
	state_save_init(out);
	cr_assert(state_begin(out, STATE_TAG('D', 'E', 'V', 'S'), 0, 1, STATE_MANDATORY));
	state_expect(out, 1, "devices");
	state_end(out);
	cr_assert(state_begin(&in, STATE_TAG('V', 'I', 'R', 'T'), 0, 1, STATE_MANDATORY));
	n = state_left(&in);
	state_bytes(&in, payload, n);
	memcpy(payload + l->at, &l->value, l->bytes);
	cr_assert(state_begin(out, STATE_TAG('V', 'I', 'R', 'T'), 0, 1, STATE_MANDATORY));
	state_bytes(out, payload, n);
	state_end(out);
	cr_assert_eq(state_finish(out, NULL), 0);
}

Test(state, a_hostile_state_is_refused_and_leaves_the_device_at_power_on)
{
	enum { STATUS = 36, INT_STATUS = 40, READY = 48, SIZE = 49, DESC = 53, STARTED = 77 };
	enum { LAST_AVAIL = 79, USED = 81 };
	static const struct lie table[] = {
	    {0, 2, 8, -EINVAL, "kind of the device: 2 in the saved state, 4 here"},
	    {8, 2, 8, -EINVAL, "queues of the device: 2 in the saved state, 1 here"},
	    {16, 1, 1, -ENOTSUP, "the driver uses features 0x1, which are not offered"},
	    {STATUS, 4, 4, -EINVAL, "impossible status 0x4, interrupt status 0x1"},
	    {STATUS, 0x100, 4, -EINVAL, "impossible status 0x100, interrupt status 0x1"},
	    {STATUS, 3, 4, -EINVAL, "queue 0 is started at status 0x3"},
	    {INT_STATUS, 4, 4, -EINVAL, "impossible status 0xf, interrupt status 0x4"},
	    {READY, 0, 1, -EINVAL, "queue 0 is started at status 0xf"},
	    {READY, 2, 1, -EINVAL, "a flag has the value 2"},
	    {STARTED, 0, 1, -EINVAL, "queue 0 is not started at status 0xf"},
	    {SIZE, 16, 4, -EINVAL, "the size or an address of queue 0 is not allowed"},
	    {SIZE, 7, 4, -EINVAL, "the size or an address of queue 0 is not allowed"},
	    {SIZE, 0, 4, -EINVAL, "the size or an address of queue 0 is not allowed"},
	    {DESC, RIG_LOW_BYTES, 8, -EINVAL, "the size or an address of queue 0 is not allowed"},
	    {DESC + 8, UINT64_MAX - 1, 8, -EINVAL,
	     "the size or an address of queue 0 is not allowed"},
	    {DESC + 16, RIG_LOW_BYTES - 8, 8, -EINVAL,
	     "the size or an address of queue 0 is not allowed"},
	    {LAST_AVAIL, 9, 2, -EINVAL, "a queue with 9 taken, 1 returned, 0 in flight"},
	    {USED + 4, 1, 2, -EINVAL, "a queue with 1 taken, 1 returned, 1 in flight"},
	};
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf b = {RIG_DATA, 32, true};
	struct state_io saved;
	struct err e;

	rig_init(&from, &c);
	rig_start(&from, VERSION_1, 8);
	rig_send(&from, 0, &b, 1);
	cr_assert_eq(state_save(&from, &saved, &e), 0);
	rig_init(&to, &c);
	state_move_guest();
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct state_io io;
		char want[160];

		lying_state(&io, &saved, &table[i]);
		cr_expect_eq(state_restore(&to, &io, &e), table[i].rc, "%zu", i);
		snprintf(want, sizeof(want), "section VIRT 0: %s", table[i].why);
		cr_expect_str_eq(e.msg, want, "%zu: %s", i, e.msg);
		cr_expect_eq(rig_get(&to, 0x70), 0);
		cr_expect_not(to.d->queues[0].q.started);
		state_fini(&io);
	}
	cr_expect_eq(state_restore(&to, &saved, &e), 0, "%s", e.msg);
	state_fini(&saved);
}

Test(state, other_devices_are_refused)
{
	struct device_config rng = {.kind = DEVICE_RNG}, balloon = {.kind = DEVICE_BALLOON};
	struct state_io io;
	struct err e;

	rig_init(&from, &rng);
	rig_init(&to, &balloon);
	cr_assert_eq(state_save(&from, &io, &e), 0);
	cr_expect_eq(state_restore(&to, &io, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "section VIRT 0: kind of the device: 4 in the saved state, 5 here");
	state_fini(&io);
}

static struct devices *make_set(const struct device_config *c, unsigned int n)
{
	struct devices_env env = {.mem = &from.mem, .loop = &from.loop};
	struct devices *ds;
	struct err e;

	cr_assert_eq(devices_create(&ds, &env, c, n, &e), 0, "%s", e.msg);
	return ds;
}

static int restore_set(struct devices *ds, const struct state_io *saved, struct err *e)
{
	struct state_io io;

	cr_assert_eq(state_restore_init(&io, saved->data, saved->len, e), 0);
	devices_state(ds, &io);
	return state_finish(&io, e);
}

static void save_set(struct devices *ds, struct state_io *saved)
{
	struct err e;

	state_save_init(saved);
	devices_state(ds, saved);
	cr_assert_eq(state_finish(saved, &e), 0, "%s", e.msg);
}

/* Machines of before mem and net go on without them. */
Test(state, devices_that_a_saved_machine_did_not_have_are_at_power_on)
{
	struct device_config set[] = {
	    {.kind = DEVICE_RNG},
	    {.kind = DEVICE_BALLOON, .balloon.target_pages = 77},
	    {.kind = DEVICE_MEM, .mem = {.gpa = 1ULL << 40, .region_bytes = DEVICE_MEM_BLOCK}},
	    net_config(),
	};
	struct devices *now, *then;
	struct state_io saved;
	struct err e;

	rig_init(&from, &set[0]);
	now = make_set(set, 4);
	for (unsigned int n = 1; n <= 4; n++) {
		then = make_set(set, n);
		save_set(then, &saved);
		if (n == 1) {
			cr_expect_eq(restore_set(now, &saved, &e), -EINVAL);
			cr_expect(strstr(e.msg, "1 in the saved state, 4 here"), "%s", e.msg);
		} else {
			cr_expect_eq(restore_set(now, &saved, &e), 0, "%s", e.msg);
		}
		cr_expect_not(device_active(devices_get(now, 2)));
		cr_expect_not(device_active(devices_get(now, 3)));
		state_fini(&saved);
		devices_destroy(then);
	}
	/* The other way round it is refused: its drivers would have nobody to talk to. */
	then = make_set(set, 2);
	save_set(now, &saved);
	cr_expect_eq(restore_set(then, &saved, &e), -EINVAL);
	cr_expect(strstr(e.msg, "4 in the saved state, 2 here"), "%s", e.msg);
	state_fini(&saved);
	devices_destroy(then);
	devices_destroy(now);
}
