"""Regressions of the servers: each test is named after what is right now, and tells what was not."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import engineio
import pytest
import socketio

from anyio_sio_pg import AnyIOEngineServer, AnyIOManager, AnyIOServer
from anyio_sio_pg.testing import virtual_time
from asgi_clients import (
    Connection,
    PollingClient,
    Site,
    WebSocketClient,
    fetch,
    http,
    make_scope,
    site,
    watch,
)
from harness import eventually
from raw_clients import until
from serving import HOST, KINDS, Kind, Running, serving

pytestmark = pytest.mark.anyio

TRANSPORTS = ["polling", "websocket"]
ONE = '{"_placeholder":true,"num":0}'

LONG = 30.0
"""Seconds that no test has: what waits for them has failed."""
BRIEF = 0.1
"""Seconds that the end waits for clients that poll no more, where that is not what is tested."""

on_each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops whose clocks jump: on a busy machine, too, no client is late with its pong."""
    return request.param, virtual_time(request.param)


async def soon(condition: Callable[[], Any]) -> Any:
    return await eventually(condition, 10)


async def goes_on(here: Site, client: Any) -> bool:
    """Whether a client's session in "/" still carries events, both ways."""
    here.sio.on("goes on", lambda sid: "it does")
    await client.say('4277["goes on"]')
    return bool(await client.hear("4377") == '4377["it does"]')


async def is_closed(client: Any) -> bool:
    """Whether a session is over; what comes before its end is lost."""
    with anyio.fail_after(10):
        try:
            while True:
                await client.read()
        except EOFError:
            return True


def sending(app: Any, hook: Callable[[dict[str, Any]], Awaitable[None]]) -> Any:
    """Wrap an ASGI app so that each of its sends awaits something first."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def hooked(event: dict[str, Any]) -> None:
            await hook(event)
            await send(event)

        await app(scope, receive, hooked)

    return wrapped


@asynccontextmanager
async def turns() -> AsyncIterator[Callable[[], int]]:
    """Count how often another task has its turn during the block."""
    count = 0

    async def take_turns() -> None:
        nonlocal count
        while True:
            await anyio.lowlevel.checkpoint()
            count += 1

    async with anyio.create_task_group() as group:
        group.start_soon(take_turns)
        yield lambda: count
        group.cancel_scope.cancel()


@asynccontextmanager
async def engine(**options: Any) -> AsyncIterator[tuple[AnyIOEngineServer, Any]]:
    """Run an Engine.IO server; what it raises is not wrapped."""
    async with AnyIOEngineServer(**options) as eio:
        yield eio, engineio.ASGIApp(eio, engineio_path="socket.io")


# what one client can do to the others


def raw_websocket(port: int) -> socket.socket:
    """Return a WebSocket that has joined "/" and that nobody answers a close frame on."""
    sock = socket.create_connection((HOST, port), timeout=10)
    sock.sendall(
        f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    _read_until(sock, b"0{")
    sock.sendall(frame("40"))
    _read_until(sock, b"40{")
    return sock


def _read_until(sock: socket.socket, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        part = sock.recv(4096)
        assert part, seen
        seen += part
    return seen


def frame(text: str) -> bytes:
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


def can_connect(running: Running) -> bool:
    with socket.create_connection((HOST, running.port), timeout=10) as sock:
        target = "/socket.io/?EIO=4&transport=polling"
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return sock.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", [*KINDS, Kind("anycorn", "asyncio")], ids=str)
def test_a_client_that_does_not_answer_the_close_frame_ends_nothing_but_itself(kind: Kind) -> None:
    """On anycorn, the end of its connection was raised in the server's task group."""
    sio = AnyIOServer(shutdown_timeout=0.1)
    ended: list[Any] = []

    @asynccontextmanager
    async def make_app() -> AsyncIterator[Any]:
        async with sio:
            app = socketio.ASGIApp(sio)

            async def watched(scope: Any, *args: Any) -> None:
                try:
                    await app(scope, *args)
                finally:
                    ended.append(scope["type"])

            yield watched

    with serving(kind, make_app) as running, raw_websocket(running.port) as sock:
        sock.sendall(frame("9"))
        until(lambda: "websocket" in ended)
        running.portal.call(anyio.wait_all_tasks_blocked)
        assert sio.eio.tasks.running
        assert can_connect(running)
        sock.close()
        running.portal.call(anyio.wait_all_tasks_blocked)
        assert can_connect(running)


@pytest.mark.parametrize("packet", ["6", "3", "430[]", "41/x,", "40/x,"])
async def test_other_tasks_have_their_turns_during_a_post_of_many_packets(packet: str) -> None:
    """The event loop did not turn for the seconds that it took to go through them."""
    body = "\x1e".join([packet] * (49_999 // (len(packet) + 1)))
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client("polling")
        assert isinstance(client, PollingClient)
        await client.join()
        async with turns() as count:
            assert (await client.post(body)).status == 200
            taken = count()
    assert taken > body.count("\x1e") // 100


async def test_other_tasks_have_their_turns_while_websocket_messages_are_there() -> None:
    """An ASGI server hands out what it has received without a wait, and no other task had a turn."""
    messages = 10_000

    class Ready(Connection):
        async def _receive(self) -> dict[str, Any]:
            return self.received.popleft() if self.received else await super()._receive()

    async with site() as here:
        scope = make_scope("websocket", {"transport": "websocket"})
        connection = Ready(here.app, scope, {"type": "websocket.connect"})
        for text in ["40", *(["3"] * messages)]:
            connection.put({"type": "websocket.receive", "text": text})
        connection.put({"type": "websocket.disconnect", "code": 1000})
        async with turns() as count:
            await connection()
            taken = count()
    assert taken > messages // 100


@on_each_transport
async def test_attachments_are_limited_in_number(transport: str) -> None:
    """Each of thousands of empty ones made the server go through all of them once more."""
    got: list[int] = []
    async with site() as here:
        here.sio.on("a", lambda sid, data: got.append(len(data)))
        client = await here.client(transport)
        await client.join()
        await client.say(f'451000-["a",[{ONE}]]', *[b""] * 1_000)
        assert await goes_on(here, client)
        if isinstance(client, PollingClient):
            assert (await client.post('451001-["a",[]]')).status == 200
        else:
            await client.say('451001-["a",[]]')
        assert await is_closed(client)
    assert got == [1]


@on_each_transport
@pytest.mark.parametrize("too_many", [False, True])
async def test_attachments_are_limited_in_bytes(transport: str, too_many: bool) -> None:
    """One client must not fill the memory with a single event, in however many parts it comes."""
    got: list[int] = []
    async with site(max_http_buffer_size=1_000, shutdown_timeout=BRIEF) as here:
        here.sio.on("a", lambda sid, *data: got.append(sum(map(len, data))))
        client = await here.client(transport)
        await client.join()
        holders = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(20))
        await client.say(f'4520-["a",{holders}]')
        for _ in range(19):
            await client.say(b"x" * 500)
        assert here.of("disconnect") == []
        await client.say(b"x" * (501 if too_many else 500))
        if too_many:
            assert await is_closed(client)
        else:
            assert await goes_on(here, client)
    assert got == ([] if too_many else [10_000])


@on_each_transport
async def test_a_client_that_has_not_joined_cannot_begin_with_attachments(transport: str) -> None:
    """The server kept what a client sent that it did not know."""
    async with site() as here:
        client = await here.client(transport)
        await client.say(f'451-["a",{ONE}]')
        assert here.ghosts().get("attachments") is None
        assert await is_closed(client)


IN_FLIGHT: dict[str, list[str | bytes]] = {
    "event": ['42/chat,["a"]'],
    "acknowledged event": ['42/chat,5["a"]'],
    "acknowledgement": ["43/chat,1[]"],
    "binary event": [f'451-/chat,["a",{ONE}]', b"1"],
    "binary acknowledgement": [f"461-/chat,1[{ONE}]", b"1"],
    "disconnection": ["41/chat,"],
}


@on_each_transport
@pytest.mark.parametrize("packet", IN_FLIGHT)
async def test_a_packet_that_crosses_its_clients_disconnection_is_ignored(
    transport: str, packet: str
) -> None:
    """It cut the connection, and the client lost all the other namespaces, too."""
    async with site(shutdown_timeout=BRIEF) as here:
        watch(here, ["/chat"])
        called: list[Any] = []
        here.sio.on("a", lambda *args: called.append(args), "/chat")
        client = await here.client(transport)
        await client.join()
        sid = await client.join("/chat")
        await here.sio.emit("q", to=sid, namespace="/chat", callback=called.append)
        await here.sio.disconnect(sid, "/chat")
        await client.say(*IN_FLIGHT[packet])
        assert await goes_on(here, client)
        assert await client.join("/chat") != sid
        assert here.of("disconnect", "/") == []
        assert called == []


@on_each_transport
async def test_attachments_that_cross_their_clients_disconnection_are_ignored(
    transport: str,
) -> None:
    """Text was due where the rest of an unfinished event came."""
    async with site(shutdown_timeout=BRIEF) as here:
        watch(here, ["/chat"])
        called: list[Any] = []
        here.sio.on("a", lambda *args: called.append(args), "/chat")
        client = await here.client(transport)
        await client.join()
        sid = await client.join("/chat")
        await client.say(f'452-/chat,["a",{ONE}]', b"1")
        await soon(lambda: here.ghosts().get("attachments"))
        await here.sio.disconnect(sid, "/chat")
        await client.say(b"2")
        assert await goes_on(here, client)
        assert called == []


@on_each_transport
async def test_a_client_that_was_disconnected_from_all_can_join_again(transport: str) -> None:
    """What it had sent before it knew cut the connection."""
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client(transport)
        sid = await client.join()
        await here.sio.disconnect(sid)
        await client.say('42["a"]')
        assert await client.join() != sid
        assert await goes_on(here, client)


@pytest.mark.parametrize("start", ["4", "4 "])
@on_each_transport
async def test_a_message_that_is_a_json_string_of_a_packet_is_none(
    transport: str, start: str
) -> None:
    """python-engineio parses messages that are JSON, and the string in it was taken for a packet."""
    got: list[str] = []
    async with site() as here:
        here.sio.on("message", got.append)
        client = await here.client(transport)
        await client.join()
        packet = start + json.dumps('2["message"]')
        if isinstance(client, PollingClient):
            await client.post(packet)
        else:
            await client.say(packet)
        assert await is_closed(client)
    assert got == []


async def test_a_probe_of_deeply_nested_json_is_refused() -> None:
    """The RecursionError went up to the ASGI server."""
    async with site(shutdown_timeout=BRIEF) as here:
        client = await here.client("polling")
        await client.join()
        upgrade = WebSocketClient(here.app, {"sid": client.sid})
        here.group.start_soon(upgrade.connection)
        await upgrade.say("2" + "[" * 200_000)
        assert await is_closed(upgrade)
        assert await goes_on(here, client)


async def test_a_session_id_cannot_forge_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was logged as it came, with the line ends in it."""
    async with site() as here:
        response = await fetch(http(here.app, sid="x\nERROR:root:forged"))
        assert response.status == 400
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if "forged" in message]
    assert not [message for message in messages if "\n" in message]


# what a handler can do to the server


async def leak() -> None:
    """Raise the CancelledError of something else that was cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("async_handlers", [True, False])
@pytest.mark.parametrize("what", ["connect", "event", "disconnect", "background", "callback"])
async def test_a_cancellation_that_is_not_the_servers_own_does_not_end_it(
    what: str, async_handlers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's CancelledError out of a handler ended the block, without a word."""
    ended = False
    async with site(async_handlers=async_handlers) as here:

        async def connect(sid: str, environ: Any) -> None:
            await leak()

        async def event(sid: str) -> None:
            await leak()

        async def disconnect(sid: str, reason: str) -> None:
            await leak()

        async def callback() -> None:
            await leak()

        client = await here.client("websocket")
        if what == "connect":
            here.sio.on("connect", connect, "/leaking")
            await client.join()
            await client.say("40/leaking,")
        else:
            sid = await client.join()
        if what == "event":
            here.sio.on("event", event)
            await client.say('42["event"]')
        elif what == "disconnect":
            here.sio.on("disconnect", disconnect)
            await client.say("41")
            await client.join()
        elif what == "background":
            assert await here.sio.start_background_task(leak) is None
        elif what == "callback":
            await here.sio.emit("question", to=sid, callback=callback)
            await client.event()
            await client.say("431[]")
        await soon(lambda: "was cancelled" in caplog.text)
        # the client's session, and others
        assert await goes_on(here, client)
        other = await here.client("websocket")
        await other.join()
        ended = True
    assert ended


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("async_handlers", [True, False])
@pytest.mark.parametrize("what", ["connect", "message", "disconnect"])
async def test_nor_does_it_end_an_engine(what: str, async_handlers: bool) -> None:
    """asyncio's CancelledError out of a handler ended the block, without a word."""
    ended = False
    called: list[str] = []

    async def handler(*args: Any) -> None:
        called.append(what)
        await leak()

    async with engine(async_handlers=async_handlers, shutdown_timeout=0.1) as (eio, app):
        if what == "connect":
            eio.on("connect", handler)
            assert (await fetch(http(app))).status != 200
            del eio.handlers["connect"]
        client = PollingClient(app)
        await client.handshake()
        if what != "connect":
            eio.on(what, handler)
        await client.say("4message")
        await eio.sockets[client.sid].close(abort=True)
        assert called == [what]
        await PollingClient(app).handshake()
        ended = True
    assert ended


CALLS: dict[str, Callable[[AnyIOServer, str, str], Awaitable[Any]]] = {
    "shutdown": lambda sio, sid, eio_sid: sio.shutdown(),
    "disconnect from the engine": lambda sio, sid, eio_sid: sio.eio.disconnect(eio_sid),
    "disconnect all from the engine": lambda sio, sid, eio_sid: sio.eio.disconnect(),
    "disconnect": lambda sio, sid, eio_sid: sio.disconnect(sid),
    "close": lambda sio, sid, eio_sid: sio.eio.sockets[eio_sid].close(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("where", ["connect", "event", "inline event", "disconnect", "callback"])
async def test_a_handler_that_ends_its_own_client_does_not_wait_for_itself(
    where: str, call: str
) -> None:
    """It waited until shutdown_timeout was over, or was cancelled by what it had called."""
    async with site(
        shutdown_timeout=LONG, async_handlers=where not in ("inline event", "callback")
    ) as here:

        async def end(sid: str, *args: Any) -> None:
            await anyio.lowlevel.checkpoint()
            eio_sid = here.sio.manager.eio_sid_from_sid(sid, "/") or ""
            await CALLS[call](here.sio, sid, eio_sid)
            # cancelled, it would not come to this
            await anyio.lowlevel.checkpoint()
            here.log.append(("returned", eio_sid))

        client = await here.client("websocket")
        other = await here.client("websocket")
        await other.join()
        here.group.start_soon(is_closed_as_a_task, other)
        if where in ("connect", "disconnect"):
            here.sio.on(where, end)
        here.sio.on("event", end)
        if where == "connect":
            await client.say("40")
        else:
            sid = await client.join()
            if where == "callback":

                async def callback() -> None:
                    await end(sid)

                await here.sio.emit("question", to=sid, callback=callback)
        here.group.start_soon(is_closed_as_a_task, client)
        if where != "connect":
            said = {"disconnect": "41", "callback": "431[]"}
            await client.say(said.get(where, '42["event"]'))
        await soon(lambda: here.of("returned", client.sid))
        await here.sio.eio.disconnect()
        await soon(lambda: not here.ghosts())


async def is_closed_as_a_task(client: Any) -> None:
    await is_closed(client)


@pytest.mark.parametrize("where", ["connect", "message", "inline message", "disconnect"])
@pytest.mark.parametrize("call", ["shutdown", "disconnect", "disconnect all"])
async def test_nor_does_a_handler_of_an_engine(where: str, call: str) -> None:
    """It waited until shutdown_timeout was over, or was cancelled by what it had called."""
    log: list[str] = []

    async def end(sid: str, *args: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if call == "shutdown":
            await eio.shutdown()
        else:
            await eio.disconnect(sid if call == "disconnect" else None)
        await anyio.lowlevel.checkpoint()
        log.append("returned")

    inline = where == "inline message"
    async with (
        engine(shutdown_timeout=LONG, async_handlers=not inline) as (eio, app),
        anyio.create_task_group() as group,
    ):
        eio.on(where.rpartition(" ")[2], end)
        client = WebSocketClient(app)
        group.start_soon(client.connection)
        group.start_soon(is_closed_as_a_task, client)
        if where == "disconnect":
            await client.say("1")
        elif where != "connect":
            await client.say("4message")
        await soon(lambda: log)
        await soon(lambda: client.connection.ended)


# namespaces


@pytest.mark.parametrize(
    ("anyio_backend", "stock"), [("asyncio", False), ("trio", False), ("asyncio", True)]
)
@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("how", ["all", "sid", "room", "callback"])
async def test_nothing_reaches_a_client_that_is_not_accepted_yet(
    how: str, accepts: bool, stock: bool
) -> None:
    """Events came before its CONNECT packet, and to clients that were refused in the end."""
    asked: list[str] = []
    answers: list[Any] = []
    judge = anyio.Event()
    manager = AnyIOManager()
    sio: Any

    async def connect(sid: str, environ: Any, auth: Any) -> bool:
        await sio.enter_room(sid, "members")
        asked.append(sid)
        await judge.wait()
        return accepts

    async with anyio.create_task_group() as group:
        if stock:
            sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
        else:
            sio = AnyIOServer(client_manager=manager)
        async with sio if not stock else _shut_down(sio):
            sio.on("connect", connect)
            headers = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
            client = WebSocketClient(socketio.ASGIApp(sio), headers=headers)
            group.start_soon(client.connection)
            await client.handshake()
            await client.say("40")
            [sid] = await soon(lambda: asked)
            to = {"all": None, "room": "members"}.get(how, sid)
            callback = (lambda *args: answers.append(args)) if how == "callback" else None
            for number in range(3):
                await sio.emit("text", number, to=to, callback=callback)
                await sio.emit("binary", (number, b"%d" % number, b"x"), to=to)
            judge.set()
            if accepts:
                assert str(await client.read()) == f'40{{"sid":"{sid}"}}'
                for number in range(3):
                    if callback is not None:
                        text = str(await client.read())
                        ack_id, _, rest = text[2:].partition("[")
                        assert (text[:2], rest) == ("42", f'"text",{number}]')
                        await client.say(f"43{ack_id}[{number}]")
                    else:
                        assert await client.event() == ["text", number]
                    assert await client.event() == ["binary", number, b"%d" % number, b"x"]
            else:
                assert str(await client.read()).startswith("44")
            # and nothing of it comes later
            if accepts:
                await sio.emit("last")
                assert await client.event() == ["last"]
            else:
                await client.say("40")
                assert str(await client.read()).startswith("44")
            expected = [(0,), (1,), (2,)] if accepts and how == "callback" else []
            await soon(lambda: answers == expected)
            client.leave()
            await soon(lambda: client.connection.ended)
            await soon(lambda: not manager.rooms)
            assert not manager._held
            assert not manager.callbacks
            assert not manager.pending_connect.get("/")
        group.cancel_scope.cancel()


@asynccontextmanager
async def _shut_down(sio: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await sio.shutdown()


@on_each_transport
async def test_a_client_joins_again_while_its_old_disconnect_handler_runs(transport: str) -> None:
    """It was taken for one that joins twice, and never heard an answer."""
    async with site(shutdown_timeout=BRIEF) as here:
        release = anyio.Event()

        async def disconnect(sid: str, reason: str) -> None:
            here.log.append(("leaving", sid))
            await release.wait()

        client = await here.client(transport)
        old = await client.join()
        here.sio.on("disconnect", disconnect)
        here.group.start_soon(here.sio.disconnect, old)
        assert await client.hear("41") == "41"
        here.group.start_soon(client.say, "40")
        await anyio.wait_all_tasks_blocked()
        assert here.of("connect") == [("/", old)]
        release.set()
        new = json.loads((await client.hear("40"))[2:])["sid"]
        assert new != old
        assert here.of("leaving") == [(old,)]
        assert await goes_on(here, client)
        await here.sio.emit("to the new one", to=new)
        assert await client.event() == ["to the new one"]


@on_each_transport
async def test_all_namespaces_are_left_when_a_slow_disconnect_handler_is_cancelled(
    transport: str,
) -> None:
    """The client stayed in those whose handlers had not had their turn, for ever."""
    told: list[str] = []

    async def disconnect(namespace: str, sid: str, reason: str) -> None:
        told.append(namespace)
        await anyio.sleep_forever()

    async with site(shutdown_timeout=0.05, namespaces="*") as here:
        here.sio.on("disconnect", disconnect, "*")
        client = await here.client(transport)
        for namespace in ("/a", "/b", "/c"):
            await here.sio.enter_room(await client.join(namespace), "room", namespace)
        assert set(here.sio.manager.rooms) == {"/a", "/b", "/c"}
        await here.sio.shutdown()
        await soon(lambda: not here.sio.manager.rooms)
    assert told
    assert here.ghosts() == {}


# the end of the block


@on_each_transport
@pytest.mark.parametrize("outcome", ["ends", "is cancelled"])
@pytest.mark.parametrize("what", ["connect", "callback", "event", "inline event"])
async def test_the_end_of_the_block_waits_for_handlers_and_then_cancels_them(
    what: str, outcome: str, transport: str
) -> None:
    """They ran in tasks of the ASGI server, which the block did not wait for, nor end."""
    log: list[str] = []
    release = anyio.Event()
    gone = anyio.Event()

    async def handler(*args: Any) -> None:
        log.append("began")
        try:
            await release.wait()
            log.append("ended")
        except anyio.get_cancelled_exc_class():
            log.append("was cancelled")
            raise

    async def listen() -> None:
        await is_closed(client)
        gone.set()

    async def shut_down() -> None:
        await sio.shutdown()
        log.append("shut down")

    async with anyio.create_task_group() as group:
        async with AnyIOServer(
            shutdown_timeout=LONG if outcome == "ends" else 0.05,
            async_handlers=what != "inline event",
        ) as sio:
            client = await Site(sio, socketio.ASGIApp(sio), group).client(transport)
            packet = '42["event"]'
            sio.on("event", handler)
            if what == "connect":
                sio.on("connect", handler)
                packet = "40"
            else:
                sid = await client.join()
            if what == "callback":
                await sio.emit("question", to=sid, callback=handler)
                await client.event()
                packet = "431[]"
            if isinstance(client, PollingClient):
                # its answer may have to wait for the handler
                group.start_soon(client.request("POST", packet))
            else:
                await client.say(packet)
            await soon(lambda: log)
            group.start_soon(listen)
            if outcome == "ends":
                group.start_soon(shut_down)
                await gone.wait()
                await anyio.wait_all_tasks_blocked()
                assert log == ["began"]
                release.set()
                await soon(lambda: "shut down" in log)
        log.append("left")
    end = ["ended", "shut down"] if outcome == "ends" else ["was cancelled"]
    assert log == ["began", *end, "left"]


async def test_polls_are_answered_at_the_end_of_the_block_though_sending_is_slow() -> None:
    """Their answers were cut off, for all that shutdown_timeout allowed."""

    async def hook(event: dict[str, Any]) -> None:
        await anyio.sleep(0.02)

    polls: list[Connection] = []
    async with anyio.create_task_group() as group:
        async with AnyIOServer(shutdown_timeout=10.0) as sio:
            app = socketio.ASGIApp(sio)
            for _ in range(20):
                client = PollingClient(app)
                await client.handshake()
                await client.join()
                polls.append(http(sending(app, hook), sid=client.sid))
                group.start_soon(polls[-1])
            await anyio.wait_all_tasks_blocked()
        await soon(lambda: all(poll.ended for poll in polls))
    assert [[event.get("body") for event in poll.sent] for poll in polls] == [[None, b"1"]] * 20


async def test_disconnect_handlers_are_cancelled_when_there_is_no_time_for_them() -> None:
    """With shutdown_timeout=0 they were not, and the end of the block waited for them."""

    log: list[str] = []

    async def disconnect(sid: str, reason: str) -> None:
        log.append("began")
        await anyio.sleep(5)
        log.append("ended")

    # on Trio, chance decides which task is the first to run
    for _ in range(20):
        async with AnyIOServer(shutdown_timeout=0) as sio:
            sio.on("disconnect", disconnect)
            client = PollingClient(socketio.ASGIApp(sio))
            await client.handshake()
            await client.join()
        assert "ended" not in log


async def test_websockets_whose_clients_do_not_close_end_after_the_block_without_an_error() -> None:
    """They wanted to start one more task in it, and raised that it was not there."""
    async with anyio.create_task_group() as group:
        clients: list[Any] = []
        async with AnyIOServer(shutdown_timeout=0.05) as sio:
            here = Site(sio, socketio.ASGIApp(sio), group)
            for _ in range(5):
                clients.append(await here.client("websocket"))
                await clients[-1].join()
        await soon(lambda: all(client.connection.ended for client in clients))


@pytest.mark.parametrize("gone", ["shutdown", "disconnect", "connection"])
async def test_a_session_that_is_closed_before_its_websocket_is_read_has_a_deadline(
    gone: str,
) -> None:
    """The connection's task stayed for as long as the client did, beyond the block's end."""
    accept = anyio.Event()

    async def hook(event: dict[str, Any]) -> None:
        if event["type"] == "websocket.accept":
            await accept.wait()

    async with (
        anyio.create_task_group() as group,
        engine(shutdown_timeout=0.05) as (eio, app),
    ):
        log: list[str] = []
        eio.on("connect", lambda sid, environ: log.append("connect"))
        eio.on("disconnect", lambda sid, reason: log.append("disconnect"))
        client = WebSocketClient(sending(app, hook))
        group.start_soon(client.connection)
        await soon(lambda: log)
        await anyio.wait_all_tasks_blocked()
        [(sid, session)] = eio.sockets.items()
        if gone == "shutdown":
            await eio.shutdown()
        elif gone == "disconnect":
            await eio.disconnect(sid)
        else:
            await session.close(abort=True)
        accept.set()
        # the client does not answer
        await soon(lambda: client.connection.ended)
        assert log == ["connect", "disconnect"]
        assert eio.sockets == {}


# requests


async def test_no_wake_up_is_lost_when_a_poll_ends_for_an_upgrade(anyio_backend: Any) -> None:
    """On Trio, the poll that ended took away what the WebSocket was to be woken up by."""
    async with site() as here:
        # on Trio, chance decides which of the two tasks is the first to run
        for number in range(20 if anyio_backend[0] == "trio" else 3):
            client = await here.client("polling")
            assert isinstance(client, PollingClient)
            sid = await client.join()
            upgrade = WebSocketClient(here.app, {"sid": client.sid})
            here.group.start_soon(upgrade.connection)
            await upgrade.say("2probe")
            assert await upgrade.hear("3") == "3probe"
            poll = client.request()
            here.group.start_soon(poll)
            session = here.sio.eio.sockets[client.sid]
            await soon(lambda: session._polling)  # noqa: B023
            await upgrade.say("5")
            await soon(lambda: poll.ended)  # noqa: B023
            await anyio.wait_all_tasks_blocked()
            await here.sio.emit("event", number, to=sid)
            assert await upgrade.event() == ["event", number]


def endless(app: Any, method: str, body: bytes, **query: str) -> Connection:
    """Return a request whose body goes on after its first part, which a test may send or not."""
    return Connection(
        app,
        make_scope("http", {"transport": "polling", **query}, method=method),
        {"type": "http.request", "body": body, "more_body": True},
    )


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("why", ["unknown", "too large", "no handshake", "no transport"])
async def test_a_refused_request_is_answered_before_the_end_of_its_body(
    why: str, goes_on: bool
) -> None:
    """The server read on, for as long as the client sent, and had no answer before the end."""
    async with site(max_http_buffer_size=1_000, shutdown_timeout=BRIEF) as here:
        client = await here.client("polling")
        query = {
            "unknown": {"sid": "unknown"},
            "too large": {"sid": client.sid},
            "no handshake": {},
            "no transport": {"transport": "none"},
        }[why]
        request = endless(here.app, "POST", b"x" * 2_000, **query)
        if goes_on:
            for _ in range(100):
                request.put({"type": "http.request", "body": b"x" * 1_000, "more_body": True})
        response = await fetch(request)
        assert response.status == (413 if why == "too large" else 400)
        assert response.headers["connection"] == "close"
        # the rest is taken, so that an ASGI server that waits for room does not do so for ever
        await soon(lambda: not request.received)


@pytest.mark.parametrize("end", ["timeout", "server", "shutdown"])
async def test_a_post_that_does_not_end_ends_with_its_session(end: str) -> None:
    """Its task stayed, beyond the end of the block."""
    async with anyio.create_task_group() as group:
        options = {"ping_interval": 0.05, "ping_timeout": 0.05} if end == "timeout" else {}
        async with AnyIOServer(shutdown_timeout=0.05, **options) as sio:
            here = Site(sio, socketio.ASGIApp(sio), group)
            client = await here.client("polling")
            await client.join()
            request = endless(here.app, "POST", b"42", sid=client.sid)
            group.start_soon(request)
            await anyio.wait_all_tasks_blocked()
            if end == "server":
                await sio.eio.disconnect(client.sid)
            elif end == "shutdown":
                await sio.shutdown()
            await soon(lambda: request.ended)
            # it is told that it was refused, or with its next poll
            assert request.sent
            await soon(lambda: not sio.eio.sockets)


@pytest.mark.parametrize("kind", [*KINDS, Kind("anycorn", "asyncio")], ids=str)
def test_a_refused_request_is_answered_though_its_client_sends_no_more(kind: Kind) -> None:
    """Some ASGI servers keep the answer back until the body has been taken, or was sent."""

    @asynccontextmanager
    async def make_app() -> AsyncIterator[Any]:
        async with AnyIOServer(shutdown_timeout=0.1) as sio:
            yield socketio.ASGIApp(sio)

    with (
        serving(kind, make_app) as running,
        socket.create_connection((HOST, running.port), timeout=10) as sock,
    ):
        sock.sendall(
            b"POST /socket.io/?EIO=4&transport=polling&sid=unknown HTTP/1.1\r\nHost: x\r\n"
            b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000
        )
        answer = _read_until(sock, b"Session ID unknown")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in answer.lower()


async def test_a_poll_with_a_body_in_parts_is_answered() -> None:
    """The end of the body was taken for the answer to whether the client had gone."""
    async with site() as here:
        client = await here.client("polling")
        await client.join()
        poll = endless(here.app, "GET", b"a", sid=client.sid)
        here.group.start_soon(poll)
        await anyio.wait_all_tasks_blocked()
        poll.put({"type": "http.request", "body": b"b", "more_body": False})
        await anyio.wait_all_tasks_blocked()
        await here.sio.emit("event")
        await soon(lambda: poll.ended)
        assert [event.get("body") for event in poll.sent] == [None, b'42["event"]']
        # and one whose client goes is noticed
        poll = endless(here.app, "GET", b"a", sid=client.sid)
        here.group.start_soon(poll)
        poll.put({"type": "http.request", "body": b"b", "more_body": False})
        poll.put({"type": "http.disconnect"})
        await soon(lambda: here.of("disconnect"))


async def test_a_poll_whose_answer_cannot_be_sent_closes_the_session() -> None:
    """Its packets were lost, and the session went on without them."""

    async def hook(event: dict[str, Any]) -> None:
        raise OSError("the client has gone")

    async with site() as here:
        client = await here.client("polling")
        assert isinstance(client, PollingClient)
        sid = await client.join()
        await here.sio.emit("number", 1)
        # no matter whether the ASGI server is told of its own error
        with suppress(OSError):
            await http(sending(here.app, hook), sid=client.sid)()
        await here.sio.emit("number", 2)
        assert (await fetch(client.request())).status == 400
        await soon(lambda: here.of("disconnected"))
        assert here.of("disconnect") == [("/", sid, "transport error")]


@pytest.mark.parametrize("jsonp", [False, True])
async def test_a_lone_surrogate_does_not_take_other_packets_along(
    jsonp: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The payload could not be encoded, and all its packets were lost."""
    # pytest-xdist can no more encode what is logged
    caplog.set_level(logging.WARNING, "engineio.server")
    async with engine(shutdown_timeout=0.1) as (eio, app):
        client = PollingClient(app)
        await client.handshake()
        for text in ("before", "\ud800", "after"):
            await eio.send(client.sid, text)
        response = await fetch(http(app, sid=client.sid, **({"j": 0} if jsonp else {})))
        assert response.status == 200
        assert "4before" in response.text
        assert "4after" in response.text
        await eio.send(client.sid, "more")
        assert await client.read() == "4more"


async def test_what_receiving_raises_during_a_poll_ends_the_session_only() -> None:
    """It went up to the ASGI server, in an exception group."""

    class Broken(Connection):
        async def _receive(self) -> dict[str, Any]:
            event = await super()._receive()
            if event["type"] == "broken":
                raise LookupError("the ASGI server's own way to say it")
            return event

    async with site() as here:
        client = await here.client("polling")
        sid = await client.join()
        poll = Broken(
            here.app,
            make_scope("http", {"transport": "polling", "sid": client.sid}, method="GET"),
            {"type": "http.request", "body": b""},
            {"type": "broken"},
        )
        with anyio.fail_after(10):
            await poll()
        await soon(lambda: here.of("disconnected"))
        assert here.of("disconnect") == [("/", sid, "transport error")]


@on_each_transport
async def test_bytearrays_are_sent_and_acknowledged_as_bytes(transport: str) -> None:
    """An acknowledgement's went into a WebSocket's text message, which ASGI servers refuse."""

    async def read_bytes() -> bytes:
        frame = await client.read()
        assert type(frame) is bytes, frame
        return frame

    async with site(shutdown_timeout=BRIEF) as here:
        here.sio.on("get", lambda sid: bytearray(b"acknowledged"))
        client = await here.client(transport)
        await client.join()
        await client.say('421["get"]')
        assert await client.hear("46") == f"461-1[{ONE}]"
        assert await read_bytes() == b"acknowledged"
        await here.sio.emit("event", bytearray(b"emitted"))
        assert await client.event() == ["event", b"emitted"]
        await here.sio.eio.send(client.sid, bytearray(b"sent"))
        assert await read_bytes() == b"sent"


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    """Have all of the log written, as what is written can raise, too."""
    for name in ("engineio.server", "socketio.server"):
        caplog.set_level(logging.INFO, name)
