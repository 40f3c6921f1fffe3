"""The SQL and the parameters; executing them is the integration tests' part."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg import emit_statement
from anyio_sio_pg.emitter import ParamStyle, Statement
from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.messages import Attached, Broadcast, Message, Target, from_data
from unit.strategies import texts, values

STYLES: list[ParamStyle] = ["pyformat", "format", "named", "numeric", "qmark", "numeric_dollar"]
PLACEHOLDERS = {
    "pyformat": r"%\((\w+)\)s",
    "format": r"%s",
    "named": r":(\w+)",
    "numeric": r":(\d+)",
    "qmark": r"\?",
    "numeric_dollar": r"\$(\d+)",
}
SMALL = ["channel", "payload"]
LARGE = ["body", "channel", "head", "tail"]
TYPES = {"body": "bytea"}

each_style = pytest.mark.parametrize("style", STYLES)


def bound(statement: Statement, style: ParamStyle) -> list[Any]:
    """Return the parameters in the order in which their placeholders stand in the SQL."""
    found = re.findall(PLACEHOLDERS[style], statement.sql)
    if style in ("pyformat", "named"):
        assert sorted(found) == sorted(statement.params)
        return [statement.params[name] for name in found]
    assert isinstance(statement.params, list)
    if style.startswith("numeric"):
        assert sorted(map(int, found)) == list(range(1, len(statement.params) + 1))
        return [statement.params[int(number) - 1] for number in found]
    assert len(found) == len(statement.params)
    return statement.params


def message_of(parameters: list[Any], namespace: str = "/") -> Message:
    """Decode what the statement would notify, with 17 as the row's id."""
    wire = ClusterWire("socket.io")
    if len(parameters) == len(SMALL):
        channel, payload = parameters
        assert channel == wire.channel(namespace)
        return wire.decode(namespace, payload.encode())
    body, channel, head, tail = parameters
    assert channel == wire.channel(namespace)
    attached = wire.decode(namespace, f"{head}17{tail}".encode())
    assert isinstance(attached, Attached)
    return wire.decode_body(attached, body)


def skeleton(statement: Statement, style: ParamStyle) -> str:
    return re.sub(PLACEHOLDERS[style], "P", statement.sql)


@each_style
def test_a_small_event_is_notified(style: ParamStyle) -> None:
    statement = emit_statement("e", {"k": 1}, paramstyle=style)
    assert skeleton(statement, style) == (
        "SELECT pg_catalog.pg_notify(CAST(P AS text), CAST(P AS text))"
    )
    message = message_of(bound(statement, style))
    assert isinstance(message, Broadcast)
    assert json.loads(message.data.json) == ["e", {"k": 1}]


@each_style
@pytest.mark.parametrize("data", ["x" * 8_000, b"\x00\xff", {"k": [b"x", "y"]}], ids=type)
def test_a_large_or_binary_event_goes_through_the_table(style: ParamStyle, data: Any) -> None:
    statement = emit_statement("e", data, paramstyle=style)
    assert skeleton(statement, style) == (
        'WITH stored AS (INSERT INTO "socket_io_attachments" (payload)'
        " VALUES (CAST(P AS bytea)) RETURNING id)"
        " SELECT pg_catalog.pg_notify(CAST(P AS text),"
        " CAST(P AS text) || CAST(id AS text) || CAST(P AS text)) FROM stored"
    )
    message = message_of(bound(statement, style))
    assert isinstance(message, Broadcast)
    assert from_data(message.data, json.loads) == ["e", data]


@each_style
@pytest.mark.parametrize("data", [1, b"x"])
def test_a_driver_finds_a_parameter_for_every_placeholder(style: ParamStyle, data: Any) -> None:
    statement = emit_statement("e", data, paramstyle=style)
    names = LARGE if isinstance(data, bytes) else SMALL
    if style == "pyformat":
        assert "'" in statement.sql % dict.fromkeys(statement.params, "'")
    if style == "format":
        assert "'" in statement.sql % tuple("'" for _ in statement.params)
    if style in ("pyformat", "named"):
        assert list(statement.params) == names
    assert len(statement.params) == len(names)


@pytest.mark.parametrize("style", ["pyformat", "format"])
def test_a_percent_in_the_tables_name_reaches_postgresql_once(style: ParamStyle) -> None:
    statement = emit_statement("e", b"x", table='s%s.100% "{}"', paramstyle=style)
    params = statement.params if style == "pyformat" else tuple(statement.params)
    assert 'INSERT INTO "s%s"."100% ""{}""" (payload)' in statement.sql % params


@pytest.mark.parametrize("style", [s for s in STYLES if s not in ("pyformat", "format")])
def test_a_percent_in_the_tables_name_is_left_alone_where_it_means_nothing(
    style: ParamStyle,
) -> None:
    assert 'INSERT INTO "100%" (' in emit_statement("e", b"x", table="100%", paramstyle=style).sql


def test_a_table_with_a_schema_is_quoted_part_by_part() -> None:
    assert 'INTO "my schema"."T" (' in emit_statement("e", b"x", table="my schema.T").sql


def test_a_small_event_names_no_table() -> None:
    assert "INTO" not in emit_statement("e", 1, table="t").sql


@pytest.mark.parametrize("data", [1, b"x", "x" * 9_000], ids=["small", "binary", "large"])
def test_two_equal_statements_are_two_events(data: Any) -> None:
    # PostgreSQL delivers two equal notifications of one transaction once
    one, other = (emit_statement("e", data) for _ in range(2))
    assert one.sql == other.sql
    key = "payload" if data == 1 else "head"
    assert one.params[key] != other.params[key]


def test_the_threshold_is_the_servers() -> None:
    assert "INTO" not in emit_statement("e", "x" * 1_000).sql
    assert "INTO" in emit_statement("e", "x" * 1_000, payload_threshold=1_000).sql


@given(st.integers(7_700, 7_999))
def test_what_is_notified_always_fits(length: int) -> None:
    statement = emit_statement("e", "x" * length)
    if "payload" in statement.params:
        assert len(statement.params["payload"].encode()) <= 7_999


def test_the_last_byte_of_a_notification_is_used() -> None:
    spent = len(emit_statement("e", "").params["payload"])
    assert len(emit_statement("e", "x" * (7_999 - spent)).params["payload"]) == 7_999
    assert "body" in emit_statement("e", "x" * (8_000 - spent)).params


@given(texts.map(lambda text: "e" + text), values, st.lists(texts, min_size=1, max_size=3))
def test_what_goes_in_comes_out(event: str, data: Any, to: list[str]) -> None:
    statement = emit_statement(event, data, to=to, except_rooms=7, namespace="/n")
    message = message_of(bound(statement, "pyformat"), "/n")
    assert isinstance(message, Broadcast)
    assert message.sender == "emitter"
    assert message.origin
    # it is nobody's next message: nothing is missing before it
    assert message.seq is None
    assert message.request_id is None
    assert message.target == Target(tuple(dict.fromkeys(to)), (7,))
    arguments = [] if data is None else [data]
    result = from_data(message.data, json.loads)
    assert result == [event, *arguments] or "body" in statement.params


def test_the_prefix_makes_the_channel() -> None:
    assert emit_statement("e", prefix="p", namespace="/n").params["channel"] == "p#/n"


def test_a_json_module_of_the_callers_is_used() -> None:
    class Shouting:
        @staticmethod
        def dumps(value: Any, separators: Any) -> str:
            assert separators == (",", ":")
            return json.dumps(value, separators=separators, default=str.upper)

    class Word(str):
        __slots__ = ()

    assert '["e",["a"]]' in emit_statement("e", ["a"], json=Shouting).params["payload"]
    with pytest.raises(TypeError):
        emit_statement("e", object(), json=Shouting)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("arguments", "error", "pattern"),
    [
        ({"paramstyle": "dollar"}, ValueError, "paramstyle must be one of pyformat, .* not 'dol"),
        ({"prefix": ""}, ValueError, "prefix must not be empty"),
        ({"table": "a.b.c"}, ValueError, "table must be"),
        ({"payload_threshold": 8_001}, ValueError, "payload_threshold must be 1 to 8000"),
        ({"namespace": "/" + "x" * 60}, ValueError, "PostgreSQL allows 1 to 63"),
        ({"to": 1.5}, TypeError, "a room must be a str or an int, not 1.5"),
        ({"to": [1.5]}, TypeError, "a room must be a str or an int, not 1.5"),
        ({"to": b"r"}, TypeError, "a room must be a str or an int, not b'r'"),
        ({"to": ["a", ["b"]]}, TypeError, r"a room must be a str or an int, not \['b'\]"),
        ({"namespace": "x"}, ValueError, "a namespace must begin with '/', not 'x'"),
        ({"namespace": "x", "wire": "legacy"}, ValueError, "a namespace must begin with '/'"),
        ({"namespace": 5}, TypeError, "a namespace must be a str, not 5"),
        ({"to": []}, ValueError, "to is empty: None means everyone"),
        ({"data": float("nan")}, ValueError, "Out of range float"),
        ({"data": object()}, TypeError, "not JSON serializable"),
        ({"data": CYCLE}, ValueError, "Circular reference detected, or nested too deeply"),
        ({"event": "disconnect"}, ValueError, "reserved"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], pattern: str
) -> None:
    with pytest.raises(error, match=pattern):
        emit_statement(**{"event": "e"} | arguments)
