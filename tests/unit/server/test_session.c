/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of sessions that need no sandbox: the order of streams, readers, labels. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "server/manager/session_int.h"

static struct exec_session *make(size_t keep)
{
	struct exec_spec spec = {.cmd = "x", .keep = keep, .with_stdin = true};
	struct exec_session *x = session_new(&spec);

	cr_assert_not_null(x);
	/* As after its end, but nothing is read before that is said. */
	x->state = EXEC_ENDED;
	return x;
}

static void say(struct exec_session *x, int stream, const char *text)
{
	cr_assert_eq(outbuf_append(&x->out[stream], text, strlen(text), x->keep), 0);
	order_note(&x->order, (unsigned int)stream, outbuf_end(&x->out[stream]));
	order_trim(&x->order, x->out);
}

/* All that a reader gets: 1text and 2text for the streams, | for the end of the replay. */
static const char *read_all(struct exec_reader *r)
{
	static char text[4096];
	size_t at = 0, len;
	char buf[512];

	for (;;) {
		enum exec_news news = exec_read(r, buf, sizeof(buf), &len);

		if (news == EXEC_LIVE)
			text[at++] = '|';
		else if (news == EXEC_STDOUT || news == EXEC_STDERR)
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%c%.*s",
					       news == EXEC_STDOUT ? '1' : '2', (int)len, buf);
		else
			break;
	}
	text[at] = '\0';
	return text;
}

Test(session, readers_get_streams_as_they_came_and_the_marker_in_between)
{
	struct exec_session *x = make(0);
	struct exec_reader *r, *late;
	struct err e;

	say(x, 0, "a");
	say(x, 0, "b");
	say(x, 1, "c");
	say(x, 0, "d");
	cr_assert_eq(exec_attach(x, NULL, &r, &e), 0);
	/* What extends the last piece is live, though it belongs together. */
	say(x, 0, "e");
	say(x, 1, "f");
	cr_assert_eq(exec_attach(x, NULL, &late, &e), 0);
	cr_assert_eq(exec_readers(x), 2);
	cr_assert_str_eq(read_all(r), "1ab2c1d|1e2f");
	cr_assert_str_eq(read_all(late), "1ab2c1de2f|");
	exec_detach(r);
	exec_detach(late);
	cr_assert_eq(exec_readers(x), 0);
	exec_put(x);
}

Test(session, a_reader_can_begin_at_offsets)
{
	struct exec_session *x = make(0);
	struct exec_reader *r;
	struct err e;

	say(x, 0, "abc");
	say(x, 1, "def");
	cr_assert_eq(exec_attach(x, (const uint64_t[2]){2, 3}, &r, &e), 0);
	cr_assert_str_eq(read_all(r), "1c|");
	exec_detach(r);
	cr_assert_eq(exec_attach(x, (const uint64_t[2]){4, 0}, &r, &e), -ERANGE);
	cr_assert_eq(exec_attach(x, (const uint64_t[2]){0, UINT64_MAX}, &r, &e), -ERANGE);
	exec_put(x);
}

Test(session, the_replay_is_the_last_mebibyte_of_both_streams)
{
	static char kib[1025];
	struct exec_session *x = make(0);
	struct exec_reader *r;
	uint64_t at[2];
	struct err e;

	memset(kib, 'k', 1024);
	for (int i = 0; i < 1500; i++)
		say(x, i % 3 == 2, kib);
	/* Who comes first may have started it: nothing is missing. */
	cr_assert_eq(exec_attach(x, NULL, &r, &e), 0);
	exec_reader_at(r, at);
	cr_assert(!at[0] && !at[1]);
	exec_detach(r);
	cr_assert_eq(exec_attach(x, NULL, &r, &e), 0);
	exec_reader_at(r, at);
	cr_assert_eq(outbuf_end(&x->out[0]) - at[0] + outbuf_end(&x->out[1]) - at[1],
		     EXEC_REPLAY_BYTES);
	/* 1024 KiB back in the order 1 1 2. */
	cr_assert_eq((outbuf_end(&x->out[1]) - at[1]) / 1024, 342);
	exec_detach(r);
	exec_put(x);
}

Test(session, an_order_too_long_to_keep_loses_no_bytes)
{
	struct exec_session *x = make(0);
	struct exec_reader *r;
	size_t got[2] = {0}, len = 0;
	char buf[512];
	struct err e;

	cr_assert_eq(exec_attach(x, NULL, &r, &e), 0);
	for (int i = 0; i < 200001; i++)
		say(x, i % 2, i % 2 ? "e" : "o");
	for (int news = EXEC_STDOUT; news != EXEC_END; news = (int)exec_read(r, buf, 512, &len))
		for (size_t i = 0; news != EXEC_LIVE && i < len; i++) {
			cr_assert_eq(buf[i], news == EXEC_STDOUT ? 'o' : 'e');
			got[news == EXEC_STDERR]++;
		}
	cr_assert_eq(got[0], 100001);
	cr_assert_eq(got[1], 100000);
	exec_detach(r);
	exec_put(x);
}

Test(session, the_slowest_reader_decides)
{
	struct exec_session *x = make(200000);
	struct exec_reader *fast, *slow;
	static char block[100001];
	char buf[512];
	size_t len;
	struct err e;

	memset(block, 'b', 100000);
	cr_assert_eq(exec_attach(x, NULL, &fast, &e), 0);
	cr_assert_eq(exec_attach(x, NULL, &slow, &e), 0);
	say(x, 0, block);
	cr_assert_not(session_must_wait(x));
	say(x, 0, block);
	cr_assert(session_must_wait(x));
	while (exec_read(fast, buf, sizeof(buf), &len) != EXEC_END)
		;
	cr_assert(session_must_wait(x));
	exec_detach(slow);
	cr_assert_not(session_must_wait(x));
	exec_detach(fast);
	exec_put(x);
}

Test(session, news_make_the_descriptor_readable)
{
	struct exec_session *x = make(0);
	struct exec_reader *r;
	struct pollfd p = {.events = POLLIN};
	char buf[16];
	size_t len;
	struct err e;

	cr_assert_eq(exec_attach(x, NULL, &r, &e), 0);
	x->state = EXEC_RUNNING;
	p.fd = exec_reader_fd(r);
	cr_assert_eq(poll(&p, 1, 0), 1);
	cr_assert_eq(exec_read(r, buf, sizeof(buf), &len), EXEC_LIVE);
	cr_assert_eq(exec_read(r, buf, sizeof(buf), &len), EXEC_NOTHING);
	cr_assert_eq(poll(&p, 1, 0), 0);
	say(x, 1, "x");
	session_notify(x);
	session_notify(x);
	cr_assert_eq(poll(&p, 1, 0), 1);
	/* Who cannot take bytes now is not woken for them again and again. */
	cr_assert_eq(exec_read(r, buf, 0, &len), EXEC_NOTHING);
	cr_assert_eq(poll(&p, 1, 0), 0);
	r->cut = true;
	cr_assert_eq(exec_read(r, buf, sizeof(buf), &len), EXEC_CUT);
	x->state = EXEC_ENDED;
	exec_detach(r);
	exec_put(x);
}

Test(session, labels_tell_what_they_were_made_of)
{
	json_t *args = json_pack("[s, s]", "-c", "echo \xc3\xbc");
	struct exec_spec spec = {.cmd = "sh",
				 .args = args,
				 .kind = EXEC_TERMINAL,
				 .with_stdin = true,
				 .max_alone_s = 7,
				 .keep = 1 << 20};
	struct exec_session *x = session_new(&spec), *y;
	char *label;

	memcpy(x->id, "0123abcd", 9);
	label = label_make(x, "sb-1");
	y = label_parse(label, strlen(label), "sb-1");
	cr_assert_not_null(y);
	cr_assert_str_eq(exec_id(y), "0123abcd");
	cr_assert_str_eq(exec_command(y), "sh");
	cr_assert(json_equal(exec_args(y), args));
	cr_assert_eq(exec_kind(y), EXEC_TERMINAL);
	cr_assert_eq(exec_started_ms(y), exec_started_ms(x));
	cr_assert_eq(y->max_alone_s, 7);
	cr_assert_eq(y->keep, 1 << 20);
	cr_assert(y->in_open);
	exec_put(y);
	cr_assert_null(label_parse(label, strlen(label), "sb-2"), "of a fork's source");
	cr_assert_null(label_parse(label, strlen(label) - 1, "sb-1"));
	cr_assert_null(label_parse("{}", 2, "sb-1"));
	free(label);
	exec_put(x);
	json_decref(args);
}

Test(session, a_label_of_a_long_command_is_short_and_whole)
{
	static char cmd[100001];
	struct exec_spec spec = {.cmd = cmd};
	struct exec_session *x, *y;
	char *label;

	for (int i = 0; i < 100000; i += 2)
		memcpy(cmd + i, "\xc3\xbc", 2);
	memmove(cmd + 1, cmd, 99998);
	cmd[0] = 'x';
	cmd[99999] = '\0';
	x = session_new(&spec);
	memcpy(x->id, "0123abcd", 9);
	label = label_make(x, "sb-1");
	cr_assert_leq(strlen(label), PROTO_LABEL_MAX);
	y = label_parse(label, strlen(label), "sb-1");
	cr_assert_not_null(y);
	cr_assert_eq(strlen(exec_command(y)), 511);
	exec_put(y);
	exec_put(x);
	free(label);
}
