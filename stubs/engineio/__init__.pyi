from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import exceptions as exceptions
from .async_server import AsyncServer as AsyncServer

class ASGIApp:
    engineio_server: Any
    other_asgi_app: Any
    engineio_path: str | None
    static_files: dict[str, Any]
    def __init__(
        self,
        engineio_server: Any,
        other_asgi_app: Any = ...,
        static_files: dict[str, Any] | None = ...,
        engineio_path: str | None = ...,
        on_startup: Callable[[], Any] | None = ...,
        on_shutdown: Callable[[], Any] | None = ...,
    ) -> None: ...
    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None: ...
