# SPDX-License-Identifier: Apache-2.0
"""Commands that are started, and their clients over WebSockets (api.md 4.5 - 4.7, 17.1)."""
import hashlib
import os
import time

from harness import KEY, Server, test, wait_for
from websocket import Attached, Closed, WebSocket


def begin(sandbox, cmd, **fields):
    """POST exec. Return: the session's id."""
    started = sandbox.request("POST", "/exec", {"cmd": cmd, **fields}).expect(201).json()
    assert started["sandboxID"] == sandbox.id and started["attachedClients"] == 0, started
    return started["sessionID"]


def listed(sandbox, session):
    return next(x for x in sandbox.request("GET", "/exec").expect(200).json() if x["sessionID"] == session)


@test
def a_client_gets_replay_marker_live_output_exit_code_and_close():
    with Server() as s:
        b = s.create()
        x = begin(b, "echo before; echo err >&2; read line; echo after $line; exit 7")
        wait_for("output", lambda: "before" in b.so_far(x)["stdout"] and "err" in b.so_far(x)["stderr"])
        with Attached(b, x) as a:
            a.until_live()
            assert a.replay == (b"before\n", b"err\n"), a.replay
            assert listed(b, x)["attachedClients"] == 1 and listed(b, x)["running"] is True
            a.write(b"x y\n")
            a.to_end()
            assert (a.out, a.err, a.code) == (b"before\nafter x y\n", b"err\n", 7), (a.out, a.err, a.code)
            assert a.closed == (1000, "exec completed"), a.closed
        # And so does one that comes after the end.
        with Attached(b, x) as a:
            a.to_end()
            assert (a.replay, a.code, a.closed) == ((b"before\nafter x y\n", b"err\n"), 7, (1000, "exec completed"))
        entry = listed(b, x)
        assert entry["exitCode"] == 7 and entry["running"] is False, entry
        wait_for("nobody to be attached", lambda: listed(b, x)["attachedClients"] == 0)


@test
def the_upgrade_is_refused_before_it_happens():
    with Server() as s:
        b = s.create()
        x = begin(b, "cat")
        for path, status in ((f"{b.url}/exec/00000000", 404), ("/api/sandboxes/sb-00000000/exec/" + x, 404)):
            assert WebSocket(s, path).status == status, path
        url = f"{b.url}/exec/{x}"
        assert WebSocket(s, url, tcp=True).status == 401
        assert WebSocket(s, url + "?api_key=wrong", tcp=True).status == 403
        assert WebSocket(s, url + "?api_key=" + KEY, tcp=True).status == 101
        assert WebSocket(s, url, tcp=True, headers={"X-API-Key": KEY}).status == 101
        for headers, status in (({"Sec-WebSocket-Version": "8"}, 426), ({"Upgrade": None}, 426),
                                ({"Sec-WebSocket-Key": "short"}, 400), ({"Sec-WebSocket-Key": None}, 400),
                                ({"Sec-WebSocket-Key": ["dGhlIHNhbXBsZSBub25jZQ=="] * 2}, 400)):
            w = WebSocket(s, url, headers=headers)
            assert w.status == status, (headers, w.status)
            assert status != 426 or w.headers["sec-websocket-version"] == "13"
        b.request("GET", f"/exec/{x}").expect(426)
        b.request("GET", f"/exec/{x}?stdoutFrom=x").expect(400)
        b.request("GET", f"/exec/{x}?stdoutFrom=5").expect(400, "stdout")
        b.request("POST", f"/exec/{x}/kill").expect(204)


@test
def the_first_frame_leaves_later_than_the_101():
    with Server() as s:
        b = s.create()
        x = begin(b, "echo hi")
        wait_for("the end", lambda: not b.result(x)["running"])
        for _ in range(20):
            with Attached(b, x) as a:
                began = time.monotonic()
                assert a.buffer == b"", "frames together with the 101"
                a.step()
                # The 101 may have been read late, never early: so this is a lower bound that can be too small.
                gaps = time.monotonic() - began
                a.to_end()
                if gaps >= 0.005:
                    return
        raise AssertionError("none of 20 came 5 ms after the 101")


@test
def clients_that_break_the_protocol_are_told_and_harm_nobody():
    with Server() as s:
        b = s.create()
        x = begin(b, "cat")
        with Attached(b, x) as good:
            for frame, code in (({"opcode": 2, "data": b"\0x", "mask": False}, 1002),
                                ({"opcode": 2, "rsv": 4}, 1002), ({"opcode": 3}, 1002),
                                ({"opcode": 0, "data": b"x"}, 1002), ({"opcode": 9, "data": b"x" * 126}, 1002),
                                ({"opcode": 1, "data": b"\xff"}, 1007)):
                with Attached(b, x) as bad:
                    bad.until_live()
                    bad.frame(**frame)
                    bad.to_end()
                    assert bad.closed[0] == code, (frame, bad.closed)
            with Attached(b, x) as half:
                half.sock.sendall(b"\x82\xff\0")
                half.sock.shutdown(1)
                half.to_end()
            # Ignored: text, channels that do not exist, empty messages; pings are answered.
            good.send("\0nonsense".encode(), opcode=1)
            good.send(b"\x09junk")
            good.send(b"")
            good.write(b"")
            good.frame(2, b"\0fra", fin=False)
            good.frame(9, b"are you there")
            good.frame(0, b"gmen", fin=False)
            good.frame(0, b"ts\n")
            good.until_live()
            assert good.recv() == (10, b"are you there")
            good.until_out(b"\n")
            assert good.out == b"fragments\n", good.out
            good.send(b"\x05")
            good.to_end()
            assert good.code == 0 and good.out == b"fragments\n"


@test
def several_clients_write_and_each_reads_all():
    with Server() as s:
        b = s.create()
        x = begin(b, "while read l; do echo got $l; done")
        with Attached(b, x) as one, Attached(b, x) as two:
            one.write(b"a\n")
            two.until_out(b"got a\n")
            two.write(b"b\n")
            one.until_out(b"got b\n")
            with Attached(b, x) as three:
                three.until_live()
                assert three.replay == (b"got a\ngot b\n", b"")
                assert listed(b, x)["attachedClients"] == 3
            wait_for("one to leave", lambda: listed(b, x)["attachedClients"] == 2)
            b.request("POST", f"/exec/{x}/kill", {"signal": 15}).expect(204)
            for a in one, two:
                a.to_end()
                assert (a.out, a.code, a.closed[0]) == (b"got a\ngot b\n", 143, 1000), (a.out, a.code, a.closed)
        b.request("POST", f"/exec/{x}/kill").expect(204)
        b.request("POST", f"/exec/{x}/kill").expect(204)


@test
def a_client_that_sleeps_holds_the_command_and_loses_nothing():
    size = 100 << 20
    with Server() as s:
        b = s.create()
        x = begin(b, "python3", args=["-c", f"""
import sys, hashlib
h, n = hashlib.sha256(), 0
sys.stdin.readline()
while n < {size}:
    d = (b"%015d\\n" % n * 4096)[:{size} - n]
    h.update(d)
    sys.stdout.buffer.write(d)
    n += len(d)
sys.stdout.flush()
print(h.hexdigest(), file=sys.stderr)
"""])
        with Attached(b, x, "?api_key=" + KEY, tcp=True, receive_buffer=65536) as a:
            a.until_live()
            a.write(b"go\n")
            # The buffers on the way are full at some point: then the command stands still.
            wait_for("the command to be held", lambda: standstill(b, x), timeout=60)
            h, n = hashlib.sha256(), 0
            while a.step():
                h.update(a.out)
                n += len(a.out)
                a.out, a.order = b"", []
        assert a.code == 0 and n == size, (a.code, n)
        assert a.err.decode().strip() == h.hexdigest()


def standstill(sandbox, session):
    """Does output not grow any more, although there is more to come?"""
    def end():
        return sandbox.request("GET", f"/exec/{session}/result?stdoutFrom=0&encoding=base64").json()["stdoutNext"]
    first = end()
    if not first:
        return False
    time.sleep(0.3)
    return first == end()


@test
def a_slow_client_does_not_make_others_wait_longer_than_the_buffer():
    with Server() as s:
        b = s.create()
        x = begin(b, "head -c 700000 /dev/zero | tr '\\0' y; echo done >&2")
        with Attached(b, x, "?api_key=" + KEY, tcp=True, receive_buffer=4096) as slow, Attached(b, x) as fast:
            fast.to_end()
            assert len(fast.out) == 700000 and fast.err == b"done\n" and fast.code == 0
            slow.to_end()
            assert slow.out == fast.out and slow.err == fast.err and slow.code == 0


@test
def large_scripts_arrive_in_order_and_whole():
    with Server() as s:
        b = s.create()
        x = begin(b, "sha256sum")
        data = bytes(os.urandom(1 << 16)) * 320  # 20 MiB, more than all buffers on the way
        with Attached(b, x) as a:
            a.write(data[:1 << 24])  # one message of 16 MiB
            for at in range(1 << 24, len(data), 100_001):
                a.write(data[at:min(at + 100_001, len(data))])
            a.send(b"\x05")
            a.to_end()
        assert a.code == 0 and a.out.split()[0].decode() == hashlib.sha256(data).hexdigest()


@test
def replay_keeps_the_order_of_stdout_and_stderr():
    with Server() as s:
        b = s.create()
        x = begin(b, "i=0; while [ $i -lt 20 ]; do echo o$i; sleep 0.02; echo e$i >&2; sleep 0.02; i=$((i+1)); done; read x")
        wait_for("all of it", lambda: "e19" in b.so_far(x)["stderr"] if len(b.so_far(x)["stderr"]) > 60 else None)
        with Attached(b, x) as a:
            a.until_live()
            assert b"".join(d for _, d in a.order) == b"".join(b"o%d\ne%d\n" % (i, i) for i in range(20)), a.order
            b.request("POST", f"/exec/{x}/kill").expect(204)


@test
def replay_is_all_for_the_first_then_the_last_mebibyte_and_offsets_give_more():
    with Server() as s:
        b = s.create()
        x = begin(b, "seq -f %09.0f 0 299999; read x")  # 3,000,000 bytes
        wait_for("all of it", lambda: b.result(x, "?stdoutFrom=0&encoding=base64")["stdoutNext"] == 3_000_000)
        whole = b"".join(b"%09d\n" % i for i in range(300_000))
        with Attached(b, x) as a:
            assert a.until_live().replay[0] == whole
        with Attached(b, x) as a:
            assert a.until_live().replay[0] == whole[-(1 << 20):]
        with Attached(b, x, "?stdoutFrom=0") as a:
            assert a.until_live().replay[0] == whole
        with Attached(b, x, "?stdoutFrom=2999990&stderrFrom=0") as a:
            assert a.until_live().replay[0] == b"000299999\n"[-10:]
        b.request("POST", f"/exec/{x}/kill").expect(204)


@test
def what_could_not_be_started_says_so_to_its_clients():
    with Server() as s:
        b = s.create()
        x = begin(b, "true", cwd="/missing")
        with Attached(b, x) as a:
            a.to_end()
            assert a.code == -1 and b"/missing" in a.err and a.closed == (1000, "exec completed"), (a.code, a.err)
        x = begin(b, "no-such-program", args=["x"])
        with Attached(b, x) as a:
            a.to_end()
            assert a.code == 127 and b"not found" in a.err


@test
def a_shell_keeps_its_state_as_the_npm_client_uses_it():
    with Server() as s:
        b = s.create()
        x = begin(b, "bash", args=["--noprofile", "--norc", "+m"])
        with Attached(b, x) as a:
            a.until_live()
            a.write(b"cd /usr; X=1\n")
            a.write(b"echo $X $PWD; printf 'MARK\\n'; printf 'CODE:%d\\n' $? >&2\n")
            a.until(lambda a: b"MARK\n" in a.out and b"CODE:0\n" in a.err)
            assert a.out == b"1 /usr\nMARK\n", a.out
            a.write(b"exit 3\n")
            assert a.to_end().code == 3


@test
def the_server_stops_while_clients_are_attached():
    with Server() as s:
        b = s.create()
        x = begin(b, "cat")
        with Attached(b, x) as a:
            a.until_live()
            assert s.kill(15) == 0
            a.to_end()
            assert a.closed[0] == 1001 and a.code is None, (a.closed, a.code)
        s.start()


@test
def deletion_ends_the_clients():
    with Server() as s:
        b = s.create()
        x = begin(b, "cat")
        with Attached(b, x) as a:
            a.until_live()
            b.request("DELETE").expect(204)
            a.to_end()
            assert a.closed[0] in (1000, 1001)
        try:
            assert WebSocket(s, f"{b.url}/exec/{x}").status in (404, 410)
        except Closed:
            raise AssertionError("no answer") from None
