import logging
from collections.abc import Callable
from typing import Any, TypeVar, overload

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

class AsyncClient:
    connected: bool
    namespaces: dict[str, str]
    # the keywords are Engine.IO's, too
    def __init__(
        self,
        reconnection: bool = ...,
        reconnection_attempts: int = ...,
        reconnection_delay: float = ...,
        reconnection_delay_max: float = ...,
        randomization_factor: float = ...,
        logger: bool | logging.Logger = ...,
        serializer: str | type[Any] = ...,
        json: Any = ...,
        handle_sigint: bool = ...,
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
    def get_sid(self, namespace: str | None = ...) -> str | None: ...
    def transport(self) -> str: ...
    async def connect(
        self,
        url: str,
        headers: dict[str, str] = ...,
        auth: Any = ...,
        transports: str | list[str] | None = ...,
        namespaces: str | list[str] | None = ...,
        socketio_path: str = ...,
        wait: bool = ...,
        wait_timeout: float = ...,
        retry: bool = ...,
    ) -> None: ...
    async def wait(self) -> None: ...
    async def emit(
        self,
        event: str,
        data: Any = ...,
        namespace: str | None = ...,
        callback: Callable[..., Any] | None = ...,
    ) -> None: ...
    async def call(
        self, event: str, data: Any = ..., namespace: str | None = ..., timeout: float = ...
    ) -> Any: ...
    async def disconnect(self) -> None: ...
    async def shutdown(self) -> None: ...
    async def sleep(self, seconds: float = ...) -> None: ...
