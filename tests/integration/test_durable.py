"""``durable=True``: nothing is lost while a node, or PostgreSQL, is away; nothing comes twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg.testing import EmbeddedPostgres
from harness import TestNode, acquainted, eventually, node
from load import (
    DURABLE,
    Counts,
    connected,
    crash,
    kill_again_and_again,
    tables,
    under_load,
)
from proxy import Proxy, proxy
from servers import frozen, sql

pytestmark = pytest.mark.anyio


def options_of(prefix: str, **options: Any) -> dict[str, Any]:
    return {**DURABLE, **tables(prefix), **options}


@asynccontextmanager
async def pair(
    uri: str,
    prefix: str,
    *,
    a_uri: str | None = None,
    listen_uri: str | None = None,
    **options: Any,
) -> AsyncIterator[list[TestNode]]:
    """A sender and a receiver; the sender's publisher, the receiver's listener led elsewhere."""
    options = options_of(prefix, **options)
    async with (
        node(a_uri or uri, prefix, **options, listen_uri=uri) as a,
        node(uri, prefix, **options, listen_uri=listen_uri or uri) as b,
    ):
        await acquainted(a, b)
        yield [a, b]


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
        record_property("counts", counts)
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
        record_property("counts", counts)
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
        record_property("counts", counts)
        assert whole(counts)
        assert a.manager.stats().reconnects
        assert b.manager.stats().reconnects


# Networks


async def stall(way: Proxy, victim: TestNode, direction: str) -> None:
    way.hold(direction)
    await reconnecting(victim)
    way.release()


async def drop(way: Proxy, victim: TestNode) -> None:
    """Lose what is under way, in both directions."""
    way.hold("questions")
    way.hold("answers")
    await anyio.sleep(0.1)
    await way.cut()
    await reconnecting(victim)
    way.release()


async def half_close(way: Proxy, victim: TestNode, direction: str) -> None:
    await way.half_close(direction)
    await reconnecting(victim)


async def cut_within(way: Proxy, victim: TestNode, direction: str) -> None:
    way.cut_within(direction, 60)
    await eventually(lambda: not way.cutting)
    await reconnecting(victim)


async def reconnecting(victim: TestNode) -> None:
    await eventually(lambda: victim.manager.status != "connected", 40)


FAULTS = {
    "drops": drop,
    "stalls questions": partial(stall, direction="questions"),
    "stalls answers": partial(stall, direction="answers"),
    "ends questions": partial(half_close, direction="questions"),
    "ends answers": partial(half_close, direction="answers"),
    "cuts questions": partial(cut_within, direction="questions"),
    "cuts answers": partial(cut_within, direction="answers"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", ["listener", "publisher"])
async def test_a_bad_network(
    postgres: EmbeddedPostgres, prefix: str, fault: str, side: str, record_property: Any
) -> None:
    async with proxy(postgres.port) as way:
        where = {"listen_uri" if side == "listener" else "a_uri": way.uri}
        beats = {"heartbeat_interval": 0.3, "heartbeat_timeout": 2}
        async with pair(postgres.uri, prefix, **where, **beats) as (a, b):
            victim = b if side == "listener" else a
            rounds = 1 if "stalls" in fault else 2

            async def trouble() -> None:
                for _ in range(rounds):
                    await FAULTS[fault](way, victim)
                    await connected(a, b)

            counts = await under_load(a, b, trouble)
            record_property("counts", counts)
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
        record_property("counts", counts)
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
        record_property("counts", counts)
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
        record_property("counts", counts)
        assert whole(counts)


async def test_a_disk_that_is_full_for_a_while(uri: str, prefix: str, record_property: Any) -> None:
    """Nothing is given up; who emits has to wait."""
    async with pair(uri, prefix, outbox_limit=200) as (a, b):
        full = (
            f"CREATE FUNCTION {prefix}_no_room() RETURNS trigger LANGUAGE plpgsql AS $$"
            + " BEGIN RAISE 'the disk is full' USING ERRCODE = '53100'; END $$",
            f"CREATE TRIGGER no_room BEFORE INSERT ON {prefix}_log EXECUTE FUNCTION {prefix}_no_room()",
        )
        free = f"DROP FUNCTION {prefix}_no_room() CASCADE"
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

        a.manager._node.publisher._patience = 0.5
        counts = await under_load(a, b, trouble)
        record_property("counts", counts)
        assert held_up
        assert whole(counts)
        assert a.manager.stats().dropped == 0
