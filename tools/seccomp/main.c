/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Build-time helper: system call filters out of the comments beside the code that needs the calls.
 *
 * Reads the lines with "#syscalls" of sources from standard input:
 *
 *	#syscalls[:ROLE] CALL...
 *
 * where CALL is
 *	name			allowed
 *	name[N==V]...		allowed if argument N (from 0) is V;  several: all of them
 *	name[N&M==V]...		allowed if the bits M of argument N are V
 *	name=ERRNO		fails with ERRNO, and is no offence
 * and numbers are as in C. Lines without a role are for "process". Prints C source: for each role a
 * program of BPF, `const struct sock_fprog seccomp_ROLE`. What is not allowed traps: SIGSYS.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ROLES 4
#define MAX_ARGS  6

struct role {
	char name[32];
	scmp_filter_ctx filter;
};

static struct role roles[MAX_ROLES];
static unsigned int roles_n;

static const struct {
	const char *name;
	uint16_t code;
} errnos[] = {{"EPERM", EPERM}, {"EACCES", EACCES}, {"ENOSYS", ENOSYS}};

static _Noreturn void fail(const char *what, const char *word)
{
	fprintf(stderr, "seccomp: %s: %s\n", what, word);
	exit(1);
}

static struct role *find_role(const char *name, size_t len)
{
	struct role *r = roles;

	for (; r < roles + roles_n; r++)
		if (strlen(r->name) == len && !strncmp(r->name, name, len))
			return r;
	if (roles_n == MAX_ROLES || len >= sizeof(r->name))
		fail("too many roles", name);
	roles_n++;
	memcpy(r->name, name, len);
	r->filter = seccomp_init(SCMP_ACT_TRAP);
	if (r->filter &&
	    seccomp_attr_set(r->filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS))
		fail("libseccomp", name);
	/* A binary tree in place of a list: of calls, the one that matters most is KVM_RUN's. */
	if (!r->filter || seccomp_attr_set(r->filter, SCMP_FLTATR_CTL_OPTIMIZE, 2))
		fail("libseccomp", name);
	return r;
}

static unsigned long number(char **at, const char *word)
{
	char *end;
	unsigned long v = strtoul(*at, &end, 0);

	if (end == *at)
		fail("a number is missing", word);
	*at = end;
	return v;
}

/* "[N==V]" and "[N&M==V]". Return: how many */
static unsigned int parse_conditions(char *at, const char *word, struct scmp_arg_cmp *out)
{
	unsigned int n = 0;

	while (*at == '[') {
		struct scmp_arg_cmp *c = &out[n++];

		if (n > MAX_ARGS)
			fail("too many conditions", word);
		at++;
		*c = (struct scmp_arg_cmp){.arg = (unsigned int)number(&at, word)};
		c->op = *at == '&' ? SCMP_CMP_MASKED_EQ : SCMP_CMP_EQ;
		if (*at == '&') {
			at++;
			c->datum_a = number(&at, word);
		}
		if (at[0] != '=' || at[1] != '=')
			fail("== is missing", word);
		at += 2;
		if (c->op == SCMP_CMP_EQ)
			c->datum_a = number(&at, word);
		else
			c->datum_b = number(&at, word);
		if (*at++ != ']')
			fail("] is missing", word);
	}
	if (*at)
		fail("what is this", word);
	return n;
}

static uint32_t parse_action(const char *errno_name, const char *word)
{
	if (!errno_name)
		return SCMP_ACT_ALLOW;
	for (size_t i = 0; i < sizeof(errnos) / sizeof(errnos[0]); i++)
		if (!strcmp(errnos[i].name, errno_name))
			return SCMP_ACT_ERRNO(errnos[i].code);
	fail("unknown errno", word);
}

static void add_call(struct role *r, const char *word)
{
	struct scmp_arg_cmp args[MAX_ARGS];
	char name[256], *rest, *equals;
	unsigned int n = 0;
	uint32_t action;
	int nr, rc;

	if (strlen(word) >= sizeof(name))
		fail("too long", word);
	strcpy(name, word);
	rest = strchr(name, '[');
	equals = rest ? NULL : strchr(name, '=');
	if (rest)
		n = parse_conditions(rest, word, args);
	if (rest)
		*rest = '\0';
	if (equals)
		*equals++ = '\0';
	action = parse_action(equals, word);
	nr = seccomp_syscall_resolve_name(name);
	if (nr == __NR_SCMP_ERROR)
		fail("no such system call", word);
	rc = seccomp_rule_add_array(r->filter, action, nr, n, args);
	/* Named at more than one place. */
	if (rc && rc != -EEXIST)
		fail(strerror(-rc), word);
}

static void parse_line(char *line)
{
	char *at = strstr(line, "#syscalls"), *save, *word;
	const char *role = "process";
	struct role *r;

	if (!at)
		return;
	/* Who reflows a comment does not lose a call in silence. */
	if (strspn(line, "/* \t") != (size_t)(at - line))
		fail("#syscalls is not at the beginning", line);
	at += strlen("#syscalls");
	if (*at == ':')
		role = ++at;
	r = find_role(role, *at == ' ' ? strlen(role) : strcspn(at, " \n"));
	at += strcspn(at, " \n");
	for (word = strtok_r(at, " \t\n", &save); word; word = strtok_r(NULL, " \t\n", &save))
		if (strcmp(word, "*/"))
			add_call(r, word);
}

static void print_role(const struct role *r)
{
	FILE *f = tmpfile();
	unsigned int n = 0;
	struct {
		uint16_t code;
		uint8_t jt, jf;
		uint32_t k;
	} insn;

	if (!f || seccomp_export_bpf(r->filter, fileno(f)))
		fail("writing the filter", r->name);
	rewind(f);
	printf("static const struct sock_filter %s_code[] = {\n", r->name);
	for (; fread(&insn, sizeof(insn), 1, f) == 1; n++)
		printf("\t{%#x, %u, %u, %#x},\n", insn.code, insn.jt, insn.jf, insn.k);
	printf(
	    "};\n\nconst struct sock_fprog seccomp_%s = {%u, (struct sock_filter *)%s_code};\n\n",
	    r->name, n, r->name);
	fclose(f);
}

int main(void)
{
	char line[1024];

	while (fgets(line, sizeof(line), stdin))
		parse_line(line);
	if (!roles_n)
		fail("nothing is allowed", "no #syscalls");
	puts("/* Made by tools/seccomp. */\n#include \"lib/seccomp.h\"\n");
	for (unsigned int i = 0; i < roles_n; i++)
		print_role(&roles[i]);
	return fflush(stdout) ? 1 : 0;
}
