"""The format of npm's ``socket.io-adapter-postgres`` 1.x.

Everything goes over one channel of PostgreSQL, ``socketio``; a payload is the JSON array
``[CHANNEL, MESSAGE]``. The 1.x nodes ignore a CHANNEL and keys that they do not know, so ours add
``seq`` (the sender's number, in a broadcast's ``opts`` and in requests and answers), ``uid`` (in
requests and answers), ``settle`` (a later answer to ``clients``), and the CHANNEL
``PREFIX-python#NAMESPACE#`` for heartbeats.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from ..errors import ProtocolError
from .chunks import START, Chunks, Incomplete, payloads
from .messages import (
    CUSTOM_REQUEST,
    AdapterClose,
    Broadcast,
    Data,
    DisconnectSockets,
    Done,
    FetchSockets,
    FetchSocketsResponse,
    Heartbeat,
    Message,
    Room,
    ServerSideEmit,
    ServerSideEmitResponse,
    SocketInfo,
    SocketsJoin,
    SocketsLeave,
    Target,
    Tree,
    check_namespace,
)
from .values import (
    MALFORMED,
    check_event,
    data_from_json,
    data_from_msgpack,
    encode_json,
    items_from_json,
    lenient,
    pack,
    tree_of,
)
from .wire import Outgoing

CHANNEL: Final = "socketio"
"""The channel of PostgreSQL that carries everything."""

MAX_NAMESPACE: Final = 1_000
"""Bytes that a namespace's name can have, so that there is room for a message beside it."""

_LONGEST_ROOM = 1_000

Kind: TypeAlias = Literal["broadcast", "request", "response", "python"]

_Id: TypeAlias = Annotated[str, Meta(max_length=128)]
_Uid: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
_Number: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Packet(Struct):
    data: Raw
    type: int = 2
    nsp: str = "/"


class _Opts(Struct):
    # not only names: in JavaScript anything can be a room
    rooms: tuple[Any, ...] | None = ()
    except_: tuple[Any, ...] | None = msgspec.field(default=(), name="except")
    seq: _Number | None = None


class _Broadcast(Struct, array_like=True):
    uid: _Uid
    packet: _Packet
    opts: _Opts | None = None


class _Signed(Struct, kw_only=True):
    uid: _Uid | None = None
    seq: _Number | None = None


class _Request(_Signed, kw_only=True):
    requestid: _Id
    type: int
    rooms: tuple[Room, ...] | None = None
    sid: str | None = None
    room: Room | None = None
    data: Raw = Raw()
    close: Any = None
    settle: bool = False


class _Response(_Signed, kw_only=True):
    requestid: _Id
    clients: tuple[str, ...] | None = None
    rooms: tuple[Room, ...] | None = None
    data: Raw = Raw()


class _Heartbeat(_Signed, kw_only=True):
    type: Literal[1, 2, 13]
    probe: _Number | None = None


_payload_from_json = msgspec.json.Decoder[Any](tuple[str, str])
_request_from_json = msgspec.json.Decoder[Any](_Request)
_response_from_json = msgspec.json.Decoder[Any](_Response)
_heartbeat_from_json = msgspec.json.Decoder[Any](_Heartbeat)


class LegacyWire:
    """The 1.x format, for one prefix. ``now`` is in seconds, on any clock that only rises."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        self._channels: dict[str, tuple[Kind, str]] = {}
        self._chunks = Chunks()
        self._next_chunk = 0

    def channel(self, namespace: str) -> str:
        """Return ``socketio``.

        :raises ValueError: the namespace's name does not begin with a slash, is too long, holds a
            NUL or is not Unicode.
        :raises TypeError: it is no text.
        """
        check_namespace(namespace)
        if "\0" in namespace:
            raise ValueError(f"namespace {namespace!r} must not hold a NUL character")
        try:
            size = len(namespace.encode())
        except UnicodeEncodeError:
            raise ValueError(f"namespace {namespace!r} must be valid Unicode text") from None
        if size > MAX_NAMESPACE:
            raise ValueError(
                f"a namespace's name must have 1 to {MAX_NAMESPACE} bytes,"
                f" not {size}: {namespace[:50]!r}..."
            )
        return CHANNEL

    def listen(self, namespace: str) -> None:
        """Read a namespace's messages from now on."""
        for kind in _KINDS:
            self._channels[self.name(kind, namespace)] = kind, namespace

    def unlisten(self, namespace: str) -> None:
        """Ignore a namespace's messages from now on."""
        for kind in _KINDS:
            self._channels.pop(self.name(kind, namespace), None)

    def name(self, kind: Kind, namespace: str) -> str:
        """Return the CHANNEL for one kind of a namespace's messages."""
        return f"{self._prefix}{_KINDS[kind]}#{namespace}#"

    def encode(self, message: Message, max_inline: int) -> Outgoing:
        """Encode a message; see :class:`.wire.Wire`.

        :raises TypeError: the 1.x format has no such message.
        """
        encode = _ENCODERS.get(type(message))
        if encode is None:
            raise TypeError(f"the legacy wire cannot carry a {type(message).__name__}")
        kind, text = encode(message)
        name = self.name(kind, message.namespace)
        if isinstance(message, Broadcast) and len(message.target.rooms) == 1:
            # nodes that do not have the room need not decode it
            room = str(message.target.rooms[0])
            # as it is written: a control character takes six
            if len(encode_json(room)) <= _LONGEST_ROOM + 2:
                name += f"{room}#"
        self._next_chunk += 1
        chunk_id = f"{_uid(message)}{self._next_chunk:x}"
        first, *more = payloads(name, text, max_inline, chunk_id)
        return Outgoing(CHANNEL, first, control=kind == "python", more=tuple(more))

    def decode(self, payload: bytes, now: float) -> Message | None:
        """Decode a notification; None when it is for others, or a piece of what is to come.

        :raises ProtocolError: it is not a message of the cluster.
        """
        try:
            name, text = _open(payload)
            found = self._find(name)
            if not found:
                return None
            if text.startswith(START):
                whole = self._chunks.add(name, text, now)
                if whole is None:
                    return None
                # a piece may end between the halves of a surrogate pair
                text = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            kind, namespace = found[0]
            if kind == "broadcast":
                return _decode_broadcast(text, [namespace for _, namespace in found])
            return _DECODERS[kind](namespace, text.encode())
        except (*MALFORMED, binascii.Error) as exc:
            raise ProtocolError(f"not a message of the 1.x cluster: {exc}") from None

    def expire(self, now: float) -> list[Incomplete]:
        """Give up the messages that have not come whole in time."""
        return self._chunks.expire(now)

    def _find(self, name: str) -> list[tuple[Kind, str]]:
        """Return what a CHANNEL may be for; several only where a namespace or room holds a #."""
        exact = self._channels.get(name)
        found = [] if exact is None else [exact]
        if name.startswith(f"{self._prefix}#") and name.endswith("#"):
            end = name.find("#", len(self._prefix) + 1)
            while 0 <= end < len(name) - 1:
                base = self._channels.get(name[: end + 1])
                if base is not None:
                    found.append(base)
                end = name.find("#", end + 1)
        return found


_KINDS: Mapping[Kind, str] = {
    "broadcast": "",
    "request": "-request",
    "response": "-response",
    "python": "-python",
}


def _open(payload: bytes) -> tuple[str, str]:
    try:
        parts: tuple[str, str] = _payload_from_json.decode(payload)
    except msgspec.DecodeError:
        # the halves of a surrogate pair may be in two pieces
        found = json.loads(payload)
        match found:
            case [str(name), str(text)]:
                return name, text
            case _:
                raise
    return parts


def _uid(message: Message) -> str:
    return message.origin or message.sender


# Reading


class _Extensions:
    """What notepack.io makes of a Date, of undefined and of an ArrayBuffer: all are of type 0."""

    def __init__(self, text: bytes):
        self._text = text
        self._buffers: frozenset[bytes] | None = None

    def read(self, code: int, content: memoryview) -> Any:
        if code != 0:
            return None
        data = bytes(content)
        if len(data) not in (1, 8) or self._is_buffer(data):
            return data
        if len(data) == 1:
            return UNSET
        try:
            return _EPOCH + datetime.timedelta(milliseconds=int.from_bytes(data, signed=True))
        except OverflowError:
            return None

    def _is_buffer(self, data: bytes) -> bool:
        # an ext 8 header, where Date and undefined have a fixext
        if self._buffers is None:
            found = _SMALL_BUFFER.findall(self._text)
            self._buffers = frozenset(one or eight for one, eight in found)
        return data in self._buffers


_SMALL_BUFFER = re.compile(rb"(?=\xc7(?:\x01\x00(.)|\x08\x00(.{8})))", re.DOTALL)
_UNDEFINED = b"\xd4\x00\x00"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _event_from_msgpack(raw: Raw) -> Any:
    text = bytes(raw)
    tree = msgspec.msgpack.decode(text, ext_hook=_Extensions(text).read)
    return _defined(tree) if _UNDEFINED in text else tree


def _defined(value: Tree) -> Any:
    """Treat undefined as JSON.stringify does: it leaves a key out, and an item is null."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items() if item is not UNSET}
    if isinstance(value, list):
        return [None if item is UNSET else _defined(item) for item in value]
    return value


def _nothing(_code: int, _data: memoryview) -> None:
    """Read undefined, where an option is left out."""


_broadcast_from_msgpack = msgspec.msgpack.Decoder[Any](_Broadcast, ext_hook=_nothing)


def _names(rooms: tuple[Any, ...] | None) -> tuple[Room, ...]:
    return tuple(room for room in rooms or () if type(room) in (str, int))


def _decode_broadcast(text: str, namespaces: list[str]) -> Message | None:
    broadcast: _Broadcast = _broadcast_from_msgpack.decode(base64.b64decode(text, validate=True))
    packet = broadcast.packet
    if packet.nsp not in namespaces:
        return None
    if packet.type not in (2, 5):
        raise ValueError(f"a broadcast's packet must be of type 2 or 5, not {packet.type}")
    opts = broadcast.opts or _Opts()
    rooms = _names(opts.rooms)
    if opts.rooms and not rooms:
        # for nobody here, not for everyone
        return None
    return Broadcast(
        sender=broadcast.uid,
        namespace=packet.nsp,
        seq=opts.seq,
        data=check_event(data_from_msgpack(packet.data, _event_from_msgpack), reserved=True),
        target=Target(rooms, _names(opts.except_)),
    )


def _decode_request(namespace: str, text: bytes) -> Message:
    request: _Request = lenient(_request_from_json, text)
    head: dict[str, Any] = {
        "sender": request.uid or "",
        "namespace": namespace,
        "seq": request.seq,
        "request_id": request.requestid,
    }
    kind = request.type
    if kind == 0:
        target = Target(request.rooms or ())
        return FetchSockets(**head, target=target, want="ids", settle=request.settle)
    if kind == 2:
        return FetchSockets(**head, target=Target(), want="rooms")
    if kind == 5:
        data = data_from_json(request.data) if bytes(request.data) else Data(b"null")
        event = encode_json([CUSTOM_REQUEST, Raw(data.json)])
        return ServerSideEmit(**head, data=Data(event))
    if kind not in (1, 3, 4, 6):
        raise ValueError(f"a request's type must be 0 to 6, not {kind}")
    if request.sid is None:
        raise ValueError(f"a request of type {kind} must have a sid")
    target = Target((request.sid,))
    if kind == 1:
        return FetchSockets(**head, target=target)
    if kind == 6:
        return DisconnectSockets(**head, target=target, close=bool(request.close))
    if request.room is None:
        raise ValueError(f"a request of type {kind} must have a room")
    kinds = {3: SocketsJoin, 4: SocketsLeave}
    return kinds[kind](**head, target=target, rooms=(request.room,))


def _decode_response(namespace: str, text: bytes) -> Message:
    response: _Response = lenient(_response_from_json, text)
    head: dict[str, Any] = {
        "sender": response.uid or "",
        "namespace": namespace,
        "seq": response.seq,
        "request_id": response.requestid,
    }
    if response.clients is not None:
        sockets = tuple(SocketInfo(sid) for sid in response.clients)
        return FetchSocketsResponse(**head, sockets=sockets, want="ids")
    if response.rooms is not None:
        return FetchSocketsResponse(**head, rooms=response.rooms, want="rooms")
    data = data_from_json(response.data) if bytes(response.data) else Data(b"null")
    return ServerSideEmitResponse(**head, data=data)


def _decode_python(namespace: str, text: bytes) -> Message:
    heartbeat: _Heartbeat = _heartbeat_from_json.decode(text)
    if heartbeat.uid is None:
        raise ValueError("a heartbeat must have a uid")
    if heartbeat.type == 13:
        return AdapterClose(sender=heartbeat.uid, namespace=namespace, seq=heartbeat.seq)
    return Heartbeat(
        sender=heartbeat.uid,
        namespace=namespace,
        seq=heartbeat.seq,
        initial=heartbeat.type == 1,
        probe=heartbeat.probe,
    )


_DECODERS: Mapping[Kind, Callable[[str, bytes], Message]] = {
    "request": _decode_request,
    "response": _decode_response,
    "python": _decode_python,
}


# Writing


def _json(kind: Kind, message: Message, **fields: Any) -> tuple[Kind, str]:
    signed = {**fields, "uid": _uid(message)}
    if message.seq is not None:
        signed["seq"] = message.seq
    return kind, encode_json(signed).decode()


def _as_node_does(data: Data) -> Raw:
    """Return a value as JSON alone, its binary parts as Node's JSON.stringify writes a Buffer."""
    if not data.attachments:
        return Raw(data.json)
    return Raw(encode_json(_with_buffers(tree_of(data))))


def _with_buffers(value: Tree) -> Any:
    if isinstance(value, bytes):
        return {"type": "Buffer", "data": list(value)}
    if isinstance(value, dict):
        return {key: _with_buffers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_buffers(item) for item in value]
    return value


def _encode_broadcast(message: Broadcast) -> tuple[Kind, str]:
    kind = 5 if message.data.attachments else 2
    packet = {"type": kind, "data": tree_of(message.data), "nsp": message.namespace}
    opts: dict[str, Any] = {"rooms": message.target.rooms, "flags": {}}
    if message.target.excluded:
        opts["except"] = message.target.excluded
    if message.seq is not None:
        opts["seq"] = message.seq
    return "broadcast", base64.b64encode(pack([_uid(message), packet, opts])).decode()


def _encode_fetch(message: FetchSockets) -> tuple[Kind, str]:
    fields: dict[str, Any] = {"requestid": message.request_id}
    if message.want == "rooms":
        return _json("request", message, **fields, type=2)
    if message.want == "sockets":
        return _json("request", message, **fields, type=1, sid=message.target.rooms[0])
    if message.settle:
        fields["settle"] = True
    return _json("request", message, **fields, type=0, rooms=message.target.rooms)


def _encode_join_or_leave(message: SocketsJoin | SocketsLeave) -> tuple[Kind, str]:
    return _json(
        "request",
        message,
        requestid=message.request_id or "",
        type=3 if isinstance(message, SocketsJoin) else 4,
        sid=message.target.rooms[0],
        room=message.rooms[0],
    )


def _encode_disconnect(message: DisconnectSockets) -> tuple[Kind, str]:
    return _json(
        "request",
        message,
        requestid=message.request_id or "",
        type=6,
        sid=message.target.rooms[0],
        close=message.close,
    )


def _encode_custom(message: ServerSideEmit) -> tuple[Kind, str]:
    data = _as_node_does(message.data)
    items: list[Raw] = lenient(items_from_json, bytes(data))
    if msgspec.json.decode(items[0]) != CUSTOM_REQUEST:
        raise TypeError("the legacy wire cannot carry server-side events")
    return _json("request", message, requestid=message.request_id, type=5, data=items[1])


def _encode_answer(message: ServerSideEmitResponse) -> tuple[Kind, str]:
    data = _as_node_does(message.data)
    return _json("response", message, requestid=message.request_id, data=data)


def _encode_fetched(message: FetchSocketsResponse) -> tuple[Kind, str]:
    fields: dict[str, Any] = {"requestid": message.request_id}
    if message.want == "ids":
        return _json(
            "response", message, **fields, clients=[socket.id for socket in message.sockets]
        )
    rooms = message.rooms if message.want == "rooms" else message.sockets[0].rooms
    return _json("response", message, **fields, rooms=rooms)


def _encode_done(message: Done) -> tuple[Kind, str]:
    return _json("response", message, requestid=message.request_id)


def _encode_heartbeat(message: Heartbeat) -> tuple[Kind, str]:
    fields: dict[str, Any] = {} if message.probe is None else {"probe": message.probe}
    return _json("python", message, type=1 if message.initial else 2, **fields)


_ENCODERS: Mapping[type[Message], Callable[[Any], tuple[Kind, str]]] = {
    Broadcast: _encode_broadcast,
    FetchSockets: _encode_fetch,
    FetchSocketsResponse: _encode_fetched,
    SocketsJoin: _encode_join_or_leave,
    SocketsLeave: _encode_join_or_leave,
    DisconnectSockets: _encode_disconnect,
    ServerSideEmit: _encode_custom,
    ServerSideEmitResponse: _encode_answer,
    Done: _encode_done,
    Heartbeat: _encode_heartbeat,
    AdapterClose: lambda message: _json("python", message, type=13),
}
