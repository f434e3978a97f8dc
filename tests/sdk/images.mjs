// SPDX-License-Identifier: Apache-2.0
// Images and snapshots (9), built from packages that the steps make themselves: no network is needed.
import assert from 'node:assert/strict';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Image, Sandbox, Snapshots, Templates } from './client.mjs';
import { check, create, key, kill, request, sh, url } from './support.mjs';

const QUOTED = `a "b" 'c' $HOME \`d\` \\e # f`;
const BINARY = Buffer.from([0, 1, 255, 10, 13, 0]);

// A Debian package and a repository of it, in place of all others; and a wheel, in the only place where pip looks.
const REPOSITORY = `set -e
mkdir -p deb/DEBIAN deb/usr/bin repo wheel
printf 'Package: dm-hello\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: N <n@example.org>\\nDescription: says hello\\n' >deb/DEBIAN/control
printf '#!/bin/sh\\necho hello from a package\\n' >deb/usr/bin/dm-hello
chmod 755 deb/usr/bin/dm-hello
dpkg-deb --build deb repo/dm-hello_1.0_all.deb
(cd repo && { dpkg-deb -f dm-hello_1.0_all.deb; echo Filename: ./dm-hello_1.0_all.deb
	echo Size: $(stat -c %s dm-hello_1.0_all.deb); echo SHA256: $(sha256sum <dm-hello_1.0_all.deb | cut -d' ' -f1); } >Packages)
sudo rm -rf /etc/apt/sources.list.d
sudo mkdir -p /opt/local && sudo cp -r repo wheel /opt/local
echo 'deb [trusted=yes] file:///opt/local/repo ./' | sudo tee /etc/apt/sources.list >/dev/null`;
const WHEEL = `sudo python3 - <<'E'
import zipfile
d = "dm_hello-1.0.dist-info/"
with zipfile.ZipFile("/opt/local/wheel/dm_hello-1.0-py3-none-any.whl", "w") as z:
    z.writestr("dm_hello.py", "TEXT = 'hello from a wheel'\\n")
    z.writestr(d + "METADATA", "Metadata-Version: 2.1\\nName: dm-hello\\nVersion: 1.0\\n")
    z.writestr(d + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr(d + "RECORD", "dm_hello.py,,\\n" + d + "METADATA,,\\n" + d + "WHEEL,,\\n" + d + "RECORD,,\\n")
E
printf '[global]\\nno-index = true\\nfind-links = /opt/local/wheel\\n' | sudo tee /etc/pip.conf >/dev/null`;

function local() {
	const dir = mkdtempSync(join(tmpdir(), 'dm-image-'));
	mkdirSync(join(dir, 'tree/sub'), { recursive: true });
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
const image = Image.base()
	.builderMemory(1024)
	.runCommands(REPOSITORY, WHEEL)
	.aptInstall(['dm-hello'])
	.pipInstall(['dm-hello'])
	.env({ QUOTED, PROJECT: '/srv/project' })
	.workdir('/srv/project')
	.addFile('/srv/project/config.json', '{"é":1}')
	.addLocalFile(join(dir, 'binary'), '/srv/project/binary')
	.addLocalDir(join(dir, 'tree'), '/srv/project/tree')
	.runCommands('cd tree && id -un >../who', 'pwd >../where', 'echo "$PROJECT|$QUOTED" >../env');
rmSync(dir, { recursive: true });
const changed = new Image({ ...image.toJSON(), steps: [...image.toJSON().steps.slice(0, -1),
	{ type: 'run', args: { commands: ['echo other >who'] } }] });

check('9.1 9.2 every type of step, with its log; what is known is not run again', async () => {
	const { sandbox, logs, steps } = await build(image, { envs: { OWN: '1' } });
	assert.equal(steps.length, 9, logs.join('\n'));
	assert.ok(logs.some((line) => line.includes('Setting up dm-hello')), logs.join('\n'));
	assert.equal(await sh(sandbox, 'dm-hello; python3 -c "import dm_hello; print(dm_hello.TEXT)"'), 'hello from a package\nhello from a wheel\n');
	assert.equal(await sh(sandbox, 'printf "%s|%s|%s" "$PROJECT" "$QUOTED" "$OWN"'), `/srv/project|${QUOTED}|1`);
	assert.equal(await sh(sandbox, 'bash -c "unset QUOTED; . /etc/profile; printf %s \\"\\$QUOTED\\""'), QUOTED);
	assert.equal(await sh(sandbox, 'pwd; stat -c %U .; cat who where env config.json tree/top tree/sub/é; stat -c %a config.json'),
		`/srv/project\nsandbox\nsandbox\n/srv/project/tree\n/srv/project|${QUOTED}\n{"é":1}topbelow644\n`);
	assert.deepEqual(Buffer.from(await sandbox.files.readBytes('/srv/project/binary')), BINARY);
	const built = (await request('GET', '/api/images')).json.find((i) => i.contentHash === image.cacheKey());
	assert.equal(built?.steps, 9, 'contentHash is the cacheKey of the client');

	const again = await build(image);
	assert.deepEqual([again.steps, again.logs.length], [[], 2], again.logs.join('\n'));
	assert.equal(await sh(again.sandbox, 'cat who; echo mine >who'), 'sandbox\n');
	const other = await build(changed);
	assert.deepEqual(other.steps, ['Step 9/9 completed'], other.logs.join('\n'));
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
	assert.equal(await sh(sandbox, 'pwd; dm-hello'), '/srv/project\nhello from a package\n');
	assert.ok((await snapshots.get(name)).lastUsedAt);
	await snapshots.delete(name);
	await snapshots.delete(name); // the client forgives the 404
	await assert.rejects(Sandbox.create({ snapshot: name }), /not found/);
	assert.equal(await sh(sandbox, 'dm-hello'), 'hello from a package\n');
	await kill(sandbox);
});
