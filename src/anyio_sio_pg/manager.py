"""python-socketio's client manager, on PostgreSQL: the public one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from .calls import ClusterCalls, Rooms
from .cluster_node import ClusterNode
from .errors import AdapterError, RequestTimeoutError
from .legacy_node import LegacyNode
from .local_manager import AckCallback, check_callback
from .node import Node
from .open_requests import ACK_LIFETIME, Pending
from .options import Options, OptionValues, check_names
from .protocol.messages import (
    Broadcast,
    Data,
    Room,
    SocketsJoin,
    SocketsLeave,
    Target,
    check_room,
    event_data,
    from_data,
    make_target,
)
from .protocol.requests import Acknowledgements
from .status import Stats, Status

if TYPE_CHECKING:
    from typing import Self, Unpack

    from .postgres.connection import AnyConnection


class PostgresManager(ClusterCalls, anyio.AsyncContextManagerMixin):
    """A client manager that makes many Socket.IO servers act as one, through PostgreSQL.

    ``uri`` is anything that libpq takes (a URL, ``key=value`` pairs, several hosts), or
    ``HOST:PORT``; None means the ``PG*`` environment. The other options are described under
    :doc:`/reference/options`. Nothing is connected before the ``async with`` block; outside of it
    only local work is possible, and the rest raises :class:`AdapterClosedError`. The block can be
    entered again after it has ended.

    :raises ValueError: an option is out of range.
    :raises TypeError: an option is of a wrong type, or there is none of that name.
    """

    def __init__(self, uri: str | None = None, **options: Unpack[OptionValues]):
        check_names(options)
        super().__init__(Options(uri=uri, **options))
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

    async def disconnect(  # type: ignore[override]
        self, sid: str, namespace: str, *, ignore_queue: bool = False
    ) -> None:
        """Forget a client, wherever it is."""
        if ignore_queue or self._is_local(sid, namespace):
            self.basic_disconnect(sid, namespace)
        else:
            await self._disconnect_elsewhere(sid, namespace)

    async def enter_room(
        self, sid: str, namespace: str, room: Room, eio_sid: str | None = None
    ) -> None:
        """Add a client to a room, wherever it is; see :meth:`remote_join` to know it done.

        :raises TypeError: the room is neither a str nor an int.
        """
        check_room(room)
        if eio_sid is not None or self._is_local(sid, namespace):
            self.basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        else:
            await self._join_or_leave(SocketsJoin, room, sid, None, namespace, single=True)

    async def leave_room(self, sid: str, namespace: str, room: Room) -> None:
        """Remove a client from a room, wherever it is.

        :raises TypeError: the room is neither a str nor an int.
        """
        check_room(room)
        if self._is_local(sid, namespace):
            self.basic_leave_room(sid, namespace, room)
        else:
            await self._join_or_leave(SocketsLeave, room, sid, None, namespace, single=True)

    async def close_room(self, room: Room, namespace: str | None = None) -> None:
        """Remove everyone from a room, cluster-wide.

        :raises ValueError: the room is a client's own.
        :raises TypeError: the room is neither a str nor an int.
        """
        check_room(room)
        namespace = namespace or "/"
        if self.is_sid_room(namespace, room):
            raise ValueError("cannot close a sid room")
        await self.sockets_leave(room, to=room, namespace=namespace)

    # Events

    async def emit(  # type: ignore[override]
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
        ignore_queue: bool = False,
    ) -> None:
        """Send an event to one client, to rooms or to everyone in the namespace, cluster-wide.

        The clients of this node get it at once; for the others it goes into the outbox. ``data``:
        a tuple is several arguments, None is none. ``to`` (or ``room``): a room, a sid or several;
        none means everyone. ``skip_sid`` and ``except_rooms`` are left out. ``callback`` is called
        with the arguments of each client's acknowledgement; it waits for those of other nodes for
        an hour. ``local`` (or python-socketio's ``ignore_queue``) stays on this node.

        :raises ValueError: the event's name is reserved, JSON cannot hold a number in it, the data
            hold themselves or are nested too deeply, ``to`` is empty, or the namespace does not
            begin with a slash or has no channel (over 63 bytes with the prefix). Nothing was sent.
        :raises TypeError: JSON cannot hold the data (or what the server's own JSON module raises),
            a room is neither a str nor an int, or ``callback`` cannot be called. Nothing was sent.
        :raises PublishError: the outbox stayed full for ``publish_timeout``.
        :raises AdapterClosedError: outside of the block.
        """
        if local or ignore_queue:
            await super().emit(
                event,
                data,
                namespace,
                skip_sid=skip_sid,
                room=room,
                callback=callback,
                to=to,
                except_rooms=except_rooms,
            )
            return
        node = self._running()
        namespace = namespace or "/"
        node.check_namespace(namespace)
        check_callback(callback)
        if to is None:
            target = make_target(room, skip_sid, except_rooms, name="room")
        else:
            target = make_target(to, skip_sid, except_rooms)
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
            await node.ask(pending, make, seconds, eager=True)
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


def open_postgres_adapter(
    uri: str | None = None, **options: Unpack[OptionValues]
) -> AbstractAsyncContextManager[PostgresManager]:
    """Make a :class:`PostgresManager`, run it for an ``async with`` block, and yield it.

    Takes what :class:`PostgresManager` takes.

    :raises ValueError: an option is out of range.
    :raises TypeError: an option is of a wrong type, or there is none of that name.
    :raises AdapterError: PostgreSQL cannot be reached or refuses.
    :raises PublishError: at the end of the block, messages could not be sent within
        ``shutdown_timeout``.
    """
    return PostgresManager(uri, **options)
