"""AnyIOConnection: connecting, waiting, cancelling and closing, on both loops."""

from __future__ import annotations

import ast
import gc
import inspect
import math
import select
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest
from anyio.abc import TaskGroup
from psycopg import AsyncConnection, errors

from anyio_sio_pg.postgres.connection import AnyIOConnection, close_session
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import Stopwatch, eventually, node, stopwatch, two_nodes
from servers import (
    certificate_of,
    free_port,
    frozen,
    silent_port,
    sockets_of,
    sockets_to,
    sql,
    standby_of,
    tls_server,
)

pytestmark = pytest.mark.anyio

MEGABYTE = 2**20


@asynccontextmanager
async def connected(conninfo: str, **options: Any) -> AsyncIterator[AnyIOConnection]:
    connection = await AnyIOConnection.connect(conninfo, **{"autocommit": True, **options})
    # to cancel a query takes longer where the machine is busy
    connection.cancel_timeout = 30
    try:
        yield connection
    finally:
        await connection.close()


async def value(connection: AsyncConnection[Any], query: Any, *parameters: Any) -> Any:
    row = await (await connection.execute(query, parameters or None)).fetchone()
    assert row is not None
    return row[0]


def activity(uri: str, connection: AnyIOConnection) -> list[tuple[str, str]]:
    """What PostgreSQL says about a connection's session: its state and its query."""
    pid = connection.info.backend_pid
    return sql(uri, f"SELECT state, query FROM pg_stat_activity WHERE pid = {pid}")


def active(uri: str, connection: AnyIOConnection) -> bool:
    return [state for state, _ in activity(uri, connection)] == ["active"]


class Took:
    """The seconds that a block took, and those of them that are not the machine's fault."""

    def __init__(self, at_most: Stopwatch):
        self.seconds = math.inf
        self._at_most = at_most

    @property
    def at_most(self) -> float:
        return self._at_most.seconds


@asynccontextmanager
async def timed() -> AsyncIterator[Took]:
    started = anyio.current_time()
    async with stopwatch() as watch:
        took = Took(watch)
        yield took
    took.seconds = anyio.current_time() - started


# Connecting


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary and its hot standby."""
    with EmbeddedPostgres() as primary, standby_of(primary) as standby:
        yield primary, standby


CONNINFOS: dict[str, Callable[[EmbeddedPostgres], str]] = {
    "url": lambda s: f"postgresql://postgres@127.0.0.1:{s.port}/postgres",
    "key-value": lambda s: f"host=127.0.0.1 port={s.port} user=postgres dbname='postgres'",
    "host-name": lambda s: f"postgresql://postgres@localhost:{s.port}/postgres",
    "unix-socket": lambda s: f"host={s.data.parent} port={s.port} user=postgres",
    "dead-hosts-first": lambda s: (
        f"host=127.0.0.1,nope.invalid,{s.data},localhost"
        f" port={free_port()},{s.port},{s.port},{s.port} user=postgres"
    ),
    "addresses-of-names": lambda s: (
        f"host=one.invalid,two.invalid hostaddr=127.0.0.1,127.0.0.1"
        f" port={free_port()},{s.port} user=postgres"
    ),
    "one-port-for-all": lambda s: f"host=nope.invalid,127.0.0.1 port={s.port} user=postgres",
    "shuffled": lambda s: (
        f"host=nope.invalid,127.0.0.1 port={s.port} user=postgres load_balance_hosts=random"
    ),
}


@pytest.mark.parametrize("form", CONNINFOS)
async def test_connect(postgres: EmbeddedPostgres, form: str) -> None:
    async with connected(CONNINFOS[form](postgres)) as connection:
        assert await value(connection, "SHOW port") == str(postgres.port)
        assert connection.autocommit
    assert sockets_to(postgres.port) == 0
    path = postgres.data.parent / f".s.PGSQL.{postgres.port}"
    await eventually(lambda: sockets_of(path) == 0)


async def test_connect_by_the_environment(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(postgres.port))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "postgres")
    async with connected("") as connection:
        assert await value(connection, "SHOW port") == str(postgres.port)


async def test_connect_takes_what_psycopg_takes(uri: str) -> None:
    async with connected(
        uri,
        autocommit=False,
        prepare_threshold=None,
        row_factory=psycopg.rows.dict_row,
        cursor_factory=psycopg.AsyncClientCursor,
        application_name="named",
    ) as connection:
        row = await (await connection.execute("SHOW application_name")).fetchone()
        assert row == {"application_name": "named"}
        assert type(connection.cursor()) is psycopg.AsyncClientCursor
        assert connection.prepare_threshold is None
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


async def test_connect_names_every_failure(postgres: EmbeddedPostgres) -> None:
    dead = free_port()
    conninfo = f"host=127.0.0.1,127.0.0.1 port={dead},{postgres.port} user=postgres dbname=nope"
    with pytest.raises(psycopg.OperationalError) as caught:
        await AnyIOConnection.connect(conninfo)
    assert f"port {dead} failed" in str(caught.value)
    assert 'database "nope" does not exist' in str(caught.value)
    with pytest.raises(psycopg.OperationalError, match=r"nope\.invalid.*also\.invalid"):
        await AnyIOConnection.connect("host=nope.invalid,also.invalid")
    with pytest.raises(psycopg.OperationalError, match="could not match 2 port numbers"):
        await AnyIOConnection.connect("host=a,b,c port=1,2")
    assert sockets_to(postgres.port) == sockets_to(dead) == 0


@pytest.mark.parametrize(
    ("attrs", "hosts", "found"),
    [
        ("any", "ps", "p"),
        ("any", "sp", "s"),
        ("read-write", "sp", "p"),
        ("primary", "sp", "p"),
        ("read-only", "ps", "s"),
        ("standby", "ps", "s"),
        ("prefer-standby", "ps", "s"),
        ("prefer-standby", "p", "p"),
        ("prefer-standby", "xp", "p"),
        ("read-write", "s", None),
        ("read-only", "xp", None),
    ],
)
@pytest.mark.parametrize("source", ["string", "environment"])
async def test_target_session_attrs(
    pair: tuple[EmbeddedPostgres, EmbeddedPostgres],
    monkeypatch: pytest.MonkeyPatch,
    attrs: str,
    hosts: str,
    found: str | None,
    source: str,
) -> None:
    ports = {"p": pair[0].port, "s": pair[1].port, "x": free_port()}
    conninfo = (
        f"host={','.join(['127.0.0.1'] * len(hosts))} user=postgres"
        f" port={','.join(str(ports[h]) for h in hosts)}"
    )
    if source == "string":
        conninfo += f" target_session_attrs={attrs}"
    else:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", attrs)
    if found is None:
        with pytest.raises(psycopg.OperationalError, match="session is"):
            await AnyIOConnection.connect(conninfo)
    else:
        async with connected(conninfo) as connection:
            assert await value(connection, "SHOW port") == str(ports[found])
    assert not any(sockets_to(port) for port in ports.values())


async def test_connect_gives_up_after_its_timeout() -> None:
    with silent_port() as port:
        async with timed() as took:
            with pytest.raises(errors.ConnectionTimeout) as caught:
                await AnyIOConnection.connect(f"host=127.0.0.1 port={port} connect_timeout=2")
        assert took.seconds > 1.9
        assert took.at_most < 4
        assert f"'127.0.0.1', port {port}" in str(caught.value)
        assert sockets_to(port) == 0


async def test_a_silent_host_costs_its_timeout_and_the_next_is_tried(
    postgres: EmbeddedPostgres,
) -> None:
    with silent_port() as port:
        async with (
            timed() as took,
            connected(
                f"host=127.0.0.1,127.0.0.1 port={port},{postgres.port} user=postgres"
                " connect_timeout=2"
            ) as connection,
        ):
            assert await value(connection, "SELECT 1") == 1
            assert sockets_to(port) == 0
    assert took.seconds > 1.9
    assert took.at_most < 4


async def test_connecting_can_be_cancelled() -> None:
    with silent_port() as port:
        async with timed() as took, anyio.create_task_group() as tg:
            tg.start_soon(AnyIOConnection.connect, f"host=127.0.0.1 port={port}")
            await eventually(lambda: sockets_to(port))
            tg.cancel_scope.cancel()
        assert sockets_to(port) == 0
    assert took.at_most < 2


# Waiting


async def test_large_parameters_and_results(uri: str) -> None:
    sent = b"\0\1\2\xff" * (2 * MEGABYTE)
    async with connected(uri) as connection:
        cursor = await connection.execute("SELECT %b::bytea, %b::bytea", [sent, sent], binary=True)
        assert await cursor.fetchone() == (sent, sent)


async def test_a_large_query_waits_until_the_server_reads_again(
    own_postgres: EmbeddedPostgres,
) -> None:
    sent = b"x" * (16 * MEGABYTE)
    async with connected(own_postgres.uri) as connection:
        got: list[int] = []

        async def query() -> None:
            got.append(await value(connection, "SELECT length(%b)", sent))

        async with anyio.create_task_group() as tg:
            with frozen(own_postgres):
                tg.start_soon(query)
                await anyio.wait_all_tasks_blocked()
                assert got == []
        assert got == [len(sent)]


async def test_tasks_take_turns(uri: str) -> None:
    async with connected(uri) as connection:
        got: dict[int, int] = {}

        async def query(number: int) -> None:
            got[number] = await value(connection, "SELECT %s::int FROM pg_sleep(0.001)", number)

        async with anyio.create_task_group() as tg:
            for number in range(50):
                tg.start_soon(query, number)
        assert got == {number: number for number in range(50)}


async def test_other_tasks_run_meanwhile(uri: str) -> None:
    async with connected(uri) as connection:
        await connection.execute("CREATE TEMPORARY TABLE numbers (n int)")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(count)
            cursor = connection.cursor()
            await cursor.executemany(
                "INSERT INTO numbers VALUES (%s)", [(number,) for number in range(20_000)]
            )
            tg.cancel_scope.cancel()
        assert turns > 4


async def test_transactions(uri: str) -> None:
    async with connected(uri) as connection:
        await connection.execute("CREATE TEMPORARY TABLE numbers (n int)")
        async with connection.transaction():
            await connection.execute("INSERT INTO numbers VALUES (1)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO numbers VALUES (2)")
                    raise ZeroDivisionError
            async with connection.transaction(force_rollback=True):
                await connection.execute("INSERT INTO numbers VALUES (3)")
        with pytest.raises(errors.DivisionByZero):
            async with connection.transaction():
                await connection.execute("INSERT INTO numbers VALUES (4)")
                await connection.execute("SELECT 1/0")
        assert await value(connection, "SELECT array_agg(n) FROM numbers") == [1]


async def test_commit_and_rollback(uri: str) -> None:
    async with connected(uri, autocommit=False) as connection:
        await connection.execute("CREATE TEMPORARY TABLE numbers (n int)")
        await connection.commit()
        await connection.execute("INSERT INTO numbers VALUES (1)")
        await connection.rollback()
        assert await value(connection, "SELECT count(*) FROM numbers") == 0
        await connection.rollback()
        await connection.set_autocommit(True)
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        async with connection.transaction():
            assert await value(connection, "SHOW transaction_isolation") == "serializable"


async def test_pipelines(uri: str) -> None:
    async with connected(uri) as connection:
        async with connection.pipeline() as pipeline:
            cursors = [
                await connection.execute("SELECT %s::int, repeat('x', 10000)", [n])
                for n in range(500)
            ]
            await pipeline.sync()
            assert [(await cursor.fetchone() or "")[0] for cursor in cursors] == list(range(500))
        with pytest.raises(errors.DivisionByZero):
            async with connection.pipeline():
                await connection.execute("SELECT 1/0")
        async with connection.pipeline(), connection.transaction():
            assert await value(connection, "SELECT 2") == 2
        assert await value(connection, "SELECT 3") == 3


async def test_executemany_and_server_side_cursors(uri: str) -> None:
    async with connected(uri) as connection:
        await connection.execute("CREATE TEMPORARY TABLE numbers (n int)")
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO numbers VALUES (%s) RETURNING n", [(1,), (2,), (3,)], returning=True
            )
            got = [await cursor.fetchone()]
            while cursor.nextset():
                got.append(await cursor.fetchone())
            assert got == [(1,), (2,), (3,)]
        async with (
            connection.transaction(),
            connection.cursor("named") as named,
        ):
            await named.execute("SELECT n FROM numbers ORDER BY n")
            assert await named.fetchmany(2) == [(1,), (2,)]
            assert [row async for row in named] == [(3,)]
        async with connection.cursor() as cursor:
            assert [n async for (n,) in cursor.stream("SELECT n FROM numbers")] == [1, 2, 3]


async def test_copy(uri: str) -> None:
    rows = [(number, "ü" * 1_000) for number in range(5_000)]
    async with connected(uri) as connection, connection.cursor() as cursor:
        await cursor.execute("CREATE TEMPORARY TABLE texts (n int, t text)")
        async with cursor.copy("COPY texts FROM STDIN") as copy:
            for row in rows:
                await copy.write_row(row)
        async with cursor.copy("COPY texts TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            assert [row async for row in copy.rows()] == rows
        with pytest.raises(ZeroDivisionError):
            async with cursor.copy("COPY texts FROM STDIN"):
                raise ZeroDivisionError
        assert await value(connection, "SELECT count(*) FROM texts") == len(rows)


async def test_notifies(uri: str, prefix: str) -> None:
    async with connected(uri) as connection, connected(uri) as other:
        await connection.execute(f"LISTEN {prefix}")
        async with timed() as took:
            assert [n async for n in connection.notifies(timeout=0.1)] == []
        assert took.seconds > 0.09
        assert took.at_most < 2
        for number in range(3):
            await other.execute("SELECT pg_notify(%s, %s)", [prefix, str(number)])
        async with aclosing(connection.notifies(timeout=20, stop_after=3)) as notifies:
            assert [n.payload async for n in notifies] == ["0", "1", "2"]
        await other.execute("SELECT pg_notify(%s, 'there')", [prefix])
        await eventually(lambda: readable(connection))
        assert [n.payload async for n in connection.notifies(timeout=0)] == ["there"]
        assert [n.payload async for n in connection.notifies(timeout=0)] == []
        assert await value(connection, "SELECT 1") == 1


def readable(connection: AnyIOConnection) -> bool:
    return bool(select.select([connection.pgconn.socket], [], [], 0)[0])


# Cancelling


async def test_a_cancelled_query_ends_on_the_server(uri: str) -> None:
    async with connected(uri) as connection:
        async with timed() as took, anyio.create_task_group() as tg:
            tg.start_soon(connection.execute, "SELECT pg_sleep(60)")
            await eventually(lambda: active(uri, connection))
            tg.cancel_scope.cancel()
        assert activity(uri, connection) == [("idle", "SELECT pg_sleep(60)")]
        assert took.at_most < 10
        assert await value(connection, "SELECT 1") == 1
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await connection.execute("SELECT pg_sleep(60)")
        assert await value(connection, "SELECT 2") == 2


async def test_a_query_that_waits_its_turn_can_be_cancelled(uri: str) -> None:
    async with connected(uri) as connection:
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.execute, "SELECT pg_sleep(60)")
            await eventually(lambda: active(uri, connection))
            with anyio.move_on_after(0.02):
                await connection.execute("SELECT 1")
            assert activity(uri, connection) == [("active", "SELECT pg_sleep(60)")]
            tg.cancel_scope.cancel()
        assert await value(connection, "SELECT 2") == 2


async def test_cancel_safe(uri: str) -> None:
    async with connected(uri) as connection:
        async with anyio.create_task_group() as tg:

            async def query() -> None:
                with pytest.raises(errors.QueryCanceled):
                    await connection.execute("SELECT pg_sleep(60)")

            tg.start_soon(query)
            await eventually(lambda: active(uri, connection))
            await connection.cancel_safe()
        assert await value(connection, "SELECT 1") == 1
    await connection.cancel_safe()


async def test_cancelling_in_a_transaction_rolls_it_back(uri: str) -> None:
    async with connected(uri) as connection:
        await connection.execute("CREATE TEMPORARY TABLE numbers (n int)")

        async def work(nested: bool) -> None:
            async with connection.transaction():
                await connection.execute("INSERT INTO numbers VALUES (1)")
                if nested:
                    async with connection.transaction():
                        await connection.execute("SELECT pg_sleep(60)")
                await anyio.sleep_forever()

        for nested in (False, True):
            async with anyio.create_task_group() as tg:
                tg.start_soon(work, nested)
                wanted = "active" if nested else "idle in transaction"
                await eventually(lambda wanted=wanted: activity(uri, connection)[0][0] == wanted)
                await anyio.wait_all_tasks_blocked()
                tg.cancel_scope.cancel()
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert await value(connection, "SELECT count(*) FROM numbers") == 0


async def test_cancelling_a_connections_own_block_closes_it(uri: str) -> None:
    connection = await AnyIOConnection.connect(uri)
    async with anyio.create_task_group() as tg:

        async def work() -> None:
            async with connection:
                await connection.execute("SELECT pg_sleep(60)")

        tg.start_soon(work)
        await eventually(lambda: active(uri, connection))
        tg.cancel_scope.cancel()
    assert connection.closed


async def test_cancelling_in_a_pipeline(uri: str) -> None:
    async with connected(uri) as connection:
        pid = connection.info.backend_pid

        async def work() -> None:
            async with connection.pipeline():
                await value(connection, "SELECT 1 FROM pg_sleep(60)")

        async with timed() as took, anyio.create_task_group() as tg:
            tg.start_soon(work)
            await eventually(lambda: active(uri, connection))
            tg.cancel_scope.cancel()
        assert took.at_most < 10
        assert connection.closed
        await eventually(lambda: sql(uri, f"SELECT FROM pg_stat_activity WHERE pid = {pid}") == [])


@pytest.mark.parametrize("direction", ["FROM STDIN", "TO STDOUT"])
async def test_cancelling_a_copy(uri: str, direction: str) -> None:
    async with connected(uri) as connection:
        await connection.execute("CREATE TEMPORARY TABLE texts (t text)")
        await connection.execute(
            "INSERT INTO texts SELECT repeat('x', 1000) FROM generate_series(1, 20000)"
        )
        begun = anyio.Event()

        async def work() -> None:
            async with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY texts {direction}".encode()) as copy,
            ):
                while direction == "FROM STDIN":
                    await copy.write("y" * 1_000 + "\n")
                    begun.set()
                while await copy.read():
                    begun.set()
                    await anyio.lowlevel.checkpoint()

        async with timed() as took, anyio.create_task_group() as tg:
            tg.start_soon(work)
            await begun.wait()
            tg.cancel_scope.cancel()
        assert took.at_most < 10
        assert await value(connection, "SELECT count(*) FROM texts") == 20_000


QUERIES: dict[str, tuple[str, list[Any]]] = {
    "reading": ("SELECT 1", []),
    "sending": ("SELECT length(%b)", [b"x" * (16 * MEGABYTE)]),
}


@pytest.fixture(scope="module")
def freezable() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@asynccontextmanager
async def stuck(
    server: EmbeddedPostgres, doing: str
) -> AsyncIterator[tuple[AnyIOConnection, TaskGroup, list[BaseException]]]:
    """A connection whose query a frozen server does not take or does not answer."""
    failures: list[BaseException] = []
    async with connected(server.uri) as connection:
        connection.cancel_timeout = 0.3

        async def query() -> None:
            try:
                await connection.execute(*QUERIES[doing])
            except BaseException as exc:
                failures.append(exc)
                if not isinstance(exc, Exception):
                    raise

        with frozen(server):
            async with anyio.create_task_group() as tg:
                tg.start_soon(query)
                await anyio.wait_all_tasks_blocked()
                assert failures == []
                yield connection, tg, failures


@pytest.mark.parametrize("doing", QUERIES)
async def test_cancelling_with_a_frozen_server_closes_in_time(
    freezable: EmbeddedPostgres, doing: str
) -> None:
    async with timed() as took, stuck(freezable, doing) as (connection, tg, failures):
        tg.cancel_scope.cancel()
    assert took.at_most < 3
    assert connection.closed
    assert [type(exc) for exc in failures] == [anyio.get_cancelled_exc_class()]
    assert sockets_to(freezable.port) == 0


@pytest.mark.parametrize("doing", QUERIES)
async def test_closing_ends_the_wait_of_another_task(
    freezable: EmbeddedPostgres, doing: str
) -> None:
    async with timed() as took, stuck(freezable, doing) as (connection, _, failures):
        await connection.close()
        await eventually(lambda: failures)
    assert took.at_most < 3
    assert [type(exc) for exc in failures] == [psycopg.OperationalError]
    assert sockets_to(freezable.port) == 0


# The end of a session


async def test_closing_ends_the_wait_for_notifications(uri: str, prefix: str) -> None:
    async with connected(uri) as connection:
        await connection.execute(f"LISTEN {prefix}")
        async with anyio.create_task_group() as tg:

            async def listen() -> None:
                with pytest.raises(psycopg.OperationalError, match="closed"):
                    await anext(connection.notifies())

            tg.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            await connection.close()
            await connection.close()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await connection.execute("SELECT 1")


@pytest.mark.parametrize("doing", ["query", "notifies", "nothing"])
async def test_a_terminated_session_is_noticed(uri: str, prefix: str, doing: str) -> None:
    async with connected(uri) as connection:
        await connection.execute(f"LISTEN {prefix}")
        pid = connection.info.backend_pid

        async def use() -> None:
            if doing == "notifies":
                await anext(connection.notifies())
            else:
                await connection.execute("SELECT pg_sleep(60)")

        async def work() -> None:
            with pytest.raises(psycopg.OperationalError):
                await use()

        async with anyio.create_task_group() as tg:
            if doing != "nothing":
                tg.start_soon(work)
                await anyio.wait_all_tasks_blocked()
            if doing == "query":
                await eventually(lambda: active(uri, connection))
            sql(uri, f"SELECT pg_terminate_backend({pid}, 10000)")
            with anyio.fail_after(20):
                if doing == "nothing":
                    await work()
        assert connection.closed
        assert connection.broken


def _own_sessions(uri: str, prefix: str) -> list[Any]:
    return sql(uri, f"SELECT pid FROM pg_stat_activity WHERE application_name = '{prefix}'")


@pytest.mark.parametrize("doing", ["nothing", "transaction", "unread"])
async def test_close_session_returns_when_the_session_is_gone(
    uri: str, prefix: str, doing: str
) -> None:
    for _ in range(10):
        connection = await AnyIOConnection.connect(uri, autocommit=True, application_name=prefix)
        await connection.execute(f"LISTEN {prefix}")
        if doing == "transaction":
            await connection.set_autocommit(False)
            await connection.execute("SELECT 1")
        if doing == "unread":
            sql(uri, f"SELECT pg_notify('{prefix}', repeat('x', 7000) || n) FROM"
                " generate_series(1, 200) n")  # fmt: skip
        assert len(_own_sessions(uri, prefix)) == 1
        assert await close_session(connection, 10)
        assert _own_sessions(uri, prefix) == []
        assert connection.closed
        assert await close_session(connection, 10)


async def test_close_session_gives_up_on_a_frozen_server(freezable: EmbeddedPostgres) -> None:
    async with connected(freezable.uri) as connection:
        with frozen(freezable):
            async with timed() as took:
                assert not await close_session(connection, 0.2)
        assert took.seconds > 0.15
        assert took.at_most < 2
    assert sockets_to(freezable.port) == 0


async def test_no_resource_is_left(postgres: EmbeddedPostgres) -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with connected(postgres.uri) as connection:
            await connection.execute("SELECT 1")
            with anyio.move_on_after(0.05):
                await connection.execute("SELECT pg_sleep(60)")
        await close_session(await AnyIOConnection.connect(postgres.uri), 10)
        for conninfo in (
            f"host=127.0.0.1 port={free_port()}",
            "host=nope.invalid",
            f"{postgres.uri}nope",
            f"{postgres.uri}?target_session_attrs=standby",
        ):
            with pytest.raises(psycopg.OperationalError):
                await AnyIOConnection.connect(conninfo)
        del connection
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert sockets_to(postgres.port) == 0


# TLS


@pytest.fixture(scope="module")
def tls() -> Iterator[EmbeddedPostgres]:
    with tls_server() as server:
        yield server


def tls_uri(server: EmbeddedPostgres, mode: str) -> str:
    uri = f"postgresql://postgres@localhost:{server.port}/postgres?sslmode={mode}"
    return f"{uri}&sslrootcert={certificate_of(server)}" if mode == "verify-full" else uri


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
async def test_tls(tls: EmbeddedPostgres, mode: str) -> None:
    sent = b"x" * (8 * MEGABYTE)
    async with connected(tls_uri(tls, mode)) as connection:
        assert connection.pgconn.ssl_in_use
        assert await value(connection, "SELECT %b::bytea", sent) == sent
        with anyio.move_on_after(0.05):
            await connection.execute("SELECT pg_sleep(60)")
        assert await value(connection, "SELECT 1") == 1
        assert await close_session(connection, 10)
    assert sockets_to(tls.port) == 0


async def test_tls_refusals(tls: EmbeddedPostgres, uri: str) -> None:
    for conninfo, reason in (
        (tls_uri(tls, "disable"), "no encryption"),
        (tls_uri(tls, "verify-full").replace("@localhost", "@127.0.0.1"), "does not match host"),
        (tls_uri(tls, "verify-full").split("&")[0] + "&sslrootcert=system", "certificate verify"),
        (f"{uri}?sslmode=require", "does not support SSL"),
    ):
        with pytest.raises(psycopg.OperationalError, match=reason):
            await AnyIOConnection.connect(conninfo)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_nodes_over_tls(tls: EmbeddedPostgres, prefix: str, mode: str) -> None:
    async with two_nodes(tls_uri(tls, mode), prefix) as (a, b):
        here, there = await a.client(), await b.client()
        text = "ü" * 50_000
        await a.manager.emit("large", (text, b"\0" * 100_000))
        await there.expect(["large", text, b"\0" * 100_000])
        await b.manager.emit("back", text)
        await here.expect(["large", text, b"\0" * 100_000], ["back", text])
        assert await a.manager.clients() == {here.sid, there.sid}
    encrypted = sql(
        tls_uri(tls, mode),
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'anyio-sio-pg%'",
    )
    assert encrypted == [(0,)]


async def test_a_node_by_unix_socket(postgres: EmbeddedPostgres, prefix: str) -> None:
    uri = f"host={postgres.data.parent} port={postgres.port} user=postgres"
    async with node(uri, prefix) as a, node(postgres.uri, prefix) as b:
        there = await b.client()
        await a.manager.emit("event", "x" * 10_000)
        await there.expect(["event", "x" * 10_000])


# What psycopg ties to asyncio, and what AnyIOConnection replaces of it

TIED = {
    "__init__": "its lock is asyncio's",
    "connect": "waits and resolves host names through asyncio",
    "cancel_safe": "waits through asyncio",
    "wait": "waits through asyncio, and knows asyncio's cancellation only",
}
"""AsyncConnection's methods that need asyncio."""

ALSO_REPLACED = {
    "close": "wakes those who wait on the socket",
    "_try_cancel": "tidies up after a COPY or a stream, where AnyIO would cancel it again",
    "transaction": "rolls back, where AnyIO would cancel that too",
    "pipeline": "closes the connection, where AnyIO would cancel the sync at its end",
    "__aexit__": "closes the connection, where AnyIO would cancel the rollback before it",
}
"""Those that AnyIOConnection replaces for other reasons."""

NOT_REPLACED = {
    ("_copy_async", "AsyncQueuedLibpqWriter"): "used only by those who name it: copy(writer=...)",
}
"""What needs asyncio in the other modules, and may."""

SOURCES = (
    "connection_async",
    "cursor_async",
    "_pipeline_async",
    "transaction",
    "_server_cursor_async",
    "_copy_async",
)
LOOP_BOUND = {"asyncio", "waiting", "_acompat", "conninfo_attempts_async"}


def _tree(module: str) -> ast.Module:
    return ast.parse(Path(psycopg.__file__).with_name(f"{module}.py").read_text())


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for statement in tree.body:
        yield statement
        if isinstance(statement, ast.If):
            yield from (*statement.body, *statement.orelse)


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _loop_bound_names(tree: ast.Module) -> set[str]:
    """The names in a module that stand for something of asyncio's, by import or assignment."""
    bound: set[str] = set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            bound |= {
                alias.asname or alias.name.split(".")[0]
                for alias in statement.names
                if alias.name.split(".")[0] in LOOP_BOUND
            }
        elif isinstance(statement, ast.ImportFrom):
            source = (statement.module or "").split(".")
            bound |= {
                alias.asname or alias.name
                for alias in statement.names
                if LOOP_BOUND & {*source, alias.name}
            }
    before = -1
    while len(bound) > before:
        before = len(bound)
        for statement in _module_level(tree):
            if isinstance(statement, ast.Assign) and _names(statement.value) & bound:
                bound |= {t.id for t in statement.targets if isinstance(t, ast.Name)}
    return bound


def _tied(module: str) -> dict[str, set[str]]:
    """For each class (and "" for functions) of a module, what in it uses a loop-bound name."""
    tree = _tree(module)
    bound = _loop_bound_names(tree)
    found: dict[str, set[str]] = {}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside: set[int] = set()
    for outer in ast.walk(tree):
        if isinstance(outer, ast.ClassDef):
            for inner in ast.walk(outer):
                inside.add(id(inner))
                if isinstance(inner, functions) and _names(inner) & bound:
                    found.setdefault(outer.name, set()).add(inner.name)
    for outer in ast.walk(tree):
        if isinstance(outer, functions) and id(outer) not in inside and _names(outer) & bound:
            found.setdefault("", set()).add(outer.name)
    return found


def test_all_that_psycopg_ties_to_asyncio_is_replaced() -> None:
    assert _loop_bound_names(_tree("connection_async")) == {
        "ALock",
        "asyncio",
        "conninfo_attempts_async",
        "waiting",
        "_INTERRUPTED",
    }
    tied = {
        (module, name): methods for module in SOURCES for name, methods in _tied(module).items()
    }
    assert tied.pop(("connection_async", "AsyncConnection")) == set(TIED)
    assert set(tied) == set(NOT_REPLACED)
    replaced = {
        name
        for name, found in vars(AnyIOConnection).items()
        if isinstance(found, FunctionType | classmethod) and name in vars(AsyncConnection)
    }
    assert replaced == {*TIED, *ALSO_REPLACED}


def test_the_replaced_methods_take_what_psycopgs_take() -> None:
    for name in ("wait", "cancel_safe", *ALSO_REPLACED):
        own = inspect.signature(getattr(AnyIOConnection, name)).parameters
        theirs = inspect.signature(getattr(AsyncConnection, name)).parameters
        assert list(own) == list(theirs)
    named = set(inspect.signature(AsyncConnection.connect).parameters) - {"conninfo", "kwargs"}
    assert named == {
        "autocommit",
        "prepare_threshold",
        "context",
        "row_factory",
        "cursor_factory",
    }
