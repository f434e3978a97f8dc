# SPDX-License-Identifier: Apache-2.0
"""Sessions go on over hibernation and restarts of the server: no byte lost or doubled (api.md 4.6, 18.3)."""
import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

from harness import Server, test, wait_for
from test_attach import begin, listed
from test_checkpoints import Points
from websocket import Attached, WebSocket

KEEPS = {"FAKE_VMM_KEEPS": "1"}
# Numbered lines on stdout, every tenth on stderr, as fast as somebody reads; ends after a line of input.
COUNT = """
import sys, threading, os
threading.Thread(target=lambda: (sys.stdin.readline(), stop.append(1)), daemon=True).start()
stop, n = [], 0
while not stop or n % 10:
    os.write(1 + (n % 10 == 9), b"%011d\\n" % n)
    n += 1
os.write(2, b"%011d\\n" % n)
sys.stdout.flush()
os._exit(5)
"""


def merge(known, data, at):
    """Bytes from offset `at` on: what is known already must be the same. Return: what is known now."""
    overlap = known[at:at + len(data)]
    assert data[:len(overlap)] == overlap, "other bytes than before"
    assert at <= len(known), f"a hole from {len(known)} to {at}"
    return known[:at] + data if at + len(data) > len(known) else known


class Streams:
    def __init__(self):
        self.out = self.err = b""

    def take(self, a, at=(0, 0)):
        self.out, self.err = merge(self.out, a.out, at[0]), merge(self.err, a.err, at[1])

    def query(self):
        return f"?stdoutFrom={len(self.out)}&stderrFrom={len(self.err)}"

    def check(self):
        last = int(self.err[-12:])
        assert last % 10 == 0 and self.out == b"".join(b"%011d\n" % i for i in range(last) if i % 10 != 9)
        assert self.err == b"".join(b"%011d\n" % i for i in range(last) if i % 10 == 9) + b"%011d\n" % last
        return last


def hibernate(b):
    return b.request("POST", "/hibernate").expect(200)


@test
def a_stream_over_three_hibernations_and_a_killed_server_has_every_byte_once():
    with Server(env=KEEPS) as s:
        b = s.create()
        x = begin(b, "python3", args=["-c", COUNT])
        streams = Streams()
        for cycle in range(4):
            at = (len(streams.out), len(streams.err))
            with Attached(b, x, streams.query()) as a:
                a.until(lambda a: len(a.out) > 2_000_000)
                if cycle == 2:
                    s.kill()
                    a.to_end()
                    assert a.closed[0] is None
                else:
                    hibernate(b)
                    a.to_end()
                    assert a.closed[0] == 1001 and a.code is None, (a.closed, a.code)
                    assert b.info()["status"] == "hibernated"
                streams.take(a, at)
            if cycle == 2:
                s.start()
                assert listed(b, x)["command"] == "python3" and listed(b, x)["args"] == ["-c", COUNT]
        at = (len(streams.out), len(streams.err))
        with Attached(b, x, streams.query()) as a:
            a.until_live()
            assert b.info()["status"] == "running"
            a.write(b"stop\n")
            a.to_end()
            assert a.code == 5 and a.closed[0] == 1000
            streams.take(a, at)
        streams.check()


@test
def a_client_without_offsets_gets_the_last_mebibyte_after_a_restart():
    with Server(env=KEEPS) as s:
        b = s.create()
        x = begin(b, "seq -f %09.0f 0 299999; read x; echo $x; exit 4")  # 3,000,000 bytes
        y = begin(b, "i=0; while [ $i -lt 9 ]; do echo o$i; sleep 0.02; echo e$i >&2; sleep 0.02; i=$((i+1)); done; cat")
        whole = b"".join(b"%09d\n" % i for i in range(300_000))
        wait_for("all of it", lambda: b.result(x, "?stdoutFrom=0")["stdoutNext"] == 3_000_000)
        wait_for("all of it", lambda: b.so_far(y)["stderr"].endswith("e8\n"))
        for how in 9, 15:
            s.kill(how)
            s.start()
            # At once, with nobody having asked for anything yet: the replay is whole all the same.
            with Attached(b, x) as a:
                a.until_live()
                assert a.replay[0] == whole[-(1 << 20):], len(a.replay[0])
            with Attached(b, y) as a:
                a.until_live()
                assert b"".join(d for _, d in a.order) == b"".join(b"o%d\ne%d\n" % (i, i) for i in range(9)), a.order
                a.write(b"more\n")
                a.until_out(b"more\n")
            b.request("POST", f"/exec/{y}/kill").expect(204)
            y = begin(b, "i=0; while [ $i -lt 9 ]; do echo o$i; sleep 0.02; echo e$i >&2; sleep 0.02; i=$((i+1)); done; cat")
            wait_for("all of it", lambda: b.so_far(y)["stderr"].endswith("e8\n"))
        with Attached(b, x) as a:
            a.until_live()
            a.write(b"done\n")
            a.to_end()
            assert a.out.endswith(b"000299999\ndone\n") and a.code == 4


@test
def a_server_that_comes_back_while_the_sandbox_sleeps_knows_its_sessions():
    with Server(env=KEEPS) as s:
        b = s.create()
        x = begin(b, "echo begun; read a; echo got $a; exit 6")
        with Attached(b, x) as a:
            a.until_out(b"begun\n")
        hibernate(b)
        s.kill()
        s.start()
        assert b.info()["status"] == "hibernated"
        with Attached(b, x) as a:
            a.until_live()
            assert a.replay == (b"begun\n", b"")
            a.write(b"it\n")
            a.to_end()
            assert a.out == b"begun\ngot it\n" and a.code == 6


@test
def how_a_command_ended_is_known_after_a_restart():
    with Server(env=KEEPS) as s:
        b = s.create()
        before = begin(b, "echo before; exit 3")
        wait_for("the end", lambda: listed(b, before)["running"] is False)
        meanwhile = begin(b, "echo meanwhile; while [ ! -e go ]; do sleep 0.01; done; echo end; exit 7")
        handle = b.start("while [ ! -e go ]; do sleep 0.01; done; echo handled")
        wait_for("output", lambda: b.so_far(meanwhile)["stdout"])
        s.kill()
        open(os.path.join(b.home, "go"), "w").close()
        s.start()
        for x, out, code in (before, b"before\n", 3), (meanwhile, b"meanwhile\nend\n", 7):
            with Attached(b, x) as a:
                a.to_end()
                assert (a.out, a.code) == (out, code), (a.out, a.code)
            entry = listed(b, x)
            assert entry["exitCode"] == code and entry["running"] is False, entry
        assert b.result(handle)["stdout"] == "handled\n" and b.result(handle)["exitCode"] == 0
        assert WebSocket(s, f"{b.url}/exec/00000000").status == 404


@test
def what_is_written_to_stdin_arrives_once_over_hibernations():
    with Server(env=KEEPS) as s:
        b = s.create()
        x = begin(b, "cat >all; exit 2")
        sent = b""
        for cycle in range(4):
            with Attached(b, x) as a:
                a.until_live()
                for i in range(40):
                    data = b"%d-%d " % (cycle, i) * 700
                    a.write(data)
                    sent += data
                # All that was sent is taken before the pong, so it counts.
                a.frame(9, b"taken?")
                while a.recv() != (10, b"taken?"):
                    pass
                if cycle == 3:
                    a.send(b"\x05")
                    assert a.to_end().code == 2
            if cycle < 3:
                hibernate(b)
        with open(os.path.join(b.home, "all"), "rb") as f:
            assert f.read() == sent


@test
def nobody_attached_for_too_long_ends_a_command_that_asked_for_it():
    with Server(env=KEEPS) as s:
        b = s.create()
        x = begin(b, "cat", maxRunAfterDisconnect=1)
        other = begin(b, "cat")
        never = begin(b, "cat", maxRunAfterDisconnect=1)
        with Attached(b, x) as a, Attached(b, x) as second:
            a.until_live()
            second.until_live()
            second.sock.close()
            time.sleep(2.5)
            assert listed(b, x)["running"] is True
        wait_for("it to be killed", lambda: listed(b, x)["running"] is False)
        assert listed(b, x)["exitCode"] == 137
        assert listed(b, other)["running"] and listed(b, never)["running"]
        # After a restart nobody is attached, and the time begins.
        s.kill()
        s.start()
        wait_for("it to be killed", lambda: listed(b, never)["running"] is False)
        assert listed(b, other)["running"]
        b.request("POST", "/exec", {"cmd": "x", "maxRunAfterDisconnect": -1}).expect(400)


@test
def a_client_that_comes_during_a_restore_waits_for_what_the_guest_has_then():
    with Server() as s, ThreadPoolExecutor(2) as pool:
        p = Points(s)
        ended = begin(p.box, "echo it; exit 3")
        wait_for("its end", lambda: listed(p.box, ended)["running"] is False)
        id = p.take("here")
        s.hold("rollback-late")
        restored = pool.submit(p.restore, id)
        s.wait_held("rollback-late")

        def attach():
            with Attached(p.box, ended) as a:
                return a.to_end().code, a.out

        attached = pool.submit(attach)
        # The guest may be about to run that command again.
        assert not wait([attached], timeout=0.3).done
        s.release("rollback-late")
        restored.result().expect(200)
        assert attached.result() == (3, b"it\n"), "the guest does not know it: what was known stays"


@test
def ten_thousand_commands_have_their_codes():
    with Server() as s:
        b = s.create()
        c = s.connect()
        for i in range(10_000):
            answer = b.request("POST", "/exec/run-async", {"cmd": "false" if i % 3 else "true", "args": ["x"]}, connection=c).json()
            assert answer == {"exitCode": 1 if i % 3 else 0, "stdout": "", "stderr": ""}, (i, answer)
        c.close()
