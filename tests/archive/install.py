# SPDX-License-Identifier: Apache-2.0
"""Build an image with packages of the distribution's archive, as any user would, and use them.

The base has curl and jq, so a first step removes them. Exit 77, with the reason in the last line: this machine has
the archive at an address that sandboxes can never reach.
"""

import http.client
import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOST = "deb.debian.org"
ATTEMPTS = 2  # the archive may be in the middle of a change
HANG_S = 1800
REMOVE = ["sudo dpkg --purge jq curl", "! command -v jq && ! command -v curl"]
IMAGE = {"base": "base", "builderMemoryMB": 1024, "steps": [
    {"type": "run", "args": {"commands": REMOVE}},
    {"type": "add_file", "args": {"path": "/etc/apt/apt.conf.d/80-retries", "content": 'Acquire::Retries "3";\n'}},
    {"type": "apt_install", "args": {"packages": ["curl", "jq"]}}]}
USE = f"""curl -sf http://{HOST}/debian/dists/bookworm/InRelease | grep -m1 '^Codename:'; echo '{{"a": [1, 2]}}' | jq -c .a"""


def opened_for(host):
    """Options that open what of the archive is in closed ranges: a mirror of the machine's own, most often."""
    options = []
    for address in {info[4][0] for info in socket.getaddrinfo(host, 80, socket.AF_INET, socket.SOCK_STREAM)}:
        ip = ipaddress.ip_address(address)
        if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip in ipaddress.ip_network("10.0.2.0/24"):
            print(f"{host} is at {address}, which no sandbox can reach")
            sys.exit(77)
        if not ip.is_global:
            print(f"{host} is at {address}: opened with --net-allow")
            options += ["--net-allow", f"{address}/32"]
    return options


def call(path, method, where, body, **headers):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(HANG_S)
    connection.sock.connect(path)
    connection.request(method, where, json.dumps(body), headers)
    return connection.getresponse()


def build(path):
    """The sandbox's id; the log is printed."""
    answer = call(path, "POST", "/sandboxes", {"timeout": 0, "image": IMAGE}, Accept="text/event-stream")
    messages, event = [], ""
    for line in answer:
        word, _, rest = line.decode().strip().partition(": ")
        if word == "event":
            event = rest
        elif word == "data" and event == "build_log":
            messages.append(json.loads(rest)["message"])
            print(messages[-1], flush=True)
        elif word == "data":
            data = json.loads(rest)
            if event == "result":
                for message in "Unpacking curl", "Setting up curl", "Setting up jq", "Step 3/3 completed":
                    assert any(m.startswith(message) for m in messages), f"no {message}"
                return data["sandboxID"]
            print(f"{event}: {data}")
    return None


def prove(path):
    sandbox = None
    for _ in range(ATTEMPTS):
        sandbox = sandbox or build(path)
    if not sandbox:
        raise SystemExit("the image was not built")
    answer = json.loads(call(path, "POST", f"/sandboxes/{sandbox}/exec/run",
                             {"cmd": "bash", "args": ["-c", USE], "timeout": 120}).read())
    print(answer)
    assert answer["stdout"] == "Codename: bookworm\n[1,2]\n", answer


def main():
    options = opened_for(HOST)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=os.environ.get("DORMOUSE_SCRATCH", "/var/tmp")) as directory:
        path = f"{directory}/sock"
        argv = [f"{TOP}/build/dormoused", "--listen", f"unix:{path}", "--state", f"{directory}/state"]
        argv += ["--stop-sandboxes-on-exit", "--log-level", "warn", "--build-step-timeout", "900", *options]
        with subprocess.Popen(argv) as server:
            try:
                while not os.path.exists(path):
                    if server.poll() is not None:
                        raise SystemExit("dormoused does not start")
                    time.sleep(0.05)
                prove(path)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
