"""One process of a benchmark: a Socket.IO server with clients but no network.

It is started by the scripts beside it, with what it is to be as JSON in its argument. It then takes
commands, one JSON object a line, and answers each with a line; it ends with its input.
"""

from __future__ import annotations

import json
import socket as network
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

SPEC: dict[str, Any] = json.loads(sys.argv[1])
if SPEC["manager"] == "redis":
    # as it is after `pip install redis`: where hiredis is there, redis-py takes it
    sys.modules["hiredis"] = None  # type: ignore[assignment]

import anyio
import socketio
from engineio.async_socket import AsyncSocket

from anyio_sio_pg import AnyIOManager, PostgresManager

POLL = 0.005
"""Seconds between two looks at the queue of a client that receives."""

QUEUED = 100_000
"""Deliveries before the clients' queues are emptied, which is not timed."""

EMITS_AT_ONCE = 1_000
"""Emits before that at most."""

EVENT = '2["event","'
STAMP = 19
"""Digits of a time in nanoseconds."""


@asynccontextmanager
async def manager_of(
    kind: str, address: str | None, options: dict[str, Any] | None = None
) -> AsyncIterator[Any]:
    if kind == "postgres":
        async with PostgresManager(address, **(options or {})) as manager:
            yield manager
    elif kind == "logged":
        async with PostgresManager(address, durable=True) as manager:
            yield manager
    elif kind == "unlogged":
        async with PostgresManager(
            address, durable="unlogged", log_table="socket_io_unlogged_log"
        ) as manager:
            yield manager
    elif kind in ("redis", "hiredis"):
        yield socketio.AsyncRedisManager(address)
    elif kind == "pg-manager":
        from socketio_pg_manager import AsyncPgManager

        yield AsyncPgManager(address)
    else:
        yield {"stock": socketio.AsyncManager, "anyio": AnyIOManager}[kind]()


class Node:
    """A server and its clients: Engine.IO sockets that nobody reads but this process."""

    def __init__(self, manager: Any):
        self.manager = manager
        self.server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
        self.sockets: list[AsyncSocket] = []

    async def connect(self, clients: int) -> None:
        """Connect as many clients as are missing."""
        await self.server._handle_eio_connect("nobody", {})
        for number in range(len(self.sockets), clients):
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

    async def emit(
        self, *, name: str, events: int, bytes: int, binary: bool = False
    ) -> dict[str, Any]:
        """Send events to everyone, one after the other."""
        payload: Any = b"x" * bytes if binary else "x" * bytes
        emit = self.server.emit
        first = time.monotonic_ns()
        for _ in range(events):
            await emit(name, payload)
        accepted = time.monotonic_ns()
        if isinstance(self.manager, PostgresManager):
            await self.manager.flush()
        return {"first": first, "accepted": accepted}

    async def receive(self, *, name: str, events: int, quiet: float) -> dict[str, Any]:
        """Count the events of a name that come to the first client.

        It ends when there are as many as expected, or none have come for ``quiet`` seconds.
        """
        queue = self.sockets[0].queue
        text = f'2["{name}",'
        binary = f'51-["{name}",'
        attached = False
        count = seen = 0
        last = time.monotonic_ns()
        until = anyio.current_time() + quiet
        while True:
            while not queue.empty():
                data = queue.get_nowait().data
                if isinstance(data, str):
                    attached = data.startswith(binary)
                    count += data.startswith(text)
                elif attached:
                    attached = False
                    count += 1
            if count > seen:
                seen = count
                last = time.monotonic_ns()
                until = anyio.current_time() + quiet
            if count >= events or anyio.current_time() > until:
                return {"events": count, "last": last}
            await anyio.sleep(POLL)

    async def cpu(self) -> dict[str, Any]:
        """Return the CPU time of this process so far, in seconds."""
        return {"cpu": time.process_time()}

    async def more(self, *, clients: int) -> dict[str, Any]:
        """Connect more clients."""
        await self.connect(clients)
        return {}

    async def join(self, *, room: str, clients: int) -> dict[str, Any]:
        """Let the first clients enter a room; return their ids."""
        sids = []
        for socket in self.sockets[:clients]:
            sid = self.manager.sid_from_eio_sid(socket.sid, "/")
            await self.server.enter_room(sid, room)
            sids.append(sid)
        return {"sids": sids}

    async def deliver(
        self, *, emits: int, bytes: int, room: str | None = None, clients: int | None = None
    ) -> dict[str, Any]:
        """Send events to the clients of this process: all, or those of a room."""
        payload = "x" * bytes
        emit = self.server.emit
        clients = len(self.sockets) if clients is None else clients
        at_once = min(EMITS_AT_ONCE, max(1, QUEUED // clients))
        seconds = 0.0
        while emits > 0:
            now = min(emits, at_once)
            started = time.monotonic_ns()
            for _ in range(now):
                await emit("event", payload, to=room)
            if isinstance(self.manager, PostgresManager):
                await self.manager.flush()
            seconds += (time.monotonic_ns() - started) / 1e9
            delivered = self.empty()
            if delivered != now * clients:
                raise RuntimeError(f"{delivered} deliveries of {now * clients}")
            emits -= now
        return {"seconds": seconds}

    async def paced(
        self, *, events: int, gap: int, bytes: int, start: int, ticks: str
    ) -> dict[str, Any]:
        """Send an event every ``gap`` ns from ``start`` on, or as soon after that as possible.

        Each has the time in it at which it was due. The socket ``ticks`` becomes readable at these
        times, as it does when a client has sent something: an event loop's own clock is too coarse.
        """
        emit = self.server.emit
        cpu = time.process_time()
        with network.socket(network.AF_UNIX) as ticker:
            ticker.connect(ticks)
            ticker.setblocking(False)
            sent = 0
            while True:
                due = min(events, max(0, (time.monotonic_ns() - start) // gap + 1))
                while sent < due:
                    await emit("event", f"{start + sent * gap:x<{bytes}}")
                    sent += 1
                if sent == events:
                    break
                await anyio.wait_readable(ticker)
                ticker.recv(4096)
        return {"cpu": time.process_time() - cpu}

    async def latencies(self, *, events: int) -> dict[str, Any]:
        """Return how late each event of ``paced`` is put into the only client's queue."""
        late: list[int] = []
        done = anyio.Event()
        cpu = time.process_time()
        last = 0

        def put_nowait(packet: Any) -> None:
            nonlocal last
            last = time.monotonic_ns()
            if packet.data.startswith(EVENT):
                late.append(last - int(packet.data[len(EVENT) : len(EVENT) + STAMP]))
                if len(late) == events:
                    done.set()

        # the queue's put calls it as well
        queue = self.sockets[0].queue
        queue.put_nowait = put_nowait
        await done.wait()
        del queue.put_nowait
        return {
            "ms": [round(nanoseconds / 1e6, 4) for nanoseconds in late],
            "last": last,
            "cpu": time.process_time() - cpu,
        }

    async def request(
        self, *, call: str, times: int, argument: str | None = None
    ) -> dict[str, Any]:
        """Ask the cluster again and again."""
        manager = self.manager
        ask: Callable[[], Awaitable[Any]] = {
            "fetch_sockets": lambda: manager.fetch_sockets(to=argument),
            "clients": lambda: manager.clients(argument),
            "client_rooms": lambda: manager.client_rooms(argument),
            "all_rooms": lambda: manager.all_rooms(),
        }[call]
        ms: list[float] = []
        found: Any = ()
        for _ in range(times):
            started = time.monotonic_ns()
            found = await ask()
            ms.append((time.monotonic_ns() - started) / 1e6)
        return {"ms": ms, "found": len(found)}


async def serve(spec: dict[str, Any]) -> None:
    async with manager_of(spec["manager"], spec["address"], spec.get("options")) as manager:
        node = Node(manager)
        await node.connect(spec["clients"])
        commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "emit": node.emit,
            "receive": node.receive,
            "cpu": node.cpu,
            "more": node.more,
            "join": node.join,
            "deliver": node.deliver,
            "paced": node.paced,
            "latencies": node.latencies,
            "request": node.request,
        }
        print("{}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            command = json.loads(line)
            answer = await commands[command.pop("do")](**command)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    anyio.run(serve, SPEC, backend=SPEC["backend"])
