"""One process of a benchmark: a Socket.IO server behind an ASGI server, for clients on a network.

It is started by websocket_clients.py, with what it is to be as JSON in its argument; it prints its
port, takes commands as node.py does, and ends with its input.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import psutil
import socketio

from anyio_sio_pg import AnyIOServer

# no ping comes between the events
OPTIONS: dict[str, Any] = {"ping_interval": 3_600, "cors_allowed_origins": "*"}


@asynccontextmanager
async def server_of(kind: str) -> AsyncIterator[Any]:
    if kind == "stock":
        yield socketio.AsyncServer(async_mode="asgi", **OPTIONS)
    else:
        async with AnyIOServer(**OPTIONS) as server:
            yield server


async def uvicorn(app: Any, listener: socket.socket, stop: anyio.Event) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="error", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.serve, sockets=[listener]))
        await stop.wait()
        server.should_exit = True


async def hypercorn(
    app: Any, listener: socket.socket, stop: anyio.Event, *, backend: str, package: str
) -> None:
    if package == "anycorn":
        from anycorn import Config, serve
    elif backend == "trio":
        from hypercorn.config import Config
        from hypercorn.trio import serve
    else:
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    await serve(app, config, shutdown_trigger=stop.wait)


class Node:
    """The commands."""

    def __init__(self, server: Any):
        self.server = server
        self.process = psutil.Process()

    async def memory(self) -> dict[str, Any]:
        gc.collect()
        return {"rss": self.process.memory_info().rss}

    async def connected(self) -> dict[str, Any]:
        rooms = self.server.manager.rooms.get("/", {})
        return {"clients": len(rooms.get(None, ()))}

    async def deliver(self, *, emits: int, bytes: int) -> dict[str, Any]:
        payload = "x" * bytes
        cpu = time.process_time()
        for _ in range(emits):
            await self.server.emit("event", payload)
        return {"cpu": cpu}

    async def cpu(self) -> dict[str, Any]:
        return {"cpu": time.process_time()}


async def serve(spec: dict[str, Any]) -> None:
    run: Callable[..., Awaitable[None]] = uvicorn
    if spec["asgi"] != "uvicorn":
        run = partial(hypercorn, backend=spec["backend"], package=spec["asgi"])
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1_000)
    port = listener.getsockname()[1]
    async with server_of(spec["server"]) as server, anyio.create_task_group() as tasks:
        node = Node(server)
        stop = anyio.Event()
        tasks.start_soon(run, socketio.ASGIApp(server), listener, stop)
        print(json.dumps({"port": port}), flush=True)
        async for line in anyio.wrap_file(sys.stdin):
            command = json.loads(line)
            answer = await getattr(node, command.pop("do"))(**command)
            print(json.dumps(answer), flush=True)
        stop.set()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    anyio.run(serve, spec, backend=spec["backend"])
