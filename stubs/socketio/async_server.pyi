import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar, overload

from engineio import AsyncServer as _EngineServer
from engineio.packet import Packet as _EnginePacket

from .async_manager import AsyncManager
from .packet import Packet

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

class AsyncServer:
    packet_class: type[Packet]
    eio: _EngineServer
    environ: dict[str, dict[str, Any]]
    handlers: dict[str, dict[str, Callable[..., Any]]]
    namespace_handlers: dict[str, Any]
    namespaces: list[str] | Literal["*"]
    logger: logging.Logger
    manager: AsyncManager
    async_mode: str
    # the keywords are Engine.IO's, too
    def __init__(
        self,
        client_manager: AsyncManager | None = ...,
        logger: bool | logging.Logger = ...,
        json: Any = ...,
        async_handlers: bool = ...,
        namespaces: list[str] | Literal["*"] | None = ...,
        **kwargs: Any,
    ) -> None: ...
    @overload
    def on(
        self, event: str, handler: None = ..., namespace: str | None = ...
    ) -> Callable[[_Handler], _Handler]: ...
    @overload
    def on(self, event: str, handler: Callable[..., Any], namespace: str | None = ...) -> None: ...
    @overload
    def event(self, handler: _Handler, /) -> _Handler: ...
    @overload
    def event(self, *, namespace: str | None = ...) -> Callable[[_Handler], _Handler]: ...
    def rooms(self, sid: str, namespace: str | None = ...) -> list[str | int]: ...
    def transport(self, sid: str, namespace: str | None = ...) -> str: ...
    def get_environ(self, sid: str, namespace: str | None = ...) -> dict[str, Any] | None: ...
    async def emit(
        self,
        event: str,
        data: Any = ...,
        to: str | int | Iterable[str | int] | None = ...,
        room: str | int | Iterable[str | int] | None = ...,
        skip_sid: str | Iterable[str] | None = ...,
        namespace: str | None = ...,
        callback: Callable[..., Any] | None = ...,
        ignore_queue: bool = ...,
    ) -> None: ...
    async def call(
        self,
        event: str,
        data: Any = ...,
        to: str | None = ...,
        sid: str | None = ...,
        namespace: str | None = ...,
        timeout: float = ...,
        ignore_queue: bool = ...,
    ) -> Any: ...
    async def enter_room(self, sid: str, room: str | int, namespace: str | None = ...) -> None: ...
    async def leave_room(self, sid: str, room: str | int, namespace: str | None = ...) -> None: ...
    async def close_room(self, room: str | int, namespace: str | None = ...) -> None: ...
    async def get_session(self, sid: str, namespace: str | None = ...) -> dict[str, Any]: ...
    async def save_session(
        self, sid: str, session: dict[str, Any], namespace: str | None = ...
    ) -> None: ...
    def session(
        self, sid: str, namespace: str | None = ...
    ) -> AbstractAsyncContextManager[dict[str, Any]]: ...
    async def disconnect(
        self, sid: str, namespace: str | None = ..., ignore_queue: bool = ...
    ) -> None: ...
    async def shutdown(self) -> None: ...
    async def _send_packet(self, eio_sid: str, pkt: Packet) -> None: ...
    async def _send_eio_packet(self, eio_sid: str, eio_pkt: _EnginePacket) -> None: ...
    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None: ...
