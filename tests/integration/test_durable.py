"""``durable=True``: nothing is lost while a node, or PostgreSQL, is away; nothing comes twice."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import psycopg
import pytest

import load
from anyio_sio_pg import (
    AdapterError,
    AnyIOConnection,
    PostgresManager,
    create_table_statement,
    open_postgres_adapter,
    open_postgres_emitter,
)
from anyio_sio_pg.postgres.log import create_log_statement
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import TestNode, eventually, node, terminate
from load import (
    DURABLE,
    FAULTS,
    Counts,
    backend,
    backends,
    connected,
    crash,
    kill_again_and_again,
    numbers,
    process,
    reconnecting,
    send_to_a_blocked_receiver,
    send_to_a_frozen_receiver,
    tables,
    under_load,
)
from proxy import proxy
from servers import frozen, sql, standby_of, with_user

pytestmark = pytest.mark.anyio


def options_of(prefix: str, **options: Any) -> dict[str, Any]:
    return {**DURABLE, **tables(prefix), **options}


@asynccontextmanager
async def pair(uri: str, prefix: str, **options: Any) -> AsyncIterator[list[TestNode]]:
    """A sender and a receiver; see :func:`load.pair`."""
    async with load.pair(uri, prefix, **options_of(prefix, **options)) as nodes:
        yield nodes


def whole(counts: Counts) -> bool:
    return counts.delivered == counts.sent and counts.lost == counts.doubled == 0


# Sessions and servers


@pytest.mark.parametrize("victims", ["listener", "publisher", "both"])
@pytest.mark.parametrize("durable", [True, "unlogged"])
async def test_sessions_are_terminated_again_and_again(
    uri: str, prefix: str, victims: str, durable: Any, record_property: Any
) -> None:
    async with pair(uri, prefix, durable=durable) as (a, b):

        async def trouble() -> None:
            async with anyio.create_task_group() as tg:
                if victims != "publisher":
                    tg.start_soon(kill_again_and_again, uri, b.manager, "listener", 5)
                if victims != "listener":
                    tg.start_soon(kill_again_and_again, uri, a.manager, "publisher", 5)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert whole(counts)
        if victims != "publisher":
            assert b.manager.stats().reconnects >= 4
        if victims != "listener":
            assert a.manager.stats().reconnects >= 4


async def test_a_postmaster_killed_three_times(
    own_postgres: EmbeddedPostgres, prefix: str, record_property: Any
) -> None:
    async with pair(own_postgres.uri, prefix) as (a, b):

        async def trouble() -> None:
            for _ in range(3):
                await crash(own_postgres)
                await connected(a, b)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert whole(counts)


async def test_a_server_frozen_for_ten_seconds(
    own_postgres: EmbeddedPostgres, prefix: str, record_property: Any
) -> None:
    beats = {"heartbeat_interval": 0.5, "heartbeat_timeout": 3}
    async with pair(own_postgres.uri, prefix, **beats) as (a, b):

        async def trouble() -> None:
            with frozen(own_postgres):
                await anyio.sleep(10)
            await connected(a, b)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert whole(counts)
        assert a.manager.stats().reconnects
        assert b.manager.stats().reconnects


# Networks


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", ["listener", "publisher"])
async def test_a_bad_network(
    postgres: EmbeddedPostgres, prefix: str, fault: str, side: str, record_property: Any
) -> None:
    async with proxy(postgres.port) as way:
        where = {"listen_uri" if side == "listener" else "a_uri": way.uri}
        beats = {"heartbeat_interval": 0.3, "heartbeat_timeout": 3}
        async with pair(postgres.uri, prefix, **where, **beats) as (a, b):
            victim = b if side == "listener" else a
            rounds = 1 if "stalls" in fault else 2

            async def trouble() -> None:
                for _ in range(rounds):
                    await FAULTS[fault](way, victim)
                    await connected(a, b)

            counts = await under_load(a, b, trouble)
            record_property("counts", str(counts))
            assert whole(counts)
            assert victim.manager.stats().reconnects >= rounds


# Tables


async def test_the_attachments_are_deleted_and_dropped_under_way(
    uri: str, prefix: str, record_property: Any
) -> None:
    async with pair(uri, prefix) as (a, b):
        table = f"{prefix}_attachments"

        async def trouble() -> None:
            for number in range(20):
                await anyio.sleep(0.02)
                query = (
                    f"DROP TABLE IF EXISTS {table}" if number % 5 == 4 else f"DELETE FROM {table}"
                )
                try:
                    await anyio.to_thread.run_sync(sql, uri, query)
                except psycopg.Error:
                    # it is not there yet again
                    continue

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert whole(counts)


async def test_the_log_is_dropped_while_a_node_is_away(
    postgres: EmbeddedPostgres, prefix: str, record_property: Any
) -> None:
    """What cannot be replayed any more is counted, and nothing stops."""
    uri = postgres.uri
    async with (
        proxy(postgres.port) as way,
        pair(uri, prefix, listen_uri=way.uri) as (a, b),
    ):

        async def trouble() -> None:
            way.refusing = True
            await way.cut()
            await reconnecting(b)
            sent = a.manager.stats().sent
            await eventually(lambda: a.manager.stats().sent > sent + 100)
            await anyio.to_thread.run_sync(sql, uri, f"DROP TABLE {prefix}_log")
            sent = a.manager.stats().sent
            await eventually(lambda: a.manager.stats().sent > sent + 100)
            way.refusing = False
            await connected(b)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert counts.lost >= 100
        assert counts.doubled == 0
        assert a.manager.stats().dropped == 0


async def test_the_log_is_dropped_while_all_are_there(
    uri: str, prefix: str, record_property: Any
) -> None:
    async with pair(uri, prefix) as (a, b):

        async def trouble() -> None:
            for _ in range(3):
                sent = a.manager.stats().sent
                await anyio.to_thread.run_sync(sql, uri, f"DROP TABLE {prefix}_log")
                await eventually(lambda sent=sent: a.manager.stats().sent > sent + 100)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert whole(counts)


async def test_a_disk_that_is_full_for_a_while(uri: str, prefix: str, record_property: Any) -> None:
    """Nothing is given up; who emits has to wait."""
    async with pair(uri, prefix, outbox_limit=200) as (a, b):
        refuse = "BEGIN RAISE 'the disk is full' USING ERRCODE = '53100'; END"
        full = (
            f"CREATE FUNCTION {prefix}() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$",
            f"CREATE TRIGGER full_disk BEFORE INSERT ON {prefix}_log EXECUTE FUNCTION {prefix}()",
        )
        free = f"DROP FUNCTION {prefix}() CASCADE"
        held_up = 0

        async def trouble() -> None:
            nonlocal held_up
            await anyio.to_thread.run_sync(sql, uri, *full)
            await eventually(lambda: a.manager.stats().queue_depth >= 200)
            sent = a.manager.stats().sent
            # longer than a batch is tried in plain mode
            await anyio.sleep(2)
            held_up = a.manager.stats().sent == sent
            await anyio.to_thread.run_sync(sql, uri, free)

        a.manager._node.publisher._tries_for = 0.5
        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert held_up
        assert whole(counts)
        assert a.manager.stats().dropped == 0


async def test_old_rows_make_room_in_a_log_that_is_full(uri: str, prefix: str) -> None:
    """They are deleted between two attempts to send, by the node whose messages have no room."""
    log = f"{prefix}_log"
    refuse = (
        f"BEGIN IF EXISTS (SELECT FROM {log} WHERE sender = 'old') THEN"
        " RAISE 'the disk is full' USING ERRCODE = '53100'; END IF; RETURN NULL; END"
    )
    errors: list[Exception] = []
    options = options_of(prefix, retention=1, cleanup_interval=1, on_error=errors.append)
    async with node(uri, prefix, **options) as a:
        sql(
            uri,
            f"INSERT INTO {log} (channel, sender, seq, created_at, payload)"
            f" VALUES ('{prefix}#/', 'old', 1, now() + interval '1 hour', '')",
            f"CREATE FUNCTION {prefix}() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$",
            f"CREATE TRIGGER full_disk BEFORE INSERT ON {log} EXECUTE FUNCTION {prefix}()",
        )
        await a.manager.emit("n", 1)
        await eventually(lambda: errors)
        assert "the disk is full" in str(errors[0])
        assert a.manager.stats().queue_depth
        sql(uri, f"UPDATE {log} SET created_at = now() - interval '1 hour'")
        with anyio.fail_after(20):
            await a.manager.flush()
        assert sql(uri, f"SELECT FROM {log} WHERE sender = 'old'") == []
        assert a.manager.stats().dropped == 0
    assert len(errors) == 1


# Processes


async def test_a_sender_killed_in_the_middle_of_a_batch(
    uri: str, prefix: str, anyio_backend: str, record_property: Any
) -> None:
    """What it has committed comes once, and nothing of it is missing."""
    options = options_of(prefix)
    async with node(uri, prefix, **options) as b:
        there = await b.client()
        async with process("send", anyio_backend, uri, prefix, **options) as sender:
            _, uid = await sender.says()
            for reached in (1_000, 2_000):
                await eventually(lambda n=reached: there.read() or len(there.log) > n)
                terminate(uri, backend(b.manager, "listener"))
            sender.signal(signal.SIGKILL)
        committed = f"SELECT max(seq) FROM {prefix}_log WHERE sender = '{uid}'"
        busy = (
            f"SELECT FROM pg_stat_activity WHERE query LIKE '%{prefix}_log%' AND state = 'active'"
        )
        await eventually(lambda: sql(uri, f"SELECT count(*) FROM ({busy}) AS x") == [(1,)])
        await connected(b)
        last = sql(uri, committed)[0][0]
        await eventually(lambda: there.read() or len(there.log) >= last)
        got = numbers(there)
        record_property("counts", str(Counts(last, len(set(got)), last - len(set(got)), 0)))
        assert got == list(range(last))
        assert b.manager.stats().lost == 0


@pytest.mark.parametrize("terminated", [True, False])
async def test_a_receivers_process_is_frozen(
    uri: str, prefix: str, anyio_backend: str, terminated: bool, record_property: Any
) -> None:
    options = {**options_of(prefix), "heartbeat_interval": 0.3, "heartbeat_timeout": 1.5}
    sent, got, lost, _ = await send_to_a_frozen_receiver(
        uri, prefix, anyio_backend, options, terminated=terminated
    )
    record_property("counts", str(Counts(sent, len(set(got)), lost, len(got) - len(set(got)))))
    assert got == list(range(sent))
    assert lost == 0


async def test_a_receiver_whose_event_loop_is_blocked(
    uri: str, prefix: str, anyio_backend: str, record_property: Any
) -> None:
    options = {**options_of(prefix), "heartbeat_interval": 0.3, "heartbeat_timeout": 1.5}
    total, got, lost = await send_to_a_blocked_receiver(uri, prefix, anyio_backend, options)
    record_property("counts", str(Counts(total, len(set(got)), lost, len(got) - len(set(got)))))
    assert got == list(range(total))
    assert lost == 0


# A batch of which nobody knows whether it was committed


def known_to_be_sent(sender: TestNode) -> int:
    """The last number that a node knows to be committed."""
    known: Any = sender.manager._node
    return int(known._numbers.get("/", 0) - known.publisher.undelivered)


@pytest.mark.parametrize("small", [True, False])
async def test_a_listener_that_knows_nothing_of_numbers_gets_everything_once(
    postgres: EmbeddedPostgres,
    prefix: str,
    small: bool,
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a Node server."""
    if small:
        # a statement without bodies
        monkeypatch.setattr("load.payload", lambda number: number)
    async with (
        proxy(postgres.port) as way,
        pair(postgres.uri, prefix, a_uri=way.uri) as (a, b),
        await AnyIOConnection.connect(postgres.uri, autocommit=True) as plain,
    ):
        await plain.execute(f'LISTEN "{prefix}#/"'.encode())
        found: list[int] = []

        async def listen() -> None:
            async for notification in plain.notifies():
                message = json.loads(notification.payload)
                if message["uid"] == a.manager.uid and message["type"] == 3:
                    found.append(message["seq"])

        async def trouble() -> None:
            for _ in range(5):
                way.hold("answers")
                # committed, and not known to be: the answer is held
                await eventually(lambda: a.manager.stats().queue_depth > 50)
                await eventually(lambda: found and found[-1] > known_to_be_sent(a))
                before = backends(a)
                await way.cut()
                way.release()
                await eventually(lambda before=before: backends(a) != before)
                await connected(a)

        async with anyio.create_task_group() as tg:
            tg.start_soon(listen)
            counts = await under_load(a, b, trouble)
            await eventually(lambda: len(found) >= counts.sent)
            tg.cancel_scope.cancel()
        record_property("counts", str(counts))
        assert whole(counts)
        assert found == list(range(1, counts.sent + 1))
        assert b.manager.stats().repeated == 0


# Failover


async def test_a_failover(prefix: str, record_property: Any) -> None:
    with EmbeddedPostgres() as primary, standby_of(primary) as standby:
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        sql(
            primary.uri,
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        )
        await eventually(lambda: sql(primary.uri, synchronous) == [(1,)])
        uri = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres"
            " dbname=postgres target_session_attrs=read-write"
        )
        async with pair(uri, prefix) as (a, b):

            async def trouble() -> None:
                await eventually(lambda: a.manager.stats().sent > 200)
                primary.kill()
                await reconnecting(a)
                await reconnecting(b)
                await anyio.to_thread.run_sync(sql, standby.uri, "SELECT pg_promote()")
                await connected(a, b)

            counts = await under_load(a, b, trouble)
            record_property("counts", str(counts))
            assert whole(counts)
            assert a.manager.publisher.info.port == b.manager.listener.info.port == standby.port
        # its postmaster is no more to be stopped
        (primary.data / "postmaster.pid").unlink(missing_ok=True)


# Options and rights


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"durable": "x"}, "durable must be False, True or 'unlogged', not 'x'"),
        ({"retention": 0}, "retention must be 1 to 86400 seconds, not 0"),
        ({"retention": float("nan")}, "retention must be"),
        ({"log_table": ""}, "log_table must not be empty"),
        ({"log_table": "a.b.c"}, "log_table must be NAME or SCHEMA.NAME"),
        ({"table": "t", "log_table": "t"}, "log_table must not be the attachments table, 't'"),
        ({"durable": True, "wire": "legacy"}, "durable needs wire='cluster'"),
        ({"durable": "unlogged", "wire": "legacy"}, "durable needs wire='cluster'"),
    ],
)
def test_options(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        PostgresManager(**options)


def test_options_of_a_wrong_type() -> None:
    for options in (
        {"durable": 1},
        {"durable": None},
        {"retention": "60"},
        {"retention": True},
        {"log_table": 1},
    ):
        with pytest.raises(TypeError, match=next(iter(options))):
            PostgresManager(**options)  # type: ignore[arg-type]


async def starts(uri: str, prefix: str, **options: Any) -> None:
    """Start a node and an emitter, and let an event through."""
    async with (
        node(uri, prefix, **options) as a,
        open_postgres_emitter(uri, prefix=prefix, **options) as emitter,
    ):
        there = await a.client()
        await emitter.emit("n", "x" * 9_000)
        await there.expect(["n", "x" * 9_000])


async def refused(uri: str, prefix: str, **options: Any) -> str:
    """The text with which neither a node nor an emitter starts."""
    texts: set[str] = set()
    for open_it in (open_postgres_adapter, open_postgres_emitter):
        with pytest.raises(AdapterError) as caught:
            async with open_it(uri, prefix=prefix, **options):
                pass
        texts.add(str(caught.value))
    assert len(texts) == 1
    return texts.pop()


@pytest.fixture
def role(uri: str, prefix: str) -> Iterator[str]:
    """The uri of a role that may only use the attachments."""
    name = f"plain {prefix}"
    table = f"{prefix}_attachments"
    sql(
        uri,
        f'CREATE ROLE "{name}" LOGIN',
        create_table_statement(table),
        f'GRANT ALL ON {table}, {table}_id_seq TO "{name}"',
    )
    yield with_user(uri, quote(name))
    sql(uri, f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"')


@pytest.mark.parametrize("unlogged", [True, False])
async def test_a_log_made_by_hand(uri: str, role: str, prefix: str, unlogged: bool) -> None:
    options = options_of(prefix, durable="unlogged" if unlogged else True)
    sql(
        uri,
        create_log_statement(f"{prefix}_log", unlogged=unlogged),
        f'GRANT SELECT, INSERT, DELETE ON {prefix}_log TO "plain {prefix}"',
    )
    await starts(role, prefix, **options)
    kind = f"SELECT relpersistence::text FROM pg_class WHERE relname = '{prefix}_log'"
    assert sql(uri, kind) == [("u" if unlogged else "p",)]


@pytest.mark.parametrize("name", ["{}_log", "{}_new.log", "{} ö%s \"'\\"])
async def test_a_role_that_may_not_create_the_log(
    uri: str, role: str, prefix: str, name: str
) -> None:
    options = options_of(prefix, log_table=name.format(prefix))
    text = await refused(role, prefix, **options)
    assert "could not be created" in text
    _, _, statements = text.partition("\n\n")
    sql(uri, statements)
    await starts(role, prefix, **options)


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "DELETE"])
async def test_a_role_that_lacks_a_right(uri: str, role: str, prefix: str, right: str) -> None:
    options = options_of(prefix)
    user = f'"plain {prefix}"'
    sql(
        uri,
        create_log_statement(f"{prefix}_log"),
        f"GRANT ALL ON {prefix}_log TO {user}",
        f"REVOKE {right} ON {prefix}_log FROM {user}",
    )
    text = await refused(role, prefix, **options)
    assert "may not use the log" in text
    sql(uri, text.partition("\n\n")[2])
    await starts(role, prefix, **options)


async def test_a_table_that_is_not_a_log(uri: str, prefix: str) -> None:
    sql(uri, f"CREATE TABLE {prefix}_log (channel text, sender text, seq int4)")
    text = await refused(uri, prefix, **options_of(prefix))
    assert "is not a log: it has no column seq int8, created_at timestamptz" in text


async def test_a_log_that_cannot_be_made_again(uri: str, role: str, prefix: str) -> None:
    """Events are heard all the same, by those who are there."""
    create = (
        create_log_statement(f"{prefix}_log"),
        f'GRANT ALL ON {prefix}_log TO "plain {prefix}"',
    )
    sql(uri, *create)
    errors: list[Exception] = []
    async with pair(role, prefix, on_error=errors.append) as (a, b):
        there = await b.client()
        await a.manager.emit("n", 1)
        sql(uri, f"DROP TABLE {prefix}_log")
        for number in (2, "x" * 9_000, b"\0"):
            await a.manager.emit("n", number)
        await a.manager.flush()
        sql(uri, *create)
        await a.manager.emit("n", 3)
        await there.expect(["n", 1], ["n", 2], ["n", "x" * 9_000], ["n", b"\0"], ["n", 3])
        assert sql(uri, f"SELECT count(*) FROM {prefix}_log") == [(1,)]
        assert [type(error) for error in errors] == [AdapterError]
        assert "could not be created" in str(errors[0])
        assert b.manager.stats().lost == a.manager.stats().dropped == 0
