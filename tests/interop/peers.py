"""Servers in processes of their own, and their clients: what the clusters of both wires share."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.abc

from harness import eventually
from interop.clients import TIMEOUT, Agent, JavaScriptClient, pack, unpack
from processes import NodeProcess, RealClient, RemoteError, RemoteNode


class PythonPeer:
    """A stock server or an AnyIOServer."""

    def __init__(self, process: NodeProcess, control: RealClient, stack: AsyncExitStack):
        self.process = process
        self.name = process.name
        self.url = process.url
        self.remote = RemoteNode(process, control, stack)
        self.manager = self.remote.manager
        self.server = self.remote.server
        self.hooks = self.remote.hooks

    async def emit(self, event: str, *args: Any, **where: Any) -> None:
        """Return when it is committed."""
        await self.hooks("spread", "emit", event, *args, **where)
        await self.manager("flush")

    async def join(self, sid: str, room: Any, namespace: str = "/") -> None:
        """Let a client of this server enter a room."""
        await self.server("enter_room", sid, room, namespace=namespace)

    async def leave(self) -> None:
        """End it as programs do."""
        self.signal(signal.SIGTERM)
        assert await self.process.wait_ended(TIMEOUT) == 0, self.process.log

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)


class NodePeer:
    """A Node server, which says its port when it listens."""

    url: str

    def __init__(self, name: str, process: anyio.abc.Process):
        self.name = name
        self.process = process
        self.agent = Agent(process, self._report)
        self.started = anyio.Event()

    def _report(self, message: dict[str, Any]) -> None:
        self.url = f"http://127.0.0.1:{message['port']}"
        self.started.set()

    async def run(self, op: str, **command: Any) -> Any:
        answer = await self.agent.ask({"op": op, **pack(command)})
        if "error" in answer:
            raise RemoteError("Error", answer["error"], unpack(answer["partial"]), None)
        return unpack(answer["value"])

    async def emit(self, event: str, *args: Any, **where: Any) -> None:
        """Return when it is committed."""
        await self.run("emit", args=[event, *args], **where)

    async def join(self, sid: str, room: Any, namespace: str = "/") -> None:
        """Let a client of this server enter a room."""
        await self.run("join", sid=sid, room=room, namespace=namespace)

    async def leave(self) -> None:
        """End it as programs do."""
        await self.run("leave")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


P = TypeVar("P", bound=PythonPeer)
N = TypeVar("N", bound=NodePeer)


@asynccontextmanager
async def node_peer(
    make: Callable[[str, anyio.abc.Process], N],
    command: Sequence[str],
    cwd: Path,
    options: dict[str, Any],
) -> AsyncIterator[N]:
    """Run a Node server, which must have nothing to complain of."""
    with tempfile.TemporaryFile() as complaints:
        async with (
            await anyio.open_process(
                ["node", *command],
                cwd=cwd,
                env={**os.environ, "NODE_SERVER": json.dumps(options)},
                stdin=PIPE,
                stdout=PIPE,
                stderr=complaints,
            ) as process,
            anyio.create_task_group() as tasks,
        ):
            server = make(options["name"], process)
            tasks.start_soon(server.agent.read)
            try:
                with anyio.fail_after(TIMEOUT):
                    await server.started.wait()
                yield server
            except BaseException:
                # it may have been stopped, and would not see its stdin end
                if process.returncode is None:
                    process.kill()
                raise
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.fail_after(TIMEOUT):
                await process.wait()
        complaints.seek(0)
        assert complaints.read().decode() == ""


@asynccontextmanager
async def python_peer(
    make: Callable[[NodeProcess, RealClient, AsyncExitStack], P],
    uri: str,
    style: str,
    name: str,
    **options: Any,
) -> AsyncIterator[P]:
    """Run a Python server, which must have nothing to complain of."""
    process = NodeProcess(style, uri, name, requests_timeout=TIMEOUT, **options)
    try:
        await anyio.to_thread.run_sync(process.wait_started)
        async with AsyncExitStack() as stack:
            control = RealClient()
            stack.push_async_callback(control.leave)
            await control.client.connect(
                process.url, transports=["websocket"], namespaces=["/control"], wait_timeout=TIMEOUT
            )
            yield make(process, control, stack)
        if process.process.poll() is None:
            log = await anyio.to_thread.run_sync(process.stop)
            for word in ("Traceback", "ERROR", "Warning", "lost", "never awaited"):
                assert word not in log, log
    finally:
        process.end()


def unordered(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=str)


class Located(Protocol):
    """A server, of any kind, that clients connect to."""

    url: str


S = TypeVar("S", bound=Located)


@dataclass
class Client(Generic[S]):
    """A client of a server: python-socketio's, or an official one."""

    server: S
    raw: RealClient | JavaScriptClient
    sids: dict[str, str] = field(default_factory=dict)

    @property
    def sid(self) -> str:
        return self.sids["/"]

    @property
    def official(self) -> bool:
        return isinstance(self.raw, JavaScriptClient)

    def events(self, namespace: str = "/") -> list[list[Any]]:
        """All events so far, each ``[event, *args]``."""
        if isinstance(self.raw, JavaScriptClient):
            return self.raw.seen(namespace).events
        return self.raw.events(namespace)

    def gone(self, namespace: str = "/") -> bool:
        """Whether the server has disconnected it."""
        if isinstance(self.raw, JavaScriptClient):
            return bool(self.raw.seen(namespace).disconnects)
        # python-socketio's does not forget its namespaces when the connection ends
        return not (self.raw.in_namespace(namespace) and self.raw.connected)

    async def has(
        self, events: Iterable[list[Any]], namespace: str = "/", *, ordered: bool = True
    ) -> None:
        """Wait until exactly these events have come, in this order if need be."""
        wanted = list(events)
        await eventually(lambda: len(self.events(namespace)) >= len(wanted), 30)
        if ordered:
            assert self.events(namespace) == wanted
        else:
            assert unordered(self.events(namespace)) == unordered(wanted)

    async def open(
        self,
        namespaces: Sequence[str],
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        auth: Any = None,
    ) -> None:
        """Connect, and wait until every namespace is."""
        if isinstance(self.raw, JavaScriptClient):
            await self.raw.open(self.server.url, headers=headers, auth=auth, namespaces=namespaces)
            for namespace in namespaces:
                self.sids[namespace] = await self.raw.connected(namespace)
            return
        await self.raw.client.connect(
            self.server.url + query,
            headers=headers or {},
            auth=auth,
            transports=["websocket"],
            namespaces=list(namespaces),
            wait_timeout=TIMEOUT,
        )
        self.sids.update(self.raw.client.namespaces)
