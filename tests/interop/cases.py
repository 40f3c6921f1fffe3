"""What every real client has to be able to do, over each transport.

Each test module runs these with clients of its own kind (the fixture ``make_client``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from harness import eventually
from interop.app import Server
from interop.clients import TIMEOUT
from interop.fixtures import Open
from proxy import proxy

_numbers = itertools.count(1)

NESTED = {
    "whole": b"\x00\x01\xfe\xff",
    "list": [b"", {"deep": [1, b"b" * 300, None]}],
    "text": "ünïcödé ✓",
}


def quick_pings(mode: str) -> dict[str, float]:
    """Options with which a server soon sees that a polling client is gone."""
    # the others' connections tell it at once
    return {"ping_interval": 0.5, "ping_timeout": 5.0} if mode == "polling" else {}


@pytest.fixture
def tag() -> str:
    """A name that no other test uses: for clients in their auth, and for rooms."""
    return f"tag{next(_numbers)}"


class Cases:
    """The cases; each is run on every ASGI server and in every mode."""

    async def test_connect_with_auth(self, server: Server, open_client: Open, tag: str) -> None:
        client = await open_client(auth={"tag": tag, "token": [1, "ü"]})
        sid = await client.connected()
        assert server.handlers().auth[sid] == {"tag": tag, "token": [1, "ü"]}
        assert server.handlers().sids[tag] == [sid]
        first = "websocket" if client.mode == "websocket" else "polling"
        assert server.handlers().environ[sid]["QUERY_STRING"].count(f"transport={first}") == 1
        last = "polling" if client.mode == "polling" else "websocket"
        await eventually(lambda: server.app.sio.transport(sid) == last)

    async def test_refused_by_the_connect_handler(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        client = await open_client(auth={"tag": tag, "refuse": ["no entry", {"code": 17}]})
        assert await client.error() == {"message": "no entry", "data": {"code": 17}}
        assert client.seen().connects == []
        sid = await server.sid(tag)
        # it is in no room: not even of itself
        assert await server.run(_has_rooms, server, sid) is False
        assert sid not in server.handlers().ended

    async def test_a_namespace_that_is_not_there(self, open_client: Open) -> None:
        client = await open_client(namespaces=["/nowhere"])
        assert (await client.error("/nowhere"))["message"] == "Invalid namespace"
        assert client.seen("/nowhere").connects == []

    async def test_custom_namespace(self, server: Server, open_client: Open, tag: str) -> None:
        client = await open_client(auth={"tag": tag}, namespaces=["/news"])
        sid = await client.connected("/news")
        assert server.handlers("/news").sids[tag] == [sid]
        assert tag not in server.handlers().sids
        assert await client.call("echo", 1, b"2", namespace="/news") == [1, b"2"]
        await server.emit("headline", ("a", b"b"), to=sid, namespace="/news")
        assert await client.received("headline", 1, "/news") == [["a", b"b"]]
        assert client.events("headline") == []

    async def test_several_namespaces_over_one_connection(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        spaces = ["/", "/news", "/more"]
        client = await open_client(auth={"tag": tag}, namespaces=spaces)
        sids = [await client.connected(space) for space in spaces]
        assert len(set(sids)) == 3
        connections = {
            await server.run(_connection, server, sid, space)
            for sid, space in zip(sids, spaces, strict=True)
        }
        assert len(connections) == 1
        for space, sid in zip(spaces, sids, strict=True):
            await server.emit("where", (space, NESTED), to=sid, namespace=space)
            await client.emit(["say", space, NESTED], namespace=space)
        for space, sid in zip(spaces, sids, strict=True):
            assert await client.received("where", 1, space) == [[space, NESTED]]
            assert await server.said(sid, 1, space) == [[space, NESTED]]
        # the end of one is not the end of the others
        await server.run(server.app.sio.disconnect, sids[1], namespace="/news")
        assert await client.disconnected("/news") == client.reasons.by_server
        assert await client.call("echo", "still", namespace="/more") == ["still"]
        assert await client.call("echo", "here") == ["here"]
        assert sids[0] not in server.handlers().ended

    async def test_acknowledgements_both_ways(self, server: Server, open_client: Open) -> None:
        client = await open_client()
        sid = await client.connected()
        messages: list[list[Any]] = [
            [],
            ["one"],
            [1, 2.5, None, True, {"a": [1, {"b": "ü"}]}],
            ["", 0, "x" * 20_000],
            [[1, 2]],
        ]
        for args in messages:
            assert await client.call("echo", *args) == args
            assert await server.call("ask", tuple(args), to=sid) == returned(args)
            answers: list[Any] = []
            await server.emit("ask", tuple(args), to=sid, callback=acknowledge_to(answers))
            await eventually(lambda answers=answers: answers)
            assert answers == [tuple(args)]
        asked = [args for args in messages for _ in range(2)]
        assert await client.received("ask", len(asked)) == asked

    async def test_binary_both_ways(self, server: Server, open_client: Open) -> None:
        client = await open_client()
        sid = await client.connected()
        every_byte = bytes(range(256)) * 5
        messages: list[list[Any]] = [
            [every_byte],
            [b""],
            [NESTED],
            [b"a", "b", b"c", NESTED, [b"d", b"e"]],
        ]
        for args in messages:
            assert await client.call("echo", *args) == args
            assert await server.call("ask", tuple(args), to=sid) == returned(args)
        assert await client.received("ask", len(messages)) == messages

    async def test_many_attachments_in_a_row(self, server: Server, open_client: Open) -> None:
        client = await open_client()
        sid = await client.connected()
        messages = [
            [i, {"a": bytes([i]) * (i * 40), "b": [f"{i}".encode(), {"c": b"c" * 10}]}]
            for i in range(30)
        ]
        await client.emit(*(["say", *message] for message in messages))
        await server.emit_all(*(("pieces", tuple(message)) for message in messages), to=sid)
        assert await client.received("pieces", 30) == messages
        assert await server.said(sid, 30) == messages

    async def test_rooms(self, server: Server, open_client: Open, tag: str) -> None:
        a, b, c = clients = [await open_client() for _ in range(3)]
        sids = [await client.connected() for client in clients]
        for client in (a, b):
            assert await client.call("enter", tag) == [tag]
        await server.emit("news", 1, room=tag)
        await server.emit("news", 2, to=[sids[2], tag])
        await server.emit("news", 3, to=tag, skip_sid=sids[0])
        assert await b.call("leave", tag) == [tag]
        await server.emit("news", (4, b"four"), to=tag)
        # left out by a room that they are in
        assert await c.call("enter", f"{tag}-not") == [f"{tag}-not"]
        manager = server.app.sio.manager
        await server.run(manager.emit, "news", 5, "/", sids, except_rooms=f"{tag}-not")
        await server.run(server.app.sio.close_room, tag)
        await server.emit("news", 6, to=tag)
        await server.emit("news", 7, to=sids)
        assert await a.received("news", 5) == [[1], [2], [4, b"four"], [5], [7]]
        assert await b.received("news", 5) == [[1], [2], [3], [5], [7]]
        assert await c.received("news", 2) == [[2], [7]]

    @pytest.mark.parametrize("mode", ["both"])
    async def test_rooms_over_both_transports(
        self, server: Server, open_client: Open, mode: str, tag: str
    ) -> None:
        """A binary event has one form for polling, and another for WebSocket."""
        clients = [await open_client(mode=mode) for mode in ("polling", "websocket", "upgrade")]
        for client in clients:
            await client.connected()
            await client.call("enter", tag)
        await server.emit_all(*(("news", (i, NESTED)) for i in range(10)), to=tag)
        for client in clients:
            assert await client.received("news", 10) == [[i, NESTED] for i in range(10)]
            assert await client.call("echo", b"alive") == [b"alive"]

    async def test_disconnect_by_the_server(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        client = await open_client(auth={"tag": tag})
        sid = await client.connected()
        await server.emit("last", b"words", to=sid)
        await server.run(server.app.sio.disconnect, sid)
        assert await client.disconnected() == client.reasons.by_server
        assert client.events("last") == [[b"words"]]
        assert await server.ended(sid) == "server disconnect"
        assert await server.run(_has_rooms, server, sid) is False

    async def test_disconnect_by_the_client(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        client = await open_client(auth={"tag": tag})
        sid = await client.connected()
        await client.close()
        assert await client.disconnected() == client.reasons.by_client
        assert await server.ended(sid) in client.reasons.by_client_at_server
        assert await server.run(_has_rooms, server, sid) is False

    async def test_reconnects_after_a_cut(
        self,
        server: Server,
        open_client: Open,
        serve: Callable[..., Server],
        mode: str,
        tag: str,
    ) -> None:
        server = serve(**quick_pings(mode))
        async with proxy(server.port) as between:
            client = await open_client(
                f"http://127.0.0.1:{between.port}", auth={"tag": tag}, reconnect=True
            )
            first = await client.connected()
            # the client takes itself for upgraded before the server does
            assert await client.call("echo", 1) == [1]
            with anyio.fail_after(TIMEOUT):
                # a polling client may be between two polls
                while not client.seen().disconnects:
                    await between.cut()
                    await anyio.sleep(0.01)
            assert await client.disconnected() in client.reasons.closed
            second = await client.connected(times=2)
            assert first != second
            assert server.handlers().sids[tag] == [first, second]
            assert await client.call("echo", b"back") == [b"back"]
            await server.emit("welcome", b"back", to=second)
            assert await client.received("welcome", 1) == [[b"back"]]
            reason = await server.ended(first)
            # who has waited in vain for a ping says goodbye by a last POST, which may get through
            polling = ("transport error", "ping timeout", "client disconnect")
            assert reason in (polling if mode == "polling" else ("transport close",))
            assert second not in server.handlers().ended
            await client.close()

    async def test_two_hundred_events_in_order(self, server: Server, open_client: Open) -> None:
        clients = [await open_client() for _ in range(2)]
        sids = [await client.connected() for client in clients]
        async with anyio.create_task_group() as tasks:
            for client, sid in zip(clients, sids, strict=True):
                tasks.start_soon(client.emit, *(["say", sid, i] for i in range(200)))
                events = [("tick", (sid, i)) for i in range(200)]
                tasks.start_soon(lambda events, to: server.emit_all(*events, to=to), events, sid)
        for client, sid in zip(clients, sids, strict=True):
            expected = [[sid, i] for i in range(200)]
            assert await client.received("tick", 200) == expected
            assert await server.said(sid, 200) == expected

    async def test_messages_of_a_megabyte(self, server: Server, open_client: Open) -> None:
        client = await open_client()
        sid = await client.connected()
        text, data = "0123456789" * 100_000, bytes(range(250)) * 4_000
        assert len(text) == len(data) == 1_000_000
        await client.emit(["say", text], ["say", data])
        await server.emit_all(("large", text), ("large", data), to=sid)
        assert await client.received("large", 2) == [[text], [data]]
        assert await server.said(sid, 2) == [[text], [data]]
        assert await client.call("echo", data) == [data]

    async def test_too_large_a_message_closes_that_client_only(
        self, open_client: Open, serve: Callable[..., Server], tag: str
    ) -> None:
        server = serve(max_http_buffer_size=10_000)
        large, other = [
            await open_client(server.url, auth={"tag": tag}),
            await open_client(server.url),
        ]
        large_sid, other_sid = await large.connected(), await other.connected()
        # as much as may be: one character of type, and the event around it
        fits = "x" * (10_000 - len('42["say",""]'))
        await large.emit(["say", fits])
        assert await server.said(large_sid, 1) == [[fits]]
        await large.emit(["say", "x" * 10_500])
        assert await large.disconnected() in large.reasons.closed
        assert await server.ended(large_sid)
        assert len(server.handlers().said[large_sid]) == 1
        assert await other.call("echo", "alive") == ["alive"]
        assert other.seen().disconnects == []
        assert other_sid not in server.handlers().ended

    async def test_sessions(self, server: Server, open_client: Open, tag: str) -> None:
        spaces = ["/", "/news"]
        a = await open_client(auth={"tag": tag}, namespaces=spaces)
        b = await open_client(auth={"tag": tag})
        sids = [await client.connected() for client in (a, b)]
        await a.connected("/news")
        counts = [
            await a.call("count"),
            await a.call("count"),
            await b.call("count"),
            await a.call("count", namespace="/news"),
        ]
        assert counts == [[1], [2], [1], [1]]
        assert await server.run(server.app.sio.get_session, sids[0]) == {"count": 2}

    async def test_class_based_namespace(self, server: Server, open_client: Open, tag: str) -> None:
        client = await open_client(auth={"tag": tag}, namespaces=["/shop"])
        sid = await client.connected("/shop")
        answer = await client.call("order", f"tea for {tag}", namespace="/shop")
        assert answer == [{"item": f"tea for {tag}", "by": tag}]
        assert await client.received("ordered", 1, "/shop") == [[f"tea for {tag}"]]
        seen = server.app.shop.seen[sid]
        await client.close()
        await eventually(lambda: len(seen) == 2)
        assert seen[0] == "connect"
        assert seen[1][1] in client.reasons.by_client_at_server

    async def test_msgpack(self, open_client: Open, serve: Callable[..., Server], tag: str) -> None:
        server = serve(serializer="msgpack")
        spaces = ["/", "/news"]
        client = await open_client(server.url, auth={"tag": tag}, namespaces=spaces, msgpack=True)
        for space in spaces:
            sid = await client.connected(space)
            args = [1, NESTED, b"bytes", None]
            assert await client.call("echo", *args, namespace=space) == args
            answer = await server.call("ask", tuple(args), to=sid, namespace=space)
            assert answer == tuple(args)
            await client.emit(*(["say", i, NESTED] for i in range(30)), namespace=space)
            await server.emit_all(
                *(("tick", (i, NESTED)) for i in range(30)), to=sid, namespace=space
            )
            assert await client.received("tick", 30, space) == [[i, NESTED] for i in range(30)]
            assert await server.said(sid, 30, space) == [[i, NESTED] for i in range(30)]
        await server.run(server.app.sio.disconnect, client.sid())
        assert await client.disconnected() == client.reasons.by_server
        refused = await open_client(
            server.url, auth={"tag": tag, "refuse": ["no entry"]}, msgpack=True
        )
        assert (await refused.error())["message"] == "no entry"
        nobody = await open_client(server.url, msgpack=True)
        assert server.handlers().auth[await nobody.connected()] is None
        assert await nobody.call("echo", b"1") == [b"1"]

    async def test_always_connect(
        self, open_client: Open, serve: Callable[..., Server], tag: str
    ) -> None:
        server = serve(always_connect=True)
        client = await open_client(server.url, auth={"tag": tag, "greet": "hello"})
        sid = await client.connected()
        # sent by the connect handler itself, before it has let the client in
        assert await client.received("greeting", 1) == [["hello", b"you"]]
        assert await client.call("echo", 1) == [1]
        assert await server.sid(tag) == sid


class JavaScriptCases(Cases):
    """What the official client does, and python-socketio's does not."""

    async def test_reconnects_after_the_connection_was_closed(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        client = await open_client(auth={"tag": tag}, reconnect=True)
        first = await client.connected()
        connection = await server.run(_connection, server, first, "/")
        await server.run(server.app.sio.eio.disconnect, connection)
        assert await client.disconnected() in client.reasons.closed
        assert await server.ended(first) == "server disconnect"
        second = await client.connected(times=2)
        assert first != second
        assert await client.call("echo", "back") == ["back"]

    async def test_disconnects_after_its_last_words(
        self, server: Server, open_client: Open, tag: str
    ) -> None:
        client = await open_client(auth={"tag": tag})
        sid = await client.connected()
        await client.emit(*(["say", i, b"words"] for i in range(50)))
        await client.close()
        assert await client.disconnected() == client.reasons.by_client
        assert await server.ended(sid) == "client disconnect"
        assert await server.said(sid, 50) == [[i, b"words"] for i in range(50)]

    async def test_always_connect_and_refuse(
        self, open_client: Open, serve: Callable[..., Server], tag: str
    ) -> None:
        server = serve(always_connect=True)
        refused = await open_client(server.url, auth={"tag": tag, "refuse": ["no entry"]})
        assert await refused.disconnected() == refused.reasons.by_server
        assert refused.seen().connects == [await server.sid(tag)]
        assert refused.seen().errors == []

    async def test_leaves_one_namespace(self, server: Server, open_client: Open, tag: str) -> None:
        client = await open_client(namespaces=["/", "/news"], auth={"tag": tag})
        sid, news = await client.connected(), await client.connected("/news")
        await client.leave("/news")
        assert await client.disconnected("/news") == client.reasons.by_client
        assert await server.ended(news, "/news") == "client disconnect"
        assert await client.call("echo", 1) == [1]
        assert sid not in server.handlers().ended


def acknowledge_to(answers: list[Any]) -> Callable[..., None]:
    """Return a callback that keeps the arguments of the acknowledgement."""

    def acknowledge(*args: Any) -> None:
        answers.append(args)

    return acknowledge


def returned(args: list[Any]) -> Any:
    """What ``call`` returns for an acknowledgement with these arguments."""
    return tuple(args) if len(args) > 1 else args[0] if args else None


def _connection(server: Server, sid: str, namespace: str) -> str:
    found: str = server.app.sio.manager.eio_sid_from_sid(sid, namespace)
    return found


def _has_rooms(server: Server, sid: str) -> bool:
    return bool(server.app.sio.rooms(sid))
