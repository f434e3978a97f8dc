# SPDX-License-Identifier: Apache-2.0
"""Tests that boot Linux guests. cases.py NAME runs one; cases.py lists them. tests/vm/run runs all.

Each runs in a process of its own, where KVM is: in the lab, or directly. Exit code 0: passed.
"""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import docker  # noqa: E402
import network  # noqa: E402, F401: its cases
import size  # noqa: E402, F401: its cases
import travel  # noqa: E402, F401: its cases
import travel_load  # noqa: E402, F401: its cases
import user_network  # noqa: E402, F401: its cases
from suite import CASES, case, promise, refused, wait_until  # noqa: E402
from vmm import BUILD, COMMAND_S, HANG_S, TOP, Control, Ended, Vmm, VmmError, artifact  # noqa: E402


def mem_total_mib(vm):
    return int(vm.sh("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) // 1024


# --- the machine -------------------------------------------------------------------


@case("a guest with 64 MiB boots")
def boots_64_mib():
    with Vmm() as vm:
        vm.boot(memory_mib=64)
        assert 30 <= mem_total_mib(vm) <= 64


@case("a guest with 8 GiB boots, and has it above and below the 4 GiB hole")
def boots_8_gib():
    with Vmm() as vm:
        vm.boot(memory_mib=8192)
        assert mem_total_mib(vm) > 7500
        assert vm.info()["guest_memory"]["resident_kib"] < 1 << 20, "memory is taken only when it is touched"


@case("the kernel, the disk and the machine are what was asked for")
def machine_is_as_configured():
    with Vmm() as vm:
        disk = {"path": artifact("mini.ext4"), "overlay": vm.path("overlay"), "size_mib": 22528}
        vm.boot(cpus=2, disks=[disk])
        assert vm.sh("uname -s -m").split() == ["Linux", "x86_64"]
        assert vm.sh("nproc").strip() == "2"
        size_mib = int(vm.sh("cat /sys/block/vda/size")) // 2048
        assert size_mib == 22528, size_mib
        free_mib = int(vm.sh("df -Pm / | tail -n 1").split()[1])
        assert free_mib > 20480, f"the agent grows the file system: {free_mib} MiB"


@case("four vCPUs run at once: make -j4 of a C program in the base image")
def builds_with_four_cpus():
    script = r"""
        set -e
        mkdir /tmp/src && cd /tmp/src
        for n in 1 2 3 4 5 6 7 8; do
            printf '#include <stdio.h>\n#include <stdlib.h>\nint part%d(void) { return %d; }\n' $n $n >part$n.c
        done
        printf '#include <stdio.h>\n' >main.c
        for n in 1 2 3 4 5 6 7 8; do printf 'int part%d(void);\n' $n >>main.c; done
        printf 'int main(void) { printf("%%d\\n", part1() + part2() + part3() + part4()' >>main.c
        printf ' + part5() + part6() + part7() + part8()); return 0; }\n' >>main.c
        printf 'sum: main.o part1.o part2.o part3.o part4.o part5.o part6.o part7.o part8.o\n' >Makefile
        printf '\tcc -o $@ $^\n' >>Makefile
        make -j4 CFLAGS=-O2 >make.log 2>&1 || { cat make.log >&2; exit 1; }
        ./sum; nproc
    """
    with Vmm() as vm:
        vm.boot(image="base.ext4", memory_mib=1024, cpus=4)
        assert vm.sh(script).split() == ["36", "4"]
        # cpuN user nice system ...: each CPU has run programs.
        busy = [line.split() for line in vm.sh("grep '^cpu[0-9]' /proc/stat").splitlines()]
        assert len(busy) == 4 and all(int(cpu[1]) > 0 for cpu in busy), busy


@case("exits to user space from start to agent ready are within the promise")
def few_exits_until_ready():
    with Vmm() as vm:
        event = vm.boot()
        exits = vm.info()["exits"]["until_ready"]
        print(f"exits until ready: {exits}, event: {event['exits']}")
        assert 0 < exits <= promise("exits_until_ready"), exits


@case("private memory of the VMM process is within the promise, by its own account and by the kernel's")
def little_private_memory():
    with Vmm() as vm:
        vm.boot()
        vm.sh("dd if=/dev/vda of=/dev/null bs=1M count=16 2>/dev/null; sync")
        said = vm.info()["process"]["private_kib"]
        measured = private_kib(vm.process.pid, 256 * 1024)
        limit = promise("vmm_private_kib")
        print(f"private memory: info {said} KiB, smaps {measured} KiB, promise {limit} KiB")
        assert 0 < said <= limit, said
        assert 0 < measured <= limit, measured


def private_kib(pid, guest_kib):
    """Private pages of a process without the mapping that holds guest RAM (or a good part of it)."""
    total, size_kib = 0, 0
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            key, _, value = line.partition(":")
            if key == "Size":
                size_kib = int(value.split()[0])
            elif key in ("Private_Clean", "Private_Dirty") and size_kib < guest_kib // 4:
                total += int(value.split()[0])
    return total


# --- life and death ------------------------------------------------------------------


@case("a reboot in the guest boots it again in the same process")
def guest_reboots():
    with Vmm() as vm:
        vm.boot()
        first = vm.sh("cat /proc/sys/kernel/random/boot_id")
        vm.guest("reboot")
        assert vm.control.wait_event("reset")["reason"] == "guest"
        assert vm.control.wait_event("ready")["boots"] == 2
        assert vm.sh("cat /proc/sys/kernel/random/boot_id") != first
        assert vm.process.poll() is None


@case("a shutdown in the guest ends the VMM with exit status 0")
def guest_shuts_down():
    with Vmm() as vm:
        vm.boot()
        vm.guest("poweroff")
        event = vm.control.wait_event("exit")
        assert (event["reason"], event["code"]) == ("shutdown", 0), event
        assert vm.process.wait(HANG_S) == 0


@case("a panic of the guest kernel is an event")
def guest_panics():
    # It stays where it is, or comes again at once: then `info` may be about the next boot already.
    for append, follows in (("panic=0", None), ("", "reset")):
        with Vmm() as vm:
            vm.boot(append=append)
            # No answer comes from a kernel that panics.
            caller = vm.start("exec", "/bin/sh", "-c", "echo c >/proc/sysrq-trigger")
            assert vm.control.wait_event("panic")["boots"] == 1
            if follows:
                assert vm.control.wait_event(follows)["reason"] == "guest"
                assert vm.control.wait_event("ready")["boots"] == 2 and not vm.info()["panicked"]
            else:
                assert vm.info()["panicked"]
            caller.kill()
            caller.communicate()


@case("reset boots the machine again, shutdown ends it")
def controller_resets():
    with Vmm() as vm:
        vm.boot()
        vm.control.call("reset")
        assert vm.control.wait_event("reset")["reason"] == "request"
        vm.control.wait_event("ready")
        vm.control.call("shutdown")
        assert vm.control.wait_event("exit")["reason"] == "request"
        assert vm.process.wait(HANG_S) == 0


def stands_still(vm):
    before = vm.control.call("metrics")["metrics"]["vcpu_time_us"]
    time.sleep(0.3)
    return vm.control.call("metrics")["metrics"]["vcpu_time_us"] == before


@case("a paused guest stands still, and goes on where it was")
def pauses():
    with Vmm() as vm:
        vm.boot()
        vm.sh("(n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; done) >/dev/null 2>&1 & echo $! >/tmp/pid")
        vm.control.call("pause")
        assert vm.info()["state"] == "paused"
        # The guest never idles: only a paused one uses no time. The thread itself is a little later to sleep
        # than the answer.
        wait_until("the vCPU uses no time", lambda: stands_still(vm))
        vm.control.call("resume")
        n = int(vm.sh("cat /tmp/n") or 0)
        wait_until("the counter goes on", lambda: int(vm.sh("cat /tmp/n") or 0) > n)


@case("a timer of the guest is on time, however long it has been up")
def timers_are_on_time():
    with Vmm() as vm:
        vm.boot()
        # Where KVM's view of the guest's TSC stands still, a timer is late by the guest's uptime.
        up = 5
        wait_until("the guest is up for a while", lambda: float(vm.sh("cat /proc/uptime").split()[0]) > up)
        begun, ended = vm.sh("cat /proc/uptime; sleep 0.2; cat /proc/uptime").splitlines()
        took = float(ended.split()[0]) - float(begun.split()[0])
        assert 0.2 <= took < up, f"sleep 0.2 took {took} s"


@case("the machine outlives its controller")
def outlives_controller():
    with Vmm() as vm:
        vm.boot()
        vm.control.close()
        vm.control = Control(vm.path("vmm.sock"))
        info = vm.info()
        assert info["state"] == "running" and info["ready"]
        assert vm.sh("echo here").strip() == "here"


@case("kill -9 of the VMM leaves no process, and its disk can be used again")
def killed_vmm_leaves_nothing():
    with Vmm() as vm:
        vm.boot()
        pid = vm.process.pid
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        vm.kill()
        for child in children:
            wait_until(f"process {child} ends", lambda c=child: not os.path.exists(f"/proc/{c}"))
        vm.process = None
        vm.boot()
        assert vm.sh("echo again").strip() == "again"


# --- quiescing and identity --------------------------------------------------------------

COUNTER = "(n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; done) >/dev/null 2>&1 &"


def counted(vm):
    return int(vm.guest("read", "/tmp/n") or 0)


def moves(vm):
    before = counted(vm)
    wait_until("the counter goes on", lambda: counted(vm) > before)


@case("frozen processes stand still, and go on after a thaw, a renew, or 10 s of nobody")
def freezes():
    with Vmm() as vm:
        vm.boot()
        vm.sh(COUNTER)
        # What a container engine makes: a group of its own; and one that somebody in the guest froze.
        vm.sh("mkdir /sys/fs/cgroup/docker /sys/fs/cgroup/theirs")
        vm.sh("sh -c 'echo $$ >/sys/fs/cgroup/docker/cgroup.procs; exec sleep 1000' >/dev/null 2>&1 &")
        vm.sh("echo 1 >/sys/fs/cgroup/theirs/cgroup.freeze")
        vm.guest("freeze-sync")
        n = counted(vm)
        events = [vm.guest("read", f"/sys/fs/cgroup/{group}/cgroup.events") for group in ("sandbox", "docker")]
        assert all("frozen 1" in text for text in events), events
        vm.guest("freeze")
        assert counted(vm) == n, "a frozen process went on"
        # A new command waits for the thaw.
        waiting = vm.start("exec", "echo", "thawed")
        assert counted(vm) == n
        vm.guest("thaw")
        assert waiting.communicate(timeout=HANG_S)[0] == b"thawed\n"
        moves(vm)
        vm.guest("freeze")
        vm.guest("renew", "one", "0123456789abcdef0123456789abcdef", "renewed", "0")
        moves(vm)
        assert vm.sh("hostname; cat /etc/machine-id").split() == ["renewed", "0123456789abcdef0123456789abcdef"]
        vm.guest("freeze")
        # Nobody comes: the process itself sees that it stood still for no longer than that.
        moves(vm)
        assert vm.sh("cat /sys/fs/cgroup/theirs/cgroup.freeze").strip() == "1"
        vm.guest("freeze")
        vm.guest("poweroff")
        assert vm.control.wait_event("exit")["reason"] == "shutdown"


@case("a renew sets the clock and gives the kernel's generator new bytes")
def renews():
    with Vmm() as vm:
        vm.boot()
        vm.sh("date -s '2001-01-01 00:00:00'")
        before = float(vm.sh("cut -d' ' -f1 /proc/uptime"))
        vm.guest("renew", "two", "", "", "0")
        off = float(vm.sh("date +%s.%N")) - time.time()
        # A command takes its time in the lab, and only makes the guest's clock look slow.
        assert -COMMAND_S < off < 0.5, f"the guest's clock is off by {off} s"
        assert float(vm.sh("cut -d' ' -f1 /proc/uptime")) >= before
        assert vm.sh("hostname").strip() == "sandbox", "not asked for: stays"
        failed = vm.guest("renew", "three", "", "", str(1 << 50), check=False)
        assert failed.returncode and "root disk has" in failed.stderr, failed


# --- disks -----------------------------------------------------------------------------


@case("what was synced survives kill -9 of the VMM, and the base image is untouched")
def synced_data_survives():
    with Vmm() as vm:
        base = os.stat(artifact("mini.ext4"))
        vm.boot()
        vm.sh("head -c 20000000 /dev/urandom >/root/data && sha256sum /root/data >/root/sum")
        vm.guest("sync")
        vm.kill()
        vm.process = None
        vm.boot()
        assert "OK" in vm.sh("sha256sum -c /root/sum")
        after = os.stat(artifact("mini.ext4"))
        assert (base.st_mtime_ns, base.st_size) == (after.st_mtime_ns, after.st_size)


@case("a second VMM on the same overlay is refused, and the first goes on")
def second_vmm_is_refused():
    with Vmm() as vm, Vmm() as other:
        vm.boot()
        other.spawn()
        config = vm.config()
        config["vsock"] = {"path": other.path("vsock.sock")}
        refused("EBUSY", "overlay", other.control.call, "configure", **config)
        assert vm.sh("echo fine >/root/fine && cat /root/fine").strip() == "fine"


@case("a damaged overlay is refused and not changed")
def damaged_overlay_is_refused():
    with Vmm() as vm:
        vm.boot()
        vm.sh("echo data >/root/data; sync")
        vm.kill()
        vm.process = None
        for where, name in ((20, "header"), (4096 + 16, "map")):
            subprocess.run(["cp", "--sparse=always", vm.path("overlay"), vm.path(name)], check=True)
            with open(vm.path(name), "r+b") as f:
                f.seek(where)
                byte = f.read(1)
                f.seek(where)
                f.write(bytes([byte[0] ^ 0xFF]))
            before = digest(vm.path(name))
            vm.spawn()
            assert damage_is_reported(vm, name), f"damage of the {name} went unnoticed"
            vm.kill()
            vm.process = None
            assert digest(vm.path(name)) == before
        vm.boot()
        assert vm.sh("cat /root/data").strip() == "data"


def digest(path):
    """Hash of the blocks of a sparse file that are not zero. Reading its holes would take minutes in the lab."""
    hashed = hashlib.sha256()
    with open(path, "rb") as f:
        end = os.fstat(f.fileno()).st_size
        hole = 0
        while hole < end:
            try:
                start = os.lseek(f.fileno(), hole, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole to the end
                break
            hole = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            for offset in range(start, hole, 4096):
                block = os.pread(f.fileno(), 4096, offset)
                if any(block):
                    hashed.update(f"{offset} ".encode() + block)
    return hashed.hexdigest()


def damage_is_reported(vm, name):
    """A damaged header is found at once; a damaged piece of the map when the guest's disk needs it."""
    try:
        vm.control.call("configure", **vm.config(overlay=name))
    except VmmError as e:
        assert name in e.message, e
        return True
    vm.control.call("boot")
    # The guest's root is on it: it gets I/O errors and panics.
    return vm.control.wait_event("ready", "panic", "exit")["event"] != "ready"


@case("a full disk is an I/O error in the guest, and the VMM lives")
def full_disk():
    with Vmm() as vm:
        small = vm.path("small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", small], check=True)
        try:
            vm.boot(overlay="small/overlay")
            done = vm.sh("head -c 150000000 /dev/urandom >/root/big && sync /root/big", check=False)
            assert done.returncode != 0, "the guest was told that 150 MB are on a disk of 48"
            assert vm.info()["state"] in ("running", "exited")
        finally:
            vm.kill()
            vm.process = None
            subprocess.run(["umount", small], check=True)


@case("bad kernels, numbers and fields are refused by name, and the VMM can still boot")
def bad_input_is_refused():
    with Vmm() as vm:
        vm.spawn()
        good = vm.config()
        configure = vm.control.call
        with open(vm.path("noise"), "wb") as f:
            f.write(os.urandom(100000))
        with open(artifact("kernel"), "rb") as whole, open(vm.path("half"), "wb") as half:
            half.write(whole.read(1 << 20))
        refused("ENOENT", "/nonexistent", configure, "configure", **{**good, "kernel": "/nonexistent"})
        for name in ("noise", "half"):
            try:
                configure("configure", **{**good, "kernel": vm.path(name)})
            except VmmError as e:
                assert name in e.message, e
            else:
                raise AssertionError(f"{name} was taken for a kernel")
        refused("EINVAL", "memory_mib", configure, "configure", **{**good, "memory_mib": 63})
        refused("EINVAL", "memory_mib", configure, "configure", **{**good, "memory_mib": 1 << 40})
        refused("EINVAL", "cpus", configure, "configure", **{**good, "cpus": 0})
        refused("EINVAL", "cpus", configure, "configure", **{**good, "cpus": 5})
        refused("EINVAL", "fast", configure, "configure", **good, fast=True)
        refused("ENOENT", "/nonexistent", configure, "configure", **{**good, "disks": [{"path": "/nonexistent"}]})
        vm.boot()
        assert vm.sh("echo boots").strip() == "boots"


# --- the server ----------------------------------------------------------------------


class Server:
    """A dormoused of its own, on a Unix socket."""

    def __init__(self):
        self.vm = Vmm()  # for its directory
        self.socket = self.vm.path("api.sock")
        self.process = None

    def start(self):
        argv = [os.path.join(BUILD, "dormoused"), "--listen", f"unix:{self.socket}", "--state", self.vm.path("state")]
        # The lab boots them one after the other, in effect.
        argv += ["--boot-timeout", str(COMMAND_S), "--stop-sandboxes-on-exit"]
        with open(self.vm.path("vmm.log"), "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("the server answers", self.answers)

    def answers(self):
        assert self.process.poll() is None, f"dormoused exited with {self.process.returncode}"
        return self.curl("GET", "/readyz", check=False).returncode == 0

    def curl(self, method, path, body=None, check=True):
        argv = ["curl", "-sS", "--fail-with-body", "--unix-socket", self.socket, "-X", method, f"http://localhost{path}"]
        if body is not None:
            argv += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert not check or done.returncode == 0, f"{method} {path}: {done.stdout} {done.stderr}"
        return json.loads(done.stdout) if check and done.stdout else done

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, traceback_):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(HANG_S)
        self.vm.__exit__(kind, value, traceback_)


def run_in(server, sandbox, command):
    body = {"cmd": "sh", "args": ["-c", command], "timeout": COMMAND_S}
    return server.curl("POST", f"/api/sandboxes/{sandbox}/exec/run", body)


@case("timers that were armed when a guest was saved fire when it goes on (tiny guests)")
def armed_timers():
    # What KVM does with a timer differs between processors: this is another one than that of `make kvm`.
    done = subprocess.run(["build/test/kvm-time"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("\nok ") == 3, done.stdout + done.stderr


@case("20 sandboxes at once answer, each as itself")
def twenty_sandboxes():
    def live(n):
        spec = {"templateID": "mini", "memoryMB": 256, "cpuCount": 1, "timeout": 0, "metadata": {"n": str(n)}}
        sandbox = server.curl("POST", "/api/sandboxes", spec)["sandboxID"]
        run_in(server, sandbox, f"echo {n} >/tmp/n")
        return n, sandbox

    with Server() as server, concurrent.futures.ThreadPoolExecutor(20) as pool:
        sandboxes = list(pool.map(live, range(20)))
        assert len({sandbox for _, sandbox in sandboxes}) == 20
        answers = list(pool.map(lambda s: run_in(server, s[1], "cat /tmp/n"), sandboxes))
        assert [int(a["stdout"]) for a in answers] == list(range(20)), answers
        assert len(server.curl("GET", "/api/sandboxes")) == 20
        list(pool.map(lambda s: server.curl("DELETE", f"/api/sandboxes/{s[1]}"), sandboxes))
        assert server.curl("GET", "/api/sandboxes") == []


case("Docker runs containers: overlayfs, cgroup v2, a bridge, a published port")(docker.docker_runs)
case("a FUSE file system is mounted, written to and unmounted")(docker.fuse_mounts)
case("WireGuard carries pings between two network namespaces")(docker.wireguard_pings)


def main():
    if len(sys.argv) == 1:
        for name, (title, _) in CASES.items():
            print(f"{name} {title}")
        return 0
    try:
        CASES[sys.argv[1]][1]()
        return 0
    except (AssertionError, VmmError, Ended, OSError, subprocess.SubprocessError, TimeoutError):
        traceback.print_exc(file=sys.stdout)
        return 1


if __name__ == "__main__":
    sys.exit(main())
