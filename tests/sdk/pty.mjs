// SPDX-License-Identifier: Apache-2.0
// Terminals (sections 6, 17.2, 18.3, 18.6), and programs that need one.
import assert from 'node:assert/strict';
import { check, create, key, request, sh, shared, url } from './support.mjs';

const CTRL_C = '\x03', CTRL_L = '\x0c', ESCAPE = '\x1b';

/** What a terminal shows, and waiting for it. */
class Screen {
	text = '';
	#at = 0;
	#woken = () => {};

	add(bytes) {
		this.text += new TextDecoder().decode(bytes);
		this.#woken();
	}

	/** Until `pattern` is shown, after what was waited for before. */
	async until(pattern) {
		for (;;) {
			const found = this.text.slice(this.#at).match(pattern);
			if (found) {
				this.#at += found.index + found[0].length;
				return found;
			}
			await new Promise((resolve) => { this.#woken = resolve; });
		}
	}
}

/** pty.create of the client; ends with its test. */
async function open(t, sandbox, size) {
	const screen = new Screen();
	const pty = await sandbox.pty.create({ ...size, onOutput: (bytes) => screen.add(bytes) });
	t.after(() => pty.close());
	// The prompt: now the socket is open, and keys can be sent.
	await screen.until(/[$#] /);
	return { pty, screen };
}

/** Another client of a terminal, without the SDK, which has no such call. */
function attach(t, sandbox, id) {
	const path = `api/sandboxes/${sandbox.sandboxId}/pty/${id}?api_key=${encodeURIComponent(key ?? '')}`;
	const ws = new WebSocket(new URL(path, url).href.replace(/^http/, 'ws'));
	const screen = new Screen();
	ws.binaryType = 'arraybuffer';
	ws.onmessage = (event) => {
		assert.ok(event.data instanceof ArrayBuffer, 'a text message');
		screen.add(event.data);
	};
	const closed = new Promise((resolve) => { ws.onclose = (event) => resolve(event); });
	const opened = new Promise((resolve, reject) => { ws.onopen = resolve; ws.onerror = reject; });
	t.after(() => ws.close());
	return { ws, screen, opened, closed };
}

check('6 17.2 18.6 pty.create gives a shell with the size, user, place and environment of the sandbox', async (t) => {
	const sandbox = await shared();
	const { pty, screen } = await open(t, sandbox, { rows: 30, cols: 100 });
	pty.send('stty size; echo "$USER:$PWD:$TERM:$FROM_CREATE:$(tty | cut -c1-9):$SHELL"\n');
	await screen.until(/30 100\r\n/);
	await screen.until(/sandbox:\/home\/sandbox:xterm-256color:yes:\/dev\/pts\/:\/bin\/bash\r\n/);
});

check('6 17.2 send takes text and bytes; Ctrl-C and job control work', async (t) => {
	const { pty, screen } = await open(t, await shared());
	pty.send('sed -u s/^/=/\n');
	pty.send(new TextEncoder().encode('grüße\n'));
	await screen.until(/=grüße\r\n/);
	pty.send('\x1a');
	await screen.until(/Stopped/);
	await screen.until(/[$#] /);
	pty.send('fg\n');
	pty.send('again\n');
	await screen.until(/=again\r\n/);
	pty.send(CTRL_C);
	await screen.until(/[$#] /);
	pty.send('echo code=$?\n');
	await screen.until(/code=130\r\n/);
});

check('6 the size of a terminal that is not said is 80 by 24', async (t) => {
	const { pty, screen } = await open(t, await shared());
	pty.send('stty size\n');
	await screen.until(/24 80\r\n/);
});

check('6 close leaves the shell running, and who attaches gets what was shown', async (t) => {
	const sandbox = await shared();
	const { pty, screen } = await open(t, sandbox);
	pty.send('kept=here; echo sh"own"\n');
	await screen.until(/shown\r\n/);
	pty.close();
	const again = attach(t, sandbox, pty.sessionId);
	await again.screen.until(/shown\r\n/);
	await again.opened;
	const answer = await request('POST', `/api/sandboxes/${sandbox.sandboxId}/pty/${pty.sessionId}/resize`,
		{ body: { rows: 50, cols: 132 } });
	assert.equal(answer.status, 200, answer.text);
	again.ws.send('echo $kept $(stty size)\n');
	await again.screen.until(/here 50 132\r\n/);
});

check('6 17.2 the end of the shell closes with 1000, DELETE too, and the id is gone then', async (t) => {
	const sandbox = await shared();
	const path = (id) => `/api/sandboxes/${sandbox.sandboxId}/pty/${id}`;
	const first = await open(t, sandbox), second = await open(t, sandbox);
	const one = attach(t, sandbox, first.pty.sessionId), two = attach(t, sandbox, second.pty.sessionId);
	await Promise.all([one.opened, two.opened]);
	first.pty.send('exit 3\n');
	const event = await one.closed;
	assert.deepEqual([event.code, event.reason], [1000, 'exited with code 3']);
	assert.equal((await request('DELETE', path(second.pty.sessionId))).status, 204);
	assert.equal((await two.closed).code, 1000);
	assert.equal((await request('DELETE', path(second.pty.sessionId))).status, 404);
	assert.equal((await request('GET', `/api/sandboxes/${sandbox.sandboxId}/exec`)).json
		.filter((x) => [first.pty.sessionId, second.pty.sessionId].includes(x.sessionID)).length, 0);
});

check('6 18.7 vim edits and saves a file, and is drawn for who attaches', async (t) => {
	const sandbox = await shared();
	const { pty, screen } = await open(t, sandbox);
	pty.send('vim -u NONE -N letter.txt\n');
	await screen.until(/letter\.txt/);
	await screen.until(/\[New/);
	pty.send('iDear all,\rgoodbye');
	await screen.until(/goodbye/);
	const again = attach(t, sandbox, pty.sessionId);
	await again.opened;
	await again.screen.until(/\x1b\[\?1049h/);
	await again.screen.until(/goodbye/);
	// Not as the first client: so vim was told to draw all of it once more, for everybody.
	await screen.until(/\x1b\[2J[^]*goodbye/);
	pty.send(ESCAPE);
	pty.send(':wq\n');
	await screen.until(/written/);
	await screen.until(/[$#] /);
	assert.equal(await sandbox.files.read('/home/sandbox/letter.txt'), 'Dear all,\ngoodbye\n');
});

check('6 18.7 htop draws its screen, again for a key, and ends by one', async (t) => {
	const { pty, screen } = await open(t, await shared(), { rows: 40, cols: 120 });
	pty.send('htop\n');
	await screen.until(/Tasks/);
	await screen.until(/F10|Quit/);
	pty.send(CTRL_L);
	await screen.until(/Tasks/);
	pty.send('q');
	await screen.until(/[$#] /);
	pty.send('echo code=$?\n');
	await screen.until(/code=0\r\n/);
});

check('6 18.3 a terminal goes on after the sandbox has slept', async (t) => {
	const sandbox = await create();
	const { pty, screen } = await open(t, sandbox);
	pty.send('kept=there; echo sh"own"\n');
	await screen.until(/shown\r\n/);
	const before = attach(t, sandbox, pty.sessionId);
	await before.opened;
	await sandbox.hibernate();
	assert.equal((await before.closed).code, 1001);
	const after = attach(t, sandbox, pty.sessionId);
	await after.screen.until(/shown\r\n/);
	await after.opened;
	after.ws.send('echo $kept\n');
	await after.screen.until(/there\r\n/);
	assert.equal((await sh(sandbox, 'echo awake')), 'awake\n');
});
