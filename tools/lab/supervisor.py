# SPDX-License-Identifier: Apache-2.0
"""Keeps one lab alive: virtiofsd, QEMU, the console, and the clients that run commands in it.

Theory of operation
-------------------
One process per lab, one asyncio loop. It is told of a dead lab by QEMU's end (a
panic reboots, and -no-reboot turns that into an exit) or by silence: it counts its
own one-second ticks since the last frame or console byte, so that a starved host
delays the count as it delays the lab. A dead lab is started again, at most
`restarts` times. Commands that had not begun are kept for the next one; the clients
of the others get DIED and decide. Nothing here waits on a wall clock.

The lab ends with STOP, SIGTERM, SIGINT, or with its owner: when the pipe to it closes
or the process it was named by ends. Its children have a parent-death signal: kill -9 of the supervisor leaves nothing.
"""

import asyncio
import collections
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import labwire as wire
from forward import Forwarder

CONSOLE_MAX_BYTES = 16 << 20
CONSOLE_TAIL_LINES = 25
SCRATCH_DISK_BYTES = 64 << 30
PANIC_GRACE_TICKS = 5
BOOT_SILENCE_TICKS = 90
PANIC = re.compile(rb"Kernel panic - not syncing: (.*)|(Oops: .*)|lab init: (.* failed)")
VIRTIOFSD_PATHS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")


def die_with_parent():
    """For preexec_fn: get SIGKILL when the supervisor ends in whatever way."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def make_scratch_disk(path):
    """An empty file system in a sparse file; XFS, because copies of disk images want reflinks."""
    with open(path, "wb") as f:
        f.truncate(SCRATCH_DISK_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-f", "-K", path], check=True, env=with_sbin())


def with_sbin():
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


def virtiofsd_argv(source, fd):
    for path in VIRTIOFSD_PATHS:
        if os.path.exists(path):
            break
    else:
        raise FileNotFoundError("virtiofsd not found: run tools/deps (package qemu-system-common)")
    # cache=always keeps pages over open(): without it every exec reads its program and libc anew (100 ms instead
    # of 10). The short timeout makes the lab look again for files that changed on the host.
    options = f"source={source},cache=always,timeout=1,sandbox=chroot,allow_direct_io"
    argv = [path, "-f", f"--fd={fd}", "-o", options, "-o", "log_level=warn"]
    if os.getuid() != 0:
        # It insists on chroot and on root: a user namespace gives it both, and our own files stay ours.
        argv = ["unshare", "--map-root-user", "--mount", "--", *argv]
    return argv


def kernel_command_line(options):
    init = os.path.join(options["checkout"], "tools/lab/init")
    words = ["root=lab rootfstype=virtiofs ro", f'init="{init}"', "console=ttyS0 loglevel=5"]
    # Guests' speed, not the lab's safety, is what counts in here; an oops must end the lab, not maim it.
    words += ["mitigations=off panic=-1 oops=panic"]
    return " ".join(words)


# TCG executes REP MOVSB and STOSB byte by byte. A kernel that is told they are fast (erms, fsrm) copies and clears with
# them, in the lab and, as KVM passes the flags on, in every guest. Without the flags guests boot twice as fast.
CPU = "max,-la57,-erms,-fsrm"


def qemu_argv(options, directory, port_fd, share_count, forwarders):
    mem = f"{options['mem_mb']}M"
    net = "user,id=net,ipv6=off" + ("" if options["net"] else ",restrict=on")
    net += "".join(forwarder.qemu_option() for forwarder in forwarders)
    argv = ["qemu-system-x86_64", "-name", f"dormouse-lab-{options['name']}", "-nodefaults", "-no-user-config"]
    argv += ["-machine", "q35,memory-backend=ram,hpet=off", "-accel", "tcg,thread=multi,tb-size=1024"]
    argv += ["-cpu", CPU, "-smp", str(options["cpus"]), "-m", mem]
    argv += ["-object", f"memory-backend-memfd,id=ram,size={mem},share=on"]
    argv += ["-display", "none", "-no-reboot", "-chardev", "stdio,id=console,signal=off"]
    argv += ["-serial", "chardev:console", "-kernel", options["kernel"], "-append", kernel_command_line(options)]
    argv += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    argv += ["-chardev", f"socket,id=port,fd={port_fd}"]
    argv += ["-device", "virtserialport,chardev=port,name=dormouse.lab"]
    argv += ["-drive", f"file={directory}/disk.img,if=none,id=disk,format=raw,cache=unsafe,discard=unmap"]
    argv += ["-device", "virtio-blk-pci,drive=disk"]
    argv += ["-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile="]
    for n in range(share_count):
        tag = "lab" if n == 0 else f"out{n}"
        argv += ["-chardev", f"socket,id=fs{n},path={directory}/fs{n}"]
        argv += ["-device", f"vhost-user-fs-pci,chardev=fs{n},tag={tag},queue-size=1024"]
    return argv


class Machine:
    """One run of QEMU with its virtiofsds."""

    def __init__(self, options, directory, forwarders, on_frame, on_end):
        self.options = options
        self.forwarders = forwarders
        self.directory = directory
        self.on_frame = on_frame  # (channel, kind, payload)
        self.on_end = on_end  # (reason), once
        self.tail = collections.deque(maxlen=CONSOLE_TAIL_LINES)
        self.ticks_silent = 0
        self.ticks_panicked = 0
        self.ticks_unshared = 0
        self.said_hello = False
        self.console_bytes = 0
        self._panic = None
        self._children = []
        self._qemu = None
        self._writer = None
        self._tasks = []
        self._ended = False

    async def start(self):
        shares = ["/", *self.options["out"]]
        for n, source in enumerate(shares):
            listener = socket.socket(socket.AF_UNIX)
            path = f"{self.directory}/fs{n}"
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            listener.listen(1)
            with listener, open(f"{self.directory}/virtiofsd{n}.log", "wb") as log:
                argv = virtiofsd_argv(source, listener.fileno())
                fds = (listener.fileno(),)
                await self._spawn(argv, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ours, theirs = socket.socketpair()
        with theirs, open(f"{self.directory}/qemu.log", "wb") as log:
            argv = qemu_argv(self.options, self.directory, theirs.fileno(), len(shares), self.forwarders)
            self._qemu = await self._spawn(
                argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        work = (self._read_frames(reader), self._read_console(), self._wait_qemu(), self._watch())
        self._tasks = [asyncio.ensure_future(w) for w in work]

    async def _spawn(self, argv, **arguments):
        child = await asyncio.create_subprocess_exec(*argv, preexec_fn=die_with_parent, **arguments)
        self._children.append(child)
        return child

    def send(self, channel, kind, payload=b""):
        if not self._ended:
            # No drain: the windows of the streams bound what can pile up.
            self._writer.write(wire.pack(channel, kind, payload))

    async def stop(self):
        """Kill everything; returns when it is gone. There is no state in a lab that a clean end would save."""
        self._ended = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for child in self._children:
            if child.returncode is None:
                child.kill()
        for child in self._children:
            await child.wait()
        if self._writer:
            self._writer.close()

    def _end(self, reason):
        if not self._ended:
            self._ended = True
            self.on_end(reason)

    async def _read_frames(self, reader):
        unpacker = wire.Unpacker()
        try:
            while data := await reader.read(1 << 18):
                self.ticks_silent = 0
                for channel, kind, payload in unpacker.feed(data):
                    self.said_hello |= kind == wire.HELLO
                    self.on_frame(channel, kind, payload)
        except (OSError, ValueError, wire.WireError) as e:
            self._end(f"the lab's agent sent garbage: {e}")

    async def _read_console(self):
        stream = self._qemu.stdout
        line = b""
        with open(f"{self.directory}/console.log", "wb", buffering=0) as log:
            while data := await stream.read(4096):
                if not self.said_hello:
                    self.ticks_silent = 0
                self.console_bytes += len(data)
                if self.console_bytes < CONSOLE_MAX_BYTES:
                    log.write(data)
                *lines, line = (line + data).split(b"\n")
                for text in lines:
                    self._console_line(text.strip())

    def _console_line(self, text):
        self.tail.append(text.decode(errors="replace"))
        found = PANIC.search(text)
        if found and not self._panic:
            self._panic = next(g for g in found.groups() if g).decode(errors="replace").strip()

    async def _wait_qemu(self):
        code = await self._qemu.wait()
        # What QEMU wrote before its end is still to be read: frames of commands that did finish.
        await asyncio.gather(*self._tasks[:2], return_exceptions=True)
        if self._panic:
            self._end(f"kernel panic: {self._panic}")
        elif code < 0:
            self._end(f"QEMU was killed by signal {-code} ({signal.Signals(-code).name})")
        else:
            with open(f"{self.directory}/qemu.log", errors="replace") as f:
                said = " ".join(f.read().split())[-400:]
            self._end(f"QEMU exited with {code}" + (f": {said}" if said else ""))

    async def _watch(self):
        while True:
            await asyncio.sleep(1)
            limit = self.options["silence_ticks"] if self.said_hello else BOOT_SILENCE_TICKS
            self.ticks_silent += 1
            self.ticks_panicked += bool(self._panic)
            # They also end because QEMU has: leave it a moment to say so itself.
            self.ticks_unshared += any(c.returncode is not None for c in self._children[:-1])
            if self.ticks_panicked > PANIC_GRACE_TICKS:
                self._end(f"kernel panic: {self._panic}")
            elif self.ticks_unshared > 2:
                self._end("virtiofsd ended, and the lab's root with it")
            elif self.ticks_silent > limit:
                when = "heartbeat" if self.said_hello else "sign of life while it booted"
                self._end(f"no {when} for {limit} s")

    def hopeless(self):
        """It ended before the kernel said a word: another start would end the same way."""
        return not self.said_hello and self.console_bytes == 0 and self._qemu.returncode not in (None, -9)


class Client:
    """A connection to the supervisor: one command, or one request about the lab."""

    def __init__(self, supervisor, reader, writer):
        self.supervisor = supervisor
        self.reader = reader
        self.writer = writer
        self.channel = 0
        self.run_request = None  # RUN payload that the machine has not seen yet
        self.early = []  # frames for the command that came before it could be sent
        self.running = False  # RUN went to the machine, EXIT has not come
        self.began = False  # STARTED came
        self.wants_ready = False
        self.argv = None

    def send(self, kind, payload=b""):
        if not self.writer.is_closing():
            self.writer.write(wire.pack(1, kind, payload))

    async def serve(self):
        unpacker = wire.Unpacker()
        try:
            while data := await self.reader.read(1 << 18):
                for _, kind, payload in unpacker.feed(data):
                    self._request(kind, payload)
        except (OSError, ValueError, KeyError, wire.WireError):
            pass
        self.supervisor.remove_client(self)

    def _request(self, kind, payload):
        supervisor = self.supervisor
        if kind == wire.RUN:
            self.argv = wire.unjson(payload)["argv"]
            self.run_request = payload
            self.early = []
            supervisor.dispatch(self)
        elif kind == wire.WAIT_READY:
            self.wants_ready = True
            supervisor.tell_ready(self)
        elif kind == wire.STATUS:
            self.send(wire.STATUS, supervisor.status())
        elif kind == wire.STOP:
            supervisor.stop_requested(self)
        elif self.running:
            supervisor.machine.send(self.channel, kind, payload)
        elif self.run_request is not None:
            self.early.append((kind, payload))

    def submit(self, machine, channel):
        """Hand the waiting command to the machine."""
        self.channel = channel
        self.running = True
        self.began = False
        machine.send(channel, wire.RUN, self.run_request)
        for kind, payload in self.early:
            machine.send(channel, kind, payload)
        self.early = []

    def receive(self, kind, payload):
        """A frame from the machine for our command."""
        if kind == wire.STARTED:
            self.began = True
        elif kind == wire.EXIT:
            self.running = False
            self.run_request = None
        self.send(kind, payload)


class Supervisor:
    def __init__(self, options, directory, listener, owner_fd):
        self.options = options
        self.directory = directory
        self.listener = listener
        self.owner_fd = owner_fd  # -1: the lab has no owner and lives until STOP
        self.forwarders = [Forwarder(port, lab_port) for port, lab_port in options["forward"]]
        self.machine = None
        self.ready = False
        self.deaths = []  # reasons, for status
        self.deaths_in_a_row = 0  # without one command that ended in between
        self.clients = set()
        self.channels = {}
        self.next_channel = 1
        self.started_at_s = time.monotonic()
        self.exit_code = 0
        self._stopping = asyncio.Event()
        self._stop_clients = []

    async def run(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        if self.owner_fd >= 0:
            loop.add_reader(self.owner_fd, self._stopping.set)
        if self.options["owner"]:
            try:
                loop.add_reader(os.pidfd_open(self.options["owner"]), self._stopping.set)
            except ProcessLookupError:
                self._stopping.set()
        server = await asyncio.start_unix_server(self._accept, sock=self.listener)
        try:
            for forwarder in self.forwarders:
                await forwarder.start()
        except OSError as e:
            self._give_up(str(e))
        else:
            await self._start_machine()
        await self._stopping.wait()
        server.close()
        if self.machine:
            await self.machine.stop()
        for client in self._stop_clients:
            client.send(wire.STOP)
            await client.writer.drain()
        return self.exit_code

    async def _accept(self, reader, writer):
        client = Client(self, reader, writer)
        self.clients.add(client)
        await client.serve()

    async def _start_machine(self):
        self.ready = False
        disk = f"{self.directory}/disk.img"
        try:
            if not (self.options["keep_disk"] and os.path.exists(disk)):
                make_scratch_disk(disk)
            self.machine = Machine(
                self.options, self.directory, self.forwarders, self._frame, self._machine_ended
            )
            await self.machine.start()
        except (OSError, subprocess.CalledProcessError) as e:
            self._give_up(str(e))

    def _frame(self, channel, kind, payload):
        if channel in self.channels:
            client = self.channels[channel]
            if kind == wire.EXIT:
                del self.channels[channel]
                self.deaths_in_a_row = 0
            elif client.writer.is_closing() and kind in (wire.STDOUT, wire.STDERR):
                # Nobody reads it any more; unacknowledged, the command's end would never come.
                self.machine.send(channel, wire.ACK, {"stream": kind, "bytes": len(payload)})
            client.receive(kind, payload)
        elif kind == wire.HELLO:
            version = wire.unjson(payload)["version"]
            if version != wire.VERSION:
                raise wire.WireError(f"version {version}, expected {wire.VERSION}")
            shares = [[f"out{n}", path] for n, path in enumerate(self.options["out"], start=1)]
            self.machine.send(0, wire.CONFIG, {"out": shares, "net": self.options["net"]})
        elif kind == wire.READY:
            self.ready = True
            for client in list(self.clients):
                self.tell_ready(client)
                self.dispatch(client)

    def dispatch(self, client):
        if self.ready and client.run_request is not None and not client.running:
            channel = self.next_channel
            self.next_channel += 1
            self.channels[channel] = client
            client.submit(self.machine, channel)

    def tell_ready(self, client):
        if self.ready and client.wants_ready:
            client.wants_ready = False
            client.send(wire.READY, {"generation": len(self.deaths) + 1})

    def remove_client(self, client):
        self.clients.discard(client)
        client.writer.close()
        if client.running:
            self.machine.send(client.channel, wire.SIGNAL, {"signal": signal.SIGKILL})
            client.running = False

    def stop_requested(self, client):
        self._stop_clients.append(client)
        self._stopping.set()

    def status(self):
        keys = ("name", "cpus", "mem_mb", "net", "forward", "out", "kernel", "checkout")
        status = {key: self.options[key] for key in keys}
        status["state"] = "ready" if self.ready else "starting"
        status["uptime_s"] = round(time.monotonic() - self.started_at_s, 1)
        status["silent_s"] = self.machine.ticks_silent if self.machine else 0
        status["deaths"] = self.deaths
        status["commands"] = [c.argv for c in self.clients if c.running]
        status["qemu_pid"] = self.machine._qemu.pid if self.machine and self.machine._qemu else None
        return status

    def _machine_ended(self, reason):
        asyncio.ensure_future(self._after_death(reason))

    async def _after_death(self, reason):
        machine = self.machine
        self.ready = False
        self.deaths.append(reason)
        self.deaths_in_a_row += 1
        await machine.stop()
        self._save_console()
        if machine.hopeless() or self.deaths_in_a_row > self.options["restarts"]:
            self._give_up(reason)
            return
        restart = f"restarting it ({self.deaths_in_a_row} of {self.options['restarts']})"
        print(f"lab {self.options['name']} died: {reason}; {restart}", file=sys.stderr, flush=True)
        self.channels = {}
        self._tell_death(reason, final=False)
        if not self._stopping.is_set():
            await self._start_machine()

    def _give_up(self, reason):
        print(f"lab {self.options['name']} died: {reason}; giving up", file=sys.stderr, flush=True)
        self.exit_code = 75
        self._tell_death(reason, final=True)
        self._stopping.set()

    def _tell_death(self, reason, final):
        tail = list(self.machine.tail) if self.machine else []
        for client in list(self.clients):
            lost = client.running and client.began
            if client.running and lost:
                client.run_request = None
            client.running = False
            # A command that had not begun stays queued for the next machine.
            message = {"reason": reason, "console": tail, "began": lost, "final": final}
            client.send(wire.DIED, message)

    def _save_console(self):
        try:
            shutil.copy(f"{self.directory}/console.log", os.path.dirname(self.directory) + "/last-death.log")
        except OSError:
            pass


def supervise(options, directory, listener, owner_fd):
    """Run the lab to its end; returns the exit code."""
    supervisor = Supervisor(options, directory, listener, owner_fd)
    try:
        return asyncio.run(supervisor.run())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
