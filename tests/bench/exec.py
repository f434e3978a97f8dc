# SPDX-License-Identifier: Apache-2.0
"""The round trip of a command beside what the guest itself needs to run it.

Round trip: from the first byte of POST /sandboxes/:id/exec/run on a warm connection, to the last byte of its answer.
Beside it, in the same guest, posix_spawn() and wait of the same program (tests/bench/spawn.c). The two take turns, so
that both see the same machine.
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, "build")
PROGRAM = ["/bin/true", "-"]
TURN = 20
START_S = 120


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(START_S)
    s.connect(path)
    return s


class Api:
    def __init__(self, path):
        self.connection = http.client.HTTPConnection("localhost")
        self.connection.sock = connect(path)

    def call(self, method, path, body=None, raw=False):
        self.connection.request(method, path, body if raw else json.dumps(body or {}))
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data.decode()}")
        return json.loads(data) if data else None


def round_trip_ns(sock, request):
    """The answer has a Content-Length, and its headers come in one piece with it or before it."""
    begun = time.perf_counter_ns()
    sock.sendall(request)
    data = sock.recv(65536)
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(rest) < length:
        rest += sock.recv(65536)
    took = time.perf_counter_ns() - begun
    if not head.startswith(b"HTTP/1.1 200 ") or b'"exitCode":0' not in rest:
        raise SystemExit(f"{data.decode()}")
    return took


def measure(directory, samples):
    path = f"{directory}/sock"
    api = Api(path)
    sandbox = api.call("POST", "/sandboxes", {"templateID": "mini", "memoryMB": 256})["sandboxID"]
    base = f"/sandboxes/{sandbox}"
    with open(f"{BUILD}/test/bench-spawn", "rb") as f:
        api.call("PUT", f"{base}/files?path=/tmp/spawn", f.read(), raw=True)
    api.call("POST", f"{base}/exec/run", {"cmd": "chmod 755 /tmp/spawn", "timeout": 60})
    body = json.dumps({"cmd": PROGRAM[0], "args": PROGRAM[1:]}).encode()
    head = f"POST {base}/exec/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    sock = connect(path)
    times = {"round trip": [], "posix_spawn": []}
    for turn in range(samples // TURN + 1):
        trips = [round_trip_ns(sock, request) for _ in range(TURN)]
        answer = api.call("POST", f"{base}/exec/run", {"cmd": "/tmp/spawn", "args": [str(TURN), *PROGRAM], "timeout": 120})
        if answer["exitCode"]:
            raise SystemExit(f"spawn: {answer}")
        if turn:  # the first warms up
            times["round trip"] += trips
            times["posix_spawn"] += [int(line) for line in answer["stdout"].split()]
    api.call("DELETE", base)
    return times


def report(times, unit, ns, ratio, promise):
    """The samples, which are in ns, by name; @ratio: the names whose medians have the promised ratio."""
    with open(f"{TOP}/tests/bench/promises.json", encoding="utf-8") as f:
        limit = json.load(f)[promise]["limit"]
    medians = {}
    for name, samples in times.items():
        values = sorted(x / ns for x in samples)
        medians[name] = statistics.median(values)
        print(f"{name:12} p50 {medians[name]:9.1f} {unit}   p99 {values[len(values) * 99 // 100]:9.1f} {unit}   {len(values)} samples")
    is_ = medians[ratio[0]] / medians[ratio[1]]
    print(f"{'ok  ' if is_ <= limit else 'FAIL'} {promise}: {is_:.3f} (promise: at most {limit})")
    return 0 if is_ <= limit else 1


def run(measure_, out, samples):
    """What @measure_ says of a server of its own; also written to @out."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        argv = [f"{BUILD}/dormoused", "--listen", f"unix:{directory}/sock", "--state", f"{directory}/state"]
        argv += ["--stop-sandboxes-on-exit", "--log-level", "warn"]
        with subprocess.Popen(argv) as server:
            try:
                while not os.path.exists(f"{directory}/sock"):
                    if server.poll() is not None:
                        raise SystemExit("dormoused does not start")
                    time.sleep(0.05)
                times = measure_(directory, samples)
            finally:
                server.terminate()
    with open(out, "w", encoding="utf-8") as f:
        json.dump({"unit": "ns", **times}, f, indent=1)
    return times


def main(out, samples):
    times = run(measure, f"{out}/exec.json", samples)
    return report(times, "us", 1000, ("round trip", "posix_spawn"), "exec_round_trip_ratio")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
