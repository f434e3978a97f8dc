# SPDX-License-Identifier: Apache-2.0
"""Runs tests that wait more than they work, several at once, each in a process of its own. Prints TAP."""
import os
import tempfile
import traceback


class Skip(Exception):
    """What a test raises that cannot run here; its text says why."""


def report(number, name, function):
    """Run one in this process. Return: what is to be printed."""
    try:
        note = function()
        return f"ok {number} - {name}" + (f": {note}" if note else "")
    except Skip as e:
        return f"ok {number} - {name} # SKIP {e}"
    except Exception:  # pylint: disable=broad-except
        return "# " + "\n# ".join(traceback.format_exc().splitlines()) + f"\nnot ok {number} - {name}"


def spawn(number, name, function):
    """What one leaves behind in its process does not touch the next."""
    out = tempfile.TemporaryFile()
    pid = os.fork()
    if not pid:
        out.write(report(number, name, function).encode())
        out.flush()
        os._exit(0)
    return pid, (number, name, out)


def collect(running):
    """Wait for one to end. Return: its text."""
    pid, status = os.wait()
    if pid not in running:
        return ""  # somebody's orphan
    number, name, out = running.pop(pid)
    out.seek(0)
    text = out.read().decode(errors="replace")
    return f"{text}\n# ended with {status}\nnot ok {number} - {name}" if status else text


def main(tests, per_cpu):
    """tests: (name, function); a function returns text for its line, or nothing. Return: the exit code."""
    waiting, running, failed = [(n, *t) for n, t in enumerate(tests, 1)], {}, 0
    print(f"1..{len(tests)}", flush=True)
    while waiting or running:
        while waiting and len(running) < per_cpu * (os.cpu_count() or 1):
            pid, what = spawn(*waiting.pop(0))
            running[pid] = what
        text = collect(running)
        failed += "not ok " in text
        if text:
            print(text, flush=True)
    return 1 if failed else 0
