# SPDX-License-Identifier: Apache-2.0
"""Drive a dormouse-vmm over its control socket (docs/vmm.md)."""

import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, "build")
# The lab is slow, and its host may be busy. Nothing is timed by this: it ends what would hang for ever.
HANG_S = 240
COMMAND_S = 600  # a whole command in the guest


class VmmError(Exception):
    """The VMM refused a request."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]
        self.message = error["message"]


class Ended(Exception):
    """The control connection ended."""


def artifact(name):
    """build/kernel, build/mini.ext4, ...: a symlink into the cache."""
    path = os.path.realpath(os.path.join(BUILD, name))
    if not os.path.exists(path):
        raise FileNotFoundError(f"{BUILD}/{name}: make images")
    return path


class Control:
    """One controller's connection."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._buffer = b""
        self._next_id = 1
        self.events = []

    def close(self):
        self._socket.close()

    def _read_line(self, what):
        deadline = time.monotonic() + HANG_S
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._socket], [], [], max(0, deadline - time.monotonic()))
            if not readable:
                raise TimeoutError(f"{what}: nothing for {HANG_S} s")
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Ended(what)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def call(self, op, **fields):
        """Send a request, return its answer; raises VmmError if it was refused."""
        return self.call_fd(op, None, **fields)

    def call_fd(self, op, fd, **fields):
        """The same, with a descriptor that goes along."""
        number = self._next_id
        self._next_id += 1
        line = json.dumps({"id": number, "op": op, **fields}).encode() + b"\n"
        if fd is None:
            self._socket.sendall(line)
        else:
            socket.send_fds(self._socket, [line], [fd])
        while True:
            message = self._read_line(op)
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == number:
                if not message["ok"]:
                    raise VmmError(message["error"])
                return message

    def wait_event(self, *names):
        """The next event with one of these names; a panic or an end that was not asked for is an error."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["event"] in names:
                    return event
                if event["event"] in ("panic", "exit"):
                    raise AssertionError(f"waiting for {names}: {event}")
            message = self._read_line(f"waiting for {names}")
            if "event" in message:
                self.events.append(message)


class Vmm:
    """A dormouse-vmm process with a directory of its own; a context manager that leaves neither."""

    directories = []  # of all there are: machines of one test share files

    def __init__(self, directory=None):
        self._own_directory = directory is None
        scratch = os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")
        self.directory = directory or tempfile.mkdtemp(prefix="vm-", dir=scratch)
        self.directories.append(self.directory)
        self.process = None
        self.control = None
        self.restores = 0
        self.configured = None  # what the running machine was made from

    def jail(self):
        """Options as the server gives them."""
        options = ["--jail"]
        for name in ("kernel", "mini.ext4", "base.ext4", "docker.ext4"):
            if os.path.exists(os.path.join(BUILD, name)):
                options += ["--read", os.path.join(BUILD, name)]
        for directory in self.directories:
            options += ["--write", directory]
        return options

    def path(self, name):
        return os.path.join(self.directory, name)

    def spawn(self, *options, fault=None):
        """Start the process and connect to it. fault: one of docs/testing.md, "Faults of dormouse-vmm"."""
        env = {**os.environ, "DORMOUSE_VMM_FAULT": fault} if fault else None
        for name in ("vmm.sock", "vsock.sock"):
            if os.path.lexists(self.path(name)):
                os.unlink(self.path(name))
        argv = [os.path.join(BUILD, "dormouse-vmm"), "--socket", self.path("vmm.sock"), *self.jail(), *options]
        with open(self.path("vmm.log"), "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        while not os.path.exists(self.path("vmm.sock")):
            if self.process.poll() is not None:
                raise AssertionError(f"dormouse-vmm exited with {self.process.returncode}: {self.tail('vmm.log')}")
            time.sleep(0.01)
        while True:
            try:
                self.control = Control(self.path("vmm.sock"))
                return self
            except ConnectionRefusedError:  # bound, not listening yet
                time.sleep(0.01)

    def config(self, image="mini.ext4", overlay="overlay", memory_mib=256, cpus=1, **more):
        disk = {"path": artifact(image), "overlay": self.path(overlay)}
        return {
            "kernel": artifact("kernel"),
            "memory_mib": memory_mib,
            "cpus": cpus,
            "disks": [disk],
            "vsock": {"path": self.path("vsock.sock")},
            "console": self.path("console.log"),
            **more,
        }

    def boot(self, **config):
        """Configure and boot, to the moment the agent is ready; returns the ready event."""
        if not self.process:
            self.spawn()
        self.configured = self.config(**config)
        self.control.call("configure", **self.configured)
        self.control.call("boot")
        return self.control.wait_event("ready")

    def prepare(self, config):
        """Make the process a shell that fits a machine of this configuration."""
        if not self.process:
            self.spawn()
        shape = {key: config[key] for key in ("cpus", "memory_mib")}
        self.control.call("prepare", disks=len(config["disks"]), vsock=True, **shape)

    def request_checkpoint(self, name, resume=True):
        """Checkpoint it; returns what restore() takes, which is durable only after the event."""
        disk = self.configured["disks"][0]
        top = self.path(f"{name}.top")
        image = {
            "name": name,
            "state": self.path(f"{name}.state"),
            "ram": self.path(f"{name}.ram"),
            "config": self.configured,
            "disk": {"path": disk["path"], "layers": [*disk.get("layers", []), disk["overlay"]]},
        }
        files = {key: image[key] for key in ("name", "state", "ram")}
        answer = self.control.call("checkpoint", **files, disks=[{"overlay": top}], resume=resume)
        self.configured = {**self.configured, "disks": [{**image["disk"], "overlay": top}]}
        image["pause_us"] = answer["pause_us"]
        return image

    def checkpoint(self, name, resume=True):
        """The same, to the moment all is durable."""
        image = self.request_checkpoint(name, resume)
        event = self.control.wait_event("checkpoint")
        assert event["name"] == name and event["ok"], event
        print(f"checkpoint {name}: pause {image['pause_us']} us, RAM {event['ram_bytes'] >> 20} MiB", flush=True)
        return image

    def shut_down(self):
        """Pull the plug, to the end of the process."""
        self.control.call("shutdown")
        assert self.process.wait(HANG_S) == 0
        self.process = None

    def restore(self, image, size_mib=None, op="restore", **fields):
        """Make this process the machine of a checkpoint, with a new layer on its disk. Not renewed yet."""
        if not self.process:
            self.spawn()
        self.restores += 1
        disk = {
            **image["disk"],
            "overlay": self.path(f"restored-{self.restores}"),
            "size_mib": size_mib or os.path.getsize(image["disk"]["path"]) >> 20,
        }
        self.configured = {
            **image["config"],
            "disks": [disk],
            "vsock": {"path": self.path("vsock.sock")},
            "console": self.path("console.log"),
        }
        sent = self.configured if op == "restore" else {"disks": [disk]}
        answer = self.control.call(op, **sent, **{"state": image["state"], "ram": image["ram"], **fields})
        print(f"{op} {image['name']}: {answer[f'{op}_us']} us", flush=True)
        assert self.info()["restored"]
        return answer

    def renew(self, machine_id="", root_bytes=0):
        """What the server does first after a restore; the processes run from then on."""
        self.guest("renew", self.info()["generation"][:15], machine_id, "sandbox", str(root_bytes))

    def guest(self, *argv, check=True):
        """Run vm-guest, for instance guest("exec", "uname", "-a"); returns its stdout."""
        program = os.path.join(BUILD, "test/vm-guest")
        done = subprocess.run(
            [program, self.path("vsock.sock"), *argv], capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout if check else done

    def start(self, *argv):
        """vm-guest in the background; the Popen, all of whose streams are pipes of bytes, unbuffered."""
        program = os.path.join(BUILD, "test/vm-guest")
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        return subprocess.Popen([program, self.path("vsock.sock"), *argv], bufsize=0, **pipes)

    def sh(self, script, check=True):
        return self.guest("exec", "/bin/sh", "-c", script, check=check)

    def info(self):
        return self.control.call("info")

    def kill(self):
        """kill -9, and wait for its end."""
        self.process.kill()
        self.process.wait()
        self.control.close()

    def tail(self, name, lines=12):
        try:
            with open(self.path(name), errors="replace") as f:
                return "".join(f.readlines()[-lines:])
        except OSError:
            return ""

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _traceback):
        if kind:
            for name in ("vmm.log", "console.log"):
                print(f"{name}:\n{self.tail(name)}", flush=True)
        if self.process:
            self.kill()
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
