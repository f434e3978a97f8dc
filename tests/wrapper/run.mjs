// SPDX-License-Identifier: Apache-2.0
// claude-agent-wrapper with a stand-in for the SDK, line by line. Prints TAP.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const here = import.meta.dirname;
const program = join(here, "../../guest-kernel/wrapper/claude-agent-wrapper");
const LIMIT_MS = 60000;
const tests = [];
const test = (name, fn) => tests.push([name, fn]);

class Agent {
  constructor(home, env = {}) {
    this.process = spawn(process.execPath, [program], {
      cwd: home,
      env: { PATH: process.env.PATH, HOME: home, ANTHROPIC_API_KEY: "key", ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.stderr = "";
    this.process.stderr.on("data", (data) => { this.stderr += data; });
    this.lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
    this.ended = once(this.process, "close");
  }

  send(message) {
    this.process.stdin.write(`${typeof message === "string" ? message : JSON.stringify(message)}\n`);
  }

  async next() {
    const { value, done } = await this.lines.next();
    assert(!done, `it ended: ${this.stderr}`);
    return JSON.parse(value);
  }

  async expect(...types) {
    let event;
    for (const type of types) {
      event = await this.next();
      assert.equal(event.type, type, JSON.stringify(event));
    }
    return event;
  }

  async end() {
    this.process.stdin.end();
    const [code] = await this.ended;
    return code;
  }
}

function home(sdk = true) {
  const dir = mkdtempSync(join(tmpdir(), "wrapper-"));
  if (sdk) {
    const folder = join(dir, "node_modules/@anthropic-ai/claude-agent-sdk");
    mkdirSync(folder, { recursive: true });
    cpSync(join(here, "standin.mjs"), join(folder, "sdk.mjs"));
    writeFileSync(join(folder, "package.json"), '{"name":"@anthropic-ai/claude-agent-sdk","main":"sdk.mjs"}');
  }
  return dir;
}

async function withAgent(fn, env, sdk) {
  const dir = home(sdk);
  const agent = new Agent(dir, env);
  try {
    await fn(agent, dir);
  } finally {
    agent.process.kill("SIGKILL");
    await agent.ended;
    rmSync(dir, { recursive: true });
  }
}

test("without a key: the documented error, exit 1", () => withAgent(async (a) => {
  const event = await a.expect("error");
  assert.equal(event.message, "ANTHROPIC_API_KEY environment variable is not set");
  assert.deepEqual(await a.ended, [1, null]);
}, { ANTHROPIC_API_KEY: "" }));

test("without the SDK: an error that names it, exit 1", () => withAgent(async (a) => {
  const event = await a.expect("error");
  assert.match(event.message, /claude-agent-sdk is not installed/);
  assert.deepEqual(await a.ended, [1, null]);
}, { NODE_PATH: "/nonexistent" }, false));

test("a turn: events, turn_complete with the session; then end of input, exit 0", () => withAgent(async (a, dir) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "one" });
  const { options } = await a.expect("system");
  assert.deepEqual(options, {
    model: "claude-sonnet-4-20250514", permissionMode: "bypassPermissions", maxTurns: 50, cwd: dir,
    allowDangerouslySkipPermissions: true,
  });
  assert.equal((await a.expect("result")).result, "one");
  assert.equal((await a.expect("turn_complete")).claude_session_id, "new-one");
  assert.equal(await a.end(), 0);
}));

test("configure is merged; unknown fields and other permission modes pass no rights", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "configure", model: "m", maxTurns: 3, permissionMode: "plan", stderr: "x" });
  a.send({ type: "configure", systemPrompt: "s", allowedTools: ["Read"], mcpServers: { a: { command: "b" } } });
  await a.expect("configured", "configured");
  a.send({ type: "prompt", text: "one" });
  const { options } = await a.expect("system");
  assert.equal(options.model, "m");
  assert.equal(options.maxTurns, 3);
  assert.equal(options.systemPrompt, "s");
  assert.deepEqual(options.allowedTools, ["Read"]);
  assert.deepEqual(options.mcpServers, { a: { command: "b" } });
  assert.equal(options.allowDangerouslySkipPermissions, false);
}));

test("follow-ups resume; a prompt's own resume wins over configure's, which is used once", () => withAgent(async (a) => {
  await a.expect("ready");
  const turn = async (message) => {
    a.send({ type: "prompt", ...message });
    const { options } = await a.expect("system");
    await a.expect("result", "turn_complete");
    return options.resume;
  };
  assert.equal(await turn({ text: "a" }), undefined);
  assert.equal(await turn({ text: "b" }), "new-a");
  a.send({ type: "configure", resume: "given" });
  await a.expect("configured");
  assert.equal(await turn({ text: "c" }), "given");
  assert.equal(await turn({ text: "d" }), "given"); // the last session, from here on
  a.send({ type: "configure", resume: "never" });
  await a.expect("configured");
  assert.equal(await turn({ text: "e", resume: "mine" }), "mine");
}));

test("a resumed turn that fails is tried without", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "one", resume: "unknown" });
  const { options } = await a.expect("system");
  assert.equal(options.resume, undefined);
  await a.expect("result", "turn_complete");
}));

test("an interrupt ends the turn that runs, and the next one goes on with its session", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "hang" });
  a.send({ type: "prompt", text: "waits" });
  await a.expect("system");
  a.send({ type: "interrupt" });
  await a.expect("interrupted");
  a.send({ type: "prompt", text: "on" });
  assert.equal((await a.expect("system")).options.resume, "new-hang");
  await a.expect("result", "turn_complete");
}));

test("a turn that does not hear the interrupt is aborted", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "deaf" });
  await a.expect("system");
  a.send({ type: "interrupt" });
  await a.expect("interrupted");
}));

test("abort-like errors are interrupts, others are errors; after each it goes on", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "abort" });
  await a.expect("system", "interrupted");
  a.send({ type: "configure", resume: undefined });
  await a.expect("configured");
  a.send({ type: "prompt", text: "throw" });
  await a.expect("system"); // resumed
  await a.expect("system"); // and not
  assert.equal((await a.expect("error")).message, "it broke");
  a.send({ type: "prompt", text: "fine" });
  await a.expect("system", "result", "turn_complete");
}));

test("a result that is an error completes the turn", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "bad" });
  await a.expect("system", "result", "turn_complete");
}));

test("what is no message is an error, and nothing else", () => withAgent(async (a) => {
  await a.expect("ready");
  for (const bad of ["{", "null", "[]", '"prompt"', '{"type":"x"}', '{"type":"prompt"}', '{"type":"prompt","text":1}']) {
    a.send(bad);
    await a.expect("error");
  }
  a.send("");
  a.send({ type: "interrupt" });
  await a.expect("interrupted");
  a.send({ type: "prompt", text: "fine" });
  await a.expect("system", "result", "turn_complete");
}));

test("what waits at the end of input is still done; stderr is the SDK's", () => withAgent(async (a) => {
  await a.expect("ready");
  a.send({ type: "prompt", text: "stderr" });
  a.send({ type: "prompt", text: "last" });
  const code = a.end();
  await a.expect("system", "result", "turn_complete", "system", "result", "turn_complete");
  assert.equal(await code, 0);
  assert.equal(a.stderr, "a word on stderr\n");
}));

console.log(`1..${tests.length}`);
let number = 0;
for (const [name, fn] of tests) {
  number++;
  let timer;
  const limit = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("it hangs")), LIMIT_MS); });
  try {
    await Promise.race([fn(), limit]);
    console.log(`ok ${number} - ${name}`);
  } catch (error) {
    console.log(`not ok ${number} - ${name}`);
    console.log(String(error.stack).replace(/^/gm, "# "));
  } finally {
    clearTimeout(timer);
  }
}
