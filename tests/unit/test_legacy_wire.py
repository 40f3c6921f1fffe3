"""The 1.x format: what one node writes another reads, what Node writes, and what nobody should."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyio_sio_pg.errors import ProtocolError
from anyio_sio_pg.protocol.legacy_wire import CHANNEL, MAX_NAMESPACE, LegacyWire
from anyio_sio_pg.protocol.messages import (
    CUSTOM_REQUEST,
    AdapterClose,
    Broadcast,
    BroadcastAck,
    BroadcastClientCount,
    Data,
    DisconnectSockets,
    Done,
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
    from_data,
    to_data,
)
from anyio_sio_pg.protocol.wire import Outgoing
from unit.strategies import (
    damaged,
    data_of,
    deep_values,
    events,
    heads,
    mutated,
    namespaces,
    request_ids,
    room_tuples,
    rooms,
    stdlib_json,
    texts,
    values,
)
from unit.test_hostile import any_json, any_msgpack, check
from unit.test_round_trip import MAX_PAYLOAD, NO_LIMIT, comparable

sids = texts.map(lambda sid: Target((sid,)))
custom = values | deep_values()

MESSAGES: dict[str, st.SearchStrategy[Message]] = {
    "heartbeat": st.builds(
        Heartbeat, **heads, initial=st.booleans(), probe=st.none() | st.integers(0, 2**63 - 1)
    ),
    "close": st.builds(AdapterClose, **heads),
    "broadcast": st.builds(
        Broadcast,
        **heads,
        data=events,
        target=st.builds(Target, rooms=room_tuples, excluded=room_tuples),
    ),
    "clients": st.builds(
        FetchSockets,
        **heads,
        target=room_tuples.map(Target),
        request_id=request_ids,
        want=st.just("ids"),
        settle=st.booleans(),
    ),
    "client's rooms": st.builds(FetchSockets, **heads, target=sids, request_id=request_ids),
    "all rooms": st.builds(
        FetchSockets,
        **heads,
        target=st.just(Target()),
        request_id=request_ids,
        want=st.just("rooms"),
    ),
    "join": st.builds(
        SocketsJoin, **heads, target=sids, rooms=st.tuples(rooms), request_id=request_ids
    ),
    "leave": st.builds(
        SocketsLeave, **heads, target=sids, rooms=st.tuples(rooms), request_id=request_ids
    ),
    "disconnect": st.builds(
        DisconnectSockets, **heads, target=sids, close=st.booleans(), request_id=request_ids
    ),
    "custom request": st.builds(
        ServerSideEmit,
        **heads,
        data=data_of(custom.map(lambda value: [CUSTOM_REQUEST, value])),
        request_id=request_ids,
    ),
    "clients' answer": st.builds(
        FetchSocketsResponse,
        **heads,
        request_id=request_ids,
        sockets=st.lists(texts.map(SocketInfo), max_size=5).map(tuple),
        want=st.just("ids"),
    ),
    "rooms' answer": st.builds(
        FetchSocketsResponse,
        **heads,
        request_id=request_ids,
        rooms=room_tuples,
        want=st.just("rooms"),
    ),
    "custom answer": st.builds(
        ServerSideEmitResponse, **heads, request_id=request_ids, data=data_of(custom)
    ),
}
messages = st.one_of(*MESSAGES.values())

each_kind = pytest.mark.parametrize("kind", MESSAGES)


def reader(*listened: str, prefix: str = "socket.io") -> LegacyWire:
    wire = LegacyWire(prefix)
    for namespace in listened:
        wire.listen(namespace)
    return wire


def payloads_of(outgoing: Outgoing) -> list[bytes]:
    assert outgoing.body is None
    assert outgoing.tail == b""
    return [outgoing.head, *outgoing.more]


def written(message: Message, limit: int = NO_LIMIT) -> list[bytes]:
    return payloads_of(LegacyWire("socket.io").encode(message, limit))


def read(payloads: Iterable[bytes], wire: LegacyWire) -> Message | None:
    """Return the message that comes with the last payload; before it there must be none."""
    *first, last = payloads
    for payload in first:
        assert wire.decode(payload, 0.0) is None
    return wire.decode(last, 0.0)


def as_node_writes(value: Any) -> Any:
    """JSON.stringify makes this of a Buffer."""
    if isinstance(value, bytes):
        return {"type": "Buffer", "data": list(value)}
    if isinstance(value, dict):
        return {key: as_node_writes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_node_writes(item) for item in value]
    return value


def expected(message: Message) -> Message:
    """What others read of a message: their own uid is all that emitters are known by."""
    changes: dict[str, Any] = {"sender": message.origin or message.sender, "origin": None}
    if isinstance(message, ServerSideEmit | ServerSideEmitResponse):
        tree = as_node_writes(from_data(message.data, json.loads))
        changes["data"] = to_data(tree, stdlib_json)
    return msgspec.structs.replace(message, **changes)


def same(result: Message | None, message: Message) -> bool:
    # only MessagePack has no room for large numbers, and only beside bytes does JSON leave them
    data = getattr(message, "data", None)
    narrow = isinstance(message, Broadcast) or (isinstance(data, Data) and bool(data.attachments))
    return comparable(result, narrow=narrow) == comparable(expected(message), narrow=narrow)


# What one of ours writes


@each_kind
@given(data=st.data())
def test_a_message_survives(kind: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    payloads = written(message)
    assert len(payloads) == 1
    assert same(read(payloads, reader(message.namespace)), message)


@each_kind
@given(data=st.data())
def test_a_message_survives_in_pieces_in_any_order(kind: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    payloads = written(message, data.draw(st.integers(1, 400)))
    order = data.draw(st.permutations(payloads))
    assert same(read(order, reader(message.namespace)), message)


@given(st.lists(messages, min_size=2, max_size=4), st.data())
def test_the_pieces_of_several_messages_do_not_mix(
    several: list[Message], data: st.DataObject
) -> None:
    # all of one sender's
    several = [
        msgspec.structs.replace(message, sender="abcdef", origin=None, namespace="/")
        for message in several
    ]
    ours = LegacyWire("socket.io")
    pieces = [payloads_of(ours.encode(message, 200)) for message in several]
    wire = reader("/")
    found = [
        wire.decode(payload, 0.0)
        for payload in data.draw(st.permutations([one for each in pieces for one in each]))
    ]
    left = [message for message in found if message is not None]
    assert len(left) == len(several)
    for message in several:
        match = next(one for one in left if same(one, message))
        left.remove(match)


def test_an_answer_about_a_sockets_rooms_has_only_these() -> None:
    message = FetchSocketsResponse(
        sender="a", namespace="/", request_id="1", sockets=(SocketInfo("s", ("s", "r", 7)),)
    )
    assert read(written(message), reader("/")) == FetchSocketsResponse(
        sender="a", namespace="/", request_id="1", rooms=("s", "r", 7), want="rooms"
    )


def test_what_is_done_is_an_answer_of_nothing() -> None:
    message = Done(sender="a", namespace="/", seq=3, request_id="1")
    assert read(written(message), reader("/")) == ServerSideEmitResponse(
        sender="a", namespace="/", seq=3, request_id="1", data=Data(b"null")
    )


@given(messages)
def test_everything_goes_over_one_channel(message: Message) -> None:
    outgoing = LegacyWire("socket.io").encode(message, 100)
    assert outgoing.channel == CHANNEL == LegacyWire("other").channel(message.namespace)
    assert outgoing.control == isinstance(message, Heartbeat | AdapterClose)


@given(messages)
def test_a_payload_is_text_without_nul(message: Message) -> None:
    for limit in (1, NO_LIMIT):
        for payload in written(message, limit):
            assert "\0" not in payload.decode()


@pytest.mark.parametrize(
    "message",
    [
        BroadcastClientCount(sender="a", namespace="/", request_id="1", count=1),
        BroadcastAck(sender="a", namespace="/", request_id="1", data=Data(b"[]")),
        ServerSideEmit(sender="a", namespace="/", data=Data(b'["event",1]'), request_id="1"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_format_does_not_have_is_refused(message: Message) -> None:
    with pytest.raises(TypeError, match="the legacy wire cannot carry"):
        LegacyWire("socket.io").encode(message, NO_LIMIT)


@pytest.mark.parametrize("half", ["\ud83d", "x\ude00", "\ude00\ud83d"])
def test_half_a_surrogate_pair_reaches_the_others_as_a_replacement_character(half: str) -> None:
    whole = "".join("�" if "\ud800" <= c <= "\udfff" else c for c in half)
    head: dict[str, Any] = {"sender": "a", "namespace": "/"}
    event = Broadcast(**head, data=to_data(["e", half], stdlib_json))
    asked = ServerSideEmit(
        **head, request_id="1", data=to_data([CUSTOM_REQUEST, half, b""], stdlib_json)
    )
    answer = ServerSideEmitResponse(**head, request_id="1", data=to_data(half, stdlib_json))
    for limit in (100, NO_LIMIT):
        found: Any
        for message, there in ((event, ["e", whole]), (asked, [CUSTOM_REQUEST, whole])):
            found = read(written(message, limit), reader("/"))
            assert from_data(found.data, json.loads) == there
        found = read(written(answer, limit), reader("/"))
        # as it is escaped, a client gets it as Node's would send it
        assert from_data(found.data, json.loads) in (whole, half)


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, -(2**63) - 1, 10**30])
def test_large_numbers_beside_bytes(number: int) -> None:
    head: dict[str, Any] = {"sender": "a", "namespace": "/", "request_id": "1"}
    asked = ServerSideEmit(**head, data=to_data([CUSTOM_REQUEST, [number, b"x"]], stdlib_json))
    found: Any = read(written(asked), reader("/"))
    _, (value, _) = from_data(found.data, json.loads)
    assert value == number or value == float(number)
    answer = ServerSideEmitResponse(**head, data=to_data([number, b"x"], stdlib_json))
    found = read(written(answer), reader("/"))
    value, _ = from_data(found.data, json.loads)
    assert value == number or value == float(number)


# Sizes

CHARACTERS = ["x", '"', "\\", "\n", "\x01", "\0", "\x7f", "é", "€", "😀", "\u2028", "\ud83d"]
long_texts = st.builds(
    lambda parts, times: "".join(parts) * times,
    st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=6),
    st.integers(1, 6_000),
)


def shortened(text: str, size: int) -> str:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


names = st.builds(shortened, long_texts, st.integers(0, MAX_NAMESPACE))
namespace_names = names.map(lambda name: shortened("/" + name.replace("\0", "\x02"), MAX_NAMESPACE))


def assert_fits(message: Message, prefix: str = "socket.io") -> None:
    payloads = payloads_of(LegacyWire(prefix).encode(message, MAX_PAYLOAD))
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    assert same(read(payloads, reader(message.namespace, prefix=prefix)), message)


@example("/", "\x01" * 1_000, "")
@example("/" + "\x01" * 999, "\x01" * 1_000, "")
@example("/" + "\\" * 999, '"' * 1_000, "")
@example("/" + "\x01" * 999, "", "")
@given(namespace_names, names, long_texts)
def test_no_payload_of_an_event_is_too_long(namespace: str, room: str, text: str) -> None:
    assert_fits(
        Broadcast(
            sender="a" * 6,
            namespace=namespace,
            seq=2**63 - 1,
            origin="0" * 16,
            data=to_data(["e", text.replace("\ud83d", "�")], stdlib_json),
            target=Target((room,)),
        ),
        prefix="\x01" * 61,
    )


@example("/" + "\x01" * 999, "\\", "\x01" * 3_000)
@given(namespace_names, names, long_texts)
def test_no_payload_of_a_request_is_too_long(namespace: str, room: str, text: str) -> None:
    text = text.replace("\ud83d", "�")
    head: dict[str, Any] = {"sender": "a" * 6, "namespace": namespace, "request_id": "r" * 20}
    assert_fits(ServerSideEmit(**head, data=to_data([CUSTOM_REQUEST, text], stdlib_json)))
    assert_fits(ServerSideEmitResponse(**head, data=to_data([text], json.dumps)))
    assert_fits(FetchSocketsResponse(**head, rooms=(room, text), want="rooms"))
    assert_fits(SocketsJoin(**head, target=Target(("s",)), rooms=(text,)))


@pytest.mark.parametrize("size", [1_000, 1_001])
def test_a_room_with_a_long_name_is_not_in_the_channels(size: int) -> None:
    # nodes that do not have the room read the event, and find it out then
    message = Broadcast(
        sender="a", namespace="/", data=Data(b'["e"]'), target=Target(("r" * size,))
    )
    name, _ = json.loads(written(message)[0])
    assert name == ("socket.io#/#" if size > 1_000 else "socket.io#/#" + "r" * size + "#")
    assert read(written(message), reader("/")) == message


@pytest.mark.parametrize("namespace", ["/" + "n" * 1_000, "/" + "é" * 500, "/a\0", "/\ud800"])
def test_a_namespace_that_cannot_be_told_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        LegacyWire("socket.io").channel(namespace)


@pytest.mark.parametrize("namespace", ["/", "/" + "n" * 999, "/" + "é" * 499])
def test_a_namespace_that_can_be_told_is_not(namespace: str) -> None:
    assert LegacyWire("socket.io").channel(namespace) == "socketio"


# What Node writes: captured from socket.io-adapter-postgres 1.2.1 with socket.io 2.2.0 and pg 8.23

UID = "LZcEaS"
SID = "HlrMcmW9sDEms0iJAAAB"
HEAD: dict[str, Any] = {"sender": UID, "namespace": "/"}
UNSIGNED: dict[str, Any] = {"sender": "", "namespace": "/"}


def event(text: str, *attachments: bytes, **changes: Any) -> Broadcast:
    return Broadcast(**{**HEAD, **changes}, data=Data(text.encode(), attachments))


EVENTS_FROM_NODE: dict[str, tuple[str, Broadcast]] = {
    'emit("e", 1, "two", null, true, 1.5, {k: []})': (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGXoWUBo3R3b8DDyz/4AAAAAAAAgaFrkKNuc3ChL4Klc'
            r'm9vbXOQpWZsYWdzgA=="]'
        ),
        event('["e",1,"two",null,true,1.5,{"k":[]}]'),
    ),
    "in a namespace": (
        r'["socket.io#/a#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoi9hgqVyb29tc5ClZmxhZ3OA"]',
        event('["e"]', namespace="/a"),
    ),
    "to a room": (
        r'["socket.io#/#r#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkaFypWZsYWdzgA=="]',
        event('["e"]', target=Target(("r",))),
    ),
    "to two rooms": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkqFyoXOlZmxhZ3OA"]',
        event('["e"]', target=Target(("r", "s"))),
    ),
    "to a room of a namespace": (
        r'["socket.io#/a#r#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoi9hgqVyb29tc5GhcqVmbGFnc4A="]',
        event('["e"]', namespace="/a", target=Target(("r",))),
    ),
    "socket.broadcast": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+DpmV4Y2VwdJG0SGxyTWNtVzlzREVtc'
            r'zBpSkFBQUKlcm9vbXOQpWZsYWdzgalicm9hZGNhc3TD"]'
        ),
        event('["e"]', target=Target((), (SID,))),
    ),
    "socket.to": (
        (
            r'["socket.io#/#r#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+DpmV4Y2VwdJG0SGxyTWNtVzlzREV'
            r'tczBpSkFBQUKlcm9vbXORoXKlZmxhZ3OA"]'
        ),
        event('["e"]', target=Target(("r",), (SID,))),
    ),
    "volatile.compress(false)": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkKVmbGFnc4Kodm9sYXRpb'
            r'GXDqGNvbXByZXNzwg=="]'
        ),
        event('["e"]'),
    ),
    "Buffers": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGToWXEAwAB/4Gha5HEAKNuc3ChL4Klcm9vbXOQpWZsY'
            r'WdzgA=="]'
        ),
        event(
            '["e",{"_placeholder":true,"num":0},{"k":[{"_placeholder":true,"num":1}]}]',
            b"\x00\x01\xff",
            b"",
        ),
    ),
    "new Date(1e12 + 1), new Date(-1), [new Date(0)], new Date(NaN)": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGVoWXXAAAAAOjUpRAB1wD//////////5HXAAAAAAAAA'
            r'AAA1wAAAAAAAAAAAKNuc3ChL4Klcm9vbXOQpWZsYWdzgA=="]'
        ),
        # notepack.io makes the last one that of 1970, for Node as well
        event(
            '["e","2001-09-09T01:46:40.001Z","1969-12-31T23:59:59.999Z",'
            '["1970-01-01T00:00:00.000Z"],"1970-01-01T00:00:00.000Z"]'
        ),
    ),
    "undefined, {none: undefined, n: null}, [undefined], 7": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGVoWXUAACCpG5vbmXUAAChbsCR1AAAB6Nuc3ChL4Klc'
            r'm9vbXOQpWZsYWdzgA=="]'
        ),
        event('["e",null,{"n":null},[null],7]'),
    ),
    "an ArrayBuffer of 0 bytes": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGSoWXHAACjbnNwoS+CpXJvb21zkKVmbGFnc4A="]',
        event('["e",{"_placeholder":true,"num":0}]', b""),
    ),
    "an ArrayBuffer of 1 byte": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGSoWXHAQACo25zcKEvgqVyb29tc5ClZmxhZ3OA"]',
        event('["e",{"_placeholder":true,"num":0}]', b"\x02"),
    ),
    "an ArrayBuffer of 5 bytes": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGSoWXHBQAGBgYGBqNuc3ChL4Klcm9vbXOQpWZsYWdzg'
            r'A=="]'
        ),
        event('["e",{"_placeholder":true,"num":0}]', b"\x06" * 5),
    ),
    "an ArrayBuffer of 8 bytes": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGSoWXHCAAJCQkJCQkJCaNuc3ChL4Klcm9vbXOQpWZsY'
            r'WdzgA=="]'
        ),
        event('["e",{"_placeholder":true,"num":0}]', b"\x09" * 8),
    ),
    "an ArrayBuffer of 16 bytes": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGSoWXHEAARERERERERERERERERERERo25zcKEvgqVyb'
            r'29tc5ClZmxhZ3OA"]'
        ),
        event('["e",{"_placeholder":true,"num":0}]', b"\x11" * 16),
    ),
    "typed arrays of 1, 5, 8 and 2 bytes": (
        # in a packet of type 2, as has-binary2 does not know them
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGVoWXHAQAJxwUAAQIDBAXHCAAAAAAAAAD4P8cCAAAAo'
            r'25zcKEvgqVyb29tc5ClZmxhZ3OA"]'
        ),
        event(
            '["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},'
            '{"_placeholder":true,"num":2},{"_placeholder":true,"num":3}]',
            b"\x09",
            b"\x01\x02\x03\x04\x05",
            b"\x00\x00\x00\x00\x00\x00\xf8\x3f",
            b"\x00\x00",
        ),
    ),
    "ArrayBuffers of zeros beside dates of other times": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUFpGRhdGGWoWXHCAAAAAAAAAAAANcAAAAAAAAAAAXHAQAH1AAA1'
            r'wAAAAAAAAAABaNuc3ChL4Klcm9vbXOQpWZsYWdzgA=="]'
        ),
        event(
            '["e",{"_placeholder":true,"num":0},"1970-01-01T00:00:00.005Z",'
            '{"_placeholder":true,"num":1},null,"1970-01-01T00:00:00.005Z"]',
            bytes(8),
            b"\x07",
        ),
    ),
    "U+0000, astral characters and quotes": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGUo8OpAKNhAGKo8J2EnvCfmICiIlyjbnNwoS+CpXJvb'
            r'21zkKVmbGFnc4A="]'
        ),
        event('["é\\u0000","a\\u0000b","𝄞😀","\\"\\\\"]'),
    ),
    "half an emoji at the end of a long text": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGSoWXZKnh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4'
            r'eHh4eHh4eHh4eHh4eO+/vaNuc3ChL4Klcm9vbXOQpWZsYWdzgA=="]'
        ),
        event('["e","' + "x" * 39 + '�"]'),
    ),
    "-1, 2 ** 53, -(2 ** 40), NaN, Infinity, -0, 1e300": (
        (
            r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGYoWX/zwAgAAAAAAAA0////wAAAAAAy3/4AAAAAAAAy'
            r'3/wAAAAAAAAAM8AAAAAAAAAAKNuc3ChL4Klcm9vbXOQpWZsYWdzgA=="]'
        ),
        # notepack.io makes the last one a 0, for Node as well
        event('["e",-1,9007199254740992,-1099511627776,null,null,0,0]'),
    ),
    "to room 5": (
        r'["socket.io#/#5#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkQWlZmxhZ3OA"]',
        event('["e"]', target=Target((5,))),
    ),
    "to a room with a #": (
        r'["socket.io#/#a#b#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkaNhI2KlZmxhZ3OA"]',
        event('["e"]', target=Target(("a#b",))),
    ),
    "to rooms undefined and r": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zktQAAKFypWZsYWdzgA=="]',
        event('["e"]', target=Target(("r",))),
    ),
    "an event named 7": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGSBwGjbnNwoS+CpXJvb21zkKVmbGFnc4A="]',
        event("[7,1]"),
    ),
    "what has toJSON, a Map, an Error, a function": (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGVoWWBoWoBgICAo25zcKEvgqVyb29tc5ClZmxhZ3OA"]',
        event('["e",{"j":1},{},{},{}]'),
    ),
}

ID = "qrH4YL"


def asked(kind: type[Message], **fields: Any) -> Message:
    return kind(**{**UNSIGNED, "request_id": ID, **fields})


def custom_request(text: str) -> Message:
    return asked(ServerSideEmit, data=Data(f'["{CUSTOM_REQUEST}",{text}]'.encode()))


CUSTOM = '{"k":[1,"é😀\\u0000"],"b":{"type":"Buffer","data":[120]},"d":"1970-01-01T00:00:00.000Z"}'
ONE = Target(("sGA7zVjs1No3AQj0AAAA",))

REQUESTS_FROM_NODE: dict[str, tuple[str, Message]] = {
    "clients": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":0,\"rooms\":[]}"]',
        asked(FetchSockets, target=Target(), want="ids"),
    ),
    "clients of rooms": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":0,\"rooms\":[\"r\",5]}"]',
        asked(FetchSockets, target=Target(("r", 5)), want="ids"),
    ),
    "clients' answer": (
        (
            r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\",\"clients\":[\"HlrMcmW9sDEms0iJAAA'
            r'B\"]}"]'
        ),
        asked(FetchSocketsResponse, sockets=(SocketInfo(SID),), want="ids"),
    ),
    "clients' answer of none": (
        r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\",\"clients\":[]}"]',
        asked(FetchSocketsResponse, want="ids"),
    ),
    "clientRooms": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":1,\"sid\":\"sGA7zVjs1No3AQj'
            r'0AAAA\"}"]'
        ),
        asked(FetchSockets, target=ONE),
    ),
    "rooms' answer": (
        (
            r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\",\"rooms\":[\"sGA7zVjs1No3AQj0AAAA\"'
            r']}"]'
        ),
        asked(FetchSocketsResponse, rooms=ONE.rooms, want="rooms"),
    ),
    "allRooms": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":2}"]',
        asked(FetchSockets, target=Target(), want="rooms"),
    ),
    "remoteJoin": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":3,\"sid\":\"sGA7zVjs1No3AQj'
            r'0AAAA\",\"room\":\"r\\u0000é\"}"]'
        ),
        asked(SocketsJoin, target=ONE, rooms=("r\0é",)),
    ),
    "remoteJoin to room 5": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":3,\"sid\":\"sGA7zVjs1No3AQj'
            r'0AAAA\",\"room\":5}"]'
        ),
        asked(SocketsJoin, target=ONE, rooms=(5,)),
    ),
    "remoteLeave": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":4,\"sid\":\"sGA7zVjs1No3AQj'
            r'0AAAA\",\"room\":\"r\\u0000é\"}"]'
        ),
        asked(SocketsLeave, target=ONE, rooms=("r\0é",)),
    ),
    "the answer of what is done": (
        r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\"}"]',
        asked(ServerSideEmitResponse, data=Data(b"null")),
    ),
    "customRequest": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":5,\"data\":{\"k\":[1,\"é😀\\'
            r"u0000\"],\"b\":{\"type\":\"Buffer\",\"data\":[120]},\"d\":\"1970-01-01T00:00:00.000Z\"}"
            r'}"]'
        ),
        custom_request(CUSTOM),
    ),
    "customRequest of null": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":5,\"data\":null}"]',
        custom_request("null"),
    ),
    "customRequest of undefined": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":5}"]',
        custom_request("null"),
    ),
    "customRequest of half an emoji": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":5,\"data\":\"\\ud83d\"}"]',
        custom_request('"\\ufffd"'),
    ),
    "customRequest's answer": (
        (
            r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\",\"data\":[\"got\",{\"k\":[1,\"é😀\\u'
            r"0000\"],\"b\":{\"type\":\"Buffer\",\"data\":[120]},\"d\":\"1970-01-01T00:00:00.000Z\"}]"
            r'}"]'
        ),
        asked(ServerSideEmitResponse, data=Data(f'["got",{CUSTOM}]'.encode())),
    ),
    "customRequest's answer of half an emoji": (
        r'["socket.io-response#/#","{\"requestid\":\"qrH4YL\",\"data\":[\"got\",\"\\ud83d\"]}"]',
        asked(ServerSideEmitResponse, data=Data(b'["got","\\ufffd"]')),
    ),
    "customRequest in a namespace": (
        r'["socket.io-request#/a#","{\"requestid\":\"qrH4YL\",\"type\":5,\"data\":1}"]',
        msgspec.structs.replace(custom_request("1"), namespace="/a"),
    ),
    "remoteDisconnect": (
        (
            r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":6,\"sid\":\"sGA7zVjs1No3AQj'
            r'0AAAA\",\"close\":true}"]'
        ),
        asked(DisconnectSockets, target=ONE, close=True),
    ),
    "remoteDisconnect without close": (
        r'["socket.io-request#/#","{\"requestid\":\"qrH4YL\",\"type\":6,\"sid\":\"nobody\"}"]',
        asked(DisconnectSockets, target=Target(("nobody",))),
    ),
}

FROM_NODE = {**EVENTS_FROM_NODE, **REQUESTS_FROM_NODE}


@pytest.mark.parametrize("name", FROM_NODE)
def test_what_node_writes_is_read(name: str) -> None:
    payload, message = FROM_NODE[name]
    assert reader("/", "/a").decode(payload.encode(), 0.0) == message


@pytest.mark.parametrize("name", FROM_NODE)
@given(data=st.data())
def test_what_is_read_can_be_used(name: str, data: st.DataObject) -> None:
    payload, _ = FROM_NODE[name]
    decode_or_refuse(data.draw(mutated(payload.encode())))


def test_an_event_for_a_room_that_is_undefined_is_for_nobody() -> None:
    payload = (
        r'["socket.io#/#undefined#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkdQAAKVmbGFnc4'
        r'A="]'
    )
    assert reader("/").decode(payload.encode(), 0.0) is None


def test_an_event_for_a_room_that_is_a_fraction_reaches_the_others() -> None:
    payload = (
        r'["socket.io#/#","k6ZMWmNFYVODpHR5cGUCpGRhdGGRoWWjbnNwoS+CpXJvb21zkwWhNss/+AAAAAAAAKVmbGFn'
        r'c4A="]'
    )
    message = reader("/").decode(payload.encode(), 0.0)
    assert message == event('["e"]', target=Target((5, "6")))


def cut_by_node(channel: str, pieces: list[str]) -> list[bytes]:
    return [
        json.dumps([channel, f"_chunk_bTbBkD_{i}_{len(pieces)}".ljust(50) + piece]).encode()
        for i, piece in enumerate(pieces)
    ]


def test_a_surrogate_pair_that_node_has_cut_in_two_is_one_again() -> None:
    # 5,000 of JavaScript's characters each; JSON.stringify escapes the halves
    start = '{"requestid":"qrH4YL","type":5,"data":"'
    padding = "x" * (4_999 - len(start))
    payloads = cut_by_node(
        "socket.io-request#/#", [f"{start}{padding}\ud83d", "\ude00" + "y" * 3_200 + '"}']
    )
    assert b'\\ud83d"]' in payloads[0]
    assert rb"\ude00y" in payloads[1]
    expected = custom_request('"' + padding + "😀" + "y" * 3_200 + '"')
    assert read(payloads, reader("/")) == expected
    assert read(reversed(payloads), reader("/")) == expected


def test_a_broadcast_that_node_has_cut_is_whole_again() -> None:
    text = base64.b64encode(
        bytes.fromhex("93a64c5a634561538 3a47479706502a46461746192a3626967da17d4".replace(" ", ""))
        + b"x" * 6_100
        + bytes.fromhex("a36e7370a12f82a5726f6f6d7390a5666c61677380")
    ).decode()
    payloads = cut_by_node("socket.io#/#", [text[:5_000], text[5_000:]])
    assert list(map(len, payloads)) == [5_070, 3_270]  # one more than Node's, for a space
    assert read(payloads, reader("/")) == event('["big","' + "x" * 6_100 + '"]')


# What a 1.x node must find in ours


def test_a_broadcast_has_all_that_node_looks_at() -> None:
    message = Broadcast(
        sender="abcdef",
        namespace="/n",
        seq=9,
        data=to_data(["e", 1.5, b"\x00"], stdlib_json),
        target=Target(("r", 7), ("s",)),
    )
    name, text = json.loads(written(message)[0])
    assert name == "socket.io#/n#"
    assert msgspec.msgpack.decode(base64.b64decode(text)) == [
        "abcdef",
        {"type": 5, "data": ["e", 1.5, b"\x00"], "nsp": "/n"},
        {"rooms": ["r", 7], "except": ["s"], "flags": {}, "seq": 9},
    ]


@pytest.mark.parametrize("room", ["r", 7, "", "a#b", "é"])
def test_an_event_for_one_room_says_so_in_its_channel(room: str | int) -> None:
    message = Broadcast(
        sender="abcdef", namespace="/n", data=Data(b'["e"]'), target=Target((room,))
    )
    name, text = json.loads(written(message)[0])
    assert name == f"socket.io#/n#{room}#"
    assert msgspec.msgpack.decode(base64.b64decode(text)) == [
        "abcdef",
        {"type": 2, "data": ["e"], "nsp": "/n"},
        {"rooms": [room], "flags": {}},
    ]


OURS: dict[str, tuple[Message, str, dict[str, Any]]] = {}


def ours(name: str, message: Message, channel: str, fields: dict[str, Any]) -> None:
    OURS[name] = message, channel, fields


ALL: dict[str, Any] = {"sender": "abcdef", "namespace": "/n", "seq": 9}
for name, made, what in [
    (
        "clients",
        FetchSockets(**ALL, request_id="q", target=Target(("r", 7)), want="ids", settle=True),
        {"type": 0, "rooms": ["r", 7], "settle": True},
    ),
    (
        "clientRooms",
        FetchSockets(**ALL, request_id="q", target=Target(("s",))),
        {"type": 1, "sid": "s"},
    ),
    ("allRooms", FetchSockets(**ALL, request_id="q", target=Target(), want="rooms"), {"type": 2}),
    (
        "remoteJoin",
        SocketsJoin(**ALL, request_id="q", target=Target(("s",)), rooms=(7,)),
        {"type": 3, "sid": "s", "room": 7},
    ),
    (
        "remoteLeave",
        SocketsLeave(**ALL, request_id="q", target=Target(("s",)), rooms=("r",)),
        {"type": 4, "sid": "s", "room": "r"},
    ),
    (
        "customRequest",
        ServerSideEmit(
            **ALL, request_id="q", data=to_data([CUSTOM_REQUEST, {"k": b"\1"}], stdlib_json)
        ),
        {"type": 5, "data": {"k": {"type": "Buffer", "data": [1]}}},
    ),
    (
        "remoteDisconnect",
        DisconnectSockets(**ALL, request_id="q", target=Target(("s",)), close=True),
        {"type": 6, "sid": "s", "close": True},
    ),
]:
    ours(name, made, "socket.io-request#/n#", {"requestid": "q", **what})
for name, made, what in [
    (
        "clients' answer",
        FetchSocketsResponse(**ALL, request_id="q", sockets=(SocketInfo("s"),), want="ids"),
        {"clients": ["s"]},
    ),
    (
        "rooms' answer",
        FetchSocketsResponse(**ALL, request_id="q", rooms=("r", 7), want="rooms"),
        {"rooms": ["r", 7]},
    ),
    (
        "customRequest's answer",
        ServerSideEmitResponse(**ALL, request_id="q", data=Data(b"[1]")),
        {"data": [1]},
    ),
    ("done", Done(**ALL, request_id="q"), {}),
]:
    ours(name, made, "socket.io-response#/n#", {"requestid": "q", **what})
for name, made, what in [
    ("initial heartbeat", Heartbeat(**ALL, initial=True, probe=3), {"type": 1, "probe": 3}),
    ("heartbeat", Heartbeat(**ALL), {"type": 2}),
    ("close", AdapterClose(**ALL), {"type": 13}),
]:
    ours(name, made, "socket.io-python#/n#", what)


@pytest.mark.parametrize("name", OURS)
def test_a_request_has_all_that_node_looks_at(name: str) -> None:
    message, channel, fields = OURS[name]
    found, text = json.loads(written(message)[0])
    assert found == channel
    assert json.loads(text) == {**fields, "uid": "abcdef", "seq": 9}


@pytest.mark.parametrize("kind", [SocketsJoin, SocketsLeave, DisconnectSockets])
def test_who_wants_no_answer_gives_an_id_all_the_same(kind: Callable[..., Message]) -> None:
    fields: dict[str, Any] = {} if kind is DisconnectSockets else {"rooms": ("r",)}
    _, text = json.loads(written(kind(**ALL, target=Target(("s",)), **fields))[0])
    assert json.loads(text)["requestid"] == ""


# Whose messages are read


# a prefix that goes on as a channel of another does ("socket.io#/") cannot be told from it
@given(messages, st.sampled_from(["socket.io2", "socket.i", "", "other"]))
def test_messages_of_another_prefix_are_for_others(message: Message, prefix: str) -> None:
    payload = LegacyWire(prefix).encode(message, NO_LIMIT).head
    assert reader(message.namespace).decode(payload, 0.0) is None


@given(messages, namespaces)
def test_messages_of_another_namespace_are_for_others(message: Message, other: str) -> None:
    found = reader(other).decode(written(message)[0], 0.0)
    assert (found is None) == (other != message.namespace)


@given(messages, namespaces)
def test_pieces_for_others_are_not_kept(message: Message, other: str) -> None:
    wire = reader(other)
    if other != message.namespace:
        payloads = written(message, 100)
        for payload in payloads:
            assert wire.decode(payload, 0.0) is None
        assert wire.expire(1e9) == []


@given(messages)
def test_what_is_no_longer_listened_to_is_for_others(message: Message) -> None:
    wire = reader("/", message.namespace, "/kept")
    wire.unlisten(message.namespace)
    wire.unlisten("/never")
    assert wire.decode(written(message)[0], 0.0) is None
    kept = msgspec.structs.replace(message, namespace="/kept")
    assert same(wire.decode(written(kept)[0], 0.0), kept)
    wire.listen(message.namespace)
    assert same(wire.decode(written(message)[0], 0.0), message)


HASHED = ["/", "/a", "/a#b", "/a#b#c", "/a#", "#", "", "/b#", "/#", "/a##b"]
hashed_rooms = st.lists(st.sampled_from(["b", "b#c", "#", "", "c", "a#", "##"]), max_size=2)


@given(
    messages,
    st.sampled_from(HASHED),
    st.sets(st.sampled_from(HASHED)),
    hashed_rooms.map(tuple),
    st.sampled_from([40, NO_LIMIT]),
)
def test_names_with_a_hash_do_not_lead_astray(
    message: Message, namespace: str, listened: set[str], to: tuple[str, ...], limit: int
) -> None:
    message = msgspec.structs.replace(message, namespace=namespace)
    if isinstance(message, Broadcast):
        message = msgspec.structs.replace(message, target=Target(to))
    result = read(written(message, limit), reader(*listened))
    if namespace in listened:
        assert same(result, message)
    else:
        assert result is None


@pytest.mark.parametrize(
    ("namespace", "room"), [("/", "a#b"), ("/a", "b"), ("/a#b", ""), ("/a", "b#"), ("/a#b", "#")]
)
@pytest.mark.parametrize("others", [["/a#b", "/a", "/", "/a#b#", "#"], ["#", "/", "/a", "/a#b"]])
def test_an_event_is_for_the_namespace_that_it_names(
    namespace: str, room: str, others: list[str]
) -> None:
    message = event('["e"]', namespace=namespace, target=Target((room,)))
    (payload,) = written(message)
    assert reader(*others).decode(payload, 0.0) == message
    rest = [other for other in others if other != namespace]
    assert reader(*rest).decode(payload, 0.0) is None


# What nobody should write


def wires() -> LegacyWire:
    return reader("/", "/a", "/a#b")


def decode_or_refuse(payload: bytes, wire: LegacyWire | None = None) -> Message | None:
    """Decode it; what comes must be usable, or nothing, or a ProtocolError."""
    try:
        message = (wire or wires()).decode(payload, 0.0)
    except ProtocolError:
        return None
    if message is not None:
        assert message.namespace in ("/", "/a", "/a#b")
        check(message)
    return message


def payload(channel: str, text: str) -> bytes:
    return json.dumps([channel, text]).encode()


def packed(tree: Any) -> str:
    return base64.b64encode(msgspec.msgpack.encode(tree)).decode()


channels = st.sampled_from(
    [
        "socket.io#/#",
        "socket.io#/#r#",
        "socket.io#/a#b#",
        "socket.io#/a#",
        "socket.io-request#/#",
        "socket.io-response#/#",
        "socket.io-python#/#",
        "socket.io-request#/a#b#",
        "socket.io#",
        "socket.io-request#/#r#",
        "",
    ]
)

BROADCAST = [
    "LZcEaS",
    {"type": 2, "data": ["e", {"k": [1]}], "nsp": "/"},
    {"rooms": ["r"], "except": ["s"], "flags": {}, "seq": 1},
]
TREES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"request {kind}": (
            "socket.io-request#/#",
            {
                "requestid": "1",
                "type": kind,
                "rooms": ["r"],
                "sid": "s",
                "room": "r",
                "data": {"k": 1},
                "close": True,
                "uid": "abcdef",
                "seq": 1,
                "settle": True,
            },
        )
        for kind in range(7)
    },
    "clients": ("socket.io-response#/#", {"requestid": "1", "clients": ["s"], "uid": "a"}),
    "rooms": ("socket.io-response#/#", {"requestid": "1", "rooms": ["s", 1], "uid": "a"}),
    "data": ("socket.io-response#/#", {"requestid": "1", "data": {"k": [1]}, "seq": 1}),
    "heartbeat": ("socket.io-python#/#", {"type": 1, "uid": "a", "seq": 1, "probe": 1}),
    "close": ("socket.io-python#/#", {"type": 13, "uid": "a", "seq": 1}),
}


@given(st.binary())
def test_random_bytes(data: bytes) -> None:
    assert decode_or_refuse(data) is None


@given(any_json)
def test_random_json(tree: Any) -> None:
    assert decode_or_refuse(json.dumps(tree).encode()) is None


@given(channels, st.text(st.characters(), max_size=30))
def test_random_text(channel: str, text: str) -> None:
    assert decode_or_refuse(payload(channel, text)) is None


@given(channels, any_json)
def test_random_json_on_a_channel(channel: str, tree: Any) -> None:
    decode_or_refuse(payload(channel, json.dumps(tree)))


@given(channels, any_msgpack)
def test_random_messagepack_on_a_channel(channel: str, tree: Any) -> None:
    decode_or_refuse(payload(channel, packed(tree)))


@given(channels, any_msgpack)
def test_random_messagepack_as_an_event(channel: str, tree: Any) -> None:
    nsp = channel.split("#")[1] if "#" in channel else "/"
    packet = {"type": 2, "nsp": nsp, "data": ["e", tree]}
    decode_or_refuse(payload(channel, packed(["LZcEaS", packet, {}])))


@pytest.mark.parametrize("name", TREES)
def test_the_undamaged_messages_are_read(name: str) -> None:
    channel, tree = TREES[name]
    assert decode_or_refuse(payload(channel, json.dumps(tree))) is not None


@pytest.mark.parametrize("name", TREES)
@given(data=st.data())
def test_a_field_of_a_wrong_type(name: str, data: st.DataObject) -> None:
    channel, tree = TREES[name]
    decode_or_refuse(payload(channel, json.dumps(data.draw(damaged(tree, any_json)))))


@given(st.data())
def test_a_field_of_a_wrong_type_in_an_event(data: st.DataObject) -> None:
    assert decode_or_refuse(payload("socket.io#/#", packed(BROADCAST))) is not None
    tree = data.draw(damaged(BROADCAST, any_msgpack))
    decode_or_refuse(payload("socket.io#/#", packed(tree)))


@given(st.binary(max_size=4), st.integers(0, 200), st.data())
def test_a_damaged_event(more: bytes, at: int, data: st.DataObject) -> None:
    whole = bytearray(msgspec.msgpack.encode(BROADCAST))
    whole[at:at] = more
    text = base64.b64encode(data.draw(mutated(bytes(whole)))).decode()
    decode_or_refuse(payload("socket.io#/#", text))


@given(messages, st.integers(60, 300), st.data())
def test_damaged_pieces(message: Message, limit: int, data: st.DataObject) -> None:
    wire = wires()
    message = msgspec.structs.replace(message, namespace="/")
    for piece in written(message, limit):
        decode_or_refuse(data.draw(mutated(piece) | st.just(piece)), wire)


@given(channels, st.lists(st.text("_chunk0123456789 ab{}", max_size=60), max_size=5))
def test_headers_that_are_none(channel: str, texts: list[str]) -> None:
    wire = wires()
    for text in texts:
        decode_or_refuse(payload(channel, f"_chunk_{text}"), wire)


def an_event(data: Any, **packet: Any) -> bytes:
    whole = ["LZcEaS", {"type": 2, "nsp": "/", "data": data} | packet, {"rooms": []}]
    return payload("socket.io#/#", packed(whole))


def a_request(text: str) -> bytes:
    return payload("socket.io-request#/#", text)


REFUSED = {
    "nothing": b"",
    "no array": b"{}",
    "one string": b'["socket.io#/#"]',
    "three strings": b'["socket.io#/#","",""]',
    "a number": b'["socket.io-request#/#",1]',
    "an object": b'["socket.io-request#/#",{"requestid":"1","type":2}]',
    "half a channel's name": b'["\\ud800",1]',
    "two payloads": b'["",""]["",""]',
    "invalid UTF-8": b'["\xff",""]',
    "depth": b"[" * 3_999 + b"]" * 3_999,
    "more depth": b"[" * 10**6,
    "depth beside half a character": b'["socket.io#/#","\\ud83d",' + b"[" * 10**6,
    "no base64": payload("socket.io#/#", "k6ZM*"),
    "base64 with a line's end": payload("socket.io#/#", packed(BROADCAST) + "\n"),
    "base64 that is cut": payload("socket.io#/#", packed(BROADCAST)[:-1]),
    "base64 in another script": payload("socket.io#/#", "\uff41" * 4),
    "empty base64": payload("socket.io#/#", ""),
    "a connect packet": an_event(["e"], type=0),
    "an acknowledgement": an_event(["e"], type=3),
    "an event that is no array": an_event({"0": "e"}),
    "an event without a name": an_event([]),
    "an event named null": an_event([None]),
    "an event that is undefined": an_event(msgspec.msgpack.Ext(0, b"\0")),
    "a reserved event": an_event(["disconnect"]),
    "an escaped reserved event": an_event(["\u0064isconnect"]),
    "no data": payload("socket.io#/#", packed(["a", {"type": 2, "nsp": "/"}, {}])),
    "no uid": payload("socket.io#/#", packed(["", {"type": 2, "nsp": "/", "data": ["e"]}, {}])),
    "a long uid": payload(
        "socket.io#/#", packed(["x" * 129, {"type": 2, "nsp": "/", "data": ["e"]}, {}])
    ),
    "a value that poses as an attachment": an_event(["e", b"x", {"_placeholder": True, "num": 0}]),
    "keys that JSON does not have": an_event(["e", {b"k": 1}]),
    "more than there is": payload(
        "socket.io#/#", base64.b64encode(b"\x93\xa1a\xdf\xff\xff\xff\xff").decode()
    ),
    "arrays as deep as a message can be": payload(
        "socket.io#/#", base64.b64encode(b"\x93\xa1a\x81\xa4data" + b"\x91" * 10**6).decode()
    ),
    "a type that is not": a_request('{"requestid":"1","type":7}'),
    "a type below": a_request('{"requestid":"1","type":-1}'),
    "no type": a_request('{"requestid":"1"}'),
    "no id": a_request('{"type":2}'),
    "a long id": a_request('{"type":2,"requestid":"%s"}' % ("x" * 129)),
    "clientRooms of nobody": a_request('{"requestid":"1","type":1}'),
    "remoteJoin of nobody": a_request('{"requestid":"1","type":3,"room":"r"}'),
    "remoteJoin to nowhere": a_request('{"requestid":"1","type":3,"sid":"s"}'),
    "remoteLeave of nothing": a_request('{"requestid":"1","type":4,"sid":"s"}'),
    "remoteDisconnect of nobody": a_request('{"requestid":"1","type":6}'),
    "a fraction as number": a_request('{"requestid":"1","type":2,"seq":1.5}'),
    "a negative number": a_request('{"requestid":"1","type":2,"seq":-1}'),
    "a number beyond bigint": a_request('{"requestid":"1","type":2,"seq":9223372036854775808}'),
    "a request as deep as it can be": a_request('{"data":' + "[" * 10**6),
    "a whole request as deep": a_request(
        '{"requestid":"1","type":5,"data":' + "[" * 10**5 + "]" * 10**5 + "}"
    ),
    "clients that are numbers": payload("socket.io-response#/#", '{"requestid":"1","clients":[1]}'),
    "a heartbeat of nobody": payload("socket.io-python#/#", '{"type":2}'),
    "a heartbeat of no type": payload("socket.io-python#/#", '{"type":3,"uid":"a"}'),
    "a piece without a header": payload("socket.io#/#", "_chunk_"),
    "a piece of a message of none": payload("socket.io#/#", "_chunk_a_0_0".ljust(50)),
    "a piece after the last": payload("socket.io#/#", "_chunk_a_2_2".ljust(50)),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        wires().decode(data, 0.0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_message_leaves_nothing_behind(name: str) -> None:
    wire = wires()
    with pytest.raises(ProtocolError):
        wire.decode(REFUSED[name], 0.0)
    assert wire.expire(1e9) == []


def test_an_event_without_opts_is_for_everyone() -> None:
    head: list[Any] = ["LZcEaS", {"type": 2, "nsp": "/", "data": ["e"]}]
    for opts in ([], [None], [{}], [{"rooms": None, "except": None}], [{"rooms": [], "new": 1}]):
        assert decode_or_refuse(payload("socket.io#/#", packed(head + opts))) == event('["e"]')


def test_an_event_without_a_namespace_is_for_the_first() -> None:
    tree = ["LZcEaS", {"data": ["e"]}, {"rooms": []}]
    assert wires().decode(payload("socket.io#/#", packed(tree)), 0.0) == event('["e"]')
    assert wires().decode(payload("socket.io#/a#", packed(tree)), 0.0) is None


def test_an_event_for_a_namespace_comes_on_its_channel() -> None:
    packet = {"type": 2, "nsp": "/a", "data": ["e"]}
    text = packed(["LZcEaS", packet, {"rooms": []}])
    assert wires().decode(payload("socket.io#/a#", text), 0.0) == event('["e"]', namespace="/a")
    assert wires().decode(payload("socket.io#/#", text), 0.0) is None


@pytest.mark.parametrize(
    "value",
    [msgspec.msgpack.Ext(0, b"\x7f" * 8), msgspec.msgpack.Ext(0, b"\x80" + bytes(7))],
    ids=["late", "early"],
)
def test_a_date_that_does_not_exist_is_null(value: Any) -> None:
    assert decode_or_refuse(an_event(["e", value])) == event('["e",null]')


def test_extensions_that_notepack_does_not_have_are_null() -> None:
    values = [msgspec.msgpack.Ext(5, b"x"), msgspec.msgpack.Ext(5, b"x" * 8)]
    assert decode_or_refuse(an_event(["e", *values])) == event('["e",null,null]')


def test_keys_that_are_numbers_become_text() -> None:
    assert decode_or_refuse(an_event(["e", {1: 2, 1.5: 3}])) == event('["e",{"1":2,"1.5":3}]')


@pytest.mark.parametrize("code", [b"\xd4\x00\x00", b"\xd7\x00" + bytes(8), b"\xc7\x01\x00\x05"])
def test_many_extensions_take_no_long_time(code: bytes) -> None:
    # not a look through the whole message for each
    count = 60_000
    head = b"\x92\xa6LZcEaS\x82\xa4data\x92\xa1e\xdd" + count.to_bytes(4)
    body = head + code * count + b"\xa3nsp\xa1/"
    wire = wires()
    text = base64.b64encode(body).decode()
    pieces = cut_by_node("socket.io#/#", [text[i : i + 5_000] for i in range(0, len(text), 5_000)])
    message: Any = read(pieces, wire)
    assert len(from_data(message.data, json.loads)[1]) == count


def test_what_comes_not_whole_is_given_up() -> None:
    message = Broadcast(sender="a", namespace="/", data=Data(b'["e","' + b"x" * 500 + b'"]'))
    first, *rest = written(message, 200)
    wire = reader("/")
    assert wire.decode(first, 100.0) is None
    assert wire.expire(159.9) == []
    (lost,) = wire.expire(160.0)
    assert (lost.channel, lost.received, lost.count) == ("socket.io#/#", 1, len(rest) + 1)
    assert wire.expire(1e9) == []
