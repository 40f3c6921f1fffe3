"""The server's promises: order, cancellation, errors, what stays behind, and its end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import logging
import random
import socket
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import engineio
import pytest
import socketio
from anyio.abc import TaskGroup
from engineio.async_socket import AsyncSocket

from anyio_sio_pg import AnyIOEngineServer, AnyIOManager, AnyIOServer
from anyio_sio_pg.testing import virtual_time
from asgi_clients import (
    PollingClient,
    Site,
    WebSocketClient,
    fetch,
    http,
    site,
    watch,
)
from cancelling import MANY, cancel_at
from harness import eventually
from serving import KINDS, SERVERS, AppFactory, Kind, listening
from wire_clients import (
    MEGABYTE,
    PollingWire,
    WebSocketWire,
    Wire,
    all_tasks,
    close_all,
    open_descriptors,
)

pytestmark = pytest.mark.anyio

TRANSPORTS = ["polling", "websocket"]

BRIEF = 0.1
"""Seconds that the end waits for clients that poll no more, where that is not what is tested."""

on_each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops whose clocks jump: on a busy machine, too, no client is late with its pong."""
    return request.param, virtual_time(request.param)


in_real_time = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


async def soon(condition: Callable[[], Any]) -> Any:
    return await eventually(condition)


async def no_ghosts(here: Site) -> None:
    """Return once the server knows of no client any more."""
    with anyio.move_on_after(20):
        while here.ghosts():
            await anyio.sleep(0.005)
    assert here.ghosts() == {}


def ways() -> list[bool]:
    """Whether to cancel natively, for each way that the event loop has."""
    on_asyncio = anyio.get_cancelled_exc_class().__module__.startswith("asyncio")
    return [False, True] if on_asyncio else [False]


# order


@on_each_transport
async def test_events_with_attachments_arrive_whole_and_in_order(transport: str) -> None:
    arrived: list[tuple[Any, ...]] = []

    async def many(sid: str, *args: Any) -> None:
        arrived.append(args)
        await anyio.sleep(random.random() / 1_000)

    async with site(shutdown_timeout=BRIEF) as here:
        here.sio.on("many", many)
        client = await here.client(transport)
        await client.join()
        frames: list[str | bytes] = []
        for number in range(30):
            holders = ",".join(f'{{"_placeholder":true,"num":{n}}}' for n in range(3))
            frames.append(f'453-["many",{number},{holders}]')
            frames += [b"%d-%d" % (number, part) for part in range(3)]
        await client.say(*frames)
        await soon(lambda: len(arrived) == 30)
    assert arrived == [(n, *(b"%d-%d" % (n, part) for part in range(3))) for n in range(30)]


@on_each_transport
async def test_emitted_attachments_stay_together_whoever_else_emits(transport: str) -> None:
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client(transport)
        await client.join()

        async def emit(name: str) -> None:
            for number in range(30):
                await here.sio.emit(name, (number, *(b"%d" % part for part in range(3))))

        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(emit, name)
        events = [await client.event() for _ in range(90)]
    for name in "abc":
        mine = [event[1:] for event in events if event[0] == name]
        assert mine == [[n, *(b"%d" % part for part in range(3))] for n in range(30)]


@on_each_transport
@pytest.mark.parametrize("in_one_go", [True, False])
async def test_handlers_begin_in_the_order_of_their_events(transport: str, in_one_go: bool) -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def say(sid: str, number: int) -> None:
        begun.append(number)
        await anyio.sleep(random.random() / 100)
        ended.append(number)

    async with site(async_handlers=True, shutdown_timeout=BRIEF) as here:
        here.sio.on("say", say)
        client = await here.client(transport)
        await client.join()
        events = [f'42["say",{number}]' for number in range(200)]
        if in_one_go:
            await client.say(*events)
        else:
            for event in events:
                await client.say(event)
        await soon(lambda: len(ended) == 200)
    assert begun == list(range(200))
    assert ended != begun, "they have not run at the same time"


@on_each_transport
async def test_a_namespace_class_gets_its_events_in_order(transport: str) -> None:
    begun: list[int] = []

    class Room(socketio.AsyncNamespace):
        async def on_say(self, sid: str, number: int) -> int:
            begun.append(number)
            await anyio.sleep(random.random() / 100)
            return -number

    async with site(shutdown_timeout=BRIEF) as here:
        here.sio.register_namespace(Room("/room"))
        client = await here.client(transport)
        await client.join("/room")
        await client.say(*(f'42/room,{number}["say",{number}]' for number in range(1, 101)))
        acks = {await client.hear("43/room,") for _ in range(100)}
    assert begun == list(range(1, 101))
    assert acks == {f"43/room,{number}[-{number}]" for number in range(1, 101)}


@on_each_transport
async def test_without_async_handlers_each_waits_for_the_one_before(transport: str) -> None:
    log: list[int] = []

    async def say(sid: str, number: int) -> None:
        log.append(number)
        await anyio.sleep(random.random() / 500)
        log.append(number)

    async with site(async_handlers=False, shutdown_timeout=BRIEF) as here:
        here.sio.on("say", say)
        client = await here.client(transport)
        await client.join()
        await client.say(*(f'42["say",{number}]' for number in range(50)))
        await soon(lambda: len(log) == 100)
        sid = client.sids["/"]
        with pytest.raises(RuntimeError, match="async_handlers is False"):
            await here.sio.call("ask", to=sid)
    assert log == [number for number in range(50) for _ in "be"]


@pytest.mark.parametrize("refused", [False, True])
async def test_what_is_emitted_to_a_client_that_is_being_asked_waits_for_its_welcome(
    refused: bool,
) -> None:
    async with site() as here:

        async def connect(sid: str, environ: Any, auth: Any) -> bool:
            await here.sio.emit("early", "for you", to=sid, namespace="/early")
            return not refused

        here.sio.on("connect", connect, "/early")
        client = await here.client("websocket")
        await client.join()
        await client.say("40/early,")
        frames = [str(await client.read()) for _ in range(1 if refused else 2)]
        await here.sio.emit("late")
        frames.append(str(await client.read()))
    assert frames[0].startswith("44/early,{" if refused else "40/early,{")
    assert (
        frames[1:] == ['42["late"]'] if refused else ['42/early,["early","for you"]', '42["late"]']
    )


# cancellation

CLOSINGS: dict[str, Callable[[Site, Any], Callable[[], Awaitable[Any]]]] = {
    "socket.close": lambda here, client: here.sio.eio.sockets[client.sid].close,
    "socket.close, aborting": lambda here, client: (
        lambda: here.sio.eio.sockets[client.sid].close(abort=True)
    ),
    "eio.disconnect": lambda here, client: lambda: here.sio.eio.disconnect(client.sid),
    "eio.disconnect all": lambda here, client: here.sio.eio.disconnect,
}


@pytest.mark.parametrize("how", CLOSINGS)
@pytest.mark.parametrize("transport", ["websocket", "polling", "polling, idle"])
async def test_a_close_that_is_cancelled_closes_all_the_same(how: str, transport: str) -> None:
    async with site(shutdown_timeout=0.03) as here:
        awaits = 0
        for native in ways():
            for at in range(1, MANY):
                here.log.clear()
                client = await here.client(transport.partition(",")[0])
                sid = await client.join()
                if transport == "polling":
                    assert isinstance(client, PollingClient)
                    here.group.start_soon(client.request())
                    await anyio.wait_all_tasks_blocked()
                hit = await cancel_at(at, CLOSINGS[how](here, client), native=native)
                await no_ghosts(here)
                assert len(here.of("disconnect", "/", sid)) == 1
                assert len(here.of("disconnected", "/", sid)) == 1
                if not hit:
                    break
                awaits += 1
        assert awaits


class SlowManager(AnyIOManager):
    """One that awaits something before it knows, as those of a cluster may."""

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        await anyio.lowlevel.checkpoint()
        return await super().can_disconnect(sid, namespace)


@pytest.mark.parametrize("manager", [AnyIOManager, SlowManager])
async def test_a_disconnect_that_is_cancelled_leaves_nobody_in_between(manager: Any) -> None:
    async with site(client_manager=manager(), shutdown_timeout=BRIEF) as here:
        awaits = 0
        for transport, native in itertools.product(TRANSPORTS, ways()):
            client = await here.client(transport)
            for at in range(1, MANY):
                sid = await client.join()
                await here.sio.enter_room(sid, "room")
                disconnect = here.sio.disconnect
                hit = await cancel_at(at, lambda: disconnect(sid), native=native)  # noqa: B023
                if not here.of("disconnect", "/", sid):
                    # it had not begun
                    assert hit
                    assert manager is SlowManager
                    assert sorted(here.sio.rooms(sid)) == sorted([sid, "room"])
                    await here.sio.disconnect(sid)
                assert len(here.of("disconnect", "/", sid)) == 1
                assert "rooms" not in here.ghosts()
                assert "disconnecting" not in here.ghosts()
                assert not here.sio._leaving
                if not hit:
                    break
                awaits += 1
                assert await client.hear("41") == "41"
        assert awaits >= 2


def sendings(here: Site, sid: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    eio_sid = here.sio.manager.eio_sid_from_sid(sid, "/")
    return {
        "emit": lambda: here.sio.emit("event", "data", to=sid),
        "emit all": lambda: here.sio.emit("event", b"data"),
        "send": lambda: here.sio.send("data", to=sid),
        "call": lambda: here.sio.call("event", "data", to=sid, timeout=0.05),
        "eio.send": lambda: here.sio.eio.send(eio_sid, '2["event"]'),
        "manager.emit": lambda: here.sio.manager.emit("event", "data", namespace="/"),
    }


@on_each_transport
async def test_sending_can_be_cancelled_at_every_await(transport: str) -> None:
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client(transport)
        sid = await client.join()
        awaits: dict[str, int] = {}
        for name, send in sendings(here, sid).items():
            for native in ways():
                for at in range(1, MANY):
                    try:
                        if not await cancel_at(at, send, native=native):
                            break
                    except socketio.exceptions.TimeoutError:
                        assert name == "call"
                        break
                    awaits[name] = at
        # manager.emit awaits something only when it has not done so for a while
        assert awaits.keys() >= {"call", "eio.send"}
        await here.sio.emit("still", "here", to=sid)
        while await client.event() != ["still", "here"]:
            pass
        assert here.of("disconnect") == []
        assert not here.sio.eio.sockets[client.sid].closing


async def test_a_websockets_task_that_is_cancelled_leaves_nothing() -> None:
    async with site(shutdown_timeout=0.1) as here:

        async def say(sid: str, text: str) -> str:
            await anyio.lowlevel.checkpoint()
            await here.sio.emit("said", text)
            return text

        here.sio.on("say", say)
        paired = 0
        for native in ways():
            for at in range(1, MANY):
                here.log.clear()
                client = WebSocketClient(here.app)
                await client.say("40", '420["say","a"]', "3", '45-1["say"]', "40/none,", "41", "40")
                client.leave()
                hit = await cancel_at(at, client.connection, native=native)
                await no_ghosts(here)
                joined = here.of("connect", "/")
                assert sorted(joined) == sorted((sid,) for sid, _ in here.of("disconnect", "/"))
                assert len(here.of("disconnect")) == len(here.of("disconnected"))
                paired += len(joined)
                if not hit:
                    break
            assert at > 10
        assert paired > 10


async def test_an_upgrade_that_is_cancelled_leaves_a_session_that_works_or_none() -> None:
    async with site(shutdown_timeout=0.03) as here:
        for native in ways():
            outcomes = set()
            for at in range(1, MANY):
                here.log.clear()
                client = await here.client("polling")
                assert isinstance(client, PollingClient)
                sid = await client.join()
                upgrade = WebSocketClient(here.app, {"sid": client.sid})
                await upgrade.say("2probe", "5", '42["say"]')
                upgrade.leave()
                hit = await cancel_at(at, upgrade.connection, native=native)
                socket = here.sio.eio.sockets.get(client.sid)
                if socket is not None and not socket.closing:
                    outcomes.add("polling")
                    await here.sio.emit("still", "here")
                    assert await client.event() == ["still", "here"]
                    await here.sio.eio.disconnect(client.sid)
                else:
                    outcomes.add("closed")
                await no_ghosts(here)
                assert len(here.of("disconnect", "/", sid)) == 1
                if not hit:
                    break
            assert outcomes == {"polling", "closed"}


async def test_a_request_that_is_cancelled_leaves_a_session_that_works_or_none() -> None:
    async with site(shutdown_timeout=0.03) as here:

        async def say(sid: str) -> None:
            await anyio.lowlevel.checkpoint()

        here.sio.on("say", say)
        for method, native in itertools.product(["poll", "full poll", "POST"], ways()):
            for at in range(1, MANY):
                here.log.clear()
                client = await here.client("polling")
                assert isinstance(client, PollingClient)
                sid = await client.join()
                if method == "POST":
                    request = client.request("POST", '42["say"]\x1e40/none,\x1e42["say"]')
                else:
                    request = client.request()
                    if method == "full poll":
                        await here.sio.emit("event")
                    else:
                        here.group.start_soon(_emit_soon, here.sio)
                hit = await cancel_at(at, request, native=native)
                socket = here.sio.eio.sockets.get(client.sid)
                if socket is not None and not socket.closing:
                    await client.say('42["say"]')
                    await here.sio.emit("still", "here")
                    while await client.event() != ["still", "here"]:
                        pass
                    await here.sio.eio.disconnect(client.sid)
                await no_ghosts(here)
                assert len(here.of("disconnect", "/", sid)) == 1
                if not hit:
                    break
            assert at > 2


async def _emit_soon(sio: AnyIOServer) -> None:
    await anyio.sleep(0.01)
    await sio.emit("event")


@on_each_transport
async def test_a_handshake_that_is_cancelled_leaves_nothing(transport: str) -> None:
    log: list[str] = []

    async def connect(sid: str, environ: Any) -> bool:
        await anyio.lowlevel.checkpoint()
        log.append(f"connect {sid}")
        return True

    async def disconnect(sid: str, reason: str) -> None:
        log.append(f"disconnect {sid}")

    # a client that has never learnt of its session does not answer its pings
    options: dict[str, Any] = {"ping_interval": 0.03, "ping_timeout": 0.03}
    async with AnyIOEngineServer(shutdown_timeout=0.1, **options) as eio:
        eio.on("connect", connect)
        eio.on("disconnect", disconnect)
        app = engineio.ASGIApp(eio, engineio_path="socket.io")
        for native in ways():
            for at in range(1, MANY):
                log.clear()
                if transport == "polling":
                    connection = http(app)
                else:
                    connection = WebSocketClient(app).connection
                    connection.put({"type": "websocket.disconnect"})
                hit = await cancel_at(at, connection, native=native)
                await soon(lambda: not eio.sockets)
                assert sorted(log) == sorted(
                    name
                    for sid in {e.split()[1] for e in log}
                    for name in (f"connect {sid}", f"disconnect {sid}")
                )
                if not hit:
                    break
            assert at > 2


async def test_a_shutdown_that_is_cancelled_can_be_called_again() -> None:
    for native in ways():
        for at in range(1, MANY):
            async with AnyIOServer(shutdown_timeout=0.2) as sio, anyio.create_task_group() as group:
                here = Site(sio, socketio.ASGIApp(sio), group)
                watch(here)
                clients = [await here.client(transport) for transport in TRANSPORTS]
                for client in clients:
                    await client.join()
                hit = await cancel_at(at, sio.shutdown, native=native)
                await sio.shutdown()
                group.cancel_scope.cancel()
            assert not here.ghosts()
            assert len(here.of("disconnected")) == 2
            if not hit:
                break
        assert at > 1


@pytest.mark.parametrize("ends", [True, False])
async def test_a_block_that_is_cancelled_at_any_await_ends(ends: bool) -> None:
    async def disconnect(sid: str, reason: str) -> None:
        told.append(sid)
        await anyio.sleep(0 if ends else float("inf"))

    async def program() -> None:
        async with AnyIOServer(shutdown_timeout=0.05) as sio:
            sios.append(sio)
            sio.on("disconnect", disconnect)
            client = WebSocketClient(socketio.ASGIApp(sio))
            group.start_soon(client.connection)
            await client.handshake()
            joined.append(await client.join())

    for native in ways():
        for at in range(1, MANY):
            told: list[str] = []
            joined: list[str] = []
            sios: list[AnyIOServer] = []
            with anyio.fail_after(5):
                async with anyio.create_task_group() as group:
                    hit = await cancel_at(at, program, native=native)
                    group.cancel_scope.cancel()
            assert len(told) <= 1
            assert set(joined) <= set(told)
            assert not sios or not sios[0].eio.sockets
            if not hit:
                break
        assert at > 5


async def test_a_client_that_posts_before_it_takes_its_goodbye_gets_that_all_the_same() -> None:
    async with site() as here:
        client = await here.client("polling")
        assert isinstance(client, PollingClient)
        await client.join()
        await here.sio.emit("last", "words")
        here.group.start_soon(here.sio.eio.disconnect, client.sid)
        await soon(lambda: here.of("disconnected", "/"))
        # a pong, to a ping that came with the poll before; its body comes a little later
        post = client.request("POST", "3")
        post.put({"type": "http.request", "body": b""})
        assert (await fetch(post, in_parts=True)).text == "ok"
        response = await fetch(client.request())
        assert response.packets == ['42["last","words"]', "1"]
        await no_ghosts(here)


# errors


@in_real_time
async def test_emitting_without_end_lets_others_run() -> None:
    async with site() as here:
        client = await here.client("websocket")
        await client.join()
        emitted = 0

        async def emit_for_ever(send: Callable[..., Awaitable[Any]], *args: Any) -> None:
            nonlocal emitted
            while True:
                await send(*args)
                emitted += 1

        for send in (
            (here.sio.emit, "event", "data"),
            (here.sio.send, "data"),
            (here.sio.emit, "nobody", "data", "nowhere"),
            (here.sio.eio.send, client.sid, '2["event"]'),
        ):
            emitted = 0
            async with anyio.create_task_group() as group:
                group.start_soon(emit_for_ever, *send)
                started = anyio.current_time()
                while emitted < 100:
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
            assert anyio.current_time() - started < 5
        # the client's own tasks had their turns, too
        await client.event()


@on_each_transport
async def test_what_handlers_raise_is_logged_and_harms_nobody(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(shutdown_timeout=BRIEF) as here:
        acknowledged: list[Any] = []

        async def raising(sid: str) -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError("async")

        def raising_at_once(sid: str) -> None:
            raise LookupError("sync")

        async def raising_group(sid: str) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(raising, sid)

        def callback(*args: Any) -> None:
            acknowledged.append(args)
            raise LookupError("callback")

        here.sio.on("raising", raising)
        here.sio.on("raising_at_once", raising_at_once)
        here.sio.on("raising_group", raising_group)
        here.sio.on("echo", lambda sid, data: data)
        client = await here.client(transport)
        sid = await client.join()
        for name in ("raising", "raising_at_once", "raising_group"):
            await client.say(f'42["{name}"]', f'427["{name}"]', '428["echo",1]')
            assert await client.hear("43") == "438[1]"
        await here.sio.emit("ask", to=sid, callback=callback)
        number = (await client.hear("42"))[2:].partition("[")[0]
        await client.say(f"43{number}[5]", '429["echo",2]')
        assert await client.hear("43") == "439[2]"
        assert acknowledged == [(5,)]
        assert here.of("disconnect") == []
    raised = [record for record in caplog.records if record.exc_info]
    assert len(raised) == 7
    assert all(record.levelno == logging.ERROR for record in raised)


@on_each_transport
@pytest.mark.parametrize("style", ["async", "sync", "class"])
@pytest.mark.parametrize("always_connect", [False, True])
async def test_a_client_whose_connect_handler_raises_is_refused(
    transport: str, style: str, always_connect: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(socketio.AsyncNamespace):
        async def on_connect(self, sid: str, environ: Any, auth: Any) -> None:
            raise LookupError("connect")

        async def on_disconnect(self, sid: str, reason: str) -> None:
            here.log.append(("disconnect", "/faulty", sid, reason))

    async def faulty(sid: str, environ: Any, auth: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("connect")

    def faulty_at_once(sid: str, environ: Any, auth: Any) -> None:
        raise LookupError("connect")

    async with site(always_connect=always_connect, shutdown_timeout=BRIEF) as here:
        if style == "class":
            here.sio.register_namespace(Faulty("/faulty"))
        else:
            watch(here, ["/faulty"])
            here.sio.on("connect", faulty if style == "async" else faulty_at_once, "/faulty")
        client = await here.client(transport)
        await client.join()
        await client.say("40/faulty,")
        if always_connect:
            assert (await client.hear("40/faulty,"))[:11] == "40/faulty,{"
            assert await client.hear("41") == "41/faulty,"
        else:
            assert await client.hear("44") == '44/faulty,{"message":"Internal server error"}'
        assert "/faulty" not in here.sio.manager.rooms
        assert here.of("disconnect") == []
        # the rest of the session works
        await here.sio.emit("still", "here")
        assert await client.event() == ["still", "here"]
    assert "the connect handler of /faulty raised" in caplog.text


@on_each_transport
@pytest.mark.parametrize("style", ["async", "sync", "class"])
async def test_a_disconnect_handler_that_raises_keeps_nobody(
    transport: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    class Faulty(socketio.AsyncNamespace):
        async def on_disconnect(self, sid: str, reason: str) -> None:
            calls.append(reason)
            raise LookupError("disconnect")

    async def faulty(sid: str, reason: str) -> None:
        calls.append(reason)
        await anyio.lowlevel.checkpoint()
        raise LookupError("disconnect")

    def faulty_at_once(sid: str, reason: str) -> None:
        calls.append(reason)
        raise LookupError("disconnect")

    async with site(shutdown_timeout=BRIEF) as here:
        if style == "class":
            here.sio.register_namespace(Faulty("/a"))
        else:
            here.sio.on("disconnect", faulty if style == "async" else faulty_at_once, "/a")
        watch(here, ["/z"])
        client = await here.client(transport)
        sid = await client.join("/a")
        await client.say("41/a,")
        await soon(lambda: calls == ["client disconnect"])
        sid = await client.join("/a")
        await here.sio.disconnect(sid, "/a")
        assert calls == ["client disconnect", "server disconnect"]
        await client.join("/a")
        await client.join("/z")
        await here.sio.eio.disconnect(client.sid)
        await no_ghosts(here)
        assert calls[2:] == ["server disconnect"]
        # the namespace after it is told as well
        assert len(here.of("disconnect", "/z")) == 1
    assert caplog.text.count("LookupError: disconnect") == 3


async def test_engine_handlers_that_raise_refuse_a_client_or_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    async def faulty(sid: str, what: Any) -> None:
        calls.append(sid)
        raise LookupError("engine")

    for async_handlers in (True, False):
        async with AnyIOEngineServer(async_handlers=async_handlers) as eio:
            app = engineio.ASGIApp(eio, engineio_path="socket.io")
            eio.on("message", faulty)
            eio.on("disconnect", faulty)
            client = PollingClient(app)
            await client.handshake()
            await client.say("4one", "4two")
            eio.on("connect", faulty)
            assert (await fetch(http(app))).status == 401
            calls.clear()
            with anyio.fail_after(5):
                await eio.sockets[client.sid].close(abort=True)
            assert calls == [client.sid]
    assert caplog.text.count("LookupError: engine") == 8


async def test_the_blocks_own_error_leaves_it_unwrapped() -> None:
    for make in (AnyIOServer, AnyIOEngineServer):
        with pytest.raises(LookupError, match="mine"):
            async with make():
                raise LookupError("mine")
        with pytest.raises(ExceptionGroup) as caught:
            async with make(), anyio.create_task_group() as group:
                group.start_soon(_raise, LookupError("the user's own group"))
        assert [type(exc) for exc in caught.value.exceptions] == [LookupError]


async def _raise(exc: Exception) -> None:
    raise exc


async def test_cancelling_the_block_ends_it_within_its_scope() -> None:
    for make in (AnyIOServer, AnyIOEngineServer):
        with anyio.move_on_after(0.01) as scope:
            async with make():
                await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_what_an_asgi_server_raises_for_a_broken_connection_stays_here() -> None:
    class BusyError(Exception):
        """As Trio's, which hypercorn lets through."""

    async with site(ping_interval=0.1, ping_timeout=0.1) as here:
        # a handshake, a POST and a poll; whoever has not got a poll's answer is disconnected
        handshake = http(here.app)
        handshake.send_error = BusyError()
        await handshake()
        await no_ghosts(here)
        client = await here.client("polling")
        assert isinstance(client, PollingClient)
        await client.join()
        post = client.request("POST", "3")
        post.send_error = OSError()
        await post()
        assert not here.sio.eio.sockets[client.sid].closing
        poll = client.request()
        poll.send_error = BusyError()
        await here.sio.emit("lost")
        await poll()
        await no_ghosts(here)
        assert here.of("disconnect")[0][2] == "transport error"
        ws = WebSocketClient(here.app)
        ws.connection.send_error = BusyError()
        with pytest.raises(BusyError):
            # it has not been accepted: that is for the ASGI server to know
            await ws.connection()
        await no_ghosts(here)


# the block


async def test_before_and_after_the_block_requests_get_503() -> None:
    for make, app_class in (
        (AnyIOServer, socketio.ASGIApp),
        (AnyIOEngineServer, engineio.ASGIApp),
    ):
        server: Any = make(cors_allowed_origins="*", shutdown_timeout=0.1)
        app: Any = app_class(server, **{f"{app_class.__module__.split('.')[0]}_path": "socket.io"})
        for _ in range(2):
            await _is_out_of_service(app)
            async with server:
                client = PollingClient(app)
                await client.handshake()
                await server.shutdown()
                # no new clients, and the old ones end
                response = await fetch(http(app))
                assert (response.status, "does not run" in response.text) == (503, True)
        await _is_out_of_service(app)
        assert (await fetch(client.request())).status == 503


@pytest.mark.parametrize("make", [AnyIOServer, AnyIOEngineServer])
async def test_a_server_that_is_used_without_its_block_says_so_once(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = make()
    app: Any = (socketio if make is AnyIOServer else engineio).ASGIApp(
        server, **{f"{'socketio' if make is AnyIOServer else 'engineio'}_path": "socket.io"}
    )
    for _ in range(3):
        await _is_out_of_service(app)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "enter its block first (async with sio: ...)" in record.getMessage()
    caplog.clear()
    # at the end of a block there is nothing that the application has forgotten
    other = make()
    async with other:
        pass
    assert (await fetch(http(socketio.ASGIApp(other)))).status == 503
    assert not caplog.records


async def _is_out_of_service(app: Any) -> None:
    for request in (
        http(app),
        http(app, "POST", "40", sid="unknown"),
        http(app, "POST", "x" * 100_000, sid="unknown"),
    ):
        response = await fetch(request)
        assert response.status == 503
        assert response.headers["content-type"] == "application/json"
    client = WebSocketClient(app)
    with anyio.fail_after(5):
        await client.connection()
    assert [event["type"] for event in client.connection.sent] == ["websocket.close"]


async def test_one_block_after_the_other_works() -> None:
    sio = AnyIOServer(shutdown_timeout=0.2)
    app = socketio.ASGIApp(sio)
    for _ in range(2):
        async with sio, anyio.create_task_group() as group:
            here = Site(sio, app, group)
            watch(here)
            for transport in TRANSPORTS:
                client = await here.client(transport)
                await client.join()
                await sio.emit("hello", "you")
                assert await client.event() == ["hello", "you"]
            assert await sio.start_background_task(anyio.sleep, 0) is None
            group.cancel_scope.cancel()
        assert not here.ghosts()
        assert len(here.of("connect")) == len(here.of("disconnected")) == 2


async def test_a_server_that_runs_cannot_be_run_again_meanwhile() -> None:
    for make in (AnyIOServer, AnyIOEngineServer):
        server: Any = make()
        async with server:
            with pytest.raises(RuntimeError, match="already"):
                async with server:
                    raise AssertionError("it must not begin")
            # the first block is not harmed
            assert await server.start_background_task(_return, 5) == 5
        async with server:
            pass


async def _return(value: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return value


async def test_without_the_block_tasks_cannot_be_started() -> None:
    sio = AnyIOServer()
    with pytest.raises(RuntimeError, match="async with"):
        sio.start_background_task(anyio.sleep, 0)
    await sio.shutdown()
    await sio.emit("to", "nobody")


# pings


async def test_no_session_is_kept_alive_once_it_has_ended() -> None:
    async with site(ping_interval=500, connect_timeout=500) as here:
        references: list[weakref.ref[Any]] = []
        for number in range(1_000):
            client = await here.client(TRANSPORTS[number % 2])
            if number % 3:
                await client.join()
            references.append(weakref.ref(here.sio.eio.sockets[client.sid]))
            if isinstance(client, WebSocketClient):
                client.leave()
            else:
                await client.say("1")
            del client
        await no_ghosts(here)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        assert [ref for ref in references if ref() is not None] == []
        timers = here.sio.eio.tasks.timetable._timers
        assert len(timers) < 1_000
        assert all(timer.cancelled for timer in timers)


@on_each_transport
async def test_no_ping_is_sent_and_no_timeout_strikes_after_the_end(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_sio_pg.server.engine_socket import AnyIOSocket

    fired: list[str] = []
    for name in ("_ping", "_ping_timed_out"):
        original = getattr(AnyIOSocket, name)

        def noting(self: Any, name: str = name, original: Any = original) -> None:
            fired.append(f"{name} {self.sid}")
            original(self)

        monkeypatch.setattr(AnyIOSocket, name, noting)
    async with site(ping_interval=0.02, ping_timeout=0.02, shutdown_timeout=0.01) as here:
        await here.sio.sleep(0)
        for leave in ("client", "server", "timeout"):
            client = await here.client(transport)
            await client.join()
            if leave == "server":
                await here.sio.eio.disconnect(client.sid)
            elif leave == "client":
                await client.say("1")
            await no_ghosts(here)
            fired.clear()
            await anyio.sleep(0.06)
            assert fired == []
        assert [reason for *_, reason in here.of("disconnect")][-1] == "ping timeout"


async def test_a_wall_clock_that_jumps_disconnects_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    jump = 0.0
    wall_clock = time.time
    monkeypatch.setattr(time, "time", lambda: wall_clock() + jump)
    async with site(ping_interval=0.05, ping_timeout=2, shutdown_timeout=BRIEF) as here:
        clients = [await here.client(transport) for transport in TRANSPORTS]
        for client in clients:
            await client.join()
        for seconds in (3_600.0, -3_600.0, 0.0):
            jump = seconds
            for number in range(3):
                await anyio.sleep(0.06)
                await here.sio.emit("tick", number)
                for client in clients:
                    assert await client.event() == ["tick", number]
        assert here.of("disconnect") == []
        for client in clients:
            assert await here.sio.eio.sockets[client.sid].check_ping_timeout()


# options

WRONG_ENGINE_OPTIONS: list[tuple[str, Any]] = [
    ("ping_interval", 0),
    ("ping_interval", -1),
    ("ping_interval", "25"),
    ("ping_interval", None),
    ("ping_interval", True),
    ("ping_interval", float("nan")),
    ("ping_interval", float("inf")),
    ("ping_interval", (25, -1)),
    ("ping_interval", (0, 0)),
    ("ping_interval", (25,)),
    ("ping_interval", (25, 1, 1)),
    ("ping_interval", ()),
    ("ping_timeout", 0),
    ("ping_timeout", -1),
    ("ping_timeout", "20"),
    ("ping_timeout", float("inf")),
    ("ping_timeout", float("nan")),
    ("max_http_buffer_size", 0),
    ("max_http_buffer_size", -1),
    ("max_http_buffer_size", "1MB"),
    ("max_http_buffer_size", None),
    ("compression_threshold", -1),
    ("compression_threshold", "1k"),
    ("shutdown_timeout", -1),
    ("shutdown_timeout", None),
    ("shutdown_timeout", float("nan")),
    ("shutdown_timeout", float("inf")),
    ("async_mode", "threading"),
    ("async_mode", "aiohttp"),
    ("transports", "flash"),
    ("transports", ["websocket", "webtransport"]),
    ("transports", []),
    ("transports", 5),
    ("cookie", 5),
]
WRONG_OPTIONS: list[tuple[str, Any]] = [
    *WRONG_ENGINE_OPTIONS,
    ("connect_timeout", 0),
    ("connect_timeout", -1),
    ("connect_timeout", "45"),
    ("connect_timeout", float("nan")),
    ("connect_timeout", float("inf")),
    ("namespaces", ["chat"]),
    ("namespaces", "chat"),
    ("namespaces", [5]),
    ("namespaces", 5),
    ("serializer", "xml"),
    ("serializer", 5),
    ("client_manager", "postgresql://user:secret@localhost/"),
]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *((AnyIOEngineServer, name, value) for name, value in WRONG_ENGINE_OPTIONS),
        *((AnyIOServer, name, value) for name, value in WRONG_OPTIONS),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_its_range(
    make: Any, name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"^{name}") as caught:
        make(**{name: value})
    message = str(caught.value)
    if name == "client_manager":
        assert "secret" not in message
    else:
        shown = value if not isinstance(value, list | tuple) or name == "ping_interval" else None
        if shown is not None and not isinstance(value, tuple):
            assert repr(value) in message
    assert len(message) > len(name) + len(repr(value)), "where is the range?"


@pytest.mark.parametrize("make", [AnyIOServer, AnyIOEngineServer])
def test_an_unknown_option_is_a_type_error(make: Any) -> None:
    with pytest.raises(TypeError, match="ping_intervall"):
        make(ping_intervall=5)
    with pytest.raises(TypeError, match="service_task"):
        make(service_task=False)


def test_a_range_is_open_where_it_should_be() -> None:
    sio = AnyIOServer(
        ping_interval=(0.001, 0),
        ping_timeout=0.001,
        max_http_buffer_size=1,
        compression_threshold=0,
        connect_timeout=0.001,
        shutdown_timeout=0,
        transports=("websocket",),
        namespaces="/chat",
    )
    assert sio.eio.transports == ["websocket"]
    assert sio.namespaces == ["/chat"]


def _parameters(function: Any) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def test_every_option_of_the_stock_servers_is_there_with_its_default() -> None:
    engine: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for stock in (engineio.base_server.BaseServer, engineio.AsyncServer):
        engine |= _parameters(stock.__init__)
        ours = _parameters(AnyIOEngineServer.__init__)
        assert {name: ours[name] for name in engine} == engine
    assert ours.keys() - engine.keys() == {"shutdown_timeout"}
    for stock in (socketio.base_server.BaseServer, socketio.AsyncServer):
        theirs |= _parameters(stock.__init__)
        ours = _parameters(AnyIOServer.__init__)
        assert {name: ours[name] for name in theirs} == theirs
    # what the stock server passes on to the engine; it sets that one's async_handlers itself
    passed = {name: value for name, value in engine.items() if name not in theirs}
    assert {name: ours[name] for name in passed} == passed
    assert ours.keys() - engine.keys() - theirs.keys() == {
        "connect_timeout",
        "shutdown_timeout",
        "engineio_logger",
    }
    # in the same places, for those who do not name them
    names = list(_parameters(socketio.AsyncServer.__init__))
    assert list(ours)[: len(names)] == names
    names = list(_parameters(engineio.AsyncServer.__init__))
    assert list(_parameters(AnyIOEngineServer.__init__))[: len(names)] == names


def test_every_stock_default_is_accepted() -> None:
    engine = _parameters(engineio.base_server.BaseServer.__init__)
    AnyIOEngineServer(**engine)
    both = {**engine, **_parameters(socketio.base_server.BaseServer.__init__)}
    AnyIOServer(**both, engineio_logger=False)


async def test_a_manager_for_asyncio_is_refused_on_trio(anyio_backend: Any) -> None:
    sio = AnyIOServer(client_manager=socketio.AsyncManager())
    if anyio_backend[0] == "trio":
        with pytest.raises(TypeError, match=r"AsyncManager runs on asyncio only.*AnyIOManager"):
            async with sio:
                raise AssertionError("it must not begin")
        assert (await fetch(http(socketio.ASGIApp(sio)))).status == 503
        return
    async with sio, anyio.create_task_group() as group:
        here = Site(sio, socketio.ASGIApp(sio), group)
        client = await here.client("websocket")
        sid = await client.join()
        await sio.enter_room(sid, "room")
        await sio.emit("hello", (1, b"2"), to="room")
        assert await client.event() == ["hello", 1, b"2"]
        group.cancel_scope.cancel()


async def test_a_client_that_joins_no_namespace_is_closed_in_time() -> None:
    async with site(connect_timeout=0.1, shutdown_timeout=0.1) as here:
        idle = [await here.client(transport) for transport in TRANSPORTS]
        joined = [await here.client(transport) for transport in TRANSPORTS]
        for client in joined:
            await client.join()
        for client in idle:
            with pytest.raises(EOFError):
                await client.read()
        await soon(lambda: len(here.sio.eio.sockets) == 2)
        await here.sio.emit("still", "here")
        for client in joined:
            assert await client.event() == ["still", "here"]


# what handlers can do


async def test_background_tasks_give_results_and_end_with_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    async def endless() -> None:
        try:
            await sio.sleep(1_000)
        finally:
            log.append("ended")

    async with AnyIOServer() as sio:
        assert await sio.start_background_task(_return, 5) == 5
        assert await sio.eio.start_background_task(_return, value=6) == 6
        assert await sio.start_background_task(lambda: "sync") == "sync"
        with pytest.raises(LookupError):
            await sio.start_background_task(_raise, LookupError("mine"))
        cancelled = sio.start_background_task(endless)
        await anyio.wait_all_tasks_blocked()
        cancelled.cancel()
        assert await cancelled is None
        left = sio.start_background_task(endless)
        await anyio.wait_all_tasks_blocked()
    assert log == ["ended", "ended"]
    assert left.done()
    assert "LookupError: mine" in caplog.text


async def test_the_primitives_of_the_engine() -> None:
    async with AnyIOServer() as sio:
        items = sio.eio.create_queue(maxsize=1)
        event = sio.eio.create_event()

        async def produce() -> None:
            for number in range(3):
                await items.put(number)
            event.set()

        task = sio.start_background_task(produce)
        assert [await items.get() for _ in range(3)] == [0, 1, 2]
        assert await event.wait()
        await task
        with pytest.raises(sio.eio.get_queue_empty_exception()):
            items.get_nowait()
        started = anyio.current_time()
        await sio.sleep(0.02)
        await sio.eio.sleep()
        assert anyio.current_time() - started >= 0.019


@on_each_transport
@pytest.mark.parametrize("leave", ["packet", "transport", "server", "engine", "end"])
async def test_a_disconnect_handler_still_knows_its_client(transport: str, leave: str) -> None:
    known: dict[str, Any] = {}
    reasons = {
        "packet": "client disconnect",
        "transport": "transport close" if transport == "websocket" else "transport error",
        "server": "server disconnect",
        "engine": "server disconnect",
        "end": "server disconnect",
    }
    async with site(shutdown_timeout=BRIEF) as here:
        sio = here.sio

        async def disconnect(sid: str, reason: str) -> None:
            known["reason"] = reason
            known["rooms"] = sorted(sio.rooms(sid, "/room"))
            async with sio.session(sid, "/room") as session:
                known["session"] = dict(session)
                session["more"] = 1
            known["saved"] = await sio.get_session(sid, "/room")
            known["environ"] = sio.get_environ(sid, "/room")["REMOTE_ADDR"]
            known["transport"] = sio.transport(sid, "/room")
            # nobody reads it, and nothing breaks
            await sio.emit("bye", to=sid, namespace="/room")
            await sio.leave_room(sid, "lobby", "/room")
            known["left"] = sorted(sio.rooms(sid, "/room"))
            known["ended"] = True

        sio.on("disconnect", disconnect, "/room")
        client = await here.client(transport)
        sid = await client.join("/room")
        await sio.save_session(sid, {"name": "me"}, "/room")
        await sio.enter_room(sid, "lobby", "/room")
        if leave == "packet":
            await client.say("41/room,")
        elif leave == "server":
            await sio.disconnect(sid, "/room")
        elif leave == "engine":
            await sio.eio.disconnect(client.sid)
        elif leave == "end":
            await sio.shutdown()
        elif isinstance(client, WebSocketClient):
            client.leave()
        else:
            poll = client.request()
            poll.put({"type": "http.disconnect"})
            await poll()
        await soon(lambda: "ended" in known)
    assert known == {
        "reason": reasons[leave],
        "rooms": sorted([sid, "lobby"]),
        "session": {"name": "me"},
        "saved": {"name": "me", "more": 1},
        "environ": "192.0.2.7",
        "transport": transport,
        "left": [sid],
        "ended": True,
    }


@on_each_transport
@pytest.mark.parametrize("leave", ["packet", "transport", "engine", "server", "end"])
@pytest.mark.parametrize("always_connect", [False, True])
@pytest.mark.parametrize("answer", ["accepts", "refuses", "raises"])
async def test_one_that_leaves_while_it_is_asked_is_let_go_of(
    transport: str, leave: str, always_connect: bool, answer: str
) -> None:
    async with site(always_connect=always_connect, shutdown_timeout=BRIEF) as here:
        release = anyio.Event()

        async def connect(sid: str, environ: Any, auth: Any) -> None:
            here.log.append(("asked", "/slow", sid))
            await here.sio.enter_room(sid, "lobby", "/slow")
            with anyio.CancelScope(shield=True):
                await release.wait()
            if answer == "refuses":
                raise socketio.exceptions.ConnectionRefusedError("no")
            if answer == "raises":
                raise LookupError("connect")
            here.log.append(("connect", "/slow", sid))

        watch(here, ["/slow"])
        here.sio.on("connect", connect, "/slow")
        client = await here.client(transport)
        await client.join()
        joining = anyio.Event()

        async def join() -> None:
            await client.say("40/slow,")
            joining.set()

        here.group.start_soon(join)
        [(sid,)] = await soon(lambda: here.of("asked", "/slow"))
        if always_connect:
            await client.hear("40/slow,")

        async def go() -> None:
            if leave == "packet":
                await client.say("41/slow,", "1")
            elif leave == "engine":
                await here.sio.eio.disconnect(client.sid)
            elif leave == "server":
                await here.sio.disconnect(sid, "/slow")
            elif leave == "end":
                await here.sio.shutdown()
            elif isinstance(client, WebSocketClient):
                client.leave()
            else:
                poll = client.request()
                poll.put({"type": "http.disconnect"})
                await poll()

        if leave == "packet" and transport == "polling":
            # the reference server, too, closes a session whose POSTs overlap
            here.group.start_soon(client.request("POST", "41/slow,"))
        else:
            here.group.start_soon(go)
        await anyio.wait_all_tasks_blocked()
        release.set()
        if leave == "server":
            await joining.wait()
            await client.say("1")
        await no_ghosts(here)
        assert len(here.of("disconnect", "/")) == 1
        if answer == "accepts":
            await soon(lambda: here.of("connect", "/slow"))
        # whoever was accepted is said goodbye to, once; and always_connect accepts before it asks
        farewells = len(here.of("disconnect", "/slow"))
        if answer == "accepts":
            assert farewells == 1
        elif not always_connect:
            assert farewells == 0
        else:
            assert farewells <= 1


@on_each_transport
async def test_a_session_that_ends_while_the_engine_asks_is_paired(transport: str) -> None:
    log: list[tuple[str, str]] = []
    release = anyio.Event()

    async def connect(sid: str, environ: Any) -> None:
        log.append(("connect", sid))
        await release.wait()

    async def disconnect(sid: str, reason: str) -> None:
        log.append(("disconnect", sid))

    for way in ("disconnect", "shutdown"):
        log.clear()
        release = anyio.Event()
        async with AnyIOEngineServer() as eio:
            eio.on("connect", connect)
            eio.on("disconnect", disconnect)
            app = engineio.ASGIApp(eio, engineio_path="socket.io")
            connection = http(app) if transport == "polling" else WebSocketClient(app).connection
            connection.put({"type": "websocket.disconnect"})
            async with anyio.create_task_group() as group:
                group.start_soon(connection)
                [(_, sid)] = await soon(lambda: log[:])
                if way == "shutdown":
                    group.start_soon(eio.shutdown)
                else:
                    group.start_soon(eio.disconnect, sid)
                await anyio.wait_all_tasks_blocked()
                release.set()
            await soon(lambda: not eio.sockets)
            await soon(lambda: len(log) == 2)
        assert log == [("connect", sid), ("disconnect", sid)]


async def test_cancelling_a_handshake_whose_session_has_ended_passes_through() -> None:
    async def connect(sid: str, environ: Any) -> None:
        await eio.disconnect(sid)
        await anyio.sleep_forever()

    async with AnyIOEngineServer(shutdown_timeout=0.05) as eio:
        eio.on("connect", connect)
        app = engineio.ASGIApp(eio, engineio_path="socket.io")
        for native in ways():
            connection = http(app)
            # the last of its awaits
            awaits = 0
            for at in range(1, MANY):
                with anyio.move_on_after(0.2) as scope:
                    await cancel_at(at, connection, native=native)
                if scope.cancelled_caught:
                    break
                connection = http(app)
                awaits = at
            assert awaits > 1
            await soon(lambda: not eio.sockets)


# python-socketio's admin UI


@pytest.fixture
def stock_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what an instrumented server does to python-engineio's class."""
    for name in ("handle_post_request", "_websocket_handler", "_send_ping"):
        monkeypatch.setattr(AsyncSocket, name, getattr(AsyncSocket, name))


@on_each_transport
@pytest.mark.parametrize("mode", ["development", "production"])
async def test_the_admin_ui_gets_what_it_shows(
    transport: str, mode: str, stock_socket: None
) -> None:
    async with site(ping_interval=0.1, shutdown_timeout=BRIEF) as here:
        admin = here.sio.instrument(auth=False, mode=mode, server_stats_interval=0.05)
        here.sio.on("echo", lambda sid, data: data)
        user = await here.client(transport)
        user_sid = await user.join()
        client = await here.client(transport)
        await client.join("/admin")
        seen: dict[str, Any] = {}
        await user.say('421["echo",5]', '422["echo",6]')
        assert [await user.hear("43") for _ in range(2)] == ["431[5]", "432[6]"]
        wanted = {"config", "server_stats"}
        if mode == "development":
            wanted |= {"all_sockets", "event_received"}
        while not wanted <= seen.keys():
            text = await client.hear("42/admin,")
            name, *arguments = json.loads(text[len("42/admin,") :])
            seen.setdefault(name, []).append(arguments)
        assert "AGGREGATED_EVENTS" in seen["config"][0][0]["supportedFeatures"]
        assert seen["server_stats"][-1][0]["clientsCount"] == 2
        if mode == "development":
            [shown] = [s for s in seen["all_sockets"][0][0] if s["nsp"] == "/"]
            assert (shown["id"], shown["handshake"]["address"]) == (user_sid, "192.0.2.7")
            assert ["/", user_sid, ["echo", 5]] in [e[:3] for e in seen["event_received"]]
        # and the server does what it did
        await here.sio.emit("still", "here", to=user_sid)
        assert await user.event() == ["still", "here"]
        await here.sio.eio.disconnect(user.sid)
        await soon(lambda: len(here.sio.eio.sockets) == 1)
        assert [sid for sid, _ in here.of("disconnect", "/")] == [user_sid]
        with anyio.fail_after(5):
            await here.sio.shutdown()
        admin.uninstrument()
    assert not here.ghosts()


# behind TLS


@pytest.mark.parametrize(
    ("scheme", "origin", "allowed"),
    [
        ("https", "https://example.org", True),
        ("https", "http://example.org", False),
        ("https", "https://evil.example", False),
        ("http", "http://example.org", True),
        ("http", "https://example.org", False),
        ("wss", "https://example.org", True),
        ("wss", "http://example.org", False),
        ("ws", "http://example.org", True),
        ("ws", "https://example.org", False),
    ],
)
async def test_the_same_origin_is_allowed_behind_tls(
    scheme: str, origin: str, allowed: bool
) -> None:
    headers = [(b"host", b"example.org"), (b"origin", origin.encode())]
    async with site(shutdown_timeout=BRIEF) as here:
        if scheme.startswith("http"):
            scope = {"scheme": scheme, "headers": headers}
            assert ((await fetch(http(here.app, scope=scope))).status == 200) is allowed
            return
        client = WebSocketClient(here.app, scheme=scheme, headers=headers)
        client.leave()
        await client.connection()
        kinds = [event["type"] for event in client.connection.sent]
        assert kinds[0] == ("websocket.accept" if allowed else "websocket.close")


async def test_a_proxys_headers_tell_the_scheme() -> None:
    headers = [
        (b"host", b"inner"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"example.org"),
        (b"origin", b"https://example.org"),
    ]
    async with site(shutdown_timeout=BRIEF) as here:
        scope = {"scheme": "http", "headers": headers}
        assert (await fetch(http(here.app, scope=scope))).status == 200
        scope["headers"] = [*headers[:-1], (b"origin", b"https://evil.example")]
        assert (await fetch(http(here.app, scope=scope))).status == 400


@on_each_transport
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("192.0.2.7", 5050), ("192.0.2.7", "5050")),
        (["2001:db8::7", 0], ("2001:db8::7", "0")),
        (None, ("127.0.0.1", "0")),
    ],
)
async def test_the_environ_has_the_clients_address(
    transport: str, address: Any, shown: tuple[str, str]
) -> None:
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client(transport, client=address)
        sid = await client.join()
        environ = here.sio.get_environ(sid)
        assert environ is not None
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == shown


# behind real ASGI servers, in the event loop of the test

SHUTDOWN_TIMEOUT = 2.0
"""Seconds for which the servers of the tests wait for their clients."""
CROWD_TIMEOUT = 4.0
"""The same, where all handlers of 200 clients have to end in it."""
GRACEFUL_TIMEOUT = 1
"""Seconds for which the ASGI servers of the tests wait for open connections."""
KEEP_ALIVE_TIMEOUT = 1
"""Seconds for which hypercorn and anycorn keep what belongs to an idle connection."""
MARGIN = 10.0
"""Seconds for what is done beside waiting, on a slow machine that others use too."""

on_each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
on_each_wire = pytest.mark.parametrize("wire", [PollingWire, WebSocketWire])


@dataclass
class Served:
    """A server behind an ASGI server, and a task group for clients that live."""

    sio: AnyIOServer
    port: int
    group: TaskGroup
    log: list[tuple[str, str, str]]

    def disconnected(self, name: str = "disconnected") -> list[str]:
        return [sid for entry, sid, _ in self.log if entry == name]

    def reasons(self) -> list[str]:
        return [reason for entry, _, reason in self.log if entry == "disconnected"]


def run_served(
    kind: Kind,
    body: Callable[[Served], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    *,
    farewell: float = 0.0,
    timeouts: dict[str, int] | None = None,
    **options: Any,
) -> None:
    """Run a test behind an ASGI server; see that it ends in time and leaves nothing.

    ``timeouts`` are more of the ASGI server's.
    """
    options = {"shutdown_timeout": SHUTDOWN_TIMEOUT, **options}
    ended_body = 0.0

    async def run() -> None:
        nonlocal ended_body
        before = all_tasks()
        log: list[tuple[str, str, str]] = []

        @asynccontextmanager
        async def make_app() -> AsyncIterator[Any]:
            async with AnyIOServer(**options) as sio:
                sios.append(sio)
                sio.on("disconnect", disconnect)
                yield socketio.ASGIApp(sio)

        async def disconnect(sid: str, reason: str) -> None:
            log.append(("disconnect", sid, reason))
            await anyio.sleep(farewell)
            log.append(("disconnected", sid, reason))

        sios: list[AnyIOServer] = []
        with listening() as listener:
            port = listener.getsockname()[1]
            async with anyio.create_task_group() as group:
                try:
                    async with served_until(kind, make_app, listener, **(timeouts or {})):
                        with anyio.fail_after(60):
                            await _first_request(port)
                            await body(Served(sios[0], port, group, log))
                        ended_body = anyio.current_time()
                    took = anyio.current_time() - ended_body
                finally:
                    group.cancel_scope.cancel()
                    await close_all()
        limit = 3 * options["shutdown_timeout"] + MARGIN
        assert took < limit, f"it took {took:.1f} s to end"
        assert not sios[0].eio.sockets
        assert not sios[0].environ
        # this task has not been left with a cancellation
        await anyio.sleep(0.001)
        await no_tasks_but(before)

    _run_cleanly(kind, run, caplog)


@asynccontextmanager
async def served_until(
    kind: Kind, make_app: AppFactory, listener: socket.socket, **timeouts: int
) -> AsyncIterator[None]:
    """Serve an app for the block; at its end the ASGI server has to stop in time."""
    stopped = False
    async with make_app() as app, anyio.create_task_group() as tasks:
        stop = anyio.Event()
        ended = anyio.Event()

        async def run() -> None:
            nonlocal stopped
            serve = SERVERS[kind.server, kind.backend]
            try:
                await serve(app, listener, stop, graceful_timeout=GRACEFUL_TIMEOUT, **timeouts)
                stopped = True
            finally:
                ended.set()

        tasks.start_soon(run)
        try:
            yield
        finally:
            stop.set()
            with anyio.move_on_after(GRACEFUL_TIMEOUT + MARGIN, shield=True):
                await ended.wait()
            tasks.cancel_scope.cancel()
    assert stopped


async def _first_request(port: int) -> None:
    # now the ASGI server has started whatever it starts
    wire = await Wire.connect(port)
    await wire.request("GET", "transport=none")
    assert (await wire.response())[0] == 400
    await wire.close()


async def no_tasks_but(before: set[Any]) -> None:
    # what belongs to an idle connection stays for the ASGI server's keep-alive timeout
    with anyio.move_on_after(10):
        while all_tasks() - before:
            await anyio.sleep(0.01)
    assert all_tasks() - before == set()


def _run_cleanly(
    kind: Kind, run: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    descriptors = open_descriptors()
    anyio.run(run, backend=kind.backend)
    gc.collect()
    assert open_descriptors() <= descriptors
    ours = [
        record.getMessage()
        for record in caplog.records
        if (record.name == "asyncio" or record.exc_info)
        and not (str(kind) == "hypercorn-asyncio" and _is_hypercorns(record.getMessage()))
    ]
    assert ours == []


def _is_hypercorns(message: str) -> bool:
    # it cancels the connections that have not ended in its graceful timeout, and looks no further
    return "StreamReaderProtocol.connection_made" in message or "_GatheringFuture" in message


async def _deliver(site: Served, megabytes: int, sid: str) -> None:
    for _ in range(4 * megabytes):
        await site.sio.emit("much", "x" * (MEGABYTE // 4), to=sid)


@on_each_kind
@on_each_wire
def test_a_client_that_does_not_read_holds_up_nobody(
    kind: Kind, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(site: Served) -> None:
        deaf = await wire.join(site.port, 4_096)
        others = [await cls.join(site.port) for cls in (PollingWire, WebSocketWire)]
        for other in others:
            site.group.start_soon(other.live)
        if wire is PollingWire:
            await deaf.start_poll()
        await _deliver(site, 16, deaf.sid)
        started = anyio.current_time()
        for number in range(20):
            await site.sio.emit("tick", number)
            await anyio.sleep(0.02)
        for other in others:
            await soon(lambda: any('["tick",19]' in text for text in other.received))  # noqa: B023
        assert anyio.current_time() - started < MARGIN
        # the ping timeout finds it
        await soon(lambda: site.disconnected())
        assert site.disconnected() == [deaf.sid]
        assert set(site.reasons()) <= {"ping timeout", "transport error"}
        await soon(lambda: len(site.sio.eio.sockets) == 2)
        await deaf.wire.close()
        await site.sio.shutdown()

    # it is not waited for here, neither after its ping timeout nor at the end
    run_served(kind, body, caplog, ping_interval=0.5, ping_timeout=3, shutdown_timeout=0.5)


@on_each_kind
@on_each_wire
def test_a_client_that_does_not_read_holds_up_no_shutdown(
    kind: Kind, wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wires: list[Any] = []
    timeout = 0.5

    async def body(site: Served) -> None:
        deaf = await wire.join(site.port, 4_096)
        wires.append(deaf.wire)
        if wire is PollingWire:
            await deaf.start_poll()
        await _deliver(site, 16, deaf.sid)
        await anyio.sleep(0.1)
        started = anyio.current_time()
        await site.sio.shutdown()
        assert anyio.current_time() - started < timeout + MARGIN
        assert site.disconnected() == [deaf.sid]
        if waits_for_readers(kind):
            await deaf.wire.close()

    run_served(kind, body, caplog, shutdown_timeout=timeout)


def waits_for_readers(kind: Kind) -> bool:
    """Whether the ASGI server itself does not end before what it has written has been read."""
    return str(kind) == "hypercorn-asyncio"


def waits_for_everyone(kind: Kind) -> bool:
    """Whether the ASGI server itself ends only when the last client has gone."""
    # https://github.com/pgjones/hypercorn/issues/308
    return str(kind) == "hypercorn-asyncio" and sys.version_info >= (3, 12)


@on_each_kind
@pytest.mark.parametrize("how", ["engine", "namespace", "timeout", "end"])
def test_a_client_that_keeps_sending_while_it_is_closed_leaks_nothing(
    kind: Kind, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(site: Served) -> None:
        site.sio.on("noise", lambda sid: None)
        before = all_tasks()
        client = await WebSocketWire.join(site.port)
        sent = 0

        async def send() -> None:
            nonlocal sent
            try:
                while True:
                    await client.send('42["noise"]')
                    sent += 1
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

        site.group.start_soon(send)
        await soon(lambda: sent > 100)
        if how == "engine":
            await site.sio.eio.disconnect(client.eio_sid)
        elif how == "namespace":
            await site.sio.disconnect(client.sid)
            await anyio.sleep(0.1)
        elif how == "end":
            await site.sio.shutdown()
        await soon(lambda: site.disconnected() == [client.sid])
        more = sent
        await anyio.sleep(0.2)
        await client.wire.close()
        assert more
        await soon(lambda: not site.sio.eio.sockets)
        if how != "end":
            await no_tasks_but(before)

    run_served(
        kind,
        body,
        caplog,
        timeouts={"keep_alive_timeout": KEEP_ALIVE_TIMEOUT},
        ping_interval=0.3,
        ping_timeout=0.3,
    )


@on_each_kind
@pytest.mark.parametrize("known", [False, True])
def test_a_refused_post_with_a_large_chunked_body_leaks_nothing(
    kind: Kind, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"

    async def body(site: Served) -> None:
        other = await PollingWire.join(site.port)
        before = all_tasks()
        sid = other.eio_sid if known else "unknown"
        for _ in range(3):
            wire = await Wire.connect(site.port)
            await wire.request(
                "POST", f"transport=polling&sid={sid}", None, "Transfer-Encoding: chunked"
            )
            try:
                for _ in range(400):
                    await wire.stream.send(chunk)
                await wire.stream.send(b"0\r\n\r\n")
            except anyio.BrokenResourceError:
                pass
            try:
                status, _ = await wire.response()
                assert status in (400, 413)
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
                # it has hung up while this one was still sending
                pass
            await wire.close()
        # and one that never sends the rest
        wire = await Wire.connect(site.port)
        await wire.request("POST", "transport=polling&sid=x", None, "Transfer-Encoding: chunked")
        try:
            for _ in range(40):
                await wire.stream.send(chunk)
        except anyio.BrokenResourceError:
            pass
        await anyio.sleep(0.1)
        await wire.close()
        await other.wire.close()
        await no_tasks_but(before)

    run_served(kind, body, caplog, timeouts={"keep_alive_timeout": KEEP_ALIVE_TIMEOUT})


async def crowd(site: Served, count: int, deaf: bool) -> list[Any]:
    """Return so many clients, half of them idle pollers, one of them not reading."""
    clients: list[Any] = [None] * count
    limit = anyio.CapacityLimiter(20)

    async def join(number: int) -> None:
        async with limit:
            if number == 0 and deaf:
                clients[0] = await WebSocketWire.join(site.port, 4_096)
                return
            clients[number] = await (PollingWire, WebSocketWire)[number % 2].join(site.port)
        site.group.start_soon(clients[number].live)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(join, number)
    if deaf:
        await _deliver(site, 16, clients[0].sid)
    return clients


@on_each_kind
@pytest.mark.parametrize("how", ["shutdown", "end of the block"])
def test_the_end_of_200_clients(kind: Kind, how: str, caplog: pytest.LogCaptureFixture) -> None:
    sids: list[str] = []
    sites: list[Served] = []

    async def body(site: Served) -> None:
        sites.append(site)
        clients = await crowd(site, 200, deaf=True)
        sids.extend(client.sid for client in clients)
        if how == "shutdown":
            started = anyio.current_time()
            await site.sio.shutdown()
            assert anyio.current_time() - started < CROWD_TIMEOUT + MARGIN
            assert sorted(site.disconnected()) == sorted(sids)
            # those that read were told
            for client in clients[1:]:
                with anyio.fail_after(MARGIN):
                    await client.closed.wait()
        if waits_for_readers(kind):
            await clients[0].wire.close()
        if waits_for_everyone(kind):
            for client in clients[1:]:
                await client.wire.close()

    run_served(kind, body, caplog, farewell=0.1, shutdown_timeout=CROWD_TIMEOUT)
    assert len(set(sids)) == 200
    assert sorted(sites[0].disconnected()) == sorted(sids)
    assert sorted(sites[0].disconnected("disconnect")) == sorted(sids)


@on_each_kind
@pytest.mark.parametrize("what", ["disconnect handler", "event handler", "background task"])
def test_the_end_does_not_wait_for_what_never_ends(
    kind: Kind, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def endless(*args: Any) -> None:
        begun.append(what)
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(what)

    async def body(site: Served) -> None:
        clients = await crowd(site, 20, deaf=False)
        if what == "disconnect handler":
            site.sio.on("disconnect", endless)
        elif what == "event handler":
            site.sio.on("endless", endless)
            for client in clients:
                if isinstance(client, WebSocketWire):
                    await client.send('42["endless"]')
            await soon(lambda: len(begun) == 10)
        else:
            site.sio.start_background_task(endless)
            await soon(lambda: begun)
        started = anyio.current_time()
        await site.sio.shutdown()
        took = anyio.current_time() - started
        assert took < SHUTDOWN_TIMEOUT + MARGIN
        if what != "background task":
            assert took > SHUTDOWN_TIMEOUT * 0.9
        if what != "disconnect handler":
            assert len(site.disconnected()) == 20

    run_served(kind, body, caplog)
    assert len(ended) == {"disconnect handler": 20, "event handler": 10, "background task": 1}[what]


async def _serve(kind: Kind, app: Any, listener: socket.socket) -> None:
    try:
        await SERVERS[kind.server, kind.backend](app, listener, anyio.Event())
    except asyncio.InvalidStateError:
        # what hypercorn raises when it is cancelled, in place of the cancellation
        assert str(kind) == "hypercorn-asyncio"


@on_each_kind
@pytest.mark.parametrize("farewell", [0.1, float("inf")])
def test_the_end_of_200_clients_whose_block_is_cancelled(
    kind: Kind, farewell: float, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[tuple[str, str, str]] = []
    sids: list[str] = []
    # where no handler ever ends, none has to be given the time
    timeout = SHUTDOWN_TIMEOUT if farewell == float("inf") else CROWD_TIMEOUT

    async def disconnect(sid: str, reason: str) -> None:
        log.append(("disconnect", sid, reason))
        await anyio.sleep(farewell)
        log.append(("disconnected", sid, reason))

    async def run() -> None:
        before = all_tasks()
        with listening() as listener:
            async with anyio.create_task_group() as clients:
                with anyio.CancelScope() as scope:
                    async with (
                        AnyIOServer(shutdown_timeout=timeout) as sio,
                        anyio.create_task_group() as tasks,
                    ):
                        sio.on("disconnect", disconnect)
                        # the pattern of the documentation: the ASGI server in a child task
                        tasks.start_soon(_serve, kind, socketio.ASGIApp(sio), listener)
                        site = Served(sio, listener.getsockname()[1], clients, log)
                        with anyio.fail_after(60):
                            members = await crowd(site, 200, deaf=not waits_for_readers(kind))
                        sids.extend(member.sid for member in members)
                        started = anyio.current_time()
                        scope.cancel()
                assert scope.cancelled_caught
                took = anyio.current_time() - started
                clients.cancel_scope.cancel()
                await close_all()
        assert took < 3 * timeout + MARGIN, f"it took {took:.1f} s to end"
        assert not sio.eio.sockets
        await anyio.sleep(0.001)
        if str(kind) == "hypercorn-asyncio":
            # another thing that it forgets when it is cancelled
            for task in all_tasks() - before:
                if "Lifespan.handle_lifespan" in repr(task):
                    task.cancel()
        await no_tasks_but(before)

    _run_cleanly(kind, run, caplog)
    assert sorted(sid for name, sid, _ in log if name == "disconnect") == sorted(sids)
    if farewell == 0.1:
        assert sorted(sid for name, sid, _ in log if name == "disconnected") == sorted(sids)
