// SPDX-License-Identifier: Apache-2.0
// A stand-in for the Claude agent SDK: query() as the wrapper uses it, whose turns do what their prompt says.
import { once, EventEmitter } from "node:events";

export function query({ prompt, options }) {
  const events = new EventEmitter();
  let interrupted = false;
  const turn = (async function* turn() {
    const input = prompt[Symbol.asyncIterator]();
    const text = (await input.next()).value.message.content;
    const session_id = options.resume ?? `new-${text}`;
    if (options.resume === "unknown") throw new Error("No conversation found");
    yield { type: "system", session_id, options: { ...options, abortController: undefined, stderr: undefined } };
    if (text === "throw") throw new Error("it broke");
    if (text === "abort") throw Object.assign(new Error("gone"), { name: "AbortError" });
    if (text === "stderr") options.stderr("a word on stderr\n");
    if (text === "deaf") await once(options.abortController.signal, "abort").then(() => { throw new Error("aborted"); });
    if (text === "hang" && !interrupted) await once(events, "interrupt");
    yield { type: "result", subtype: "success", is_error: text === "bad", result: text, session_id };
    // The process ends when its input does, as the real one's.
    await input.next();
    if (text === "bad") throw new Error("exited with code 1");
  })();
  turn.interrupt = async () => {
    interrupted = true;
    events.emit("interrupt");
  };
  return turn;
}
