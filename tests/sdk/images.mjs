// SPDX-License-Identifier: Apache-2.0
// Images and snapshots (9), built from packages that the test makes: no network is needed.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Image, Sandbox, Snapshots, Templates } from './client.mjs';
import { check, create, key, kill, request, sh, url } from './support.mjs';
import { tar } from './tar.mjs';

const QUOTED = `a "b" 'c' $HOME \`d\` \\e # f`;
const BINARY = Buffer.from([0, 1, 255, 10, 13, 0]);

// --- packages, made here: in an emulated guest the tools for it take long -------------------------

/** A Debian package: an ar of two tars. */
function deb(control, files, scripts = []) {
	const member = (name, data) => Buffer.concat([
		Buffer.from(`${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(data.length).padEnd(10)}\`\n`),
		data, Buffer.alloc(data.length % 2, '\n')]);
	return Buffer.concat([Buffer.from('!<arch>\n'), member('debian-binary', Buffer.from('2.0\n')),
		member('control.tar', tar([['./control', control, 0o644], ...scripts])), member('data.tar', tar(files))]);
}

function crc32(data) {
	let crc = ~0;
	for (const byte of data) {
		crc ^= byte;
		for (let k = 0; k < 8; k++)
			crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc >>> 0;
}

/** A zip without compression. */
function zip(files) {
	const parts = [], directory = [];
	let at = 0;
	for (const [path, text] of files) {
		const name = Buffer.from(path), data = Buffer.from(text), head = Buffer.alloc(30), entry = Buffer.alloc(46);
		head.writeUInt32LE(0x04034b50, 0);
		head.writeUInt16LE(20, 4);
		head.writeUInt16LE(0x21, 12);
		head.writeUInt32LE(crc32(data), 14);
		head.writeUInt32LE(data.length, 18);
		head.writeUInt32LE(data.length, 22);
		head.writeUInt16LE(name.length, 26);
		entry.writeUInt32LE(0x02014b50, 0);
		entry.writeUInt16LE(20, 4);
		head.copy(entry, 6, 4, 30);
		entry.writeUInt32LE(0o100644 * 65536, 38);
		entry.writeUInt32LE(at, 42);
		parts.push(head, name, data);
		directory.push(entry, name);
		at += head.length + name.length + data.length;
	}
	const end = Buffer.alloc(22), size = directory.reduce((sum, b) => sum + b.length, 0);
	end.writeUInt32LE(0x06054b50, 0);
	end.writeUInt16LE(files.length, 8);
	end.writeUInt16LE(files.length, 10);
	end.writeUInt32LE(size, 12);
	end.writeUInt32LE(at, 16);
	return Buffer.concat([...parts, ...directory, end]);
}

const CONTROL = 'Package: dm-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: says hello\n';
const DEB = deb(CONTROL, [['./usr', undefined, 0o755], ['./usr/bin', undefined, 0o755],
	['./usr/bin/dm-hello', '#!/bin/sh\necho hello from a package\n', 0o755]]);
// One that cannot be set up, when the other already is.
const BROKEN_CONTROL = CONTROL.replace('dm-hello', 'dm-broken') + 'Depends: dm-hello\n';
const BROKEN_DEB = deb(BROKEN_CONTROL, [['./usr', undefined, 0o755]], [['./postinst', '#!/bin/sh\necho it cannot be set up >&2\nexit 9\n', 0o755]]);
const listed = (control, file, data) =>
	`${control}Filename: ./${file}\nSize: ${data.length}\nSHA256: ${createHash('sha256').update(data).digest('hex')}\n\n`;
const PACKAGES = listed(CONTROL, 'hello.deb', DEB) + listed(BROKEN_CONTROL, 'broken.deb', BROKEN_DEB);
const INFO = 'dm_hello-1.0.dist-info';
const WHEEL = zip([['dm_hello.py', "TEXT = 'hello from a wheel'\n"],
	[`${INFO}/METADATA`, 'Metadata-Version: 2.1\nName: dm-hello\nVersion: 1.0\n'],
	[`${INFO}/WHEEL`, 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n'],
	[`${INFO}/RECORD`, ['dm_hello.py', ...['METADATA', 'WHEEL', 'RECORD'].map((f) => `${INFO}/${f}`)].map((f) => `${f},,\n`).join('')]]);

// --- what is built --------------------------------------------------------------------------------

function local() {
	const dir = mkdtempSync(join(tmpdir(), 'dm-image-'));
	mkdirSync(join(dir, 'tree/sub'), { recursive: true });
	mkdirSync(join(dir, 'packages'));
	writeFileSync(join(dir, 'packages/hello.deb'), DEB);
	writeFileSync(join(dir, 'packages/broken.deb'), BROKEN_DEB);
	writeFileSync(join(dir, 'packages/Packages'), PACKAGES);
	writeFileSync(join(dir, 'packages/dm_hello-1.0-py3-none-any.whl'), WHEEL);
	writeFileSync(join(dir, 'binary'), BINARY);
	writeFileSync(join(dir, 'tree/top'), 'top');
	writeFileSync(join(dir, 'tree/sub/é'), 'below');
	return dir;
}

async function build(image, opts = {}) {
	const logs = [];
	const sandbox = await create({ image, timeout: 0, onBuildLog: (line) => logs.push(line), ...opts });
	return { sandbox, logs, steps: logs.filter((line) => /^Step \d+\/\d+ completed$/.test(line)) };
}

const dir = local();
const source = Image.base()
	.builderMemory(1024)
	.addLocalDir(join(dir, 'packages'), '/opt/packages')
	.addFile('/etc/apt/sources.list', 'deb [trusted=yes] file:///opt/packages ./\n')
	.addFile('/etc/pip.conf', '[global]\nno-index = true\nfind-links = /opt/packages\n')
	.runCommands('sudo rm -rf /etc/apt/sources.list.d');
const packages = source.aptInstall(['dm-hello']).pipInstall(['dm-hello']);
const image = Image.base()
	.builderMemory(1024)
	.env({ QUOTED, PROJECT: '/srv/project' })
	.workdir('/srv/project')
	.addFile('/srv/project/config.json', '{"é":1}')
	.addLocalFile(join(dir, 'binary'), '/srv/project/binary')
	.addLocalDir(join(dir, 'tree'), '/srv/project/tree')
	.runCommands('cd tree && id -un >../who', 'pwd >../where', 'echo "$PROJECT|$QUOTED" >../env');
rmSync(dir, { recursive: true });
const changed = new Image({ ...image.toJSON(), steps: [...image.toJSON().steps.slice(0, -1),
	{ type: 'run', args: { commands: ['echo other >who'] } }] });

check('9.1 packages of the distribution and of Python are installed, whole or not at all', async () => {
	// Half-way: one package is there when the other fails. The next build begins before either.
	await assert.rejects(build(source.aptInstall(['dm-broken'])),
		/Build failed: step 5\/5 \(apt_install\): exit code 100: .*it cannot be set up.*dm-broken/s);
	const { sandbox, logs, steps } = await build(packages);
	assert.deepEqual(steps, ['Step 5/6 completed', 'Step 6/6 completed'], logs.join('\n'));
	for (const what of ['Unpacking dm-hello', 'Setting up dm-hello'])
		assert.ok(logs.some((line) => line.includes(what)), logs.join('\n'));
	assert.equal(await sh(sandbox, 'dpkg-query -W -f \'${Package} ${Status}\\n\' "dm-*"'), 'dm-hello install ok installed\n');
	assert.equal(await sh(sandbox, 'dm-hello; python3 -c "import dm_hello; print(dm_hello.TEXT)"'), 'hello from a package\nhello from a wheel\n');
	await kill(sandbox);
}, { timeout: 600_000 }); // apt and pip are slow in an emulated guest, each has 300 s

check('9.1 9.2 every other type of step, with its log; what is known is not run again', async () => {
	const { sandbox, logs, steps } = await build(image, { envs: { OWN: '1' } });
	assert.equal(steps.length, 6, logs.join('\n'));
	assert.equal(await sh(sandbox, 'printf "%s|%s|%s" "$PROJECT" "$QUOTED" "$OWN"'), `/srv/project|${QUOTED}|1`);
	assert.equal(await sh(sandbox, 'bash -c "unset QUOTED; . /etc/profile; printf %s \\"\\$QUOTED\\""'), QUOTED);
	assert.equal(await sh(sandbox, 'pwd; stat -c %U .; cat who where env config.json tree/top tree/sub/é; stat -c %a config.json'),
		`/srv/project\nsandbox\nsandbox\n/srv/project/tree\n/srv/project|${QUOTED}\n{"é":1}topbelow644\n`);
	assert.deepEqual(Buffer.from(await sandbox.files.readBytes('/srv/project/binary')), BINARY);
	const built = (await request('GET', '/api/images')).json.find((i) => i.contentHash === image.cacheKey());
	assert.equal(built?.steps, 6, 'contentHash is the cacheKey of the client');

	const again = await build(image);
	assert.deepEqual([again.steps, again.logs.length], [[], 2], again.logs.join('\n'));
	assert.equal(await sh(again.sandbox, 'cat who; echo mine >who'), 'sandbox\n');
	const other = await build(changed);
	assert.deepEqual(other.steps, ['Step 6/6 completed'], other.logs.join('\n'));
	assert.equal(await sh(other.sandbox, 'cat who tree/top'), 'other\ntop');
	assert.equal(await sh(sandbox, 'cat who'), 'sandbox\n');
	for (const s of [sandbox, again.sandbox, other.sandbox])
		await kill(s);
});

check('9.1 a step that fails is named, with its exit code and output', async () => {
	const bad = Image.base().builderMemory(1024).runCommands('echo the reason >&2; exit 3');
	await assert.rejects(Sandbox.create({ image: bad }), /Build failed: step 1\/1 \(run\): exit code 3: the reason/);
	await assert.rejects(Sandbox.create({ image: bad.aptInstall([]) }), /step 2: apt_install: packages/);
});

check('9.3 9.4 snapshots: create, get, list, create from, delete', async () => {
	const snapshots = new Snapshots();
	const name = 'named/é 1';
	const logs = [];
	const made = await snapshots.create({ name, image, onBuildLogs: (line) => logs.push(line) });
	assert.ok(logs.length > 0);
	assert.deepEqual([made.name, made.status, made.contentHash], [name, 'ready', image.cacheKey()]);
	assert.deepEqual(made.manifest, image.toJSON());
	assert.equal((await snapshots.get(name)).id, made.id);
	assert.ok((await snapshots.list()).some((s) => s.id === made.id));
	await assert.rejects(snapshots.create({ name, image }), /409/);
	assert.equal((await snapshots.waitUntilReady(name)).id, made.id);
	const templates = new Templates(`${url.href.replace(/\/$/, '')}/api`, key);
	assert.ok((await templates.list()).some((t) => t.templateID === 'base' && t.status === 'ready'));
	assert.equal((await templates.get('base')).name, 'base');

	const sandbox = await create({ snapshot: name, timeout: 0 });
	assert.equal(await sh(sandbox, 'pwd; cat who'), '/srv/project\nsandbox\n');
	assert.ok((await snapshots.get(name)).lastUsedAt);
	await snapshots.delete(name);
	await snapshots.delete(name); // the client forgives the 404
	await assert.rejects(Sandbox.create({ snapshot: name }), /not found/);
	assert.equal(await sh(sandbox, 'cat who'), 'sandbox\n');
	await kill(sandbox);
});
