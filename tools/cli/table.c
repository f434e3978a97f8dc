/* SPDX-License-Identifier: Apache-2.0 */
/* Text tables; see table.h. */
#include "tools/cli/table.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void table_init(struct table *t, size_t columns)
{
	*t = (struct table){.columns = columns};
}

void table_fini(struct table *t)
{
	for (size_t i = 0; i < t->rows * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
	t->cells = NULL;
	t->rows = 0;
}

char *table_clean(const char *in, char *out, size_t len)
{
	size_t n = 0;

	/* C1 controls (U+0080 to U+009F) too: some terminals obey them. */
	for (const unsigned char *p = (const unsigned char *)in; *p && n + 1 < len; p++) {
		bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f;

		if (c1)
			p++;
		out[n++] = c1 || *p < 0x20 || *p == 0x7f ? '?' : (char)*p;
	}
	out[n] = '\0';
	return out;
}

int table_add_row(struct table *t, const char *const *cells)
{
	size_t used = t->rows * t->columns;
	char **grown = realloc(t->cells, (used + t->columns) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	t->cells = grown;
	for (size_t i = 0; i < t->columns; i++) {
		const char *text = cells[i] ? cells[i] : "-";
		char *copy = malloc(strlen(text) + 1);

		if (!copy) {
			while (i > 0)
				free(t->cells[used + --i]);
			return -ENOMEM;
		}
		t->cells[used + i] = table_clean(text, copy, strlen(text) + 1);
	}
	t->rows++;
	return 0;
}

/* Characters, not bytes: UTF-8 continuation bytes take no room. */
static size_t text_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void table_print(const struct table *t, FILE *out)
{
	size_t width[TABLE_MAX_COLUMNS] = {0};

	for (size_t i = 0; i < t->rows * t->columns; i++) {
		size_t w = text_width(t->cells[i]);

		if (w > width[i % t->columns])
			width[i % t->columns] = w;
	}
	for (size_t i = 0; i < t->rows * t->columns; i++) {
		size_t column = i % t->columns;

		fputs(t->cells[i], out);
		if (column + 1 == t->columns)
			fputc('\n', out);
		else
			fprintf(out, "%*s", (int)(width[column] - text_width(t->cells[i]) + 2), "");
	}
}
