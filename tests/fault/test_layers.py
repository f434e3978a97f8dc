# SPDX-License-Identifier: Apache-2.0
"""dormouse-img: layers that an ext4 was written to, merged and sealed, killed and failed at every write."""
import functools
import json
import os
import subprocess
import tempfile

from faults import WHERE, program, sweep
from machine import Ext4, Machine, Store, tool

IMG = program("dormouse-img")
SEALED = 4  # of the layers; the one after them was being written when its machine was killed


class Chain:
    """The layers of a machine that was killed while it wrote, and what was on its disk."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="fault-chain-", dir=WHERE)
        self.store = s = Store(self.folder.name, Ext4())
        self.base = s.base
        self.layers = [f"l{i}" for i in range(SEALED + 1)]
        m = Machine(s.folder, "writer", guest=s.guest)
        try:
            s.boot(m, self.layers[0])
            for top in self.layers[1:]:
                assert s.checkpoint(m, top, top)["ok"]
                m.run_on()
        finally:
            m.end()
        self.disk = self.content(*(s.path(x) for x in self.layers))

    def paths(self, folder):
        return [f"{folder}/{x}" for x in self.layers]

    def copy(self, folder):
        subprocess.run(["cp", "--sparse=always", *self.paths(f"{self.folder.name}/store"), folder], check=True)

    def content(self, *paths):
        """What is on the disk of these layers, which e2fsck must like."""
        with tempfile.TemporaryDirectory(prefix="fault-disk-", dir=WHERE) as d:
            raw = f"{d}/raw"
            tool(["check", "--base", self.base, *paths])
            tool(["export", "--base", self.base, "--out", raw, *paths])
            with open(raw, "rb") as f:
                disk = f.read()
            self.store.guest.check(raw, 0)
        return disk

    def check(self, *paths):
        assert self.content(*paths) == self.disk, "the disk has changed"


@functools.cache
def chain():
    return Chain()


def infos(paths):
    return json.loads(tool(["info", "--json", *paths]))["layers"]


def flatten(action):
    """All layers but the first and the last, into the newest of them, as upkeep does."""
    c = chain()

    def argv(d):
        run = c.paths(d)[1:SEALED]
        return [IMG, "flatten", "--replace", "--out", run[-1], *run]

    def check(d, done):
        first, *run, last = c.paths(d)
        merged = infos(run)[-1]["flat"]
        assert merged or not done, "it is not merged"
        c.check(first, *(run[-1:] if merged else run), last)
        if not merged:
            tool(argv(d)[1:])
            c.check(first, run[-1], last)
        assert sorted(os.listdir(d)) == c.layers, f"left behind: {os.listdir(d)}"

    return sweep(c.copy, argv, check, action)


def seal(action):
    """The last layer, which its VMM could not."""
    c = chain()

    def check(d, done):
        paths = c.paths(d)
        assert infos(paths)[-1]["sealed"] or not done, "it is not sealed"
        c.check(*paths)
        tool(["seal", paths[-1]])
        assert infos(paths)[-1]["sealed"]
        c.check(*paths)

    return sweep(c.copy, lambda d: [IMG, "seal", c.paths(d)[-1]], check, action)


TESTS = [(f"dormouse-img {name} under an ext4, {what}", lambda f=f, a=a: f(a))
         for name, f in (("flatten", flatten), ("seal", seal))
         for what, a in (("killed at each write", "kill-group"), ("killed in the middle of each write", "tear"),
                         ("no space from each write on", "ENOSPC"))]
