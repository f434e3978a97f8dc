# SPDX-License-Identifier: Apache-2.0
"""Terminals: made, attached to, resized, detached from, removed (api.md 6, 17.2)."""
import hashlib
import os
import signal
import time

from harness import KEY, Server, test, wait_for
from websocket import Closed, WebSocket

# A shell that reads no files of this machine, and has a prompt that is no word.
SHELL = {"shell": "bash", "args": ["--norc", "--noprofile", "-i"], "envs": {"PS1": "$ ", "HISTFILE": ""}}


def make(sandbox, **fields):
    made = sandbox.request("POST", "/pty", {**SHELL, **fields}).expect(201).json()
    assert set(made) == {"sessionID", "sandboxID"} and made["sandboxID"] == sandbox.id, made
    return made["sessionID"]


def script(sandbox, text, **fields):
    return make(sandbox, shell="sh", args=["-c", text], **fields)


def terminals(sandbox):
    return {t["sessionID"]: t for t in sandbox.request("GET", "/pty").expect(200).json()}


class Terminal(WebSocket):
    def __init__(self, sandbox, terminal, query="", **more):
        super().__init__(sandbox.server, f"{sandbox.url}/pty/{terminal}{query}", **more)
        self.out, self.at = b"", 0
        self.closed = None

    def type(self, text, opcode=2):
        self.send(text.encode() if isinstance(text, str) else text, opcode)

    def step(self):
        try:
            opcode, data = self.recv()
        except Closed as c:
            self.closed = (c.code, c.reason)
            return False
        assert opcode == 2, opcode
        self.out += data
        return True

    def expect(self, text):
        """Read until it is shown, after what was expected before."""
        text = text.encode()
        while text not in self.out[self.at:]:
            assert self.step(), f"{self.closed} before {text}: {self.out[-300:]}"
        self.at = self.out.index(text, self.at) + len(text)

    def to_end(self):
        while self.step():
            pass
        return self


@test
def a_terminal_keeps_its_prompt_until_somebody_attaches_and_ends_with_its_shell():
    with Server() as s:
        b = s.create(envs={"WHO": "you"})
        t = make(b, rows=33, cols=101)
        with Terminal(b, t) as w:
            w.expect("$ ")
            w.type("stty size; echo $TERM:$WHO; pwd; tty -s && echo a tty\n")
            w.expect("33 101\r\nxterm-256color:you\r\n")
            w.expect(b.home + "\r\na tty\r\n")
            w.type("exit 3\n")
            assert w.to_end().closed == (1000, "exited with code 3"), w.closed
        # To one that has ended, too.
        with Terminal(b, t) as w:
            assert w.to_end().closed == (1000, "exited with code 3"), w.closed
            assert b"33 101" in w.out
        assert terminals(b)[t]["running"] is False and terminals(b)[t]["exitCode"] == 3


@test
def text_and_binary_are_both_input_and_ctrl_c_is_a_key():
    with Server() as s:
        b = s.create()
        with Terminal(b, make(b)) as w:
            w.expect("$ ")
            w.type("sed -u s/^/=/\n", opcode=1)
            w.type("one\n")
            w.expect("=one\r\n")
            # In pieces, with a ping in the middle.
            w.frame(1, b"tw", fin=False)
            w.frame(9, b"?")
            w.frame(0, b"o\n")
            while True:
                opcode, data = w.recv()
                if opcode == 10:
                    break
                w.out += data
            w.expect("=two\r\n")
            w.type("\x03")
            w.expect("$ ")
            w.type("echo code=$?\n")
            w.expect("code=130\r\n")


@test
def what_is_wrong_is_refused():
    with Server() as s:
        b, other = s.create(), s.create()
        for bad in ({"rows": -1}, {"cols": 65536}, {"rows": "x"}, {"shell": 5}, {"args": [1]}, {"envs": {"A=B": "x"}},
                    {"maxRunAfterDisconnect": -1}):
            b.request("POST", "/pty", {**SHELL, **bad}).expect(400)
        t = make(b, rows=0, cols=0)
        for path in (f"{b.url}/pty/00000000", f"{other.url}/pty/{t}", f"/api/sandboxes/sb-00000000/pty/{t}"):
            assert WebSocket(s, path).status == 404, path
            s.request("POST", path + "/resize", {"rows": 5, "cols": 5}).expect(404)
            s.request("DELETE", path).expect(404)
        for bad in ({}, {"rows": 5}, {"rows": 0, "cols": 5}, {"rows": 5, "cols": 70000}):
            b.request("POST", f"/pty/{t}/resize", bad).expect(400)
        b.request("GET", f"/pty/{t}").expect(426)
        # It is no command, and a command is no terminal.
        assert b.request("GET", "/exec").expect(200).json() == []
        b.request("GET", f"/exec/{t}/result").expect(404)
        b.request("POST", f"/exec/{t}/kill").expect(404)
        assert WebSocket(s, f"{b.url}/exec/{t}").status == 404
        x = b.start("sleep 100")
        assert WebSocket(s, f"{b.url}/pty/{x}").status == 404
        assert list(terminals(b)) == [t]
        b.request("POST", f"/exec/{x}/kill").expect(204)


@test
def a_program_that_is_not_there_says_so_in_the_terminal():
    with Server() as s:
        b = s.create()
        with Terminal(b, make(b, shell="/no/such/shell", args=[])) as w:
            assert w.to_end().closed == (1000, "exited with code 127"), w.closed
            assert w.out == b"/no/such/shell: command not found\r\n", w.out
        with Terminal(b, make(b, cwd="/no/such/folder")) as w:
            assert w.to_end().closed[0] == 1000 and "/no/such/folder" in w.closed[1], w.closed


@test
def a_resize_is_seen_by_the_program():
    with Server() as s:
        b = s.create()
        t = script(b, "trap 'echo now $(stty size)' WINCH; echo ready; while :; do read x; done")
        with Terminal(b, t) as w:
            w.expect("ready\r\n")
            assert b.request("POST", f"/pty/{t}/resize", {"cols": 132, "rows": 50}).expect(200).json() == {}
            w.expect("now 50 132\r\n")


@test
def clients_of_the_python_sdk_have_no_prefix_and_two_credentials():
    with Server() as s:
        b = s.create()
        t = script(b, "echo hello; exit 0")
        path = f"/sandboxes/{b.id}/pty/{t}"
        w = WebSocket(s, path + "?api_key=" + KEY, tcp=True, headers={"X-API-Key": KEY})
        assert w.status == 101
        assert w.recv() == (2, b"hello\r\n")
        assert WebSocket(s, path, tcp=True).status == 401
        assert WebSocket(s, path + "?api_key=wrong", tcp=True).status == 403


@test
def all_clients_see_the_same_and_who_comes_back_gets_the_screen():
    with Server() as s:
        b = s.create()
        t = script(b, "trap 'echo drawn' WINCH; echo first; while :; do read x && echo got $x; done")
        with Terminal(b, t) as one:
            one.expect("first\r\n")
            with Terminal(b, t) as two:
                two.expect("first\r\n")
                # The second one: the program is told to draw everything again.
                one.expect("drawn\r\n")
                two.type("x\n")
                one.expect("got x\r\n")
                two.expect("got x\r\n")
                assert terminals(b)[t]["attachedClients"] == 2
        wait_for("nobody to be attached", lambda: terminals(b)[t]["attachedClients"] == 0)
        with Terminal(b, t) as three:
            three.expect("first\r\n")
            three.expect("got x\r\n")
            three.expect("drawn\r\n")
            at = len(three.out)
        # From where a client was, nothing comes twice.
        with Terminal(b, t, f"?stdoutFrom={at}") as four:
            four.type("y\n")
            four.expect("got y\r\n")
            assert b"first" not in four.out, four.out


@test
def much_output_comes_whole_through_a_client_that_sleeps():
    size = 20 << 20
    with Server() as s:
        b = s.create()
        with open(os.path.join(b.home, "data"), "wb") as f:
            f.write(os.urandom(1 << 20) * (size >> 20))
        t = script(b, "stty raw -echo; printf .; head -c 1 >/dev/null; cat data; head -c 1 >/dev/null")
        with Terminal(b, t, tcp=True, receive_buffer=16384, headers={"X-API-Key": KEY}) as w:
            w.expect(".")
            w.out = b""
            w.type("g")
            while len(w.out) < 1 << 20:
                w.step()
            time.sleep(1)
            while len(w.out) < size:
                assert w.step(), w.closed
            with open(os.path.join(b.home, "data"), "rb") as f:
                assert hashlib.sha256(w.out).digest() == hashlib.sha256(f.read()).digest()
            assert len(w.out) == size


@test
def a_deleted_terminal_is_hung_up():
    with Server() as s:
        b = s.create()
        t = script(b, "trap 'echo hup >gone; exit 1' HUP; echo $$; while :; do sleep 0.02; done")
        with Terminal(b, t) as w:
            w.expect("\r\n")
            pid = int(w.out)
            b.request("DELETE", f"/pty/{t}").expect(204)
            assert w.to_end().closed[0] == 1000, w.closed
        wait_for("the shell to see it", lambda: os.path.exists(os.path.join(b.home, "gone")))
        wait_for("the shell to end", lambda: not os.path.exists(f"/proc/{pid}"))
        b.request("DELETE", f"/pty/{t}").expect(404)
        assert WebSocket(s, f"{b.url}/pty/{t}").status == 404
        assert terminals(b) == {}


@test
def a_terminal_that_nobody_comes_back_to_is_hung_up():
    with Server() as s:
        b = s.create()
        text = "trap 'echo hup >>gone; exit 1' HUP; echo ready; while :; do sleep 0.02; done"
        never, left, stays = (script(b, text, maxRunAfterDisconnect=1) for _ in range(3))
        forever = script(b, text, maxRunAfterDisconnect=0)
        with Terminal(b, stays) as w:
            w.expect("ready")
            with Terminal(b, left) as l:
                l.expect("ready")
                wait_for("the first to go", lambda: never not in terminals(b))
                assert {left, stays, forever} <= set(terminals(b))
            wait_for("the second to go", lambda: left not in terminals(b))
            assert set(terminals(b)) == {stays, forever}

            def gone():
                with open(os.path.join(b.home, "gone")) as f:
                    return f.read() == "hup\nhup\n"
            wait_for("both shells to be told", gone)


@test
def a_terminal_goes_on_after_hibernation():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        b = s.create()
        t = script(b, "while read x; do n=$((n+1)); echo $n $x; done", maxRunAfterDisconnect=1)
        with Terminal(b, t) as w:
            w.type("a\n")
            w.expect("1 a\r\n")
            for i in range(2, 5):
                b.request("POST", "/hibernate").expect(200)
                assert w.to_end().closed[0] == 1001, w.closed
                # Longer than it may be alone: but asleep it ages not.
                time.sleep(1.5)
                assert b.info()["status"] == "hibernated"
                at = len(w.out)
                w = Terminal(b, t, f"?stdoutFrom={at}")
                assert w.status == 101
                w.type("b\n")
                w.expect(f"{i} b\r\n")
            w.sock.close()


@test
def a_terminal_goes_on_after_each_restart_of_the_server():
    with Server() as s:
        b = s.create()
        t = script(b, "echo pid=$$; trap 'echo drawn $(stty size)' WINCH; while :; do read x && n=$((n+1)) && echo $n $x; done",
                   rows=31, cols=91)
        other = make(b)
        w = Terminal(b, t)
        w.expect("\r\n")
        pid = int(w.out.split(b"=")[1].split()[0])
        w.type("a\n")
        w.expect("1 a\r\n")
        at = 0
        for i, signo in ((2, signal.SIGKILL), (3, signal.SIGTERM), (4, signal.SIGKILL)):
            s.kill(signo)
            assert w.to_end().closed[0] in (None, 1001), w.closed
            at += len(w.out)
            s.start()
            assert set(terminals(b)) == {t, other}, terminals(b)
            w = Terminal(b, t, f"?stdoutFrom={at}")
            assert w.status == 101
            w.type("b\n")
            w.expect(f"{i} b\r\n")
            assert b"1 a" not in w.out, "nothing comes twice"
        # All of it for who has nothing; and the size is known still.
        with Terminal(b, t) as all:
            for text in ("1 a\r\n", "4 b\r\n", "drawn 31 91\r\n"):
                all.expect(text)
        w.sock.close()
        b.request("DELETE", f"/pty/{t}").expect(204)
        assert set(terminals(b)) == {other}
        wait_for("the guest to have been told", lambda: not os.path.exists(f"/proc/{pid}"))
        s.kill()
        s.start()
        assert set(terminals(b)) == {other}, "what was removed stays removed"


@test
def bytes_of_a_terminal_keep_its_sandbox_awake():
    with Server() as s:
        b = s.create(timeout=2)
        t = script(b, "while read x; do echo got $x; done")
        with Terminal(b, t) as w:
            for i in range(8):
                w.type(f"{i}\n")
                w.expect(f"got {i}\r\n")
                time.sleep(0.5)
            assert b.info()["status"] == "running"
            # An open terminal alone does not.
            b.wait_status("hibernated")
            assert w.to_end().closed[0] == 1001, w.closed
