/* SPDX-License-Identifier: Apache-2.0 */
/* Host names of previews; see host.h. */
#include "server/preview/host.h"

#include <string.h>

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static size_t label_len(const char *host, size_t len)
{
	size_t n = 0;

	while (n < len && host[n] != '.' && host[n] != ':')
		n++;
	return n;
}

/* Return: the port in @digits, all of them; 0 if there is none. */
static unsigned int port_of(const char *digits, size_t len)
{
	unsigned int port = 0;

	if (!len || len > 5 || digits[0] == '0')
		return 0;
	for (size_t i = 0; i < len; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return 0;
		port = port * 10 + (unsigned int)(digits[i] - '0');
	}
	return port <= 65535 ? port : 0;
}

bool preview_host_parse(const char *host, size_t len, struct preview_host *out)
{
	size_t label = label_len(host, len), cut = label;

	/* The last "-p": ids may hold others. */
	while (cut >= 2 && !(host[cut - 2] == '-' && lower(host[cut - 1]) == 'p'))
		cut--;
	if (cut < 2)
		return false;
	out->port = port_of(host + cut, label - cut);
	cut -= 2;
	if (!out->port || cut < 4 || cut >= sizeof(out->id))
		return false;
	for (size_t i = 0; i < cut; i++) {
		char c = lower(host[i]);

		if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-')
			return false;
		out->id[i] = c;
	}
	out->id[cut] = '\0';
	return !strncmp(out->id, "sb-", 3);
}
