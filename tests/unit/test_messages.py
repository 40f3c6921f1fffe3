"""How the arguments of a call become a message's fields."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.legacy_wire import LegacyWire
from anyio_sio_pg.protocol.messages import (
    EVERYONE,
    RESERVED_EVENTS,
    Data,
    Target,
    check_namespace,
    check_room,
    event_data,
    join_binary,
    json_text,
    make_target,
    named_rooms,
    rooms_tuple,
    split_binary,
)
from unit.strategies import rooms, stdlib_json, values


@given(st.lists(rooms))
def test_rooms_are_kept_in_order_and_once(names: list[Any]) -> None:
    result = rooms_tuple(names)
    assert list(result) == sorted(set(names), key=names.index)
    assert rooms_tuple(iter(names)) == result


@pytest.mark.parametrize(("given", "expected"), [(None, ()), ("ab", ("ab",)), (7, (7,)), ([], ())])
def test_one_room_may_stand_for_itself(given: Any, expected: tuple[Any, ...]) -> None:
    assert rooms_tuple(given) == expected


NO_ROOMS: list[Any] = [1.5, None, b"x", b"", bytearray(b"r"), memoryview(b"r"), True, ("a",), ["b"]]


@pytest.mark.parametrize("room", NO_ROOMS, ids=lambda room: type(room).__name__)
def test_a_room_is_text_or_a_whole_number(room: Any) -> None:
    text = f"^a room must be a str or an int, not {re.escape(repr(room))}$"
    with pytest.raises(TypeError, match=text):
        check_room(room)
    for place in ("to", "skip_sid", "except_rooms"):
        if place == "skip_sid" and room is None:
            # nobody is skipped
            continue
        with pytest.raises(TypeError, match=text):
            make_target(**{"to": "a", place: ["a", room]})
        if not isinstance(room, list | tuple | type(None)):
            with pytest.raises(TypeError, match=text):
                make_target(**{"to": "a", place: room})
    if not isinstance(room, list | tuple):
        with pytest.raises(TypeError, match=text):
            named_rooms(room)


@pytest.mark.parametrize("wire", [ClusterWire("p"), LegacyWire("p")], ids=["cluster", "legacy"])
def test_a_namespace_begins_with_a_slash(wire: Any) -> None:
    for namespace in ("/", "/chat"):
        check_namespace(namespace)
        wire.channel(namespace)
    for check in (check_namespace, wire.channel):
        for namespace in ("chat", "*", "", "\\chat"):
            text = f"^a namespace must begin with '/', not {re.escape(repr(namespace))}$"
            with pytest.raises(ValueError, match=text):
                check(namespace)
        for no_text in (5, None, b"/", ["/"]):
            text = f"^a namespace must be a str, not {re.escape(repr(no_text))}$"
            with pytest.raises(TypeError, match=text):
                check(no_text)


def test_no_room_means_everyone() -> None:
    assert make_target(None) is EVERYONE
    assert Target((), ()) == EVERYONE


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (("r",), Target(("r",))),
        ((["r", 7, "r"],), Target(("r", 7))),
        (("r", "s"), Target(("r",), ("s",))),
        ((None, ["s", None, "t"]), Target((), ("s", "t"))),
        ((None, None, "x"), Target((), ("x",))),
        (("r", "s", ["x", 1]), Target(("r",), ("s", "x", 1))),
        ((None, [], []), Target()),
        (("r", (), set()), Target(("r",))),
    ],
)
def test_a_target_is_rooms_without_sids_and_rooms(arguments: Any, target: Target) -> None:
    assert make_target(*arguments) == target


@pytest.mark.parametrize("to", [[], (), set(), iter(())], ids=["list", "tuple", "set", "iterator"])
def test_an_empty_list_is_not_everyone(to: Any) -> None:
    with pytest.raises(ValueError, match=r"^to is empty: None means everyone$"):
        make_target(to, "s", "r")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, ["e"]),
        ((), ["e"]),
        ((1, 2), ["e", 1, 2]),
        ([1, 2], ["e", [1, 2]]),
        ((None,), ["e", None]),
        (0, ["e", 0]),
        ("", ["e", ""]),
    ],
)
def test_a_tuple_is_several_arguments_and_none_is_none(data: Any, expected: Any) -> None:
    assert json.loads(event_data("e", data, json.dumps).json) == expected


@pytest.mark.parametrize("event", RESERVED_EVENTS)
def test_a_reserved_event_is_refused(event: str) -> None:
    with pytest.raises(ValueError, match=f"the event name '{event}' is reserved"):
        event_data(event, None, json.dumps)


def test_what_json_cannot_hold_raises_the_json_functions_own_error() -> None:
    with pytest.raises(TypeError, match="Object of type object is not JSON serializable"):
        event_data("e", object(), json.dumps)


def cyclic(kind: type) -> Any:
    value: Any = kind()
    if isinstance(value, dict):
        value["k"] = [value]
    else:
        value.append({"k": value})
    return value


def deep(levels: int, kind: type, leaf: Any) -> Any:
    value = leaf
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("dumps", [json_text, stdlib_json])
@pytest.mark.parametrize("leaf", [1, b"x"])
def test_what_holds_itself_or_is_too_deep_is_refused(kind: type, dumps: Any, leaf: Any) -> None:
    for value in (cyclic(kind), (leaf, cyclic(kind)), deep(200_000, kind, leaf)):
        with pytest.raises(ValueError, match=r"^Circular reference detected") as caught:
            event_data("e", value, dumps)
        assert caught.value.__suppress_context__
    assert event_data("e", deep(50, kind, 1), dumps).json.count(b"1") == 1


@given(values)
def test_binary_data_is_split_off_and_joined_again(value: Any) -> None:
    attachments: list[bytes] = []
    tree = split_binary(value, attachments)
    stdlib_json(tree)
    assert join_binary(tree, tuple(attachments)) == value


@pytest.mark.parametrize("buffer", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_every_kind_of_buffer_is_binary_data(buffer: Any) -> None:
    data = event_data("e", {"k": (buffer,)}, stdlib_json)
    assert data == Data(b'["e",{"k":[{"_placeholder":true,"num":0}]}]', (b"ab",))


def test_attachments_are_numbered_in_the_order_of_the_text() -> None:
    data = event_data("e", (b"a", [b"b"], {"k": b"c"}), stdlib_json)
    assert data.attachments == (b"a", b"b", b"c")
    assert [part[0] for part in data.json.decode().split('"num":')[1:]] == ["0", "1", "2"]
