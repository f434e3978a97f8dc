# SPDX-License-Identifier: Apache-2.0
"""Frames between the `lab` command, its supervisor and the agent inside the lab.

Theory of operation
-------------------
Three parties, one framing. The agent in the lab speaks over a virtio console port
to the supervisor; the supervisor relays to clients over a Unix socket. A frame is
a header (payload length, channel, type) and a payload: bytes for stream data, a
JSON object for the rest. A channel is one command. Client sockets carry one
command each, on channel 1; the supervisor renumbers.

Streams have credit windows of WINDOW bytes from end to end: a sender stops when
the receiver has not acknowledged that much. So no party has to buffer more, a slow
reader holds up its own command only, and heartbeats always get through.
"""

import json
import struct

HEADER = struct.Struct("<IIB")
PAYLOAD_MAX_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
WINDOW_BYTES = 1 << 18
VERSION = 1

# agent -> supervisor, channel 0
HELLO = 1  # {"version", "kernel"}: the agent runs
HEARTBEAT = 2  # {"uptime_s"}: about once a second from HELLO on
READY = 3  # {}: configured, commands may come. Supervisor -> client: {"generation", ...}
# supervisor -> agent, channel 0
CONFIG = 10  # {"out": [[tag, path]...], "net": bool}

# client -> supervisor -> agent
RUN = 20  # {"argv", "cwd", "env", "tty": null | [rows, columns], "tree": signature of the checkout}
STDIN = 21  # bytes; empty: end of file
SIGNAL = 22  # {"signal": number} to the process group of the command
RESIZE = 23  # {"rows", "columns"}
ACK = 24  # {"stream": STDIN | STDOUT | STDERR, "bytes"}, in both directions

# agent -> supervisor -> client
STARTED = 30  # {}: sent before the process is made; after it the command may have had effects
STDOUT = 31  # bytes
STDERR = 32  # bytes
EXIT = 33  # {"code"}: 128 + N if signal N ended it; all output was sent before

# client -> supervisor
STATUS = 40  # {}; answered by STATUS {...}
STOP = 41  # {}; answered by STOP when nothing of the lab is left
WAIT_READY = 42  # {}; answered by READY or DIED
# supervisor -> client
DIED = 50  # {"reason", "console": [lines], "began": bool, "final": bool}


class WireError(Exception):
    """The other side broke the framing."""


def pack(channel, kind, payload=b""):
    """One frame as bytes; payload is bytes or a JSON-able object."""
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        payload = json.dumps(payload).encode()
    return HEADER.pack(len(payload), channel, kind) + bytes(payload)


class Unpacker:
    """Frames out of a byte stream that comes in pieces."""

    def __init__(self):
        self._buffer = bytearray()

    def feed(self, data):
        """Add data; yield (channel, kind, payload bytes) for each complete frame."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, channel, kind = HEADER.unpack_from(self._buffer)
            if length > PAYLOAD_MAX_BYTES:
                raise WireError(f"frame of {length} bytes, type {kind}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield channel, kind, payload


def unjson(payload):
    """The object of a JSON frame; an empty payload is {}."""
    return json.loads(payload) if payload else {}
