"""A cluster of Node servers with ``socket.io-adapter-postgres`` 1.x and of ours, and its clients."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from subprocess import PIPE
from typing import Any

import anyio
import anyio.abc
import psycopg
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_sio_pg.testing import EmbeddedPostgres
from harness import eventually
from interop.clients import HERE, TIMEOUT, Answers, JavaScriptClient, Node, pack, unpack
from processes import NodeProcess, RealClient, RemoteError, RemoteNode, until

LEGACY_CLIENT = "legacy/client.cjs"
HEARTBEATS = {"heartbeat_interval": 1.0, "heartbeat_timeout": 15.0}


@contextmanager
def database(postgres: EmbeddedPostgres, name: str) -> Iterator[str]:
    """A database of its own: all clusters of one share their channel."""
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            # a URL, which is all that Node's pg takes
            yield f"{postgres.uri.removesuffix('/postgres')}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class PythonServer:
    """A stock server or an AnyIOServer, in a process of its own."""

    def __init__(self, process: NodeProcess, control: RealClient, stack: AsyncExitStack):
        self.process = process
        self.name = process.name
        self.url = process.url
        remote = RemoteNode(process, control, stack)
        self.manager = remote.manager
        self.server = remote.server
        self.hooks = remote.hooks

    async def emit(self, event: str, *args: Any, **where: Any) -> None:
        """Return when it is committed."""
        await self.hooks("spread", "emit", event, *args, **where)
        await self.manager("flush")

    async def emit_but(self, sid: str, event: str, *args: Any, **where: Any) -> None:
        """Send to all but one, a client of this server."""
        await self.emit(event, *args, skip_sid=sid, **where)

    async def emit_burst(self, events: Sequence[Sequence[Any]]) -> None:
        await self.hooks("emit_burst", events)

    async def clients(self, rooms: Sequence[str] = (), **where: Any) -> list[str]:
        found: list[str] = await self.manager("clients", list(rooms) or None, **where)
        return found

    async def client_rooms(self, sid: str, **where: Any) -> list[str]:
        rooms: list[str] = await self.manager("client_rooms", sid, **where)
        return rooms

    async def all_rooms(self, **where: Any) -> list[str]:
        rooms: list[str] = await self.manager("all_rooms", **where)
        return rooms

    async def remote_join(self, sid: str, room: str, **where: Any) -> None:
        await self.manager("remote_join", sid, room, **where)

    async def remote_leave(self, sid: str, room: str, **where: Any) -> None:
        await self.manager("remote_leave", sid, room, **where)

    async def remote_disconnect(self, sid: str, close: bool, **where: Any) -> None:
        await self.manager("remote_disconnect", sid, close, **where)

    async def custom_request(self, data: Any, **where: Any) -> list[Any]:
        answers: list[Any] = await self.manager("custom_request", data, **where)
        return answers

    async def take_asked(self) -> list[Any]:
        """Return the data of the custom requests that it has got since the last call."""
        asked: list[Any] = await self.hooks("take", "asked")
        return asked

    async def join(self, sid: str, room: str, namespace: str = "/") -> None:
        """Let a client of this server enter a room."""
        await self.server("enter_room", sid, room, namespace=namespace)

    async def rooms(self, sid: str, namespace: str = "/") -> list[str]:
        """Return the rooms of a client of this server."""
        found = await self.manager("fetch_sockets", to=sid, local=True, namespace=namespace)
        return [room for socket in found for room in socket["rooms"]]

    async def sids(self, namespace: str = "/") -> list[str]:
        """Return the clients of this server."""
        found = await self.manager("fetch_sockets", local=True, namespace=namespace)
        return sorted(socket["id"] for socket in found)

    async def leave(self) -> None:
        """End it as programs do."""
        self.signal(signal.SIGTERM)
        assert await self.process.wait_ended(TIMEOUT) == 0, self.process.log

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)


class NodeServer:
    """``legacy/node_server.cjs``, in a process of its own."""

    url: str

    def __init__(self, name: str, process: anyio.abc.Process):
        self.name = name
        self.process = process
        self._answers = Answers()
        self._writing = anyio.Lock()

    async def read(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Take all that the process says, until it ends."""
        assert self.process.stdout is not None
        lines = BufferedByteReceiveStream(self.process.stdout)
        while True:
            try:
                message = json.loads(await lines.receive_until(b"\n", 64_000_000))
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError):
                return
            if "port" in message:
                self.url = f"http://127.0.0.1:{message['port']}"
                task_status.started()
            else:
                self._answers.take(message["answer"], message)

    async def run(self, op: str, **command: Any) -> Any:
        async def send(number: int) -> None:
            assert self.process.stdin is not None
            line = json.dumps({"id": number, "op": op, **pack(command)}).encode() + b"\n"
            async with self._writing:
                await self.process.stdin.send(line)

        answer = await self._answers.ask(send)
        if "error" in answer:
            raise RemoteError("Error", answer["error"], unpack(answer["partial"]), None)
        return unpack(answer["value"])

    async def emit(self, event: str, *args: Any, **where: Any) -> None:
        await self.run("emit", args=[event, *args], **where)

    async def emit_but(self, sid: str, event: str, *args: Any, **where: Any) -> None:
        await self.run("emit", args=[event, *args], sid=sid, **where)

    async def emit_burst(self, events: Sequence[Sequence[Any]]) -> None:
        await self.run("emit_burst", events=events)

    async def clients(self, rooms: Sequence[str] = (), **where: Any) -> list[str]:
        return sorted(await self.run("clients", rooms=rooms, **where))

    async def client_rooms(self, sid: str, **where: Any) -> list[str]:
        return sorted(await self.run("client_rooms", sid=sid, **where))

    async def all_rooms(self, **where: Any) -> list[str]:
        return sorted(await self.run("all_rooms", **where))

    async def remote_join(self, sid: str, room: str, **where: Any) -> None:
        await self.run("remote_join", sid=sid, room=room, **where)

    async def remote_leave(self, sid: str, room: str, **where: Any) -> None:
        await self.run("remote_leave", sid=sid, room=room, **where)

    async def remote_disconnect(self, sid: str, close: bool, **where: Any) -> None:
        await self.run("remote_disconnect", sid=sid, close=close, **where)

    async def custom_request(self, data: Any, **where: Any) -> list[Any]:
        answers: list[Any] = await self.run("custom_request", data=data, **where)
        return answers

    async def take_asked(self) -> list[Any]:
        asked: list[Any] = await self.run("take_asked")
        return asked

    async def join(self, sid: str, room: str, namespace: str = "/") -> None:
        await self.run("join", sid=sid, room=room, namespace=namespace)

    async def rooms(self, sid: str, namespace: str = "/") -> list[str]:
        return sorted(await self.run("rooms", sid=sid, namespace=namespace))

    async def sids(self, namespace: str = "/") -> list[str]:
        return sorted(await self.run("sids", namespace=namespace))

    async def nodes(self, namespace: str = "/") -> int:
        """Return the number of nodes whose answers it would wait for."""
        count: int = await self.run("nodes", namespace=namespace)
        return count

    async def leave(self) -> None:
        await self.run("leave")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


Server = PythonServer | NodeServer


@asynccontextmanager
async def node_server(
    uri: str,
    prefix: str,
    name: str,
    namespaces: Sequence[str] = ("/",),
    requests_timeout: float = TIMEOUT,
) -> AsyncIterator[NodeServer]:
    """Run one. It is counted in the last of its namespaces only, as the package has it."""
    options = {
        "uri": uri,
        "name": name,
        "prefix": prefix,
        "namespaces": namespaces,
        "requestsTimeout": requests_timeout * 1_000,
    }
    with tempfile.TemporaryFile() as complaints:
        async with (
            await anyio.open_process(
                # socket.io 2 makes buffers as one no longer does
                ["node", "--no-deprecation", "node_server.cjs"],
                cwd=HERE / "legacy",
                env={**os.environ, "NODE_SERVER": json.dumps(options)},
                stdin=PIPE,
                stdout=PIPE,
                stderr=complaints,
            ) as process,
            anyio.create_task_group() as tasks,
        ):
            server = NodeServer(name, process)
            with anyio.fail_after(TIMEOUT):
                await tasks.start(server.read)
            try:
                yield server
            except BaseException:
                # it may have been stopped, and would not see its stdin end
                if process.returncode is None:
                    process.kill()
                raise
            if process.returncode is None:
                assert await server.run("take_failures") == []
            assert process.stdin is not None
            await process.stdin.aclose()
            with anyio.fail_after(TIMEOUT):
                await process.wait()
        complaints.seek(0)
        assert complaints.read().decode() == ""


@asynccontextmanager
async def python_server(
    uri: str, prefix: str, style: str, name: str
) -> AsyncIterator[PythonServer]:
    process = NodeProcess(
        style,
        uri,
        name,
        wire="legacy",
        prefix=prefix,
        requests_timeout=TIMEOUT,
        **HEARTBEATS,
    )
    try:
        await anyio.to_thread.run_sync(process.wait_started)
        async with AsyncExitStack() as stack:
            control = RealClient()
            stack.push_async_callback(control.leave)
            await control.client.connect(
                process.url, transports=["websocket"], namespaces=["/control"], wait_timeout=TIMEOUT
            )
            yield PythonServer(process, control, stack)
        if process.process.poll() is None:
            log = await anyio.to_thread.run_sync(process.stop)
            for word in ("Traceback", "ERROR", "Warning", "lost", "never awaited"):
                assert word not in log, log
    finally:
        process.end()


def unordered(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=str)


@dataclass
class Client:
    """A client of a server: python-socketio's, or the official one of either version."""

    server: Server
    raw: RealClient | JavaScriptClient
    sids: dict[str, str] = field(default_factory=dict)

    @property
    def sid(self) -> str:
        return self.sids["/"]

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

    async def open(self, namespaces: Sequence[str]) -> None:
        if isinstance(self.raw, JavaScriptClient):
            await self.raw.open(self.server.url, namespaces=namespaces)
            for namespace in namespaces:
                self.sids[namespace] = await self.raw.connected(namespace)
            return
        await self.raw.client.connect(
            self.server.url,
            transports=["websocket"],
            namespaces=list(namespaces),
            wait_timeout=TIMEOUT,
        )
        self.sids.update(self.raw.client.namespaces)


@dataclass
class Cluster:
    """The servers, and what runs the official clients.

    ``counted`` is the namespace in which its Node servers count: the last one that they have.
    """

    uri: str
    prefix: str
    servers: dict[str, Server]
    javascript: Node
    legacy_javascript: Node
    counted: str = "/"

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def node(self, name: str = "node") -> NodeServer:
        server = self.servers[name]
        assert isinstance(server, NodeServer)
        return server

    def ours(self, name: str) -> PythonServer:
        server = self.servers[name]
        assert isinstance(server, PythonServer)
        return server

    def _raw(self, server: Server, official: bool) -> RealClient | JavaScriptClient:
        # python-socketio's client does not speak the protocol of Socket.IO 2
        if isinstance(server, NodeServer):
            return self.legacy_javascript.client("websocket")
        return self.javascript.client("websocket") if official else RealClient()

    @asynccontextmanager
    async def clients(
        self, *namespaces: str, servers: Iterable[Server] = ()
    ) -> AsyncIterator[list[Client]]:
        """Two clients of each server: one of each, then another of each."""
        wanted = namespaces or ("/",)
        of = [*(servers or self.servers.values())]
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            async with anyio.create_task_group() as tasks:
                for official in (False, True):
                    for server in of:
                        raw = self._raw(server, official)
                        stack.push_async_callback(
                            raw.leave if isinstance(raw, RealClient) else raw.close
                        )
                        clients.append(Client(server, raw))
                        tasks.start_soon(clients[-1].open, wanted)
            yield clients
        for server in self.servers.values():
            if server in of:
                await until(partial(_is_empty, server))

    @asynccontextmanager
    async def joined(self, style: str) -> AsyncIterator[Server]:
        """One more server, which may end as it likes."""
        if style == "node":
            another = node_server(self.uri, self.prefix, "another")
        else:
            another = python_server(self.uri, self.prefix, style, "another")
        async with another as server:
            await until(lambda: self.acquainted(len(self.servers) + 1))
            yield server
        await until(lambda: self.acquainted(len(self.servers)))

    async def acquainted(self, count: int) -> bool:
        """Tell whether each server waits for the answers of so many."""
        for server in self.servers.values():
            if isinstance(server, NodeServer) and await server.nodes(self.counted) != count:
                return False
            if len(await server.custom_request("who", namespace=self.counted)) != count:
                return False
        return True

    async def check(self) -> None:
        """Check that our servers have missed nothing."""
        for server in self.servers.values():
            if isinstance(server, PythonServer):
                stats = await server.manager("stats")
                faults = ("lost", "garbage", "repeated", "dropped", "reconnects")
                assert {fault: stats[fault] for fault in faults} == dict.fromkeys(faults, 0)


async def _is_empty(server: Server) -> bool:
    return not await server.sids()


def sids(clients: Iterable[Client], namespace: str = "/") -> list[str]:
    return sorted(client.sids[namespace] for client in clients)
