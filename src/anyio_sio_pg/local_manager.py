"""The in-memory manager: rooms and clients of this process, on any event loop."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import anyio.lowlevel
from engineio import packet as eio_packet
from socketio import packet as sio_packet

from .base_manager import BaseManager
from .protocol.messages import (
    Data,
    Room,
    Target,
    check_namespace,
    check_room,
    event_data,
    json_text,
    make_target,
)

_NOBODY: Final[Mapping[str, str]] = {}
_YIELD_AFTER: Final = 0.0005
"""Seconds for which emits may follow one another before the other tasks get their turn."""

AckCallback = Callable[..., Any]


def check_callback(callback: AckCallback | None) -> None:
    """Refuse what cannot be called when an acknowledgement comes.

    :raises TypeError: it is neither None nor a callable.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a callable or None, not {callback!r}")


class SharedPacket(eio_packet.Packet):
    """An Engine.IO packet that many sockets send, over polling and WebSocket alike.

    The base class keeps one encoding, in whichever form was asked for first, so that a binary
    packet would reach one of the two transports in the other's form.
    """

    data: str | bytes

    def __init__(self, data: str | bytes):
        super().__init__(eio_packet.MESSAGE, data)
        self._text: str | bytes | None = None

    def encode(self, b64: bool = False) -> str | bytes:
        """Encode the packet: binary data as it is, or as text when ``b64``."""
        if self.binary and not b64:
            return self.data
        if self._text is None:
            self._text = super().encode(b64=b64)
        return self._text


class AnyIOManager(BaseManager):
    """python-socketio's in-memory client manager, on asyncio and on Trio.

    It does what :class:`socketio.AsyncManager` does, and reaches many clients without a task for
    each: the packet is encoded once and put on each client's queue.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_yield = 0.0
        # python-socketio looks for a client in all rooms, one after the other
        self._rooms_by_sid: dict[str, dict[str, dict[Room | None, None]]] = {}
        self._held: dict[str, list[SharedPacket]] = {}

    def set_server(self, server: Any) -> None:
        """Attach the manager to its server.

        :raises TypeError: the server is not an asynchronous one.
        """
        is_asyncio_based = getattr(server, "is_asyncio_based", None)
        if is_asyncio_based is not None and not is_asyncio_based():
            kind = cast("type[object]", type(server))
            raise TypeError(
                f"{type(self).__name__} cannot serve a {kind.__module__.partition('.')[0]}."
                f"{kind.__name__}, which does not await it: use socketio.AsyncServer or"
                " anyio_sio_pg.AnyIOServer"
            )
        super().set_server(server)

    async def emit(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        event: str,
        data: Any = None,
        namespace: str | None = None,
        room: Room | Iterable[Room] | None = None,
        skip_sid: str | Iterable[str] | None = None,
        callback: AckCallback | None = None,
        to: Room | Iterable[Room] | None = None,
        *,
        except_rooms: Room | Iterable[Room] | None = None,
        ignore_queue: bool = False,
    ) -> None:
        """Send an event to one client, to rooms or to everyone in the namespace.

        ``data``: a tuple is several arguments, None is none. ``to`` (or ``room``): a room, a sid
        or several; none means everyone. ``skip_sid`` and ``except_rooms`` are left out.
        ``callback`` is called with the arguments of each client's acknowledgement.
        ``ignore_queue``, which python-socketio's server passes, changes nothing here.

        :raises ValueError: the event's name is reserved, JSON cannot hold a number in it, ``to`` is
            empty, or the namespace does not begin with a slash.
        :raises TypeError: JSON cannot hold the data (or what the server's own JSON module raises),
            a room is neither a str nor an int, or ``callback`` cannot be called.
        """
        namespace = namespace or "/"
        if namespace not in self.rooms:
            check_namespace(namespace)
        check_callback(callback)
        packet_data = event_data(event, data, self._dumps)
        if to is None:
            target = make_target(room, skip_sid, except_rooms, name="room")
        else:
            target = make_target(to, skip_sid, except_rooms)
        await self._send_overdue(self._deliver(namespace, target, packet_data, callback)[1])
        if self._turn_is_over():
            await self._yield()

    async def connect(self, sid: str, namespace: str) -> str | None:
        """Take note that a client has been told that it is connected; now it gets its events."""
        connected = await super().connect(sid, namespace)
        eio_sid = self.eio_sid_from_sid(sid, namespace)
        held = self._held.pop(sid, None)
        if held and eio_sid is not None:
            await self._send_overdue(self._enqueue((eio_sid,), held))
        return connected

    async def enter_room(
        self, sid: str, namespace: str, room: Room, eio_sid: str | None = None
    ) -> None:
        """Add a client to a room.

        :raises TypeError: the room is neither a str nor an int.
        """
        check_room(room)
        await super().enter_room(sid, namespace, room, eio_sid=eio_sid)

    async def leave_room(self, sid: str, namespace: str, room: Room) -> None:
        """Remove a client from a room.

        :raises TypeError: the room is neither a str nor an int.
        """
        # without the room None, which python-socketio itself uses, a client would be unknown
        check_room(room)
        await super().leave_room(sid, namespace, room)

    async def close_room(self, room: Room, namespace: str) -> None:
        """Remove everyone from a room.

        :raises TypeError: the room is neither a str nor an int.
        :raises ValueError: it is a client's own.
        """
        check_room(room)
        await super().close_room(room, namespace)

    def basic_enter_room(
        self, sid: str, namespace: str, room: Room | None, eio_sid: str | None = None
    ) -> None:
        """Add a client of this process to a room.

        :raises ValueError: it is not in the namespace, or the room is another client's own.
        """
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_by_sid.setdefault(namespace, {}).setdefault(sid, {})[room] = None

    def basic_leave_room(self, sid: str, namespace: str, room: Room | None) -> None:
        """Remove a client of this process from a room."""
        super().basic_leave_room(sid, namespace, room)
        clients = self._rooms_by_sid.get(namespace, {})
        rooms = clients.get(sid)
        if rooms is not None:
            rooms.pop(room, None)
            if not rooms:
                del clients[sid]
                if not clients:
                    del self._rooms_by_sid[namespace]

    def get_rooms(self, sid: str, namespace: str) -> list[Room]:
        """Return the rooms that a client of this process is in, its own included."""
        rooms = self._rooms_by_sid.get(namespace, {}).get(sid, ())
        return [room for room in rooms if room is not None]

    def basic_disconnect(  # type: ignore[override]
        self, sid: str, namespace: str, *, ignore_queue: bool = False
    ) -> None:
        """Forget a client of this process."""
        for room in list(self._rooms_by_sid.get(namespace, {}).get(sid, ())):
            self.basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            waiting = pending.get(namespace, [])
            if sid in waiting:
                waiting.remove(sid)
                if not waiting:
                    del pending[namespace]
        self._held.pop(sid, None)

    async def trigger_callback(self, sid: str, id: int, data: Sequence[Any]) -> None:
        """Call the callback of an event that a client has acknowledged."""
        callback = self.callbacks.get(sid, {}).pop(id, None) if id else None
        if callback is None:
            self._get_logger().warning("Unknown callback received, ignoring.")
            return
        result = callback(*data)
        if isinstance(result, Awaitable):
            await result

    @property
    def _dumps(self) -> Callable[[Any], str | bytes]:
        module = self.json
        if getattr(module, "dumps", None) is json.dumps:
            return json_text
        return partial(module.dumps, separators=(",", ":"))

    def _loads(self, text: bytes) -> Any:
        return self.json.loads(text.decode())

    def _recipients(self, namespace: str, target: Target) -> Mapping[str, str]:
        """Return the local sockets of a target: their sids, with the Engine.IO sids."""
        rooms: Any = self.rooms.get(namespace)
        if rooms is None:
            return _NOBODY
        found: Mapping[str, str]
        if not target.rooms:
            found = rooms[None]._fwdm if None in rooms else _NOBODY
        elif len(target.rooms) == 1:
            room = rooms.get(target.rooms[0])
            found = _NOBODY if room is None else room._fwdm
        else:
            union: dict[str, str] = {}
            for name in target.rooms:
                if name in rooms:
                    union.update(rooms[name]._fwdm)
            found = union
        if target.excluded and found:
            without: set[str] = set()
            for name in target.excluded:
                if name in rooms:
                    without.update(rooms[name]._fwdm)
            if without:
                found = {sid: eio for sid, eio in found.items() if sid not in without}
        return found

    def _deliver(
        self, namespace: str, target: Target, data: Data, callback: AckCallback | None = None
    ) -> tuple[int, list[tuple[str, list[SharedPacket]]]]:
        """Put an event on the queues of its local recipients.

        A client whose connect handler has not accepted it yet gets it after its CONNECT packet
        (Socket.IO protocol v5, section "Connection to a namespace"), or never, if it is refused.

        Returns how many there were, and those (with their packets) whose ping is overdue: sending
        to these closes them, which has to be awaited.
        """
        if self.server is None:
            return 0, []
        recipients = self._recipients(namespace, target)
        if not recipients:
            return 0, []
        count = len(recipients)
        pending = [s for s in self.pending_connect.get(namespace, ()) if s in recipients]
        if callback is None:
            packets = self._packets(namespace, data)
            if pending:
                recipients = {s: eio for s, eio in recipients.items() if s not in pending}
                for sid in pending:
                    self._held.setdefault(sid, []).extend(packets)
            return count, self._enqueue(recipients.values(), packets)
        overdue: list[tuple[str, list[SharedPacket]]] = []
        for sid, eio_sid in recipients.items():
            packets = self._packets(namespace, data, self._generate_ack_id(sid, callback))
            if sid in pending:
                self._held.setdefault(sid, []).extend(packets)
            else:
                overdue += self._enqueue((eio_sid,), packets)
        return count, overdue

    def _enqueue(
        self, eio_sids: Collection[str], packets: list[SharedPacket]
    ) -> list[tuple[str, list[SharedPacket]]]:
        assert self.server is not None  # noqa: S101 - for the type checkers
        eio = self.server.eio
        sockets = eio.sockets
        oldest_ping = time.time() - eio.ping_timeout
        overdue: list[tuple[str, list[SharedPacket]]] = []
        single = packets[0] if len(packets) == 1 else None
        for eio_sid in eio_sids:
            socket = sockets.get(eio_sid)
            if socket is None or socket.closed:
                continue
            if socket.last_ping and socket.last_ping < oldest_ping:
                overdue.append((eio_sid, packets))
            elif single is not None:
                socket.queue.put_nowait(single)
            else:
                for packet in packets:
                    socket.queue.put_nowait(packet)
        return overdue

    async def _send_overdue(self, overdue: list[tuple[str, list[SharedPacket]]]) -> None:
        for eio_sid, packets in overdue:
            assert self.server is not None  # noqa: S101 - for the type checkers
            for packet in packets:
                await self.server._send_eio_packet(eio_sid, packet)

    def _packets(self, namespace: str, data: Data, ack_id: int | None = None) -> list[SharedPacket]:
        """Encode an event (Socket.IO protocol v5, section "Packet encoding")."""
        assert self.server is not None  # noqa: S101 - for the type checkers
        packet_class = self.server.packet_class
        if packet_class.encode is not sio_packet.Packet.encode:
            # another packet format, such as MessagePack: it encodes values, not JSON text
            encoded = packet_class(
                sio_packet.EVENT, namespace=namespace, data=self._value(data), id=ack_id
            ).encode()
            return [SharedPacket(p) for p in (encoded if isinstance(encoded, list) else [encoded])]
        start = f"5{len(data.attachments)}-" if data.attachments else "2"
        if namespace != "/":
            start += namespace + ","
        if ack_id is not None:
            start += str(ack_id)
        packets = [SharedPacket(start + data.json.decode())]
        packets += map(SharedPacket, data.attachments)
        return packets

    def _value(self, data: Data) -> Any:
        value = self._loads(data.json)
        if data.attachments:
            return sio_packet.Packet.reconstruct_binary(value, data.attachments)
        return value

    def _turn_is_over(self) -> bool:
        return time.monotonic() - self._last_yield >= _YIELD_AFTER

    async def _yield(self) -> None:
        """Let other tasks run, and cancellation in."""
        await anyio.lowlevel.checkpoint()
        self._last_yield = time.monotonic()
