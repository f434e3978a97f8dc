# SPDX-License-Identifier: Apache-2.0
"""Linux guests with a network interface, behind which is a tap device of the machine that the test runs on."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading

from suite import case
from travel import checkpoint
from vmm import Vmm

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CLONE_NEWNET = 0x40000000
GATEWAY = "10.0.2.2"
GATEWAY6 = "fd00:6f63::2"
PORT = 7777


def open_tap(name):
    """A tap device with the addresses of the guest's gateway, in this network namespace: its descriptor. It ends with it."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    for command in (f"addr add {GATEWAY}/24", f"-6 addr add {GATEWAY6}/64"):
        subprocess.run(["ip", *command.split(), "dev", name, *(["nodad"] if "-6" in command else [])], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return fd


@contextlib.contextmanager
def tap(name="tapdm0"):
    """A tap device with the addresses of the guest's gateway; yields its descriptor.

    In a network namespace, which is this process's from then on: elsewhere somebody may have these addresses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    fd = open_tap(name)
    try:
        yield fd
    finally:
        os.close(fd)


class Echo:
    """Returns what it is sent, to any number of clients."""

    def __init__(self, address, family=socket.AF_INET):
        self.server = socket.create_server((address, PORT), family=family)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            with contextlib.suppress(OSError):
                client = self.server.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @staticmethod
    def _serve(client):
        with contextlib.suppress(OSError), client:
            while data := client.recv(1 << 20):
                client.sendall(data)


def attach(vm, fd):
    vm.control.call_fd("net_attach", fd, kind="tap")


@case("a network: set up by the agent, asked for by the first frame, whole in both directions, IPv4 and IPv6")
def network_works():
    with Vmm() as vm, tap() as fd:
        vm.boot(net={"backend": "tap"})
        said = vm.sh("ip -br addr show eth0; ip route; ip -6 route; cat /etc/resolv.conf; cat /sys/class/net/eth0/mtu")
        for word in ("10.0.2.15/24", "fd00:6f63::15/64", f"default via {GATEWAY}", f"default via {GATEWAY6}"):
            assert word in said, f"no {word} in {said}"
        assert said.endswith("nameserver 10.0.2.3\n1500\n"), said
        net = vm.info()["net"]
        assert not net["wanted"] and not net["attached"], f"nobody has used it: {net}"
        echo = [Echo(GATEWAY), Echo(GATEWAY6, socket.AF_INET6)]
        client = vm.start("exec", "bash", "-c", f"exec 3<>/dev/tcp/{GATEWAY}/{PORT}; echo hello >&3; head -1 <&3")
        vm.control.wait_event("net_wanted")
        attach(vm, fd)
        assert client.communicate()[0] == b"hello\n"
        for address in (GATEWAY, GATEWAY6):
            sums = vm.sh(
                f"bash -c 'head -c 4000000 /dev/urandom >/tmp/sent; exec 3<>/dev/tcp/{address}/{PORT}; "
                "cat /tmp/sent >&3 & head -c 4000000 <&3 | sha256sum; sha256sum </tmp/sent'"
            ).split("\n")
            assert sums[0] == sums[1] and len(sums[0]) > 64, sums
        metrics = vm.control.call("metrics")["metrics"]
        assert metrics["net_out_bytes_total"] > 8000000 < metrics["net_in_bytes_total"], metrics
        frames = metrics["net_out_frames_total"]
        assert frames < 8000000 / 1500, f"{frames} frames: no segmentation offload"
        del echo


@case("a network over a checkpoint: connections of the source go on, those of a restored guest end at once")
def network_over_a_checkpoint():
    with Vmm() as vm, tap() as fd:
        vm.boot(net={"backend": "tap"})
        attach(vm, fd)
        echo = Echo(GATEWAY)
        # Says each line that comes back; one of its own connections in the guest is nobody's business.
        vm.sh(
            f"bash -c 'exec 3<>/dev/tcp/{GATEWAY}/{PORT}; mkfifo /tmp/in; (while read -r l <&3; do echo $l >>/tmp/out; done; "
            "echo ended >>/tmp/out) & (exec 4<>/tmp/in; while read -r l <&4; do echo $l >&3; done) &' "
            ">/dev/null 2>&1 </dev/null; sleep 0.1; echo one >/tmp/in; until grep -q one /tmp/out; do sleep 0.05; done"
        )
        image = checkpoint(vm, "c")
        vm.sh("echo two >/tmp/in; until grep -q two /tmp/out; do sleep 0.05; done")
        vm.restore(image, op="rollback")
        assert vm.info()["net"]["attached"], "a tap stays"
        vm.renew()
        # Nobody has sent anything on it since.
        vm.sh("until grep -q ended /tmp/out; do sleep 0.05; done; ! grep -q two /tmp/out")
        said = vm.sh(f"bash -c 'exec 3<>/dev/tcp/{GATEWAY}/{PORT}; echo again >&3; head -1 <&3'")
        assert said == "again\n", said
        del echo
