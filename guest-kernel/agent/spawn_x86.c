/* SPDX-License-Identifier: Apache-2.0 */
/* clone3() onto another stack; see spawn.h. libc has no wrapper for it. */
#ifdef __x86_64__
#include <sys/syscall.h>

#include "guest-kernel/agent/spawn.h"

long spawn_clone(struct clone_args *args, int (*fn)(void *), void *arg)
{
	register int (*child_fn)(void *) __asm__("r9") = fn;
	register void *child_arg __asm__("r8") = arg;
	long rc = SYS_clone3;

	/* In the child rax is 0 and rsp is the top of the new stack: nothing of this frame
	 * is there, so it calls @fn with what the registers hold, and ends. */
	__asm__ volatile(
	    "syscall\n\t"
	    "test %%rax, %%rax\n\t"
	    "jnz 1f\n\t"
	    "xor %%ebp, %%ebp\n\t"
	    "mov %[arg], %%rdi\n\t"
	    "call *%[fn]\n\t"
	    "mov %%eax, %%edi\n\t"
	    "mov %[exit], %%eax\n\t"
	    "syscall\n\t"
	    "ud2\n"
	    "1:"
	    : "+a"(rc)
	    : "D"(args),
	      "S"(sizeof(*args)), [fn] "r"(child_fn), [arg] "r"(child_arg), [exit] "i"(SYS_exit)
	    : "rcx", "r11", "cc", "memory");
	return rc;
}
#endif
