# SPDX-License-Identifier: Apache-2.0
"""Leads connections to a port of 127.0.0.1 into the lab.

QEMU's own forwarding listens with a backlog of one. Of many connections that begin at once
some then seem open to the client and are reset minutes later (seen with 20). A connection that begins while no
other does cannot be lost so: this listens in QEMU's place, with room for all, and opens them towards QEMU one by one.
"""

import asyncio
import socket

BACKLOG = 4096
CHUNK_BYTES = 1 << 16


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Forwarder:
    """One forwarded port. It outlives the machines that the connections lead to."""

    def __init__(self, port, lab_port):
        self.port = port
        self.lab_port = lab_port
        self.qemu_port = 0  # where QEMU listens for us
        self._connecting = asyncio.Lock()

    async def start(self):
        """Raises OSError if the port is in use."""
        await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=BACKLOG)

    def qemu_option(self):
        """For the next machine's -netdev."""
        self.qemu_port = free_port()
        return f",hostfwd=tcp:127.0.0.1:{self.qemu_port}-10.0.2.15:{self.lab_port}"

    async def _accept(self, reader, writer):
        try:
            async with self._connecting:
                lab_reader, lab_writer = await asyncio.open_connection("127.0.0.1", self.qemu_port)
        except OSError:  # no machine at present
            writer.transport.abort()
            return
        await asyncio.gather(pump(reader, lab_writer), pump(lab_reader, writer))
        writer.close()
        lab_writer.close()


async def pump(reader, writer):
    """One direction, to its end. A reset on one side becomes one on the other."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
