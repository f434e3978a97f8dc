# SPDX-License-Identifier: Apache-2.0
"""Throughput of a guest's network in user mode: dormouse-vmm with dormouse-net, and QEMU's microvm with -netdev user.

What is the same: kernel, image, memory, one vCPU, the guest's commands (bash and coreutils), libslirp, and the server
at the other end, in a network namespace of its own. Timed by the server: from the guest's connection to its end, for MIB
MiB in each direction, and for CONNECTIONS connections that are made one after the other.
What differs: the frames (MTU 65520 here, 1500 there, each the default), their way to libslirp, and the filter.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests/vm"))
from boot import MICROVM  # noqa: E402, I001
from user_network import INET4, Network, World  # noqa: E402
from vmm import HANG_S, Vmm, artifact  # noqa: E402

MIB = 32
CONNECTIONS = 20
MEMORY_MIB = 256
DOWN, UP, COUNT = 7001, 7002, 7003

# One after the other: down, up, connections. The server sees when each begins and ends.
COMMANDS = (
    f"exec 3<>/dev/tcp/{INET4}/{DOWN}; cat <&3 >/dev/null; exec 3>&-; "
    f"exec 3<>/dev/tcp/{INET4}/{UP}; head -c {MIB}M /dev/zero >&3; exec 3>&-; "
    f"for i in $(seq {CONNECTIONS}); do exec 3<>/dev/tcp/{INET4}/{COUNT}; read -u 3 x; exec 3>&-; done"
)
BY_HAND = (
    "mount -t proc proc /proc; ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; "
    "ip route add default via 10.0.2.2; "
)
SERVER = f"""
import socket, threading, time
def down(c):
    block = bytes(1 << 20)
    for _ in range({MIB}):
        c.sendall(block)
    c.shutdown(socket.SHUT_WR)
    c.recv(1)
def up(c):
    left = {MIB} << 20
    while data := c.recv(1 << 20):
        left -= len(data)
    assert not left, left
def serve(port, name, fn, times):
    s = socket.create_server(("0.0.0.0", port), backlog=128)
    while True:
        begun = None
        for _ in range(times):
            c = s.accept()[0]
            begun = begun or time.monotonic()
            fn(c)
            c.close()
        print(name, time.monotonic() - begun, flush=True)
def count(c):
    c.sendall(b"x\\n")
for what in (({DOWN}, "down", down, 1), ({UP}, "up", up, 1), ({COUNT}, "count", count, {CONNECTIONS})):
    threading.Thread(target=serve, args=what).start()
"""


class Server:
    def __init__(self, world):
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{world.internet.pid}/ns/net", sys.executable, "-c", SERVER],
            stdout=subprocess.PIPE, text=True)

    def results(self):
        """Of one run: {name: seconds}."""
        lines = [self.process.stdout.readline().split() for _ in range(3)]
        return {name: float(seconds) for name, seconds in lines}


def run_ours(server):
    with Vmm() as vm:
        vm.boot(memory_mib=MEMORY_MIB, net={"backend": "user"})
        client = vm.start("exec", "bash", "-c", COMMANDS)
        vm.control.wait_event("net_wanted")
        Network(vm, internet=True)
        results = server.results()
        assert client.wait() == 0, client.stderr.read()
        return results


def run_qemu(server):
    with tempfile.TemporaryDirectory(dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as folder:
        subprocess.run(["cp", "--sparse=always", artifact("mini.ext4"), f"{folder}/disk"], check=True)
        script = BY_HAND + COMMANDS
        for command in (f"write {write(folder, script)} /bench.sh", "sif /bench.sh mode 0100755"):
            subprocess.run(["debugfs", "-w", "-R", command, f"{folder}/disk"], capture_output=True, check=True)
        argv = ["qemu-system-x86_64", "-M", MICROVM, "-cpu", "host", "-smp", "1", "-m", f"{MEMORY_MIB}M", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{folder}/console", "-kernel",
                artifact("kernel"), "-append", "root=/dev/vda rw console=ttyS0 quiet init=/bench.sh", "-drive",
                f"file={folder}/disk,if=none,id=d,format=raw", "-device", "virtio-blk-device,drive=d", "-netdev",
                "user,id=n", "-device", "virtio-net-device,netdev=n,mac=02:6f:63:00:00:01"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as qemu:
            try:
                return server.results()
            finally:
                qemu.kill()


def write(folder, script):
    path = f"{folder}/bench.sh"
    with open(path, "w") as f:
        f.write("#!/bin/bash\n" + script + "\nsleep infinity\n")
    return path


def main(out, rounds):
    samples = {"dormouse": [], "qemu": []}
    with World() as world:
        server = Server(world)
        watchdog = threading.Timer(HANG_S * 3, lambda: os._exit(3))
        watchdog.daemon = True
        watchdog.start()
        for _ in range(rounds):
            for name, run in (("dormouse", run_ours), ("qemu", run_qemu)):
                samples[name].append(run(server))
                print(name, samples[name][-1], flush=True)
        server.process.kill()
    keys = ("down", "up", "count")
    medians = {n: {k: statistics.median(s[k] for s in list_) for k in keys} for n, list_ in samples.items()}
    ratios = {k: round(medians["qemu"][k] / medians["dormouse"][k], 2) for k in keys}
    for k, unit, amount in (("down", "MiB/s", MIB), ("up", "MiB/s", MIB), ("count", "connections/s", CONNECTIONS)):
        ours, theirs = (amount / medians[n][k] for n in ("dormouse", "qemu"))
        print(f"{k:6} dormouse {ours:8.1f} qemu {theirs:8.1f} {unit}, x {ratios[k]}")
    with open(out, "w") as f:
        json.dump({"samples": samples, "ratios": ratios}, f, indent=1)
    with open(os.path.join(TOP, "tests/bench/promises.json")) as f:
        limit = json.load(f)["net_throughput_ratio_to_qemu_user"]["limit"]
    kept = min(ratios["down"], ratios["up"]) >= limit
    print(f"promise: at least {limit} times QEMU's throughput: {'kept' if kept else 'NOT KEPT'}")
    return not kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
