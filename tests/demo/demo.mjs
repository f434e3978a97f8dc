// SPDX-License-Identifier: Apache-2.0
// What a first user does, through the published npm client; prints each step with its time.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { Sandbox, version } from '../sdk/client.mjs';

const BYTES = 10_000_000;

const shown = (text) => {
	const line = text.trimEnd().replaceAll('\n', ' ');
	return line.length <= 66 ? line : `${line.slice(0, 63)}...`;
};

async function step(what, work) {
	const begun = performance.now();
	const [result, text] = await work();
	const ms = (performance.now() - begun).toFixed(0);
	console.log(`  ${what.padEnd(30)} ${shown(text).padEnd(66)} ${ms.padStart(7)} ms`);
	return result;
}

const run = (sandbox, what, command, expected) => step(what, async () => {
	const { exitCode, stdout, stderr } = await sandbox.exec.run(command, { timeout: 200 });
	assert.equal(exitCode, 0, `${command}: exit code ${exitCode}: ${stderr}`);
	assert.match(stdout, expected, command);
	return [stdout, stdout];
});

// A process that counts, to see what becomes of processes. It writes the count to a file, replaced at once.
const COUNTER = `nohup sh -c 'i=0; while sleep 0.1; do i=$((i + 1)); echo $i > n.new; mv n.new n; done' >/dev/null 2>&1 &`;

// Its next count after n: it must be alive for that.
async function countAfter(sandbox, n) {
	const command = `until [ "$(cat n)" -gt ${n} ]; do sleep 0.1; done 2>/dev/null; cat n`;
	const { exitCode, stdout } = await sandbox.exec.run(command, { timeout: 100 });
	assert.equal(exitCode, 0, `the counter stands still at ${n}`);
	return Number(stdout);
}

const countsOn = (what, sandbox, before, work) => step(what, async () => {
	await work();
	const now = await countAfter(sandbox, before);
	return [now, `the counter goes on: ${before}, ${now}`];
});

async function ready(sandbox, id) {
	for (;;) {
		const checkpoint = (await sandbox.listCheckpoints()).find((c) => c.id === id);
		assert.notEqual(checkpoint.status, 'failed', checkpoint.errorMsg);
		if (checkpoint.status === 'ready')
			return checkpoint;
		await new Promise((done) => { setTimeout(done, 100); });
	}
}

async function timeTravel(sandbox) {
	await run(sandbox, 'start a counter', `${COUNTER} echo counting`, /^counting\n$/);
	const first = await countAfter(sandbox, 0);
	const { id } = await step('checkpoint, while it counts', async () => {
		const made = await sandbox.createCheckpoint('counting');
		return [made, `${made.id.slice(0, 8)} ${made.status}`];
	});
	await step('until it is written', async () => {
		const { status, sizeBytes } = await ready(sandbox, id);
		return [null, `${id.slice(0, 8)} ${status}, ${(sizeBytes / 2 ** 20).toFixed(0)} MiB`];
	});
	const fork = await step('fork it', async () => {
		const made = await Sandbox.createFromCheckpoint(id);
		return [made, `${made.sandboxId} ${made.status}`];
	});
	try {
		await countsOn('in the fork', fork, first, async () => {});
	} finally {
		await fork.kill();
	}
	await run(sandbox, 'an accident', 'pkill -f "[i]=0; while"; rm -rv n', /removed/);
	const last = await countsOn('restore, in place', sandbox, first, () => sandbox.restoreCheckpoint(id));
	await step('hibernate', async () => {
		await sandbox.hibernate();
		return [null, sandbox.status];
	});
	await countsOn('wake', sandbox, last, () => sandbox.wake());
}

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

console.log(`@opencomputer/sdk ${version}, Node.js ${process.version}, ${process.env.OPENCOMPUTER_API_URL}\n`);

const sandbox = await step('Sandbox.create()', async () => {
	const made = await Sandbox.create();
	return [made, `${made.sandboxId} ${made.status}`];
});
try {
	await run(sandbox, 'uname -a', 'uname -a', /^Linux sandbox .*x86_64/);
	await run(sandbox, 'a Python one-liner',
		`python3 -c 'import sys; print("Python", sys.version.split()[0], sum(range(101)))'`,
		/^Python 3\S* 5050\n$/);
	await run(sandbox, 'a Node.js one-liner',
		`node -e 'console.log("Node.js", process.version, [1, 2, 3].map((n) => n * n).join())'`,
		/^Node\.js v\S+ 1,4,9\n$/);

	const bytes = randomBytes(BYTES);
	const expected = sha256(bytes);
	await step('write a file of 10 MB', async () => {
		await sandbox.files.write('/home/sandbox/demo.bin', bytes);
		return [null, `SHA-256 ${expected.slice(0, 32)}... here`];
	});
	await step('sha256sum in the sandbox', async () => {
		const { stdout } = await sandbox.exec.run('sha256sum demo.bin', { timeout: 200 });
		assert.equal(stdout.slice(0, 64), expected);
		return [null, `SHA-256 ${stdout.slice(0, 32)}... there, equal`];
	});
	await step('read it back', async () => {
		const back = sha256(await sandbox.files.readBytes('/home/sandbox/demo.bin'));
		assert.equal(back, expected);
		return [null, `SHA-256 ${back.slice(0, 32)}... back, equal`];
	});

	await timeTravel(sandbox);
} finally {
	await step('kill', async () => {
		await sandbox.kill();
		return [null, `${sandbox.sandboxId} ${sandbox.status}`];
	});
}
assert.equal(await sandbox.isRunning(), false);
console.log();
