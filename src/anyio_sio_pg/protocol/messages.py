"""The cluster's messages, typed and frozen."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias, cast

from msgspec import Struct

Room: TypeAlias = str | int
"""A room's name. Node's rooms are strings; python-socketio also takes numbers."""

Tree: TypeAlias = (
    dict[Any, Any]
    | list[Any]
    | tuple[Any, ...]
    | bytes
    | bytearray
    | memoryview
    | datetime.datetime
    | str
    | int
    | float
    | None
)
"""A value inside a message, as far as this package looks into it."""

RESERVED_EVENTS: Final = (
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
)
"""Event names that make the official clients drop their connection when they come in a packet."""

RESERVED_SERVER_EVENTS: Final = ("connect", "connection", "new_namespace")
"""Names of server-side events that a Node server takes for its own."""

EMITTER = "emitter"
"""The ``uid`` of whatever sends without being a node."""

CUSTOM_REQUEST = "anyio_sio_pg:custom_request"
"""The server-side event that carries custom requests."""

Want: TypeAlias = Literal["sockets", "ids", "rooms"]
"""What an asker needs of each socket: all of it, its id, or its rooms' names."""


class Data(Struct, frozen=True):
    """Arguments as JSON text; binary values are placeholders and stand in ``attachments``.

    This is the form in which Socket.IO sends a packet (Socket.IO protocol v5, section "Packet
    encoding"), so that a received event needs no parsing on its way to a client.
    """

    json: bytes
    attachments: tuple[bytes, ...] = ()


class Target(Struct, frozen=True):
    """Whom a message is for: the union of ``rooms`` (none: everyone), without ``excluded``."""

    rooms: tuple[Room, ...] = ()
    excluded: tuple[Room, ...] = ()
    timeout_ms: float | None = None


EVERYONE = Target()


class Message(Struct, frozen=True, kw_only=True):
    """What every message carries.

    ``sender`` is a node's uid or ``"emitter"``; ``origin`` tells emitters apart; ``seq`` is the
    sender's number in that namespace: of this message, or the last one used for a heartbeat.
    """

    sender: str
    namespace: str
    seq: int | None = None
    origin: str | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """I am here. ``initial`` asks all others to say so too; ``probe`` is for the sender's ears."""

    initial: bool = False
    probe: int | None = None


class AdapterClose(Message, frozen=True, kw_only=True):
    """I am leaving."""


class Broadcast(Message, frozen=True, kw_only=True):
    """An event for clients: ``data`` is ``[event, *args]``."""

    data: Data
    target: Target = EVERYONE
    request_id: str | None = None


class SocketsJoin(Message, frozen=True, kw_only=True):
    """The target's sockets enter ``rooms``.

    With ``request_id``, here and in the next two, a node says :class:`Done` when it is.
    """

    target: Target
    rooms: tuple[Room, ...]
    request_id: str | None = None


class SocketsLeave(Message, frozen=True, kw_only=True):
    """The target's sockets leave ``rooms``."""

    target: Target
    rooms: tuple[Room, ...]
    request_id: str | None = None


class DisconnectSockets(Message, frozen=True, kw_only=True):
    """The target's sockets are disconnected; ``close`` ends their transport as well."""

    target: Target
    close: bool = False
    request_id: str | None = None


class Done(Message, frozen=True, kw_only=True):
    """A socket has joined, has left or is gone, as was asked."""

    request_id: str


class FetchSockets(Message, frozen=True, kw_only=True):
    """Asks each node for its sockets of the target.

    ``settle`` asks it to let disconnections that are under way end first; with ``direct`` the asker
    hears answers that are for it alone.
    """

    target: Target
    request_id: str
    want: Want = "sockets"
    settle: bool = False
    direct: bool = False


class SocketInfo(Struct, frozen=True):
    """A socket as another node describes it."""

    id: str
    rooms: tuple[Room, ...] = ()
    data: Any = None
    handshake: Any = None


class FetchSocketsResponse(Message, frozen=True, kw_only=True):
    """A node's sockets; ``rooms`` instead, where the asker wanted only those."""

    request_id: str
    sockets: tuple[SocketInfo, ...] = ()
    rooms: tuple[Room, ...] | None = None
    want: Want = "sockets"


class ServerSideEmit(Message, frozen=True, kw_only=True):
    """An event for the other servers: ``data`` is ``[event, *args]``.

    ``direct`` as in :class:`FetchSockets`.
    """

    data: Data
    request_id: str | None = None
    direct: bool = False


class ServerSideEmitResponse(Message, frozen=True, kw_only=True):
    """A server's answer: ``data`` is one value."""

    request_id: str
    data: Data


class BroadcastClientCount(Message, frozen=True, kw_only=True):
    """How many of a node's clients got the broadcast."""

    request_id: str
    count: int


class BroadcastAck(Message, frozen=True, kw_only=True):
    """One client's acknowledgement: ``data`` is the list of its arguments."""

    request_id: str
    data: Data


class Attached(Message, frozen=True, kw_only=True):
    """The message proper lies in the attachments table, under ``attachment_id``.

    ``rooms`` are those it addresses, where the sender says so: a node that has none of them need
    not read it. With ``answer`` it is one, of interest only to a node that has asked.
    """

    attachment_id: int
    rooms: tuple[Room, ...] | None = None
    answer: bool = False


_BUFFERS = (bytes, bytearray, memoryview)
_SCALARS = frozenset((str, int, float, bool, type(None)))


def find_binary(value: Tree) -> bool:
    """Tell whether bytes stand anywhere in ``value``."""
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, (list, tuple)):
        return isinstance(value, _BUFFERS)
    for item in value:  # noqa: SIM110 - a generator takes twice the time
        # nearly everything is one of these, and is told by its type alone
        if type(item) not in _SCALARS and find_binary(item):
            return True
    return False


def split_binary(value: Tree, attachments: list[bytes]) -> Any:
    """Return ``value`` with a placeholder for each bytes object, which goes to ``attachments``."""
    if isinstance(value, _BUFFERS):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, dict):
        if value.get("_placeholder") is True:
            raise ValueError("a dict with '_placeholder': True cannot go with binary data")
        return {key: split_binary(item, attachments) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [split_binary(item, attachments) for item in value]
    return value


def join_binary(value: Tree, attachments: tuple[bytes, ...]) -> Any:
    """Undo :func:`split_binary`.

    :raises IndexError: a placeholder has no attachment.
    """
    if isinstance(value, dict):
        if value.get("_placeholder") is True and isinstance(number := value.get("num"), int):
            return attachments[number]
        return {key: join_binary(item, attachments) for key, item in value.items()}
    if isinstance(value, list):
        return [join_binary(item, attachments) for item in value]
    return value


_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_make_encoder = getattr(json.encoder, "c_make_encoder", None)
"""What :mod:`json` calls for each value, beside much else; None without its accelerator."""


def _encode(value: Any) -> str:
    if _make_encoder is None:
        return _json.encode(value)
    quoted = json.encoder.encode_basestring_ascii
    # the dict is for what the value holds, to find what holds itself
    chunks = _make_encoder({}, _json.default, quoted, None, ":", ",", False, False, False)
    return "".join(chunks(value, 0))


def json_text(value: Any) -> str:
    """Encode as :func:`json.dumps` does, without spaces.

    In half the time: that one makes an object and asks for options at each call.

    :raises ValueError: the value holds itself, or a NaN or an infinity.
    :raises TypeError: it cannot be encoded.
    """
    try:
        return _encode(value)
    except ValueError:
        # it does not name the number
        _refuse_non_finite(value)
        raise


def to_data(value: Any, dumps: Callable[[Any], str | bytes]) -> Data:
    """Encode a value with a JSON function.

    :raises ValueError: the value holds a NaN or an infinity, which JSON does not have, or a dict
        that poses as one of its binary values; or it holds itself, or is nested too deeply.
    :raises TypeError: (or whatever ``dumps`` raises) the value cannot be encoded.
    """
    attachments: list[bytes] = []
    try:
        if find_binary(value):
            value = split_binary(value, attachments)
        encoded = dumps(value)
    except RecursionError:
        # of a thousand steps, which nobody wants to read
        raise ValueError("Circular reference detected, or nested too deeply") from None
    text = encoded.encode() if isinstance(encoded, str) else bytes(encoded)
    if dumps is not json_text and (b"NaN" in text or b"Infinity" in text):
        _refuse_non_finite(value)
    return Data(text, tuple(attachments))


def from_data(data: Data, loads: Callable[[bytes], Any]) -> Any:
    """Decode what :func:`to_data` made."""
    value = loads(data.json)
    return join_binary(value, data.attachments) if data.attachments else value


def _refuse_non_finite(value: Tree) -> None:
    pending: list[Tree] = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list | tuple):
            if id(item) in seen:
                # it holds itself, and is refused for that
                continue
            seen.add(id(item))
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"Out of range float values are not JSON compliant: {item!r}")
        if isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


def check_namespace(namespace: object) -> None:
    """Refuse what cannot be a namespace's name: no client could join it.

    :raises TypeError: it is no text.
    :raises ValueError: it does not begin with a slash.
    """
    if not isinstance(namespace, str):
        raise TypeError(f"a namespace must be a str, not {namespace!r}")
    if not namespace.startswith("/"):
        raise ValueError(f"a namespace must begin with '/', not {namespace!r}")


def check_room(room: object) -> None:
    """Refuse what cannot be a room's name.

    :raises TypeError: it is neither text nor a whole number.
    :raises ValueError: it is not valid Unicode.
    """
    if isinstance(room, bool) or not isinstance(room, str | int):
        raise TypeError(f"a room must be a str or an int, not {room!r}")
    if isinstance(room, str) and not room.isascii():
        # with half of a surrogate pair, which a client can send, no answer could name it
        room.encode()


def rooms_tuple(rooms: Room | Iterable[Room] | None) -> tuple[Room, ...]:
    """Return one room, several or none as a tuple, each once, in the order given.

    :raises TypeError: a room's name is neither text nor a number.
    :raises ValueError: a room's name is not valid Unicode.
    """
    return () if rooms is None else named_rooms(rooms)


def named_rooms(rooms: Room | Iterable[Room]) -> tuple[Room, ...]:
    """Return one room or several as a tuple, each once, in the order given.

    :raises TypeError: a room's name is neither text nor a number.
    :raises ValueError: a room's name is not valid Unicode.
    """
    # the items of bytes are numbers, and would pass for rooms
    if isinstance(rooms, (str, *_BUFFERS)) or not isinstance(rooms, Iterable):
        check_room(rooms)
    if isinstance(rooms, str | int):
        return (rooms,)
    names = tuple(rooms)
    for room in names:
        check_room(room)
    return tuple(dict.fromkeys(names))


def event_data(event: str, data: Any, dumps: Callable[[Any], str | bytes]) -> Data:
    """Encode an event and its arguments: a tuple is several, None is none.

    :raises ValueError: the event's name is reserved, or a number in ``data`` is not finite, or
        ``data`` holds itself or is nested too deeply.
    :raises TypeError: the name is no string, or the data cannot be encoded (or what ``dumps``
        raises).
    """
    if not isinstance(event, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an event's name must be a string, not {event!r}")
    if event in RESERVED_EVENTS:
        raise ValueError(
            f"the event name {event!r} is reserved: clients do not accept"
            f" {', '.join(RESERVED_EVENTS)}"
        )
    if isinstance(data, tuple):
        return to_data([event, *data], dumps)
    return to_data([event] if data is None else [event, data], dumps)


def check_server_event(event: str) -> None:
    """Refuse the names that a Node server takes for its own events.

    :raises ValueError: it is one of them.
    :raises TypeError: it is no text.
    """
    if not isinstance(event, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a server-side event's name must be a str, not {event!r}")
    if event in RESERVED_SERVER_EVENTS:
        raise ValueError(
            f"the server-side event name {event!r} is reserved: Node's servers do not send"
            f" {', '.join(RESERVED_SERVER_EVENTS)}"
        )


def make_target(
    to: Room | Iterable[Room] | None,
    skip_sid: str | Iterable[str | None] | None = None,
    except_rooms: Room | Iterable[Room] | None = None,
    *,
    name: str = "to",
) -> Target:
    """Return the target that a call's arguments name; ``name`` is that of the first.

    :raises TypeError: a room's name is neither text nor a number.
    :raises ValueError: ``to`` is empty, or a room's name is not valid Unicode.
    """
    if to is None and skip_sid is None and except_rooms is None:
        return EVERYONE
    if isinstance(skip_sid, Iterable) and not isinstance(skip_sid, (str, *_BUFFERS)):
        excluded = rooms_tuple([sid for sid in skip_sid if sid is not None])
    else:
        excluded = rooms_tuple(cast("Any", skip_sid))
    if except_rooms is not None:
        excluded += rooms_tuple(except_rooms)
    rooms = rooms_tuple(to)
    if to is not None and not rooms:
        # whoever computes a list that turns out empty means nobody
        raise ValueError(f"{name} is empty: None means everyone")
    return Target(rooms, excluded)
