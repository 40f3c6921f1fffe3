"""Regressions: each test is named after what once went wrong."""

from __future__ import annotations

import functools
import logging
import os
import socket
import time
from collections import Counter
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import (
    AdapterClosedError,
    AdapterError,
    PostgresManager,
    PublishError,
    RequestTimeoutError,
    open_postgres_emitter,
)
from anyio_sio_pg import node as node_module
from anyio_sio_pg.postgres.listener import Listener
from anyio_sio_pg.protocol.messages import SocketsJoin
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import (
    FAST,
    Client,
    TestNode,
    acquainted,
    eventually,
    node,
    sessions,
    stopwatch,
    terminate,
    two_nodes,
)
from proxy import proxy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("auth", [{"x": "\ud800"}, {"x": 10**30, "y": "\ud800"}])
async def test_what_a_client_authenticates_with_cannot_silence_its_node(
    uri: str, prefix: str, auth: Any
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client(auth=auth)
        (socket,) = await a.manager.fetch_sockets()
        assert socket.id == there.sid


@pytest.mark.parametrize("key", [None, (1, 2), True])
async def test_a_session_with_keys_that_json_lacks_does_not_silence_its_node(
    uri: str, prefix: str, key: Any
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        b.server.eio.sockets[there.eio_sid].session["/"] = {key: 1, "b": {key: 1}, "ok": 1}
        (socket,) = await a.manager.fetch_sockets()
        assert socket.data == {"b": {}, "ok": 1}


async def test_a_refused_second_connection_does_not_change_the_clients_auth(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client(auth={"user": "me"})
        await b.server._handle_connect(there.eio_sid, "/", {"user": "admin"})
        (socket,) = await a.manager.fetch_sockets()
        assert socket.handshake["auth"] == {"user": "me"}


async def test_a_node_that_starts_while_a_request_is_open_is_not_waited_for(
    uri: str, prefix: str
) -> None:
    answering = anyio.Event()
    go_on = anyio.Event()
    async with two_nodes(uri, prefix) as (a, b):

        @b.manager.on_server_side("slow")
        async def slow() -> str:
            answering.set()
            await go_on.wait()
            return "done"

        answers: list[Any] = []

        async def ask() -> None:
            answers.extend(await a.manager.server_side_call("slow", timeout=60))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            await answering.wait()
            async with node(uri, prefix):
                await eventually(lambda: a.manager.stats().nodes == 2)
                go_on.set()
                await eventually(lambda: answers)
        assert answers == ["done"]


async def test_a_node_that_starts_while_clients_acknowledge_is_not_waited_for(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        answers: list[Any] = []

        async def ask() -> None:
            answers.extend(await a.manager.emit_with_ack("question", timeout=60))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            await eventually(there.events)
            async with node(uri, prefix):
                await eventually(lambda: a.manager.stats().nodes == 2)
                await there.answer("yes")
                await eventually(lambda: answers)
        assert answers == ["yes"]


async def test_heartbeats_go_on_after_one_found_the_outbox_full(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(
            gate.uri,
            prefix,
            listen_uri=postgres.uri,
            outbox_limit=1,
            heartbeat_interval=0.1,
            heartbeat_timeout=20,
        ) as a,
        node(postgres.uri, prefix) as b,
    ):
        await acquainted(a, b)
        gate.refusing = True
        await gate.cut()
        await eventually(lambda: a.manager.status == "reconnecting")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                for _ in range(200):
                    # nobody answers
                    tg.start_soon(b.manager.clients)
                await eventually(lambda: a.manager.stats().queue_depth >= 102)
                await anyio.sleep(0.5)
                scope.cancel()
        gate.refusing = False
        await eventually(lambda: a.manager.stats().queue_depth == 0)
        sent = a.manager.stats().sent
        await eventually(lambda: a.manager.stats().sent > sent + 5)


async def test_a_namespace_with_a_long_spelling_in_json_is_not_taken_for_deafness(
    uri: str, prefix: str
) -> None:
    errors: list[Exception] = []
    beats = {"heartbeat_interval": 0.05, "heartbeat_timeout": 100}
    async with node(uri, prefix, on_error=errors.append, **beats) as a:
        namespace = "/" + "\x01" * 50
        await a.manager.emit("e", namespace=namespace)
        heard = a.manager._node
        assert heard is not None
        # one that is not heard would be waited for until the node is taken for deaf
        await eventually(lambda: heard._connectivity._last_number > 20)
        await eventually(lambda: not heard._connectivity._probes)
        assert errors == []


async def test_an_error_handler_that_always_fails_is_called_once_for_each_error(
    uri: str, prefix: str
) -> None:
    calls = 0

    async def on_error(error: Exception) -> None:
        nonlocal calls
        calls += 1
        if calls < 50:
            raise RuntimeError

    async with node(uri, prefix, on_error=on_error):
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("SELECT pg_notify(%s, 'garbage')", [f"{prefix}#/"])
        await eventually(lambda: calls)
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert calls == 1


async def test_a_loss_and_its_end_are_logged_alike_and_each_on_one_line(
    uri: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with node(f"{uri}?application_name={prefix}", prefix, on_error=errors.append) as a:
        terminate(uri, *[pid for pid, _ in sessions(uri, prefix)])
        await eventually(lambda: a.manager.stats().reconnects >= 2)
        await a.manager.ping()
    told = [r for r in caplog.records if (r.name, r.levelname) == ("anyio_sio_pg", "WARNING")]
    texts = [record.getMessage() for record in told]
    for which in ("publisher", "listener"):
        (lost,) = [text for text in texts if text.startswith(f"the {which} lost its session: ")]
        again = f"the {which} is connected again"
        assert texts.index(lost) < texts.index(again)
    assert [str(error) for error in errors] == [text for text in texts if "again" not in text]
    assert not any("\n" in text or "\t" in text for text in texts)


async def test_messages_that_wait_for_room_at_the_end_go_out(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as b:
        there = await b.client()
        refused: list[Exception] = []
        async with anyio.create_task_group() as tg:  # noqa: SIM117
            async with open_postgres_emitter(uri, prefix=prefix, outbox_limit=1) as emitter:

                async def emit(number: int) -> None:
                    try:
                        await emitter.emit("n", number)
                    except AdapterClosedError as exc:
                        refused.append(exc)

                for number in range(20):
                    tg.start_soon(emit, number)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
        await eventually(lambda: len(there.events()) + len(refused) == 20)
        assert not refused


async def test_an_emitter_whose_block_has_ended_does_not_hang(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate:
        with pytest.raises(PublishError):
            async with open_postgres_emitter(
                gate.uri, prefix=prefix, shutdown_timeout=0.1
            ) as emitter:
                gate.refusing = True
                await gate.cut()
                await emitter.emit("n")
        with anyio.fail_after(20), pytest.raises(AdapterClosedError):
            await emitter.flush()


async def test_the_end_takes_shutdown_timeout_once(postgres: EmbeddedPostgres, prefix: str) -> None:
    async with (
        proxy(postgres.port) as gate,
        anyio.create_task_group() as tg,
        stopwatch() as took,
    ):

        async def let_one_through() -> None:
            await anyio.sleep(1)
            gate.release()
            await anyio.sleep(0.002)
            gate.hold("answers")

        with pytest.raises(PublishError):
            async with node(gate.uri, prefix, shutdown_timeout=2) as a:
                # the first of many batches is answered when the end has begun, no other one is
                gate.hold("questions")
                await a.manager.emit("first")
                await anyio.sleep(0.2)
                for number in range(3):
                    await a.manager.emit("big", [number, "x" * 1_500_000])
                tg.start_soon(let_one_through)
                took.seconds = 0.0
        assert took.seconds < 3.5


async def test_a_disconnect_handler_that_fails_does_not_spare_the_others(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        first, second, there = await a.client(), await a.client(), await b.client()

        @a.server.event
        async def disconnect(sid: str, reason: str) -> None:
            if sid == first.sid:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await a.manager.disconnect_sockets()
        for client in (second, there):
            await eventually(lambda c=client: (c.read(), c.disconnected)[1])  # type: ignore[misc]


async def test_a_client_that_goes_while_its_namespace_is_joined_leaves_nothing(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate, node(gate.uri, prefix) as a:
        client = Client(a.server)
        async with anyio.create_task_group() as tg:
            gate.hold("answers")
            tg.start_soon(a.server._handle_connect, client.eio_sid, "/new", None)
            await eventually(lambda: "/new" in a.manager._node._namespaces)  # type: ignore[union-attr]
            await a.server._handle_eio_disconnect(client.eio_sid, "transport close")
            del a.server.eio.sockets[client.eio_sid]
            gate.release()
        assert await a.manager.fetch_sockets(namespace="/new") == []
        assert "/new" not in a.manager.rooms


async def test_a_namespace_that_is_used_during_the_start_is_listened_to(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate, node(postgres.uri, prefix) as b:
        a = TestNode(PostgresManager(gate.uri, prefix=prefix))
        gate.hold("answers")
        running, end = anyio.Event(), anyio.Event()

        async def run() -> None:
            async with a.manager:
                running.set()
                await end.wait()

        async with anyio.create_task_group() as tg:
            tg.start_soon(run)
            await eventually(lambda: gate.connections)
            here = await a.client("/custom")
            gate.release()
            await running.wait()
            await b.manager.emit("hello", namespace="/custom")
            await here.expect(["hello"], namespace="/custom")
            end.set()


async def test_what_came_while_a_namespace_was_not_listened_to_is_not_lost(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(uri, prefix, **FAST) as a, node(uri, prefix) as b:
        await b.client("/x")
        await b.manager.emit("one", namespace="/x")
        await a.manager.emit("hello", namespace="/x")
        await acquainted(a, b, namespace="/x")
        await b.manager.emit("two", namespace="/x")
        await b.manager.flush()
        await a.manager.ping()
        monkeypatch.setattr(node_module, "NAMESPACE_IDLE", 0.3)
        await eventually(lambda: "/x" not in a.manager._node._namespaces)  # type: ignore[union-attr]
        monkeypatch.undo()
        for _ in range(5):
            await b.manager.emit("not for a", namespace="/x")
        await a.manager.emit("again", namespace="/x")
        await acquainted(a, b, namespace="/x")
        await b.manager.emit("three", namespace="/x")
        await b.manager.flush()
        await a.manager.ping()
        assert a.manager.stats().lost == 0


def _last_statement(uri: str, of: TestNode) -> str | None:
    """The statement that a listening session has last executed."""
    with psycopg.connect(uri, autocommit=True) as connection:
        row = connection.execute(
            "SELECT query FROM pg_stat_activity WHERE pid = %s AND state = 'idle'",
            [of.manager.listener.info.backend_pid],  # type: ignore[union-attr]
        ).fetchone()
    return None if row is None else row[0]


async def test_what_comes_before_unlisten_is_in_force_is_not_the_beginning(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, heartbeat_interval=0.1) as a,
        node(postgres.uri, prefix) as b,
    ):
        await b.client("/x")
        await a.manager.emit("hello", namespace="/x")
        await acquainted(a, b, namespace="/x")
        gate.hold("answers")
        await b.manager.emit("before", namespace="/x")
        await b.manager.flush()
        monkeypatch.setattr(node_module, "NAMESPACE_IDLE", 0.3)
        unlisten = f'UNLISTEN "{prefix}#/x"'
        await eventually(lambda: _last_statement(postgres.uri, a) == unlisten)
        monkeypatch.undo()
        for _ in range(4):
            await b.manager.emit("between", namespace="/x")
        await b.manager.flush()
        async with anyio.create_task_group() as tg:
            tg.start_soon(functools.partial(a.manager.emit, "again", namespace="/x"))
            await anyio.wait_all_tasks_blocked()
            gate.release()
        await acquainted(a, b, namespace="/x")
        await b.manager.emit("after", namespace="/x")
        await b.manager.flush()
        await a.manager.ping()
        assert a.manager.stats().lost == 0


async def test_a_statement_of_a_listener_that_stood_still_is_not_given_up(
    uri: str, prefix: str
) -> None:
    async def answer() -> str:
        time.sleep(0.3)  # noqa: ASYNC251 - the process stands still
        await anyio.sleep(0.02)
        return "answer"

    async with node(uri, prefix, heartbeat_interval=0.1, heartbeat_timeout=0.2) as a:
        listener = a.manager._node.listener  # type: ignore[union-attr]
        # like one of its own: nothing else is sent on its connection
        assert await listener._patience.wait(listener.connection, answer()) == "answer"
        with pytest.raises(Exception, match="had no answer within"):
            await listener._patience.wait(listener.connection, anyio.sleep(20))


async def test_a_listener_that_is_behind_gives_nobody_up(
    postgres: EmbeddedPostgres, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It gave up its statement, itself and the others while their messages were on their way."""
    caplog.set_level(logging.INFO, "anyio_sio_pg")
    options = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.5}
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix, **options) as a,
        node(postgres.uri, prefix, listen_uri=gate.uri, **options) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        await a.manager.emit("first")
        await eventually(lambda: there.read() or there.log)
        gate.slow_down("answers", 200_000)
        started = anyio.current_time()
        for _ in range(32):
            await a.manager.emit("n", "x" * 9_000)
        await eventually(lambda: b.manager.status == "isolated")
        await eventually(lambda: there.read() or len(there.log) == 33)
        await eventually(lambda: b.manager.status == "connected")
        assert anyio.current_time() - started > 2 * 0.5
        assert b.manager.stats().reconnects == 0
        assert "is silent" not in caplog.text


async def test_many_attachments_over_a_slow_link_are_fetched_in_parts(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    """All were fetched by one statement, which was given up and tried again, for ever."""
    options = {"heartbeat_interval": 0.3, "heartbeat_timeout": 1.0}
    text = "x" * 90_000
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix, **options) as a,
        node(postgres.uri, prefix, listen_uri=gate.uri, **options) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        gate.slow_down("answers", 500_000)
        for number in range(32):
            await a.manager.emit("n", (number, text))
        await there.expect(*(["n", number, text] for number in range(32)))
        assert b.manager.stats().reconnects == 0


async def test_a_message_on_its_way_is_waited_for_by_the_publisher(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    """One that took longer than the heartbeat's timeout was sent again for ever."""
    options = {"heartbeat_interval": 0.3, "heartbeat_timeout": 1.0}
    large = "x" * 2_400_000
    async with (
        proxy(postgres.port, buffer=32_768) as gate,
        node(gate.uri, prefix, listen_uri=postgres.uri, **options) as a,
        node(postgres.uri, prefix) as b,
    ):
        there = await b.client()
        publisher = a.manager.publisher
        assert publisher is not None
        with socket.socket(fileno=os.dup(publisher.pgconn.socket)) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        gate.slow_down("questions", 800_000)
        started = anyio.current_time()
        await a.manager.emit("large", large)
        await there.expect(["large", large])
        assert anyio.current_time() - started > 2 * 1.0
        assert a.manager.stats().reconnects == 0
        assert b.manager.stats().repeated == 0


@pytest.mark.parametrize("durable", [False, True])
async def test_an_attachment_of_a_table_made_again_is_not_taken_for_another(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Its ids begin again, and a slow receiver delivered the second event's content twice."""
    table = f"{prefix}_attachments"
    options: dict[str, Any] = {"table": table}
    if durable:
        options |= {"durable": True, "log_table": f"{prefix}_log"}
    async with two_nodes(uri, prefix, **options) as (a, b):
        await acquainted(a, b)
        there = await b.client()
        fetch, go_on = Listener._fetch, anyio.Event()

        async def late(self: Listener, connection: Any) -> dict[int, bytes]:
            await go_on.wait()
            return await fetch(self, connection)

        monkeypatch.setattr(Listener, "_fetch", late)
        await a.manager.emit("n", "first" + "x" * 9_000)
        await a.manager.flush()
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(f"DROP TABLE {table}")
        await a.manager.emit("n", "second" + "x" * 9_000)
        await a.manager.flush()
        go_on.set()
        await a.manager.emit("last")
        await eventually(lambda: there.read() or there.events()[-1:] == [["last"]])
        texts = [event[1].rstrip("x") for event in there.events()[:-1]]
        assert texts == (["first", "second"] if durable else ["second"])
        assert b.manager.stats().lost == (0 if durable else 1)


async def test_a_message_that_cannot_be_handled_is_logged_once_and_holds_nothing_up(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix) as a, node(uri, prefix, on_error=errors.append) as b:
        await acquainted(a, b)
        there = await b.client(rooms=["r"])

        def fail(message: object) -> None:
            raise ZeroDivisionError("on purpose")

        assert b.manager._node is not None
        monkeypatch.setitem(b.manager._node._dispatch, SocketsJoin, fail)
        await a.manager.sockets_join("other", to="r")
        await a.manager.emit("after")
        await there.expect(["after"])
    assert [str(error) for error in errors] == ["on purpose"]
    logged = [r.getMessage() for r in caplog.records if r.levelno > logging.INFO]
    assert logged == ["a SocketsJoin could not be handled"]


async def test_a_callback_keeps_its_namespace_listened_to(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "NAMESPACE_IDLE", 0.3)
    answers: list[Any] = []
    async with two_nodes(uri, prefix, **FAST) as (a, b):
        there = await b.client("/x")
        await a.manager.emit("q", namespace="/x", to=there.sids["/x"], callback=answers.append)
        await eventually(lambda: there.events("/x"))
        await anyio.sleep(1.5)
        await there.answer("late", namespace="/x")
        await eventually(lambda: answers)


async def test_large_events_for_rooms_that_are_empty_do_not_stay_in_the_table(
    uri: str, prefix: str
) -> None:
    table = f"t_{prefix}"
    async with (
        node(uri, prefix, table=table, cleanup_interval=1),
        open_postgres_emitter(uri, prefix=prefix, table=table) as emitter,
    ):
        await emitter.emit("big", "x" * 10_000, to="nobody")
        await emitter.flush()
        with psycopg.connect(uri, autocommit=True) as connection:

            def rows() -> int:
                return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[index]

            # it may be gone again by now
            put_in = connection.execute("SELECT pg_sequence_last_value(%s)", [f"{table}_id_seq"])
            assert put_in.fetchone() == (1,)
            await eventually(lambda: rows() == 0)


async def test_a_server_that_takes_no_writes_is_not_asked_again_at_once(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    errors: list[Exception] = []
    uri = own_postgres.uri
    async with node(uri, prefix, on_error=errors.append, shutdown_timeout=1) as a:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
        await anyio.sleep(0.2)
        await a.manager.emit("big", "x" * 10_000)
        await anyio.sleep(3)
        reconnects = a.manager.stats().reconnects
        with psycopg.connect(
            uri, autocommit=True, options="-c default_transaction_read_only=off"
        ) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = off")
            connection.execute("SELECT pg_reload_conf()")
        assert reconnects < 10
        await eventually(lambda: a.manager.stats().queue_depth == 0)


async def test_a_hook_of_ones_own_that_hangs_or_fails_is_as_any_nodes(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        b.manager.custom_hook(lambda data: data)

        @a.manager.custom_hook
        async def hang(data: Any) -> None:
            await anyio.sleep(30)

        with anyio.fail_after(20), pytest.raises(RequestTimeoutError) as caught:
            await a.manager.custom_request("x", timeout=2)
        assert caught.value.partial == ["x"]
        assert caught.value.missing == {a.manager.uid}

        @a.manager.custom_hook
        def fail(data: Any) -> None:
            raise ZeroDivisionError

        assert await a.manager.custom_request("x") == [None, "x"]


async def test_a_message_is_not_dropped_for_an_error_that_passes(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        publisher = a.manager._node.publisher  # type: ignore[union-attr]
        execute = publisher._execute
        failures = 3

        async def flaky(connection: Any, batch: Any) -> None:
            nonlocal failures
            if any(b"bad" in message.head for message in batch):
                raise psycopg.errors.InvalidParameterValue
            if len(batch) < 4 and failures:
                failures -= 1
                raise psycopg.errors.SerializationFailure
            await execute(connection, batch)

        publisher._execute = flaky
        for number in range(8):
            await a.manager.emit("bad" if number == 3 else "n", number)
        await a.manager.flush()
        await there.expect(*(["n", number] for number in range(8) if number != 3))


async def test_emit_does_not_wait_for_a_local_client_that_is_closed(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        go_on = anyio.Event()

        async def close(*args: Any) -> None:
            await go_on.wait()

        a.server._send_eio_packet = close
        here.socket.last_ping = 1
        with anyio.fail_after(20):
            await a.manager.emit("first")
        await there.expect(["first"])
        go_on.set()


async def test_a_stall_of_the_event_loop_does_not_make_others_seem_dead(
    uri: str, prefix: str
) -> None:
    async with (
        node(uri, prefix, heartbeat_interval=0.2, heartbeat_timeout=3) as a,
        node(uri, prefix, heartbeat_interval=0.1, heartbeat_timeout=10) as b,
    ):
        await acquainted(a, b)
        gone: list[Any] = []
        left = a.manager._node.requests.left  # type: ignore[union-attr]
        a.manager._node.requests.left = lambda *args: (gone.append(args), left(*args))  # type: ignore[union-attr,assignment,func-returns-value]
        time.sleep(3.5)  # noqa: ASYNC251
        await anyio.sleep(0.5)
        assert gone == []


async def test_callbacks_of_clients_that_never_answer_are_forgotten(uri: str, prefix: str) -> None:
    async with node(uri, prefix, **FAST) as a, node(uri, prefix, **FAST) as b:
        await acquainted(a, b)
        here, there = await a.client(), await b.client()
        for _ in range(3):
            with pytest.raises(RequestTimeoutError):
                await a.manager.emit_with_ack("e", timeout=0.05)
        await eventually(lambda: len(here.events()) + len(there.events()) == 6)
        for n, client in ((a, here), (b, there)):
            await eventually(lambda n=n, c=client: len(n.manager.callbacks.get(c.sid, {0: 0})) == 1)


async def test_a_client_cannot_spoil_what_node_reads_of_it(uri: str, prefix: str) -> None:
    # Node's MessagePack decoder refuses a whole message for this key
    async with two_nodes(uri, prefix) as (a, b):
        auth = {"__proto__": 1, "ä": ["__proto__", {"__proto__": 2, "k": 3}]}
        client = await b.client(auth=auth, QUERY_STRING="__proto__=1&q=2")
        async with b.server.session(client.sid) as session:
            session.update({"__proto__": 1, "text": "ä __proto__"})
        (found,) = await a.manager.fetch_sockets()
        assert found.data == {"text": "ä __proto__"}
        assert found.handshake["auth"] == {"ä": ["__proto__", {"k": 3}]}
        assert found.handshake["query"] == {"q": "2"}


@pytest.mark.parametrize("name", ["connect", "connection", "new_namespace"])
async def test_node_is_sent_no_events_of_its_own(uri: str, prefix: str, name: str) -> None:
    async with node(uri, prefix) as a, open_postgres_emitter(uri, prefix=prefix) as emitter:
        for call in (
            a.manager.server_side_emit,
            a.manager.server_side_call,
            emitter.server_side_emit,
        ):
            with pytest.raises(
                ValueError, match=rf"^the server-side event name '{name}' is reserved"
            ):
                await call(name)


async def test_a_client_keeps_its_own_room(uri: str, prefix: str) -> None:
    # it is by that room that the cluster addresses it
    async with two_nodes(uri, prefix) as (a, b):
        client = await b.client(rooms=["r"])
        await a.manager.sockets_leave([client.sid, "r"], to=client.sid)
        await a.server.close_room(client.sid)
        assert await a.manager.client_rooms(client.sid) == {client.sid}
        await a.manager.remote_join(client.sid, "s")
        assert await a.manager.client_rooms(client.sid) == {client.sid, "s"}


async def test_clients_use_up_no_sessions_on_the_1x_wire(uri: str, prefix: str) -> None:
    # there, a namespace that is counted takes a session
    async with node(uri, prefix, wire="legacy") as a:
        a.server.on("event", lambda sid: None, namespace="/declared")
        await a.client("/declared")
        before = len(sessions(uri, f"socket.io-{prefix}-request"))
        assert before == 2
        for number in range(20):
            await a.client(f"/{number}")
        assert len(sessions(uri, f"socket.io-{prefix}-request")) == before


async def test_a_heartbeat_does_not_stand_in_for_an_announcement(uri: str, prefix: str) -> None:
    # nobody answers it, so that nobody was known there before the next one
    seldom = {"heartbeat_interval": 60, "heartbeat_timeout": 120}
    async with two_nodes(uri, prefix, **seldom) as (a, b):
        await b.client("/chat")
        inner = a.manager._node
        start_listening = inner._start_listening

        async def and_a_heartbeat(namespace: Any) -> None:
            await start_listening(namespace)
            inner._send_heartbeat(namespace)

        inner._start_listening = and_a_heartbeat
        await inner.join("/chat")
        await eventually(lambda: inner.members("/chat") == {b.manager.uid})


async def test_what_is_joined_while_the_listener_reconnects_is_listened_to(
    uri: str, prefix: str
) -> None:
    # between its last look at the channels and its being connected nobody sent that LISTEN
    seldom = {"heartbeat_interval": 60, "heartbeat_timeout": 120}
    async with two_nodes(uri, prefix, **seldom) as (a, b):
        listener = b.manager._node.listener
        introduce = listener._introduce
        waits, go_on = anyio.Event(), anyio.Event()

        async def introduce_late(connection: Any) -> None:
            waits.set()
            await go_on.wait()
            await introduce(connection)

        listener._introduce = introduce_late
        listener.reconnect("for the test")
        await waits.wait()
        there = await b.client("/chat")
        go_on.set()
        await eventually(lambda: b.manager.status == "connected")
        await a.manager.emit("hello", namespace="/chat")
        await there.expect(["hello"], namespace="/chat")


async def test_an_unlogged_log_is_not_taken_for_durable(uri: str, prefix: str) -> None:
    tables = {"log_table": f"{prefix}_log", "table": f"{prefix}_attachments"}
    async with node(uri, prefix, durable="unlogged", **tables):
        pass
    with pytest.raises(AdapterError, match=r"(?s)is unlogged.*SET LOGGED"):
        async with node(uri, prefix, durable=True, **tables):
            pass


async def test_a_node_that_is_told_of_itself_does_not_wait_for_itself(
    uri: str, prefix: str
) -> None:
    async with node(uri, prefix) as a:
        uid = a.manager.uid
        # with a space, so that they do not begin as this node's own do
        answer = f'{{"uid": "{uid}","type":8,"nsp":"/","data":{{"requestId":"r","sockets":[]}}}}'
        beat = f'{{"uid": "{uid}","type":2,"nsp":"/"}}'
        with psycopg.connect(uri, autocommit=True) as connection:
            for channel, payload in (
                (f"{prefix}@{uid}", answer),
                (f"{prefix}@{uid}", answer.replace(uid, "emitter")),
                (f"{prefix}#/", answer),
                (f"{prefix}#/", beat),
            ):
                connection.execute("SELECT pg_notify(%s, %s)", [channel, payload])
        await a.manager.ping()
        assert a.manager.stats().nodes == 0
        assert await a.manager.clients() == set()


async def test_the_first_statement_of_a_listener_has_its_time_as_well(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Listener._listen_all
    options = {"heartbeat_interval": 0.1, "heartbeat_timeout": 0.3}
    async with proxy(postgres.port) as gate:

        async def without_answers(self: Listener, connection: Any) -> None:
            gate.hold("answers")
            await real(self, connection)

        monkeypatch.setattr(Listener, "_listen_all", without_answers)
        # Trio starts tasks in any order
        for _ in range(6):
            gate.release()
            with anyio.fail_after(20), pytest.raises(AdapterError, match="had no answer within"):
                async with node(postgres.uri, prefix, listen_uri=gate.uri, **options):
                    pass


async def test_other_tasks_run_while_many_messages_are_delivered(uri: str, prefix: str) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        put = there.socket.queue.put_nowait
        slow: list[int] = []

        def put_slowly(packet: Any) -> None:
            time.sleep(0.002)
            slow.append(turns)
            put(packet)

        there.socket.queue.put_nowait = put_slowly
        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            for number in range(200):
                await a.manager.emit("n", number)
            await eventually(lambda: len(slow) == 200)
            tg.cancel_scope.cancel()
        # 5 ms are three of them, and Trio may let two turns follow each other
        assert max(Counter(slow).values()) <= 6
