"""A message that comes while the publisher is idle is sent at once, without waking its task."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import PublishError
from anyio_sio_pg.postgres.publisher import Publisher
from anyio_sio_pg.protocol.wire import Outgoing
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import TestNode, eventually, node, stopwatch, two_nodes
from proxy import proxy

pytestmark = pytest.mark.anyio

QUIET: dict[str, Any] = {"heartbeat_interval": 60, "heartbeat_timeout": 100}
"""Options with which nothing is sent but what the test sends."""


def publisher_of(node: TestNode) -> Publisher:
    assert node.manager._node is not None
    return node.manager._node.publisher


async def idle(node: TestNode) -> Publisher:
    publisher = publisher_of(node)
    await eventually(lambda: publisher._wake is not None and not publisher.depth)
    return publisher


async def test_it_is_on_its_way_when_put_returns(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix, **QUIET) as (a, b):
        there = await b.client()
        publisher = await idle(a)
        put = publisher.put
        ahead: list[bool] = []

        def watched(message: Outgoing, *rest: Any) -> None:
            put(message, *rest)
            ahead.append(publisher._ahead)

        publisher.put = watched  # type: ignore[method-assign]
        await a.manager.emit("hello")
        assert ahead == [True]
        await there.expect(["hello"])
        await a.manager.flush()
        assert not publisher._ahead
        assert publisher.depth == 0


async def test_what_comes_before_its_answer_is_the_next_batch(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, listen_uri=postgres.uri, **QUIET) as a,
        node(postgres.uri, prefix) as b,
    ):
        there = await b.client()
        await eventually(lambda: a.manager.stats().nodes == 1)
        publisher = await idle(a)
        gate.hold("answers")
        batches = publisher.batches
        for number in range(11):
            await a.manager.emit("n", number)
        # a question to PostgreSQL waits for the answer, too
        async with anyio.create_task_group() as tg:
            tg.start_soon(publisher.execute, _select)
            await there.expect(["n", 0])
            assert publisher.batches == batches
            gate.release()
        await there.expect(*(["n", number] for number in range(11)))
        await a.manager.flush()
        assert publisher.batches == batches + 2


async def _select(connection: Any) -> None:
    cursor = await connection.execute("SELECT 1")
    assert await cursor.fetchone() == (1,)


async def test_it_is_sent_again_when_the_connection_breaks_before_the_answer(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, listen_uri=postgres.uri, **QUIET) as a,
        node(postgres.uri, prefix) as b,
    ):
        there = await b.client()
        await eventually(lambda: a.manager.stats().nodes == 1)
        for number in range(0, 30, 3):
            publisher = await idle(a)
            gate.hold("answers")
            await a.manager.emit("n", number)
            assert publisher._ahead
            # it has arrived, and nobody here knows
            await eventually(lambda expected=number: ["n", expected] in there.events())
            await a.manager.emit("n", number + 1)
            await gate.cut()
            gate.release()
            await a.manager.emit("n", number + 2)
            await a.manager.flush()
        await there.expect(*(["n", number] for number in range(30)))
        assert b.manager.stats().repeated >= 10
        assert b.manager.stats().lost == 0


async def test_a_server_that_does_not_answer_is_given_up_in_time(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    errors: list[Exception] = []
    async with (
        proxy(postgres.port) as gate,
        node(
            gate.uri,
            prefix,
            listen_uri=postgres.uri,
            on_error=errors.append,
            heartbeat_interval=0.45,
            heartbeat_timeout=0.5,
        ) as a,
    ):
        publisher = await idle(a)
        gate.hold("answers")
        began = anyio.current_time()
        async with stopwatch() as took:
            await a.manager.emit("hello")
            assert publisher._ahead
            await eventually(lambda: not publisher.connected)
        assert anyio.current_time() - began >= 0.5
        assert took.seconds < 0.9
        assert "a statement had no answer within 0.5 s" in str(errors[0])
        await gate.cut()
        gate.release()
        await a.manager.flush()


async def test_one_that_is_refused_is_reported_and_holds_nothing_up(uri: str, prefix: str) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix) as b, node(uri, prefix, on_error=errors.append) as a:
        there = await b.client()
        publisher = await idle(a)
        publisher.put(Outgoing("x" * 64, b"{}"))
        assert publisher._ahead
        await a.manager.emit("hello")
        await there.expect(["hello"])
        assert isinstance(errors[0], PublishError)
        assert "channel name too long" in str(errors[0])
        assert a.manager.stats().dropped == 1


async def test_a_nul_is_refused_and_not_the_end_of_the_text(uri: str, prefix: str) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix, on_error=errors.append) as a:
        publisher = await idle(a)
        publisher.put(Outgoing(f"{prefix}#/", b'{"a":1}\0{"b":2}'))
        await eventually(lambda: errors)
        assert "invalid byte sequence" in str(errors[0])


class _Slow:
    """A connection whose socket does not take what it is given at once."""

    def __init__(self, pgconn: Any):
        self._pgconn = pgconn
        self.pgconn = self

    def send_query_params(self, *arguments: Any) -> None:
        self._pgconn.send_query_params(*arguments)

    def flush(self) -> int:
        return 1


async def test_what_the_socket_does_not_take_goes_as_soon_as_it_does(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix, **QUIET) as (a, b):
        there = await b.client()
        publisher = await idle(a)
        connection: Any = publisher._connection
        publisher._connection = _Slow(connection.pgconn)  # type: ignore[assignment]
        wake = publisher._wake
        assert wake is not None
        try:
            await a.manager.emit("hello")
        finally:
            publisher._connection = connection
        # libpq has tried once by itself; the task goes on with it
        assert wake.cancel_called
        await there.expect(["hello"])
        await a.manager.emit("again")
        await there.expect(["hello"], ["again"])
        assert a.manager.stats().reconnects == 0


async def test_a_connection_that_cannot_send_is_replaced(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(_Slow):
        def send_query_params(self, *arguments: Any) -> None:
            raise psycopg.OperationalError("broken")

    async with two_nodes(uri, prefix, **QUIET) as (a, b):
        there = await b.client()
        publisher = await idle(a)
        connection: Any = publisher._connection
        publisher._connection = Broken(connection.pgconn)  # type: ignore[assignment]
        try:
            await a.manager.emit("hello")
        finally:
            publisher._connection = connection
        assert not publisher._ahead
        await there.expect(["hello"])


@pytest.mark.parametrize("size", [1, 8_000])
async def test_others_wake_the_task(uri: str, prefix: str, size: int) -> None:
    options = {**QUIET, "durable": size == 1, "log_table": f"{prefix}_log"}
    async with node(uri, prefix, **options) as a, node(uri, prefix, **options) as b:
        there = await b.client()
        await eventually(lambda: a.manager.stats().nodes == 1)
        publisher = await idle(a)
        await a.manager.emit("n", "x" * size)
        assert not publisher._ahead
        await there.expect(["n", "x" * size])


async def test_the_end_of_the_block_waits_for_its_answer(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate, node(postgres.uri, prefix) as b:
        there = await b.client()
        async with node(gate.uri, prefix, listen_uri=postgres.uri) as a:
            await idle(a)
            gate.hold("answers")
            await a.manager.emit("hello")
            async with anyio.create_task_group() as tg:
                tg.start_soon(there.expect, ["hello"])
            gate.release()
        await eventually(lambda: b.manager.stats().nodes == 0)
        with pytest.raises(PublishError, match="1 message"):
            async with node(gate.uri, prefix, listen_uri=postgres.uri, shutdown_timeout=0.3) as a:
                await idle(a)
                gate.hold("answers")
                await a.manager.emit("hello again")
        gate.release()
