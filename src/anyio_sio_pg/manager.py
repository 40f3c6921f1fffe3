"""python-socketio's client manager, on PostgreSQL: the public one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel

from .cluster_node import ClusterNode
from .errors import AdapterError, RequestTimeoutError, UnknownSocketError
from .legacy_node import LegacyNode
from .local_manager import AckCallback
from .member import ClusterMember
from .node import Node
from .open_requests import ACK_LIFETIME, Pending
from .options import Options, OptionValues
from .protocol.messages import (
    CUSTOM_REQUEST,
    EVERYONE,
    Broadcast,
    Data,
    DisconnectSockets,
    FetchSocketsResponse,
    Room,
    ServerSideEmit,
    ServerSideEmitResponse,
    SocketInfo,
    SocketsJoin,
    SocketsLeave,
    Target,
    check_server_event,
    event_data,
    from_data,
    make_target,
    rooms_tuple,
    to_data,
)
from .protocol.requests import Acknowledgements, Answers
from .status import Stats, Status

if TYPE_CHECKING:
    from typing import Self, Unpack

    from .postgres.connection import AnyConnection

Handler = TypeVar("Handler", bound=Callable[..., Any])
Hook = TypeVar("Hook", bound=Callable[[Any], Any])
MAX_TIMEOUT: Final = 86_400
"""Seconds that a request may wait at most."""

Rooms: TypeAlias = Room | Iterable[Room] | None


@dataclass(frozen=True)
class RemoteSocket:
    """A client, wherever in the cluster it is connected.

    ``data`` is its session in that namespace, as JSON holds it (Node: ``socket.data``);
    ``handshake`` has Node's keys: headers, time, address, xdomain, secure, issued (ms since 1970),
    url, query, auth.
    """

    id: str
    rooms: frozenset[Room]
    data: Any
    handshake: dict[str, Any]


class PostgresManager(ClusterMember, anyio.AsyncContextManagerMixin):
    """A client manager that makes many Socket.IO servers act as one, through PostgreSQL.

    ``uri`` is anything that libpq takes (a URL, ``key=value`` pairs, several hosts), or
    ``HOST:PORT``; None means the ``PG*`` environment. The other options are described under
    :doc:`/reference/options`. Nothing is connected before the ``async with`` block; outside of it
    only local work is possible, and the rest raises :class:`AdapterClosedError`. The block can be
    entered again after it has ended.

    :raises ValueError: an option is out of range.
    """

    def __init__(self, uri: str | None = None, **options: Unpack[OptionValues]):
        super().__init__()
        self._options = Options(uri=uri, **options)
        self._entered = False
        self._uid = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.prefix!r} uid={self.uid!r} {self.status}>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._entered:
            raise AdapterError("this manager's block is running already")
        self._entered = True
        node = self._make_node()
        try:
            # other nodes are served as soon as they are heard
            self._node = node
            self._uid = node.uid
            async with node.running():
                # clients and handlers that were there before
                for namespace in {*self.rooms, *(ns for ns, _ in self._event_handlers)}:
                    try:
                        await node.join(namespace)
                    except ValueError as exc:
                        node.report(exc)
                yield self
        finally:
            self._entered = False
            self._node = None

    def _make_node(self) -> Node:
        kind = LegacyNode if self._options.wire == "legacy" else ClusterNode
        return kind(self._options, self)

    # What it is

    @property
    def uid(self) -> str:
        """The id of this node in the cluster, new with each block; empty before.

        It has 16 hex digits, and 6 letters and digits with ``wire="legacy"``.
        """
        return self._uid

    @property
    def prefix(self) -> str:
        """The prefix of the channels' names."""
        return self._options.prefix

    @property
    def requests_timeout(self) -> float:
        """Seconds for which a request waits for the other nodes."""
        return self._options.requests_timeout

    @property
    def publisher(self) -> AnyConnection | None:
        """The session that sends, or None while there is none."""
        return None if self._node is None else self._node.publisher.connection

    @property
    def listener(self) -> AnyConnection | None:
        """The session that listens, or None while there is none."""
        return None if self._node is None else self._node.listener.connection

    @property
    def status(self) -> Status:
        """Connected, reconnecting, isolated or closed."""
        return Status.CLOSED if self._node is None else self._node.status

    def stats(self) -> Stats:
        """Return the counters of the block that is running.

        :raises AdapterClosedError: none is.
        """
        return self._running().stats()

    async def flush(self) -> None:
        """Return when all that was accepted before this call is committed (or refused).

        :raises AdapterClosedError: the block ended meanwhile.
        """
        await self._running().publisher.flush()

    async def ping(self) -> float:
        """Return the seconds that a notification of its own takes to come back.

        :raises RequestTimeoutError: it did not within ``requests_timeout``.
        """
        return await self._running().ping(self.requests_timeout)

    # What python-socketio's server calls

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Tell whether a client is here to be disconnected; if not, ask the other nodes to."""
        if self._is_local(sid, namespace):
            return self.is_connected(sid, namespace)
        await self._disconnect_elsewhere(sid, namespace)
        return False

    async def disconnect(self, sid: str, namespace: str, **kwargs: Any) -> None:
        """Forget a client, wherever it is."""
        if kwargs.get("ignore_queue") or self._is_local(sid, namespace):
            self.basic_disconnect(sid, namespace)
        else:
            await self._disconnect_elsewhere(sid, namespace)

    async def enter_room(
        self, sid: str, namespace: str, room: Room, eio_sid: str | None = None
    ) -> None:
        """Add a client to a room, wherever it is; see :meth:`remote_join` to know it done."""
        if eio_sid is not None or self._is_local(sid, namespace):
            self.basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        else:
            await self._join_or_leave(SocketsJoin, room, sid, None, namespace, single=True)

    async def leave_room(self, sid: str, namespace: str, room: Room) -> None:
        """Remove a client from a room, wherever it is."""
        if self._is_local(sid, namespace):
            self.basic_leave_room(sid, namespace, room)
        else:
            await self._join_or_leave(SocketsLeave, room, sid, None, namespace, single=True)

    async def close_room(self, room: Room, namespace: str | None = None) -> None:
        """Remove everyone from a room, cluster-wide.

        :raises ValueError: the room is a client's own.
        """
        namespace = namespace or "/"
        if self.is_sid_room(namespace, room):
            raise ValueError("cannot close a sid room")
        await self.sockets_leave(room, to=room, namespace=namespace)

    # Events

    async def emit(
        self,
        event: str,
        data: Any = None,
        namespace: str | None = None,
        room: Rooms = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: AckCallback | None = None,
        to: Rooms = None,
        *,
        except_rooms: Rooms = None,
        local: bool = False,
        **kwargs: Any,
    ) -> None:
        """Send an event to one client, to rooms or to everyone in the namespace, cluster-wide.

        The clients of this node get it at once; for the others it goes into the outbox. ``data``:
        a tuple is several arguments, None is none. ``to`` (or ``room``): a room, a sid or several;
        none means everyone. ``skip_sid`` and ``except_rooms`` are left out. ``callback`` is called
        with the arguments of each client's acknowledgement; it waits for those of other nodes for
        an hour. ``local`` (or python-socketio's ``ignore_queue``) stays on this node.

        :raises ValueError: the event's name is reserved, JSON cannot hold a number in it, or the
            namespace has no channel (over 63 bytes with the prefix). Nothing was sent.
        :raises TypeError: JSON cannot hold the data (or what the server's own JSON module raises).
            Nothing was sent.
        :raises PublishError: the outbox stayed full for ``publish_timeout``.
        :raises AdapterClosedError: outside of the block.
        """
        if local or kwargs.get("ignore_queue"):
            await super().emit(
                event,
                data,
                namespace,
                skip_sid=skip_sid,
                callback=callback,
                to=room if to is None else to,
                except_rooms=except_rooms,
            )
            return
        node = self._running()
        namespace = namespace or "/"
        node.check_namespace(namespace)
        target = make_target(room if to is None else to, skip_sid, except_rooms)
        only_here = self._only_here(namespace, target)
        if not only_here and except_rooms is not None:
            self._require_cluster("except_rooms", "its nodes leave out socket ids: use skip_sid")
        if not only_here and callback is not None:
            self._require_cluster("acknowledgements of clients on other nodes")
        packet_data = event_data(event, data, self._dumps)
        count, overdue = self._deliver(namespace, target, packet_data, callback)
        node.delivered += count
        if overdue:
            # their disconnect handlers must not hold up what goes to the cluster
            node.start_soon(self._send_overdue, overdue)
        if not only_here:
            request_id = None
            if callback is not None:
                request_id = self._expect_acknowledgements(node, namespace, callback)

            def make(seq: int) -> Broadcast:
                return Broadcast(
                    sender=node.uid,
                    namespace=namespace,
                    seq=seq,
                    data=packet_data,
                    target=target,
                    request_id=request_id,
                )

            if not node.publish_nowait(namespace, make):
                await node.publish(namespace, make)
        if self._turn_is_over():
            await self._yield()

    async def emit_with_ack(
        self,
        event: str,
        data: Any = None,
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
        timeout: float | None = None,
    ) -> list[Any]:
        """Send an event, cluster-wide, and return one answer for each client reached.

        An answer is what the client acknowledged with: None, its one argument, or a tuple of
        several. ``timeout`` is in seconds, 0 to 86,400; None means ``requests_timeout``.

        :raises ValueError: as :meth:`emit`, or ``timeout`` is out of range.
        :raises RequestTimeoutError: not all clients answered in time; ``partial`` has the answers
            that came.
        """
        node = self._running()
        node.check_namespace(namespace)
        seconds = self._seconds(timeout)
        target = make_target(to, None, except_rooms)
        only_here = self._only_here(namespace, target)
        if not only_here:
            self._require_cluster("acknowledgements of clients on other nodes")
        packet_data = event_data(event, data, self._dumps)
        tracker: Acknowledgements[Any] = Acknowledgements(())
        pending = Pending(namespace, tracker)

        def acknowledged(*args: Any) -> None:
            tracker.acknowledged(node.uid, args)
            pending.changed.set()

        sids = list(self._recipients(namespace, target))
        count, overdue = self._deliver(namespace, target, packet_data, acknowledged)
        tracker.counted(node.uid, count)
        node.delivered += count
        if overdue:
            node.start_soon(self._send_overdue, overdue)
        make: Callable[[str, int], Broadcast] | None = None
        if not only_here:
            asked = Target(target.rooms, target.excluded, timeout_ms=round(seconds * 1_000))
            make = lambda request_id, seq: Broadcast(
                sender=node.uid,
                namespace=namespace,
                seq=seq,
                data=packet_data,
                target=asked,
                request_id=request_id,
            )
            await node.join(namespace)
            for uid in node.members(namespace):
                tracker.joined(uid)
        try:
            await node.ask(pending, make, seconds)
        except RequestTimeoutError as exc:
            exc.partial = [self._answer_value(answer) for answer in tracker.answers]
            raise
        finally:
            self._forget_callback(acknowledged, sids)
        return [self._answer_value(answer) for answer in tracker.answers]

    def _answer_value(self, answer: Any) -> Any:
        args = from_data(answer, self._loads) if isinstance(answer, Data) else answer
        return tuple(args) if len(args) > 1 else args[0] if args else None

    def _expect_acknowledgements(self, node: Node, namespace: str, callback: AckCallback) -> str:
        def acknowledged(data: Data) -> None:
            node.start_soon(self._call_back, callback, data)

        return node.requests.add(
            Pending(
                namespace,
                Acknowledgements[Any](node.members(namespace)),
                acknowledged=acknowledged,
                expires_at=anyio.current_time() + ACK_LIFETIME,
            )
        )

    async def _call_back(self, callback: AckCallback, data: Data) -> None:
        result = callback(*from_data(data, self._loads))
        if isinstance(result, Awaitable):
            await result

    # Sockets

    async def fetch_sockets(
        self,
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
        local: bool = False,
    ) -> list[RemoteSocket]:
        """Return the sockets of a target, cluster-wide or (``local``) of this node.

        :raises RequestTimeoutError: a node did not answer within ``requests_timeout``; ``partial``
            has the sockets of this node and of those that did.
        """
        target = make_target(to, None, except_rooms)
        if local:
            await anyio.lowlevel.checkpoint()
            return self._remote_sockets(namespace, target, ())
        self._require_cluster("fetch_sockets", "use clients and client_rooms, or local=True")
        try:
            answers = await self._running().fetch(namespace, target, "sockets")
        except RequestTimeoutError as exc:
            exc.partial = self._remote_sockets(namespace, target, exc.partial)
            raise
        return self._remote_sockets(namespace, target, answers)

    async def clients(self, rooms: Rooms = None, *, namespace: str = "/") -> set[str]:
        """Return the ids of the sockets that are in any of the rooms (None: all), cluster-wide.

        :raises RequestTimeoutError: as :meth:`fetch_sockets`; ``partial`` has the ids.
        """
        target = make_target(rooms)
        try:
            answers = await self._running().fetch(namespace, target, "ids")
        except RequestTimeoutError as exc:
            exc.partial = list(self._ids(namespace, target, exc.partial))
            raise
        return self._ids(namespace, target, answers)

    async def client_rooms(self, sid: str, *, namespace: str = "/") -> set[Room]:
        """Return the rooms of a socket, wherever it is; its own is one of them.

        :raises UnknownSocketError: no node has it.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`.
        """
        if self._is_local(sid, namespace):
            await anyio.lowlevel.checkpoint()
            return set(self.get_rooms(sid, namespace))
        socket = await self._find(sid, namespace)
        return set(socket.rooms)

    async def all_rooms(self, *, namespace: str = "/") -> set[Room]:
        """Return all rooms, cluster-wide, those of the sockets themselves included.

        :raises RequestTimeoutError: as :meth:`fetch_sockets`; ``partial`` has the rooms.
        """
        try:
            answers = await self._running().fetch(namespace, EVERYONE, "rooms")
        except RequestTimeoutError as exc:
            exc.partial = list(self._all_rooms(namespace, exc.partial))
            raise
        return self._all_rooms(namespace, answers)

    async def sockets_join(
        self,
        rooms: Room | Iterable[Room],
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
    ) -> None:
        """Let the sockets of a target enter rooms, cluster-wide.

        :raises ValueError: a room is a client's own.
        """
        await self._join_or_leave(SocketsJoin, rooms, to, except_rooms, namespace)

    async def sockets_leave(
        self,
        rooms: Room | Iterable[Room],
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
    ) -> None:
        """Let the sockets of a target leave rooms, cluster-wide."""
        await self._join_or_leave(SocketsLeave, rooms, to, except_rooms, namespace)

    async def disconnect_sockets(
        self,
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
        close: bool = False,
    ) -> None:
        """Disconnect the sockets of a target, cluster-wide; ``close`` ends the transport as well.

        Returns when this node's are disconnected.
        """
        node = self._running()
        node.check_namespace(namespace)
        target = make_target(to, None, except_rooms)
        sids = list(self._connected(namespace, target))
        only_here = self._only_here(namespace, target)
        failures: list[Exception] = []
        for sid in sids:
            try:
                await self._disconnect_local(sid, namespace, close)
            except Exception as exc:  # noqa: BLE001 - of a handler; raised when all are disconnected
                failures.append(exc)
        if not only_here:
            for part, _ in await node.addressed(namespace, target):
                await self._publish_disconnection(node, namespace, part, close)
        for failure in failures[1:]:
            node.report(failure)
        if failures:
            raise failures[0]

    async def remote_join(self, sid: str, room: Room, *, namespace: str = "/") -> None:
        """Let a socket enter a room; return once it has, wherever it is.

        :raises UnknownSocketError: no node has it.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`.
        """
        await self._remote(SocketsJoin, sid, room, namespace)

    async def remote_leave(self, sid: str, room: Room, *, namespace: str = "/") -> None:
        """Let a socket leave a room; return once it has, wherever it is.

        :raises UnknownSocketError: no node has it.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`.
        """
        await self._remote(SocketsLeave, sid, room, namespace)

    async def remote_disconnect(
        self, sid: str, close: bool = False, *, namespace: str = "/"
    ) -> None:
        """Disconnect a socket; return once it is gone, wherever it was.

        :raises UnknownSocketError: no node has it.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`, or the socket was not gone in time.
        """
        node = self._running()
        if self._is_local(sid, namespace):
            await self._disconnect_local(sid, namespace, close)
            return
        await self._find(sid, namespace)
        await self._publish_disconnection(node, namespace, Target((sid,)), close)
        with anyio.move_on_after(self.requests_timeout):
            while any(  # noqa: ASYNC110 - the answer is on another node
                answer.sockets
                for answer in await node.fetch(namespace, Target((sid,)), "ids", settle=True)
            ):
                # a node that does not know ``settle`` may answer before its socket is gone
                await anyio.sleep(0.01)
            return
        raise RequestTimeoutError(f"socket {sid} was not gone within {self.requests_timeout:g} s")

    # Servers

    async def server_side_emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        """Send an event to every other server's handler.

        :raises ValueError: the name is one that Node's servers take for their own.
        """
        node = self._running()
        check_server_event(event)
        self._require_cluster("server-side events", "use custom_request")
        data = to_data([event, *args], self._dumps)
        await node.publish(
            namespace,
            lambda seq: ServerSideEmit(sender=node.uid, namespace=namespace, seq=seq, data=data),
        )

    async def server_side_call(
        self, event: str, *args: Any, namespace: str = "/", timeout: float | None = None
    ) -> list[Any]:
        """Send an event to every other server and return their answers.

        A server without a handler answers None. ``timeout`` is in seconds, 0 to 86,400; None means
        ``requests_timeout``.

        :raises ValueError: ``timeout`` is out of range, or the name as in :meth:`server_side_emit`.
        :raises RequestTimeoutError: a server did not answer in time (a Node server without a
            handler never does); ``partial`` has the answers that came.
        """
        self._running()
        check_server_event(event)
        self._require_cluster("server-side events", "use custom_request")
        data = to_data([event, *args], self._dumps)
        return await self._call_servers(namespace, data, timeout)

    def on_server_side(self, event: str, namespace: str = "/") -> Callable[[Handler], Handler]:
        """Register the handler of a server-side event, sync or async, as a decorator.

        It is called with the event's arguments; what it returns is the answer. Another handler for
        the same event and namespace takes its place.
        """

        def register(handler: Handler) -> Handler:
            self._event_handlers[namespace, event] = handler
            if self._node is not None:
                self._node.start_soon(self._node.join, namespace)
            return handler

        return register

    async def custom_request(
        self, data: Any = None, *, namespace: str = "/", timeout: float | None = None
    ) -> list[Any]:
        """Ask every node's :meth:`custom_hook`, this one's included; return their answers.

        A node without a hook, or whose hook fails, answers None. Only nodes of this package are
        asked, and with ``wire="legacy"`` those of ``socket.io-adapter-postgres`` 1.x.

        :raises RequestTimeoutError: a node did not answer within ``timeout`` (None:
            ``requests_timeout``) seconds; ``partial`` has the answers that came.
        """
        packed = to_data([CUSTOM_REQUEST, data], self._dumps)
        return await self._call_servers(namespace, packed, timeout, numbered_only=True, own=True)

    def custom_hook(self, hook: Hook) -> Hook:
        """Register what answers :meth:`custom_request`, sync or async, as a decorator."""
        self._hook = hook
        return hook

    # Helpers

    def _require_cluster(self, what: str, instead: str = "") -> None:
        """Raise AdapterError where the 1.x wire cannot carry what is asked for."""
        if self._options.wire == "legacy":
            raise AdapterError(
                f"wire='legacy' cannot carry {what}" + (f"; {instead}" if instead else "")
            )

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self.requests_timeout
        if not 0 <= timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout must be 0 to {MAX_TIMEOUT} seconds, not {timeout!r}")
        return timeout

    # This node's part is looked up when the answers are there: all that was sent before the
    # request has then arrived here, too.

    def _remote_sockets(
        self, namespace: str, target: Target, answers: Iterable[FetchSocketsResponse]
    ) -> list[RemoteSocket]:
        here = self._describe(namespace, target, "sockets")
        there = (socket for answer in answers for socket in answer.sockets)
        return [_remote_socket(socket) for socket in (*here, *there)]

    def _ids(
        self, namespace: str, target: Target, answers: Iterable[FetchSocketsResponse]
    ) -> set[str]:
        there = (socket.id for answer in answers for socket in answer.sockets)
        return {*self._connected(namespace, target), *there}

    def _all_rooms(self, namespace: str, answers: Iterable[FetchSocketsResponse]) -> set[Room]:
        return self._rooms_of(namespace, EVERYONE).union(*map(_rooms_in, answers))

    async def _join_or_leave(
        self,
        kind: type[SocketsJoin | SocketsLeave],
        rooms: Room | Iterable[Room],
        to: Rooms,
        except_rooms: Rooms,
        namespace: str,
        *,
        single: bool = False,
    ) -> None:
        node = self._running()
        node.check_namespace(namespace)
        names = rooms_tuple(rooms)
        target = make_target(to, None, except_rooms)
        if kind is SocketsJoin:
            for room in names:
                if self.is_sid_room(namespace, room) and target.rooms != (room,):
                    raise ValueError(f"cannot enter a sid room: {room!r}")
        only_here = self._only_here(namespace, target)
        self._apply_rooms(kind, namespace, target, names)
        if only_here:
            await anyio.lowlevel.checkpoint()
            return
        for part, some in await node.addressed(namespace, target, names, single=single):
            await node.publish(namespace, _command(kind, node.uid, namespace, part, some))

    async def _remote(
        self, kind: type[SocketsJoin | SocketsLeave], sid: str, room: Room, namespace: str
    ) -> None:
        self._running()
        here = self._is_local(sid, namespace)
        await self._join_or_leave(kind, room, sid, None, namespace, single=True)
        if not here:
            await self._find(sid, namespace)

    async def _disconnect_elsewhere(self, sid: str, namespace: str) -> None:
        node = self._running()
        node.check_namespace(namespace)
        await self._publish_disconnection(node, namespace, Target((sid,)), close=False)

    async def _publish_disconnection(
        self, node: Node, namespace: str, target: Target, close: bool
    ) -> None:
        await node.publish(
            namespace,
            lambda seq: DisconnectSockets(
                sender=node.uid, namespace=namespace, seq=seq, target=target, close=close
            ),
        )

    async def _find(self, sid: str, namespace: str) -> SocketInfo:
        answers = await self._running().fetch(
            namespace, Target((sid,)), "sockets", enough=lambda answer: bool(answer.sockets)
        )
        for answer in answers:
            for socket in answer.sockets:
                if socket.id == sid:
                    return socket
        raise UnknownSocketError(f"no node has a socket {sid!r} in namespace {namespace!r}")

    async def _call_servers(
        self,
        namespace: str,
        data: Data,
        timeout: float | None,
        *,
        numbered_only: bool = False,
        own: bool = False,
    ) -> list[Any]:
        node = self._running()
        seconds = self._seconds(timeout)
        tracker: Answers[ServerSideEmitResponse] = await node.expect(
            namespace, numbered_only=numbered_only
        )
        pending = Pending(namespace, tracker, numbered_only=numbered_only)
        if own:
            tracker.joined(node.uid)
            node.start_soon(self._answer_self, node, pending, tracker, data)
        try:
            await node.ask(
                pending,
                lambda request_id, seq: ServerSideEmit(
                    sender=node.uid,
                    namespace=namespace,
                    seq=seq,
                    data=data,
                    request_id=request_id,
                    direct=node.direct,
                ),
                seconds,
            )
        except RequestTimeoutError as exc:
            exc.partial = self._server_answers(node, tracker)
            raise
        return self._server_answers(node, tracker)

    async def _answer_self(
        self,
        node: Node,
        pending: Pending,
        tracker: Answers[ServerSideEmitResponse],
        request: Data,
    ) -> None:
        data = Data(b"null")
        try:
            answer = await self._run_hook(from_data(request, self._loads)[1])
            data = to_data(answer, self._dumps)
        finally:
            own = ServerSideEmitResponse(
                sender=node.uid, namespace=pending.namespace, request_id="", data=data
            )
            tracker.answered(node.uid, own)
            pending.changed.set()

    def _server_answers(self, node: Node, tracker: Answers[ServerSideEmitResponse]) -> list[Any]:
        own_first = sorted(tracker.answers, key=lambda answer: answer.sender != node.uid)
        return [from_data(answer.data, self._loads) for answer in own_first]


def open_postgres_adapter(
    uri: str | None = None, **options: Unpack[OptionValues]
) -> AbstractAsyncContextManager[PostgresManager]:
    """Make a :class:`PostgresManager`, run it for an ``async with`` block, and yield it.

    Takes what :class:`PostgresManager` takes.

    :raises ValueError: an option is out of range.
    :raises AdapterError: PostgreSQL cannot be reached or refuses.
    :raises PublishError: at the end of the block, messages could not be sent within
        ``shutdown_timeout``.
    """
    return PostgresManager(uri, **options)


def _remote_socket(info: SocketInfo) -> RemoteSocket:
    handshake: Any = info.handshake
    details = cast("dict[str, Any]", handshake) if isinstance(handshake, dict) else {}
    return RemoteSocket(info.id, frozenset(info.rooms), info.data, details)


def _rooms_in(answer: FetchSocketsResponse) -> set[Room]:
    if answer.rooms is not None:
        return set(answer.rooms)
    return {room for socket in answer.sockets for room in socket.rooms}


def _command(
    kind: type[SocketsJoin | SocketsLeave],
    uid: str,
    namespace: str,
    target: Target,
    rooms: tuple[Room, ...],
) -> Callable[[int], SocketsJoin | SocketsLeave]:
    return lambda seq: kind(sender=uid, namespace=namespace, seq=seq, target=target, rooms=rooms)
