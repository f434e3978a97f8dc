// SPDX-License-Identifier: Apache-2.0
// Hibernate, wake, reboot, power cycle (sections 3.7 to 3.9, 18.2 to 18.5).
import assert from 'node:assert/strict';
import { Sandbox } from './client.mjs';
import { assertClock, assertLives, look, startLife } from './live.mjs';
import { assertError, check, createToKeep, kill, onHost, onHostOnly, request, sh, sleep, stateDir, UNKNOWN } from './support.mjs';

let traveller;

/** A sandbox with life in it, of all tests here that leave it running. */
function travelling() {
	traveller ??= (async () => {
		const sandbox = await createToKeep({ envs: { KEPT: 'yes' }, metadata: { a: 'b' }, timeout: 3600 });
		await startLife(sandbox);
		return sandbox;
	})();
	return traveller;
}

const path = (sandbox, rest = '') => `/api/sandboxes/${sandbox.sandboxId}${rest}`;
const get = async (sandbox) => (await request('GET', path(sandbox))).json;
const statusOf = async (sandbox) => (await get(sandbox)).status;

check('3.7 18.3 18.5 processes, connections and files outlive hibernate and wake, the clock is right', async () => {
	const sandbox = await travelling();
	const before = await look(sandbox);
	await sandbox.hibernate();
	assert.equal(sandbox.status, 'hibernated');
	assert.equal(await sandbox.isRunning(), false);
	await sleep(1500); // far more than a clock may be wrong
	await sandbox.wake({ timeout: 3600 });
	assert.equal(sandbox.status, 'running');
	await assertClock((await look(sandbox)).clock);
	await assertLives(sandbox, before);
	assert.equal(await sh(sandbox, 'echo $KEPT'), 'yes\n');
});

check('3.7 hibernate says what it stored, twice is no error; looking does not wake', async () => {
	const sandbox = await travelling();
	const answer = await request('POST', path(sandbox, '/hibernate'));
	assert.equal(answer.status, 200, answer.text);
	assert.equal(answer.json.sandboxID, sandbox.sandboxId);
	assert.equal(answer.json.status, 'hibernated');
	assert.ok(answer.json.sizeBytes > 1 << 20, answer.text);
	const again = await request('POST', path(sandbox, '/hibernate'));
	assert.equal(again.status, 200, again.text);
	assert.match(again.text, /already hibernated/);
	const listed = (await request('GET', '/api/sandboxes')).json.find((s) => s.sandboxID === sandbox.sandboxId);
	assert.equal(listed.status, 'hibernated');
	assert.deepEqual(await sandbox.listCheckpoints(), []);
	assert.equal(await statusOf(sandbox), 'hibernated');
});

check('3.7 a wake without timeout keeps the configured one, the client sets 0', async () => {
	const sandbox = await travelling();
	await sandbox.hibernate();
	const answer = await request('POST', path(sandbox, '/wake'));
	assert.equal(answer.status, 200, answer.text);
	assert.equal(answer.json.status, 'running');
	assert.equal(answer.json.coldBoot ?? false, false);
	assert.equal((await get(sandbox)).timeout, 3600);
	await sandbox.wake(); // of one that runs
	assert.equal((await get(sandbox)).timeout, 0);
	assertError(await request('POST', path(sandbox, '/wake'), { body: { timeout: -1 } }), 400, /non-negative/);
});

check('18.2 18.3 each kind of work wakes; five sleeps leave 16 MiB and all processes as they are', async () => {
	const sandbox = await travelling();
	const before = await look(sandbox);
	const sum = await sh(sandbox, 'head -c 16777216 /dev/urandom >/tmp/large; sha256sum </tmp/large');
	const works = [
		() => sh(sandbox, 'true'),
		() => sandbox.files.read('/tmp/live.py'),
		() => sandbox.files.write('/tmp/woken', 'x'),
		() => sandbox.files.list('/tmp'),
		// All at once: one wake for them all.
		() => Promise.all([sandbox.wake(), sh(sandbox, 'true'), sandbox.files.read('/tmp/woken'), sandbox.wake(),
			...[1, 2, 3, 4].map(() => sh(sandbox, 'true'))]),
	];
	for (const work of works) {
		await sandbox.hibernate();
		assert.equal(await statusOf(sandbox), 'hibernated');
		await work();
		assert.equal(await statusOf(sandbox), 'running');
	}
	assert.equal(await sh(sandbox, 'sha256sum </tmp/large; rm /tmp/large'), sum);
	await assertLives(sandbox, before);
});

/** Wait until it is hibernated, without touching it. */
async function asleep(sandbox) {
	while (await statusOf(sandbox) !== 'hibernated')
		await sleep(100);
}

check('3.7 18.1 an idle sandbox hibernates, work wakes it and begins the time anew, a command holds it', async () => {
	const sandbox = await travelling();
	await sandbox.setTimeout(3);
	await asleep(sandbox);
	const before = await look(sandbox);
	assert.equal((await get(sandbox)).timeout, 3, 'a wake by work keeps it');
	assert.equal(await sh(sandbox, 'sleep 8; echo whole'), 'whole\n');
	assert.equal(await statusOf(sandbox), 'running', 'the end of a command counts as work');
	await asleep(sandbox);
	await sandbox.setTimeout(3600); // of a hibernated one
	assert.equal(await statusOf(sandbox), 'hibernated');
	await assertLives(sandbox, before);
	await assert.rejects(sandbox.setTimeout(-1), /400/);
	assertError(await request('POST', path(sandbox, '/timeout'), { body: { timeout: 1.5 } }), 400, /non-negative/);
});

check('18.9 hibernate while commands and files are in full swing fails none of them', async () => {
	const sandbox = await travelling();
	let stop = false;
	const work = [0, 1, 2].map(async (n) => {
		for (let i = 0; !stop; i++) {
			assert.equal(await sh(sandbox, `echo ${n}.${i}`), `${n}.${i}\n`);
			await sandbox.files.write(`/tmp/swing${n}`, `${i}`);
			assert.equal(await sandbox.files.read(`/tmp/swing${n}`), `${i}`);
		}
	});
	for (let i = 0; i < 3; i++)
		await sandbox.hibernate();
	stop = true;
	await Promise.all(work);
});

// Each line once, in order, whatever happens to the machine under it.
const LINES = 300;
const TEXT = Array.from({ length: LINES }, (_, i) => `line ${i}\n`).join('');
const TALK = `python3 -c 'import time
for i in range(${LINES}): print("line", i, flush=True); time.sleep(0.01)'`;

/** Follow a command as a terminal does: only what is new, by offset. */
async function follow(sandbox, execId) {
	let text = '';
	for (let from = 0; ; ) {
		const answer = await request('GET', path(sandbox, `/exec/${execId}/result?stdoutFrom=${from}&stderrFrom=0`));
		assert.equal(answer.status, 200, answer.text);
		text += answer.json.stdout;
		from = answer.json.stdoutNext;
		if (!answer.json.running)
			return { text, exitCode: answer.json.exitCode };
	}
}

check('4.4 18.3 the output of commands crosses sleeps and checkpoints, no byte lost or doubled', async () => {
	const sandbox = await travelling();
	const started = await request('POST', path(sandbox, '/exec/run-async?hold=0'), { body: { cmd: TALK, timeout: 200 } });
	assert.equal(started.status, 202, started.text);
	let ended = false;
	const followed = follow(sandbox, started.json.execId).finally(() => { ended = true; });
	const waited = sandbox.exec.run(`${TALK}; exit 7`, { timeout: 200 });
	const held = request('POST', path(sandbox, '/exec/run'), { body: { cmd: TALK, timeout: 200 } });
	for (let i = 0; i < 4; i++) {
		const checkpoint = await sandbox.createCheckpoint(`stream ${i}`);
		await sandbox.hibernate();
		assert.ok(i > 1 || !ended, 'it has ended before it could be disturbed');
		await sandbox.wake();
		await sandbox.deleteCheckpoint(checkpoint.id);
	}
	assert.deepEqual(await followed, { text: TEXT, exitCode: 0 });
	assert.deepEqual(await waited, { exitCode: 7, stdout: TEXT, stderr: '' });
	assert.equal((await held).json.stdout, TEXT);
});

check('3.8 reboot: the same sandbox and disk, another boot; what ran has ended', async () => {
	const sandbox = await travelling();
	const boot = await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id');
	await sandbox.files.write('/home/sandbox/kept', 'by the disk');
	const running = sandbox.exec.run('touch /tmp/runs; sleep 1000', { timeout: 0 });
	await sh(sandbox, 'until [ -e /tmp/runs ]; do sleep 0.1; done'); // or it would wait, and run after the reboot
	await sandbox.reboot();
	assert.equal((await running).exitCode, -1);
	assert.notEqual(await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id'), boot);
	assert.equal(await sandbox.files.read('/home/sandbox/kept'), 'by the disk');
	assert.equal(await sh(sandbox, 'echo $KEPT; pgrep -f "[l]ive.py" || echo none'), 'yes\nnone\n');
});

check('3.8 power-cycle: the same, by a new VMM', async () => {
	const sandbox = await travelling();
	const boot = await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id');
	await sandbox.powerCycle();
	assert.notEqual(await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id'), boot);
	assert.equal(await sandbox.files.read('/home/sandbox/kept'), 'by the disk');
	assert.equal(await sh(sandbox, 'echo $KEPT'), 'yes\n');
	assert.deepEqual((await get(sandbox)).metadata, { a: 'b' });
});

const DAMAGE = [
	['the end of the memory image is missing', 'truncate -s -4096 "$d/ram"'],
	['the state is damaged', 'printf x | dd of="$d/state" bs=1 seek=100 conv=notrunc status=none'],
	['the memory image is gone', 'rm "$d/ram"'],
];

for (const [what, damage] of DAMAGE) {
	check(`18.4 where ${what}, wake boots from the disk and says so`, async () => {
		const sandbox = await travelling();
		await startLife(sandbox);
		await sandbox.files.write('/home/sandbox/never synced', 'by the user');
		const boot = await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id');
		await sandbox.hibernate();
		await onHost('sh', '-ec', `for d in ${stateDir}/sandboxes/${sandbox.sandboxId}/*/; do ${damage}; done`);
		const answer = await request('POST', path(sandbox, '/wake'), { body: { timeout: 0 } });
		assert.equal(answer.status, 200, answer.text);
		assert.equal(answer.json.status, 'running');
		assert.equal(answer.json.coldBoot, true);
		assert.match(answer.json.message, /memory cannot be used: ./);
		assert.equal(await sandbox.files.read('/home/sandbox/never synced'), 'by the user');
		assert.equal(await sh(sandbox, 'echo $KEPT; pgrep -f "[l]ive.py" || echo none'), 'yes\nnone\n');
		assert.notEqual(await sh(sandbox, 'cat /proc/sys/kernel/random/boot_id'), boot);
	}, onHostOnly);
}

check('3.6 3.9 a hibernated sandbox can be killed; then there is nothing to wake, hibernate or reboot', async () => {
	const sandbox = await travelling();
	await sandbox.hibernate();
	await kill(sandbox);
	traveller = undefined;
	assert.equal(await statusOf(sandbox), 'stopped');
	assertError(await request('POST', path(sandbox, '/wake')), 404, /no active hibernation/);
	await assert.rejects(sandbox.wake(), /Failed to wake sandbox: 404/);
	await assert.rejects(sandbox.hibernate(), /Failed to hibernate sandbox: 4(00|10)/);
	await assert.rejects(sandbox.reboot(), /Failed to reboot sandbox: 4(00|10)/);
	await assert.rejects(sandbox.powerCycle(), /Failed to power-cycle sandbox: 4(00|10)/);
	for (const route of ['hibernate', 'wake', 'reboot', 'power-cycle'])
		assertError(await request('POST', `/api/sandboxes/${UNKNOWN}/${route}`), 404, /sandbox not found/);
	await assert.rejects(Sandbox.connect(UNKNOWN), /404/);
});
