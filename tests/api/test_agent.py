# SPDX-License-Identifier: Apache-2.0
"""Agent sessions (api.md 7) with a script in place of claude-agent-wrapper: what it is given, and when."""
import json
import os

from harness import Server, test, wait_for
from websocket import Attached

ECHO = "echo '{\"type\":\"ready\"}'; exec cat"


def equipped(server, script=ECHO):
    """A sandbox whose PATH begins with a wrapper of ours."""
    folder = os.path.join(server.folder, "bin")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "claude-agent-wrapper")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o755)
    return server.create(envs={"PATH": f"{folder}:/usr/bin:/bin"})


def begin(sandbox, **fields):
    started = sandbox.request("POST", "/agent", fields).expect(201).json()
    assert started["sandboxID"] == sandbox.id and started["startedAt"], started
    return started["sessionID"]


def lines(sandbox, session, n):
    """The first n lines of its stdout, as JSON; over the WebSocket of exec sessions."""
    with Attached(sandbox, session) as a:
        a.until(lambda a: a.out.count(b"\n") >= n)
        return [json.loads(line) for line in a.out.splitlines()]


@test
def an_agent_gets_its_options_and_then_its_prompt():
    with Server() as s:
        b = equipped(s)
        options = {"model": "m", "systemPrompt": "be \"brief\"\n", "allowedTools": ["A", "B"], "permissionMode": "plan",
                   "maxTurns": 3, "cwd": "/tmp", "mcpServers": {"x": {"command": "c", "args": ["1"], "env": {"K": "v"}}}}
        x = begin(b, prompt="do it é", resume="r-1", unknown=[1], **options)
        assert lines(b, x, 3) == [{"type": "ready"}, {"type": "configure", **options},
                                  {"type": "prompt", "text": "do it é", "resume": "r-1"}]


@test
def an_agent_is_told_nothing_that_was_not_given():
    with Server() as s:
        b = equipped(s)
        for fields, want in (({}, []), ({"prompt": "p"}, [{"type": "prompt", "text": "p"}]),
                             ({"prompt": "", "model": None}, []),
                             ({"resume": "r"}, [{"type": "configure", "resume": "r"}])):
            x = begin(b, **fields)
            b.request("POST", f"/agent/{x}/interrupt").expect(204)
            got = lines(b, x, len(want) + 2)
            assert got == [{"type": "ready"}, *want, {"type": "interrupt"}], (fields, got)


@test
def prompts_and_interrupts_are_lines_and_clients_come_after_them():
    with Server() as s:
        b = equipped(s)
        x = begin(b, prompt="first")
        with Attached(b, x) as a:
            a.write(b'{"type":"mine"}\n')
            b.request("POST", f"/agent/{x}/prompt", {"text": "second", "resume": "r"}).expect(204)
            a.until(lambda a: a.out.count(b"\n") >= 4)
            types = [json.loads(line) for line in a.out.splitlines()]
        assert types[1] == {"type": "prompt", "text": "first"}, types
        assert sorted(map(str, types[2:])) == sorted(map(str, [
            {"type": "mine"}, {"type": "prompt", "text": "second", "resume": "r"}])), types


@test
def a_prompt_larger_than_every_buffer_arrives_whole():
    with Server() as s:
        b = equipped(s, "sleep 0.2; exec cat")
        text = "0123456789abcdef" * 60000
        x = begin(b, prompt=text)
        with Attached(b, x) as a:
            a.until(lambda a: a.out.endswith(b"\n"))
            assert json.loads(a.out) == {"type": "prompt", "text": text}


@test
def agents_are_listed_apart_and_among_the_commands():
    with Server() as s:
        b = equipped(s)
        assert b.request("GET", "/agent").expect(200).json() == []
        x = begin(b)
        command = b.request("POST", "/exec", {"cmd": "cat"}).expect(201).json()["sessionID"]
        agent, = b.request("GET", "/agent").expect(200).json()
        assert (agent["sessionID"], agent["sandboxID"], agent["running"]) == (x, b.id, True), agent
        assert {e["sessionID"] for e in b.request("GET", "/exec").expect(200).json()} == {x, command}
        b.request("POST", f"/agent/{command}/kill").expect(404, "not found")
        b.request("POST", f"/agent/{command}/prompt", {"text": "x"}).expect(404, "not found")
        b.request("POST", f"/agent/{x}/kill", {"signal": 15}).expect(204)
        wait_for("its end", lambda: not b.request("GET", "/agent").json()[0]["running"])
        assert b.request("GET", "/agent").json()[0]["exitCode"] == 143
        b.request("POST", f"/agent/{x}/kill").expect(204)
        b.request("POST", f"/agent/{x}/prompt", {"text": "x"}).expect(409, "has ended")


@test
def an_agent_that_ends_at_once_says_why_on_its_stdout():
    with Server() as s:
        b = equipped(s, "echo '{\"type\":\"error\",\"message\":\"no key\"}'; exit 1")
        x = begin(b, prompt="p" * 900000)
        with Attached(b, x) as a:
            a.to_end()
            assert (json.loads(a.out)["message"], a.code) == ("no key", 1), (a.out, a.code)


@test
def without_a_wrapper_the_session_ends_as_a_command_that_is_not_there():
    with Server() as s:
        b = s.create(envs={"PATH": "/nowhere"})
        x = begin(b, prompt="p")
        with Attached(b, x) as a:
            a.to_end()
            assert a.code == 127, a.code


@test
def what_no_agent_can_be_told_is_refused():
    with Server() as s:
        b = equipped(s)
        s.request("POST", "/api/sandboxes/sb-00000000/agent", {"model": 1}).expect(404)
        for bad, word in (({"model": 1}, "model"), ({"allowedTools": "A"}, "allowedTools"), ({"maxTurns": 0}, "maxTurns"),
                          ({"mcpServers": []}, "mcpServers"), ({"prompt": {}}, "prompt")):
            b.request("POST", "/agent", bad).expect(400, word)
        x = begin(b)
        b.request("POST", f"/agent/{x}/prompt", {}).expect(400, "text")
        b.request("POST", f"/agent/{x}/prompt", {"text": ""}).expect(400, "text")
        b.request("POST", f"/agent/{x}/kill", {"signal": 65}).expect(400, "signal")
        b.request("POST", "/agent/00000000/interrupt").expect(404, "not found")
        other = s.create()
        other.request("POST", f"/agent/{x}/interrupt").expect(404, "not found")


@test
def agents_and_terminals_are_listed_at_once_after_a_restart():
    with Server() as s:
        b = equipped(s)
        x = begin(b)
        y = b.request("POST", "/pty", {}).expect(201).json()["sessionID"]
        for _ in range(3):
            s.kill()
            s.start()
            assert [a["sessionID"] for a in b.request("GET", "/agent").expect(200).json()] == [x]
            s.kill()
            s.start()
            assert [a["sessionID"] for a in b.request("GET", "/pty").expect(200).json()] == [y]
