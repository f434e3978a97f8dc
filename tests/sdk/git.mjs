// SPDX-License-Identifier: Apache-2.0
// Checkpoints under a guest that is busy with its disk: what forks of them find must be whole (8.2, 8.4).
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { check, create, fork, kill, onHost, onHostOnly, sh, stateDir, written } from './support.mjs';

const FSCK = fileURLToPath(new URL('fsck-disk', import.meta.url));
const CHECKPOINTS = 20; // every second one of the disk alone: there may be ten full ones

const SETUP = `
set -e
git init -q --initial-branch=main /home/sandbox/origin
cd /home/sandbox/origin
git config user.name test; git config user.email test@localhost
for i in 1 2 3 4; do
	mkdir -p d$i
	head -c 100000 /dev/urandom | split -b 4000 - d$i/f
	git add .
	git commit -qm "commit $i"
done
`;

// Clones and checks again and again; /home/sandbox/rounds counts what was clean, broken says what was not.
const LOOP = `
cd /home/sandbox
for i in $(seq 100000); do
	rm -rf clone
	{ git clone -q --no-local origin clone && git -C clone fsck --full --strict && git -C clone status --porcelain; } \\
		>report 2>&1 && [ ! -s report ] || { mv report broken; exit 1; }
	echo $i >rounds.new && mv rounds.new rounds
	[ ! -e stop ] || break
done
touch stopped
`;

const rounds = async (sandbox) => Number(await sh(sandbox, '[ ! -e broken ] || { cat broken; exit 1; }; cat rounds'));

/** Let the loop, wherever in a round it was captured, come to the end of that round. */
async function endRound(sandbox) {
	await sh(sandbox, 'touch stop; until [ -e stopped ] || [ -e broken ]; do sleep 0.2; done');
	assert.ok(await rounds(sandbox) > 0);
}

check('8.2 8.4 20 checkpoints of a guest that clones and checks: forks of them are clean, and so are disks', async () => {
	const sandbox = await create({ memoryMB: 512, timeout: 0 });
	await sandbox.files.write('setup.sh', SETUP);
	await sandbox.files.write('loop.sh', LOOP);
	await sh(sandbox, 'bash setup.sh && (setsid bash loop.sh </dev/null >/dev/null 2>&1 &) ; until [ -e rounds ]; do sleep 0.1; done');
	const taken = [];
	for (let i = 0; i < CHECKPOINTS; i++)
		taken.push(await sandbox.createCheckpoint(`git ${i}`, { kind: i % 2 ? 'disk_only' : 'full' }));
	await endRound(sandbox);
	for (const { id } of taken) {
		const item = await written(sandbox, id);
		assert.equal(item.status, 'ready', item.errorMsg);
	}
	await sandbox.hibernate(); // it has no part in the rest
	for (const [i, { id, kind }] of taken.entries()) {
		if (kind === 'disk_only' && i % 8 !== 7)
			continue; // a boot each
		const copy = await fork(id);
		if (kind === 'full') {
			await endRound(copy);
		} else {
			assert.equal(await sh(copy, 'pgrep -f "[l]oop.sh" || echo none'), 'none\n');
			assert.ok(await rounds(copy) > 0);
		}
		assert.equal(await sh(copy, 'git -C origin fsck --full --strict 2>&1; git -C origin status --porcelain'), '');
		await kill(copy);
	}
	for (const { id } of onHostOnly.skip ? [] : taken.slice(-2))
		assert.match(await onHost(FSCK, stateDir, id), /\d+\/\d+ blocks\n$/);
	await kill(sandbox);
}, { timeout: 900_000 });
