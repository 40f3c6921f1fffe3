"""Nodes in processes of their own, and real Socket.IO clients of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import socketio
from engineio.payload import Payload
from psycopg.conninfo import make_conninfo

# python-socketio's client gives up a poll that brings more packets than this (16)
Payload.max_decode_packets = 1_000

TESTS = Path(__file__).parent
APPS = TESTS / "apps"
STYLES = {
    "block": [sys.executable, str(APPS / "stock_node.py")],
    "lifespan": [
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(APPS), "stock_node:app"),
        *("--port", "0", "--timeout-graceful-shutdown", "2"),
    ],
    "asyncio": [sys.executable, str(APPS / "anyio_node.py"), "uvicorn", "asyncio"],
    "trio": [sys.executable, str(APPS / "anyio_node.py"), "hypercorn", "trio"],
    "bare-asyncio": [sys.executable, str(APPS / "bare_node.py"), "asyncio"],
    "bare-trio": [sys.executable, str(APPS / "bare_node.py"), "trio"],
}
"""How a node is run: a stock server, with the adapter's block around it or in its lifespan, or an
AnyIOServer, on either event loop; or without a web server, with clients in memory."""


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 20) -> Any:
    """Return the condition's value as soon as it is true."""
    with anyio.move_on_after(timeout):
        while not (value := await condition()):
            await anyio.sleep(0.01)
        return value
    raise AssertionError(f"not within {timeout} s: {condition}")


class RemoteError(Exception):
    """A call at a node raised: ``kind`` is the class's name."""

    def __init__(self, kind: str, text: str, partial: Any, missing: Any):
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.partial = partial
        self.missing = missing


class NodeProcess:
    """A node in a process; its PostgreSQL sessions bear its name."""

    def __init__(self, style: str, uri: str, name: str, **options: Any):
        self.style = style
        self.name = name
        self.options = options
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end
        self.process = subprocess.Popen(
            STYLES[style],
            env={
                **os.environ,
                "NODE_URI": make_conninfo(uri, application_name=name),
                "NODE_NAME": name,
                "NODE_OPTIONS": json.dumps(options),
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                "PYTHONWARNINGS": "default",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.url = ""

    @property
    def log(self) -> str:
        """What the process has written so far."""
        return os.pread(self._log.fileno(), 1_000_000, 0).decode()

    def wait_started(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not (found := re.search(r"running on (http://\S+)", self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.url = found[1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait_ended(self, timeout: float) -> int:
        """Return the process's code; the process must end within ``timeout`` seconds."""

        async def ended() -> bool:
            return self.process.poll() is not None

        await until(ended, timeout)
        return int(self.process.wait())

    def end(self) -> None:
        """Make sure that the process is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self) -> str:
        """Stop the node as a supervisor does; return what it has written."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        log = self.log
        self.end()
        return log


def started(uri: str, prefix: str, styles: Iterable[str], **options: Any) -> list[NodeProcess]:
    """Start a cluster: one node of each style."""
    processes = [
        NodeProcess(style, uri, f"{prefix}-{style}", prefix=prefix, **options) for style in styles
    ]
    try:
        for process in processes:
            process.wait_started()
    except BaseException:
        for process in processes:
            process.end()
        raise
    return processes


def stop_in_peace(processes: Iterable[NodeProcess]) -> None:
    """Stop the nodes; they must have had nothing to complain of."""
    for log in [process.stop() for process in processes]:
        for word in ("Traceback", "ERROR", "Warning", "lost", "never awaited"):
            assert word not in log, log


class RealClient:
    """A Socket.IO client over the network, and all that it has received."""

    def __init__(self) -> None:
        # of a response that is an error, python-socketio's client would not let go
        self._http = aiohttp.ClientSession(raise_for_status=True)
        self.client = socketio.AsyncClient(reconnection=False, http_session=self._http)
        self.client.on("*", self._take, namespace="*")
        self.log: list[tuple[str, list[Any]]] = []
        self.answers: dict[str, Any] = {}
        """What the client acknowledges an event with; a tuple is several values."""

    def _take(self, event: str, namespace: str, *args: Any) -> Any:
        self.log.append((namespace, [event, *args]))
        return self.answers.get(event)

    @property
    def sid(self) -> str:
        sid: str = self.client.namespaces["/"]
        return sid

    def in_namespace(self, namespace: str = "/") -> bool:
        """Whether the server still has this client in a namespace."""
        return namespace in self.client.namespaces

    @property
    def connected(self) -> bool:
        """Whether the transport is open."""
        return bool(self.client.eio.state == "connected")

    async def leave(self) -> None:
        """Disconnect."""
        eio = self.client.eio
        if eio.transport() == "polling" and self.connected:
            # of its own, the server would answer the poll that is under way only with the next
            # ping, and the client's writer would wait for something to write
            if self.client.namespaces:
                await self.client.emit("bye", namespace=next(iter(self.client.namespaces)))
            await until(self._closed)
            await eio.queue.put(None)
            await eio.wait()
        await self.client.disconnect()
        await self._http.close()

    async def _closed(self) -> bool:
        return not self.connected

    def events(self, namespace: str = "/") -> list[list[Any]]:
        return [event for name, event in self.log if name == namespace]

    async def has(self, *events: list[Any], namespace: str = "/") -> None:
        """Wait until exactly these events, and no others, have come in this order."""
        wanted = list(events)

        async def there() -> bool:
            return len(self.events(namespace)) >= len(wanted)

        await until(there)
        assert self.events(namespace) == wanted


class RemoteNode:
    """A node as the tests use it: every method of its manager and server, and its clients."""

    def __init__(self, process: NodeProcess, control: RealClient, stack: AsyncExitStack):
        self.process = process
        self._control = control
        self._stack = stack

    @property
    def name(self) -> str:
        return self.process.name

    async def _do(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = await self._control.client.call(
            "do", (path, list(args), kwargs), namespace="/control", timeout=100
        )
        if "error" in answer:
            raise RemoteError(*answer["error"])
        return answer["result"]

    async def manager(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the manager, or read a property."""
        return await self._do(f"manager.{name}", args, kwargs)

    async def server(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the server."""
        return await self._do(f"server.{name}", args, kwargs)

    async def hooks(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call one of the test's own hooks."""
        return await self._do(f"hooks.{name}", args, kwargs)

    async def client(
        self,
        transport: str | None = "websocket",
        *,
        rooms: tuple[str, ...] = (),
        namespaces: tuple[str, ...] = ("/",),
        query: str = "",
        **options: Any,
    ) -> RealClient:
        """Connect a client; ``transport`` None is polling with an upgrade to WebSocket."""
        client = await self._stack.enter_async_context(
            _connected(self.process.url + query, transport, namespaces, **options)
        )
        for room in rooms:
            await self.server("enter_room", client.sid, room)
        return client

    async def is_empty(self) -> bool:
        return not await self.manager("fetch_sockets", local=True) and not await self.manager(
            "fetch_sockets", local=True, namespace="/chat"
        )

    async def knows_others(self, count: int) -> bool:
        stats = await self.manager("stats")
        return bool(stats["nodes"] == count)


@asynccontextmanager
async def _connected(
    url: str, transport: str | None, namespaces: tuple[str, ...], **options: Any
) -> AsyncIterator[RealClient]:
    client = RealClient()
    try:
        await client.client.connect(
            url,
            transports=None if transport is None else [transport],
            namespaces=list(namespaces),
            wait_timeout=20,
            **options,
        )
        yield client
    finally:
        await client.leave()


@asynccontextmanager
async def connected(*processes: NodeProcess, others: int = 1) -> AsyncIterator[list[RemoteNode]]:
    """Yield the nodes once each knows ``others``; at the end they have no clients left."""
    async with AsyncExitStack() as controls:
        nodes: list[RemoteNode] = []
        async with AsyncExitStack() as clients:
            for process in processes:
                control = await controls.enter_async_context(
                    _connected(process.url, "websocket", ("/control",))
                )
                nodes.append(RemoteNode(process, control, clients))
            for node in nodes:
                await until(lambda node=node: node.knows_others(others))
            yield nodes
        for node in nodes:
            if node.process.process.poll() is None:
                await until(node.is_empty)
