"""python-engineio's and python-socketio's servers, with the types that they do not declare."""

# ruff: noqa: D102 - they document the methods

from __future__ import annotations

from typing import TYPE_CHECKING

import engineio
import socketio

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Any, Literal, TypeVar, overload

    from engineio.packet import Packet as EnginePacket
    from socketio.packet import Packet

    from ..base_manager import BaseManager
    from ..protocol.messages import Room

    Handler = TypeVar("Handler", bound=Callable[..., Any])

    class Reason:
        """Why a client was disconnected: what its handler is told."""

        SERVER_DISCONNECT: str
        CLIENT_DISCONNECT: str
        PING_TIMEOUT: str
        TRANSPORT_CLOSE: str
        TRANSPORT_ERROR: str

    class BaseEngineServer(engineio.AsyncServer):
        """What AnyIOEngineServer inherits, so that users' type checkers know it without stubs."""

        reason: type[Reason]
        async_mode: str
        ping_interval: float
        ping_interval_grace_period: float
        ping_timeout: float
        max_http_buffer_size: int
        allow_upgrades: bool
        http_compression: bool
        compression_threshold: int
        compression_methods: list[str]
        cookie: str | Mapping[str, Any] | None
        cors_allowed_origins: str | Iterable[str] | Callable[..., bool] | None
        cors_credentials: bool
        async_handlers: bool
        transports: list[str]
        handlers: dict[str, Callable[..., Any]]
        logger: logging.Logger
        _async: dict[str, Any]

        def __init__(self, **options: Any) -> None: ...
        @overload
        def on(self, event: str, handler: None = None) -> Callable[[Handler], Handler]: ...
        @overload
        def on(self, event: str, handler: Callable[..., Any]) -> None: ...
        def on(self, event: str, handler: Callable[..., Any] | None = None) -> Any: ...
        def transport(self, sid: str) -> str: ...
        def generate_id(self) -> str: ...
        async def send(self, sid: str, data: Any) -> None: ...
        async def send_packet(self, sid: str, pkt: EnginePacket) -> None: ...
        async def get_session(self, sid: str) -> dict[str, Any]: ...
        async def save_session(self, sid: str, session: dict[str, Any]) -> None: ...
        def session(self, sid: str) -> AbstractAsyncContextManager[dict[str, Any], None]: ...
        def _upgrades(self, sid: str, transport: str) -> list[str]: ...
        def _generate_sid_cookie(self, sid: str, attributes: Mapping[str, Any]) -> str: ...
        def _unauthorized(self, message: Any = None) -> dict[str, Any]: ...
        def _cors_allowed_origins(self, environ: dict[str, Any]) -> list[str] | None: ...
        def _log_error_once(self, message: str, message_key: str) -> None: ...
        async def _make_response(
            self, response_dict: dict[str, Any], environ: dict[str, Any]
        ) -> Any: ...

    class BaseServer(socketio.AsyncServer):
        """What AnyIOServer inherits, so that users' type checkers know it without stubs."""

        reason: type[Reason]
        reserved_events: list[str]
        not_handled: object
        packet_class: type[Packet]
        environ: dict[str, dict[str, Any]]
        handlers: dict[str, dict[str, Callable[..., Any]]]
        namespace_handlers: dict[str, socketio.AsyncNamespace]
        namespaces: list[str] | Literal["*"]
        async_handlers: bool
        always_connect: bool
        async_mode: str
        logger: logging.Logger
        manager_initialized: bool
        _binary_packet: dict[str, Packet]

        def __init__(self, **options: Any) -> None: ...
        # what a client_manager is while a program runs, BaseManager being only its types
        @property
        def manager(self) -> BaseManager: ...
        @overload
        def on(
            self, event: str, handler: None = None, namespace: str | None = None
        ) -> Callable[[Handler], Handler]: ...
        @overload
        def on(
            self, event: str, handler: Callable[..., Any], namespace: str | None = None
        ) -> None: ...
        def on(
            self,
            event: str,
            handler: Callable[..., Any] | None = None,
            namespace: str | None = None,
        ) -> Any: ...
        @overload
        def event(self, handler: Handler, /) -> Handler: ...
        @overload
        def event(self, *, namespace: str | None = None) -> Callable[[Handler], Handler]: ...
        def event(self, *args: Any, **kwargs: Any) -> Any: ...
        def register_namespace(self, namespace_handler: socketio.AsyncNamespace) -> None: ...
        def rooms(self, sid: str, namespace: str | None = None) -> list[Room]: ...
        def transport(self, sid: str, namespace: str | None = None) -> str: ...
        def get_environ(self, sid: str, namespace: str | None = None) -> dict[str, Any] | None: ...
        async def enter_room(self, sid: str, room: Room, namespace: str | None = None) -> None: ...
        async def leave_room(self, sid: str, room: Room, namespace: str | None = None) -> None: ...
        async def close_room(self, room: Room, namespace: str | None = None) -> None: ...
        async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]: ...
        async def save_session(
            self, sid: str, session: dict[str, Any], namespace: str | None = None
        ) -> None: ...
        def session(
            self, sid: str, namespace: str | None = None
        ) -> AbstractAsyncContextManager[dict[str, Any], None]: ...
        async def handle_request(self, *args: Any, **kwargs: Any) -> Any: ...
        async def sleep(self, seconds: float = 0) -> None: ...
        def _get_event_handler(
            self, event: str, namespace: str, args: tuple[Any, ...]
        ) -> tuple[Callable[..., Any] | None, tuple[Any, ...]]: ...
        def _get_namespace_handler(
            self, namespace: str, args: tuple[Any, ...]
        ) -> tuple[socketio.AsyncNamespace | None, tuple[Any, ...]]: ...
        async def _handle_event_internal(
            self,
            server: BaseServer,
            sid: str,
            eio_sid: str,
            data: list[Any],
            namespace: str,
            id: int | None,
        ) -> None: ...
        async def _handle_ack(
            self, eio_sid: str, namespace: str | None, id: int | None, data: list[Any]
        ) -> None: ...

else:
    BaseEngineServer = engineio.AsyncServer
    BaseServer = socketio.AsyncServer
