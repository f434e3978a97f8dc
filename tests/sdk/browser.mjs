// SPDX-License-Identifier: Apache-2.0
// Headless Chromium by the WebDriver protocol, for tests that have to see what a browser sees.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const top = fileURLToPath(new URL('../../', import.meta.url));

/** A browser that ends with the test. Installs it if it is missing: only who tests with it needs it. */
export async function openBrowser(t) {
	await promisify(execFile)('tools/deps', { cwd: top, env: { ...process.env, DEPS_LIST: 'tools/browser.list' } });
	const driver = spawn('chromedriver', ['--port=0'], { stdio: ['ignore', 'pipe', 'inherit'] });
	let session;
	t.after(async () => {
		await session?.().catch(() => {}); // it may have failed already
		driver.kill();
	});
	let text = '';
	const port = await new Promise((resolve, reject) => {
		driver.on('error', reject);
		driver.on('exit', () => reject(new Error(`chromedriver ended: ${text}`)));
		driver.stdout.on('data', (data) => {
			text += data;
			const found = /successfully on port (\d+)/.exec(text);
			if (found)
				resolve(found[1]);
		});
	});
	const call = async (method, path, body) => {
		const res = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body) });
		const { value } = await res.json();
		assert.ok(res.ok, `${path}: ${value?.error} ${value?.message}`);
		return value;
	};
	const { sessionId } = await call('POST', '/session', { capabilities: { alwaysMatch: { 'goog:chromeOptions': {
		args: ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
			'--disable-background-networking', '--disable-component-update'],
	} } } });
	session = () => call('DELETE', `/session/${sessionId}`);
	return {
		visit: (address) => call('POST', `/session/${sessionId}/url`, { url: address }),
		/** Run a script in the page; what it returns. */
		run: (script) => call('POST', `/session/${sessionId}/execute/sync`, { script, args: [] }),
	};
}
