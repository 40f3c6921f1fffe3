"""The clients and handlers of this process, as the other nodes see and use them."""

from __future__ import annotations

import datetime
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import anyio
import anyio.lowlevel
import msgspec
from engineio.async_socket import AsyncSocket

from .errors import AdapterClosedError
from .local_manager import AckCallback, AnyIOManager
from .node import Node
from .open_requests import ACK_LIFETIME
from .protocol.messages import (
    CUSTOM_REQUEST,
    Attached,
    Broadcast,
    BroadcastAck,
    BroadcastClientCount,
    Data,
    DisconnectSockets,
    Done,
    FetchSockets,
    FetchSocketsResponse,
    Room,
    ServerSideEmit,
    ServerSideEmitResponse,
    SocketInfo,
    SocketsJoin,
    SocketsLeave,
    Target,
    Tree,
    Want,
    from_data,
    to_data,
)
from .reporting import HandlerError

_POISON = "__proto__"
"""A key for which Node refuses a whole message, and which a client can choose."""

_LONGEST_TIMEOUT = 86_400.0

_auth_sent: ContextVar[Any] = ContextVar("auth_sent", default=None)
"""The auth of the client that is connecting in this task."""


class ClusterMember(AnyIOManager):
    """A manager whose clients and handlers serve a :class:`.node.Node` while one runs."""

    def __init__(self) -> None:
        super().__init__()
        self._node: Node | None = None
        self._event_handlers: dict[tuple[str, str], Callable[..., Any]] = {}
        self._hook: Callable[[Any], Any] | None = None
        self._auth: dict[tuple[str, str], Any] = {}
        self._connected_at: dict[tuple[str, str], float] = {}
        self._disconnecting: dict[tuple[str, str], anyio.Event] = {}
        self._awaited: list[tuple[float, AckCallback, list[str]]] = []

    def set_server(self, server: Any) -> None:
        """Attach the manager to its server.

        :raises TypeError: the server is not an asynchronous one.
        """
        super().set_server(server)
        handle_connect = getattr(server, "_handle_connect", None)
        if handle_connect is None:
            return

        async def remember_auth(eio_sid: str, namespace: str | None, data: Any) -> None:
            # only the connect handler is given the client's auth, and handshakes show it
            token = _auth_sent.set(data)
            try:
                await handle_connect(eio_sid, namespace, data)
            finally:
                _auth_sent.reset(token)

        server._handle_connect = remember_auth

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Register a client that is connecting, once its namespace is listened to.

        Returns None, which refuses the client, where PostgreSQL can have no channel for the
        namespace (over 63 bytes with the prefix), and where the client has gone meanwhile.
        """
        if self._node is not None and not self._node.ending:
            try:
                await self._node.join(namespace)
            except (TypeError, ValueError) as exc:
                self._get_logger().error("a client was refused: %s", exc)
                return None
            if self.server is not None and eio_sid not in self.server.environ:
                return None
        sid: str | None = await super().pre_connect(eio_sid, namespace)
        if sid is not None:
            self._connected_at[namespace, sid] = time.time()
            self._auth[eio_sid, namespace] = _auth_sent.get()
        return sid

    def basic_disconnect(  # type: ignore[override]
        self, sid: str, namespace: str, *, ignore_queue: bool = False
    ) -> None:
        """Forget a client of this node."""
        eio_sid = self._local_sockets(namespace).get(sid)
        super().basic_disconnect(sid, namespace)
        self._connected_at.pop((namespace, sid), None)
        if eio_sid is not None:
            self._auth.pop((eio_sid, namespace), None)

    # What the other nodes ask (node.LocalSide)

    def _wants(self, namespace: str, message: Attached) -> bool:
        """Tell whether an attachment concerns a client of this node."""
        rooms = self.rooms.get(namespace, {})
        return message.rooms is None or any(room in rooms for room in message.rooms)

    def _keeps(self, namespace: str) -> bool:
        """Tell whether a namespace has clients or handlers here."""
        return self._has_clients(namespace) or self._declares(namespace)

    def _has_clients(self, namespace: str) -> bool:
        """Tell whether a namespace has clients here."""
        return namespace in self.rooms

    def _declares(self, namespace: str) -> bool:
        """Tell whether the application itself has named a namespace, not only a client."""
        server = self.server
        return (
            namespace == "/"
            or any(known == namespace for known, _ in self._event_handlers)
            or (
                server is not None
                and (
                    namespace in server.handlers
                    or namespace in server.namespace_handlers
                    or (server.namespaces != "*" and namespace in server.namespaces)
                )
            )
        )

    def _on_broadcast(self, message: Broadcast) -> None:
        """Deliver another node's event to this node's clients."""
        node = self._serving()
        namespace, request_id = message.namespace, message.request_id
        target = message.target
        if self._disconnecting:
            # what was sent after a disconnection must not come before it
            leaving = (sid for ns, sid in self._disconnecting if ns == namespace)
            target = Target(target.rooms, (*target.excluded, *leaving), target.timeout_ms)
        callback: AckCallback | None = None
        if request_id is not None:
            callback = partial(self._acknowledge, node, namespace, request_id)
            sids = list(self._recipients(namespace, target))
            lifetime = ACK_LIFETIME
            if (timeout := target.timeout_ms) is not None and timeout >= 0:
                lifetime = min(timeout / 1_000, _LONGEST_TIMEOUT)
            if sids:
                self._awaited.append((anyio.current_time() + lifetime, callback, sids))
        count, overdue = self._deliver(namespace, target, message.data, callback)
        node.delivered += count
        if overdue:
            node.start_soon(self._send_overdue, overdue)
        if request_id is not None:
            node.answer(
                namespace,
                lambda seq: BroadcastClientCount(
                    sender=node.uid,
                    namespace=namespace,
                    seq=seq,
                    request_id=request_id,
                    count=count,
                ),
            )

    def _forget_overdue(self, now: float) -> None:
        """Forget the callbacks for acknowledgements that nobody would read any more."""
        kept: list[tuple[float, AckCallback, list[str]]] = []
        for awaited in self._awaited:
            if awaited[0] > now:
                kept.append(awaited)
            else:
                self._forget_callback(awaited[1], awaited[2])
        self._awaited = kept

    def _forget_callback(self, callback: AckCallback, sids: Iterable[str]) -> None:
        for sid in sids:
            callbacks = self.callbacks.get(sid, {})
            for number in [n for n, known in callbacks.items() if known is callback]:
                del callbacks[number]

    def _acknowledge(self, node: Node, namespace: str, request_id: str, *args: Any) -> None:
        data = to_data(list(args), self._dumps)
        node.answer(
            namespace,
            lambda seq: BroadcastAck(
                sender=node.uid, namespace=namespace, seq=seq, request_id=request_id, data=data
            ),
        )

    def _on_join_or_leave(self, message: SocketsJoin | SocketsLeave) -> None:
        """Let this node's sockets enter or leave rooms, as another node asks."""
        self._apply_rooms(type(message), message.namespace, message.target, message.rooms)
        self._say_done(message.namespace, message.request_id)

    def _say_done(self, namespace: str, request_id: str | None) -> None:
        if request_id is not None:
            node = self._serving()
            node.answer(
                namespace,
                lambda seq: Done(
                    sender=node.uid, namespace=namespace, seq=seq, request_id=request_id
                ),
            )

    def _on_disconnect(self, message: DisconnectSockets) -> None:
        """Disconnect this node's sockets, as another node asks."""
        node = self._serving()
        for sid in list(self._connected(message.namespace, message.target)):
            key = (message.namespace, sid)
            if key not in self._disconnecting:
                self._disconnecting[key] = anyio.Event()
                node.start_soon(self._disconnect_and_tell, sid, message)

    async def _disconnect_and_tell(self, sid: str, message: DisconnectSockets) -> None:
        namespace = message.namespace
        try:
            await self._disconnect_local(sid, namespace, message.close)
        finally:
            self._disconnecting.pop((namespace, sid)).set()
            self._say_done(namespace, message.request_id)

    def _on_fetch(self, message: FetchSockets) -> None:
        """Answer with this node's sockets."""
        node = self._serving()
        if message.settle and any(
            (message.namespace, sid) in self._disconnecting for sid in message.target.rooms
        ):
            node.start_soon(self._answer_settled, node, message)
        else:
            self._answer_fetch(node, message)

    async def _answer_settled(self, node: Node, message: FetchSockets) -> None:
        for sid in message.target.rooms:
            leaving = self._disconnecting.get((message.namespace, str(sid)))
            if leaving is not None:
                await leaving.wait()
        self._answer_fetch(node, message)

    def _answer_fetch(self, node: Node, message: FetchSockets) -> None:
        rooms: tuple[Room, ...] | None = None
        sockets: tuple[SocketInfo, ...] = ()
        if message.want == "rooms":
            rooms = tuple(self._rooms_of(message.namespace, message.target))
        else:
            sockets = tuple(self._describe(message.namespace, message.target, message.want))
        node.reply(
            message,
            lambda seq: FetchSocketsResponse(
                sender=node.uid,
                namespace=message.namespace,
                seq=seq,
                request_id=message.request_id,
                sockets=sockets,
                rooms=rooms,
                want=message.want,
            ),
        )

    async def _on_server_side(self, message: ServerSideEmit) -> None:
        """Run the handler of a server-side event, and answer."""
        node = self._serving()
        answer: Any = None
        # the asker gets its answer also when the handler fails; the node reports the error
        data = Data(b"null")
        event: Any = "?"
        try:
            event, *args = from_data(message.data, self._loads)
            if event == CUSTOM_REQUEST:
                answer = await self._run_hook(args[0] if args else None)
            elif handler := self._event_handlers.get((message.namespace, event)):
                answer = handler(*args)
                if inspect.isawaitable(answer):
                    answer = await answer
            data = to_data(answer, self._dumps)
        except Exception as exc:
            what = f"handler of the server-side event {event!r} in namespace {message.namespace}"
            if event == CUSTOM_REQUEST:
                what = "custom hook"
            raise HandlerError(f"the {what} has failed") from exc
        finally:
            request_id = message.request_id
            if request_id is not None:
                node.reply(
                    message,
                    lambda seq: ServerSideEmitResponse(
                        sender=node.uid,
                        namespace=message.namespace,
                        seq=seq,
                        request_id=request_id,
                        data=data,
                    ),
                )

    # Helpers

    def _serving(self) -> Node:
        """Return the node, whether or not it still (or already) accepts work from here."""
        assert self._node is not None  # noqa: S101 - a node serves only its own manager
        return self._node

    def _running(self) -> Node:
        node = self._node
        if node is None or node.closing:
            raise AdapterClosedError(
                "the adapter is not running: enter its block first (async with manager: ...)"
            )
        return node

    def _local_sockets(self, namespace: str) -> Mapping[str, str]:
        nobody: dict[str, str] = {}
        return self.rooms.get(namespace, {}).get(None, nobody)

    def _is_local(self, sid: str, namespace: str) -> bool:
        return sid in self._local_sockets(namespace)

    def _only_here(self, namespace: str, target: Target) -> bool:
        """Tell whether all of a target's rooms are the own rooms of this node's sockets."""
        if not target.rooms:
            return False
        sockets = self._local_sockets(namespace)
        return all(room in sockets for room in target.rooms)

    def _connected(self, namespace: str, target: Target) -> Iterable[str]:
        recipients = self._recipients(namespace, target)
        leaving = self.pending_disconnect.get(namespace)
        if not leaving and not self._disconnecting:
            return recipients
        gone = {*(leaving or ()), *(sid for ns, sid in self._disconnecting if ns == namespace)}
        return [sid for sid in recipients if sid not in gone]

    def _rooms_of(self, namespace: str, target: Target) -> set[Room]:
        rooms = self.rooms.get(namespace, {})
        if not target.rooms and not target.excluded:
            return {room for room in rooms if room is not None}
        sids = self._recipients(namespace, target).keys()
        return {
            name for name, room in rooms.items() if name is not None and not sids.isdisjoint(room)
        }

    def _describe(self, namespace: str, target: Target, want: Want) -> Iterable[SocketInfo]:
        sids = self._connected(namespace, target)
        if want == "ids":
            return [SocketInfo(sid) for sid in sids]
        return [self._describe_one(namespace, sid) for sid in sids]

    def _describe_one(self, namespace: str, sid: str) -> SocketInfo:
        eio_sid = self.eio_sid_from_sid(sid, namespace)
        socket = self.server.eio.sockets.get(eio_sid or "") if self.server is not None else None
        session: Any = {} if socket is None else socket.session.get(namespace, {})
        return SocketInfo(
            sid,
            tuple(self.get_rooms(sid, namespace)),
            _encodable(session),
            self._handshake(namespace, sid, eio_sid),
        )

    def _handshake(self, namespace: str, sid: str, eio_sid: str | None) -> dict[str, Any]:
        environ: dict[str, Any] = self.server.environ.get(eio_sid or "", {}) if self.server else {}
        issued = self._connected_at.get((namespace, sid), 0.0)
        auth = _encodable(self._auth.get((eio_sid or "", namespace)))
        return handshake(environ, issued, auth)

    def _apply_rooms(
        self,
        kind: type[SocketsJoin | SocketsLeave],
        namespace: str,
        target: Target,
        rooms: tuple[Room, ...],
    ) -> None:
        for sid in list(self._recipients(namespace, target)):
            for room in rooms:
                if kind is SocketsLeave:
                    # without its own room nobody could address it any more
                    if room != sid:
                        self.basic_leave_room(sid, namespace, room)
                elif sid == room or not self.is_sid_room(namespace, room):
                    self.basic_enter_room(sid, namespace, room)

    async def _run_hook(self, data: Any) -> Any:
        answer = None if self._hook is None else self._hook(data)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer

    async def _disconnect_local(self, sid: str, namespace: str, close: bool) -> None:
        server = self.server
        if server is None:
            await anyio.lowlevel.checkpoint()
            return
        eio_sid = self.eio_sid_from_sid(sid, namespace)
        await server.disconnect(sid, namespace=namespace, ignore_queue=True)
        if close and eio_sid is not None:
            socket = server.eio.sockets.get(eio_sid)
            await server.eio.disconnect(eio_sid)
            if type(socket) is AsyncSocket:
                # it leaves a WebSocket open for the client to close, which Node's client never does
                socket.queue.put_nowait(None)


def handshake(environ: dict[str, Any], issued: float, auth: Any) -> dict[str, Any]:
    """Return Node's ``socket.handshake`` for a WSGI or ASGI environment.

    ``issued`` is in seconds since 1970.
    """
    scope: dict[str, Any] = environ.get("asgi.scope") or {}
    headers = _headers(environ, scope)
    client: Any = scope.get("client")
    scheme = str(scope.get("scheme") or environ.get("wsgi.url_scheme") or "http")
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    moment = datetime.datetime.fromtimestamp(issued, datetime.UTC)
    return {
        "headers": headers,
        "time": moment.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)"),
        "address": client[0] if client else environ.get("REMOTE_ADDR", ""),
        "xdomain": "HTTP_ORIGIN" in environ,
        "secure": scheme in ("https", "wss") or environ.get("wsgi.url_scheme") == "https",
        "issued": round(issued * 1_000),
        "url": environ.get("RAW_URI") or environ.get("PATH_INFO", ""),
        "query": {key: values[-1] for key, values in query.items() if key != _POISON},
        "auth": {} if auth is None else auth,
    }


def _headers(environ: dict[str, Any], scope: dict[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    raw: Iterable[tuple[bytes, bytes]] | None = scope.get("headers")
    if raw is not None:
        # an environment does not tell "_" from "-" in their names
        for name, value in raw:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key in headers:
                text = headers[key] + ("; " if key == "cookie" else ", ") + text
            headers[key] = text
        return headers
    for key, value in environ.items():
        if key.startswith("HTTP_") and isinstance(value, str):
            headers[key[5:].replace("_", "-").lower()] = value
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if isinstance(environ.get(key), str):
            headers[key.replace("_", "-").lower()] = environ[key]
    return headers


def _encodable(session: Tree) -> Any:
    """Return a session, or a client's auth, without what cannot be sent or Node cannot read."""
    try:
        text = msgspec.json.encode(session)
        msgspec.msgpack.encode(session)
    except (TypeError, ValueError, OverflowError, RecursionError):
        if not isinstance(session, dict):
            return None
        return {
            key: kept
            for key, value in session.items()
            if isinstance(key, str)
            and key != _POISON
            and ((kept := _encodable(value)) is not None or value is None)
            and _encodable(key) is not None
        }
    return _without_poison(session) if _POISON.encode() in text else session


def _without_poison(value: Tree) -> Any:
    if isinstance(value, dict):
        return {key: _without_poison(item) for key, item in value.items() if key != _POISON}
    if isinstance(value, list | tuple):
        return [_without_poison(item) for item in value]
    return value
