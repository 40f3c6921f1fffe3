"""A stock server and AnyIO servers on asyncio and on Trio in one cluster, and real clients."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from harness import FAST, sessions
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

STYLES = ["block", "asyncio", "trio"]
TRANSPORTS = ["websocket", "polling", None]
Cluster = list[NodeProcess]


@pytest.fixture
def anyio_backend() -> str:
    # python-socketio's client is made for asyncio
    return "asyncio"


@pytest.fixture(scope="module")
def shared(postgres: Any) -> Iterator[Cluster]:
    """One node of each kind for the whole module, with nothing to complain of at the end."""
    cluster = started(postgres.uri, "mixed", STYLES, requests_timeout=10.0)
    yield cluster
    stop_in_peace(cluster)


def first(style: str, processes: Cluster) -> Cluster:
    return sorted(processes, key=lambda process: process.style != style)


@pytest.fixture(params=STYLES)
def cluster(request: pytest.FixtureRequest, shared: Cluster) -> Cluster:
    """The three nodes, the one that acts first: each operation is tried from each kind."""
    return first(request.param, shared)


@pytest.fixture(params=STYLES)
def own_cluster(request: pytest.FixtureRequest, uri: str, prefix: str) -> Iterator[Cluster]:
    """Three nodes of the test's own, the one that the test may end first.

    One that is merely silent is given up late, and a request waits for it as long.
    """
    processes = started(uri, prefix, STYLES, requests_timeout=60, heartbeat_timeout=90)
    yield first(request.param, processes)
    for process in processes:
        process.end()


@pytest.fixture(params=STYLES)
def fast_cluster(request: pytest.FixtureRequest, uri: str, prefix: str) -> Iterator[Cluster]:
    """As own_cluster, with heartbeats that find a dead node in about a second."""
    processes = started(uri, prefix, STYLES, requests_timeout=60, **FAST)
    yield first(request.param, processes)
    for process in processes:
        process.end()


def one_way(node: int) -> str | None:
    """A transport for a client of the node; together, the nodes' clients use all of them."""
    return TRANSPORTS[node % len(TRANSPORTS)]


async def one_each(nodes: list[RemoteNode], **options: Any) -> list[RealClient]:
    return [await node.client(one_way(n), **options) for n, node in enumerate(nodes)]


def sids(*clients: RealClient) -> list[str]:
    return sorted(client.sid for client in clients)


async def gone(client: RealClient, namespace: str = "/") -> bool:
    return not client.in_namespace(namespace)


async def closed(client: RealClient) -> bool:
    return not client.connected


async def test_events_reach_every_client_over_every_transport(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        clients = [await node.client(transport) for node in nodes for transport in TRANSPORTS]
        acting = nodes[0]
        data: list[Any] = [
            None,
            {"text": "hällo \U0001f600"},
            [1, [2], None],
            b"\0\xff" * 10,
            "x" * 120_000,
            {"a": b"1", "b": [b"2" * 9_000, "c"]},
        ]
        for value in data:
            await acting.server("emit", "greet", value)
            await acting.manager("emit", "greet", value)
        expected = [["greet"] if value is None else ["greet", value] for value in data]
        for client in clients:
            await client.has(*[event for event in expected for _ in range(2)])


async def test_events_to_rooms_and_clients(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        both = await one_each(nodes, rooms=("red", "blue"))
        red = await one_each(nodes, rooms=("red",))
        out = await one_each(nodes, rooms=("out",))
        await acting.server("emit", "one", room="red")
        await acting.server("emit", "two", to=["red", "blue"])
        await acting.server("emit", "three", to="red", skip_sid=both[1].sid)
        await acting.server("emit", "four", skip_sid=sids(*red))
        await acting.manager("emit", "five", except_rooms=["blue", "out"])
        for n, client in enumerate(out):
            await acting.server("emit", "six", n, to=client.sid)
            await acting.manager("emit", "seven", n, to=[client.sid, red[n].sid])
        await acting.manager("emit", "eight", local=True)
        await acting.server("emit", "last")
        for n in range(3):
            here = [["eight"]] if n == 0 else []
            three = [["three"]] if n != 1 else []
            await both[n].has(["one"], ["two"], *three, ["four"], *here, ["last"])
            await red[n].has(
                *(["one"], ["two"], ["three"], ["five"], ["seven", n]), *here, ["last"]
            )
            await out[n].has(["four"], ["six", n], ["seven", n], *here, ["last"])


async def test_namespaces_are_apart(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting, others = nodes[0], nodes[1:]
        clients = await one_each(nodes, namespaces=("/", "/chat"))
        await acting.server("emit", "talk", {"n": b"1"}, namespace="/chat")
        await acting.server("emit", "last")
        await acting.server("emit", "last", namespace="/chat")
        for client in clients:
            await client.has(["last"])
            await client.has(["talk", {"n": b"1"}], ["last"], namespace="/chat")
        answers = await acting.manager("server_side_call", "who", 1, namespace="/chat")
        assert sorted(answers) == sorted([node.name, "/chat", 1] for node in others)
        in_chat = clients[1].client.namespaces["/chat"]
        await acting.manager("remote_disconnect", in_chat, namespace="/chat")
        await until(lambda: gone(clients[1], "/chat"))
        assert clients[1].in_namespace("/")
        assert len(await acting.manager("clients", namespace="/chat")) == 2


async def test_callbacks_and_calls(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        clients = [await node.client(transport) for node in nodes for transport in TRANSPORTS]
        for n, client in enumerate(clients):
            client.answers["ask"] = (n, {"binary": b"\0\xff"})
            client.answers["big"] = str(n) * 120_000
        await acting.hooks("take", "answers")
        await acting.hooks("ask", "ask", {"q": b"?"})
        await acting.hooks("ask", "ask", to=clients[-1].sid)

        async def answered() -> bool:
            return len(await acting.hooks("answers")) == len(clients) + 1

        await until(answered)
        answers = await acting.hooks("take", "answers")
        numbers = [*range(len(clients)), len(clients) - 1]
        assert sorted(answers, key=str) == [[n, {"binary": b"\0\xff"}] for n in numbers]
        for n, client in enumerate(clients):
            answer = await acting.server("call", "ask", to=client.sid)
            assert answer == [n, {"binary": b"\0\xff"}]
        for n in (0, 4, 8):
            assert await acting.server("call", "big", to=clients[n].sid) == str(n) * 120_000
        assert await acting.server("call", "unheard", to=clients[-1].sid) is None
        with pytest.raises(RemoteError, match="TimeoutError"):
            await acting.server("call", "ask", to="nobody", timeout=0.1)


async def test_emit_with_ack(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        clients = await one_each(nodes, rooms=("r",))
        silent = await nodes[1].client(rooms=("silent",))
        silent.client.on("ask", _never)
        answers: list[Any] = [("one", "two"), b"\0binary", "x" * 120_000]
        for client, answer in zip(clients, answers, strict=True):
            client.answers["ask"] = answer
        came = await acting.manager("emit_with_ack", "ask", {"q": b"?"}, to="r")
        expected = [["one", "two"], b"\0binary", "x" * 120_000]
        assert sorted(came, key=str) == sorted(expected, key=str)
        came = await acting.manager("emit_with_ack", "ask", to="r", except_rooms=clients[2].sid)
        assert sorted(came, key=str) == sorted(expected[:2], key=str)
        for client, answer in zip(clients, expected, strict=True):
            assert await acting.manager("emit_with_ack", "ask", to=client.sid) == [answer]
        assert await acting.manager("emit_with_ack", "ask", to="nowhere") == []
        with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
            await acting.manager("emit_with_ack", "ask", timeout=3)
        assert sorted(caught.value.partial, key=str) == sorted(expected, key=str)
        assert caught.value.missing == [await nodes[1].manager("uid")]


async def _never(*_: Any) -> None:
    await anyio.sleep_forever()


async def test_fetch_sockets(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        clients = await one_each(
            nodes,
            rooms=("r",),
            query="?a=1&b=2&b=3",
            headers={"X-Test": "hällo"},
            auth={"token": "t"},
        )
        for n, (node, client) in enumerate(zip(nodes, clients, strict=True)):
            await node.server("save_session", client.sid, {"number": n, "picture": b"\0png"})
        sockets = {s["id"]: s for s in await acting.manager("fetch_sockets")}
        assert sorted(sockets) == sids(*clients)
        for n, (node, client) in enumerate(zip(nodes, clients, strict=True)):
            found = sockets[client.sid]
            # each node describes its own sockets as all the others see them
            assert await node.manager("fetch_sockets", local=True) == [found]
            assert found["rooms"] == sorted([client.sid, "r"])
            assert found["data"] == {"number": n, "picture": b"\0png"}
            shown = found["handshake"]
            assert shown["auth"] == {"token": "t"}
            query = {"a": "1", "b": "3", "transport": one_way(n) or "polling", "EIO": "4"}
            assert query.items() <= shown["query"].items()
            # UTF-8 that is read as Latin-1, as Node shows it
            assert shown["headers"]["x-test"] == "hÃ¤llo"
            assert shown["headers"]["host"] in node.process.url
            assert shown["address"] == "127.0.0.1"
            assert shown["url"].startswith("/socket.io/?a=1&b=2&b=3&")
            assert (shown["secure"], shown["xdomain"]) == (False, False)
            assert abs(shown["issued"] / 1_000 - time.time()) < 60
        for target, expected in (
            ({"to": clients[2].sid}, clients[2:]),
            ({"to": ["r", "s"], "except_rooms": clients[0].sid}, clients[1:]),
            ({"to": "nowhere"}, []),
        ):
            found_sids = [s["id"] for s in await acting.manager("fetch_sockets", **target)]
            assert sorted(found_sids) == sids(*expected)


async def test_clients_and_rooms(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        clients = await one_each(nodes, rooms=("r",))
        for node, client in zip(nodes, clients, strict=True):
            await node.server("enter_room", client.sid, f"of {node.process.style}")
        everyone = sids(*clients)
        own_rooms = [f"of {node.process.style}" for node in nodes]
        assert await acting.manager("clients") == everyone
        assert await acting.manager("clients", own_rooms) == everyone
        for client, room in zip(clients, own_rooms, strict=True):
            assert await acting.manager("clients", room) == [client.sid]
            rooms = sorted([client.sid, "r", room])
            assert await acting.manager("client_rooms", client.sid) == rooms
        assert await acting.manager("all_rooms") == sorted([*everyone, "r", *own_rooms])
        # the server's own methods, for clients of all nodes
        for client in clients:
            await acting.server("enter_room", client.sid, "t")
        # the answers to the same node's next request show it done on every node
        assert await acting.manager("clients", "t") == everyone
        assert await nodes[1].manager("clients", "t") == everyone
        await acting.server("leave_room", clients[2].sid, "t")
        assert await acting.manager("clients", "t") == sids(*clients[:2])
        await acting.server("close_room", "r")
        # the acting node is the first to ask, so that the others are done when they do
        for node in nodes:
            assert await node.manager("clients", "r") == []


async def test_join_and_leave(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        clients = await one_each(nodes)
        other = await nodes[2].client(rooms=("out",))
        await acting.manager("sockets_join", ["r", "s"], except_rooms="out")
        await acting.manager("sockets_leave", "s", to=[clients[0].sid, clients[1].sid])
        assert await acting.manager("clients", "r") == sids(*clients)
        for node in nodes:
            assert await node.manager("clients", "s") == [clients[2].sid]
        assert await acting.manager("client_rooms", other.sid) == sorted([other.sid, "out"])
        await acting.manager("sockets_leave", ["r", "s"])
        assert await acting.manager("clients", ["r", "s"]) == []
        for node, client in zip(nodes, clients, strict=True):
            await acting.manager("remote_join", client.sid, "far")
            assert sorted(await node.server("rooms", client.sid)) == sorted([client.sid, "far"])
            await acting.manager("remote_leave", client.sid, "far")
            assert await node.server("rooms", client.sid) == [client.sid]
        for call in ("remote_join", "remote_leave"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await acting.manager(call, "nobody", "r")


@pytest.mark.parametrize("close", [False, True])
async def test_disconnect_sockets(cluster: Cluster, close: bool) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting = nodes[0]
        for node in nodes:
            await node.hooks("take", "left")
        leaving = [
            await node.client(transport, rooms=("r",), namespaces=("/", "/chat"))
            for node in nodes
            for transport in TRANSPORTS
        ]
        # no pollers: the stock server keeps the poll of a client that has given it up
        staying = [await node.client() for node in nodes]
        await acting.manager("disconnect_sockets", to="r", close=close)
        for client in leaving:
            await until(lambda client=client: gone(client))
        assert await acting.manager("clients") == sids(*staying)
        if close:
            for client in leaving:
                await until(lambda client=client: closed(client))
            for node in nodes:
                await until(lambda node=node: nobody(node, "/chat"))
        else:
            await acting.server("emit", "still here", namespace="/chat")
            for client in leaving:
                await client.has(["still here"], namespace="/chat")
        left: list[Any] = []
        for node in nodes:
            left += await node.hooks("take", "left")
        assert len(left) == len(leaving)
        assert {reason for _, reason in left} == {"server disconnect"}
        # the server's own method, for a client of another node
        await acting.server("disconnect", staying[1].sid)
        await until(lambda: gone(staying[1]))
        here, last = staying[0].sid, staying[2].sid
        await acting.manager("remote_disconnect", last, close)
        assert await nodes[2].manager("fetch_sockets", local=True) == []
        await until(lambda: gone(staying[2]))
        await until(lambda: has_clients(nodes[1], here))
        for call in ("remote_disconnect", "client_rooms"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await acting.manager(call, last)


async def no_sessions(uri: str, name: str) -> bool:
    return sessions(uri, name) == []


async def nobody(node: RemoteNode, namespace: str) -> bool:
    return await node.manager("clients", namespace=namespace) == []


async def has_clients(node: RemoteNode, *expected: str) -> bool:
    return await node.manager("clients") == sorted(expected)


async def test_servers_talk_to_each_other(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        acting, others = nodes[0], nodes[1:]
        for node in nodes:
            await node.hooks("take", "heard")
        await acting.manager("server_side_emit", "who", 1, {"b": b"\0"})
        answers = await acting.manager("server_side_call", "who", "x" * 9_000)
        assert sorted(answers) == sorted([node.name, "x" * 9_000] for node in others)
        heard = [["who", 1, {"b": b"\0"}], ["who", "x" * 9_000]]
        for node in others:
            assert await node.hooks("take", "heard") == heard
        assert await acting.hooks("take", "heard") == []
        assert await acting.manager("server_side_call", "unheard") == [None, None]
        for question in ({"q": b"\0"}, "x" * 120_000):
            answers = await acting.manager("custom_request", question)
            assert sorted(answers, key=str) == sorted(
                ([node.name, question] for node in nodes), key=str
            )
        # one of the two does not answer
        with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
            await acting.manager("server_side_call", "stall", others[1].name, timeout=3)
        assert caught.value.partial == [[others[0].name]]
        assert caught.value.missing == [await others[1].manager("uid")]


async def test_all_send_at_once_each_in_its_order(shared: Cluster) -> None:
    async with connected(*shared, others=2) as nodes:
        clients = [await node.client(transport) for node in nodes for transport in TRANSPORTS]
        lost = [(await node.manager("stats"))["lost"] for node in nodes]
        async with anyio.create_task_group() as tg:
            for node in nodes:
                tg.start_soon(node.hooks, "emit_many", 300, 7, 9_000, node.name)
        expected = [[n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        for client in clients:
            await until(lambda client=client: count(client, 900))
            for node in nodes:
                came = [args for name, *args in client.events() if name == node.name]
                assert came == expected
        assert [(await node.manager("stats"))["lost"] for node in nodes] == lost


async def count(client: RealClient, number: int) -> bool:
    return len(client.log) >= number


async def test_300_events_arrive_in_order(cluster: Cluster) -> None:
    async with connected(*cluster, others=2) as nodes:
        clients = await one_each(nodes[1:])
        clients.append(await nodes[0].client("polling"))
        await nodes[0].hooks("emit_many", 300, 7, 9_000)
        expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        for client in clients:
            await client.has(*expected)


async def request(
    results: dict[str, Any], node: RemoteNode, name: str, *args: Any, **kwargs: Any
) -> None:
    """Note what a request returns, which must not be the end of its timeout."""
    results[f"{name} by {node.process.style}"] = await node.manager(name, *args, **kwargs)


async def test_a_terminated_node_is_gone_at_once(own_cluster: Cluster, uri: str) -> None:
    leaver = own_cluster[0]
    async with connected(*own_cluster, others=2) as nodes:
        leaving, staying = nodes[0], nodes[1:]
        clients = [await leaving.client(transport) for transport in TRANSPORTS]
        # the stock server's pollers are told nothing, and their handlers run when all has ended
        stock = leaver.style == "block"
        watched = [
            await leaving.client(transport, namespaces=("/", "/presence"))
            for transport in TRANSPORTS
            if transport != "polling" or not stock
        ]
        absent = [client.client.namespaces["/presence"] for client in watched]
        clients[0].client.on("ask", _never)
        others = [await node.client() for node in staying]
        for other in others:
            other.answers["ask"] = "answer"
        # that the others do not answer this one must not hold it up
        await leaving.hooks("stall_others")
        results: dict[str, Any] = {}
        async with anyio.create_task_group() as tg:
            for node in staying:
                tg.start_soon(request, results, node, "server_side_call", "stall", leaver.name)
                tg.start_soon(request, results, node, "emit_with_ack", "ask")
            await until(lambda: heard(leaving, ["stall", leaver.name], 2))
            for client in clients[1:] + watched:
                await until(lambda client=client: count(client, 2))
                # its acknowledgements came before this
                assert await client.client.call("echo") is None
            for node in staying:
                await until(lambda node=node: heard(node, ["stall"], 1))
            await leaving.hooks("emit_many", 50, 7, 9_000)
            leaver.signal(signal.SIGTERM)
            # an AnyIO server would wait 30 s for a client that does not take its goodbye
            assert await leaver.wait_ended(15) == 0, leaver.log
            with anyio.fail_after(20):
                for node in staying:
                    await until(lambda node=node: node.knows_others(1))
                await until(lambda: done(results, 4))
        for node, other in zip(staying, staying[::-1], strict=True):
            assert results[f"server_side_call by {node.process.style}"] == [[other.name]]
            answers = results[f"emit_with_ack by {node.process.style}"]
            unanswered = [None] * (len(clients) - 1 + len(watched))
            assert sorted(answers, key=str) == [*unanswered, *["answer"] * 2]
        await until(lambda: no_sessions(uri, leaver.name))
        assert len(sessions(uri, leaver.options["prefix"])) == 4
        for client in clients + watched:
            await until(lambda client=client: closed(client))
        reason = "transport close" if stock else "server disconnect"
        for node in staying:
            for sid in absent:
                await until(lambda node=node, sid=sid: heard(node, ["left", sid, reason], 1))
        assert await staying[0].manager("clients") == sids(*others)
        for node, other in zip(staying, others, strict=True):
            await until(lambda other=other: count(other, 52))
            assert (await node.manager("stats"))["lost"] == 0
        assert "Traceback" not in leaver.log, leaver.log
    stop_in_peace(own_cluster[1:])


async def heard(node: RemoteNode, what: list[Any], number: int) -> bool:
    return (await node.hooks("heard")).count(what) == number


async def done(results: dict[str, Any], number: int) -> bool:
    return len(results) == number


async def test_a_killed_node_is_not_waited_for(fast_cluster: Cluster, uri: str) -> None:
    killed = fast_cluster[0]
    async with connected(*fast_cluster, others=2) as (dying, *staying):
        here = [await node.client(rooms=("r",)) for node in staying]
        for client in here:
            client.answers["ask"] = "answer"
        there = await dying.client(rooms=("r",))
        both = sids(*here)
        results: dict[str, Any] = {}
        killed.signal(signal.SIGSTOP)
        async with anyio.create_task_group() as tg:
            for node in staying:
                for name in ("fetch_sockets", "clients", "all_rooms"):
                    tg.start_soon(request, results, node, name)
                tg.start_soon(request, results, node, "server_side_call", "who")
                tg.start_soon(request, results, node, "custom_request", "x" * 9_000)
                tg.start_soon(request, results, node, "emit_with_ack", "ask", "x" * 9_000)
            # the last requests have arrived, so that all are pending
            for client in here:
                await until(lambda client=client: count(client, 2))
            assert not results
            killed.signal(signal.SIGKILL)
            # each request would wait for 60 s
            with anyio.fail_after(20):
                await until(lambda: done(results, 12))
        for node, other in zip(staying, staying[::-1], strict=True):
            style = node.process.style
            assert results[f"server_side_call by {style}"] == [[other.name]]
            answers = sorted(results[f"custom_request by {style}"])
            assert answers == sorted([name, "x" * 9_000] for name in (node.name, other.name))
            assert results[f"emit_with_ack by {style}"] == ["answer"] * 2
            assert sorted(s["id"] for s in results[f"fetch_sockets by {style}"]) == both
            assert results[f"clients by {style}"] == both
            assert results[f"all_rooms by {style}"] == sorted([*both, "r"])
            await until(lambda node=node: node.knows_others(1))
            await node.server("emit", "last")
        await until(lambda: no_sessions(uri, killed.name))
        asked = ["ask", "x" * 9_000]
        for client in here:
            await client.has(asked, asked, ["last"], ["last"])
        await until(lambda: closed(there))
