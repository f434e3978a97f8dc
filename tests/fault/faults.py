# SPDX-License-Identifier: Apache-2.0
"""Killing and failing programs at each of their durable writes (shim.c), and TAP."""
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests"))
import side_by_side  # noqa: E402

BUILD = os.path.join(TOP, "build")
SHIM = os.path.join(BUILD, "test", "fault.so")


def program(name):
    return os.path.join(BUILD, name)


class Count:
    """The counter that all processes of one run share, and at which of its values the fault is."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="fault-count-")
        self.file.write(bytes(16))
        self.file.flush()
        self.map = mmap.mmap(self.file.fileno(), 16)

    def value(self):
        return struct.unpack("<Q", self.map[:8])[0]

    def arm(self, at):
        """The at-th write from now on; 0: none. Returns the count at which the fault will be."""
        point = at and self.value() + at
        self.map[8:16] = struct.pack("<Q", point)
        return point

    def close(self):
        self.map.close()
        self.file.close()


def environment(count, under, action="", alone=False):
    """What makes a program count its writes below a directory, and fail where the count is armed."""
    env = {"LD_PRELOAD": SHIM, "FAULT_COUNT": count.file.name, "FAULT_UNDER": under, "FAULT_ACTION": action}
    if alone:
        env["FAULT_ALONE"] = "1"
    return env


def run(argv, under, at=0, action=""):
    """Run a program to its end. Returns its status (-SIGKILL where it was killed), output, count."""
    count = Count()
    count.arm(at)
    try:
        # A group of its own: that is what gets killed.
        p = subprocess.run(argv, env={**os.environ, **environment(count, under, action)}, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                           start_new_session=True)
        return p.returncode, p.stdout + p.stderr, count.value()
    finally:
        count.close()


# A kill leaves what was written in any file system; in memory an fsync costs nothing.
WHERE = os.environ.get("FAULT_DIR") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class Scratch:
    """A directory that goes with the test."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="fault-", dir=WHERE)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def points(total):
    """Which writes of so many get the fault: all, or FAULT_POINTS of them, evenly spread."""
    most = int(os.environ.get("FAULT_POINTS") or 0)
    if not most or total <= most:
        return list(range(1, total + 1))
    return sorted({1 + (total - 1) * i // (most - 1) for i in range(most)}) if most > 1 else [1]


def tally(chosen, total):
    """For the line of a test: nothing is left out in silence."""
    return f"{len(chosen)} of {total} writes"


def sweep(setup, argv, check, action):
    """Run argv(dir) once for each of its writes, with the fault there, and check(dir) after it.

    setup(dir) makes what is there before. Returns what was done, for the line of the test.
    """
    with Scratch() as d:
        setup(d)
        status, out, total = run(argv(d), d)
        assert status == 0, f"without a fault: status {status}: {out}"
        assert total > 0, "no write was seen: the shim is not in place"
        check(d, True)
    chosen = points(total)
    for at in chosen:
        with Scratch() as d:
            setup(d)
            status, out, _ = run(argv(d), d, at, action)
            if action in ("kill", "kill-group", "tear"):
                assert status == -signal.SIGKILL, f"write {at} of {total}: status {status}: {out}"
            else:
                assert status > 0, f"write {at} of {total}: status {status}: {out}"
            try:
                check(d, False)
            except AssertionError as e:
                raise AssertionError(f"{action} at write {at} of {total}: {e}") from e
    return tally(chosen, total)


def main(tests):
    """tests: (name, function); a function returns text for its line. Prints TAP."""
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    return side_by_side.main([t for t in tests if only in t[0]], per_cpu=2)
