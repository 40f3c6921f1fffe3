from typing import Any, Protocol

from .packet import Packet

class _Server(Protocol):
    def create_queue(self) -> Any: ...

class AsyncSocket:
    sid: str
    # what the server's create_queue() makes; subclasses narrow it
    queue: Any
    last_ping: float | None
    connected: bool
    upgrading: bool
    upgraded: bool
    closing: bool
    closed: bool
    session: dict[str, Any]
    def __init__(self, server: _Server, sid: str) -> None: ...
    async def send(self, pkt: Packet) -> None: ...
    async def close(
        self, wait: bool = ..., abort: bool = ..., reason: str | None = ...
    ) -> None: ...
