# SPDX-License-Identifier: Apache-2.0
"""A dormouse-vmm with a tiny guest (tests/guests/disk.S), driven over its control socket."""
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time

from faults import BUILD, environment, program

LIMIT = 60  # of every wait: the end of a hopeless case, never a measure
SECTORS = 64
KERNEL = os.path.join(BUILD, "guests", "disk.elf")


class Refused(Exception):
    """The VMM's answer was no."""


class Gone(Exception):
    """The VMM has ended."""


def become_subreaper():
    """Then what outlives a VMM becomes a child of ours, and can be seen."""
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0, "PR_SET_CHILD_SUBREAPER"


def wait_for(what, predicate):
    deadline = time.monotonic() + LIMIT
    while not predicate():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.0005)


class Machine:
    """One process; its files are in a directory that others may use as well."""

    def __init__(self, folder, name, count=None, action=""):
        self.folder, self.name = folder, name
        self.console = f"{folder}/{name}.console"
        self.socket_path = f"{folder}/{name}.sock"
        vmm = program("fault/dormouse-vmm" if count else "dormouse-vmm")
        env = environment(count, folder + "/store/", action) if count else {}
        with open(f"{folder}/{name}.log", "ab") as log:
            self.process = subprocess.Popen([vmm, "--socket", self.socket_path], env={**os.environ, **env},
                                            start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.events, self.buffer, self.id = [], b"", 0
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(LIMIT)
        wait_for("the control socket", self.connect)

    def connect(self):
        assert self.process.poll() is None, f"the VMM did not start: {self.log()}"
        try:
            self.connection.connect(self.socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def log(self):
        with open(f"{self.folder}/{self.name}.log", encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def said(self):
        try:
            with open(self.console, encoding="utf-8", errors="replace") as f:
                return "console: " + f.read()[-200:]
        except FileNotFoundError:
            return ""

    def read_line(self):
        while b"\n" not in self.buffer:
            try:
                data = self.connection.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Gone(self.log() + self.said())
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def call(self, op, **fields):
        self.id += 1
        try:
            self.connection.sendall((json.dumps({"id": self.id, "op": op, **fields}) + "\n").encode())
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Gone(self.log()) from e
        while True:
            line = self.read_line()
            if "event" in line:
                self.events.append(line)
            elif line.get("id") == self.id:
                if not line["ok"]:
                    raise Refused(f"{line['error']['code']}: {line['error']['message']}")
                return line

    def event(self, name):
        while True:
            for e in self.events:
                if e["event"] == name:
                    self.events.remove(e)
                    return e
            self.events.append(self.read_line())

    def printed(self, text):
        with open(self.console, encoding="utf-8", errors="replace") as f:
            return text in f.read()

    def exits(self):
        return self.call("metrics")["metrics"]["exits_total"]

    def run_on(self, rounds=1):
        """The guest goes on, around its ring, and everything is as it left it."""
        until = self.exits() + rounds * SECTORS * 4
        wait_for("the guest to go on", lambda: self.exits() >= until)
        assert not self.printed("torn"), "disk and memory are of different instants"

    def end(self):
        """Ended by us, and with all its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.reap()

    def reap(self):
        """The process is gone or going: nothing of it stays."""
        status = self.process.wait(timeout=LIMIT)
        self.connection.close()
        wait_for("the processes of the VMM to end", self.nobody)
        return status

    def nobody(self):
        try:
            os.waitpid(-self.process.pid, os.WNOHANG)
        except ChildProcessError:
            pass
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


class Store:
    """The files of a test: a base, layers, checkpoints."""

    def __init__(self, folder):
        self.folder = folder
        self.base = f"{folder}/base"
        os.mkdir(f"{folder}/store")
        with open(self.base, "wb") as f:
            f.truncate(1 << 20)

    def path(self, name):
        return f"{self.folder}/store/{name}"

    def exists(self, name):
        return os.path.exists(self.path(name))

    def disk(self, *layers):
        return [{"path": self.base, "layers": [self.path(x) for x in layers[:-1]], "overlay": self.path(layers[-1])}]

    def shape(self, machine, *layers):
        return {"kernel": KERNEL, "memory_mib": 64, "console": machine.console, "disks": self.disk(*layers)}

    def boot(self, machine, *layers):
        machine.call("configure", **self.shape(machine, *layers))
        machine.call("boot")
        machine.run_on()

    def image(self, name):
        return {"state": self.path(name + ".state"), "ram": self.path(name + ".ram")}

    def whole(self, name):
        return self.exists(name + ".state") and self.exists(name + ".ram")

    def checkpoint(self, machine, name, top=None, **more):
        """Return: the event of its end."""
        disks = {"disks": [{"overlay": self.path(top)}]} if top else {}
        machine.call("checkpoint", name=name, **self.image(name), **disks, **more)
        return machine.event("checkpoint")

    def restore(self, machine, name, *layers, **more):
        machine.call("restore", **self.shape(machine, *layers), **self.image(name), **more)

    def lineage(self, layers):
        """Those of them that the last one lies on, and itself."""
        infos = json.loads(tool(["info", "--json", *(self.path(x) for x in layers)]))["layers"]
        found = []
        for layer, info in reversed(list(zip(layers, infos))):
            if not found or info["id"] == found[0][1].get("parent"):
                found.insert(0, (layer, info))
        return [layer for layer, _ in found]

    def check_disk(self, *layers):
        """The layers are sound, and every sector has a number that belongs there."""
        paths = [self.path(x) for x in layers]
        if not begun(paths[-1]):
            paths.pop()  # whoever made it did not get far: it is made anew when it is opened
        tool(["check", "--base", self.base, *paths])
        raw = f"{self.folder}/raw"
        tool(["export", "--base", self.base, "--out", raw, *paths])
        with open(raw, "rb") as f:
            for i in range(SECTORS):
                value = struct.unpack("<Q", f.read(512)[:8])[0]
                assert value == 0 or value % SECTORS == i, f"sector {i} has {value}"
        os.unlink(raw)


def begun(layer):
    """Has it a header?"""
    with open(layer, "rb") as f:
        return any(f.read(128))


def tool(argv, name="dormouse-img"):
    p = subprocess.run([program(name), *argv], text=True, capture_output=True, timeout=LIMIT, check=False)
    assert p.returncode == 0, f"{name} {argv[0]}: status {p.returncode}: {p.stdout}{p.stderr}"
    return p.stdout
