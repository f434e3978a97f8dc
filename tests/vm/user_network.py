# SPDX-License-Identifier: Apache-2.0
"""Linux guests behind dormouse-net: what they reach of a host and of an internet that the test makes of namespaces.

The test's own process moves into a network namespace that is the host: with addresses that are public, private and
local, and a wire to a second namespace, the internet, whose routers know private networks, too.
"""

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from suite import case, wait_until
from vmm import BUILD, Vmm

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE, MS_BIND = 0x44000, 0x1000
PORT = 7000
HOST4, HOST6, HOST_PRIVATE = "93.184.216.1", "2a00:1234::1", "192.168.7.1"
INET4, INET6, INET_PRIVATE = "93.184.216.34", "2a00:1234::2", "192.168.7.2"
LATE = "93.184.216.77"  # becomes the host's own during the test

# In the internet: TCP that says where it is and then holds the line, and a name server of sorts.
SERVER = """
import socket, threading
def serve(port, say):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        c = s.accept()[0]
        c.sendall(say)
        held.append(c)
held = []
threading.Thread(target=serve, args=(7000, b"internet\\n"), daemon=True).start()
threading.Thread(target=serve, args=(53, b"names\\n"), daemon=True).start()
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
u.bind(("::", 53))
print("ready", flush=True)
while True:
    data, who = u.recvfrom(2048)
    u.sendto(b"answer to " + data, who)
"""


LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*lines, netns=None):
    """Commands of ip(8), here or in the network namespace of a process."""
    inside = ["nsenter", f"--net=/proc/{netns}/ns/net"] if netns else []
    subprocess.run([*inside, "ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def call_libc(name, *arguments):
    assert getattr(LIBC, name)(*arguments) == 0, f"{name}: {os.strerror(ctypes.get_errno())}"


def replace_file(path, text):
    """For this process and those that it starts, with a mount that nobody else sees."""
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(text)
        f.flush()
        call_libc("mount", f.name.encode(), os.path.realpath(path).encode(), None, ctypes.c_ulong(MS_BIND), None)


class World:
    """The host and its internet; a context manager.

    server: the program of the internet, which says "ready"; files: {path: text}, what the host has instead of its own.
    """

    def __init__(self, server=SERVER, files={}):
        call_libc("unshare", CLONE_NEWNET | CLONE_NEWNS)
        call_libc("mount", None, b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None)
        for path, text in files.items():
            replace_file(path, text)
        # Of its own network namespace, which it says is there, and then waits for its addresses.
        self.internet = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", 'echo made; read go; exec "$@"', "sh", sys.executable, "-c", server],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.internet.stdout.readline() == "made\n"
        pid = self.internet.pid
        ip("link set lo up", f"link add wire type veth peer name wire netns {pid}", f"addr add {HOST4}/24 dev wire",
           f"addr add {HOST_PRIVATE}/24 dev wire", f"addr add {HOST6}/64 dev wire nodad", "link set wire up",
           f"route add default via {INET4}")
        addresses = (f"{INET4}/24", f"{INET_PRIVATE}/24", "10.9.9.9/32", f"{INET6}/64")
        inside = [f"addr add {a} dev wire{' nodad' if ':' in a else ''}" for a in addresses]
        ip("link set lo up", "link set wire up", *inside, netns=pid)
        self.internet.stdin.write("go\n")
        self.internet.stdin.flush()
        assert self.internet.stdout.readline() == "ready\n"
        self.reached = []  # connections to the host's own server: there must be none
        server = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=self._count, args=(server,), daemon=True).start()

    def _count(self, server):
        while True:
            connection, who = server.accept()
            self.reached.append(who)
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.internet.send_signal(signal.SIGKILL)
        self.internet.wait()


def carry(source, sink, is_lost):
    """Messages, until an end closes, but for those of which is_lost(number, message) is true."""
    for n in itertools.count(1):
        message = source.recv(1 << 20)
        if not message:
            return
        if not is_lost(n, message):
            with contextlib.suppress(BrokenPipeError):
                sink.send(message)


def lossy(end, is_lost):
    """A socket that messages go through to this one, and from it, as carry() does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = end.dup()
    for pair in (ours, end), (end, ours):
        threading.Thread(target=carry, args=(*pair, is_lost), daemon=True).start()
    return theirs


class Network:
    """A dormouse-net, as the server starts it. is_lost: of messages between it and the guest, see carry()."""

    def __init__(self, vm, is_lost=None, **policy):
        self.path = vm.path("net.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if is_lost:
            with ours:
                ours = lossy(ours, is_lost)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(8)
        with ours, theirs, listener:
            fds = theirs.fileno(), listener.fileno()
            self.process = subprocess.Popen(
                [f"{BUILD}/dormouse-net", "--frames-fd", str(fds[0]), "--socket-fd", str(fds[1]), "--socket", self.path,
                 "--policy", json.dumps(policy)], pass_fds=fds)
            vm.control.call_fd("net_attach", ours.fileno(), kind="user")

    def call(self, op, **fields):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path)
            s.sendall(json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        assert answer["ok"], answer
        return answer

    def ends(self):
        assert self.process.wait(60) == 0, self.process.returncode


def try_all(vm, ends):
    """What a TCP connection to each says, or why it fails: {(address, port): text}."""
    script = "".join(f'echo "@{a} {p} $( (exec 3<>/dev/tcp/{a}/{p} && head -1 <&3) 2>&1 | tail -1)"; ' for a, p in ends)
    said = vm.guest("exec", "bash", "-c", script)
    return {(m[1], int(m[2])): m[3] for m in re.finditer(r"^@(\S+) (\d+) (.*)$", said, re.M)}


OPEN = [(INET4, PORT), (INET6, PORT), ("10.0.2.3", 53)]
CLOSED = [(HOST4, 53), ("10.0.2.2", 53)] + [
    (address, PORT)
    for address in (
        *(HOST4, HOST6, HOST_PRIVATE, INET_PRIVATE, "10.9.9.9", "10.0.2.2", "10.0.2.3", "fd00:6f63::2"),
        *(f"::ffff:{HOST_PRIVATE}", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"),
        *("169.254.169.254", "169.254.0.1", "100.64.0.1", "fd01::1"),
    )
]


@case("user-mode network: the internet is open; the host, its networks and their other forms are refused at once")
def network_opens_and_closes():
    with World() as world, Vmm() as vm:
        vm.boot(net={"backend": "user"})
        client = vm.start("exec", "bash", "-c", f"exec 3<>/dev/tcp/{INET4}/{PORT}; head -1 <&3")
        vm.control.wait_event("net_wanted")
        net = Network(vm, internet=True, dns=INET4)
        assert client.communicate()[0] == b"internet\n", "the first frames have waited for it"
        said = try_all(vm, OPEN + CLOSED)
        assert [said[e] for e in OPEN] == ["internet", "internet", "names"], said
        assert not world.reached, world.reached
        for end in CLOSED:
            assert "internet" not in said[end] and "timed out" not in said[end], (end, said[end])
        ask = ("exec", "bash", "-c", "exec 3<>/dev/udp/10.0.2.3/53; echo who >&3; timeout 60 head -1 <&3")
        assert vm.guest(*ask) == "answer to who\n"
        net.call("policy", internet=True, dns=INET6)
        assert vm.guest(*ask) == "answer to who\n", "over IPv6"
        # Nobody listens there: who asks is told so.
        net.call("policy", internet=True, dns=HOST4)
        assert "refused" in vm.guest(*ask, check=False).stderr
        ip(f"addr add {LATE}/32 dev wire")
        assert "refused" in try_all(vm, [(LATE, PORT)])[(LATE, PORT)]
        assert not world.reached, world.reached
        assert net.call("stats")["refused"] >= len(CLOSED)
        vm.shut_down()
        net.ends()


@case("user-mode network: a policy that closes resets connections; a new process resets those of before")
def network_closes_connections():
    with World(), Vmm() as vm:
        vm.boot(net={"backend": "user"})
        hold = f"exec 3<>/dev/tcp/{INET4}/{PORT}; head -1 <&3; cat <&3"
        client = vm.start("exec", "bash", "-c", hold)
        vm.control.wait_event("net_wanted")
        net = Network(vm, internet=True)
        assert client.stdout.readline() == b"internet\n"
        net.call("policy", internet=False)
        assert b"reset" in client.communicate()[1]
        assert "refused" in try_all(vm, [(INET4, PORT)])[(INET4, PORT)]
        net.call("policy", internet=True)
        write = f"exec 3<>/dev/tcp/{INET4}/{PORT}; head -1 <&3; read x; echo $x >&3; cat <&3"
        client = vm.start("exec", "bash", "-c", write)
        assert client.stdout.readline() == b"internet\n"
        net.process.kill()
        net.process.wait()
        wait_until("the machine has no network", lambda: not vm.info()["net"]["attached"])
        # It writes into a connection that the next one does not know.
        client.stdin.write(b"hello\n")
        client.stdin.close()
        vm.control.wait_event("net_wanted")
        net = Network(vm, internet=True)
        assert b"reset" in client.stderr.read() and client.wait() != 0
        assert try_all(vm, [(INET4, PORT)])[(INET4, PORT)] == "internet"


BULK_BYTES = 2_000_000
UP_BYTES = 300_000  # less: what Linux finds lost without SACK, it finds slowly
# A line from the guest says how much there is to come from it; then it is told the sum of that, and gets as much.
BULK_SERVER = f"""
import hashlib, random, socket
s = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    with s.accept()[0] as c, c.makefile("rwb") as f:
        f.write(hashlib.sha256(f.read(int(f.readline()))).hexdigest().encode() + b"\\n")
        f.write(random.Random(1).randbytes({BULK_BYTES}))
"""


@case("user-mode network: lost frames are sent again, to the guest and from it")
def network_sends_lost_frames_again():
    with World(server=BULK_SERVER), Vmm() as vm:
        vm.boot(net={"backend": "user"})
        send = f"head -c {UP_BYTES} /dev/zero"
        client = vm.start("exec", "bash", "-c", f"exec 3<>/dev/tcp/{INET4}/{PORT}; (echo {UP_BYTES}; {send}) >&3; "
                          "read -r sum <&3; echo $sum; sha256sum <&3")
        vm.control.wait_event("net_wanted")
        net = Network(vm, is_lost=lambda n, _: n % 7 == 0, internet=True)
        sums = client.communicate()[0].decode().split()
        assert sums[0] == hashlib.sha256(bytes(UP_BYTES)).hexdigest(), sums
        assert sums[1] == hashlib.sha256(random.Random(1).randbytes(BULK_BYTES)).hexdigest(), sums
        stats = net.call("stats")
        print(f"of {BULK_BYTES} bytes to the guest {stats['bytesIn']}, of {UP_BYTES} from it {stats['bytesOut']}")
        assert stats["bytesIn"] > BULK_BYTES * 1.05, stats
        vm.shut_down()


SYN_AND_ACK, FLAGS_AT = 0x12, 12 + 14 + 20 + 13  # behind the headers of the card, of Ethernet, and of IPv4


@case("user-mode network: a greeting comes though the begin of its connection was lost, twice")
def network_begins_again():
    lost = []

    def is_lost(_, message):
        if len(lost) < 2 and message[FLAGS_AT : FLAGS_AT + 1] == bytes([SYN_AND_ACK]):
            lost.append(message)
            return True
        return False

    with World(), Vmm() as vm:
        vm.boot(net={"backend": "user"})
        client = vm.start("exec", "bash", "-c", f"exec 3<>/dev/tcp/{INET4}/{PORT}; head -1 <&3")
        vm.control.wait_event("net_wanted")
        Network(vm, is_lost=is_lost, internet=True)
        assert client.communicate()[0] == b"internet\n"
        assert len(lost) == 2, lost
        vm.shut_down()


API_PORT = 8099
# Of perl-base, which every image has. Says where it is to whoever connects, over IPv4 and IPv6.
PERL_SERVER = (
    "use Socket; socket(S, PF_INET6, SOCK_STREAM, 0) or die; setsockopt(S, 41, 26, pack('l', 0)) or die; "
    "bind(S, pack_sockaddr_in6(%d, Socket::inet_pton(AF_INET6, '::'))) or die; listen(S, 9) or die; "
    "while (accept(C, S)) { syswrite(C, qq(%s\\n)); close(C) }"
)


def start_guest(stack, name):
    """A sandbox with a network, and a server in it that says its name."""
    vm = stack.enter_context(Vmm())
    vm.boot(net={"backend": "user"})
    first = vm.start("exec", "bash", "-c", f"exec 3<>/dev/tcp/{INET4}/{PORT}; head -1 <&3")
    vm.control.wait_event("net_wanted")
    net = Network(vm, internet=True, dns=INET4)
    assert first.communicate()[0] == b"internet\n"
    vm.start("exec", "perl", "-e", PERL_SERVER % (PORT, name))
    ends = [("127.0.0.1", PORT), ("10.0.2.15", PORT), ("fd00:6f63::15", PORT)]
    wait_until("it listens", lambda: try_all(vm, ends[:1])[ends[0]] == name)
    # What every sandbox takes for its own address is its own, and no other's.
    assert set(try_all(vm, ends).values()) == {name}
    return vm, net


@contextlib.contextmanager
def api_server():
    """A dormoused that listens everywhere."""
    scratch = os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")
    with tempfile.TemporaryDirectory(dir=scratch) as state:
        options = [f"--listen=tcp:0.0.0.0:{API_PORT}", f"--listen=tcp:[::]:{API_PORT + 1}", f"--state={state}",
                   "--no-auth", "--pool-size=0"]
        with subprocess.Popen([f"{BUILD}/dormoused", *options]) as process:
            try:
                for end in [(a, API_PORT) for a in (HOST4, HOST_PRIVATE, "127.0.0.1")] + [(HOST6, API_PORT + 1)]:
                    wait_until(f"it listens at {end}", lambda end=end: listens(process, end))
                yield
            finally:
                process.kill()


def listens(process, end):
    assert process.poll() is None, "it has ended"
    with contextlib.suppress(OSError), socket.create_connection(end):
        return True


def udp_ports():
    """Local ones of this network namespace, over IPv4."""
    with open("/proc/self/net/udp") as f:
        return {int(line.split()[1].split(":")[1], 16) for line in f.readlines()[1:]}


@case("user-mode network: neither another sandbox, nor its sockets on the host, nor the API listener can be reached")
def network_hides_sandboxes():
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(World())
        stack.enter_context(api_server())
        one, _ = start_guest(stack, "one")
        before = udp_ports()
        two, net_two = start_guest(stack, "two")
        # A socket of its network on the host, to which anybody could send there.
        asks = two.start("exec", "bash", "-c", f"exec 3<>/dev/udp/{INET4}/53; echo a >&3; head -1 <&3; read x; head -1 <&3")
        assert asks.stdout.readline() == b"answer to a\n"
        [port] = udp_ports() - before
        closed = [(a, p) for a in (HOST4, HOST_PRIVATE, "10.0.2.2", "10.0.2.3")
                  for p in (PORT, API_PORT)]
        closed += [(a, p) for a in (HOST6, "fd00:6f63::2", f"::ffff:{HOST4}", f"64:ff9b::{0x5db8:x}:{0xd801:x}")
                   for p in (PORT, API_PORT + 1)]
        said = try_all(one, closed)
        assert len(said) == len(closed), said
        for end in closed:
            # At once: what a filter that only drops would make of it is a time-out.
            assert re.search("refused|unreachable|denied|Invalid", said[end]), (end, said[end])
        heard = net_two.call("stats")["framesIn"]
        for address in (HOST4, HOST_PRIVATE, "10.0.2.2"):
            one.guest("exec", "bash", "-c", f"exec 3<>/dev/udp/{address}/{port}; echo hello >&3; echo again >&3 || true")
        assert net_two.call("stats")["framesIn"] == heard and net_two.call("stats")["unasked"] == 0
        assert not world.reached, world.reached
        asks.kill()
