"""The ten promises of the design, each by its name, on both loops."""

from __future__ import annotations

import json
import logging
import os
import threading
from types import SimpleNamespace
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import (
    AdapterClosedError,
    AdapterError,
    ConnectionLostError,
    MessagesLostError,
    PublishError,
    RequestTimeoutError,
    open_postgres_adapter,
)
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, acquainted, eventually, node, sessions, stopwatch, two_nodes
from proxy import proxy

pytestmark = pytest.mark.anyio


def notify(uri: str, channel: str, payload: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("SELECT pg_notify(%s, %s)", [channel, payload])


# 1. Local first, then the cluster


async def test_1_clients_here_get_an_event_whatever_postgresql_does(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, outbox_limit=5, publish_timeout=0.2, **FAST) as a,
        node(postgres.uri, prefix) as b,
    ):
        await acquainted(a, b)
        here, there = await a.client(), await b.client()
        gate.refusing = True
        await gate.cut()
        sent: list[list[Any]] = []
        with pytest.raises(PublishError, match="outbox is full") as caught:
            for number in range(20):
                sent.append(["n", number])
                await a.manager.emit("n", number)
        assert caught.value.undelivered == 1
        assert here.events() == sent
        assert len(sent) > 1
        gate.refusing = False
        # the one that was refused is the only one missing, and in order
        await there.expect(*sent[:-1])


async def test_1_data_that_json_cannot_hold_is_refused_before_anything_is_sent(
    uri: str, prefix: str
) -> None:
    class OwnError(Exception):
        pass

    def dumps(value: Any, **options: Any) -> str:
        if "own" in str(value):
            raise OwnError
        return json.dumps(value, **options)

    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        for data in (object(), {"deep": [{1, 2}]}, ("args", object())):
            with pytest.raises(TypeError, match="not JSON serializable"):
                await a.manager.emit("bad", data)
        for data in (float("nan"), [float("inf")], {"a": -float("inf")}):
            with pytest.raises(ValueError, match="not JSON compliant"):
                await a.manager.emit("bad", data)
        with pytest.raises(ValueError, match="reserved"):
            await a.manager.emit("disconnect")
        with pytest.raises(UnicodeEncodeError):
            await a.manager.emit("bad", room="\ud800")
        with pytest.raises(TypeError, match="a room must be a str or an int"):
            await a.manager.emit("bad", room=[("tuple",)])  # type: ignore[list-item]
        a.manager.json = SimpleNamespace(dumps=dumps, loads=json.loads)
        with pytest.raises(OwnError):
            await a.manager.emit("bad", "own")
        await a.manager.emit("NaN", "Infinity is but a word")
        for client in (here, there):
            await client.expect(["NaN", "Infinity is but a word"])


# 2. Order


async def test_2_every_other_node_delivers_in_the_order_of_the_calls(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client(rooms=["r"])
        expected = []
        for number in range(300):
            data: Any = number
            if number % 7 == 0:
                data = [number, "x" * 9_000]
            elif number % 11 == 0:
                data = [number, b"binary"]
            expected.append(["n", data])
            await a.manager.emit("n", data, room="r" if number % 2 else None)
        await there.expect(*expected)


async def test_2_tasks_that_wait_for_room_are_served_in_their_order(uri: str, prefix: str) -> None:
    async with node(uri, prefix, outbox_limit=3) as a, node(uri, prefix) as b:
        await acquainted(a, b)
        here, there = await a.client(), await b.client()

        async def emit(name: str) -> None:
            for number in range(100):
                await a.manager.emit(name, number)

        async with anyio.create_task_group() as tg:
            for name in ("x", "y", "z"):
                tg.start_soon(emit, name)
        await eventually(lambda: len(there.events()) == 300)
        # clients here have seen the calls in their order
        assert there.events() == here.events()


async def test_2_the_order_holds_in_a_namespace_that_is_new_to_the_node(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        for number in range(10):
            namespace = f"/new{number}"
            there = await b.client(namespace)
            calls: list[list[Any]] = []

            async def emit(value: int, name: str = namespace, made: list[Any] = calls) -> None:
                made.append(["n", value])
                await a.manager.emit("n", value, namespace=name)

            async with anyio.create_task_group() as tg:
                for value in range(20):
                    tg.start_soon(emit, value)
            await there.expect(*calls, namespace=namespace)


# 3. Never twice, never merged


async def test_3_identical_events_are_all_delivered(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        for _ in range(100):
            await a.manager.emit("same", "x")
        for _ in range(10):
            await a.manager.emit("same", "x" * 9_000)
        await there.expect(*[["same", "x"]] * 100, *[["same", "x" * 9_000]] * 10)


async def test_3_a_batch_of_unknown_fate_is_sent_again_and_known_by_its_numbers(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, listen_uri=postgres.uri, heartbeat_interval=60, heartbeat_timeout=90)
        as a,
        node(postgres.uri, prefix) as b,
    ):  # fmt: skip
        await acquainted(a, b)
        there = await b.client()
        # no batch may be on its way whose answer would be held, too
        await a.manager.flush()
        gate.hold("answers")
        await a.manager.emit("n", 0)
        # committed, as the other node shows, but the answer does not come
        await there.expect(["n", 0])
        for number in range(1, 10):
            await a.manager.emit("n", number)
        await gate.cut()
        gate.release()
        await there.expect(*[["n", number] for number in range(10)])
        assert b.manager.stats().repeated == 1
        assert b.manager.stats().lost == 0


# 4. Group commit


async def test_4_while_one_batch_is_committed_the_next_one_fills(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(gate.uri, prefix, listen_uri=postgres.uri, heartbeat_interval=60, heartbeat_timeout=90)
        as a,
        node(postgres.uri, prefix) as b,
    ):  # fmt: skip
        await acquainted(a, b)
        there = await b.client()
        await a.manager.flush()
        batches = a.manager.stats().batches
        gate.hold("answers")
        await a.manager.emit("n", 0)
        await there.expect(["n", 0])
        for number in range(1, 201):
            await a.manager.emit("n", number)
        assert a.manager.stats().queue_depth == 201
        gate.release()
        await a.manager.flush()
        assert a.manager.stats().batches - batches == 2
        await there.expect(*[["n", number] for number in range(201)])


async def test_4_a_message_that_postgresql_refuses_fails_alone(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    name = f"latin1_{prefix}"
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
            " TEMPLATE template0"
        )
    uri = postgres.uri.rsplit("/", 1)[0] + f"/{name}"
    errors: list[Exception] = []
    async with node(uri, prefix, on_error=errors.append) as a, node(uri, prefix) as b:
        await acquainted(a, b)
        there = await b.client()
        for number in range(20):
            await a.manager.emit("n", number)
            if number == 10:
                # no character of LATIN1
                await a.manager.emit("n", "refused", room=["\U0001f600"])
        await there.expect(*[["n", number] for number in range(20)])
        assert a.manager.stats().dropped == 1
        assert [type(error) for error in errors] == [PublishError]
        assert "has no equivalent" in str(errors[0])
        assert b.manager.stats().lost == 1


# 5. Loss is never silent


async def test_5_a_gap_is_counted_and_reported_at_the_tail_too(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    errors: list[Exception] = []
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix) as a,
        node(postgres.uri, prefix, listen_uri=gate.uri, on_error=errors.append) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        await a.manager.emit("before")
        await there.expect(["before"])
        gate.refusing = True
        await gate.cut()
        for number in range(50):
            await a.manager.emit("missed", number)
        await a.manager.flush()
        gate.refusing = False
        # nothing more is emitted: the heartbeat that answers the returning node tells
        await eventually(lambda: b.manager.stats().lost == 50)
        lost = [error for error in errors if isinstance(error, MessagesLostError)]
        assert [(error.count, error.sender, error.namespace) for error in lost] == [
            (50, a.manager.uid, "/")
        ]
        assert any(isinstance(error, ConnectionLostError) for error in errors)
        await a.manager.emit("after")
        await there.expect(["before"], ["after"])
        assert b.manager.stats().lost == 50


# 6. A listener that is deaf is found


async def test_6_a_deaf_listener_is_found_and_reconnected(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    errors: list[str] = []
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix) as a,
        node(
            postgres.uri,
            prefix,
            listen_uri=gate.uri,
            on_error=lambda error: errors.append(str(error)),
            **FAST,
        ) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        gate.hold("answers")
        await eventually(lambda: b.manager.status == "isolated")
        await eventually(lambda: any("deaf" in error for error in errors))
        await gate.cut()
        gate.release()
        await eventually(lambda: b.manager.status == "connected")
        assert b.manager.stats().reconnects >= 1
        await a.manager.emit("heard")
        await eventually(lambda: ["heard"] in there.events())


async def test_6_lost_connections_come_back_and_are_reported(
    own_postgres: EmbeddedPostgres, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with two_nodes(own_postgres.uri, prefix, on_error=errors.append, **FAST) as (a, b):
        there = await b.client()
        await anyio.to_thread.run_sync(own_postgres.stop)
        await eventually(lambda: a.manager.status == b.manager.status == "reconnecting")
        await a.manager.emit("outage")
        await eventually(lambda: a.manager.status == b.manager.status == "isolated")
        await anyio.to_thread.run_sync(own_postgres.start)
        await eventually(lambda: a.manager.status == b.manager.status == "connected")
        await a.manager.emit("after")
        await eventually(lambda: ["after"] in there.events())
        assert a.manager.stats().reconnects >= 2
    lost = [error for error in errors if isinstance(error, ConnectionLostError)]
    assert len(lost) >= 4
    assert {record.getMessage() for record in caplog.records} >= {str(error) for error in lost}


# 7. Garbage is survived


async def test_7_garbage_is_counted_and_logged_once_a_kind(
    uri: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = [
        "",
        "no json",
        "[]",
        "{}",
        "null",
        '{"type":3}',
        '{"uid":"x","type":99,"nsp":"/"}',
        '{"uid":"x","type":3,"nsp":"/"}',
        '{"uid":"x","type":3,"nsp":"/","data":{"packet":{"data":{}},"opts":{}}}',
        '{"uid":"x","type":3,"nsp":"/","data":{"packet":{"data":[]},"opts":{}}}',
        '{"uid":"x","type":3,"nsp":"/","data":{"packet":{"data":["connect"]},"opts":{}}}',
        '{"uid":"x","type":3,"nsp":"/","attachmentId":"1; DROP TABLE x"}',
        '{"uid":"x","type":3,"nsp":"/","attachmentId":"-1"}',
        '{"uid":"x","type":4,"nsp":"/","data":{"opts":{"rooms":"r"},"rooms":["s"]}}',
        '{"uid":"x","type":1,"nsp":"/","seq":-1}',
        '{"uid":"x","type":1,"nsp":"/","seq":99999999999999999999999}',
        '{"uid":"' + "x" * 7_000 + '","type":1}',
        "[" * 7_900,
    ]
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        caplog.clear()
        for _ in range(3):
            for payload in garbage:
                notify(uri, f"{prefix}#/", payload)
        await a.manager.emit("fine")
        await there.expect(["fine"])
        assert b.manager.stats().garbage == 3 * len(garbage)
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert 0 < len(warnings) <= 2 * len(garbage)
        assert b.manager.status == "connected"


async def test_7_an_attachment_that_is_missing_or_foreign_stops_nothing(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        with psycopg.connect(uri, autocommit=True) as connection:
            row = connection.execute(
                "INSERT INTO socket_io_attachments (payload) VALUES ('\\xc1ff') RETURNING id"
            ).fetchone()
        assert row is not None
        for number, attachment in enumerate((row[0], 2**62)):
            notify(
                uri,
                f"{prefix}#/",
                json.dumps({"uid": "f" * 16, "type": 3, "seq": number, "attachmentId": attachment}),
            )
        await a.manager.emit("fine")
        await there.expect(["fine"])
        assert b.manager.stats().garbage == 1
        assert b.manager.stats().lost == 1


# 8. Requests


def heartbeat(uri: str, prefix: str, uid: str, kind: int = 2) -> None:
    notify(uri, f"{prefix}#/", json.dumps({"uid": uid, "type": kind, "nsp": "/"}))


async def test_8_a_request_resolves_as_soon_as_every_live_node_has_answered(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix, requests_timeout=60) as (a, b):
        there = await b.client()
        with anyio.fail_after(10):
            assert await a.manager.clients() == {there.sid}


async def test_8_a_node_that_leaves_or_dies_is_not_waited_for(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix, requests_timeout=60, **FAST) as (a, b):
        there = await b.client()
        for leave in (True, False):
            heartbeat(uri, prefix, "dead" * 4)
            await eventually(lambda: a.manager.stats().nodes == 2)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tg:

                    async def ask() -> None:
                        assert await a.manager.clients() == {there.sid}

                    tg.start_soon(ask)
                    if leave:
                        heartbeat(uri, prefix, "dead" * 4, kind=13)
            assert a.manager.stats().nodes == 1


async def test_8_no_request_takes_longer_than_its_timeout(uri: str, prefix: str) -> None:
    # long enough for those who answer
    async with two_nodes(uri, prefix, requests_timeout=5) as (a, b):
        here, there = await a.client(), await b.client()
        heartbeat(uri, prefix, "mute" * 4)
        await eventually(lambda: a.manager.stats().nodes == 2)
        partial: dict[str, Any] = {}

        async def ask(name: str, *args: Any) -> None:
            with pytest.raises(RequestTimeoutError) as caught:
                await getattr(a.manager, name)(*args)
            assert caught.value.missing == {"mute" * 4}
            partial[name] = caught.value.partial

        async with stopwatch() as took, anyio.create_task_group() as tg:
            tg.start_soon(ask, "clients")
            tg.start_soon(ask, "all_rooms")
            tg.start_soon(ask, "fetch_sockets")
            tg.start_soon(ask, "server_side_call", "anything")
        assert took.seconds < 7
        both = {here.sid, there.sid}
        assert set(partial["clients"]) == set(partial["all_rooms"]) == both
        assert {socket.id for socket in partial["fetch_sockets"]} == both
        assert partial["server_side_call"] == [None]
        # whoever has the socket is enough
        assert await a.manager.client_rooms(there.sid) == {there.sid}


# 9. Deterministic end


@pytest.mark.usefixtures("patient_end")
async def test_9_nothing_is_left_when_the_block_ends(uri: str, prefix: str) -> None:
    name = f"end-{prefix}"
    tagged = f"{uri}?application_name={name}"
    tasks = {task.id for task in anyio.get_running_tasks()}
    threads = set(threading.enumerate())
    files = len(os.listdir("/proc/self/fd"))
    async with node(uri, prefix) as peer:
        there = await peer.client()
        async with node(tagged, prefix) as a:
            await acquainted(peer, a)
            assert len(sessions(uri, name)) == 2
            await a.client()
            await a.manager.emit("last words", "x" * 10_000)
        # at once: nobody has to wait for the server to notice
        assert sessions(uri, name) == []
        assert a.manager.status == "closed"
        for call in (a.manager.clients, a.manager.flush, lambda: a.manager.emit("too late")):
            with pytest.raises(AdapterClosedError):
                await call()
        await there.expect(["last words", "x" * 10_000])
        await eventually(lambda: peer.manager.stats().nodes == 0)
    assert {task.id for task in anyio.get_running_tasks()} == tasks
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) <= files


async def test_9_pending_requests_end_with_adapter_closed(uri: str, prefix: str) -> None:
    ended: list[Exception] = []

    async with anyio.create_task_group() as tg, node(uri, prefix, requests_timeout=60) as a:
        heartbeat(uri, prefix, "mute" * 4)
        await eventually(lambda: a.manager.stats().nodes == 1)
        # the mute node is not asked for this: it returns when the node has settled
        await a.manager.custom_request()

        async def ask(call: Any, started: anyio.Event) -> None:
            started.set()
            try:
                await call()
            except AdapterClosedError as exc:
                ended.append(exc)

        for call in (a.manager.clients, lambda: a.manager.server_side_call("x")):
            started = anyio.Event()
            tg.start_soon(ask, call, started)
            await started.wait()
        await eventually(lambda: len(a.manager._node.requests._by_id) == 2)
    assert len(ended) == 2


async def test_9_what_could_not_be_sent_is_counted(postgres: EmbeddedPostgres, prefix: str) -> None:
    errors: list[Exception] = []
    async with proxy(postgres.port) as gate:
        with anyio.fail_after(10), pytest.raises(PublishError) as caught:
            async with node(gate.uri, prefix, shutdown_timeout=0.3, on_error=errors.append) as a:
                gate.refusing = True
                await gate.cut()
                for number in range(7):
                    await a.manager.emit("n", number)
        assert caught.value.undelivered == 7
        assert errors[-1] is caught.value or str(errors[-1]) == str(caught.value)


async def test_9_the_error_on_its_way_out_carries_the_count(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate:
        with pytest.raises(ZeroDivisionError) as caught:
            async with node(gate.uri, prefix, shutdown_timeout=0.3) as a:
                gate.refusing = True
                await gate.cut()
                await a.manager.emit("n")
                raise ZeroDivisionError
        assert "1 message(s) could not be sent" in caught.value.__notes__[0]


async def test_9_an_unreachable_server_does_not_hold_up_an_end_with_nothing_to_send(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with proxy(postgres.port) as gate:
        async with node(gate.uri, prefix, shutdown_timeout=60) as a:
            gate.refusing = True
            await gate.cut()
            await eventually(lambda: a.manager.status == "reconnecting")
            started = anyio.current_time()
        assert anyio.current_time() - started < 20


@pytest.mark.parametrize("frozen", [False, True])
async def test_9_cancelling_from_outside_is_honoured_within_the_bound(
    postgres: EmbeddedPostgres, prefix: str, frozen: bool
) -> None:
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix) as b,
        stopwatch() as took,
    ):
        there = await b.client()
        with anyio.move_on_after(60) as outside:
            async with node(gate.uri, prefix, shutdown_timeout=0.5 if frozen else 20) as a:
                await acquainted(a, b)
                if frozen:
                    gate.hold("questions")
                await a.manager.emit("accepted")
                took.seconds = 0.0
                outside.cancel()
                await anyio.sleep_forever()
        assert outside.cancelled_caught
        assert took.seconds < 5
        if not frozen:
            await there.expect(["accepted"])


# 10. Secrets stay out of logs and errors


async def test_10_a_password_is_never_printed(
    own_postgres: EmbeddedPostgres, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cret%2Fword"
    uri = f"postgresql://postgres:{secret}@127.0.0.1:{own_postgres.port}/postgres"
    printed: list[str] = []
    async with open_postgres_adapter(
        uri, prefix=prefix, on_error=lambda e: printed.append(f"{e!r} {e}"), **FAST
    ) as manager:
        printed += [repr(manager), str(manager), repr(manager._options)]
        await anyio.to_thread.run_sync(own_postgres.stop)
        await eventually(lambda: manager.status == "isolated")
    try:
        async with open_postgres_adapter(uri, prefix=prefix):
            raise AssertionError("the server is stopped")
    except AdapterError as exc:
        printed += [str(exc), repr(exc)]
    printed += [record.getMessage() for record in caplog.records]
    assert any("127.0.0.1" in line for line in printed)
    assert not [line for line in printed if secret in line or "s3cret/word" in line]
