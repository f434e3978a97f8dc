/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of kernel images: whatever it accepts must be safe to load. */
#include <stdlib.h>

#include "vmm/elf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	size_t head = len < ELF_HEAD_BYTES ? len : ELF_HEAD_BYTES;
	struct elf_image img;

	if (elf_parse(data, head, len, &img, NULL))
		return 0;
	for (unsigned int i = 0; i < img.n; i++) {
		const struct elf_segment *s = &img.segments[i];

		if (s->file_offset + s->file_bytes > len || s->file_bytes > s->mem_bytes ||
		    s->gpa + s->mem_bytes < s->gpa)
			abort();
	}
	(void)elf_check_range(&img, 0x100000, 1u << 30, NULL);
	return 0;
}
