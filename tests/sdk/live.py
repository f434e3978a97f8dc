# SPDX-License-Identifier: Apache-2.0
"""Runs in a sandbox: a counter and an HTTP server, two processes that time travel must not disturb.

The counter writes its state to /dev/shm/count twice a second, and asks the server over one connection that it holds for
ever. Each process has a nonce from when it was started, so it can be told from one that was started again.
"""

import http.client
import http.server
import json
import os
import sys
import time
import uuid

PORT = 8000
TICK_S = 0.5


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    nonce = uuid.uuid4().hex
    hits = 0

    def do_GET(self):  # the name that http.server asks for
        Handler.hits += 1
        answer = {"nonce": Handler.nonce, "hits": Handler.hits, "random": os.urandom(1024).hex(), "uuid": str(uuid.uuid4())}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def connect():
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT)
            connection.connect()
            return connection
        except ConnectionRefusedError:
            time.sleep(TICK_S)


def count():
    state = {"nonce": uuid.uuid4().hex, "count": 0, "backwards": 0, "server": ""}
    connection = connect()
    before_s = time.monotonic()
    while True:
        state["count"] += 1
        if state["count"] % 2 == 1:
            connection.request("GET", "/")  # it raises if the connection has not survived
            state["server"] = json.loads(connection.getresponse().read())["nonce"]
        now_s = time.monotonic()
        state["backwards"] += now_s < before_s
        before_s = now_s
        with open("/dev/shm/count.new", "w", encoding="utf-8") as f:
            json.dump(state, f)
        os.rename("/dev/shm/count.new", "/dev/shm/count")
        time.sleep(TICK_S)


if sys.argv[1] == "count":
    count()
else:
    http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
