# SPDX-License-Identifier: Apache-2.0
"""Create and wake of a Linux guest, as ratios to its cold boot; beside them QEMU's microvm, restored with -incoming.

Ours is measured by `build/dormouse-bench --linux`: from the spawn of the process (or, with a shell, from the
request) to the answer of a first command in the guest, after the renewal of its identity.

QEMU boots the same kernel and image once, connects to its agent, and migrates to a file. Each sample is a new
process with -incoming from that file, in the page cache, on a copy of the disk that was made before, up to the moment that
the guest's agent accepts a connection over vsock. That is less than what ours does: no command, no new identity.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import boot  # tests/bench/boot.py
from boot import HANG_S, TOP, Hung, Qemu, artifact

AGENT_PORT = 1024
GOAL = "make bench-lab"
RETRY_S = 0.002


def run_ours(out, samples):
    path = f"{out}/linux.json"
    argv = [f"{TOP}/build/dormouse-bench", "--linux", "--json", path, "--samples", str(samples)]
    argv += ["--memory", str(boot.MEMORY_MIB), "--kernel", artifact("kernel"), "--image", artifact("mini.ext4")]
    subprocess.run(argv, check=True)
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Monitor:
    """QEMU's QMP socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(HANG_S)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            line = self.lines.readline()
            if not line:
                raise SystemExit(f"QEMU ended in {command}")
            answer = json.loads(line)
            if "error" in answer:
                raise SystemExit(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def wait_agent(qemu, cid):
    """Until the agent of the guest accepts a connection."""
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        if qemu.poll() is not None:
            raise SystemExit(f"QEMU exited with {qemu.returncode}")
        with socket.socket(socket.AF_VSOCK) as s:
            s.settimeout(HANG_S)
            try:
                s.connect((cid, AGENT_PORT))
                return
            except OSError:
                time.sleep(RETRY_S)
    raise Hung(f"no connection for {HANG_S} s")


class Incoming(Qemu):
    """A microvm that goes on from a file."""

    name = "qemu -incoming"

    def __init__(self, directory, image, cmdline):
        super().__init__(directory, image, cmdline)
        self.monitor = f"{directory}/qmp"
        self.memory = f"{directory}/memory"

    def argv(self):
        return super().argv() + ["-qmp", f"unix:{self.monitor},server=on,wait=off"]

    def spawn(self, *more):
        if os.path.lexists(self.monitor):
            os.unlink(self.monitor)
        with open(f"{self.directory}/qemu.log", "ab") as log:
            self.process = subprocess.Popen([*self.argv(), *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self):
        self.process.kill()
        self.process.wait()

    def save(self):
        """Boot, migrate to the file; the disk of that moment is kept beside it."""
        self.prepare()
        self.spawn()
        try:
            connection, _ = self.listener.accept()  # the agent's knock
            connection.close()
            wait_agent(self.process, self.cid)
            monitor = Monitor(self.monitor)
            monitor.call("migrate", uri=f"exec:cat > {self.memory}")
            while (state := monitor.call("query-migrate").get("status")) != "completed":
                if state in ("failed", "cancelled"):
                    raise SystemExit(f"QEMU: migrate: {state}")
                time.sleep(0.02)
        finally:
            self.end()
        os.rename(f"{self.directory}/disk", f"{self.directory}/disk.saved")

    def measure(self):
        subprocess.run(
            ["cp", "--reflink=auto", "--sparse=always", f"{self.directory}/disk.saved", f"{self.directory}/disk"], check=True
        )
        begun_s = time.monotonic()
        self.spawn("-incoming", f"exec:cat {self.memory}")
        try:
            wait_agent(self.process, self.cid)
            return round((time.monotonic() - begun_s) * 1000, 3)
        finally:
            self.end()


def run_qemu(out, samples, cmdline):
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        image = f"{directory}/image"
        shutil.copyfile(artifact("mini.ext4"), image)
        qemu = Incoming(directory, image, cmdline)
        qemu.listener.settimeout(HANG_S)
        qemu.save()
        times = [qemu.measure() for _ in range(samples + 1)][1:]
    with open(f"{out}/qemu.json", "w", encoding="utf-8") as f:
        json.dump({"name": Incoming.name, "unit": "ms", "p50": statistics.median(times), "samples": times}, f, indent=1)
    return statistics.median(times)


def report(ours, qemu_ms):
    with open(f"{TOP}/tests/bench/promises.json", encoding="utf-8") as f:
        promises = json.load(f)
    series = {s["name"]: s for s in ours["series"]}
    print(f"\n{'':26} {'p50':>9}")
    for s in series.values():
        if s["unit"] == "ms":
            print(f"{s['name']:26} {s['p50']:9.1f} ms")
    print(f"{'qemu microvm -incoming':26} {qemu_ms:9.1f} ms")
    if ours["machine"]["backend"] == "lab":
        print("(an emulated machine: the ratios count, the times do not)")
    missed = 0
    for name, promise in promises.items():
        if GOAL not in promise["checked_by"] or name not in series:
            continue
        value = series[name]["p50"]
        missed += value > promise["limit"]
        print(f"{'ok  ' if value <= promise['limit'] else 'FAIL'} {name}: {value:.3f} (promise: at most {promise['limit']})")
    return 1 if missed else 0


def main(out, samples):
    if not os.path.exists("/dev/vhost-vsock"):
        raise SystemExit("/dev/vhost-vsock is missing, and QEMU's guest cannot be reached: modprobe vhost_vsock")
    ours = run_ours(out, samples)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        cmdline = boot.measure(boot.Dormouse(directory, artifact("mini.ext4")))["cmdline"]
    return report(ours, run_qemu(out, samples, cmdline))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
