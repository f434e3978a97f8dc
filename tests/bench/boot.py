# SPDX-License-Identifier: Apache-2.0
"""Boot a guest in dormouse-vmm and in QEMU's microvm, turn by turn, and compare the medians.

What is the same: kernel, image (a copy on the same scratch disk), memory, one vCPU, the kernel's command line, the
devices (disk, vsock, entropy, balloon, serial console), the agent. Timed: from just before the process is
made to the moment its agent's first connection to the host over vsock is seen here.

What differs:
  * dormouse-vmm is told what to do over its socket (part of the time) and makes an overlay for the disk (part of
    the time); QEMU writes to a reflink copy of the image that was made before.
  * QEMU's vsock is the host kernel's (vhost); ours is in the VMM.
  * QEMU runs its firmware (qboot), then enters the same ELF kernel by PVH; its devices are on the kernel's command line.
    We enter at the 64-bit entry, with a device tree.
"""

import json
import mmap
import os
import platform
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests/vm"))
from vmm import BUILD, HANG_S, Control, artifact  # noqa: E402

KNOCK_PORT = 1025
MEMORY_MIB = 256
HANGS_ALLOWED = 3
# The fastest microvm that boots this kernel: no PIT, PIC, RTC, no option ROMs; one serial port.
MICROVM = "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,x-option-roms=off,isa-serial=on"


class Hung(Exception):
    """A guest did not become ready; the lab's emulation does that now and then."""


class Dormouse:
    name = "dormouse-vmm"

    def __init__(self, directory, image):
        self.directory = directory
        self.image = image
        self.process = None

    def prepare(self):
        for name in ("overlay", "vmm.sock", "vsock.sock", "vmm.log"):
            if os.path.lexists(f"{self.directory}/{name}"):
                os.unlink(f"{self.directory}/{name}")

    def boot(self):
        """Returns (seconds, figures)."""
        path = f"{self.directory}/vmm.sock"
        with socket.socket(socket.AF_UNIX) as listener, open(f"{self.directory}/vmm.log", "wb") as log:
            listener.bind(path)
            listener.listen(4)
            argv = [f"{BUILD}/dormouse-vmm", "--socket", path, "--socket-fd", str(listener.fileno())]
            begun_s = time.monotonic()
            self.process = subprocess.Popen(
                argv, pass_fds=(listener.fileno(),), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            control = Control(path)
        control.call(
            "configure",
            kernel=artifact("kernel"),
            memory_mib=MEMORY_MIB,
            cpus=1,
            disks=[{"path": self.image, "overlay": f"{self.directory}/overlay"}],
            vsock={"path": f"{self.directory}/vsock.sock"},
            console=f"{self.directory}/console.log",
        )
        control.call("boot")
        try:
            event = control.wait_event("ready")
        except TimeoutError as e:
            raise Hung(str(e)) from None
        seconds = time.monotonic() - begun_s
        info = control.call("info")
        control.close()
        figures = {"boot_to_ready_us": event["boot_to_ready_us"], "exits": info["exits"]["until_ready"]}
        return seconds, {**figures, "private_kib": info["process"]["private_kib"], "cmdline": info["cmdline"]}


class Qemu:
    name = "qemu microvm"

    def __init__(self, directory, image, cmdline):
        self.directory = directory
        self.image = image
        self.cmdline = cmdline
        self.process = None
        self.cid = 100
        self.listener = socket.socket(socket.AF_VSOCK)
        self.listener.bind((socket.VMADDR_CID_ANY, KNOCK_PORT))
        self.listener.listen(4)

    def prepare(self):
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", self.image, f"{self.directory}/disk"], check=True)
        self.cid += 1

    def argv(self):
        argv = ["qemu-system-x86_64", "-M", MICROVM, "-cpu", "host", "-smp", "1", "-m", f"{MEMORY_MIB}M"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-serial", f"file:{self.directory}/qemu-console.log"]
        argv += ["-kernel", artifact("kernel"), "-append", self.cmdline]
        argv += ["-drive", f"file={self.directory}/disk,if=none,id=d,format=raw,cache=none,aio=io_uring"]
        argv += ["-device", "virtio-blk-device,drive=d", "-device", f"vhost-vsock-device,guest-cid={self.cid}"]
        return argv + ["-device", "virtio-rng-device", "-device", "virtio-balloon-device,free-page-reporting=on"]

    def boot(self):
        with open(f"{self.directory}/qemu.log", "wb") as log:
            begun_s = time.monotonic()
            self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while True:
            readable, _, _ = select.select([self.listener], [], [], HANG_S)
            seconds = time.monotonic() - begun_s
            if not readable:
                raise Hung(f"nothing for {HANG_S} s")
            if self.process.poll() is not None:
                with open(f"{self.directory}/qemu.log", errors="replace") as f:
                    raise SystemExit(f"QEMU exited with {self.process.returncode}: {f.read()}")
            connection, (cid, _) = self.listener.accept()
            connection.close()
            if cid == self.cid:
                return seconds, {}


def forget_code():
    """Overwrite the pages that the last guest's kernel ran from, as far as they were freed.

    An emulator keeps its translations of code until somebody writes to the page. The host clears the page for the next
    guest, within the time that is measured, and pays for that with a fifth of it: hardware knows no such thing.
    """
    size_bytes = MEMORY_MIB << 20
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size_bytes, mmap.PAGESIZE):
            memory[at] = 1


def measure(machine):
    """One boot: a sample. The process is gone afterwards."""
    machine.prepare()
    forget_code()
    try:
        seconds, figures = machine.boot()
        return {"machine": machine.name, "ready_s": round(seconds, 6), **figures}
    finally:
        if machine.process:
            machine.process.kill()
            machine.process.wait()


def measure_pairs(machines, pairs):
    """One warm-up each, then pairs in alternating order."""
    samples, hangs = [], 0
    for n in range(-1, pairs):
        order = machines if n % 2 == 0 else machines[::-1]
        for machine in order:
            while True:
                try:
                    sample = measure(machine)
                    break
                except Hung as e:
                    hangs += 1
                    print(f"{machine.name} hung: {e}", flush=True)
                    if hangs > HANGS_ALLOWED:
                        raise SystemExit("too many guests hung") from None
            if n >= 0:
                samples.append(sample)
                print(f"pair {n + 1:2}  {machine.name:13} {sample['ready_s']:8.3f} s", flush=True)
    return samples, hangs


def median(samples, name, key):
    return statistics.median(s[key] for s in samples if s["machine"] == name)


def report(samples, hangs, out):
    with open(os.path.join(TOP, "tests/bench/promises.json")) as f:
        promises = json.load(f)
    ours, theirs = (median(samples, name, "ready_s") for name in (Dormouse.name, Qemu.name))
    exits = max(s["exits"] for s in samples if s["machine"] == Dormouse.name)
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    result = {
        "p50_s": {Dormouse.name: ours, Qemu.name: theirs},
        "ratio": round(ours / theirs, 4),
        "exits_until_ready_max": exits,
        "hung": hangs,
        "emulated": bool(os.environ.get("DORMOUSE_IN_LAB")),
        "cpus": os.cpu_count(),
        "host_kernel": platform.release(),
        "qemu": qemu.splitlines()[0],
        "kernel": artifact("kernel"),
        "image": artifact("mini.ext4"),
        "samples": samples,
    }
    with open(out, "w") as f:
        json.dump(result, f, indent=1)
    print(f"\n{'':13} {'p50':>9}\n{Dormouse.name:13} {ours:7.3f} s\n{Qemu.name:13} {theirs:7.3f} s")
    if result["emulated"]:
        print("(an emulated machine: the ratio counts, the times do not)")
    kept = True
    for name, value in (("boot_ratio_to_qemu_microvm", result["ratio"]), ("exits_until_ready", exits)):
        good = value <= promises[name]["limit"]
        kept &= good
        print(f"{'ok  ' if good else 'FAIL'} {name}: {value} (promise: at most {promises[name]['limit']})")
    return 0 if kept else 1


def main(out, pairs):
    if not os.path.exists("/dev/vhost-vsock"):
        raise SystemExit("/dev/vhost-vsock is missing, and QEMU's guest cannot tell its readiness: modprobe vhost_vsock")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        image = f"{directory}/image"
        subprocess.run(["cp", "--sparse=always", artifact("mini.ext4"), image], check=True)
        dormouse = Dormouse(directory, image)
        cmdline = measure(dormouse)["cmdline"]
        machines = [dormouse, Qemu(directory, image, cmdline)]
        samples, hangs = measure_pairs(machines, pairs)
    return report(samples, hangs, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
