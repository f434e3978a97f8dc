# SPDX-License-Identifier: Apache-2.0
"""The network of real guests through the life of sandboxes. Runs on the server's machine, as root: network.py SCRATCH

A daemon of its own, in a network namespace whose internet is another namespace (tests/vm/user_network.py): name server and echo
are there. In the guests, a client of the echo says how far it is, and why it ended.
"""
import os
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "../vm")]
from restart import Daemon  # noqa: E402
from user_network import HOST4, INET4, INET6, PORT, World, ip  # noqa: E402

BUILD = os.path.join(HERE, "../../build")
HANG_S = 240
NAME_SERVER = "10.9.9.9"  # a private one, as hosts have it
ECHO = 7001

# In the internet. Names have one address, INET4.
SERVER = f"""
import socket, threading
def echo(c):
    try:
        while data := c.recv(4096):
            c.sendall(data)
    except OSError:
        pass
def serve(port, handle):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=handle, args=(s.accept()[0],), daemon=True).start()
def greet(c):
    c.sendall(b"internet\\n")
    c.close()
for end in (({PORT}, greet), ({ECHO}, echo)):
    threading.Thread(target=serve, args=end, daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("{NAME_SERVER}", 53))
print("ready", flush=True)
while True:
    q, who = u.recvfrom(2048)
    end = q.index(0, 12) + 5  # of the question
    is_a = q[end - 4:end - 2] == b"\\0\\1"
    a = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4" + socket.inet_aton("{INET4}") if is_a else b""
    u.sendto(q[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([is_a]) + b"\\0\\0\\0\\0" + q[12:end] + a, who)
"""

# The number of the round is in /tmp/NAME, and why there are no more of them in /tmp/NAME.end.
CLIENT = f"""exec 3<>/dev/tcp/{INET4}/{ECHO} || exit 1
(n=0; while n=$((n + 1)); echo $n >&3 && read -t {HANG_S} x <&3; do echo $x >/tmp/$0; sleep 0.1; done
echo "status $?") 2>/tmp/$0.log >>/tmp/$0.log
mv /tmp/$0.log /tmp/$0.end"""


class Sandbox:
    def __init__(self, daemon, id):
        self.daemon, self.id, self.url = daemon, id, f"/sandboxes/{id}"

    def call(self, method, path="", body=None, allowed=(200, 201, 204)):
        return self.daemon.call(method, self.url + path, allowed, body)[1]

    def sh(self, script, *arguments):
        """Returns exit code, stdout and stderr, without the last newline."""
        body = {"cmd": "bash", "args": ["-c", script, *arguments], "timeout": HANG_S}
        done = self.call("POST", "/exec/run", body)
        return done["exitCode"], done["stdout"].rstrip("\n"), done["stderr"].rstrip("\n")

    def say(self, script):
        code, out, err = self.sh(script)
        assert code == 0, f"{script}: {code} {out} {err}"
        return out

    def connect(self, address=INET4, port=PORT):
        """What the other end says, or why it cannot be asked."""
        _, out, err = self.sh(f"exec 3<>/dev/tcp/{address}/{port} && head -1 <&3")
        return out or err.splitlines()[-1]

    def start_client(self, name):
        body = {"cmd": "bash", "args": ["-c", CLIENT, name], "timeout": 0}
        self.call("POST", "/exec", body)
        self.say(f"until [ -s /tmp/{name} ]; do [ ! -e /tmp/{name}.end ] && sleep 0.1; done")

    def goes_on(self, name):
        wait = f"""number() {{ local x=; until [ "$x" ]; do x=$(cat /tmp/{name}); done; echo $x; }}
            n=$(number); until [ $(number) -gt $n ]; do [ ! -e /tmp/{name}.end ] || exit 1; sleep 0.1; done"""
        code, _, err = self.sh(wait)
        assert code == 0, err + self.say(f"cat /tmp/{name} /tmp/{name}.end")

    def ends(self, name):
        """By an error, not because nothing came for long."""
        why = self.say(f"until [ -e /tmp/{name}.end ]; do sleep 0.1; done; cat /tmp/{name}.end")
        assert "reset" in why or "abort" in why, why
        return why


def wait_until(what, condition):
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def step(what):
    print(f"# {time.monotonic() - BEGUN:.0f} s: {what}", flush=True)


BEGUN = time.monotonic()


def check_created(sandbox):
    addresses = sandbox.say("ip -o addr show eth0; ip route; ip -6 route; cat /etc/resolv.conf")
    for word in ("10.0.2.15/24", "fd00:6f63::15/64", "default via 10.0.2.2", "default via fd00:6f63::2", "nameserver 10.0.2.3"):
        assert word in addresses, (word, addresses)
    assert sandbox.connect() == "internet" and sandbox.connect(INET6) == "internet"
    assert sandbox.connect("name.test") == "internet", "by its name"
    assert "refused" in sandbox.connect(HOST4)
    status = sandbox.say("curl -s http://169.254.169.254/v1/status")
    assert f'"{sandbox.id}"' in status, status


def check_policy(sandbox):
    sandbox.start_client("closed")
    answer = sandbox.call("PUT", "/network", {"networkEnabled": False})
    assert answer == {"sandboxID": sandbox.id, "networkEnabled": False}
    sandbox.ends("closed")
    assert "refused" in sandbox.connect()
    assert sandbox.id in sandbox.say("curl -s http://169.254.169.254/v1/status"), "open in each case"
    sandbox.call("PUT", "/network", {"networkEnabled": True})
    assert sandbox.connect() == "internet"


def check_hibernation(sandbox):
    sandbox.start_client("slept")
    sandbox.call("POST", "/hibernate")
    sandbox.call("POST", "/wake", {"timeout": 0})
    assert sandbox.connect("name.test") == "internet"
    print("#", sandbox.ends("slept"))


def take(sandbox, name):
    id = sandbox.call("POST", "/checkpoints", {"name": name})["id"]
    wait_until("the checkpoint is written",
               lambda: [c["status"] for c in sandbox.call("GET", "/checkpoints") if c["id"] == id] == ["ready"])
    return id


def check_fork(daemon, sandbox):
    sandbox.start_client("forked")
    id = take(sandbox, "net")
    fork = Sandbox(daemon, daemon.call("POST", f"/sandboxes/from-checkpoint/{id}", (201,), {"timeout": 0})[1]["sandboxID"])
    assert fork.connect("name.test") == "internet"
    fork.ends("forked")
    assert f'"{fork.id}"' in fork.say("curl -s http://169.254.169.254/v1/status"), "the fork is itself"
    sandbox.goes_on("forked")
    fork.call("PUT", "/network", {"networkEnabled": False})
    assert "refused" in fork.connect() and sandbox.connect() == "internet"
    sandbox.goes_on("forked")
    fork.call("DELETE")
    # Back to the instant at which the client had its connection, which is nobody's now.
    sandbox.call("POST", f"/checkpoints/{id}/restore")
    assert sandbox.connect("name.test") == "internet"
    sandbox.ends("forked")


def check_daemon(daemon, sandbox):
    sandbox.start_client("kept")
    daemon.kill()
    daemon.start()
    sandbox.goes_on("kept")
    assert sandbox.connect("name.test") == "internet"
    assert sandbox.id in sandbox.say("curl -s http://169.254.169.254/v1/status")
    sandbox.call("PUT", "/network", {"networkEnabled": False})
    sandbox.ends("kept")
    assert "refused" in sandbox.connect()


def play(daemon):
    daemon.start()
    step("started")
    body = {"memoryMB": 512, "timeout": 0}
    sandbox = Sandbox(daemon, daemon.call("POST", "/sandboxes", (201,), body)[1]["sandboxID"])
    try:
        step("created")
        check_created(sandbox)
        step("policy")
        check_policy(sandbox)
        step("hibernate and wake")
        check_hibernation(sandbox)
        step("fork and restore")
        check_fork(daemon, sandbox)
        step("another daemon")
        check_daemon(daemon, sandbox)
        step("done")
    finally:
        sandbox.call("DELETE", allowed=(204, 404))


def main(scratch):
    folder = tempfile.mkdtemp(prefix="nw-", dir=scratch)
    daemon = Daemon(BUILD, folder)
    try:
        with World(SERVER, {"/etc/resolv.conf": f"nameserver {NAME_SERVER}\n"}):
            ip(f"route add {NAME_SERVER}/32 via {INET4}")
            play(daemon)
    finally:
        if daemon.process and daemon.process.poll() is None:
            daemon.process.terminate()
            daemon.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print("network: ok")


if __name__ == "__main__":
    main(sys.argv[1])
