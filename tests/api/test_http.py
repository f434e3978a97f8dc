# SPDX-License-Identifier: Apache-2.0
"""What holds for every route: credentials, prefixes, errors, connections (api.md 2)."""
import json
import socket
from concurrent.futures import ThreadPoolExecutor

from harness import KEY, Server, test


@test
def credentials_follow_the_table():
    with Server() as s:
        def get(headers={}, query="", tcp=True):
            return s.request("GET", "/api/workers" + query, headers=headers, tcp=tcp)
        get().expect(401, "missing API key")
        get({"X-API-Key": ""}).expect(401, "missing API key")
        get({"X-API-Key": "wrong"}).expect(403, "invalid API key")
        get({"X-API-Key": KEY + "x"}).expect(403, "invalid API key")
        get({"X-API-Key": KEY[:-1]}).expect(403, "invalid API key")
        get({"Authorization": "Bearer " + KEY}).expect(403, "invalid")
        get({"X-API-Key": KEY}).expect(200)
        get({"x-api-key": "another-key"}).expect(200)
        get(query="?api_key=" + KEY).expect(200)
        get(query="?api_key=wrong").expect(403, "invalid API key")
        get({"X-API-Key": "wrong"}, "?api_key=" + KEY).expect(403)
        get(tcp=False).expect(200)
        get({"X-API-Key": "# keys"}).expect(403)


@test
def health_needs_no_credentials():
    with Server() as s:
        for path, status in ("/health", "ok"), ("/healthz", "alive"), ("/readyz", "ready"), ("/api/health", "ok"):
            assert s.request("GET", path, tcp=True).expect(200).body == b'{"status":"%s"}' % status.encode()


@test
def no_auth_serves_tcp_without_keys():
    with Server(listen=["--listen", "tcp:127.0.0.1:0", "--no-auth"]) as s:
        s.request("GET", "/workers", tcp=True).expect(200)
        s.request("GET", "/workers", headers={"X-API-Key": "anything"}, tcp=True).expect(200)


@test
def every_route_is_served_with_and_without_the_prefix():
    with Server() as s:
        for path in "/sandboxes", "/api/sandboxes", "/sandboxes/", "/sandboxes?x=y&z":
            assert s.request("GET", path).expect(200).body == b"[]"
        s.request("GET", "/api/api/sandboxes").expect(404)


@test
def unknown_routes_and_methods_are_told_apart():
    with Server() as s:
        s.request("GET", "/api/nothing").expect(404, '"error":', "not_found")
        s.request("GET", "/").expect(404)
        s.request("GET", "//sandboxes").expect(404)
        s.request("GET", "/" + "x/" * 40).expect(404)
        a = s.request("PUT", "/api/sandboxes", {}).expect(405, "bad_method")
        assert sorted(a.headers["Allow"].split(", ")) == ["GET", "POST"]


@test
def parts_that_are_not_built_yet_say_so():
    with Server() as s:
        for method, path in (("POST", "/sandboxes/sb-1/migrate"), ("POST", "/secret-stores"),
                             ("PATCH", "/webhooks/w"), ("GET", "/usage"),
                             ("GET", "/sandboxes/sb-1/logs"), ("GET", "/secret-stores")):
            s.request(method, path).expect(501, "not implemented yet", '"code":"not_implemented"')


@test
def options_is_answered_permissively_without_credentials():
    with Server() as s:
        a = s.request("OPTIONS", "/api/sandboxes", tcp=True).expect(204)
        assert a.headers["Access-Control-Allow-Origin"] == "*" and a.body == b""
        assert "DELETE" in a.headers["Access-Control-Allow-Methods"]
        assert s.request("GET", "/health").headers["Access-Control-Allow-Origin"] == "*"


@test
def head_gives_the_headers_of_get():
    with Server() as s:
        a = s.request("HEAD", "/health").expect(200)
        assert a.headers["Content-Length"] == "15" and a.body == b""


@test
def percent_escapes_are_decoded_once_and_broken_ones_refused():
    with Server() as s:
        s.request("GET", "/sandboxes/sb%2Dx").expect(404, "sandbox not found")
        s.request("GET", "/sandboxes/a%2Fexec").expect(404, "sandbox not found")
        for bad in "/sandboxes/%", "/sandboxes/%4", "/sandboxes/%zz", "/sandboxes/%00", "/sandboxes?x=%g1":
            s.request("GET", bad).expect(400, "percent escape")


@test
def bad_json_is_refused_by_name():
    with Server() as s:
        for body, word in (("{", "invalid JSON"), ("[]", "object is expected"), ('"x"', "invalid JSON"), ("{}x", "invalid JSON"),
                           ("[" * 5000, "nested"), ('{"a":' * 70 + "1" + "}" * 70, "nested"),
                           ('{"cpuCount":"1"}', "cpuCount: must be an integer"), ('{"envs":{"A":1}}', "envs"),
                           ('{"templateID":"a\\u0000b"}', "NUL"), (b'{"alias":"\xff"}', "invalid JSON")):
            s.request("POST", "/sandboxes", body).expect(400, word, "bad_request")
        s.assert_nothing_left()


@test
def unknown_fields_and_parameters_are_ignored():
    with Server() as s:
        s.request("POST", "/sandboxes?what=ever", {"burst": True, "sandboxFamily": "spot", "future": [1]}).expect(201)


@test
def an_empty_body_counts_as_an_empty_object():
    with Server() as s:
        s.request("POST", "/sandboxes").expect(201)
        s.request("POST", "/sandboxes", headers={"Content-Type": "application/json", "Content-Length": "0"}).expect(201)


@test
def bodies_over_a_mebibyte_are_refused_and_the_connection_goes_on():
    with Server() as s:
        c = s.connect(tcp=True)
        key = {"X-API-Key": KEY}
        s.request("POST", "/sandboxes/sb-1/exec", b" " * (1 << 20) + b"{}", key, c).expect(413, "too_large")
        s.request("GET", "/workers", None, key, c).expect(200)
        s.request("POST", "/sandboxes/sb-1/exec", iter([b" " * 65536] * 20), key, c, encode_chunked=True).expect(413)
        s.request("GET", "/workers", None, key, c).expect(200)


@test
def a_connection_is_used_again_after_every_kind_of_error():
    with Server() as s:
        c = s.connect(tcp=True)
        key = {"X-API-Key": KEY}
        for method, path, body, headers, status in (
                ("GET", "/nothing", None, key, 404), ("POST", "/nothing", b"x" * 50000, key, 404),
                ("POST", "/sandboxes", b"x" * 50000, {}, 401), ("POST", "/sandboxes", b"{", key, 400),
                ("PUT", "/sandboxes/sb-00000000/files?path=/x", b"x" * 1000000, key, 404),
                ("GET", "/workers", None, key, 200)):
            s.request(method, path, body, headers, c).expect(status)
            assert c.sock, f"{method} {path}: the connection was closed"


@test
def expect_100_continue_is_answered_at_once():
    with Server() as s:
        head = f"POST /sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(head.encode())
            assert c.recv(4096).startswith(b"HTTP/1.1 100 ")
            c.sendall(b"{}")
            assert b"201" in c.recv(4096)


@test
def expect_100_continue_is_refused_before_the_body_is_sent():
    with Server() as s:
        head = f"PUT /sandboxes/sb-00000000/files?path=x HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        assert s.raw(head.encode(), b"}").startswith(b"HTTP/1.1 404 ")


@test
def garbage_does_no_harm():
    with Server() as s:
        for data in (b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100, b"POST /sandboxes HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                     b"GET /" + b"x" * 200000 + b" HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
                     b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /sandboxes HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
                try:
                    c.sendall(data)
                    c.shutdown(socket.SHUT_WR)
                    while c.recv(65536):
                        pass
                except OSError:
                    pass
        s.request("GET", "/health").expect(200)


@test
def unknown_sandboxes_win_over_bad_bodies():
    with Server() as s:
        id = "/api/sandboxes/sb-00000000"
        s.request("POST", id + "/exec/run", {"cmd": ""}).expect(404, "sandbox not found")
        s.request("POST", id + "/exec/run-async", "{").expect(404, "sandbox not found")
        s.request("POST", id + "/exec", "").expect(404, "sandbox not found")
        s.request("PUT", id + "/files", b"x").expect(404, "sandbox not found")
        s.request("GET", id + "/files/list?path=/").expect(404, "sandbox not found")
        s.request("GET", id + "/console").expect(404, "sandbox not found")
        s.request("DELETE", id).expect(404, "sandbox not found")
        s.request("GET", id).expect(404, "sandbox not found")


@test
def json_is_compact():
    with Server() as s:
        body = s.request("POST", "/sandboxes", {"metadata": {"a": "b"}}).expect(201).body
        assert body == json.dumps(json.loads(body), separators=(",", ":")).encode()


@test
def answers_that_take_long_begin_with_blanks_and_fail_by_being_cut():
    with Server() as s, ThreadPoolExecutor(8) as pool:
        woken, failed, left, refused = (s.create() for _ in range(4))
        for b in woken, failed, left:
            b.request("POST", "/hibernate").expect(200)

        def begin(b, op):
            c = socket.create_connection(("127.0.0.1", s.port), timeout=60)
            c.sendall(f"POST {b.url}/{op} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: 0\r\n\r\n".encode())
            got = b""
            while b"\r\n\r\n1\r\n " not in got:
                part = c.recv(4096)
                assert part, got
                got += part
            assert got.startswith(b"HTTP/1.1 200 ") and b"application/json" in got, got
            return c

        def rest(c):
            got = b""
            while part := c.recv(65536):
                got += part
                if got.endswith(b"0\r\n\r\n"):
                    break
            c.close()
            return got

        s.hold("restore")
        waiting = [pool.submit(begin, b, "wake") for b in (woken, failed, left)]
        s.wait_held("restore")
        quick = refused.request("POST", "/wake", {"timeout": -1}).expect(400)
        assert quick.headers["Content-Length"]
        a, cut, gone = (w.result() for w in waiting)
        gone.close()
        failed.request("DELETE").expect(204)
        assert b'"error"' not in (text := rest(cut)) and not text.endswith(b"0\r\n\r\n"), text
        s.release("restore")
        chunk = next(part for part in rest(a).split(b"\r\n") if part.startswith(b"{"))
        assert json.loads(chunk)["sandboxID"] == woken.id and json.loads(chunk)["status"] == "running", chunk
        left.wait_status("running")
        assert woken.run("echo up")["stdout"] == "up\n"
        assert "failed with" in s.log()
