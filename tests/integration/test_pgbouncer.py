"""A real PgBouncer in transaction mode in front of ``uri``, a direct ``listen_uri`` beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from anyio_sio_pg import ConnectionLostError, open_postgres_emitter
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, TestNode, acquainted, eventually, node
from servers import PgBouncer, sockets_to, sql

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture(scope="module")
def pooler(server: EmbeddedPostgres) -> Iterator[PgBouncer]:
    with PgBouncer(server, ["default_pool_size = 2"]) as pooler:
        yield pooler


@asynccontextmanager
async def pooled(
    pooler: PgBouncer, server: EmbeddedPostgres, prefix: str, **options: Any
) -> AsyncIterator[list[TestNode]]:
    options = {"listen_uri": server.uri, **options}
    async with (
        node(pooler.uri, prefix, **options) as a,
        node(pooler.uri, prefix, **options) as b,
    ):
        await acquainted(a, b)
        yield [a, b]


async def test_only_publishing_goes_through_the_pooler(
    pooler: PgBouncer, server: EmbeddedPostgres, prefix: str
) -> None:
    async with pooled(pooler, server, prefix) as (a, b):
        assert sockets_to(pooler.port) == 2
        assert sockets_to(server.port) == 2
        assert await a.manager.ping() > 0
        assert a.manager.status == b.manager.status == "connected"
    assert sockets_to(pooler.port) == sockets_to(server.port) == 0


async def test_events_and_large_attachments(
    pooler: PgBouncer, server: EmbeddedPostgres, prefix: str
) -> None:
    async with pooled(pooler, server, prefix) as (a, b):
        here, there = await a.client(), await b.client(rooms=["r"])
        large = ({"text": "ü" * 500_000, "binary": b"\0\xff" * 500_000}, "end")
        await a.manager.emit("small", [1, None])
        await a.manager.emit("large", large, room="r")
        await a.manager.emit("last")
        await there.expect(["small", [1, None]], ["large", *large], ["last"])
        await here.expect(["small", [1, None]], ["last"])


async def test_requests(pooler: PgBouncer, server: EmbeddedPostgres, prefix: str) -> None:
    async with pooled(pooler, server, prefix) as (a, b):
        here, there = await a.client(), await b.client()

        @b.manager.on_server_side("double")
        def double(number: int) -> int:
            return number * 2

        assert await a.manager.clients() == {here.sid, there.sid}
        assert await a.manager.server_side_call("double", 21) == [42]
        await a.manager.remote_join(there.sid, "r")
        assert await a.manager.client_rooms(there.sid) == {there.sid, "r"}
        answers: list[Any] = []
        await a.manager.emit("ask", to=there.sid, callback=lambda *got: answers.append(got))
        await there.answer("answer", b"\0" * 10_000)
        await eventually(lambda: answers == [("answer", b"\0" * 10_000)])
        async with anyio.create_task_group() as tg:
            for number in range(50):
                tg.start_soon(a.manager.server_side_call, "double", number)
                tg.start_soon(b.manager.fetch_sockets)


async def test_order(pooler: PgBouncer, server: EmbeddedPostgres, prefix: str) -> None:
    async with pooled(pooler, server, prefix) as nodes:
        clients = [await n.client() for n in nodes]
        count = 2_000

        async def send(sender: int) -> None:
            for number in range(count):
                size = 9_000 if number % 100 == 7 else number % 50
                await nodes[sender].manager.emit(f"from{sender}", (number, "x" * size))

        async with anyio.create_task_group() as tg:
            tg.start_soon(send, 0)
            tg.start_soon(send, 1)
        for client in clients:
            await eventually(lambda client=client: len(client.events()) == 2 * count)
            for sender in range(2):
                numbers = [args[0] for name, *args in client.events() if name == f"from{sender}"]
                assert numbers == list(range(count))
        assert [n.manager.stats().lost for n in nodes] == [0, 0]


async def test_other_users_of_the_pool_see_nothing(
    pooler: PgBouncer, server: EmbeddedPostgres, prefix: str
) -> None:
    async with pooled(pooler, server, prefix) as (a, b):
        there = await b.client()
        for number in range(20):
            await a.manager.emit("number", (number, "x" * 9_000))
            await a.manager.flush()
            # whatever session the pool gives: no setting, no statement, no lock is left in it
            assert sql(
                pooler.uri,
                "SELECT count(*) FROM pg_prepared_statements"
                " UNION ALL SELECT count(*) FROM pg_listening_channels()"
                " UNION ALL SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
                " AND locktype = 'advisory'",
            ) == [(0,), (0,), (0,)]
        await there.expect(*[["number", number, "x" * 9_000] for number in range(20)])


async def test_the_emitter(pooler: PgBouncer, server: EmbeddedPostgres, prefix: str) -> None:
    async with (
        pooled(pooler, server, prefix) as (a, _),
        open_postgres_emitter(pooler.uri, prefix=prefix) as emitter,
    ):
        here = await a.client()
        await emitter.emit("from afar", "x" * 20_000)
        await here.expect(["from afar", "x" * 20_000])


async def test_the_pooler_is_killed_and_comes_back(server: EmbeddedPostgres, prefix: str) -> None:
    errors: list[Exception] = []
    with PgBouncer(server) as pooler:
        async with pooled(pooler, server, prefix, on_error=errors.append, **FAST) as (a, b):
            here, there = await a.client(), await b.client()
            await a.manager.emit("before")
            await there.expect(["before"])
            pooler.kill()
            await eventually(lambda: a.manager.status != "connected")
            await a.manager.emit("meanwhile", "x" * 20_000)
            await here.expect(["before"], ["meanwhile", "x" * 20_000])
            await eventually(lambda: any("cannot connect" in str(error) for error in errors))
            pooler.start()
            await eventually(lambda: a.manager.status == b.manager.status == "connected")
            await there.expect(["before"], ["meanwhile", "x" * 20_000])
            await acquainted(a, b)
            assert await a.manager.clients() == {here.sid, there.sid}
            assert a.manager.stats().lost == b.manager.stats().lost == 0
    assert errors
    assert {type(error) for error in errors} == {ConnectionLostError}


async def test_the_pooler_has_no_room(server: EmbeddedPostgres, prefix: str) -> None:
    settings = ["default_pool_size = 1", "max_client_conn = 2"]
    with PgBouncer(server, settings) as pooler:
        async with pooled(pooler, server, prefix) as (a, b):
            there = await b.client()
            with pytest.raises(Exception, match="no more connections allowed"):
                async with open_postgres_emitter(pooler.uri, prefix=prefix):
                    raise AssertionError("it started")
            for number in range(100):
                await a.manager.emit("number", number)
            await there.expect(*[["number", number] for number in range(100)])
