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
	await kill(sandbox);
});

// The other end is a server within the sandbox: no network is needed.
check('13 rclone mounts what a server has, and lets go of it', async () => {
	const sandbox = await create();
	await sh(sandbox, `mkdir -p /tmp/far && echo from afar >/tmp/far/file
		setsid rclone serve webdav /tmp/far --addr 127.0.0.1:8089 >/tmp/log 2>&1 &
		for i in $(seq 500); do curl -sf http://127.0.0.1:8089/file && exit; sleep 0.2; done; cat /tmp/log; exit 1`);
	const added = await sandbox.mounts.add({
		path: '/mnt/r', remote: 'far:', backend: 'webdav', creds: { url: 'http://127.0.0.1:8089', vendor: 'other' }, readOnly: false,
	});
	assert.deepEqual([added.driver, added.backend, added.remote, added.readOnly], ['rclone', 'webdav', 'far:', false]);
	assert.match(added.rcloneVersion, /^rclone v\d/);
	assert.equal(await sh(sandbox, 'grep -o "fuse.rclone rw" /proc/mounts; cat /mnt/r/file; stat -c %a /mnt/r/file'),
		'fuse.rclone rw\nfrom afar\n644\n');
	await sh(sandbox, 'echo new >/mnt/r/written && mv /mnt/r/file /mnt/r/moved');
	assert.equal(await sh(sandbox, 'ls /tmp/far; cat /tmp/far/written'), 'moved\nwritten\nnew\n');
	await sandbox.mounts.remove('/mnt/r');
	assert.equal(await sh(sandbox, 'ls /mnt/r; grep -c rclone /proc/mounts; pgrep -fc "[r]clone mount"; true'), '0\n0\n');
	// What it says when it cannot is in the error.
	await assert.rejects(sandbox.mounts.add({ path: '/mnt/r', remote: 'other:', rcloneConfig: '[far]\ntype = local\n' }), /500.*other/);
	await sandbox.mounts.add({ path: '/mnt/r', remote: 'here:', rcloneConfig: '[here]\ntype = alias\nremote = /tmp/far\n' });
	assert.equal(await sh(sandbox, 'cat /mnt/r/moved; echo x 2>/dev/null >/mnt/r/moved || echo read only'), 'from afar\nread only\n');
	await sandbox.mounts.remove('/mnt/r');
	assert.deepEqual(await sandbox.mounts.list(), []);
	await kill(sandbox);
});
