from collections.abc import Callable
from typing import Any

import engineio

from . import exceptions as exceptions
from .async_client import AsyncClient as AsyncClient
from .async_manager import AsyncManager as AsyncManager
from .async_namespace import AsyncNamespace as AsyncNamespace
from .async_server import AsyncServer as AsyncServer

class ASGIApp(engineio.ASGIApp):
    def __init__(
        self,
        socketio_server: AsyncServer,
        other_asgi_app: Any = ...,
        static_files: dict[str, Any] | None = ...,
        socketio_path: str | None = ...,
        on_startup: Callable[[], Any] | None = ...,
        on_shutdown: Callable[[], Any] | None = ...,
    ) -> None: ...
