"""What one node writes, another reads: inline and through the attachments table."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.messages import (
    Attached,
    Broadcast,
    BroadcastAck,
    Data,
    FetchSocketsResponse,
    Message,
    SocketInfo,
    Target,
    from_data,
    json_text,
    make_target,
    rooms_tuple,
    to_data,
)
from anyio_sio_pg.protocol.wire import Outgoing
from unit.strategies import (
    MESSAGES,
    deep_values,
    json_values,
    messages,
    stdlib_json,
    texts,
    uids,
    values,
)

WIRE = ClusterWire("socket.io")
NO_LIMIT = 10**9
MAX_PAYLOAD = 7_999

each_kind = pytest.mark.parametrize("kind", MESSAGES)


def received(outgoing: Outgoing, namespace: str) -> Message:
    """Decode it as a receiver does, with 17 as the attachment's id."""
    if outgoing.body is None:
        return WIRE.decode(namespace, outgoing.head)
    attached = WIRE.decode(namespace, outgoing.head + b"17" + outgoing.tail)
    assert isinstance(attached, Attached)
    assert attached.attachment_id == 17
    return WIRE.decode_body(attached, outgoing.body)


def comparable(value: Any, *, narrow: bool) -> Any:
    """Make equal what means the same, and only that: 1, 1.0 and True differ, as do -0.0 and 0.0."""
    if isinstance(value, Data):
        return comparable(from_data(value, json.loads), narrow=narrow)
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        if isinstance(value, Target) and value.timeout_ms is not None:
            fields["timeout_ms"] = float(value.timeout_ms)
        return type(value).__name__, comparable(fields, narrow=narrow)
    if isinstance(value, dict):
        return sorted((key, comparable(item, narrow=narrow)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [comparable(item, narrow=narrow) for item in value]
    if narrow and type(value) is int and not -(2**63) <= value < 2**64:
        return repr(as_javascript(value))
    return repr(value)


def as_javascript(value: int) -> float | None:
    """Return what JavaScript makes of a huge number, and its JSON of that."""
    try:
        return float(value)
    except OverflowError:
        return None


@each_kind
@given(data=st.data())
def test_a_message_survives(kind: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    outgoing = WIRE.encode(message, NO_LIMIT)
    narrow = outgoing.body is not None
    result = received(outgoing, message.namespace)
    assert comparable(result, narrow=narrow) == comparable(message, narrow=narrow)


@each_kind
@given(data=st.data())
def test_a_message_survives_as_an_attachment(kind: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    outgoing = WIRE.encode(message, 1)
    assert (outgoing.body is None) == (kind in ("heartbeat", "close")) == outgoing.control
    result = received(outgoing, message.namespace)
    assert comparable(result, narrow=True) == comparable(message, narrow=True)


@given(messages, st.integers(1, 500))
def test_only_what_fits_travels_inline(message: Message, limit: int) -> None:
    outgoing = WIRE.encode(message, limit)
    if outgoing.body is None and not outgoing.control:
        assert len(outgoing.head) <= limit
    inline = WIRE.encode(message, NO_LIMIT)
    if inline.body is None:
        assert (outgoing.body is None) == (len(inline.head) <= limit or inline.control)


@given(messages)
def test_the_notification_of_an_attachment_always_fits(message: Message) -> None:
    outgoing = WIRE.encode(message, 1)
    assert len(outgoing.head) + len(str(2**63)) + len(outgoing.tail) <= MAX_PAYLOAD


@given(messages, uids)
def test_a_node_knows_its_own_payloads_by_their_start(message: Message, other: str) -> None:
    for limit in (1, NO_LIMIT):
        head = WIRE.encode(message, limit).head
        assert head.startswith(WIRE.own(message.sender))
        assert other == message.sender or not head.startswith(WIRE.own(other))


@given(messages)
def test_payloads_are_text_without_nul(message: Message) -> None:
    for limit in (1, NO_LIMIT):
        outgoing = WIRE.encode(message, limit)
        assert "\0" not in outgoing.head.decode() + outgoing.tail.decode()


@given(messages)
def test_the_channel_is_the_namespaces(message: Message) -> None:
    assert WIRE.encode(message, 1).channel == f"socket.io#{message.namespace}"


@given(st.lists(texts, min_size=1, max_size=30), st.none() | st.just("1"))
def test_an_attachments_head_names_its_rooms_when_they_are_few(
    rooms: list[str], request_id: str | None
) -> None:
    message = Broadcast(
        sender="a",
        namespace="/",
        data=Data(b'["e"]'),
        target=Target(rooms_tuple(rooms)),
        request_id=request_id,
    )
    attached = WIRE.decode("/", WIRE.encode(message, 1).head + b'1"}')
    assert isinstance(attached, Attached)
    # everyone must read a broadcast that wants acknowledgements: they owe a count
    named = request_id is None and len(message.target.rooms) <= 16
    assert attached.rooms == (message.target.rooms if named else None)


@pytest.mark.parametrize(("count", "named"), [(0, False), (1, True), (16, True), (17, False)])
def test_a_head_names_sixteen_rooms_at_most(count: int, named: bool) -> None:
    target = Target(tuple(range(count)))
    message = Broadcast(sender="a", namespace="/", data=Data(b'["e"]'), target=target)
    attached = WIRE.decode("/", WIRE.encode(message, 1).head + b'1"}')
    assert isinstance(attached, Attached)
    assert attached.rooms == (target.rooms if named else None)


def test_a_heads_rooms_are_left_out_when_they_are_long() -> None:
    message = Broadcast(
        sender="a", namespace="/", data=Data(b'["e"]'), target=Target(("r" * 2_000,))
    )
    assert len(WIRE.encode(message, 1).head) < 100


@given(values)
def test_binary_data_comes_back(value: Any) -> None:
    data = to_data(["e", value, b"\x00\xff"], stdlib_json)
    result = received(WIRE.encode(Broadcast(sender="a", namespace="/", data=data), NO_LIMIT), "/")
    assert isinstance(result, Broadcast)
    assert result.data.attachments == data.attachments
    assert result.data.attachments[-1] == b"\x00\xff"


def test_binary_data_always_travels_as_an_attachment() -> None:
    outgoing = WIRE.encode(
        Broadcast(sender="a", namespace="/", data=to_data(["e", b"x"], stdlib_json)), NO_LIMIT
    )
    assert outgoing.body is not None


def test_a_sockets_binary_data_travels_as_an_attachment() -> None:
    message = FetchSocketsResponse(
        sender="a", namespace="/", request_id="1", sockets=(SocketInfo("s", (), {"k": [b"x"]}),)
    )
    assert received(WIRE.encode(message, NO_LIMIT), "/") == message


@given(values | deep_values())
def test_to_data_and_from_data_are_inverse(value: Any) -> None:
    assert comparable(from_data(to_data(value, stdlib_json), json.loads), narrow=False) == (
        comparable(value, narrow=False)
    )


@given(json_values)
def test_a_value_without_bytes_is_encoded_as_it_is(value: Any) -> None:
    data = to_data(value, stdlib_json)
    assert data == Data(stdlib_json(value).encode())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    for value in (number, ["e", {"k": (1, number)}], ["e", b"x", number], {number: 1}):
        for dumps in (json.dumps, json_text):
            with pytest.raises(ValueError, match=f"Out of range float.*: {number}"):
                to_data(value, dumps)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner)
            | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner)
        ),
    )
)
def test_json_text_is_what_json_dumps_returns(value: Any) -> None:
    assert json_text(value) == json.dumps(value, separators=(",", ":"))


def test_json_text_may_be_called_while_it_encodes() -> None:
    class Lazy(dict[str, Any]):
        def items(self) -> Any:
            with pytest.raises(TypeError):
                json_text([value[0], {1, 2}])
            return super().items()

    value: list[Any] = [[1]]
    value.append(Lazy(a=value[0]))
    assert json_text([value, value]) == '[[[1],{"a":[1]}],[[1],{"a":[1]}]]'


def test_what_cannot_be_encoded_leaves_nothing_behind() -> None:
    inner: list[Any] = [1]
    holder = {"a": inner}
    inner.append(holder)
    with pytest.raises(ValueError, match="Circular reference detected"):
        json_text(holder)
    inner[1] = {2}
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        json_text(holder)
    inner[1] = "x"
    assert json_text([holder, holder]) == '[{"a":[1,"x"]},{"a":[1,"x"]}]'


def test_text_that_looks_like_such_a_number_is_not_refused() -> None:
    assert to_data(["NaN", "-Infinity"], stdlib_json).json == b'["NaN","-Infinity"]'


@pytest.mark.parametrize("number", [0, -1, 1, 7, True])
def test_a_value_that_poses_as_an_attachment_is_refused_beside_one(number: int) -> None:
    fake = {"_placeholder": True, "num": number}
    assert to_data(["e", fake], stdlib_json).attachments == ()
    with pytest.raises(ValueError, match="_placeholder"):
        to_data(["e", b"x", fake], stdlib_json)


@pytest.mark.parametrize("limit", [1, NO_LIMIT])
@pytest.mark.parametrize("half", ["\ud83d", "x\ude00", "\ude00\ud83d", "\\\ud83d", "\ud83d\\ude00"])
def test_half_a_surrogate_pair_reaches_the_others_as_a_replacement_character(
    half: str, limit: int
) -> None:
    message = Broadcast(sender="a", namespace="/", data=to_data(["e", half + "😀"], stdlib_json))
    result = received(WIRE.encode(message, limit), "/")
    assert isinstance(result, Broadcast)
    expected = re.sub("[\ud800-\udfff]", "�", half) + "😀"
    assert from_data(result.data, json.loads) == ["e", expected]


def test_half_a_surrogate_pair_in_an_acknowledgement_is_replaced() -> None:
    message = BroadcastAck(
        sender="a", namespace="/", request_id="1", data=to_data(["\ud83d", "b"], stdlib_json)
    )
    for limit in (1, NO_LIMIT):
        result = received(WIRE.encode(message, limit), "/")
        assert isinstance(result, BroadcastAck)
        assert from_data(result.data, json.loads) == ["�", "b"]


@pytest.mark.parametrize("side", ["to", "except_rooms"])
def test_a_room_that_is_not_valid_unicode_is_refused(side: str) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        make_target(**{"to": None, side: ["a", "\ud800"]})


def test_a_json_function_that_leaves_surrogates_in_its_text_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        to_data("\ud800", lambda value: json.dumps(value, ensure_ascii=False))


def test_numbers_too_large_for_messagepack_become_floats_beside_binary_data() -> None:
    message = FetchSocketsResponse(
        sender="a",
        namespace="/",
        request_id="1",
        sockets=(SocketInfo("s", ("s",), [b"x", 10**30], {"auth": -(10**30)}),),
    )
    result = received(WIRE.encode(message, NO_LIMIT), "/")
    assert isinstance(result, FetchSocketsResponse)
    assert result.sockets == (SocketInfo("s", ("s",), [b"x", 1e30], {"auth": -1e30}),)


@pytest.mark.parametrize("depth", [100, 300])
def test_deep_values_survive(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [{"k": value}] if depth == 100 else [value]
    message = Broadcast(sender="a", namespace="/", data=to_data(["e", value], stdlib_json))
    for limit in (1, NO_LIMIT):
        result = received(WIRE.encode(message, limit), "/")
        assert isinstance(result, Broadcast)
        assert from_data(result.data, json.loads) == ["e", value]


def test_a_value_too_deep_for_python_is_refused_by_to_data() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        to_data(value, stdlib_json)
    while isinstance(value, list):  # so that its end does not recurse either
        value = value.pop()
