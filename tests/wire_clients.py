"""Clients on raw sockets, many of them in one event loop, that read only when they are told to."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import anyio
import trio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from serving import HOST

PATIENCE = 10.0
MEGABYTE = 1 << 20


ENDS = (
    anyio.IncompleteRead,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What a connection's end is told by."""

_open: set[Wire] = set()


async def close_all() -> None:
    """Close the connections that a test has left open."""
    with anyio.CancelScope(shield=True):
        for wire in list(_open):
            await wire.close()


class Wire:
    """A TCP connection; a small receive buffer lets its peer's sends block soon."""

    def __init__(self, stream: SocketStream):
        self.stream = stream
        self._buffered = BufferedByteReceiveStream(stream)
        _open.add(self)

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None) -> Wire:
        raw = socket.socket()
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # the kernel accepts it, whatever the server does
        raw.connect((HOST, port))
        raw.setblocking(False)
        return cls(await SocketStream.from_socket(raw))

    async def request(
        self, method: str, query: str, body: bytes | None = None, *headers: str
    ) -> None:
        lines = [f"{method} /socket.io/?EIO=4&{query} HTTP/1.1", f"Host: {HOST}", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.stream.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    async def response(self) -> tuple[int, str]:
        """Return the status and the text of a response."""
        head = await self._buffered.receive_until(b"\r\n\r\n", 65_536)
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        body = await self._buffered.receive_exactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1]), body.decode()

    async def frame(self) -> tuple[int, bytes]:
        """Return the operation code and the data of a WebSocket frame (RFC 6455, section 5.2)."""
        code, size = await self._buffered.receive_exactly(2)
        if size == 126:
            size = int.from_bytes(await self._buffered.receive_exactly(2))
        elif size == 127:
            size = int.from_bytes(await self._buffered.receive_exactly(8))
        return code & 15, await self._buffered.receive_exactly(size) if size else b""

    async def send_frame(self, text: str, code: int = 1) -> None:
        data = text.encode()
        assert len(data) < 126
        await self.stream.send(bytes([0x80 | code, 0x80 | len(data), 0, 0, 0, 0]) + data)

    async def close(self) -> None:
        _open.discard(self)
        await self.stream.aclose()


class WebSocketWire:
    """A client on a WebSocket."""

    def __init__(self, wire: Wire):
        self.wire = wire
        self.sid = ""
        self.eio_sid = ""
        self.received: list[str] = []
        self.closed = anyio.Event()

    @classmethod
    async def join(cls, port: int, receive_buffer: int | None = None) -> WebSocketWire:
        client = cls(await Wire.connect(port, receive_buffer))
        await client.wire.request(
            "GET",
            "transport=websocket",
            None,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert (await client.wire.response())[0] == 101
        client.eio_sid = json.loads((await client.read())[1:])["sid"]
        await client.send("40")
        client.sid = json.loads((await client.read())[2:])["sid"]
        return client

    async def send(self, text: str) -> None:
        await self.wire.send_frame(text)

    async def read(self) -> str:
        """Return the next message; pings are answered."""
        while True:
            code, data = await self.wire.frame()
            assert code in (1, 2), (code, data)
            if data != b"2":
                return data.decode()
            await self.send("3")

    async def live(self) -> None:
        """Read, answer pings and the closing of the connection, until that has ended."""
        try:
            while True:
                code, data = await self.wire.frame()
                if code == 8:
                    await self.wire.stream.send(b"\x88\x82\0\0\0\0" + data[:2])
                elif data == b"2":
                    await self.send("3")
                elif code == 1:
                    self.received.append(data.decode())
        except ENDS:
            pass
        finally:
            self.closed.set()
            with anyio.CancelScope(shield=True):
                await self.wire.close()


class PollingWire:
    """A client that polls, on a connection that is kept open."""

    def __init__(self, wire: Wire):
        self.wire = wire
        self.sid = ""
        self.eio_sid = ""
        self.received: list[str] = []
        self.closed = anyio.Event()

    @classmethod
    async def join(cls, port: int, receive_buffer: int | None = None) -> PollingWire:
        client = cls(await Wire.connect(port, receive_buffer))
        await client.wire.request("GET", "transport=polling")
        status, text = await client.wire.response()
        assert status == 200, text
        client.eio_sid = json.loads(text[1:])["sid"]
        await client.post("40")
        while not client.sid:
            await client.start_poll()
            status, text = await client.wire.response()
            assert status == 200, text
            for packet in text.split("\x1e"):
                if packet == "2":
                    await client.post("3")
                else:
                    client.sid = json.loads(packet[2:])["sid"]
        return client

    async def start_poll(self) -> None:
        await self.wire.request("GET", f"transport=polling&sid={self.eio_sid}")

    async def post(self, text: str) -> None:
        await self.wire.request("POST", f"transport=polling&sid={self.eio_sid}", text.encode())
        assert await self.wire.response() == (200, "ok")

    async def live(self) -> None:
        """Poll and answer pings until the session has ended."""
        try:
            while True:
                await self.start_poll()
                status, text = await self.wire.response()
                packets = text.split("\x1e")
                if status != 200 or "1" in packets:
                    break
                for packet in packets:
                    if packet == "2":
                        await self.post("3")
                    else:
                        self.received.append(packet)
        except ENDS:
            pass
        finally:
            self.closed.set()
            with anyio.CancelScope(shield=True):
                await self.wire.close()


def all_tasks() -> set[Any]:
    """Return the tasks of this event loop, but for this one."""
    try:
        this = asyncio.current_task()
    except RuntimeError:
        found: set[Any] = set()
        left = [trio.lowlevel.current_root_task()]
        while left:
            task = left.pop()
            if task is not None:
                found.add(task)
                left += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return found - {trio.lowlevel.current_task()}
    return asyncio.all_tasks() - {this}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
