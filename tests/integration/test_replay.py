"""What a node of ``durable=True`` reads after an outage: all of it, once, in order, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import AnyIOConnection, RequestTimeoutError, open_postgres_emitter
from anyio_sio_pg.postgres.log import MessageLog
from anyio_sio_pg.protocol.sequence import MAX_SENDERS
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import Client, TestNode, acquainted, eventually, node
from load import DURABLE, Losses, connected, crash, reconnecting, tables
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
        await reconnecting(self.b)
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


async def emit_as_new(server: EmbeddedPostgres, prefix: str, *values: Any) -> None:
    """Emit by somebody who has never been heard, and will not be again."""
    async with open_postgres_emitter(server.uri, prefix=prefix, **options_of(prefix)) as emitter:
        for value in values:
            await emitter.emit("n", value)


async def test_a_catch_up_that_breaks_off_while_new_events_come(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        cluster(postgres, prefix) as c,
        open_postgres_emitter(postgres.uri, prefix=prefix, **options_of(prefix)) as emitter,
    ):
        there = await c.b.client()
        await c.send(*range(10))
        read = MessageLog.rows
        broken = 0

        async def rows(self: MessageLog, connection: Any, *args: Any) -> Any:
            nonlocal broken
            if broken < 2:
                broken += 1
                await c.send(20 + broken)
                await emitter.emit("n", f"new {2 + broken}")
                await emitter.flush()
                # brings the notifications
                await connection.execute("SELECT 1")
                raise psycopg.OperationalError("the connection is lost")
            return await read(self, connection, *args)

        async with c.away():
            await c.send(*range(10, 21))
            await emitter.emit("n", "new 1")
            await emitter.emit("n", "new 2")
            await emitter.flush()
            monkeypatch.setattr(MessageLog, "rows", rows)
        assert broken == 2
        await c.send(23)
        await eventually(lambda: len(came(there)) == 28)
        assert [value for value in came(there) if isinstance(value, int)] == list(range(24))
        new = [value for value in came(there) if not isinstance(value, int)]
        assert new == [f"new {number}" for number in range(1, 5)]
        assert c.b.manager.stats().lost == 0


async def test_an_event_between_the_reading_and_the_end_of_a_catch_up(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is to tell later that it was there: the session listens before it reads."""
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        read = MessageLog.senders

        async def senders(self: MessageLog, *args: Any) -> Any:
            found = await read(self, *args)
            monkeypatch.setattr(MessageLog, "senders", read)
            await emit_as_new(postgres, prefix, 2, 3)
            return found

        async with c.away():
            await c.send(1)
            monkeypatch.setattr(MessageLog, "senders", senders)
        await all_came(there, 1, 2, 3)


async def test_a_log_that_is_locked_for_a_moment(
    own_postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it is refused for want of a lock, and tried again."""
    uri = own_postgres.uri
    read = MessageLog.senders
    refused = 0

    async def senders(self: MessageLog, *args: Any) -> Any:
        nonlocal refused
        try:
            return await read(self, *args)
        except psycopg.errors.LockNotAvailable:
            refused += 1
            raise

    monkeypatch.setattr(MessageLog, "senders", senders)
    async with cluster(own_postgres, prefix) as c:
        there = await c.b.client()
        async with c.away():
            # no gap in what comes later tells of it
            await emit_as_new(own_postgres, prefix, 1, 2, 3)
            sql(uri, "ALTER ROLE postgres SET lock_timeout = 50")
            with psycopg.connect(uri) as connection:
                connection.execute(f"LOCK TABLE {prefix}_log IN ACCESS EXCLUSIVE MODE")
                c.way.refusing = False
                await eventually(lambda: refused)
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
                await connection.close()
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
            # enough for two clocks to tell before from after, on a busy machine too
            await anyio.sleep(2)
            there = await c.b.client("/new")
            await c.send(3, 4, namespace="/new")
        await c.send(5, namespace="/new")
        await all_came(there, 3, 4, 5, namespace="/new")
        assert c.b.manager.stats().lost == 0


@pytest.mark.parametrize("before", ["looking into the log", "LISTEN"])
async def test_a_namespace_whose_joining_breaks_off(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """What is sent from then on is for its clients; what was sent before is not."""
    read = MessageLog.senders
    log = f"{prefix}_log"

    async with cluster(postgres, prefix) as c:

        async def senders(self: MessageLog, *args: Any) -> Any:
            monkeypatch.setattr(MessageLog, "senders", read)
            found = await read(self, *args) if before == "LISTEN" else None
            c.way.refusing = True
            await c.way.cut()
            return await read(self, *args) if found is None else found

        await c.send(1, 2, namespace="/new")
        sql(postgres.uri, f"UPDATE {log} SET created_at = now() - interval '10 seconds'")
        monkeypatch.setattr(MessageLog, "senders", senders)
        there = await c.b.client("/new")
        assert c.way.refusing
        assert c.b.manager.status != "connected"
        await c.send(3, 4, namespace="/new")
        c.way.refusing = False
        await connected(c.b)
        await c.send(5, namespace="/new")
        await all_came(there, 3, 4, 5, namespace="/new")
        assert c.b.manager.stats().lost == c.b.manager.stats().repeated == 0


async def test_what_comes_after_a_namespace_is_joined_is_not_left_out_by_a_slow_server(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before that is told by the server's clock, which goes on until it is asked."""
    execute = AnyIOConnection.execute

    async def late(self: AnyIOConnection, query: Any, *args: Any, **options: Any) -> Any:
        if isinstance(query, bytes) and b"AND created_at <" in query:
            await anyio.sleep(1)
        return await execute(self, query, *args, **options)

    async with cluster(postgres, prefix) as c:
        await c.send(1, namespace="/new")
        async with c.away():
            there = await c.b.client("/new")
            await c.send(2, 3, namespace="/new")
            monkeypatch.setattr(AnyIOConnection, "execute", late)
        await c.send(4, namespace="/new")
        await eventually(lambda: 4 in came(there, "/new"))
        # rather something from before as well than too little
        assert came(there, "/new")[-3:] == [2, 3, 4]
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
            await anyio.sleep(2)
            after = await c.b.client("/left")
            await c.send(4, namespace="/left")
        await c.send(5, namespace="/left")
        await all_came(after, 4, 5, namespace="/left")
        assert c.b.manager.stats().lost == 0


async def test_many_senders_within_the_retention(postgres: EmbeddedPostgres, prefix: str) -> None:
    """A sender that is forgotten would be taken for a new one, and its events come twice."""
    many = MAX_SENDERS + 100
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
            await all_came(there, *range(5))
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


# What is replayed


async def test_everything_is_replayed_in_its_order(postgres: EmbeddedPostgres, prefix: str) -> None:
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        heard: list[Any] = []
        c.b.manager.on_server_side("tell")(lambda number: heard.append(number))
        a = c.a.manager
        await a.emit("n", "before", to="r")
        async with c.away():
            for number in range(3):
                await a.emit("n", ["out", number], to="r")
                await a.sockets_join("r")
                await a.emit("n", ["in", number], to="r")
                await a.server_side_emit("tell", number)
                await a.emit("n", ["large", number, "x" * 9_000], to="r")
                await a.emit("n", ["binary", number, b"\0" * 10], to="r")
                await a.sockets_leave("r")
            await a.flush()
        await a.emit("n", "after")
        await all_came(
            there,
            *(
                value
                for number in range(3)
                for value in (
                    ["in", number],
                    ["large", number, "x" * 9_000],
                    ["binary", number, b"\0" * 10],
                )
            ),
            "after",
        )
        await eventually(lambda: heard == [0, 1, 2])
        assert c.b.manager.stats().lost == 0


async def test_several_namespaces(postgres: EmbeddedPostgres, prefix: str) -> None:
    names = ["/", "/x", "/y"]
    async with cluster(postgres, prefix) as c:
        there = {name: await c.b.client(name) for name in names}
        await c.send("before", namespace="/x")
        async with c.away():
            for number in range(5):
                for name in names:
                    await c.send(f"{name} {number}", namespace=name)
        for name in names:
            await c.send("after", namespace=name)
        for name in names:
            before = ["before"] if name == "/x" else []
            missed = [f"{name} {number}" for number in range(5)]
            await all_came(there[name], *before, *missed, "after", namespace=name)
        assert c.b.manager.stats().lost == 0


async def test_an_emitter(postgres: EmbeddedPostgres, prefix: str) -> None:
    """One that was heard before, and one that starts and ends during the outage."""
    async with (
        cluster(postgres, prefix) as c,
        open_postgres_emitter(postgres.uri, prefix=prefix, **options_of(prefix)) as known,
    ):
        there = await c.b.client()
        await known.emit("n", 0)
        await all_came(there, 0)
        async with c.away():
            await known.emit("n", 1)
            async with open_postgres_emitter(
                postgres.uri, prefix=prefix, **options_of(prefix)
            ) as new:
                for number in range(3):
                    await new.emit("n", f"new {number}")
            await known.emit("n", 2)
            await known.flush()
        await known.emit("n", 3)
        await eventually(lambda: 3 in came(there))
        got = came(there)
        assert [value for value in got if isinstance(value, int)] == [0, 1, 2, 3]
        assert [value for value in got if not isinstance(value, int)] == ["new 0", "new 1", "new 2"]
        assert c.b.manager.stats().lost == 0


async def test_a_node_that_starts_and_ends_during_the_outage_of_another(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        there, other = await c.b.client(), await c.a.client()
        async with c.away():
            async with node(postgres.uri, prefix, **options_of(prefix)) as new:
                here = await new.client()
                for number in range(5):
                    await new.manager.emit("n", number)
                await c.send(5)
                await all_came(here, *range(6))
            await eventually(lambda: sorted(came(other)) == list(range(6)))
        # what is read of it is no sign of life
        assert c.b.manager._node.members("/") == {c.a.manager.uid}
        await eventually(lambda: len(came(there)) == 6)
        # each sender's in its order
        assert [number for number in came(there) if number != 5] == list(range(5))
        assert c.b.manager.stats().lost == 0


async def test_a_node_that_starts_during_the_outage_of_another(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        await c.send("before")
        await all_came(there, "before")
        async with c.away(), node(postgres.uri, prefix, **options_of(prefix)) as new:
            here = await new.client()
            for number in range(5):
                await new.manager.emit("n", number)
            await new.manager.flush()
            # the new one starts from now
            await all_came(here, *range(5))
            c.way.refusing = False
            await connected(c.b)
            await new.manager.emit("n", 5)
            await all_came(there, "before", *range(6))
            await c.b.manager.emit("n", 6)
            await all_came(here, *range(7))
            assert new.manager.stats().lost == 0
        assert c.b.manager.stats().lost == 0


async def test_requests_that_are_old_do_no_harm(postgres: EmbeddedPostgres, prefix: str) -> None:
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        calls: list[int] = []

        @c.b.manager.on_server_side("ask")
        async def ask(number: int) -> int:
            calls.append(number)
            return number

        async with c.away():
            # it answers when nobody waits any more
            with suppress(RequestTimeoutError):
                await c.a.manager.server_side_call("ask", 1, timeout=0.5)
            with anyio.move_on_after(0.5):
                await c.a.manager.fetch_sockets()
        await eventually(lambda: calls == [1])
        assert await c.a.manager.server_side_call("ask", 2) == [2]
        assert [socket.id for socket in await c.a.manager.fetch_sockets()] == [there.sid]
        assert calls == [1, 2]
        assert c.b.manager.stats().lost == c.a.manager.stats().lost == 0


# The retention


async def test_an_outage_longer_than_the_retention(postgres: EmbeddedPostgres, prefix: str) -> None:
    """The gap is reported with its size; what is still there comes."""
    async with cluster(postgres, prefix, cleanup_interval=1) as c:
        there = await c.b.client()
        await c.send(1)
        await all_came(there, 1)
        async with c.away():
            await c.send(*range(2, 12))
            sql(postgres.uri, f"UPDATE {prefix}_log SET created_at = now() - interval '61 seconds'")
            count = f"SELECT count(*) FROM {prefix}_log"
            await eventually(lambda: sql(postgres.uri, count) == [(0,)])
            await c.send(12, 13)
            async with node(postgres.uri, prefix, **options_of(prefix)) as late:
                await late.manager.emit("n", 14)
        await c.send(15)
        await eventually(lambda: came(there)[-1] == 15)
        assert [value for value in came(there) if value != 14] == [1, 12, 13, 15]
        assert came(there).count(14) == 1
        assert c.b.manager.stats().lost == c.losses.total == 10


async def test_old_rows_go_in_steps(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of senders that are gone too, and no other cluster's."""
    delete = MessageLog.delete
    steps: list[bool] = []

    async def counted(self: MessageLog, connection: Any, pair: Any, retention: float) -> bool:
        more = await delete(self, connection, pair, retention)
        if pair[1] == "dead":
            steps.append(more)
        return more

    uri = postgres.uri
    options = options_of(prefix, retention=1, cleanup_interval=1)
    async with node(uri, prefix, **options):
        insert = (
            f"INSERT INTO {prefix}_log (channel, sender, seq, payload, created_at)"
            " SELECT '{}', 'dead', k, '', now() - interval '{} seconds'"
            " FROM generate_series({}, {}) AS k"
        )
        monkeypatch.setattr(MessageLog, "delete", counted)
        sql(
            uri,
            insert.format(f"{prefix}#/gone", 3600, 1, 1_200),
            insert.format(f"{prefix}#/gone", -3600, 1_201, 1_300),
            insert.format("other#/", 3600, 1, 10),
        )
        left = f"SELECT channel, count(*), min(seq) FROM {prefix}_log GROUP BY 1 ORDER BY 1"
        await eventually(
            lambda: sql(uri, left) == [("other#/", 10, 1), (f"{prefix}#/gone", 100, 1_201)]
        )
        # the third step finds 200 old ones
        await eventually(lambda: len(steps) >= 3)
        assert steps[:3] == [True, True, False]


async def test_only_one_node_at_a_time_deletes(postgres: EmbeddedPostgres, prefix: str) -> None:
    uri = postgres.uri
    await emit_as_new(postgres, prefix)
    sql(
        uri,
        f"INSERT INTO {prefix}_log (channel, sender, seq, payload, created_at)"
        " SELECT 'c', 's', k, '', now() - interval '1 hour' FROM generate_series(1, 1200) AS k",
    )
    log = MessageLog(f"{prefix}_log", "", str, lambda _channel, _sender, begin: begin)
    left = f"SELECT count(*) FROM {prefix}_log"
    async with (
        await AnyIOConnection.connect(uri) as first,
        await AnyIOConnection.connect(uri, autocommit=True) as second,
    ):
        async with first.transaction():
            # it is at it until the end of its transaction
            assert await log.delete(first, ("c", "s"), 1)
            with anyio.fail_after(20):
                assert not await log.delete(second, ("c", "s"), 1)
        assert sql(uri, left) == [(700,)]
        assert await log.delete(second, ("c", "s"), 1)
        assert not await log.delete(first, ("c", "s"), 1)
    assert sql(uri, left) == [(0,)]


# Clusters


async def test_two_clusters_with_one_log(postgres: EmbeddedPostgres, prefix: str) -> None:
    options = {**DURABLE, **tables(prefix)}
    async with (
        proxy(postgres.port) as way,
        node(postgres.uri, f"{prefix}x", **options) as x,
        node(postgres.uri, f"{prefix}y", **options) as y,
        node(postgres.uri, f"{prefix}x", **options, listen_uri=way.uri) as b,
    ):
        await acquainted(x, b)
        there = await b.client()
        way.refusing = True
        await way.cut()
        await reconnecting(b)
        for number in range(5):
            await x.manager.emit("n", f"x{number}")
            await y.manager.emit("n", f"y{number}")
        await x.manager.flush()
        await y.manager.flush()
        assert sql(postgres.uri, f"SELECT count(*) FROM {prefix}_log") == [(10,)]
        way.refusing = False
        await connected(b)
        await x.manager.emit("n", "end")
        await all_came(there, *(f"x{number}" for number in range(5)), "end")
        assert b.manager.stats().lost == 0


async def test_clocks_that_jump(postgres: EmbeddedPostgres, prefix: str) -> None:
    """Rows from the future stay and are read; the order is that of the numbers."""
    async with cluster(postgres, prefix, cleanup_interval=1) as c:
        there = await c.b.client()
        await c.send(0)
        async with c.away():
            await c.send(*range(1, 6))
            sql(
                postgres.uri,
                f"UPDATE {prefix}_log SET created_at = now() + (3 - seq) * interval '10 seconds'",
            )
            await c.send(6)
        await all_came(there, *range(7))
        assert c.b.manager.stats().lost == 0


async def test_large_bodies_are_read_in_portions(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = MessageLog.rows
    sizes: list[int] = []

    async def rows(self: MessageLog, *args: Any) -> Any:
        found = await read(self, *args)
        sizes.append(sum(len(row.body or b"") for row in found))
        return found

    monkeypatch.setattr(MessageLog, "rows", rows)
    async with cluster(postgres, prefix) as c:
        there = await c.b.client()
        async with c.away():
            await c.send(*(bytes([number]) * 1_500_000 for number in range(8)))
        await eventually(lambda: len(came(there)) == 8)
        assert [value[0] for value in came(there)] == list(range(8))
        assert len(sizes) >= 3
        assert max(sizes) < 6_000_000


async def test_many_who_start_at_once_make_one_log(uri: str, prefix: str) -> None:
    options = options_of(prefix)

    async def start() -> None:
        async with open_postgres_emitter(uri, prefix=prefix, **options) as emitter:
            await emitter.emit("n", 1)

    async with anyio.create_task_group() as tg:
        for _ in range(10):
            tg.start_soon(start)
    assert sql(uri, f"SELECT count(*) FROM {prefix}_log") == [(10,)]


async def test_a_namespace_joined_and_left_at_once(postgres: EmbeddedPostgres, prefix: str) -> None:
    """Nothing remains of it that would be caught up with when it is joined again."""
    async with cluster(postgres, prefix) as c:
        listener = c.b.manager._node.listener
        channel = f"{prefix}#/short"
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.listen, channel)
            await eventually(lambda: listener._commands or channel in listener._marks)
            tg.start_soon(listener.unlisten, channel)
        assert channel not in listener._marks
        await c.send(1, namespace="/short")
        there = await c.b.client("/short")
        await c.send(2, namespace="/short")
        await all_came(there, 2, namespace="/short")
