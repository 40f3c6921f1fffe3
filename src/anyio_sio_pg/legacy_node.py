"""A node of a cluster of npm's ``socket.io-adapter-postgres`` 1.x.

The 1.x nodes have no heartbeats, and their answers no sender: they are counted by their listening
sessions, as they count each other. The nodes of this package know each other as everywhere.
"""

from __future__ import annotations

import secrets
import string
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import msgspec

from .errors import ConnectionLostError, ProtocolError
from .local_side import LocalSide
from .namespace import Namespace
from .node import Node
from .open_requests import Pending
from .postgres.presence import Presence, Session, introduce, others
from .postgres.schema import check_writable
from .protocol.legacy_wire import CHANNEL, LegacyWire
from .protocol.messages import (
    AdapterClose,
    DisconnectSockets,
    FetchSockets,
    FetchSocketsResponse,
    Heartbeat,
    Message,
    Room,
    ServerSideEmit,
    SocketInfo,
    SocketsJoin,
    SocketsLeave,
    Target,
    Want,
)
from .protocol.requests import Answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .postgres.connection import AnyConnection

T = TypeVar("T")

RECOUNT: Final = 0.25
"""Seconds after which a request that is not complete looks which of the 1.x nodes are there still."""

MAX_NAME: Final = 63
"""Characters of an ``application_name`` that others see."""

_UID_CHARACTERS = string.ascii_letters + string.digits


class CountedAnswers(Answers[T]):
    """A question that also nodes without a uid answer: so many that only their number is known."""

    def __init__(self) -> None:
        super().__init__(())
        self._asked: set[int] | None = None
        self._alive: set[int] = set()
        self._required: float = float("inf")
        self._unsigned = 0

    def answered(self, uid: str, answer: T) -> None:
        """Take a node's answer; those without a uid are counted."""
        if uid:
            super().answered(uid, answer)
        else:
            self._unsigned += 1
            self.answers.append(answer)

    def count(self, certain: set[int], possible: set[int]) -> None:
        """Take the sessions of the nodes that will, and that may, answer.

        The first count says for how many answers to wait, the next ones that the possible have had
        their time. A session that is gone is missed from the second of them on: an answer of its
        neighbour may be on its way while the dead one's is here.
        """
        if self._asked is None:
            self._asked = self._alive = certain
            self._required = len(certain | possible)
        else:
            self._required = len(self._alive)
            self._alive = self._asked & certain

    @property
    def missing(self) -> frozenset[str]:
        """The uids of the nodes that owe an answer, and how many without one do."""
        unsigned = self._required - self._unsigned
        if unsigned <= 0:
            return super().missing
        number = "an unknown number" if self._asked is None else f"{unsigned:g}"
        return super().missing | {f"{number} of socket.io-adapter-postgres 1.x"}

    @property
    def complete(self) -> bool:
        """Whether every node that is alive has answered."""
        return self._unsigned >= self._required and super().complete


class LegacyNode(Node):
    """A node of a cluster of this package's nodes and ``socket.io-adapter-postgres`` 1.x's."""

    def __init__(self, options: Options, local: LocalSide):
        self._reader = LegacyWire(options.prefix)
        uid = "".join(secrets.choice(_UID_CHARACTERS) for _ in range(6))
        super().__init__(options, local, self._reader, uid)
        self._shown: str | None = None
        self._presences: dict[str, Presence] = {}

    # Being counted

    def _session_name(self, namespace: str) -> str:
        return f"socket.io-{self._reader.name('request', namespace)}"

    async def _prepare(self, connection: AnyConnection) -> None:
        await check_writable(connection)

    async def _introduce(self, connection: AnyConnection) -> None:
        await super()._introduce(connection)
        self._shown = await introduce(connection, self._session_name("/"))

    async def _start_listening(self, namespace: Namespace) -> None:
        name = namespace.name
        self._reader.listen(name)
        await self.listener.listen(CHANNEL)
        if name != "/" and self._local._declares(name):
            # a session has one name, and 1.x nodes count by it; clients must not use sessions up
            presence = self._presences[name] = Presence(
                partial(self._open_session, listening=True),
                self._session_name(name),
                self.report,
            )
            self.start_soon(presence.run)
            with anyio.move_on_after(self.options.requests_timeout):
                await presence.tried.wait()

    async def _stop_listening(self, namespace: Namespace) -> None:
        self._reader.unlisten(namespace.name)
        presence = self._presences.pop(namespace.name, None)
        if presence is not None:
            presence.stop()

    def _start_tasks(self) -> None:
        self.start_soon(self._give_up_incomplete)

    async def _give_up_incomplete(self) -> None:
        while True:
            await anyio.sleep(self.options.heartbeat_interval)
            for lost in self._reader.expire(anyio.current_time()):
                self._arrivals.note_garbage(
                    ProtocolError(
                        f"only {lost.received} of the {lost.count} pieces of a message on"
                        f" {lost.channel} have come"
                    )
                )

    # Receiving

    def decode(self, channel: bytes, payload: bytes) -> Message | None:
        """Decode a notification; None when it is this node's own, a piece, a repeat, or garbage."""
        try:
            message = self._reader.decode(payload, self._now)
        except ProtocolError as exc:
            self._arrivals.note_garbage(exc)
            return None
        if message is None:
            return None
        if message.sender == self.uid:
            if isinstance(message, Heartbeat):
                self._connectivity.heard(message.probe)
            return None
        self._arrivals.received += 1
        namespace = self._namespaces.get(message.namespace)
        if namespace is None:
            return None
        # 1.x nodes and emitters send none, and owe no answer by their uid
        known = isinstance(message, Heartbeat) or self._is_of_a_node(namespace, message)
        if known and not isinstance(message, AdapterClose):
            self._notice(namespace, message, numbered=True)
        unknown = namespace.returned and self._is_of_a_node(namespace, message)
        return message if self._arrivals.in_sequence(message, unknown=unknown) else None

    def _is_of_a_node(self, namespace: Namespace, message: Message) -> bool:
        return namespace.members.is_numbered(message.sender)

    def _is_ignored(self, message: Message) -> bool:
        """Tell whether a 1.x node does not count on this one's answer, which is empty anyway."""
        name = message.namespace
        return (
            isinstance(message, FetchSockets | ServerSideEmit)
            and not message.sender
            and name != "/"
            and name not in self._presences
            and not self._local._has_clients(name)
        )

    def deliver(self, message: Message, body: bytes | None) -> None:
        """Act on a message; one for a single socket is for the node that has it."""
        if self._is_ignored(message):
            return
        if isinstance(message, SocketsJoin | SocketsLeave | DisconnectSockets) or (
            isinstance(message, FetchSockets) and message.want == "sockets"
        ):
            sid = str(message.target.rooms[0])
            if not self._local._is_local(sid, message.namespace):
                return
        super().deliver(message, body)

    # Asking

    async def expect(self, namespace: str, *, numbered_only: bool = False) -> Answers[Any]:
        """Return whose answers, and how many without a uid, a request has to wait for."""
        await self.join(namespace)
        tracker: CountedAnswers[Any] = CountedAnswers()
        with anyio.move_on_after(self.options.requests_timeout):
            await self._count(namespace, tracker)
        for uid in self.members(namespace):
            tracker.joined(uid)
        return tracker

    async def _count(self, namespace: str, tracker: CountedAnswers[Any]) -> None:
        try:
            sessions: list[Session] = await self.publisher.execute(others)
        except ConnectionLostError:
            # counted again in a moment, and reported by the publisher
            return
        tracker.count(*self._sort(namespace, sessions))

    def _sort(self, namespace: str, sessions: list[Session]) -> tuple[set[int], set[int]]:
        """Return the sessions of the 1.x nodes that have a namespace, and of those that may.

        A 1.x node lists itself under the one namespace that it has made last, but always has "/".
        """
        root = self._shown or self._session_name("/")
        name = root
        if namespace != "/":
            presence = self._presences.get(namespace)
            shown = None if presence is None else presence.shown
            name = shown or self._session_name(namespace)[:MAX_NAME]
        certain = {session.pid for session in sessions if session.name == name}
        elsewhere: set[int] = set()
        if root.endswith("/#"):
            start = root.removesuffix("/#")
            elsewhere = {
                session.pid
                for session in sessions
                if session.name.startswith(start) and session.name not in (root, name)
            }
        if namespace == "/":
            return certain | elsewhere, set()
        return certain, elsewhere

    async def _change(self, pending: Pending) -> None:
        tracker = pending.tracker
        with anyio.move_on_after(RECOUNT) as waiting:
            await super()._change(pending)
        if waiting.cancelled_caught and isinstance(tracker, CountedAnswers):
            await self._count(pending.namespace, tracker)

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

        All of a socket (``want="sockets"``) is its rooms here, and the target a single one: only
        the node that has it answers, so all are asked first whether they do.
        """
        if want != "sockets":
            return await super().fetch(namespace, target, want, settle=settle, enough=enough)
        sid = str(target.rooms[0])
        found = await super().fetch(
            namespace, target, "ids", enough=lambda answer: bool(answer.sockets)
        )
        if not any(answer.sockets for answer in found):
            return []
        tracker: Answers[FetchSocketsResponse] = Answers([f"the node that has socket {sid}"])
        await self.ask(
            Pending(namespace, tracker, enough=lambda _: True),
            lambda request_id, seq: FetchSockets(
                sender=self.uid,
                namespace=namespace,
                seq=seq,
                target=target,
                request_id=request_id,
            ),
            self.options.requests_timeout,
        )
        rooms = tracker.answers[0].rooms or ()
        return [msgspec.structs.replace(tracker.answers[0], sockets=(SocketInfo(sid, rooms),))]

    async def addressed(
        self,
        namespace: str,
        target: Target,
        rooms: tuple[Room, ...] = (),
        *,
        single: bool = False,
    ) -> list[tuple[Target, tuple[Room, ...]]]:
        """Return a command's target and rooms as one request for each socket and room."""
        sids: set[str] = {str(target.rooms[0])} if single else set()
        if not single:
            sids = await self._sids(namespace, Target(target.rooms))
            if target.excluded:
                sids -= await self._sids(namespace, Target(target.excluded))
        each: list[tuple[Room, ...]] = [(room,) for room in rooms] or [()]
        return [(Target((sid,)), part) for sid in sorted(sids) for part in each]

    async def _sids(self, namespace: str, target: Target) -> set[str]:
        answers = await self.fetch(namespace, target, "ids")
        return {socket.id for answer in answers for socket in answer.sockets}
