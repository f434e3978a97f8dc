# SPDX-License-Identifier: Apache-2.0
"""A dormouse-vmm with a tiny guest that writes to its disk, driven over its control socket."""
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


class Numbers:
    """tests/guests/disk.S: it counts, in a ring of sectors. Any disk will do."""

    kernel = os.path.join(BUILD, "guests", "disk.elf")
    sectors = 64
    round_exits = sectors * 4

    @staticmethod
    def make_base(path):
        with open(path, "wb") as f:
            f.truncate(1 << 20)

    def settle(self, machine):
        pass

    def look(self, machine):
        pass

    def note(self):
        return ""

    def written(self, machine):
        return 0

    @classmethod
    def check(cls, raw, least):
        """Every sector has a number that belongs there."""
        with open(raw, "rb") as f:
            for i in range(cls.sectors):
                value = struct.unpack("<Q", f.read(512)[:8])[0]
                assert value == 0 or value % cls.sectors == i, f"sector {i} has {value}"


class Ext4:
    """tests/fault/replay.S: it writes what an ext4 wrote, in its order."""

    kernel = os.path.join(BUILD, "test", "replay.elf")
    round_exits = 16

    def __init__(self):
        self.cut_off = self.late = 0
        with open(os.path.join(BUILD, "test", "ext4.base"), "rb") as f:
            self.before = f.read()
        self.writes = recorded(os.path.join(BUILD, "test", "ext4.trace"))

    def make_base(self, path):
        with open(path, "wb") as f:
            f.write(self.before)

    def settle(self, machine):
        """By then the journal is full, and blocks have been written where they belong."""
        wait_for("half of the recorded to be written", lambda: machine.printed("halfway"))

    def look(self, machine):
        """At a machine that the fault has met."""
        self.cut_off += 1
        self.late += machine.printed("replayed")

    def note(self):
        assert self.late < self.cut_off, "all came when everything was written: the recording is too short"
        return f", {self.late} of them after the last of the recorded" if self.late else ""

    def written(self, machine):
        """How many writes it has said that it has done."""
        with open(machine.console, "rb") as f:
            return min(f.read().count(b"."), len(self.writes))

    def check(self, raw, least):
        """The disk is one that the recorded file system had, after so many writes or more; e2fsck finds no fault."""
        with open(raw, "rb") as f:
            found = self.writes_on(f.read())
        assert found is not None, "what is on the disk was never on it at one time"
        assert found >= least, f"the disk is that of before: {found} writes, and {least} were done"
        # What a mount does: it finishes the journal, and adds up the counters of the groups.
        said = e2fsck("-p", raw)
        assert ": clean, " in said, said
        e2fsck("-fn", raw)

    def writes_on(self, disk):
        """How many of the writes are there, maybe with a part of the next, and nothing else; or None."""
        now = bytearray(self.before)
        assert len(disk) == len(now), f"{len(disk)} bytes"
        differ = sum(now[i:i + 512] != disk[i:i + 512] for i in range(0, len(disk), 512))
        found = None
        for n, (at, data) in enumerate(self.writes):
            there = disk[at:at + len(data)]
            old = sum(now[at + i:at + i + 512] != there[i:i + 512] for i in range(0, len(data), 512))
            neither = sum(data[i:i + 512] != there[i:i + 512] and now[at + i:at + i + 512] != there[i:i + 512]
                          for i in range(0, len(data), 512))
            if old == differ and not neither:
                found = n
            now[at:at + len(data)] = data
            differ += sum(data[i:i + 512] != there[i:i + 512] for i in range(0, len(data), 512)) - old
        return found if differ else len(self.writes)


def recorded(path):
    """The writes of a trace (tests/fault/record): where, and what."""
    with open(path, "rb") as f:
        trace = f.read()
    records = struct.iter_unpack("<QQQQ", trace[32:32 * (1 + struct.unpack_from("<Q", trace)[0])])
    return [(sector * 512, trace[at:at + n]) for sector, n, kind, at in records if kind == 1]


def e2fsck(how, raw):
    p = subprocess.run(["e2fsck", how, raw], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=LIMIT, check=False)
    assert p.returncode == 0, f"e2fsck {how}: status {p.returncode}: {p.stdout}"
    return p.stdout


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

    def __init__(self, folder, name, count=None, action="", guest=Numbers()):
        self.folder, self.name, self.guest = folder, name, guest
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
        """The guest goes on, and everything is as it left it."""
        until = self.exits() + rounds * self.guest.round_exits
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

    def __init__(self, folder, guest=Numbers()):
        self.folder, self.guest = folder, guest
        self.base = f"{folder}/base"
        os.mkdir(f"{folder}/store")
        guest.make_base(self.base)

    def path(self, name):
        return f"{self.folder}/store/{name}"

    def exists(self, name):
        return os.path.exists(self.path(name))

    def disk(self, *layers):
        return [{"path": self.base, "layers": [self.path(x) for x in layers[:-1]], "overlay": self.path(layers[-1])}]

    def shape(self, machine, *layers):
        return {"kernel": self.guest.kernel, "memory_mib": 64, "console": machine.console, "disks": self.disk(*layers)}

    def boot(self, machine, *layers):
        machine.call("configure", **self.shape(machine, *layers))
        machine.call("boot")
        self.guest.settle(machine)
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

    def check_disk(self, *layers, least=0):
        """The layers are sound, and what is on the disk was on it at some instant."""
        paths = [self.path(x) for x in layers]
        if not begun(paths[-1]):
            paths.pop()  # whoever made it did not get far: it is made anew when it is opened
        tool(["check", "--base", self.base, *paths])
        raw = f"{self.folder}/raw"
        tool(["export", "--base", self.base, "--out", raw, *paths])
        self.guest.check(raw, least)
        os.unlink(raw)


def begun(layer):
    """Has it a header?"""
    with open(layer, "rb") as f:
        return any(f.read(128))


def tool(argv, name="dormouse-img"):
    p = subprocess.run([program(name), *argv], text=True, capture_output=True, timeout=LIMIT, check=False)
    assert p.returncode == 0, f"{name} {argv[0]}: status {p.returncode}: {p.stdout}{p.stderr}"
    return p.stdout
