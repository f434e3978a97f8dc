# SPDX-License-Identifier: Apache-2.0
"""dormouse-ram: packing and unpacking memory images, killed at every write, and on a full disk."""
import functools
import os
import random
import struct
import subprocess
import zlib

from faults import program, sweep

RAM = program("dormouse-ram")
MIB = 1 << 20


@functools.cache
def raw_bytes(seed, mib=4):
    """A raw image (docs/snapshot-format.md) with some pages of text and noise."""
    r = random.Random(seed)
    ram = bytearray(mib * MIB)
    for page in range(0, len(ram) // 4096, 100):
        text = r.randbytes(4096) if page % 200 else (b"page %d " % page * 700)[:4096]
        ram[page * 4096:page * 4096 + 4096] = text
    table = b""
    stored = 0
    for at in range(0, len(ram), 2 * MIB):
        chunk = ram[at:at + 2 * MIB]
        pages = sum(any(chunk[p:p + 4096]) for p in range(0, len(chunk), 4096))
        stored += pages * 4096
        table += struct.pack("<IHH", zlib.crc32(chunk) if pages else 0, pages, 0)
    size = (64 + len(table) + 4095) // 4096 * 4096
    table += bytes(size - 64 - len(table))
    head = b"DORMRAM\0" + struct.pack("<II", 1, size) + r.randbytes(16)
    head += struct.pack("<QQIII", len(ram), stored, zlib.crc32(table), 0, 0)
    head += struct.pack("<I", zlib.crc32(head))
    return bytes(ram) + head + table


def raw_image(path, seed=1):
    with open(path, "wb") as f:
        f.write(raw_bytes(seed))


def ram_tool(*argv):
    return subprocess.run([RAM, *argv], text=True, capture_output=True, timeout=60, check=False)


def same(a, b):
    with open(a, "rb") as f, open(b, "rb") as g:
        return f.read() == g.read()


def pack_and(setup_more, old_seed):
    """Sweep pack; after each fault the cold image is the old one, none, or the whole new one."""

    def setup(d):
        raw_image(f"{d}/raw")
        setup_more(d)

    def check(d, done):
        v = ram_tool("verify", "--format", "raw", f"{d}/raw")
        assert v.returncode == 0, f"the source: {v.stderr}"
        if os.path.exists(f"{d}/cold"):
            v = ram_tool("verify", "--format", "cold", f"{d}/cold")
            assert v.returncode == 0, f"under the name is {v.stderr}"
        else:
            assert not done and not old_seed, "there is no image"
        # Another try finds nothing in its way and leaves nothing behind.
        v = ram_tool("pack", f"{d}/raw", f"{d}/cold")
        assert v.returncode == 0, f"packing again: {v.stderr}"
        os.unlink(f"{d}/raw")
        v = ram_tool("unpack", f"{d}/cold", f"{d}/raw")
        assert v.returncode == 0, f"unpacking: {v.stderr}"
        raw_image(f"{d}/want")
        assert same(f"{d}/raw", f"{d}/want"), "the image has changed on the way"
        assert sorted(f for f in os.listdir(d) if f != "old") == ["cold", "raw", "want"], \
            f"left behind: {os.listdir(d)}"

    return setup, check


def pack(action):
    setup, check = pack_and(lambda d: None, None)
    return sweep(setup, lambda d: [RAM, "pack", f"{d}/raw", f"{d}/cold"], check, action)


def pack_over(action):
    def old(d):
        raw_image(f"{d}/old", seed=2)
        assert ram_tool("pack", f"{d}/old", f"{d}/cold").returncode == 0

    setup, check = pack_and(old, 2)
    return sweep(setup, lambda d: [RAM, "pack", f"{d}/raw", f"{d}/cold"], check, action)


def unpack(action):
    def setup(d):
        raw_image(f"{d}/want")
        assert ram_tool("pack", f"{d}/want", f"{d}/cold").returncode == 0

    def check(d, done):
        if os.path.exists(f"{d}/raw"):
            assert same(f"{d}/raw", f"{d}/want"), "under the name is something else"
        else:
            assert not done, "there is no image"
        v = ram_tool("unpack", f"{d}/cold", f"{d}/raw")
        assert v.returncode == 0, f"unpacking again: {v.stderr}"
        assert same(f"{d}/raw", f"{d}/want"), "the image has changed on the way"
        assert sorted(os.listdir(d)) == ["cold", "raw", "want"], f"left behind: {os.listdir(d)}"

    return sweep(setup, lambda d: [RAM, "unpack", f"{d}/cold", f"{d}/raw"], check, action)


TESTS = [(f"dormouse-ram {name}, {what}", lambda f=f, a=a: f(a))
         for name, f, what, a in (
             ("pack over an old image", pack_over, "killed at each write", "kill-group"),
             ("pack", pack, "killed in the middle of each write", "tear"),
             ("pack", pack, "no space from each write on", "ENOSPC"),
             ("unpack", unpack, "killed at each write", "kill-group"),
             ("unpack", unpack, "no space from each write on", "ENOSPC"))]
