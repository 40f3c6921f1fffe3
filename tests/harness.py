"""Nodes with in-memory clients: a stock server whose sockets nobody reads but the test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import socketio
from engineio.async_socket import AsyncSocket
from socketio import packet as sio_packet

from anyio_sio_pg import PostgresManager

_numbers = itertools.count(1)

FAST: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_timeout": 3.0}
"""Options for tests in which a node has to be found dead or deaf, but not where it is slow."""

PATIENT: dict[str, Any] = {"requests_timeout": 20.0}
"""What a node here has for a default: on a busy machine an answer may take more than a second."""


async def eventually(condition: Callable[[], Any], timeout: float = 20) -> Any:
    """Return the condition's value as soon as it is true."""
    with anyio.move_on_after(timeout):
        while not (value := condition()):
            await anyio.sleep(0.005)
        return value
    raise AssertionError(f"not within {timeout} s: {condition}")


class Stopwatch:
    """The seconds that a block takes, without those for which the event loop stands still.

    What is promised within some time is late by as much as the machine is, when it is busy.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    async def _run(self) -> None:
        last = anyio.current_time()
        while True:
            await anyio.sleep(0.01)
            now = anyio.current_time()
            self.seconds += min(now - last, 0.05)
            last = now


@asynccontextmanager
async def stopwatch() -> AsyncIterator[Stopwatch]:
    made = Stopwatch()
    async with anyio.create_task_group() as tg:
        tg.start_soon(made._run)
        yield made
        tg.cancel_scope.cancel()


class Client:
    """A client whose transport is its queue; it has no task of its own."""

    def __init__(self, server: Any, environ: dict[str, Any] | None = None):
        self.server = server
        self.eio_sid = f"eio{next(_numbers)}"
        self.socket = AsyncSocket(server.eio, self.eio_sid)
        self.socket.last_ping = None
        self.socket.connected = True
        server.eio.sockets[self.eio_sid] = self.socket
        server.environ[self.eio_sid] = environ or {}
        self.sids: dict[str, str] = {}
        self.refused: list[Any] = []
        self.disconnected: list[str] = []
        self.log: list[tuple[str, int | None, list[Any]]] = []
        self._partial: Any = None

    async def connect(self, namespace: str = "/", auth: Any = None) -> str:
        await self.server._handle_connect(self.eio_sid, namespace, auth)
        self.read()
        return self.sids[namespace]

    @property
    def sid(self) -> str:
        return self.sids["/"]

    def read(self) -> None:
        """Take what the server has sent so far."""
        while True:
            try:
                packet = self.socket.queue.get_nowait()
            except asyncio.QueueEmpty:
                return
            self.socket.queue.task_done()
            if packet is None or packet.packet_type != 4:
                continue
            self._take(packet.data)

    def _take(self, data: str | bytes) -> None:
        if self._partial is not None:
            assert isinstance(data, bytes), "an attachment was expected"
            if not self._partial.add_attachment(data):
                return
            packet, self._partial = self._partial, None
        else:
            packet = self.server.packet_class(encoded_packet=data)
            if packet.attachment_count:
                self._partial = packet
                return
        namespace = packet.namespace or "/"
        kind = packet.packet_type
        if kind == sio_packet.CONNECT:
            self.sids[namespace] = packet.data["sid"]
        elif kind == sio_packet.CONNECT_ERROR:
            self.refused.append(packet.data)
        elif kind == sio_packet.DISCONNECT:
            self.disconnected.append(namespace)
        else:
            assert kind in (sio_packet.EVENT, sio_packet.BINARY_EVENT)
            self.log.append((namespace, packet.id, packet.data))

    def events(self, namespace: str = "/") -> list[list[Any]]:
        """All events so far, each ``[event, *args]``."""
        self.read()
        return [data for name, _, data in self.log if name == namespace]

    async def expect(self, *events: list[Any], namespace: str = "/") -> None:
        """Wait until exactly these events, and no others, have come in this order."""
        wanted = list(events)
        await eventually(lambda: len(self.events(namespace)) >= len(wanted))
        assert self.events(namespace) == wanted

    async def answer(self, *args: Any, namespace: str = "/") -> None:
        """Acknowledge the oldest event that asks for it, once it is there."""

        def asked() -> int | None:
            self.read()
            for index, (name, ack_id, data) in enumerate(self.log):
                if name == namespace and ack_id is not None:
                    self.log[index] = (name, None, data)
                    return ack_id
            return None

        ack_id = await eventually(asked)
        await self.server._handle_ack(self.eio_sid, namespace, ack_id, list(args))

    async def leave(self, namespace: str = "/") -> None:
        await self.server._handle_disconnect(self.eio_sid, namespace, "client disconnect")


class TestNode:
    """A manager with a stock server, and clients of it."""

    __test__ = False

    def __init__(self, manager: PostgresManager, **server_options: Any):
        self.manager = manager
        self.server = socketio.AsyncServer(
            async_mode="asgi",
            client_manager=manager,
            async_handlers=False,
            monitor_clients=False,
            **{"namespaces": "*", **server_options},
        )

    async def client(
        self, namespace: str = "/", *, rooms: Iterable[str] = (), auth: Any = None, **environ: Any
    ) -> Client:
        client = Client(self.server, environ)
        sid = await client.connect(namespace, auth)
        for room in rooms:
            await self.server.enter_room(sid, room, namespace)
        return client


@asynccontextmanager
async def node(
    uri: str, prefix: str, *, server: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[TestNode]:
    manager = PostgresManager(uri, prefix=prefix, **{**PATIENT, **options})
    made = TestNode(manager, **(server or {}))
    async with made.manager:
        yield made


@asynccontextmanager
async def two_nodes(uri: str, prefix: str, **options: Any) -> AsyncIterator[list[TestNode]]:
    async with node(uri, prefix, **options) as a, node(uri, prefix, **options) as b:
        await acquainted(a, b)
        yield [a, b]


async def acquainted(*nodes: TestNode, namespace: str = "/") -> None:
    """Wait until the nodes have heard one another."""

    def heard(node: TestNode) -> int:
        assert node.manager._node is not None
        known = node.manager._node._namespaces.get(namespace)
        return 0 if known is None else len(known.members)

    await eventually(lambda: all(heard(n) >= len(nodes) - 1 for n in nodes))


def sessions(uri: str, prefix_of_name: str = "anyio-sio-pg") -> list[tuple[int, str]]:
    """The adapter's sessions that PostgreSQL has: pid and application_name."""
    with psycopg.connect(uri, autocommit=True) as connection:
        return connection.execute(
            "SELECT pid, application_name FROM pg_stat_activity"
            " WHERE application_name LIKE %s || '%%' AND pid <> pg_backend_pid()",
            [prefix_of_name],
        ).fetchall()


def terminate(uri: str, *pids: int) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for pid in pids:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
