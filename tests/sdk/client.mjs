// SPDX-License-Identifier: Apache-2.0
// The published package, unmodified, from the folder that tests/sdk/client printed ($SDK_MODULES).
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const dir = join(process.env.SDK_MODULES ?? '', '@opencomputer/sdk');
const manifest = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'));

export const version = manifest.version;
// This way has all of the other one, and what needs files.
export const { Sandbox, Tags, Templates, Image, Snapshots, ExecTimeoutError, ScalingLockedError } = await import(
	pathToFileURL(join(dir, manifest.exports['./node'].import)).href
);
