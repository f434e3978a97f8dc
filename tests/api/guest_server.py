# SPDX-License-Identifier: Apache-2.0
"""A server as it runs in a sandbox: HTTP with streams of every kind, and a tiny WebSocket.

    python3 guest_server.py PORT [ADDRESS]

Prints "listening" when it does. Standard library only: tests copy it into guests.
"""
import base64
import hashlib
import os
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"""<!doctype html><title>guest</title><h1>hello from the guest</h1><p id=log></p><script>
const ws = new WebSocket("ws://" + location.host + "/ws");
window.got = [];
ws.onmessage = (e) => { window.got.push(e.data); document.getElementById("log").textContent = window.got.join(","); };
ws.onclose = () => { window.closed = true; };
ws.onopen = () => { window.open_ = true; };
window.say = (text) => ws.send(text);
</script>"""


def pattern(n):
    """The same n bytes everywhere, not periodic in any block size."""
    block = hashlib.sha256(b"seed").digest() * 2048
    out = bytearray()
    i = 0
    while len(out) < n:
        out += struct.pack("<Q", i) + block
        i += 1
    return bytes(out[:n])


def recv_exactly(s, n):
    data = b""
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def ws_read(s):
    """One message: (opcode, payload)."""
    head = recv_exactly(s, 2)
    n = head[1] & 127
    if n == 126:
        n, = struct.unpack(">H", recv_exactly(s, 2))
    elif n == 127:
        n, = struct.unpack(">Q", recv_exactly(s, 8))
    mask = recv_exactly(s, 4) if head[1] & 128 else b"\0\0\0\0"
    data = recv_exactly(s, n)
    return head[0] & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(data))


def ws_frame(opcode, data, mask=None):
    n = len(data)
    head = bytes([128 | opcode])
    bit = 128 if mask else 0
    head += bytes([bit | n]) if n < 126 else bytes([bit | 126]) + struct.pack(">H", n)
    if mask:
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        head += mask
    return head + data


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while True:
                n = int(self.rfile.readline().split(b";")[0], 16)
                data = self.rfile.read(n)
                self.rfile.readline()
                if not n:
                    return
                yield data
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read(min(left, 65536))
            if not data:
                return
            left -= len(data)
            yield data

    def answer(self, data, status=200, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_any(self):
        path, _, query = self.path.partition("?")
        name = "at_" + path.strip("/").replace("/", "_")
        getattr(self, name, self.at_echo)(query)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_PROPFIND = do_any

    def at_(self, query):
        self.answer(PAGE, kind="text/html")

    def at_echo(self, query):
        """What came, as it came."""
        body = b"".join(self.body())
        self.answer((self.requestline + "\n" + str(self.headers)).encode() + body)

    def at_hash(self, query):
        h, n = hashlib.sha256(), 0
        for data in self.body():
            h.update(data)
            n += len(data)
        self.answer(f"{h.hexdigest()} {n}".encode())

    def at_big(self, query):
        data = pattern(int(query))
        self.send_response(200)
        self.end_headers()  # to the end of the connection
        self.wfile.write(data)

    def at_chunked(self, query):
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(int(query)):
            self.wfile.write(b"5\r\n%05d\r\n" % i)
        self.wfile.write(b"0\r\n\r\n")
        self.forever()  # it ignores that the connection was to be closed

    def at_keepalive(self, query):
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Connection", "keep-alive")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.forever()

    def at_events(self, query):
        """Server-sent events: one at once, then one for each line in the file "tick"."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        sent, at = 0, 0
        self.wfile.write(b"data: begin\n\n")
        while sent < int(query or 3):
            lines = open("tick").read().splitlines() if os.path.exists("tick") else []
            for line in lines[at:]:
                self.wfile.write(f"data: {line}\n\n".encode())
                sent += 1
            at = len(lines)
            time.sleep(0.02)

    def at_silent(self, query):
        self.forever()

    def at_empty(self, query):
        self.close_connection = True

    def at_garbage(self, query):
        self.wfile.write(b"SSH-2.0-nope\r\n\r\n")
        self.close_connection = True

    def at_cut(self, query):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")

    def at_twice(self, query):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok")

    def at_bigheads(self, query):
        self.send_response(200)
        for i in range(100):
            self.send_header(f"X-{i}", "x" * 1000)
        self.end_headers()

    def at_unasked(self, query):
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
        self.forever()

    def at_hints(self, query):
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        self.answer(b"after hints")

    def forever(self):
        self.wfile.flush()
        try:
            while self.connection.recv(65536):
                pass
        except OSError:
            pass
        self.close_connection = True

    def at_ws(self, query):
        """Echoes messages; "close" ends it; says hello first."""
        if self.headers.get("Upgrade") != "websocket":
            self.answer(b"this is a WebSocket", 426)
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          f"Sec-WebSocket-Accept: {accept}\r\n\r\n").encode() + ws_frame(1, b"hello"))
        s = self.connection
        self.close_connection = True
        try:
            while True:
                opcode, data = ws_read(s)
                if opcode == 8 or data == b"close":
                    s.sendall(ws_frame(8, b"\x03\xe8"))
                    return
                s.sendall(ws_frame(opcode, b"echo " + data))
        except (EOFError, OSError):
            pass


class V6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def echo(listener):
    """Plain TCP on the next port: everything comes back, and the end."""
    def serve(s):
        while data := s.recv(65536):
            s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        s.close()
    while True:
        s, _ = listener.accept()
        threading.Thread(target=serve, args=(s,), daemon=True).start()


def end_with(parent):
    """A guest's processes end with it; those of a stand-in have to do so themselves."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def main():
    if "ENDS_WITH_AGENT" in os.environ:
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    port, address = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    server = (V6Server if ":" in address else ThreadingHTTPServer)((address, port), Handler)
    server.daemon_threads = True
    if ":" not in address:
        threading.Thread(target=echo, args=(socket.create_server((address, port + 1)),), daemon=True).start()
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
