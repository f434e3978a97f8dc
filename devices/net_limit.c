/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits of a network device: a token bucket for bytes and one for frames, per direction.
 *
 * A frame may go while both have something left, and may take them below zero: so
 * a frame larger than a bucket passes too, and the next one waits for longer.
 */
#include "devices/net_int.h"

#define SECOND_NS  1000000000ULL
#define BURST_PART 10 /* of a second */

static void bucket_set(struct net_bucket *b, uint64_t rate, uint64_t now_ns)
{
	uint64_t burst = rate / BURST_PART ? rate / BURST_PART : 1;

	*b = (struct net_bucket){
	    .rate = rate, .burst = burst, .level = (int64_t)burst, .at_ns = now_ns};
}

/* Return: 0 if there is something in it, else ns until there is. */
static uint64_t bucket_wait(struct net_bucket *b, uint64_t now_ns)
{
	unsigned __int128 fresh;

	if (!b->rate)
		return 0;
	fresh = (unsigned __int128)(now_ns - b->at_ns) * b->rate / SECOND_NS;
	/* What is less than a token stays in the time that has passed. */
	if (fresh >= (unsigned __int128)((int64_t)b->burst - b->level)) {
		b->level = (int64_t)b->burst;
		b->at_ns = now_ns;
	} else {
		b->level += (int64_t)fresh;
		b->at_ns += (uint64_t)(fresh * SECOND_NS / b->rate);
	}
	if (b->level > 0)
		return 0;
	return (uint64_t)((unsigned __int128)(1 - b->level) * SECOND_NS / b->rate) + 1;
}

static void bucket_take(struct net_bucket *b, uint64_t tokens)
{
	if (b->rate)
		b->level -= (int64_t)tokens;
}

void net_direction_limit(struct net_direction *d, const struct net_limit *l, uint64_t now_ns)
{
	d->limit = *l;
	bucket_set(&d->bytes, l->bytes_per_s, now_ns);
	bucket_set(&d->frames, l->frames_per_s, now_ns);
}

uint64_t net_direction_wait(struct net_direction *d, uint64_t now_ns)
{
	uint64_t bytes = bucket_wait(&d->bytes, now_ns);
	uint64_t frames = bucket_wait(&d->frames, now_ns);

	return bytes > frames ? bytes : frames;
}

void net_direction_take(struct net_direction *d, uint32_t bytes)
{
	d->n_frames++;
	d->n_bytes += bytes;
	bucket_take(&d->bytes, bytes);
	bucket_take(&d->frames, 1);
}
