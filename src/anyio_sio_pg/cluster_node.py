"""A node that speaks Node's format: a channel for each namespace, and the attachments table."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec

from .errors import AdapterError, ConnectionLostError, ProtocolError
from .local_side import LocalSide
from .namespace import Namespace
from .node import Node
from .postgres.log import MessageLog, ensure_tables
from .postgres.schema import quoted
from .protocol.cluster_wire import ClusterWire
from .protocol.messages import (
    EMITTER,
    AdapterClose,
    Attached,
    FetchSockets,
    Heartbeat,
    Message,
    ServerSideEmit,
)

if TYPE_CHECKING:
    from .options import Options
    from .postgres.connection import AnyConnection
    from .protocol.wire import Outgoing


class ClusterNode(Node):
    """A node of a cluster of this package's nodes and ``@socket.io/postgres-adapter``'s."""

    # a simulated PostgreSQL has another
    _log_type = MessageLog

    def __init__(self, options: Options, local: LocalSide):
        self._reader = ClusterWire(options.prefix)
        super().__init__(options, local, self._reader, secrets.token_hex(8))
        self._own = self._reader.own(self.uid)
        self._own_channel = self._reader.own_channel(self.uid)
        # with a log, an answer that came during an outage is read from there
        self.direct = self._own_channel is not None and not options.durable
        self._by_channel: dict[bytes, Namespace] = {}
        self._leaving: dict[str, anyio.Event] = {}

    async def _prepare(self, connection: AnyConnection) -> None:
        await ensure_tables(self.options, connection)

    async def _begin(self) -> None:
        await super()._begin()
        if self._own_channel is not None:
            await self.listener.listen(self._own_channel)

    async def _start_listening(self, namespace: Namespace) -> None:
        channel = self._wire.channel(namespace.name)
        while (left := self._leaving.get(channel)) is not None:
            # what comes until then comes with a hole after it
            await left.wait()
        self._by_channel[channel.encode()] = namespace
        await self.listener.listen(channel)

    async def _stop_listening(self, namespace: Namespace) -> None:
        channel = self._wire.channel(namespace.name)
        del self._by_channel[channel.encode()]
        self._leaving[channel] = anyio.Event()
        try:
            await self.listener.unlisten(channel)
        finally:
            self._leaving.pop(channel).set()

    def _start_tasks(self) -> None:
        self.start_soon(self._clean_up)
        if self._log is not None:
            self.start_soon(self._clean_log, self._log)

    def _make_log(self) -> MessageLog | None:
        options = self.options
        if not options.durable:
            return None
        # a crash empties an unlogged table
        sure = options.retention if options.durable is True else 0.0
        channel = self._wire.channel
        return self._log_type(options.log_table, self.uid, channel, self._position, sure)

    def _position(self, channel: str, sender: str, begin: int) -> int:
        namespace = self._by_channel.get(channel.encode())
        if namespace is None:
            return begin
        return self._arrivals.sequence.position(sender, namespace.name, begin)

    def decode(self, channel: bytes, payload: bytes) -> Message | None:
        """Decode a notification; None when it is this node's own, a repeat, or garbage."""
        namespace = self._by_channel.get(channel)
        if namespace is None:
            return self._decode_answer(channel, payload)
        if payload.startswith(self._own):
            self._hear_own(namespace.name, payload)
            return None
        try:
            message = self._reader.decode(namespace.name, payload)
        except ProtocolError as exc:
            self._arrivals.note_garbage(exc)
            return None
        if message.sender == self.uid:
            # written by somebody else in its name
            return None
        if self._log is not None and not self.listener.catching_up and self._follows_a_gap(message):
            # what is missing is in the log, and comes first
            self.listener.hold(channel, payload)
            return None
        self._arrivals.received += 1
        # what is read from the log is no sign of life
        alive = not (isinstance(message, AdapterClose) or self.listener.replaying)
        if alive and message.sender != EMITTER:
            self._notice(namespace, message, numbered=message.seq is not None)
        unknown = namespace.returned and self._is_of_a_node(namespace, message)
        return message if self._arrivals.in_sequence(message, unknown=unknown) else None

    def _decode_answer(self, channel: bytes, payload: bytes) -> Message | None:
        if self._own_channel is None or channel != self._own_channel.encode():
            # of a namespace that is no longer listened to
            return None
        try:
            message = self._reader.decode_answer(payload)
        except ProtocolError as exc:
            self._arrivals.note_garbage(exc)
            return None
        namespace = self._namespaces.get(message.namespace)
        if namespace is None or message.sender in (self.uid, EMITTER):
            return None
        self._arrivals.received += 1
        self._notice(namespace, message, numbered=True)
        return message

    def reply(
        self, request: FetchSockets | ServerSideEmit, make: Callable[[int | None], Message]
    ) -> None:
        """Answer a request, without waiting; the others need not hear it if the asker says so."""
        channel = self._reader.own_channel(request.sender) if request.direct else None
        if channel is None:
            super().reply(request, make)
        elif not self._closing:
            self.publisher.put_control(partial(self._encode_to, channel, make))

    def _encode_to(self, channel: str, make: Callable[[int | None], Message]) -> Outgoing:
        outgoing = self._wire.encode(make(None), self._max_inline)
        if outgoing.body is not None:
            self._cleanups_due = 2
        return msgspec.structs.replace(outgoing, channel=channel)

    def _follows_a_gap(self, message: Message) -> bool:
        seq = message.seq
        if seq is None:
            return False
        if isinstance(message, Heartbeat | AdapterClose):
            # theirs is that of the last message before
            seq += 1
        return self._arrivals.sequence.gap(message.origin or message.sender, message.namespace, seq)

    def _hear_own(self, namespace: str, payload: bytes) -> None:
        # only these have a probe, and what they say is short
        if not payload.startswith((b'"type":1,', b'"type":2,'), len(self._own[0])):
            return
        try:
            message = self._reader.decode(namespace, payload)
        except ProtocolError as exc:
            self._arrivals.note_garbage(exc)
            return
        if isinstance(message, Heartbeat):
            self._connectivity.heard(message.probe)

    def wants(self, message: Attached) -> bool:
        """Tell whether an attachment concerns anybody here."""
        # also what nobody here reads has to be deleted
        self._cleanups_due = 2
        if message.answer and not self.requests.wait_in(message.namespace):
            return False
        return super().wants(message)

    def fits(self, message: Attached, body: bytes) -> bool:
        """Tell whether an attachment is the message's."""
        return self._reader.is_body_of(message, body)

    def deliver(self, message: Message, body: bytes | None) -> None:
        """Act on a message."""
        if isinstance(message, Attached):
            try:
                message = self._reader.decode_body(message, body or b"")
            except ProtocolError as exc:
                self._arrivals.note_garbage(exc)
                return
        super().deliver(message, body)

    async def _clean_log(self, log: MessageLog) -> None:
        """Delete the messages that are too old for anybody to have missed them."""
        retention = self.options.retention
        start = f"{self.options.prefix}#"
        while True:
            await anyio.sleep(min(retention / 4, self.options.cleanup_interval))
            try:
                for pair in await self.publisher.execute(partial(log.pairs, start=start)):
                    delete = partial(log.delete, pair=pair, retention=retention)
                    while await self.publisher.execute(delete):
                        # what waits in the outbox goes between two steps
                        await anyio.lowlevel.checkpoint()
            except ConnectionLostError as exc:
                self.report(AdapterError(f"old messages could not be deleted: {exc}"))

    async def _clean_up(self) -> None:
        """Delete old attachments, for as long as there are any."""
        interval = self.options.cleanup_interval
        table = quoted(self.options.table).replace("%", "%%")
        query = (
            f"DELETE FROM {table}"  # noqa: S608 - quoted by psycopg
            " WHERE created_at < now() - make_interval(secs => %s)"
        )

        async def delete(connection: AnyConnection) -> None:
            await connection.execute(query.encode(), [float(interval)])

        while True:
            await anyio.sleep(interval)
            if not self._cleanups_due:
                continue
            try:
                await self.publisher.execute(delete)
            except ConnectionLostError as exc:
                self.report(AdapterError(f"old attachments could not be deleted: {exc}"))
            else:
                # those that came in the last interval are for the next time
                self._cleanups_due -= 1
