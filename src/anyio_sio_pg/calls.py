"""What an application asks of the whole cluster, beside sending events: sockets and servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel

from .errors import AdapterError, RequestTimeoutError, UnknownSocketError
from .member import ClusterMember
from .node import Node
from .open_requests import Pending
from .options import Options
from .protocol.messages import (
    CUSTOM_REQUEST,
    EVERYONE,
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
    check_namespace,
    check_room,
    check_server_event,
    from_data,
    make_target,
    named_rooms,
    to_data,
)
from .protocol.requests import Answers
from .reporting import HandlerError

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


class ClusterCalls(ClusterMember):
    """A manager that asks the other nodes for their sockets and handlers, and tells them what to do."""

    def __init__(self, options: Options):
        super().__init__()
        self._options = options

    @property
    def requests_timeout(self) -> float:
        """Seconds for which a request waits for the other nodes."""
        return self._options.requests_timeout

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

        :raises ValueError: ``to`` is empty.
        :raises RequestTimeoutError: a node did not answer within ``requests_timeout``; ``partial``
            has the sockets of this node and of those that did.
        """
        target = make_target(to, None, except_rooms)
        if local:
            check_namespace(namespace)
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

        :raises ValueError: ``rooms`` is empty.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`; ``partial`` has the ids.
        """
        target = make_target(rooms, name="rooms")
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

        :raises ValueError: a room is a client's own, or ``to`` is empty.
        :raises TypeError: a room is neither a str nor an int.
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
        """Let the sockets of a target leave rooms, cluster-wide.

        :raises ValueError: ``to`` is empty.
        :raises TypeError: a room is neither a str nor an int.
        """
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

        :raises ValueError: ``to`` is empty.
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
        :raises TypeError: the room is neither a str nor an int.
        """
        await self._remote(SocketsJoin, sid, room, namespace)

    async def remote_leave(self, sid: str, room: Room, *, namespace: str = "/") -> None:
        """Let a socket leave a room; return once it has, wherever it is.

        :raises UnknownSocketError: no node has it.
        :raises RequestTimeoutError: as :meth:`fetch_sockets`.
        :raises TypeError: the room is neither a str nor an int.
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

        :raises ValueError: the name as in :meth:`server_side_emit`, or the namespace does not begin
            with a slash.
        :raises TypeError: the name is no text, or the handler cannot be called.
        """
        if callable(event):
            raise TypeError(
                "on_server_side needs the event's name:"
                f" @manager.on_server_side({getattr(event, '__name__', 'event')!r})"
            )
        check_server_event(event)
        check_namespace(namespace)

        def register(handler: Handler) -> Handler:
            if not callable(handler):
                raise TypeError(f"the handler of {event!r} must be a callable, not {handler!r}")
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
        """Register what answers :meth:`custom_request`, sync or async, as a decorator.

        :raises TypeError: it cannot be called.
        """
        if not callable(hook):
            raise TypeError(f"custom_hook must be given a callable, not {hook!r}")
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
        names = named_rooms(rooms)
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
        node = self._running()
        check_room(room)
        here = self._is_local(sid, namespace)
        if not here:
            # what is said to have failed must not be done later
            await node.reachable()
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
        except Exception as exc:
            raise HandlerError("the custom hook has failed") from exc
        finally:
            own = ServerSideEmitResponse(
                sender=node.uid, namespace=pending.namespace, request_id="", data=data
            )
            tracker.answered(node.uid, own)
            pending.changed.set()

    def _server_answers(self, node: Node, tracker: Answers[ServerSideEmitResponse]) -> list[Any]:
        own_first = sorted(tracker.answers, key=lambda answer: answer.sender != node.uid)
        return [from_data(answer.data, self._loads) for answer in own_first]


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
