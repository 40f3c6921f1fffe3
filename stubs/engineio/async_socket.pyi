from typing import Any, Protocol

from .async_server import AsyncServer
from .packet import Packet

class _Queue(Protocol):
    def put_nowait(self, item: Packet | None, /) -> None: ...

class AsyncSocket:
    server: AsyncServer
    sid: str
    queue: _Queue
    last_ping: float | None
    connected: bool
    upgrading: bool
    upgraded: bool
    closing: bool
    closed: bool
    session: dict[str, Any]
    async def send(self, pkt: Packet) -> None: ...
    async def close(
        self, wait: bool = ..., abort: bool = ..., reason: str | None = ...
    ) -> None: ...
