"""Node servers with the npm package 1.x, a stock server and an AnyIOServer on Trio in one cluster.

Node's are ``socket.io-adapter-postgres`` 1.2.1 with ``socket.io`` 2.2 (and ``pg`` 8). The tests'
comments say where it behaves otherwise than ours.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import pytest

from harness import eventually
from interop.clients import node_process
from interop.legacy_cluster import (
    LEGACY_CLIENT,
    Client,
    Cluster,
    NodeServer,
    PythonServer,
    Server,
    database,
    node_server,
    python_server,
    sids,
    unordered,
)
from processes import RemoteError, until

pytestmark = pytest.mark.anyio

NODES = ["node", "node2"]
OURS = ["stock", "trio"]
NAMES = [*NODES, *OURS]
ODD = '\0\U0001f600#"/ü'
"""A room's name."""


@pytest.fixture(scope="module")
def uri(postgres: Any) -> Any:
    with database(postgres, "legacy") as uri:
        yield uri


@pytest.fixture(scope="module")
async def cluster(uri: str) -> AsyncIterator[Cluster]:
    """One cluster for the whole module; its servers have nothing to complain of at the end."""
    prefix = "with-node"
    async with AsyncExitStack() as stack:
        open_ = stack.enter_async_context
        javascript = await open_(node_process())
        legacy_javascript = await open_(node_process(LEGACY_CLIENT))
        servers: dict[str, Server] = {}
        for name in NODES:
            servers[name] = await open_(node_server(uri, prefix, name, ["/chat", "/"]))
        for name, style in (("stock", "block"), ("trio", "trio")):
            servers[name] = await open_(python_server(uri, prefix, style, name))
        cluster = Cluster(uri, prefix, servers, javascript, legacy_javascript)
        await until(lambda: cluster.acquainted(4))
        yield cluster
        for name in OURS:
            stats = await cluster.ours(name).manager("stats")
            faults = ("lost", "garbage", "repeated", "dropped", "reconnects")
            assert {fault: stats[fault] for fault in faults} == dict.fromkeys(faults, 0)


@pytest.fixture(scope="module")
async def other(uri: str, cluster: Cluster) -> AsyncIterator[Cluster]:
    """Another cluster in the same database; its Node server is counted in "/chat" only."""
    prefix = 'other "prefix"'
    async with (
        node_server(uri, prefix, "node", ["/", "/chat"]) as node,
        python_server(uri, prefix, "block", "stock") as stock,
    ):
        servers: dict[str, Server] = {"node": node, "stock": stock}
        other = Cluster(uri, prefix, servers, cluster.javascript, cluster.legacy_javascript)

        async def acquainted() -> bool:
            return await node.nodes("/chat") == 2 and len(await stock.custom_request("who")) == 2

        await until(acquainted)
        yield other


@pytest.fixture(params=["node", *OURS])
def sender(request: pytest.FixtureRequest, cluster: Cluster) -> Server:
    """The server that acts: each operation is tried from each."""
    return cluster[request.param]


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest, cluster: Cluster) -> PythonServer:
    return cluster.ours(request.param)


ARGUMENTS: list[list[Any]] = [
    [],
    [None],
    [1, "two", None, [3, [4, {}]], {"five": 5.5, "six": [True, None]}, -(2**40), 2**53],
    ["\0 and \U0001f600, \u2028, häl\0lo\0", {"\0": "\U0001f600"}],
    [b"\0\xff", {"a": b"1", "b": [b"2" * 9_000, {"c": b""}]}, "text"],
    ["x" * 40_000],
    ['\U0001f600"\\' * 10_000, b"\xff" * 40_000],
    ["\U0001f600" * 75_000],
    [{"all": [b"\xfe" * 300_000]}, 1],
]


@pytest.mark.parametrize("namespace", ["/", "/chat"])
async def test_events_reach_every_client(cluster: Cluster, sender: Server, namespace: str) -> None:
    async with cluster.clients("/", "/chat") as clients:
        events = [[f"event {n}", *args] for n, args in enumerate(ARGUMENTS)]
        for event in events:
            await sender.emit(*event, namespace=namespace)
        other = "/" if namespace == "/chat" else "/chat"
        await sender.emit("other", namespace=other)
        for client in clients:
            await client.has(events, namespace)
            await client.has([["other"]], other)


async def test_events_to_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        first, second = clients[:4], clients[4:]
        for client in clients:
            await client.server.join(client.sid, "all")
            await client.server.join(client.sid, "red" if client in first else ODD)
        here = [client for client in clients if client.server is sender]
        mine, far = here[0], [client for client in first if client.server is not sender]
        sent: list[tuple[str, dict[str, Any], list[Client]]] = [
            ("room", {"to": ["red"]}, first),
            ("odd room", {"to": [ODD]}, second),
            ("rooms", {"to": ["red", "all", ODD]}, clients),
            ("sid", {"to": [far[0].sid]}, [far[0]]),
            ("other sid", {"to": [far[1].sid]}, [far[1]]),
            ("own sid", {"to": [mine.sid]}, [mine]),
            ("sids", {"to": [far[2].sid, mine.sid, "nobody"]}, [far[2], mine]),
            ("nobody", {"to": ["nowhere"]}, []),
            ("local", {"local": True}, here),
            ("local room", {"to": ["red"], "local": True}, [mine]),
        ]
        for name, where, _ in sent:
            await sender.emit(name, *ARGUMENTS[4], **where)
        others = [client for client in clients if client is not mine]
        but: list[tuple[str, dict[str, Any], list[Client]]] = [
            ("but", {}, others),
            ("but in room", {"to": ["red"]}, far),
            ("but in rooms", {"to": ["red", "all"]}, others),
        ]
        for name, where, _ in but:
            await sender.emit_but(mine.sid, name, "x" * 9_000, **where)
        await sender.emit("last")
        for client in clients:
            events = [[name, *ARGUMENTS[4]] for name, _, reached in sent if client in reached]
            events += [[name, "x" * 9_000] for name, _, reached in but if client in reached]
            await client.has([*events, ["last"]])


async def test_skipped_clients_of_others(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        for client in clients:
            await client.server.join(client.sid, "r")
        for n, client in enumerate(clients):
            await ours.emit(f"but {n}", skip_sid=client.sid)
        out = clients[1:6]
        await ours.emit("but five", skip_sid=sids(out), to=["r", "s"])
        for n, client in enumerate(clients):
            events = [[f"but {m}"] for m in range(len(clients)) if m != n]
            await client.has([*events, ["but five"]] if client not in out else events)
        await ours.emit("last")
        for client in out:
            await eventually(lambda client=client: client.events()[-1] == ["last"])
            assert ["but five"] not in client.events()


async def test_rooms_of_a_namespace(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients("/", "/chat") as clients:
        for client in clients:
            await client.server.join(client.sid, "r")
        inside = clients[:6]
        for client in inside:
            await client.server.join(client.sids["/chat"], "r", "/chat")
        await sender.emit("in chat", b"1", to=["r"], namespace="/chat")
        far = next(client for client in inside if client.server is not sender)
        await sender.emit("sid", to=[far.sids["/chat"]], namespace="/chat")
        await sender.emit("last", namespace="/chat")
        await sender.emit("last")
        for client in clients:
            room = [["in chat", b"1"]] if client in inside else []
            sid = [["sid"]] if client is far else []
            await client.has([*room, *sid, ["last"]], "/chat")
            await client.has([["last"]])


@pytest.mark.parametrize("room", [None, "r" * 60])
async def test_sizes_around_the_limit(cluster: Cluster, sender: Server, room: str | None) -> None:
    async with cluster.clients() as clients:
        where: dict[str, Any] = {}
        if room is not None:
            where["to"] = [room]
            for client in clients:
                await client.server.join(client.sid, room)
        events = [["size", "x" * size] for size in range(5_840, 6_000, 2)]
        if sender is cluster.node():
            for event in events:
                await sender.emit(*event, **where)
            failures = await cluster.node().run("take_failures")
            assert set(failures) == {"payload string too long"}
            # it counts the characters of MESSAGE, and PostgreSQL the bytes of the whole: what is
            # between the two arrives nowhere
            assert 0 < len(failures) < 40
        else:
            await cluster.ours(sender.name).hooks("emit_burst", events, **where)
            failures = []
        for client in clients:
            if client.server is sender or not failures:
                await client.has(events)
                continue
            expected = len(events) - len(failures)
            await eventually(lambda c=client, e=expected: len(c.events()) >= e)
            first = next(n for n, event in enumerate(events) if client.events()[n] != event)
            assert client.events() == events[:first] + events[first + len(failures) :]


async def test_rooms_with_long_names(cluster: Cluster, ours: PythonServer) -> None:
    # as CHANNEL would hold the room and is not cut, Node could not send to it
    names = ["r" * 7_900, "r" * 9_000, "\U0001f600" * 3_000]
    async with cluster.clients() as clients:
        for name in names:
            for client in clients:
                await client.server.join(client.sid, name)
            await ours.emit("room", len(name), to=[name])
            await ours.emit("large", "x" * 20_000, to=[name])
        for client in clients:
            await client.has(
                event for name in names for event in (["room", len(name)], ["large", "x" * 20_000])
            )


async def test_values_of_javascript(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        await cluster.node().run("emit_javascript")
        await cluster.node().run("emit_buffers", sizes=[1, 2, 4, 8, 16, 300, 70_000])
        numbers = [None, 0, 2**53, -(2**40)]
        times = ["2001-09-09T01:46:40.001Z", "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z"]
        expected = ["javascript", *times[:2], None, {"when": times[2:]}, None, numbers]
        buffers = [bytes([size % 256]) * size for size in (1, 2, 4, 8, 16, 300, 70_000)]
        for client in clients:
            await client.has([expected, ["buffers", *buffers]])


async def test_requests_about_clients(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        red, odd = clients[:3], clients[3:7]
        for client in red:
            await client.server.join(client.sid, "red")
        for client in odd:
            await client.server.join(client.sid, ODD)
        assert await sender.clients() == sids(clients)
        assert await sender.clients(["red"]) == sids(red)
        assert await sender.clients([ODD]) == sids(odd)
        assert await sender.clients(["red", ODD, "red", "nowhere"]) == sids([*red, *odd])
        assert await sender.clients([clients[7].sid]) == [clients[7].sid]
        assert await sender.clients(["nowhere"]) == []
        assert await sender.all_rooms() == sorted([*sids(clients), "red", ODD])
        for client in clients:
            room = ["red"] * (client in red) + [ODD] * (client in odd)
            assert await sender.client_rooms(client.sid) == sorted([client.sid, *room])


async def test_requests_that_change_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients("/", "/chat") as clients:
        for client in clients:
            await sender.remote_join(client.sid, ODD)
            # it has returned when it is done
            assert await client.server.rooms(client.sid) == sorted([client.sid, ODD])
            await sender.remote_join(client.sid, "x" * 20_000)
            await sender.remote_leave(client.sid, ODD)
            assert await client.server.rooms(client.sid) == sorted([client.sid, "x" * 20_000])
            sid = client.sids["/chat"]
            await sender.remote_join(sid, "r", namespace="/chat")
            assert await client.server.rooms(sid, "/chat") == sorted([sid, "r"])
            assert await sender.client_rooms(sid, namespace="/chat") == sorted([sid, "r"])
            await sender.remote_leave(sid, "r", namespace="/chat")
            assert await client.server.rooms(sid, "/chat") == [sid]
        assert await sender.all_rooms() == sorted([*sids(clients), "x" * 20_000])


@pytest.mark.parametrize("close", [False, True])
async def test_remote_disconnect(cluster: Cluster, sender: Server, close: bool) -> None:
    async with cluster.clients("/", "/chat") as clients:
        leaving, staying = clients[:4], clients[4:]
        for client in leaving:
            await sender.remote_disconnect(client.sid, close)
            assert client.sid not in await client.server.sids()
        for client in leaving:
            await eventually(lambda client=client: client.gone())
        assert await sender.clients() == sids(staying)
        if close:
            for client in leaving:
                await eventually(lambda client=client: client.gone("/chat"))
        await sender.emit("last", namespace="/chat")
        for client in staying if close else clients:
            await client.has([["last"]], "/chat")
            assert not client.gone("/chat")
        for client in staying:
            assert not client.gone()


# its pieces end within quotes and within surrogate pairs
CUT: list[str] = [n * "x" + 'abcde"\U0001f600' * 5_000 for n in range(9)]


@pytest.mark.parametrize(
    "data",
    [None, 0, "\0\U0001f600", {"q": [1, None, {"\0": ODD}]}, CUT],
    ids=["null", "zero", "text", "object", "large"],
)
async def test_custom_requests(cluster: Cluster, sender: Server, data: Any) -> None:
    for server in cluster.servers.values():
        await server.take_asked()
    for question in CUT if data is CUT else [data]:
        answers = await sender.custom_request(question)
        assert unordered(answers) == unordered([name, question] for name in NAMES)
        for server in cluster.servers.values():
            assert await server.take_asked() == [question]


async def test_custom_requests_that_node_could_not_send(
    cluster: Cluster, ours: PythonServer
) -> None:
    text = '"\U0001f600\\\0' * 10_000
    answers = await ours.custom_request(["measure", text])
    theirs = [[name, 50_000] for name in NODES]
    assert unordered(answers) == unordered([*theirs, *([name, ["measure", text]] for name in OURS)])


async def test_custom_requests_in_a_namespace(cluster: Cluster, ours: PythonServer) -> None:
    answers = await ours.custom_request({"q": ODD}, namespace="/chat")
    assert unordered(answers) == unordered([name, {"q": ODD}] for name in NAMES)


async def test_our_requests_in_a_namespace(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients("/", "/chat") as clients:
        for client in clients[:5]:
            await client.server.join(client.sids["/chat"], ODD, "/chat")
        assert await ours.clients(namespace="/chat") == sids(clients, "/chat")
        assert await ours.clients([ODD], namespace="/chat") == sids(clients[:5], "/chat")
        assert await ours.all_rooms(namespace="/chat") == sorted([*sids(clients, "/chat"), ODD])
        for client in clients[1:4]:
            sid = client.sids["/chat"]
            await ours.remote_disconnect(sid, False, namespace="/chat")
            assert sid not in await client.server.sids("/chat")
            await eventually(lambda client=client: client.gone("/chat"))
        staying = [clients[0], *clients[4:]]
        assert await ours.clients(namespace="/chat") == sids(staying, "/chat")
        assert await ours.clients() == sids(clients)


async def test_sockets_that_nobody_has(cluster: Cluster, ours: PythonServer) -> None:
    # long before the timeout of the requests, which is 15 s
    with anyio.fail_after(5):
        for call in ("client_rooms", "remote_disconnect"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await ours.manager(call, "nobody")
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await ours.manager(call, "/chat#nobody", namespace="/chat")
        for call in ("remote_join", "remote_leave"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await ours.manager(call, "nobody", "r")


async def test_our_calls_for_clients_of_others(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        manager, server = ours.manager, ours.server
        for client in clients:
            await server("enter_room", client.sid, "a")
            await server("enter_room", client.sid, "b")
            await server("leave_room", client.sid, "b")

        async def rooms_are(*rooms: str, of: list[Client] = clients) -> None:
            for client in of:
                expected = sorted([client.sid, *rooms])
                await until(lambda client=client, e=expected: _has_rooms(client, e))

        await rooms_are("a")
        await server("close_room", "a")
        await rooms_are()
        await manager("sockets_join", ["c", ODD])
        await rooms_are("c", ODD)
        await manager("sockets_leave", "c", to=sids(clients[2:]))
        await rooms_are(ODD, of=clients[2:])
        await rooms_are("c", ODD, of=clients[:2])
        await manager("sockets_join", "d", to=["c", "nowhere"])
        await rooms_are("c", "d", ODD, of=clients[:2])
        await manager("sockets_leave", ["c", "d", ODD])
        await rooms_are()
        await server("disconnect", clients[0].sid)
        await server("disconnect", clients[3].sid)
        await manager("disconnect_sockets", to=[clients[1].sid, clients[2].sid])
        for client in clients[:4]:
            await eventually(lambda client=client: client.gone())
        assert await ours.clients() == sids(clients[4:])
        await manager("disconnect_sockets", close=True)
        for client in clients[4:]:
            await eventually(lambda client=client: client.gone())
        assert await ours.clients() == []


async def _has_rooms(client: Client, expected: list[str]) -> bool:
    return await client.server.rooms(client.sid) == expected


async def test_our_calls_except_rooms(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        for client in clients[:5]:
            await client.server.join(client.sid, "r")
        out = clients[2]
        await ours.manager("sockets_join", "s", to="r", except_rooms=out.sid)
        inside = [client for client in clients[:5] if client is not out]
        for client in inside:
            await until(lambda client=client: _has_rooms(client, sorted([client.sid, "r", "s"])))
        await ours.manager("sockets_join", "t", except_rooms="r")
        for client in clients[5:]:
            await until(lambda client=client: _has_rooms(client, sorted([client.sid, "t"])))
        assert await out.server.rooms(out.sid) == sorted([out.sid, "r"])
        assert await ours.clients(["s"]) == sids(inside)
        assert await ours.clients(["t"]) == sids(clients[5:])


async def test_300_events_arrive_in_order(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        events = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        await sender.emit_burst(events)
        for client in clients:
            # Node publishes on ten connections at once, so that nobody can know its order
            await client.has(
                events, ordered=client.server is sender or not isinstance(sender, NodeServer)
            )


async def test_100_identical_events_arrive_100_times(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        event = ["same", {"always": "the same"}]
        await sender.emit_burst([event] * 100)
        # all that was sent before has come when this has
        await sender.emit("last")
        for client in clients:
            await client.has([*[event] * 100, ["last"]])


@pytest.mark.parametrize("style", ["node", "block", "trio"])
async def test_a_server_leaves_while_requests_are_pending(cluster: Cluster, style: str) -> None:
    async with cluster.joined(style) as leaver:
        results: dict[str, Any] = {}
        async with (
            cluster.clients(servers=[*cluster.servers.values(), leaver]) as clients,
            anyio.create_task_group() as tasks,
        ):
            for server in cluster.servers.values():
                await server.take_asked()
            await leaver.take_asked()

            async def ask(name: str) -> None:
                results[name] = await cluster.ours(name).custom_request(["stall", leaver.name])

            for name in OURS:
                tasks.start_soon(ask, name)
            for server in (*cluster.servers.values(), leaver):
                await until(partial(_asked, server, ["stall", leaver.name], []))
            assert results == {}
            await leaver.leave()
            # of a server that is merely silent the answers would be waited for, for 15 s
            await eventually(lambda: len(results) == 2, 3)
            for answers in results.values():
                assert unordered(answers) == [[name, ["stall", "another"]] for name in NAMES]
            staying = [client for client in clients if client.server is not leaver]
            for server in cluster.servers.values():
                assert await server.clients() == sids(staying)


async def _asked(server: Server, question: Any, heard: list[Any]) -> bool:
    """Tell whether both of ours have asked a server."""
    heard += await server.take_asked()
    return heard.count(question) == 2


@pytest.mark.parametrize("style", ["node", "block", "trio"])
async def test_a_server_is_killed_while_requests_are_pending(cluster: Cluster, style: str) -> None:
    async with cluster.joined(style) as killed:
        results: dict[str, Any] = {}
        async with (
            cluster.clients(servers=[*cluster.servers.values(), killed]) as clients,
            anyio.create_task_group() as tasks,
        ):
            here = [client for client in clients if client.server is not killed]
            theirs = next(client for client in clients if client.server is killed)
            killed.signal(signal.SIGSTOP)

            async def ask(server: PythonServer, call: str, *args: Any) -> None:
                try:
                    results[f"{server.name} {call}"] = await getattr(server, call)(*args)
                except RemoteError as exc:
                    results[f"{server.name} {call}"] = exc.kind

            for name in OURS:
                tasks.start_soon(ask, cluster.ours(name), "clients")
                tasks.start_soon(ask, cluster.ours(name), "all_rooms")
                tasks.start_soon(ask, cluster.ours(name), "custom_request", "x" * 9_000)
                tasks.start_soon(ask, cluster.ours(name), "client_rooms", theirs.sid)
            for server in cluster.servers.values():
                await until(partial(_asked, server, "x" * 9_000, []))
            assert results == {}
            killed.signal(signal.SIGKILL)
            await eventually(lambda: len(results) == 8, 3)
            for name in OURS:
                assert results[f"{name} clients"] == sids(here)
                assert results[f"{name} all_rooms"] == sids(here)
                answers = unordered(results[f"{name} custom_request"])
                assert answers == [[name, "x" * 9_000] for name in NAMES]
                assert results[f"{name} client_rooms"] == "UnknownSocketError"
            for server in cluster.servers.values():
                assert await server.clients() == sids(here)


async def test_a_server_that_is_silent(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.joined("node") as silent, cluster.clients() as clients:
        silent.signal(signal.SIGSTOP)
        try:
            with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
                await ours.manager("custom_request", "q", timeout=0.5)
        finally:
            silent.signal(signal.SIGCONT)
        assert unordered(caught.value.partial) == [[name, "q"] for name in NAMES]
        assert await ours.clients() == sids(clients)


async def test_clusters_of_two_prefixes_do_not_mix(cluster: Cluster, other: Cluster) -> None:
    async with cluster.clients("/", "/chat") as clients, other.clients("/", "/chat") as strangers:
        both = ((cluster, clients), (other, strangers))
        for which, _ in both:
            for server in which.servers.values():
                await server.emit(server.name, which.prefix, "x" * 9_000)
                await server.emit(server.name, which.prefix, namespace="/chat")
        for which, of in both:
            names = which.servers
            for client in of:
                await client.has([name, which.prefix, "x" * 9_000] for name in names)
                await client.has(([name, which.prefix] for name in names), "/chat")
            for server in which.servers.values():
                await server.take_asked()
        for server in other.servers.values():
            assert await server.clients(namespace="/chat") == sids(strangers, "/chat")
            assert await server.all_rooms(namespace="/chat") == sids(strangers, "/chat")
            answers = await server.custom_request("q", namespace="/chat")
            assert unordered(answers) == [["node", "q"], ["stock", "q"]]
        stock = other.ours("stock")
        assert await stock.clients() == sids(strangers)
        assert await stock.all_rooms() == sids(strangers)
        assert unordered(await stock.custom_request("q")) == [["node", "q"], ["stock", "q"]]
        with pytest.raises(RemoteError, match="UnknownSocketError"):
            await stock.remote_join(clients[0].sid, "r")
        for server in cluster.servers.values():
            assert await server.clients() == sids(clients)
            assert await server.take_asked() == []
