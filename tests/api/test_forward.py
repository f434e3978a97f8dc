# SPDX-License-Identifier: Apache-2.0
"""Any TCP to the ports of a sandbox: the route, and `dormouse forward`."""
import hashlib
import os
import signal
import socket
import subprocess
import threading

from guest_server import pattern
from harness import KEY, TOP, Server, test
from test_proxy import MB, Site, read_all, read_until

CLI = os.path.join(TOP, "build/dormouse")


def upgrade(s, box, port, key=True):
    c = socket.create_connection(("127.0.0.1", s.port))
    c.settimeout(60)
    c.sendall(f"GET /api{box.url[4:]}/tcp/{port} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
              f"{'X-API-Key: ' + KEY if key else 'A: b'}\r\n\r\n".encode())
    return c


class Forward:
    """dormouse forward, as a process."""

    def __init__(self, s, box, port, unix=True):
        env = {**os.environ, "DORMOUSE_URL": f"unix:{s.socket}" if unix else f"http://127.0.0.1:{s.port}", "DORMOUSE_API_KEY": KEY}
        self.process = subprocess.Popen([CLI, "forward", box.id, f"0:{port}"], env=env, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(line.split()[0].split(":")[1])

    def connect(self):
        c = socket.create_connection(("127.0.0.1", self.port))
        c.settimeout(60)
        return c

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=30) == 0, self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()


def echo_all(c, data):
    """Send all of it, then the end, and read what comes back, at once."""
    sender = threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)))
    sender.start()
    got = read_all(c)
    sender.join()
    return got


@test
def raw_tcp_passes_after_an_upgrade():
    with Server() as s:
        site = Site(s.create())
        with upgrade(s, site.box, site.port + 1) as c:
            assert read_until(c, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            data = pattern(3 * MB)
            assert echo_all(c, data) == data
        with upgrade(s, site.box, site.port + 1, key=False) as c:
            assert read_until(c, b"\r\n\r\n").startswith(b"HTTP/1.1 401 ")


@test
def what_cannot_be_forwarded_is_told():
    with Server() as s:
        box = s.create()
        box.request("GET", "/tcp/80").expect(426, "Upgrade")
        box.request("GET", "/tcp/0").expect(400, "port")
        box.request("GET", "/tcp/http").expect(400, "port")
        s.request("GET", "/sandboxes/sb-00000000/tcp/80").expect(404)
        port = Site(box, start=False).port
        box.request("GET", f"/tcp/{port}", headers={"Upgrade": "tcp", "Connection": "Upgrade"}).expect(502, "connection_refused")
        box.request("DELETE").expect(204)
        box.request("GET", "/tcp/80").expect(410)


@test
def dormouse_forward_moves_any_tcp_both_ways():
    with Server() as s:
        site = Site(s.create())
        data = pattern(100 * MB)
        for unix in (True, False):
            with Forward(s, site.box, site.port + 1, unix) as f:
                with f.connect() as c:
                    got = echo_all(c, data)
                    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
                # HTTP is TCP, too, and several go at once.
                with Forward(s, site.box, site.port, unix) as web, web.connect() as a, web.connect() as b:
                    for c in (a, b):
                        c.sendall(b"GET /x HTTP/1.0\r\n\r\n")
                    assert read_all(b).startswith(b"HTTP/1.0 200") and read_all(a).startswith(b"HTTP/1.0 200")
            data = data[:MB]


@test
def dormouse_forward_wakes_and_its_connections_go_on():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        box = s.create()
        site = Site(box)
        box.request("POST", "/hibernate").expect(200)
        with Forward(s, box, site.port + 1) as f:
            assert box.info()["status"] == "hibernated"
            with f.connect() as c:
                for word in (b"one", b"two"):
                    c.sendall(word)
                    assert c.recv(10) == word and box.info()["status"] == "running"
                    box.request("POST", "/hibernate").expect(200)
                c.sendall(b"three")
                c.shutdown(socket.SHUT_WR)
                assert read_all(c) == b"three"


@test
def dormouse_forward_says_what_is_wrong():
    with Server() as s:
        site = Site(s.create(), start=False)
        with Forward(s, site.box, site.port) as f:
            with f.connect() as c:
                assert c.recv(1) == b""
            assert f"connect to port {site.port}" in f.process.stderr.readline()
        env = {**os.environ, "DORMOUSE_URL": f"unix:{s.socket}"}
        for args in (["sb-1"], ["sb-1", "x"], ["sb-1", "1:2:3"], ["sb-1", "70000"], ["../x", "80"]):
            r = subprocess.run([CLI, "forward", *args], env=env, capture_output=True, text=True)
            assert r.returncode == 2 and r.stderr.startswith("dormouse forward: "), (args, r)
