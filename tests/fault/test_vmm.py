# SPDX-License-Identifier: Apache-2.0
"""dormouse-vmm: checkpoint, hibernate, restore and rollback, killed and failed at every write.

Before each: a machine that runs on the layers `top0` (sealed) and `top1`, and a checkpoint `old` of it. All
faults are in the operation; who looks at what is left is a VMM without them.
"""
import json
import os
import signal

from faults import Count, Scratch, points, tally
from machine import Ext4, Gone, Machine, Numbers, Refused, Store, become_subreaper, begun, tool

MORE = 3  # writes of the guest's own disk come in between: a run may have a few more than another


class Case:
    """A machine, a store, and what an operation did before it was cut off."""

    def __init__(self, folder, action, count, guest):
        self.store = Store(folder, guest)
        self.action = action
        self.machine = Machine(folder, "subject", count, action, guest)
        self.answered = self.failed = False
        self.why = ""

    def prepare(self):
        s, m = self.store, self.machine
        s.boot(m, "top0")
        assert s.checkpoint(m, "old", "top1")["ok"]
        m.run_on()

    def other(self, name):
        return Machine(self.store.folder, name, guest=self.store.guest)

    def goes_on(self, name, how):
        """Somebody else restores something, and it runs."""
        m = self.other(name)
        try:
            how(m)
            m.run_on()
        finally:
            m.end()

    def chain(self):
        """Of the machine that was killed, by the rule of the server: a layer that exists is in it."""
        chain = [x for x in ("top0", "top1", "top2", "top3") if self.store.exists(x)]
        # After an EIO a layer that nobody went to may stay, where it could not be removed either.
        last = [chain.pop()] if not begun(self.store.path(chain[-1])) else []
        return self.store.lineage([x for x in chain if begun(self.store.path(x))]) + last

    def written(self):
        return self.store.guest.written(self.machine)

    def check_old(self):
        self.goes_on("old", lambda m: self.store.restore(m, "old", "top0", "fork-old"))
        self.store.check_disk("top0", "fork-old")

    def check_disk(self):
        """It can be read as it is, it has all that the guest was told it has, and a machine takes it."""
        self.store.check_disk(*self.chain(), least=self.written())

        def boots(m):
            m.call("configure", **{**self.store.shape(m, *self.chain()), "kernel": COUNTING})
            m.call("boot")

        m = self.other("disk")
        try:
            boots(m)
        finally:
            m.end()

    def check_new(self, *layers):
        """All of it or nothing."""
        try:
            self.goes_on("new", lambda m: self.store.restore(m, "new", *layers, "fork-new"))
        except Refused as e:
            assert not self.answered, f"it was announced, and cannot be restored: {e}"
        else:
            self.store.check_disk(*layers, "fork-new")


COUNTING = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
                        "build", "guests", "count.elf")


# --- the operations: do, then what must hold -----------------------------------------------------
class Checkpoint(Case):
    def do(self):
        e = self.store.checkpoint(self.machine, "new", "top2")
        self.answered, self.why = e["ok"], e.get("error", "")
        assert e["ok"] or self.why, e
        self.failed = not e["ok"]

    def check(self):
        self.check_old()
        self.check_disk()
        if self.store.whole("new"):
            self.check_new("top0", "top1")
        # Where nothing can be removed, the files of a failed one stay: they are garbage to the server.
        assert not self.failed or self.action == "EIO" or not self.store.exists("new.ram"), \
            "a failed checkpoint leaves its files"

    def again(self):
        top = "top3" if self.store.exists("top2") else "top2"
        e = self.store.checkpoint(self.machine, "again", top)
        assert e["ok"], e
        self.machine.run_on()


class Hibernate(Case):
    def do(self):
        e = self.store.checkpoint(self.machine, "new", resume=False)
        self.answered, self.why = e["ok"], e.get("error", "")
        self.failed = not e["ok"]
        assert self.answered or self.why, e
        if self.answered:
            self.machine.call("shutdown")
            self.machine.event("exit")

    def check(self):
        self.check_old()
        self.store.check_disk("top0", "top1")
        if self.answered:
            self.goes_on("woken", lambda m: self.store.restore(m, "new", "top0", "top1"))
        self.check_disk()

    def again(self):
        self.machine.call("resume")
        self.machine.run_on()
        assert self.store.checkpoint(self.machine, "again", resume=False)["ok"]


class Restore(Case):
    """The subject is a process without a machine; the other one made what it restores."""

    def prepare(self):
        m = self.other("source")
        try:
            self.store.boot(m, "top0")
            assert self.store.checkpoint(m, "old", "top1")["ok"]
        finally:
            m.end()
        os.unlink(self.store.path("top1"))

    def do(self):
        self.store.restore(self.machine, "old", "top0", "top1")
        self.answered = True

    def check(self):
        self.check_old()
        # The same again, on what there is of the top: as after a crash of the server.
        if not self.answered:
            self.goes_on("retry", lambda m: self.store.restore(m, "old", "top0", "top1"))
        self.check_disk()

    def again(self):
        self.store.restore(self.machine, "old", "top0", "top1")
        self.answered = True
        self.machine.run_on()


class Rollback(Case):
    def do(self):
        self.machine.call("rollback", **self.store.image("old"), disks=self.store.disk("top0", "top2"))
        self.answered = True

    def chain(self):
        return ["top0", *([x for x in ("top4", "top2") if self.store.exists(x)] or ["top1"])[:1]]

    def written(self):
        return 0  # taken back, maybe

    def check(self):
        self.check_old()
        self.store.check_disk("top0", "top1")
        self.check_disk()

    def again(self):
        state = self.machine.call("info")["state"]
        assert state == "running", state
        self.machine.run_on()
        self.machine.call("rollback", **self.store.image("old"), disks=self.store.disk("top0", "top4"))
        self.machine.run_on()


# --- the sweeps ------------------------------------------------------------------------------------
def one(kind, action, guest, at):
    """Return: how many writes there were, or whether the fault was met."""
    count = Count()
    with Scratch() as folder:
        case = kind(folder, action, count, guest)
        try:
            case.prepare()
            point, before = count.arm(at), count.value()
            ended = False
            try:
                case.do()
            except Gone:
                ended = True
            except Refused as e:
                case.failed, case.why = True, str(e)
            met, total = at and count.value() >= point, count.value() - before
            count.arm(0)
            if met:
                guest.look(case.machine)
            verdict(case, action, ended or case.machine.process.poll() is not None, met)
            return met if at else total
        finally:
            case.machine.end()
            count.close()


def verdict(case, action, ended, met):
    if action in ("kill", "tear", "kill-group"):
        if met and ended:
            # A part of the process was killed, or all of it: then all of it is gone.
            status = case.machine.reap()
            assert status in (-signal.SIGKILL, 0), f"status {status}: {case.machine.log()}"
        elif not ended and case.failed:
            case.again()
    elif met and case.failed:
        assert "No space left" in case.why or "Input/output error" in case.why, f"no reason: {case.why}"
        if not ended:
            case.again()
    case.machine.end()
    case.check()


def sweep(kind, action, guest):
    total = one(kind, action, guest, 0)
    assert total > 0, "no write was seen: the shim is not in place"
    chosen = points(total)
    for at in chosen:
        try:
            one(kind, action, guest, at)
        except Exception as e:
            raise AssertionError(f"{action} at write {at} of {total}: {type(e).__name__}: {e}") from e
    at = total
    while len(chosen) == total and at < total + MORE and one(kind, action, guest, at + 1):
        at += 1
    return tally(chosen, total) + guest.note()


def upkeep():
    """What the server does to its store in the background, with the very commands, under machines that run."""
    with Scratch() as folder:
        s = Store(folder)
        m, fork = Machine(folder, "subject"), Machine(folder, "fork")
        try:
            s.boot(m, "top0")
            for i in range(1, 6):
                assert s.checkpoint(m, f"c{i}", f"top{i}")["ok"]
                m.run_on()
            s.restore(fork, "c5", *(f"top{i}" for i in range(5)), "fork")
            run = [s.path(f"top{i}") for i in range(1, 5)]
            tool(["flatten", "--background", "--replace", "--out", run[-1], *run])
            # The one has the old files open, the other has opened none of them yet, or some.
            m.run_on()
            fork.run_on()
            infos = json.loads(tool(["info", "--json", s.path("top0"), *run]))["layers"]
            assert infos[4]["flat"] and infos[4]["sealed"] and infos[4]["parent"] == infos[0]["id"], infos[4]
            assert "parent" not in infos[0] and infos[1]["parent"] == infos[0]["id"], infos
        finally:
            m.end()
            fork.end()
        for path in run[:-1]:
            os.unlink(path)
        ram = s.image("c5")["ram"]
        tool(["pack", "--nice", "19", ram, ram + ".cold"], "dormouse-ram")
        restored("short", s, ram_format="cold", ram=ram + ".cold")
        os.unlink(ram)
        tool(["unpack", "--nice", "19", ram + ".cold", ram], "dormouse-ram")
        restored("again", s)


def restored(name, s, **more):
    m = Machine(s.folder, name)
    try:
        m.call("restore", **{**s.shape(m, "top0", "top4", name), **s.image("c5"), **more})
        m.run_on()
    finally:
        m.end()


become_subreaper()
ACTIONS = {"kill": "killed at each write", "tear": "killed in the middle of each write",
           "ENOSPC": "no space from each write on", "EIO": "I/O errors from each write on"}
KINDS = (Checkpoint, Hibernate, Restore, Rollback)
TESTS = [(f"dormouse-vmm {kind.__name__.lower()}, {what}", lambda k=kind, a=action: sweep(k, a, Numbers()))
         for kind in KINDS for action, what in ACTIONS.items()]
TESTS += [(f"dormouse-vmm {kind.__name__.lower()} under an ext4, {ACTIONS[action]}",
           lambda k=kind, a=action: sweep(k, a, Ext4())) for kind in KINDS for action in ("kill", "tear")]
TESTS.append(("dormouse-vmm goes on while layers are merged and images packed", upkeep))
