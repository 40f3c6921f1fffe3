"""A cluster of Node servers with ``socket.io-adapter-postgres`` 1.x and of ours, and its clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import anyio
import psycopg

from anyio_sio_pg.testing import EmbeddedPostgres
from interop import peers
from interop.clients import HERE, TIMEOUT, JavaScriptClient, Node
from interop.peers import NodePeer, PythonPeer, node_peer, python_peer
from processes import RealClient, until

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


class PythonServer(PythonPeer):
    """A stock server or an AnyIOServer, in a process of its own."""

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

    async def rooms(self, sid: str, namespace: str = "/") -> list[str]:
        """Return the rooms of a client of this server."""
        found = await self.manager("fetch_sockets", to=sid, local=True, namespace=namespace)
        return [room for socket in found for room in socket["rooms"]]

    async def sids(self, namespace: str = "/") -> list[str]:
        """Return the clients of this server."""
        found = await self.manager("fetch_sockets", local=True, namespace=namespace)
        return sorted(socket["id"] for socket in found)


class NodeServer(NodePeer):
    """``legacy/node_server.cjs``, in a process of its own."""

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

    async def rooms(self, sid: str, namespace: str = "/") -> list[str]:
        return sorted(await self.run("rooms", sid=sid, namespace=namespace))

    async def sids(self, namespace: str = "/") -> list[str]:
        return sorted(await self.run("sids", namespace=namespace))

    async def nodes(self, namespace: str = "/") -> int:
        """Return the number of nodes whose answers it would wait for."""
        count: int = await self.run("nodes", namespace=namespace)
        return count


Server = PythonServer | NodeServer
Client: TypeAlias = peers.Client[Server]


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
    # socket.io 2 makes buffers as one no longer does
    command = ["--no-deprecation", "node_server.cjs"]
    async with node_peer(NodeServer, command, HERE / "legacy", options) as server:
        yield server
        if server.process.returncode is None:
            assert await server.run("take_failures") == []


def python_server(
    uri: str, prefix: str, style: str, name: str
) -> AbstractAsyncContextManager[PythonServer]:
    options: dict[str, Any] = {"wire": "legacy", "prefix": prefix, **HEARTBEATS}
    return python_peer(PythonServer, uri, style, name, **options)


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
