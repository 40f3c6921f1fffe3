"""Without ``durable``: what is lost is known to the receiver, and nothing comes twice."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

import load
from anyio_sio_pg import MessagesLostError, open_postgres_emitter
from anyio_sio_pg.node import SETTLE
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import TestNode, acquainted, eventually, node
from load import (
    FAULTS,
    PLAIN,
    Counts,
    Losses,
    connected,
    counted,
    crash,
    numbers,
    payload,
    process,
    reconnecting,
    send_to_a_blocked_receiver,
    send_to_a_frozen_receiver,
    tables,
    under_load,
)
from proxy import proxy
from servers import frozen, sql, standby_of

pytestmark = pytest.mark.anyio


def options_of(prefix: str, **options: Any) -> dict[str, Any]:
    return {**PLAIN, "table": tables(prefix)["table"], **options}


@asynccontextmanager
async def pair(uri: str, prefix: str, **options: Any) -> AsyncIterator[list[TestNode]]:
    """A sender and a receiver; see :func:`load.pair`."""
    async with load.pair(uri, prefix, **options_of(prefix, **options)) as nodes:
        yield nodes


# Servers


async def test_a_postmaster_killed_three_times(
    own_postgres: EmbeddedPostgres, prefix: str, record_property: Any
) -> None:
    losses = Losses()
    async with pair(own_postgres.uri, prefix, on_error=losses) as (a, b):

        async def trouble() -> None:
            for _ in range(3):
                await crash(own_postgres)
                await connected(a, b)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert counts.doubled == 0
        assert counts.lost == losses.total


async def test_a_frozen_server(
    own_postgres: EmbeddedPostgres, prefix: str, record_property: Any
) -> None:
    async with pair(own_postgres.uri, prefix, heartbeat_timeout=3) as (a, b):

        async def trouble() -> None:
            with frozen(own_postgres):
                await reconnecting(a)
                await reconnecting(b)
            await connected(a, b)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert counts.doubled == 0
        assert b.manager.stats().reconnects >= 1


async def test_a_failover(prefix: str, record_property: Any) -> None:
    with EmbeddedPostgres() as primary, standby_of(primary) as standby:
        uri = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres"
            " dbname=postgres target_session_attrs=read-write"
        )
        async with pair(uri, prefix) as (a, b):
            replicated = (
                "SELECT count(*) FROM pg_stat_replication"
                " WHERE replay_lsn >= pg_current_wal_insert_lsn()"
            )
            await eventually(lambda: sql(primary.uri, replicated) == [(1,)])

            async def trouble() -> None:
                await eventually(lambda: a.manager.stats().sent > 200)
                primary.kill()
                await reconnecting(a)
                await reconnecting(b)
                await anyio.to_thread.run_sync(sql, standby.uri, "SELECT pg_promote()")
                await connected(a, b)

            counts = await under_load(a, b, trouble)
            record_property("counts", str(counts))
            assert counts.doubled == 0
        # its postmaster is no more to be stopped
        (primary.data / "postmaster.pid").unlink(missing_ok=True)


# Networks


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", ["listener", "publisher"])
async def test_a_bad_network(
    postgres: EmbeddedPostgres, prefix: str, fault: str, side: str, record_property: Any
) -> None:
    async with proxy(postgres.port) as way:
        where = {"listen_uri" if side == "listener" else "a_uri": way.uri}
        async with pair(postgres.uri, prefix, **where, heartbeat_timeout=3) as (a, b):
            victim = b if side == "listener" else a
            rounds = 1 if "stalls" in fault else 2

            async def trouble() -> None:
                for _ in range(rounds):
                    await FAULTS[fault](way, victim)
                    await connected(a, b)

            counts = await under_load(a, b, trouble)
            record_property("counts", str(counts))
            assert counts.doubled == 0
            assert victim.manager.stats().reconnects >= rounds
            if side == "publisher":
                assert counts.lost == 0


# Attachments


async def test_the_attachments_are_deleted_and_dropped_under_way(
    uri: str, prefix: str, record_property: Any
) -> None:
    losses = Losses()
    async with pair(uri, prefix, on_error=losses) as (a, b):
        table = f"{prefix}_attachments"

        async def trouble() -> None:
            for number in range(20):
                await anyio.sleep(0.02)
                query = f"DROP TABLE {table}" if number % 5 == 4 else f"DELETE FROM {table}"
                try:
                    await anyio.to_thread.run_sync(sql, uri, query)
                except psycopg.errors.UndefinedTable:
                    # nobody needed it since
                    continue

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert counts.doubled == 0
        assert counts.lost == losses.total
        assert a.manager.stats().dropped == 0


async def test_a_disk_that_is_full_for_too_long(
    uri: str, prefix: str, record_property: Any
) -> None:
    """What the sender gives up is counted by both."""
    async with pair(uri, prefix, publish_timeout=0.5, outbox_limit=100_000) as (a, b):
        refuse = "BEGIN RAISE 'the disk is full' USING ERRCODE = '53100'; END"
        table = f"{prefix}_attachments"
        full = (
            f"CREATE FUNCTION {prefix}() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$",
            f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION {prefix}()",
        )
        free = f"DROP FUNCTION {prefix}() CASCADE"

        async def trouble() -> None:
            await anyio.to_thread.run_sync(sql, uri, *full)
            await eventually(lambda: a.manager.stats().dropped > 0)
            await anyio.to_thread.run_sync(sql, uri, free)

        counts = await under_load(a, b, trouble)
        record_property("counts", str(counts))
        assert counts.doubled == 0
        assert counts.lost == a.manager.stats().dropped > 0


# Processes


async def test_a_sender_killed_in_the_middle_of_a_batch(
    uri: str, prefix: str, anyio_backend: str, record_property: Any
) -> None:
    options = options_of(prefix, heartbeat_timeout=3)
    async with node(uri, prefix, **options) as b:
        there = await b.client()
        async with process("send", anyio_backend, uri, prefix, **options) as sender:
            await sender.says()
            await eventually(lambda: there.read() or len(there.log) > 1_000)
            sender.signal(signal.SIGKILL)
            await eventually(lambda: b.manager.stats().nodes == 0)
        got = numbers(there)
        record_property("counts", str(Counts(len(got), len(set(got)), 0, len(got) - len(set(got)))))
        assert got == list(range(len(got)))
        assert b.manager.stats().lost == 0


@pytest.mark.parametrize("terminated", [True, False])
async def test_a_receivers_process_is_frozen(
    uri: str, prefix: str, anyio_backend: str, terminated: bool, record_property: Any
) -> None:
    options = options_of(prefix, heartbeat_interval=0.3, heartbeat_timeout=3)
    sent, got, lost, reconnects = await send_to_a_frozen_receiver(
        uri, prefix, anyio_backend, options, terminated=terminated
    )
    record_property("counts", str(Counts(sent, len(set(got)), lost, len(got) - len(set(got)))))
    assert got == sorted(set(got))
    assert len(got) + lost == sent
    if terminated:
        assert lost > 0
        assert reconnects >= 1


async def test_a_receiver_whose_event_loop_is_blocked(
    uri: str, prefix: str, anyio_backend: str, record_property: Any
) -> None:
    options = options_of(prefix, heartbeat_interval=0.3, heartbeat_timeout=1.5)
    total, got, lost = await send_to_a_blocked_receiver(uri, prefix, anyio_backend, options)
    record_property("counts", str(Counts(total, len(set(got)), lost, len(got) - len(set(got)))))
    # nobody thought that it was deaf
    assert got == list(range(total))
    assert lost == 0


# Whom a node knows nothing of


async def test_a_node_that_starts_during_the_outage_of_another(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    options = options_of(prefix)
    losses = Losses()
    async with (
        proxy(postgres.port) as way,
        node(postgres.uri, prefix, **options) as a,
        node(postgres.uri, prefix, **options, listen_uri=way.uri, on_error=losses) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        # by then all that were there before have answered
        known = b.manager._node
        settled = known._namespaces["/"].joined_at + SETTLE
        await eventually(lambda: known.listener.heard > settled)
        way.refusing = True
        await way.cut()
        await reconnecting(b)
        async with node(postgres.uri, prefix, **options) as new:
            for number in range(5):
                await new.manager.emit("n", payload(number))
            await new.manager.flush()
            way.refusing = False
            await connected(b)
            await new.manager.emit("n", payload(5))
            counts = await counted(new, b, there, 6)
        assert counts == Counts(6, 1, 5, 0)
        assert losses.total == 5


async def test_an_emitter(postgres: EmbeddedPostgres, prefix: str) -> None:
    """It has no heartbeats: its next event tells what was lost."""
    options = options_of(prefix)
    async with (
        proxy(postgres.port) as way,
        node(postgres.uri, prefix, **options, listen_uri=way.uri) as b,
        open_postgres_emitter(postgres.uri, prefix=prefix, **options) as emitter,
    ):
        there = await b.client()
        await emitter.emit("n", payload(0))
        await eventually(lambda: numbers(there) == [0])
        way.refusing = True
        await way.cut()
        await reconnecting(b)
        for number in range(1, 6):
            await emitter.emit("n", payload(number))
        await emitter.flush()
        way.refusing = False
        await connected(b)
        await emitter.emit("n", payload(6))
        await eventually(lambda: numbers(there) == [0, 6])
        assert b.manager.stats().lost == 5


async def test_several_namespaces(postgres: EmbeddedPostgres, prefix: str) -> None:
    names = ["/", "/x", "/y"]
    async with (
        proxy(postgres.port) as way,
        pair(postgres.uri, prefix, listen_uri=way.uri) as (a, b),
    ):
        there = {name: await b.client(name) for name in names}
        for name in names:
            await a.manager.emit("n", payload(0), namespace=name)
            await eventually(lambda name=name: numbers(there[name], name) == [0])
        way.refusing = True
        await way.cut()
        await reconnecting(b)
        for count, name in enumerate(names, 1):
            for number in range(1, count + 1):
                await a.manager.emit("n", payload(number), namespace=name)
        await a.manager.flush()
        way.refusing = False
        await connected(b)
        # heartbeats tell
        await eventually(lambda: b.manager.stats().lost == 6)
        for count, name in enumerate(names, 1):
            await a.manager.emit("n", payload(count + 1), namespace=name)
            await eventually(lambda name=name, n=count + 1: numbers(there[name], name) == [0, n])
        assert b.manager.stats().lost == 6


async def test_a_row_in_another_nodes_table_is_reported_with_its_likely_reason(
    uri: str, prefix: str
) -> None:
    losses: list[Exception] = []
    one, two = f"{prefix}_one", f"{prefix}_two"
    async with (
        node(uri, prefix, table=one) as a,
        node(uri, prefix, table=two, on_error=losses.append) as b,
    ):
        await acquainted(a, b)
        client = await b.client()
        await a.manager.emit("large", "x" * 9_000)
        await eventually(lambda: losses)
        assert isinstance(losses[0], MessagesLostError)
        assert "its row is gone from the table (or the sender's `table` is another" in str(
            losses[0]
        )
        assert client.events() == []
