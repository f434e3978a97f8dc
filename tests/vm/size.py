# SPDX-License-Identifier: Apache-2.0
"""Tests of Linux guests whose memory grows and shrinks while they run."""

import os
import time

from suite import case, wait_until
from vmm import Vmm


def meminfo_mib(vm, field="MemTotal"):
    return int(vm.sh(f"sed -n 's/^{field}: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) // 1024


def resize(vm, mib, **more):
    """Until the machine has as much; the guest says so, too."""
    vm.control.call("memory", target_mib=mib, **more)
    wait_until(f"{mib} MiB", lambda: vm.info()["memory"]["now_mib"] == mib)


@case("a guest's memory grows, is saved and restored, and shrinks below what it was booted with")
def memory_grows_and_shrinks():
    with Vmm() as vm:
        vm.boot(memory_mib=256)
        booted = meminfo_mib(vm)
        resize(vm, 640)
        grown = meminfo_mib(vm)
        assert 372 <= grown - booted <= 384, (booted, grown)
        # More than it was booted with is in use. The cgroup has a limit of its own, which the server would raise.
        vm.sh("echo max >/sys/fs/cgroup/sandbox/memory.max; mount -t tmpfs -o size=500m tmpfs /mnt")
        vm.sh("head -c 20971520 /dev/urandom >/mnt/20; for i in $(seq 16); do cat /mnt/20 >>/mnt/big; done")
        want = vm.sh("md5sum /mnt/big")
        image = vm.checkpoint("a", resume=False)
        vm.restore(image, op="rollback")
        vm.renew()
        assert meminfo_mib(vm) == grown
        assert vm.sh("md5sum /mnt/big") == want
        full = vm.info()["guest_memory"]["resident_kib"]
        assert full > 320 * 1024, full
        vm.sh("rm /mnt/big /mnt/20; echo 3 >/proc/sys/vm/drop_caches")
        resize(vm, 256)
        assert meminfo_mib(vm) <= booted
        resize(vm, 128)
        assert 120 <= booted - meminfo_mib(vm) <= 136, meminfo_mib(vm)
        wait_until("memory is back", lambda: vm.info()["guest_memory"]["resident_kib"] < 200 * 1024)
        # What was given back leaves the image, although the one it was restored from has it.
        later = vm.checkpoint("b")
        before, after = (os.stat(i["ram"]).st_blocks >> 11 for i in (image, later))
        assert before > 320 and after < 120, (before, after)
        resize(vm, 256)
        assert abs(meminfo_mib(vm) - booted) <= 1


@case("memory that cannot be unplugged goes into the balloon")
def the_rest_is_ballooned():
    with Vmm() as vm:
        # All that is added is for the kernel, too, which cannot be moved out of it.
        vm.boot(memory_mib=256, append="memory_hotplug.online_policy=contig-zones memhp_default_state=online_kernel")
        booted = meminfo_mib(vm)
        resize(vm, 512)
        vm.sh("for i in $(seq 200); do mkdir -p /sys/fs/cgroup/t$i; done; find / -xdev >/dev/null; ls -R /sys >/dev/null")
        resize(vm, 256, balloon=True)
        size = vm.info()["memory"]
        print("plugged", size["plugged_mib"], "MiB, ballooned", size["ballooned_kib"] >> 10)
        assert abs(meminfo_mib(vm) - booted) <= 8, (meminfo_mib(vm), booted, size)


def private_mib(vm):
    """What the process has for itself, by the kernel's account."""
    with open(f"/proc/{vm.process.pid}/smaps_rollup") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Private_")) >> 10


def stored_mib(image):
    return os.stat(image["ram"]).st_blocks >> 11


TOUCHED_MIB = 1536


class Freeing:
    """A guest frees what it has touched."""

    def __init__(self, vm):
        self._vm = vm
        self._free_mib = self._memory()[1]
        begun = time.monotonic()
        vm.sh("rm /mnt/*")
        self._freed = time.monotonic()
        self.removal_s = self._freed - begun

    def _memory(self):
        now = self._vm.info()["guest_memory"]
        return now["resident_kib"] >> 10, now["free_kib"] >> 10

    def _is_back(self):
        resident, free = self._memory()
        return resident < 256 and free - self._free_mib > TOUCHED_MIB - 128

    def ends(self, name):
        """The host has it again, and the next checkpoint, which is returned, has nothing of it."""
        wait_until("memory is back", self._is_back)
        print(f"{name}: removed in {self.removal_s:.1f} s, back {time.monotonic() - self._freed:.1f} s later, "
              f"private {private_mib(self._vm)} MiB")
        assert private_mib(self._vm) < 256, private_mib(self._vm)
        image = self._vm.checkpoint(name)
        assert stored_mib(image) < 256, stored_mib(image)
        return image


@case("1.5 GiB that a guest of 2 GiB touches and frees return to the host and leave the next checkpoint, also in a fork")
def memory_returns():
    with Vmm() as vm, Vmm() as fork:
        vm.boot(memory_mib=2048)
        vm.sh("echo max >/sys/fs/cgroup/sandbox/memory.max; mount -t tmpfs -o size=1600m tmpfs /mnt")
        vm.sh("head -c 16777216 /dev/urandom >/mnt/16; for i in $(seq 95); do cat /mnt/16 >>/mnt/big; done")
        assert private_mib(vm) > TOUCHED_MIB
        full = vm.checkpoint("full")
        assert stored_mib(full) > TOUCHED_MIB
        # There the memory is the image's, and pages that are dropped show the image again.
        fork.restore(full)
        fork.renew()
        both = Freeing(vm), Freeing(fork)
        both[0].ends("freed")
        again = both[1].ends("freed-by-fork")
        fork.restore(again, op="rollback")
        fork.renew()
        assert fork.info()["guest_memory"]["resident_kib"] < 256 << 10
