// SPDX-License-Identifier: Apache-2.0
// A container image with no more in it than a static busybox, from its archive to sandboxes.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Image, Sandbox } from './client.mjs';
import { check, create, fork, kill, request, sh, take } from './support.mjs';
import { tar } from './tar.mjs';

const PROGRAM = fileURLToPath(new URL('../../build/dormouse', import.meta.url));
const APPLETS = ['sh', 'cat', 'id', 'ls', 'mkdir', 'stat', 'tty'];
const QUOTED = `a "b" 'c' $HOME # d`;

const sha256 = (data) => createHash('sha256').update(data).digest('hex');

/** An archive as `docker save` writes it. */
function saved(config, ...layers) {
	const text = JSON.stringify({ architecture: 'amd64', os: 'linux', config,
		rootfs: { type: 'layers', diff_ids: layers.map((layer) => `sha256:${sha256(layer)}`) } });
	const names = layers.map((_, i) => `${i}/layer.tar`), name = `${sha256(text)}.json`;
	return tar([...layers.map((layer, i) => [names[i], layer, 0o644]), [name, text, 0o644],
		['manifest.json', JSON.stringify([{ Config: name, RepoTags: ['app:1'], Layers: names }]), 0o644]]);
}

const BUSYBOX = readFileSync('/bin/busybox');
const archive = () => saved({ Env: ['PATH=/bin', `QUOTED=${QUOTED}`], User: 'app', WorkingDir: '/srv/app' },
	tar([['bin', undefined, 0o755], ['bin/busybox', BUSYBOX, 0o755],
		...APPLETS.map((name) => [`bin/${name}`, undefined, 0o777, { soft: 'busybox' }]),
		['etc/passwd', 'root::0:0::/root:/bin/sh\napp:x:12:34::/home/app:/bin/sh\n', 0o644],
		['etc/group', 'root:x:0:\napp:x:34:\n', 0o644],
		['home/app', undefined, 0o700, { uid: 12, gid: 34 }],
		['srv/app', undefined, 0o755, { uid: 12, gid: 34 }],
		['srv/app/one', 'below', 0o644, { uid: 12, gid: 34 }],
		['srv/app/two', undefined, 0o644, { hard: 'srv/app/one' }],
		['srv/app/gone', 'x', 0o644], ['srv/old/file', 'x', 0o644]]),
	tar([['srv/app/.wh.gone', '', 0o644], ['srv/.wh.old', '', 0o644], ['srv/app/top', 'above', 0o644],
		// With its bit it is root's, whoever starts it.
		['bin/su', BUSYBOX, 0o4755]]));

const LOOK = 'id -un; id -gn; pwd; echo "$HOME|$QUOTED"; cat one two top; echo; stat -c "%h %U %a" one; ls; ls /srv; /bin/su -c "id -u"';
const SEEN = `app\napp\n/srv/app\n/home/app|${QUOTED}\nbelowbelowabove\n2 app 644\none\ntop\ntwo\napp\n0\n`;

async function importArchive(name) {
	const dir = mkdtempSync(join(tmpdir(), 'dm-import-'));
	try {
		writeFileSync(join(dir, 'app.tar'), archive());
		return (await promisify(execFile)(PROGRAM, ['image', 'import', '--name', name, join(dir, 'app.tar')])).stdout;
	} finally {
		rmSync(dir, { recursive: true });
	}
}

/** Type a line into a terminal that is not told which shell, at its prompt; until `pattern` is shown. */
async function typed(sandbox, line, pattern) {
	let text = '', shown = () => {};
	const pty = await sandbox.pty.create({ onOutput: (bytes) => {
		text += new TextDecoder().decode(bytes);
		shown();
	} });
	const until = async (what) => {
		for (; !what.test(text); await new Promise((resolve) => { shown = resolve; }))
			assert.doesNotMatch(text, /not found/);
	};
	try {
		await until(/[$#] /);
		pty.send(line);
		await until(pattern);
	} finally {
		pty.close();
	}
}

check('9 a container image is imported, runs as it says, is forked, sleeps and is built upon, without bash', async () => {
	const name = `imported-${randomBytes(6).toString('hex')}`;
	assert.equal(await importArchive(name), `${name}\n`);

	const sandbox = await create({ template: name, timeout: 0 });
	assert.equal(await sh(sandbox, LOOK), SEEN);
	assert.equal(await sh(sandbox, 'pwd', { cwd: '/bin' }), '/bin\n');
	// In the home directory, where relative paths begin, they are the user's.
	for (const path of ['/srv/app/written', 'new/mine']) {
		await sandbox.files.write(path, 'by the API');
		assert.equal(await sandbox.files.read(path), 'by the API');
	}
	assert.equal(await sh(sandbox, 'stat -c %u:%g written ~/new ~/new/mine'), '0:0\n12:34\n12:34\n');
	assert.deepEqual((await sandbox.files.list('/srv/app')).map((f) => f.name).sort(), ['one', 'top', 'two', 'written']);
	await typed(sandbox, 'stat -c "<%U>" $PWD/one; tty\n', /<app>\r\n\/dev\/pts\//);

	const point = await take(sandbox, 'one');
	await Sandbox.createCheckpointPatch(point.id, { script: 'id -u >/patched' });
	const copy = await fork(point.id, { timeout: 0 });
	assert.equal(await sh(copy, 'cat /patched'), '0\n');
	await sandbox.hibernate();
	await sandbox.wake();
	for (const s of [sandbox, copy])
		assert.equal(await sh(s, 'cat written; echo; pwd; id -un'), 'by the API\n/srv/app\napp\n');

	const image = new Image({ base: name, builderMemoryMB: 512,
		steps: [{ type: 'run', args: { commands: ['cd ..', 'pwd >app/built', 'id -un >>app/built'] } }] });
	const built = await create({ image, timeout: 0 });
	assert.equal(await sh(built, 'cat built; pwd; id -un; echo "$QUOTED"'), `/srv\napp\n/srv/app\napp\n${QUOTED}\n`);
	for (const s of [copy, built])
		await kill(s);
	await sandbox.deleteCheckpoint(point.id);
	await kill(sandbox);
	assert.equal((await request('DELETE', `/api/images/${image.cacheKey()}`)).status, 204);
});
