"""The emitter and emit_statement: from outside of the cluster, by any means, on both loops."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import asyncpg
import psycopg
import psycopg.conninfo
import pytest
import sqlalchemy
import sqlalchemy.orm
from psycopg import sql

from anyio_sio_pg import (
    AdapterClosedError,
    AdapterError,
    AnyIOConnection,
    PostgresEmitter,
    Statement,
    create_table_statement,
    emit_statement,
    open_postgres_emitter,
)
from harness import Client, TestNode, acquainted, eventually, node, sessions, two_nodes

pytestmark = pytest.mark.anyio

KINDS: list[Any] = [
    None,
    "text: hällo \U0001f600 100% ? :1 $1 %s",
    {"n": [1, 2.5, None, True]},
    "x" * 120_000,
    b"\0\xff" * 10,
    {"a": b"1", "b": [b"2" * 9_000, "c"]},
]
"""Data that fit into a notification, and data that go through the table."""


def as_event(event: str, data: Any) -> list[Any]:
    return [event] if data is None else [event, data]


@asynccontextmanager
async def emitter_and_nodes(
    uri: str, prefix: str, **options: Any
) -> AsyncIterator[tuple[PostgresEmitter, TestNode, TestNode]]:
    async with (
        two_nodes(uri, prefix, **options) as (a, b),
        open_postgres_emitter(uri, prefix=prefix, **options) as emitter,
    ):
        yield emitter, a, b
        for manager in (a.manager, b.manager):
            stats = manager.stats()
            assert (stats.lost, stats.repeated, stats.garbage) == (0, 0, 0)


# The emitter


async def test_emitter_emits_all_that_json_and_binary_hold(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        clients = [await a.client(), await b.client()]
        for data in KINDS:
            await emitter.emit("event", data)
        await emitter.emit("event", (1, "two", b"3"))
        expected = [as_event("event", data) for data in KINDS]
        for client in clients:
            await client.expect(*expected, ["event", 1, "two", b"3"])


async def test_emitter_reaches_rooms_and_clients(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        red = await a.client(rooms=["red"])
        both = await b.client(rooms=["red", "blue"])
        plain = await b.client()
        await emitter.emit("one", to="red")
        await emitter.emit("two", to=["red", "blue"])
        await emitter.emit("three", to="red", except_rooms=["blue"])
        await emitter.emit("four", except_rooms=red.sid)
        await emitter.emit("five", to=plain.sid)
        await emitter.emit("six", "x" * 9_000, to=("blue", "nowhere"))
        await emitter.emit("last")
        await red.expect(["one"], ["two"], ["three"], ["last"])
        await both.expect(["one"], ["two"], ["four"], ["six", "x" * 9_000], ["last"])
        await plain.expect(["four"], ["five"], ["last"])


async def test_emitter_reaches_a_namespace(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        main, chat = await a.client(), await b.client("/chat")
        for data in KINDS:
            await emitter.emit("event", data, namespace="/chat")
        await emitter.emit("last")
        await chat.expect(*[as_event("event", data) for data in KINDS], namespace="/chat")
        await main.expect(["last"])


async def test_emitter_moves_sockets_and_disconnects_them(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        here, there, out = await a.client(), await b.client(), await b.client(rooms=["out"])
        await emitter.sockets_join(["r", "s"], except_rooms="out")
        await emitter.sockets_leave("s", to=there.sid)
        await emitter.flush()
        assert await a.manager.clients("r") == {here.sid, there.sid}
        assert await a.manager.clients("s") == {here.sid}
        assert await b.manager.client_rooms(out.sid) == {out.sid, "out"}
        await emitter.disconnect_sockets(to="r", except_rooms=here.sid)
        await eventually(lambda: there.read() or there.disconnected == ["/"])
        assert await a.manager.clients() == {here.sid, out.sid}
        await out.connect("/chat")
        await emitter.disconnect_sockets(to=out.sid, close=True)
        await eventually(lambda: out.socket.closed)
        chat = await a.client("/chat")
        await emitter.sockets_join("t", namespace="/chat")
        await emitter.emit("in t", to="t", namespace="/chat")
        await chat.expect(["in t"], namespace="/chat")
        await emitter.disconnect_sockets(namespace="/chat")
        await eventually(lambda: chat.read() or chat.disconnected == ["/chat"])
        assert await b.manager.clients() == {here.sid}


async def test_emitter_reaches_the_servers_handlers(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        heard: list[Any] = []

        @a.manager.on_server_side("news")
        async def in_a(*args: Any) -> None:
            await anyio.lowlevel.checkpoint()
            heard.append(["a", *args])

        @b.manager.on_server_side("news")
        def in_b(*args: Any) -> None:
            heard.append(["b", *args])

        await emitter.server_side_emit("news", 1, {"b": b"\0"})
        await emitter.server_side_emit("news", "x" * 9_000)
        await emitter.server_side_emit("news", namespace="/elsewhere")
        await eventually(lambda: len(heard) == 4)
        for name in "ab":
            assert [args for of, *args in heard if of == name] == [
                [1, {"b": b"\0"}],
                ["x" * 9_000],
            ]


async def test_emitter_keeps_the_order_and_loses_nothing(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, b):
        clients = [await a.client(), await b.client()]
        expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        for _, *args in expected:
            await emitter.emit("n", tuple(args))
        for client in clients:
            await client.expect(*expected)


async def test_emitter_delivers_identical_events_each(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, _):
        client = await a.client()
        for _ in range(100):
            await emitter.emit("same", {"always": "the same"})
        for _ in range(10):
            await emitter.emit("same", b"binary")
        await client.expect(*[["same", {"always": "the same"}]] * 100, *[["same", b"binary"]] * 10)


async def test_emitter_flush_returns_when_it_is_committed(uri: str, prefix: str) -> None:
    async with open_postgres_emitter(uri, prefix=prefix, table=f"flushed_{prefix}") as emitter:
        await emitter.flush()
        for number in range(50):
            await emitter.emit("n", bytes([number]))
        await emitter.flush()
        with psycopg.connect(uri) as connection:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(f"flushed_{prefix}"))
            assert connection.execute(query).fetchone() == (50,)


async def test_emitter_flushes_at_the_end_of_its_block(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as a:
        client = await a.client()
        async with open_postgres_emitter(uri, prefix=prefix) as emitter:
            for number in range(1_000):
                await emitter.emit("n", number)
        await client.expect(*[["n", number] for number in range(1_000)])


@pytest.mark.usefixtures("patient_end")
async def test_emitter_is_no_node(uri: str, prefix: str) -> None:
    name = f"emitter of {prefix}"
    async with two_nodes(uri, prefix, requests_timeout=30) as (a, b):
        client = await b.client()
        named = psycopg.conninfo.make_conninfo(uri, application_name=name)
        async with open_postgres_emitter(named, prefix=prefix) as emitter:
            for number in range(20):
                await emitter.emit("n", number)
                await emitter.emit("n", b"binary")
            await eventually(lambda: len(client.events()) == 40)
            assert a.manager.stats().nodes == 1
            assert b.manager.stats().nodes == 1
            with anyio.fail_after(10):
                assert await a.manager.clients() == {client.sid}
                assert await a.manager.server_side_call("unheard") == [None]
            assert len(sessions(uri, name)) == 1
        assert sessions(uri, name) == []
        assert a.manager.stats().nodes == 1


async def test_two_emitters_do_not_disturb_each_other(uri: str, prefix: str) -> None:
    async with (
        emitter_and_nodes(uri, prefix) as (one, a, _),
        open_postgres_emitter(uri, prefix=prefix) as two,
    ):
        client = await a.client()
        for number in range(50):
            await one.emit("one", number)
            await two.emit("two", number)
        await eventually(lambda: len(client.events()) == 100)
        for name in ("one", "two"):
            assert [n for of, n in client.events() if of == name] == list(range(50))


async def test_emitter_after_its_block_says_that_it_is_closed(uri: str, prefix: str) -> None:
    async with open_postgres_emitter(uri, prefix=prefix) as emitter:
        pass
    calls: list[Callable[[], Any]] = [
        lambda: emitter.emit("event"),
        lambda: emitter.sockets_join("r"),
        lambda: emitter.sockets_leave("r"),
        lambda: emitter.disconnect_sockets(),
        lambda: emitter.server_side_emit("event"),
        lambda: emitter.flush(),
    ]
    for call in calls:
        with pytest.raises(AdapterClosedError):
            await call()


BAD_EVENTS: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "connect", {"event": "connect"}),
    (ValueError, "disconnect", {"event": "disconnect"}),
    (TypeError, "object", {"event": "event", "data": object()}),
    (TypeError, "set", {"event": "event", "data": {"deep": [{1, 2}]}}),
    (TypeError, "object", {"event": "event", "data": (b"binary", object())}),
    (TypeError, "tuple", {"event": "event", "data": {(1, 2): b"binary"}}),
    (ValueError, "nan", {"event": "event", "data": float("nan")}),
    (ValueError, "63", {"event": "event", "namespace": "/" + "n" * 63}),
    (ValueError, "63", {"event": "event", "namespace": "/" + "ä" * 31}),
    (ValueError, "NUL", {"event": "event", "namespace": "/\0"}),
    (ValueError, "a namespace must begin with '/', not 'x'", {"event": "event", "namespace": "x"}),
    (TypeError, "a namespace must be a str, not None", {"event": "event", "namespace": None}),
    (TypeError, "not b'r'", {"event": "event", "to": b"r"}),
    (ValueError, "to is empty", {"event": "event", "to": set()}),
]


async def test_emitter_refuses_bad_input_and_goes_on(uri: str, prefix: str) -> None:
    async with emitter_and_nodes(uri, prefix) as (emitter, a, _):
        client = await a.client()
        for error, text, arguments in BAD_EVENTS:
            with pytest.raises(error, match=text):
                await emitter.emit(**arguments)
        with pytest.raises(TypeError, match="object"):
            await emitter.server_side_emit("event", object())
        for name in ("sockets_join", "sockets_leave"):
            with pytest.raises(ValueError, match="63"):
                await getattr(emitter, name)("r", namespace="/" + "n" * 63)
        with pytest.raises(ValueError, match="63"):
            await emitter.disconnect_sockets(namespace="/" + "n" * 63)
        for call in (
            partial(emitter.sockets_join, "r"),
            partial(emitter.sockets_leave, client.sid),
            emitter.disconnect_sockets,
        ):
            with pytest.raises(ValueError, match="to is empty: None means everyone"):
                await call(to=[])
            with pytest.raises(TypeError, match="a room must be a str or an int, not b'r'"):
                await call(to=b"r")
        for move in (emitter.sockets_join, emitter.sockets_leave):
            for room in (None, 1.5, True, b"r", ["a", None]):
                with pytest.raises(TypeError, match="a room must be a str or an int, not "):
                    await move(room)  # type: ignore[arg-type]
        await emitter.emit("last")
        await client.expect(["last"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prefix": ""}, "prefix"),
        ({"table": "a.b.c"}, "table"),
        ({"payload_threshold": 8_001}, "payload_threshold"),
        ({"outbox_limit": 0}, "outbox_limit"),
        ({"publish_timeout": -1}, "publish_timeout"),
        ({"shutdown_timeout": float("nan")}, "shutdown_timeout"),
        ({"wire": "other"}, "wire"),
    ],
)
async def test_emitter_refuses_bad_options(uri: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        async with open_postgres_emitter(uri, **options):
            raise AssertionError("the block was entered")


async def test_emitter_tells_what_is_wrong_with_the_server_but_no_password() -> None:
    with anyio.fail_after(20), pytest.raises(AdapterError) as caught:
        async with open_postgres_emitter("postgresql://u:s3cret@127.0.0.1:1/db"):
            raise AssertionError("the block was entered")
    assert "s3cret" not in str(caught.value)


# The statement


@asynccontextmanager
async def one_client(uri: str, prefix: str, **options: Any) -> AsyncIterator[Client]:
    async with node(uri, prefix, **options) as only:
        yield await only.client()
        stats = only.manager.stats()
        assert (stats.lost, stats.repeated, stats.garbage, stats.nodes) == (0, 0, 0, 0)


def to_pyformat(statement: Statement) -> tuple[Any, Any]:
    return statement.sql, statement.params


def from_named(statement: Statement) -> tuple[Any, Any]:
    return re.sub(r":([a-z]+)", r"%(\1)s", statement.sql), statement.params


def from_qmark(statement: Statement) -> tuple[Any, Any]:
    return statement.sql.replace("?", "%s"), statement.params


def from_numeric(statement: Statement) -> tuple[Any, Any]:
    names = {f"p{number}": value for number, value in enumerate(statement.params, 1)}
    return re.sub(r":([0-9]+)", r"%(p\1)s", statement.sql), names


@pytest.mark.parametrize(
    ("paramstyle", "translate"),
    [
        ("pyformat", to_pyformat),
        ("format", to_pyformat),
        ("numeric_dollar", to_pyformat),
        ("named", from_named),
        ("qmark", from_qmark),
        ("numeric", from_numeric),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_statement_in_every_paramstyle(
    uri: str, prefix: str, paramstyle: Any, translate: Callable[[Statement], tuple[Any, Any]]
) -> None:
    cursor = psycopg.RawCursor if paramstyle == "numeric_dollar" else psycopg.Cursor
    async with one_client(uri, prefix) as client:
        with psycopg.connect(uri, autocommit=True, cursor_factory=cursor) as connection:
            for data in KINDS:
                made = emit_statement("event", data, prefix=prefix, paramstyle=paramstyle)
                named = paramstyle in ("pyformat", "named")
                assert isinstance(made.params, dict if named else list)
                connection.execute(*translate(made))
        await client.expect(*[as_event("event", data) for data in KINDS])


@pytest.mark.parametrize("cursor", [psycopg.Cursor, psycopg.ClientCursor])
@pytest.mark.parametrize("data", KINDS, ids=lambda data: type(data).__name__)
async def test_statement_goes_out_on_commit_and_not_before(
    uri: str, prefix: str, cursor: Any, data: Any
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        client = await b.client()
        with psycopg.connect(uri, cursor_factory=cursor) as connection:
            connection.execute(*emit_statement("inside", data, prefix=prefix))
            await a.manager.emit("meanwhile")
            await client.expect(["meanwhile"])
            # what was notified would be there by now: PostgreSQL gives it out in commit order
            await a.manager.emit("still")
            await client.expect(["meanwhile"], ["still"])
            connection.commit()
            await client.expect(["meanwhile"], ["still"], as_event("inside", data))


@pytest.mark.parametrize("data", KINDS, ids=lambda data: type(data).__name__)
async def test_statement_sends_nothing_on_rollback(uri: str, prefix: str, data: Any) -> None:
    async with one_client(uri, prefix) as client:
        with psycopg.connect(uri) as connection:
            connection.execute(*emit_statement("undone", data, prefix=prefix))
            connection.rollback()
            connection.execute(*emit_statement("done", data, prefix=prefix))
            connection.commit()
            with connection.transaction():
                connection.execute(*emit_statement("kept", prefix=prefix))
                with connection.transaction(force_rollback=True):
                    connection.execute(*emit_statement("undone", data, prefix=prefix))
        await client.expect(as_event("done", data), ["kept"])


@pytest.mark.parametrize("data", KINDS, ids=lambda data: type(data).__name__)
async def test_equal_statements_of_one_transaction_are_all_sent(
    uri: str, prefix: str, data: Any
) -> None:
    async with one_client(uri, prefix) as client:
        with psycopg.connect(uri) as connection:
            for _ in range(3):
                connection.execute(*emit_statement("same", data, prefix=prefix))
        await client.expect(*[as_event("same", data)] * 3)


async def test_a_statement_executed_twice_in_a_transaction(uri: str, prefix: str) -> None:
    async with one_client(uri, prefix) as client:
        small = emit_statement("small", prefix=prefix)
        large = emit_statement("large", "x" * 9_000, prefix=prefix)
        binary = emit_statement("binary", b"1", prefix=prefix)
        with psycopg.connect(uri) as connection:
            for statement in (small, small, large, large, binary, binary):
                connection.execute(*statement)
        # PostgreSQL merges equal notifications; those of two rows differ
        await client.expect(["small"], *[["large", "x" * 9_000]] * 2, *[["binary", b"1"]] * 2)


async def test_statements_of_one_transaction_keep_their_order(uri: str, prefix: str) -> None:
    expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(100)]
    async with one_client(uri, prefix) as client:
        with psycopg.connect(uri) as connection:
            for _, *args in expected:
                connection.execute(*emit_statement("n", tuple(args), prefix=prefix))
        await client.expect(*expected)


async def test_statement_from_blocking_threads(uri: str, prefix: str) -> None:
    """As Celery's workers and Django's views do."""

    def work(number: int) -> None:
        with psycopg.connect(uri) as connection:
            connection.execute("SELECT pg_sleep(0.01)")
            connection.execute(*emit_statement("worked", (number, b"\0"), prefix=prefix))

    async with one_client(uri, prefix) as client:
        async with anyio.create_task_group() as tg:
            for number in range(8):
                tg.start_soon(anyio.to_thread.run_sync, work, number)
        await eventually(lambda: len(client.events()) == 8)
        expected = [["worked", number, b"\0"] for number in range(8)]
        assert sorted(client.events(), key=str) == expected


async def test_statement_in_a_transaction_of_an_anyio_connection(uri: str, prefix: str) -> None:
    async with one_client(uri, prefix) as client:
        connection = await AnyIOConnection.connect(uri, autocommit=True)
        try:
            async with connection.transaction():
                await connection.execute("CREATE TEMP TABLE orders (id int)")
                for data in KINDS:
                    await connection.execute(*emit_statement("event", data, prefix=prefix))
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute(*emit_statement("undone", prefix=prefix))
                    raise ZeroDivisionError
            await connection.execute(*emit_statement("autocommit", prefix=prefix))
        finally:
            await connection.close()
        await client.expect(*[as_event("event", data) for data in KINDS], ["autocommit"])


async def test_statement_to_rooms_in_a_namespace(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as only, node(uri, prefix) as other:
        await acquainted(only, other)
        red = await only.client("/chat", rooms=["red"])
        both = await other.client("/chat", rooms=["red", "blue"])
        main = await only.client()
        big = "x" * 9_000
        with psycopg.connect(uri, autocommit=True) as connection:
            for event, data, target in (
                ("one", 1, {"to": "red"}),
                ("two", big, {"to": ["red", "blue"]}),
                ("three", big, {"to": "red", "except_rooms": "blue"}),
                ("four", 4, {"except_rooms": [red.sids["/chat"]]}),
                ("five", b"5", {"to": both.sids["/chat"]}),
                ("last", None, {}),
            ):
                made = emit_statement(event, data, namespace="/chat", prefix=prefix, **target)
                connection.execute(*made)
            connection.execute(*emit_statement("main", prefix=prefix))
        await red.expect(["one", 1], ["two", big], ["three", big], ["last"], namespace="/chat")
        await both.expect(
            ["one", 1], ["two", big], ["four", 4], ["five", b"5"], ["last"], namespace="/chat"
        )
        await main.expect(["main"])


@pytest.mark.parametrize("table", ['an "odd%s" %table', "app{0}.attached"])
@pytest.mark.parametrize("paramstyle", ["pyformat", "format", "numeric_dollar"])
async def test_statement_through_a_table_of_another_name(
    uri: str, prefix: str, table: str, paramstyle: Any
) -> None:
    cursor = psycopg.RawCursor if paramstyle == "numeric_dollar" else psycopg.Cursor
    options: dict[str, Any] = {"table": table, "payload_threshold": 200}
    with psycopg.connect(uri, autocommit=True, cursor_factory=cursor) as connection:
        if "." in table:
            schema = sql.Identifier(table.partition(".")[0])
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        connection.execute(create_table_statement(table).encode())
        async with one_client(uri, prefix, **options) as client:
            for data in ("small", "x" * 200, b"binary"):
                connection.execute(
                    *emit_statement("event", data, prefix=prefix, paramstyle=paramstyle, **options)
                )
            await client.expect(["event", "small"], ["event", "x" * 200], ["event", b"binary"])


@pytest.fixture
def role(uri: str, prefix: str) -> Iterator[str]:
    """The connection string of a role that may do what a statement needs, and nothing else."""
    name = f"sender_{prefix}"
    table = sql.Identifier(f"of_{prefix}")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(create_table_statement(f"of_{prefix}").encode())
        for statement in (
            "CREATE ROLE {role} LOGIN",
            "REVOKE ALL ON {table} FROM PUBLIC",
            "GRANT INSERT, SELECT (id) ON {table} TO {role}",
            "GRANT USAGE ON SEQUENCE {sequence} TO {role}",
        ):
            connection.execute(
                sql.SQL(statement).format(
                    role=sql.Identifier(name),
                    table=table,
                    sequence=sql.Identifier(f"of_{prefix}_id_seq"),
                )
            )
        yield psycopg.conninfo.make_conninfo(uri, user=name)
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def test_statement_needs_few_privileges(uri: str, prefix: str, role: str) -> None:
    table = f"of_{prefix}"
    async with one_client(uri, prefix, table=table) as client:
        with psycopg.connect(role, autocommit=True) as connection:
            for data in KINDS:
                connection.execute(*emit_statement("event", data, prefix=prefix, table=table))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL("SELECT payload FROM {}").format(sql.Identifier(table)))
        await client.expect(*[as_event("event", data) for data in KINDS])


class Utf8Json:
    """A JSON module that writes text as it is, in UTF-8."""

    dumps = partial(json.dumps, ensure_ascii=False)


@pytest.mark.parametrize(
    ("module", "character", "size"),
    [
        (json, "x", 1),
        (json, "ä", len("\\u00e4")),
        (json, "\U0001f600", len("\\ud83d\\ude00")),
        (Utf8Json, "ä", 2),
        (Utf8Json, "\U0001f600", 4),
    ],
    ids=["ascii", "escaped", "escaped-pair", "two-bytes", "four-bytes"],
)
async def test_statement_with_the_largest_notification_and_one_character_more(
    uri: str, prefix: str, module: Any, character: str, size: int
) -> None:
    def made(text: str) -> Statement:
        return emit_statement("event", text, prefix=prefix, json=module)

    count, rest = divmod(7_999 - len(made("").params["payload"]), size)
    largest = "x" * rest + character * count
    assert len(made(largest).params["payload"].encode()) == 7_999
    assert "body" in made(largest + "x").params
    async with one_client(uri, prefix) as client:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(*made(largest))
            connection.execute(*made(largest + "x"))
        await client.expect(["event", largest], ["event", largest + "x"])


@pytest.mark.parametrize(("error", "text", "arguments"), BAD_EVENTS)
def test_statement_refuses_bad_events(
    error: type[Exception], text: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(error, match=text):
        emit_statement(**arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"paramstyle": "dollar"}, "paramstyle must be one of pyformat, "),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "p" * 62}, "63"),
        ({"table": ""}, "table"),
        ({"table": "a.b.c"}, "table"),
        ({"payload_threshold": 8_001}, "payload_threshold"),
        ({"payload_threshold": 0}, "payload_threshold"),
    ],
)
def test_statement_refuses_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        emit_statement("event", **options)


def test_statement_uses_the_json_module_that_it_is_given() -> None:
    class Json:
        @staticmethod
        def dumps(value: Any, **_: Any) -> str:
            return '["event","given"]'

    assert '["event","given"]' in emit_statement("event", 1, json=Json).params["payload"]


# Other drivers


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_statement_by_asyncpg(uri: str, prefix: str) -> None:
    async with one_client(uri, prefix) as client:
        connection = await asyncpg.connect(uri)
        try:
            for data in KINDS:
                made = emit_statement("event", data, prefix=prefix, paramstyle="numeric_dollar")
                await connection.execute(made.sql, *made.params)
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    made = emit_statement("undone", prefix=prefix, paramstyle="numeric_dollar")
                    await connection.execute(made.sql, *made.params)
                    raise ZeroDivisionError
            async with connection.transaction():
                made = emit_statement("done", prefix=prefix, paramstyle="numeric_dollar")
                await connection.execute(made.sql, *made.params)
        finally:
            await connection.close()
        await client.expect(*[as_event("event", data) for data in KINDS], ["done"])


async def test_statement_by_sqlalchemy(uri: str, prefix: str) -> None:
    engine = sqlalchemy.create_engine(uri.replace("postgresql://", "postgresql+psycopg://"))

    def named(event: str, data: Any = None) -> tuple[Any, Any]:
        made = emit_statement(event, data, prefix=prefix, paramstyle="named")
        return sqlalchemy.text(made.sql), made.params

    try:
        async with one_client(uri, prefix) as client:
            with engine.begin() as connection:
                for data in KINDS:
                    connection.execute(*named("event", data))
            with sqlalchemy.orm.Session(engine) as session:
                session.execute(*named("undone"))
                session.rollback()
                session.execute(*named("done", b"\0"))
                session.commit()
            await client.expect(*[as_event("event", data) for data in KINDS], ["done", b"\0"])
    finally:
        engine.dispose()
