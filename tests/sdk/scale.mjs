// SPDX-License-Identifier: Apache-2.0
// Scaling (section 12).
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { Sandbox, ScalingLockedError } from './client.mjs';
import { check, create, kill, onHost, onHostOnly, request, sh, shared, sleep, take, UNKNOWN } from './support.mjs';

const totalMB = async (sandbox) => Number((await sh(sandbox, "free -m | awk '/^Mem/ {print $2}'")).trim());

/** A guest that has much to do gets there later than the answer comes. */
async function total(sandbox, least, most) {
	for (;;) {
		const mb = await totalMB(sandbox);
		if (mb >= least && mb <= most)
			return mb;
		await sleep(100);
	}
}

check('12 memory grows and shrinks while it runs, and is kept by hibernation and forks', async () => {
	const sandbox = await create({ memoryMB: 1024 });
	const before = await totalMB(sandbox);
	assert.ok(before > 800 && before < 1100, `${before}`);
	const up = await sandbox.scale({ memoryMB: 2048 });
	assert.deepEqual([up.sandboxID, up.memoryMB, up.cpuPercent], [sandbox.sandboxId, 2048, 100]);
	const grown = await total(sandbox, 1850, 2048);
	const limit = Number(await sh(sandbox, 'cat /sys/fs/cgroup/sandbox/memory.max'));
	assert.ok(limit > 1.7 * 2 ** 30, `${limit}`);
	await sandbox.hibernate();
	await sandbox.wake();
	assert.equal(await totalMB(sandbox), grown);
	assert.equal((await request('GET', `/api/sandboxes/${sandbox.sandboxId}`)).json.memoryMB, 2048);
	assert.equal((await sandbox.scale({ memoryMB: 768 })).memoryMB, 768);
	await total(sandbox, 500, 767);
	// A fork that asks for more goes on, and gets it; a boot would have no such process.
	await sh(sandbox, 'sleep 12345 >/dev/null 2>&1 &');
	const { id } = await take(sandbox, 'small');
	const answer = await request('POST', `/api/sandboxes/from-checkpoint/${id}`, { body: { memoryMB: 2048 } });
	assert.deepEqual([answer.status, answer.json.memoryMB, answer.json.coldBoot], [201, 2048, undefined], answer.text);
	const forked = await Sandbox.connect(answer.json.sandboxID);
	try {
		await total(forked, 1850, 2048);
		assert.equal(await sh(forked, 'pgrep -fc "sleep [1]2345"'), '1\n');
	} finally {
		await forked.kill();
	}
	await kill(sandbox);
});

check('12 what cannot be is refused', async () => {
	const sandbox = await shared();
	await assert.rejects(sandbox.scale({ memoryMB: -1 }), /required/);
	await assert.rejects(sandbox.scale({ memoryMB: 1 << 20 }), /memoryMB/);
	// Its kernel and the agent alone need more.
	await assert.rejects(sandbox.scale({ memoryMB: 64 }), /it uses/);
	assert.equal((await request('POST', `/api/sandboxes/${UNKNOWN}/scale`, { body: { memoryMB: -1 } })).status, 400);
});

check('12 autoscale and the lock', async () => {
	const sandbox = await shared();
	const off = { sandboxID: sandbox.sandboxId, enabled: false, minMemoryMB: 0, maxMemoryMB: 0 };
	assert.deepEqual(await sandbox.getAutoscale(), off);
	assert.equal((await sandbox.getScalingLock()).locked, false);
	const on = await sandbox.setAutoscale({ enabled: true, minMemoryMB: 1024, maxMemoryMB: 4096 });
	assert.deepEqual(on, { ...off, enabled: true, minMemoryMB: 1024, maxMemoryMB: 4096 });
	await assert.rejects(sandbox.setAutoscale({ enabled: true, minMemoryMB: 4096, maxMemoryMB: 1024 }), /minMemoryMB/);
	assert.deepEqual(await sandbox.getAutoscale(), on);
	assert.equal((await sandbox.setScalingLock(true)).locked, true);
	assert.deepEqual(await sandbox.getAutoscale(), off);
	await assert.rejects(sandbox.scale({ memoryMB: 2048 }), ScalingLockedError);
	await assert.rejects(sandbox.setAutoscale({ enabled: true, minMemoryMB: 1024, maxMemoryMB: 2048 }), ScalingLockedError);
	assert.equal((await sandbox.setScalingLock(false)).locked, false);
	assert.deepEqual(await sandbox.getAutoscale(), off);
});

// With a daemon of its own, which begins in a cgroup that was given to it, and is killed.
check('12 cpuPercent holds in a cgroup of the process, as long as there is one', async () => {
	const script = fileURLToPath(new URL('limits.py', import.meta.url));
	assert.match(await onHost('/usr/bin/python3', '-B', script, '/var/tmp'), /limits: ok\n$/);
}, onHostOnly);
