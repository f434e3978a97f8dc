# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, forks and rollbacks of Linux guests that flood their disk and vsock meanwhile."""

import os
import threading

from load import (
    COUNTER,
    FILES,
    Pump,
    clock_is_right,
    disk_is_of_the_same_instant,
    file_system_is_clean,
    files_are_whole,
    moves,
    number,
    start_disk_witness,
    start_witness,
    was_not_disturbed,
)
from suite import case
from travel import checkpoint
from vmm import Vmm


def start_load(vm):
    """Files through the page cache, blocks past it, numbers to and fro over vsock. Returns the session."""
    vm.sh(COUNTER)
    vm.sh(FILES)
    start_disk_witness(vm)
    return Pump(vm, 1)


class Upload:
    """A large file on its way into the guest."""

    def __init__(self, vm, mib):
        self.vm = vm
        self.local = vm.path("upload")
        with open(self.local, "wb") as f:
            f.write(os.urandom(mib << 20))
        self.failure = None
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self):
        done = self.vm.guest("write", self.local, "/root/upload", check=False)
        self.failure = done.stderr if done.returncode else None

    def arrives(self):
        self.thread.join()
        assert not self.failure, self.failure
        with open(self.local, "rb") as f:
            want = f.read()
        assert self.vm.start("read", "/root/upload").communicate()[0] == want


@case("live checkpoints under load: source and forks go on, file systems are clean, memory and disk of one instant")
def checkpoint_under_load():
    with Vmm() as vm:
        vm.boot()
        before = start_witness(vm)
        session = start_load(vm)
        images = []
        for n in range(3):
            moves(vm, "/run/files")
            upload = Upload(vm, 2)
            # Two of them without a freeze: what a crash would leave must be good, too.
            images.append(checkpoint(vm, f"load-{n}") if n % 2 else vm.checkpoint(f"load-{n}"))
            upload.arrives()
            session.is_well()
        moves(vm)
        was_not_disturbed(vm, before)
        disk_is_of_the_same_instant(vm)
        files_are_whole(vm)
        session.leave()
        vm.shut_down()
        for n, image in enumerate(images):
            with Vmm() as fork:
                if n % 2:
                    fork.prepare(image["config"])
                fork.restore(image)
                fork.renew()
                moves(fork)
                clock_is_right(fork)
                was_not_disturbed(fork, before)
                disk_is_of_the_same_instant(fork)
                files_are_whole(fork)
            # The disk alone, as after a power cut.
            if n == 2:
                file_system_is_clean(vm, image["disk"])


@case("rollback in place, up and down a tree: memory, disk and processes are those of the checkpoint")
def rolls_back():
    with Vmm() as vm:
        vm.boot()
        vm.sh(COUNTER)
        before = start_witness(vm)
        position = Pump(vm, 1).leave()
        pid = vm.process.pid
        tree = {}

        def grow(name):
            vm.sh(f"echo {name} >>/root/path; echo {name} >>/run/path; head -c 3000000 /dev/urandom >/root/{name}")
            tree[name] = (checkpoint(vm, name), vm.sh("cat /root/path"), number(vm), position)

        def go(name):
            nonlocal position
            image, path, counted, position = tree[name]
            # What was written to disk and memory since then is not to be there.
            vm.sh("echo stray >>/root/path; echo stray >>/run/path; sync")
            vm.restore(image, op="rollback")
            assert number(vm) <= counted
            vm.renew()
            assert vm.sh("cat /root/path") == vm.sh("cat /run/path") == path
            assert vm.process.pid == pid
            moves(vm)
            clock_is_right(vm)
            was_not_disturbed(vm, before)
            session = Pump(vm, 1, position)
            session.is_well()
            position = session.leave()

        #   root - a - b
        #       \ - c
        for name in ("root", "a", "b"):
            grow(name)
        go("root")
        grow("c")
        for name in ("b", "a", "c", "root", "root", "b"):
            go(name)
        assert tree["b"][1].split() == ["root", "a", "b"] and tree["c"][1].split() == ["root", "c"]
        vm.shut_down()
        disk = vm.configured["disks"][0]
        file_system_is_clean(vm, disk, disk["overlay"])


@case("rollback under load, again and again, between checkpoints: nothing of another instant is left")
def rolls_back_under_load():
    with Vmm() as vm:
        vm.boot()
        before = start_witness(vm)
        start_load(vm).leave()
        images = [vm.checkpoint("load-0")]
        for n in range(1, 5):
            load = Pump(vm, 100 + n)
            moves(vm, "/run/files")
            load.is_well()
            if n % 2:
                images.append(vm.checkpoint(f"load-{n}"))
            vm.restore(images[-1 - n % 2], op="rollback")
            load.lost()
            moves(vm, "/run/files")
            was_not_disturbed(vm, before)
            disk_is_of_the_same_instant(vm)
        vm.renew()
        clock_is_right(vm)
        files_are_whole(vm)
        vm.shut_down()
        disk = vm.configured["disks"][0]
        file_system_is_clean(vm, disk, disk["overlay"])
