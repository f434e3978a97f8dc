// SPDX-License-Identifier: Apache-2.0
// Commands that are started, their clients, and shells over them (sections 4.5 to 4.7, 17.1, 18.3, 18.5).
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Sandbox } from './client.mjs';
import { check, create, kill, onHost, onHostOnly, request, sh, shared } from './support.mjs';

const decoder = new TextDecoder();

/** Callbacks for start and attach that keep what comes, and wait for some of it. */
function collector() {
	const seen = { out: '', err: '', live: false, marks: 0, atMark: '', code: undefined };
	let wake = () => {};
	const opts = {
		onStdout: (d) => { seen.out += decoder.decode(d); wake(); },
		onStderr: (d) => { seen.err += decoder.decode(d); wake(); },
		onExit: (code) => { seen.code = code; wake(); },
		onScrollbackEnd: () => { seen.live = true; seen.marks++; seen.atMark = seen.out; wake(); },
	};
	seen.until = async (predicate) => {
		while (!predicate(seen))
			await new Promise((resolve) => { wake = resolve; });
		return seen;
	};
	return { seen, opts };
}

check('4.5 17.1 start: output by stream, stdin in order, exit code', async () => {
	const sandbox = await shared();
	const { seen, opts } = collector();
	const session = await sandbox.exec.start('sh', { ...opts, args: ['-c', 'echo out; echo err >&2; cat; exit 7'] });
	await seen.until((s) => s.out === 'out\n' && s.err === 'err\n' && s.live);
	session.sendStdin('one ');
	session.sendStdin(new TextEncoder().encode('two\n'));
	await seen.until((s) => s.out === 'out\none two\n');
	await session.kill(15);
	assert.equal(await session.done, 143);
	assert.equal(seen.code, 143);
	assert.equal(seen.marks, 1);
});

check('4.2 4.5 start takes a line for the shell, with env, cwd and timeout', async () => {
	const sandbox = await shared();
	const { seen, opts } = collector();
	const session = await sandbox.exec.start('echo "$A" | tr a b; pwd; sleep 1000',
		{ ...opts, env: { A: 'aXa' }, cwd: '/usr', timeout: 5 });
	assert.notEqual(await session.done, 0);
	assert.equal(seen.out, 'bXb\n/usr\n');
	assert.match(seen.err, /timed out/);
});

check('4.5 background goes on without a client; list shows it; kill by id, twice', async () => {
	const sandbox = await shared();
	const session = await sandbox.exec.background('while :; do sleep 1; done');
	const info = (await sandbox.exec.list()).find((x) => x.sessionID === session.sessionId);
	assert.equal(info.running, true);
	assert.equal(info.sandboxID, sandbox.sandboxId);
	assert.match(info.startedAt, /^\d{4}-.*Z$/);
	session.close();
	await sandbox.exec.kill(session.sessionId);
	await sandbox.exec.kill(session.sessionId);
	let ended;
	do
		ended = (await sandbox.exec.list()).find((x) => x.sessionID === session.sessionId);
	while (ended.running);
	assert.equal(ended.exitCode, 137);
});

check('4.6 several clients attach: each gets the replay, then all that comes', async () => {
	const sandbox = await shared();
	const first = collector();
	const session = await sandbox.exec.start('while read l; do echo "got $l"; done', first.opts);
	session.sendStdin('a\n');
	await first.seen.until((s) => s.out === 'got a\n');
	const others = [collector(), collector()];
	const attached = await Promise.all(others.map((o) => sandbox.exec.attach(session.sessionId, o.opts)));
	await Promise.all(others.map((o) => o.seen.until((s) => s.live)));
	for (const o of others)
		assert.equal(o.seen.atMark, 'got a\n');
	assert.equal((await sandbox.exec.list()).find((x) => x.sessionID === session.sessionId).attachedClients, 3);
	attached[0].sendStdin('b\n');
	await Promise.all([first, ...others].map((o) => o.seen.until((s) => s.out === 'got a\ngot b\n')));
	await session.kill();
	assert.deepEqual(await Promise.all([session.done, ...attached.map((a) => a.done)]), [137, 137, 137]);
});

check('4.6 attaching to one that has exited: replay, marker, code; to an unknown one: an error', async () => {
	const sandbox = await shared();
	const session = await sandbox.exec.start('echo over; exit 9');
	assert.equal(await session.done, 9);
	const { seen, opts } = collector();
	const again = await sandbox.exec.attach(session.sessionId, opts);
	assert.equal(await again.done, 9);
	assert.equal(seen.atMark, 'over\n');
	assert.equal(seen.marks, 1);
	await assert.rejects(sandbox.exec.attach('00000000'));
	const refused = await request('GET', `/api/sandboxes/${sandbox.sandboxId}/exec/00000000`);
	assert.equal(refused.status, 404);
});

check('4.6 17.1 100 MB through a reader that sleeps arrive whole', async () => {
	const sandbox = await shared();
	await sh(sandbox, 'head -c 104857600 /dev/urandom >/tmp/big');
	const expected = (await sh(sandbox, 'sha256sum /tmp/big')).slice(0, 64);
	const hash = createHash('sha256');
	const cell = new Int32Array(new SharedArrayBuffer(4));
	let bytes = 0, next = 0;
	const session = await sandbox.exec.start('cat /tmp/big', {
		onStdout: (d) => {
			hash.update(d);
			bytes += d.length;
			if (bytes >= next) {
				Atomics.wait(cell, 0, 0, 500); // this whole process stands still, and reads nothing
				next += 10_000_000;
			}
		},
	});
	assert.equal(await session.done, 0);
	assert.equal(bytes, 104857600);
	assert.equal(hash.digest('hex'), expected);
	await sh(sandbox, 'rm /tmp/big');
});

check('4.7 shell keeps directory, variables and functions; exit codes and streams are those of each command', async () => {
	const sandbox = await shared();
	const shell = await sandbox.exec.shell({ cwd: '/usr', env: { A: 'from env' } });
	assert.deepEqual(await shell.run('echo "$A"; pwd'), { exitCode: 0, stdout: 'from env\n/usr\n', stderr: '' });
	assert.equal((await shell.run('cd /tmp; X=kept; f() { echo "f $1"; return 3; }')).exitCode, 0);
	const result = await shell.run('f "$X"');
	assert.deepEqual([result.exitCode, result.stdout], [3, 'f kept\n']);
	assert.equal((await shell.run('pwd; echo oops >&2; (exit 5)')).exitCode, 5);
	let streamed = '';
	await shell.run('echo one; echo two', { onStdout: (d) => { streamed += decoder.decode(d); } });
	assert.equal(streamed, 'one\ntwo\n');
	await shell.close();
});

check('4.7 a script of a megabyte runs whole, and its output comes whole', async () => {
	const sandbox = await shared();
	const shell = await sandbox.exec.shell();
	const lines = Array.from({ length: 20_000 }, (_, i) => `: line ${i} of a script that is long enough to fill all buffers`);
	const result = await shell.run(`n=0\n${lines.join('\n')}\nn=1; head -c 300000 /dev/zero | tr '\\0' x; echo; echo n=$n`);
	assert.equal(result.exitCode, 0);
	assert.equal(result.stdout, `${'x'.repeat(300_000)}\nn=1\n`);
	await shell.close();
});

check('4.7 a shell can be attached to again, and knows what it knew', async () => {
	const sandbox = await shared();
	const shell = await sandbox.exec.shell();
	await shell.run('Y=remembered; echo some scrollback');
	const again = await sandbox.exec.reattachShell(shell.sessionId);
	assert.equal((await again.run('echo $Y')).stdout, 'remembered\n');
	await again.close();
});

check('18.3 4.6 a stream over three hibernations has every byte once, and a shell goes on', async () => {
	const sandbox = await create();
	const count = 'import os, time\nn = 0\nwhile not os.path.exists("/tmp/stop"):\n os.write(1, b"%07d\\n" % n)\n n += 1\n time.sleep(0.01)\nos.write(2, b"%d" % n)';
	let { seen, opts } = collector();
	const session = await sandbox.exec.start('python3', { ...opts, args: ['-c', count] });
	const shell = await sandbox.exec.shell();
	await shell.run('Z=asleep');
	let known = '', attached = session;
	for (let cycle = 0; cycle < 3; cycle++) {
		const enough = known.length + 800;
		await seen.until((s) => s.out.length >= enough);
		await sandbox.hibernate();
		assert.equal(await attached.done, -1, 'closed without an exit code');
		assert.ok(seen.out.startsWith(known), 'the replay is what was there before');
		known = seen.out;
		await sandbox.wake();
		({ seen, opts } = collector());
		attached = await sandbox.exec.attach(session.sessionId, opts);
	}
	await sandbox.files.write('/tmp/stop', '');
	assert.equal(await attached.done, 0);
	assert.ok(seen.out.startsWith(known));
	const n = Number(seen.err);
	assert.ok(n > 300);
	assert.equal(seen.out, Array.from({ length: n }, (_, i) => `${String(i).padStart(7, '0')}\n`).join(''));
	const again = await sandbox.exec.reattachShell(shell.sessionId);
	assert.equal((await again.run('echo $Z')).stdout, 'asleep\n');
	await again.close();
	await kill(sandbox);
});

check('18.5 a restore takes sessions back to the checkpoint; a fork does not have them', async () => {
	const sandbox = await create();
	const first = collector();
	const session = await sandbox.exec.start('while read l; do echo "got $l"; done', first.opts);
	session.sendStdin('before\n');
	await first.seen.until((s) => s.out === 'got before\n');
	const checkpoint = await sandbox.createCheckpoint('with a session');
	session.sendStdin('after\n');
	await first.seen.until((s) => s.out === 'got before\ngot after\n');
	await sandbox.exec.kill(session.sessionId);
	assert.equal(await session.done, 137);
	let ready;
	do
		ready = (await sandbox.listCheckpoints()).find((c) => c.id === checkpoint.id).status === 'ready';
	while (!ready);
	await sandbox.restoreCheckpoint(checkpoint.id);
	const { seen, opts } = collector();
	const again = await sandbox.exec.attach(session.sessionId, opts);
	await seen.until((s) => s.live);
	assert.equal(seen.atMark, 'got before\n');
	again.sendStdin('another way\n');
	await seen.until((s) => s.out === 'got before\ngot another way\n');
	assert.equal((await sandbox.exec.list()).find((x) => x.sessionID === session.sessionId).running, true);
	const fork = await Sandbox.createFromCheckpoint(checkpoint.id);
	try {
		assert.deepEqual(await fork.exec.list(), []);
		await assert.rejects(fork.exec.attach(session.sessionId));
		assert.match(await sh(fork, 'ps ax -o args'), /while read l/);
	} finally {
		await fork.kill();
	}
	await again.kill();
	await again.done;
	await kill(sandbox);
});

check('4.4 300 times true and false have their codes', async () => {
	const sandbox = await shared();
	for (let i = 0; i < 300; i++)
		assert.equal((await sandbox.exec.run(i % 3 ? 'false' : 'true')).exitCode, i % 3 ? 1 : 0, String(i));
});

// The daemon of the other tests must not be killed: this one starts its own beside it.
check('4.6 18.3 a stream goes on across three hibernations and a kill of the daemon, byte for byte', async () => {
	const [script, build] = ['restart.py', '../../build'].map((path) => fileURLToPath(new URL(path, import.meta.url)));
	assert.match(await onHost('/usr/bin/python3', '-B', script, build, '/var/tmp'), /: ok\n$/);
}, onHostOnly);
