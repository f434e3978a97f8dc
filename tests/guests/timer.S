/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says "armed" with its APIC's timer set to a TSC value that comes soon, halts, and says "fired"
 * when it has come. Its TSC is half an hour ahead of that of a new vCPU: who takes the one for the other makes it wait.
 */
#include "guest.inc"
#define IDT    0x60000
#define VECTOR 0x20

#define MSR_TSC		 0x10
#define MSR_APIC_BASE	 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define X2APIC_SPURIOUS	 0x80f
#define X2APIC_TIMER	 0x832

	.text
	.global start
start:	mov $(IDT + VECTOR * 16), %edi
	lea handler(%rip), %rax
	mov %ax, (%rdi)
	mov %cs, %cx
	mov %cx, 2(%rdi)
	movw $0x8e00, 4(%rdi) /* present, interrupt gate */
	shr $16, %rax
	mov %ax, 6(%rdi)
	shr $16, %rax
	mov %rax, 8(%rdi)
	lidt idtr(%rip)

	mov $MSR_APIC_BASE, %ecx
	rdmsr
	or $0xc00, %eax /* enabled, x2APIC */
	wrmsr
	xor %edx, %edx
	mov $X2APIC_SPURIOUS, %ecx
	mov $0x1ff, %eax
	wrmsr
	mov $X2APIC_TIMER, %ecx
	mov $(2 << 17 | VECTOR), %eax /* TSC deadline */
	wrmsr

	mov $MSR_TSC, %ecx
	xor %eax, %eax
	mov $(1 << 10), %edx
	wrmsr
	rdtsc
	add $0x80000000, %eax /* about a second */
	adc $0, %edx
	mov $MSR_TSC_DEADLINE, %ecx
	wrmsr
	PRINT "armed\n"
	sti
1:	hlt
	jmp 1b

handler:
	PRINT "fired\n"
	SHUTDOWN

	GUEST_ROUTINES

	.section .rodata
idtr:	.word (VECTOR + 1) * 16 - 1
	.quad IDT
