# SPDX-License-Identifier: Apache-2.0
"""A guest that speaks frames, made by hand: enough TCP for one request."""
import socket
import struct

GUEST_MAC, GATEWAY_MAC = bytes.fromhex("026f63000001"), bytes.fromhex("52550a000202")
GUEST, METADATA = "10.0.2.15", "169.254.169.254"
SYN, RST, PSH, ACK = 2, 4, 8, 16


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def tcp(dst, sport, dport, flags, seq=1, ack=0, data=b""):
    ends = socket.inet_aton(GUEST) + socket.inet_aton(dst)
    segment = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 65535, 0, 0) + data
    sum_ = checksum(ends + struct.pack("!HH", 6, len(segment)) + segment)
    segment = segment[:16] + sum_ + segment[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0) + ends
    head = head[:10] + checksum(head) + head[12:]
    return GATEWAY_MAC + GUEST_MAC + b"\x08\x00" + head + segment


def read_tcp(frame):
    """(source, port of the guest, flags, sequence number, data) of a frame to the guest."""
    assert frame[:6] == GUEST_MAC and frame[12:14] == b"\x08\x00" and frame[23] == 6, frame.hex()
    segment = frame[34:14 + int.from_bytes(frame[16:18], "big")]
    _, port, seq = struct.unpack("!HHI", segment[:8])
    return socket.inet_ntoa(frame[26:30]), port, segment[13], seq, segment[(segment[12] >> 4) * 4:]


class Wire:
    """The network card of a sandbox behind fake-vmm."""

    def __init__(self, sandbox):
        self.sandbox, self.port = sandbox, 4000

    def exchange(self, frames, wait):
        answer = self.sandbox.control("fake-frames", send=[f.hex() for f in frames], wait=wait)
        assert answer["ok"], answer
        return [bytes.fromhex(f) for f in answer["frames"]]

    def open(self, dst, port):
        """(source, flags, sequence number) of what answers a SYN; None: the other side is gone."""
        self.port += 1
        frames = self.exchange([tcp(dst, self.port, port, SYN)], 1)
        while frames:
            source, to, flags, seq, _ = read_tcp(frames[0])
            if to == self.port:
                return source, flags, seq
            frames = self.exchange([], 1)  # that was of an older connection
        return None

    def knock(self, dst, port):
        """The flags that answer a SYN; None: the other side is gone."""
        answer = self.open(dst, port)
        assert not answer or answer[0] == dst, answer
        return answer and answer[1]

    def get(self, path, head="GET {} HTTP/1.1\r\nHost: x\r\n\r\n", body=""):
        """An HTTP request to the metadata service: (head, body) of the answer."""
        seq, text = 2, b""
        request = (head.format(path) + body).encode()
        _, flags, theirs = self.open(METADATA, 80)
        port, ack = self.port, theirs + 1
        assert flags == SYN | ACK, flags
        frames = [tcp(METADATA, port, 80, ACK, seq, ack), tcp(METADATA, port, 80, ACK | PSH, seq, ack, request)]
        while b"\r\n\r\n" not in text or not self.whole(text):
            for frame in self.exchange(frames, 1):
                _, to, flags, theirs, data = read_tcp(frame)
                if to == port and theirs == ack and data:
                    text, ack = text + data, ack + len(data)
                assert to != port or not flags & RST, text
            frames = [tcp(METADATA, port, 80, ACK, seq + len(request), ack)] if text else []
        self.exchange([tcp(METADATA, port, 80, RST | ACK, seq + len(request), ack)], 0)
        return text.decode().split("\r\n\r\n", 1)

    @staticmethod
    def whole(text):
        head, body = text.split(b"\r\n\r\n", 1)
        return len(body) >= int(head.lower().split(b"content-length:")[1].split()[0])
