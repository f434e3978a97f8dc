// SPDX-License-Identifier: Apache-2.0
// Tags (section 14).
import assert from 'node:assert/strict';
import { Tags } from './client.mjs';
import { check, key, request, shared, UNKNOWN, url } from './support.mjs';

const tags = new Tags(url.origin, key);

check('14 tags are set as a whole, read, counted by key', async () => {
	const { sandboxId } = await shared();
	assert.deepEqual(await tags.get(sandboxId), { tags: {}, tagsLastUpdatedAt: null });
	const set = await tags.set(sandboxId, { team: 'a', 'env:stage': 'grün' });
	assert.deepEqual(set.tags, { team: 'a', 'env:stage': 'grün' });
	assert.ok(Math.abs(Date.parse(set.tagsLastUpdatedAt) - Date.now()) < 3600_000, set.tagsLastUpdatedAt);
	assert.deepEqual(await tags.get(sandboxId), set);
	const shown = (await request('GET', `/api/sandboxes/${sandboxId}`)).json;
	assert.deepEqual(shown.tags, set.tags);
	assert.deepEqual(await tags.listKeys(), [
		{ key: 'env:stage', sandboxCount: 1, valueCount: 1 }, { key: 'team', sandboxCount: 1, valueCount: 1 },
	]);
	assert.deepEqual((await tags.set(sandboxId, {})).tags, {});
});

check('14 what is no set of tags is refused', async () => {
	const { sandboxId } = await shared();
	for (const bad of [{ a: 1 }, { 'a b': 'x' }, { 'oc:a': 'x' }, { a: 'x'.repeat(257) },
		Object.fromEntries(Array.from({ length: 51 }, (_, i) => [`k${i}`, 'x']))])
		await assert.rejects(tags.set(sandboxId, bad), /400/);
	await assert.rejects(tags.set(UNKNOWN, {}), /404/);
	await assert.rejects(tags.get(UNKNOWN), /404/);
});
