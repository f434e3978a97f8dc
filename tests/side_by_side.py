# SPDX-License-Identifier: Apache-2.0
"""Runs tests that wait more than they work, several at once, each in a process of its own. Prints TAP."""
import ctypes
import os
import signal
import tempfile
import traceback


PR_SET_CHILD_SUBREAPER = 36


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


def children():
    """(pid, name) of ours that live, by /proc."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as f:
                name, _, rest = f.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z":
            yield int(pid), name


def supervise(pid):
    """Reap who comes to us, until that one has ended; then end who is left. Return: its wait status, their names."""
    status, left = None, []
    try:
        while True:
            ended, code = os.wait()
            if ended == pid:
                status = code
            # Whoever they leave comes to us, too.
            for other, name in children() if status is not None else ():
                left.append(name)
                os.kill(other, signal.SIGKILL)
    except ChildProcessError:
        return status, left


def spawn(number, name, function):
    """What one leaves behind in its process does not touch the next; what it leaves of processes is ended."""
    out = tempfile.TemporaryFile()
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        pid = os.fork()
        if not pid:
            out.write(report(number, name, function).encode())
            out.flush()
            os._exit(0)
        status, left = supervise(pid)
        if left:
            out.write(f"\n# ended what it left: {' '.join(sorted(set(left)))}".encode())
            out.flush()
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
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
