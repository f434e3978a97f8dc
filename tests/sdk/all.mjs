// SPDX-License-Identifier: Apache-2.0
// All files in one process, so that they share one sandbox: tests/sdk/run starts this.
import './http.mjs';
import './sandboxes.mjs';
import './tags.mjs';
import './exec.mjs';
import './agent.mjs';
import './sessions.mjs';
import './pty.mjs';
import './files.mjs';
import './hibernate.mjs';
import './scale.mjs';
import './mounts.mjs';
import './network.mjs';
import './checkpoints.mjs';
import './patches.mjs';
import './images.mjs';
import './import.mjs';
import './previews.mjs';
import './git.mjs';
import './cli.mjs';
