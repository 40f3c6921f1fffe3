"""The 1.x wire on either event loop: our nodes run in the test's own, next to the npm package's."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import msgpack
import psycopg
import pytest

from anyio_sio_pg import (
    AdapterError,
    ProtocolError,
    UnknownSocketError,
    emit_statement,
    open_postgres_adapter,
    open_postgres_emitter,
)
from cancelling import MANY, cancel_at
from harness import TestNode, acquainted, eventually, node, sessions
from interop.clients import JavaScriptClient, Node, node_process
from interop.legacy_cluster import LEGACY_CLIENT, NodeServer, database, node_server
from processes import until

pytestmark = pytest.mark.anyio

LARGE = '\U0001f600"\\' * 10_000


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Nothing in this module needs asyncio."""
    return request.param


@pytest.fixture(scope="module")
def uri(postgres: Any, anyio_backend: str) -> Iterator[str]:
    with database(postgres, f"legacy_{anyio_backend}") as uri:
        yield uri


@pytest.fixture(scope="module")
async def javascript(anyio_backend: str) -> AsyncIterator[Node]:
    async with node_process(LEGACY_CLIENT) as javascript:
        yield javascript


class Theirs:
    """A Node server and a client of it."""

    def __init__(self, server: NodeServer, client: JavaScriptClient):
        self.server = server
        self.client = client
        self.sid = client.sid()

    def events(self) -> list[list[Any]]:
        return self.client.seen().events

    async def expect(self, *events: list[Any]) -> None:
        """Wait until exactly these events have come in this order."""
        await eventually(lambda: len(self.events()) >= len(events))
        assert self.events() == [*events]


@asynccontextmanager
async def theirs(uri: str, prefix: str, javascript: Node, name: str) -> AsyncIterator[Theirs]:
    async with node_server(uri, prefix, name) as server:
        client = javascript.client("websocket")
        await client.open(server.url)
        await client.connected()
        yield Theirs(server, client)
        await client.close()


@asynccontextmanager
async def ours(uri: str, prefix: str, **options: Any) -> AsyncIterator[list[TestNode]]:
    open_ = partial(node, uri, prefix, wire="legacy", requests_timeout=30, **options)
    async with open_() as a, open_() as b:
        await acquainted(a, b)
        yield [a, b]


async def test_what_it_cannot_carry(uri: str, prefix: str, javascript: Node) -> None:
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        own, far = await a.client(rooms=["r"]), await b.client(rooms=["r"])
        answers: list[Any] = []
        callback = {"callback": lambda *args: answers.append(args)}
        emit, manager = partial(a.server.emit, "refused"), a.manager
        refused = [
            partial(emit, **callback),
            partial(emit, to=far.sid, **callback),
            partial(emit, to=there.sid, **callback),
            partial(emit, to=[own.sid, "r"], **callback),
            partial(manager.emit, "refused", except_rooms="r"),
            partial(manager.emit, "refused", to="r", except_rooms=[far.sid]),
            partial(manager.emit_with_ack, "refused"),
            partial(manager.emit_with_ack, "refused", to=there.sid),
            manager.fetch_sockets,
            partial(manager.fetch_sockets, to=there.sid),
            partial(manager.server_side_emit, "refused"),
            partial(manager.server_side_call, "refused"),
        ]
        for call in refused:
            with pytest.raises(AdapterError, match="legacy") as caught:
                await call()
            assert type(caught.value) is AdapterError
        await a.server.emit("last")
        await own.expect(["last"])
        await far.expect(["last"])
        await there.expect(["last"])
        # what stays here is not the wire's affair
        await emit(to=own.sid, **callback)
        await own.answer("answer")
        await eventually(lambda: answers)
        assert answers == [("answer",)]
        await a.manager.emit("local", local=True, except_rooms="nowhere")
        assert own.events()[-1] == ["local"]
        assert [socket.id for socket in await manager.fetch_sockets(local=True)] == [own.sid]


async def test_emitter_and_statements(uri: str, prefix: str, javascript: Node) -> None:
    async with (
        theirs(uri, prefix, javascript, "node") as there,
        ours(uri, prefix) as [a, b],
        open_postgres_emitter(uri, wire="legacy", prefix=prefix) as emitter,
    ):
        far = [await a.client(rooms=["r"]), await b.client()]
        await there.server.join(there.sid, "r")
        await emitter.emit("small", (1, b"\0\xff", None))
        await emitter.emit("large", LARGE)
        await emitter.emit("room", b"x" * 40_000, to="r")
        await emitter.emit("rooms", to=["r", far[1].sid])
        await emitter.flush()
        with psycopg.connect(uri) as connection:
            # two that are equal, in one transaction
            for event, data, to in (
                ("same", 1, None),
                ("same", 1, None),
                ("statement", [LARGE, b"\0" * 9_000], "r"),
            ):
                statement = emit_statement(event, data, to=to, prefix=prefix, wire="legacy")
                connection.execute(*statement)
        await emitter.emit("last")
        in_room = [["room", b"x" * 40_000], ["rooms"], ["same", 1], ["same", 1]]
        statement = ["statement", [LARGE, b"\0" * 9_000]]
        first = [["small", 1, b"\0\xff", None], ["large", LARGE]]
        await far[0].expect(*first, *in_room, statement, ["last"])
        await there.expect(*first, *in_room, statement, ["last"])
        await far[1].expect(*first, *in_room[1:], ["last"])
        refused = [
            partial(emitter.emit, "refused", except_rooms="r"),
            partial(emitter.sockets_join, "s"),
            partial(emitter.sockets_leave, "r"),
            emitter.disconnect_sockets,
            partial(emitter.server_side_emit, "refused"),
        ]
        for call in refused:
            with pytest.raises(AdapterError, match="legacy"):
                await call()
        with pytest.raises(AdapterError, match="legacy"):
            emit_statement("refused", except_rooms="r", wire="legacy")
        # it is no node
        assert await there.server.nodes() == 3
        assert await there.server.clients() == sorted([there.sid, *(client.sid for client in far)])


async def test_numbers(uri: str, prefix: str, javascript: Node) -> None:
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        far = await b.client()
        numbers = [2**53, 2**63, -(2**63), 2**64, -(2**70), 2**1_000, 0.1, 5.0]
        await a.server.emit("numbers", numbers)
        await far.expect(["numbers", numbers])
        # there all are floats
        await eventually(there.events)
        [[_, came]] = there.events()
        assert [float(number) for number in came] == [float(number) for number in numbers]


def broadcast(*event: Any, uid: str = "abcdef", namespace: str = "/", **opts: Any) -> str:
    """Return the MESSAGE that carries an event, as Node makes it."""
    packet = {"type": 2, "data": event, "nsp": namespace}
    body = msgpack.packb([uid, packet, {"rooms": [], "flags": {}, **opts}])
    return base64.b64encode(body).decode()


def pieces(name: str, text: str, count: int) -> list[str]:
    size = -(-len(text) // count)
    return [
        f"_chunk_{name}_{n}_{count}".ljust(50) + text[n * size : (n + 1) * size]
        for n in range(count)
    ]


def notify(uri: str, *payloads: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for payload in payloads:
            connection.execute("SELECT pg_notify('socketio', %s)", [payload])


def message(channel: str, text: Any) -> str:
    return json.dumps([channel, text])


async def test_messages_are_as_node_makes_them(uri: str, prefix: str) -> None:
    events: list[tuple[list[Any], dict[str, Any]]] = [
        ([1, "two", None, {"three": [True, 4.5, -(2**40)]}], {}),
        ([], {"to": ["r"]}),
        (["x" * 40_000], {"to": ["r#\0\U0001f600"]}),
        ([b"\0\xff", {"b": [b"1"]}], {"to": ["r", "s"]}),
        (["chat"], {"to": ["r"], "namespace": "/chat"}),
    ]
    async with (
        node_server(uri, prefix, "node", ["/", "/chat"]) as there,
        node(uri, prefix, wire="legacy") as a,
    ):
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("LISTEN socketio")
            for args, where in events:
                await there.emit("event", *args, **where)
            theirs = await anyio.to_thread.run_sync(broadcasts, connection, prefix, len(events))
            for args, where in events:
                await a.manager.emit("event", tuple(args), **where)
            ours = await anyio.to_thread.run_sync(broadcasts, connection, prefix, len(events))
        for (channel, [uid, packet, opts]), (their_channel, their_message) in zip(
            ours, theirs, strict=True
        ):
            assert channel == their_channel
            # what 1.x nodes do not know
            assert opts.pop("seq") > 0
            assert uid == a.manager.uid
            assert len(uid) == len(their_message[0]) == 6
            assert [packet, opts] == their_message[1:]


def broadcasts(
    connection: psycopg.Connection[Any], prefix: str, count: int
) -> list[tuple[str, list[Any]]]:
    """Return so many broadcasts that come: CHANNEL, and MESSAGE as it was before it was encoded."""
    found: list[tuple[str, list[Any]]] = []
    parts: dict[str, dict[int, str]] = {}
    for notification in connection.notifies(timeout=10):
        channel, text = json.loads(notification.payload)
        if not channel.startswith(f"{prefix}#"):
            continue
        if text.startswith("_chunk_"):
            _, _, name, index, number = text[:50].rstrip().split("_")
            # Node's pieces come in any order
            known = parts.setdefault(name, {})
            known[int(index)] = text[50:]
            if len(known) < int(number):
                continue
            text = "".join(known[n] for n in range(len(known)))
        found.append((channel, msgpack.unpackb(base64.b64decode(text))))
        if len(found) == count:
            break
    return found


async def test_incomplete_pieces(uri: str, prefix: str, javascript: Node) -> None:
    errors: list[Exception] = []
    async with (
        theirs(uri, prefix, javascript, "node") as there,
        # what is late is looked for with each heartbeat
        ours(uri, prefix, on_error=errors.append, heartbeat_interval=0.2) as [a, b],
    ):
        far = [await a.client(), await b.client()]
        channel = f"{prefix}#/#"
        lost = pieces("lost", broadcast("lost", "x" * 9_000), 3)
        late = pieces("late", broadcast("late", "y" * 9_000), 3)
        # in another order, and one of them twice
        notify(uri, *(message(channel, piece) for piece in (lost[2], late[2], lost[0], late[1])))
        await there.server.emit("theirs", LARGE)
        await far[0].expect(["theirs", LARGE])
        await a.server.emit("ours", LARGE)
        await a.manager.flush()
        notify(uri, message(channel, late[1]), message(channel, late[0]))
        expected = [["theirs", LARGE], ["ours", LARGE], ["late", "y" * 9_000]]
        for client in (*far, there):
            await client.expect(*expected)
        assert errors == []
        for one in (a, b):
            one.manager._node._reader._chunks._lifetime = 0.1  # type: ignore[union-attr]
        await eventually(lambda: len(errors) == 2)
        for error in errors:
            assert isinstance(error, ProtocolError)
            assert "2 of the 3 pieces" in str(error)
        for one in (a, b):
            assert one.manager.stats().garbage == 1
            assert one.manager.stats().lost == 0
        # its time is over here; Node keeps what it has for a minute
        notify(uri, message(channel, lost[1]))
        await b.server.emit("last")
        for client in far:
            await client.expect(*expected, ["last"])
        await there.expect(*expected, ["lost", "x" * 9_000], ["last"])
        assert await a.manager.clients() == {there.sid, *(client.sid for client in far)}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def chunk(header: str, piece: str = "x") -> tuple[str, str]:
    return "", f"_chunk_{header}".ljust(50) + piece


GARBAGE: list[str | tuple[str, Any]] = [
    *("", "nothing", "[]", "{}", "null", "[1, 2]", '["PREFIX#/#"]', '["PREFIX#/#", "", ""]'),
    # the part after the prefix, and the MESSAGE
    *(("", 1), ("", ""), ("", "!!!"), ("", "\ud83d"), ("", "AAAA")),
    ("", base64_of(b"\x91")),
    ("", base64_of(msgpack.packb([1, 2, 3]))),
    ("", base64_of(msgpack.packb(["u", {}, {}]))),
    ("", base64_of(b"\x91" * 5_000 + b"\x01")),
    ("", base64_of(base64.b64decode(broadcast("cut", "x" * 100))[:-50])),
    ("", broadcast()),
    ("", broadcast({"no": "name"})),
    ("", broadcast("disconnect")),
    ("", broadcast("x", rooms=7)),
    *(chunk(""), chunk("a_0_0"), chunk("a_5_2"), chunk("a_-1_2"), chunk("a_x_y")),
    *(chunk("a_0_9999999999999999999"), chunk("whole_0_1", "!!!")),
    *(("-request", "nothing"), ("-request", "{}"), ("-request", "[]"), ("-request", "[" * 5_000)),
    ("-request", '{"requestid":"x","type":99}'),
    ("-request", '{"requestid":"x","type":1}'),
    ("-request", '{"requestid":"x","type":3,"sid":"s"}'),
    ("-request", '{"requestid":5,"type":0}'),
    ("-request", '{"requestid":"x","type":0,"rooms":{}}'),
    *(("-response", "{}"), ("-response", '{"requestid":"x","clients":7}')),
    *(("-python", "{}"), ("-python", '{"type":1}'), ("-python", '{"type":77,"uid":"abcdef"}')),
]

STRANGE: list[str | tuple[str, Any]] = [
    '["PREFIX#/nowhere#", "!!!"]',
    '["PREFIX-other#/#", "!!!"]',
    '["other#/#", "!!!"]',
    ("", broadcast("x", namespace="/other")),
    ("", broadcast("x", rooms=[["not a name"]])),
    ("-response", '{"requestid":"nobody"}'),
]
"""What is not for this cluster, and no garbage."""


async def test_garbage(postgres: Any, prefix: str, anyio_backend: str) -> None:
    # where no Node server listens: it would end
    errors: list[Exception] = []
    with database(postgres, f"legacy_garbage_{anyio_backend}") as uri:
        async with ours(uri, prefix, on_error=errors.append) as [a, b]:
            far = await b.client()
            for n, payload in enumerate([*GARBAGE, *STRANGE]):
                if isinstance(payload, tuple):
                    notify(uri, message(f"{prefix}{payload[0]}#/#", payload[1]))
                else:
                    notify(uri, payload.replace("PREFIX", prefix))
                await a.server.emit("after", n)
                await eventually(lambda n=n: far.events()[-1:] == [["after", n]])
                counted = b.manager.stats().garbage
                assert counted == min(n + 1, len(GARBAGE)), payload
            await far.expect(*(["after", n] for n in range(len(GARBAGE) + len(STRANGE))))
            assert {type(error) for error in errors} == {ProtocolError}
            assert await a.manager.clients() == {far.sid}
            assert len(await a.manager.custom_request("q")) == 2
            for one in (a, b):
                assert one.manager.stats().nodes == 1
                assert one.manager.stats().lost == 0


async def test_order_and_equal_events(uri: str, prefix: str, javascript: Node) -> None:
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        far = await b.client()
        events = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        events += [["same", "same"]] * 100
        for event, *args in events:
            await a.server.emit(event, tuple(args))
        await far.expect(*events)
        await there.expect(*events)


async def test_nodes_count_each_other(uri: str, prefix: str, javascript: Node) -> None:
    async with (
        theirs(uri, prefix, javascript, "node") as there,
        node_server(uri, prefix, "node2") as second,
    ):
        assert await there.server.nodes() == 2
        async with node(uri, prefix, wire="legacy") as a:
            client = await a.client()
            assert await second.nodes() == 3
            assert await second.clients() == sorted([there.sid, client.sid])
            async with node(uri, prefix, wire="legacy") as b:
                # another namespace does not change what is counted here
                other = await b.client("/other")
                await acquainted(a, b)
                assert await there.server.nodes() == 4
                assert await second.nodes("/") == 4
                assert await second.clients() == sorted([there.sid, client.sid])
                assert await a.manager.clients() == {there.sid, client.sid}
                assert await a.manager.clients(namespace="/other") == set(other.sids.values())
            assert await second.nodes() == 3
            assert await second.clients() == sorted([there.sid, client.sid])
            assert await a.manager.clients() == {there.sid, client.sid}
        assert await second.clients() == [there.sid]


async def test_sessions_that_are_lost(uri: str, prefix: str, javascript: Node) -> None:
    errors: list[Exception] = []
    options: dict[str, Any] = {"wire": "legacy", "on_error": errors.append}
    async with (
        node_server(uri, prefix, "root") as root,
        node_server(uri, prefix, "chat", ["/", "/chat"]) as chat,
        node(uri, prefix, **options) as a,
    ):
        # what the application has named is counted
        a.server.on("event", lambda sid: None, namespace="/chat")
        client = await a.client()
        await a.client("/chat")

        async def counted() -> bool:
            return await root.nodes("/") == 2 and await chat.nodes("/chat") == 2

        await until(counted)
        with psycopg.connect(uri, autocommit=True) as connection:
            lost = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity a"
                " WHERE application_name LIKE %s"
                " AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory')",
                [f"socket.io-{prefix}-request#%"],
            ).fetchall()
        assert len(lost) == 2
        await eventually(lambda: errors)
        await until(counted)

        async def complete() -> bool:
            return client.sid in await a.manager.clients()

        await until(complete)
        answers = await chat.custom_request("q", namespace="/chat")
        assert sorted(answers, key=str) == [None, ["chat", "q"]]


async def test_nodes_that_may_have_a_namespace(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio_sio_pg.legacy_node.RECOUNT", 2.0)
    there = {"namespace": "/chat"}
    async with (
        node_server(uri, prefix, "chat", ["/", "/chat"]) as chat,
        # its session says only that it has "/more"
        node_server(uri, prefix, "more", ["/", "/chat", "/more"]) as more,
        # and this one has no other namespace
        node_server(uri, prefix, "root") as root,
        node(uri, prefix, wire="legacy", requests_timeout=30) as a,
        anyio.create_task_group() as tasks,
    ):
        answers: list[Any] = []

        async def ask(question: str) -> None:
            answers.extend(await a.manager.custom_request(question, **there))

        # "/chat" is new to it
        await a.manager.clients(**there)
        root.signal(signal.SIGSTOP)
        more.signal(signal.SIGSTOP)
        tasks.start_soon(ask, "q")
        await until(partial(_is_asked, chat, "q"))
        assert answers == []
        more.signal(signal.SIGCONT)
        # long before the request's timeout
        with anyio.fail_after(15):
            await until(partial(_is_asked, more, "q"))
            await eventually(lambda: answers)
        assert sorted(answers, key=str) == [None, ["chat", "q"], ["more", "q"]]
        # if it has not after all, that costs a moment
        more.signal(signal.SIGSTOP)
        answers.clear()
        tasks.start_soon(ask, "r")
        await until(partial(_is_asked, chat, "r"))
        await eventually(lambda: answers, 15)
        assert sorted(answers, key=str) == [None, ["chat", "r"]]
        more.signal(signal.SIGCONT)
        root.signal(signal.SIGCONT)


REQUESTS = {"clients": {"type": 0, "rooms": []}, "rooms": {"type": 2}, "custom": {"type": 5}}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_who_is_not_counted_does_not_answer(uri: str, prefix: str, kind: str) -> None:
    async with node(uri, prefix, wire="legacy") as a:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("LISTEN socketio")

            def ask(name: str, namespace: str, **signed: Any) -> None:
                request = json.dumps({"requestid": name, **REQUESTS[kind], **signed})
                notify(uri, message(f"{prefix}-request#{namespace}#", request))

            async def answered(last: str) -> list[str]:
                """Which requests have an answer, up to and with that."""
                return await anyio.to_thread.run_sync(answers, connection, prefix, last)

            # it takes part, and no session of its own says so
            await a.manager.clients(namespace="/chat")
            ask("not counted", "/chat")
            # nodes of this package know each other
            ask("by one of ours", "/chat", uid="abcdef")
            assert await answered("by one of ours") == ["by one of ours"]
            await a.client("/chat")
            ask("with a client", "/chat")
            assert await answered("with a client") == ["with a client"]
            a.server.on("event", lambda sid: None, namespace="/declared")
            await a.manager.clients(namespace="/declared")
            ask("counted", "/declared")
            assert await answered("counted") == ["counted"]


def answers(connection: psycopg.Connection[Any], prefix: str, last: str) -> list[str]:
    """Return the ids of the requests that are answered, up to and with the last."""
    found: list[str] = []
    for notification in connection.notifies(timeout=10):
        channel, text = json.loads(notification.payload)
        if channel.startswith(f"{prefix}-response#"):
            found.append(json.loads(text)["requestid"])
            if found[-1] == last:
                break
    return found


async def test_node_waits_for_those_it_counts(uri: str, prefix: str) -> None:
    there = {"namespace": "/chat"}
    async with (
        node_server(uri, prefix, "first", ["/", "/chat"]) as first,
        node_server(uri, prefix, "second", ["/", "/chat"]) as second,
        node(uri, prefix, wire="legacy") as a,
        anyio.create_task_group() as tasks,
    ):
        results: list[Any] = []

        async def ask() -> None:
            results.extend(await first.custom_request("q", **there))

        await a.manager.clients(**there)
        assert await first.nodes("/chat") == 2
        second.signal(signal.SIGSTOP)
        received = a.manager.stats().received
        tasks.start_soon(ask)
        await eventually(lambda: a.manager.stats().received > received)
        # an answer from here would have been heard, and taken for that of the second
        await a.manager.ping()
        await a.manager.ping()
        second.signal(signal.SIGCONT)
        await eventually(lambda: results)
        assert sorted(results) == [["first", "q"], ["second", "q"]]


@pytest.mark.parametrize("how", ["leaves", "is killed"])
async def test_node_ends_while_requests_are_pending(
    uri: str, prefix: str, javascript: Node, how: str
) -> None:
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        far = await b.client()
        results: dict[str, Any] = {}

        async def ask(name: str, method: Any, *args: Any) -> None:
            try:
                results[name] = await method(*args)
            except UnknownSocketError as exc:
                results[name] = exc

        a.manager.custom_hook(lambda data: ["a", data[0]])
        b.manager.custom_hook(lambda data: ["b", data[0]])
        async with (
            node_server(uri, prefix, "another") as another,
            anyio.create_task_group() as tasks,
        ):
            assert await there.server.nodes() == 4
            ended = javascript.client("websocket")
            await ended.open(another.url)
            sid = await ended.connected()
            if how == "is killed":
                another.signal(signal.SIGSTOP)
                tasks.start_soon(ask, "clients", a.manager.clients)
                tasks.start_soon(ask, "rooms", a.manager.all_rooms)
                tasks.start_soon(ask, "join", a.manager.remote_join, sid, "r")
            tasks.start_soon(ask, "custom", a.manager.custom_request, ["stall", "another"])
            await until(partial(_is_asked, there.server, ["stall", "another"]))
            assert results == {}
            if how == "is killed":
                another.signal(signal.SIGKILL)
            else:
                await another.leave()
            # sooner than heartbeats would tell, which are missed for 10 s
            await eventually(lambda: len(results) == (4 if how == "is killed" else 1), 8)
        await ended.close()
        answers = [["a", "stall"], ["b", "stall"], ["node", ["stall", "another"]]]
        assert sorted(results.pop("custom")) == answers
        if how == "is killed":
            assert results["clients"] == results["rooms"] == {there.sid, far.sid}
            assert isinstance(results["join"], UnknownSocketError)


async def _is_asked(server: NodeServer, question: Any) -> bool:
    return question in await server.take_asked()


@pytest.mark.parametrize("name", ["with \U0001f600 ü", "p" * 45, "50%_'\\"])
async def test_odd_prefixes(
    uri: str, javascript: Node, prefix: str, anyio_backend: str, name: str
) -> None:
    # Node does not find its own sessions by a name that PostgreSQL has cut or written otherwise, so
    # that there its own requests time out
    prefix = f"{prefix}{name}"
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        far = await b.client(rooms=["r"])
        await a.server.emit("ours", LARGE)
        await there.server.emit("theirs", b"\0" * 9_000, to=["r"])
        await far.expect(["ours", LARGE], ["theirs", b"\0" * 9_000])
        await there.expect(["ours", LARGE])
        with anyio.fail_after(20):
            assert await a.manager.clients() == {there.sid, far.sid}
            await a.manager.remote_join(there.sid, "r")
            assert await a.manager.client_rooms(there.sid) == {there.sid, "r"}
            assert len(await a.manager.custom_request("q")) == 3
            with pytest.raises(UnknownSocketError):
                await a.manager.client_rooms("nobody")


async def cancelled_at_every_point(
    function: Callable[[], Awaitable[Any]], check: Callable[[], None] = lambda: None
) -> int:
    """Cancel a function at its first await, its second, and so on; return how many it has."""
    for at in range(1, MANY):
        with anyio.fail_after(30):
            reached = await cancel_at(at, function)
        check()
        if not reached:
            return at - 1
    raise AssertionError("it has no end")


async def test_cancelling_requests_at_every_await_point(
    uri: str, prefix: str, javascript: Node
) -> None:
    async with theirs(uri, prefix, javascript, "node") as there, ours(uri, prefix) as [a, b]:
        far = await b.client()
        await a.manager.clients()
        calls: list[Callable[[], Awaitable[Any]]] = [
            a.manager.clients,
            a.manager.all_rooms,
            partial(a.manager.custom_request, "x" * 9_000),
            partial(a.manager.client_rooms, there.sid),
            partial(a.manager.remote_join, there.sid, "r"),
            partial(a.manager.remote_leave, far.sid, "r"),
            partial(a.manager.sockets_join, "s"),
            partial(a.manager.clients, namespace="/chat"),
        ]
        for call in calls:
            assert await cancelled_at_every_point(call)
            assert await a.manager.clients() == {there.sid, far.sid}
        assert await there.server.rooms(there.sid) == sorted([there.sid, "r", "s"])
        assert a.manager._node is not None
        assert a.manager._node.requests._by_id == {}
        assert await there.server.nodes() == 3
        for one in (a, b):
            assert one.manager.stats().lost == one.manager.stats().garbage == 0


async def test_cancelling_the_whole_block_at_every_await_point(uri: str, prefix: str) -> None:
    before = {task.id for task in anyio.get_running_tasks()}
    entered: list[int] = []

    async def block() -> None:
        async with open_postgres_adapter(uri, wire="legacy", prefix=prefix) as manager:
            entered.append(1)
            await manager.emit("event", "x" * 9_000, namespace="/chat")
            await manager.clients()

    def check() -> None:
        assert {task.id for task in anyio.get_running_tasks()} == before

    assert await cancelled_at_every_point(block, check) > 20
    assert entered
    await eventually(lambda: sessions(uri, f"socket.io-{prefix}") == [])
