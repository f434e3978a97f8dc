/* SPDX-License-Identifier: Apache-2.0 */
/* Windows beyond 64 KiB, between a guest and a libslirp that are played here. */
#include <stdlib.h>

#include "server/net/window.h"
#include "tests/unit/net/frames.h"

#define GUEST "10.0.2.15"
#define PEER  "1.2.3.4"
#define ISS   0xffffff00u /* of libslirp: it wraps soon */
#define IRS   5000u	  /* of the guest */
#define MSS   1000u

static struct window *window;
static struct made guest_got, stack_got; /* the last ones */
static unsigned int guest_n, stack_n;
static enum frame_hurry hurry; /* of the last one for the guest */
static void (*guest_hears)(struct frame *f), (*stack_hears)(struct frame *f);

static void to_guest(void *arg, struct frame *f)
{
	(void)arg;
	expect_sums(f->data, f->len);
	cr_assert_leq(f->len, sizeof(guest_got.data));
	memcpy(guest_got.data, f->data, f->len);
	guest_got.len = f->len;
	guest_n++;
	hurry = f->hurry;
	if (guest_hears)
		guest_hears(f);
}

static void to_stack(void *arg, uint8_t *data, size_t len)
{
	struct frame f;

	(void)arg;
	expect_sums(data, len);
	memcpy(stack_got.data, data, len);
	stack_got.len = len;
	stack_n++;
	frame_parse(&f, data, len);
	if (stack_hears)
		stack_hears(&f);
}

static void begin(void)
{
	guest_hears = stack_hears = NULL;
	guest_n = stack_n = 0;
	window = window_create(to_guest, to_stack, NULL);
}

static void end(void)
{
	window_destroy(window);
}

/* --- segments ------------------------------------------------------------------------------- */

/* Of @options bytes of options, then @len of which each is the low byte of its sequence number. */
static struct made segment(bool guest, const struct frame_tcp *t, const uint8_t *options,
			   size_t options_n)
{
	uint8_t tcp[1500] = {[12] = (uint8_t)((20 + options_n) << 2), [13] = t->flags};

	put_be16(tcp, guest ? 4000 : 80);
	put_be16(tcp + 2, guest ? 80 : 4000);
	put_be16(tcp + 4, t->seq >> 16);
	put_be16(tcp + 6, t->seq);
	put_be16(tcp + 8, t->ack >> 16);
	put_be16(tcp + 10, t->ack);
	put_be16(tcp + 14, t->window);
	if (options_n)
		memcpy(tcp + 20, options, options_n);
	for (uint32_t i = 0; i < t->len; i++)
		tcp[20 + options_n + i] = (uint8_t)(t->seq + i);
	return made_ip(guest ? GUEST : PEER, guest ? PEER : GUEST, PROTO_TCP, tcp,
		       20 + options_n + t->len);
}

/* Return: whether it went on; as it is then in stack_got. */
static bool guest_says(struct frame_tcp t, const uint8_t *options, size_t options_n, uint64_t now)
{
	struct made m = segment(true, &t, options, options_n);
	struct frame f = parsed(&m);
	bool on = window_from_guest(window, &f, now);

	if (on)
		to_stack(NULL, m.data, m.len);
	window_settle(window, now);
	return on;
}

static void stack_says(struct frame_tcp t, uint64_t now)
{
	struct made m = segment(false, &t, NULL, 0);
	struct frame f = parsed(&m);

	window_from_stack(window, &f, now);
}

static struct frame_tcp tcp_of(struct made *m)
{
	struct frame f = parsed(m);
	struct frame_tcp t;

	frame_get_tcp(&f, &t);
	return t;
}

static bool ack(uint32_t seq, uint16_t win, uint64_t now)
{
	return guest_says(
	    (struct frame_tcp){.seq = IRS + 1, .ack = seq, .flags = TCP_F_ACK, .window = win}, NULL,
	    0, now);
}

/* The guest's SYN, with @shift < 0 without scaling. */
static bool syn(int shift, uint32_t room, uint64_t now)
{
	uint8_t options[8] = {2, 4, 5, 180, TCP_OPT_NOP, TCP_OPT_SHIFT, 3, (uint8_t)shift};

	return guest_says((struct frame_tcp){.seq = IRS,
					     .flags = TCP_F_SYN,
					     .window = (uint16_t)(room < 65535 ? room : 65535)},
			  options, shift < 0 ? 4 : 8, now);
}

static void answer_syn(uint64_t now)
{
	stack_says(
	    (struct frame_tcp){
		.seq = ISS, .ack = IRS + 1, .flags = TCP_F_SYN | TCP_F_ACK, .window = 32768},
	    now);
}

static void shake_hands(int shift, uint16_t win)
{
	cr_assert(syn(shift, (uint32_t)win << (shift < 0 ? 0 : shift), 0));
	answer_syn(0);
	window_settle(window, 0);
	cr_assert_eq(guest_n, 1);
	ack(ISS + 1, win, 0);
	cr_assert_eq(tcp_of(&stack_got).ack, ISS + 1, "the handshake ends");
	cr_assert_eq(window_due(window, 0), -1);
}

static void send_data(uint32_t seq, uint32_t len, uint64_t now)
{
	stack_says(
	    (struct frame_tcp){
		.seq = seq, .ack = IRS + 1, .flags = TCP_F_ACK, .window = 32768, .len = len},
	    now);
}

/* --- one thing after the other ---------------------------------------------------------------- */

static void send_many(uint32_t n, uint64_t now)
{
	for (uint32_t i = 0; i < n; i++)
		send_data(ISS + 1 + i * MSS, MSS, now);
	window_settle(window, now);
	guest_n = 0;
}

Test(window, scaling_is_agreed_on, .init = begin, .fini = end)
{
	struct frame f;

	shake_hands(7, 1000);
	f = parsed(&guest_got);
	cr_expect_eq(f.tcp_flags, TCP_F_SYN | TCP_F_ACK);
	cr_expect_eq(frame_window_shift(&f), 0, "ours");
	cr_expect_eq(tcp_of(&guest_got).header, 24);
	cr_expect_eq(tcp_of(&stack_got).window, 65535, "1000 << 7, as far as it can be said");
}

Test(window, who_does_not_ask_is_left_alone, .init = begin, .fini = end)
{
	shake_hands(-1, 1000);
	cr_expect_eq(tcp_of(&guest_got).header, 20);
	cr_expect_eq(tcp_of(&stack_got).window, 1000);
	stack_n = 0;
	send_data(ISS + 1, MSS, 0);
	window_settle(window, 0);
	cr_expect_eq(stack_n, 0);
	cr_expect_eq(window_due(window, 0), -1);
	cr_expect(ack(ISS + 1 + MSS, 1000, 0));
}

/* The server speaks first: nobody waits for the guest to say that there is a connection. */
Test(window, the_server_goes_on_before_the_guest, .init = begin, .fini = end)
{
	syn(7, 64240, 0);
	stack_n = 0;
	answer_syn(0);
	cr_expect_eq(stack_n, 0, "not within libslirp");
	window_settle(window, 0);
	cr_expect_eq(stack_n, 1);
	cr_expect_eq(tcp_of(&stack_got).flags, TCP_F_ACK);
	cr_expect_eq(tcp_of(&stack_got).seq, IRS + 1);
	cr_expect_eq(tcp_of(&stack_got).ack, ISS + 1);
	cr_expect_eq(tcp_of(&stack_got).window, 64240, "that of a SYN is not scaled");
	send_data(ISS + 1, MSS, 0);
	window_settle(window, 0);
	cr_expect_eq(guest_n, 2);
	cr_expect_not(ack(ISS + 1, 502, 0), "which libslirp knows");
	cr_expect_eq(window_due(window, 0), WINDOW_RESEND_MS);
	ack(ISS + 1 + MSS, 502, 0);
	cr_expect_eq(window_due(window, 0), -1);
}

Test(window, an_answer_that_was_lost_comes_again, .init = begin, .fini = end)
{
	syn(7, 64240, 0);
	answer_syn(0);
	window_settle(window, 0);
	send_data(ISS + 1, MSS, 0);
	guest_n = 0;
	/* By itself, */
	window_settle(window, WINDOW_RESEND_MS);
	cr_expect_eq(guest_n, 1);
	cr_expect_eq(tcp_of(&guest_got).flags, TCP_F_SYN | TCP_F_ACK);
	cr_expect_eq(tcp_of(&guest_got).header, 24);
	/* and when it is asked for: libslirp has a connection, and would not say it. */
	cr_expect_not(syn(7, 64240, 500));
	cr_expect_eq(guest_n, 2);
	cr_expect_eq(tcp_of(&guest_got).flags, TCP_F_SYN | TCP_F_ACK);
	cr_expect_eq(tcp_of(&guest_got).seq, ISS);
	cr_expect_eq(tcp_of(&guest_got).ack, IRS + 1);
	/* Then the rest. */
	ack(ISS + 1, 502, 500);
	while (guest_n < 3)
		window_settle(window, (uint64_t)window_due(window, 500) + 500);
	cr_expect_eq(tcp_of(&guest_got).seq, ISS + 1);
	cr_expect_eq(tcp_of(&guest_got).len, MSS);
}

/* Another connection, with the ports of one that was answered, or of one that is used. */
Test(window, another_syn_is_another_connection, .init = begin, .fini = end)
{
	uint8_t options[4] = {TCP_OPT_NOP, TCP_OPT_SHIFT, 3, 7};

	syn(7, 64240, 0);
	answer_syn(0);
	window_settle(window, 0);
	cr_expect(
	    guest_says((struct frame_tcp){.seq = IRS + 77, .flags = TCP_F_SYN}, options, 4, 0));
	cr_expect_eq(window_due(window, 0), -1, "nothing is kept of the first");
	cr_expect(syn(7, 64240, 0));
	answer_syn(0);
	ack(ISS + 1, 502, 0);
	cr_expect(syn(7, 64240, 0));
}

Test(window, who_does_not_want_it_any_more_says_so, .init = begin, .fini = end)
{
	syn(7, 64240, 0);
	answer_syn(0);
	window_settle(window, 0);
	cr_expect(guest_says((struct frame_tcp){.seq = IRS + 1, .flags = TCP_F_RST}, NULL, 0, 0));
	cr_expect_eq(window_due(window, 0), -1);
}

Test(window, options_of_any_kind, .init = begin, .fini = end)
{
	static const struct {
		uint8_t options[12];
		int shift;
	} cases[] = {
	    {{TCP_OPT_NOP, TCP_OPT_NOP, TCP_OPT_NOP, TCP_OPT_SHIFT, 3, 9}, 9},
	    {{TCP_OPT_SHIFT, 3, 255}, TCP_SHIFT_MAX},
	    {{0, TCP_OPT_SHIFT, 3, 9}, -1},
	    {{TCP_OPT_SHIFT, 4, 9, 9}, -1},
	    {{2, 0, TCP_OPT_SHIFT, 3, 9}, -1},
	    {{2, 1, TCP_OPT_SHIFT, 3, 9}, -1},
	    {{2, 200, TCP_OPT_SHIFT, 3, 9}, -1},
	    {{8, 10, 0, 0, 0, 0, 0, 0, 0, 0, TCP_OPT_SHIFT, 3}, -1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame_tcp t = {.flags = TCP_F_SYN};
		struct made m = segment(true, &t, cases[i].options, 12);
		struct frame f = parsed(&m);

		cr_expect_eq(frame_window_shift(&f), cases[i].shift, "%zu", i);
	}
}

Test(window, libslirp_goes_on_as_far_as_the_guest_has_room, .init = begin, .fini = end)
{
	uint32_t seq = ISS + 1;

	shake_hands(4, 625); /* 10000 */
	cr_expect_eq(tcp_of(&stack_got).window, 10000);
	for (int i = 0; i < 10; i++, seq += MSS) {
		send_data(seq, MSS, 0);
		window_settle(window, 0);
		cr_expect_eq(tcp_of(&stack_got).ack, seq + MSS, "acknowledged at once");
		cr_expect_eq(tcp_of(&stack_got).window, 10000 - (i + 1) * (int)MSS);
	}
	cr_expect_eq(guest_n, 11);
	cr_expect(ack(ISS + 1 + MSS, 625, 0), "there is room again");
	cr_expect_eq(tcp_of(&stack_got).ack, seq);
	cr_expect_eq(tcp_of(&stack_got).window, MSS);
}

Test(window, there_is_an_end_to_what_is_kept, .init = begin, .fini = end)
{
	uint32_t n = 0;

	shake_hands(14, 65535);
	for (; tcp_of(&stack_got).window >= MSS && n < 10000; n++) {
		send_data(ISS + 1 + n * MSS, MSS, 0);
		window_settle(window, 0);
	}
	cr_expect_eq(n, WINDOW_AHEAD / MSS);
}

Test(window, what_says_nothing_new_goes_no_further, .init = begin, .fini = end)
{
	shake_hands(7, 1000);
	send_data(ISS + 1, MSS, 0);
	window_settle(window, 0);
	cr_expect_not(ack(ISS + 1 + MSS, 1000, 0));
	cr_expect_eq(window_due(window, 0), -1, "nothing is under way");
	cr_expect_eq(guest_n, 2);
	/* A keep-alive asks for an answer. */
	cr_expect(guest_says(
	    (struct frame_tcp){
		.seq = IRS, .ack = ISS + 1 + MSS, .flags = TCP_F_ACK, .window = 1000},
	    NULL, 0, 0));
	/* Data go on, with what libslirp knows already. */
	send_data(ISS + 1 + MSS, MSS, 0);
	window_settle(window, 0);
	cr_expect(guest_says(
	    (struct frame_tcp){
		.seq = IRS + 1, .ack = ISS + 1 + MSS, .flags = TCP_F_ACK, .window = 1000, .len = 9},
	    NULL, 0, 0));
	cr_expect_eq(tcp_of(&stack_got).ack, ISS + 1 + 2 * MSS);
	cr_expect_eq(tcp_of(&stack_got).len, 9);
}

Test(window, three_duplicates_are_a_loss, .init = begin, .fini = end)
{
	shake_hands(7, 1000);
	send_many(5, 0);
	for (int i = 0; i < 5; i++)
		cr_expect_not(ack(ISS + 1 + MSS, 1000, 10));
	cr_expect_eq(guest_n, 1);
	cr_expect_eq(tcp_of(&guest_got).seq, ISS + 1 + MSS);
	cr_expect_eq(tcp_of(&guest_got).len, MSS);
	/* It shows that the one after it is missing, too. */
	ack(ISS + 1 + 2 * MSS, 1000, 10);
	cr_expect_eq(guest_n, 2);
	cr_expect_eq(tcp_of(&guest_got).seq, ISS + 1 + 2 * MSS);
	ack(ISS + 1 + 5 * MSS, 1000, 10);
	cr_expect_eq(guest_n, 2);
}

/* Its window grows meanwhile: those that say so are no duplicates, and take none back. */
Test(window, news_of_room_is_no_duplicate, .init = begin, .fini = end)
{
	shake_hands(7, 1000);
	send_many(5, 1);
	ack(ISS + 1 + MSS, 1000, 10);
	for (uint16_t i = 1; i <= 10; i++)
		ack(ISS + 1 + MSS, (uint16_t)(1000 + i), 10);
	cr_expect_eq(guest_n, 0);
	for (int i = 0; i < 3; i++) {
		ack(ISS + 1 + MSS, (uint16_t)(2000 + i), 10);
		ack(ISS + 1 + MSS, (uint16_t)(2000 + i), 10);
	}
	cr_expect_eq(guest_n, 1);
}

Test(window, silence_is_a_loss_less_and_less_often, .init = begin, .fini = end)
{
	uint64_t now = 0;

	shake_hands(7, 1000);
	send_data(ISS + 1, MSS, 0);
	window_settle(window, 0);
	guest_n = 0;
	for (int wait = WINDOW_RESEND_MS; wait < 16000; wait *= 2) {
		cr_expect_eq(window_due(window, now), wait);
		window_settle(window, now + (uint64_t)wait - 1);
		cr_expect_eq(guest_n, 0);
		now += (uint64_t)wait;
		window_settle(window, now);
		cr_expect_eq(guest_n, 1);
		guest_n = 0;
	}
	cr_expect_eq(window_due(window, now), 16000);
}

/* Of a guest that has lost all: after the second silence each is sent as soon as it is asked for.
 */
Test(window, a_guest_that_lost_all_gets_all, .init = begin, .fini = end)
{
	uint64_t now = 1;

	shake_hands(7, 1000);
	send_many(60, now);
	for (uint32_t i = 1; i <= 60; i++) {
		while (tcp_of(&guest_got).seq != ISS + 1 + (i - 1) * MSS)
			window_settle(window, now += 100);
		ack(ISS + 1 + i * MSS, 1000, now);
	}
	cr_expect_eq(guest_n, 60);
	cr_expect_leq(now, 5 * WINDOW_RESEND_MS);
}

/* A guest behind a slow wire: what is only late is not sent again and again. */
Test(window, who_is_slow_is_waited_for, .init = begin, .fini = end)
{
	uint64_t now = 1;

	shake_hands(7, 1000);
	send_many(60, now);
	for (uint32_t i = 1; i <= 60; i++) {
		for (int part = 0; part < 15; part++)
			window_settle(window, now += 100);
		ack(ISS + 1 + i * MSS, 1000, now);
	}
	cr_expect_leq(guest_n, 2, "%u were sent again", guest_n);
}

Test(window, duplicates_of_what_was_sent_twice_are_no_loss, .init = begin, .fini = end)
{
	shake_hands(7, 1000);
	send_many(5, 1);
	window_settle(window, 1 + WINDOW_RESEND_MS);
	cr_expect_eq(guest_n, 1);
	ack(ISS + 1 + 5 * MSS, 1000, 1100);
	for (int i = 0; i < 5; i++)
		ack(ISS + 1 + 5 * MSS, 1000, 1100);
	send_data(ISS + 1 + 5 * MSS, MSS, 1100);
	guest_n = 0;
	for (int i = 0; i < 5; i++)
		ack(ISS + 1 + 5 * MSS, 1000, 1100);
	cr_expect_eq(guest_n, 0);
}

Test(window, only_the_guest_acknowledges_an_end, .init = begin, .fini = end)
{
	shake_hands(7, 1000);
	stack_says((struct frame_tcp){.seq = ISS + 1,
				      .ack = IRS + 1,
				      .flags = TCP_F_ACK | TCP_F_FIN,
				      .window = 1,
				      .len = MSS},
		   0);
	window_settle(window, 0);
	cr_expect_eq(tcp_of(&stack_got).ack, ISS + 1 + MSS);
	cr_expect(ack(ISS + 1 + MSS + 1, 1000, 0));
	cr_expect_eq(tcp_of(&stack_got).ack, ISS + 1 + MSS + 1);
	cr_expect_eq(window_due(window, 0), -1, "nothing is under way");
	guest_n = 0;
	window_settle(window, 100000);
	cr_expect_eq(guest_n, 0);
}

Test(window, a_reset_is_the_end, .init = begin, .fini = end)
{
	for (int i = 0; i < 2; i++) {
		struct frame_tcp t = {.seq = i ? IRS + 1 : ISS + 1 + MSS, .flags = TCP_F_RST};

		guest_n = 0;
		shake_hands(7, 1000);
		send_data(ISS + 1, MSS, 0);
		if (i)
			cr_expect(guest_says(t, NULL, 0, 0));
		else
			stack_says(t, 0);
		guest_n = 0;
		window_settle(window, 100000);
		cr_expect_eq(guest_n, 0, "nothing is sent again");
		cr_expect(ack(ISS + 1, 1000, 0));
		cr_expect_eq(tcp_of(&stack_got).window, 1000, "not ours any more");
	}
}

static int written; /* -1: nothing waits */

static bool is_busy(void *arg, int fd)
{
	(void)arg;
	return fd == written;
}

/* With the end of libslirp first, or that of the guest. Return: whether libslirp is reset then. */
static bool end_both(bool guest_first)
{
	struct frame_tcp theirs = {.seq = ISS + 1, .ack = IRS + 1, .flags = TCP_F_ACK | TCP_F_FIN};
	struct frame_tcp ours = {.seq = IRS + 1, .ack = ISS + 1, .flags = TCP_F_ACK | TCP_F_FIN};

	guest_n = 0;
	shake_hands(7, 1000);
	if (guest_first) {
		guest_says(ours, NULL, 0, 0);
		theirs.ack++;
		stack_says(theirs, 0);
		stack_n = 0;
		window_end(window, is_busy);
		cr_expect_eq(stack_n, 0, "the guest knows nothing yet");
		ours.seq++;
		ours.flags = TCP_F_ACK;
		ours.ack++;
		guest_says(ours, NULL, 0, 0);
	} else {
		stack_says(theirs, 0);
		ours.ack++;
		guest_says(ours, NULL, 0, 0);
		stack_n = 0;
		window_end(window, is_busy);
		cr_expect_eq(stack_n, 0, "libslirp has not answered");
		theirs = (struct frame_tcp){.seq = ISS + 2, .ack = IRS + 2, .flags = TCP_F_ACK};
		stack_says(theirs, 0);
	}
	stack_n = 0;
	window_end(window, is_busy);
	return stack_n && tcp_of(&stack_got).flags == TCP_F_RST &&
	       tcp_of(&stack_got).seq == IRS + 2;
}

/* Data may have company at once; nobody waits to hear that an end arrived, if it was the last. */
Test(window, what_is_in_a_hurry, .init = begin, .fini = end)
{
	struct frame_tcp both = {
	    .seq = ISS + 1 + MSS, .ack = IRS + 1, .flags = TCP_F_ACK | TCP_F_FIN, .len = 10};

	shake_hands(7, 1000);
	cr_expect_eq(hurry, FRAME_NOW);
	send_data(ISS + 1, MSS, 0);
	cr_expect_eq(hurry, FRAME_MORE);
	stack_says(both, 0);
	cr_expect_eq(hurry, FRAME_NOW);
	guest_n = 0;
	end_both(true);
	cr_expect_eq(hurry, FRAME_NOW, "the guest waits for that end");
	end_both(false);
	cr_expect_eq(hurry, FRAME_LATER);
}

/* It has forgotten that it wanted one. */
Test(window, a_guest_that_never_answers_is_given_up, .init = begin, .fini = end)
{
	uint64_t now = 0;

	written = -2;
	syn(7, 64240, 0);
	answer_syn(0);
	while (!stack_n || tcp_of(&stack_got).flags != TCP_F_RST) {
		cr_assert_lt(now, WINDOW_OPENING_MS + 16000);
		window_settle(window, now += (uint64_t)window_due(window, now));
		window_end(window, is_busy);
	}
	cr_expect_geq(now, WINDOW_OPENING_MS);
	cr_expect_eq(tcp_of(&stack_got).seq, IRS + 1);
	cr_expect_eq(window_due(window, now), -1);
}

/* Return: in how much of a hurry the begin of a connection is; the server or the guest speaks then.
 */
static enum frame_hurry open_and_speak(uint64_t took, bool server)
{
	struct frame_tcp t = {.seq = IRS + 1, .ack = ISS + 1, .flags = TCP_F_ACK, .len = 1};
	enum frame_hurry begin;

	syn(7, 64240, 1000);
	answer_syn(1000 + took);
	begin = hurry;
	window_settle(window, 1000 + took);
	if (server)
		send_data(ISS + 1, 1, 1000 + took);
	guest_says(t, NULL, 0, 1000 + took);
	send_data(ISS + 1 + server, 1, 1000 + took);
	guest_says((struct frame_tcp){.seq = IRS + 2, .flags = TCP_F_RST}, NULL, 0, 1000);
	return begin;
}

Test(window, a_server_that_spoke_first_is_waited_for, .init = begin, .fini = end)
{
	cr_expect_eq(open_and_speak(0, false), FRAME_NOW);
	cr_expect_eq(open_and_speak(0, true), FRAME_NOW, "who knows");
	cr_expect_eq(open_and_speak(0, true), FRAME_OPENS);
	cr_expect_eq(open_and_speak(WINDOW_NEAR_MS, true), FRAME_OPENS);
	cr_expect_eq(open_and_speak(WINDOW_NEAR_MS + 1, true), FRAME_NOW, "it is far away");
	cr_expect_eq(open_and_speak(0, false), FRAME_OPENS);
	cr_expect_eq(open_and_speak(0, true), FRAME_NOW);
}

Test(window, what_is_over_is_forgotten, .init = begin, .fini = end)
{
	written = -2;
	for (int i = 0; i < 2 * WINDOW_FLOWS; i++)
		cr_assert(end_both(i % 2), "%d", i);
}

Test(window, but_not_before_all_is_written, .init = begin, .fini = end)
{
	struct made syn = made_tcp(GUEST, PEER, 4000, 80, TCP_F_SYN);
	struct frame f = parsed(&syn);

	written = 7;
	shake_hands(7, 1000);
	window_socket(window, &f, 7);
	/* The SYN came twice: there is one socket. */
	guest_n = 0;
	shake_hands(7, 1000);
	guest_says(
	    (struct frame_tcp){.seq = IRS + 1, .ack = ISS + 1, .flags = TCP_F_ACK | TCP_F_FIN},
	    NULL, 0, 0);
	stack_says(
	    (struct frame_tcp){.seq = ISS + 1, .ack = IRS + 2, .flags = TCP_F_ACK | TCP_F_FIN}, 0);
	guest_says((struct frame_tcp){.seq = IRS + 2, .ack = ISS + 2, .flags = TCP_F_ACK}, NULL, 0,
		   0);
	stack_n = 0;
	window_end(window, is_busy);
	cr_expect_eq(stack_n, 0);
	written = -1;
	window_end(window, is_busy);
	cr_expect_eq(stack_n, 1);
	cr_expect_eq(tcp_of(&stack_got).flags, TCP_F_RST);
}

/* As the same ports come again after a reboot of the guest. */
Test(window, a_new_connection_is_a_new_one, .init = begin, .fini = end)
{
	for (int i = 0; i < 3; i++) {
		guest_n = 0;
		shake_hands(7, 1000);
		for (uint32_t n = 0; n < 5; n++)
			send_data(ISS + 1 + n * MSS, MSS, 0);
		window_settle(window, 0);
		cr_expect_eq(tcp_of(&stack_got).ack, ISS + 1 + 5 * MSS);
	}
}

static bool connects(uint16_t port)
{
	uint8_t options[4] = {TCP_OPT_NOP, TCP_OPT_SHIFT, 3, 7};
	struct frame_tcp t = {.seq = IRS, .flags = TCP_F_SYN};
	struct made m = segment(true, &t, options, 4);
	struct frame f;

	put_be16(m.data + 14 + 20, port);
	f = parsed(&m);
	cr_assert(window_from_guest(window, &f, 0));
	t = (struct frame_tcp){.seq = ISS, .ack = IRS + 1, .flags = TCP_F_SYN | TCP_F_ACK};
	m = segment(false, &t, NULL, 0);
	put_be16(m.data + 14 + 20 + 2, port);
	made_sum(&m);
	f = parsed(&m);
	window_from_stack(window, &f, 0);
	return tcp_of(&guest_got).header == 24;
}

Test(window, too_many_connections_have_small_windows, .init = begin, .fini = end)
{
	for (uint16_t i = 0; i < WINDOW_FLOWS; i++)
		cr_assert(connects((uint16_t)(1000 + i)), "%u", i);
	cr_expect_not(connects(10000));
}

/* --- all of it, with losses --------------------------------------------------------------------
 */

#define TOTAL 3000000u

static uint32_t guest_next, stack_una, stack_next, stack_edge;
static unsigned int owed; /* acknowledgements of the guest */

static void lossy_guest(struct frame *f)
{
	struct frame_tcp t;

	frame_get_tcp(f, &t);
	if (!t.len || random() % 20 == 0)
		return;
	for (uint32_t i = 0; i < t.len; i++)
		cr_assert_eq(f->data[f->l4 + t.header + i], (uint8_t)(t.seq + i));
	if (t.seq == guest_next)
		guest_next += t.len;
	owed++;
}

static void simple_stack(struct frame *f)
{
	struct frame_tcp t;

	frame_get_tcp(f, &t);
	if (!(t.flags & TCP_F_ACK))
		return;
	cr_assert_leq((int32_t)(t.ack - stack_next), 0, "of what was never sent");
	if ((int32_t)(t.ack - stack_una) > 0)
		stack_una = t.ack;
	stack_edge = t.ack + t.window;
}

Test(window, all_arrives_in_spite_of_losses, .init = begin, .fini = end, .timeout = 60)
{
	uint64_t now = 0;

	srandom(1);
	shake_hands(7, 1000);
	guest_next = stack_una = stack_next = ISS + 1;
	stack_edge = stack_next + tcp_of(&stack_got).window;
	guest_hears = lossy_guest;
	stack_hears = simple_stack;
	while (guest_next - (ISS + 1) < TOTAL) {
		uint32_t left = ISS + 1 + TOTAL - stack_next;
		int32_t room = (int32_t)(stack_edge - stack_next);

		if (left && room > 0) {
			uint32_t len = left < MSS ? left : MSS;

			len = len < (uint32_t)room ? len : (uint32_t)room;
			stack_next += len;
			send_data(stack_next - len, len, now);
			window_settle(window, now);
		} else if (!owed) {
			int due = window_due(window, now);

			cr_assert_geq(due, 0, "nothing would ever happen");
			now += (uint64_t)due;
			window_settle(window, now);
		}
		if (owed && (random() % 4 == 0 || room <= 0 || !left)) {
			owed--;
			ack(guest_next, 1000, now);
		}
		cr_assert_leq(stack_next - guest_next, 128000u, "more than the guest's window");
	}
	while (owed--)
		ack(guest_next, 1000, now);
	cr_expect_eq(stack_una, stack_next);
	window_settle(window, now + 100000);
	cr_expect_eq(window_due(window, now + 100000), -1);
}
