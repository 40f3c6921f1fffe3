"""Whatever arrives is a message or a ProtocolError, never anything else."""

from __future__ import annotations

import datetime
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.errors import ProtocolError
from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.messages import (
    RESERVED_EVENTS,
    Attached,
    Broadcast,
    Data,
    FetchSocketsResponse,
    Message,
    ServerSideEmit,
    from_data,
)
from unit.strategies import KEYS, damaged, json_values, messages, mutated, trees

WIRE = ClusterWire("socket.io")
UID = "0123456789abcdef"
ATTACHED = Attached(sender=UID, namespace="/", attachment_id=1, seq=5, origin="f")
NO_LIMIT = 10**9

any_json = trees(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["/", UID, "emitter", "x" * 129, 0, 3, -1, 2**63, 10**400])
)
any_msgpack = trees(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127).filter(lambda c: c != -1), st.binary())
    | st.dictionaries(
        st.integers() | st.booleans() | st.binary(max_size=3), st.none(), max_size=2
    ).filter(lambda d: all(not isinstance(k, int) or -(2**63) <= k < 2**64 for k in d))
)
opts = {"rooms": ["r"], "except": ["s"], "flags": {"timeout": 5}}
packet = {"type": 2, "nsp": "/", "data": ["e", {"k": [1]}]}
handshake = {"headers": {}, "issued": 1, "auth": {}}
BODIES: dict[int, Any] = {
    1: None,
    2: None,
    3: {"packet": packet, "opts": opts, "requestId": "1"},
    4: {"opts": opts, "rooms": ["x"]},
    5: {"opts": opts, "rooms": ["x"]},
    6: {"opts": opts, "close": True},
    7: {"opts": opts, "requestId": "1", "want": "ids", "settle": True},
    8: {
        "requestId": "1",
        "rooms": ["x"],
        "sockets": [{"id": "s", "rooms": ["s"], "data": {"k": 1}, "handshake": handshake}],
    },
    9: {"packet": ["e", 1], "requestId": "1"},
    10: {"requestId": "1", "packet": {"k": 1}},
    11: {"requestId": "1", "clientCount": 1},
    12: {"requestId": "1", "packet": 1, "args": [1, 2]},
    13: None,
}


def envelope(kind: int, **changes: Any) -> dict[str, Any]:
    whole = {"uid": UID, "type": kind, "nsp": "/", "seq": 1, "origin": "f", "data": BODIES[kind]}
    return {key: value for key, value in whole.items() if value is not None} | changes


def check(message: Message) -> None:
    """Check that what was decoded can be used without surprises."""
    assert isinstance(message, Message)
    if isinstance(message, Attached):
        assert 0 < message.attachment_id < 2**63
    data = getattr(message, "data", None)
    if isinstance(data, Data):
        data.json.decode()
        value = from_data(data, json.loads)
        if isinstance(message, Broadcast | ServerSideEmit):
            assert isinstance(value, list)
            assert isinstance(value[0], str | int | float)
        if isinstance(message, Broadcast):
            assert value[0] not in RESERVED_EVENTS
    if isinstance(message, FetchSocketsResponse):
        for socket in message.sockets:
            msgspec.json.encode(socket.data)
            msgspec.json.encode(socket.handshake)


def decode_or_refuse(payload: bytes) -> bool:
    try:
        message = WIRE.decode("/", payload)
    except ProtocolError:
        return False
    assert message.namespace == "/"
    check(message)
    return True


def decode_body_or_refuse(body: bytes) -> bool:
    try:
        message = WIRE.decode_body(ATTACHED, body)
    except ProtocolError:
        return False
    # what counts is what the notification said: it was looked at when it came
    assert (message.sender, message.namespace, message.seq, message.origin) == (UID, "/", 5, "f")
    check(message)
    return True


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


@given(st.binary())
def test_random_bytes(payload: bytes) -> None:
    assert not decode_or_refuse(payload)
    assert not decode_body_or_refuse(payload)


@given(any_json)
def test_random_json(tree: Any) -> None:
    assert not decode_or_refuse(as_json(tree))


@given(any_msgpack)
def test_random_messagepack(tree: Any) -> None:
    assert not decode_body_or_refuse(msgspec.msgpack.encode(tree))


@given(st.dictionaries(st.sampled_from(KEYS), any_json), st.integers(-1, 15))
def test_random_objects_with_the_right_keys(tree: dict[str, Any], kind: int) -> None:
    decode_or_refuse(as_json({"uid": UID} | tree | {"type": kind}))


@pytest.mark.parametrize("kind", BODIES)
def test_the_undamaged_envelopes_are_messages(kind: int) -> None:
    assert decode_or_refuse(as_json(envelope(kind)))
    assert decode_body_or_refuse(msgspec.msgpack.encode(envelope(kind)))


@pytest.mark.parametrize("kind", BODIES)
@given(data=st.data())
def test_a_field_of_a_wrong_type(kind: int, data: st.DataObject) -> None:
    decode_or_refuse(as_json(data.draw(damaged(envelope(kind), any_json))))


@pytest.mark.parametrize("kind", BODIES)
@given(data=st.data())
def test_a_field_of_a_wrong_type_in_an_attachment(kind: int, data: st.DataObject) -> None:
    tree = data.draw(damaged(envelope(kind), any_msgpack))
    decode_body_or_refuse(msgspec.msgpack.encode(tree))


@given(messages, st.data())
def test_a_damaged_payload(message: Message, data: st.DataObject) -> None:
    original = WIRE.encode(message, NO_LIMIT).head
    decode_or_refuse(data.draw(mutated(original)))


@given(messages, st.data())
def test_a_damaged_attachment(message: Message, data: st.DataObject) -> None:
    original = WIRE.encode(message, 1).body
    if original is not None:
        attached = Attached(sender=message.sender, namespace="/", attachment_id=1)
        try:
            check(WIRE.decode_body(attached, data.draw(mutated(original))))
        except ProtocolError:
            pass


def broadcast(data: bytes, rest: bytes = b'"opts":{}') -> bytes:
    return b'{"uid":"%s","type":3,"data":{"packet":{"data":%s},%s}}' % (UID.encode(), data, rest)


def packed(data: Any, **more: Any) -> bytes:
    body = {"packet": {"type": 2, "data": data}, "opts": {}}
    return msgspec.msgpack.encode({"uid": UID, "type": 3, "data": body} | more)


REFUSED = {
    "nothing": b"",
    "no object": b"[]",
    "no uid": b'{"type":2}',
    "an empty uid": b'{"uid":"","type":2}',
    "a long uid": b'{"uid":"%s","type":2}' % (b"x" * 129),
    "no type": b'{"uid":"a"}',
    "type 0": b'{"uid":"a","type":0}',
    "type 14": b'{"uid":"a","type":14}',
    "a type as text": b'{"uid":"a","type":"2"}',
    "two objects": b'{"uid":"a","type":2}{"uid":"a","type":2}',
    "neither data nor attachmentId": b'{"uid":"a","type":3}',
    "a negative number": b'{"uid":"a","type":2,"seq":-1}',
    "a number beyond bigint": b'{"uid":"a","type":2,"seq":9223372036854775808}',
    "a fraction as number": b'{"uid":"a","type":2,"seq":1.5}',
    "a negative count": b'{"uid":"a","type":11,"data":{"requestId":"1","clientCount":-1}}',
    "an empty request id": b'{"uid":"a","type":11,"data":{"requestId":"","clientCount":1}}',
    "no request id": b'{"uid":"a","type":7,"data":{"opts":{}}}',
    "an unknown wish": b'{"uid":"a","type":7,"data":{"opts":{},"requestId":"1","want":"all"}}',
    "args that are no array": b'{"uid":"a","type":12,"data":{"requestId":"1","args":{}}}',
    "no opts": broadcast(b'["e"]', b'"x":{}'),
    "an event that is no array": broadcast(b'{"0":"e"}'),
    "an event without a name": broadcast(b"[]"),
    "an event named by an object": broadcast(b"[{}]"),
    "an event named null": broadcast(b"[null]"),
    "NaN": broadcast(b'["e",NaN]'),
    "invalid UTF-8 in the data": broadcast(b'["e","\xff"]'),
    "a surrogate as UTF-8": broadcast(b'["e","\xed\xa0\x80"]'),
    "a control character": broadcast(b'["e","\x00"]'),
    "an endless timeout": broadcast(b'["e"]', b'"opts":{"flags":{"timeout":1e999}}'),
    "a connect packet": (
        b'{"uid":"a","type":3,"data":{"packet":{"type":0,"data":["e"]},"opts":{}}}'
    ),
    "JSON as deep as a payload can be": broadcast(b"[" * 3_900 + b"]" * 3_900),
    "JSON as deep as an attachment can be": broadcast(b"[" * 10**6 + b"]" * 10**6),
    "objects as deep": broadcast(b'{"":' * 10**5 + b"1" + b"}" * 10**5),
    "depth where nothing is expected": b'{"x":' * 10**5 + b"}" * 10**5,
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=REFUSED)
def test_is_refused(payload: bytes) -> None:
    assert not decode_or_refuse(payload)


ATTACHMENT_IDS = ["0", "-1", "+1", " 1", "1.0", "0x1", "", "²", "٣", "9" * 19, "9" * 20, "1\\u0000"]


@pytest.mark.parametrize("number", ATTACHMENT_IDS)
def test_an_attachment_id_that_is_none_is_refused(number: str) -> None:
    payload = '{"uid":"a","type":3,"attachmentId":"%s"}' % number  # noqa: UP031
    assert not decode_or_refuse(payload.encode())


@pytest.mark.parametrize(
    "number", ["0", "-1", "1.5", "true", "[]", str(2**63), "1e3", "1e999", "9" * 5_000]
)
def test_an_attachment_id_that_is_no_such_number_is_refused(number: str) -> None:
    assert not decode_or_refuse(b'{"uid":"a","type":3,"attachmentId":%s}' % number.encode())


@pytest.mark.parametrize("number", ["1", '"1"', str(2**63 - 1), f'"{2**63 - 1}"'])
def test_every_attachment_id_that_postgresql_gives_is_taken(number: str) -> None:
    message = WIRE.decode("/", b'{"uid":"a","type":3,"attachmentId":%s}' % number.encode())
    assert isinstance(message, Attached)
    assert message.attachment_id == int(number.strip('"'))


@pytest.mark.parametrize("event", RESERVED_EVENTS)
@pytest.mark.parametrize(
    "spelling", ['["%s"]', ' [ "%s" ]', '["%s",1]', '["\\u00%02x%s"]'], ids=repr
)
def test_a_reserved_event_is_refused_however_it_is_spelt(event: str, spelling: str) -> None:
    # clients drop their connection when they get one
    escaped = "%02x" in spelling
    text = spelling % ((ord(event[0]), event[1:]) if escaped else event)
    assert not decode_or_refuse(broadcast(text.encode()))
    assert not decode_body_or_refuse(packed([event]))


@pytest.mark.parametrize("event", ["connected", "Connect", "\\u0063onnected", "dis\\nconnect"])
def test_an_event_with_a_similar_name_is_taken(event: str) -> None:
    assert decode_or_refuse(broadcast(b'["%s"]' % event.encode()))


@pytest.mark.parametrize("event", RESERVED_EVENTS)
def test_servers_may_send_one_another_what_is_reserved_for_clients(event: str) -> None:
    assert decode_or_refuse(b'{"uid":"a","type":9,"data":{"packet":["%s"]}}' % event.encode())


def test_huge_numbers_in_the_data_are_passed_on_untouched() -> None:
    text = b'["e",%s,1e400]' % (b"9" * 5_000)
    message = WIRE.decode("/", broadcast(text))
    assert isinstance(message, Broadcast)
    assert message.data == Data(text)


def test_of_two_equal_keys_one_counts() -> None:
    payload = b'{"uid":"a","uid":"b","type":2,"type":2,"seq":1,"seq":2}'
    message = WIRE.decode("/", payload)
    assert (message.sender, message.seq) in (("a", 1), ("b", 2))


@pytest.mark.parametrize("number", [-1, 0, 1, 2**40, True, None, "0"])
def test_a_value_that_poses_as_an_attachment_is_refused_beside_one(number: Any) -> None:
    # a client would end its connection over it
    fake = {"_placeholder": True, "num": number}
    assert not decode_body_or_refuse(packed(["e", b"x", fake]))
    assert not decode_body_or_refuse(packed(["e", {"k": [fake]}, b"x"]))
    assert decode_body_or_refuse(packed(["e", b"x", {"_placeholder": 1, "num": number}]))
    assert decode_body_or_refuse(packed(["e", fake]))


def test_text_about_placeholders_is_no_placeholder() -> None:
    assert decode_body_or_refuse(packed(["e", b"x", '{"_placeholder":true,"num":0}']))


@pytest.mark.parametrize("uid", ["fedcba9876543210", "emitter", "", None])
def test_an_attachment_of_another_sender_is_refused(uid: str | None) -> None:
    assert decode_body_or_refuse(packed(["e"]))
    assert not decode_body_or_refuse(packed(["e"], uid=uid))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", packed(["e"])[:-1], packed(["e"]) + b"\x00", packed(["e"], type=14)],
    ids=["nothing", "no MessagePack", "cut off", "too long", "type 14"],
)
def test_a_broken_attachment_is_refused(body: bytes) -> None:
    assert not decode_body_or_refuse(body)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1k"], ids=["arrays", "maps"])
@pytest.mark.parametrize("depth", [2_000, 1_000_000])
def test_a_deep_attachment_is_refused(opening: bytes, depth: int) -> None:
    body = packed(["e", 7]).replace(b"\x07", opening * depth + b"\x07")
    assert not decode_body_or_refuse(body)


@pytest.mark.parametrize("length", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_an_attachment_that_promises_more_than_it_has_is_refused(length: bytes) -> None:
    assert not decode_body_or_refuse(packed(["e", 7]).replace(b"\x07", length))


def test_what_json_does_not_have_becomes_what_json_makes_of_it() -> None:
    moment = datetime.datetime(2025, 11, 22, 20, 31, 34, 322_999, tzinfo=datetime.UTC)
    values = [float("nan"), float("-inf"), msgspec.msgpack.Ext(1, b"x"), moment, {1: 2}, {1.5: 2}]
    message = WIRE.decode_body(ATTACHED, packed(["e", *values]))
    assert isinstance(message, Broadcast)
    assert json.loads(message.data.json) == [
        "e", None, None, None, "2025-11-22T20:31:34.322Z", {"1": 2}, {"1.5": 2},
    ]  # fmt: skip


@given(json_values)
def test_a_sockets_data_is_the_same_inline_and_in_an_attachment(value: Any) -> None:
    if "Infinity" not in json.dumps(value) and abs(largest(value)) < 2**63:
        body = {"requestId": "1", "sockets": [{"id": "s", "data": value, "handshake": value}]}
        tree = {"uid": UID, "type": 8, "seq": 5, "origin": "f", "data": body}
        inline = WIRE.decode("/", as_json(tree))
        assert WIRE.decode_body(ATTACHED, msgspec.msgpack.encode(tree)) == inline


def largest(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return max(map(largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0
