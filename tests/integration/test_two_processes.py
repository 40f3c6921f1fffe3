"""Two processes, both with a stock server or both with an AnyIOServer, and real clients of both."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import anyio
import pytest

from harness import FAST, PATIENT, sessions
from processes import (
    NodeProcess,
    RealClient,
    RemoteError,
    RemoteNode,
    connected,
    started,
    stop_in_peace,
    until,
)

pytestmark = pytest.mark.anyio

TRANSPORTS = ["websocket", "polling", None]
Pair = list[NodeProcess]


@pytest.fixture
def anyio_backend() -> str:
    # python-socketio's client is made for asyncio
    return "asyncio"


PAIRS = {"stock": ("block", "lifespan"), "anyio": ("asyncio", "trio")}


@pytest.fixture(scope="module", params=PAIRS)
def shared(request: pytest.FixtureRequest, postgres: Any) -> Iterator[Pair]:
    """Two nodes for the whole module; at the end, they must have had nothing to complain of."""
    prefix = f"two-processes-{request.param}"
    pair = started(postgres.uri, prefix, PAIRS[request.param], requests_timeout=10.0)
    yield pair
    stop_in_peace(pair)


@pytest.fixture(params=["first", "second"])
def pair(request: pytest.FixtureRequest, shared: Pair) -> Pair:
    """The two nodes, the one that acts first: each operation is tried from either side."""
    return shared if request.param == "first" else shared[::-1]


@pytest.fixture
def own_pair(request: pytest.FixtureRequest, uri: str, prefix: str) -> Iterator[Pair]:
    """Two nodes, of the pair that the parameter names, that the test may stop and kill.

    One that is merely silent is given up late, and a request waits for it as long.
    """
    pair = started(uri, prefix, PAIRS[request.param], heartbeat_timeout=90, requests_timeout=60)
    yield pair
    for process in pair:
        process.end()


@pytest.fixture
def fast_pair(uri: str, prefix: str) -> Iterator[Pair]:
    """Two stock nodes with heartbeats that find a dead node in about a second."""
    pair = started(uri, prefix, PAIRS["stock"], **FAST, **PATIENT)
    yield pair
    for process in pair:
        process.end()


async def test_events_reach_every_client_over_every_transport(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        clients = [await n.client(transport) for n in (a, b) for transport in TRANSPORTS]
        data: list[Any] = [
            None,
            {"text": "hällo \U0001f600"},
            [1, [2], None],
            b"\0\xff" * 10,
            "x" * 120_000,
            {"a": b"1", "b": [b"2" * 9_000, "c"]},
        ]
        for value in data:
            await a.server("emit", "greet", value)
            await a.manager("emit", "greet", value)
        expected = [["greet"] if value is None else ["greet", value] for value in data]
        for client in clients:
            await client.has(*[event for event in expected for _ in range(2)])
        assert await clients[0].client.call("echo", (1, b"2")) == (1, b"2")


async def test_events_to_rooms_and_clients(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here = await a.client(rooms=("red",))
        there = await b.client(rooms=("red", "blue"))
        other = await b.client("polling", rooms=("blue",))
        await a.server("emit", "one", room="red")
        await a.server("emit", "two", to=["red", "blue"])
        await a.server("emit", "three", to="red", skip_sid=there.sid)
        await a.manager("emit", "four", except_rooms="blue")
        await a.manager("emit", "five", to=other.sid)
        await a.server("emit", "six", to=here.sid)
        await a.manager("emit", "seven", local=True)
        await a.server("emit", "last")
        await here.has(["one"], ["two"], ["three"], ["four"], ["six"], ["seven"], ["last"])
        await there.has(["one"], ["two"], ["last"])
        await other.has(["two"], ["five"], ["last"])


async def test_namespaces_are_apart(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here = await a.client(namespaces=("/", "/chat"))
        there = await b.client(namespaces=("/", "/chat"))
        await a.server("emit", "talk", {"n": b"1"}, namespace="/chat")
        await a.server("emit", "last")
        await a.server("emit", "last", namespace="/chat")
        for client in (here, there):
            await client.has(["last"])
            await client.has(["talk", {"n": b"1"}], ["last"], namespace="/chat")
        in_chat = there.client.namespaces["/chat"]
        await a.manager("remote_join", in_chat, "r", namespace="/chat")
        assert await a.manager("clients", "r", namespace="/chat") == [in_chat]
        assert await a.manager("clients", "r") == []
        assert await a.manager("server_side_call", "who", 1, namespace="/chat") == [
            [b.name, "/chat", 1]
        ]
        await a.manager("remote_disconnect", in_chat, namespace="/chat")
        await until(lambda: _gone(there, "/chat"))
        assert there.in_namespace("/")


async def _gone(client: RealClient, namespace: str = "/") -> bool:
    return not client.in_namespace(namespace)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_callbacks_of_clients_of_the_other_node(pair: Pair, transport: str | None) -> None:
    async with connected(*pair) as (a, b):
        here, there = await a.client(transport), await b.client(transport)
        there.answers["ask"] = ("yes", {"binary": b"\0\xff"})
        here.answers["ask"] = "here"
        await a.hooks("take", "answers")
        await a.hooks("ask", "ask", {"q": 1}, to=there.sid)
        await a.hooks("ask", "ask", to=here.sid)

        async def answered() -> bool:
            return len(await a.hooks("answers")) == 2

        await until(answered)
        answers = await a.hooks("take", "answers")
        assert sorted(answers, key=str) == [["here"], ["yes", {"binary": b"\0\xff"}]]
        assert await a.server("call", "ask", 1, to=there.sid) == ["yes", {"binary": b"\0\xff"}]
        assert await a.server("call", "ask", to=here.sid) == "here"
        there.answers["ask"] = "x" * 120_000
        assert await a.server("call", "ask", to=there.sid) == "x" * 120_000
        assert await a.server("call", "unheard", to=there.sid) is None
        with pytest.raises(RemoteError, match="TimeoutError"):
            await a.server("call", "ask", to="nobody", timeout=0.1)


async def test_emit_with_ack(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here = await a.client(rooms=("r",))
        there = await b.client("polling", rooms=("r",))
        other = await b.client()
        here.answers["ask"] = ("one", "two")
        there.answers["ask"] = b"\0binary"
        other.answers["ask"] = {"n": 1}
        answers = await a.manager("emit_with_ack", "ask", {"q": b"?"})
        assert sorted(answers, key=str) == [["one", "two"], b"\0binary", {"n": 1}]
        answers = await a.manager("emit_with_ack", "ask", to="r", except_rooms=here.sid)
        assert answers == [b"\0binary"]
        assert await a.manager("emit_with_ack", "ask", to="nowhere") == []
        there.answers["big"] = "x" * 120_000
        assert await a.manager("emit_with_ack", "big", to=there.sid) == ["x" * 120_000]


async def test_emit_with_ack_times_out_with_the_answers_so_far(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here, there = await a.client(), await b.client()
        here.answers["ask"] = "here"
        there.client.on("ask", _never)
        with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
            await a.manager("emit_with_ack", "ask", timeout=3)
        assert caught.value.partial == ["here"]
        assert caught.value.missing == [await b.manager("uid")]


async def _never(*_: Any) -> None:
    await anyio.sleep_forever()


async def test_fetch_sockets(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here = await a.client("polling", rooms=("r",))
        there = await b.client(
            rooms=("r", "s"),
            query="?a=1&b=2&b=3",
            headers={"X-Test": "hällo"},
            auth={"token": "t"},
        )
        await b.server("save_session", there.sid, {"name": "Ada", "picture": b"\0png"})
        sockets = {s["id"]: s for s in await a.manager("fetch_sockets")}
        assert set(sockets) == {here.sid, there.sid}
        found = sockets[there.sid]
        assert found["rooms"] == sorted([there.sid, "r", "s"])
        assert found["data"] == {"name": "Ada", "picture": b"\0png"}
        shown = found["handshake"]
        assert shown["auth"] == {"token": "t"}
        query = {"a": "1", "b": "3", "transport": "websocket", "EIO": "4"}
        assert query.items() <= shown["query"].items()
        # UTF-8 that is read as Latin-1, as Node shows it
        assert shown["headers"]["x-test"] == "hÃ¤llo"
        assert shown["headers"]["host"] in b.process.url
        assert shown["address"] == "127.0.0.1"
        assert shown["url"].startswith("/socket.io/?a=1&b=2&b=3&")
        assert shown["secure"] is False
        assert shown["xdomain"] is False
        assert abs(shown["issued"] / 1_000 - time.time()) < 60
        assert sockets[here.sid]["data"] == {}
        assert sockets[here.sid]["handshake"]["query"]["transport"] == "polling"

        async def ids(**target: Any) -> list[str]:
            return [s["id"] for s in await a.manager("fetch_sockets", **target)]

        assert await ids(local=True) == [here.sid]
        assert await ids(to="s") == [there.sid]
        assert await ids(except_rooms="s") == [here.sid]
        assert sorted(await ids(to=["r", "s"])) == sorted([here.sid, there.sid])


async def test_clients_and_rooms(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here, there = await a.client(rooms=("r",)), await b.client(rooms=("r", "s"))
        both = sorted([here.sid, there.sid])
        assert await a.manager("clients") == both
        assert await a.manager("clients", "s") == [there.sid]
        assert await a.manager("clients", ["r", "s"]) == both
        assert await a.manager("client_rooms", there.sid) == sorted([there.sid, "r", "s"])
        assert await a.manager("client_rooms", here.sid) == sorted([here.sid, "r"])
        assert await a.manager("all_rooms") == sorted([*both, "r", "s"])
        # the stock server's own methods, for a client of the other node
        await a.server("enter_room", there.sid, "t")
        assert await a.manager("clients", "t") == [there.sid]
        await a.server("leave_room", there.sid, "t")
        assert await a.manager("clients", "t") == []
        await a.server("close_room", "r")
        assert await b.manager("all_rooms") == sorted([*both, "s"])


async def test_remote_join_leave_and_disconnect(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        for node in (a, b):
            client = await node.client()
            sid = client.sid
            await a.manager("remote_join", sid, "r")
            assert "r" in await node.server("rooms", sid)
            await a.manager("remote_leave", sid, "r")
            assert await node.server("rooms", sid) == [sid]
            await a.manager("remote_disconnect", sid)
            assert await node.manager("fetch_sockets", local=True) == []
            assert [sid, "server disconnect"] in await node.hooks("take", "left")
            await until(lambda client=client: _gone(client))
        for call in ("remote_join", "remote_leave"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await a.manager(call, "nobody", "r")
        for call in ("remote_disconnect", "client_rooms"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await a.manager(call, "nobody")


async def test_sockets_join_and_leave(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here, there, other = await a.client(), await b.client(), await b.client(rooms=("out",))
        await a.manager("sockets_join", ["r", "s"], except_rooms="out")
        both = sorted([here.sid, there.sid])
        assert await a.manager("clients", "r") == both
        assert await a.manager("clients", "s") == both
        await a.manager("sockets_leave", "s", to=there.sid)
        assert await b.manager("clients", "s") == [here.sid]
        assert await a.manager("client_rooms", other.sid) == sorted([other.sid, "out"])
        await a.manager("sockets_leave", ["r", "s"])
        assert await a.manager("clients", ["r", "s"]) == []


@pytest.mark.parametrize("close", [False, True])
async def test_disconnect_sockets(pair: Pair, close: bool) -> None:
    async with connected(*pair) as (a, b):
        namespaces = ("/", "/chat")
        leaving = [
            await a.client(rooms=("r",), namespaces=namespaces),
            await b.client(rooms=("r",), namespaces=namespaces),
            await b.client("polling", rooms=("r",), namespaces=namespaces),
        ]
        staying = [await a.client(), await b.client()]
        await a.manager("disconnect_sockets", to="r", close=close)
        for client in leaving:
            await until(lambda client=client: _gone(client))
        assert await a.manager("clients") == sorted(client.sid for client in staying)
        if close:
            for client in leaving:
                await until(lambda client=client: _closed(client))
            await until(lambda: _nobody(a, "/chat"))
        else:
            await a.server("emit", "still here", namespace="/chat")
            for client in leaving:
                await client.has(["still here"], namespace="/chat")
        await a.server("disconnect", staying[1].sid)
        await until(lambda: _gone(staying[1]))
        assert await b.manager("clients") == [staying[0].sid]


async def _closed(client: RealClient) -> bool:
    return not client.connected


async def _nobody(node: RemoteNode, namespace: str) -> bool:
    return await node.manager("clients", namespace=namespace) == []


async def test_servers_talk_to_each_other(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        await b.hooks("take", "heard")
        await a.manager("server_side_emit", "who", 1, {"b": b"\0"})
        assert await a.manager("server_side_call", "who", "x" * 9_000) == [[b.name, "x" * 9_000]]
        assert await b.hooks("take", "heard") == [["who", 1, {"b": b"\0"}], ["who", "x" * 9_000]]
        assert await a.manager("server_side_call", "unheard") == [None]
        answers = await a.manager("custom_request", {"q": b"\0"})
        assert answers == [[a.name, {"q": b"\0"}], [b.name, {"q": b"\0"}]]
        with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
            await a.manager("server_side_call", "stall", timeout=0.3)
        assert caught.value.missing == [await b.manager("uid")]


async def test_what_a_manager_tells_of_itself(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        assert await a.manager("status") == "connected"
        assert await a.manager("prefix") == a.process.options["prefix"]
        assert await a.manager("requests_timeout") == 10.0
        assert 0 < await a.manager("ping") < 5
        before = await a.manager("stats")
        there = await b.client()
        await a.hooks("emit_many", 10, 2, 9_000)
        await a.manager("flush")
        after = await a.manager("stats")
        assert after["sent"] - before["sent"] >= 10
        assert after["batches"] > before["batches"]
        assert after["nodes"] == 1
        # a heartbeat may be on its way at any moment
        await until(lambda: _is_idle(a))
        await until(lambda: _count(there, 10))


async def _is_idle(node: RemoteNode) -> bool:
    stats = await node.manager("stats")
    return bool(stats["queue_depth"] == 0)


async def _count(client: RealClient, count: int) -> bool:
    return len(client.log) >= count


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_300_events_arrive_in_order(pair: Pair, transport: str | None) -> None:
    async with connected(*pair) as (a, b):
        here, there = await a.client(transport), await b.client(transport)
        await a.hooks("emit_many", 300, 7, 9_000)
        expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        await there.has(*expected)
        await here.has(*expected)


async def test_both_nodes_send_at_once_each_in_its_order(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        clients = [await a.client(), await b.client()]
        async with anyio.create_task_group() as tg:
            tg.start_soon(a.hooks, "emit_many", 200, 7, 9_000, "from a")
            tg.start_soon(b.hooks, "emit_many", 200, 5, 8_500, "from b")
        for client in clients:
            await until(lambda client=client: _count(client, 400))
            for event in ("from a", "from b"):
                numbers = [n for name, n, _ in client.events() if name == event]
                assert numbers == list(range(200))


async def test_100_identical_events_arrive_100_times(pair: Pair) -> None:
    async with connected(*pair) as (a, b):
        here, there = await a.client(), await b.client("polling")
        await a.hooks("emit_same", 100)
        await a.server("emit", "last")
        for client in (here, there):
            await client.has(*[["same", {"always": "the same"}]] * 100, ["last"])


@pytest.mark.parametrize(
    ("own_pair", "stopped", "number", "code"),
    [
        ("stock", 0, signal.SIGTERM, 0),
        ("stock", 0, signal.SIGINT, 0),
        # so does every application that uvicorn itself runs: it passes the signal on
        ("stock", 1, signal.SIGTERM, -signal.SIGTERM),
        ("stock", 1, signal.SIGINT, 0),
        ("anyio", 0, signal.SIGINT, 0),
        ("anyio", 1, signal.SIGINT, 0),
    ],
    ids=["block-term", "block-int", "lifespan-term", "lifespan-int", "asyncio-int", "trio-int"],
    indirect=["own_pair"],
)
async def test_a_stopped_node_is_gone_at_once(
    own_pair: Pair, uri: str, stopped: int, number: signal.Signals, code: int
) -> None:
    other, leaver = own_pair[1 - stopped], own_pair[stopped]
    async with connected(leaver, other) as (a, b):
        clients = [await a.client(transport) for transport in TRANSPORTS]
        there = await b.client()
        assert len(sessions(uri, leaver.name)) == 2
        await a.hooks("emit_many", 50, 7, 9_000)
        leaver.signal(number)
        assert await leaver.wait_ended(10) == code, leaver.log
        await until(lambda: b.knows_others(0))
        await until(lambda: _no_sessions(uri, leaver.name))
        assert await b.manager("clients") == [there.sid]
        for client in clients:
            await until(lambda client=client: _closed(client))
        await until(lambda: _count(there, 50))
        assert (await b.manager("stats"))["lost"] == 0
        assert "Traceback" not in leaver.log, leaver.log


async def _no_sessions(uri: str, name: str) -> bool:
    return sessions(uri, name) == []


@pytest.mark.parametrize("style", PAIRS["anyio"])
async def test_a_client_between_two_polls_is_told_of_the_end(
    uri: str, prefix: str, style: str
) -> None:
    (process,) = started(uri, prefix, [style])
    try:
        async with (
            connected(process, others=0) as (node,),
            aiohttp.ClientSession(process.url) as http,
        ):
            polling = "/socket.io/?EIO=4&transport=polling"
            handshake = json.loads((await _text(http.get(polling)))[1:])
            session = f"{polling}&sid={handshake['sid']}"
            assert await _text(http.post(session, data="40")) == "ok"
            assert (await _text(http.get(session))).startswith("40{")
            await node.server("emit", "last")
            process.signal(signal.SIGTERM)
            await until(lambda: _refuses(http, polling))
            assert await _text(http.get(session)) == '42["last"]\x1e1'
            # it would wait 30 s for a goodbye that nobody takes
            assert await process.wait_ended(15) == 0, process.log
    finally:
        process.end()


async def _text(request: Any) -> str:
    async with request as response:
        text: str = await response.text()
        assert response.status == 200, text
        return text


async def _refuses(http: aiohttp.ClientSession, path: str) -> bool:
    # no handshake: the end would wait for a session that it opened
    async with http.post(path) as response:
        return response.status == 503


async def test_a_node_that_was_killed_is_not_waited_for(fast_pair: Pair) -> None:
    async with connected(*fast_pair) as (a, b):
        here = await a.client()
        result: list[Any] = []

        async def call() -> None:
            result.append(await a.manager("server_side_call", "stall", timeout=60.0))

        async def stalls() -> bool:
            return ["stall"] in await b.hooks("heard")

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(call)
                await until(stalls)
                fast_pair[1].signal(signal.SIGKILL)
        assert result == [[]]
        await until(lambda: a.knows_others(0))
        assert await a.manager("clients") == [here.sid]
