// SPDX-License-Identifier: Apache-2.0
// What the test files share: one sandbox, a raw HTTP client, a watch over slow transfers.
import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import http from 'node:http';
import { promisify } from 'node:util';
import { Sandbox } from './client.mjs';

export const url = new URL(process.env.OPENCOMPUTER_API_URL);
export const key = process.env.OPENCOMPUTER_API_KEY;
export const UNKNOWN = 'sb-00000000';

// The lab runs everything 5 to 30 times slower than hardware: this bounds a hang, it measures nothing.
const HANG_MS = 600_000;

/** A test whose name starts with the sections of the wire contract it holds. */
export function check(name, body, options = {}) {
	test(name, { timeout: HANG_MS, ...options }, async (t) => {
		const before = new Set(alive);
		try {
			await body(t);
		} catch (error) {
			// What it leaves behind must not weigh on the tests after it.
			await Promise.all([...alive].filter((s) => !before.has(s) && !kept.has(s)).map((s) => kill(s).catch(() => {})));
			// fetch() hides in its cause what happened to the connection, and TAP has no place for it.
			if (error.cause)
				error.message += `: ${error.cause.code ?? ''} ${error.cause.message}`;
			throw error;
		}
	});
}

// --- sandboxes ---------------------------------------------------------------

const alive = new Set();
const kept = new Set();
let common;

/** Create a sandbox that is killed at the end, whatever the test does. */
export async function create(opts) {
	const sandbox = await Sandbox.create(opts);
	alive.add(sandbox);
	return sandbox;
}

/** The same for several tests: the end of one is not its end. */
export async function createToKeep(opts) {
	const sandbox = await create(opts);
	kept.add(sandbox);
	return sandbox;
}

/** The sandbox of all tests that leave nothing behind that another test could trip over. */
export function shared() {
	common ??= createToKeep({ envs: { FROM_CREATE: 'yes' } });
	return common;
}

export async function kill(sandbox) {
	await sandbox.kill();
	alive.delete(sandbox);
}

after(async () => {
	for (const sandbox of alive)
		await sandbox.kill();
});

/** Run a command that has to succeed; its stdout. */
export async function sh(sandbox, command, opts) {
	const result = await sandbox.exec.run(command, { timeout: 200, ...opts });
	assert.equal(result.exitCode, 0, `${command}: ${result.stderr}`);
	return result.stdout;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// --- the machine of the server -----------------------------------------------

const host = process.env.DORMOUSE_TEST_HOST?.split(' ');

/** The server's state directory, on its machine. */
export const stateDir = process.env.DORMOUSE_TEST_STATE;

/** For check(): a test that looks at the machine of the server, or breaks something there. */
export const onHostOnly = { skip: host ? false : 'DORMOUSE_TEST_HOST is not set: a server of somebody else' };

/** Run a command on the machine of the server, as root; its stdout. */
export async function onHost(...argv) {
	const [command, ...args] = [...host, ...argv];
	return (await promisify(execFile)(command, args, { maxBuffer: 64 << 20 })).stdout;
}

/**
 * How far the clock of the server's machine is ahead of ours, in ms: at least `low`, at most `high`.
 *
 * The clock of an emulated machine wanders, so this is asked anew where it matters.
 */
export async function hostClock() {
	if (!host)
		return { low: -1000, high: 1000 }; // whoever runs tests against a far server has set the clocks
	const before = Date.now();
	const there = Number(await onHost('date', '+%s%N')) / 1e6;
	return { low: there - Date.now(), high: there - before };
}

// --- checkpoints ---------------------------------------------------------------

/** Wait until a checkpoint is not `processing` any more; its item of the list. */
export async function written(sandbox, id) {
	for (;;) {
		const item = (await sandbox.listCheckpoints()).find((c) => c.id === id);
		if (item?.status !== 'processing')
			return item;
		await sleep(50);
	}
}

/** Take a checkpoint and wait until it is ready; its item of the list. */
export async function take(sandbox, name, opts) {
	const item = await written(sandbox, (await sandbox.createCheckpoint(name, opts)).id);
	assert.equal(item.status, 'ready', item.errorMsg);
	return item;
}

/** A fork that is killed at the end, whatever the test does. */
export async function fork(id, opts) {
	const sandbox = await Sandbox.createFromCheckpoint(id, opts);
	alive.add(sandbox);
	return sandbox;
}

// --- raw HTTP ----------------------------------------------------------------

const agent = new http.Agent({ keepAlive: true });

/**
 * One request, outside of the client package.
 *
 * `auth: false` sends no key. A `body` that is neither text nor bytes is sent as JSON; a generator is
 * sent chunked. With `expect`, the body is sent when the server has answered 100.
 */
export async function request(method, path, opts = {}) {
	const headers = { ...opts.headers };
	let { body } = opts;
	if (opts.auth !== false)
		headers['X-API-Key'] = key;
	if (body !== undefined && typeof body !== 'string' && !(body instanceof Uint8Array) &&
	    !body[Symbol.asyncIterator]) {
		body = JSON.stringify(body);
		headers['Content-Type'] ??= 'application/json';
	}
	if (typeof body === 'string')
		body = Buffer.from(body);
	if (body instanceof Uint8Array)
		headers['Content-Length'] = body.length;
	if (opts.expect)
		headers['Expect'] = '100-continue';
	const req = http.request({
		agent: opts.agent ?? agent, host: url.hostname, port: url.port, method, path, headers,
	});
	const answered = new Promise((resolve, reject) => {
		req.on('response', resolve);
		req.on('error', reject);
	});
	let continued = false;
	if (opts.expect) {
		const asked = new Promise((resolve) => {
			req.on('continue', () => {
				continued = true;
				resolve();
			});
		});
		req.flushHeaders();
		await Promise.race([asked, answered]);
	}
	if (body?.[Symbol.asyncIterator]) {
		answered.catch(() => {}); // it is awaited below, if the body does not end in an error
		try {
			for await (const chunk of body) {
				if (!req.write(chunk))
					await new Promise((resolve) => req.once('drain', resolve));
			}
		} catch (error) {
			req.destroy();
			throw error;
		}
		req.end();
	} else {
		req.end(body);
	}
	const res = await answered;
	const headersAt = Date.now();
	const chunks = [];
	for await (const chunk of res)
		chunks.push(chunk);
	const bytes = Buffer.concat(chunks);
	const text = bytes.toString();
	return {
		status: res.statusCode, headers: res.headers, reused: req.reusedSocket, continued, bytes, text,
		waitedMs: Date.now() - headersAt,
		get json() {
			return JSON.parse(text);
		},
	};
}

/** The status, the JSON body with a text in `error`, and that this text matches. */
export function assertError(answer, status, pattern) {
	assert.equal(answer.status, status, answer.text);
	assert.match(answer.headers['content-type'], /^application\/json/);
	assert.match(answer.json.error, pattern);
}

// --- slow transfers ----------------------------------------------------------

/** Fail when `beat()` is not called for `limitMs`: a slow transfer is fine, a stuck one is not. */
export async function whileBeating(limitMs, work) {
	let timer;
	let fail;
	const stuck = new Promise((_, reject) => {
		fail = reject;
	});
	const beat = () => {
		clearTimeout(timer);
		timer = setTimeout(() => fail(new Error(`no progress for ${limitMs} ms`)), limitMs);
	};
	beat();
	try {
		return await Promise.race([work(beat), stuck]);
	} finally {
		clearTimeout(timer);
	}
}
