"""What ``socket.io-adapter-postgres`` 1.x makes of our payloads, and we of its answers."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyio_sio_pg.protocol.legacy_wire import LegacyWire
from anyio_sio_pg.protocol.messages import (
    CUSTOM_REQUEST,
    AdapterClose,
    Broadcast,
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
from interop.clients import HERE, unpack
from unit.strategies import (
    arguments,
    deep_values,
    event_names,
    heads,
    namespaces,
    room_tuples,
    rooms,
    stdlib_json,
    values,
)

Read = Callable[..., dict[str, Any]]

ID = "qrH4YL"
HEAD: dict[str, Any] = {"sender": "abcdef", "namespace": "/n", "seq": 3, "request_id": ID}
SID = "HlrMcmW9sDEms0iJAAAB"
ONE = Target((SID,))

# the one process serves them all, and keeps nothing
with_node = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def read(packages: None) -> Iterator[Read]:
    """Let the npm package read a message, as it is cut for a limit, and in any order."""
    with subprocess.Popen(
        ["node", "legacy/reader.cjs"], cwd=HERE, stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def read_(
            message: Message,
            *,
            limit: int = 7_999,
            rooms: Iterable[str] = (),
            waiting: Mapping[str, int] = {},
            backwards: bool = False,
        ) -> dict[str, Any]:
            outgoing = LegacyWire("socket.io").encode(message, limit)
            payloads = [outgoing.head.decode(), *(one.decode() for one in outgoing.more)]
            line = {
                "namespace": message.namespace,
                "rooms": list(rooms),
                "sid": SID,
                "waiting": waiting,
                "payloads": payloads[::-1] if backwards else payloads,
            }
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            seen: dict[str, Any] = unpack(
                # all of JavaScript's are floats
                json.loads(process.stdout.readline(), parse_int=float)
            )
            return seen

        yield read_
        process.stdin.close()
        assert process.wait(10) == 0


def javascript(value: Any) -> Any:
    """Return what JavaScript's JSON makes of a value."""
    if isinstance(value, dict):
        return {key: javascript(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [javascript(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    # an infinity is one of JavaScript's numbers, not one of JSON's
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Leave out the key that JavaScript's objects cannot have."""
    return strategy.filter(lambda value: "__proto__" not in repr(value))


JAVASCRIPTS_OWN = {
    *("__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__"),
    *("constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable"),
    *("toLocaleString", "toString", "valueOf"),
}
"""What each of JavaScript's objects has: the package ends with an error for rooms of these names."""

possible_rooms = room_tuples.filter(lambda rooms: JAVASCRIPTS_OWN.isdisjoint(rooms))


def with_buffers(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"type": "Buffer", "data": [float(byte) for byte in value]}
    if isinstance(value, dict):
        return {key: with_buffers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_buffers(item) for item in value]
    return value


def answers_of(seen: dict[str, Any], namespace: str) -> list[Message | None]:
    """Return what we read of what it has published."""
    wire = LegacyWire("socket.io")
    wire.listen(namespace)
    return [wire.decode(payload.encode(), 0.0) for payload in seen["published"]]


@with_node
@given(
    fields=st.fixed_dictionaries(heads),
    name=event_names,
    args=plain(arguments),
    target=st.builds(Target, rooms=possible_rooms, excluded=possible_rooms),
    limit=st.sampled_from([300, 7_999]),
    backwards=st.booleans(),
)
def test_it_reads_our_events(
    read: Read,
    fields: dict[str, Any],
    name: str,
    args: list[Any],
    target: Target,
    limit: int,
    backwards: bool,
) -> None:
    data = to_data([name, *args], stdlib_json)
    message = Broadcast(**fields, data=data, target=target)
    # where there is one room, it only reads what is for a room that it has
    seen = read(message, limit=limit, rooms=map(str, target.rooms), backwards=backwards)
    ((packet, opts),) = seen["broadcasts"]
    assert packet == {
        "type": 5 if data.attachments else 2,
        "nsp": message.namespace,
        "data": javascript([name, *args]),
    }
    assert opts["rooms"] == javascript(target.rooms)
    assert opts.get("except", []) == javascript(target.excluded)
    assert opts["flags"] == {}
    assert seen["published"] == []


@pytest.mark.parametrize("room", ["r", 7, "", "é#", "r" * 1_001])
def test_it_takes_an_event_for_one_room_only_where_it_is(read: Read, room: str | int) -> None:
    message = Broadcast(
        sender="a", namespace="/n", data=to_data(["e"], stdlib_json), target=Target((room,))
    )
    assert len(read(message, rooms=[str(room)])["broadcasts"]) == 1
    # it reads what does not say for whom it is, and finds nobody
    told = 0 < len(str(room)) <= 1_000
    assert len(read(message, rooms=["other"])["broadcasts"]) == (0 if told else 1)


@pytest.mark.parametrize("text", ["x", "é", "€", "😀", '"', "\\", "\x00", "\x01", "\u2028", "\x7f"])
def test_it_puts_our_pieces_together(read: Read, text: str) -> None:
    long = text * 20_000
    event = Broadcast(sender="a", namespace="/n", data=to_data(["e", long], stdlib_json))
    for backwards in (False, True):
        ((packet, _),) = read(event, backwards=backwards)["broadcasts"]
        assert packet["data"] == ["e", long]
        for dumps in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False)):
            data = to_data([CUSTOM_REQUEST, long], dumps)
            assert read(ServerSideEmit(**HEAD, data=data), backwards=backwards)["asked"] == [long]


@with_node
@given(
    value=plain(values | deep_values()), namespace=namespaces, limit=st.sampled_from([300, 7_999])
)
def test_it_reads_our_custom_requests_and_we_its_answers(
    read: Read, value: Any, namespace: str, limit: int
) -> None:
    head = HEAD | {"namespace": namespace}
    asked = ServerSideEmit(**head, data=to_data([CUSTOM_REQUEST, value], stdlib_json))
    seen = read(asked, limit=limit)
    there = with_buffers(javascript(value))
    assert seen["asked"] == [there]
    *pieces, answer = answers_of(seen, namespace)
    assert pieces == [None] * len(pieces)
    assert isinstance(answer, ServerSideEmitResponse)
    assert (answer.sender, answer.namespace, answer.request_id) == ("", namespace, ID)
    assert javascript(from_data(answer.data, json.loads)) == there


@with_node
@given(value=plain(values | deep_values()))
def test_it_reads_our_answers_to_custom_requests(read: Read, value: Any) -> None:
    answer = ServerSideEmitResponse(**HEAD, data=to_data(value, stdlib_json))
    seen = read(answer, waiting={ID: 5})
    assert seen["answers"] == {ID: [with_buffers(javascript(value))]}


@with_node
@given(names=possible_rooms)
def test_it_reads_our_answers_about_rooms(read: Read, names: tuple[str | int, ...]) -> None:
    answer = FetchSocketsResponse(**HEAD, rooms=names, want="rooms")
    # as they are, and as the keys of an object
    assert read(answer, waiting={ID: 1})["answers"] == {ID: javascript(names)}
    texts = {name for name in names if isinstance(name, str)}
    assert texts <= set(read(answer, waiting={ID: 2})["answers"][ID])


@with_node
@given(sids=st.lists(st.text("aZ0_-", max_size=20), unique=True))
def test_it_reads_our_answers_about_clients(read: Read, sids: list[str]) -> None:
    answer = FetchSocketsResponse(**HEAD, sockets=tuple(map(SocketInfo, sids)), want="ids")
    assert sorted(read(answer, waiting={ID: 0})["answers"][ID]) == sorted(sids)


@pytest.mark.parametrize("kind", [3, 4, 6])
def test_it_reads_that_we_have_done_what_it_asked(read: Read, kind: int) -> None:
    assert read(Done(**HEAD), waiting={ID: kind, "other": kind})["answers"] == {ID: None}


@with_node
@given(room=rooms)
def test_it_does_what_we_ask(read: Read, room: str | int) -> None:
    for kind, name in ((SocketsJoin, "join"), (SocketsLeave, "leave")):
        seen = read(kind(**HEAD, target=ONE, rooms=(room,)))
        assert seen["done"] == [[name, javascript(room)]]
        (done,) = answers_of(seen, "/n")
        assert isinstance(done, ServerSideEmitResponse)
        assert done.request_id == ID


@pytest.mark.parametrize("close", [True, False])
def test_it_disconnects_whom_we_say(read: Read, close: bool) -> None:
    seen = read(DisconnectSockets(**HEAD, target=ONE, close=close))
    assert seen["done"] == [["disconnect", close]]
    assert len(answers_of(seen, "/n")) == 1
    seen = read(DisconnectSockets(**HEAD, target=Target(("nobody",)), close=close))
    assert seen["done"] == seen["published"] == []


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (FetchSockets(**HEAD, target=Target(), want="rooms"), {"rooms": ("7", SID, "r")}),
        (FetchSockets(**HEAD, target=ONE), {"rooms": ("7", SID, "r")}),
        (FetchSockets(**HEAD, target=Target(), want="ids"), {"sockets": (SocketInfo(SID),)}),
        (FetchSockets(**HEAD, target=Target((7,)), want="ids"), {"sockets": (SocketInfo(SID),)}),
        (FetchSockets(**HEAD, target=Target(("x",)), want="ids"), {"sockets": ()}),
    ],
)
def test_it_answers_about_its_sockets(
    read: Read, message: Message, fields: dict[str, tuple[Any, ...]]
) -> None:
    (answer,) = answers_of(read(message, rooms=["r", "7"]), "/n")
    assert isinstance(answer, FetchSocketsResponse)
    assert answer.request_id == ID
    for name, value in fields.items():
        assert sorted(getattr(answer, name), key=str) == list(value)


def test_heartbeats_are_nothing_to_it(read: Read) -> None:
    head: dict[str, Any] = {"sender": "abcdef", "namespace": "/n"}
    for message in (Heartbeat(**head, initial=True), Heartbeat(**head), AdapterClose(**head)):
        assert not any(read(message).values())
