/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From what a controller or a command line says to a struct vm_config. Both go
 * through one JSON object, so that there is one place that checks.
 */
#include "vmm/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/config_int.h"

#define NET_DEFAULT_MAC "02:6f:63:00:00:01"
#define DISK_MAX_MIB	(16 << 20) /* 16 TiB, the limit of ext4 with 4 KiB blocks */

/*
 * What saves boot time: no probing of UARTs that are not there, no calibration, no
 * self-tests, no other file system tried for the root. noreplace-smp: a kernel with one
 * CPU would else patch away the LOCK prefixes at 8192 places, each by way of a temporary
 * address space. dummy.numdummies=0: the interface that nobody asked for. reboot=k resets through
 * the keyboard controller, at the first try; panic=-1 does so at once. The last two: memory that is
 * added is used, most of it for what can be moved, so that it can be taken away again.
 */
#define CMDLINE_COMMON                                                                             \
	"init=/sbin/dormouse-agent console=ttyS0 quiet reboot=k panic=-1 8250.nr_uarts=1 "         \
	"i8042.noaux i8042.nomux i8042.dumbkbd no_timer_check tsc=reliable random.trust_cpu=on "   \
	"cryptomgr.notests rootfstype=ext4 noreplace-smp dummy.numdummies=0 "                      \
	"memhp_default_state=online "                                                              \
	"memory_hotplug.online_policy=auto-movable"

struct body {
	json_int_t id;
	const char *op, *kernel, *cmdline, *append, *console, *cpu;
	int64_t memory_mib, cpus;
	json_t *disks, *vsock, *net;
	bool trace_exits;
	/* From here on for "restore" alone. */
	const char *state, *ram, *ram_format;
	bool resume;
};

static const struct json_field body_fields[] = {
    JSON_FIELD(struct body, id, "id", JSON_F_INT),
    JSON_FIELD(struct body, op, "op", JSON_F_STRING),
    JSON_FIELD(struct body, kernel, "kernel", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct body, memory_mib, "memory_mib", JSON_F_INT, .min = VM_MEMORY_MIN_MIB,
	       .max = VM_MEMORY_MAX_MIB),
    JSON_FIELD(struct body, cpus, "cpus", JSON_F_INT, .min = 1, .max = VM_MAX_CPUS),
    JSON_FIELD(struct body, cmdline, "cmdline", JSON_F_STRING),
    JSON_FIELD(struct body, append, "append", JSON_F_STRING),
    JSON_FIELD(struct body, console, "console", JSON_F_STRING, .flags = JSON_NONEMPTY),
    JSON_FIELD(struct body, disks, "disks", JSON_F_ARRAY),
    JSON_FIELD(struct body, vsock, "vsock", JSON_F_OBJECT),
    JSON_FIELD(struct body, net, "net", JSON_F_OBJECT),
    JSON_FIELD(struct body, trace_exits, "trace_exits", JSON_F_BOOL),
    JSON_FIELD(struct body, cpu, "cpu", JSON_F_STRING),
    JSON_FIELD(struct body, state, "state", JSON_F_STRING, .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct body, ram, "ram", JSON_F_STRING, .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct body, ram_format, "ram_format", JSON_F_STRING),
    JSON_FIELD(struct body, resume, "resume", JSON_F_BOOL),
};
#define RESTORE_FIELDS	 (sizeof(body_fields) / sizeof(body_fields[0]))
#define CONFIGURE_FIELDS (RESTORE_FIELDS - 4)

struct disk_body {
	const char *path, *overlay;
	json_t *layers;
	int64_t size_mib;
	bool read_only;
};

static const struct json_field disk_fields[] = {
    JSON_FIELD(struct disk_body, path, "path", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct disk_body, layers, "layers", JSON_F_ARRAY),
    JSON_FIELD(struct disk_body, overlay, "overlay", JSON_F_STRING, .flags = JSON_NONEMPTY),
    JSON_FIELD(struct disk_body, size_mib, "size_mib", JSON_F_INT, .min = 1, .max = DISK_MAX_MIB),
    JSON_FIELD(struct disk_body, read_only, "read_only", JSON_F_BOOL),
};

struct vsock_body {
	const char *path;
	int64_t cid;
};

static const struct json_field vsock_fields[] = {
    JSON_FIELD(struct vsock_body, path, "path", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct vsock_body, cid, "cid", JSON_F_INT, .min = 3, .max = 0xfffffffe),
};

void vm_config_init(struct vm_config *c)
{
	*c = (struct vm_config){.memory_mib = 512, .cpus = 1, .vsock_cid = 3};
}

void vm_config_fini(struct vm_config *c)
{
	free(c->kernel);
	free(c->cmdline);
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++) {
		free(c->disks[i].path);
		free(c->disks[i].overlay);
		for (unsigned int k = 0; k < c->disks[i].layers_n; k++)
			free(c->disks[i].layers[k]);
		free(c->disks[i].layers);
	}
	free(c->vsock_path);
	free(c->tap);
	free(c->console);
	*c = (struct vm_config){0};
}

int config_copy(char **out, const char *s, struct err *e)
{
	if (!s)
		return 0;
	*out = strdup(s);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int read_layers(json_t *list, struct vm_disk_config *d, struct err *e)
{
	size_t n = json_array_size(list);

	if (n > VM_MAX_LAYERS)
		return err_set(e, -EINVAL, "layers: %zu are more than %d", n, VM_MAX_LAYERS);
	d->layers = n ? calloc(n, sizeof(*d->layers)) : NULL;
	if (n && !d->layers)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const char *path = json_string_value(json_array_get(list, i));
		int rc;

		if (!path || !*path)
			return err_set(e, -EINVAL, "layers[%zu]: not a path", i);
		rc = config_copy(&d->layers[i], path, e);
		if (rc)
			return rc;
		d->layers_n = (unsigned int)i + 1;
	}
	return 0;
}

static int read_disk(json_t *item, unsigned int i, struct vm_disk_config *d, struct err *e)
{
	struct disk_body b = {0};
	int rc = CONFIG_BIND(item, disk_fields, &b, e);

	if (rc)
		return err_wrap(e, rc, "disks[%u]", i);
	if (b.read_only && b.overlay)
		return err_set(e, -EINVAL, "disks[%u]: a read-only disk has no overlay", i);
	if (!b.overlay && b.size_mib)
		return err_set(e, -EINVAL, "disks[%u]: size_mib needs an overlay", i);
	d->size_mib = (uint64_t)b.size_mib;
	d->read_only = b.read_only || !b.overlay;
	rc = config_copy(&d->path, b.path, e);
	if (!rc)
		rc = config_copy(&d->overlay, b.overlay, e);
	if (!rc)
		rc = read_layers(b.layers, d, e);
	return rc ? err_wrap(e, rc, "disks[%u]", i) : 0;
}

int config_read_disks(json_t *list, struct vm_config *c, struct err *e)
{
	size_t n = json_array_size(list);

	if (n > VM_MAX_DISKS)
		return err_set(e, -EINVAL, "disks: %zu are more than %d", n, VM_MAX_DISKS);
	for (size_t i = 0; i < n; i++) {
		int rc;

		c->disks_n = (unsigned int)i + 1;
		rc = read_disk(json_array_get(list, i), (unsigned int)i, &c->disks[i], e);
		if (rc)
			return rc;
	}
	return 0;
}

static int read_vsock(json_t *obj, struct vm_config *c, struct err *e)
{
	struct vsock_body b = {.cid = 3};
	int rc;

	if (!obj)
		return 0;
	rc = CONFIG_BIND(obj, vsock_fields, &b, e);
	if (rc)
		return err_wrap(e, rc, "vsock");
	c->vsock_cid = (uint32_t)b.cid;
	return config_copy(&c->vsock_path, b.path, e);
}

static int read_mac(const char *text, uint8_t mac[NET_MAC_BYTES], struct err *e)
{
	unsigned int b[NET_MAC_BYTES];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &end) != NET_MAC_BYTES ||
	    end != NET_MAC_BYTES * 3 - 1 || text[end] || (b[0] & 1))
		return err_set(e, -EINVAL, "mac: \"%.32s\" is not the address of one interface",
			       text);
	for (unsigned int i = 0; i < NET_MAC_BYTES; i++)
		mac[i] = (uint8_t)b[i];
	return 0;
}

struct net_body {
	const char *mac, *backend;
};

static const struct json_field net_fields[] = {
    JSON_FIELD(struct net_body, mac, "mac", JSON_F_STRING),
    JSON_FIELD(struct net_body, backend, "backend", JSON_F_STRING, .flags = JSON_REQUIRED),
};

int config_read_net(json_t *obj, struct vm_net_config *c, struct err *e)
{
	struct net_body b = {.mac = NET_DEFAULT_MAC};
	int rc;

	*c = (struct vm_net_config){0};
	if (!obj)
		return 0;
	rc = CONFIG_BIND(obj, net_fields, &b, e);
	if (!rc)
		rc = read_mac(b.mac, c->mac, e);
	if (!rc && strcmp(b.backend, "user") && strcmp(b.backend, "tap"))
		rc = err_set(e, -EINVAL, "backend: must be \"user\" or \"tap\"");
	if (rc)
		return err_wrap(e, rc, "net");
	c->present = true;
	c->backend = strcmp(b.backend, "tap") ? NET_USER : NET_TAP;
	return 0;
}

/* The first disk is the root, writable if the disk is. */
static int make_cmdline(const struct body *b, struct vm_config *c, struct err *e)
{
	const char *root = "";
	int n;

	if (b->cmdline && b->append)
		return err_set(e, -EINVAL, "append: has no meaning beside cmdline");
	if (c->disks_n)
		root = c->disks[0].read_only ? "root=/dev/vda ro " : "root=/dev/vda rw ";
	if (b->cmdline)
		n = asprintf(&c->cmdline, "%s", b->cmdline);
	else
		n = asprintf(&c->cmdline, "%s" CMDLINE_COMMON "%s%s", root, b->append ? " " : "",
			     b->append ? b->append : "");
	if (n < 0) {
		c->cmdline = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (n >= VM_CMDLINE_BYTES)
		return err_set(e, -EINVAL, "cmdline: longer than %d bytes", VM_CMDLINE_BYTES - 1);
	return 0;
}

static int read_cpu(const char *model, struct vm_config *c, struct err *e)
{
	c->host_cpu = model && !strcmp(model, "host");
	if (!model || c->host_cpu || !strcmp(model, "baseline"))
		return 0;
	return err_set(e, -EINVAL, "cpu: must be \"baseline\" or \"host\"");
}

static int read_body(json_t *obj, size_t fields, struct body *b, struct vm_config *out,
		     struct err *e)
{
	int rc;

	vm_config_init(out);
	rc = json_bind(obj, body_fields, fields, JSON_REFUSE_UNKNOWN, b, e);
	if (rc)
		return rc;
	if (b->memory_mib % VM_MEMORY_STEP_MIB)
		return err_set(e, -EINVAL, "memory_mib: %lld is not a multiple of %d",
			       (long long)b->memory_mib, VM_MEMORY_STEP_MIB);
	out->memory_mib = (uint64_t)b->memory_mib;
	out->cpus = (unsigned int)b->cpus;
	out->trace_exits = b->trace_exits;
	rc = read_cpu(b->cpu, out, e);
	if (!rc)
		rc = config_copy(&out->kernel, b->kernel, e);
	if (!rc)
		rc = config_copy(&out->console, b->console, e);
	if (!rc)
		rc = config_read_disks(b->disks, out, e);
	if (!rc)
		rc = read_vsock(b->vsock, out, e);
	if (!rc)
		rc = config_read_net(b->net, &out->net, e);
	return rc ? rc : make_cmdline(b, out, e);
}

int config_from_json(json_t *obj, struct vm_config *out, struct err *e)
{
	struct body b = {.memory_mib = 512, .cpus = 1};

	return read_body(obj, CONFIGURE_FIELDS, &b, out, e);
}

int config_restore_from_json(json_t *obj, struct vm_config *c, struct vm_saved *s, bool *resume,
			     struct err *e)
{
	struct body b = {.memory_mib = 512, .cpus = 1, .resume = true};
	int rc = read_body(obj, RESTORE_FIELDS, &b, c, e);

	*s = (struct vm_saved){0};
	*resume = b.resume;
	return rc ? rc : config_saved(b.state, b.ram, b.ram_format, s, e);
}

/* --- the command line ------------------------------------------------------------------- */

static int add_int(json_t *body, const char *name, const char *option, const char *text,
		   struct err *e)
{
	char *end;
	long long v;

	errno = 0;
	v = strtoll(text, &end, 10);
	if (errno || end == text || *end)
		return err_set(e, -EINVAL, "%s: \"%s\" is not a number", option, text);
	return json_object_set_new(body, name, json_integer(v))
		   ? err_set(e, -ENOMEM, "out of memory")
		   : 0;
}

static int add_string(json_t *body, const char *name, const char *option, const char *text,
		      struct err *e)
{
	return json_object_set_new(body, name, json_string(text))
		   ? err_set(e, -EINVAL, "%s: not UTF-8", option)
		   : 0;
}

/* FILE[,overlay=FILE][,size=MIB][,ro] */
static int add_disk(json_t *body, const char *text, struct err *e)
{
	char *copied = strdup(text), *rest = copied, *word;
	json_t *disks = json_object_get(body, "disks"), *disk = json_object();
	int rc = 0;

	if (!disks && !json_object_set_new(body, "disks", json_array()))
		disks = json_object_get(body, "disks");
	if (!copied || !disk || !disks || json_array_append_new(disks, disk)) {
		free(copied);
		return err_set(e, -ENOMEM, "out of memory");
	}
	word = strsep(&rest, ",");
	rc = add_string(disk, "path", "--disk", word, e);
	while (!rc && (word = strsep(&rest, ","))) {
		if (!strncmp(word, "overlay=", 8))
			rc = add_string(disk, "overlay", "--disk", word + 8, e);
		else if (!strncmp(word, "size=", 5))
			rc = add_int(disk, "size_mib", "--disk size", word + 5, e);
		else if (!strcmp(word, "ro"))
			json_object_set_new(disk, "read_only", json_true());
		else
			rc = err_set(e, -EINVAL, "--disk: unknown word \"%.64s\"", word);
	}
	free(copied);
	return rc;
}

/* tap=NAME */
static int add_net(json_t *body, const char *text, const char **tap, struct err *e)
{
	if (strncmp(text, "tap=", 4) || !text[4])
		return err_set(e, -EINVAL, "--net: must be tap=NAME");
	*tap = text + 4;
	return json_object_set_new(body, "net", json_pack("{ss}", "backend", "tap"))
		   ? err_set(e, -ENOMEM, "out of memory")
		   : 0;
}

static int add_option(json_t *body, const char *name, const char *value, const char **socket,
		      const char **tap, struct err *e)
{
	if (!strcmp(name, "--kernel"))
		return add_string(body, "kernel", name, value, e);
	if (!strcmp(name, "--disk"))
		return add_disk(body, value, e);
	if (!strcmp(name, "--memory"))
		return add_int(body, "memory_mib", name, value, e);
	if (!strcmp(name, "--cpus"))
		return add_int(body, "cpus", name, value, e);
	if (!strcmp(name, "--cmdline"))
		return add_string(body, "cmdline", name, value, e);
	if (!strcmp(name, "--append"))
		return add_string(body, "append", name, value, e);
	if (!strcmp(name, "--console"))
		return add_string(body, "console", name, value, e);
	if (!strcmp(name, "--vsock"))
		return json_object_set_new(body, "vsock", json_pack("{ss}", "path", value))
			   ? err_set(e, -EINVAL, "--vsock: not UTF-8")
			   : 0;
	if (!strcmp(name, "--net"))
		return add_net(body, value, tap, e);
	if (!strcmp(name, "--socket")) {
		*socket = value;
		return 0;
	}
	return err_set(e, -EINVAL, "unknown option %s", name);
}

int config_from_args(int argc, char **argv, struct vm_config *out, const char **socket,
		     struct err *e)
{
	json_t *body = json_pack("{ss}", "console", "-");
	int rc = body ? 0 : err_set(e, -ENOMEM, "out of memory");
	const char *tap = NULL;

	vm_config_init(out);
	*socket = NULL;
	for (int i = 0; i < argc && !rc; i++) {
		if (!strcmp(argv[i], "--trace-exits"))
			json_object_set_new(body, "trace_exits", json_true());
		else if (strncmp(argv[i], "--", 2))
			rc = err_set(e, -EINVAL, "unexpected argument \"%.64s\"", argv[i]);
		else if (i + 1 == argc)
			rc = err_set(e, -EINVAL, "%s needs a value, or is unknown", argv[i]);
		else {
			rc = add_option(body, argv[i], argv[i + 1], socket, &tap, e);
			i++;
		}
	}
	if (!rc)
		rc = config_from_json(body, out, e);
	if (!rc)
		rc = config_copy(&out->tap, tap, e);
	json_decref(body);
	return rc;
}
