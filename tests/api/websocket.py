# SPDX-License-Identifier: Apache-2.0
"""A small WebSocket client that can also misbehave: frames are what the caller says they are."""
import base64
import hashlib
import os
import socket
import struct


class Closed(Exception):
    def __init__(self, code, reason):
        super().__init__(f"closed with {code} {reason}")
        self.code, self.reason = code, reason


class WebSocket:
    """Connects and takes the 101; `status` is another one if the server refuses."""

    def __init__(self, server, path, tcp=False, headers=None, receive_buffer=None):
        if tcp:
            self.sock = socket.socket()
            if receive_buffer:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.sock.settimeout(120)
            self.sock.connect(("127.0.0.1", server.port))
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(120)
            self.sock.connect(server.socket)
        self.key = base64.b64encode(os.urandom(16)).decode()
        fields = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": self.key,
                  "Sec-WebSocket-Version": "13",
                  "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits", **(headers or {})}
        lines = [f"{name}: {v}" for name, value in fields.items() if value is not None
                 for v in (value if isinstance(value, list) else [value])]
        self.sock.sendall((f"GET {path} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            part = self.sock.recv(65536)
            assert part, "the connection ended within the handshake"
            self.buffer += part
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in rest}
        if self.status == 101:
            accept = hashlib.sha1((self.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            assert self.headers["sec-websocket-accept"] == base64.b64encode(accept).decode()
            assert self.headers["upgrade"] == "websocket" and self.headers["connection"].lower() == "upgrade"
            assert "sec-websocket-extensions" not in self.headers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def frame(self, opcode, data=b"", fin=True, mask=True, rsv=0):
        head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        bit = 0x80 if mask else 0
        if len(data) < 126:
            head += bytes([bit | len(data)])
        elif len(data) < 65536:
            head += bytes([bit | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([bit | 127]) + struct.pack(">Q", len(data))
        if mask:
            key = os.urandom(4)
            head += key
            pad = key * (len(data) // 4 + 1)
            data = (int.from_bytes(data, "big") ^ int.from_bytes(pad[:len(data)], "big")).to_bytes(len(data), "big")
        self.sock.sendall(head + data)

    def send(self, data, opcode=2):
        self.frame(opcode, data)

    def _take(self, n):
        while len(self.buffer) < n:
            part = self.sock.recv(1 << 20)
            if not part:
                raise Closed(None, "the connection ended")
            self.buffer += part
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def recv(self):
        """(opcode, data) of the next frame. Servers send neither masks nor fragments here."""
        first, length = self._take(2)
        assert first & 0xf0 == 0x80 and not length & 0x80, (first, length)
        if length == 126:
            length, = struct.unpack(">H", self._take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self._take(8))
        data = self._take(length)
        if first & 15 == 8:
            raise Closed(struct.unpack(">H", data[:2])[0] if data else None, data[2:].decode())
        return first & 15, data


class Attached(WebSocket):
    """A client of a command (api.md 17.1)."""

    def __init__(self, sandbox, session, query="", **more):
        super().__init__(sandbox.server, f"{sandbox.url}/exec/{session}{query}", **more)
        self.out, self.err, self.order = b"", b"", []
        self.replay = None  # (stdout, stderr) at the 0x04
        self.code = self.closed = None

    def write(self, data):
        self.send(b"\0" + data)

    def step(self):
        """One message; False after the close frame."""
        try:
            opcode, data = self.recv()
        except Closed as c:
            self.closed = (c.code, c.reason)
            return False
        assert opcode == 2, opcode
        assert self.code is None, "something after the exit code"
        channel, data = data[0], data[1:]
        assert len(data) <= 65536
        if channel == 1:
            self.out += data
        elif channel == 2:
            self.err += data
        elif channel == 3:
            self.code, = struct.unpack(">i", data)
        else:
            assert channel == 4 and data == b"" and self.replay is None, (channel, data)
            self.replay = (self.out, self.err)
        if channel in (1, 2):
            self.order.append((channel, data))
        return True

    def until(self, predicate):
        while not predicate(self):
            assert self.step(), f"closed: {self.closed}, {self.out[-200:]} {self.err[-200:]}"
        return self

    def until_live(self):
        return self.until(lambda a: a.replay is not None)

    def until_out(self, data):
        return self.until(lambda a: data in a.out)

    def to_end(self):
        while self.step():
            pass
        return self
