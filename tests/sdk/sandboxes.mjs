// SPDX-License-Identifier: Apache-2.0
// Sandboxes: create, get, list, delete (section 3 of the wire contract).
import assert from 'node:assert/strict';
import { Sandbox } from './client.mjs';
import { assertError, check, create, kill, request, sh, shared, UNKNOWN } from './support.mjs';

const RFC3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

check('2.5 3.3 create answers with an id that fits a DNS label, and running', async () => {
	const sandbox = await shared();
	assert.match(sandbox.sandboxId, /^sb-[0-9a-f]{8}$/);
	assert.equal(sandbox.status, 'running');
	assert.equal(await sandbox.isRunning(), true);
});

check('3.3 the guest is a Linux machine of its own and runs a command at once', async () => {
	const sandbox = await shared();
	assert.match(await sh(sandbox, 'uname -s -m'), /^Linux x86_64\n$/);
});

check('2.2 3.2 3.3 create answers 201 with each field of the contract, compact', async () => {
	const answer = await request('POST', '/api/sandboxes', { body: { metadata: { a: 'ü' } } });
	assert.equal(answer.status, 201, answer.text);
	const body = answer.json;
	const sandbox = await Sandbox.connect(body.sandboxID);
	try {
		assert.match(answer.headers['content-type'], /^application\/json/);
		assert.ok(answer.text.includes(`"sandboxID":"${body.sandboxID}"`), answer.text);
		assert.equal(body.status, 'running');
		assert.equal(body.templateID, 'base');
		assert.equal(body.template, 'base');
		assert.deepEqual(body.metadata, { a: 'ü' });
		assert.equal(body.cpuCount, 1);
		assert.equal(body.memoryMB, 1024);
		assert.equal(body.diskMB, 20480);
		assert.match(body.startedAt, RFC3339);
		for (const name of ['region', 'workerID', 'sandboxDomain', 'alias'])
			assert.equal(typeof body[name], 'string', name);
		// A client that gets one of them without the other sends no credentials (19.2).
		assert.equal(Boolean(body.token), Boolean(body.connectURL));
	} finally {
		await kill(sandbox);
	}
});

check('3.2 cpuCount and memoryMB are what the guest has, up to 4 CPUs', async () => {
	const sandbox = await create({ cpuCount: 4, memoryMB: 512 });
	assert.equal(await sh(sandbox, 'nproc'), '4\n');
	const kib = Number(await sh(sandbox, "awk '/^MemTotal/ {print $2}' /proc/meminfo"));
	assert.ok(kib > 400 * 1024 && kib <= 512 * 1024, `${kib} KiB`);
	const { json } = await request('GET', `/api/sandboxes/${sandbox.sandboxId}`);
	assert.equal(json.cpuCount, 4);
	assert.equal(json.memoryMB, 512);
	await kill(sandbox);
});

check('3.2 a default sandbox has 1 CPU, 1024 MB and a 20 GiB disk', async () => {
	const sandbox = await shared();
	assert.equal(await sh(sandbox, 'nproc'), '1\n');
	const mib = Number(await sh(sandbox, "free -m | awk '/^Mem/ {print $2}'"));
	assert.ok(mib >= 800 && mib <= 1100, `${mib} MiB`);
	const disk = Number(await sh(sandbox, 'df --output=size -BM /home/sandbox | tail -n 1 | tr -d M'));
	assert.ok(disk > 19000 && disk <= 20480, `${disk} MiB`);
});

check('3.2 18.6 envs of create reach each command, those of the command win', async () => {
	const sandbox = await shared();
	assert.equal(await sh(sandbox, 'echo $FROM_CREATE'), 'yes\n');
	assert.equal(await sh(sandbox, 'echo $FROM_CREATE', { env: { FROM_CREATE: 'no' } }), 'no\n');
	assert.equal(await sh(sandbox, 'echo $FROM_CREATE'), 'yes\n');
});

check('2.1 3.2 unknown fields and query parameters are ignored, ubuntu means base', async () => {
	const answer = await request('POST', '/api/sandboxes?x=1', {
		body: { templateID: 'ubuntu', burst: true, sandboxFamily: 'spot', notAField: { a: [1] } },
	});
	assert.equal(answer.status, 201, answer.text);
	await kill(await Sandbox.connect(answer.json.sandboxID));
});

const REFUSED = [
	['an unknown template', { templateID: 'no-such' }, 404, /template not found: no-such/],
	['a negative timeout', { timeout: -1 }, 400, /timeout/],
	['a timeout that is no number', { timeout: 'soon' }, 400, /timeout/],
	['no CPU', { cpuCount: 0 }, 400, /cpuCount/],
	['1000 CPUs', { cpuCount: 1000 }, 400, /cpuCount/],
	['a negative memory', { memoryMB: -1 }, 400, /memoryMB/],
	['1 TB of memory', { memoryMB: 1 << 20 }, 400, /memoryMB/],
	['a disk below 20480 MB', { diskMB: 20479 }, 400, /diskMB/],
	['a disk above 262144 MB', { diskMB: 262145 }, 400, /diskMB/],
	['envs that is no map', { envs: ['A=1'] }, 400, /envs/],
	['metadata with a number', { metadata: { a: 1 } }, 400, /metadata/],
	['malformed JSON', '{"templateID":', 400, /./],
	['a body that is a list', '[]', 400, /./],
];

for (const [what, body, status, pattern] of REFUSED) {
	check(`2.4 3.2 create refuses ${what} with ${status} and creates nothing`, async () => {
		const ids = async () => (await request('GET', '/api/sandboxes')).json.map((s) => s.sandboxID);
		const before = await ids();
		assertError(await request('POST', '/api/sandboxes', { body }), status, pattern);
		assert.deepEqual((await ids()).sort(), before.sort());
	});
}

check('2.4 the client throws the text of a refused create', async () => {
	await assert.rejects(Sandbox.create({ template: 'no-such' }),
		/Failed to create sandbox: 404 .*template not found: no-such/);
});

check('3.5 connect gives a handle that works on the same machine', async () => {
	const sandbox = await shared();
	await sandbox.files.write('/tmp/connect', 'same');
	const other = await Sandbox.connect(sandbox.sandboxId);
	assert.equal(other.sandboxId, sandbox.sandboxId);
	assert.equal(other.status, 'running');
	assert.equal(await other.files.read('/tmp/connect'), 'same');
});

check('3.5 an unknown sandbox is 404 for connect and not running', async () => {
	await assert.rejects(Sandbox.connect(UNKNOWN), /Failed to connect to sandbox .*: 404/);
	assertError(await request('GET', `/api/sandboxes/${UNKNOWN}`), 404, /sandbox not found/);
	const sandbox = await shared();
	const lost = Object.assign(Object.create(Object.getPrototypeOf(sandbox)), sandbox);
	lost.sandboxId = UNKNOWN;
	assert.equal(await lost.isRunning(), false);
});

check('3.4 the list holds what runs', async () => {
	const sandbox = await shared();
	const answer = await request('GET', '/api/sandboxes');
	assert.equal(answer.status, 200);
	const item = answer.json.find((entry) => entry.sandboxID === sandbox.sandboxId);
	assert.equal(item.status, 'running');
	assert.equal(item.templateID, 'base');
	assert.match(item.startedAt, RFC3339);
});

check('3.6 3.9 kill: 204, then stopped for everyone, 410 for its data, 204 again', async () => {
	const sandbox = await create();
	const base = `/api/sandboxes/${sandbox.sandboxId}`;
	assert.equal((await request('DELETE', base)).status, 204);
	assert.equal(await sandbox.isRunning(), false);
	const seen = await request('GET', base);
	assert.equal(seen.status, 200);
	assert.equal(seen.json.status, 'stopped');
	const listed = (await request('GET', '/api/sandboxes')).json.map((s) => s.sandboxID);
	assert.ok(!listed.includes(sandbox.sandboxId));
	const stopped = new RegExp(`sandbox ${sandbox.sandboxId} has been stopped`);
	for (const route of ['exec/run', 'exec/run-async'])
		assertError(await request('POST', `${base}/${route}`, { body: { cmd: 'true' } }), 410, stopped);
	assertError(await request('GET', `${base}/files?path=/etc/passwd`), 410, stopped);
	assertError(await request('PUT', `${base}/files?path=/tmp/x`, { body: 'x' }), 410, stopped);
	assertError(await request('DELETE', `${base}/files?path=/tmp/x`), 410, stopped);
	assertError(await request('GET', `${base}/files/list?path=/`), 410, stopped);
	assertError(await request('POST', `${base}/files/mkdir?path=/tmp/d`), 410, stopped);
	await kill(sandbox);
});

check('3.6 kill ends a command that is running, and its client gets an answer', async () => {
	const sandbox = await create();
	await sandbox.files.write('/tmp/wait.sh', 'touch /tmp/started; sleep 200');
	const running = request('POST', `/api/sandboxes/${sandbox.sandboxId}/exec/run`,
		{ body: { cmd: 'sh /tmp/wait.sh', timeout: 230 } });
	while (!(await sandbox.files.exists('/tmp/started')))
		await new Promise((resolve) => setTimeout(resolve, 100));
	const killedAt = Date.now();
	await kill(sandbox);
	const answer = await running;
	assert.ok(Date.now() - killedAt < 120_000);
	assert.ok(answer.status === 200 ? answer.json.exitCode !== 0 : answer.status >= 400, answer.text);
});

check('3.6 kill of an unknown sandbox is 404', async () => {
	assertError(await request('DELETE', `/api/sandboxes/${UNKNOWN}`), 404, /sandbox not found/);
});

check('18.8 18.9 three sandboxes made at once are three machines', async () => {
	const made = await Promise.all([1, 2, 3].map((n) => create({ memoryMB: 512, envs: { N: `${n}` } })));
	assert.equal(new Set(made.map((sandbox) => sandbox.sandboxId)).size, 3);
	await Promise.all(made.map((sandbox) => sh(sandbox, 'echo $N >/tmp/mine')));
	const read = await Promise.all(made.map((sandbox) => sandbox.files.read('/tmp/mine')));
	assert.deepEqual(read, ['1\n', '2\n', '3\n']);
	await Promise.all(made.map(kill));
});
