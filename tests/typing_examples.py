"""What users write, as type checkers see it. Nobody runs this; mypy and pyright read it.

Types are exact also without stubs for python-socketio, which itself has none: nothing here
imports it. The second half holds wrong usages, each of which has to be an error: an ignore comment
that nothing needs any more is one itself.
"""

# mypy: warn-unused-ignores
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, LiteralString, assert_type

import psycopg

from anyio_sio_pg import (
    AdapterClosedError,
    AdapterError,
    AnyIOConnection,
    AnyIOEngineServer,
    AnyIOManager,
    AnyIOServer,
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
from anyio_sio_pg.server.primitives import BackgroundTask, Event, Queue
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
    assert_type(statement.sql, LiteralString)
    sql, params = emit_statement("event", paramstyle="numeric_dollar")
    assert_type(sql, LiteralString)
    assert_type(params, Any)
    assert_type(create_table_statement("app.attachments"), str)


async def executed_statements(
    connection: psycopg.Connection[Any], other: psycopg.AsyncConnection[Any]
) -> None:
    connection.execute(*emit_statement("paid", {"order": 7}, to="user:42"))
    with connection.cursor() as cursor:
        cursor.execute(*emit_statement("paid", {"order": 7}))
    statement = emit_statement("paid")
    await other.execute(statement.sql, statement.params)


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


def is_allowed(origin: str | None, environ: dict[str, Any]) -> bool:
    return origin is not None and bool(environ)


async def server_options(manager: PostgresManager) -> None:
    import json

    sio = AnyIOServer(
        manager,
        logger=logging.getLogger(),
        serializer="msgpack",
        json=json,
        async_handlers=True,
        always_connect=False,
        namespaces=["/", "/chat"],
        connect_timeout=45,
        shutdown_timeout=5.0,
        engineio_logger=True,
        async_mode="asgi",
        ping_interval=(25, 5),
        ping_timeout=20.0,
        max_http_buffer_size=1_000_000,
        allow_upgrades=True,
        http_compression=True,
        compression_threshold=1024,
        cookie={"name": "io", "path": "/", "secure": True},
        cors_allowed_origins=is_allowed,
        cors_credentials=True,
        monitor_clients=None,
        transports="websocket",
    )
    assert_type(sio, AnyIOServer)
    AnyIOServer(client_manager=AnyIOManager(), namespaces="*", cors_allowed_origins="*")
    eio = AnyIOEngineServer(
        "asgi",
        ping_interval=25,
        ping_timeout=20,
        max_http_buffer_size=1_000_000,
        allow_upgrades=False,
        http_compression=False,
        compression_threshold=0,
        cookie="io",
        cors_allowed_origins=["https://example.org"],
        cors_credentials=False,
        logger=False,
        json=json,
        async_handlers=False,
        monitor_clients=True,
        transports=["polling", "websocket"],
        shutdown_timeout=5,
    )
    assert_type(eio, AnyIOEngineServer)
    async with sio as entered, eio as eio_entered, AnyIOServer() as plain:
        assert_type(entered, AnyIOServer)
        assert_type(eio_entered, AnyIOEngineServer)
        assert_type(plain, AnyIOServer)
    assert_type(await sio.shutdown(), None)
    assert_type(await eio.shutdown(), None)


class OwnServer(AnyIOServer):
    """A user's own server."""


class OwnEngineServer(AnyIOEngineServer):
    """A user's own server."""


async def own_server() -> None:
    async with OwnServer() as sio, OwnEngineServer() as eio:
        assert_type(sio, OwnServer)
        assert_type(eio, OwnEngineServer)


async def handlers(sio: AnyIOServer, eio: AnyIOEngineServer) -> None:
    @sio.event
    async def message(sid: str, text: str) -> int:
        return len(sid + text)

    @sio.event(namespace="/chat")
    def disconnect(sid: str, reason: str) -> None:
        assert_type(reason == sio.reason.PING_TIMEOUT, bool)

    @sio.on("connect", namespace="/chat")
    async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str] | None) -> bool:
        return bool(environ and auth)

    @eio.on("message")
    async def received(sid: str, data: str | bytes) -> None:
        await eio.send(sid, data)

    assert_type(await message("sid", "text"), int)
    assert_type(disconnect("sid", "reason"), None)
    assert_type(await connect("sid", {}, None), bool)
    assert_type(await received("sid", b"data"), None)
    assert_type(sio.on("message", message), None)
    assert_type(sio.on("message", handler=message, namespace="/chat"), None)
    assert_type(eio.on("message", received), None)
    assert_type(sio.handlers, dict[str, dict[str, Callable[..., Any]]])
    assert_type(eio.handlers, dict[str, Callable[..., Any]])


async def serving(sio: AnyIOServer, sids: set[str], rooms: Iterable[str | int]) -> None:
    def acknowledged(*answers: Any) -> None:
        del answers

    assert_type(await sio.emit("event"), None)
    await sio.emit("event", {"a": 1}, "room", skip_sid="sid", namespace="/chat")
    await sio.emit("event", ("two", "arguments"), room=7, skip_sid=sids, ignore_queue=True)
    await sio.emit("event", to=rooms, callback=acknowledged)
    assert_type(await sio.send("text", to=["a", 1], namespace="/chat"), None)
    assert_type(await sio.call("event", 1, to="sid", namespace="/chat", timeout=0.5), Any)
    assert_type(await sio.call("event", sid="sid", timeout=None), Any)
    assert_type(await sio.enter_room("sid", "room"), None)
    assert_type(await sio.leave_room("sid", 1, namespace="/chat"), None)
    assert_type(await sio.close_room("room", namespace="/chat"), None)
    assert_type(sio.rooms("sid", namespace="/chat"), list[str | int])
    assert_type(sio.transport("sid", namespace="/chat"), str)
    assert_type(sio.get_environ("sid", namespace="/chat"), dict[str, Any] | None)
    assert_type(await sio.get_session("sid", namespace="/chat"), dict[str, Any])
    assert_type(await sio.save_session("sid", {"a": 1}, namespace="/chat"), None)
    async with sio.session("sid", namespace="/chat") as session:
        assert_type(session, dict[str, Any])
    assert_type(await sio.disconnect("sid", namespace="/chat", ignore_queue=True), None)
    assert_type(await sio.sleep(0.1), None)
    assert_type(sio.eio, AnyIOEngineServer)
    assert_type(sio.manager.is_connected("sid", "/"), bool)
    assert_type(sio.connect_timeout, float)
    assert_type(sio.async_mode, str)
    assert_type(sio.logger, logging.Logger)


async def serving_engine(eio: AnyIOEngineServer) -> None:
    assert_type(await eio.send("sid", b"data"), None)
    assert_type(eio.transport("sid"), str)
    assert_type(await eio.get_session("sid"), dict[str, Any])
    assert_type(await eio.save_session("sid", {}), None)
    async with eio.session("sid") as session:
        assert_type(session, dict[str, Any])
    assert_type(await eio.disconnect("sid"), None)
    assert_type(await eio.disconnect(), None)
    assert_type(await eio.sleep(), None)
    assert_type(eio.create_queue(1), Queue[Any])
    assert_type(eio.create_event(), Event)
    assert_type(eio.get_queue_empty_exception(), type[Exception])
    assert_type(eio.ping_interval, float)
    assert_type(eio.ping_timeout, float)
    assert_type(eio.max_http_buffer_size, int)
    assert_type(eio.monitor_clients, bool)
    assert_type(eio.shutdown_timeout, float)
    for sid, socket in eio.sockets.items():
        assert_type(sid, str)
        assert_type(socket.sid, str)
        assert_type(socket.upgraded, bool)
        assert_type(socket.session, dict[str, Any])
        assert_type(await socket.close(wait=False, abort=True, reason="reason"), None)


async def background(sio: AnyIOServer, eio: AnyIOEngineServer) -> None:
    async def work(number: int, *, name: str = "") -> str:
        return name * number

    def work_sync(number: int) -> float:
        return number / 2

    task = sio.start_background_task(work, 1, name="a")
    assert_type(task, BackgroundTask[str])
    assert_type(await task, str | None)
    assert_type(await task.wait(), str | None)
    assert_type(task.done(), bool)
    assert_type(task.cancel(), None)
    assert_type(sio.start_background_task(work_sync, 1), BackgroundTask[float])
    assert_type(eio.start_background_task(work, number=1), BackgroundTask[str])
    assert_type(eio.start_background_task(work_sync, 1), BackgroundTask[float])


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
    await manager.custom_request(1, 2, timeout=1)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
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


async def wrong_server_options() -> None:
    AnyIOServer(engineio_logger="log")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(serializer="pickle")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(always_connect="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(namespaces=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    AnyIOServer(connect_timeout="45")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(logger="log")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(async_handlers="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(async_mode="threading")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(ping_interval="25")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(ping_interval=(25, 5, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(ping_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(max_http_buffer_size=1e6)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(allow_upgrades=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(http_compression="gzip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(compression_threshold="1024")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(cookie=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(cors_allowed_origins=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(cors_credentials="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(monitor_clients="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(transports=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    AnyIOServer(shutdown_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOServer(cors_allowed_origin="*")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AnyIOServer(None, False, None, True, None, "default")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AnyIOEngineServer(logger="log")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(async_handlers="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(async_mode="threading")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(ping_interval="25")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(ping_interval=(25, 5, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(ping_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(max_http_buffer_size=1e6)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(allow_upgrades=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(http_compression="gzip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(compression_threshold="1024")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(cookie=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(cors_allowed_origins=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(cors_credentials="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(monitor_clients="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(transports=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(shutdown_timeout=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AnyIOEngineServer(json=None, client_manager=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AnyIOEngineServer(connect_timeout=45.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def wrong_server_calls(sio: AnyIOServer) -> None:
    async def work(number: int) -> str:
        return str(number)

    sio.on(1, work)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    sio.on("event", "handler")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    sio.on("event")("handler")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    sio.event("event")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    sio.event(name_space="/chat")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await sio.emit(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.emit("event", to=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.emit("event", name_space="/chat")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await sio.emit("event", except_rooms="room")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await sio.emit("event", skip_sid=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.emit("event", callback="callback")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.send("text", to=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.call("event", to=["a", "b"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.call("event", to="sid", timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.enter_room("sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await sio.enter_room("sid", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.leave_room("sid", 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.close_room("room", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sio.disconnect()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await sio.save_session("sid", "session")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sio.rooms(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sio.transport(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sio.session()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with sio.session("sid"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    sio.eio = AnyIOEngineServer()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    sio.start_background_task("work")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    sio.start_background_task(work)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    sio.start_background_task(work, "1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await sio.sleep("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def wrong_engine_calls(eio: AnyIOEngineServer) -> None:
    async def work(number: int) -> str:
        return str(number)

    eio.on("message", "handler")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    eio.on("message", work, "/")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await eio.send("sid")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await eio.send(1, "data")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await eio.disconnect(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    eio.session(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    eio.create_queue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    eio.start_background_task(work, name="1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    eio.sockets[1]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
