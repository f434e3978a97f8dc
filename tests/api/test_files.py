# SPDX-License-Identifier: Apache-2.0
"""Files (api.md 5)."""
import hashlib
import os
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

from harness import Server, test, wait_for


def at(path):
    return "/files?path=" + urllib.parse.quote(path, safe="")


@test
def a_file_comes_back_as_it_was_written():
    with Server() as s:
        b = s.create()
        for name, data in (("a", b"text"), ("empty", b""), ("all", bytes(range(256)) * 33), ("ü %+&?#\n", "ü".encode()), ("deep/er/f", b"x")):
            b.request("PUT", at(name), data).expect(204)
            a = b.request("GET", at(name)).expect(200)
            assert a.body == data and a.headers["Content-Type"] == "application/octet-stream"
            assert int(a.headers["Content-Length"]) == len(data)
            assert open(os.path.join(b.home, name), "rb").read() == data, "relative to the home directory"


@test
def a_hundred_megabytes_pass_both_ways_without_being_held():
    with Server() as s:
        b = s.create()
        data = os.urandom(1 << 20) * 128
        high = lambda: int(next(l for l in open(f"/proc/{s.process.pid}/status") if l.startswith("VmHWM")).split()[1])
        before = high()
        b.request("PUT", at("big"), data).expect(204)
        got = b.request("GET", at("big")).expect(200).body
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert high() - before < 16384, f"{high() - before} KiB more"


@test
def uploads_may_be_chunked():
    with Server() as s:
        b = s.create()
        b.request("PUT", at("f"), iter([b"x" * 70000, b"y", b"z" * 300000]), encode_chunked=True).expect(204)
        assert b.request("GET", at("f")).body == b"x" * 70000 + b"y" + b"z" * 300000
        b.request("PUT", at("f"), iter([]), encode_chunked=True).expect(204)
        assert b.request("GET", at("f")).body == b""


@test
def a_path_is_required():
    with Server() as s:
        b = s.create()
        for method, path in (("GET", "/files"), ("PUT", "/files"), ("DELETE", "/files?path="), ("POST", "/files/mkdir")):
            b.request(method, path, b"" if method == "PUT" else None).expect(400, "path is required")


@test
def directories_read_as_nothing_and_missing_files_fail():
    with Server() as s:
        b = s.create()
        assert b.request("GET", at("/usr")).expect(200).body == b""
        b.request("GET", at("/no/such")).expect(500, "No such file")
        b.request("PUT", at("/usr"), b"x").expect(500, "director")
        b.request("GET", "/files/list?path=/no/such").expect(500, "No such file")
        b.request("GET", "/files/list?path=/etc/passwd").expect(500)


@test
def files_without_a_size_are_read_to_their_end():
    with Server() as s:
        b = s.create()
        assert b.request("GET", at("/proc/self/status")).expect(200).body.startswith(b"Name:")
        size = len(open("/proc/kallsyms", "rb").read())
        assert len(b.request("GET", at("/proc/kallsyms")).expect(200).body) == size > 65536


@test
def lists_are_sorted_and_complete():
    with Server() as s:
        b = s.create()
        os.makedirs(b.home + "/d/sub")
        for name in "b", "a", ".hidden", 'q"\n':
            open(b.home + "/d/" + name, "w").write("12345")
        os.symlink("/usr", b.home + "/d/link")
        a = b.request("GET", "/files/list?path=d/").expect(200).json()
        assert [x["name"] for x in a] == [".hidden", "a", "b", "link", 'q"\n', "sub"]
        assert a[1] == {"name": "a", "isDir": False, "path": "d/a", "size": 5}
        assert [x["isDir"] for x in a] == [False, False, False, False, False, True]
        assert b.request("GET", "/files/list?path=d/sub").expect(200).body == b"[]"
        root = b.request("GET", "/files/list").expect(200).json()
        assert {"/usr", "/etc"} <= {x["path"] for x in root}
        open(b.home.encode() + b"/d/sub/\xff", "w").close()
        assert b.request("GET", "/files/list?path=d/sub").expect(200).json()[0]["name"] == "\ufffd"


@test
def directories_are_made_and_removed_with_all_in_them():
    with Server() as s:
        b = s.create()
        for _ in range(2):
            b.request("POST", "/files/mkdir?path=x/y/z").expect(204)
        b.request("PUT", at("x/y/f"), b"1").expect(204)
        b.request("POST", "/files/mkdir?path=x/y/f").expect(500)
        for _ in range(2):
            b.request("DELETE", at("x")).expect(204)
        assert not os.path.exists(b.home + "/x")
        for root in "/", "//", "/..", "/usr/..", "/./", "/usr/../../":
            b.request("DELETE", at(root)).expect(400, "root directory")


@test
def dots_are_normalised_and_symlinks_followed():
    with Server() as s:
        b = s.create()
        b.request("PUT", at(b.home + "/no" + "/.." * 20 + b.home + "/f"), b"1").expect(204)
        os.symlink("f", b.home + "/l")
        os.chmod(b.home + "/f", 0o751)
        b.request("PUT", at("l"), b"2").expect(204)
        assert open(b.home + "/f").read() == "2" and os.path.islink(b.home + "/l")
        assert os.stat(b.home + "/f").st_mode & 0o777 == 0o751


@test
def an_upload_that_breaks_off_changes_nothing():
    with Server() as s:
        b = s.create()
        b.request("PUT", at("f"), b"old").expect(204)
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(f"PUT {b.url}/files?path=f&api_key=another-key HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode() + b"n" * 2000000)
        b.run("true")
        assert b.request("GET", at("f")).body == b"old"
        wait_for("the leftover to go", lambda: sorted(os.listdir(b.home)) == ["f"])


@test
def a_download_that_breaks_off_harms_nobody():
    with Server() as s:
        b = s.create()
        b.request("PUT", at("big"), b"x" * 30000000).expect(204)
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(f"GET {b.url}/files?path=big&api_key=another-key HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            c.recv(100)
        assert len(b.request("GET", at("big")).expect(200).body) == 30000000


@test
def an_upload_that_fails_midway_is_answered_and_the_connection_goes_on():
    with Server() as s:
        b = s.create()
        c = s.connect(tcp=True)
        key = {"X-API-Key": "another-key"}
        s.request("PUT", b.url + at("/etc/passwd/x"), b"x" * 20000000, key, c).expect(500)
        s.request("GET", "/workers", None, key, c).expect(200)


@test
def the_end_of_the_vm_ends_transfers():
    with Server() as s:
        b = s.create()
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(f"PUT {b.url}/files?path=f&api_key=another-key HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode() + b"n" * 2500000)
            os.kill(b.pid(), 9)
            c.sendall(b"n" * 500000)
            assert c.recv(4096).startswith(b"HTTP/1.1 502 ")


@test
def files_of_one_sandbox_move_at_the_same_time():
    with Server() as s, ThreadPoolExecutor(16) as pool:
        b = s.create()
        def round_trip(i):
            data = bytes([i]) * 1000000
            b.request("PUT", at(f"f{i}"), data).expect(204)
            return b.request("GET", at(f"f{i}")).expect(200).body == data
        assert all(pool.map(round_trip, range(32)))
