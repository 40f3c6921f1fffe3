"""A running node: its sessions, its peers, its heartbeats and its open requests.

It speaks the protocol with the cluster and hands what concerns clients to :class:`.LocalSide`. What
the two wire formats do each in its own way is in :mod:`.cluster_node` and :mod:`.legacy_node`.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import msgspec

from .arrivals import Arrivals
from .connectivity import Connectivity
from .dead_nodes import DeadNodes
from .errors import (
    AdapterClosedError,
    AdapterError,
    ConnectionLostError,
    RequestTimeoutError,
)
from .local_side import LocalSide
from .namespace import Namespace
from .open_requests import OpenRequests, Pending
from .options import Options
from .postgres.connection import AnyConnection, open_session
from .postgres.listener import Listener
from .postgres.log import MessageLog
from .postgres.presence import deaf, hold, hold_too, listening
from .postgres.publisher import Publisher
from .postgres.schema import quoted
from .protocol.batch import Log
from .protocol.membership import Membership
from .protocol.messages import (
    AdapterClose,
    Attached,
    Broadcast,
    BroadcastAck,
    BroadcastClientCount,
    DisconnectSockets,
    FetchSockets,
    FetchSocketsResponse,
    Heartbeat,
    Message,
    Room,
    ServerSideEmit,
    ServerSideEmitResponse,
    SocketsJoin,
    SocketsLeave,
    Target,
    Want,
)
from .protocol.requests import Answers
from .protocol.wire import Outgoing, Wire
from .reporting import Reporter
from .status import Stats, Status

logger = logging.getLogger("anyio_sio_pg")

T = TypeVar("T")

SETTLE: Final = 0.5
"""Seconds after joining a namespace in which nodes not yet heard of may still answer a request."""

LISTENERS_RETURN: Final = 3.0
"""Seconds for which what is to be sent after an outage waits for the others, at most."""

NAMESPACE_IDLE: Final = 60.0
"""Seconds after which a namespace that nobody here uses any more is no longer listened to."""


class Node(ABC):
    """One node of the cluster, for as long as its block runs."""

    direct = False
    """Whether this node hears answers that are for it alone."""

    # a simulated PostgreSQL has others
    _publisher_type = Publisher
    _listener_type = Listener

    def __init__(self, options: Options, local: LocalSide, wire: Wire, uid: str):
        self.options = options
        self.uid = uid
        self._local = local
        self._wire = wire
        self._reporter = Reporter(options.on_error)
        self._max_inline = options.max_inline
        self._durable = bool(options.durable)
        self._arrivals = Arrivals(self.report, durable=self._durable)
        self._log = self._make_log()
        self.publisher = self._make_publisher()
        self.listener = self._make_listener()
        # nodes of several clusters may use one database
        self._cluster = f"{options.wire} {options.prefix}"
        self._connectivity = Connectivity(
            self._cluster,
            uid,
            self.publisher,
            self.listener,
            options.heartbeat_timeout,
            self.start_soon,
        )
        self._namespaces: dict[str, Namespace] = {}
        self._numbers: dict[str, int] = {}
        self.requests = OpenRequests()
        self._dead_nodes = DeadNodes(
            self.requests,
            self._namespaces,
            self._connectivity,
            self.publisher,
            self._member_gone,
        )
        # how often to look for attachments to delete
        self._cleanups_due = 0
        self._now = anyio.current_time()
        self._events: deque[ServerSideEmit] = deque()
        self._event_came = anyio.Event()
        self._member_heard = anyio.Event()
        self._started = False
        self._closing = False
        self.delivered = 0
        self._dispatch: dict[type[Message], Callable[[Any], None]] = {
            Broadcast: local._on_broadcast,
            SocketsJoin: local._on_join_or_leave,
            SocketsLeave: local._on_join_or_leave,
            DisconnectSockets: local._on_disconnect,
            FetchSockets: local._on_fetch,
            FetchSocketsResponse: self.requests.answer,
            ServerSideEmit: self._queue_event,
            ServerSideEmitResponse: self.requests.answer,
            BroadcastClientCount: self.requests.answer,
            BroadcastAck: self.requests.answer,
            Heartbeat: self._heartbeat,
            AdapterClose: self._member_closed,
        }

    def _make_publisher(self) -> Publisher:
        return self._publisher_type(
            open=partial(self._open_session, listening=False),
            prepare=self._prepare,
            # what is read from the log comes however late
            resume=None if self.options.durable else self._await_listeners,
            table=quoted(self.options.table),
            log=Log(quoted(self.options.log_table), self.uid) if self.options.durable else None,
            limit=self.options.outbox_limit,
            silence=self.options.heartbeat_timeout,
            tries_for=self.options.publish_timeout,
            drain_timeout=self.options.shutdown_timeout,
            report=self.report,
            redact=self.options.redact,
        )

    def _make_listener(self) -> Listener:
        return self._listener_type(
            open=partial(self._open_session, listening=True),
            introduce=self._introduce,
            table=quoted(self.options.table),
            receiver=self,
            log=self._log,
            silence=self.options.heartbeat_timeout,
            report=self.report,
            redact=self.options.redact,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Connect, run the node for the block, then take leave, flush and disconnect.

        :raises AdapterError: PostgreSQL cannot be reached, refuses, or does not let notifications
            through.
        :raises PublishError: at the end of the block, messages could not be sent in time.
        """
        await self._begin()
        async with (
            self._reporter.task_group() as task_group,
            self.publisher.running(task_group),
            self.listener.running(task_group),
        ):
            try:
                await self._hear_oneself()
                await self._meet()
                self._started = True
                self.start_soon(self._keep_alive)
                self.start_soon(self._dead_nodes.search)
                self._start_tasks()
                self.start_soon(self._handle_events)
                yield
            finally:
                self._closing = True
                self.requests.wake_all()
                # a message after the farewell would make the others think that it is back
                await self.publisher.drain()
                for namespace in self._namespaces:
                    self._put(partial(self._goodbye, namespace), namespace)

    async def _begin(self) -> None:
        """Name the channels to listen to from the start."""
        await self.join("/")

    async def _await_listeners(self, connection: AnyConnection) -> None:
        """Let the nodes that are known listen again first: they do not hear what comes before."""
        known = self._namespaces.values()
        uids = {uid for one in known for uid in one.members.uids(numbered_only=True)}
        # by its silence they would take this node for dead
        patience = min(LISTENERS_RETURN, self.options.heartbeat_timeout / 4)
        with anyio.move_on_after(patience):
            while not self._closing and uids and await deaf(connection, self._cluster, uids):  # noqa: ASYNC110 - PostgreSQL tells nobody
                await anyio.sleep(0.1)

    async def _hear_oneself(self) -> None:
        try:
            # a clock would also count the time in which this process stands still
            await self.ping(self.options.heartbeat_timeout, steps=8)
        except RequestTimeoutError:
            raise AdapterError(
                "LISTEN was accepted, but no notification of this node's own came back within"
                f" {self.options.heartbeat_timeout:g} s. Where a pooler (PgBouncer in transaction"
                " or statement mode) stands between, give a direct connection as listen_uri; both"
                " must lead to the same database"
            ) from None

    async def _meet(self) -> None:
        """Count on the nodes that listen by now; give them time for their first words.

        From those on it shows what of theirs is lost.
        """
        try:
            uids = await self.publisher.execute(
                partial(listening, cluster=self._cluster, uid=self.uid)
            )
        except ConnectionLostError:
            # they answer this node's first heartbeat, too
            return
        members = self._namespaces["/"].members
        for uid in uids - {self.uid}:
            members.told(uid, anyio.current_time())
        with anyio.move_on_after(min(SETTLE, self.options.requests_timeout / 2)):
            while members.unheard():
                self._member_heard = anyio.Event()
                await self._member_heard.wait()

    # What the manager asks of it

    @property
    def closing(self) -> bool:
        """Whether no new work is accepted."""
        return self._closing or not self._started

    @property
    def ending(self) -> bool:
        """Whether the block is at its end."""
        return self._closing

    @property
    def status(self) -> Status:
        """What the node can do now."""
        return Status.CLOSED if self.closing else self._connectivity.status

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        publisher, arrivals = self.publisher, self._arrivals
        # a Node server has a uid in each of its namespaces
        nodes = max((len(namespace.members) for namespace in self._namespaces.values()), default=0)
        return Stats(
            sent=publisher.sent,
            received=arrivals.received,
            delivered=self.delivered,
            dropped=publisher.dropped,
            lost=arrivals.lost,
            repeated=arrivals.repeated,
            garbage=arrivals.garbage,
            reconnects=publisher.reconnects + self.listener.reconnects,
            queue_depth=publisher.depth,
            batches=publisher.batches,
            nodes=nodes,
        )

    def check_namespace(self, namespace: str) -> None:
        """Raise ValueError unless a namespace's channel can exist."""
        if namespace not in self._namespaces:
            self._wire.channel(namespace)

    async def join(self, namespace: str) -> None:
        """Take part in a namespace; return when its messages are listened to.

        :raises ValueError: its channel's name would be longer than PostgreSQL allows.
        """
        known = self._namespaces.get(namespace)
        if known is None:
            known = self._enter(namespace)
            if self._reporter.running:
                # not in the caller's task: when that is cancelled, others still wait for this
                self.start_soon(self._listen_to, known)
            else:
                await self._listen_to(known)
        known.used = True
        await known.ready.wait()

    def _enter(self, namespace: str) -> Namespace:
        self._wire.channel(namespace)
        members = Membership(self.options.heartbeat_timeout)
        entered = Namespace(namespace, members, anyio.current_time())
        self._namespaces[namespace] = entered
        return entered

    async def _listen_to(self, namespace: Namespace) -> None:
        try:
            await self._start_listening(namespace)
        finally:
            namespace.ready.set()
            if self.listener.connected:
                self._announce(namespace)

    def publish_nowait(self, namespace: str, make: Callable[[int], Message]) -> bool:
        """Do what :meth:`publish` does, unless it has to wait or to raise; tell whether it did."""
        known = self._namespaces.get(namespace)
        if known is None or not known.open or self._closing or not self.publisher.has_room:
            return False
        known.used = True
        self.publisher.put(self._numbered(namespace, make))
        return True

    async def publish(self, namespace: str, make: Callable[[int], Message]) -> None:
        """Put a message into the outbox; ``make`` gets its number.

        :raises PublishError: the outbox stayed full for ``publish_timeout``.
        :raises AdapterClosedError: the block has ended.
        """
        if self.closing:
            raise AdapterClosedError("the adapter is closed")
        known = self._namespaces.get(namespace)
        if known is not None and known.open:
            known.used = True
            await self._offer(namespace, make)
            return
        if known is None:
            known = self._enter(namespace)
            self.start_soon(self._listen_to, known)
        # Trio wakes those who wait for an event in any order, but those who wait for a lock in theirs
        async with known.turn:
            await known.ready.wait()
            await self._offer(namespace, make)
        known.open = not known.turn.locked()

    async def _offer(self, namespace: str, make: Callable[[int], Message]) -> None:
        if self.publisher.has_room:
            self.publisher.put(self._numbered(namespace, make))
        else:
            await self.publisher.offer(
                partial(self._numbered, namespace, make), self.options.publish_timeout
            )

    def answer(self, namespace: str, make: Callable[[int], Message]) -> None:
        """Put an answer into the outbox, without waiting."""
        if not self._closing:
            self.publisher.put_control(partial(self._numbered, namespace, make))

    def reply(
        self, request: FetchSockets | ServerSideEmit, make: Callable[[int | None], Message]
    ) -> None:
        """Answer a request, without waiting; what answers it alone needs no number."""
        self.answer(request.namespace, make)

    def members(self, namespace: str, *, numbered_only: bool = False) -> set[str]:
        """Return the uids of the other nodes in a namespace."""
        known = self._namespaces.get(namespace)
        return set() if known is None else known.members.uids(numbered_only=numbered_only)

    async def ask(
        self,
        pending: Pending,
        make: Callable[[str, int], Message] | None,
        timeout: float,
        *,
        eager: bool = False,
    ) -> None:
        """Send a request (None: it concerns this node only) and return when it is complete.

        While nothing can be sent it waits: in the outbox it would be carried out after the caller
        has given up. One that is ``eager`` takes its place there all the same.

        :raises RequestTimeoutError: it was not within ``timeout`` seconds.
        :raises AdapterClosedError: the block ended meanwhile.
        """
        request_id = self.requests.add(pending)
        self._dead_nodes.asked()
        try:
            with anyio.move_on_after(timeout):
                if make is not None:
                    if not eager:
                        await self.publisher.ready()
                    await self.publish(pending.namespace, partial(make, request_id))
                    await self._settle(pending)
                while not (pending.complete or self._closing):
                    await self._change(pending)
        finally:
            self.requests.remove(request_id)
        if self._closing:
            raise AdapterClosedError("the adapter was closed while the request was open")
        if not pending.complete:
            missing = pending.tracker.missing
            raise RequestTimeoutError(
                f"no answer from {len(missing)} node(s) within {timeout:g} s"
                + ("" if self.status is Status.CONNECTED else f"; this node is {self.status}"),
                pending.tracker.answers,
                sorted(missing),
            )

    async def expect(self, namespace: str, *, numbered_only: bool = False) -> Answers[Any]:
        """Return whose answers a request in a namespace has to wait for."""
        await self.join(namespace)
        return Answers(self.members(namespace, numbered_only=numbered_only))

    async def fetch(
        self,
        namespace: str,
        target: Target,
        want: Want,
        *,
        settle: bool = False,
        enough: Callable[[Any], bool] | None = None,
    ) -> list[FetchSocketsResponse]:
        """Ask the other nodes for their sockets of a target.

        ``settle`` as in :class:`.FetchSockets`; with ``enough``, the first answer for which it is
        true ends the request.

        :raises RequestTimeoutError: a node did not answer within ``requests_timeout``.
        :raises AdapterClosedError: the block ended meanwhile.
        """
        tracker = await self.expect(namespace)
        await self.ask(
            Pending(namespace, tracker, enough=enough),
            lambda request_id, seq: FetchSockets(
                sender=self.uid,
                namespace=namespace,
                seq=seq,
                target=target,
                request_id=request_id,
                want=want,
                settle=settle,
                direct=self.direct,
            ),
            self.options.requests_timeout,
        )
        return tracker.answers

    async def addressed(
        self,
        namespace: str,
        target: Target,
        rooms: tuple[Room, ...] = (),
        *,
        single: bool = False,
    ) -> list[tuple[Target, tuple[Room, ...]]]:
        """Return a command's target and rooms as the wire can carry them, in one or more messages.

        ``single`` says that the target is one socket.
        """
        return [(target, rooms)]

    async def _change(self, pending: Pending) -> None:
        """Wait until something may have happened to a request."""
        await pending.change()

    async def _settle(self, pending: Pending) -> None:
        """Give nodes that this one has not heard of yet their time to turn up."""
        joined = self._namespaces[pending.namespace].joined_at
        until = joined + min(SETTLE, self.options.requests_timeout / 2)
        while not (pending.satisfied or self._closing) and anyio.current_time() < until < math.inf:
            with anyio.CancelScope(deadline=until):
                await pending.change()

    async def reachable(self) -> None:
        """Return once something can be sent.

        :raises RequestTimeoutError: it cannot for ``requests_timeout`` seconds.
        """
        timeout = self.options.requests_timeout
        with anyio.move_on_after(timeout):
            await self.publisher.ready()
            return
        raise RequestTimeoutError(
            f"nothing could be sent within {timeout:g} s: this node is {self.status}"
        )

    async def ping(self, timeout: float, *, steps: int = 1) -> float:
        """Return the seconds that a notification of this node's own takes to come back.

        The time is measured in ``steps``: to stand still costs one of them at most.

        :raises RequestTimeoutError: it did not within ``timeout`` seconds.
        """
        started = anyio.current_time()
        heard: anyio.Event | None = None
        probe = 0
        try:
            for _ in range(steps):
                with anyio.move_on_after(timeout / steps):
                    if heard is None:
                        await self.publisher.ready()
                        heard = anyio.Event()
                        namespace = next(iter(self._namespaces))
                        probe = self._connectivity.expect(namespace, heard)
                        self._put(partial(self._ping, namespace, probe), namespace)
                    await heard.wait()
                    return anyio.current_time() - started
        finally:
            self._connectivity.forget(probe)
        raise RequestTimeoutError(f"no notification came back within {timeout:g} s")

    def _ping(self, namespace: str, probe: int, _: int) -> Heartbeat:
        return self._beat(namespace, probe=probe)

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something in the node's task group; what it raises is reported, not passed on."""
        self._reporter.start_soon(function, *args)

    def report(self, error: Exception) -> None:
        """Log an error and hand it to ``on_error``."""
        self._connectivity.look()
        self._reporter.report(error)

    async def _open_session(self, *, listening: bool) -> AnyConnection:
        connection = await open_session(self.options, listening=listening)
        if not listening:
            try:
                await hold_too(connection, self.uid)
            except BaseException:
                await connection.close()
                raise
        return connection

    # What each wire does in its own way

    @abstractmethod
    async def _prepare(self, connection: AnyConnection) -> None:
        """Make what is needed for sending."""

    async def _introduce(self, connection: AnyConnection) -> None:
        """Let others see whose listening session this is."""
        await hold(connection, self._cluster, self.uid)

    @abstractmethod
    async def _start_listening(self, namespace: Namespace) -> None:
        """Listen to a namespace's messages; return when that is in force."""

    @abstractmethod
    async def _stop_listening(self, namespace: Namespace) -> None:
        """Stop listening to a namespace's messages."""

    def _make_log(self) -> MessageLog | None:
        """Return the log to read what was missed from, where the wire has one."""
        return None

    @abstractmethod
    def decode(self, channel: bytes, payload: bytes) -> Message | None:
        """Decode a notification; None when it is this node's own, a repeat, or garbage."""

    @abstractmethod
    def _start_tasks(self) -> None:
        """Start what runs beside the sessions."""

    # What the listener tells it

    def arrived(self) -> None:
        """Take the time for the notifications that are decoded next."""
        self._now = anyio.current_time()

    def wants(self, message: Attached) -> bool:
        """Tell whether an attachment concerns anybody here."""
        return message.rooms is None or self._local._wants(message.namespace, message)

    def fits(self, message: Attached, body: bytes) -> bool:
        """Tell whether an attachment is the message's."""
        return True

    def unavailable(self, message: Attached, reason: str) -> None:
        """Count an attachment that cannot be read as lost."""
        self._arrivals.note_lost(message, 1, reason)

    def deliver(self, message: Message, body: bytes | None) -> None:
        """Act on a message."""
        try:
            self._dispatch[type(message)](message)
        except Exception as exc:  # noqa: BLE001 - reported
            self._reporter.failed(f"a {type(message).__name__} could not be handled", exc)

    def listening(self) -> None:
        """Make oneself known (again) in every namespace."""
        now = anyio.current_time()
        self._connectivity.listening()
        for namespace in self._namespaces.values():
            # whoever was there before has answered
            namespace.returned |= namespace.joined_at + SETTLE < self.listener.heard
            namespace.members.refresh(now)
            namespace.heartbeat_waits = False
            self._announce(namespace)

    # Membership and heartbeats

    def _announce(self, namespace: Namespace) -> None:
        namespace.joined_at = anyio.current_time()
        self._send_heartbeat(namespace, initial=True)

    def _send_heartbeat(self, namespace: Namespace, *, initial: bool = False) -> None:
        # one that was put in before LISTEN was in force does not bring the others' answers
        if self._closing or (namespace.heartbeat_waits and not initial):
            return
        number = self._connectivity.expect(namespace.name)

        def committed() -> None:
            namespace.heartbeat_waits = False
            self._connectivity.committed(number)

        namespace.heartbeat_waits = self._put(
            lambda _: self._beat(namespace.name, probe=number, initial=initial),
            namespace.name,
            committed,
        )
        if not namespace.heartbeat_waits:
            self._connectivity.forget(number)

    def _beat(
        self, namespace: str, *, probe: int | None = None, initial: bool = False
    ) -> Heartbeat:
        return Heartbeat(
            sender=self.uid,
            namespace=namespace,
            seq=self._numbers.get(namespace, 0),
            probe=probe,
            initial=initial,
        )

    def _goodbye(self, namespace: str, last: int) -> AdapterClose:
        return AdapterClose(sender=self.uid, namespace=namespace, seq=last)

    def _notice(self, namespace: Namespace, message: Message, *, numbered: bool) -> None:
        """Take a message as its sender's sign of life."""
        sender = message.sender
        if namespace.members.seen(sender, self._now, numbered=numbered):
            starting = isinstance(message, Heartbeat) and message.initial
            self._member_joined(namespace, sender, numbered=numbered, starting=starting)

    def _heartbeat(self, message: Heartbeat) -> None:
        namespace = self._namespaces.get(message.namespace)
        if namespace is None or not message.initial or self._closing or namespace.answer_waits:
            # one answer, once it is committed, is for all who have asked before
            return

        def committed() -> None:
            namespace.answer_waits = False

        namespace.answer_waits = self._put(
            lambda _: self._beat(namespace.name), namespace.name, committed
        )

    def _member_joined(
        self, namespace: Namespace, uid: str, *, numbered: bool, starting: bool
    ) -> None:
        logger.info("node %s is in namespace %s", uid, namespace.name)
        self._member_heard.set()
        asked = self.requests.joined(namespace.name, uid, numbered=numbered)
        self._dead_nodes.asked()
        if starting and asked:
            # it may have begun to listen before the requests were sent, or after
            self.start_soon(self._excuse, asked, uid)

    async def _excuse(self, asked: list[Pending], uid: str) -> None:
        await anyio.sleep(min(SETTLE, self.options.requests_timeout / 2))
        for pending in asked:
            pending.tracker.excuse(uid)
            pending.changed.set()

    def _member_closed(self, message: AdapterClose) -> None:
        namespace = self._namespaces.get(message.namespace)
        if namespace is not None and namespace.members.left(message.sender):
            self._member_gone(namespace, message.sender, "has left")

    def _member_gone(self, namespace: Namespace, uid: str, how: str) -> None:
        logger.info("node %s %s namespace %s", uid, how, namespace.name)
        self.requests.left(namespace.name, uid)

    async def _keep_alive(self) -> None:
        interval = self.options.heartbeat_interval
        while True:
            due = anyio.current_time() + interval
            await anyio.sleep(interval)
            now = anyio.current_time()
            self._connectivity.look()
            if now - due >= interval:
                # this process stood still, and has not read yet what came meanwhile
                for namespace in self._namespaces.values():
                    namespace.members.refresh(now)
            else:
                self._connectivity.listen_for_silence(now)
            hears = self.listener.connected and not self._connectivity.behind(now, interval / 2)
            for namespace in list(self._namespaces.values()):
                if hears:
                    for uid in namespace.members.expired(now):
                        self._member_gone(namespace, uid, "is silent in")
                if self._idle(namespace, now):
                    await self._leave(namespace)
                else:
                    self._send_heartbeat(namespace)
            # one more interval for nodes that were not heard of yet
            self.requests.purge(now, interval)
            self._local._forget_overdue(now)

    def _idle(self, namespace: Namespace, now: float) -> bool:
        if (
            namespace.used
            or not namespace.ready.is_set()
            or self._local._keeps(namespace.name)
            or self.requests.wait_in(namespace.name)
        ):
            namespace.used = False
            namespace.last_used = now
        return now - namespace.last_used >= NAMESPACE_IDLE

    async def _leave(self, namespace: Namespace) -> None:
        del self._namespaces[namespace.name]
        self._arrivals.sequence.forget_namespace(namespace.name)
        self._connectivity.forget_namespace(namespace.name)
        self._put(partial(self._goodbye, namespace.name), namespace.name)
        await self._stop_listening(namespace)

    # Sending

    def _numbered(self, namespace: str, make: Callable[[int], Message]) -> Outgoing:
        number = self._numbers.get(namespace, 0) + 1
        outgoing = self._wire.encode(make(number), self._max_inline)
        self._numbers[namespace] = number
        if outgoing.body is not None:
            self._cleanups_due = 2
        if self._durable:
            return msgspec.structs.replace(outgoing, seq=number)
        return outgoing

    def _put(
        self,
        make: Callable[[int], Message],
        namespace: str,
        committed: Callable[[], None] | None = None,
    ) -> bool:
        """Put in a message that has no number of its own; tell whether there was room."""
        last = self._numbers.get(namespace, 0)
        return self.publisher.put_control(
            lambda: self._wire.encode(make(last), self._max_inline), committed
        )

    # Receiving

    def _is_of_a_node(self, namespace: Namespace, message: Message) -> bool:
        """Tell a node's message from an emitter's."""
        return message.origin is None

    def _queue_event(self, message: ServerSideEmit) -> None:
        self._events.append(message)
        self._event_came.set()

    async def _handle_events(self) -> None:
        """Start the handlers of server-side events in the order in which the events came."""
        while True:
            while self._events:
                await self._reporter.start(self._local._on_server_side, self._events.popleft())
            self._event_came = anyio.Event()
            await self._event_came.wait()
