// SPDX-License-Identifier: Apache-2.0
// The conventions all routes share (section 2) and the routes without a sandbox (16).
import assert from 'node:assert/strict';
import http from 'node:http';
import { Sandbox } from './client.mjs';
import { assertError, check, key, request, shared, url } from './support.mjs';

const WRONG = `osb_${'0'.repeat(40)}`;

check('2.3 no key is 401, a wrong one 403, and the client shows the text', async () => {
	for (const [method, path] of [['GET', '/api/sandboxes'], ['POST', '/api/sandboxes'],
		['GET', '/api/workers'], ['GET', '/api/sandboxes/sb-00000000'],
		['POST', '/api/sandboxes/sb-00000000/exec/run']]) {
		const bare = await request(method, path, { auth: false });
		assertError(bare, 401, /^missing API key$/);
		const wrong = await request(method, path, { auth: false, headers: { 'X-API-Key': WRONG } });
		assertError(wrong, 403, /^invalid API key$/);
	}
	await assert.rejects(Sandbox.create({ apiKey: WRONG }), /403 .*invalid API key/);
});

check('2.3 the key counts in its header and in the query, not as a bearer', async () => {
	const get = (path, headers) => request('GET', path, { auth: false, headers });
	assert.equal((await get('/api/sandboxes', { 'X-API-Key': key })).status, 200);
	assert.equal((await get(`/api/sandboxes?api_key=${encodeURIComponent(key)}`)).status, 200);
	assert.equal((await get(`/api/sandboxes?api_key=${WRONG}`)).status, 403);
	const bearer = await get('/api/sandboxes', { Authorization: `Bearer ${key}` });
	assert.ok(bearer.status === 401 || bearer.status === 403, `${bearer.status}`);
	for (const near of [key.slice(0, -1), `${key}0`, key.toUpperCase(), ''])
		assert.ok([401, 403].includes((await get('/api/sandboxes', { 'X-API-Key': near })).status), near);
});

check('2.3 19.2 a token of a sandbox opens that sandbox and no other', async () => {
	const sandbox = await shared();
	const { json } = await request('GET', `/api/sandboxes/${sandbox.sandboxId}`);
	assert.equal(json.connectURL, `${url.origin}/api`);
	const get = (path) =>
		request('GET', path, { auth: false, headers: { Authorization: `Bearer ${json.token}` } });
	assert.equal((await get(`/api/sandboxes/${sandbox.sandboxId}/files?path=/etc/passwd`)).status, 200);
	assert.ok([401, 403].includes((await get('/api/sandboxes')).status));
});

check('2.3 16 health routes answer without a key', async () => {
	for (const [path, body] of [['/health', '{"status":"ok"}'], ['/healthz', '{"status":"alive"}'],
		['/readyz', '{"status":"ready"}']]) {
		const answer = await request('GET', path, { auth: false });
		assert.equal(answer.status, 200, path);
		assert.equal(answer.text.trim(), body);
	}
});

check('16 workers lists this one', async () => {
	const { status, json } = await request('GET', '/api/workers');
	assert.equal(status, 200);
	assert.equal(json.length, 1);
	assert.equal(typeof json[0].id, 'string');
});

check('2.1 every route is there with and without /api', async () => {
	const { sandboxId } = await shared();
	for (const prefix of ['', '/api']) {
		const seen = await request('GET', `${prefix}/sandboxes/${sandboxId}`);
		assert.equal(seen.status, 200);
		assert.equal(seen.json.sandboxID, sandboxId);
		const run = await request('POST', `${prefix}/sandboxes/${sandboxId}/exec/run`,
			{ body: { cmd: 'echo $0' } });
		assert.equal(run.status, 200);
	}
});

check('2.2 JSON is taken by route, whatever its content type says', async () => {
	const { sandboxId } = await shared();
	for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
		const answer = await request('POST', `/api/sandboxes/${sandboxId}/exec/run`,
			{ body: '{ "cmd" : "echo typed" }', headers: { 'Content-Type': type } });
		assert.equal(answer.status, 200, answer.text);
		assert.equal(answer.json.stdout, 'typed\n');
	}
});

check('2.2 a connection is kept through answers of every kind', async () => {
	const { sandboxId } = await shared();
	const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
	const base = `/api/sandboxes/${sandboxId}`;
	const steps = [
		['GET', '/health', 200], ['GET', base, 200], ['HEAD', '/health', 200],
		['PUT', `${base}/files?path=/tmp/kept`, 204, 'x'], ['GET', `${base}/files?path=/tmp/kept`, 200],
		['GET', `${base}/files?path=/no/such`, 500], ['GET', '/api/no/such/route', 404],
		['POST', `${base}/exec/run`, 200, { cmd: 'true' }], ['POST', `${base}/exec/run`, 400, '{'],
		['DELETE', `${base}/files?path=/tmp/kept`, 204], ['GET', base, 200],
	];
	for (const [index, [method, path, status, body]] of steps.entries()) {
		const answer = await request(method, path, { agent, body });
		assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`);
		assert.equal(answer.reused, index > 0, `${method} ${path} after ${steps[index - 1]}`);
	}
	agent.destroy();
});

check('2.2 any origin may ask, OPTIONS answers without a key', async () => {
	const { sandboxId } = await shared();
	const headers = {
		Origin: 'https://app.example', 'Access-Control-Request-Method': 'PUT',
		'Access-Control-Request-Headers': 'x-api-key,content-type',
	};
	const asked = await request('OPTIONS', `/api/sandboxes/${sandboxId}/files`, { auth: false, headers });
	assert.ok(asked.status === 200 || asked.status === 204, `${asked.status}`);
	assert.ok(['*', headers.Origin].includes(asked.headers['access-control-allow-origin']));
	assert.match(asked.headers['access-control-allow-methods'], /\*|PUT/);
	assert.match(asked.headers['access-control-allow-headers'], /\*|x-api-key/i);
	const got = await request('GET', '/health', { headers: { Origin: headers.Origin } });
	assert.ok(['*', headers.Origin].includes(got.headers['access-control-allow-origin']));
});

check('2.4 a route that does not exist is 404 as JSON, a method it lacks is 404 or 405', async () => {
	assertError(await request('GET', '/api/no/such/route'), 404, /./);
	const wrong = await request('PATCH', '/api/sandboxes');
	assert.ok([404, 405].includes(wrong.status), `${wrong.status}`);
	assert.equal(typeof wrong.json.error, 'string');
});

check('2.5 an id that is none is refused, never an error of the server', async () => {
	for (const id of ['x', '..', 'sb-', 'sb-XYZ', '%00', 'sb-00000000%2f..', 'a'.repeat(300)]) {
		const answer = await request('GET', `/api/sandboxes/${id}`);
		assert.ok(answer.status === 400 || answer.status === 404, `${id}: ${answer.status}`);
	}
});
