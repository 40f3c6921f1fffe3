"""What users write, as type checkers see it. Nobody runs this; mypy and pyright read it.

Types are exact also without stubs for python-socketio, which itself has none: nothing here
imports it. The second half holds wrong usages, each of which has to be an error: an ignore comment
that nothing needs any more is one itself.
"""

# mypy: warn-unused-ignores
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, assert_type

import psycopg

from anyio_sio_pg import (
    AdapterClosedError,
    AdapterError,
    AnyIOConnection,
    AnyIOManager,
    ConnectionLostError,
    MessagesLostError,
    PostgresEmitter,
    PostgresManager,
    ProtocolError,
    PublishError,
    RemoteSocket,
    RequestTimeoutError,
    Statement,
    Stats,
    Status,
    UnknownSocketError,
    create_table_statement,
    emit_statement,
    open_postgres_adapter,
    open_postgres_emitter,
)
from anyio_sio_pg.testing import EmbeddedPostgres


async def make_connection() -> AnyIOConnection:
    connection = await AnyIOConnection.connect("dbname=app", autocommit=True)
    assert_type(connection, AnyIOConnection)
    assert_type(connection.cancel_timeout, float)
    await connection.cancel_safe(timeout=1.0)
    assert_type(connection.closed, bool)
    return connection


async def make_psycopg_connection() -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect()


def on_error(error: Exception) -> None:
    if isinstance(error, MessagesLostError):
        assert_type(error.sender, str)
        assert_type(error.namespace, str)
        assert_type(error.count, int)
    elif isinstance(error, PublishError):
        assert_type(error.undelivered, int)
    elif isinstance(error, RequestTimeoutError):
        assert_type(error.partial, list[Any])
        assert_type(error.missing, frozenset[str])


async def on_error_async(error: Exception) -> None:
    del error


def errors() -> list[AdapterError]:
    looked_up: list[LookupError] = [UnknownSocketError("gone")]
    timed_out: list[TimeoutError] = [RequestTimeoutError("late", [1], ["uid"])]
    del looked_up, timed_out
    return [
        AdapterClosedError("closed"),
        ConnectionLostError("lost"),
        MessagesLostError("lost", "uid", "/", 1),
        ProtocolError("garbage"),
        PublishError("refused", 1),
        RequestTimeoutError("late"),
        UnknownSocketError("gone"),
    ]


async def options() -> None:
    manager = PostgresManager(
        "postgresql://host/app",
        listen_uri="postgresql://direct/app",
        connect=None,
        prefix="socket.io",
        wire="cluster",
        requests_timeout=1,
        heartbeat_interval=5.0,
        heartbeat_timeout=10.0,
        table="app.attachments",
        payload_threshold=8_000,
        cleanup_interval=30.0,
        outbox_limit=10_000,
        publish_timeout=10.0,
        shutdown_timeout=5.0,
        on_error=on_error,
    )
    assert_type(manager, PostgresManager)
    PostgresManager(connect=make_connection, on_error=on_error_async)
    PostgresManager(connect=make_psycopg_connection, on_error=None)
    PostgresManager(uri=None, listen_uri=None)
    opened = open_postgres_adapter(uri="localhost:5432", prefix="app", on_error=print)
    assert_type(opened, AbstractAsyncContextManager[PostgresManager, bool | None])
    async with opened as adapter:
        assert_type(adapter, PostgresManager)
    async with manager as entered:
        assert_type(entered, PostgresManager)


class Own(PostgresManager):
    """A user's own manager."""


async def own() -> None:
    async with Own() as manager:
        assert_type(manager, Own)


def is_well(status: Status) -> bool:
    match status:
        case Status.CONNECTED:
            return True
        case Status.RECONNECTING | Status.ISOLATED | Status.CLOSED:
            return False


async def state(manager: PostgresManager) -> None:
    assert_type(manager.uid, str)
    assert_type(manager.prefix, str)
    assert_type(manager.requests_timeout, float)
    assert_type(manager.publisher, psycopg.AsyncConnection[Any] | None)
    assert_type(manager.listener, psycopg.AsyncConnection[Any] | None)
    assert_type(manager.status, Status)
    text: str = manager.status
    assert_type(Status(text), Status)
    assert_type(is_well(manager.status), bool)
    stats = manager.stats()
    assert_type(stats, Stats)
    for number in (
        stats.sent,
        stats.received,
        stats.delivered,
        stats.dropped,
        stats.lost,
        stats.repeated,
        stats.garbage,
        stats.reconnects,
        stats.queue_depth,
        stats.batches,
        stats.nodes,
    ):
        assert_type(number, int)
    assert_type(await manager.flush(), None)
    assert_type(await manager.ping(), float)


async def events(manager: PostgresManager, sids: set[str], rooms: Iterable[str | int]) -> None:
    def acknowledged(answer: str, *rest: int) -> None:
        del answer, rest

    async def acknowledged_async(*answers: Any) -> None:
        del answers

    await manager.emit("event")
    await manager.emit("event", {"a": [1, b"2"]}, namespace="/chat", room="room", skip_sid="sid")
    await manager.emit("event", ("two", "arguments"), to=7, except_rooms=rooms, skip_sid=sids)
    await manager.emit("event", to=["a", "b"], callback=acknowledged)
    await manager.emit("event", to={"a", 1}, callback=acknowledged_async, local=True)
    await manager.emit("event", to="sid", ignore_queue=True)
    assert_type(
        await manager.emit_with_ack(
            "event", 1, to=rooms, except_rooms="room", namespace="/chat", timeout=2
        ),
        list[Any],
    )


async def sockets(manager: PostgresManager) -> None:
    found = await manager.fetch_sockets(
        to="room", except_rooms=["a", 1], namespace="/chat", local=True
    )
    assert_type(found, list[RemoteSocket])
    for socket in found:
        assert_type(socket.id, str)
        assert_type(socket.rooms, frozenset[str | int])
        assert_type(socket.data, Any)
        assert_type(socket.handshake, dict[str, Any])
    assert_type(await manager.clients(), set[str])
    assert_type(await manager.clients(["room", 1], namespace="/chat"), set[str])
    assert_type(await manager.client_rooms("sid", namespace="/"), set[str | int])
    assert_type(await manager.all_rooms(namespace="/"), set[str | int])
    await manager.sockets_join("room", to="sid", except_rooms=None, namespace="/chat")
    await manager.sockets_leave(["room", 1], to=["a", "b"], except_rooms="c", namespace="/chat")
    await manager.disconnect_sockets(to="sid", except_rooms="a", namespace="/", close=True)
    await manager.remote_join("sid", "room", namespace="/")
    await manager.remote_leave("sid", 1, namespace="/")
    await manager.remote_disconnect("sid", close=True, namespace="/")


async def servers(manager: PostgresManager) -> None:
    @manager.on_server_side("double")
    def double(number: int) -> int:
        return number * 2

    @manager.on_server_side("later", namespace="/chat")
    async def later(name: str, *, loud: bool = False) -> str:
        return name.upper() if loud else name

    @manager.custom_hook
    def hook(question: dict[str, int]) -> list[int]:
        return list(question.values())

    assert_type(double(1), int)
    assert_type(await later("name", loud=True), str)
    assert_type(hook({"a": 1}), list[int])

    @manager.custom_hook
    async def hook_async(question: str) -> bool:
        return bool(question)

    assert_type(await hook_async("?"), bool)
    await manager.server_side_emit("double", 1, namespace="/chat")
    assert_type(
        await manager.server_side_call("double", 1, namespace="/chat", timeout=0.5), list[Any]
    )
    assert_type(await manager.custom_request({"a": 1}, timeout=2), list[Any])
    assert_type(await manager.custom_request(), list[Any])


async def as_python_socketio_calls(manager: PostgresManager) -> None:
    """Call what python-socketio's server calls, on either manager."""
    for local in (AnyIOManager(), manager):
        assert_type(local.get_rooms("sid", "/"), list[str | int])
        assert_type(local.is_connected("sid", "/"), bool)
        assert_type(local.eio_sid_from_sid("sid", "/"), str | None)
        assert_type(local.sid_from_eio_sid("eio_sid", "/"), str | None)
        assert_type(list(local.get_namespaces()), list[str])
        assert_type(list(local.get_participants("/", "room")), list[tuple[str, str]])
        for room, members in local.rooms["/"].items():
            assert_type(room, str | int | None)
            assert_type(members["sid"], str)
        assert_type(local.pending_disconnect, dict[str, list[str]])
        assert_type(local.set_server(object()), None)
        assert_type(local.basic_disconnect("sid", "/"), None)
        assert_type(await local.pre_connect("eio_sid", "/"), str | None)
        assert_type(await local.connect("sid", "/"), str | None)
        assert_type(await local.can_disconnect("sid", "/"), bool)
        assert_type(await local.disconnect("sid", "/", ignore_queue=True), None)
        assert_type(await local.enter_room("sid", "/", "room", eio_sid="eio_sid"), None)
        assert_type(await local.leave_room("sid", "/", 1), None)
        assert_type(await local.close_room("room", "/"), None)
        assert_type(await local.trigger_callback("sid", 1, ["answer"]), None)
    await manager.close_room("room")
    alone = AnyIOManager()
    await alone.emit("event", 1, "/", "room", "sid", print, "room", except_rooms=["a"])


async def emitters(rooms: Iterable[str]) -> None:
    opened = open_postgres_emitter(
        "localhost:5432", prefix="app", table="t", publish_timeout=1.0, on_error=on_error
    )
    async with opened as emitter, open_postgres_emitter() as defaults:
        assert_type(emitter, PostgresEmitter)
        assert_type(defaults, PostgresEmitter)
        await emitter.emit("event", {"a": 1}, to=rooms, except_rooms=1, namespace="/chat")
        await emitter.sockets_join(rooms, to="sid", except_rooms=rooms, namespace="/chat")
        await emitter.sockets_leave("room", to="sid", except_rooms=rooms, namespace="/chat")
        await emitter.disconnect_sockets(to="sid", except_rooms=1, namespace="/", close=True)
        await emitter.server_side_emit("event", 1, "two", namespace="/chat")
        assert_type(await emitter.flush(), None)


def statements() -> None:
    import json

    statement = emit_statement(
        "event",
        {"a": 1},
        to="room",
        except_rooms=["a", 1],
        namespace="/chat",
        prefix="socket.io",
        table="socket_io_attachments",
        payload_threshold=8_000,
        paramstyle="named",
        json=json,
    )
    assert_type(statement, Statement)
    assert_type(statement.sql, str)
    sql, params = emit_statement("event", paramstyle="numeric_dollar")
    assert_type(sql, str)
    assert_type(params, Any)
    assert_type(create_table_statement("app.attachments"), str)


def embedded() -> None:
    with EmbeddedPostgres() as postgres:
        assert_type(postgres, EmbeddedPostgres)
        assert_type(postgres.uri, str)
        assert_type(postgres.port, int)
        assert_type(postgres.data, Path)
        assert_type(postgres.pid, int | None)
        postgres.stop()
        postgres.stop("immediate")
        postgres.start()
        postgres.kill()
    EmbeddedPostgres(Path("bin"), ["log_statement = all"])


async def wrong_options() -> None:
    PostgresManager(prefix_="app")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    PostgresManager(uri=5432)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(listen_uri=b"uri")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(prefix=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(wire="redis")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(requests_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(heartbeat_interval=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(heartbeat_timeout="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(table=["app", "attachments"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(payload_threshold=8_000.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(cleanup_interval="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(outbox_limit=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(publish_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(shutdown_timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(on_error="log")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresManager(on_error=lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    PostgresManager(connect=psycopg.connect)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_postgres_adapter(channel_prefix="app")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    open_postgres_adapter(outbox_limit="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_postgres_emitter(channel_prefix="app")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    open_postgres_emitter(outbox_limit="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await open_postgres_adapter()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    open_postgres_adapter().stats()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    with open_postgres_adapter():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def wrong_calls(manager: PostgresManager) -> None:
    manager.uid = "uid"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    manager.status()  # type: ignore[operator]  # pyright: ignore[reportCallIssue]
    _ = manager.stats().no_such  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    manager.stats().sent = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    _ = Status.LISTENING  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    await manager.emit(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.emit("event", to=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.emit("event", namespace=["/"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.emit("event", skip_sid=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.emit("event", callback="callback")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.emit_with_ack("event", 1, "room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.emit_with_ack("event", timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.fetch_sockets("room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.fetch_sockets(room="room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.clients(rooms=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.client_rooms(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.client_rooms("sid", "/")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.sockets_join(to="sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.sockets_leave("room", "sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.disconnect_sockets("sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.remote_join("sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.remote_leave("sid", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.server_side_emit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await manager.server_side_call("event", timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await manager.custom_request(1, 2, timeout=1)  # type: ignore[misc]  # pyright: ignore[reportCallIssue]
    manager.on_server_side(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    manager.on_server_side("event")("handler")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    manager.custom_hook(lambda: None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    manager.custom_hook()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    manager.get_rooms("sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    manager.rooms["/"][1.5]  # type: ignore[index]  # pyright: ignore[reportArgumentType]

    @manager.on_server_side("event")
    def handler(number: int) -> int:
        return number

    handler("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def wrong_emitter(emitter: PostgresEmitter, socket: RemoteSocket) -> None:
    emitter.stats()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await emitter.emit("event", 1, "room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await emitter.emit("event", callback=print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await emitter.sockets_join(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await emitter.disconnect_sockets(close="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    socket.id = "sid"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    socket.rooms.add("room")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    emit_statement("event", paramstyle="dollar")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    emit_statement("event", payload_threshold="8000")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    emit_statement("event", "data", "room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_table_statement()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    PublishError("refused")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    EmbeddedPostgres("bin")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EmbeddedPostgres(settings=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
