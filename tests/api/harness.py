# SPDX-License-Identifier: Apache-2.0
"""Starts a real dormoused with tests/api/fake-vmm behind it, and talks HTTP to it."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.dirname(HERE))
from side_by_side import Skip  # noqa: E402
DAEMON = os.environ.get("DORMOUSED", os.path.join(TOP, "build/dormoused"))
NET = os.environ.get("DORMOUSE_NET", os.path.join(TOP, "build/dormouse-net"))
AGENT = os.environ.get("FAKE_VMM_AGENT", os.path.join(TOP, "build/dormouse-agent"))
FOLDER = "/tmp"  # sockets are below it: short
KEY = "osb_0123456789abcdef"
# Threads that still run when a process ends have state of libcrypto's.
SANITIZER = {"LSAN_OPTIONS": f"suppressions={HERE}/lsan.supp:print_suppressions=0"}
IMAGES = ["base", "mini", "refused", "nospace", "dies", "silent", "slow", "deaf", "hung"]

tests = []


def test(fn):
    """Every decorated function is a test; its name is what it shows."""
    tests.append(fn)
    return fn


def wait_for(what, predicate, timeout=60):
    """Until an event that another process makes. The time is only a limit for hopeless cases."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = predicate()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout} s in vain: {what}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self):
        assert self.headers["Content-Type"] == "application/json", self.headers
        return json.loads(self.body)

    def expect(self, status, *words):
        text = self.body[:500].decode("utf-8", "replace")
        assert self.status == status, f"expected {status}, got {self.status} {text}"
        for word in words:
            assert word in text, f"{word!r} is not in {text!r}"
        return self


class Server:
    """dormoused on a state directory of its own, or on one that another server left."""

    def __init__(self, *options, state=None, listen=None, start=True, env={}):
        self.folder = state.folder if state else tempfile.mkdtemp(prefix="dm-", dir=FOLDER)
        self.state = os.path.join(self.folder, "state")
        self.socket = os.path.join(self.folder, "d.sock")
        self.log_path = os.path.join(self.folder, "log")
        self.owner = state is None
        self.process = None
        self.env = env
        for name in [image + ".ext4" for image in IMAGES] + ["kernel", "log"]:
            open(os.path.join(self.folder, name), "a").close()
        with open(os.path.join(self.folder, "keys"), "w") as f:
            f.write(f"# keys\n\n{KEY}\nanother-key\n")
        self.options = ["--state", self.state, "--kernel", f"{self.folder}/kernel", "--images", self.folder,
                        "--vmm", f"{HERE}/fake-vmm", "--net", NET, "--exit-grace", "1", "--pool-size", "0"]
        self.options += listen if listen is not None else [
            "--listen", f"unix:{self.socket}", "--listen", "tcp:127.0.0.1:0", "--api-key-file", f"{self.folder}/keys"]
        self.options += options
        if start:
            self.start()

    def start(self):
        with open(self.log_path, "a") as log:
            begin = log.tell()
            self.process = subprocess.Popen([DAEMON, *self.options], stderr=log, stdin=subprocess.DEVNULL, cwd=TOP,
                                            env={**os.environ, **SANITIZER, "FAKE_VMM_AGENT": AGENT, **self.env})
        wait_for("dormoused to be ready", lambda: "ready" in self.log()[begin:] or self.process.poll() is not None)
        assert self.process.poll() is None, f"dormoused ended: {self.log()[begin:]}"
        port = re.search(r"listening on tcp:.*:(\d+)", self.log()[begin:])
        self.port = int(port[1]) if port else None

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def kill(self, signo=signal.SIGKILL):
        self.process.send_signal(signo)
        return self.process.wait(timeout=30)

    def close(self):
        if self.process and self.process.poll() is None:
            assert self.kill(signal.SIGTERM) == 0, self.log()[-2000:]
        assert "was closed before it was removed" not in self.log(), self.log()[-2000:]
        if self.owner:
            for pid in {pid for pid, _ in self.arguments()}:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind and kind is not Skip:
            print("# " + "\n# ".join(self.log().splitlines()[-60:]))
        self.close()

    # --- what goes wrong in the VMM (tests/api/fake-vmm) ---------------------------------------------
    def fault(self, point, how):
        folder = os.path.join(self.state, "fake")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, point)
        with open(path + ".new", "w") as f:
            f.write(how)
        os.rename(path + ".new", path)

    def hold(self, point):
        self.fault(point, "hold")

    def wait_held(self, point):
        wait_for(f"{point} to be held", lambda: os.path.exists(os.path.join(self.state, "fake", point + ".held")))

    def release(self, point):
        folder = os.path.join(self.state, "fake")
        if os.path.exists(os.path.join(folder, point + ".held")):
            os.unlink(os.path.join(folder, point + ".held"))
        os.unlink(os.path.join(folder, point))

    # --- HTTP -----------------------------------------------------------------------------------
    def connect(self, tcp=False):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120) if tcp else UnixConnection(self.socket)

    def request(self, method, path, body=None, headers={}, connection=None, tcp=False, **more):
        c = connection or self.connect(tcp)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        c.request(method, path, body, headers, **more)
        r = c.getresponse()
        answer = Answer(r, r.read())
        if not connection:
            c.close()
        return answer

    def raw(self, data, until=None):
        """Send bytes to the TCP port and read what comes, to the end or to some text."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as s:
            s.sendall(data)
            got = b""
            while not (until and until in got):
                try:
                    part = s.recv(65536)
                except ConnectionResetError:
                    break
                if not part:
                    break
                got += part
            return got

    # --- sandboxes ---------------------------------------------------------------------------------
    def create(self, **fields):
        return Sandbox(self, self.request("POST", "/api/sandboxes", fields).expect(201).json()["sandboxID"])

    def folders(self):
        return sorted(os.listdir(os.path.join(self.state, "sandboxes")))

    def arguments(self):
        """(pid, argument) of every process that names something in this state directory."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    arguments = f.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            for a in arguments:
                if a.startswith(self.state + "/sandboxes/"):
                    yield int(pid), a

    def vmms(self):
        """(pid, sandbox id) of every VMM process on this state directory."""
        return [(pid, a.split("/")[-2]) for pid, a in self.arguments() if a.endswith("/vmm.sock")]

    def assert_nothing_left(self):
        assert self.folders() == [], self.folders()
        wait_for("the VMM processes to end", lambda: not self.vmms())
        assert self.request("GET", "/workers").json()[0]["current"] == 0


class Sandbox:
    def __init__(self, server, id):
        self.server, self.id, self.url = server, id, f"/api/sandboxes/{id}"
        self.folder = os.path.join(server.state, "sandboxes", id)
        self.home = os.path.join(self.folder, "home")

    def request(self, method, path="", body=None, **more):
        return self.server.request(method, self.url + path, body, **more)

    def run(self, cmd, route="run", **fields):
        return self.request("POST", "/exec/" + route, {"cmd": cmd, **fields}).expect(200).json()

    def start(self, cmd, **fields):
        return self.request("POST", "/exec/run-async?hold=0", {"cmd": cmd, **fields}).expect(202).json()["execId"]

    def result(self, exec_id, query=""):
        return self.request("GET", f"/exec/{exec_id}/result{query}").expect(200).json()

    def so_far(self, exec_id):
        """Its output; result() of one that runs takes as long as the server waits for its end."""
        return self.result(exec_id, "?stdoutFrom=0&stderrFrom=0")

    def info(self):
        return self.request("GET").expect(200).json()

    def control(self, op, **fields):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.join(self.folder, "vmm.sock"))
            s.sendall((json.dumps({"id": 1, "op": op, **fields}) + "\n").encode())
            for line in s.makefile():
                answer = json.loads(line)
                if answer.get("id") == 1:
                    return answer

    def event(self, **line):
        self.control("fake-event", line=line)

    def pid(self):
        return next(pid for pid, id in self.server.vmms() if id == self.id)

    def layers(self):
        """Paths of its disk's layers, oldest first; the last one is being written to."""
        with sqlite3.connect(self.server.state + "/dormouse.db") as db:
            ids, = db.execute("SELECT layers FROM sandboxes WHERE id=?", (self.id,)).fetchone()
        return [f"{self.server.state}/layers/{id}.layer" for id in json.loads(ids)]

    def wait_status(self, status):
        wait_for(f"status {status}", lambda: self.info()["status"] == status)
        return self.info()
