"""Clients without a network: an ASGI connection whose other end is an object."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

import anyio
import anyio.lowlevel
from engineio import packet as eio_packet
from socketio import packet as sio_packet

if TYPE_CHECKING:
    from .cluster import SimulatedNode

App: TypeAlias = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

_UPGRADE = {"connection": "Upgrade", "upgrade": "websocket"}
"""Without these python-engineio's own server refuses a WebSocket."""

PATIENCE = 30.0
"""Seconds for which a client waits for its server."""


class RefusedError(Exception):
    """The server refused the connection; ``args`` is what it said."""


class SimulatedClient:
    """A Socket.IO client in memory; :meth:`.SimulatedNode.connect` makes one.

    ``events`` has all that has come, by namespace, each ``[event, *args]``, in the order in which
    the server sent them; ``sids`` has its id in each namespace that it is in. It answers events that
    ask for an acknowledgement with ``answer``, a function of the event's arguments; None leaves them
    unanswered.
    """

    def __init__(self, node: SimulatedNode, number: int):
        self.node = node
        self.number = number
        self.answer: Callable[..., Any] | None = lambda *_: None
        self.sids: dict[str, str] = {}
        self.events: dict[str, list[list[Any]]] = {}
        self.disconnected: set[str] = set()
        self._refused: dict[str, Any] = {}
        self._acknowledged: dict[tuple[str, int], list[Any]] = {}
        self._next_ack = 0
        self._eio_sid = ""
        self._noops = 0
        self._received: deque[dict[str, Any]] = deque([{"type": "websocket.connect"}])
        self._news = anyio.Event()
        self._partial: Any = None
        self.open = False
        self.closed = False
        self.ended = anyio.Event()

    def __repr__(self) -> str:
        return f"client{self.number}@{self.node.name}"

    @property
    def sid(self) -> str:
        """The client's id in the namespace ``/``; ``sids[namespace]`` is that in another one.

        :raises LookupError: the client is not in ``/``.
        """
        if "/" not in self.sids:
            others = ", ".join(f"sids[{namespace!r}]" for namespace in self.sids)
            hint = f"; its ids elsewhere: {others}" if others else ", nor in any other"
            raise LookupError(f"{self!r} is not in the namespace '/'{hint}")
        return self.sids["/"]

    def received(self, namespace: str = "/") -> list[list[Any]]:
        """Return the events that have come in a namespace."""
        return list(self.events.get(namespace, ()))

    async def join(self, namespace: str = "/", auth: Any = None) -> str:
        """Connect to a namespace; return the client's id in it.

        :raises RefusedError: the server refused.
        """
        data = None if auth is None else auth
        self._send(sio_packet.Packet(sio_packet.CONNECT, data=data, namespace=namespace))
        await self._until(lambda: namespace in self.sids or namespace in self._refused)
        if namespace in self._refused:
            raise RefusedError(self._refused.pop(namespace))
        return self.sids[namespace]

    def emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        """Send an event to the server."""
        self._send(sio_packet.Packet(sio_packet.EVENT, data=[event, *args], namespace=namespace))

    async def call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        """Send an event to the server and return the arguments of its acknowledgement."""
        self._next_ack += 1
        key = (namespace, self._next_ack)
        self._send(
            sio_packet.Packet(sio_packet.EVENT, data=[event, *args], namespace=namespace, id=key[1])
        )
        await self._until(lambda: key in self._acknowledged)
        return self._acknowledged.pop(key)

    async def leave(self, namespace: str = "/") -> None:
        """Disconnect from a namespace, and return when the server knows."""
        sid = self.sids.pop(namespace)
        self._send(sio_packet.Packet(sio_packet.DISCONNECT, namespace=namespace))
        manager = self.node.manager
        await self._until(lambda: manager.eio_sid_from_sid(sid, namespace) is None)

    async def close(self) -> None:
        """Hang up, and return when the server knows."""
        self.hang_up()
        await self._until(lambda: self.closed)

    def hang_up(self) -> None:
        """End the connection, without waiting for anything."""
        self._put({"type": "websocket.disconnect", "code": 1006})

    async def settled(self) -> None:
        """Return when all that the server has sent so far is in ``events``."""
        socket = self.node.server.eio.sockets.get(self._eio_sid)
        if socket is not None and self.open and not self.closed:
            # packets do not overtake each other, and this one does nothing
            before = self._noops
            await socket.send(eio_packet.Packet(eio_packet.NOOP))
            await self._until(lambda: self._noops > before or self.closed)

    async def _run(self, app: App, query: dict[str, Any], headers: dict[str, str]) -> None:
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/socket.io/",
            "query_string": urlencode({"EIO": "4", "transport": "websocket", **query}).encode(),
            "headers": [
                (k.lower().encode(), v.encode()) for k, v in {**_UPGRADE, **headers}.items()
            ],
            "client": ("192.0.2.1", 1024 + self.number % 64_000),
            "scheme": "ws",
        }
        try:
            await app(scope, self._receive, self._take)
        finally:
            self.closed = True
            self.ended.set()
            self._notify()

    async def _receive(self) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        while not self._received:
            await self._news.wait()
        return self._received.popleft()

    async def _take(self, message: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == "websocket.close":
            self.closed = True
            self._put({"type": "websocket.disconnect", "code": 1000})
        elif message["type"] == "websocket.send":
            text = message.get("text")
            self._read(message["bytes"] if text is None else text)
        self._notify()

    def _read(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if self._partial is not None and self._partial.add_attachment(frame):
                packet, self._partial = self._partial, None
                self._handle(packet)
        elif frame.startswith("0"):
            self._eio_sid = json.loads(frame[1:])["sid"]
            self.open = True
        elif frame == "6":
            self._noops += 1
        elif frame == "2":
            self._put({"type": "websocket.receive", "text": "3"})
        elif frame.startswith("4"):
            packet = sio_packet.Packet(encoded_packet=frame[1:])
            if packet.attachment_count:
                self._partial = packet
            else:
                self._handle(packet)

    def _handle(self, packet: Any) -> None:
        namespace: str = packet.namespace or "/"
        match packet.packet_type:
            case sio_packet.CONNECT:
                self.sids[namespace] = packet.data["sid"]
                self.disconnected.discard(namespace)
            case sio_packet.CONNECT_ERROR:
                self._refused[namespace] = packet.data
            case sio_packet.DISCONNECT:
                self.sids.pop(namespace, None)
                self.disconnected.add(namespace)
            case sio_packet.ACK | sio_packet.BINARY_ACK:
                self._acknowledged[namespace, packet.id] = packet.data
            case _:
                self.events.setdefault(namespace, []).append(packet.data)
                if packet.id is not None and self.answer is not None:
                    answer = self.answer(*packet.data[1:])
                    data = [] if answer is None else [answer]
                    ack = sio_packet.ACK
                    self._send(sio_packet.Packet(ack, data=data, namespace=namespace, id=packet.id))

    def _send(self, packet: Any) -> None:
        encoded: str | bytes | list[str | bytes] = packet.encode()
        for frame in encoded if isinstance(encoded, list) else [encoded]:
            if isinstance(frame, bytes):
                self._put({"type": "websocket.receive", "bytes": frame})
            else:
                self._put({"type": "websocket.receive", "text": f"4{frame}"})

    def _put(self, message: dict[str, Any]) -> None:
        self._received.append(message)
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not condition():
                if self.closed and not condition():
                    raise ConnectionResetError(f"{self!r} was closed")
                with anyio.move_on_after(0.05):
                    await self._news.wait()
