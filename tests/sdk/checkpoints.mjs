// SPDX-License-Identifier: Apache-2.0
// Checkpoints: take, list, restore, fork, delete; what they cost and how many there may be (8.1 to 8.4).
import assert from 'node:assert/strict';
import { Sandbox } from './client.mjs';
import { assertClock, assertDistinct, assertGoesOn, assertLives, look, startLife } from './live.mjs';
import { assertError, check, create, createToKeep, fork, kill, request, sh, take, UNKNOWN, written } from './support.mjs';

const NO_CHECKPOINT = '00000000-0000-4000-8000-000000000001';
const path = (sandbox, rest = '') => `/api/sandboxes/${sandbox.sandboxId}${rest}`;

let source;

/** The sandbox most tests here take checkpoints of. */
function origin() {
	source ??= createToKeep({ envs: { FROM_CREATE: 'yes', BOTH: 'create' }, metadata: { a: 'b' }, timeout: 0 });
	return source;
}

async function forget(sandbox, ...checkpoints) {
	for (const { id } of checkpoints)
		await sandbox.deleteCheckpoint(id);
}

check('8.2 a checkpoint is processing, then ready, with all that the contract has', async () => {
	const sandbox = await origin();
	const made = await sandbox.createCheckpoint('first');
	assert.equal(made.status, 'processing');
	assert.equal(made.kind, 'full');
	assert.equal(made.sandboxId, sandbox.sandboxId);
	assert.equal(made.name, 'first');
	const item = await written(sandbox, made.id);
	assert.equal(item.status, 'ready', item.errorMsg);
	assert.ok(item.sizeBytes > 1 << 20, `${item.sizeBytes}`);
	for (const field of ['rootfsS3Key', 'workspaceS3Key', 'orgId', 'createdAt'])
		assert.ok(item[field], field);
	assert.equal(item.isPublic, false);
	assert.deepEqual({ ...item.sandboxConfig, diskMB: 0 },
		{ memoryMB: 1024, cpuCount: 1, diskMB: 0, timeout: 0, template: 'base' });
	await forget(sandbox, item);
	assert.deepEqual(await sandbox.listCheckpoints(), []);
	await sandbox.deleteCheckpoint(item.id); // the client forgives the 404
});

check('8.1 8.2 bad requests are refused, and the client says why', async () => {
	const sandbox = await origin();
	await assert.rejects(sandbox.createCheckpoint(''), /Failed to create checkpoint: 400 .*name/);
	await assert.rejects(sandbox.createCheckpoint('x', { kind: 'half' }), /400 .*kind/);
	for (const maxCount of [0, 11])
		await assert.rejects(sandbox.createCheckpoint('x', { retentionPolicy: { mode: 'delete_oldest', maxCount } }),
			/400 .*maxCount/);
	await assert.rejects(sandbox.restoreCheckpoint('none'), /Failed to restore checkpoint: 400/);
	await assert.rejects(sandbox.restoreCheckpoint(NO_CHECKPOINT), /40[34]/);
	await assert.rejects(Sandbox.createFromCheckpoint('none'), /Failed to create sandbox from checkpoint: 400/);
	await assert.rejects(Sandbox.createFromCheckpoint(NO_CHECKPOINT), /404/);
	assertError(await request('GET', `/api/sandboxes/${UNKNOWN}/checkpoints`), 404, /sandbox not found/);
	assertError(await request('POST', `/api/sandboxes/${UNKNOWN}/checkpoints`, { body: { name: 'x' } }), 404, /./);
	assert.deepEqual(await sandbox.listCheckpoints(), []);
});

check('8.2 18.9 what was answered before is in it; commands and files go on meanwhile and never fail', async () => {
	const sandbox = await origin();
	let stop = false;
	const work = [0, 1].map(async (n) => {
		for (let i = 0; !stop; i++) {
			assert.equal(await sh(sandbox, `echo ${n}.${i}`), `${n}.${i}\n`);
			await sandbox.files.write(`/tmp/busy${n}`, 'x'.repeat(100_000));
			assert.equal((await sandbox.files.read(`/tmp/busy${n}`)).length, 100_000);
		}
	});
	const taken = [];
	for (let i = 0; i < 4; i++) {
		await sandbox.files.write('/home/sandbox/last', `${i}`);
		await sh(sandbox, `echo ${i} >/dev/shm/last`);
		taken.push(await sandbox.createCheckpoint(`busy ${i}`, { kind: i === 3 ? 'disk_only' : 'full' }));
	}
	for (const [i, { id }] of taken.entries()) {
		const copy = await fork(id); // waits for what is still being written
		assert.equal(await copy.files.read('/home/sandbox/last'), `${i}`);
		if (i < 3)
			assert.equal(await sh(copy, 'cat /dev/shm/last'), `${i}\n`);
		await kill(copy);
	}
	stop = true;
	await Promise.all(work);
	await forget(sandbox, ...taken);
});

check('8.3 restores go up and down the tree: disk, memory and processes are those of then', async () => {
	const sandbox = await create({ metadata: { a: 'b' }, timeout: 0 });
	const mark = (text) => sh(sandbox, `echo ${text} | tee /home/sandbox/disk >/dev/shm/memory`);
	const marks = () => sh(sandbox, 'cat /home/sandbox/disk /dev/shm/memory');
	await startLife(sandbox);
	await mark('one');
	const one = { ...await take(sandbox, 'one'), life: await look(sandbox) };
	await mark('two');
	await sandbox.files.write('/home/sandbox/new', 'of two');
	await sh(sandbox, 'pkill -f "[l]ive.py count"; rm /dev/shm/count');
	await sh(sandbox, 'setsid python3 /tmp/live.py count </dev/null >/dev/null 2>&1 & until [ -s /dev/shm/count ]; do sleep 0.1; done');
	const two = { ...await take(sandbox, 'two'), life: await look(sandbox) };
	assert.notEqual(one.life.counter.nonce, two.life.counter.nonce);

	const later = sandbox.exec.run('touch /dev/shm/later; sleep 1000', { timeout: 0 });
	await sh(sandbox, 'until [ -e /dev/shm/later ]; do sleep 0.1; done'); // or it would wait, and run after the restore
	await sandbox.restoreCheckpoint(one.id);
	assert.equal((await later).exitCode, -1); // it never was
	assert.equal(await marks(), 'one\none\n');
	assert.equal(await sandbox.files.exists('/home/sandbox/new'), false);
	const now = await look(sandbox);
	assert.ok(now.counter.count <= one.life.counter.count + 100, `${now.counter.count}`);
	assert.equal(now.counter.nonce, one.life.counter.nonce);

	await sandbox.restoreCheckpoint(two.id);
	assert.equal(await marks(), 'two\ntwo\n');
	assert.equal(await sandbox.files.read('/home/sandbox/new'), 'of two');
	assert.equal((await look(sandbox)).counter.nonce, two.life.counter.nonce);

	for (let i = 0; i < 3; i++) {
		await mark(`lost ${i}`);
		await sandbox.restoreCheckpoint(one.id);
		assert.equal(await marks(), 'one\none\n');
	}
	await assertClock((await look(sandbox)).clock);
	await assertLives(sandbox, { counter: { ...one.life.counter, count: 0 }, server: one.life.server });

	const three = await take(sandbox, 'three');
	const tree = (await request('GET', path(sandbox, '/tree'))).json;
	assert.equal(tree.current, three.id);
	assert.deepEqual(Object.fromEntries(tree.nodes.map((n) => [n.name, n.parentId])),
		{ one: '', two: one.id, three: one.id });
	const { json } = await request('GET', path(sandbox));
	assert.equal(json.status, 'running');
	assert.deepEqual(json.metadata, { a: 'b' });

	// A restore wakes, too; and of the disk alone it boots.
	const disk = await take(sandbox, 'disk', { kind: 'disk_only' });
	await mark('lost');
	await sandbox.hibernate();
	await sandbox.restoreCheckpoint(two.id);
	assert.equal(await marks(), 'two\ntwo\n');
	const answer = await request('POST', path(sandbox, `/checkpoints/${disk.id}/restore`));
	assert.equal(answer.json.coldBoot, true, answer.text);
	assert.equal(await sh(sandbox, 'cat /home/sandbox/disk; ls /dev/shm'), 'one\n');
	await kill(sandbox);
});

check('8.4 18.5 in 20 forks the counter goes on and the server answers; of 50, no two share a secret', async () => {
	const sandbox = await create({ timeout: 0 });
	await startLife(sandbox);
	const before = await look(sandbox, 3);
	const { id } = await take(sandbox, 'swarm');
	const seen = [before];
	for (let n = 0; n < 50; n += 10) {
		const made = [];
		for (let i = 0; i < 10; i += 5)
			made.push(...await Promise.all([1, 2, 3, 4, 5].map(() => fork(id))));
		const looks = await Promise.all(made.map((copy) => look(copy, n < 20 ? 3 : 0)));
		for (const now of looks) {
			assertGoesOn(now, before);
			assert.ok(n >= 20 || now.later.count >= now.counter.count + 3);
		}
		await assertClock(looks.at(-1).clock);
		seen.push(...looks);
		await Promise.all(made.map(kill));
	}
	assert.equal(seen.length, 51);
	assertDistinct(seen);
	await kill(sandbox);
}, { timeout: 600_000 });

check('8.4 forks: of the dead, of forks, with other envs; a deleted checkpoint takes nothing from them', async () => {
	const sandbox = await create({ envs: { A: '1', B: '1' }, metadata: { m: '1' }, timeout: 0 });
	await sh(sandbox, 'echo root >/home/sandbox/who');
	const first = await take(sandbox, 'first');
	await kill(sandbox);
	const child = await fork(first.id, { envs: { B: '2', C: '2' }, timeout: 77 });
	assert.equal(await sh(child, 'echo $A$B$C; cat /home/sandbox/who'), '122\nroot\n');
	const { json } = await request('GET', path(child));
	assert.equal(json.fromCheckpointId, first.id);
	assert.equal(json.timeout, 77);
	assert.deepEqual(json.metadata, { m: '1' });
	await sh(child, 'echo child >>/home/sandbox/who');
	const second = await take(child, 'second');
	assert.equal(second.parentId, first.id);
	await sandbox.deleteCheckpoint(first.id);
	await request('POST', '/api/store/gc');
	const grandchild = await fork(second.id);
	assert.equal(await sh(grandchild, 'echo $A$B$C; cat /home/sandbox/who'), '122\nroot\nchild\n');
	assert.equal((await request('GET', path(grandchild))).json.timeout, 300);
	await assert.rejects(Sandbox.createFromCheckpoint(first.id), /404/);
	// The child still has its disk, though it sleeps.
	await child.hibernate();
	await child.wake();
	assert.equal(await sh(child, 'sha256sum /usr/bin/python3 >/dev/null; cat /home/sandbox/who'), 'root\nchild\n');
	for (const other of [child, grandchild])
		await kill(other);
});

check('8.2 8.4 disk_only boots with the files of then; promoted, it is full', async () => {
	const sandbox = await origin();
	await sh(sandbox, 'echo disk >/home/sandbox/kept; echo memory >/dev/shm/kept');
	const disk = await take(sandbox, 'disk', { kind: 'disk_only' });
	assert.equal(disk.kind, 'disk_only');
	const promoted = await take(sandbox, 'promoted', { kind: 'disk_only', promoteToFull: true });
	assert.equal(promoted.kind, 'full');
	const booted = await fork(disk.id);
	const uptime = Number((await sh(booted, 'cut -d. -f1 /proc/uptime')));
	const older = Number((await sh(sandbox, 'cut -d. -f1 /proc/uptime')));
	assert.ok(uptime < older, `${uptime} s, ${older} s`);
	assert.equal(await sh(booted, 'cat /home/sandbox/kept; ls /dev/shm'), 'disk\n');
	const copy = await fork(promoted.id);
	assert.equal(await sh(copy, 'cat /home/sandbox/kept /dev/shm/kept'), 'disk\nmemory\n');
	await kill(booted);
	await kill(copy);
	await forget(sandbox, disk, promoted);
});

check('8.2 ten full ones at most, a name only once; delete_oldest makes room, not of what is in use', async () => {
	const sandbox = await origin();
	const taken = [];
	for (let i = 0; i < 10; i++)
		taken.push(await take(sandbox, `full ${i}`));
	await assert.rejects(sandbox.createCheckpoint('full 10'), /400 .*maximum/);
	await assert.rejects(sandbox.createCheckpoint('full 3', { kind: 'disk_only' }), /409 .*full 3/);
	const copy = await fork(taken[0].id);
	await Sandbox.createCheckpointPatch(taken[1].id, { script: 'true' });
	const published = await request('POST', path(sandbox, `/checkpoints/${taken[2].id}/publish`));
	assert.equal(published.json.isPublic, true, published.text);
	const policy = (maxCount) => ({ retentionPolicy: { mode: 'delete_oldest', maxCount } });
	await take(sandbox, 'full 10', policy());
	const names = async () => (await sandbox.listCheckpoints()).map((c) => c.name).sort();
	const rest = ['full 0', 'full 1', 'full 10', 'full 2', 'full 4', 'full 5', 'full 6', 'full 7', 'full 8', 'full 9'];
	assert.deepEqual(await names(), rest);
	await take(sandbox, 'full 11', policy(5));
	assert.deepEqual(await names(), ['full 0', 'full 1', 'full 10', 'full 11', 'full 2']);
	await assert.rejects(sandbox.createCheckpoint('full 12', policy(3)), /400 .*maximum/);
	assert.deepEqual(await names(), ['full 0', 'full 1', 'full 10', 'full 11', 'full 2']);
	await sandbox.deleteCheckpoint(taken[3].id);
	await take(sandbox, 'full 3');
	assert.equal(await copy.exec.run('true').then((r) => r.exitCode), 0);
	await kill(copy);
	await forget(sandbox, ...await sandbox.listCheckpoints());
});
