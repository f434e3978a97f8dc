// SPDX-License-Identifier: Apache-2.0
// The command line against the same server, once through time: see docs/cli.md.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { check } from './support.mjs';

const PROGRAM = fileURLToPath(new URL('../../build/dormouse', import.meta.url));

/** Run it; stdout without the last newline. A failure throws with stderr. */
async function dormouse(...args) {
	const { stdout } = await promisify(execFile)(PROGRAM, args, { env: { ...process.env, LC_ALL: 'C.UTF-8' } });
	return stdout.replace(/\n$/, '');
}

check('cli: create, checkpoint, fork, tree, hibernate, wake, restore, patch, store', async () => {
	const id = await dormouse('create', '--timeout', '0', '-e', 'A=b');
	const all = [id];
	try {
		assert.match(id, /^sb-[0-9a-f]{8}$/);
		const write = (text) => dormouse('exec', id, `echo ${text} | tee disk >/dev/shm/memory`);
		const read = (sandbox) => dormouse('exec', sandbox, 'cat disk /dev/shm/memory');
		await write('one');
		const one = await dormouse('checkpoint', '--wait', id, 'one');
		assert.match(one, /^[0-9a-f-]{36}$/);
		await write('two');
		await dormouse('checkpoint', '--wait', id, 'two');
		assert.match(await dormouse('checkpoints', id), /one[^]*two/);

		const script = await promisify(execFile)('sh', ['-c', `echo 'echo patched >/root/p' | '${PROGRAM}' patch add ${id}:one -`]);
		assert.match(script.stdout, /^[0-9a-f-]{36}\n$/);
		assert.ok((await dormouse('patch', 'ls', one)).includes(script.stdout.trim()));
		const forks = (await dormouse('fork', '-n', '2', `${id}:one`)).split('\n');
		all.push(...forks);
		assert.equal(forks.length, 2);
		for (const copy of forks) {
			assert.equal(await read(copy), 'one\none');
			assert.equal(await dormouse('exec', copy, 'sudo cat /root/p; echo $A'), 'patched\nb');
		}
		const live = await dormouse('fork', id); // of a sandbox that runs
		all.push(live);
		assert.equal(await read(live), 'two\ntwo');

		assert.equal(await dormouse('hibernate', id), id);
		assert.match(await dormouse('ls', '--status', 'hibernated'), new RegExp(id));
		assert.equal(await dormouse('wake', id), id);
		assert.equal(await read(id), 'two\ntwo');
		await dormouse('restore', id, 'one');
		assert.equal(await read(id), 'one\none');
		assert.match(await dormouse('tree', id), new RegExp(`^${id} +running[^]*└─ ● one[^]*└─ ○ two`));
		await assert.rejects(dormouse('restore', id, 'three'), /three/);

		await dormouse('rm-checkpoint', id, 'two');
		await dormouse('kill', live);
		const store = JSON.parse(await dormouse('--json', 'store'));
		const stored = store.checkpoints.find((c) => c.id === one);
		assert.ok(stored.uniqueBytes > 0, JSON.stringify(store));
		assert.match(await dormouse('store', 'gc'), /./);
		const verified = JSON.parse(await dormouse('--json', 'store', 'verify'));
		assert.deepEqual(verified.problems, []);
		assert.ok(verified.ok && verified.checkedLayers > 0 && verified.checkedImages > 0, JSON.stringify(verified));
		// What was collected was nobody's.
		for (const copy of forks)
			assert.equal(await dormouse('exec', copy, 'sha256sum </usr/bin/python3 >/dev/null && cat disk'), 'one');
	} finally {
		await dormouse('kill', ...all).catch(() => {}); // some are gone
	}
});
