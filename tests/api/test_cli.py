# SPDX-License-Identifier: Apache-2.0
"""The command line against the real server: what it prints, and its exit codes (docs/cli.md)."""
import hashlib
import json
import os
import signal
import subprocess

import harness
from harness import Server, test, wait_for

CLI = os.environ.get("DORMOUSE", os.path.join(harness.TOP, "build/dormouse"))


def start(server, *arguments, **more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("DORMOUSE_", "OPENCOMPUTER_"))}
    return subprocess.Popen([CLI, *arguments], stdin=more.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**keep, "DORMOUSE_URL": f"unix:{server.socket}", **more})


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
