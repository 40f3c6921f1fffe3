"""One process of a benchmark: a Socket.IO server with clients but no network.

It is started by the scripts beside it, with what it is to be as JSON in its argument. It then takes
commands, one JSON object a line, and answers each with a line; it ends with its input.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import socket as network
import sys
import time
import tracemalloc
import warnings
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

ROOMS = 1_000
"""Rooms that a client is in at a time."""

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

        # its pool says that it should not be opened like this
        warnings.simplefilter("ignore", RuntimeWarning)
        yield AsyncPgManager(address)
        # it cannot be closed, and complains when its task is cancelled
        sys.stdout.flush()
        os._exit(0)
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

    async def expect(self, *, name: str, events: int) -> dict[str, Any]:
        """Count from here on the events of a name that come to the first client."""
        text = f'2["{name}",'
        binary = f'51-["{name}",'
        attached = False
        self.count = 0
        self.last = time.monotonic_ns()
        self.all = anyio.Event()

        def put_nowait(packet: Any) -> None:
            nonlocal attached
            data = packet.data
            if isinstance(data, str):
                attached = data.startswith(binary)
                if not data.startswith(text):
                    return
            elif not attached:
                return
            else:
                attached = False
            self.count += 1
            self.last = time.monotonic_ns()
            if self.count == events:
                self.all.set()

        # The queue's put calls it as well. To look into the queue from time to time instead would
        # take more CPU time than the events do where many nodes share few cores.
        self.sockets[0].queue.put_nowait = put_nowait  # type: ignore[method-assign]
        return {}

    async def receive(self, *, quiet: float) -> dict[str, Any]:
        """Return when as many have come as expected, or none any more for ``quiet`` seconds."""
        seen = -1
        while self.count > seen and not self.all.is_set():
            seen = self.count
            with anyio.move_on_after(quiet):
                await self.all.wait()
        del self.sockets[0].queue.put_nowait
        return {"events": self.count, "last": self.last}

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

    async def paced(self, *, events: int, gap: int, bytes: int, ticks: str) -> dict[str, Any]:
        """Send an event every ``gap`` ns, or as soon after its time as possible.

        Each has the time in it at which it was due. The socket ``ticks`` first says when to start,
        and then becomes readable at these times, as it does when a client has sent something: an
        event loop's own clock is too coarse.
        """
        emit = self.server.emit
        cpu = time.process_time()
        with network.socket(network.AF_UNIX) as ticker:
            ticker.connect(ticks)
            ticker.setblocking(False)
            await anyio.wait_readable(ticker)
            start = int(ticker.recv(STAMP))
            sent = 0
            while True:
                due = min(events, max(0, (time.monotonic_ns() - start) // gap + 1))
                while sent < due:
                    await emit("event", f"{start + sent * gap:0{STAMP}}".ljust(bytes, "x"))
                    sent += 1
                if sent == events:
                    break
                await anyio.wait_readable(ticker)
                ticker.recv(4096)
        return {"cpu": time.process_time() - cpu, "start": start}

    async def watch(self) -> dict[str, Any]:
        """Take the time of each event of ``paced`` that is put into the first client's queue."""
        self.late: list[int] = []
        self.last = 0

        def put_nowait(packet: Any) -> None:
            self.last = time.monotonic_ns()
            if packet.data.startswith(EVENT):
                due = int(packet.data[len(EVENT) : len(EVENT) + STAMP])
                self.late.append(self.last - due)

        # the queue's put calls it as well
        queue: Any = self.sockets[0].queue
        queue.put_nowait = put_nowait
        self.cpu_before = time.process_time()
        return {}

    async def latencies(self, *, events: int, quiet: float) -> dict[str, Any]:
        """Return how late the events came, once all are there or none have come for a while."""
        seen = -1
        until = anyio.current_time() + quiet
        while len(self.late) < events and anyio.current_time() <= until:
            if len(self.late) > seen:
                seen = len(self.late)
                until = anyio.current_time() + quiet
            await anyio.sleep(POLL)
        cpu = time.process_time() - self.cpu_before
        queue: Any = self.sockets[0].queue
        del queue.put_nowait
        return {"ms": [round(late / 1e6, 4) for late in self.late], "last": self.last, "cpu": cpu}

    async def request(
        self, *, call: str, times: int, pause: float, argument: str | None = None
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
            await anyio.sleep(pause)
        return {"ms": ms, "found": len(found)}

    async def own_rooms(self, *, times: int) -> dict[str, Any]:
        """Let a client of this process enter a room and leave it, again and again."""
        server = self.server
        sid = self.manager.sid_from_eio_sid(self.sockets[0].sid, "/")
        names = [f"room{number}" for number in range(times)]
        cpu = time.process_time()
        started = time.monotonic_ns()
        # never more at a time, so that it costs the same however often it is done
        for first in range(0, times, ROOMS):
            for name in names[first : first + ROOMS]:
                await server.enter_room(sid, name)
            for name in names[first : first + ROOMS]:
                await server.leave_room(sid, name)
        return {
            "seconds": (time.monotonic_ns() - started) / 1e9,
            "cpu": time.process_time() - cpu,
        }

    async def others_rooms(
        self, *, sids: list[str], room: str | None, times: int, join: bool
    ) -> dict[str, Any]:
        """Let clients of another process, who share a room, enter rooms or leave them."""
        manager = self.manager
        first = time.monotonic_ns()
        for number in range(times):
            if isinstance(manager, PostgresManager):
                change = manager.sockets_join if join else manager.sockets_leave
                await change(f"room{number}", to=room or sids)
            else:
                change = manager.enter_room if join else manager.leave_room
                for sid in sids:
                    await change(sid, "/", f"room{number}")
        return {"first": first}

    async def until_rooms(self, *, members: int, times: int) -> dict[str, Any]:
        """Wait until each room has so many members, the last one being the last to change."""
        rooms = self.manager.rooms["/"]
        while len(rooms.get(f"room{times - 1}", ())) != members:
            await anyio.sleep(POLL)
        last = time.monotonic_ns()
        if any(len(rooms.get(f"room{number}", ())) != members for number in range(times)):
            raise RuntimeError("a change is missing")
        return {"last": last}

    async def remote_join(self, *, sid: str, times: int, at_once: int) -> dict[str, Any]:
        """Let a client of another process enter rooms, so many at once, each until it has."""
        names = iter([f"room{number}" for number in range(times)])

        async def join() -> None:
            for name in names:
                await self.manager.remote_join(sid, name)

        started = time.monotonic_ns()
        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(join)
        return {"seconds": (time.monotonic_ns() - started) / 1e9}

    async def memory(self, *, count: int) -> dict[str, Any]:
        """Return the bytes that Python holds for a client, a room and a membership more."""
        tracemalloc.start()
        held = [_traced()]
        await self.connect(len(self.sockets) + count)
        held.append(_traced())
        sids = [self.manager.sid_from_eio_sid(s.sid, "/") for s in self.sockets[-count:]]
        for number, sid in enumerate(sids):
            await self.server.enter_room(sid, f"room{number}")
        # the list of their ids is not the manager's
        names = sys.getsizeof(sids)
        held.append(_traced() - names)
        for sid in sids:
            await self.server.enter_room(sid, "everyone")
        held.append(_traced() - names)
        tracemalloc.stop()
        socket, room, membership = (
            (after - before) / count for before, after in itertools.pairwise(held)
        )
        return {"socket": socket, "room": room, "membership": membership}


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def serve(spec: dict[str, Any]) -> None:
    async with manager_of(spec["manager"], spec["address"], spec.get("options")) as manager:
        node = Node(manager)
        await node.connect(spec["clients"])
        commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "emit": node.emit,
            "expect": node.expect,
            "receive": node.receive,
            "cpu": node.cpu,
            "more": node.more,
            "join": node.join,
            "deliver": node.deliver,
            "paced": node.paced,
            "watch": node.watch,
            "latencies": node.latencies,
            "request": node.request,
            "own_rooms": node.own_rooms,
            "others_rooms": node.others_rooms,
            "until_rooms": node.until_rooms,
            "remote_join": node.remote_join,
            "memory": node.memory,
        }
        print("{}", flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            command = json.loads(line)
            answer = await commands[command.pop("do")](**command)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    anyio.run(serve, SPEC, backend=SPEC["backend"])
