"""What Node's adapter and emitter write, and what they must find in ours.

The literals come from Node itself: ``JSON.stringify`` and ``@msgpack/msgpack`` on the objects that
``socket.io-adapter``, ``@socket.io/postgres-adapter`` 0.5.0 and ``@socket.io/postgres-emitter``
0.1.1 publish.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from anyio_sio_pg.errors import ProtocolError
from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.messages import (
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
    to_data,
)

WIRE = ClusterWire("socket.io")
UID = "0123456789abcdef"
ID = "fedcba9876543210"
HEAD: dict[str, Any] = {"sender": UID, "namespace": "/"}
TARGET = Target(("r1", "r2"), ("s1",))
TAIL = f'"uid":"{UID}","nsp":"/"}}'
OPTS = '"opts":{"rooms":["r1","r2"],"except":["s1"],"flags":{}}'
HANDSHAKE = (
    '{"headers":{"host":"localhost:3000","user-agent":"node-XMLHttpRequest"},'
    '"time":"Sat Nov 22 2025 20:31:34 GMT+0000 (Coordinated Universal Time)","address":"::1",'
    '"xdomain":false,"secure":false,"issued":1763843494322,'
    '"url":"/socket.io/?EIO=4&transport=polling&t=abc",'
    '"query":{"EIO":"4","transport":"polling","t":"abc"},"auth":{"token":"t"}}'
)
FETCHED = FetchSocketsResponse(
    **HEAD,
    request_id=ID,
    sockets=(
        SocketInfo(
            "AbC",
            ("AbC", "r1"),
            {"user": 7, "when": "2025-11-22T20:31:34.322Z"},
            json.loads(HANDSHAKE),
        ),
    ),
)
JOIN = SocketsJoin(**HEAD, target=TARGET, rooms=("x", "y"))
LEAVE = SocketsLeave(**HEAD, target=TARGET, rooms=("x",))
DISCONNECT = DisconnectSockets(**HEAD, target=TARGET, close=True)
FETCH = FetchSockets(**HEAD, target=EVERYONE, request_id=ID)
COUNT = BroadcastClientCount(**HEAD, request_id=ID, count=3)


def plain(text: str) -> Data:
    return Data(text.encode())


FROM_NODE: dict[str, tuple[str, Message]] = {
    "INITIAL_HEARTBEAT": ('{"type":1,' + TAIL, Heartbeat(**HEAD, initial=True)),
    "HEARTBEAT": ('{"type":2,' + TAIL, Heartbeat(**HEAD)),
    "BROADCAST": (
        '{"type":3,"data":{"packet":{"type":2,"data":["news",{"a":1.5,"b":[null,true,"é😀"]}],'
        '"nsp":"/"},' + OPTS + "}," + TAIL,
        Broadcast(**HEAD, data=plain('["news",{"a":1.5,"b":[null,true,"é😀"]}]'), target=TARGET),
    ),
    "BROADCAST with acknowledgement": (
        '{"type":3,"data":{"packet":{"type":2,"data":["ask"]},"requestId":"fedcba9876543210",'
        '"opts":{"rooms":[],"except":[],"flags":{"timeout":5000,"expectSingleResponse":false}}},'
        + TAIL,
        Broadcast(**HEAD, data=plain('["ask"]'), target=Target(timeout_ms=5_000), request_id=ID),
    ),
    "BROADCAST of half an emoji": (
        '{"type":3,"data":{"packet":{"type":2,"data":["say","\\ud83d"]},' + OPTS + "}," + TAIL,
        Broadcast(**HEAD, data=plain('["say","\\ufffd"]'), target=TARGET),
    ),
    "BROADCAST to rooms that are undefined, true and 1.5, too": (
        '{"type":3,"data":{"packet":{"type":2,"data":["news"]},'
        '"opts":{"rooms":[null,"r1",true,"r2"],"except":[1.5,"s1"],"flags":{}}},' + TAIL,
        Broadcast(**HEAD, data=plain('["news"]'), target=TARGET),
    ),
    "SOCKETS_JOIN": ('{"type":4,"data":{' + OPTS + ',"rooms":["x","y"]},' + TAIL, JOIN),
    "BROADCAST with a timeout that is text": (
        '{"type":3,"data":{"packet":{"type":2,"data":["ask"]},"requestId":"fedcba9876543210",'
        '"opts":{"rooms":[],"except":[],"flags":{"timeout":"5000"}}},' + TAIL,
        Broadcast(**HEAD, data=plain('["ask"]'), request_id=ID),
    ),
    "DISCONNECT_SOCKETS whose close is 1": (
        '{"type":6,"data":{' + OPTS + ',"close":1},' + TAIL,
        DISCONNECT,
    ),
    "DISCONNECT_SOCKETS whose close is null": (
        '{"type":6,"data":{' + OPTS + ',"close":null},' + TAIL,
        DisconnectSockets(**HEAD, target=TARGET, close=False),
    ),
    "SOCKETS_JOIN of a room that is undefined": (
        '{"type":4,"data":{' + OPTS + ',"rooms":[null]},' + TAIL,
        SocketsJoin(**HEAD, target=TARGET, rooms=()),
    ),
    "SOCKETS_LEAVE": ('{"type":5,"data":{' + OPTS + ',"rooms":["x"]},' + TAIL, LEAVE),
    "DISCONNECT_SOCKETS": ('{"type":6,"data":{' + OPTS + ',"close":true},' + TAIL, DISCONNECT),
    "FETCH_SOCKETS": (
        '{"type":7,"data":{"opts":{"rooms":[],"except":[],"flags":{}},'
        '"requestId":"fedcba9876543210"},' + TAIL,
        FETCH,
    ),
    "FETCH_SOCKETS_RESPONSE": (
        '{"type":8,"data":{"requestId":"fedcba9876543210","sockets":[{"id":"AbC","handshake":'
        + HANDSHAKE
        + ',"rooms":["AbC","r1"],"data":{"user":7,"when":"2025-11-22T20:31:34.322Z"}}]},'
        + TAIL,
        FETCHED,
    ),
    "FETCH_SOCKETS_RESPONSE with a room that is undefined": (
        '{"type":8,"data":{"requestId":"fedcba9876543210","sockets":[{"id":"AbC","handshake":'
        + HANDSHAKE
        + ',"rooms":["AbC",null,"r1"],"data":{"user":7,"when":"2025-11-22T20:31:34.322Z"}}]},'
        + TAIL,
        FETCHED,
    ),
    "SERVER_SIDE_EMIT": (
        '{"type":9,"data":{"packet":["hello",1,{"x":"y"}]},' + TAIL,
        ServerSideEmit(**HEAD, data=plain('["hello",1,{"x":"y"}]')),
    ),
    "SERVER_SIDE_EMIT with acknowledgement": (
        '{"type":9,"data":{"packet":["hello"],"requestId":"fedcba9876543210"},' + TAIL,
        ServerSideEmit(**HEAD, data=plain('["hello"]'), request_id=ID),
    ),
    "SERVER_SIDE_EMIT_RESPONSE": (
        '{"type":10,"data":{"requestId":"fedcba9876543210","packet":{"ok":true}},' + TAIL,
        ServerSideEmitResponse(**HEAD, request_id=ID, data=plain('{"ok":true}')),
    ),
    "SERVER_SIDE_EMIT_RESPONSE of undefined": (
        '{"type":10,"data":{"requestId":"fedcba9876543210"},' + TAIL,
        ServerSideEmitResponse(**HEAD, request_id=ID, data=plain("null")),
    ),
    "BROADCAST_CLIENT_COUNT": (
        '{"type":11,"data":{"requestId":"fedcba9876543210","clientCount":3},' + TAIL,
        COUNT,
    ),
    "BROADCAST_ACK": (
        '{"type":12,"data":{"requestId":"fedcba9876543210","packet":"yes"},' + TAIL,
        BroadcastAck(**HEAD, request_id=ID, data=plain('["yes"]')),
    ),
    "BROADCAST_ACK of nothing": (
        '{"type":12,"data":{"requestId":"fedcba9876543210"},' + TAIL,
        BroadcastAck(**HEAD, request_id=ID, data=plain("[]")),
    ),
    "ADAPTER_CLOSE": ('{"type":13,' + TAIL, AdapterClose(**HEAD)),
    "the emitter's BROADCAST, which has no nsp": (
        (
            '{"type":3,"data":{"packet":{"type":2,"data":["tick",1],"nsp":"/"},"opts":{"rooms":["r1"],'
            '"flags":{"volatile":true,"compress":false},"except":[]}},"uid":"emitter"}'
        ),
        Broadcast(
            sender="emitter", namespace="/", data=plain('["tick",1]'), target=Target(("r1",))
        ),
    ),
    "the emitter's SOCKETS_JOIN, which has no flags": (
        '{"type":4,"data":{"opts":{"rooms":[],"except":[]},"rooms":["x"]},"uid":"emitter"}',
        SocketsJoin(sender="emitter", namespace="/", target=EVERYONE, rooms=("x",)),
    ),
}

PACKED: dict[str, tuple[str, Message]] = {
    "INITIAL_HEARTBEAT": (
        "83a47479706501a3756964b030313233343536373839616263646566a36e7370a12f",
        Heartbeat(**HEAD, initial=True),
    ),
    "HEARTBEAT": (
        "83a47479706502a3756964b030313233343536373839616263646566a36e7370a12f",
        Heartbeat(**HEAD),
    ),
    "BROADCAST": (
        # a Buffer, a Uint8Array, 2**53, undefined and a Date
        (
            "84a47479706503a46461746182a67061636b657483a47479706502a46461746193a466696c65c402616286a16e"
            "01a166cb3ff8000000000000a3626967cb4340000000000000a175c0a164d7ff4cc5520069221da6a162c40200"
            "ffa36e7370a12fa46f70747383a5726f6f6d7392a27231a27232a665786365707491a27331a5666c61677380a3"
            "756964b030313233343536373839616263646566a36e7370a12f"
        ),
        Broadcast(
            **HEAD,
            data=Data(
                b'["file",{"_placeholder":true,"num":0},{"n":1,"f":1.5,"big":9007199254740992.0,'
                b'"u":null,"d":"2025-11-22T20:31:34.322Z","b":{"_placeholder":true,"num":1}}]',
                (b"ab", b"\x00\xff"),
            ),
            target=TARGET,
        ),
    ),
    "BROADCAST of half an emoji, with binary data that looks like it": (
        (
            "84a47479706503a46461746182a67061636b657482a47479706502a46461746193a3736179a3eda0bdc403eda0"
            "bda46f70747383a5726f6f6d7392a27231a27232a665786365707491a27331a5666c61677380a3756964b03031"
            "3233343536373839616263646566a36e7370a12f"
        ),
        Broadcast(
            **HEAD,
            data=Data(
                '["say","\ufffd",{"_placeholder":true,"num":0}]'.encode(), (b"\xed\xa0\xbd",)
            ),
            target=TARGET,
        ),
    ),
    "BROADCAST to rooms that are undefined and 1.5, too": (
        (
            "84a47479706503a46461746182a67061636b657482a47479706502a46461746192a46e657773c40161a46f7074"
            "7383a5726f6f6d7393a27231c0cb3ff8000000000000a665786365707492c0a27331a5666c61677380a3756964"
            "b030313233343536373839616263646566a36e7370a12f"
        ),
        Broadcast(
            **HEAD,
            data=Data(b'["news",{"_placeholder":true,"num":0}]', (b"a",)),
            target=Target(("r1",), ("s1",)),
        ),
    ),
    "BROADCAST whose requestId is undefined": (
        (
            "84a47479706503a46461746183a67061636b657482a47479706502a46461746192a361736bc40101a972657175"
            "6573744964c0a46f70747383a5726f6f6d7390a665786365707490a5666c61677382a8766f6c6174696c65c0a7"
            "74696d656f7574cd07d0a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        Broadcast(
            **HEAD,
            data=Data(b'["ask",{"_placeholder":true,"num":0}]', (b"\x01",)),
            target=Target(timeout_ms=2_000),
        ),
    ),
    "SOCKETS_JOIN": (
        (
            "84a47479706504a46461746182a46f70747383a5726f6f6d7392a27231a27232a665786365707491a27331a566"
            "6c61677380a5726f6f6d7392a178a179a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        JOIN,
    ),
    "SOCKETS_LEAVE": (
        (
            "84a47479706505a46461746182a46f70747383a5726f6f6d7392a27231a27232a665786365707491a27331a566"
            "6c61677380a5726f6f6d7391a178a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        LEAVE,
    ),
    "DISCONNECT_SOCKETS": (
        (
            "84a47479706506a46461746182a46f70747383a5726f6f6d7392a27231a27232a665786365707491a27331a566"
            "6c61677380a5636c6f7365c3a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        DISCONNECT,
    ),
    "FETCH_SOCKETS": (
        (
            "84a47479706507a46461746182a46f70747383a5726f6f6d7390a665786365707490a5666c61677380a9726571"
            "756573744964b066656463626139383736353433323130a3756964b030313233343536373839616263646566a3"
            "6e7370a12f"
        ),
        FETCH,
    ),
    "FETCH_SOCKETS_RESPONSE": (
        (
            "84a47479706508a46461746182a9726571756573744964b066656463626139383736353433323130a7736f636b"
            "6574739184a26964a3416243a968616e647368616b6589a76865616465727382a4686f7374ae6c6f63616c686f"
            "73743a33303030aa757365722d6167656e74b36e6f64652d584d4c4874747052657175657374a474696d65d93e"
            "536174204e6f7620323220323032352032303a33313a333420474d542b303030302028436f6f7264696e617465"
            "6420556e6976657273616c2054696d6529a761646472657373a33a3a31a778646f6d61696ec2a6736563757265"
            "c2a6697373756564cf0000019aad43d1b2a375726cd9292f736f636b65742e696f2f3f45494f3d34267472616e"
            "73706f72743d706f6c6c696e6726743d616263a5717565727983a345494fa134a97472616e73706f7274a7706f"
            "6c6c696e67a174a3616263a46175746881a5746f6b656ea174a5726f6f6d7392a3416243a27231a46461746182"
            "a47573657207a47768656ed7ff4cc5520069221da6a3756964b030313233343536373839616263646566a36e73"
            "70a12f"
        ),
        FETCHED,
    ),
    "SERVER_SIDE_EMIT": (
        (
            "84a47479706509a46461746182a67061636b657492a568656c6c6fc403010203a9726571756573744964b06665"
            "6463626139383736353433323130a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        ServerSideEmit(
            **HEAD,
            data=Data(b'["hello",{"_placeholder":true,"num":0}]', (b"\x01\x02\x03",)),
            request_id=ID,
        ),
    ),
    "SERVER_SIDE_EMIT_RESPONSE": (
        (
            "84a4747970650aa46461746182a9726571756573744964b066656463626139383736353433323130a67061636b"
            "6574c40109a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        ServerSideEmitResponse(
            **HEAD, request_id=ID, data=Data(b'{"_placeholder":true,"num":0}', (b"\x09",))
        ),
    ),
    "BROADCAST_CLIENT_COUNT": (
        (
            "84a4747970650ba46461746182a9726571756573744964b066656463626139383736353433323130ab636c6965"
            "6e74436f756e7403a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        COUNT,
    ),
    "BROADCAST_ACK": (
        (
            "84a4747970650ca46461746182a9726571756573744964b066656463626139383736353433323130a67061636b"
            "657492c40107a178a3756964b030313233343536373839616263646566a36e7370a12f"
        ),
        BroadcastAck(
            **HEAD, request_id=ID, data=Data(b'[[{"_placeholder":true,"num":0},"x"]]', (b"\x07",))
        ),
    ),
    "ADAPTER_CLOSE": (
        "83a4747970650da3756964b030313233343536373839616263646566a36e7370a12f",
        AdapterClose(**HEAD),
    ),
    "the emitter's BROADCAST, which has no nsp": (
        (
            "83a47479706503a46461746182a67061636b657483a47479706502a46461746192a47469636bc4017aa36e7370"
            "a12fa46f70747383a5726f6f6d7390a5666c61677380a665786365707490a3756964a7656d6974746572"
        ),
        Broadcast(
            sender="emitter",
            namespace="/",
            data=Data(b'["tick",{"_placeholder":true,"num":0}]', (b"z",)),
        ),
    ),
}


@pytest.mark.parametrize("name", FROM_NODE)
def test_a_notification_of_nodes_is_read(name: str) -> None:
    payload, message = FROM_NODE[name]
    assert WIRE.decode("/", payload.encode()) == message


@pytest.mark.parametrize("name", PACKED)
def test_an_attachment_of_nodes_is_read(name: str) -> None:
    body, message = PACKED[name]
    head = json.dumps({"uid": message.sender, "type": 3, "attachmentId": "42"})
    attached = WIRE.decode("/", head.encode())
    assert attached == Attached(sender=message.sender, namespace="/", attachment_id=42)
    assert isinstance(attached, Attached)
    assert WIRE.decode_body(attached, bytes.fromhex(body)) == message


def test_an_event_for_a_room_that_is_undefined_is_for_nobody() -> None:
    payload = '{"type":3,"data":{"packet":{"data":["e"]},"opts":{"rooms":[null]}},' + TAIL
    message = WIRE.decode("/", payload.encode())
    assert isinstance(message, Broadcast)
    # it must not become one for everyone
    assert message.target.rooms == (-(2**63),)


def test_the_namespace_is_the_channels_whatever_the_payload_says() -> None:
    payload, _ = FROM_NODE["the emitter's BROADCAST, which has no nsp"]
    assert WIRE.decode("/custom", payload.encode()).namespace == "/custom"
    payload, _ = FROM_NODE["HEARTBEAT"]
    assert WIRE.decode("/custom", payload.encode()).namespace == "/custom"


def test_node_reads_names_by_number_too() -> None:
    # a JavaScript event name may be a number; Node sends it as one
    message = WIRE.decode("/", b'{"uid":"a","type":3,"data":{"packet":{"data":[7]},"opts":{}}}')
    assert message == Broadcast(sender="a", namespace="/", data=Data(b"[7]"))


ALL: dict[str, Any] = {"sender": UID, "namespace": "/n", "seq": 9}
DATA = to_data(["e", 1.5], json.dumps)
EVERYONE_OPTS = {"rooms": [], "except": [], "flags": {}}
SOME = Target(("r", 7), ("s",), 50)
SOME_OPTS = {"rooms": ["r", 7], "except": ["s"], "flags": {"timeout": 50}}
SOCKET = {"id": "s", "rooms": ["s", "r"], "data": {"u": 1}, "handshake": {"auth": {}}}

OURS: dict[str, tuple[Message, int, Any]] = {
    "INITIAL_HEARTBEAT": (Heartbeat(**ALL, initial=True, probe=3), 1, None),
    "HEARTBEAT": (Heartbeat(**ALL, probe=3), 2, None),
    "BROADCAST": (
        Broadcast(**ALL, data=DATA),
        3,
        {"packet": {"type": 2, "data": ["e", 1.5]}, "opts": EVERYONE_OPTS},
    ),
    "BROADCAST with acknowledgement": (
        Broadcast(**ALL, data=DATA, target=SOME, request_id="q"),
        3,
        {"packet": {"type": 2, "data": ["e", 1.5]}, "opts": SOME_OPTS, "requestId": "q"},
    ),
    "SOCKETS_JOIN": (
        SocketsJoin(**ALL, target=SOME, rooms=("x",)),
        4,
        {"opts": SOME_OPTS, "rooms": ["x"]},
    ),
    "SOCKETS_LEAVE": (
        SocketsLeave(**ALL, target=EVERYONE, rooms=("x",)),
        5,
        {"opts": EVERYONE_OPTS, "rooms": ["x"]},
    ),
    "DISCONNECT_SOCKETS": (
        DisconnectSockets(**ALL, target=SOME, close=True),
        6,
        {"opts": SOME_OPTS, "close": True},
    ),
    "FETCH_SOCKETS": (
        FetchSockets(**ALL, target=SOME, request_id="q"),
        7,
        {"opts": SOME_OPTS, "requestId": "q"},
    ),
    "FETCH_SOCKETS for less": (
        FetchSockets(**ALL, target=SOME, request_id="q", want="rooms", settle=True),
        7,
        {"opts": SOME_OPTS, "requestId": "q", "want": "rooms", "settle": True},
    ),
    "FETCH_SOCKETS_RESPONSE": (
        FetchSocketsResponse(
            **ALL, request_id="q", sockets=(SocketInfo("s", ("s", "r"), {"u": 1}, {"auth": {}}),)
        ),
        8,
        {"requestId": "q", "sockets": [SOCKET]},
    ),
    "FETCH_SOCKETS_RESPONSE of rooms": (
        FetchSocketsResponse(**ALL, request_id="q", rooms=("r",)),
        8,
        {"requestId": "q", "sockets": [], "rooms": ["r"]},
    ),
    "SERVER_SIDE_EMIT": (ServerSideEmit(**ALL, data=DATA), 9, {"packet": ["e", 1.5]}),
    "SERVER_SIDE_EMIT with acknowledgement": (
        ServerSideEmit(**ALL, data=DATA, request_id="q"),
        9,
        {"packet": ["e", 1.5], "requestId": "q"},
    ),
    "SERVER_SIDE_EMIT_RESPONSE": (
        ServerSideEmitResponse(**ALL, request_id="q", data=DATA),
        10,
        {"requestId": "q", "packet": ["e", 1.5]},
    ),
    "BROADCAST_CLIENT_COUNT": (
        BroadcastClientCount(**ALL, request_id="q", count=0),
        11,
        {"requestId": "q", "clientCount": 0},
    ),
    "BROADCAST_ACK of nothing": (
        BroadcastAck(**ALL, request_id="q", data=Data(b"[]")),
        12,
        {"requestId": "q", "args": []},
    ),
    "BROADCAST_ACK of one": (
        BroadcastAck(**ALL, request_id="q", data=Data(b"[[1]]")),
        12,
        {"requestId": "q", "packet": [1]},
    ),
    "BROADCAST_ACK of two": (
        BroadcastAck(**ALL, request_id="q", data=Data(b"[1,2]")),
        12,
        {"requestId": "q", "packet": 1, "args": [1, 2]},
    ),
    "ADAPTER_CLOSE": (AdapterClose(**ALL), 13, None),
}


def ours(message: Message, kind: int, data: Any) -> dict[str, Any]:
    tree = {"uid": UID, "type": kind, "nsp": "/n", "seq": 9}
    if isinstance(message, Heartbeat):
        tree["probe"] = 3
    return tree if data is None else tree | {"data": data}


@pytest.mark.parametrize("name", OURS)
def test_node_finds_what_it_needs_in_our_notification(name: str) -> None:
    message, kind, data = OURS[name]
    outgoing = WIRE.encode(message, 7_999)
    assert outgoing.body is None
    assert json.loads(outgoing.head) == ours(message, kind, data)


@pytest.mark.parametrize("name", [name for name, (_, _, data) in OURS.items() if data])
def test_node_finds_what_it_needs_in_our_attachment(name: str) -> None:
    message, kind, data = OURS[name]
    outgoing = WIRE.encode(message, 1)
    head = json.loads(outgoing.head + b"42" + outgoing.tail)
    # a string, as PostgreSQL's bigint is in Node
    expected = {"uid": UID, "type": kind, "nsp": "/n", "seq": 9, "attachmentId": "42"}
    if isinstance(message, Broadcast) and message.request_id is None and message.target.rooms:
        expected["rooms"] = list(message.target.rooms)
    assert head == expected
    assert outgoing.body is not None
    tree = msgspec.msgpack.decode(outgoing.body)
    if kind == 3:
        # Node's adapter takes the namespace of a packet from there
        assert tree["data"]["packet"].pop("nsp") == "/n"
    assert tree == ours(message, kind, data)


def test_node_finds_binary_data_as_such() -> None:
    data = to_data(["e", b"\x00\xff", {"k": bytearray(b"x")}], json.dumps)
    body = WIRE.encode(Broadcast(**ALL, data=data), 7_999).body
    assert body is not None
    assert msgspec.msgpack.decode(body)["data"]["packet"]["data"] == ["e", b"\x00\xff", {"k": b"x"}]


def test_our_emitter_says_which_namespace_it_means_and_who_it_is() -> None:
    message = Broadcast(sender="emitter", namespace="/n", origin="0f", seq=1, data=DATA)
    tree = json.loads(WIRE.encode(message, 7_999).head)
    assert (tree["uid"], tree["nsp"], tree["origin"], tree["seq"]) == ("emitter", "/n", "0f", 1)


def test_a_node_has_a_channel_of_its_own_where_postgresql_can_have_one() -> None:
    assert WIRE.own_channel("0123456789abcdef") == "socket.io@0123456789abcdef"
    assert ClusterWire("p" * 46).own_channel("u" * 16) == "p" * 46 + "@" + "u" * 16
    assert ClusterWire("p" * 47).own_channel("u" * 16) is None
    assert ClusterWire("é" * 24).own_channel("u" * 16) is None
    assert WIRE.own_channel("\0") is None
    assert WIRE.own_channel("\ud800") is None


def test_only_answers_come_on_a_nodes_own_channel() -> None:
    answer = FetchSocketsResponse(sender="a", namespace="/n", request_id="1")
    assert WIRE.decode_answer(WIRE.encode(answer, 7_999).head) == answer
    event = Broadcast(sender="a", namespace="/n", data=Data(b'["e"]'))
    for payload in (
        WIRE.encode(event, 7_999).head,
        WIRE.encode(Heartbeat(sender="a", namespace="/n"), 7_999).head,
        b"{}",
        b'{"nsp":1}',
        b"[",
        b'{"nsp":"/n"}',
        b'{"nsp":"/n","uid":"a","type":3,"attachmentId":"1"}',
    ):
        with pytest.raises(ProtocolError, match="not a"):
            WIRE.decode_answer(payload)
    attached = WIRE.decode_answer(b'{"nsp":"/n","uid":"a","type":8,"attachmentId":"1"}')
    assert isinstance(attached, Attached)
    assert attached.answer
