# SPDX-License-Identifier: Apache-2.0
"""Limits of processor time by a real cgroup v2. Runs on the server's machine, as root: limits.py SCRATCH

The daemon begins in a cgroup that is its own, as a service with a delegated tree does, and is given a folder in it.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from restart import Daemon  # noqa: E402

BUILD = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../build")
ROOT = "/sys/fs/cgroup"
HANG_S = 240
BUSY = "while :; do :; done"


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def read(path):
    with open(path) as f:
        return f.read().strip()


def wait_until(what, condition):
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


class Service(Daemon):
    """In a cgroup of its own."""

    def __init__(self, folder, group):
        super().__init__(BUILD, folder)
        self.group = group
        self.argv = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{group}/cgroup.procs", *self.argv]

    def limits_in(self, root):
        self.argv = [*self.argv, "--cgroup", root]


class Limited:
    """The sandbox, and the cgroup that its process must be in."""

    def __init__(self, daemon, root):
        self.daemon, self.root = daemon, root
        self.id = daemon.call("POST", "/sandboxes", (201,), {"memoryMB": 512, "timeout": 0})[1]["sandboxID"]
        self.url = f"/sandboxes/{self.id}"
        self.group = f"{root}/{self.id}"

    def call(self, method, path="", body=None):
        return self.daemon.call(method, self.url + path, (200, 201, 204), body)[1]

    def limit(self, percent):
        return self.call("PUT", "/limits", {"memoryMB": 512, "cpuPercent": percent})

    def pid(self):
        argument = f"/sandboxes/{self.id}/vmm.sock"
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if argument in read(f"/proc/{pid}/cmdline") and "dormouse-vmm" in read(f"/proc/{pid}/comm"):
                    return int(pid)
        return None

    def stat(self, name):
        return next(int(line.split()[1]) for line in read(f"{self.group}/cpu.stat").splitlines() if line.split()[0] == name)

    def is_limited(self, percent):
        """To a quarter, say: it has been made to wait, again and again."""
        assert read(f"{self.group}/cpu.max") == f"{percent * 1000} 100000"
        assert read(f"{self.group}/cgroup.procs") == str(self.pid())
        before = self.stat("nr_throttled")
        wait_until("it is throttled", lambda: self.stat("nr_throttled") > before + 5)

    def share(self):
        """Of one processor, in a second or a little more."""
        begun, used = time.monotonic(), self.stat("usage_usec")
        time.sleep(1)
        used, begun = self.stat("usage_usec") - used, time.monotonic() - begun
        return used / 1e6 / begun


def check_limits(sandbox):
    done = sandbox.limit(25)
    assert done["cpuPercent"] == 25 and "degraded" not in done, done
    sandbox.call("POST", "/exec", {"cmd": "sh", "args": ["-c", BUSY], "timeout": 0})
    sandbox.is_limited(25)
    quarter = sandbox.share()
    assert sandbox.limit(100)["cpuPercent"] == 100
    assert read(f"{sandbox.group}/cpu.max").startswith("max")
    whole = sandbox.share()
    print(f"# a busy guest with 25 and 100 percent has {quarter:.2f} and {whole:.2f} of a processor", flush=True)
    assert quarter < 0.35, quarter
    sandbox.limit(25)
    sandbox.is_limited(25)


def check_life(sandbox):
    sandbox.call("POST", "/hibernate")
    wait_until("the cgroup goes with the process", lambda: not os.path.exists(sandbox.group))
    sandbox.call("POST", "/wake", {"timeout": 0})
    sandbox.is_limited(25)


def check_daemon(daemon, sandbox):
    pid = sandbox.pid()
    daemon.kill()
    daemon.start()
    assert sandbox.pid() == pid
    sandbox.is_limited(25)
    assert sandbox.call("GET", "/limits")["cpuPercent"] == 25
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until("the VMM ends", lambda: sandbox.pid() is None)
    assert os.path.exists(sandbox.group)
    daemon.start()
    assert not os.path.exists(sandbox.group), "what nobody has removed"


def play(daemon, top):
    root = f"{top}/vms"
    daemon.limits_in(root)
    daemon.start()
    sandbox = Limited(daemon, root)
    try:
        check_limits(sandbox)
        assert str(daemon.process.pid) in read(f"{top}/dormoused/cgroup.procs").split()
        check_life(sandbox)
        # It must start where it may: the service's own cgroup is that of its parts now.
        daemon.argv[3] = f"{top}/dormoused/cgroup.procs"
        check_daemon(daemon, sandbox)
    finally:
        sandbox.call("DELETE")
    assert not [name for name in os.listdir(root) if name.startswith("sb-")]
    # Below a cgroup that has processes of others none can be made.
    busy = f"{top}/busy"
    os.mkdir(busy)
    with subprocess.Popen(["sleep", "100000"]) as other:
        write(f"{busy}/cgroup.procs", str(other.pid))
        daemon.process.terminate()
        daemon.process.wait()
        daemon.limits_in(f"{busy}/vms")
        daemon.start()
        sandbox = Limited(daemon, f"{busy}/vms")
        done = sandbox.limit(25)
        assert done["cpuPercent"] == 100 and "processes in the one above" in done["degraded"], done
        sandbox.call("DELETE")
        other.kill()


def main(scratch):
    write(f"{ROOT}/cgroup.subtree_control", "+cpu")
    top = f"{ROOT}/dormouse-test-{os.getpid()}"
    os.mkdir(top)
    folder = tempfile.mkdtemp(prefix="li-", dir=scratch)
    daemon = Service(folder, top)
    try:
        play(daemon, top)
    finally:
        write(f"{top}/cgroup.kill", "1")
        if daemon.process:
            daemon.process.wait()
        wait_until("all has ended", lambda: "populated 0" in read(f"{top}/cgroup.events"))
        for name, _, _ in os.walk(top, topdown=False):
            os.rmdir(name)
        shutil.rmtree(folder, ignore_errors=True)
    print("limits: ok")


if __name__ == "__main__":
    main(sys.argv[1])
