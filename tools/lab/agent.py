# SPDX-License-Identifier: Apache-2.0
"""The agent inside the lab: runs commands for the supervisor. See labwire.py for the protocol."""

import fcntl
import glob
import os
import platform
import pty
import queue
import resource
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import labwire as wire  # noqa: E402

KVM_CREATE_VM = 0xAE01
PORT_NAME = "dormouse.lab"
CGROUPS = "/sys/fs/cgroup"


def find_port():
    """The device of our virtio console port; there is no udev to make a symlink."""
    for name_file in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(name_file) as f:
            if f.read().strip() == PORT_NAME:
                return "/dev/" + name_file.split("/")[-2]
    raise SystemExit(f"no virtio port {PORT_NAME}")


class Link:
    """The port: writes of whole frames from any thread, frames read by one."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._lock = threading.Lock()

    def send(self, channel, kind, payload=b""):
        data = memoryview(wire.pack(channel, kind, payload))
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]

    def frames(self):
        unpacker = wire.Unpacker()
        while True:
            data = os.read(self._fd, wire.CHUNK_BYTES)
            if not data:  # the host side is not connected (yet)
                time.sleep(0.05)
                continue
            yield from unpacker.feed(data)


class Credit:
    """How much may still be sent on one output stream."""

    def __init__(self):
        self._left = wire.WINDOW_BYTES
        self._changed = threading.Condition()

    def take(self):
        """Wait until something may be sent; return how much at most."""
        with self._changed:
            while self._left <= 0:
                self._changed.wait()
            return min(self._left, wire.CHUNK_BYTES)

    def spend(self, size):
        with self._changed:
            self._left -= size

    def give(self, size):
        with self._changed:
            self._left += size
            self._changed.notify()


class Command:
    """One command, in a cgroup and a session of its own."""

    def __init__(self, link, channel, request):
        self._link = link
        self._channel = channel
        self._request = request
        self._stdin = queue.Queue()
        self._credits = {wire.STDOUT: Credit(), wire.STDERR: Credit()}
        self._cgroup = f"{CGROUPS}/command-{channel}"
        self._process = None
        self._master_fd = -1
        self._spawned = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    # The four calls below come from the thread that reads the port.

    def stdin(self, data):
        self._stdin.put(data)

    def ack(self, stream, size):
        if stream in self._credits:
            self._credits[stream].give(size)

    def kill(self, number):
        self._spawned.wait()
        if self._process is None or self._process.returncode is not None:
            return
        if number == signal.SIGKILL:
            self._kill_cgroup()
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def resize(self, rows, columns):
        self._spawned.wait()
        if self._master_fd >= 0:
            fcntl.ioctl(self._master_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _run(self):
        self._link.send(self._channel, wire.STARTED)
        try:
            pumps = self._spawn()
        except (OSError, ValueError) as e:
            self._spawned.set()
            self._link.send(self._channel, wire.STDERR, f"lab: {e}\n".encode())
            self._finish(126)
            return
        for pump in pumps:
            pump.start()
        self._spawned.set()
        code = self._process.wait()
        # What the command left behind ends with it: no test can disturb the next.
        self._kill_cgroup()
        self._stdin.put(None)
        for pump in pumps[1:]:
            pump.join()
        self._finish(code if code >= 0 else 128 - code)

    def _spawn(self):
        request = self._request
        os.mkdir(self._cgroup)
        join = f'echo $$ >{self._cgroup}/cgroup.procs && exec "$@"'
        argv = ["/bin/sh", "-c", join, "lab"]
        arguments = {"cwd": request["cwd"], "env": request["env"], "start_new_session": True}
        if request.get("tty"):
            argv = ["/usr/bin/setsid", "-c", *argv]
            del arguments["start_new_session"]
            self._master_fd, slave_fd = pty.openpty()
            rows, columns = request["tty"]
            fcntl.ioctl(slave_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self._process = subprocess.Popen(
                argv + request["argv"], stdin=slave_fd, stdout=slave_fd, stderr=slave_fd, **arguments
            )
            os.close(slave_fd)
            outputs = [(wire.STDOUT, self._master_fd)]
            stdin_fd = self._master_fd
        else:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                argv + request["argv"], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, **arguments
            )
            outputs = [
                (wire.STDOUT, self._process.stdout.fileno()),
                (wire.STDERR, self._process.stderr.fileno()),
            ]
            stdin_fd = self._process.stdin.fileno()
        return [threading.Thread(target=self._pump_in, args=(stdin_fd,), daemon=True)] + [
            threading.Thread(target=self._pump_out, args=output, daemon=True) for output in outputs
        ]

    def _pump_in(self, fd):
        while True:
            data = self._stdin.get()
            if not data:
                break
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(fd, view) :]
            except OSError:  # the command does not read any more
                pass
            self._link.send(self._channel, wire.ACK, {"stream": wire.STDIN, "bytes": len(data)})
        if self._master_fd < 0:
            try:
                self._process.stdin.close()
            except OSError:
                pass

    def _pump_out(self, kind, fd):
        credit = self._credits[kind]
        while True:
            size = credit.take()
            try:
                data = os.read(fd, size)
            except OSError:  # EIO: the last user of the terminal has closed it
                break
            if not data:
                break
            credit.spend(len(data))
            self._link.send(self._channel, kind, data)

    def _kill_cgroup(self):
        try:
            with open(self._cgroup + "/cgroup.kill", "w") as f:
                f.write("1")
        except OSError:
            pass

    def _finish(self, code):
        if self._master_fd >= 0:
            os.close(self._master_fd)
            self._master_fd = -1
        commands.pop(self._channel, None)
        self._link.send(self._channel, wire.EXIT, {"code": code})
        threading.Thread(target=remove_cgroup, args=(self._cgroup,), daemon=True).start()


def remove_cgroup(top):
    """rmdir fails while killed processes are still on their way out."""
    while os.path.isdir(top):
        for path, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                pass
        if os.path.isdir(top):
            time.sleep(0.2)


commands = {}


def send_heartbeats(link):
    # Ahead of everything else in the lab: silence shall mean that the machine is dead, not that it is busy.
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        pass
    while True:
        link.send(0, wire.HEARTBEAT, {"uptime_s": time.monotonic()})
        time.sleep(1)


def configure(config):
    """Mount the writable directories and bring the network up."""
    for tag, path in config["out"]:
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "virtiofs", tag, path], check=True)
    busybox_ip = ["busybox", "ip"]
    subprocess.run([*busybox_ip, "link", "set", "lo", "up"], check=True)
    if os.path.exists("/sys/class/net/eth0"):
        subprocess.run([*busybox_ip, "addr", "add", "10.0.2.15/24", "dev", "eth0"], check=True)
        subprocess.run([*busybox_ip, "link", "set", "eth0", "up"], check=True)
        if config["net"]:
            subprocess.run([*busybox_ip, "route", "add", "default", "via", "10.0.2.2"], check=True)
    if os.path.lexists("/etc/resolv.conf"):
        os.unlink("/etc/resolv.conf")
    with open("/etc/resolv.conf", "w") as f:
        f.write("nameserver 10.0.2.3\n" if config["net"] else "# the lab has no network: lab run --net\n")


def hold_vm():
    """Keep one VM open: with the last one closed, KVM turns SVM off on every CPU, and the next one on again."""
    try:
        return fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC), KVM_CREATE_VM, 0)
    except OSError as e:
        print(f"lab agent: /dev/kvm: {e}", flush=True)
        return -1


def forget_files():
    """Drop cached directory entries: the overlay answers ESTALE for a file that was replaced on the host."""
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2")


def serve(link):
    held_vm_fd = -1
    tree = None
    for channel, kind, payload in link.frames():
        command = commands.get(channel)
        if kind == wire.CONFIG:
            configure(wire.unjson(payload))
            held_vm_fd = hold_vm()
            link.send(0, wire.READY, {"kvm": held_vm_fd >= 0})
        elif kind == wire.RUN:
            request = wire.unjson(payload)
            if tree not in (None, request["tree"]):
                forget_files()
            tree = request["tree"]
            commands[channel] = Command(link, channel, request)
        elif command is None:
            pass  # it has ended meanwhile
        elif kind == wire.STDIN:
            command.stdin(payload)
        elif kind == wire.ACK:
            request = wire.unjson(payload)
            command.ack(request["stream"], request["bytes"])
        elif kind == wire.SIGNAL:
            command.kill(wire.unjson(payload)["signal"])
        elif kind == wire.RESIZE:
            request = wire.unjson(payload)
            command.resize(request["rows"], request["columns"])


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
    link = Link(find_port())
    link.send(0, wire.HELLO, {"version": wire.VERSION, "kernel": platform.release()})
    threading.Thread(target=send_heartbeats, args=(link,), daemon=True).start()
    serve(link)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    main()
