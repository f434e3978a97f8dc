// SPDX-License-Identifier: Apache-2.0
// Files: read, write, list, mkdir, remove, exists (section 5).
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { assertError, check, key, request, sh, shared, UNKNOWN, url, whileBeating } from './support.mjs';

const MIB = 1 << 20;
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function path(route, file) {
	const { sandboxId } = await shared();
	return `/api/sandboxes/${sandboxId}/${route}?path=${encodeURIComponent(file)}`;
}

check('5.2 text written is text read', async () => {
	const { files } = await shared();
	await files.write('/tmp/text', 'one\ntwo');
	assert.equal(await files.read('/tmp/text'), 'one\ntwo');
	await files.write('/tmp/text', 'x');
	assert.equal(await files.read('/tmp/text'), 'x');
});

check('5.2 names and text beyond ASCII survive', async () => {
	const sandbox = await shared();
	const name = '/tmp/ü 世界 %41+&=#?.txt';
	await sandbox.files.write(name, 'grüße 🐭');
	assert.equal(await sandbox.files.read(name), 'grüße 🐭');
	assert.equal(await sh(sandbox, 'cat "$F"', { env: { F: name } }), 'grüße 🐭');
});

check('5.2 bytes survive, all 256 of them, and so does an empty file', async () => {
	const { files } = await shared();
	const bytes = Uint8Array.from({ length: 3 * 256 }, (_, i) => i);
	await files.write('/tmp/bytes', bytes);
	assert.deepEqual(await files.readBytes('/tmp/bytes'), bytes);
	await files.write('/tmp/bytes', new Uint8Array());
	assert.equal((await files.readBytes('/tmp/bytes')).length, 0);
	assert.equal(await files.exists('/tmp/bytes'), true);
});

check('5.2 a read says type and length', async () => {
	const { files } = await shared();
	await files.write('/tmp/length', '12345');
	const answer = await request('GET', await path('files', '/tmp/length'));
	assert.equal(answer.status, 200);
	assert.equal(answer.headers['content-type'], 'application/octet-stream');
	assert.equal(answer.headers['content-length'], '5');
	assert.equal(answer.text, '12345');
});

check('5.2 files of /proc, whose size is 0, have their content', async () => {
	const { files } = await shared();
	assert.match(await files.read('/proc/version'), /^Linux version /);
});

check('5.2 files are read with the rights of root', async () => {
	const { files } = await shared();
	assert.match(await files.read('/etc/shadow'), /^root:/);
});

check('5.2 write makes parents; what is below home and /tmp belongs to the user, 0644', async () => {
	const sandbox = await shared();
	await sandbox.files.write('/home/sandbox/p/q/new', 'x');
	await sandbox.files.write('/tmp/p/q/new', 'x');
	assert.equal(await sh(sandbox, 'stat -c "%a %U %G" ~/p ~/p/q ~/p/q/new /tmp/p/q/new'),
		'755 sandbox sandbox\n755 sandbox sandbox\n644 sandbox sandbox\n644 sandbox sandbox\n');
});

check('5.2 write keeps the mode of a file that is there, and follows a symlink', async () => {
	const sandbox = await shared();
	await sh(sandbox, 'cd /tmp && echo old content >kept && chmod 750 kept && ln -sf kept link');
	await sandbox.files.write('/tmp/link', 'new');
	assert.equal(await sh(sandbox, 'cd /tmp && cat kept && stat -c " %a" kept && stat -c %F link'),
		'new 750\nsymbolic link\n');
});

check('5.2 relative paths start at home, .. is normalised', async () => {
	const sandbox = await shared();
	await sandbox.files.write('relative/file', 'here');
	assert.equal(await sh(sandbox, 'cat /home/sandbox/relative/file'), 'here');
	const dotted = await path('files', '/workspace/../../../tmp/dotted');
	assert.equal((await request('PUT', dotted, { body: 'x' })).status, 204);
	assert.equal(await sandbox.files.read('/tmp/dotted'), 'x');
});

check('5.2 list: name, path, size and kind, hidden ones too, by name', async () => {
	const sandbox = await shared();
	await sh(sandbox, 'mkdir -p /tmp/list/dir && cd /tmp/list && printf 12345678901 >b.txt && ' +
		': >.hidden && ln -sf dir link');
	const entries = await sandbox.files.list('/tmp/list');
	assert.deepEqual(entries.map(({ name, isDir, path: at }) => ({ name, isDir, path: at })), [
		{ name: '.hidden', isDir: false, path: '/tmp/list/.hidden' },
		{ name: 'b.txt', isDir: false, path: '/tmp/list/b.txt' },
		{ name: 'dir', isDir: true, path: '/tmp/list/dir' },
		{ name: 'link', isDir: false, path: '/tmp/list/link' },
	]);
	assert.equal(entries[1].size, 11);
});

check('5.2 list: the root by default, [] for an empty directory, 3000 entries', async () => {
	const sandbox = await shared();
	assert.ok((await sandbox.files.list()).some(({ path: at, isDir }) => at === '/etc' && isDir));
	await sandbox.files.makeDir('/tmp/empty');
	assert.equal((await request('GET', await path('files/list', '/tmp/empty'))).text.trim(), '[]');
	await sh(sandbox, 'mkdir /tmp/many && cd /tmp/many && seq -f n%04.0f 3000 | xargs touch');
	const names = (await sandbox.files.list('/tmp/many')).map(({ name }) => name);
	assert.equal(names.length, 3000);
	assert.equal(names[2999], 'n3000');
});

check('5.2 list of a missing directory or of a file fails', async () => {
	const { files } = await shared();
	await assert.rejects(files.list('/no/such'), /Failed to list \/no\/such: [45]\d\d/);
	await assert.rejects(files.list('/etc/passwd'), /Failed to list \/etc\/passwd: [45]\d\d/);
});

check('5.1 5.2 mkdir makes parents and answers 204', async () => {
	const sandbox = await shared();
	assert.equal((await request('POST', await path('files/mkdir', '/tmp/m/n/o'))).status, 204);
	assert.equal(await sh(sandbox, 'test -d /tmp/m/n/o && echo there'), 'there\n');
	await assert.rejects(sandbox.files.makeDir('/etc/passwd/below'), /Failed to mkdir/);
});

check('5.2 remove is recursive, forgives what is missing, follows no symlink, refuses /', async () => {
	const sandbox = await shared();
	await sh(sandbox, 'mkdir -p /tmp/gone/a/b /tmp/stays && : >/tmp/stays/f && : >/tmp/gone/a/f && ' +
		'ln -s /tmp/stays /tmp/gone/link');
	await sandbox.files.remove('/tmp/gone');
	assert.equal(await sandbox.files.exists('/tmp/gone'), false);
	assert.equal(await sandbox.files.exists('/tmp/stays/f'), true);
	await sandbox.files.remove('/tmp/gone');
	assertError(await request('DELETE', await path('files', '/')), 400, /./);
	assertError(await request('DELETE', await path('files', '/tmp/..')), 400, /./);
});

check('5.2 exists: yes for a file and a directory, no for what is missing', async () => {
	const { files } = await shared();
	assert.equal(await files.exists('/etc/passwd'), true);
	assert.equal(await files.exists('/etc'), true);
	assert.equal(await files.exists('/etc/no-such'), false);
	const directory = await request('GET', await path('files', '/etc'));
	assert.equal(directory.status, 200);
	assert.equal(directory.text, '');
});

check('2.4 5.2 a missing file is 500, with its reason', async () => {
	const { files } = await shared();
	await assert.rejects(files.read('/no/such'), /Failed to read \/no\/such: 500/);
	assertError(await request('GET', await path('files', '/no/such')), 500, /./);
	await assert.rejects(files.write('/etc/passwd/below', 'x'), /Failed to write .*: 500/);
	await assert.rejects(files.write('/tmp', 'x'), /Failed to write \/tmp: 500/);
});

const ROUTES = [
	['GET', 'files'], ['PUT', 'files'], ['DELETE', 'files'], ['POST', 'files/mkdir'],
];

check('2.4 5.2 a request without a path is 400, on an unknown sandbox 404', async () => {
	const { sandboxId } = await shared();
	for (const [method, route] of ROUTES) {
		for (const query of ['', '?path=']) {
			const body = method === 'PUT' ? 'x' : undefined;
			const known = await request(method, `/api/sandboxes/${sandboxId}/${route}${query}`, { body });
			assertError(known, 400, /path/);
			const unknown = await request(method, `/api/sandboxes/${UNKNOWN}/${route}${query}`, { body });
			assertError(unknown, 404, /sandbox not found/);
		}
	}
	assertError(await request('GET', `/api/sandboxes/${UNKNOWN}/files/list`), 404, /sandbox not found/);
});

check('2.2 5.1 a write is raw bytes whatever its content type says', async () => {
	const { files } = await shared();
	for (const type of ['application/json', 'text/plain;charset=UTF-8',
		'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
		const answer = await request('PUT', await path('files', '/tmp/typed'),
			{ body: `a=1&b={"${type}`, headers: { 'Content-Type': type } });
		assert.equal(answer.status, 204, answer.text);
		assert.equal(answer.text, '');
		assert.equal(await files.read('/tmp/typed'), `a=1&b={"${type}`);
	}
});

check('2.2 a body announced with Expect: 100-continue is asked for', async () => {
	const { files } = await shared();
	const body = randomBytes(MIB);
	const answer = await request('PUT', await path('files', '/tmp/expected'), { body, expect: true });
	assert.equal(answer.status, 204, answer.text);
	assert.equal(answer.continued, true);
	assert.equal(sha256(await files.readBytes('/tmp/expected')), sha256(body));
});

check('5.2 a write that breaks off leaves the file as it was', async () => {
	const { files } = await shared();
	async function* half() {
		yield Buffer.alloc(MIB);
		throw new Error('the client goes away');
	}
	await files.makeDir('/tmp/atomic');
	await files.write('/tmp/atomic/file', 'whole');
	await assert.rejects(request('PUT', await path('files', '/tmp/atomic/file'), { body: half() }),
		/the client goes away/);
	// The server learns of the loss in its own time: wait for what it had begun to be gone.
	while ((await files.list('/tmp/atomic')).length > 1)
		await new Promise((resolve) => setTimeout(resolve, 100));
	assert.equal(await files.read('/tmp/atomic/file'), 'whole');
});

/** `mib` random MiB as a stream, for the client's write(); `digest()` afterwards. */
function source(mib, beat) {
	const hash = createHash('sha256');
	const block = randomBytes(MIB);
	let left = mib;
	const stream = new ReadableStream({
		pull(controller) {
			if (left === 0) {
				controller.close();
				return;
			}
			block.writeUInt32LE(left--); // no two blocks are alike
			hash.update(block);
			controller.enqueue(Uint8Array.from(block));
			beat();
		},
	});
	return { stream, digest: () => hash.digest('hex') };
}

for (const mib of [10, 100]) {
	check(`5.2 a stream of ${mib} MiB goes in and comes out with the same SHA-256`, async (t) => {
		const sandbox = await shared();
		const name = `/home/sandbox/stream-${mib}`;
		await whileBeating(120_000, async (beat) => {
			const sent = source(mib, beat);
			let begun = Date.now();
			await sandbox.files.write(name, sent.stream);
			const seconds = () => ((Date.now() - begun) / 1000).toFixed(1);
			t.diagnostic(`in: ${seconds()} s`);
			const expected = sent.digest();
			beat();
			const inside = (await sh(sandbox, `sha256sum <${name}`)).slice(0, 64);
			assert.equal(inside, expected);
			beat();
			begun = Date.now();
			const answer = await fetch(new URL(await path('files', name), url),
				{ headers: { 'X-API-Key': key } });
			assert.equal(answer.headers.get('content-length'), `${mib * MIB}`);
			const hash = createHash('sha256');
			for await (const chunk of answer.body) {
				hash.update(chunk);
				beat();
			}
			t.diagnostic(`out: ${seconds()} s`);
			assert.equal(hash.digest('hex'), expected);
			await sandbox.files.remove(name);
		});
	});
}

/** As a client without any key. */
const anonymous = (method, signed, opts) => request(method, signed.slice(url.origin.length), { auth: false, ...opts });

check('5.4 signed URLs read and write without a key, each for its own purpose, 100 MB, asleep or awake', async () => {
	const sandbox = await shared();
	const name = '/tmp/signed ü+&=?.bin';
	const [up, down] = await Promise.all([sandbox.uploadUrl(name), sandbox.downloadUrl(name, { expiresIn: 600 })]);
	assert.ok(up.startsWith(`${url.origin}/api/sandboxes/${sandbox.sandboxId}/files/upload?`) && up.includes('signature='), up);
	const bytes = randomBytes(100 * MIB);
	assert.equal((await anonymous('PUT', up, { body: bytes })).status, 204);
	await sandbox.hibernate();
	const answer = await anonymous('GET', down);
	assert.equal(answer.status, 200);
	assert.equal(sha256(answer.bytes), sha256(bytes));
	assert.equal(await sandbox.isRunning(), true);
	assertError(await anonymous('PUT', down.replace('/download?', '/upload?'), { body: 'x' }), 403, /invalid signature/);
	assertError(await anonymous('GET', down.replace(/expires=\d+/, 'expires=1')), 403, /expired/);
	assertError(await anonymous('GET', down.replace(/&signature=.*/, '')), 400, /signature/);
	await sandbox.files.remove(name);
	await assert.rejects(sandbox.downloadUrl(''), /400/);
});

check('18.9 20 files written and read at once keep to themselves', async () => {
	const { files } = await shared();
	const bodies = Array.from({ length: 20 }, (_, i) => randomBytes(1000 + 7919 * i));
	await Promise.all(bodies.map((body, i) => files.write(`/tmp/parallel/${i}`, body)));
	const read = await Promise.all(bodies.map((_, i) => files.readBytes(`/tmp/parallel/${i}`)));
	read.forEach((bytes, i) => assert.equal(sha256(bytes), sha256(bodies[i])));
});
