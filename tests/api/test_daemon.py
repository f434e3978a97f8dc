# SPDX-License-Identifier: Apache-2.0
"""The daemon itself: options, start, stop, kill -9, leftovers, a full disk."""
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from harness import DAEMON, Server, Skip, test, wait_for


def daemon(*options):
    """Run dormoused with options that must make it end. Exit status and what it says."""
    p = subprocess.run([DAEMON, *options], capture_output=True, text=True, timeout=60)
    return p.returncode, p.stdout + p.stderr


@test
def bad_options_are_named_and_exit_with_2():
    with Server(start=False) as s:
        config = s.folder + "/config.json"
        for options, word in ((["--nope"], "unknown option --nope"), (["x"], '"x" is not an option'), (["--state"], "--state needs a value"),
                              (["--listen", "tcp:1.2.3.4:80"], "--api-key-file"), (["--listen", "http://x"], "neither unix:PATH"),
                              (["--listen", "tcp:x", "--no-auth"], "no port"), (["--listen", "tcp::99999", "--no-auth"], "port"),
                              (["--max-cpus", "9"], "max-cpus"), (["--max-cpus", "two"], "not a number"), (["--no-auth=1"], "takes no value"),
                              (["--image", "x"], "NAME=FILE"), (["--log-level", "loud"], "loud"), (["--no-auth", "--api-key-file", "x"], "exclude"),
                              (["--config", s.folder + "/missing"], "No such file")):
            code, text = daemon(*options)
            assert code == 2 and word in text and text.count("\n") == 1, (options, code, text)
        for content, word in (("{", "line 1"), ("[]", "not a JSON object"), ('{"max-cpus":9}', "max-cpus"), ('{"what":1}', 'unknown setting "what"'),
                              ('{"listen":"unix:x"}', "array"), ('{"no-auth":1}', "true or false"), ('{"state":1}', "string"), ('{"max-cpus":1,"max-cpus":2}', "duplicate")):
            with open(config, "w") as f:
                f.write(content)
            code, text = daemon("--config", config)
            assert code == 2 and word in text and config in text, (content, code, text)


@test
def help_names_every_option_and_exits_with_0():
    code, text = daemon("--help")
    assert code == 0 and all(o in text for o in ("--listen", "--state", "--config", "--api-key-file", "--version"))
    assert daemon("--version") == (0, "dormoused 0.1.0\n")


@test
def a_configuration_file_sets_what_options_do():
    with Server(start=False) as s:
        config = s.folder + "/config.json"
        with open(config, "w") as f:
            json.dump({"region": "from-file", "max-memory": 512, "sandbox-domain": "d", "image": ["extra=" + s.folder + "/base.ext4"]}, f)
        s.options += ["--config", config, "--max-memory", "600"]
        s.start()
        assert s.request("GET", "/workers").json()[0]["region"] == "from-file"
        assert s.create(memoryMB=600, templateID="extra").info()["sandboxDomain"] == "d"
        s.request("POST", "/sandboxes", {"memoryMB": 601}).expect(400)


@test
def key_files_must_have_keys():
    with Server(start=False) as s:
        for content in "", "# only a comment\n\n":
            with open(s.folder + "/keys", "w") as f:
                f.write(content)
            code, text = daemon(*s.options)
            assert code == 1 and "no key" in text, text


@test
def a_port_or_socket_in_use_is_a_clear_error():
    with Server() as s, Server(start=False) as other:
        code, text = daemon(*other.options, "--listen", f"tcp:127.0.0.1:{s.port}")
        assert code == 1 and f"tcp:127.0.0.1:{s.port}" in text and "in use" in text, text
        code, text = daemon(*other.options, "--listen", f"unix:{s.socket}")
        assert code == 1 and s.socket in text, text
        s.request("GET", "/health").expect(200)


@test
def a_state_directory_has_one_daemon():
    with Server() as s:
        b = s.create()
        code, text = daemon("--state", s.state, "--listen", f"unix:{s.folder}/2.sock")
        assert code == 1 and "in use by another dormoused" in text, text
        assert b.run("echo unharmed")["stdout"] == "unharmed\n"


@test
def state_directories_that_cannot_be_used():
    with Server(start=False) as s:
        code, text = daemon("--state", s.folder + "/" + "x" * 80, "--listen", f"unix:{s.socket}")
        assert code == 1 and "longer than" in text, text
        code, text = daemon("--state", s.folder + "/kernel", "--listen", f"unix:{s.socket}")
        assert code == 1 and "Not a directory" in text, text


@test
def a_database_of_a_newer_version_is_left_alone():
    with Server() as s:
        s.close_database = s.kill(signal.SIGTERM)
        with sqlite3.connect(s.state + "/dormouse.db") as db:
            db.execute("UPDATE meta SET value=99 WHERE key='schema_version'")
        code, text = daemon(*s.options)
        assert code == 1 and "its version is 99" in text, text


@test
def a_damaged_database_is_a_clear_error():
    with Server(start=False) as s:
        os.makedirs(s.state)
        with open(s.state + "/dormouse.db", "wb") as f:
            f.write(os.urandom(8192))
        code, text = daemon(*s.options)
        assert code == 1 and "state database" in text, text


@test
def sandboxes_survive_a_clean_restart():
    # By itself the domain of previews has the port, which the kernel chooses anew.
    with Server("--sandbox-domain", "d.example") as s:
        b = s.create(envs={"A": "1"}, metadata={"m": "x"})
        b.request("PUT", "/files?path=f", b"data").expect(204)
        pid, before = b.pid(), {**b.info(), "endAt": None}  # it moves with every use
        assert s.kill(signal.SIGTERM) == 0
        assert not os.path.exists(s.socket)
        s.start()
        assert {**b.info(), "endAt": None} == before and b.pid() == pid
        assert b.request("GET", "/files?path=f").body == b"data"
        assert b.run("echo $A")["stdout"] == "1\n"
        assert s.request("GET", "/workers").json()[0]["current"] == 1
        b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def kill_9_of_the_daemon_loses_nothing_that_was_answered():
    with Server() as s:
        boxes = [s.create(alias=str(i)) for i in range(4)]
        boxes[3].request("DELETE").expect(204)
        os.kill(boxes[2].pid(), signal.SIGKILL)
        boxes[2].wait_status("error")
        s.kill()
        s.start()
        assert [b.info()["status"] for b in boxes] == ["running", "running", "error", "stopped"]
        assert "signal 9" in boxes[2].info()["error"]
        assert [boxes[i].run("echo here")["stdout"] for i in (0, 1)] == ["here\n"] * 2
        # A taken over VM is watched like any other.
        os.kill(boxes[0].pid(), signal.SIGKILL)
        boxes[0].wait_status("error")
        boxes[1].control("fake-poweroff")
        boxes[1].wait_status("stopped")
        for b in boxes:
            b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def vms_that_end_while_no_daemon_runs_become_errors():
    with Server() as s:
        b, other = s.create(), s.create()
        pid = b.pid()
        s.kill()
        os.kill(pid, signal.SIGKILL)
        wait_for("the VMM to end", lambda: len(s.vmms()) == 1)
        s.start()
        assert "had ended when the server started" in b.info()["error"] and b.info()["status"] == "error"
        assert os.path.exists(b.layers()[-1]) and other.info()["status"] == "running"
        b.request("POST", "/exec/run", {"cmd": "true"}).expect(502)
        s.kill()
        s.start()
        assert b.info()["status"] == "error"


@test
def what_was_being_made_is_removed_after_kill_9():
    with Server() as s:
        good = s.create()
        threading.Thread(target=lambda: ignore(s.request, "POST", "/sandboxes", {"templateID": "silent"})).start()
        wait_for("the second VMM", lambda: len(s.vmms()) == 2)
        s.kill()
        os.makedirs(s.state + "/sandboxes/sb-deadbeef/deep/er")
        open(s.state + "/sandboxes/sb-deadbeef/deep/er/file", "w").close()
        s.start()
        assert s.folders() == [good.id] and [id for _, id in s.vmms()] == [good.id]
        assert good.run("echo here")["stdout"] == "here\n"
        s.request("GET", "/sandboxes/sb-deadbeef").expect(404)


@test
def a_deletion_that_was_cut_short_is_completed():
    with Server() as s:
        b = s.create()
        s.kill()
        with sqlite3.connect(s.state + "/dormouse.db") as db:
            db.execute("UPDATE sandboxes SET status='stopped', deleted=1, ended_ms=created_ms")
        s.start()
        s.assert_nothing_left()
        assert b.info()["status"] == "stopped"


def ignore(fn, *arguments):
    try:
        fn(*arguments)
    except OSError:
        pass


@test
def other_processes_that_name_the_state_are_not_touched():
    with Server() as s:
        b = s.create()
        tail = subprocess.Popen(["tail", "-f", b.folder + "/vmm.sock/..", b.folder + "/console.log"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        b.request("DELETE").expect(204)
        s.kill()
        s.start()
        assert tail.poll() is None
        tail.kill()
        tail.wait()


@test
def sandboxes_can_be_ended_with_the_daemon():
    with Server("--stop-sandboxes-on-exit") as s:
        b = s.create()
        assert s.kill(signal.SIGTERM) == 0
        assert not s.vmms()
        s.start()
        assert b.info()["status"] == "stopped" and os.path.exists(b.layers()[-1])
        b.request("DELETE").expect(204)
        s.assert_nothing_left()


@test
def a_stop_lets_short_requests_end_and_cuts_long_ones():
    with Server("--exit-grace", "30") as s, ThreadPoolExecutor(1) as pool:
        b = s.create()
        answer = pool.submit(b.run, "touch up; until [ -e go ]; do sleep 0.05; done; echo done")
        wait_for("the command", lambda: os.path.exists(b.home + "/up"))
        s.process.send_signal(signal.SIGTERM)
        wait_for("the stop", lambda: "stopping" in s.log())
        open(b.home + "/go", "w").close()
        assert answer.result()["stdout"] == "done\n"
        assert s.process.wait(20) == 0
    with Server("--exit-grace", "0") as s, ThreadPoolExecutor(3) as pool:
        b = s.create()
        id = b.start("sleep 1000")
        answers = [pool.submit(ignore, b.request, "POST", "/exec/run", {"cmd": "touch up; sleep 1000"}), pool.submit(ignore, b.result, id),
                   pool.submit(ignore, s.request, "POST", "/sandboxes", {"templateID": "silent"})]
        wait_for("the command", lambda: os.path.exists(b.home + "/up") and len(s.vmms()) == 2)
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(20) == 0
        for a in answers:
            a.exception(20)
        assert [id for _, id in s.vmms()] == [b.id], "the one in the making is gone, the other is not"


@test
def a_full_disk_is_said_and_harms_nothing():
    with Server(start=False) as s:
        os.makedirs(s.state)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", s.state], capture_output=True).returncode:
            raise Skip("mounting a tmpfs needs root")
        try:
            s.start()
            b = s.create()
            fill(s.state)
            a = s.request("POST", "/sandboxes", {}).expect(503, "worker_unavailable", '"retryable":true')
            assert "space" in a.body.decode().lower() or "full" in a.body.decode().lower(), a.body
            assert s.folders() == [b.id] and len(s.vmms()) == 1
            assert b.run("echo alive")["stdout"] == "alive\n"
            os.kill(b.pid(), signal.SIGKILL)
            b.wait_status("error")
            b.request("DELETE").expect(204)
            os.unlink(s.state + "/filler")
            s.create().request("DELETE").expect(204)
            s.assert_nothing_left()
            s.kill()
            s.start()
            assert b.info()["status"] == "stopped"
        finally:
            s.kill()
            for pid, _ in s.vmms():
                os.kill(pid, signal.SIGKILL)
            wait_for("the VMMs to end", lambda: not s.vmms())
            subprocess.run(["umount", s.state], check=True)


def fill(folder):
    with open(folder + "/filler", "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 4096)
        except OSError:
            pass


@test
def connections_beyond_the_limit_of_descriptors_wait():
    with Server(start=False) as s:
        s.options = ["--log-level", "info", *s.options]
        limit = lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_NOFILE, (64, 64))
        with open(s.log_path, "a") as log:
            s.process = subprocess.Popen([DAEMON, *s.options], stderr=log, stdin=subprocess.DEVNULL, preexec_fn=limit)
        wait_for("dormoused", lambda: "ready" in s.log())
        held = []
        for _ in range(100):
            c = socket.socket(socket.AF_UNIX)
            c.connect(s.socket)
            held.append(c)
        for c in held:
            c.close()
        s.request("GET", "/health").expect(200)
