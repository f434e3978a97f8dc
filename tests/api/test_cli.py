# SPDX-License-Identifier: Apache-2.0
"""The command line against the real server: what it prints, and its exit codes (docs/cli.md)."""
import hashlib
import json
import os
import re
import signal
import subprocess

import harness
from harness import Server, test, wait_for

CLI = os.environ.get("DORMOUSE", os.path.join(harness.TOP, "build/dormouse"))


def start(server, *arguments, **more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("DORMOUSE_", "OPENCOMPUTER_"))}
    return subprocess.Popen([CLI, *arguments], stdin=more.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE,
                            stderr=more.pop("stderr", subprocess.PIPE), env={**keep, "DORMOUSE_URL": f"unix:{server.socket}", **more})


def cli(server, *arguments, code=0, **more):
    """Run it to its end. Returns stdout and stderr as bytes."""
    process = start(server, *arguments, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, f"{arguments}: exit {process.returncode}, not {code}: {out[-300:]} {err[-300:]}"
    return out, err


def create(server, *options):
    return cli(server, "create", *options)[0].decode().strip()


@test
def the_life_of_a_sandbox_from_the_command_line():
    with Server() as s:
        id = create(s, "--template", "mini", "--memory", "256", "--metadata", "team=a b", "-e", "GREETING=hi")
        row = cli(s, "ls")[0].decode().splitlines()[1].split()
        assert row[:3] == [id, "running", "mini"], row
        info = json.loads(cli(s, "info", "--json", id)[0])
        assert info["memoryMB"] == 256 and info["metadata"] == {"team": "a b"}, info
        assert cli(s, "exec", id, "--", "sh", "-c", "echo $GREETING")[0] == b"hi\n"
        cli(s, "logs", id)
        assert cli(s, "kill", id)[0].decode() == id + "\n"
        assert json.loads(cli(s, "ls", "--json")[0]) == []
        assert b"410" in cli(s, "exec", id, "--", "true", code=125)[1]
        s.assert_nothing_left()


@test
def images_and_snapshots_from_the_command_line():
    with Server() as s:
        path = s.folder + "/image.json"
        with open(path, "w") as f:
            json.dump({"base": "base", "steps": [{"type": "run", "args": {"commands": ["echo in the log; echo a >words"]}}]}, f)
        out, err = cli(s, "image", "build", path)
        hash, log = out.decode().strip(), err.decode().splitlines()
        assert len(hash) == 64 and "in the log" in log and "Step 1/1 completed" in log and b"\x1b" not in err, err
        assert json.loads(cli(s, "image", "build", "--json", "-", stdin=open(path))[0])["cached"] is True
        row = cli(s, "image", "ls")[0].decode().splitlines()[1].split()
        assert row[:2] == [hash[:12], "1"], row
        assert cli(s, "snapshot", "create", "my/one", path)[0] == b"my/one\n"
        assert b"409" in cli(s, "snapshot", "create", "my/one", path, code=1)[1]
        row = cli(s, "snapshot", "ls")[0].decode().splitlines()[1].split()
        assert row[:3] == ["my/one", "ready", hash[:12]], row
        assert cli(s, "exec", create(s, "--template", "my/one"), "cat", "words")[0] == b"a\n"
        assert cli(s, "snapshot", "rm", "my/one", "none", code=1)[0] == b"my/one\n"
        assert json.loads(cli(s, "image", "rm", "--json", hash[:8])[0]) == [{"image": hash[:8], "removed": True}]
        assert json.loads(cli(s, "image", "ls", "--json")[0]) == json.loads(cli(s, "snapshot", "ls", "--json")[0]) == []
        with open(path, "w") as f:
            json.dump({"steps": [{"type": "run", "args": {"commands": ["echo why; exit 3"]}}]}, f)
        assert b"dormouse image: step 1/1 (run): exit code 3: why" in cli(s, "image", "build", path, code=1)[1]
        assert b"line 1" in cli(s, "image", "build", "-", stdin=open(s.folder + "/keys"), code=1)[1]
        for wrong in ["image"], ["image", "build"], ["image", "x"], ["snapshot", "create", "n"], ["snapshot", "ls", "x"]:
            cli(s, *wrong, code=2)


@test
def a_build_on_a_terminal_has_a_line_that_says_how_far_it_is():
    with Server() as s:
        body = {"steps": [{"type": "run", "args": {"commands": [f"while [ ! -e {s.folder}/go ]; do sleep 0.02; done; echo out"]}}]}
        path = s.folder + "/image.json"
        with open(path, "w") as f:
            json.dump(body, f)
        ours, theirs = os.openpty()
        process = start(s, "image", "build", path, stderr=theirs)
        os.close(theirs)
        seen = b""

        # It stands at the bottom while the step runs, and gives way to lines of the log.
        while not re.search(rb"Step 1/1: [^\r]*, [0-9]+ s$", seen):
            seen += os.read(ours, 4096)
        assert b"\r\nStep 1/1: run while" in seen.replace(b"\x1b[K", b""), seen
        open(f"{s.folder}/go", "w").close()
        process.communicate(timeout=60)
        try:
            while more := os.read(ours, 4096):
                seen += more
        except OSError:  # the other side is closed
            pass
        os.close(ours)
        assert process.returncode == 0 and seen.count(b"\r\x1b[Kout\r\nStep 1/1: run while") == 1, seen
        assert seen.endswith(b"\r\x1b[K"), seen


@test
def the_key_is_needed_over_tcp_and_the_error_says_which_variable():
    with Server() as s:
        url = f"http://127.0.0.1:{s.port}"
        assert b"DORMOUSE_API_KEY" in cli(s, "ls", code=1, DORMOUSE_URL=url)[1]
        cli(s, "ls", DORMOUSE_URL=url, DORMOUSE_API_KEY=harness.KEY)
        cli(s, "ls", DORMOUSE_URL="", OPENCOMPUTER_API_URL=url, OPENCOMPUTER_API_KEY=harness.KEY)


@test
def exit_codes_of_commands_are_passed_on():
    with Server() as s:
        id = create(s)
        for code in 0, 1, 42, 255:
            cli(s, "exec", id, "--", "sh", "-c", f"exit {code}", code=code)
        cli(s, "exec", id, "--", "sh", "-c", "kill -TERM $$", code=128 + signal.SIGTERM)
        cli(s, "exec", id, "--", "no-such-program", "x", code=127)
        cli(s, "exec", id, "--", "/etc/passwd", "x", code=126)
        cli(s, "exec", "--timeout", "1", id, "--", "sleep", "1000", code=124)
        cli(s, "exec", "sb-00000000", "--", "true", code=125)


@test
def both_outputs_arrive_byte_for_byte():
    with Server() as s:
        id = create(s)
        script = "import os,sys; b=bytes(range(256))*4096; os.write(2,b'e\\xff'); sys.stdout.buffer.write(b)"
        out, err = cli(s, "exec", id, "--", "python3", "-c", script)
        assert out == bytes(range(256)) * 4096, len(out)
        assert err == b"e\xff", err
        answer = json.loads(cli(s, "exec", "--json", id, "--", "printf", "a\\377b")[0])
        assert answer == {"exitCode": 0, "stdout": "a\ufffdb", "stderr": ""}, answer


@test
def output_appears_while_the_command_runs_and_an_interrupt_kills_it():
    with Server() as s:
        id = create(s)
        process = start(s, "exec", "-w", "/tmp", "-e", "K=V", id, "--", "sh", "-c", "echo $K $PWD $$; exec sleep 1000")
        key, folder, pid = process.stdout.readline().split()
        assert (key, folder) == (b"V", b"/tmp")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130, process.returncode
        # The stand-in's guest shares our process ids.
        wait_for("the command to end", lambda: not os.path.exists(f"/proc/{int(pid)}"))


@test
def a_reader_that_goes_away_ends_the_command():
    with Server() as s:
        id = create(s)
        process = start(s, "exec", id, "--", "sh", "-c", "echo $$; exec yes")
        pid = int(process.stdout.readline())
        process.stdout.close()
        assert process.wait(timeout=60) == 125
        wait_for("the command to end", lambda: not os.path.exists(f"/proc/{pid}"))


@test
def files_are_copied_in_and_out_unchanged():
    with Server() as s:
        id = create(s)
        here, big = os.path.join(s.folder, "big"), os.urandom(20 << 20)
        with open(here, "wb") as f:
            f.write(big)
        cli(s, "cp", here, f"{id}:copy")
        out = cli(s, "exec", id, "--", "sha256sum", "copy")[0]
        assert out.split()[0].decode() == hashlib.sha256(big).hexdigest()
        cli(s, "cp", f"{id}:copy", here + ".back")
        with open(here + ".back", "rb") as f:
            assert f.read() == big
        assert cli(s, "cp", f"{id}:copy", "-")[0] == big
        with open(here, "rb") as f:
            cli(s, "cp", "-", f"{id}:streamed", stdin=f)
        cli(s, "exec", id, "--", "cmp", "copy", "streamed")
        cli(s, "cp", f"{id}:missing", here, code=1)
        with open(here, "rb") as f:
            assert f.read() == big


@test
def trees_are_copied_in_and_out():
    with Server() as s:
        id = create(s)
        tree = os.path.join(s.folder, "tree")
        os.makedirs(tree + "/a/b ü")
        os.makedirs(tree + "/empty")
        for i in range(30):
            with open(f"{tree}/a/b ü/{i}", "w") as f:
                f.write(str(i))
        copied = json.loads(cli(s, "cp", "--json", tree, f"{id}:t")[0])
        assert copied == {"files": 30, "directories": 4, "bytes": 50, "skipped": 0}, copied
        cli(s, "cp", tree, f"{id}:t")  # now t exists: into it
        cli(s, "cp", f"{id}:t", tree + ".back")
        subprocess.run(["diff", "-r", tree, tree + ".back/tree"], check=True)
        cli(s, "exec", id, "--", "sh", "-c", "ln -s a t/link; ln -s 'a/b ü/7' t/file; mkfifo t/pipe; rm t/pipe")
        err = cli(s, "cp", f"{id}:t", tree + ".links", code=1)[1]
        assert b"link: skipped" in err, err
        with open(tree + ".links/file") as f:
            assert f.read() == "7"
        assert not os.path.exists(tree + ".links/link")


# --- started commands ------------------------------------------------------------------------------------
@test
def exec_passes_standard_input_and_its_end():
    with Server() as s:
        id = create(s)
        data = os.urandom(3_000_000)
        process = start(s, "exec", "-i", id, "sh", "-c", "sha256sum; echo err >&2; exit 9", stdin=subprocess.PIPE)
        out, err = process.communicate(data, timeout=120)
        assert out.split()[0].decode() == hashlib.sha256(data).hexdigest() and err == b"err\n" and process.returncode == 9
        process = start(s, "exec", "-i", id, "cat", stdin=subprocess.PIPE)
        assert process.communicate(data, timeout=120)[0] == data and process.returncode == 0
        # Answers come while input is still open.
        process = start(s, "exec", "-i", id, "--", "cat", stdin=subprocess.PIPE)
        process.stdin.write(b"first\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        sandbox = harness.Sandbox(s, id)
        wait_for("it to be killed", lambda: not any(x["running"] for x in sandbox.request("GET", "/exec").json()))
        assert cli(s, "exec", "-i", "--timeout", "1", id, "sleep 100", code=124)[1].endswith(b"timed out\n")
        cli(s, "exec", "-i", "-d", id, "true", code=2)
        cli(s, "exec", "-i", "--json", id, "true", code=2)


@test
def exec_can_leave_a_command_and_attach_comes_back_to_it():
    with Server() as s:
        id = create(s)
        session = cli(s, "exec", "-d", id, "echo begun; read x; echo got $x; exit 4")[0].decode().strip()
        assert len(session) == 8
        watcher = start(s, "attach", id, session)
        assert watcher.stdout.readline() == b"begun\n"
        other = start(s, "attach", id, session)
        assert other.stdout.readline() == b"begun\n"
        other.send_signal(signal.SIGINT)
        assert other.wait(timeout=60) == 130
        process = start(s, "attach", "-i", id, session, stdin=subprocess.PIPE)
        out, _ = process.communicate(b"it\n", timeout=60)
        assert (process.returncode, out) == (4, b"begun\ngot it\n")
        assert watcher.wait(timeout=60) == 4 and watcher.stdout.read() == b"got it\n"
        assert cli(s, "attach", id, session, code=4)[0] == b"begun\ngot it\n"
        answer = json.loads(cli(s, "exec", "-d", "--json", id, "true")[0])
        assert answer["sandboxID"] == id and answer["command"] == "true"
        cli(s, "attach", id, "00000000", code=125)
        cli(s, "attach", id, code=2)


@test
def exec_with_input_goes_on_over_a_hibernation_and_a_restart():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        id = create(s)
        process = start(s, "exec", "-i", id, "sh", "-c", "while read l; do echo got $l; done; exit 3", stdin=subprocess.PIPE)

        def ask(word):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line == b"got " + word + b"\n", line

        # What is written to a connection that is gone is lost.
        def wait_connected():
            wait_for("the client", lambda: any(x["attachedClients"] for x in s.request("GET", f"/sandboxes/{id}/exec").json()))

        ask(b"a")
        cli(s, "hibernate", id)
        wait_connected()
        ask(b"b")
        s.kill()
        s.start()
        wait_connected()
        ask(b"c")
        process.stdin.close()
        assert process.wait(timeout=60) == 3


@test
def top_shows_the_busiest_first_as_often_as_it_is_told():
    with Server() as s:
        ids, asleep = {create(s), create(s)}, create(s)
        cli(s, "hibernate", asleep)
        lines = cli(s, "top")[0].decode().splitlines()
        assert lines[0].split()[:3] == ["ID", "CPU%", "CPUS"] and {line.split()[0] for line in lines[1:]} == ids, lines
        looks = [json.loads(line) for line in cli(s, "top", "--json", "-n", "2", "--delay", "1")[0].splitlines()]
        assert len(looks) == 2 and all({x["sandboxID"] for x in look} == ids for look in looks)
        for look in looks:
            busy = [x["cpuPercent"] for x in look]
            assert busy == sorted(busy, reverse=True) and min(busy) >= 0, busy
        cli(s, "top", "-n", "0", code=2)
        cli(s, "top", "extra", code=2)
