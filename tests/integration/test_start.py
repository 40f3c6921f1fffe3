"""What goes wrong when an adapter starts: a clear error, in time, without any password in it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import anyio
import psycopg
import pytest
import socketio

from anyio_sio_pg import (
    AdapterError,
    AnyIOConnection,
    AnyIOManager,
    AnyIOServer,
    ConnectionLostError,
    MessagesLostError,
    PostgresManager,
    open_postgres_adapter,
    open_postgres_emitter,
)
from anyio_sio_pg.node import Node
from anyio_sio_pg.postgres import connection as connection_module
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, TestNode, acquainted, eventually, node, sessions, stopwatch, terminate
from servers import (
    PgBouncer,
    free_port,
    password_server,
    silent_port,
    sockets_to,
    sql,
    standby_of,
    with_user,
)

pytestmark = pytest.mark.anyio

PASSWORD = "s3cr&t P@ss/w%rd"


async def refused(uri: str | None = None, *, within: float = 5, **options: Any) -> str:
    """The text of the AdapterError with which an adapter does not start."""
    async with stopwatch() as took:
        with pytest.raises(AdapterError) as caught:
            async with open_postgres_adapter(uri, **options):
                raise AssertionError("it started")
    assert took.seconds < within
    assert_secret(caught.value)
    return str(caught.value)


def assert_secret(error: BaseException) -> None:
    text = "".join([str(error), repr(error), *traceback.format_exception(error)])
    for secret in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), "s3cr"):
        assert secret not in text


async def exchange(a: TestNode, b: TestNode) -> None:
    """Send something small and something large there and back."""
    here, there = await a.client(), await b.client()
    large = ["large", "x" * 20_000]
    await a.manager.emit(*large)
    await there.expect(large)
    await b.manager.emit("small")
    await here.expect(large, ["small"])


async def works(uri: str, prefix: str, **options: Any) -> None:
    async with node(uri, prefix, **options) as a, node(uri, prefix, **options) as b:
        await acquainted(a, b)
        await exchange(a, b)


# The Socket.IO server


@pytest.mark.parametrize("kind", [PostgresManager, AnyIOManager])
def test_a_server_that_does_not_await_its_manager(kind: type[AnyIOManager]) -> None:
    manager = kind()
    with pytest.raises(TypeError) as caught:
        socketio.Server(client_manager=manager)
    assert str(caught.value) == (
        f"{kind.__name__} cannot serve a socketio.Server, which does not await it:"
        " use socketio.AsyncServer or anyio_sio_pg.AnyIOServer"
    )
    assert manager.server is None
    for make in (partial(socketio.AsyncServer, async_mode="asgi"), AnyIOServer):
        server = make(client_manager=manager)
        assert manager.server is server


# The server cannot be reached, or refuses


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedPostgres]:
    with password_server() as server:
        sql(server.uri, f"CREATE ROLE alice LOGIN PASSWORD '{PASSWORD}'")
        sql(server.uri, "GRANT CREATE ON SCHEMA public TO alice")
        yield server


@pytest.fixture(params=["url", "query", "key-value", "environment"])
def spell(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Where a connection string says its password."""

    def as_options(port: int, password: str = PASSWORD, **others: str) -> dict[str, Any]:
        rest = {"dbname": "postgres", **others}
        query = "&".join(f"{key}={quote(text, safe='')}" for key, text in rest.items())
        match request.param:
            case "url":
                login = f"alice:{quote(password, safe='')}"
                return {"uri": f"postgresql://{login}@127.0.0.1:{port}?{query}"}
            case "query":
                query += f"&password={quote(password, safe='')}"
                return {"uri": f"postgresql://alice@127.0.0.1:{port}?{query}"}
            case "key-value":
                conninfo = psycopg.conninfo.make_conninfo(
                    host="127.0.0.1", port=port, user="alice", password=password, **rest
                )
                return {"uri": conninfo}
        monkeypatch.setenv("PGPASSWORD", password)
        return {"uri": f"postgresql://alice@127.0.0.1:{port}?{query}"}

    return as_options


@pytest.mark.parametrize("opened", [open_postgres_adapter, open_postgres_emitter])
async def test_an_unreachable_server(
    spell: Callable[..., dict[str, Any]], opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    async with stopwatch() as took:
        with pytest.raises(AdapterError, match="cannot connect") as caught:
            async with opened(**spell(port)):
                raise AssertionError("it started")
    assert took.seconds < 5
    assert "Connection refused" in str(caught.value)
    assert str(port) in str(caught.value)
    assert caught.value.__cause__ is None
    assert_secret(caught.value)
    assert "s3cr" not in caplog.text


async def test_a_password_that_is_right_and_one_that_is_wrong(
    guarded: EmbeddedPostgres,
    spell: Callable[..., dict[str, Any]],
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_postgres_adapter(**spell(guarded.port), prefix=prefix) as manager:
        assert await manager.ping() > 0
    text = await refused(**spell(guarded.port, password=f"{PASSWORD}2"))
    assert 'password authentication failed for user "alice"' in text
    text = await refused(**spell(guarded.port, dbname="nope"))
    assert 'database "nope" does not exist' in text
    assert "s3cr" not in caplog.text
    assert sockets_to(guarded.port) == 0


async def test_a_missing_password(guarded: EmbeddedPostgres) -> None:
    assert "no password supplied" in await refused(with_user(guarded.uri, "alice"))


async def test_a_password_is_not_repeated_even_where_the_server_says_it(
    guarded: EmbeddedPostgres,
) -> None:
    encoded = quote(PASSWORD, safe="")
    uri = f"postgresql://alice:{encoded}@127.0.0.1:{guarded.port}/{encoded}"
    assert 'database "***" does not exist' in await refused(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://alice:s3cr@t@localhost/db",
        "postgresql://alice:s3cr/t@localhost/db",
        "postgresql://alice:12/s3cr@localhost/db",
        "postgresql://alice:s3cr%t@localhost/db",
        "host=localhost password=a s3cr",
    ],
)
async def test_a_badly_written_password_is_not_taken_for_something_else(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^uri ") as caught:
        PostgresManager(uri)
    assert_secret(caught.value)
    with pytest.raises(ValueError, match=r"^listen_uri ") as caught:
        PostgresManager("postgresql://localhost/db", listen_uri=uri)
    assert_secret(caught.value)


async def test_a_reconnection_that_fails_says_no_password(
    guarded: EmbeddedPostgres, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[Exception] = []
    uri = with_user(guarded.uri, "alice", quote(PASSWORD, safe=""))
    async with (
        node(uri, prefix, on_error=errors.append, **FAST) as a,
        node(uri, prefix, **FAST) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        sql(guarded.uri, "ALTER ROLE alice NOLOGIN")
        terminate(guarded.uri, *(pid for pid, _ in sessions(guarded.uri)))
        await eventually(lambda: sum("not permitted to log in" in str(e) for e in errors) >= 2)
        sql(guarded.uri, "ALTER ROLE alice LOGIN")
        await eventually(lambda: {a.manager.status, b.manager.status} == {"connected"})
        await a.manager.emit("again")
        await there.expect(["again"])
    assert {type(error) for error in errors} <= {ConnectionLostError, MessagesLostError}
    for error in errors:
        assert_secret(error)
    assert "s3cr" not in caplog.text


async def test_an_unknown_host_and_an_unknown_database(uri: str) -> None:
    text = await refused("postgresql://nope.invalid/db", within=30)
    assert "failed to resolve host 'nope.invalid'" in text
    assert 'database "nope" does not exist' in await refused(f"{uri}?dbname=nope")
    assert 'role "nobody" does not exist' in await refused(with_user(uri, "nobody"))


@pytest.mark.parametrize("from_uri", [True, False])
async def test_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, from_uri: bool
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 20 if from_uri else 2)
    with silent_port() as port:
        uri = f"postgresql://127.0.0.1:{port}/db"
        started = anyio.current_time()
        async with stopwatch() as took:
            text = await refused(f"{uri}?connect_timeout=2" if from_uri else uri)
        assert anyio.current_time() - started > 1.9
        assert took.seconds < 4
        assert "connection timeout expired" in text
        assert sockets_to(port) == 0


async def test_the_listeners_own_address(postgres: EmbeddedPostgres, prefix: str) -> None:
    dead = free_port()
    text = await refused(postgres.uri, listen_uri=f"postgresql://127.0.0.1:{dead}/x", prefix=prefix)
    assert text.startswith("the listener cannot connect to PostgreSQL")
    assert sockets_to(postgres.port) == 0


async def test_two_databases_are_not_one_cluster(postgres: EmbeddedPostgres, prefix: str) -> None:
    elsewhere = f"{postgres.uri}?dbname=template1"
    text = await refused(postgres.uri, listen_uri=elsewhere, prefix=prefix, **FAST)
    assert "the same database" in text
    assert sockets_to(postgres.port) == 0


async def test_a_process_that_stands_still_while_it_starts(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ping = Node.ping

    async def stand_still() -> None:
        time.sleep(3.5)  # noqa: ASYNC251

    async def ping_meanwhile(self: Node, *args: Any, **options: Any) -> float:
        # its turn is when this waits
        self.start_soon(stand_still)
        return await ping(self, *args, **options)

    monkeypatch.setattr(Node, "ping", ping_meanwhile)
    async with node(uri, prefix, heartbeat_timeout=3, heartbeat_interval=1) as a:
        assert a.manager.status == "connected"


# The table


@pytest.fixture
def table(prefix: str) -> str:
    return f"attachments_{prefix}"


@pytest.fixture
def role(uri: str, prefix: str) -> Iterator[str]:
    """The uri of a role that may do nothing in particular."""
    name = f"plain {prefix}"
    sql(uri, f'CREATE ROLE "{name}" LOGIN')
    yield with_user(uri, quote(name))
    sql(uri, f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


def statements_in(text: str) -> str:
    """The SQL that an error's text asks somebody to run."""
    _, _, statements = text.partition("\n\n")
    assert statements
    return statements


@pytest.mark.parametrize("name", ["{}", "{}.t", "{} ö%s \"'\\", "{:ä<34}", "{:x<63}.{:y<63}"])
async def test_a_role_that_may_not_create_the_table(
    uri: str, role: str, prefix: str, name: str
) -> None:
    table = name.format(prefix, prefix)
    text = await refused(role, prefix=prefix, table=table)
    assert "could not be created" in text
    assert "permission denied" in text or "does not exist" in text
    sql(uri, statements_in(text))
    await works(role, prefix, table=table)


async def test_a_role_that_may_create_the_table(
    uri: str, role: str, prefix: str, table: str
) -> None:
    sql(uri, f"CREATE SCHEMA {prefix}", f'GRANT ALL ON SCHEMA {prefix} TO "plain {prefix}"')
    await works(role, prefix, table=f"{prefix}.{table}")
    assert sql(uri, f"SELECT to_regclass('{prefix}.{table}') IS NOT NULL") == [(True,)]


@pytest.mark.parametrize("kind", ["schema", "table", "insert", "delete", "sequence"])
async def test_a_role_that_lacks_a_privilege(uri: str, role: str, prefix: str, kind: str) -> None:
    table = f"{prefix}.attachments"
    name = f'"plain {prefix}"'
    sql(uri, f"CREATE SCHEMA {prefix}", f"GRANT USAGE ON SCHEMA {prefix} TO {name}")
    async with open_postgres_adapter(uri, table=table, prefix=prefix):
        pass
    sql(uri, f"GRANT ALL ON {table}, {prefix}.attachments_id_seq TO {name}")
    match kind:
        case "schema":
            sql(uri, f"REVOKE USAGE ON SCHEMA {prefix} FROM {name}")
        case "table":
            sql(uri, f"REVOKE ALL ON {table} FROM {name}")
        case "sequence":
            sql(uri, f"REVOKE ALL ON SEQUENCE {prefix}.attachments_id_seq FROM {name}")
        case _:
            sql(uri, f"REVOKE {kind} ON {table} FROM {name}")
    text = await refused(role, table=table, prefix=prefix)
    assert "GRANT" in text
    sql(uri, statements_in(text))
    await works(role, prefix, table=table)


@pytest.mark.parametrize(
    ("columns", "lacks"),
    [
        ("id bigserial, payload text, created_at timestamptz", "payload bytea"),
        ("id uuid, payload bytea, created_at timestamptz", "id int8"),
        ("id bigserial, payload bytea", "created_at timestamptz"),
        ("", "id int8, payload bytea, created_at timestamptz"),
    ],
)
async def test_a_table_of_another_shape(
    uri: str, prefix: str, table: str, columns: str, lacks: str
) -> None:
    sql(uri, f"CREATE TABLE {table} ({columns})")
    text = await refused(uri, table=table, prefix=prefix)
    assert f"{table!r} is not an attachments table: it has no column {lacks}." in text
    sql(uri, f"DROP TABLE {table}", statements_in(text))
    await works(uri, prefix, table=table)


@pytest.mark.parametrize(
    "name", ['we"ird %s', "%b {}", "o'clock \\ ;--", "Großes Ä", "select", "{prefix}.we\"ird %s"]
)  # fmt: skip
async def test_odd_names_of_tables(uri: str, prefix: str, name: str) -> None:
    table = name.replace("{prefix}", prefix)
    if "." in table:
        sql(uri, f"CREATE SCHEMA {prefix}")
    await works(uri, prefix, table=table)
    async with open_postgres_emitter(uri, prefix=prefix, table=table) as emitter:
        await emitter.emit("large", "x" * 20_000)


async def test_many_nodes_create_the_table_at_once(uri: str, prefix: str, table: str) -> None:
    managers = [PostgresManager(uri, prefix=prefix, table=table) for _ in range(8)]

    async def run(manager: PostgresManager) -> None:
        async with manager:
            await manager.emit("x", "y" * 10_000)

    for _ in range(3):
        sql(uri, f"DROP TABLE IF EXISTS {table}")
        async with anyio.create_task_group() as tg:
            for manager in managers:
                tg.start_soon(run, manager)


# Servers that cannot be used


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    with EmbeddedPostgres() as primary, standby_of(primary) as standby:
        yield primary, standby


@pytest.mark.parametrize("exists", [True, False])
async def test_a_role_that_may_only_read(
    uri: str, role: str, prefix: str, table: str, exists: bool
) -> None:
    name = f'"plain {prefix}"'
    sql(uri, f"ALTER ROLE {name} SET default_transaction_read_only = on")
    if exists:
        sql(uri, f"CREATE TABLE {table} (id bigserial, created_at timestamptz, payload bytea)")
        sql(uri, f"GRANT ALL ON {table}, {table}_id_seq TO {name}")
    text = await refused(role, prefix=prefix, table=table)
    assert "takes no writes" in text
    assert "default_transaction_read_only" in text


async def test_a_standby(pair: tuple[EmbeddedPostgres, EmbeddedPostgres], prefix: str) -> None:
    primary, standby = pair
    assert "takes no writes" in await refused(standby.uri, prefix=prefix)
    text = await refused(primary.uri, listen_uri=standby.uri, prefix=prefix)
    assert text.startswith("the listener cannot LISTEN")
    assert "recovery" in text
    both = f"host=127.0.0.1,127.0.0.1 port={standby.port},{primary.port} user=postgres"
    assert "takes no writes" in await refused(both, prefix=prefix)
    await works(f"{both} target_session_attrs=read-write", prefix)
    assert sockets_to(primary.port) == sockets_to(standby.port) == 0


async def test_a_pooler_without_a_direct_connection(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    with PgBouncer(postgres) as pooler:
        text = await refused(pooler.uri, prefix=prefix, **FAST)
        assert "PgBouncer" in text
        assert "listen_uri" in text
        async with open_postgres_emitter(pooler.uri, prefix=prefix) as emitter:
            await emitter.emit("no node", "x" * 10_000)
        assert sockets_to(pooler.port) == 0


# connect=


@pytest.mark.usefixtures("patient_end")
async def test_connect_returns_an_anyio_connection(uri: str, prefix: str) -> None:
    made: list[AnyIOConnection] = []

    async def connect() -> AnyIOConnection:
        made.append(await AnyIOConnection.connect(uri, application_name=f"custom {prefix}"))
        return made[-1]

    manager = PostgresManager(connect=connect, prefix=prefix, **FAST)
    async with manager, node(uri, prefix, **FAST) as b:
        a = TestNode(manager)
        await acquainted(a, b)
        await exchange(a, b)
        own = sessions(uri, f"custom {prefix}")
        assert len(own) == len(made) == 2
        terminate(uri, *(pid for pid, _ in own))
        await eventually(lambda: len(made) == 4 and manager.status == "connected")
        await exchange(a, b)
    assert all(connection.closed for connection in made)
    assert sessions(uri, f"custom {prefix}") == []


@pytest.mark.usefixtures("patient_end")
async def test_connect_returns_a_plain_connection(
    uri: str, prefix: str, anyio_backend: str
) -> None:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(uri, application_name=f"custom {prefix}")

    if anyio_backend == "trio":
        text = await refused(None, connect=connect, prefix=prefix)
        assert text.startswith("connect failed: RuntimeError: no running event loop")
        return
    manager = PostgresManager(connect=connect, prefix=prefix, **FAST)
    async with manager, node(uri, prefix, **FAST) as b:
        a = TestNode(manager)
        await acquainted(a, b)
        await exchange(a, b)
        terminate(uri, *(pid for pid, _ in sessions(uri, f"custom {prefix}")))
        await eventually(lambda: manager.stats().reconnects == 2)
        await exchange(a, b)
    assert sessions(uri, f"custom {prefix}") == []


async def test_connect_may_choose_settings_that_do_not_matter(uri: str, prefix: str) -> None:
    async def connect() -> AnyIOConnection:
        return await AnyIOConnection.connect(
            uri,
            autocommit=True,
            client_encoding="LATIN1",
            row_factory=psycopg.rows.dict_row,
            cursor_factory=psycopg.AsyncRawCursor,
            prepare_threshold=0,
        )

    async with PostgresManager(connect=connect, prefix=prefix) as manager, node(uri, prefix) as b:
        a = TestNode(manager)
        await acquainted(a, b)
        await exchange(a, b)
        there = await b.client()
        await manager.emit("€", "\U0001f600" * 10_000)
        await there.expect(["€", "\U0001f600" * 10_000])


def _fails(error: BaseException) -> Callable[[], Awaitable[Any]]:
    async def connect() -> Any:
        raise error

    return connect


def _returns(value: object) -> Callable[[], Awaitable[Any]]:
    async def connect() -> Any:
        return value

    return connect


@pytest.mark.parametrize(
    ("connect", "expected"),
    [
        (_returns(None), "connect must return a psycopg.AsyncConnection .* not NoneType"),
        (_returns("postgresql://"), "connect must return a psycopg.AsyncConnection .* not str"),
        (lambda: "postgresql://", "connect failed: TypeError: .*await"),
        (_fails(ZeroDivisionError("on purpose")), "connect failed: ZeroDivisionError: on purpose"),
        (_fails(TimeoutError()), "cannot connect to PostgreSQL: TimeoutError"),
        (_fails(ConnectionRefusedError("no")), "cannot connect to PostgreSQL: no"),
        (_fails(psycopg.OperationalError("no")), "cannot connect to PostgreSQL: no"),
    ],
)
async def test_connect_fails(connect: Any, expected: str) -> None:
    with pytest.raises(AdapterError, match=expected):
        async with open_postgres_adapter(connect=connect):
            raise AssertionError("it started")


async def test_connect_returns_a_connection_of_no_use(postgres: EmbeddedPostgres) -> None:
    async def closed() -> AnyIOConnection:
        connection = await AnyIOConnection.connect(postgres.uri)
        await connection.close()
        return connection

    async def busy() -> AnyIOConnection:
        connection = await AnyIOConnection.connect(postgres.uri)
        await connection.execute("SELECT 1")
        return connection

    before = sockets_to(postgres.port)
    shared = await AnyIOConnection.connect(postgres.uri)
    assert "closed" in await refused(None, connect=closed)
    assert "INTRANS" in await refused(None, connect=busy)
    assert "a new connection each time" in await refused(None, connect=_returns(shared))
    assert shared.closed
    await eventually(lambda: sockets_to(postgres.port) <= before)


async def test_connect_that_fails_later_is_tried_again(uri: str, prefix: str) -> None:
    failures = 0
    errors: list[Exception] = []
    broken = False

    async def connect() -> AnyIOConnection:
        nonlocal failures
        if broken:
            failures += 1
            raise LookupError("no token")
        return await AnyIOConnection.connect(uri, application_name=f"custom {prefix}")

    manager = PostgresManager(connect=connect, prefix=prefix, on_error=errors.append, **FAST)
    async with manager, node(uri, prefix, **FAST) as b:
        a = TestNode(manager)
        await acquainted(a, b)
        broken = True
        terminate(uri, *(pid for pid, _ in sessions(uri, f"custom {prefix}")))
        await eventually(lambda: failures >= 4)
        there = await b.client()
        await manager.emit("kept")
        broken = False
        await there.expect(["kept"])
        await eventually(lambda: manager.status == "connected")
        await acquainted(a, b)
        await exchange(a, b)
    assert any("no token" in str(error) for error in errors)


async def test_a_start_that_failed_can_be_repeated(uri: str, prefix: str) -> None:
    answers: list[Any] = [OSError("not yet"), None, OSError("not yet")]

    async def connect() -> AnyIOConnection:
        if answers and (answer := answers.pop(0)):
            raise answer
        return await AnyIOConnection.connect(uri, application_name=f"custom {prefix}")

    manager = PostgresManager(connect=connect, prefix=prefix)
    for role in ("publisher", "listener"):
        with pytest.raises(AdapterError, match=f"the {role} cannot connect to PostgreSQL: not yet"):
            async with manager:
                raise AssertionError("it started")
        await eventually(lambda: sessions(uri, f"custom {prefix}") == [])
    async with manager:
        assert await manager.ping() > 0
