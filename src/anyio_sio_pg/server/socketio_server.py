"""The Socket.IO server (Socket.IO protocol v5)."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast, overload

import anyio
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio import AsyncManager, exceptions
from socketio.packet import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    Packet,
)

from ..local_manager import AckCallback, AnyIOManager
from ..protocol.messages import RESERVED_EVENTS, Room
from .base import BaseServer
from .engine_server import AnyIOEngineServer, accepts, check_number, listed
from .primitives import BackgroundTask, Event
from .tasks import EndedError
from .timetable import Timer

if TYPE_CHECKING:
    import logging
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")

_Value = dict[str, Any] | list[Any] | str | bytes | float | None
"""What a client's packet is made of."""
_ATTACHED: Final = 10
"""An event's attachments together can have this times ``max_http_buffer_size`` bytes: as many as
the reference server allows, which counts ten attachments of any size."""
_MOST_ATTACHMENTS: Final = 1_000
_NAMESPACE: Final = r"(?:/[^,]*(?:,|\Z))?"
_PACKET: Final = re.compile(
    # type, number of attachments, namespace, id, and how the payload begins
    rf"0{_NAMESPACE}\d*(?:\{{|\Z)|1{_NAMESPACE}\d*\Z|2{_NAMESPACE}\d*\[|3{_NAMESPACE}\d+\["
    rf"|5[1-9]\d*-{_NAMESPACE}\d*\[|6[1-9]\d*-{_NAMESPACE}\d+\[",
    re.ASCII,
)
_UNDEFINED: Final = (0, b"\0")
"""What JavaScript's undefined is in MessagePack: an extension type."""
_INVALID_NAMESPACE: Final = {"message": "Invalid namespace"}
_UNABLE_TO_CONNECT: Final = {"message": "Unable to connect"}


class AnyIOServer(BaseServer, anyio.AsyncContextManagerMixin):
    """A Socket.IO server on asyncio and on Trio, behind any ASGI server.

    It serves inside its ``async with`` block, whose task group owns every ping, handler and
    background task; outside of it, requests are answered with 503. The options are those of
    :class:`socketio.AsyncServer`, with the same defaults and meaning, and these:

    :param client_manager: A :class:`.PostgresManager`, or None for an :class:`.AnyIOManager`. On
        asyncio, any other manager made for asyncio will do, too.
    :param connect_timeout: Seconds in which a client has to join a namespace; it is disconnected
        otherwise.
    :param shutdown_timeout: Seconds for which the end of the block waits for handlers to end and
        for clients to take what they have not been sent yet.
    :raises ValueError: an option is out of its range.
    :raises TypeError: there is no such option.
    """

    if TYPE_CHECKING:

        @property
        def eio(self) -> AnyIOEngineServer:  # noqa: D102 - an attribute, in truth
            ...

    def __init__(
        self,
        client_manager: AsyncManager | None = None,
        logger: bool | logging.Logger = False,
        json: Any = None,
        async_handlers: bool = True,
        namespaces: Iterable[str] | Literal["*"] | None = None,
        *,
        serializer: Literal["default", "msgpack"] | type[Packet] = "default",
        always_connect: bool = False,
        connect_timeout: float = 45.0,
        shutdown_timeout: float = 5.0,
        engineio_logger: bool | logging.Logger = False,
        async_mode: Literal["asgi"] | None = None,
        ping_interval: float | tuple[float, float] = 25,
        ping_timeout: float = 20,
        max_http_buffer_size: int = 1_000_000,
        allow_upgrades: bool = True,
        http_compression: bool = True,
        compression_threshold: int = 1024,
        cookie: str | Mapping[str, Any] | None = None,
        cors_allowed_origins: str | Iterable[str] | Callable[..., bool] | None = None,
        cors_credentials: bool = True,
        monitor_clients: bool | None = None,
        transports: str | Iterable[str] | None = None,
    ):
        check_number("connect_timeout", connect_timeout, least=0, included=False)
        if namespaces is not None and namespaces != "*":
            namespaces = _namespaces(namespaces)
        _check_serializer(serializer)
        _check_manager(client_manager)
        super().__init__(
            client_manager=AnyIOManager() if client_manager is None else client_manager,
            logger=logger,
            serializer=serializer,
            json=json,
            async_handlers=async_handlers,
            always_connect=always_connect,
            namespaces=namespaces,
            engineio_logger=engineio_logger,
            shutdown_timeout=shutdown_timeout,
            async_mode=async_mode,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_http_buffer_size=max_http_buffer_size,
            allow_upgrades=allow_upgrades,
            http_compression=http_compression,
            compression_threshold=compression_threshold,
            cookie=cookie,
            cors_allowed_origins=cors_allowed_origins,
            cors_credentials=cors_credentials,
            monitor_clients=monitor_clients,
            transports=transports,
        )
        if not self.packet_class.uses_binary_events:
            self.packet_class = _as_official(self.packet_class)
        self.connect_timeout = connect_timeout
        # what has to be in a task of the block is put there one level up from the messages
        self.eio.handles_messages_inline = True
        self._attached: dict[str, int] = {}
        self._leaving: dict[tuple[str, str], anyio.Event] = {}
        self._joining: dict[str, Timer] = {}

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        # "asyncio" or "trio"
        backend = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
        if backend != "asyncio" and not isinstance(self.manager, AnyIOManager):
            raise TypeError(
                f"{type(self.manager).__name__} runs on asyncio only; on {backend} the"
                " client_manager has to be a PostgresManager or an AnyIOManager"
            )
        async with self.eio:
            yield self

    def _engineio_server_class(self) -> type[AnyIOEngineServer]:
        return AnyIOEngineServer

    async def shutdown(self) -> None:
        """Disconnect all clients, and refuse new ones.

        Call it before the ASGI server is told to end, so that this need not wait for open
        connections; the end of the block does it, too. It returns when the disconnect handlers
        have run, and after ``shutdown_timeout`` seconds at the latest.
        """
        self.logger.info("Socket.IO is shutting down")
        await self.eio.shutdown()

    @overload
    def start_background_task(
        self, target: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> BackgroundTask[T]: ...
    @overload
    def start_background_task(
        self, target: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> BackgroundTask[T]: ...
    def start_background_task(
        self, target: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> BackgroundTask[Any]:
        """Start a task of the application's in the server's block; its end cancels it.

        Awaiting what this returns waits for the task and returns its result. What it raises is
        logged, too. Tasks that are started together begin in any order on Trio.

        :raises RuntimeError: the block does not run.
        """
        return self.eio.start_background_task(target, *args, **kwargs)

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Room | Iterable[Room] | None = None,
        room: Room | Iterable[Room] | None = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        callback: AckCallback | None = None,
        ignore_queue: bool = False,
    ) -> None:
        """Send an event to one client, to rooms or to everyone in the namespace.

        ``data``: a tuple is several arguments, None is none. ``to`` (or ``room``): a room, a sid
        or several; none means everyone. ``skip_sid`` is left out. ``callback`` is called with the
        arguments of a client's acknowledgement.
        """
        await super().emit(
            event, data, to, room, skip_sid, namespace, callback, ignore_queue=ignore_queue
        )

    async def send(
        self,
        data: Any,
        to: Room | Iterable[Room] | None = None,
        room: Room | Iterable[Room] | None = None,
        skip_sid: str | Iterable[str] | None = None,
        namespace: str | None = None,
        callback: AckCallback | None = None,
        ignore_queue: bool = False,
    ) -> None:
        """Send an event named "message"; the rest as in :meth:`emit`."""
        await self.emit("message", data, to, room, skip_sid, namespace, callback, ignore_queue)

    async def call(
        self,
        event: str,
        data: Any = None,
        to: str | None = None,
        sid: str | None = None,
        namespace: str | None = None,
        timeout: float | None = 60,
        ignore_queue: bool = False,
    ) -> Any:
        """Send an event to one client and return its acknowledgement.

        That is None, the argument, or a tuple of several. ``timeout`` is in seconds.

        :raises socketio.exceptions.TimeoutError: the client has not acknowledged it in time.
        :raises ValueError: no client is given.
        :raises RuntimeError: ``async_handlers`` is False, so that acknowledgements would wait for
            the handler that waits for them.
        """
        if to is None and sid is None:
            raise ValueError("Cannot use call() to broadcast.")
        if not self.async_handlers:
            raise RuntimeError("Cannot use call() when async_handlers is False.")
        acknowledged = Event()
        answer: list[Any] = []

        def acknowledge(*args: Any) -> None:
            answer.extend(args)
            acknowledged.set()

        await self.emit(
            event,
            data,
            to=to or sid,
            namespace=namespace,
            callback=acknowledge,
            ignore_queue=ignore_queue,
        )
        with anyio.move_on_after(timeout):
            await acknowledged.wait()
        if not acknowledged.is_set():
            raise exceptions.TimeoutError()
        return tuple(answer) if len(answer) > 1 else answer[0] if answer else None

    async def disconnect(
        self, sid: str, namespace: str | None = None, ignore_queue: bool = False
    ) -> None:
        """Disconnect a client from a namespace; its connection stays."""
        namespace = namespace or "/"
        if ignore_queue:
            here = self.manager.is_connected(sid, namespace)
        else:
            here = await self.manager.can_disconnect(sid, namespace)
        if not here:
            return
        self.logger.info("Disconnecting %s [%s]", sid, namespace)
        eio_sid = self.manager.eio_sid_from_sid(sid, namespace)
        assert eio_sid is not None  # noqa: S101 - for the type checkers
        await self._leave(eio_sid, sid, namespace, self.reason.SERVER_DISCONNECT)

    async def _leave(self, eio_sid: str, sid: str, namespace: str, reason: str) -> None:
        """Take a client out of a namespace, once its handler has been told."""
        self.manager.pre_disconnect(sid, namespace)
        left = self._leaving[eio_sid, namespace] = anyio.Event()
        if reason == self.reason.SERVER_DISCONNECT:
            await self._send_packet(eio_sid, self.packet_class(DISCONNECT, namespace=namespace))
        try:
            await self._trigger_event("disconnect", namespace, sid, reason)
        except Exception:
            self.logger.exception("the disconnect handler of %s raised", namespace)
        finally:
            # when it is cancelled, too: a client that has gone must not stay in its rooms
            with anyio.CancelScope(shield=True):
                await self.manager.disconnect(sid, namespace, ignore_queue=True)
            del self._leaving[eio_sid, namespace]
            left.set()

    # packets to clients

    async def _send_packet(self, eio_sid: str, pkt: Packet) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            self.logger.info("Cannot send to %s, it has gone", eio_sid)
            return
        encoded = pkt.encode()
        # nothing may come between an event and its attachments
        for frame in encoded if isinstance(encoded, list) else [encoded]:
            socket.put(EnginePacket(MESSAGE, frame))

    # packets from clients

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        if not self.manager_initialized:
            self.manager_initialized = True
            self.manager.initialize()
        self.environ[eio_sid] = environ
        self._joining[eio_sid] = self.eio.tasks.timetable.call_later(
            self.connect_timeout, lambda: self._give_up(eio_sid)
        )

    def _give_up(self, eio_sid: str) -> None:
        self.logger.info("%s has joined no namespace in time", eio_sid)
        self.eio.abort(eio_sid, self.reason.SERVER_DISCONNECT)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self._forget_joining(eio_sid)
        self._binary_packet.pop(eio_sid, None)
        self._attached.pop(eio_sid, None)
        namespaces = list(self.manager.get_namespaces())
        try:
            for namespace in namespaces:
                await self._handle_disconnect(eio_sid, namespace, reason)
        finally:
            self.environ.pop(eio_sid, None)
            # when it is cancelled, too: a client that has gone must not stay anywhere
            with anyio.CancelScope(shield=True):
                for namespace in namespaces:
                    sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
                    if sid is not None and self.manager.is_connected(sid, namespace):
                        await self.manager.disconnect(sid, namespace, ignore_queue=True)

    def _forget_joining(self, eio_sid: str) -> None:
        timer = self._joining.pop(eio_sid, None)
        if timer is not None:
            timer.cancel()

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        try:
            pkt = self._decode(eio_sid, data)
        except Exception as exc:  # noqa: BLE001 - whatever a client can make a codec raise
            self.logger.info("%s has sent what is no packet: %r", eio_sid, exc)
            self.eio.abort(eio_sid, self.reason.TRANSPORT_ERROR)
            return
        if pkt is None:
            return
        with suppress(EndedError):
            await self._handle_packet(eio_sid, pkt)

    async def _handle_packet(self, eio_sid: str, pkt: Packet) -> None:
        if pkt.packet_type == CONNECT:
            await self._inline(eio_sid, self._handle_connect, eio_sid, pkt.namespace, pkt.data)
        elif not self._has_joined(eio_sid, pkt.namespace or "/"):
            # it may have been sent before the client could know that it was disconnected
            self.logger.info("%s is not in %s, where it has sent to", eio_sid, pkt.namespace)
        elif pkt.packet_type == DISCONNECT:
            reason = self.reason.CLIENT_DISCONNECT
            # whatever becomes of the request, the application is told
            await self.eio.tasks.finish(
                self._handle_disconnect,
                eio_sid,
                pkt.namespace,
                reason,
                subject=self._subject(eio_sid),
            )
        elif pkt.packet_type in (EVENT, BINARY_EVENT):
            await self._handle_event(eio_sid, pkt.namespace, pkt.id, pkt.data)
        else:
            await self._inline(eio_sid, self._handle_ack, eio_sid, pkt.namespace, pkt.id, pkt.data)

    async def _inline(
        self, eio_sid: str, function: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        """Do what a client's transport has to wait for before it goes on."""
        await self.eio.tasks.apart(function, *args, subject=self._subject(eio_sid))

    def _subject(self, eio_sid: str) -> object:
        socket = self.eio.sockets.get(eio_sid)
        return None if socket is None else socket.inline

    def _has_joined(self, eio_sid: str, namespace: str) -> bool:
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        return sid is not None and self.manager.is_connected(sid, namespace)

    def _decode(self, eio_sid: str, data: Any) -> Packet | None:
        """Return a client's packet, once it is whole (section "Packet encoding").

        :raises ValueError: it is none, or one that a client may not send.
        """
        partial = self._binary_packet.get(eio_sid)
        if partial is not None:
            if not isinstance(data, bytes):
                raise ValueError("text where an attachment is due")
            limit = _ATTACHED * self.eio.max_http_buffer_size
            self._attached[eio_sid] += len(data)
            if self._attached[eio_sid] > limit:
                raise ValueError(f"attachments of more than {limit} bytes")
            if not partial.add_attachment(data):
                return None
            del self._binary_packet[eio_sid], self._attached[eio_sid]
            return partial
        if not isinstance(data, str) and self.packet_class.uses_binary_events:
            raise ValueError("an attachment that no packet has announced")
        if self.packet_class is Packet:
            _check_text(data)
        pkt = self.packet_class(encoded_packet=data)
        _check_packet(pkt)
        if pkt.packet_type != CONNECT and eio_sid in self._joining:
            raise ValueError("a packet of a client that has joined no namespace")
        if pkt.attachment_count:
            if pkt.attachment_count > _MOST_ATTACHMENTS:
                raise ValueError(f"more than {_MOST_ATTACHMENTS} attachments")
            _check_placeholders(pkt.data, pkt.attachment_count)
            self._binary_packet[eio_sid] = pkt
            self._attached[eio_sid] = 0
            return None
        return pkt

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        """Let a client into a namespace (section "Connection to a namespace")."""
        namespace = namespace or "/"
        environ = self.environ.get(eio_sid)
        if environ is None:
            return
        if (left := self._leaving.get((eio_sid, namespace))) is not None:
            # its disconnect handler is still running
            await left.wait()
        known = self.manager.sid_from_eio_sid(eio_sid, namespace)
        if known is not None and self.manager.is_connected(known, namespace):
            self.logger.info("%s has connected to %s twice", eio_sid, namespace)
            self.eio.abort(eio_sid, self.reason.TRANSPORT_ERROR)
            return
        if not self._accepts(namespace):
            await self._refuse(eio_sid, namespace, _INVALID_NAMESPACE)
            return
        sid = await self.manager.pre_connect(eio_sid, namespace)
        if sid is None:
            await self._refuse(eio_sid, namespace, _UNABLE_TO_CONNECT)
            return
        accepted = False
        try:
            if self.always_connect:
                await self._welcome(eio_sid, sid, namespace)
            refusal = await self._ask(namespace, sid, environ, data)
            accepted = refusal is None
        finally:
            if not accepted:
                if self.manager.is_connected(sid, namespace):
                    # it was let in before its handler was asked
                    self.manager.pre_disconnect(sid, namespace)
                with anyio.CancelScope(shield=True):
                    await self.manager.disconnect(sid, namespace, ignore_queue=True)
        if not accepted:
            if self.always_connect:
                # "it must not have a payload", as the official clients insist
                pkt = self.packet_class(DISCONNECT, namespace=namespace)
                await self._send_packet(eio_sid, pkt)
            else:
                await self._refuse(eio_sid, namespace, refusal)
            return
        if not self.always_connect:
            await self._welcome(eio_sid, sid, namespace)
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closing:
            # it has gone while its handler was running
            reason = self.reason.TRANSPORT_CLOSE
            await self.eio.tasks.finish(self._handle_disconnect, eio_sid, namespace, reason)

    def _accepts(self, namespace: str) -> bool:
        return (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )

    async def _welcome(self, eio_sid: str, sid: str, namespace: str) -> None:
        self._forget_joining(eio_sid)
        pkt = self.packet_class(CONNECT, {"sid": sid}, namespace=namespace)
        await self._send_packet(eio_sid, pkt)
        await self.manager.connect(sid, namespace)

    async def _refuse(self, eio_sid: str, namespace: str, reason: Any) -> None:
        pkt = self.packet_class(CONNECT_ERROR, data=reason, namespace=namespace)
        await self._send_packet(eio_sid, pkt)

    async def _ask(self, namespace: str, sid: str, environ: dict[str, Any], auth: Any) -> Any:
        """Ask the connect handler whether it accepts a client; return why not, None if it does."""
        try:
            accepted = await self._trigger_event("connect", namespace, sid, environ, auth or None)
        except exceptions.ConnectionRefusedError as exc:
            return exc.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        except Exception:
            self.logger.exception("the connect handler of %s raised", namespace)
            return {"message": "Internal server error"}
        if accepted is False:
            return exceptions.ConnectionRefusedError().error_args
        return None

    async def _handle_disconnect(
        self, eio_sid: str, namespace: str | None, reason: str | None = None
    ) -> None:
        namespace = namespace or "/"
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        if sid is not None and self.manager.is_connected(sid, namespace):
            reason = reason or self.reason.CLIENT_DISCONNECT
            await self._leave(eio_sid, sid, namespace, reason)

    async def _handle_event(
        self, eio_sid: str, namespace: str | None, id: int | None, data: list[Any]
    ) -> None:
        namespace = namespace or "/"
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        self.logger.info('received event "%s" from %s [%s]', data[0], sid, namespace)
        if sid is None or not self.manager.is_connected(sid, namespace):
            self.logger.warning("%s is not connected to namespace %s", sid, namespace)
            return
        arguments = (self, sid, eio_sid, data, namespace, id)
        if self.async_handlers:
            await self.eio.tasks.begin(self._handle_event_internal, *arguments)
        else:
            await self._inline(eio_sid, self._handle_event_internal, *arguments)

    async def _trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        """Call the application's handler of an event."""
        handler, arguments = self._get_event_handler(event, namespace, args)
        if handler is None:
            target, arguments = self._get_namespace_handler(namespace, args)
            if target is None:
                return self.not_handled
            method = getattr(target, f"on_{event}", None)
            return await target.trigger_event(event, *_fitting(method, event, arguments))
        result = handler(*_fitting(handler, event, arguments))
        return cast("Any", await result) if isinstance(result, Awaitable) else result


def _fitting(
    handler: Callable[..., Any] | None, event: str, arguments: tuple[Any, ...]
) -> tuple[Any, ...]:
    # connect handlers may do without the auth, disconnect handlers without the reason
    if handler is None or event not in ("connect", "disconnect"):
        return arguments
    return arguments if accepts(handler, len(arguments)) else arguments[:-1]


def _check_text(text: str) -> None:
    """Check what the default codec lets pass, before it does.

    :raises ValueError: it is not a packet.
    """
    start = _PACKET.match(text)
    if start is None:
        raise ValueError(f"{text[:100]!r} does not begin as a packet does")
    payload = start.end() - 1
    if text[payload] in "[{" and ("NaN" in text or "Infinity" in text):
        # Python reads them, where JSON does not have them
        json.loads(text[payload:], parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _as_official(packet_class: type[Packet]) -> type[Packet]:
    """Return a MessagePack codec that does without data as socket.io-msgpack-parser does.

    That refuses a DISCONNECT packet with the null that python-socketio's writes for no data, and
    takes it for an error of the transport; its own CONNECT packet without auth has an undefined.
    """
    base: Any = packet_class

    def to_dict(pkt: Any) -> dict[str, Any]:
        packed: dict[str, Any] = base._to_dict(pkt)
        return {key: value for key, value in packed.items() if key != "data" or value is not None}

    def decode(pkt: Any, encoded_packet: bytes) -> None:
        base.decode(pkt, encoded_packet)
        if pkt.data == _UNDEFINED:
            pkt.data = None

    return type(packet_class.__name__, (packet_class,), {"_to_dict": to_dict, "decode": decode})


def _check_packet(pkt: Packet) -> None:
    """Check what a codec lets pass.

    :raises ValueError: the packet is none that a client may send.
    """
    kind = pkt.packet_type
    data: _Value = pkt.data
    if kind == CONNECT:
        valid = data is None or isinstance(data, dict)
    elif kind == DISCONNECT:
        valid = data is None
    elif kind in (EVENT, BINARY_EVENT):
        valid = isinstance(data, list) and bool(data) and _is_event_name(data[0])
    else:
        valid = kind in (ACK, BINARY_ACK) and isinstance(data, list) and pkt.id is not None
    if pkt.attachment_count and kind not in (BINARY_EVENT, BINARY_ACK):
        valid = False
    if not valid or not _is_address(pkt.namespace, pkt.id):
        raise ValueError(f"a packet of type {kind!r} with data {str(data)[:100]!r}")


def _is_address(namespace: object, id: object) -> bool:
    # MessagePack's codec takes them as they come
    return isinstance(namespace, str | None) and isinstance(id, int | None)


def _check_placeholders(data: _Value, count: int) -> None:
    """Check that each placeholder stands for an attachment.

    :raises ValueError: one does not.
    """
    items: Iterable[Any]
    if isinstance(data, dict):
        if data.get("_placeholder"):
            number = data.get("num")
            if type(number) is not int or not 0 <= number < count:
                raise ValueError(f"a placeholder for attachment {number!r} of {count}")
        items = data.values()
    elif isinstance(data, list):
        items = data
    else:
        return
    for item in items:
        _check_placeholders(item, count)


def _is_event_name(name: Any) -> bool:
    if isinstance(name, str):
        return name not in RESERVED_EVENTS
    return isinstance(name, int | float) and not isinstance(name, bool)


def _namespaces(namespaces: Any) -> list[str]:
    names = listed(namespaces)
    for name in names:
        if not isinstance(name, str) or not name.startswith("/"):
            raise ValueError(f"namespaces has {name!r}, and each name has to start with '/'")
    return names


def _check_serializer(value: Any) -> None:
    if value not in ("default", "msgpack") and not (
        isinstance(value, type) and issubclass(value, Packet)
    ):
        raise ValueError(
            f"serializer is {value!r}, and has to be 'default', 'msgpack' or a class of packets"
        )


def _check_manager(value: Any) -> None:
    if value is not None and not isinstance(value, AsyncManager):
        # what was passed may be a connection string, with its password
        raise ValueError(
            f"client_manager is a {type(value).__name__}, and has to be a manager or None"
        )
