# SPDX-License-Identifier: Apache-2.0
"""What runs in a guest that travels in time, and what can be asked of it afterwards."""

import array
import os
import subprocess
import threading
import time

from suite import wait_until
from vmm import BUILD, HANG_S

COUNTER = "(n=0; while :; do n=$((n + 1)); echo $n >/run/n; sleep 0.1; done) >/dev/null 2>&1 &"


def number(vm, path="/run/n"):
    """A number that a process in the guest keeps writing, read by the agent: also while all are frozen."""
    found = []

    def is_there():
        done = vm.guest("read", path, check=False)
        # Not there yet, or just being written.
        found.extend(int(word) for word in done.stdout.split()[:1])
        return found

    wait_until(f"a number in {path}", is_there)
    return found[0]


def moves(vm, path="/run/n"):
    before = number(vm, path)
    wait_until(f"{path} goes on", lambda: number(vm, path) > before)


# --- witnesses ---------------------------------------------------------------------------


def install(vm):
    vm.guest("write", os.path.join(BUILD, "test/vm-witness"), "/run/vm-witness")
    vm.sh("chmod 755 /run/vm-witness; mount -o remount,exec /run")


def start_witness(vm):
    """It watches clocks and vector registers."""
    install(vm)
    vm.sh("/run/vm-witness /run/witness >/dev/null 2>&1 &")
    return seen(vm)


def start_disk_witness(vm):
    """It writes to the disk without a pause, and knows what must be there."""
    install(vm)
    vm.sh("/run/vm-witness /run/disk /root/disk-witness >/run/disk.log 2>&1 &")
    return seen(vm, "/run/disk")


def seen(vm, path="/run/witness"):
    """What vm-witness has seen up to now. The values are padded, so that each line has one length."""
    words = []

    def is_there():
        words[:] = [word.split("=") for word in vm.guest("read", path, check=False).stdout.split() if "=" in word]
        return words and all(len(word) == 2 and word[1] for word in words)

    wait_until(f"a line in {path}", is_there)
    return {key: int(value) for key, value in words}


def was_not_disturbed(vm, before):
    """The witness goes on, and has seen no clock go back and no register change."""
    wait_until("the witness goes on", lambda: seen(vm)["rounds"] > before["rounds"] + 5)
    now = seen(vm)
    assert (now["backwards"], now["vector_bad"]) == (0, 0), now


def disk_is_of_the_same_instant(vm):
    """The disk witness goes once around all its blocks, and misses nothing."""
    before = seen(vm, "/run/disk")
    wait_until("the disk witness goes on", lambda: seen(vm, "/run/disk")["rounds"] > before["rounds"] + 64)
    now = seen(vm, "/run/disk")
    assert now["disk_bad"] == 0, now


# --- files -------------------------------------------------------------------------------

# Twenty files come and go, through the page cache, and a list of their sums is replaced each time.
FILES = """
mkdir -p /root/load
(n=0; while :; do
    n=$((n + 1))
    head -c 100000 /dev/urandom >/root/load/f$n
    (cd /root/load && sha256sum f$n >>sums.new && cp sums.new sums.tmp && mv sums.tmp sums)
    [ $n -gt 20 ] && rm -f /root/load/f$((n - 20)) && sed -i 1d /root/load/sums.new
    echo $n >/run/files
done) >/root/load.log 2>&1 &
echo $! >/run/load.pid
"""


def files_are_whole(vm):
    """Ends the load. What is in memory is right, and what is on the disk when memory has forgotten it."""
    vm.sh("kill $(cat /run/load.pid)")
    check = "cd /root/load && sha256sum --status --ignore-missing -c sums"
    vm.sh(f"{check} && sync && echo 3 >/proc/sys/vm/drop_caches && {check} && test $(wc -l <sums) -gt 1")


def file_system_is_clean(vm, disk, top=None):
    """By e2fsck, after what a mount does first: it finishes the journal, and adds up the counters of the groups.

    Not "-f" there, as then e2fsck would go on and mend what it finds, whatever else it is told.
    """
    flat = vm.path("flat")
    layers = [*disk["layers"], *([top] if top else [])]
    tool = os.path.join(BUILD, "dormouse-img")
    subprocess.run([tool, "export", "--base", disk["path"], "--out", flat, *layers], check=True)
    replay = subprocess.run(["e2fsck", "-p", flat], capture_output=True, text=True, check=False)
    assert replay.returncode == 0 and ": clean, " in replay.stdout, replay
    check = subprocess.run(["e2fsck", "-fn", flat], capture_output=True, text=True, check=False)
    os.unlink(flat)
    assert check.returncode == 0, check.stdout + check.stderr


# --- a session -----------------------------------------------------------------------------


class Pump:
    """An exec session, `cat`, that is sent numbers and sends them back, as fast as it goes, for ever.

    Each byte has its place, so one that is lost, doubled or of another time is found out.
    """

    def __init__(self, vm, session, at=None):
        words = ("attach-pump", str(session), str(at), "0") if at is not None else ("pump", str(session), "cat")
        self.process = vm.start(*words)
        self.at = self.began = at or 0
        self.bad = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        wait_until(f"session {session} sends something", lambda: self.moved() or self.process.poll() is not None)
        assert self.moved(), self.process.stderr.read()

    def moved(self):
        return self.at > self.began

    def _read(self):
        while data := os.read(self.process.stdout.fileno(), 1 << 16):
            first = self.at // 8
            want = array.array("Q", range(first, first + len(data) // 8 + 2)).tobytes()
            if data != want[self.at % 8 : self.at % 8 + len(data)]:
                self.bad = self.bad or f"wrong bytes between {self.at} and {self.at + len(data)}"
            self.at += len(data)

    def is_well(self):
        """It goes on, and every byte up to now was right."""
        before = self.at
        wait_until("bytes come", lambda: self.at > before + 100000 or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.stderr.read()
        assert not self.bad, self.bad

    def lost(self):
        """Its connection ends, by what was done to the machine; returns where to go on."""
        assert self.process.wait(HANG_S) == 124, self.process.stderr.read()
        self.reader.join()
        assert not self.bad, self.bad
        word, out, err = self.process.stderr.read().decode().split()
        self.close()
        assert (word, int(out), int(err)) == ("lost", self.at, 0)
        return self.at

    def leave(self):
        """Break the connection; returns where to go on."""
        self.process.terminate()
        self.process.wait()
        self.reader.join()
        self.close()
        assert not self.bad, self.bad
        return self.at

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


# --- clocks ------------------------------------------------------------------------------


def clock_was_right(begun, said, ended):
    """Within half a second, as far as one who asks from outside can tell: the answer is of a moment between two."""
    error = max(begun - said, said - ended, 0)
    assert error < 0.5, f"the clock is off by {error} s"


def clock_is_right(vm):
    begun = time.time()
    said = float(vm.sh("date +%s.%N"))
    clock_was_right(begun, said, time.time())


def uptime(vm):
    """CLOCK_BOOTTIME, by the agent."""
    return float(vm.guest("read", "/proc/uptime").split()[0])
