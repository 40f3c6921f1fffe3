"""One process of a benchmark: a Socket.IO server with clients but no network.

It is started by the scripts beside it, with what it is to be as JSON in its argument. It then takes
commands, one JSON object a line, and answers each with a line; it ends with its input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import socketio
from engineio.async_socket import AsyncSocket

from anyio_sio_pg import AnyIOManager, PostgresManager

POLL = 0.005
"""Seconds between two looks at the queue of a client that receives."""

EMITS_AT_ONCE = 100
"""Emits to all local clients before their queues are emptied, which is not timed."""

MARKER = '2["marker",'


@asynccontextmanager
async def manager_of(kind: str, address: str | None) -> AsyncIterator[Any]:
    if kind == "postgres":
        async with PostgresManager(address) as manager:
            yield manager
    elif kind == "logged":
        async with PostgresManager(address, durable=True) as manager:
            yield manager
    elif kind == "unlogged":
        async with PostgresManager(
            address, durable="unlogged", log_table="socket_io_unlogged_log"
        ) as manager:
            yield manager
    elif kind == "redis":
        yield socketio.AsyncRedisManager(address)
    else:
        yield {"stock": socketio.AsyncManager, "anyio": AnyIOManager}[kind]()


class Node:
    """A server and its clients: Engine.IO sockets that nobody reads but this process."""

    def __init__(self, manager: Any):
        self.manager = manager
        self.server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
        self.sockets: list[AsyncSocket] = []

    async def connect(self, clients: int) -> None:
        await self.server._handle_eio_connect("nobody", {})
        for number in range(clients):
            eio_sid = f"client{number}"
            socket = AsyncSocket(self.server.eio, eio_sid)
            socket.connected = True
            # as it is between a pong and the next ping, of which there is none here
            socket.last_ping = None
            self.server.eio.sockets[eio_sid] = socket
            self.sockets.append(socket)
            await self.server._handle_eio_connect(eio_sid, {})
            await self.server._handle_connect(eio_sid, "/", None)
        self.empty()

    def empty(self) -> int:
        count = 0
        for socket in self.sockets:
            queue = socket.queue
            while not queue.empty():
                queue.get_nowait()
                count += 1
        return count

    async def emit(self, *, events: int, bytes: int, marker: str) -> dict[str, Any]:
        """Send events one after the other, and then a marker."""
        payload = "x" * bytes
        emit = self.server.emit
        cpu = time.process_time()
        first = time.monotonic_ns()
        for _ in range(events):
            await emit("event", payload)
        await emit("marker", marker)
        accepted = time.monotonic_ns()
        if isinstance(self.manager, PostgresManager):
            await self.manager.flush()
        return {
            "first": first,
            "accepted": accepted,
            "cpu": time.process_time() - cpu,
            "batches": (
                self.manager.stats().batches if isinstance(self.manager, PostgresManager) else None
            ),
        }

    async def receive(self, *, marker: str) -> dict[str, Any]:
        """Count what comes to the only client, until the marker does."""
        queue = self.sockets[0].queue
        last = f'{MARKER}"{marker}"]'
        events = 0
        cpu = time.process_time()
        while True:
            while not queue.empty():
                data = queue.get_nowait().data
                if not data.startswith(MARKER):
                    events += 1
                elif data == last:
                    now = time.monotonic_ns()
                    return {"last": now, "events": events, "cpu": time.process_time() - cpu}
            await anyio.sleep(POLL)

    async def deliver(self, *, emits: int, bytes: int) -> dict[str, Any]:
        """Send events to all clients of this process."""
        payload = "x" * bytes
        emit = self.server.emit
        seconds = 0.0
        while emits > 0:
            now = min(emits, EMITS_AT_ONCE)
            started = time.monotonic_ns()
            for _ in range(now):
                await emit("event", payload)
            if isinstance(self.manager, PostgresManager):
                await self.manager.flush()
            seconds += (time.monotonic_ns() - started) / 1e9
            delivered = self.empty()
            if delivered != now * len(self.sockets):
                raise RuntimeError(f"{delivered} deliveries of {now * len(self.sockets)}")
            emits -= now
        return {"seconds": seconds}


async def serve(spec: dict[str, Any]) -> None:
    async with manager_of(spec["manager"], spec["address"]) as manager:
        node = Node(manager)
        await node.connect(spec["clients"])
        commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "emit": node.emit,
            "receive": node.receive,
            "deliver": node.deliver,
        }
        print("{}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            command = json.loads(line)
            answer = await commands[command.pop("do")](**command)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    anyio.run(serve, spec, backend=spec["backend"])
