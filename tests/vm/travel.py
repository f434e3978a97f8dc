# SPDX-License-Identifier: Apache-2.0
"""Linux guests that are checkpointed, forked, hibernated and woken."""

import contextlib
import os
import subprocess
import time

from load import (
    COUNTER,
    Pump,
    clock_is_right,
    clock_was_right,
    disk_is_of_the_same_instant,
    file_system_is_clean,
    moves,
    number,
    start_disk_witness,
    start_witness,
    uptime,
    was_not_disturbed,
)
from suite import case, refused, wait_until
from vmm import BUILD, HANG_S, Ended, Vmm


def checkpoint(vm, name, **fields):
    """As the server does it."""
    vm.guest("freeze-sync")
    image = vm.checkpoint(name, **fields)
    if fields.get("resume", True):
        vm.guest("thaw")
    return image


def hibernate(vm, name):
    image = checkpoint(vm, name, resume=False)
    vm.shut_down()
    return image


def exists(vm, pid):
    return vm.sh(f"kill -0 {pid}", check=False).returncode == 0


# --- forks -----------------------------------------------------------------------------------


@case("two vCPUs: processes go on in the source and in a fork; connections of before only in the source")
def fork_goes_on():
    with Vmm() as vm, Vmm() as fork:
        vm.boot(cpus=2)
        vm.sh(COUNTER)
        before = start_witness(vm)
        # A command that lives as long as its connection, and a session that waits for one.
        held = vm.start("exec", "sh", "-c", "echo $$; exec sleep 100000")
        pid = int(held.stdout.read(100))
        at = Pump(vm, 7).leave()
        image = checkpoint(vm, "one")
        n = number(vm)
        fork.prepare(image["config"])
        fork.restore(image)
        assert number(fork) <= n
        stood = number(fork)
        assert number(fork) == stood, "user processes ran before the renewal"
        fork.renew()
        for machine in (vm, fork):
            moves(machine)
            was_not_disturbed(machine, before)
            session = Pump(machine, 7, at)
            session.is_well()
            session.leave()
            assert machine.sh("nproc; cat /sys/devices/system/cpu/online").split() == ["2", "0-1"]
        wait_until("in the fork the connection ends", lambda: not exists(fork, pid))
        assert exists(vm, pid) and held.poll() is None
        # Two machines now: what one writes the other does not see.
        vm.sh("echo source >/root/who; sync")
        fork.sh("echo fork >/root/who; sync")
        assert (vm.sh("cat /root/who").strip(), fork.sh("cat /root/who").strip()) == ("source", "fork")
        held.kill()
        held.communicate()


@case("20 forks at once count on; none has another's random numbers, ids or generation; all clocks are right")
def twenty_forks():
    count = 20
    seen_values = {}
    with Vmm() as vm, contextlib.ExitStack() as stack:
        vm.boot()
        vm.sh(COUNTER)
        image = checkpoint(vm, "one")
        vm.shut_down()
        forks = []
        for n in range(count):
            fork = stack.enter_context(Vmm())
            forks.append(fork)
            fork.restore(image)
            fork.counted = number(fork)
            fork.renew(machine_id=f"{n:032x}")
            begun = time.time()
            # The kernel notices by itself, too, that it is another machine.
            words = fork.sh(
                "date +%s.%N; head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' '; cat /proc/sys/kernel/random/uuid"
                " /etc/machine-id; od -An -v -N 16 -tx1 /dev/random | tr -d ' '; hostname;"
                " until dmesg | grep -q 'reseeded due to virtual machine fork'; do sleep 0.1; done"
            ).split()
            clock_was_right(begun, float(words.pop(0)), time.time())
            assert words.pop() == "sandbox"
            for what, word in zip(("urandom", "uuid", "machine-id", "random"), words, strict=True):
                seen_values.setdefault(what, []).append(word)
            seen_values.setdefault("generation", []).append(fork.info()["generation"])
            wait_until("it counts on", lambda f=fork: number(f) > f.counted)
            # The others get the processor.
            fork.control.call("pause")
        assert len({fork.counted for fork in forks}) == 1
        forks[0].control.call("resume")
        moves(forks[0])
        for what, values in seen_values.items():
            assert len(set(values)) == count, f"{what}: {values}"


@case("a fork that hibernates at once, again and again, is still the same machine")
def forks_hibernate_at_once():
    with Vmm() as vm:
        vm.boot()
        vm.sh(COUNTER)
        before = start_witness(vm)
        start_disk_witness(vm)
        image = checkpoint(vm, "start")
        vm.shut_down()
        for n in range(100):
            vm.restore(image)
            # Frozen or not, renewed or not, at whatever it is just doing.
            if n % 3 == 2:
                vm.renew()
            image = vm.checkpoint(f"sleep-{n}", resume=False)
            vm.shut_down()
        vm.restore(image)
        vm.renew()
        moves(vm)
        was_not_disturbed(vm, before)
        disk_is_of_the_same_instant(vm)
        vm.sh("sync")
        vm.shut_down()
        disk = vm.configured["disks"][0]
        file_system_is_clean(vm, disk, disk["overlay"])


# --- hibernate and wake ------------------------------------------------------------------------


@case("hibernate and wake: sessions, listening sockets, processes and clocks go on, and no byte is lost")
def hibernates():
    with Vmm() as vm:
        vm.boot(image="base.ext4", memory_mib=512)
        before = start_witness(vm)
        vm.sh("mkdir /tmp/www && echo served >/tmp/www/page")
        vm.sh("cd /tmp/www && python3 -m http.server 8080 >/dev/null 2>&1 &")
        fetch = "curl -s http://127.0.0.1:8080/page"
        wait_until("the HTTP server answers", lambda: vm.sh(fetch, check=False).stdout == "served\n")
        session = Pump(vm, 77)
        for sleep in range(3):
            vm.guest("freeze-sync")
            asleep = (uptime(vm), time.monotonic())
            image = vm.checkpoint(f"sleep-{sleep}", resume=False)
            vm.shut_down()
            at = session.lost()
            time.sleep(2)
            woken = time.monotonic()
            vm.restore(image)
            ran = uptime(vm) - asleep[0]
            # It has slept for two seconds of the host at least: none of them is in the guest's time.
            awake = time.monotonic() - asleep[1] - 2
            assert 0 <= ran < awake + 0.1, f"asleep at {asleep}, woken at {woken}: it counted {ran} s"
            vm.renew()
            clock_is_right(vm)
            session = Pump(vm, 77, at)
            assert vm.sh(fetch) == "served\n"
            was_not_disturbed(vm, before)
            session.is_well()
        session.leave()


def pack(image):
    """The cold form of its RAM."""
    cold = image["ram"] + ".cold"
    tool = [os.path.join(BUILD, "dormouse-ram"), "pack", image["ram"], cold]
    subprocess.run(tool, check=True)
    os.unlink(image["ram"])
    return {**image, "ram": cold}


@case("a machine that wakes from a cold image runs while its memory is loaded, and all of it is right")
def wakes_from_cold():
    with Vmm() as vm:
        vm.boot()
        vm.sh(COUNTER)
        before = start_witness(vm)
        start_disk_witness(vm)
        vm.sh("head -c 12000000 /dev/urandom >/run/memory; cd /run && sha256sum memory >sum")
        image = hibernate(vm, "hot")
        image = pack(image)
        # The second time it knows what was needed first.
        for _ in range(2):
            vm.restore(image, ram_format="cold")
            loading = vm.info()["loading"]
            print(f"after the restore: {loading}")
            assert loading["on_fault"]
            vm.renew()
            moves(vm)
            clock_is_right(vm)
            vm.sh("cd /run && sha256sum --status -c sum")
            was_not_disturbed(vm, before)
            disk_is_of_the_same_instant(vm)
            wait_until("all is loaded", lambda: vm.info()["loading"]["state"] == "done")
            print(f"when all is loaded: {vm.info()['loading']}")
            vm.sh("cd /run && sha256sum --status -c sum")
            assert os.path.exists(image["ram"] + ".order")
            vm.shut_down()
        # A checkpoint of a machine that is still being loaded is whole.
        vm.restore(image, ram_format="cold")
        image = vm.checkpoint("hot-again", resume=False)
        vm.shut_down()
        vm.restore(image)
        vm.renew()
        vm.sh("cd /run && sha256sum --status -c sum")
        moves(vm)
        was_not_disturbed(vm, before)


# --- other ends ----------------------------------------------------------------------------


@case("a fork with a larger disk has a larger file system")
def disk_grows():
    with Vmm() as vm, Vmm() as fork:
        vm.boot()
        before = int(vm.sh("df -Pm / | tail -n 1").split()[1])
        image = checkpoint(vm, "one")
        size_mib = int(vm.sh("cat /sys/block/vda/size")) // 2048 + 300
        fork.restore(image, size_mib=size_mib)
        fork.renew(root_bytes=size_mib << 20)
        grown = int(fork.sh("df -Pm / | tail -n 1").split()[1]) - before
        assert 280 <= grown <= 300, f"300 MiB larger, the file system by {grown}"
        assert int(vm.sh("df -Pm / | tail -n 1").split()[1]) == before


@case("a restored machine reboots, by itself and by request, and can be saved again")
def reboots_after_restore():
    with Vmm() as vm:
        vm.boot(cpus=2)
        boot_id = vm.sh("cat /proc/sys/kernel/random/boot_id")
        vm.sh("echo kept >/root/file")
        image = hibernate(vm, "one")
        vm.restore(image)
        vm.renew()
        assert vm.sh("cat /proc/sys/kernel/random/boot_id") == boot_id
        vm.guest("reboot")
        assert vm.control.wait_event("reset")["reason"] == "guest"
        assert vm.control.wait_event("ready")["boots"] == 2
        assert vm.sh("cat /proc/sys/kernel/random/boot_id") != boot_id
        assert vm.sh("cat /root/file; nproc").split() == ["kept", "2"]
        vm.sh(COUNTER)
        image = hibernate(vm, "two")
        vm.restore(image)
        vm.renew()
        moves(vm)
        vm.control.call("reset")
        vm.control.wait_event("ready")
        assert vm.sh("cat /root/file; test -e /run/n || echo booted").split() == ["kept", "booted"]
        vm.guest("poweroff")
        assert vm.control.wait_event("exit")["reason"] == "shutdown"


@case("kill -9 while a checkpoint is written: the one before is whole, and so is the disk")
def killed_while_it_writes():
    with Vmm() as vm:
        vm.boot()
        vm.sh(COUNTER)
        old = hibernate(vm, "old")
        for fault in ("ram-write:1:kill-vmm", "state-sync:1:kill-vmm"):
            vm.spawn(fault=fault)
            vm.restore(old)
            vm.renew()
            vm.sh("echo synced >/root/new; sync")
            name = fault.split(":", maxsplit=1)[0]
            try:
                new = vm.request_checkpoint(name)
                vm.control.wait_event("checkpoint")
                raise AssertionError(f"{fault}: still alive")
            except Ended:
                pass
            vm.process.wait(HANG_S)
            vm.process = None
            # Its disk goes on with all that was synced, whether the layers were switched or not.
            layers, top = new["disk"]["layers"], vm.path(f"{name}.top")
            vm.boot(disks=[{**new["disk"], "overlay": top}])
            assert vm.sh("cat /root/new").strip() == "synced"
            vm.shut_down()
            assert layers[:-1] == old["disk"]["layers"]
            file_system_is_clean(vm, new["disk"], top)
            if "ram" in fault:
                refused("EINVAL", "ram-write", vm.restore, new)
            # And the old one is as good as ever.
            vm.restore(old)
            vm.renew()
            moves(vm)
            assert vm.sh("test -e /root/new || echo gone").strip() == "gone"
            vm.shut_down()
