"""Node's format: that of ``@socket.io/postgres-adapter`` 0.5 and ``@socket.io/postgres-emitter``.

One channel for each namespace; a payload is one JSON object ``{uid, type, nsp, data}``. Node
ignores keys that it does not know, so ours add ``seq`` (the sender's number), ``origin`` (which
emitter), ``probe`` (a heartbeat that its sender listens for), ``want`` and ``settle`` (a shorter or
a later answer to FETCH_SOCKETS), ``direct`` (answers may come on the asker's own channel, where
nobody else has to read them) and ``args`` (all the arguments of an acknowledgement).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Raw

from .. import options
from ..errors import ProtocolError
from .cluster_schema import (
    MAX_BIGINT,
    AdapterCloseEnvelope,
    AnswerBody,
    AnyEnvelope,
    BroadcastAckEnvelope,
    BroadcastBody,
    BroadcastClientCountEnvelope,
    BroadcastEnvelope,
    CountBody,
    DisconnectBody,
    DisconnectSocketsEnvelope,
    Envelope,
    FetchBody,
    FetchResponseBody,
    FetchSocketsEnvelope,
    FetchSocketsResponseEnvelope,
    HeartbeatEnvelope,
    InitialHeartbeatEnvelope,
    NamespaceOnly,
    Opts,
    Owner,
    RoomsBody,
    ServerSideBody,
    ServerSideEmitEnvelope,
    ServerSideEmitResponseEnvelope,
    SocketsJoinEnvelope,
    SocketsLeaveEnvelope,
)
from .messages import (
    EVERYONE,
    AdapterClose,
    Attached,
    Broadcast,
    BroadcastAck,
    BroadcastClientCount,
    Data,
    DisconnectSockets,
    FetchSockets,
    FetchSocketsResponse,
    Heartbeat,
    Message,
    ServerSideEmit,
    ServerSideEmitResponse,
    SocketInfo,
    SocketsJoin,
    SocketsLeave,
    Target,
    check_namespace,
    find_binary,
)
from .values import (
    MALFORMED,
    check_event,
    data_from_json,
    data_from_msgpack,
    encode_json,
    items_from_json,
    json_tree,
    lenient,
    no_extension,
    pack,
    tree_from_json,
    tree_from_msgpack,
    tree_of,
)
from .wire import Outgoing

_HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
# Of MessagePack's types 0xC4 to 0xDF: how many bytes tell the length of what follows, and how many
# follow beside
_LENGTHS = b"\1\2\4\1\2\4" + bytes(15) + b"\1\2\4" + bytes(4)
_MORE = b"\0\0\0\1\1\1\4\x08\1\2\4\x08\1\2\4\x08\2\3\5\x09\x11\0\0\0\2\4\2\4"
_NOWHERE = -(2**63)
"""A room that nobody is in: a number, so that no text from a client can name it."""

_MAX_NAMES = 1_024
_MAX_HEAD_ROOMS = 16
_MAX_HEAD_ROOMS_BYTES = 1_024


_ANSWERS = (FetchSocketsResponseEnvelope, ServerSideEmitResponseEnvelope, BroadcastAckEnvelope)

_from_json = msgspec.json.Decoder[Any](AnyEnvelope)
_namespace_from_json = msgspec.json.Decoder(NamespaceOnly)
_owner_from_msgpack = msgspec.msgpack.Decoder(Owner)
_from_msgpack = msgspec.msgpack.Decoder[Any](AnyEnvelope, ext_hook=no_extension)


class ClusterWire:
    """Node's format, for one prefix."""

    def __init__(self, prefix: str):
        self._prefix = prefix
        self._names: dict[str, tuple[str, bytes]] = {}
        self._broadcasts: dict[tuple[str, str], tuple[str, bytes]] = {}

    def channel(self, namespace: str) -> str:
        """Return ``PREFIX#NAMESPACE``; see :class:`.wire.Wire`."""
        check_namespace(namespace)
        return options.channel(self._prefix, namespace)

    def own_channel(self, uid: str) -> str | None:
        """Return ``PREFIX@UID``, for answers to that node only; None where it would be too long."""
        return options.own_channel(self._prefix, uid)

    def own(self, uid: str) -> tuple[bytes, ...]:
        """Return the start of every payload that this wire writes for ``uid``."""
        return (b'{"uid":' + encode_json(uid) + b",",)

    def encode(self, message: Message, max_inline: int) -> Outgoing:
        """Encode a message; see :class:`.wire.Wire`."""
        kind = type(message)
        if kind is Broadcast and message.origin is None:
            outgoing = self._encode_plain(cast("Broadcast", message), max_inline)
            if outgoing is not None:
                return outgoing
        channel, name = self._names.get(message.namespace) or self._name(message.namespace)
        start = _start(message, _TYPES.get(kind, 2), name)
        if isinstance(message, Heartbeat):
            if message.initial:
                start = _start(message, 1, name)
            if message.probe is not None:
                start += b',"probe":%d' % message.probe
            return Outgoing(channel, start + b"}", control=True)
        if isinstance(message, AdapterClose):
            return Outgoing(channel, start + b"}", control=True)
        if not _is_binary(message):
            payload = start + b',"data":' + _ENCODERS[kind](message) + b"}"
            if len(payload) <= max_inline:
                return Outgoing(channel, payload)
        tree: dict[str, Any] = tree_from_json.decode(start + b"}")
        tree["data"] = _TREES[kind](message)
        body = pack(tree)
        if isinstance(message, Broadcast) and message.request_id is None:
            rooms = message.target.rooms
            if 0 < len(rooms) <= _MAX_HEAD_ROOMS:
                text = encode_json(rooms)
                if len(text) <= _MAX_HEAD_ROOMS_BYTES:
                    start += b',"rooms":' + text
        return Outgoing(channel, start + b',"attachmentId":"', body, b'"}')

    def decode(self, namespace: str, payload: bytes) -> Message:
        """Decode a notification; see :class:`.wire.Wire`."""
        try:
            envelope = _envelope_from_json(payload)
            if envelope.attachmentId is not None:
                return Attached(
                    sender=envelope.uid,
                    namespace=namespace,
                    seq=envelope.seq,
                    origin=envelope.origin,
                    attachment_id=_attachment_id(envelope.attachmentId),
                    rooms=envelope.rooms,
                    answer=isinstance(envelope, _ANSWERS),
                )
            return _DECODERS[type(envelope)](namespace, envelope, data_from_json)
        except MALFORMED as exc:
            raise ProtocolError(f"not a message of the cluster: {exc}") from None

    def decode_answer(self, payload: bytes) -> Message:
        """Decode what has come on a node's own channel, where there are only answers.

        :raises ProtocolError: it is none.
        """
        try:
            name = _namespace_from_json.decode(payload).nsp
        except MALFORMED as exc:
            raise ProtocolError(f"not an answer of the cluster: {exc}") from None
        message = self.decode(name, payload)
        if isinstance(message, FetchSocketsResponse | ServerSideEmitResponse) or (
            isinstance(message, Attached) and message.answer
        ):
            return message
        raise ProtocolError("not an answer of the cluster: another message on a node's own channel")

    def is_body_of(self, attached: Attached, body: bytes) -> bool:
        """Tell whether an attachment is a message's: ids begin again when the table is made again."""
        try:
            owner = _owner_from_msgpack.decode(body)
        except MALFORMED:
            # what is wrong is for decode_body to say
            return True
        numbered = owner.seq is not None
        same = (owner.seq, owner.origin) == (attached.seq, attached.origin)
        return owner.uid == attached.sender and (same or not numbered)

    def decode_body(self, attached: Attached, body: bytes) -> Message:
        """Decode an attachment; see :class:`.wire.Wire`."""
        try:
            try:
                return _decode_body(attached, body)
            except MALFORMED:
                whole = _with_whole_characters(body)
                if whole == body:
                    raise
                return _decode_body(attached, whole)
        except MALFORMED as exc:
            raise ProtocolError(f"not an attachment of the cluster: {exc}") from None

    def _encode_plain(self, message: Broadcast, max_inline: int) -> Outgoing | None:
        """Encode what most messages are: a node's event without binary values that is not long."""
        data = message.data
        if data.attachments or message.seq is None or len(data.json) > max_inline:
            return None
        key = message.sender, message.namespace
        known = self._broadcasts.get(key)
        if known is None:
            channel, name = self._name(message.namespace)
            known = channel, _start(Broadcast(sender=key[0], namespace=key[1], data=data), 3, name)
            if len(self._broadcasts) < _MAX_NAMES:
                self._broadcasts[key] = known
        channel, start = known
        payload = b'%b,"seq":%d,"data":%b}' % (start, message.seq, _encode_broadcast(message))
        return Outgoing(channel, payload) if len(payload) <= max_inline else None

    def _name(self, namespace: str) -> tuple[str, bytes]:
        """Return a namespace's channel and its name as JSON, which are asked for again and again."""
        found = self.channel(namespace), encode_json(namespace)
        if len(self._names) < _MAX_NAMES:
            self._names[namespace] = found
        return found


def _start(message: Message, kind: int, name: bytes) -> bytes:
    start = b'{"uid":"%s","type":%d,"nsp":%s' % (message.sender.encode(), kind, name)
    if message.seq is not None:
        start += b',"seq":%d' % message.seq
    if message.origin is not None:
        start += b',"origin":"%s"' % message.origin.encode()
    return start


def _attachment_id(value: str | int) -> int:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 19):
        raise ValueError(f"attachmentId must be a decimal number, not {value[:32]!r}")
    number = int(value)
    if not 0 < number <= MAX_BIGINT:
        raise ValueError(f"attachmentId must be 1 to {MAX_BIGINT}, not {number}")
    return number


def _with_whole_characters(body: bytes) -> bytes:
    """Replace halves of surrogate pairs in MessagePack's strings, as :func:`.lenient` does in JSON.

    Node writes each as three bytes, which is what the replacement character takes.
    """
    mended = bytearray(body)
    at = 0
    while at < len(body):
        kind = body[at]
        width, more = 0, kind & 0x1F if 0xA0 <= kind <= 0xBF else 0
        if 0xC4 <= kind <= 0xDF:
            width, more = _LENGTHS[kind - 0xC4], _MORE[kind - 0xC4]
        at += 1 + width
        end = at + int.from_bytes(body[at - width : at]) + more
        if 0xA0 <= kind <= 0xBF or 0xD9 <= kind <= 0xDB:
            mended[at:end] = _HALF.sub(b"\xef\xbf\xbd", body[at:end])
        at = end
    return bytes(mended)


def _envelope_from_json(payload: bytes) -> AnyEnvelope:
    try:
        envelope: AnyEnvelope = lenient(_from_json, payload)
    except msgspec.ValidationError:
        tree = lenient(tree_from_json, payload)
        if not _mend(tree):
            raise
        envelope = _from_json.decode(encode_json(tree))
    return envelope


def _envelope_from_msgpack(body: bytes) -> AnyEnvelope:
    try:
        envelope: AnyEnvelope = _from_msgpack.decode(body)
    except msgspec.ValidationError:
        tree = tree_from_msgpack.decode(body)
        if not _mend(tree):
            raise
        envelope = _from_msgpack.decode(pack(tree))
    return envelope


def _mend(tree: Any) -> bool:
    """Make what JavaScript lets its callers say into what is meant; tell whether that was needed.

    Anything can be a room's name, such as undefined, which comes as null. Nobody here can be in
    such a room: a message for no other is for nobody, not for everyone. A timeout may be text, and
    whether to close a connection anything at all.
    """
    data = _part(tree, "data")
    opts = _part(data, "opts")
    places = [(opts, "rooms"), (opts, "except"), (data, "rooms")]
    places += [(_dict(socket), "rooms") for socket in data.get("sockets") or ()]
    found = False
    for holder, key in places:
        rooms: Any = holder.get(key)
        if isinstance(rooms, list):
            names = cast("list[object]", rooms)
            kept = [room for room in names if type(room) in (str, int)]
            if len(kept) < len(names):
                found = True
                holder[key] = kept
                if not kept and holder is opts and key == "rooms":
                    holder[key] = [_NOWHERE]
    flags = _part(opts, "flags")
    if type(flags.get("timeout")) not in (int, float, type(None)):
        # without it, acknowledgements are waited for as long as it takes
        found = True
        del flags["timeout"]
    if type(data.get("close", False)) is not bool:
        found = True
        data["close"] = bool(data["close"])
    return found


def _part(tree: Any, key: str) -> dict[str, Any]:
    return _dict(_dict(tree).get(key))


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


_ToData: TypeAlias = Callable[[Raw], Data]


def _target(opts: Opts) -> Target:
    timeout = opts.flags.timeout if opts.flags is not None else None
    if not opts.rooms and not opts.except_ and timeout is None:
        return EVERYONE
    return Target(opts.rooms, opts.except_, timeout)


def _body(envelope: Any) -> Any:
    if envelope.data is None:
        raise ValueError("the message has neither data nor an attachmentId")
    return envelope.data


_Decode: TypeAlias = Callable[[str, Any, _ToData], Message]


def _decode_body(attached: Attached, body: bytes) -> Message:
    envelope = _envelope_from_msgpack(body)
    if envelope.uid != attached.sender:
        raise ValueError("the attachment is another sender's")
    envelope.seq = attached.seq
    envelope.origin = attached.origin
    return _DECODERS[type(envelope)](attached.namespace, envelope, data_from_msgpack)


def _head(namespace: str, envelope: Envelope) -> dict[str, Any]:
    return {
        "sender": envelope.uid,
        "namespace": namespace,
        "seq": envelope.seq,
        "origin": envelope.origin,
    }


def _decode_heartbeat(namespace: str, envelope: Any, _: _ToData) -> Message:
    return Heartbeat(
        **_head(namespace, envelope),
        initial=isinstance(envelope, InitialHeartbeatEnvelope),
        probe=envelope.probe,
    )


def _decode_broadcast(namespace: str, envelope: BroadcastEnvelope, to_data: _ToData) -> Message:
    body: BroadcastBody = _body(envelope)
    if body.packet.type not in (2, 5):
        raise ValueError(f"a broadcast's packet must be of type 2 or 5, not {body.packet.type}")
    return Broadcast(
        sender=envelope.uid,
        namespace=namespace,
        seq=envelope.seq,
        origin=envelope.origin,
        data=check_event(to_data(body.packet.data), reserved=True),
        target=_target(body.opts),
        request_id=body.requestId,
    )


def _decode_rooms(namespace: str, envelope: Any, _: _ToData) -> Message:
    body: RoomsBody = _body(envelope)
    kind = SocketsJoin if isinstance(envelope, SocketsJoinEnvelope) else SocketsLeave
    return kind(**_head(namespace, envelope), target=_target(body.opts), rooms=body.rooms)


def _decode_disconnect(namespace: str, envelope: Any, _: _ToData) -> Message:
    body: DisconnectBody = _body(envelope)
    return DisconnectSockets(
        **_head(namespace, envelope), target=_target(body.opts), close=body.close
    )


def _decode_fetch(namespace: str, envelope: Any, _: _ToData) -> Message:
    body: FetchBody = _body(envelope)
    return FetchSockets(
        **_head(namespace, envelope),
        target=_target(body.opts),
        request_id=body.requestId,
        want=body.want,
        settle=body.settle,
        direct=body.direct,
    )


def _decode_fetch_response(namespace: str, envelope: Any, to_data: _ToData) -> Message:
    body: FetchResponseBody = _body(envelope)
    sockets = body.sockets
    if to_data is data_from_msgpack:
        sockets = tuple(
            SocketInfo(s.id, s.rooms, json_tree(s.data, None), json_tree(s.handshake, None))
            for s in sockets
        )
    return FetchSocketsResponse(
        **_head(namespace, envelope),
        request_id=body.requestId,
        sockets=sockets,
        rooms=body.rooms,
    )


def _decode_server_side(namespace: str, envelope: Any, to_data: _ToData) -> Message:
    body: ServerSideBody = _body(envelope)
    return ServerSideEmit(
        **_head(namespace, envelope),
        data=check_event(to_data(body.packet), reserved=False),
        request_id=body.requestId,
        direct=body.direct,
    )


def _decode_answer(namespace: str, envelope: Any, to_data: _ToData) -> Message:
    body: AnswerBody = _body(envelope)
    return ServerSideEmitResponse(
        **_head(namespace, envelope),
        request_id=body.requestId,
        data=to_data(body.packet) if bytes(body.packet) else Data(b"null"),
    )


def _decode_count(namespace: str, envelope: Any, _: _ToData) -> Message:
    body: CountBody = _body(envelope)
    return BroadcastClientCount(
        **_head(namespace, envelope), request_id=body.requestId, count=body.clientCount
    )


def _decode_ack(namespace: str, envelope: Any, to_data: _ToData) -> Message:
    body: AnswerBody = _body(envelope)
    if bytes(body.args):
        data = to_data(body.args)
        if not data.json.startswith(b"["):
            raise ValueError("the arguments of an acknowledgement must be an array")
    elif bytes(body.packet):
        first = to_data(body.packet)
        data = Data(b"[" + first.json + b"]", first.attachments)
    else:
        data = Data(b"[]")
    return BroadcastAck(**_head(namespace, envelope), request_id=body.requestId, data=data)


def _decode_close(namespace: str, envelope: Any, _: _ToData) -> Message:
    return AdapterClose(**_head(namespace, envelope))


_DECODERS: Mapping[type[Envelope], _Decode] = cast(
    "Mapping[type[Envelope], _Decode]",
    {
        InitialHeartbeatEnvelope: _decode_heartbeat,
        HeartbeatEnvelope: _decode_heartbeat,
        BroadcastEnvelope: _decode_broadcast,
        SocketsJoinEnvelope: _decode_rooms,
        SocketsLeaveEnvelope: _decode_rooms,
        DisconnectSocketsEnvelope: _decode_disconnect,
        FetchSocketsEnvelope: _decode_fetch,
        FetchSocketsResponseEnvelope: _decode_fetch_response,
        ServerSideEmitEnvelope: _decode_server_side,
        ServerSideEmitResponseEnvelope: _decode_answer,
        BroadcastClientCountEnvelope: _decode_count,
        BroadcastAckEnvelope: _decode_ack,
        AdapterCloseEnvelope: _decode_close,
    },
)

_TYPES: Mapping[type[Message], int] = {
    Broadcast: 3,
    SocketsJoin: 4,
    SocketsLeave: 5,
    DisconnectSockets: 6,
    FetchSockets: 7,
    FetchSocketsResponse: 8,
    ServerSideEmit: 9,
    ServerSideEmitResponse: 10,
    BroadcastClientCount: 11,
    BroadcastAck: 12,
    AdapterClose: 13,
}


def _is_binary(message: Message) -> bool:
    if isinstance(message, FetchSocketsResponse):
        return any(find_binary(socket.data) for socket in message.sockets)
    data: Data | None = getattr(message, "data", None)
    return data is not None and bool(data.attachments)


def _opts(target: Target) -> dict[str, Any]:
    flags = {} if target.timeout_ms is None else {"timeout": target.timeout_ms}
    return {"rooms": target.rooms, "except": target.excluded, "flags": flags}


_EVERYONE_JSON = encode_json(_opts(EVERYONE))


def _encode_broadcast(message: Broadcast) -> bytes:
    opts = _EVERYONE_JSON if message.target is EVERYONE else encode_json(_opts(message.target))
    request = (
        b"" if message.request_id is None else b',"requestId":' + encode_json(message.request_id)
    )
    return b'{"packet":{"type":2,"data":%s},"opts":%s%s}' % (message.data.json, opts, request)


def _raw_of(data: Data) -> Raw:
    return Raw(data.json)


def _with_request(tree: dict[str, Any], request_id: str | None) -> dict[str, Any]:
    if request_id is not None:
        tree["requestId"] = request_id
    return tree


def _broadcast_tree(message: Broadcast) -> dict[str, Any]:
    packet = {"type": 2, "data": tree_of(message.data), "nsp": message.namespace}
    return _with_request({"packet": packet, "opts": _opts(message.target)}, message.request_id)


def _rooms_tree(message: SocketsJoin | SocketsLeave) -> dict[str, Any]:
    return {"opts": _opts(message.target), "rooms": message.rooms}


def _disconnect_tree(message: DisconnectSockets) -> dict[str, Any]:
    return {"opts": _opts(message.target), "close": message.close}


def _fetch_tree(message: FetchSockets) -> dict[str, Any]:
    tree: dict[str, Any] = {"opts": _opts(message.target), "requestId": message.request_id}
    if message.want != "sockets":
        tree["want"] = message.want
    if message.settle:
        tree["settle"] = True
    if message.direct:
        tree["direct"] = True
    return tree


def _fetch_response_tree(message: FetchSocketsResponse) -> dict[str, Any]:
    tree: dict[str, Any] = {"requestId": message.request_id, "sockets": message.sockets}
    if message.rooms is not None:
        tree["rooms"] = message.rooms
    return tree


def _count_tree(message: BroadcastClientCount) -> dict[str, Any]:
    return {"requestId": message.request_id, "clientCount": message.count}


def _server_side_tree(message: ServerSideEmit, of: Callable[[Data], Any]) -> dict[str, Any]:
    tree = _with_request({"packet": of(message.data)}, message.request_id)
    if message.direct:
        tree["direct"] = True
    return tree


def _answer_tree(message: ServerSideEmitResponse, of: Callable[[Data], Any]) -> dict[str, Any]:
    return {"requestId": message.request_id, "packet": of(message.data)}


def _ack_tree(message: BroadcastAck, of: Callable[[Data], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {"requestId": message.request_id}
    args = of(message.data)
    items: list[Any] = lenient(items_from_json, args) if isinstance(args, Raw) else args
    if items:
        tree["packet"] = items[0]
    if len(items) != 1:
        tree["args"] = args
    return tree


_TREES: Mapping[type[Message], Callable[[Any], Any]] = {
    Broadcast: _broadcast_tree,
    SocketsJoin: _rooms_tree,
    SocketsLeave: _rooms_tree,
    DisconnectSockets: _disconnect_tree,
    FetchSockets: _fetch_tree,
    FetchSocketsResponse: _fetch_response_tree,
    ServerSideEmit: lambda message: _server_side_tree(message, tree_of),
    ServerSideEmitResponse: lambda message: _answer_tree(message, tree_of),
    BroadcastClientCount: _count_tree,
    BroadcastAck: lambda message: _ack_tree(message, tree_of),
}

_ENCODERS: Mapping[type[Message], Callable[[Any], bytes]] = {
    Broadcast: _encode_broadcast,
    SocketsJoin: lambda message: encode_json(_rooms_tree(message)),
    SocketsLeave: lambda message: encode_json(_rooms_tree(message)),
    DisconnectSockets: lambda message: encode_json(_disconnect_tree(message)),
    FetchSockets: lambda message: encode_json(_fetch_tree(message)),
    FetchSocketsResponse: lambda message: encode_json(_fetch_response_tree(message)),
    ServerSideEmit: lambda message: encode_json(_server_side_tree(message, _raw_of)),
    ServerSideEmitResponse: lambda message: encode_json(_answer_tree(message, _raw_of)),
    BroadcastClientCount: lambda message: encode_json(_count_tree(message)),
    BroadcastAck: lambda message: encode_json(_ack_tree(message, _raw_of)),
}
