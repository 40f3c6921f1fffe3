"""A network that has gone silent: keepalives on both sides, and the node's own time-outs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import AnyIOConnection, ConnectionLostError, RequestTimeoutError
from anyio_sio_pg.options import Options
from anyio_sio_pg.postgres.connection import open_session
from anyio_sio_pg.postgres.presence import hold
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, TestNode, acquainted, eventually, node, stopwatch
from proxy import proxy
from servers import PgBouncer, sql

pytestmark = pytest.mark.anyio

IN_SERVER = (
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
)
OURS = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
OURS_IN_SERVER = dict(zip(IN_SERVER, ("2", "1", "3", "60000"), strict=True))
"""For a listener, which may stand still for a while."""
PUBLISHERS_IN_SERVER = {**OURS_IN_SERVER, "tcp_user_timeout": "5000"}


def of_client(connection: Any) -> dict[str, int]:
    """The settings of the client's end."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as end:
        found = {"SO_KEEPALIVE": end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            found[name] = end.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
    return found


async def of_server(connection: Any) -> dict[str, str]:
    """The settings of the server's end."""
    cursor = await connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(IN_SERVER)]
    )
    return dict(await cursor.fetchall())


async def both_ends(
    options: Options, *, listening: bool = True
) -> tuple[dict[str, int], dict[str, str]]:
    """The settings of a session that is made with these options."""
    connection = await open_session(options, listening=listening)
    try:
        return of_client(connection), await of_server(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        sql(server.uri, "CREATE ROLE plain LOGIN", "CREATE DATABASE other")
        yield server


# What is in force


async def test_both_sessions_of_a_node_have_keepalives_on_both_sides(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, str]] = []

    async def look(connection: Any, cluster: str, uid: str) -> None:
        # the one moment at which the listening session can be asked
        await hold(connection, cluster, uid)
        ends.append(await of_server(connection))

    monkeypatch.setattr("anyio_sio_pg.node.hold", look)
    async with node(uri, prefix) as a:
        for number in range(2):
            publisher, listener = a.manager.publisher, a.manager.listener
            assert publisher is not None
            assert listener is not None
            for connection in (publisher, listener):
                assert of_client(connection) == {**OURS, "TCP_USER_TIMEOUT": 5_000}
            ends.append(await a.manager._node.publisher.execute(of_server))
            assert ends == [OURS_IN_SERVER, PUBLISHERS_IN_SERVER]
            ends.clear()
            if number == 0:
                # those that take their place have them too
                pids = [c.info.backend_pid for c in (publisher, listener)]
                sql(uri, *(f"SELECT pg_terminate_backend({pid})" for pid in pids))
                await eventually(lambda: a.manager.stats().reconnects == 2)


@pytest.mark.parametrize("listening", [False, True])
async def test_the_uri_wins(server: EmbeddedPostgres, listening: bool) -> None:
    given = "keepalives_idle=7&keepalives_interval=8&keepalives_count=9&tcp_user_timeout=12345"
    ends = await both_ends(Options(uri=f"{server.uri}?{given}"), listening=listening)
    assert ends == (
        {
            "SO_KEEPALIVE": 1,
            "TCP_KEEPIDLE": 7,
            "TCP_KEEPINTVL": 8,
            "TCP_KEEPCNT": 9,
            "TCP_USER_TIMEOUT": 12_345,
        },
        OURS_IN_SERVER if listening else PUBLISHERS_IN_SERVER,
    )
    # each by itself
    client, _ = await both_ends(Options(uri=f"{server.uri}?tcp_user_timeout=0"))
    assert client == {**OURS, "TCP_USER_TIMEOUT": 0}
    client, _ = await both_ends(Options(uri=f"{server.uri}?keepalives=0"))
    assert client["SO_KEEPALIVE"] == 0


async def test_a_listen_uri_has_settings_of_its_own(server: EmbeddedPostgres) -> None:
    options = Options(
        uri=f"{server.uri}?keepalives_idle=7", listen_uri=f"{server.uri}?keepalives_idle=8"
    )
    for listening, idle in ((False, 7), (True, 8)):
        client, _ = await both_ends(options, listening=listening)
        assert client["TCP_KEEPIDLE"] == idle


@pytest.mark.parametrize("value", ["33", "0"], ids=["other", "the-same-as-postgresqls-default"])
@pytest.mark.parametrize("where", ["role", "database", "role-in-database", "all-roles", "options"])
async def test_what_the_server_is_told_wins(
    server: EmbeddedPostgres, where: str, value: str
) -> None:
    uri = server.uri.replace("postgres@", "plain@").replace("/postgres", "/other")
    who = {
        "role": "ROLE plain",
        "database": "DATABASE other",
        "role-in-database": "ROLE plain IN DATABASE other",
        "all-roles": "ROLE ALL",
    }.get(where)
    if who is None:
        uri += f"?options=-c%20tcp_keepalives_idle%3D{value}"
    else:
        sql(server.uri, f"ALTER {who} SET tcp_keepalives_idle = {value}")
    try:
        _, found = await both_ends(Options(uri=uri))
    finally:
        if who is not None:
            sql(server.uri, f"ALTER {who} RESET tcp_keepalives_idle")
    # 0 stands for what the operating system has
    idle = found.pop("tcp_keepalives_idle")
    assert (int(idle) > 60) if value == "0" else (idle == value)
    assert found == {k: v for k, v in OURS_IN_SERVER.items() if k != "tcp_keepalives_idle"}
    _, found = await both_ends(Options(uri=uri.partition("?")[0]))
    assert found == OURS_IN_SERVER


@pytest.mark.parametrize("options", ["", "?options=-c%20idle_session_timeout%3D60000"])
async def test_sessions_are_not_ended_for_being_idle(
    server: EmbeddedPostgres, prefix: str, options: str
) -> None:
    sql(
        server.uri,
        "GRANT CREATE ON SCHEMA public TO plain",
        "ALTER ROLE plain SET idle_session_timeout = 150",
    )
    try:
        uri = server.uri.replace("postgres@", "plain@") + options
        async with node(uri, prefix, heartbeat_interval=20, heartbeat_timeout=30) as a:
            shown = await a.manager._node.publisher.execute(
                lambda connection: connection.execute("SHOW idle_session_timeout")
            )
            assert await shown.fetchone() == ("1min" if options else "0",)
            # another role's session, idle for as long, is
            async with await AnyIOConnection.connect(uri.partition("?")[0]) as other:
                await eventually(lambda: _ended(other))
            assert a.manager.stats().reconnects == 0
    finally:
        sql(server.uri, "ALTER ROLE plain RESET idle_session_timeout")


def _ended(connection: AnyIOConnection) -> bool:
    try:
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.pgconn.status != psycopg.pq.ConnStatus.OK


async def test_the_environment_wins(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c tcp_user_timeout=4321")
    _, found = await both_ends(Options(uri=server.uri))
    assert found == {**OURS_IN_SERVER, "tcp_user_timeout": "4321"}


@pytest.mark.parametrize("how", ["postgresql.conf", "ALTER SYSTEM"])
async def test_the_servers_configuration_wins(server: EmbeddedPostgres, how: str) -> None:
    conf = server.data / "postgresql.conf"
    text = conf.read_text()
    if how == "ALTER SYSTEM":
        sql(server.uri, "ALTER SYSTEM SET tcp_keepalives_count = 44")
    else:
        conf.write_text(f"{text}\ntcp_keepalives_count = 44\n")
    try:
        await _reloaded(server, "44")
        _, found = await both_ends(Options(uri=server.uri))
        assert found == {**OURS_IN_SERVER, "tcp_keepalives_count": "44"}
    finally:
        conf.write_text(text)
        sql(server.uri, "ALTER SYSTEM RESET ALL")
        await _reloaded(server)


async def _reloaded(server: EmbeddedPostgres, count: str | None = None) -> None:
    sql(server.uri, "SELECT pg_reload_conf()")
    show = "SELECT setting FROM pg_settings WHERE name = 'tcp_keepalives_count'"

    def changed() -> bool:
        [(now,)] = sql(server.uri, show)
        return bool(now == count if count else now != "44")

    await eventually(changed)


async def test_a_connect_of_ones_own_wins(server: EmbeddedPostgres, anyio_backend: str) -> None:
    made = AnyIOConnection if anyio_backend == "trio" else psycopg.AsyncConnection

    async def connect() -> Any:
        connection = await made.connect(f"{server.uri}?keepalives_idle=7")
        await connection.set_autocommit(True)
        await connection.execute("SET tcp_keepalives_idle TO 77")
        return connection

    client, found = await both_ends(Options(connect=connect))
    assert client["TCP_KEEPIDLE"] == 7
    assert client["TCP_USER_TIMEOUT"] == 0
    assert found == {**OURS_IN_SERVER, "tcp_keepalives_idle": "77"}


@pytest.mark.parametrize("listening", [False, True])
async def test_a_unix_socket_needs_none(server: EmbeddedPostgres, listening: bool) -> None:
    options = Options(uri=f"host={server.data.parent} port={server.port} user=postgres")
    connection = await open_session(options, listening=listening)
    try:
        assert await of_server(connection) == dict.fromkeys(IN_SERVER, "0")
        cursor = await connection.execute(
            "SELECT DISTINCT source FROM pg_settings WHERE name = ANY(%s)", [list(IN_SERVER)]
        )
        assert await cursor.fetchall() == [("default",)]
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_poolers_sessions_are_left_as_they_are(
    server: EmbeddedPostgres, prefix: str, mode: str
) -> None:
    source = "SELECT DISTINCT source FROM pg_settings WHERE name = ANY(%s)"
    settings = [f"pool_mode = {mode}", "default_pool_size = 1", "server_reset_query ="]
    with PgBouncer(server, settings) as pooler:
        async with node(pooler.uri, prefix, listen_uri=server.uri) as a:
            await a.manager.emit("event")
            await a.manager.flush()
            publisher = a.manager.publisher
            assert publisher is not None
            # its own way, to the pooler
            assert of_client(publisher) == {**OURS, "TCP_USER_TIMEOUT": 5_000}
            [(pooled,)] = sql(
                server.uri,
                "SELECT pid FROM pg_stat_activity WHERE datname = 'postgres'"
                " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                " AND application_name <> 'anyio-sio-pg listener'",
            )
        # the pool has one session only: the next in turn gets the same
        async with await AnyIOConnection.connect(pooler.uri, prepare_threshold=None) as next_one:
            cursor = await next_one.execute("SELECT pg_backend_pid()")
            assert await cursor.fetchall() == [(pooled,)]
            cursor = await next_one.execute(source, [list(IN_SERVER)])
            assert await cursor.fetchall() == [("default",)]


# What a node says of it


async def comes_back(node: TestNode) -> None:
    """Wait until a notification of the node's own comes back, however late the first ones are."""
    with anyio.fail_after(20):
        while True:
            with suppress(RequestTimeoutError):
                assert await node.manager.ping() > 0
                return


async def test_a_stalled_network_is_noticed_by_the_heartbeats(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    errors: list[Exception] = []
    options = {**FAST, "requests_timeout": 1.0}
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, on_error=errors.append, **options) as a,
        node(postgres.uri, prefix, **options) as b,
    ):
        await acquainted(a, b)

        def noticed(status: str) -> bool:
            return bool(a.manager.status == status)

        assert noticed("connected")
        async with stopwatch() as took:
            # the kernels at both ends of the connections go on answering: keepalives see nothing
            gate.hold("questions")
            gate.hold("answers")
            with pytest.raises(RequestTimeoutError):
                await a.manager.ping()
            # a heartbeat's turn, and its time-out
            await eventually(partial(noticed, "isolated"))
        assert took.seconds < 6

        def reported() -> bool:
            return any(
                isinstance(error, ConnectionLostError) and "no answer within 3 s" in str(error)
                for error in errors
            )

        await eventually(reported)
        with pytest.raises(RequestTimeoutError, match="no notification came back"):
            await a.manager.ping()
        await eventually(lambda: b.manager.stats().nodes == 0)
        await gate.cut()
        gate.release()
        await eventually(lambda: a.manager.status == "connected")
        await comes_back(a)
        await acquainted(a, b)


# A full notification queue


@pytest.fixture
def tiny_queue() -> Iterator[EmbeddedPostgres]:
    """A server whose notification queue is full after half a megabyte.

    Each test has its own: a server says no more than once in 5 s who holds the queue.
    """
    with EmbeddedPostgres(settings=["max_notify_queue_pages = 64"]) as server:
        sql(server.uri, "CREATE ROLE plain LOGIN")
        yield server


@pytest.mark.parametrize("role", ["postgres", "plain"])
@pytest.mark.parametrize("how", ["in-a-transaction", "does-not-read"])
async def test_a_full_queue_is_reported_with_its_holder_and_heals(
    tiny_queue: EmbeddedPostgres, prefix: str, role: str, how: str
) -> None:
    uri = tiny_queue.uri.replace("postgres@", f"{role}@")
    errors: list[Exception] = []
    table = f"{prefix}_queue"
    create = f'CREATE TABLE "{table}" (id bigserial UNIQUE, created_at timestamptz, payload bytea)'
    sql(tiny_queue.uri, create, f'GRANT ALL ON "{table}", "{table}_id_seq" TO plain')
    async with (
        node(uri, prefix, on_error=errors.append, requests_timeout=0.3, table=table) as a,
        node(uri, prefix, table=table) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        expected: list[list[Any]] = []

        async def fill() -> None:
            while not errors:
                number = len(expected)
                expected.append(["n", number, "x" * 7_000])
                await a.manager.emit("n", tuple(expected[-1][1:]))
                with anyio.move_on_after(0.1):
                    # one by one: what has no room at all once would stay in the queue
                    await a.manager.flush()

        with _holder(tiny_queue.uri, f"{prefix}#/", how) as pid, anyio.fail_after(20):
            await fill()
            [error] = errors
            assert isinstance(error, ConnectionLostError)
            assert "notification queue is full" in str(error)
            assert f"session {pid} (application_name 'culprit', user 'postgres'" in str(error)
            # of other roles' sessions an ordinary role does not see more
            assert ("127.0.0.1" in str(error)) == (role == "postgres")
            with pytest.raises(RequestTimeoutError):
                await a.manager.ping()
        await there.expect(*expected)
        await a.manager.flush()
        assert a.manager.stats().dropped == b.manager.stats().lost == 0
        await comes_back(a)
        assert len(errors) == 1


@contextmanager
def _holder(uri: str, channel: str, how: str) -> Iterator[int]:
    with closing(psycopg.connect(f"{uri}?application_name=culprit", autocommit=True)) as culprit:
        culprit.execute(f'LISTEN "{channel}"')
        if how == "in-a-transaction":
            culprit.execute("BEGIN")
        pid = culprit.info.backend_pid
        if how == "does-not-read":
            # its server process waits for it to take this, and reads no notification meanwhile
            culprit.pgconn.send_query(b"SELECT pg_catalog.repeat('x', 100000000)")
            culprit.pgconn.flush()
            stuck = (
                f"SELECT pid FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'ClientWrite'"
            )
            deadline = time.monotonic() + 20
            while not sql(uri, stuck):
                assert time.monotonic() < deadline
        yield pid
