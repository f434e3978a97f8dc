# SPDX-License-Identifier: Apache-2.0
"""Commands (api.md 4)."""
import base64
import hashlib
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Server, test, wait_for


@test
def a_command_is_a_program_with_arguments_or_a_line_for_the_shell():
    with Server() as s:
        b = s.create()
        for route in "run", "run-async":
            assert b.run("sh", route, args=["-c", "echo out; echo err >&2; exit 3"]) == {"exitCode": 3, "stdout": "out\n", "stderr": "err\n"}
            assert b.run("echo a b | wc -w", route)["stdout"].strip() == "2"
            assert b.run("pwd", route, args=[])["stdout"] == b.home + "\n"
            assert b.run("printf", route, args=["%s|", "a b", "", "$HOME"])["stdout"] == "a b||$HOME|"


@test
def environments_are_layered():
    with Server() as s:
        b = s.create(envs={"A": "sandbox", "B": "sandbox", "SPACE": "a b\nc"})
        out = b.run('echo "$A $B $C"; echo "$SPACE"; echo $HOME', envs={"B": "command", "C": "command"})["stdout"]
        assert out == f"sandbox command command\na b\nc\n{b.home}\n", out
        assert b.run("echo $C")["stdout"] == "\n"


@test
def the_working_directory():
    with Server() as s:
        b = s.create()
        os.makedirs(b.home + "/sub")
        assert b.run("pwd", cwd="sub")["stdout"] == b.home + "/sub\n"
        assert b.run("pwd; echo $PWD", cwd="/usr")["stdout"] == "/usr\n/usr\n"
        for route in "run", "run-async":
            a = b.run("pwd", route, cwd="/nonexistent")
            assert a["exitCode"] == -1 and "/nonexistent" in a["stderr"], a


@test
def bad_commands_are_refused_by_field():
    with Server() as s:
        b = s.create()
        for body, word in (({}, "cmd is required"), ({"cmd": ""}, "cmd is required"), ({"cmd": None}, "cmd is required"), ({"cmd": 1}, "cmd"),
                           ({"cmd": "x", "args": "y"}, "args"), ({"cmd": "x", "args": [1]}, "args"), ({"cmd": "x", "envs": {"A": 1}}, "envs"),
                           ({"cmd": "x", "envs": {"A=": "b"}}, "envs"), ({"cmd": "x", "timeout": -1}, "timeout"), ({"cmd": "x\0y"}, "NUL"),
                           ({"cmd": "x", "args": ["a\0"]}, "NUL"), ("{", "invalid JSON")):
            for route in "/exec/run", "/exec/run-async", "/exec":
                b.request("POST", route, body).expect(400, word)
        assert b.run("echo fine")["stdout"] == "fine\n"


@test
def programs_that_are_missing_or_killed_have_the_codes_of_a_shell():
    with Server() as s:
        b = s.create()
        a = b.run("no-such-program", args=["x"])
        assert a["exitCode"] == 127 and "no-such-program" in a["stderr"]
        assert b.run("/etc", args=["x"])["exitCode"] == 126
        assert b.run("sh", args=["-c", "kill -TERM $$"])["exitCode"] == 143


@test
def a_timeout_kills_and_says_so():
    with Server() as s:
        b = s.create()
        a = b.run("echo before; printf unfinished >&2; sleep 1000", timeout=1)
        assert a == {"exitCode": -1, "stdout": "before\n", "stderr": "unfinished\nProcess timed out\n"}, a
        end = b.result(b.start("sleep 1000", timeout=1))
        assert (end["running"], end["exitCode"], end["stderr"]) == (False, -1, "Process timed out\n")


@test
def output_is_text_and_broken_text_is_marked():
    with Server() as s:
        b = s.create()
        a = b.run(r"""printf '\303\251 \377 \360\237\230\200 \300\200 \355\240\200 "\\ \t\001\177'""")
        assert a["stdout"] == 'é \ufffd 😀 \ufffd\ufffd \ufffd\ufffd\ufffd "\\ \t\x01\x7f', a
        a = b.run("head -c 100000 /dev/zero | tr '\\0' x; head -c 100000 /dev/zero | tr '\\0' y >&2")
        assert a["stdout"] == "x" * 100000 and a["stderr"] == "y" * 100000 and "truncated" not in a


@test
def of_endless_output_the_end_is_kept():
    with Server() as s:
        b = s.create()
        a = b.run("seq 1 2500000; echo end")
        assert a["truncated"] is True and a["exitCode"] == 0
        assert a["stdout"].endswith("2500000\nend\n") and len(a["stdout"]) >= 8 << 20
        a = b.run("head -c 8388608 /dev/zero | tr '\\0' x")
        assert len(a["stdout"]) == 8 << 20 and "truncated" not in a


@test
def children_in_the_background_do_not_hold_the_answer():
    with Server() as s:
        b = s.create()
        assert b.run("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo started")["stdout"] == "started\n"
        assert b.run("sleep 1000 & echo started")["stdout"] == "started\n"


@test
def stdin_is_empty():
    with Server() as s:
        assert s.create().run("wc -c")["stdout"].strip() == "0"


@test
def a_long_command_gets_a_handle_and_its_result_can_be_waited_for():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        a = b.request("POST", "/exec/run-async", {"cmd": "echo one; until [ -e go ]; do sleep 0.01; done; echo two; exit 5"}).expect(202).json()
        assert a["running"] is True and len(a["execId"]) == 8 and a["startedAt"].endswith("Z")
        listed = b.request("GET", "/exec").expect(200).json()
        assert [(x["sessionID"], x["running"], x["sandboxID"], x["attachedClients"]) for x in listed] == [(a["execId"], True, b.id, 0)]
        assert "exitCode" not in listed[0]
        waiting = pool.submit(b.result, a["execId"])
        open(b.home + "/go", "w").close()
        assert waiting.result() == {"running": False, "exitCode": 5, "stdout": "one\ntwo\n", "stderr": ""}
        assert b.result(a["execId"])["exitCode"] == 5, "results stay"
        assert b.request("GET", "/exec").json()[0]["exitCode"] == 5


@test
def a_poll_of_a_silent_command_ends_without_an_error():
    with Server() as s:
        b = s.create()
        id = b.start("sleep 1000")
        began = time.monotonic()
        assert b.result(id) == {"running": True, "stdout": "", "stderr": ""}
        assert time.monotonic() - began > 15
        b.request("POST", f"/exec/{id}/kill").expect(204)
        assert b.result(id)["exitCode"] == 137


@test
def a_started_command_has_an_open_stdin_and_can_be_killed_twice():
    with Server() as s:
        b = s.create()
        a = b.request("POST", "/exec", {"cmd": "cat", "args": ["-"]}).expect(201).json()
        assert (a["command"], a["args"], a["running"], a["sandboxID"], a["attachedClients"]) == ("cat", ["-"], True, b.id, 0)
        kill = f"/exec/{a['sessionID']}/kill"
        for bad in 0, 65, "9":
            b.request("POST", kill, {"signal": bad}).expect(400, "signal")
        b.request("POST", kill, {"signal": 15}).expect(204)
        assert b.result(a["sessionID"])["exitCode"] == 143
        b.request("POST", kill, {}).expect(204)
        b.request("POST", kill).expect(204)
        b.request("POST", "/exec/00000000/kill").expect(404, "exec session not found")
        b.request("GET", "/exec/00000000/result").expect(404, "exec session not found")


@test
def sessions_are_listed_per_sandbox():
    with Server() as s:
        a, b = s.create(), s.create()
        id = a.start("sleep 1000")
        assert b.request("GET", "/exec").expect(200).body == b"[]"
        b.request("GET", f"/exec/{id}/result").expect(404)


@test
def a_kill_reaches_the_whole_process_group():
    with Server() as s:
        b = s.create()
        id = b.start("sh -c 'echo $$ >pid; sleep 1000' & wait")
        wait_for("the child", lambda: os.path.exists(b.home + "/pid") and os.path.getsize(b.home + "/pid"))
        pid = open(b.home + "/pid").read().strip()
        b.request("POST", f"/exec/{id}/kill").expect(204)
        assert b.result(id)["exitCode"] == 137
        wait_for("the child to end", lambda: not os.path.exists(f"/proc/{pid}") or "Z" in open(f"/proc/{pid}/stat").read())


@test
def commands_of_one_sandbox_run_at_the_same_time():
    # Each waits for all the others: in turns they would never end.
    n = 40
    with Server() as s, ThreadPoolExecutor(n) as pool:
        b = s.create()
        meet = f"touch $I.up; until [ $(ls *.up | wc -l) -eq {n} ]; do sleep 0.05; done; echo met"
        for a in pool.map(lambda i: b.run(meet, envs={"I": str(i)}), range(n)):
            assert a["stdout"] == "met\n", a


@test
def run_sends_blanks_until_a_slow_command_ends():
    with Server() as s:
        b = s.create()
        body = json.dumps({"cmd": "until [ -e go ]; do sleep 0.05; done; echo done"})
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(f"POST {b.url}/exec/run?api_key=another-key HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            got = b""
            while b"\r\n\r\n" not in got or not got.split(b"\r\n\r\n", 1)[1]:
                got += c.recv(4096)
            assert got.startswith(b"HTTP/1.1 200") and b"chunked" in got
            assert got.split(b"\r\n\r\n", 1)[1] == b"1\r\n \r\n", got
            open(b.home + "/go", "w").close()
            while not got.endswith(b"0\r\n\r\n"):
                got += c.recv(4096)
        assert b'{"exitCode":0,"stdout":"done\\n","stderr":""}' in got


@test
def a_client_that_goes_away_does_not_end_its_command():
    with Server() as s:
        b = s.create()
        body = json.dumps({"cmd": "touch up; until [ -e go ]; do sleep 0.05; done; head -c 5000000 /dev/zero; touch finished"})
        with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
            c.sendall(f"POST {b.url}/exec/run?api_key=another-key HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            wait_for("the command", lambda: os.path.exists(b.home + "/up"))
            while b"200" not in c.recv(4096):
                pass
        open(b.home + "/go", "w").close()
        wait_for("the command to finish", lambda: os.path.exists(b.home + "/finished"), 60)


def follow(b, id, encoding="", before_each=lambda: None):
    """Read a command's output bit by bit, as `dormouse exec` does. Both streams and the last answer."""
    out, offsets, polls = [b"", b""], [0, 0], 0
    while True:
        before_each()
        a = b.result(id, f"?stdoutFrom={offsets[0]}&stderrFrom={offsets[1]}{encoding}")
        polls += 1
        assert "truncated" not in a, a["stdoutNext"]
        for i, name in enumerate(("stdout", "stderr")):
            out[i] += base64.b64decode(a[name]) if encoding else a[name].encode()
            offsets[i] = a[name + "Next"]
        if not a["running"]:
            return out[0], out[1], a, polls


@test
def a_command_can_be_followed():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        id = b.start("echo one; echo two >&2; until [ -e go ]; do sleep 0.01; done; echo three; exit 4")
        first = b.result(id, "?stdoutFrom=0&stderrFrom=0")
        assert first["running"] is True and first["stdout"] + first["stderr"]
        both = pool.submit(follow, b, id)
        open(b.home + "/go", "w").close()
        out, err, last, _ = both.result()
        assert (out, err, last["exitCode"]) == (b"one\nthree\n", b"two\n", 4)
        assert b.result(id, "?stdoutFrom=4&stderrFrom=4")["stdout"] == "three\n"
        b.request("GET", f"/exec/{id}/result?stdoutFrom=x").expect(400, "stdoutFrom")
        b.request("GET", f"/exec/{id}/result?encoding=x").expect(400, "encoding")


@test
def half_a_character_waits_for_the_rest():
    with Server() as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        id = b.start(r"printf 'a\303'; until [ -e go ]; do sleep 0.01; done; printf '\251b\303'")
        assert b.result(id, "?stdoutFrom=0")["stdout"] == "a"
        rest = pool.submit(b.result, id, "?stdoutFrom=1")
        open(b.home + "/go", "w").close()
        text, at = "", 1
        a = rest.result()
        while True:
            text, at = text + a["stdout"], a["stdoutNext"]
            if not a["running"]:
                break
            a = b.result(id, f"?stdoutFrom={at}")
        assert text == "éb\ufffd" and at == 5


@test
def a_slow_follower_loses_nothing_of_a_fast_command():
    with Server() as s:
        b = s.create()
        size = 40 << 20
        id = b.start(f"head -c {size} /dev/urandom | tee copy; sync copy")
        out, _, last, polls = follow(b, id, "&encoding=base64", lambda: time.sleep(0.2))
        assert len(out) == size and last["exitCode"] == 0
        with open(b.home + "/copy", "rb") as f:
            assert hashlib.sha256(out).digest() == hashlib.sha256(f.read()).digest()


@test
def a_handle_at_once_if_asked_for():
    with Server() as s:
        b = s.create()
        a = b.request("POST", "/exec/run-async?hold=0", {"cmd": "echo x"}).expect(202).json()
        assert b.result(a["execId"]) == {"running": False, "exitCode": 0, "stdout": "x\n", "stderr": ""}
        a = b.result(b.start("pwd", cwd="/nonexistent"))
        assert a["running"] is False and "/nonexistent" in a["error"]


@test
def large_commands_and_environments_arrive_whole():
    with Server() as s:
        b = s.create()
        assert b.run("wc -c <<'E'\n" + "x" * 100000 + "\nE")["stdout"].strip() == "100001"
        assert b.run("printf %s $V | wc -c", envs={"V": "y" * 100000})["stdout"].strip() == "100000"


@test
def thousands_of_commands_leave_no_descriptor_behind():
    with Server() as s, ThreadPoolExecutor(16) as pool:
        b = s.create()
        fds = lambda: len(os.listdir(f"/proc/{s.process.pid}/fd"))
        list(pool.map(lambda _: b.run("true"), range(32)))
        before = fds()
        for a in pool.map(lambda i: b.run("echo " + str(i)), range(1500)):
            assert a["exitCode"] == 0
        # A pool keeps 16 connections at most.
        wait_for("descriptors to be closed", lambda: fds() <= before + 16)
