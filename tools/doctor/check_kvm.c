/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of /dev/kvm: present and allowed, fast, with the capabilities we use. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "lib/fd.h"
#include "tools/doctor/doctor.h"

#define NO_GUESTS "no guest runs on this machine; tests use the lab (slow, for development only)"

static const char *open_fix(int error)
{
	switch (error) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return "switch on virtualization in the firmware (or nested virtualization of "
		       "the cloud instance), then: modprobe kvm_intel || modprobe kvm_amd";
	case EACCES:
	case EPERM:
		return "usermod -aG kvm $USER and log in again; in a container: --device /dev/kvm";
	default:
		return "look into the kernel log: dmesg | grep -i kvm";
	}
}

/* Return: a descriptor, or -1 with the verdict in @r. */
static int open_kvm(struct check_result *r)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		check_not_ok(r, CHECK_MISSING, NO_GUESTS, open_fix(errno), "/dev/kvm: %s",
			     strerror(errno));
	return fd;
}

void check_kvm_device(const struct doctor_options *o, struct check_result *r)
{
	cleanup_close int fd = open_kvm(r);
	int version;

	(void)o;
	if (fd < 0)
		return;
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		check_not_ok(r, CHECK_MISSING, NO_GUESTS, "use Linux 5.10 or newer",
			     "KVM API version %d, not %d", version, KVM_API_VERSION);
	else
		check_ok(r, "/dev/kvm opens, API version %d", version);
}

/* A hint only: the flag says what the processor offers, the loop what KVM does with it. */
static const char *cpu_flag(void)
{
	cleanup_free char *text = NULL;
	char *flags, *end;

	if (fd_read_file(AT_FDCWD, "/proc/cpuinfo", 1 << 20, &text, NULL) < 0)
		return "unknown";
	flags = strstr(text, "\nflags");
	if (!flags)
		return "no vmx or svm";
	end = strchr(flags + 1, '\n');
	if (end)
		*end = '\0';
	if (strstr(flags, " vmx"))
		return "vmx";
	return strstr(flags, " svm") ? "svm" : "no vmx or svm";
}

void check_kvm_speed(const struct doctor_options *o, struct check_result *r)
{
	cleanup_close int fd = open_kvm(r);
	const char *why = "";
	double ns = -1;
	int rc;

	(void)o;
	if (fd < 0)
		return;
	rc = speed_probe_run(fd, &ns, &why);
	if (rc < 0) {
		check_not_ok(r, CHECK_MISSING, NO_GUESTS,
			     "use a machine (or instance type) with VMX or SVM", "%s: %s (CPU: %s)",
			     why, strerror(-rc), cpu_flag());
		return;
	}
	r->ns_per_turn = ns;
	switch (doctor_speed_status(ns)) {
	case CHECK_OK:
		check_ok(r, "guest kernel code runs on hardware: %.2f ns per turn (CPU: %s)", ns,
			 cpu_flag());
		break;
	case CHECK_DEGRADED:
		check_not_ok(r, CHECK_DEGRADED, "guests run, slowly",
			     "check that nothing else uses all CPUs; avoid nested emulation",
			     "guest kernel code is slow: %.0f ns per turn (CPU: %s)", ns,
			     cpu_flag());
		break;
	case CHECK_MISSING:
		check_not_ok(r, CHECK_MISSING, NO_GUESTS,
			     "use a machine (or instance type) with VMX or SVM; for development "
			     "and tests: tools/lab/lab",
			     "guest kernel code is interpreted: %.0f ns per turn (CPU: %s)", ns,
			     cpu_flag());
		break;
	}
}

struct cap {
	int number;
	int at_least;
	bool required;
	const char *name;
};

/* Required: dormouse-vmm does not start a guest without it. Others: named features. */
static const struct cap caps[] = {
    {KVM_CAP_USER_MEMORY, 1, true, "USER_MEMORY"},
    {KVM_CAP_NR_MEMSLOTS, 8, true, "NR_MEMSLOTS"},
    {KVM_CAP_SYNC_MMU, 1, true, "SYNC_MMU"},
    {KVM_CAP_EXT_CPUID, 1, true, "EXT_CPUID"},
    {KVM_CAP_NR_VCPUS, 1, true, "NR_VCPUS"},
    {KVM_CAP_IRQCHIP, 1, true, "IRQCHIP"},
    {KVM_CAP_SPLIT_IRQCHIP, 1, true, "SPLIT_IRQCHIP"},
    {KVM_CAP_IRQ_ROUTING, 1, true, "IRQ_ROUTING"},
    {KVM_CAP_IRQFD, 1, true, "IRQFD"},
    {KVM_CAP_SIGNAL_MSI, 1, true, "SIGNAL_MSI"},
    {KVM_CAP_IOEVENTFD, 1, true, "IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, 1, true, "IMMEDIATE_EXIT"},
    {KVM_CAP_MP_STATE, 1, true, "MP_STATE"},
    {KVM_CAP_TSC_DEADLINE_TIMER, 1, true, "TSC_DEADLINE_TIMER"},
    {KVM_CAP_XSAVE, 1, true, "XSAVE"},
    {KVM_CAP_XCRS, 1, true, "XCRS"},
    {KVM_CAP_VCPU_EVENTS, 1, true, "VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, 1, true, "DEBUGREGS"},
    {KVM_CAP_ADJUST_CLOCK, 1, true, "ADJUST_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, 1, true, "GET_TSC_KHZ"},
    {KVM_CAP_MAX_VCPUS, 4, false, "MAX_VCPUS >= 4 (sandboxes with 4 CPUs)"},
    {KVM_CAP_TSC_CONTROL, 1, false, "TSC_CONTROL (snapshots to a CPU of another frequency)"},
    {KVM_CAP_KVMCLOCK_CTRL, 1, false, "KVMCLOCK_CTRL (no soft lockup report after a pause)"},
    {KVM_CAP_X2APIC_API, 1, false, "X2APIC_API (more than 255 CPUs)"},
};

void check_kvm_caps(const struct doctor_options *o, struct check_result *r)
{
	cleanup_close int fd = open_kvm(r);
	char lacking[150] = "";
	bool missing = false;
	size_t len = 0;

	(void)o;
	if (fd < 0)
		return;
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		if (ioctl(fd, KVM_CHECK_EXTENSION, caps[i].number) >= caps[i].at_least)
			continue;
		missing |= caps[i].required;
		if (len < sizeof(lacking))
			len += (size_t)snprintf(lacking + len, sizeof(lacking) - len, "%s%s",
						len ? ", " : "", caps[i].name);
	}
	if (!len)
		check_ok(r, "all %zu present", sizeof(caps) / sizeof(caps[0]));
	else
		check_not_ok(r, missing ? CHECK_MISSING : CHECK_DEGRADED,
			     missing ? NO_GUESTS : "the features named are not available",
			     missing ? "use Linux 5.10 or newer on bare metal or with nested "
				       "virtualization"
				     : "none needed, unless you want these: they depend on the "
				       "processor and on the host of a cloud instance",
			     "lacking: %s", lacking);
}

static char param(const char *path)
{
	char c = '?';
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, &c, 1) != 1)
		return '?';
	return c;
}

void check_kvm_paging(const struct doctor_options *o, struct check_result *r)
{
	char ept = param("/sys/module/kvm_intel/parameters/ept");
	char npt = param("/sys/module/kvm_amd/parameters/npt");

	(void)o;
	if (ept == 'Y' || ept == '1')
		check_ok(r, "EPT");
	else if (npt == 'Y' || npt == '1')
		check_ok(r, "NPT");
	else if (ept == '?' && npt == '?')
		check_not_ok(r, CHECK_DEGRADED, "page faults of guests may be several times slower",
			     "none needed if kvm-speed is ok",
			     "neither kvm_intel nor kvm_amd is loaded: nested paging not known");
	else
		check_not_ok(r, CHECK_DEGRADED, "page faults of guests are several times slower",
			     "load the module with ept=1 (kvm_intel) or npt=1 (kvm_amd)",
			     "nested paging is switched off");
}
