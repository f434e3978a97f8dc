// SPDX-License-Identifier: Apache-2.0
// Life in a sandbox (live.py): processes that can be told from copies, and what makes a machine itself.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { hostClock, sh } from './support.mjs';

const LIVE = readFileSync(new URL('live.py', import.meta.url));
const PROBE = readFileSync(new URL('probe.sh', import.meta.url));

/** Start the counter and the HTTP server. */
export async function startLife(sandbox) {
	await sandbox.files.write('/tmp/live.py', LIVE);
	await sandbox.files.write('/tmp/probe.sh', PROBE);
	await sh(sandbox, 'for part in serve count; do setsid python3 /tmp/live.py $part ' +
		'</dev/null >/tmp/$part.log 2>&1 & done; until [ -s /dev/shm/count ]; do sleep 0.1; done');
}

/**
 * What makes the machine itself, an answer of its server, and the states of its counter now and `steps` later.
 * `clock` is the time of the guest between two of ours, in ms.
 */
export async function look(sandbox, steps = 0) {
	const before = Date.now();
	const lines = (await sh(sandbox, `bash /tmp/probe.sh ${steps}`)).split('\n');
	const after = Date.now();
	const [time, machine, uuid, bytes, answer, now, later] = lines;
	const server = JSON.parse(answer);
	return {
		clock: { before, time: Number(time) / 1000, after }, machine, uuids: [uuid, server.uuid],
		random: [bytes, server.random], server, counter: JSON.parse(now), later: JSON.parse(later),
	};
}

/** Both processes are those of `before`, and have gone on: the counter from there, answered by that server. */
export function assertGoesOn(now, before) {
	assert.equal(now.server.nonce, before.server.nonce);
	assert.equal(now.counter.nonce, before.counter.nonce);
	assert.ok(now.counter.count >= before.counter.count, `${now.counter.count} after ${before.counter.count}`);
	assert.equal(now.later.nonce, before.counter.nonce);
	assert.equal(now.later.server, before.server.nonce);
	assert.equal(now.later.backwards, 0);
}

const STEPS = 3; // the counter asks the server at every second one

export async function assertLives(sandbox, before) {
	const now = await look(sandbox, STEPS);
	assertGoesOn(now, before);
	assert.ok(now.later.count >= now.counter.count + STEPS);
}

/** The guest's clock is within 0.5 s of that of its host, as far as can be told from here. */
export async function assertClock({ before, time, after }) {
	const { low, high } = await hostClock();
	assert.ok(time >= before + low - 500, `${before + low - time} ms behind`);
	assert.ok(time <= after + high + 500, `${time - after - high} ms ahead`);
}

/** Nothing that two machines must not share is twice in what look() gave. */
export function assertDistinct(seen) {
	const distinct = (what, list) => assert.equal(new Set(list).size, list.length, what);
	distinct('machine-id', seen.map((i) => i.machine));
	for (const i of seen)
		assert.match(i.machine, /^[0-9a-f]{32}$/);
	distinct('UUID', seen.flatMap((i) => i.uuids));
	// 8 bytes are the same by chance once in 2^64 pairs; there are some 10^8.
	distinct('random bytes', seen.flatMap((i) => i.random.flatMap((hex) => {
		assert.equal(hex.length, 2048);
		return hex.match(/.{16}/g);
	})));
}
