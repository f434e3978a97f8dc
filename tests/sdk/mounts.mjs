// SPDX-License-Identifier: Apache-2.0
// Mounts (section 13).
import assert from 'node:assert/strict';
import { check, create, kill, sh } from './support.mjs';

check('13 a command mounts; the mount outlives hibernation and ends with its removal', async () => {
	const sandbox = await create();
	assert.deepEqual(await sandbox.mounts.list(), []);
	const added = await sandbox.mounts.add({
		path: '/mnt/data', driver: 'command', readOnly: false, env: { SIZE: '16m' }, secrets: { KEY: 'hush' },
		command: ['sh', '-c', 'test -n "$KEY" && exec mount -t tmpfs -o size=$SIZE,mode=1777 of-a-test "$0"', '{mountpoint}'],
	});
	assert.deepEqual([added.path, added.driver, added.readOnly], ['/mnt/data', 'command', false]);
	assert.ok(!JSON.stringify(await sandbox.mounts.list()).includes('hush'));
	await sh(sandbox, 'echo kept >/mnt/data/file');
	await assert.rejects(sandbox.mounts.add({ path: '/mnt/data', driver: 'command', command: ['true'] }), /409/);
	await sandbox.hibernate();
	assert.equal((await sandbox.mounts.list()).length, 1);
	await sandbox.wake();
	assert.equal(await sh(sandbox, 'cat /mnt/data/file'), 'kept\n');
	await sandbox.mounts.remove('/mnt/data');
	await sandbox.mounts.remove('/mnt/data');
	assert.deepEqual(await sandbox.mounts.list(), []);
	assert.equal(await sh(sandbox, 'grep -c of-a-test /proc/mounts || true'), '0\n');
	await assert.rejects(sandbox.mounts.add({
		path: '/mnt/data', driver: 'command', command: ['sh', '-c', 'echo no such bucket >&2; exit 3'],
	}), /500.*no such bucket/);
	const rclone = sandbox.mounts.add({ path: '/mnt/r', remote: 's3:bucket', backend: 's3', creds: { access_key_id: 'x' } });
	// Nothing answers there; without the program that is said at once.
	await assert.rejects(rclone, /50[01].*(rclone|mounted)/);
	await kill(sandbox);
});
