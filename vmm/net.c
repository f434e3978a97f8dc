/* SPDX-License-Identifier: Apache-2.0 */
/* The network device, as controllers and the command line see it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/json.h"
#include "vmm/control.h"
#include "vmm/vm.h"

static struct device *device_of(const struct vm *vm, struct err *e)
{
	struct device *d = vm->devices ? devices_find(vm->devices, DEVICE_NET) : NULL;

	if (!d)
		err_set(e, -ENODEV, "the machine has no network device");
	return d;
}

/* --- the device ------------------------------------------------------------------------ */

static void on_wanted(void *opaque)
{
	control_event(opaque, json_pack("{ss}", "event", "net_wanted"));
}

void net_device_config(struct vm *vm, struct device_config *c)
{
	c->kind = DEVICE_NET;
	c->net.backend = vm->shape.net.backend;
	memcpy(c->net.mac, vm->shape.net.mac, sizeof(c->net.mac));
	c->net.on_wanted = on_wanted;
	c->net.opaque = vm;
}

int net_open_tap(struct vm *vm, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const char *name = vm->config.tap;
	struct device *d = device_of(vm, e);
	int fd;

	if (!d)
		return -ENODEV;
	if (strlen(name) >= sizeof(ifr.ifr_name))
		return err_set(e, -EINVAL, "--net: \"%.32s\" is longer than a name can be", name);
	memcpy(ifr.ifr_name, name, strlen(name));
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, -errno, "/dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		int rc = -errno;

		close(fd);
		return err_sys(e, rc, "tap device %s", name);
	}
	return device_net_attach(d, NET_TAP, fd, e);
}

/* --- operations -------------------------------------------------------------------------- */

struct attach_body {
	int64_t id;
	const char *op, *kind;
};

static const struct json_field attach_fields[] = {
    JSON_FIELD(struct attach_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct attach_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct attach_body, kind, "kind", JSON_F_STRING, .flags = JSON_REQUIRED),
};

int op_net_attach(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct attach_body b;
	struct device *d;
	int rc = json_bind(body, attach_fields, 3, JSON_REFUSE_UNKNOWN, &b, e);
	bool tap;

	(void)answer;
	if (rc)
		return rc;
	tap = !strcmp(b.kind, "tap");
	if (!tap && strcmp(b.kind, "user"))
		return err_set(e, -EINVAL, "kind: must be \"user\" or \"tap\"");
	d = device_of(vm, e);
	if (!d)
		return -ENODEV;
	if (!vm->request_passed_fd || *vm->request_passed_fd < 0)
		return err_set(e, -EBADF, "no descriptor came with the request");
	return device_net_attach(d, tap ? NET_TAP : NET_USER, fd_steal(vm->request_passed_fd), e);
}

int op_net_detach(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct device *d = device_of(vm, e);

	(void)body;
	(void)answer;
	if (!d)
		return -ENODEV;
	device_net_detach(d);
	return 0;
}

/* A terabyte a second: more than anybody has, and far from where numbers end. */
#define RATE_MAX 1000000000000LL

struct limits_body {
	int64_t id;
	const char *op;
	json_t *in, *out;
};

static const struct json_field limits_fields[] = {
    JSON_FIELD(struct limits_body, id, "id", JSON_F_INT),
    JSON_FIELD(struct limits_body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct limits_body, in, "in", JSON_F_OBJECT),
    JSON_FIELD(struct limits_body, out, "out", JSON_F_OBJECT),
};

struct limit_body {
	int64_t bytes_per_s, frames_per_s;
};

static const struct json_field limit_fields[] = {
    JSON_FIELD(struct limit_body, bytes_per_s, "bytes_per_s", JSON_F_INT, .min = 0,
	       .max = RATE_MAX),
    JSON_FIELD(struct limit_body, frames_per_s, "frames_per_s", JSON_F_INT, .min = 0,
	       .max = RATE_MAX),
};

static int read_limit(json_t *obj, const char *name, struct net_limit *out, struct err *e)
{
	struct limit_body b = {0};
	int rc = obj ? json_bind(obj, limit_fields, 2, JSON_REFUSE_UNKNOWN, &b, e) : 0;

	if (rc)
		return err_wrap(e, rc, "%s", name);
	out->bytes_per_s = (uint64_t)b.bytes_per_s;
	out->frames_per_s = (uint64_t)b.frames_per_s;
	return 0;
}

int op_net_limits(struct vm *vm, json_t *body, json_t *answer, struct err *e)
{
	struct limits_body b = {0};
	struct net_limit in, out;
	struct device *d;
	int rc = json_bind(body, limits_fields, 4, JSON_REFUSE_UNKNOWN, &b, e);

	(void)answer;
	if (!rc)
		rc = read_limit(b.in, "in", &in, e);
	if (!rc)
		rc = read_limit(b.out, "out", &out, e);
	if (rc)
		return rc;
	d = device_of(vm, e);
	if (!d)
		return -ENODEV;
	device_net_limit(d, &in, &out);
	return 0;
}

/* --- what is told of it --------------------------------------------------------------------- */

static json_t *limit_info(const struct net_limit *l)
{
	return json_pack("{sIsI}", "bytes_per_s", (json_int_t)l->bytes_per_s, "frames_per_s",
			 (json_int_t)l->frames_per_s);
}

json_t *net_info(const struct vm *vm)
{
	struct device *d = device_of(vm, NULL);
	struct net_info i;

	if (!d)
		return json_null();
	device_net_info(d, &i);
	return json_pack("{sssbsbsis{soso}}", "backend", i.backend == NET_TAP ? "tap" : "user",
			 "attached", i.attached, "wanted", i.wanted, "mtu", (int)i.mtu, "limits",
			 "in", limit_info(&i.in), "out", limit_info(&i.out));
}

int net_metrics(const struct vm *vm, json_t *metrics)
{
	struct device *d = device_of(vm, NULL);
	struct net_info i = {0};

	if (!d)
		return 0;
	device_net_info(d, &i);
	return json_object_update_new(
	    metrics,
	    json_pack("{sIsIsIsIsIsI}", "net_in_frames_total", (json_int_t)i.in_frames,
		      "net_in_bytes_total", (json_int_t)i.in_bytes, "net_in_dropped_total",
		      (json_int_t)i.in_dropped, "net_out_frames_total", (json_int_t)i.out_frames,
		      "net_out_bytes_total", (json_int_t)i.out_bytes, "net_out_dropped_total",
		      (json_int_t)i.out_dropped));
}
