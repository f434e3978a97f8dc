/* SPDX-License-Identifier: Apache-2.0 */
/* Text tables for people: columns as wide as their widest cell, two blanks between. */
#ifndef TOOLS_CLI_TABLE_H
#define TOOLS_CLI_TABLE_H

#include <stddef.h>
#include <stdio.h>

#define TABLE_MAX_COLUMNS 8

struct table {
	size_t columns, rows;
	char **cells; /* owned: rows * columns strings */
};

/* @columns: 1 to TABLE_MAX_COLUMNS. */
void table_init(struct table *t, size_t columns);
void table_fini(struct table *t);

/**
 * table_add_row() - Add a row of t->columns strings, copied; NULL is shown as "-"
 *
 * Control characters are replaced by '?': a cell may hold what a tenant chose,
 * and must not reach the terminal as an escape sequence.
 *
 * Return: 0 or -ENOMEM
 */
int table_add_row(struct table *t, const char *const *cells);

/* The last column is not padded. */
void table_print(const struct table *t, FILE *out);

/* Copy @in to @out like a cell. Return: @out. */
char *table_clean(const char *in, char *out, size_t len);

#endif
