"""What a node of ``durable=True`` reads after an outage: all of it, once, in order, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import open_postgres_emitter
from anyio_sio_pg.postgres.log import MessageLog
from anyio_sio_pg.protocol.sequence import MAX_SENDERS
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import Client, TestNode, acquainted, eventually, node, terminate
from load import DURABLE, Losses, backend, connected, crash, tables
from proxy import Proxy, proxy
from servers import sql

pytestmark = pytest.mark.anyio


def options_of(prefix: str, **options: Any) -> dict[str, Any]:
    return {**DURABLE, **tables(prefix), **options}


class Cluster:
    """Two nodes; the listener of the second, ``b``, can be sent away."""

    def __init__(self, a: TestNode, b: TestNode, way: Proxy, losses: Losses):
        self.a = a
        self.b = b
        self.way = way
        self.losses = losses

    async def send(self, *values: Any, namespace: str = "/") -> None:
        for value in values:
            await self.a.manager.emit("n", value, namespace=namespace)
        await self.a.manager.flush()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """During the block the second node hears nothing; after it, it has caught up."""
        self.way.refusing = True
        await self.way.cut()
        await eventually(lambda: self.b.manager.status != "connected")
        yield
        self.way.refusing = False
        await connected(self.b)


@asynccontextmanager
async def cluster(
    server: EmbeddedPostgres, prefix: str, b_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Cluster]:
    options = options_of(prefix, **options)
    losses = Losses()
    async with (
        proxy(server.port) as way,
        node(server.uri, prefix, **options) as a,
        node(
            server.uri,
            prefix,
            **{"listen_uri": way.uri, "on_error": losses, **options, **(b_options or {})},
        ) as b,
    ):
        await acquainted(a, b)
        yield Cluster(a, b, way, losses)


def came(client: Client, namespace: str = "/") -> list[Any]:
    return [data[1] for data in client.events(namespace)]


async def all_came(client: Client, *values: Any, namespace: str = "/") -> None:
    await client.expect(*(["n", value] for value in values), namespace=namespace)


# Interrupted


async def test_a_catch_up_that_breaks_off_while_new_events_come(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        await c.send(*range(10))
        read = MessageLog.rows
        broken = 0

        async def rows(self: MessageLog, connection: Any, *args: Any) -> Any:
            nonlocal broken
            if broken < 2:
                broken += 1
                await c.send(20 + broken)
                # brings the notification
                await connection.execute("SELECT 1")
                raise psycopg.OperationalError("the connection is lost")
            return await read(self, connection, *args)

        async with c.away():
            await c.send(*range(10, 21))
            monkeypatch.setattr(MessageLog, "rows", rows)
        assert broken == 2
        await c.send(23)
        await all_came(there, *range(24))
        assert c.b.manager.stats().lost == 0


async def test_a_log_that_is_locked_for_a_moment(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    """Reading it is refused for want of a lock, and tried again."""
    uri = own_postgres.uri
    errors: list[Exception] = []
    async with cluster(own_postgres, prefix, {"on_error": errors.append}) as c:
        there = await c.b.client()
        async with c.away():
            await c.send(1, 2, 3)
            sql(uri, "ALTER ROLE postgres SET lock_timeout = 50")
            with psycopg.connect(uri) as connection:
                connection.execute(f"LOCK TABLE {prefix}_log IN ACCESS EXCLUSIVE MODE")
                c.way.refusing = False
                await eventually(lambda: any("lock timeout" in str(error) for error in errors))
            sql(uri, "ALTER ROLE postgres RESET lock_timeout")
        await c.send(4)
        await all_came(there, 1, 2, 3, 4)
        assert c.b.manager.stats().lost == 0


async def test_a_connection_that_breaks_while_the_log_is_made_again(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        publisher = c.a.manager._node.publisher
        prepare = publisher._prepare
        broken = 0

        async def break_first(connection: Any) -> None:
            nonlocal broken
            broken += 1
            if broken == 1:
                terminate(postgres.uri, backend(c.a.manager, "publisher"))
            await prepare(connection)

        publisher._prepare = break_first
        sql(postgres.uri, f"DROP TABLE {prefix}_log")
        await c.send(1)
        await all_came(there, 1)
        assert broken >= 2
        assert c.a.manager.stats().dropped == 0


# Who comes and goes


async def test_a_namespace_joined_during_the_outage(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        await c.send(1, namespace="/new")
        async with c.away():
            await c.send(2, namespace="/new")
            there = await c.b.client("/new")
            await c.send(3, 4, namespace="/new")
        await c.send(5, namespace="/new")
        await all_came(there, 3, 4, 5, namespace="/new")
        assert c.b.manager.stats().lost == 0


async def test_a_namespace_left_during_the_outage_and_joined_again(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        before = await c.b.client("/left")
        await c.send(1, 2, namespace="/left")
        await all_came(before, 1, 2, namespace="/left")
        async with c.away():
            await before.leave("/left")
            known = c.b.manager._node
            await known._leave(known._namespaces["/left"])
            await c.send(3, namespace="/left")
            after = await c.b.client("/left")
            await c.send(4, namespace="/left")
        await c.send(5, namespace="/left")
        await all_came(after, 4, 5, namespace="/left")
        assert c.b.manager.stats().lost == 0


async def test_many_senders_within_the_retention(postgres: EmbeddedPostgres, prefix: str) -> None:
    """A sender that is forgotten would be taken for a new one, and its events come twice."""
    many = 3 * MAX_SENDERS
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        async with open_postgres_emitter(postgres.uri, prefix=prefix, **options_of(prefix)) as e:
            await e.emit("n", 0)
        await all_came(there, 0)
        send = (
            f"WITH one AS (SELECT * FROM {prefix}_log), sent AS (INSERT INTO {prefix}_log"
            " (channel, sender, seq, payload) SELECT channel, k::text, 1,"
            f" replace(payload, sender, k::text) FROM one, generate_series(1, {many}) AS k"
            " RETURNING channel, payload) SELECT count(pg_notify(channel, payload)) FROM sent"
        )
        sql(postgres.uri, send)
        await eventually(lambda: len(came(there)) >= many + 1)
        async with c.away():
            await c.send(1)
        await eventually(lambda: came(there)[-1] == 1)
        assert len(came(there)) == many + 2
        assert c.b.manager.stats().lost == 0


async def test_an_emitter_that_was_quiet_for_longer_than_the_retention(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    options = options_of(prefix)
    async with open_postgres_emitter(postgres.uri, prefix=prefix, **options) as emitter:
        for _ in range(5):
            await emitter.emit("n", "old")
        await emitter.flush()
        sql(postgres.uri, f"DELETE FROM {prefix}_log")
        async with cluster(postgres, prefix) as c:
            there = await c.b.client()
            async with c.away():
                await emitter.emit("n", 1)
                await emitter.flush()
            await emitter.emit("n", 2)
            await all_came(there, 1, 2)
            # those before were not for this node
            assert c.b.manager.stats().lost == 0


async def test_an_emitter_whose_rows_are_all_gone(postgres: EmbeddedPostgres, prefix: str) -> None:
    options = options_of(prefix)
    async with open_postgres_emitter(postgres.uri, prefix=prefix, **options) as emitter:
        await emitter.emit("n", "old")
        await emitter.flush()
        async with cluster(postgres, prefix) as c:
            there = await c.b.client()
            async with c.away():
                for _ in range(5):
                    await emitter.emit("n", "missed")
                await emitter.flush()
                sql(postgres.uri, f"DELETE FROM {prefix}_log")
            await emitter.emit("n", 1)
            await all_came(there, 1)
            assert c.b.manager.stats().lost == c.losses.total == 5


async def test_what_a_node_sends_during_its_own_outage_does_not_come_back(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        here, there = await c.b.client(), await c.a.client()
        async with c.away():
            for number in range(5):
                await c.b.manager.emit("n", number)
            await c.b.manager.flush()
            await c.send(5)
        await c.send(6)
        await all_came(here, *range(7))
        await all_came(there, *range(7))
        assert c.b.manager.stats().lost == c.b.manager.stats().repeated == 0


# Numbers


async def test_beats_that_come_during_the_catch_up(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last number is that of events which are still to be read."""
    beats = {"heartbeat_interval": 0.05, "heartbeat_timeout": 5}
    async with cluster(postgres, prefix, **beats) as c:
        there = await c.b.client()
        read = MessageLog.rows

        async def rows(self: MessageLog, connection: Any, *args: Any) -> Any:
            inbox = c.b.manager._node.listener._inbox
            await c.send("late")
            while len(inbox) < 5:
                await anyio.sleep(0.02)
                await connection.execute("SELECT 1")
            monkeypatch.setattr(MessageLog, "rows", read)
            return await read(self, connection, *args)

        async with c.away():
            await c.send(*range(10))
            monkeypatch.setattr(MessageLog, "rows", rows)
        await all_came(there, *range(10), "late")
        assert c.b.manager.stats().lost == 0


async def test_an_unlogged_log_after_a_crash(own_postgres: EmbeddedPostgres, prefix: str) -> None:
    """Its rows are gone; they are counted, and the numbers go on."""
    async with cluster(own_postgres, prefix, durable="unlogged") as c:
        there = await c.b.client()
        await c.send(1, 2)
        await all_came(there, 1, 2)
        async with c.away():
            await c.send(3, 4, 5)
            await crash(own_postgres)
            await connected(c.a)
            await c.send(6)
        await c.send(7)
        await all_came(there, 1, 2, 6, 7)
        assert c.b.manager.stats().lost == c.losses.total == 3
        assert sql(own_postgres.uri, f"SELECT min(seq), max(seq) FROM {prefix}_log") == [(6, 7)]


async def test_a_batch_sent_again_after_its_rows_are_gone(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    options = options_of(prefix)
    async with (
        proxy(postgres.port) as way,
        node(way.uri, prefix, listen_uri=postgres.uri, **options) as a,
        node(postgres.uri, prefix, **options) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        await a.manager.flush()
        way.hold("answers")
        await a.manager.emit("n", 1)
        await all_came(there, 1)
        assert len(sql(postgres.uri, f"DELETE FROM {prefix}_log RETURNING seq")) == 1
        await way.cut()
        way.release()
        await a.manager.emit("n", 2)
        await a.manager.flush()
        await all_came(there, 1, 2)
        assert b.manager.stats().repeated == 1
        assert b.manager.stats().lost == 0
