"""Bad input, broken sessions, cancellation: nothing is lost without a word, nothing stops."""

from __future__ import annotations

import itertools
import types
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from anyio_sio_pg import (
    AdapterClosedError,
    MessagesLostError,
    PostgresManager,
    RequestTimeoutError,
    open_postgres_adapter,
)
from anyio_sio_pg.namespace import Namespace
from anyio_sio_pg.node import Node
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import (
    FAST,
    Client,
    TestNode,
    acquainted,
    eventually,
    node,
    sessions,
    terminate,
    two_nodes,
)
from proxy import proxy

pytestmark = pytest.mark.anyio


# Sizes


def attachments(uri: str, table: str) -> int:
    with psycopg.connect(uri, autocommit=True) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def last_attachment(uri: str, table: str) -> int | None:
    """The id of the last attachment that was ever put in."""
    with psycopg.connect(uri, autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_sequence_last_value(%s)", [f"{table}_id_seq"]
        ).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("character", ["x", "\u00e4", "\u20ac", "\U0001f600"])
async def test_payloads_around_the_limit_of_a_notification(
    uri: str, prefix: str, character: str
) -> None:
    table = f"{prefix}_sizes"
    width = len(character.encode())
    async with two_nodes(uri, prefix, table=table) as (a, b):
        there = await b.client(rooms=["r"])
        # rooms go out as UTF-8, data as the server's JSON writes it
        sizes: list[int] = []
        publisher = a.manager._node.publisher
        put = publisher.put
        publisher.put = lambda m, *rest: (
            m.control or sizes.append(len(m.head) if m.body is None else 0),
            put(m, *rest),
        )  # type: ignore[method-assign]
        # the sequence number has two digits from here on
        expected = [["n", 0]] * 11
        for _ in expected:
            await a.manager.emit("n", 0, room=["r", character])
        base = sizes[-1]
        sizes.clear()
        for size in range(7_985, 8_012):
            count, padding = divmod(size - base, width)
            room = character * (count + 1) + "p" * padding
            await a.manager.emit("n", 0, room=["r", room])
            expected.append(["n", 0])
        await there.expect(*expected)
        assert sizes == [*range(7_985, 8_000), *[0] * 12]
        assert attachments(uri, table) == 12


async def test_attachments_are_deleted_after_a_while(uri: str, prefix: str) -> None:
    table = f"{prefix}_cleanup"
    async with two_nodes(uri, prefix, table=table, cleanup_interval=1) as (a, b):
        there = await b.client()
        await a.manager.emit("big", "x" * 10_000)
        await there.expect(["big", "x" * 10_000])
        assert last_attachment(uri, table) == 1
        await eventually(lambda: attachments(uri, table) == 0)


async def test_a_dropped_attachments_table_is_made_again(uri: str, prefix: str) -> None:
    table = f"{prefix}_dropped"
    async with two_nodes(uri, prefix, table=table) as (a, b):
        there = await b.client()
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(f"DROP TABLE {table}")
        await a.manager.emit("small")
        await a.manager.emit("big", "x" * 10_000)
        await a.manager.emit("small")
        await there.expect(["small"], ["big", "x" * 10_000], ["small"])


# Names


async def test_a_namespace_without_a_channel_is_refused(uri: str, prefix: str) -> None:
    longest = "/" + "n" * (63 - len(prefix) - 2)
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client(longest)
        await a.manager.emit("fits", namespace=longest)
        await there.expect(["fits"], namespace=longest)
        for namespace in (longest + "n", "/\0", "/" + "\u00e4" * 30, "/\ud800"):
            with pytest.raises(ValueError, match="namespace"):
                await a.manager.emit("too long", namespace=namespace)
            with pytest.raises(ValueError, match="namespace"):
                await a.manager.fetch_sockets(namespace=namespace)
            with pytest.raises(ValueError, match="namespace"):
                await a.manager.sockets_join("r", namespace=namespace)
        with pytest.raises(KeyError):
            await there.connect(longest + "n")
        assert there.refused == ["Unable to connect"]


async def test_a_client_of_a_namespace_without_a_channel_does_not_stop_the_start(
    uri: str, prefix: str
) -> None:
    errors: list[Exception] = []
    made = TestNode(PostgresManager(uri, prefix=prefix, on_error=errors.append))
    early = await made.client("/" + "n" * 63)
    async with made.manager:
        await made.manager.emit("here", namespace="/" + "n" * 63, local=True)
    await early.expect(["here"], namespace="/" + "n" * 63)
    assert [type(error) for error in errors] == [ValueError]


async def test_many_who_start_at_once_get_one_answer(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as a:
        sent = a.manager.stats().sent
        with psycopg.connect(uri) as connection:
            for number in range(50):
                payload = f'{{"uid":"peer{number}","type":1,"nsp":"/"}}'
                connection.execute("SELECT pg_notify(%s, %s)", [f"{prefix}#/", payload])
        await eventually(lambda: a.manager.stats().nodes == 50)
        await a.manager.flush()
        assert sent < a.manager.stats().sent <= sent + 5


async def test_namespaces_that_nobody_uses_are_left(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_sio_pg.node.NAMESPACE_IDLE", 0.3)
    async with two_nodes(uri, prefix, **FAST) as (a, b):
        client = await a.client("/room")
        await acquainted(b, namespace="/room")
        await b.client("/room")
        await eventually(lambda: b.manager._node.members("/room"))
        await client.leave("/room")
        await eventually(lambda: "/room" not in a.manager._node._namespaces)
        await eventually(lambda: not b.manager._node.members("/room"))
        # and it works again
        again = await a.client("/room")
        await b.manager.emit("hello", namespace="/room")
        await again.expect(["hello"], namespace="/room")


async def test_a_namespace_is_not_left_before_it_is_listened_to(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long PostgreSQL takes for LISTEN: its first client would hear nobody."""
    monkeypatch.setattr("anyio_sio_pg.node.NAMESPACE_IDLE", 0.1)
    looked = 0
    idle = Node._idle

    def looking(self: Node, namespace: Namespace, now: float) -> bool:
        nonlocal looked
        looked += namespace.name == "/room"
        return idle(self, namespace, now)

    monkeypatch.setattr(Node, "_idle", looking)
    beats = {"heartbeat_interval": 0.05, "heartbeat_timeout": 10}
    async with (
        proxy(postgres.port) as way,
        node(postgres.uri, prefix) as a,
        node(postgres.uri, prefix, listen_uri=way.uri, **beats) as b,
        anyio.create_task_group() as tasks,
    ):
        clients: list[Client] = []

        async def connect() -> None:
            clients.append(await b.client("/room"))

        way.hold("answers")
        tasks.start_soon(connect)
        await eventually(lambda: looked >= 8)
        assert clients == []
        way.release()
        await eventually(lambda: clients)
        await a.manager.emit("hello", namespace="/room")
        await clients[0].expect(["hello"], namespace="/room")


# Sessions that are ended


def pids(uri: str, name: str) -> list[int]:
    return [pid for pid, _ in sessions(uri, name)]


@pytest.mark.parametrize("victims", ["publisher", "listener", "both"])
async def test_terminated_sessions_while_ten_thousand_events_flow(
    uri: str, prefix: str, victims: str
) -> None:
    total, rounds = 10_000, 5
    # the sender's publisher and the receiver's listener
    sender, receiver = f"tx-{prefix}", f"rx-{prefix}"
    lost: list[int] = []

    def on_error(error: Exception) -> None:
        if isinstance(error, MessagesLostError):
            lost.append(error.count)

    async with (
        node(f"{uri}?application_name={sender}", prefix, listen_uri=uri) as a,
        node(uri, prefix, listen_uri=f"{uri}?application_name={receiver}", on_error=on_error) as b,
    ):
        await acquainted(a, b)
        there = await b.client()

        async def emit() -> None:
            for number in range(total):
                await a.manager.emit("n", number)

        names = {"publisher": [sender], "listener": [receiver], "both": [sender, receiver]}[victims]
        killed: set[int] = set()

        def kill() -> None:
            for name in names:
                found = pids(uri, name)
                killed.update(found)
                terminate(uri, *found)

        def replaced() -> bool:
            return all((now := set(pids(uri, name))) and not now & killed for name in names)

        async with anyio.create_task_group() as tg:
            tg.start_soon(emit)
            for number in range(rounds):
                await eventually(
                    lambda n=number: a.manager.stats().sent > n * total // (rounds + 1)
                )
                await anyio.to_thread.run_sync(kill)
        await a.manager.flush()
        await eventually(replaced)
        await eventually(lambda: b.manager.status == "connected")
        for number in range(total, total + 100):
            await a.manager.emit("n", number)
        await eventually(lambda: [["n", total + 99]] == there.events()[-1:])
        numbers = [data[1] for data in there.events()]
        # in order, none twice, all after the reconnection, and every one that is missing counted
        assert numbers == sorted(set(numbers))
        assert numbers[-100:] == list(range(total, total + 100))
        assert b.manager.stats().lost == sum(lost) == total + 100 - len(numbers)
        if victims == "publisher":
            assert len(numbers) == total + 100
            assert a.manager.stats().reconnects >= 1
        else:
            assert b.manager.stats().reconnects >= 1


async def test_a_server_stopped_for_five_seconds(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with two_nodes(own_postgres.uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        await a.manager.emit("before")
        await there.expect(["before"])
        await anyio.to_thread.run_sync(own_postgres.stop)
        for number in range(50):
            await a.manager.emit("during", number)
        assert len(here.events()) == 51
        await anyio.sleep(5)
        await anyio.to_thread.run_sync(own_postgres.start)
        await a.manager.emit("after")
        await eventually(lambda: b.manager.status == "connected")
        await a.manager.flush()
        await a.manager.emit("back")
        await eventually(lambda: ["back"] in there.events())
        # what was emitted during the outage waited; what the receiver missed is counted
        got = [data for data in there.events() if data[0] in ("during", "after")]
        assert b.manager.stats().lost == 51 - len(got)
        assert got == (here.events()[1:52])[51 - len(got) :]


async def test_a_killed_postmaster(own_postgres: EmbeddedPostgres, prefix: str) -> None:
    async with two_nodes(own_postgres.uri, prefix) as (a, b):
        there = await b.client()
        for number in range(3):
            own_postgres.kill()
            await a.manager.emit("crash", number)
            # both have noticed: none is connected to the server that was
            await eventually(lambda: a.manager.status != "connected")
            await eventually(lambda: b.manager.status != "connected")
            await anyio.to_thread.run_sync(_restart, own_postgres)
            await eventually(lambda: b.manager.status == "connected")
            await a.manager.flush()
            await a.manager.emit("back", number)
            await eventually(lambda n=number: ["back", n] in there.events())
        crashes = [data for data in there.events() if data[0] == "crash"]
        assert len(crashes) + b.manager.stats().lost == 3


def _restart(server: EmbeddedPostgres) -> None:
    """Start a server whose postmaster was killed, once its children have ended."""
    for _ in range(200):
        try:
            server.start()
        except RuntimeError:
            continue
        return
    server.start()


# Cancellation


@types.coroutine
def _stepped(
    steps: Generator[Any, Any, Any], at: int, cancel: Callable[[], None]
) -> Generator[Any, Any, Any]:
    """Run a coroutine's steps, and cancel when it suspends for the ``at``-th time."""
    number = 0
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waiting_for = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as stop:
            return stop.value
        number += 1
        if number == at:
            cancel()
        value = error = None
        try:
            value = yield waiting_for
        except BaseException as exc:  # noqa: BLE001 - for the coroutine to handle
            error = exc


async def cancelled_at(at: int, call: Callable[[], Awaitable[Any]]) -> bool:
    """Run a call and cancel it at its ``at``-th await point; tell whether it has so many."""
    reached = False

    def cancel() -> None:
        nonlocal reached
        reached = True
        scope.cancel()

    with anyio.CancelScope() as scope:
        await _stepped(call().__await__(), at, cancel)
    return reached


async def cancelled_at_every_point(
    call: Callable[[], Awaitable[Any]], check: Callable[[], None] = lambda: None
) -> int:
    """Run a call again and again, cancelled at its first await point, its second, and so on."""
    for at in itertools.count(1):
        with anyio.fail_after(30):
            reached = await cancelled_at(at, call)
        check()
        if not reached:
            return at - 1
    raise AssertionError


@pytest.mark.parametrize("limit", [10_000, 1])
async def test_cancelling_emit_at_every_await_point(uri: str, prefix: str, limit: int) -> None:
    async with node(uri, prefix, outbox_limit=limit) as a, node(uri, prefix) as b:
        await acquainted(a, b)
        here, there = await a.client(), await b.client()
        numbers = itertools.count()
        namespaces = map("/n{}".format, itertools.count())

        async def emit() -> None:
            # a namespace that is new to the node has to be listened to first
            await a.manager.emit("other", namespace=next(namespaces))
            for _ in range(3):
                await a.manager.emit("n", next(numbers))

        assert sum([await cancelled_at_every_point(emit) for _ in range(10)]) >= 10
        await a.manager.emit("end")
        await eventually(lambda: ["end"] in there.events())
        got = [data[1] for data in there.events() if data[0] == "n"]
        seen_here = [data[1] for data in here.events() if data[0] == "n"]
        assert got == sorted(set(got))
        assert set(got) <= set(seen_here)
        assert b.manager.stats().lost == 0


async def test_cancelling_requests_at_every_await_point(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix, requests_timeout=10) as (a, b):
        there = await b.client()

        @b.manager.on_server_side("echo")
        async def echo(value: Any) -> Any:
            return value

        await a.manager.clients()
        calls: list[Callable[[], Awaitable[Any]]] = [
            a.manager.fetch_sockets,
            lambda: a.manager.remote_join(there.sid, "r"),
            lambda: a.manager.server_side_call("echo", 1),
            lambda: a.manager.emit_with_ack("ask", to="nobody"),
            a.manager.ping,
            a.manager.flush,
        ]
        points: dict[Any, int] = {}
        for call in calls:
            points[call] = await cancelled_at_every_point(call)
            assert await a.manager.clients() == {there.sid}
        assert all(points.values())
        assert a.manager._node.requests._by_id == {}
        assert b.manager.stats().lost == a.manager.stats().lost == 0


async def test_cancelling_the_whole_block_at_every_await_point(uri: str, prefix: str) -> None:
    name = f"cancel-{prefix}"
    tagged = f"{uri}?application_name={name}"
    before = {task.id for task in anyio.get_running_tasks()}
    entered: list[int] = []

    async def block() -> None:
        async with open_postgres_adapter(tagged, prefix=prefix) as manager:
            entered.append(1)
            await manager.emit("event", "x" * 9_000)
            await manager.fetch_sockets()

    def check() -> None:
        assert {task.id for task in anyio.get_running_tasks()} == before

    assert await cancelled_at_every_point(block, check) > 20
    assert entered
    await eventually(lambda: sessions(uri, name) == [])


async def test_an_error_in_the_block_leaves_it_as_it_is(uri: str, prefix: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_postgres_adapter(uri, prefix=prefix):
            raise ZeroDivisionError
    with pytest.raises(ExceptionGroup) as caught:
        async with open_postgres_adapter(uri, prefix=prefix):
            raise ExceptionGroup("the user's own", [KeyError("x")])
    assert caught.value.message == "the user's own"


# Use at the wrong time


async def test_outside_of_the_block_only_local_work_is_possible(uri: str, prefix: str) -> None:
    manager = PostgresManager(uri, prefix=prefix)
    made = TestNode(manager)
    client = await made.client(rooms=["r"])
    await manager.emit("local", local=True)
    assert [s.id for s in await _local(manager)] == [client.sid]
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: manager.emit("event"),
        manager.fetch_sockets,
        manager.clients,
        manager.all_rooms,
        lambda: manager.client_rooms("elsewhere"),
        lambda: manager.remote_join("elsewhere", "r"),
        lambda: manager.sockets_join("r"),
        manager.disconnect_sockets,
        lambda: manager.server_side_emit("event"),
        manager.custom_request,
        manager.flush,
        manager.ping,
    ]
    for call in calls:
        with pytest.raises(AdapterClosedError, match="enter its block"):
            await call()
    await client.expect(["local"])
    assert manager.status == "closed"
    async with manager:
        with pytest.raises(RuntimeError, match="already been entered"):
            await manager.__aenter__()
        await manager.emit("event")
    await client.expect(["local"], ["event"])


async def _local(manager: PostgresManager) -> list[Any]:
    return await manager.fetch_sockets(local=True)


# Beginnings and ends that overlap with others' messages


async def test_a_node_that_starts_answers_those_who_ask_meanwhile(uri: str, prefix: str) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix, requests_timeout=10) as a:
        here = await a.client()
        done = anyio.Event()
        asked = 0

        async def ask() -> None:
            nonlocal asked
            while not done.is_set():
                assert here.sid in await a.manager.clients()
                asked += 1

        async def emit() -> None:
            while not done.is_set():
                await a.manager.emit("event", to="elsewhere", callback=print)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tg:
            tg.start_soon(emit)
            for _ in range(5):
                tg.start_soon(ask)
            for _ in range(20):
                async with node(uri, prefix, on_error=errors.append) as b:
                    await b.client()
            done.set()
        assert asked
        await eventually(lambda: a.manager.stats().nodes == 0)
    assert errors == []


async def test_a_message_in_the_name_of_the_node_itself_is_survived(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        with psycopg.connect(uri, autocommit=True) as connection:
            for probe in ('"x"', "-1", "[1]", "99999999999999999999"):
                payload = f'{{"uid":"{b.manager.uid}","type":2,"probe":{probe}}}'
                connection.execute("SELECT pg_notify(%s, %s)", [f"{prefix}#/", payload])
        await a.manager.emit("fine")
        await there.expect(["fine"])
        assert b.manager.stats().reconnects == 0
        assert b.manager.stats().garbage == 4


# What waits


async def test_what_is_asked_during_an_outage_is_not_done_after_it(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    """It filled the outbox, and was carried out when nobody waited for it any more."""
    options = {"requests_timeout": 0.1, "outbox_limit": 20}
    done: list[Any] = []
    async with node(own_postgres.uri, prefix, **options) as a, node(own_postgres.uri, prefix) as b:
        b.manager.on_server_side("charge")(done.append)
        await acquainted(a, b)
        there = await b.client()
        await anyio.to_thread.run_sync(own_postgres.stop)
        await eventually(lambda: a.manager.publisher is None)
        depth = a.manager.stats().queue_depth
        for _ in range(10):
            for call in (
                a.manager.ping,
                a.manager.clients,
                a.manager.all_rooms,
                a.manager.fetch_sockets,
                partial(a.manager.client_rooms, there.sid),
                partial(a.manager.server_side_call, "charge", 7),
                partial(a.manager.custom_request, 7),
                partial(a.manager.remote_join, there.sid, "room"),
                partial(a.manager.remote_leave, there.sid, "room"),
                partial(a.manager.remote_disconnect, there.sid),
            ):
                with pytest.raises(RequestTimeoutError):
                    await call()
        # no more than a heartbeat
        assert a.manager.stats().queue_depth <= depth + 1
        # an event has its place before those that follow
        with pytest.raises(RequestTimeoutError):
            await a.manager.emit_with_ack("asked", timeout=0.1)
        await a.manager.emit("after all")
        await anyio.to_thread.run_sync(own_postgres.start)
        await there.expect(["asked"], ["after all"])
        await a.manager.server_side_emit("charge", "last")
        await eventually(lambda: "last" in done)
        assert done == ["last"]
        assert await b.manager.client_rooms(there.sid) == {there.sid}


async def test_a_request_that_waits_for_a_connection_is_answered_after_the_outage(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with two_nodes(own_postgres.uri, prefix, requests_timeout=20) as (a, b):
        await acquainted(a, b)
        there = await b.client()
        await anyio.to_thread.run_sync(own_postgres.stop)
        await eventually(lambda: a.manager.publisher is None)
        async with anyio.create_task_group() as tg:

            async def ask() -> None:
                await a.manager.remote_join(there.sid, "room")

            tg.start_soon(ask)
            await anyio.to_thread.run_sync(own_postgres.start)
        assert await b.manager.client_rooms(there.sid) == {there.sid, "room"}


async def test_a_request_that_waits_for_a_connection_ends_with_the_block(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    ended: list[type[BaseException]] = []
    async with anyio.create_task_group() as tg:
        options = {"requests_timeout": 60, "shutdown_timeout": 0.2}
        async with node(own_postgres.uri, prefix, **options) as a:
            await anyio.to_thread.run_sync(own_postgres.stop)
            await eventually(lambda: a.manager.publisher is None)

            async def ask(call: Callable[[], Awaitable[Any]]) -> None:
                try:
                    await call()
                except AdapterClosedError as exc:
                    ended.append(type(exc))

            for call in (a.manager.clients, partial(a.manager.server_side_call, "event")):
                tg.start_soon(ask, call)
            await anyio.wait_all_tasks_blocked()
    assert ended == [AdapterClosedError, AdapterClosedError]


@pytest.mark.parametrize(
    ("comes_back", "longest", "timeout"),
    # a sender that waits longer than a part of its heartbeat_timeout is taken for dead
    [(True, 60, 240), (False, 0.5, 240), (False, 60, 2)],
)
async def test_what_waits_is_sent_when_the_others_listen_again(
    postgres: EmbeddedPostgres,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    comes_back: bool,
    longest: float,
    timeout: float,
) -> None:
    """It was sent as soon as the sender was back, to nobody."""
    monkeypatch.setattr("anyio_sio_pg.node.LISTENERS_RETURN", longest)
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix, heartbeat_interval=0.5, heartbeat_timeout=timeout) as a,
        node(postgres.uri, prefix, listen_uri=gate.uri) as b,
    ):
        await acquainted(a, b)
        there = await b.client()
        sender, receiver = a.manager.publisher, b.manager.listener
        assert sender is not None
        assert receiver is not None
        gate.refusing = True
        pids = [connection.pgconn.backend_pid for connection in (receiver, sender)]
        await anyio.to_thread.run_sync(terminate, postgres.uri, *pids)
        await eventually(lambda: a.manager.publisher is None and b.manager.listener is None)
        for number in range(20):
            await a.manager.emit("n", number)
        if comes_back:
            # the sender could send by now
            names = lambda: [name for _, name in sessions(postgres.uri)]
            await eventually(lambda: names().count("anyio-sio-pg publisher") == 2)
            assert a.manager.stats().queue_depth >= 20
            gate.refusing = False
            await there.expect(*(["n", number] for number in range(20)))
            assert b.manager.stats().lost == 0
        else:
            with anyio.fail_after(20):
                await a.manager.flush()


# Arguments


async def test_wrong_arguments_are_named(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as a:
        for timeout in (-1, float("nan"), float("inf"), 86_401):
            for call in (
                lambda t=timeout: a.manager.emit_with_ack("event", timeout=t),
                lambda t=timeout: a.manager.server_side_call("event", timeout=t),
                lambda t=timeout: a.manager.custom_request(timeout=t),
            ):
                with pytest.raises(ValueError, match="timeout must be 0 to 86400"):
                    await call()
        for event in (None, 1, b"bytes"):
            with pytest.raises(TypeError, match="event's name must be a string"):
                await a.manager.emit(event)  # type: ignore[arg-type]
        assert a.manager.stats().dropped == 0


async def test_the_status_can_be_asked_for_from_any_thread(
    own_postgres: EmbeddedPostgres, prefix: str
) -> None:
    async with node(own_postgres.uri, prefix, **FAST) as a:

        async def shows(status: str) -> None:
            while await anyio.to_thread.run_sync(lambda: a.manager.status) != status:
                await anyio.sleep(0.01)

        await shows("connected")
        await anyio.to_thread.run_sync(own_postgres.stop)
        with anyio.fail_after(20):
            await shows("isolated")
