# SPDX-License-Identifier: Apache-2.0
"""dormouse shell, in a terminal of the test's own."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import harness
from harness import Server, test, wait_for
from test_cli import CLI, cli, start

# As in test_terminals: no files of this machine, a prompt that is no word.
BASH = ["-e", "PS1=$ ", "-e", "HISTFILE="]
SHELL = ["--", "bash", "--norc", "--noprofile", "-i"]


class User:
    """Somebody at a terminal, who runs one command in it."""

    def __init__(self, server, *arguments, rows=40, cols=120, **env):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.size(rows, cols)
        self.before = termios.tcgetattr(slave)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("DORMOUSE_", "OPENCOMPUTER_"))}
        env = {**keep, "DORMOUSE_URL": f"unix:{server.socket}", **env}

        def lead():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.process = subprocess.Popen([CLI, "shell", *arguments], stdin=slave, stdout=slave, stderr=slave,
                                        env=env, preexec_fn=lead)
        self.shown, self.at = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def size(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def expect(self, text, timeout=60):
        text = text.encode()
        deadline = time.monotonic() + timeout
        while text not in self.shown[self.at:]:
            left = deadline - time.monotonic()
            ready = select.select([self.master], [], [], max(left, 0))[0]
            assert ready, f"no {text} in {self.shown[-500:]}"
            self.shown += os.read(self.master, 65536)
        self.at = self.shown.index(text, self.at) + len(text)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def end(self, code):
        """The exit code, and a terminal as it was before."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.shown[-500:]}"
            # It waits until its output has been taken.
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 65536)
        assert self.process.returncode == code, (self.process.returncode, self.shown[-500:])
        assert termios.tcgetattr(self.slave) == self.before, "the terminal was not given back"
        return self.shown.decode(errors="replace")


def terminals(sandbox):
    return {t["sessionID"]: t for t in sandbox.request("GET", "/pty").expect(200).json()}


@test
def a_shell_has_the_size_of_this_terminal_and_its_exit_code_is_passed_on():
    with Server() as s:
        b = s.create(envs={"WHO": "you"})
        with User(s, *BASH, "-e", "MORE=x y", b.id, *SHELL) as u:
            u.expect("$ ")
            assert u.is_raw()
            u.type("stty size; echo $WHO $MORE $TERM\n")
            u.expect("40 120\r\nyou x y xterm-256color\r\n")
            u.size(51, 99)
            wait_for("the new size to arrive", lambda: resized(u, "51 99"))
            u.type("sed -u s/^/=/\n")
            u.type("key\n")
            u.expect("=key\r\n")
            u.type("\x03")
            u.expect("$ ")
            u.type("exit 42\n")
            u.end(42)


def resized(u, size):
    u.type("stty size; echo d''one\n")
    at = u.at
    u.expect("done\r\n")
    return size.encode() in u.shown[at:u.at]


@test
def a_line_is_run_by_sh_and_words_as_they_are():
    with Server() as s:
        b = s.create()
        with User(s, "-w", "/", b.id, "pwd; tty -s && echo tty; exit 7") as u:
            assert "/\r\ntty\r\n" in u.end(7)
        with User(s, b.id, "--", "sh", "-c", "kill -TERM $$") as u:
            u.end(128 + 15)
        with User(s, b.id, "--", "no-such-program", "x") as u:
            assert "command not found" in u.end(127)


@test
def who_detaches_can_attach_again():
    with Server() as s:
        b = s.create()
        with User(s, *BASH, b.id, *SHELL) as u:
            u.expect("$ ")
            u.type("x=kept; echo s''et\n")
            u.expect("set\r\n")
            # Twice is once, for the program: here, it shows what it reads.
            u.type("cat -v\n\x1d\x1dz\n")
            u.expect("^]z\r\n")
            u.type("\x1d")
            u.type("d")
            text = u.end(0)
        t, = terminals(b)
        assert f"dormouse shell --attach {t} {b.id}" in text, text
        # bash had switched something on, which was switched off.
        on, off = text.rfind("\x1b[?2004h"), text.rfind("\x1b[?2004l")
        assert off > on, (on, off)
        with User(s, "--attach", t, b.id, rows=20, cols=60) as u:
            u.expect("^]z\r\n")
            u.type("\x03")
            u.expect("^C")
            u.expect("$ ")
            wait_for("the size of this terminal", lambda: resized(u, "20 60"))
            u.type("echo $x; exit 5\n")
            u.expect("kept\r\n")
            u.end(5)


@test
def what_full_screen_programs_switch_on_is_switched_off():
    with Server() as s:
        b = s.create()
        with User(s, b.id, r"printf '\033[?1049h\033[?25l\033[?1000;1006h\033=in'; exec sleep 1000") as u:
            u.expect("in")
            u.type("\x1dd")
            text = u.end(0)
        tail = text[text.index("in"):]
        for off in ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1000l", "\x1b[?1006l", "\x1b>"):
            assert off in tail, (off, tail)
        with User(s, b.id, r"printf '\033[?1049h\033[?1049l'; echo done") as u:
            text = u.end(0)
            assert text.endswith("done\r\n"), text


@test
def signals_and_errors_give_the_terminal_back():
    with Server() as s:
        b = s.create()
        for signo in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with User(s, b.id, "echo ready; exec sleep 1000") as u:
                u.expect("ready\r\n")
                assert u.is_raw()
                u.process.send_signal(signo)
                assert "go on with" in u.end(128 + signo)
        with User(s, b.id, "echo ready; exec sleep 1000") as u:
            u.expect("ready\r\n")
            b.request("DELETE").expect(204)
            u.end(125)
        with User(s, b.id) as u:
            assert "410" in u.end(125)
        with User(s, "--attach", "00000000", s.create().id) as u:
            assert "terminal not found (404)" in u.end(125)


@test
def a_shell_works_over_tcp_with_a_key():
    with Server() as s:
        b = s.create()
        url = f"http://127.0.0.1:{s.port}"
        with User(s, b.id, "echo hello; exit 3", DORMOUSE_URL=url, DORMOUSE_API_KEY=harness.KEY) as u:
            assert "hello\r\n" in u.end(3)
        with User(s, b.id, "true", DORMOUSE_URL=url) as u:
            assert "DORMOUSE_API_KEY" in u.end(125)


@test
def after_hibernation_the_next_key_wakes_and_all_goes_on():
    with Server(env={"FAKE_VMM_KEEPS": "1"}) as s:
        b = s.create()
        with User(s, b.id, "while read x; do n=$((n+1)); echo $n $x; done; exit 9") as u:
            u.type("a\n")
            u.expect("1 a\r\n")
            for i in (2, 3):
                b.request("POST", "/hibernate").expect(200)
                u.expect("press a key")
                time.sleep(0.5)
                assert b.info()["status"] == "hibernated", "nobody has pressed one"
                u.type("b\n")
                u.expect(f"{i} b\r\n")
            assert u.shown.count(b"1 a") == 1, "nothing comes twice"
            u.type("\x04")
            u.end(9)


@test
def a_restart_of_the_server_is_a_pause():
    with Server() as s:
        b = s.create()
        with User(s, b.id, "while read x; do n=$((n+1)); echo $n $x; done; exit 8") as u:
            u.type("a\n")
            u.expect("1 a\r\n")
            for i in (2, 3):
                s.kill()
                u.expect("connection lost")
                s.start()
                wait_for("the shell to be back", lambda: terminals(b).popitem()[1]["attachedClients"])
                u.type("b\n")
                u.expect(f"{i} b\r\n")
            assert u.shown.count(b"1 a") == 1, "nothing comes twice"
            u.type("\x04")
            u.end(8)


@test
def input_that_is_no_terminal_is_typed_with_its_end():
    with Server() as s:
        b = s.create()
        p = start(s, "shell", b.id, "--", "sh", "-c", "while read x; do echo got $x; done; exit 6",
                  stdin=subprocess.PIPE)
        out, err = p.communicate(b"one\ntwo\n", timeout=60)
        assert p.returncode == 6, (p.returncode, out, err)
        assert re.search(rb"got one\r\n.*got two\r\n", out, re.S), out
        assert b"JSON" in cli(s, "shell", "--json", b.id, code=2)[1]
        cli(s, "shell", code=2)
        cli(s, "shell", "--attach", "1", b.id, "ls", code=2)
