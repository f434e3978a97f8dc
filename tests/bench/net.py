# SPDX-License-Identifier: Apache-2.0
"""Three guests take turns: in dormouse-vmm with dormouse-net, in dormouse-vmm with a tap, in QEMU's microvm with -netdev user.

What is the same: kernel, image, memory, one vCPU, the guest's commands (a disk with iperf3, curl and their libraries, made
of the host's), and the server at the other end, in a network namespace of its own. Measured, turn by turn:
  up, down  one TCP connection of iperf3, from and to the guest, for SECONDS: what the receiver counts
  curl      GET of a file of FILE_BYTES over HTTP
  connect   CONNECTIONS connections that are made one after the other, to a server that says a byte (connect.c)
  ask       the same, to a server that is asked for it
What differs: the frames (MTU 65520 with dormouse-net, 1500 with the others, each the default), offloads (the tap's), their
way to the host, the filter; and that what leaves a tap is routed by the host's kernel, where the others make sockets of it.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests/vm"))
from boot import MICROVM  # noqa: E402, I001
from network import open_tap  # noqa: E402
from user_network import HOST4, INET4, Network, World, ip  # noqa: E402
from vmm import BUILD, HANG_S, Vmm, artifact  # noqa: E402

SECONDS = 2
FILE_BYTES = 200_000_000
CONNECTIONS = 300
MEMORY_MIB = 256
IPERF, FILE, COUNT, COMMANDS, ASK = 5201, 7001, 7002, 7003, 7004
SYSTEMS = ("dormouse-net", "tap", "qemu")

# In the guest: it fetches commands, and says what they said, with their exit code.
SCRIPT = f"""#!/bin/bash
exec 3<>/dev/tcp/{INET4}/{COMMANDS}
while read -r line <&3; do
	bash -c "$line" >&3 2>&1 </dev/null
	echo "exit $?" >&3
done
"""
BY_HAND = (
    "#!/bin/bash\nmount -t proc proc /proc; mount -t tmpfs tmpfs /tmp; mount -o ro /dev/vdb /mnt; ip link set lo up; "
    "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; bash /mnt/run; sleep infinity\n"
)
SERVER = f"""
import os, socket
def file(c):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += c.recv(4096)
    c.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: {FILE_BYTES}\\r\\n\\r\\n")
    sent = 0
    while sent < {FILE_BYTES}:
        sent += os.sendfile(c.fileno(), source, sent, {FILE_BYTES} - sent)
    c.recv(1)
source = os.memfd_create("file")
os.truncate(source, {FILE_BYTES})
s = socket.create_server(("0.0.0.0", {FILE}))
while True:
    with s.accept()[0] as c:
        file(c)
"""
RUN = "/mnt/ld.so --library-path /mnt/lib /mnt/"
IPERF_RUN = f"{RUN}iperf3 -c {INET4} -p {IPERF} -t {SECONDS} -i 0 -J"
CURL_RUN = f"{RUN}curl -sSf -o /dev/null -w '%{{size_download}} %{{time_total}}' http://{INET4}:{FILE}/"


def iperf(said):
    return json.loads(said)["end"]["sum_received"]["bits_per_second"] / 8e6


def curl(said):
    size, seconds = map(float, said.split())
    assert size == FILE_BYTES, said
    return size / seconds / 1e6


def rate(said):
    return CONNECTIONS / float(said)


# What is measured: its unit, the command in the guest, and the figure that what it prints means.
FIGURES = {
    "up": ("MB/s", IPERF_RUN, iperf),
    "down": ("MB/s", f"{IPERF_RUN} -R", iperf),
    "curl": ("MB/s", CURL_RUN, curl),
    "connect": ("connections/s", f"/mnt/connect {CONNECTIONS} {INET4} {COUNT}", rate),
    "ask": ("connections/s", f"/mnt/connect {CONNECTIONS} {INET4} {ASK} ask", rate),
}
# Of a turn. Connections take less time than the others, and vary more.
ORDER = ("up", "connect", "ask", "down", "connect", "ask", "curl", "connect", "ask")


class Server:
    """At the other end; a context manager."""

    def __init__(self, world):
        libc = ctypes.CDLL(None, use_errno=True)
        netns = f"/proc/{world.internet.pid}/ns/net"
        inside = ["nsenter", f"--net={netns}"]
        self.processes = [
            subprocess.Popen([*inside, "iperf3", "-s", "-p", str(IPERF)], stdout=subprocess.DEVNULL),
            subprocess.Popen([*inside, sys.executable, "-c", SERVER]),
            subprocess.Popen([*inside, f"{BUILD}/test/bench-connect", "serve", str(COUNT)]),
            subprocess.Popen([*inside, f"{BUILD}/test/bench-connect", "serve", str(ASK), "ask"]),
        ]
        with open("/proc/self/ns/net") as here, open(netns) as there:
            assert libc.setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
            self.listener = socket.create_server(("0.0.0.0", COMMANDS))
            assert libc.setns(here.fileno(), 0) == 0, os.strerror(ctypes.get_errno())

    def guest(self):
        """The next one that connects."""
        return Guest(self.listener.accept()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for process in self.processes:
            process.kill()
            process.wait()


class Guest:
    def __init__(self, connection):
        self.lines = connection.makefile("rw", encoding="utf-8")

    def figure(self, name):
        _, command, meaning = FIGURES[name]
        self.lines.write(f"{command}\n")
        self.lines.flush()
        said = ""
        while not (end := re.search(r"exit (\d+)\n$", said)):
            line = self.lines.readline()
            assert line, f"{name}: the guest has gone: {said}"
            said += line
        assert end[1] == "0", f"{name}: {said}"
        return meaning(said[: end.start()])


def libraries(*programs):
    """(the program interpreter, all libraries) that these need."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    return re.search(r"^\s+(/\S*/ld-linux\S*) ", said, re.M)[1], set(re.findall(r"=> (/\S+)", said))


def make_disk(folder):
    """The disk with the guest's commands."""
    programs = [shutil.which(name) or sys.exit(f"{name} is not installed: tools/deps") for name in ("iperf3", "curl")]
    tree = f"{folder}/tree"
    os.makedirs(f"{tree}/lib")
    interpreter, needed = libraries(*programs)
    for path, to in [(p, tree) for p in programs] + [(p, f"{tree}/lib") for p in needed] + [
            (interpreter, f"{tree}/ld.so"), (f"{BUILD}/test/bench-connect", f"{tree}/connect")]:
        shutil.copy(path, to)
    write(f"{tree}/run", SCRIPT)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, f"{folder}/tools.ext4", "64M"], check=True,
                   stdout=subprocess.DEVNULL)
    return f"{folder}/tools.ext4"


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def start_ours(stack, server, folder, backend):
    vm = stack.enter_context(Vmm())
    disks = [{"path": artifact("mini.ext4"), "overlay": vm.path("overlay")},
             {"path": f"{folder}/tools.ext4", "overlay": vm.path("overlay-tools")}]
    vm.boot(memory_mib=MEMORY_MIB, disks=disks, net={"backend": backend})
    if backend == "tap":
        fd = open_tap("tapbench")
        stack.callback(os.close, fd)
        vm.control.call_fd("net_attach", fd, kind="tap")
    vm.start("exec", "bash", "-c", "mount -o ro /dev/vdb /mnt && bash /mnt/run")
    if backend == "user":
        vm.control.wait_event("net_wanted")
        Network(vm, internet=True)
    return server.guest()


def make_qemu_disks(folder):
    """Copies, as ours are locked: of the commands, and of the image, with a script in it that does what the agent does for us."""
    shutil.copy(f"{folder}/tools.ext4", f"{folder}/qemu-tools.ext4")
    subprocess.run(["cp", "--sparse=always", artifact("mini.ext4"), f"{folder}/qemu.ext4"], check=True)
    os.chmod(f"{folder}/qemu.ext4", 0o600)
    write(f"{folder}/bench.sh", BY_HAND)
    for command in (f"write {folder}/bench.sh /bench.sh", "sif /bench.sh mode 0100755"):
        subprocess.run(["debugfs", "-w", "-R", command, f"{folder}/qemu.ext4"], capture_output=True, check=True)


def start_qemu(stack, server, folder):
    argv = ["qemu-system-x86_64", "-M", MICROVM, "-cpu", "host", "-smp", "1", "-m", f"{MEMORY_MIB}M", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{folder}/console", "-kernel",
            artifact("kernel"), "-append", "root=/dev/vda rw console=ttyS0 quiet init=/bench.sh", "-netdev", "user,id=n",
            "-device", "virtio-net-device,netdev=n,mac=02:6f:63:00:00:01"]
    for name in ("qemu", "qemu-tools"):
        argv += ["-drive", f"file={folder}/{name}.ext4,if=none,id={name},format=raw,snapshot=on",
                 "-device", f"virtio-blk-device,drive={name}"]
    qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    stack.callback(qemu.wait)
    stack.callback(qemu.kill)
    return server.guest()


def hung(folder):
    """Ends the process, and with it the lab."""
    print(f"no end in {HANG_S} s", flush=True)
    if folder:
        with contextlib.suppress(OSError), open(f"{folder}/console", errors="replace") as f:
            print(f"QEMU's console:\n{f.read()[-2000:]}", flush=True)
    os._exit(3)


@contextlib.contextmanager
def guests():
    """One of each system, in a world of their own: {system: Guest}."""
    scratch = os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
        world = stack.enter_context(World())
        server = stack.enter_context(Server(world))
        # The host routes what comes from the tap.
        write("/proc/sys/net/ipv4/ip_forward", "1")
        ip(f"route add 10.0.2.0/24 via {HOST4}", netns=world.internet.pid)
        make_disk(folder)
        make_qemu_disks(folder)
        Vmm.directories.append(folder)
        watchdog = threading.Timer(HANG_S, hung, (folder,))
        watchdog.start()
        ours = [start_ours(stack, server, folder, backend) for backend in ("user", "tap")]
        made = dict(zip(SYSTEMS, [*ours, start_qemu(stack, server, folder)]))
        watchdog.cancel()
        yield made


def measure(rounds):
    """{figure: [{system: value}]}: turn by turn, since the machine is never equally busy."""
    samples = {figure: [] for figure in FIGURES}
    with guests() as systems:
        for _ in range(rounds):
            for figure in ORDER:
                watchdog = threading.Timer(HANG_S, hung, (None,))
                watchdog.start()
                samples[figure].append({name: guest.figure(figure) for name, guest in systems.items()})
                watchdog.cancel()
                print(f"{figure:8}", *(f"{n} {v:.1f}" for n, v in samples[figure][-1].items()), flush=True)
    return samples


def main(out, rounds):
    samples = measure(rounds)
    medians = {k: {n: statistics.median(s[n] for s in list_) for n in SYSTEMS} for k, list_ in samples.items()}
    # Within a turn, then the median: neighbours in time have had the same machine.
    ratios = {n: {k: round(statistics.median(s[n] / s["qemu"] for s in list_), 2) for k, list_ in samples.items()}
              for n in SYSTEMS}
    for k, (unit, _, _) in FIGURES.items():
        print(f"{k:8}", *(f"{n} {medians[k][n]:.1f} (x {ratios[n][k]})" for n in SYSTEMS), unit)
    with open(out, "w") as f:
        json.dump({"samples": samples, "medians": medians, "ratios": ratios}, f, indent=1)
    with open(os.path.join(TOP, "tests/bench/promises.json")) as f:
        promises = json.load(f)
    failed = 0
    for name, figure in (
        ("net_throughput_ratio_to_qemu_user", min(ratios["dormouse-net"][k] for k in ("up", "down", "curl"))),
        ("net_connections_ratio_to_qemu_user", ratios["dormouse-net"]["connect"]),
        ("net_tap_throughput_ratio_to_qemu_user", min(ratios["tap"][k] for k in ("up", "down", "curl"))),
    ):
        kept = figure >= promises[name]["limit"]
        failed += not kept
        print(f"promise {name}: {figure}, at least {promises[name]['limit']}: {'kept' if kept else 'NOT KEPT'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
