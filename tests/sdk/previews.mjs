// SPDX-License-Identifier: Apache-2.0
// Previews (section 11): the client's calls, and a guest's pages and streams through the proxy.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { check, create, createToKeep, kill, sh, sleep, url } from './support.mjs';
import { openBrowser } from './browser.mjs';

const PORT = 8000;
const server = readFileSync(new URL('../api/guest_server.py', import.meta.url), 'utf8');
let site;

/** Start the server in the sandbox, which then has pages on PORT. */
async function serve(sandbox) {
	await sandbox.files.write('/home/sandbox/server.py', server);
	await sh(sandbox, `nohup python3 server.py ${PORT} >server.log 2>&1 </dev/null & ` +
		'until grep -q listening server.log; do sleep 0.1; done');
	return sandbox;
}

/** A sandbox with such a server, of all tests here. */
function serving() {
	site ??= createToKeep({ timeout: 3600 }).then(serve);
	return site;
}

// The server's machine may have its port forwarded to another one here.
const hostOf = (sandbox, port = PORT) => `${sandbox.sandboxId}-p${port}.localhost:${url.port}`;

/** A request to a page of the guest; resolves with the answer's head, whose body can be read. */
function open(sandbox, path, headers = {}, opts = {}) {
	return new Promise((resolve, reject) => {
		const req = http.request({ agent: false, host: url.hostname, port: url.port, path, ...opts,
			headers: { Host: hostOf(sandbox, opts.guestPort), ...headers } });
		req.on('response', resolve);
		req.on('upgrade', (res, socket, head) => resolve({ res, socket, head }));
		req.on('error', reject);
		req.end();
	});
}

async function page(sandbox, path, headers, opts) {
	const res = await open(sandbox, path, headers, opts);
	const chunks = [];
	for await (const chunk of res)
		chunks.push(chunk);
	return { status: res.statusCode, headers: res.headers, text: Buffer.concat(chunks).toString() };
}

/** Just enough of a WebSocket: text of less than 126 bytes. */
async function openSocket(sandbox) {
	const { socket, head } = await open(sandbox, '/ws', { Connection: 'Upgrade', Upgrade: 'websocket',
		'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': randomBytes(16).toString('base64') });
	let got = head;
	let wake = () => {};
	socket.on('data', (data) => { got = Buffer.concat([got, data]); wake(); });
	socket.on('error', () => {});
	socket.on('close', () => { got = null; wake(); });
	return {
		close: () => socket.destroy(),
		say(text) {
			const data = Buffer.from(text);
			socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | data.length, 0, 0, 0, 0]), data]));
		},
		async hear() {
			while (got && (got.length < 2 || got.length < 2 + got[1]))
				await new Promise((resolve) => { wake = resolve; });
			assert.ok(got, 'the WebSocket was closed');
			const text = got.subarray(2, 2 + got[1]).toString();
			got = got.subarray(2 + got[1]);
			return text;
		},
	};
}

check('11 3.3 the client knows host names, and makes, lists and deletes preview URLs', async () => {
	const sandbox = await serving();
	const domain = sandbox.getPreviewDomain(PORT);
	assert.equal(sandbox.domain, sandbox.getPreviewDomain(80));
	assert.match(domain, new RegExp(`^${sandbox.sandboxId}-p${PORT}\\.localhost(:\\d+)?$`));
	const made = await sandbox.createPreviewURL({ port: PORT });
	assert.equal(made.hostname, domain);
	assert.equal(made.sandboxId, sandbox.sandboxId);
	assert.equal(made.sslStatus, 'active');
	assert.deepEqual(await sandbox.createPreviewURL({ port: PORT }), made);
	assert.deepEqual(await sandbox.listPreviewURLs(), [made]);
	await sandbox.deletePreviewURL(PORT);
	await sandbox.deletePreviewURL(PORT);
	assert.deepEqual(await sandbox.listPreviewURLs(), []);
});

check('11 a server on the loopback of the guest is seen through its host name', async () => {
	const sandbox = await serving();
	const got = await page(sandbox, '/');
	assert.equal(got.status, 200);
	assert.match(got.text, /hello from the guest/);
	const none = await page(sandbox, '/', {}, { guestPort: 9 });
	assert.equal(none.status, 502, none.text);
	const wait = await page(sandbox, '/', { Accept: 'text/html' }, { guestPort: 9 });
	assert.equal(wait.status, 503);
	assert.match(wait.text, /http-equiv=refresh/);
});

check('11 18.2 18.3 WebSockets and streams go on across hibernation, the first byte wakes', async () => {
	const sandbox = await serving();
	const socket = await openSocket(sandbox);
	assert.equal(await socket.hear(), 'hello');
	await sh(sandbox, 'rm -f tick');
	const events = await open(sandbox, '/events?1');
	const lines = events[Symbol.asyncIterator]();
	assert.equal((await lines.next()).value.toString(), 'data: begin\n\n');
	for (let i = 0; i < 3; i++) {
		await sandbox.hibernate();
		assert.equal(await sandbox.isRunning(), false);
		socket.say(`round ${i}`);
		assert.equal(await socket.hear(), `echo round ${i}`);
		assert.equal(await sandbox.isRunning(), true);
	}
	await sandbox.hibernate();
	assert.equal((await page(sandbox, '/')).status, 200);
	await sh(sandbox, 'echo late >>tick');
	assert.equal((await lines.next()).value.toString(), 'data: late\n\n');
	assert.equal((await lines.next()).done, true);
	socket.close();
});

check('11 a token is asked for before anything wakes; rotating ends the old one', async () => {
	const sandbox = await serve(await create({ timeout: 3600, previewAuth: { scheme: 'bearer', token: 'auto' } }));
	const token = sandbox.previewAuthToken;
	assert.match(token, /^[\w-]{43}$/);
	await sandbox.hibernate();
	assert.equal((await page(sandbox, '/')).status, 401);
	assert.equal((await page(sandbox, '/', { Authorization: 'Bearer nonsense' })).status, 401);
	assert.equal(await sandbox.isRunning(), false);
	assert.equal((await page(sandbox, '/', { 'X-OC-Preview-Token': token })).status, 200);
	assert.equal(await sandbox.isRunning(), true);
	const next = await sandbox.rotatePreviewAuthToken();
	assert.equal((await page(sandbox, '/', { Authorization: `Bearer ${token}` })).status, 401);
	assert.equal((await page(sandbox, '/', { Authorization: `Bearer ${next}` })).status, 200);
	await kill(sandbox);
	assert.equal((await page(sandbox, '/', { Authorization: `Bearer ${next}` })).status, 410);
});

check('11 18.3 Chromium sees a page of the guest, and its WebSocket goes on while the sandbox sleeps and wakes', async (t) => {
	const sandbox = await serving();
	const browser = await openBrowser(t);
	const heard = async (text) => {
		while (!(await browser.run('return window.got')).includes(text)) {
			assert.equal(await browser.run('return window.closed === true'), false, 'the WebSocket was closed');
			await sleep(100);
		}
	};
	await browser.visit(`http://${hostOf(sandbox)}/`);
	assert.equal(await browser.run('return document.querySelector("h1").textContent'), 'hello from the guest');
	await heard('hello');
	await browser.run('say("before")');
	await heard('echo before');
	for (let i = 0; i < 2; i++) {
		await sandbox.hibernate();
		assert.equal(await sandbox.isRunning(), false);
		await browser.run(`say("after ${i}")`);
		await heard(`echo after ${i}`);
		assert.equal(await sandbox.isRunning(), true);
	}
	assert.equal(await browser.run('return document.getElementById("log").textContent'),
		'hello,echo before,echo after 0,echo after 1');
});
