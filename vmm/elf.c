/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of x86-64 ELF kernel images; see elf.h. */
#include "vmm/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_header(const Elf64_Ehdr *h, size_t head_len, struct err *e)
{
	if (memcmp(h->e_ident, ELFMAG, SELFMAG))
		return err_set(e, -ENOEXEC, "not an ELF file (a vmlinux is needed, not a bzImage)");
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB ||
	    h->e_machine != EM_X86_64)
		return err_set(e, -ENOEXEC, "not an ELF file for x86-64");
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, -ENOEXEC, "ELF type %u is not that of a kernel", h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(e, -ENOEXEC, "ELF program headers have %u bytes each",
			       h->e_phentsize);
	if (h->e_phnum == 0)
		return err_set(e, -ENOEXEC, "ELF file without program headers");
	if (h->e_phoff > head_len || h->e_phnum > (head_len - h->e_phoff) / sizeof(Elf64_Phdr))
		return err_set(e, -ENOEXEC, "ELF program headers (%u at %#llx) leave the header",
			       h->e_phnum, (unsigned long long)h->e_phoff);
	return 0;
}

static int check_segment(const Elf64_Phdr *p, uint64_t file_len, struct err *e)
{
	uint64_t end;

	if (p->p_offset > file_len || p->p_filesz > file_len - p->p_offset)
		return err_set(e, -ENOEXEC,
			       "ELF segment at %#llx leaves the file: is it cut short?",
			       (unsigned long long)p->p_offset);
	if (p->p_filesz > p->p_memsz)
		return err_set(e, -ENOEXEC, "ELF segment is larger in the file than in memory");
	if (__builtin_add_overflow(p->p_paddr, p->p_memsz, &end))
		return err_set(e, -ENOEXEC, "ELF segment wraps around the end of memory");
	return 0;
}

static int add_segment(struct elf_image *img, const Elf64_Phdr *p, struct err *e)
{
	for (unsigned int i = 0; i < img->n; i++) {
		const struct elf_segment *s = &img->segments[i];

		if (p->p_paddr < s->gpa + s->mem_bytes && s->gpa < p->p_paddr + p->p_memsz)
			return err_set(e, -ENOEXEC, "ELF segments overlap in memory");
	}
	if (img->n == ELF_MAX_SEGMENTS)
		return err_set(e, -ENOEXEC, "more than %d ELF segments", ELF_MAX_SEGMENTS);
	img->segments[img->n++] = (struct elf_segment){
	    .file_offset = p->p_offset,
	    .file_bytes = p->p_filesz,
	    .gpa = p->p_paddr,
	    .mem_bytes = p->p_memsz,
	};
	return 0;
}

static int check_entry(const struct elf_image *img, struct err *e)
{
	for (unsigned int i = 0; i < img->n; i++) {
		const struct elf_segment *s = &img->segments[i];

		if (img->entry_gpa >= s->gpa && img->entry_gpa - s->gpa < s->file_bytes)
			return 0;
	}
	return err_set(e, -ENOEXEC, "ELF entry %#llx lies in no segment",
		       (unsigned long long)img->entry_gpa);
}

int elf_parse(const void *head, size_t head_len, uint64_t file_len, struct elf_image *out,
	      struct err *e)
{
	Elf64_Ehdr h;
	int rc;

	memset(out, 0, sizeof(*out));
	if (head_len < sizeof(h))
		return err_set(e, -ENOEXEC, "not an ELF file: %zu bytes", head_len);
	memcpy(&h, head, sizeof(h));
	rc = check_header(&h, head_len, e);
	if (rc)
		return rc;
	for (unsigned int i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;

		memcpy(&p, (const uint8_t *)head + h.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type != PT_LOAD || p.p_memsz == 0)
			continue;
		rc = check_segment(&p, file_len, e);
		if (!rc)
			rc = add_segment(out, &p, e);
		if (rc)
			return rc;
	}
	out->entry_gpa = h.e_entry;
	return check_entry(out, e);
}

int elf_read(int fd, struct elf_image *out, struct err *e)
{
	uint8_t head[ELF_HEAD_BYTES];
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return err_sys(e, -errno, "fstat");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -ENOEXEC, "not a regular file");
	n = pread(fd, head, sizeof(head), 0);
	if (n < 0)
		return err_sys(e, -errno, "read");
	return elf_parse(head, (size_t)n, (uint64_t)st.st_size, out, e);
}

int elf_check_range(const struct elf_image *img, uint64_t start, uint64_t end, struct err *e)
{
	for (unsigned int i = 0; i < img->n; i++) {
		const struct elf_segment *s = &img->segments[i];

		if (s->gpa < start)
			return err_set(e, -ENOEXEC, "ELF segment at %#llx: below %#llx",
				       (unsigned long long)s->gpa, (unsigned long long)start);
		if (s->gpa + s->mem_bytes > end)
			return err_set(e, -ENOMEM,
				       "the kernel ends at %#llx, beyond the end of memory (%#llx)",
				       (unsigned long long)(s->gpa + s->mem_bytes),
				       (unsigned long long)end);
	}
	return 0;
}
