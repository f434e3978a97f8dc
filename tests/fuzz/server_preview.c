/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of HTTP messages on their way through a preview: whatever is accepted and written
 * anew must be read again as the same thing, and bodies must end where they end.
 *
 * Input: a byte (1: an answer, 2: to HEAD), then the message.
 */
#include <stdlib.h>
#include <string.h>

#include "server/http/edge.h"
#include "server/preview/head.h"
#include "server/preview/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse(struct head *h, bool answer, const char *text, size_t len)
{
	return answer ? head_parse_response(h, text, len, NULL)
		      : head_parse_request(h, text, len, NULL);
}

static void follow_body(struct head *h, const char *body, size_t len)
{
	while (len && !h->complete) {
		size_t piece = len < 7 ? len : 7;
		ssize_t n = head_body(h, body, piece);

		if (n < 0)
			return;
		if ((size_t)n > piece || ((size_t)n < piece && !h->complete))
			__builtin_trap();
		body += n;
		len -= (size_t)n;
	}
	if (h->complete && head_body_end(h))
		__builtin_trap();
}

static void check_again(const struct head *h, bool answer)
{
	static const struct head_rewrite w = {.client = "192.0.2.1"};
	struct head again = {.no_body = h->no_body};
	struct strbuf out = {0};

	if (answer)
		head_write_response(h, &out);
	else
		head_write_request(h, &w, &out);
	if (head_end(out.data, out.len) != out.len)
		__builtin_trap(); /* one head, and nothing behind it */
	if (parse(&again, answer, out.data, out.len))
		__builtin_trap();
	if (again.complete != h->complete || head_upgrades(&again) != head_upgrades(h) ||
	    again.parser.method != h->parser.method ||
	    again.parser.content_length != h->parser.content_length)
		__builtin_trap();
	if (!answer && head_find(&again, "X-OC-Preview-Token"))
		__builtin_trap();
	strbuf_fini(&out);
}

static bool claims(const char *host, size_t len)
{
	struct preview_host h;

	return preview_host_parse(host, len, &h);
}

/* Who gets a connection is decided before its head is parsed: both must see the same Host. */
static void check_edge(const struct head *h, const char *text, size_t len)
{
	const struct head_text *host = head_find(h, "Host");
	enum edge_verdict v = edge_look(text, len, claims);

	if (len < EDGE_PEEK && (v == EDGE_CLAIMED) != claims(host->at, host->len))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct preview_host host;
	struct head h = {0};
	size_t end;
	char *text;

	if (!size || size > HEAD_MAX)
		return 0;
	text = malloc(size);
	memcpy(text, data + 1, size - 1);
	preview_host_parse(text, size - 1, &host);
	edge_look(text, size - 1, claims);
	end = head_end(text, size - 1);
	h.no_body = data[0] & 2;
	if (end && !parse(&h, data[0] & 1, text, end)) {
		/* 101 has to have been asked for, which is not to be seen here. And a few
		 * headers are added. */
		if (!((data[0] & 1) && head_status(&h) == 101) && h.n < HEAD_FIELDS_MAX - 8)
			check_again(&h, data[0] & 1);
		if (!(data[0] & 1))
			check_edge(&h, text, size - 1);
		follow_body(&h, text + end, size - 1 - end);
	}
	free(text);
	return 0;
}
