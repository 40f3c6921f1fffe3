"""Every operation of a manager, from either side, on both loops."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
import socketio

from anyio_sio_pg import AnyIOManager, PostgresManager, RequestTimeoutError, UnknownSocketError
from harness import PATIENT, Client, TestNode, acquainted, eventually, node, two_nodes

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("sender", [0, 1])
async def test_emit_to_everyone(uri: str, prefix: str, sender: int) -> None:
    async with two_nodes(uri, prefix) as nodes:
        clients = [await n.client() for n in nodes]
        await nodes[sender].manager.emit("greet", {"text": "hällo \U0001f600 \0"})
        for client in clients:
            await client.expect(["greet", {"text": "hällo \U0001f600 \0"}])


@pytest.mark.parametrize(
    ("data", "args"),
    [
        (None, []),
        ((), []),
        (1.5, [1.5]),
        ([1, [2]], [[1, [2]]]),
        ((1, "b", None, {"c": [True]}), [1, "b", None, {"c": [True]}]),
        ("x" * 120_000, ["x" * 120_000]),
        (b"\0\xff" * 10, [b"\0\xff" * 10]),
        (({"a": b"1", "b": [b"2" * 9_000]}, b""), [{"a": b"1", "b": [b"2" * 9_000]}, b""]),
        (2**70, [2**70]),
        (["x" * 9_000, 2**70], [["x" * 9_000, float(2**70)]]),
    ],
    ids=[
        "none", "no-arguments", "number", "list", "several", "120kB", "binary", "mixed", "big-int",
        "big-int-attached",
    ],
)  # fmt: skip
async def test_emit_carries_what_json_and_binary_hold(
    uri: str, prefix: str, data: Any, args: list[Any]
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        await a.manager.emit("event", data)
        await there.expect(["event", *args])
        await eventually(here.events)


async def test_what_holds_itself_is_sent_to_nobody(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = [await a.client(), await b.client()]
        cycle: dict[str, Any] = {}
        cycle["self"] = [cycle]
        calls: list[Callable[..., Awaitable[Any]]] = [
            a.manager.emit,
            partial(a.manager.emit, local=True),
            a.manager.emit_with_ack,
            a.server.emit,
            a.manager.server_side_emit,
            a.manager.server_side_call,
        ]
        for call in calls:
            with pytest.raises(ValueError, match="Circular reference detected, or nested too deep"):
                await call("event", cycle)
        with pytest.raises(ValueError, match="Circular reference detected, or nested too deep"):
            await a.manager.custom_request(cycle)
        await a.manager.emit("last")
        for client in clients:
            await client.expect(["last"])


async def test_emit_to_rooms_reaches_each_socket_once(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = {
            "a1": await a.client(rooms=["red"]),
            "a2": await a.client(rooms=["red", "blue"]),
            "b1": await b.client(rooms=["blue"]),
            "b2": await b.client(rooms=["red", "blue"]),
            "b3": await b.client(),
        }
        await a.manager.emit("one", room="red")
        await a.manager.emit("two", to=["red", "blue"])
        await a.manager.emit("three", to=["red"], except_rooms="blue")
        await a.manager.emit("four", skip_sid=[clients["a1"].sid, clients["b1"].sid])
        await a.manager.emit("five", to=clients["b3"].sid)
        await a.manager.emit("six", to=clients["a1"].sid)
        await a.manager.emit("zero", to=0)
        await a.manager.emit("last")
        expected = {
            "a1": ["one", "two", "three", "six"],
            "a2": ["one", "two", "four"],
            "b1": ["two"],
            "b2": ["one", "two", "four"],
            "b3": ["four", "five"],
        }
        for name, events in expected.items():
            await clients[name].expect(*[[event] for event in events], ["last"])


async def test_emit_local_stays_here(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        await a.manager.emit("local", local=True)
        await a.server.emit("ignore_queue", ignore_queue=True)
        await a.manager.emit("all")
        await there.expect(["all"])
        await here.expect(["local"], ["ignore_queue"], ["all"])


@pytest.mark.parametrize("name", ["rooms", "except_room", "skip_sids", "broadcast"])
@pytest.mark.parametrize("kind", [PostgresManager, AnyIOManager])
async def test_a_mistyped_keyword_sends_nothing(
    uri: str, prefix: str, kind: type[AnyIOManager], name: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = [await a.client(), await b.client()]
        alone = AnyIOManager()
        server = socketio.AsyncServer(async_mode="asgi", client_manager=alone, namespaces="*")
        manager: Any = alone if kind is AnyIOManager else a.manager
        if manager is alone:
            clients = [Client(server)]
            await clients[0].connect()
        with pytest.raises(TypeError, match=name):
            await manager.emit("event", **{name: "nobody"})
        with pytest.raises(TypeError, match=name):
            await manager.disconnect(clients[0].sid, "/", **{name: "nobody"})
        await manager.emit("last", ignore_queue=False)
        for client in clients:
            await client.expect(["last"])


@pytest.mark.parametrize("empty", [[], (), set()], ids=str)
async def test_an_empty_list_of_rooms_is_not_everyone(uri: str, prefix: str, empty: Any) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = [await a.client(rooms=["r"]), await b.client(rooms=["r"])]
        calls: list[Callable[..., Awaitable[Any]]] = [
            partial(a.manager.emit, "event"),
            partial(a.manager.emit, "event", local=True),
            partial(AnyIOManager().emit, "event"),
            partial(a.manager.emit_with_ack, "event"),
            a.manager.fetch_sockets,
            partial(a.manager.fetch_sockets, local=True),
            partial(a.manager.sockets_join, "s"),
            partial(a.manager.sockets_leave, "r"),
            a.manager.disconnect_sockets,
        ]
        for call in calls:
            with pytest.raises(ValueError, match=r"^to is empty: None means everyone$"):
                await call(to=empty)
        with pytest.raises(ValueError, match=r"^rooms is empty: None means everyone$"):
            await a.manager.clients(empty)
        with pytest.raises(ValueError, match=r"^room is empty: None means everyone$"):
            await a.manager.emit("event", room=empty)
        with pytest.raises(ValueError, match=r"^room is empty: None means everyone$"):
            await a.manager.emit("event", room=empty, local=True)
        await a.manager.emit("last", skip_sid=empty, except_rooms=empty)
        for client in clients:
            await client.expect(["last"])
        assert await a.manager.all_rooms() == {"r", *(client.sid for client in clients)}


@pytest.mark.parametrize("room", [None, 1.5, True, b"r"], ids=repr)
async def test_what_is_no_room_is_refused_before_anything_is_changed(
    uri: str, prefix: str, room: Any
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        manager = a.manager
        calls: list[Callable[[], Awaitable[Any]]] = [
            partial(manager.sockets_join, room),
            partial(manager.sockets_leave, room),
            partial(manager.sockets_join, ["r", room]),
            partial(manager.sockets_leave, [here.sid, room]),
            partial(manager.close_room, room, "/"),
        ]
        for sid in (here.sid, there.sid):
            calls += [
                partial(manager.enter_room, sid, "/", room),
                partial(manager.leave_room, sid, "/", room),
                partial(a.server.enter_room, sid, room),
                partial(a.server.leave_room, sid, room),
                partial(manager.remote_join, sid, room),
                partial(manager.remote_leave, sid, room),
            ]
        if room is not None:
            calls += [
                partial(manager.emit, "event", to=room),
                partial(manager.emit, "event", room=room),
                partial(manager.emit, "event", skip_sid=room),
                partial(manager.emit, "event", except_rooms=room),
                partial(manager.emit_with_ack, "event", to=room),
                partial(manager.fetch_sockets, to=room),
                partial(manager.disconnect_sockets, to=room),
                partial(manager.clients, room),
            ]
        text = f"^a room must be a str or an int, not {re.escape(repr(room))}$"
        for call in calls:
            with pytest.raises(TypeError, match=text):
                await call()
        await manager.emit("last")
        for client in (here, there):
            await client.expect(["last"])
        assert await manager.all_rooms() == {here.sid, there.sid}


@pytest.mark.parametrize("wire", ["cluster", "legacy"])
async def test_a_namespace_without_a_slash_is_refused(uri: str, prefix: str, wire: str) -> None:
    async with node(uri, prefix, wire=wire) as a:
        client = await a.client()
        manager = a.manager
        calls: list[Callable[..., Awaitable[Any]]] = [
            partial(manager.emit, "event"),
            partial(manager.emit, "event", local=True),
            partial(AnyIOManager().emit, "event"),
            manager.clients,
            manager.all_rooms,
            partial(manager.client_rooms, client.sid),
            partial(manager.sockets_join, "r"),
            partial(manager.sockets_leave, "r"),
            manager.disconnect_sockets,
            partial(manager.remote_join, client.sid, "r"),
            partial(manager.remote_leave, client.sid, "r"),
            partial(manager.remote_disconnect, client.sid),
            manager.custom_request,
            partial(manager.fetch_sockets, local=True),
        ]
        if wire == "cluster":
            calls += [
                partial(manager.emit_with_ack, "event"),
                manager.fetch_sockets,
                partial(manager.server_side_emit, "event"),
                partial(manager.server_side_call, "event"),
            ]
        for call in calls:
            with pytest.raises(ValueError, match=r"^a namespace must begin with '/', not 'chat'$"):
                await call(namespace="chat")
            with pytest.raises(TypeError, match=r"^a namespace must be a str, not 5$"):
                await call(namespace=5)
        await manager.emit("last", namespace=None)
        await client.expect(["last"])


@pytest.mark.parametrize("namespace", ["chat", 5])
async def test_a_client_of_a_namespace_without_a_slash_is_refused(
    uri: str, prefix: str, namespace: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # only MessagePack can say such a thing
    async with node(uri, prefix, server={"serializer": "msgpack"}) as a:
        client = Client(a.server)
        await a.server._handle_connect(client.eio_sid, namespace, None)
        client.read()
        assert client.refused == ["Unable to connect"]
        assert "a client was refused: a namespace must " in caplog.text
        assert namespace not in a.manager.rooms


async def test_half_of_a_surrogate_pair_is_in_no_rooms_name(uri: str, prefix: str) -> None:
    """Nodes with such a room could not answer any more, and each request timed out."""
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        # as a client's JSON may have it
        half = json.loads('"\\ud800"')
        for call in (
            partial(a.server.enter_room, here.sid, half),
            partial(a.manager.enter_room, there.sid, "/", half),
            partial(a.manager.remote_join, here.sid, half),
            partial(a.manager.remote_join, there.sid, half),
            partial(a.manager.sockets_join, half),
            partial(a.manager.sockets_join, ["r", half]),
            partial(AnyIOManager().enter_room, here.sid, "/", half),
        ):
            with pytest.raises(ValueError, match="surrogates not allowed"):
                await call()
        assert await b.manager.all_rooms() == {here.sid, there.sid}
        assert len(await b.manager.fetch_sockets()) == 2


async def test_the_in_memory_manager_refuses_what_is_no_room() -> None:
    manager = AnyIOManager()
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, namespaces="*")
    client = Client(server)
    sid = await client.connect()
    for room in (None, 1.5, True, b"r"):
        for call in (
            partial(server.enter_room, sid, room),
            partial(server.leave_room, sid, room),
            partial(server.close_room, room),
        ):
            with pytest.raises(TypeError, match="a room must be a str or an int, not "):
                await call()
    await server.emit("last")
    await client.expect(["last"])
    assert server.rooms(sid) == [sid]


async def test_namespaces_are_apart(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        root, chat = await b.client("/"), await b.client("/chat")
        await a.manager.emit("root", 1)
        await a.manager.emit("chat", 2, namespace="/chat")
        await a.manager.emit("end", namespace="/")
        await a.manager.emit("end", namespace="/chat")
        await root.expect(["root", 1], ["end"])
        await chat.expect(["chat", 2], ["end"], namespace="/chat")


async def test_msgpack_servers_join_the_same_cluster(uri: str, prefix: str) -> None:
    async with (
        node(uri, prefix, server={"serializer": "msgpack"}) as a,
        node(uri, prefix) as b,
    ):
        packed, text = await a.client(), await b.client()
        await a.manager.emit("from_packed", {"b": b"1"})
        await text.expect(["from_packed", {"b": b"1"}])
        await b.manager.emit("from_text", ({"b": b"2"}, "ü"))
        await packed.expect(["from_packed", {"b": b"1"}], ["from_text", {"b": b"2"}, "ü"])
        await text.expect(["from_packed", {"b": b"1"}], ["from_text", {"b": b"2"}, "ü"])


@pytest.mark.parametrize("args", [(), (1,), ("a", {"b": [2]}), (b"binary", "x" * 9_000)])
async def test_callback_of_a_client_elsewhere(uri: str, prefix: str, args: tuple[Any, ...]) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        answers: list[Any] = []
        await a.manager.emit("ask", "q", to=there.sid, callback=lambda *got: answers.append(got))
        await there.answer(*args)
        assert await eventually(lambda: answers) == [args]


async def test_async_callback_and_callback_here(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        answers: list[Any] = []

        async def answered(*args: Any) -> None:
            await anyio.lowlevel.checkpoint()
            answers.append(args)

        for client in (await a.client(), await b.client()):
            await a.manager.emit("ask", to=client.sid, callback=answered)
            await client.answer("yes")
        await eventually(lambda: answers == [("yes",), ("yes",)])


async def test_emit_with_ack(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here = [await a.client(rooms=["r"]), await a.client()]
        there = [await b.client(rooms=["r"]), await b.client(rooms=["r"])]
        got: list[Any] = []

        async def ask() -> None:
            got.append(await a.manager.emit_with_ack("ask", 1, to="r", timeout=10))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            await there[1].answer()
            await here[0].answer("one")
            await there[0].answer("one", "two")
        assert sorted(got[0], key=str) == sorted([None, "one", ("one", "two")], key=str)
        assert here[1].events() == []
        assert await a.manager.emit_with_ack("nobody", to="nowhere") == []


async def test_emit_with_ack_times_out_with_what_came(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()

        async def answer() -> None:
            await there.answer("there")

        async with anyio.create_task_group() as tg:
            tg.start_soon(answer)
            with pytest.raises(RequestTimeoutError) as caught:
                await a.manager.emit_with_ack("ask", timeout=1.5)
        assert caught.value.partial == ["there"]
        assert caught.value.missing == {a.manager.uid}
        assert isinstance(caught.value, TimeoutError)
        assert here.events() == [["ask"]]


async def test_fetch_sockets(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here = await a.client(rooms=["r"])
        there = await b.client(
            rooms=["r", "s"],
            auth={"token": "t"},
            HTTP_HOST="example.org",
            HTTP_X_FORWARDED_FOR="1.2.3.4",
            QUERY_STRING="EIO=4&a=1&b=2&b=3",
            REMOTE_ADDR="10.0.0.1",
            RAW_URI="/socket.io/?EIO=4",
        )
        async with b.server.session(there.sid) as session:
            session["name"] = "Ada"
            session["picture"] = b"\0png"
            session["unsendable"] = object()
        for manager in (a.manager, b.manager):
            sockets = {s.id: s for s in await manager.fetch_sockets()}
            assert set(sockets) == {here.sid, there.sid}
            found = sockets[there.sid]
            assert found.rooms == {there.sid, "r", "s"}
            assert found.data == {"name": "Ada", "picture": b"\0png"}
            shown = found.handshake
            assert shown["auth"] == {"token": "t"}
            assert shown["headers"] == {"host": "example.org", "x-forwarded-for": "1.2.3.4"}
            assert shown["query"] == {"EIO": "4", "a": "1", "b": "3"}
            assert shown["address"] == "10.0.0.1"
            assert shown["url"] == "/socket.io/?EIO=4"
            assert shown["secure"] is False
            assert shown["xdomain"] is False
            assert shown["issued"] > 1_700_000_000_000
            assert sockets[here.sid].data == {}
        assert [s.id for s in await a.manager.fetch_sockets(local=True)] == [here.sid]
        assert [s.id for s in await a.manager.fetch_sockets(to="s")] == [there.sid]
        assert [s.id for s in await a.manager.fetch_sockets(except_rooms="s")] == [here.sid]


async def test_clients_rooms_and_all_rooms(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(rooms=["r"]), await b.client(rooms=["r", "s"])
        for manager in (a.manager, b.manager):
            assert await manager.clients() == {here.sid, there.sid}
            assert await manager.clients("s") == {there.sid}
            assert await manager.clients(["r", "s"]) == {here.sid, there.sid}
            assert await manager.clients("nowhere") == set()
            assert await manager.client_rooms(there.sid) == {there.sid, "r", "s"}
            assert await manager.client_rooms(here.sid) == {here.sid, "r"}
            assert await manager.all_rooms() == {here.sid, there.sid, "r", "s"}
            assert await manager.all_rooms(namespace="/empty") == set()


async def test_sockets_join_and_leave(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there, other = await a.client(), await b.client(), await b.client(rooms=["out"])
        await a.manager.sockets_join(["r", "s"], except_rooms="out")
        assert await a.manager.clients("r") == {here.sid, there.sid}
        assert await a.manager.clients("s") == {here.sid, there.sid}
        await b.manager.sockets_leave("s", to=there.sid)
        assert await b.manager.clients("s") == {here.sid}
        assert await b.manager.client_rooms(other.sid) == {other.sid, "out"}
        await a.manager.close_room("r")
        assert await b.manager.clients("r") == set()


async def test_a_sids_own_room_is_nobody_elses(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        with pytest.raises(ValueError, match="cannot enter a sid room"):
            await a.manager.sockets_join(here.sid)
        with pytest.raises(ValueError, match="cannot close a sid room"):
            await a.manager.close_room(here.sid)
        await a.manager.sockets_join(there.sid)
        assert await a.manager.clients(there.sid) == {there.sid, here.sid}
        assert await b.manager.client_rooms(there.sid) == {there.sid}


async def test_server_methods_reach_other_nodes(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        await a.server.enter_room(there.sid, "r")
        assert await a.manager.clients("r") == {there.sid}
        await a.server.leave_room(there.sid, "r")
        assert await a.manager.clients("r") == set()
        await a.server.enter_room(there.sid, "r")
        await a.server.close_room("r")
        assert await a.manager.clients("r") == set()
        await a.server.disconnect(there.sid)
        await eventually(lambda: there.read() or there.disconnected == ["/"])
        assert await a.manager.clients() == set()


async def test_remote_join_leave_and_disconnect_return_when_done(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        here, there = await a.client(), await b.client()
        gone: list[tuple[str, str]] = []

        @b.server.event
        async def disconnect(sid: str, reason: str) -> None:
            await anyio.sleep(0.05)
            gone.append((sid, reason))

        for client, of in ((here, a), (there, b)):
            await a.manager.remote_join(client.sid, "r")
            assert "r" in of.manager.get_rooms(client.sid, "/")
            await a.manager.remote_leave(client.sid, "r")
            assert "r" not in of.manager.get_rooms(client.sid, "/")
            await a.manager.remote_disconnect(client.sid)
            assert not of.manager.is_connected(client.sid, "/")
            assert client.read() is None
            assert client.disconnected == ["/"]
        assert gone == [(there.sid, "server disconnect")]


@pytest.mark.parametrize("operation", ["client_rooms", "remote_join", "remote_leave", "disconnect"])
async def test_an_unknown_socket_is_reported_without_waiting(
    uri: str, prefix: str, operation: str
) -> None:
    async with two_nodes(uri, prefix, requests_timeout=30) as (a, b):
        await b.client()
        calls = {
            "client_rooms": lambda: a.manager.client_rooms("nope"),
            "remote_join": lambda: a.manager.remote_join("nope", "r"),
            "remote_leave": lambda: a.manager.remote_leave("nope", "r"),
            "disconnect": lambda: a.manager.remote_disconnect("nope"),
        }
        with anyio.fail_after(10), pytest.raises(UnknownSocketError, match="nope"):
            await calls[operation]()


async def test_disconnect_sockets(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = [
            await a.client(rooms=["r"]),
            await a.client(),
            await b.client(rooms=["r"]),
            await b.client(),
        ]
        await b.manager.disconnect_sockets(to="r")
        await eventually(lambda: [bool(c.read() or c.disconnected) for c in clients][2])
        assert await b.manager.clients() == {clients[1].sid, clients[3].sid}
        await a.manager.disconnect_sockets()
        await eventually(lambda: [bool(c.read() or c.disconnected) for c in clients] == [True] * 4)


async def test_disconnect_with_close_ends_the_transport(
    uri: str, prefix: str, anyio_backend: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        await there.connect("/chat")
        await a.manager.disconnect_sockets(to=there.sid, close=True)
        await eventually(lambda: there.socket.closed)
        assert await eventually(lambda: there.eio_sid not in b.server.environ)


async def test_server_side_events(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as a, node(uri, prefix) as b, node(uri, prefix) as c:
        await acquainted(a, b, c)
        seen: list[Any] = []

        @b.manager.on_server_side("sum")
        async def add(x: int, y: int) -> int:
            await anyio.lowlevel.checkpoint()
            seen.append((x, y))
            return x + y

        @c.manager.on_server_side("sum")
        def text(x: int, y: int) -> str:
            return f"{x}+{y}"

        @a.manager.on_server_side("sum")
        def own(x: int, y: int) -> str:
            raise AssertionError("a server does not hear its own events")

        assert sorted(await a.manager.server_side_call("sum", 1, 2), key=str) == ["1+2", 3]
        assert await a.manager.server_side_call("unheard") == [None, None]
        await a.manager.server_side_emit("sum", 3, 4)
        await eventually(lambda: seen == [(1, 2), (3, 4)])


async def test_server_side_handlers_begin_in_order(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        begun: list[int] = []
        ended: list[int] = []

        @b.manager.on_server_side("work", namespace="/jobs")
        async def work(number: int) -> None:
            begun.append(number)
            await anyio.sleep(0.002 * (number % 3))
            ended.append(number)

        await acquainted(a, b)
        await eventually(
            lambda: b.manager._node is not None and b.manager._node.members("/jobs") is not None
        )
        await b.manager.clients(namespace="/jobs")
        for number in range(50):
            await a.manager.server_side_emit("work", number, namespace="/jobs")
        await eventually(lambda: len(ended) == 50)
        assert begun == list(range(50))


def test_a_wrong_handler_is_refused_when_it_is_registered() -> None:
    manager: Any = PostgresManager()
    with pytest.raises(
        TypeError, match=r"needs the event's name: @manager.on_server_side\('job'\)"
    ):

        @manager.on_server_side
        def job() -> None: ...

    with pytest.raises(TypeError, match="a server-side event's name must be a str, not 5"):
        manager.on_server_side(5)
    with pytest.raises(ValueError, match="the server-side event name 'connect' is reserved"):
        manager.on_server_side("connect")
    with pytest.raises(ValueError, match="a namespace must begin with '/', not 'chat'"):
        manager.on_server_side("job", "chat")
    with pytest.raises(TypeError, match="the handler of 'job' must be a callable, not 5"):
        manager.on_server_side("job")(5)
    with pytest.raises(TypeError, match="custom_hook must be given a callable, not 5"):
        manager.custom_hook(5)
    assert manager._event_handlers == {}
    assert manager._hook is None


@pytest.mark.parametrize("local", [False, True])
async def test_a_callback_that_cannot_be_called_sends_nothing(
    uri: str, prefix: str, local: bool
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        clients = [await a.client(), await b.client()]
        emit: Any = a.manager.emit
        for callback in (5, "f", False):
            text = f"^callback must be a callable or None, not {callback!r}$"
            with pytest.raises(TypeError, match=text):
                await emit("event", local=local, callback=callback)
            with pytest.raises(TypeError, match=text):
                await emit("event", to=clients[1].sid, local=local, callback=callback)
            with pytest.raises(TypeError, match=text):
                await a.server.emit("event", ignore_queue=local, callback=callback)
        await emit("last")
        for client in clients:
            await client.expect(["last"])


async def test_a_failing_handler_answers_none_and_is_reported(uri: str, prefix: str) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix) as a, node(uri, prefix, on_error=errors.append) as b:
        await acquainted(a, b)

        @b.manager.on_server_side("fail")
        def fail() -> None:
            raise ZeroDivisionError("on purpose")

        @b.manager.on_server_side("unsendable")
        def unsendable() -> object:
            return object()

        assert await a.manager.server_side_call("fail") == [None]
        assert await a.manager.server_side_call("unsendable") == [None]
        assert [type(error) for error in errors] == [ZeroDivisionError, TypeError]


async def test_a_failing_handler_is_logged_once_by_its_events_name(
    uri: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with node(uri, prefix) as a, node(uri, prefix, on_error=errors.append) as b:
        await acquainted(a, b)

        @b.manager.on_server_side("fail", namespace="/jobs")
        async def fail() -> None:
            raise ZeroDivisionError("on purpose")

        @b.manager.custom_hook
        def hook(data: Any) -> None:
            raise KeyError(data)

        await b.manager.clients(namespace="/jobs")
        await a.manager.server_side_emit("fail", namespace="/jobs")
        await eventually(lambda: errors)
        await a.manager.custom_request("asked")
        await eventually(lambda: len(errors) == 2)
        await b.manager.custom_request("of its own")
        await eventually(lambda: len(errors) == 3)
        assert [str(error) for error in errors] == ["on purpose", "'asked'", "'of its own'"]
    told = [r for r in caplog.records if r.name == "anyio_sio_pg" and r.levelno > logging.INFO]
    assert [record.getMessage() for record in told] == [
        "the handler of the server-side event 'fail' in namespace /jobs has failed",
        "the custom hook has failed",
        "the custom hook has failed",
    ]
    assert [record.exc_info and record.exc_info[1] for record in told] == errors
    assert "in fail" in caplog.text


async def test_custom_request(uri: str, prefix: str) -> None:
    async with node(uri, prefix) as a, node(uri, prefix) as b, node(uri, prefix) as c:
        await acquainted(a, b, c)

        @a.manager.custom_hook
        def here(data: Any) -> Any:
            return ["a", data]

        @b.manager.custom_hook
        async def there(data: Any) -> Any:
            await anyio.lowlevel.checkpoint()
            return ["b", data]

        answers = await a.manager.custom_request({"q": 1})
        assert answers[0] == ["a", {"q": 1}]
        assert sorted(answers[1:], key=str) == sorted([["b", {"q": 1}], None], key=str)


async def test_ping_flush_stats_and_status(uri: str, prefix: str) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        there = await b.client()
        began = anyio.current_time()
        assert 0 < await a.manager.ping() <= anyio.current_time() - began
        before = a.manager.stats()
        for number in range(100):
            await a.manager.emit("n", number)
        await a.manager.flush()
        after = a.manager.stats()
        assert after.sent - before.sent >= 100
        assert after.queue_depth == 0
        assert after.nodes == 1
        assert after.batches > before.batches
        await eventually(lambda: len(there.events()) == 100)
        assert b.manager.stats().delivered == 100
        assert a.manager.status == "connected"
        assert len(a.manager.uid) == 16
        assert a.manager.prefix == prefix
        assert a.manager.requests_timeout == PATIENT["requests_timeout"]
        assert a.manager.publisher is not None
        assert a.manager.listener is not None


async def test_a_namespace_is_listened_to_before_its_first_client_knows(
    uri: str, prefix: str
) -> None:
    async with two_nodes(uri, prefix) as (a, b):
        for number in range(20):
            namespace = f"/n{number}"
            client: Client = await b.client(namespace)
            await a.manager.emit("first", number, namespace=namespace)
            await client.expect(["first", number], namespace=namespace)


async def test_a_block_can_be_entered_again(uri: str, prefix: str) -> None:
    a = TestNode(await _manager(uri, prefix))
    async with node(uri, prefix) as b:
        there = await b.client()
        uids = set()
        for number in range(2):
            async with a.manager:
                uids.add(a.manager.uid)
                await a.manager.emit("again", number)
                await a.manager.flush()
        assert len(uids) == 2
        await there.expect(["again", 0], ["again", 1])


async def _manager(uri: str, prefix: str) -> Any:
    from anyio_sio_pg import PostgresManager

    return PostgresManager(uri, prefix=prefix)


async def test_clients_that_were_there_before_the_block_are_served(uri: str, prefix: str) -> None:
    a = TestNode(await _manager(uri, prefix))
    early = await a.client("/early")
    await a.manager.emit("local", namespace="/early", local=True)
    async with a.manager, node(uri, prefix) as b:
        await b.manager.emit("event", 1, namespace="/early")
        await early.expect(["local"], ["event", 1], namespace="/early")


@pytest.mark.parametrize(
    "odd", ['"', "'; DROP TABLE x; --", "%s {0} $1", "\u00e4\U0001f600 \\", "#/"]
)
async def test_a_prefix_of_any_characters(uri: str, prefix: str, odd: str) -> None:
    async with two_nodes(uri, f"{prefix}{odd}") as (a, b):
        there = await b.client("/chat")
        await a.manager.emit("small", 1, namespace="/chat")
        await a.manager.emit("large", "x" * 9_000, namespace="/chat")
        await there.expect(["small", 1], ["large", "x" * 9_000], namespace="/chat")
        assert await a.manager.clients(namespace="/chat") == {there.sids["/chat"]}


async def test_an_answer_comes_to_the_asker_alone(uri: str, prefix: str) -> None:
    quiet = {"heartbeat_interval": 60, "heartbeat_timeout": 100}
    async with (
        node(uri, prefix, **quiet) as a,
        node(uri, prefix, **quiet) as b,
        node(uri, prefix, **quiet) as c,
    ):
        await acquainted(a, b, c)
        there = await b.client(auth={"long": "x" * 9_000})
        b.manager.on_server_side("size")(lambda: "y" * 9_000)
        c.manager.on_server_side("size")(lambda: None)
        # what was sent at the start comes before the answers
        assert len(await a.manager.server_side_call("nothing")) == 2
        before = c.manager.stats().received
        (socket,) = await a.manager.fetch_sockets()
        assert socket.handshake["auth"] == {"long": "x" * 9_000}
        assert await a.manager.clients() == {there.sid}
        assert await a.manager.client_rooms(there.sid) == {there.sid}
        assert await a.manager.all_rooms() == {there.sid}
        assert sorted(map(str, await a.manager.server_side_call("size"))) == ["None", "y" * 9_000]
        # the five questions
        assert c.manager.stats().received == before + 5
        for each in (a, b, c):
            assert (each.manager.stats().lost, each.manager.stats().garbage) == (0, 0)


async def test_requests_where_no_node_can_have_a_channel_of_its_own(uri: str, prefix: str) -> None:
    long = (prefix + "_" * 60)[:58]
    async with two_nodes(uri, long) as (a, b):
        there = await b.client()
        assert await a.manager.client_rooms(there.sid) == {there.sid}
        b.manager.on_server_side("answer")(lambda: 42)
        assert await a.manager.server_side_call("answer") == [42]
        assert a.manager.stats().lost == 0


async def test_an_answer_that_others_hear_is_not_read_by_them(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with a log, answers come on the namespace's channel
    options = {"durable": True, "log_table": f"{prefix}_log"}
    async with (
        node(uri, prefix, **options) as a,
        node(uri, prefix, **options) as b,
        node(uri, prefix, **options) as c,
    ):
        await acquainted(a, b, c)
        await b.client(auth={"long": "x" * 9_000})
        fetched: list[str] = []
        for each in (a, c):
            assert each.manager._node is not None
            listener = each.manager._node.listener
            real = listener._fetch

            async def fetch(connection: Any, *, of: Any = each, real: Any = real) -> Any:
                fetched.append(of.manager.uid)
                return await real(connection)

            monkeypatch.setattr(listener, "_fetch", fetch)
        (socket,) = await a.manager.fetch_sockets()
        assert socket.handshake["auth"] == {"long": "x" * 9_000}
        await c.manager.ping()
        assert fetched == [a.manager.uid]
