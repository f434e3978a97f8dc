// SPDX-License-Identifier: Apache-2.0
// Agent sessions (section 7), with the real agent SDK in the sandbox and a stand-in for the model's API beside it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { assertError, check, create, createToKeep, request, sh, UNKNOWN } from './support.mjs';

const PORT = 8099;
const ENVS = {
	ANTHROPIC_API_KEY: 'key-of-the-test',
	ANTHROPIC_BASE_URL: `http://127.0.0.1:${PORT}`,
	CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
};
let equipped;

/** A sandbox with the SDK and a model that answers. */
function withModel() {
	equipped ??= (async () => {
		const sandbox = await createToKeep({ envs: ENVS, memoryMB: 2048 });
		const sdk = execFileSync('tar', ['-C', process.env.SDK_MODULES, '-cz', '--exclude=*-darwin', '--exclude=*-win32',
			'--exclude=arm64-linux', '@anthropic-ai', 'zod'], { maxBuffer: 256 << 20 });
		await sandbox.files.write('/tmp/sdk.tar.gz', sdk);
		await sandbox.files.write('/tmp/model.mjs', readFileSync(new URL('model.mjs', import.meta.url)));
		await sh(sandbox, 'mkdir -p ~/node_modules && tar -xzf /tmp/sdk.tar.gz -C ~/node_modules');
		await new Promise((resolve, reject) => {
			sandbox.exec.start('node', {
				args: ['/tmp/model.mjs', String(PORT)],
				onStdout: resolve,
				onStderr: (data) => reject(new Error(new TextDecoder().decode(data))),
			}).catch(reject);
		});
		return sandbox;
	})();
	return equipped;
}

/** The events of a session, one by one. */
class Events {
	constructor() {
		this.all = [];
		this.errors = [];
		this.waiting = [];
		this.options = {
			onEvent: (event) => {
				this.all.push(event);
				this.waiting.forEach((wake) => wake());
			},
			onError: (text) => this.errors.push(text),
			onExit: () => {
				this.exited = true;
				this.waiting.forEach((wake) => wake());
			},
		};
		this.next = 0;
	}

	async until(type) {
		for (;;) {
			while (this.next < this.all.length) {
				const event = this.all[this.next++];
				if (event.type === type)
					return event;
				assert.notEqual(event.type, 'error', JSON.stringify(event));
			}
			assert(!this.exited, `it ended before ${type}: ${JSON.stringify(this.all)} ${this.errors.join('')}`);
			await new Promise((resolve) => this.waiting.push(resolve));
		}
	}
}

check('7 without an API key the wrapper says so, and exits with 1', async () => {
	const sandbox = await create();
	const events = new Events();
	const session = await sandbox.agent.start({ prompt: 'hello', ...events.options });
	assert.equal(await session.done, 1);
	assert.deepEqual(events.all,
		[{ type: 'error', message: 'ANTHROPIC_API_KEY environment variable is not set' }]);
	const listed = (await sandbox.agent.list()).find((s) => s.sessionID === session.sessionId);
	assert.equal(listed.running, false);
	await session.kill(); // nobody is left to be killed, and that is no error
});

check('7 without the SDK the wrapper says so, and exits with 1', async () => {
	const sandbox = await create({ envs: ENVS });
	const events = new Events();
	const session = await sandbox.agent.start(events.options);
	assert.equal(await session.done, 1);
	assert.match(events.all[0].message, /claude-agent-sdk is not installed/);
});

check('7 start with a prompt; sendPrompt goes on in the same session; list; kill', async () => {
	const sandbox = await withModel();
	const events = new Events();
	const session = await sandbox.agent.start({ prompt: 'first words', model: 'model-of-the-test', ...events.options });
	await events.until('configured');
	assert.match((await events.until('result')).result, /heard: first words/);
	const first = await events.until('turn_complete');
	session.sendPrompt('second words');
	assert.match((await events.until('result')).result, /heard: second words/);
	assert.equal((await events.until('turn_complete')).claude_session_id, first.claude_session_id);

	const seen = JSON.parse(await sh(sandbox, `curl -s http://127.0.0.1:${PORT}/seen`));
	const turns = seen.filter((r) => / words$/.test(r.text));
	assert.deepEqual(turns.map((r) => [r.model, r.key]), Array(2).fill(['model-of-the-test', ENVS.ANTHROPIC_API_KEY]));
	assert(turns[1].messages > turns[0].messages, 'the second turn does not know the first');

	const listed = (await sandbox.agent.list()).find((s) => s.sessionID === session.sessionId);
	assert.equal(listed.sandboxID, sandbox.sandboxId);
	assert.equal(listed.running, true);
	assert(!Number.isNaN(Date.parse(listed.startedAt)));
	const command = (await sandbox.exec.list()).find((s) => s.sessionID === session.sessionId);
	assert.equal(command.command, 'claude-agent-wrapper');
	await session.kill();
	assert.equal(await session.done, 137);
});

check('7 an interrupt ends the turn that runs; another session resumes it', async () => {
	const sandbox = await withModel();
	const events = new Events();
	const session = await sandbox.agent.start({ prompt: 'wait for ever', ...events.options });
	const { session_id: id } = await events.until('system');
	session.interrupt();
	await events.until('interrupted');
	session.close();
	await session.kill();

	const more = new Events();
	const again = await sandbox.agent.start({ prompt: 'once more', resume: id, ...more.options });
	assert.match((await more.until('result')).result, /heard: once more/);
	await again.kill();
});

check('7 a configure from a client, and attach, which replays', async () => {
	const sandbox = await withModel();
	const events = new Events();
	const session = await sandbox.agent.start(events.options);
	await events.until('ready');
	session.configure({ maxTurns: 2 });
	await events.until('configured');
	session.close();
	const replay = new Events();
	const again = await sandbox.agent.attach(session.sessionId, replay.options);
	await replay.until('ready');
	await replay.until('configured');
	again.sendPrompt('after the attach');
	await replay.until('turn_complete');
	await again.kill(15);
	assert.equal(await again.done, 143);
});

check('7 prompt and interrupt as requests', async () => {
	const sandbox = await withModel();
	const base = `/api/sandboxes/${sandbox.sandboxId}/agent`;
	const events = new Events();
	const session = await sandbox.agent.start(events.options);
	await events.until('ready');
	const post = (route, body) => request('POST', `${base}/${session.sessionId}/${route}`, { body });
	assert.equal((await post('prompt', { text: 'wait for ever' })).status, 204);
	await events.until('system');
	assert.equal((await post('interrupt')).status, 204);
	await events.until('interrupted');
	assertError(await post('prompt', {}), 400, /text/);
	await session.kill();
	await session.done;
	assertError(await post('prompt', { text: 'x' }), 409, /ended/);
});

check('7 2.4 what is refused: unknown sessions and sandboxes, sessions that are no agents, wrong types', async () => {
	const sandbox = await withModel();
	const base = `/api/sandboxes/${sandbox.sandboxId}/agent`;
	assertError(await request('POST', `/api/sandboxes/${UNKNOWN}/agent`, { body: { model: 1 } }), 404, /not found/);
	assertError(await request('POST', base, { body: { maxTurns: 'many' } }), 400, /maxTurns/);
	assertError(await request('POST', base, { body: { allowedTools: [1] } }), 400, /allowedTools/);
	assertError(await request('POST', `${base}/00000000/kill`), 404, /not found/);
	const command = await sandbox.exec.start('sleep 1000');
	assertError(await request('POST', `${base}/${command.sessionId}/kill`), 404, /not found/);
	assertError(await request('POST', `${base}/${command.sessionId}/prompt`, { body: { text: 'x' } }), 404, /not found/);
	await command.kill();
});
