// SPDX-License-Identifier: Apache-2.0
// Patches: scripts that forks of a checkpoint run before they are handed out (8.5).
import assert from 'node:assert/strict';
import { Sandbox } from './client.mjs';
import { assertError, check, create, fork, kill, request, sh, take } from './support.mjs';

const NO_CHECKPOINT = '00000000-0000-4000-8000-000000000001';
const LOG = '/root/patched';

const patchError = async (sandbox) => (await request('GET', `/api/sandboxes/${sandbox.sandboxId}`)).json.patchError;
const applied = async (sandbox) => (await sh(sandbox, `sudo cat ${LOG} 2>/dev/null || true`)).trim();

check('8.5 forks run patches in order, as root; what fails stops them until it is gone; wakes go on', async () => {
	const sandbox = await create({ envs: { FROM_CREATE: 'yes' }, timeout: 0 });
	const { id } = await take(sandbox, 'patched');
	const add = async (script, description) =>
		(await Sandbox.createCheckpointPatch(id, { script, ...(description ? { description } : {}) })).patch;
	const first = await add(`echo "1 $(id -un) $FROM_CREATE $PWD" >>${LOG}`, 'the first');
	assert.equal(first.sequence, 1);
	assert.equal(first.checkpointId, id);
	assert.equal(first.description, 'the first');
	assert.equal(first.strategy, 'on_wake');
	assert.match(first.id, /^[0-9a-f-]{36}$/);
	const second = await add(`echo 2 >>${LOG}; touch /tmp/second`);
	assert.deepEqual([second.sequence, second.description], [2, '']);
	const listed = (await Sandbox.listCheckpointPatches(id)).map((p) => [p.id, p.sequence, p.script]);
	assert.deepEqual(listed, [first, second].map((p) => [p.id, p.sequence, p.script]));

	const good = await fork(id);
	assert.equal(await applied(good), '1 root yes /root\n2');
	assert.equal(await patchError(good), undefined);
	assert.equal(await applied(sandbox), '', 'the source is never patched');

	const bad = await add('echo begun >>/root/begun; echo "no such luck" >&2; exit 3');
	const last = await add(`echo 4 >>${LOG}`);
	const stuck = await fork(id); // it is made all the same
	assert.equal(await applied(stuck), '1 root yes /root\n2');
	assert.match(await patchError(stuck), /3: exit code 3: no such luck/);

	// One that was forked before gets the new ones when it wakes, and not before.
	assert.equal(await applied(good), '1 root yes /root\n2');
	await good.hibernate();
	await good.wake();
	assert.match(await patchError(good), /exit code 3/);
	// The next wake begins with the one that failed.
	await good.hibernate();
	await good.wake();
	assert.equal(await sh(good, 'sudo cat /root/begun'), 'begun\nbegun\n');
	await Sandbox.deleteCheckpointPatch(id, bad.id);
	await Sandbox.deleteCheckpointPatch(id, bad.id); // the client forgives the 404
	await good.hibernate();
	await good.wake();
	assert.equal(await patchError(good), undefined);
	assert.equal(await applied(good), '1 root yes /root\n2\n4');
	const next = await add('true');
	assert.deepEqual([last.sequence, next.sequence], [4, 5], 'gaps stay');
	for (const other of [good, stuck, sandbox])
		await kill(other);
});

check('8.5 bad patches are refused, and the client says why', async () => {
	await assert.rejects(Sandbox.createCheckpointPatch(NO_CHECKPOINT, { script: 'true' }),
		/Failed to create checkpoint patch: 404/);
	await assert.rejects(Sandbox.listCheckpointPatches(NO_CHECKPOINT), /Failed to list checkpoint patches: 404/);
	await Sandbox.deleteCheckpointPatch(NO_CHECKPOINT, NO_CHECKPOINT);
	assertError(await request('POST', `/api/sandboxes/checkpoints/${NO_CHECKPOINT}/patches`, { body: {} }), 400, /script/);
	assertError(await request('POST', '/api/sandboxes/checkpoints/x/patches', { body: { script: 'true' } }), 400, /./);
});
