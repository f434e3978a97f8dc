/* SPDX-License-Identifier: Apache-2.0 */
/* Does /dev/kvm run kernel-mode guest code? A ring-0 loop to its HLT; exit 0 if it got there. */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE_GPA   0x1000
#define PAGE_BYTES 4096

/* 16-bit: mov ecx, 1000000; 1: dec ecx; jnz 1b; mov eax, 0x600d; hlt */
static const unsigned char code[] = {
    0x66, 0xb9, 0x40, 0x42, 0x0f, 0x00, 0x66, 0x49, 0x75,
    0xfc, 0x66, 0xb8, 0x0d, 0x60, 0x00, 0x00, 0xf4,
};

int main(void)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		err(1, "/dev/kvm");
	int vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		err(1, "KVM_CREATE_VM");
	void *page =
	    mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		err(1, "mmap");
	memcpy(page, code, sizeof(code));
	struct kvm_userspace_memory_region region = {
	    .guest_phys_addr = CODE_GPA,
	    .memory_size = PAGE_BYTES,
	    .userspace_addr = (unsigned long)page,
	};
	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		err(1, "KVM_SET_USER_MEMORY_REGION");
	int vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu_fd < 0 || run_bytes < 0)
		err(1, "KVM_CREATE_VCPU");
	struct kvm_run *run =
	    mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		err(1, "mmap of kvm_run");
	struct kvm_sregs sregs;
	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	struct kvm_regs regs = {.rip = CODE_GPA, .rflags = 2};
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		err(1, "KVM_SET_REGS");
	if (ioctl(vcpu_fd, KVM_RUN, 0) < 0)
		err(1, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "exit reason %u, expected HLT", run->exit_reason);
	if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) < 0)
		err(1, "KVM_GET_REGS");
	if (regs.rax != 0x600d || (regs.rcx & 0xffffffff) != 0)
		errx(1, "rax %llx, rcx %llx", regs.rax, regs.rcx);
	puts("ring 0 ran to its end");
	return 0;
}
