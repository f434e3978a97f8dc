# SPDX-License-Identifier: Apache-2.0
"""A stream of a real guest across hibernations and kills of its daemon, byte for byte. Runs on the server's machine.

A daemon of its own, because the tests' must not be killed: restart.py BUILD SCRATCH. A command writes numbered lines; a client
is attached all the time, and comes back at its offset whenever its socket was closed.
"""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../api"))
from harness import UnixConnection  # noqa: E402
from websocket import Attached  # noqa: E402

START_S = 120
COMMAND = "n=0; until [ -e /tmp/stop ]; do echo \"line $n\"; n=$((n + 1)); done; echo end; exit 7"


class Daemon:
    def __init__(self, build, folder):
        self.argv = [f"{build}/dormoused", "--listen", f"unix:{folder}/sock", "--state", f"{folder}/state",
                     "--pool-size", "0", "--log-level", "warn"]
        self.socket = f"{folder}/sock"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.argv)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "dormoused does not start"
            try:
                if self.call("GET", "/readyz", (200, 503))[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("dormoused is not ready")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def call(self, method, path, allowed, body=None):
        c = UnixConnection(self.socket)
        try:
            c.request(method, path, json.dumps(body or {}))
            answer = c.getresponse()
            data = answer.read()
        finally:
            c.close()
        assert answer.status in allowed, f"{method} {path}: {answer.status} {data[:500]}"
        return answer.status, json.loads(data) if data else None


class Client(threading.Thread):
    """Attached until the end of the command; `out` is the stream as it came."""

    def __init__(self, daemon, url, session):
        super().__init__()
        self.server = SimpleNamespace(server=daemon, url=url)
        self.session = session
        self.out = b""
        self.code = self.failure = None
        self.attached = 0
        self.start()

    def run(self):
        try:
            while self.code is None:
                self.follow()
        except Exception as e:  # for who waits for us
            self.failure = e

    def follow(self):
        try:
            with Attached(self.server, self.session, f"?stdoutFrom={len(self.out)}&stderrFrom=0") as a:
                if a.status != 101:
                    assert a.status == 503, f"attach: {a.status}"  # it says when to try again
                    time.sleep(0.1)
                    return
                self.attached += 1
                while a.step():
                    self.out += a.out
                    a.out, a.order = b"", []
                assert not a.err, a.err
                self.code = a.code
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)  # no daemon, for now

    def grow(self, by=20000):
        """Wait until so much more has come."""
        want = len(self.out) + by
        deadline = time.monotonic() + START_S
        while len(self.out) < want:
            assert self.is_alive() and not self.failure, f"the client has ended: {self.failure!r}"
            assert time.monotonic() < deadline, f"nothing comes any more after {len(self.out)} bytes"
            time.sleep(0.05)


def play(daemon):
    daemon.start()
    sandbox = daemon.call("POST", "/sandboxes", (201,), {"memoryMB": 512, "timeout": 0})[1]["sandboxID"]
    url = f"/sandboxes/{sandbox}"
    session = daemon.call("POST", f"{url}/exec", (201,), {"cmd": COMMAND})[1]["sessionID"]
    client = Client(daemon, url, session)
    try:
        client.grow()
        for _ in range(3):
            daemon.call("POST", f"{url}/hibernate", (200,))
            client.grow()  # which attaches again, and that wakes it
            print("# hibernated, woken", flush=True)
        daemon.kill()
        daemon.start()
        client.grow()
        print("# killed, started", flush=True)
        daemon.call("POST", f"{url}/exec/run", (200,), {"cmd": "touch", "args": ["/tmp/stop"]})
        client.join(START_S)
        check(client)
    finally:
        daemon.call("DELETE", url, (204, 404))


def check(client):
    assert not client.failure and client.code == 7, f"{client.failure!r}, exit code {client.code}"
    lines = client.out.split(b"\n")
    assert lines[-2:] == [b"end", b""], lines[-2:]
    for n, line in enumerate(lines[:-2]):
        assert line == b"line %d" % n, f"line {n} is {line!r}"
    assert client.attached >= 5, client.attached
    print(f"{len(lines) - 1} lines, {len(client.out)} bytes, attached {client.attached} times: ok")


def main(build, scratch):
    folder = tempfile.mkdtemp(prefix="rs-", dir=scratch)
    daemon = Daemon(build, folder)
    try:
        play(daemon)
    finally:
        if daemon.process and daemon.process.poll() is None:
            daemon.process.terminate()
            daemon.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
