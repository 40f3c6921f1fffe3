"""LISTEN, attachments in order, and reconnection."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import anyio
import anyio.lowlevel
import psycopg
from anyio.abc import TaskGroup, TaskStatus
from psycopg import sql

from ..errors import AdapterError, ConnectionLostError
from ..protocol.messages import Attached, Message
from .connection import AnyConnection, AnyIOConnection, backoff, close_session
from .log import MessageLog
from .patience import Patience, SilentError
from .publisher import RETRY_CLASSES, Open, Prepare, Report

logger = logging.getLogger("anyio_sio_pg")

T = TypeVar("T")

_EMITTER = b'{"uid":"emitter",'

_FETCH_AT_ONCE = 32
_FETCH_BYTES = 1 << 20
_FETCH = """\
SELECT id, payload FROM (
  SELECT t.id, t.payload, sum(pg_catalog.octet_length(t.payload)) OVER (ORDER BY wanted.nth)
    - pg_catalog.octet_length(t.payload) AS before
  FROM pg_catalog.unnest(%b::int8[]) WITH ORDINALITY AS wanted(id, nth) JOIN {table} AS t USING (id)
) AS summed WHERE before < {bytes}"""
"""The first in any case, and of those after it what one statement brings within its time."""

_LONGEST_TURN = 0.005
"""Seconds for which messages are delivered before the other tasks get their turn."""

_LONGEST_ANSWER = 4
"""Times ``silence`` that an answer may take while something comes."""

_MARGIN = 0.05
"""Seconds by which a clock here and PostgreSQL's may seem to differ when they are compared."""


class Receiver(Protocol):
    """Who takes what the listener hears."""

    def arrived(self) -> None:
        """Take note that notifications have come, to be decoded next."""

    def decode(self, channel: bytes, payload: bytes) -> Message | None:
        """Decode a notification; None when it is nothing for this node."""

    def wants(self, message: Attached) -> bool:
        """Tell whether an attachment has to be read at all."""
        ...

    def fits(self, message: Attached, body: bytes) -> bool:
        """Tell whether an attachment is the message's."""
        ...

    def deliver(self, message: Message, body: bytes | None) -> None:
        """Take a message, in order; ``body`` is the attachment of an :class:`.Attached`."""

    def unavailable(self, message: Attached, reason: str) -> None:
        """Take note that an attachment cannot be read any more."""

    def listening(self) -> None:
        """Take note that every channel is listened to (again)."""


class _LostError(Exception):
    """The listening connection is of no more use."""


class Listener:
    """Listens on channels and delivers what comes, in the order in which PostgreSQL commits it.

    With ``log`` it first delivers what it has missed, after it has been away.

    The task that runs it is alone on its connection: it reads notifications, runs LISTEN and
    fetches attachments. ``open`` makes a connection; ``introduce`` runs on each once it listens;
    ``silence`` is the seconds after which a connection on which nothing moves before a statement's
    answer counts as dead.
    """

    def __init__(
        self,
        *,
        open: Open,
        introduce: Prepare,
        table: str,
        receiver: Receiver,
        log: MessageLog | None = None,
        silence: float,
        report: Report,
        redact: Callable[[object], str] = str,
    ):
        self._open = open
        self._introduce = introduce
        self._table = table
        self._receiver = receiver
        self._log = log
        self._marks: dict[str, dict[str, int]] = {}
        self._joined: dict[str, float] = {}
        self.heard = anyio.current_time()
        self._caught_up = True
        self._held: list[tuple[bytes, bytes]] = []
        self.catching_up = False
        self.replaying = False
        self._report = report
        self._redact = redact
        self._channels: set[str] = set()
        self._commands: deque[tuple[str, str, anyio.Event]] = deque()
        self._inbox: deque[Any] = deque()
        self._pending: deque[Message] = deque()
        self._wake: anyio.CancelScope | None = None
        self._turn_ends = 0.0
        self._patience = Patience(silence, _LONGEST_ANSWER * silence)
        self._stop = anyio.CancelScope()
        self._connection: AnyConnection | None = None
        self._broken: str | None = None
        self.connected = False
        self.reconnects = 0
        self._active_at = 0.0

    @property
    def connection(self) -> AnyConnection | None:
        """The session, or None while there is none."""
        return self._connection

    @property
    def active_at(self) -> float:
        """When it last received or delivered something, on the loop's clock."""
        return max(self._active_at, self._patience.moved_at)

    async def listen(self, channel: str) -> None:
        """Listen on a channel from now on; return when that is in force.

        While there is no connection it returns at once: the channel is listened to with the rest
        when the connection is back.
        """
        if channel in self._channels:
            await anyio.lowlevel.checkpoint()
            return
        self._channels.add(channel)
        if not self.connected and self._marks:
            self._joined[channel] = anyio.current_time()
        await self._command("LISTEN", channel)

    async def unlisten(self, channel: str) -> None:
        """Stop listening on a channel."""
        self._channels.discard(channel)
        # what comes until it is listened to again is not for this node
        self._marks.pop(channel, None)
        self._joined.pop(channel, None)
        await self._command("UNLISTEN", channel)

    async def _command(self, command: str, channel: str) -> None:
        if not self.connected:
            await anyio.lowlevel.checkpoint()
            return
        done = anyio.Event()
        self._commands.append((command, channel, done))
        self._rouse()
        await done.wait()

    def hold(self, channel: bytes, payload: bytes) -> None:
        """Decode a notification again once the log has been read."""
        self._held.append((channel, payload))

    def reconnect(self, reason: str) -> None:
        """Give up the connection and make a new one."""
        self._broken = reason
        self._rouse()

    def stop(self) -> None:
        """Make :meth:`_run` end, whatever it is doing."""
        if isinstance(self._connection, AnyIOConnection):
            self._connection.cancel_timeout = 0.25
        self._stop.cancel()
        self._patience.stop()

    @asynccontextmanager
    async def running(self, task_group: TaskGroup) -> AsyncGenerator[None]:
        """Connect and listen during the block, then disconnect.

        :raises AdapterError: PostgreSQL cannot be reached or refuses.
        """
        connection = await self._open()
        task_group.start_soon(self._patience.run)
        try:
            await task_group.start(self._run, connection)
        finally:
            if not self.connected:
                await connection.close()
        try:
            yield
        finally:
            self.stop()

    async def _run(
        self,
        connection: AnyConnection,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until :meth:`stop`, beginning on an open connection.

        It has started when all channels named so far are listened to.
        """
        current: AnyConnection | None = connection
        first = True
        attempt = 0
        try:
            with self._stop:
                while True:
                    try:
                        if current is None:
                            current = await self._open()
                        await self._listen_all(current)
                        if first:
                            task_status.started()
                            await anyio.lowlevel.checkpoint_if_cancelled()
                            self._stop.shield = True
                        else:
                            self.reconnects += 1
                            logger.warning("the listener is connected again")
                        first = False
                        await self._read(current)
                    except (_LostError, SilentError, psycopg.Error, AdapterError) as exc:
                        was_connected = self.connected
                        self._disconnected()
                        if current is not None:
                            await current.close()
                        current = None
                        if first:
                            raise AdapterError(
                                f"the listener cannot LISTEN: {self._redact(exc).strip()}"
                            ) from None
                        attempt = 0 if was_connected else attempt + 1
                        if attempt <= 1:
                            what = (
                                "lost its session" if attempt == 0 else "cannot connect again yet"
                            )
                            self._report(
                                ConnectionLostError(
                                    f"the listener {what}: {self._redact(exc).strip()}"
                                )
                            )
                        await anyio.sleep(backoff(attempt))
        finally:
            self._disconnected()
            if current is not None:
                with anyio.CancelScope(shield=True):
                    await close_session(current, 1.0)

    async def _listen_all(self, connection: AnyConnection) -> None:
        self._broken = None
        if self._caught_up:
            self._decode()
        # what came to a session that broke while it caught up is newer than what is still to read
        self._caught_up = False
        connection.pgconn.notify_handler = self._inbox.append
        done: set[str] = set()
        introduced = False
        # what is joined while this waits must not be left out: from the last look on it does not wait
        while (todo := sorted(self._channels - done)) or not introduced:
            if todo:
                await self._listen_on(connection, todo)
                done.update(todo)
            else:
                self._caught_up = True
                await self._patience.wait(connection, self._introduce(connection))
                introduced = True
        self._connection = connection
        self.connected = True
        self._receiver.listening()

    async def _listen_on(self, connection: AnyConnection, channels: list[str]) -> None:
        back = [c for c in channels if c in self._marks or c in self._joined]
        for channel in channels:
            if channel not in self._marks:
                # first: what is sent from here on is for this node
                self._marks[channel] = await self._mark(connection, channel)
                self._joined.pop(channel, None)
        await self._execute(connection, ";".join(_statement("LISTEN", c) for c in channels))
        if back and self._log is not None:
            await self._deliver(connection)
            self.catching_up = True
            try:
                for channel in back:
                    await self._catch_up(connection, self._log, channel)
            finally:
                self.catching_up = False

    async def _fill_gaps(self, connection: AnyConnection) -> None:
        """Deliver, from the log, what has not come, and then what came after it."""
        assert self._log is not None  # noqa: S101 - without it nothing is held
        self.catching_up = True
        try:
            for channel in sorted({channel for channel, _ in self._held}):
                await self._catch_up(connection, self._log, channel.decode())
            self._receiver.arrived()
            while self._held:
                message = self._receiver.decode(*self._held.pop(0))
                if message is not None:
                    self._pending.append(message)
        finally:
            self.catching_up = False
        await self._deliver(connection)

    async def _mark(self, connection: AnyConnection, channel: str) -> dict[str, int]:
        """Return each sender's last number of the time at which the channel was joined."""
        log = self._log
        if log is None:
            return {}
        try:
            marks = await self._patience.wait(connection, log.senders(connection, channel))
            if (joined := self._joined.get(channel)) is not None:
                there = await self._patience.wait(connection, log.clock(connection))
                # its clock was read before this one, which may be long ago by now: rather something
                # from before than to leave out what came just after
                until = there - (anyio.current_time() - joined) - _MARGIN
                for sender in marks:
                    marks[sender] = await self._patience.wait(
                        connection, log.before(connection, channel, sender, until)
                    )
        except psycopg.Error as exc:
            self._cannot_read(connection, exc, "the log")
            return {}
        return marks

    async def _catch_up(self, connection: AnyConnection, log: MessageLog, channel: str) -> None:
        """Deliver what was sent while this node did not listen."""
        before = self._marks.get(channel, {})
        # is every row still there of what was sent meanwhile?
        complete = anyio.current_time() - self.heard < log.retention
        name = channel.encode()
        try:
            newest_of = await self._patience.wait(connection, log.senders(connection, channel))
            for sender in newest_of.keys() - before.keys() if complete else ():
                # what it sent before its first row was before this node listened
                before[sender] = await self._patience.wait(
                    connection, log.before(connection, channel, sender)
                )
        except psycopg.Error as exc:
            self._cannot_read(connection, exc, "the log")
            newest_of = {}
        for sender in before.keys() - newest_of.keys() - {log.ours}:
            # its rows are gone: its next number tells how many they were
            log.position(channel, sender, before[sender])
        for sender, newest in newest_of.items():
            if sender == log.ours:
                continue
            begin = before.get(sender)
            if begin is None:
                try:
                    begin = await self._begin(connection, log, channel, sender)
                except psycopg.Error as exc:
                    self._cannot_read(connection, exc, "the log")
                    return
            after = log.position(channel, sender, begin)
            while after < newest:
                try:
                    rows = await self._patience.wait(
                        connection, log.rows(connection, channel, sender, after)
                    )
                except psycopg.Error as exc:
                    self._cannot_read(connection, exc, "the log")
                    return
                if not rows:
                    break
                self.replaying = True
                try:
                    for row in rows:
                        message = self._receiver.decode(name, row.payload)
                        if message is not None:
                            self._receiver.deliver(message, row.body)
                finally:
                    self.replaying = False
                after = rows[-1].seq
                await anyio.lowlevel.checkpoint()

    async def _begin(
        self, connection: AnyConnection, log: MessageLog, channel: str, sender: str
    ) -> int:
        """Return where the numbers begin of a sender of which some rows may be gone."""
        rows = await self._patience.wait(connection, log.rows(connection, channel, sender, 0))
        # a node makes itself known, and is missed from its first message on; an emitter does not
        return rows[0].seq - 1 if rows and rows[0].payload.startswith(_EMITTER) else 0

    def _cannot_read(self, connection: AnyConnection, exc: psycopg.Error, what: str) -> None:
        """Report that a table is not as it should be.

        A lost connection is raised again, and of the log also what another attempt may mend.
        """
        if connection.closed or exc.sqlstate is None:
            raise exc
        if what == "the log" and exc.sqlstate.startswith(RETRY_CLASSES):
            raise exc
        self._report(AdapterError(f"{what} cannot be read: {self._redact(exc).strip()}"))

    def _disconnected(self) -> None:
        self.connected = False
        self._connection = None
        while self._commands:
            command, channel, done = self._commands.popleft()
            if command == "LISTEN" and channel not in self._marks:
                # who waits for it goes on; what is sent from here on is to be read later
                self._joined.setdefault(channel, anyio.current_time())
            done.set()

    async def _read(self, connection: AnyConnection) -> None:
        pgconn = connection.pgconn
        while True:
            if self._broken is not None:
                raise _LostError(self._broken)
            while self._commands:
                command, channel, done = self._commands[0]
                if command == "LISTEN":
                    await self._listen_on(connection, [channel])
                else:
                    self._marks.pop(channel, None)
                    await self._execute(connection, _statement(command, channel))
                    # what has come until now must not be taken for what comes after the next LISTEN
                    self._collect(connection)
                    self._decode()
                self._commands.popleft()
                done.set()
            self._collect(connection)
            if self._inbox or self._pending:
                self._decode()
                await self._deliver(connection)
                if self._held:
                    await self._fill_gaps(connection)
                if time.monotonic() >= self._turn_ends:
                    await self._end_turn()
            else:
                await self._wait(pgconn.socket)
                self._turn_ends = time.monotonic() + _LONGEST_TURN
            try:
                pgconn.consume_input()
            except psycopg.Error:
                # what came before the end is still there to be read
                self._collect(connection)
                raise
            if connection.closed:
                raise _LostError("the server ended it")
            self.heard = self._active_at = anyio.current_time()

    def _collect(self, connection: AnyConnection) -> None:
        self._inbox.extend(iter(connection.pgconn.notifies, None))

    async def _wait(self, fd: int) -> None:
        with anyio.CancelScope() as scope:
            self._wake = scope
            try:
                await anyio.wait_readable(fd)
            except (OSError, anyio.ClosedResourceError) as exc:
                raise _LostError("its socket was closed") from exc
            finally:
                self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _decode(self) -> None:
        inbox = self._inbox
        decode = self._receiver.decode
        if inbox:
            self._receiver.arrived()
        while inbox:
            notification = inbox.popleft()
            message = decode(notification.relname, notification.extra)
            if message is not None:
                self._pending.append(message)

    async def _deliver(self, connection: AnyConnection) -> None:
        """Deliver what is pending, in order; what cannot be yet stays for the next connection."""
        pending = self._pending
        bodies: dict[int, bytes] = {}
        while pending:
            message = pending[0]
            if isinstance(message, Attached):
                if not self._receiver.wants(message):
                    pending.popleft()
                    continue
                if message.attachment_id not in bodies:
                    bodies = await self._fetch(connection)
                body = bodies.pop(message.attachment_id, None)
                if body is not None and not self._receiver.fits(message, body):
                    # the table was made again, and its ids begin again
                    body = None
                if body is None:
                    body = await self._kept(connection, message)
                pending.popleft()
                if body is None:
                    self._receiver.unavailable(
                        message,
                        "its row is gone from the table (or the sender's `table` is another one)",
                    )
                else:
                    self._receiver.deliver(message, body)
            else:
                pending.popleft()
                self._receiver.deliver(message, None)
            if time.monotonic() >= self._turn_ends:
                await self._end_turn()

    async def _end_turn(self) -> None:
        """Let the other tasks run."""
        self._active_at = anyio.current_time()
        await anyio.lowlevel.checkpoint()
        self._turn_ends = time.monotonic() + _LONGEST_TURN

    async def _kept(self, connection: AnyConnection, message: Attached) -> bytes | None:
        if self._log is None or message.seq is None:
            return None
        try:
            return await self._patience.wait(connection, self._log.body(connection, message))
        except psycopg.Error as exc:
            self._cannot_read(connection, exc, "the log")
            return None

    async def _fetch(self, connection: AnyConnection) -> dict[int, bytes]:
        ids: list[int] = []
        for message in self._pending:
            if isinstance(message, Attached) and self._receiver.wants(message):
                ids.append(message.attachment_id)
                if len(ids) == _FETCH_AT_ONCE:
                    break
        try:
            query = _FETCH.format(table=self._table.replace("%", "%%"), bytes=_FETCH_BYTES)
            rows = await self._execute(connection, query, [ids])
        except psycopg.Error as exc:
            self._cannot_read(connection, exc, "the attachments")
            return {}
        return {row[0]: row[1] for row in rows if row[1] is not None}

    async def _execute(
        self, connection: AnyConnection, query: str, parameters: list[Any] | None = None
    ) -> list[Any]:
        return await self._patience.wait(connection, self._fetch_all(connection, query, parameters))

    async def _fetch_all(
        self, connection: AnyConnection, query: str, parameters: list[Any] | None
    ) -> list[Any]:
        cursor = await connection.execute(query.encode(), parameters, binary=bool(parameters))
        return await cursor.fetchall() if parameters else []


def _statement(command: str, channel: str) -> str:
    return f"{command} {sql.Identifier(channel).as_string(None)}"
