"""Deliveries a second to real WebSocket clients of one server."""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from support import Child, Options, Results, compare, machine, postgres, process_of, warm_up

NAME = "websocket_clients"
TITLE = "Deliveries to WebSocket clients of one process"

_BYTES = 100
_FIRST = 5
_CONNECT_TIMEOUT = 60
_NODE = Path(__file__).with_name("websocket_node.py")
_HANDSHAKE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_CONNECT = b"\x81\x82\0\0\0\x0040"
"""A masked text frame: Engine.IO's message with Socket.IO's CONNECT."""


@dataclass(frozen=True)
class Served:
    """A Socket.IO server behind an ASGI server on an event loop."""

    name: str
    server: str
    asgi: str
    backend: str = "asyncio"

    def spec(self) -> str:
        return json.dumps({"server": self.server, "asgi": self.asgi, "backend": self.backend})


class Crowd:
    """Clients that count bytes, so that the server is what takes the time."""

    def __init__(self, port: int, clients: int):
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port))
            client.settimeout(_CONNECT_TIMEOUT)
            client.sendall(_HANDSHAKE)
            _receive_until(client, b'"maxPayload":1000000}')
            client.sendall(_CONNECT)
            _receive_until(client, b'40{"sid":', b'"}')
            client.setblocking(False)
            self._sockets[client.fileno()] = client
            self._poll.register(client, select.EPOLLIN)

    def count(self, total: int) -> None:
        """Return when they have received so many bytes together."""
        deadline = time.monotonic() + _CONNECT_TIMEOUT
        while total > 0:
            for number, _ in self._poll.poll(1):
                chunk = self._sockets[number].recv(1 << 18)
                if not chunk:
                    raise RuntimeError("a client was disconnected")
                total -= len(chunk)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{total} bytes are missing")
        if total < 0:
            raise RuntimeError(f"{-total} bytes too many")

    def close(self) -> None:
        self._poll.close()
        for client in self._sockets.values():
            client.close()


def _receive_until(client: socket.socket, *marks: bytes) -> None:
    received = b""
    for mark in marks:
        while mark not in received:
            chunk = client.recv(4_096)
            if not chunk:
                raise RuntimeError(f"disconnected after {received!r}")
            received += chunk
        received = received[received.index(mark) + len(mark) :]


def frame_size(size: int) -> int:
    """Return the bytes on the wire of an event with so many bytes of text."""
    payload = size + len('42["event",""]')
    return payload + (2 if payload < 126 else 4 if payload < 1 << 16 else 10)


CONTESTANTS = [
    Served("AsyncServer, uvicorn on asyncio", "stock", "uvicorn"),
    Served("AnyIOServer, uvicorn on asyncio", "anyio", "uvicorn"),
    Served("AsyncServer, Hypercorn on asyncio", "stock", "hypercorn"),
    Served("AnyIOServer, Hypercorn on asyncio", "anyio", "hypercorn"),
    Served("AnyIOServer, Hypercorn on Trio", "anyio", "hypercorn", "trio"),
    Served("AnyIOServer, AnyCorn on Trio", "anyio", "anycorn", "trio"),
]


async def run(options: Options) -> Results:
    with postgres() as server:
        results = Results(NAME, TITLE, machine(server.uri), options)
    clients = 50 if options.quick else 1_000

    async def measure(contestant: Served, emits: int) -> dict[str, float]:
        async with process_of(_NODE, contestant.spec(), contestant.name) as node:
            port = (await node.answer())["port"]
            before = (await node.ask("memory"))["rss"]
            crowd = await anyio.to_thread.run_sync(Crowd, port, clients)
            try:
                while (await node.ask("connected"))["clients"] < clients:
                    await anyio.sleep(0.01)
                after = (await node.ask("memory"))["rss"]
                await _deliver(node, crowd, warm_up(emits), clients)
                seconds, cpu = await _deliver(node, crowd, emits, clients)
            finally:
                crowd.close()
        deliveries = emits * clients
        return {
            "rate": deliveries / seconds,
            "emits": emits,
            "cpu_us": cpu / deliveries * 1e6,
            "kb": (after - before) / clients / 1_000,
        }

    await compare(
        results,
        CONTESTANTS,
        measure,
        case={"bytes": _BYTES, "clients": clients},
        start=_FIRST,
        per_unit=clients,
    )
    return results


async def _deliver(node: Child, crowd: Crowd, emits: int, clients: int) -> tuple[float, float]:
    """Return the seconds until all clients have all events, and the server's CPU time."""
    total = emits * clients * frame_size(_BYTES)
    started = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, crowd.count, total)
        before = (await node.ask("deliver", emits=emits, bytes=_BYTES))["cpu"]
    seconds = time.monotonic() - started
    return seconds, (await node.ask("cpu"))["cpu"] - before
