// SPDX-License-Identifier: Apache-2.0
// The network of a sandbox through its life (3.2, 16, 18.5).
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { check, onHost, onHostOnly } from './support.mjs';

// With a daemon of its own: it is killed, and it must have another network than that of the other tests.
check('16 18.5 the network is there after create, wake, fork and restore, and outlives the daemon', async () => {
	const script = fileURLToPath(new URL('network.py', import.meta.url));
	assert.match(await onHost('/usr/bin/python3', '-B', script, '/var/tmp'), /network: ok\n$/);
}, onHostOnly);
