"""A PostgreSQL that is only in memory, behind a network that does what a test wants."""

from __future__ import annotations

import heapq
import itertools
import random
import re
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
import anyio.lowlevel
import psycopg

from ..cluster_node import ClusterNode
from ..errors import AdapterError
from ..manager import PostgresManager
from ..postgres.connection import CONNECT_TIMEOUT, AnyConnection
from ..postgres.listener import Listener
from ..postgres.log import AT_ONCE, MessageLog, Row
from ..postgres.presence import ABSENT, HOLD, LISTENING, listens_key
from ..postgres.publisher import Publisher

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ..local_side import LocalSide
    from ..options import Options
    from ..protocol.messages import Attached
    from ..protocol.wire import Outgoing

_NAME = re.compile(r'"((?:[^"]|"")*)"')


class Notification(NamedTuple):
    """What libpq hands over for a notification."""

    relname: bytes
    extra: bytes


class SimulatedNetwork:
    """A simulated PostgreSQL, and how the nodes of a :class:`.SimulatedCluster` reach it.

    Its own choices follow from ``seed``; event loops and ids have theirs. A notification takes a time between the two
    of ``delay`` (in seconds) to each node that listens; those of one sender stay in their order,
    those of several may be heard in another order by each. ``drop`` and ``duplicate`` are the
    chances (0 to 1) that a node does not hear one, or hears it twice; ``unsure`` the chance that
    the session breaks after a batch was committed and before the sender knows. They can be set
    at any time; ``dropped``, ``duplicated`` and ``broken`` count how often it has happened.

    Use it with :func:`.virtual_time`: hours then pass in a moment.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.0005, 0.01),
        drop: float = 0.0,
        duplicate: float = 0.0,
        unsure: float = 0.0,
    ):
        self.delay = delay
        self.drop = drop
        self.duplicate = duplicate
        self.unsure = unsure
        self.dropped = 0
        self.duplicated = 0
        self.broken = 0
        self._random = random.Random(seed)
        self._sessions: dict[str, list[_Session]] = {}
        self._cut: set[str] = set()
        self._silent: set[str] = set()
        self._attachments: dict[int, bytes] = {}
        self._log: dict[tuple[str, str], dict[int, Row]] = {}
        self._numbers = itertools.count(1)
        self._flying: list[tuple[float, int, _Session, Notification]] = []
        self._last: dict[tuple[str, int], float] = {}
        self._mended = anyio.Event()
        self._launched = anyio.Event()
        self._landed = anyio.Event()

    def manager(self, node: str, **options: Any) -> PostgresManager:
        """Make the manager of a node."""
        return _Manager(self, node, options)

    def cut(self, node: str) -> None:
        """End a node's sessions, and refuse it new ones."""
        self._cut.add(node)
        for session in self._sessions.pop(node, []):
            session.end()

    def silence(self, node: str) -> None:
        """Let nothing through to a node, nor from it; nobody is told, as when a cable is cut."""
        self._silent.add(node)

    def mend(self, node: str) -> None:
        """Let a node connect again; the sessions of one that was silent have ended meanwhile."""
        self._cut.discard(node)
        if node in self._silent:
            self._silent.discard(node)
            for session in self._sessions.pop(node, []):
                session.end()
            self._mended.set()
            self._mended = anyio.Event()

    def is_cut(self, node: str) -> bool:
        """Tell whether a node is kept from PostgreSQL."""
        return node in self._cut or node in self._silent

    def forget_attachments(self) -> None:
        """Empty the attachments table."""
        self._attachments.clear()

    async def settled(self) -> None:
        """Return when nothing is on its way any more."""
        while self._flying:
            await self._landed.wait()

    async def serve(self, task_group: TaskGroup) -> None:
        """Start to deliver notifications."""
        task_group.start_soon(self._deliver)

    async def _deliver(self) -> None:
        while True:
            while self._flying:
                wait = self._flying[0][0] - anyio.current_time()
                if wait > 0:
                    self._launched = anyio.Event()
                    with anyio.move_on_after(wait):
                        await self._launched.wait()
                    continue
                *_, session, notification = heapq.heappop(self._flying)
                session.hear(notification)
            self._landed.set()
            self._landed = anyio.Event()
            self._launched = anyio.Event()
            await self._launched.wait()

    def open(self, node: str) -> _Session:
        """Open a session.

        :raises AdapterError: the node is cut off.
        """
        if node in self._cut:
            raise AdapterError(f"{node} is cut off")
        session = _Session(self, node, next(self._numbers))
        self._sessions.setdefault(node, []).append(session)
        return session

    def publish(self, node: str, batch: list[Outgoing], sender: str | None) -> None:
        """Commit a batch."""
        seen: set[tuple[str, bytes]] = set()
        for message in batch:
            if sender is not None and message.seq is not None:
                kept = self._log.setdefault((message.channel, sender), {})
                if message.seq in kept:
                    continue
                head = message.head if message.body is None else message.head + b"1" + message.tail
                kept[message.seq] = Row(message.seq, head, message.body)
            payload = message.head
            if message.body is not None:
                number = next(self._numbers)
                self._attachments[number] = message.body
                payload += b"%d" % number + message.tail
            for part in (payload, *message.more):
                if (message.channel, part) not in seen:
                    seen.add((message.channel, part))
                    self._notify(node, message.channel, part)
        self._launched.set()

    def _notify(self, node: str, channel: str, payload: bytes) -> None:
        notification = Notification(channel.encode(), payload)
        for sessions in self._sessions.values():
            for session in sessions:
                if channel not in session.channels:
                    continue
                copies = 1
                if self._random.random() < self.drop:
                    self.dropped += 1
                    copies = 0
                elif self._random.random() < self.duplicate:
                    self.duplicated += 1
                    copies = 2
                key = (node, session.pid)
                for _ in range(copies):
                    at = anyio.current_time() + self._random.uniform(*self.delay)
                    at = self._last[key] = max(at, self._last.get(key, 0.0))
                    heapq.heappush(self._flying, (at, next(self._numbers), session, notification))

    async def pause(self, node: str) -> None:
        """Let the time pass that a statement takes; nothing comes back while a node is silent."""
        await anyio.sleep(self._random.uniform(*self.delay))
        while node in self._silent:
            await self._mended.wait()

    def breaks(self) -> bool:
        """Tell whether a session breaks now, by chance."""
        broken = self._random.random() < self.unsure
        self.broken += broken
        return broken

    def held(self) -> set[int]:
        """Return the keys of the advisory locks that are held."""
        return {key for group in self._sessions.values() for s in group for key in s.locks}


class _Cursor(NamedTuple):
    rows: list[Any]

    async def fetchall(self) -> list[Any]:
        return self.rows

    async def fetchone(self) -> Any:
        return self.rows[0]


class _Session:
    """As much of a psycopg connection as the adapter uses."""

    def __init__(self, network: SimulatedNetwork, node: str, pid: int):
        self.network = network
        self.node = node
        self.pid = pid
        self.channels: set[str] = set()
        self.locks: set[int] = set()
        self.closed = False
        self.pgconn = self
        self.notify_handler: Callable[[Any], None] | None = None
        self._heard: deque[Notification] = deque()
        self._broken = False
        # something to wait for, as for libpq's socket
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)

    @property
    def socket(self) -> int:
        return self._ours.fileno()

    def hear(self, notification: Notification) -> None:
        if not self.closed and not self._broken and self.node not in self.network._silent:
            self._heard.append(notification)
            self._theirs.send(b"\0")

    def end(self) -> None:
        """End the session from the server's side."""
        if not self.closed and not self._broken:
            self._broken = True
            self.channels.clear()
            self.locks.clear()
            self._theirs.send(b"\0")

    def notifies(self) -> Notification | None:
        return self._heard.popleft() if self._heard else None

    def consume_input(self) -> None:
        try:
            while self._ours.recv(4_096):
                pass
        except BlockingIOError:
            pass
        self._check()

    def _check(self) -> None:
        if self._broken or self.closed:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.channels.clear()
        self.locks.clear()
        sessions = self.network._sessions.get(self.node, [])
        if self in sessions:
            sessions.remove(self)
        self._ours.close()
        self._theirs.close()

    def add_notice_handler(self, handler: Callable[[Any], None]) -> None:
        """Take note of nothing: there are no notices."""

    async def execute(self, query: bytes, parameters: Any = None, **_: Any) -> _Cursor:
        await self.network.pause(self.node)
        self._check()
        if query == HOLD:
            self.locks.update(parameters[0])
            return _Cursor([(True,) for _ in parameters[0]])
        if query == ABSENT:
            held = self.network.held()
            return _Cursor([(key,) for key in parameters[0] if key not in held])
        if query == LISTENING:
            held = self.network.held()
            listens = {key: listens_key(parameters[0], key) for key in held}
            return _Cursor([(key,) for key in held if listens[key] in held - {key}])
        raise psycopg.ProgrammingError(f"the simulated PostgreSQL does not know {query!r}")

    async def publish(self, batch: list[Outgoing], sender: str | None) -> None:
        await self.network.pause(self.node)
        self._check()
        self.network.publish(self.node, batch, sender)
        if self.network.breaks():
            self.end()
        self._check()

    async def listen(self, query: str, parameters: list[Any] | None) -> list[Any]:
        await self.network.pause(self.node)
        self._check()
        if parameters is not None:
            found = self.network._attachments
            return [(n, found[n]) for n in parameters[0] if n in found]
        for statement in query.split(";"):
            name = _NAME.search(statement)
            assert name is not None, statement
            channel = name[1].replace('""', '"')
            if statement.startswith("UNLISTEN"):
                self.channels.discard(channel)
            else:
                self.channels.add(channel)
        return []


def _session(connection: AnyConnection) -> _Session:
    return cast("_Session", connection)


class _Publisher(Publisher):
    def _send_ahead(self, message: Outgoing) -> bool:
        # there is no libpq
        return False

    async def _commit(self, connection: AnyConnection, batch: list[Outgoing]) -> None:
        await _session(connection).publish(batch, None if self._log is None else self._log.sender)


class _Listener(Listener):
    async def _fetch_all(
        self, connection: AnyConnection, query: str, parameters: list[Any] | None
    ) -> list[Any]:
        return await _session(connection).listen(query, parameters)


class _Log(MessageLog):
    async def senders(self, connection: AnyConnection, channel: str) -> dict[str, int]:
        network = _session(connection).network
        await network.pause(_session(connection).node)
        return {
            sender: max(rows)
            for (name, sender), rows in network._log.items()
            if name == channel and rows
        }

    async def clock(self, connection: AnyConnection) -> float:
        await _session(connection).network.pause(_session(connection).node)
        return anyio.current_time()

    async def before(
        self, connection: AnyConnection, channel: str, sender: str, until: float | None = None
    ) -> int:
        network = _session(connection).network
        await network.pause(_session(connection).node)
        rows = network._log.get((channel, sender), {})
        return (min(rows) - 1 if until is None else max(rows)) if rows else 0

    async def rows(
        self, connection: AnyConnection, channel: str, sender: str, after: int
    ) -> list[Row]:
        network = _session(connection).network
        await network.pause(_session(connection).node)
        rows = network._log.get((channel, sender), {})
        return [rows[seq] for seq in sorted(rows) if seq > after][:AT_ONCE]

    async def body(self, connection: AnyConnection, message: Attached) -> bytes | None:
        network = _session(connection).network
        await network.pause(_session(connection).node)
        key = (self.channel(message.namespace), message.origin or message.sender)
        row = network._log.get(key, {}).get(message.seq or 0)
        return None if row is None else row.body


class _Node(ClusterNode):
    _publisher_type = _Publisher
    _listener_type = _Listener
    _log_type = _Log

    def __init__(self, options: Options, local: LocalSide, network: SimulatedNetwork, name: str):
        self.network = network
        self.name = name
        super().__init__(options, local)

    async def _open_session(self, *, listening: bool) -> AnyConnection:
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await self.network.pause(self.name)
        except TimeoutError:
            raise AdapterError("connection timeout expired") from None
        return cast("AnyConnection", self.network.open(self.name))

    async def _prepare(self, connection: AnyConnection) -> None:
        await anyio.lowlevel.checkpoint()

    def _start_tasks(self) -> None:
        """Clean nothing up: the tables end with the network."""


class _Manager(PostgresManager):
    def __init__(self, network: SimulatedNetwork, name: str, options: dict[str, Any]):
        super().__init__(**options)
        self._network = network
        self._name = name

    def _make_node(self) -> ClusterNode:
        return _Node(self._options, self, self._network, self._name)
