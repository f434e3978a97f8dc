# SPDX-License-Identifier: Apache-2.0
"""The proxy for previews (api.md 11), with servers run by the real agent."""
import hashlib
import http.client
import signal
import socket
import threading

from guest_server import pattern, ws_frame, ws_read
from harness import HERE, Server, test, wait_for

WORD = "correct-horse-battery"
MB = 1 << 20


def free_ports():
    """A port whose next one is free, too."""
    while True:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            port = a.getsockname()[1]
            try:
                b.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


class Site:
    """A server in a sandbox, and requests to it through its preview."""

    def __init__(self, box, port=None, address="127.0.0.1", start=True):
        self.box, self.server, self.port, self.address = box, box.server, port or free_ports(), address
        self.host = f"{box.id}-p{self.port}.localhost:{box.server.port}"
        if start:
            self.start()

    def start(self):
        self.command = self.box.start(f"exec python3 {HERE}/guest_server.py {self.port} {self.address}", timeout=3600, envs={"ENDS_WITH_AGENT": "1"})
        wait_for("the guest's server", lambda: "listening" in self.box.result(
            self.command, "?stdoutFrom=0&stderrFrom=0")["stdout"])

    def request(self, method, path, body=None, headers={}, tcp=True, **more):
        connection = self.server.connect(tcp)
        answer = self.server.request(method, path, body, {"Host": self.host, **headers}, connection=connection, **more)
        connection.close()
        return answer

    def connect(self, unix=False):
        s = socket.socket(socket.AF_UNIX) if unix else socket.create_connection(("127.0.0.1", self.server.port))
        if unix:
            s.connect(self.server.socket)
        s.settimeout(60)
        return s

    def head(self, path, method="GET", **headers):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def raw(self, data):
        return self.server.raw(data)

    def websocket(self, **headers):
        s = self.connect()
        s.sendall(self.head("/ws", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Version="13",
                            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", **headers))
        got = read_until(s, b"\r\n\r\n")
        assert b" 101 " in got.split(b"\r\n")[0] and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in got, got
        assert ws_read(s) == (1, b"hello")
        return s


def read_until(s, end):
    """Byte for byte, so that nothing behind it is taken."""
    got = b""
    while not got.endswith(end):
        part = s.recv(1)
        assert part, got
        got += part
    return got


def read_all(s):
    got = bytearray()
    while part := s.recv(65536):
        got += part
    return bytes(got)


def say(s, text):
    s.sendall(ws_frame(1, text, mask=b"abcd"))
    return ws_read(s)[1]


@test
def a_page_of_the_guest_is_seen_by_its_host_name():
    with Server() as s:
        site = Site(s.create())
        page = site.request("GET", "/").expect(200, "hello from the guest")
        assert page.headers["Content-Type"] == "text/html" and page.headers["Connection"] == "close"
        assert site.request("GET", "/", tcp=False).expect(200).body == page.body
        # Without a preview URL having been made, and whatever the domain is.
        assert site.request("GET", "/", headers={"Host": f"{site.box.id.upper()}-P{site.port}.x.example"}).expect(200)
        assert site.request("HEAD", "/").expect(200).body == b""
        # The API is where it was.
        assert s.request("GET", "/health", tcp=True).status == 200


@test
def every_method_and_header_reaches_the_guest():
    with Server() as s:
        site = Site(s.create())
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            text = site.request(method, "/x%20y?a=b&c", b"body" if method != "GET" else None,
                                {"X-Mine": "1", "Cookie": "a=b", "X-OC-Preview-Token": "no-auth-here"}).expect(200).body.decode()
            assert text.startswith(f"{method} /x%20y?a=b&c HTTP/1.1\n"), text
            assert f"Host: {site.host}\n" in text and "X-Mine: 1\n" in text and "Cookie: a=b\n" in text
            assert "X-Forwarded-For: 127.0.0.1\n" in text and "X-Forwarded-Proto: http\n" in text
            assert f"X-Forwarded-Host: {site.host}\n" in text and "Connection: close\n" in text
            assert "preview-token" not in text.lower()
            assert text.endswith("body") == (method != "GET")


@test
def the_host_header_can_be_replaced_for_servers_that_check_it():
    with Server("--preview-host", "localhost") as s:
        text = Site(s.create()).request("GET", "/x").expect(200).body.decode()
        assert "\nHost: localhost\n" in text


@test
def servers_on_all_addresses_and_on_ipv6_are_reached():
    with Server() as s:
        box = s.create()
        for address in ("0.0.0.0", "::1", "::"):
            Site(box, address=address).request("GET", "/").expect(200, "hello")


@test
def large_bodies_pass_in_both_directions():
    with Server() as s:
        site = Site(s.create())
        data = pattern(100 * MB)
        digest = hashlib.sha256(data).hexdigest()
        assert site.request("PUT", "/hash", data).expect(200).body.decode() == f"{digest} {100 * MB}"
        pieces = (data[i:i + 70001] for i in range(0, 10 * MB, 70001))
        chunked = site.request("POST", "/hash", pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        size = len(range(0, 10 * MB, 70001)) * 70001
        assert chunked.expect(200).body.decode() == f"{hashlib.sha256(data[:size]).hexdigest()} {size}"
        got = site.request("GET", f"/big?{100 * MB}").expect(200).body
        assert len(got) == 100 * MB and hashlib.sha256(got).hexdigest() == digest


@test
def a_reader_that_sleeps_holds_the_guest_and_gets_every_byte():
    with Server() as s:
        site = Site(s.create())
        with site.connect() as c:
            c.sendall(site.head(f"/big?{30 * MB}"))
            # Others are served meanwhile.
            for _ in range(5):
                site.request("GET", "/").expect(200)
            body = read_all(c).split(b"\r\n\r\n", 1)[1]
            assert hashlib.sha256(body).digest() == hashlib.sha256(pattern(30 * MB)).digest()


@test
def answers_end_where_they_say_though_the_guest_keeps_the_connection():
    with Server() as s:
        site = Site(s.create())
        assert site.request("GET", "/keepalive").expect(200).body == b"ok"
        assert site.request("GET", "/chunked?1000").expect(200).body == b"".join(b"%05d" % i for i in range(1000))
        with site.connect() as c:
            c.sendall(site.head("/keepalive"))
            got = read_all(c)
            assert got.lower().count(b"connection:") == 1 and b"Connection: close" in got
        with site.connect() as c:
            c.sendall(site.head("/hints"))
            got = read_all(c)
            assert got.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200") and got.endswith(b"after hints")


@test
def what_follows_a_request_reaches_no_guest():
    with Server() as s:
        site = Site(s.create())
        two = site.head("/echo", "POST", Content_Length=2) + b"hi" + site.head("/echo?second")
        got = site.raw(two)
        assert got.count(b"HTTP/1.1 200") == 1 and b"second" not in got and b"hi" in got


@test
def server_sent_events_come_as_they_are_said():
    with Server() as s:
        box = s.create()
        site = Site(box)
        with site.connect() as c:
            c.sendall(site.head("/events?2"))
            read_until(c, b"data: begin\n\n")
            box.run("echo one >> tick")
            read_until(c, b"data: one\n\n")
            box.run("echo two >> tick")
            assert read_all(c) == b"data: two\n\n"


@test
def websockets_pass():
    with Server() as s:
        site = Site(s.create())
        with site.websocket() as a, site.websocket() as b:
            assert say(a, b"one") == b"echo one" and say(b, b"two") == b"echo two"
            assert say(a, b"x" * 60000) == b"echo " + b"x" * 60000
            a.sendall(ws_frame(1, b"close", mask=b"abcd"))
            assert ws_read(a)[0] == 8 and a.recv(1) == b""
            assert say(b, b"still") == b"echo still"
        # An upgrade that the guest declines is an answer like others.
        with site.connect() as c:
            c.sendall(site.head("/x", Upgrade="websocket", Connection="Upgrade") + b"early bytes")
            assert read_all(c).startswith(b"HTTP/1.1 200")


@test
def a_websocket_goes_on_after_hibernation():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        box = s.create()
        site = Site(box)
        with site.websocket() as c:
            assert say(c, b"before") == b"echo before"
            for i in range(3):
                box.request("POST", "/hibernate").expect(200)
                assert box.info()["status"] == "hibernated"
                # The first byte wakes it.
                assert say(c, b"after %d" % i) == b"echo after %d" % i
                assert box.info()["status"] == "running"
            box.request("POST", "/checkpoints", {"name": "a"}).expect(201)
            assert say(c, b"and on") == b"echo and on"


@test
def an_answer_that_streams_goes_on_after_hibernation():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        box = s.create()
        site = Site(box)
        with site.connect() as c, site.connect() as e:
            c.sendall(site.head(f"/big?{20 * MB}"))
            e.sendall(site.head("/events?1"))
            first = c.recv(1000)
            read_until(e, b"data: begin\n\n")
            box.request("POST", "/hibernate").expect(200)
            box.request("POST", "/wake").expect(200)
            box.run("echo late >> tick")
            assert read_all(e) == b"data: late\n\n"
            body = (first + read_all(c)).split(b"\r\n\r\n", 1)[1]
            assert hashlib.sha256(body).digest() == hashlib.sha256(pattern(20 * MB)).digest()


@test
def the_first_request_wakes_a_hibernated_sandbox():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:  # processes survive
        box = s.create()
        site = Site(box)
        box.request("POST", "/hibernate").expect(200)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(site.request("GET", "/").status)) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert answers == [200] * 8 and box.info()["status"] == "running", (answers, box.info())


@test
def tokens_are_checked_before_anything_wakes():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        made = s.request("POST", "/sandboxes", {"previewAuth": {"scheme": "bearer", "token": WORD}}).expect(201).json()
        box = s.create()
        box.id, box.url = made["sandboxID"], f"/api/sandboxes/{made['sandboxID']}"
        site = Site(box)
        box.request("POST", "/hibernate").expect(200)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {WORD}"}, {"X-OC-Preview-Token": ""},
                        {"X-OC-Preview-Token": "wrong", "Authorization": f"Bearer {WORD}"}, {"X-OC-Preview-Token": WORD + "x"}):
            answer = site.request("GET", "/", headers=headers)
            assert answer.expect(401).json()["error"] and answer.headers["WWW-Authenticate"] == 'Bearer realm="preview"'
        assert box.info()["status"] == "hibernated"
        text = site.request("GET", "/x", headers={"X-OC-Preview-Token": WORD, "Authorization": "Bearer the-app's"}).expect(200).body
        assert WORD.encode() not in text and b"Authorization: Bearer the-app's" in text
        text = site.request("GET", "/x", headers={"authorization": f"bearer {WORD}"}).expect(200).body
        assert WORD.encode() not in text
        with site.websocket(X_OC_Preview_Token=WORD) as c:
            assert say(c, b"one") == b"echo one"
            new = box.request("POST", "/preview/rotate").expect(200).json()["previewAuthToken"]
            assert say(c, b"two") == b"echo two"
        site.request("GET", "/", headers={"X-OC-Preview-Token": WORD}).expect(401)
        site.request("GET", "/", headers={"X-OC-Preview-Token": new}).expect(200)


@test
def a_strict_server_routes_to_listed_ports_only():
    with Server("--strict") as s:
        box = s.create()
        site = Site(box)
        site.request("GET", "/").expect(404, "not found")
        box.request("POST", "/preview", {"port": site.port}).expect(201)
        site.request("GET", "/").expect(200)
        box.request("DELETE", f"/preview/{site.port}").expect(204)
        site.request("GET", "/").expect(404, "not found")


@test
def who_is_not_there_is_told_apart():
    with Server() as s:
        box = s.create()
        site = Site(box, start=False)
        site.request("GET", "/", headers={"Host": "sb-00000000-p80.localhost"}).expect(404, "not found")
        refused = site.request("GET", "/").expect(502, "connection_refused").json()
        assert f"port {site.port}" in refused["error"]
        page = site.request("GET", "/", headers={"Accept": "text/html,*/*"}).expect(503, "Waiting for port")
        assert page.headers["Refresh"] == "2" and page.headers["Retry-After"] == "2"
        assert page.headers["Content-Type"].startswith("text/html") and b"http-equiv=refresh" in page.body
        box.request("DELETE").expect(204)
        site.request("GET", "/").expect(410, "stopped")


@test
def a_server_that_is_about_to_listen_is_waited_for():
    with Server() as s:
        site = Site(s.create(), start=False)
        got = []
        t = threading.Thread(target=lambda: got.append(site.request("GET", "/").status))
        t.start()
        site.command = site.box.start(f"exec python3 -S {HERE}/guest_server.py {site.port}", timeout=3600,
                                      envs={"ENDS_WITH_AGENT": "1"})
        t.join()
        # Within the time that is given it listens on any machine that is not drowned in work.
        assert got[0] in (200, 502), got


@test
def answers_that_are_none_are_bad_gateways():
    with Server() as s:
        site = Site(s.create())
        for path in ("/empty", "/garbage", "/twice", "/bigheads", "/unasked"):
            assert site.request("GET", path).expect(502).json()["code"] == "bad_gateway", path
        # One that is cut short is cut short for the client, too.
        try:
            site.request("GET", "/cut")
            assert False, "it passed for whole"
        except (http.client.IncompleteRead, ConnectionResetError):
            pass
        assert site.request("GET", "/").expect(200)


@test
def hostile_heads_are_refused():
    with Server() as s:
        site = Site(s.create())
        host = site.host.encode()
        for head in (b"GET / HTTP/1.1\r\nHost: %s\r\nHost: other\r\n\r\n", b"GET http://other/ HTTP/1.1\r\nHost: %s\r\n\r\n",
                     b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                     b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
                     b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
                     b"GET / HTTP/1.1\r\nHost: %s\r\nA: b\r\n folded\r\n\r\n", b"GET / HTTP/3.0\r\nHost: %s\r\n\r\n",
                     b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", b"POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            got = site.raw(head.replace(b"%s", host))
            assert got.startswith(b"HTTP/1.1 400 "), (head, got)
        assert site.raw(b"GET http://%s/x HTTP/1.1\r\nHost: %s\r\n\r\n" % (host, host)).startswith(b"HTTP/1.1 200 ")
        giant = b"GET / HTTP/1.1\r\nHost: %s\r\n" % host
        assert site.raw(giant + b"A: " + b"x" * 70000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431 ")
        assert site.raw(giant + b"A: b\r\n" * 200 + b"\r\n").startswith(b"HTTP/1.1 431 ")
        assert site.raw(b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\nHost: %s\r\n\r\n" % host).startswith(b"HTTP/1.1 421 ")
        site.request("GET", "/").expect(200)


@test
def a_connection_of_the_api_is_not_one_of_a_preview():
    with Server() as s:
        site = Site(s.create())
        connection = s.connect(tcp=True)
        s.request("GET", "/health", connection=connection).expect(200)
        answer = s.request("GET", "/", headers={"Host": site.host}, connection=connection)
        assert answer.expect(421, "connection of its own").headers["Connection"] == "close"


@test
def slow_and_silent_clients_keep_nobody_waiting():
    with Server() as s:
        site = Site(s.create())
        silent = [site.connect() for _ in range(200)]
        begun = [site.connect() for _ in range(50)]
        for c in begun:
            c.sendall(b"GET / HTTP/1.1\r\nHo")
        named = [site.connect() for _ in range(20)]
        for c in named:
            c.sendall(f"GET / HTTP/1.1\r\nHost: {site.host}\r\nX: ".encode())
        site.request("GET", "/").expect(200)
        s.request("GET", "/health", tcp=True).expect(200)
        with open(f"/proc/{s.process.pid}/status") as f:
            threads = next(int(line.split()[1]) for line in f if line.startswith("Threads"))
        assert threads < 100, threads
        # Byte by byte is fine, too.
        for byte in f"st: {site.host}\r\nConnection: close\r\n\r\n".encode():
            begun[0].sendall(bytes([byte]))
        assert read_all(begun[0]).startswith(b"HTTP/1.1 200")
        silent[0].sendall(site.head("/"))
        assert read_all(silent[0]).startswith(b"HTTP/1.1 200")
        for c in silent + begun + named:
            c.close()
        site.request("GET", "/").expect(200)


def tunnels(s):
    """Connections of the agents to the guest's servers."""
    with open("/proc/net/tcp") as f:
        return [line.split()[2] for line in f.readlines()[1:] if line.split()[3] == "01"]


@test
def half_closed_and_vanished_clients():
    with Server() as s:
        site = Site(s.create())
        # It has said all it wanted and still listens.
        with site.connect() as c:
            c.sendall(site.head("/hash", "POST", Content_Length=4) + b"abcd")
            c.shutdown(socket.SHUT_WR)
            assert hashlib.sha256(b"abcd").hexdigest().encode() in read_all(c)
        # In the middle of a body: nothing was asked for.
        with site.connect() as c:
            c.sendall(site.head("/hash", "POST", Content_Length=40) + b"abcd")
            c.shutdown(socket.SHUT_WR)
            try:
                assert read_all(c) == b""
            except ConnectionResetError:
                pass
        # Who is gone frees the guest's server, which would be silent forever.
        for unix in (False, True):
            c = site.connect(unix)
            c.sendall(site.head("/silent"))
            port = ":%04X" % site.port
            wait_for("the tunnel", lambda: any(t.endswith(port) for t in tunnels(s)))
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            c.close()
            wait_for("the tunnel's end", lambda: not any(t.endswith(port) for t in tunnels(s)))


@test
def the_end_of_the_sandbox_or_of_the_server_ends_previews():
    with Server() as s:
        box = s.create()
        site = Site(box)
        with site.websocket() as c:
            box.request("DELETE").expect(204)
            try:
                assert c.recv(1) == b""
            except ConnectionResetError:
                pass
        box = s.create()
        site = Site(box)
        with site.websocket() as c, site.connect() as silent:
            silent.sendall(site.head("/silent"))
            assert s.kill(signal.SIGTERM) == 0
            try:
                assert c.recv(1) == b""
            except ConnectionResetError:
                pass
            s.start()
            site.host = f"{box.id}-p{site.port}.localhost:{s.port}"
            site.request("GET", "/").expect(200)


@test
def many_previews_at_once():
    with Server() as s:
        site = Site(s.create())
        failed = []

        def work(i):
            try:
                for k in range(20):
                    assert site.request("GET", f"/x?{i}-{k}").expect(200).body.startswith(b"GET /x?%d-%d " % (i, k))
                with site.websocket() as c:
                    for k in range(20):
                        assert say(c, b"%d" % k) == b"echo %d" % k
            except Exception as e:
                failed.append(repr(e))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed, failed


@test
def one_sandbox_cannot_take_all_connections():
    with Server() as s:
        site, other = Site(s.create()), Site(s.create())
        held = []
        for _ in range(512):
            c = site.connect()
            c.sendall(site.head("/silent"))
            held.append(c)
        port = ":%04X" % site.port
        wait_for("512 tunnels", lambda: sum(t.endswith(port) for t in tunnels(s)) == 512, timeout=120)
        assert site.request("GET", "/").expect(503, "512 connections").headers["Retry-After"] == "2"
        other.request("GET", "/").expect(200)
        held.pop().close()
        for c in held:
            c.close()
        wait_for("room", lambda: site.request("GET", "/").status == 200, timeout=120)
