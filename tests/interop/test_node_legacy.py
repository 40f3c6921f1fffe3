"""Node servers with the npm package 1.x, a stock server and an AnyIOServer on Trio in one cluster.

Node's are ``socket.io-adapter-postgres`` 1.2.1 with ``socket.io`` 2.2 (and ``pg`` 8). The tests'
comments say where it behaves otherwise than ours.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest

from harness import eventually
from interop.clients import Node, node_process
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
)
from interop.peers import unordered
from processes import RealClient, RemoteError, until

pytestmark = pytest.mark.anyio

NODES = ["node", "node2"]
OURS = ["stock", "trio"]
NAMES = [*NODES, *OURS]
ODD = '\0\U0001f600#"/ü'
"""A room's name."""
CANNOT = r"^AdapterError: wire='legacy' cannot carry "


@pytest.fixture(scope="module")
def uri(postgres: Any) -> Any:
    with database(postgres, "legacy") as uri:
        yield uri


@pytest.fixture(scope="module")
async def javascript() -> AsyncIterator[tuple[Node, Node]]:
    """What runs the clients of either version."""
    async with node_process() as javascript, node_process(LEGACY_CLIENT) as legacy_javascript:
        yield javascript, legacy_javascript


@pytest.fixture(scope="module")
async def cluster(uri: str, javascript: tuple[Node, Node]) -> AsyncIterator[Cluster]:
    """One cluster for the whole module; its servers have nothing to complain of at the end."""
    prefix = "with-node"
    async with (
        node_server(uri, prefix, "node") as node,
        node_server(uri, prefix, "node2") as node2,
        python_server(uri, prefix, "block", "stock") as stock,
        python_server(uri, prefix, "trio", "trio") as trio,
    ):
        servers = {"node": node, "node2": node2, "stock": stock, "trio": trio}
        cluster = Cluster(uri, prefix, servers, *javascript)
        await until(lambda: cluster.acquainted(4))
        yield cluster
        await cluster.check()


@pytest.fixture(scope="module")
async def spaces(uri: str, javascript: tuple[Node, Node]) -> AsyncIterator[Cluster]:
    """Another cluster in the same database, with another prefix, and with a namespace.

    The package gives all namespaces of a server one listening session, which counts for the
    namespace whose adapter was made last: Node's own requests are complete in that one only.
    """
    prefix = 'with "namespaces"'
    async with (
        node_server(uri, prefix, "node", ["/", "/chat"]) as node,
        python_server(uri, prefix, "block", "stock") as stock,
        python_server(uri, prefix, "trio", "trio") as trio,
    ):
        servers = {"node": node, "stock": stock, "trio": trio}
        cluster = Cluster(uri, prefix, servers, *javascript, counted="/chat")
        await until(lambda: cluster.acquainted(3))
        yield cluster
        await cluster.check()


SENDERS = ["node", *OURS]


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest, cluster: Cluster) -> Server:
    """The server that acts: each operation is tried from each."""
    return cluster[request.param]


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest, cluster: Cluster) -> PythonServer:
    return cluster.ours(request.param)


@pytest.fixture(params=SENDERS)
def spaces_sender(request: pytest.FixtureRequest, spaces: Cluster) -> Server:
    return spaces[request.param]


@pytest.fixture(params=OURS)
def spaces_ours(request: pytest.FixtureRequest, spaces: Cluster) -> PythonServer:
    return spaces.ours(request.param)


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


async def test_events_reach_every_client(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        events = [[f"event {n}", *args] for n, args in enumerate(ARGUMENTS)]
        for event in events:
            await sender.emit(*event)
        for client in clients:
            await client.has(events)


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


async def test_answers_that_are_large(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        # Node can answer with them: it cuts what has over 8,000 characters, of which each piece has
        # less than 8,000 bytes here
        long = "abcde\U0001f600" * 1_500
        names = {client.sid: f"{n} {long}" for n, client in enumerate(clients)}
        for client in clients:
            await client.server.join(client.sid, names[client.sid])
        assert await sender.all_rooms() == sorted([*names, *names.values()])
        for sid, name in names.items():
            assert await sender.client_rooms(sid) == sorted([sid, name])
            assert await sender.clients([name]) == [sid]


async def test_requests_that_change_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for client in clients:
            await sender.remote_join(client.sid, ODD)
            # it has returned when it is done
            assert await client.server.rooms(client.sid) == sorted([client.sid, ODD])
            await sender.remote_join(client.sid, "x" * 20_000)
            await sender.remote_leave(client.sid, ODD)
            assert await client.server.rooms(client.sid) == sorted([client.sid, "x" * 20_000])
        assert await sender.all_rooms() == sorted([*sids(clients), "x" * 20_000])


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
    # most characters take two bytes in the notification
    text = '"\\' * 10_000 + "\U0001f600\0" * 5_000
    answers = await ours.custom_request(["measure", text])
    theirs = [[name, 35_000] for name in NODES]
    assert unordered(answers) == unordered([*theirs, *([name, ["measure", text]] for name in OURS)])


async def test_custom_requests_with_binary_data(cluster: Cluster, sender: Server) -> None:
    # its JSON has no binary data: what was bytes is what JSON.stringify makes of a Buffer
    buffer = {"type": "Buffer", "data": [0, 255]}
    answers = await sender.custom_request({"b": [b"\0\xff"]})
    own = [name for name in NAMES if name == sender.name and name in OURS]
    assert unordered(answers) == unordered(
        [name, {"b": [b"\0\xff" if name in own else buffer]}] for name in NAMES
    )


async def test_sockets_that_nobody_has(cluster: Cluster, ours: PythonServer) -> None:
    # before the timeout of the requests, which is 30 s
    with anyio.fail_after(20):
        for call in ("client_rooms", "remote_disconnect"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await ours.manager(call, "nobody")
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


async def test_our_calls_that_cannot_be_carried(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        mine = next(client for client in clients if client.server is ours)
        for client in clients:
            if client.server is not ours:
                with pytest.raises(RemoteError, match=CANNOT):
                    await ours.server("call", "ask", to=client.sid)
                with pytest.raises(RemoteError, match=CANNOT):
                    await ours.manager("emit_with_ack", "ask", to=client.sid)
        with pytest.raises(RemoteError, match=CANNOT):
            await ours.manager("emit_with_ack", "ask")
        assert isinstance(mine.raw, RealClient)
        mine.raw.answers["ask"] = "answer"
        assert await ours.server("call", "ask", to=mine.sid) == "answer"
        assert await ours.manager("emit_with_ack", "ask", to=mine.sid) == ["answer"]
        await ours.emit("last")
        for client in clients:
            await client.has([["ask"]] * 2 * (client is mine) + [["last"]])


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


async def test_servers_that_send_at_once(cluster: Cluster) -> None:
    async with cluster.clients() as clients, anyio.create_task_group() as tasks:
        sent: dict[str, list[list[Any]]] = {}
        for name, server in cluster.servers.items():
            sent[name] = [[name, n, "y" * 9_000 if n % 5 == 0 else ""] for n in range(50)]
            tasks.start_soon(server.emit_burst, sent[name])
        for client in clients:
            await eventually(lambda client=client: len(client.events()) >= 200)
            for name, events in sent.items():
                came = [event for event in client.events() if event[0] == name]
                # as above: the order of what Node publishes is nobody's
                if name in OURS or client.server is cluster[name]:
                    assert came == events
                else:
                    assert unordered(came) == unordered(events)


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
            # of a server that is merely silent the answers would be waited for, for 30 s
            await eventually(lambda: len(results) == 2)
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
            # sooner than heartbeats would tell, which are missed for 15 s
            await eventually(lambda: len(results) == 8, 10)
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
                # all others answer in it; and heartbeats are missed for longer
                await ours.manager("custom_request", "q", timeout=2)
        finally:
            silent.signal(signal.SIGCONT)
        assert unordered(caught.value.partial) == [[name, "q"] for name in NAMES]
        assert await ours.clients() == sids(clients)


@pytest.mark.parametrize("namespace", ["/", "/chat"])
async def test_events_in_namespaces(spaces: Cluster, spaces_sender: Server, namespace: str) -> None:
    sender = spaces_sender
    async with spaces.clients("/", "/chat") as clients:
        for client in clients:
            await client.server.join(client.sids[namespace], "r", namespace)
        outside = clients[1]
        await outside.server.join(outside.sids["/"], "r2")
        await outside.server.join(outside.sids["/chat"], "r2", "/chat")
        mine = next(client for client in clients if client.server is sender)
        events = [[f"event {n}", *args] for n, args in enumerate(ARGUMENTS)]
        for event in events:
            await sender.emit(*event, namespace=namespace)
        await sender.emit("room", b"1", to=["r"], namespace=namespace)
        await sender.emit("sid", to=[outside.sids[namespace]], namespace=namespace)
        await sender.emit("rooms", to=["r", "r2"], namespace=namespace)
        await sender.emit_but(mine.sids[namespace], "but", to=["r"], namespace=namespace)
        other = "/" if namespace == "/chat" else "/chat"
        await sender.emit("none", to=["r"], namespace=other)
        await sender.emit("last", namespace=other)
        for client in clients:
            sid = [["sid"]] if client is outside else []
            but = [["but"]] if client is not mine else []
            await client.has([*events, ["room", b"1"], *sid, ["rooms"], *but], namespace)
            await client.has([["last"]], other)


async def test_requests_in_a_namespace(spaces: Cluster, spaces_sender: Server) -> None:
    sender, there = spaces_sender, {"namespace": "/chat"}
    async with spaces.clients("/", "/chat") as clients:
        for client in clients[:4]:
            await sender.remote_join(client.sids["/chat"], ODD, **there)
        for n, client in enumerate(clients):
            sid, rooms = client.sids["/chat"], [ODD] * (n < 4)
            assert await client.server.rooms(sid, "/chat") == sorted([sid, *rooms])
            assert await sender.client_rooms(sid, **there) == sorted([sid, *rooms])
            assert await client.server.rooms(client.sid) == [client.sid]
        assert await sender.clients(**there) == sids(clients, "/chat")
        assert await sender.clients([ODD, "nowhere"], **there) == sids(clients[:4], "/chat")
        assert await sender.all_rooms(**there) == sorted([*sids(clients, "/chat"), ODD])
        for client in clients[:2]:
            await sender.remote_leave(client.sids["/chat"], ODD, **there)
        assert await sender.clients([ODD], **there) == sids(clients[2:4], "/chat")
        for server in spaces.servers.values():
            await server.take_asked()
        answers = await sender.custom_request({"q": ODD}, **there)
        assert unordered(answers) == [[name, {"q": ODD}] for name in SENDERS]
        for server in spaces.servers.values():
            assert await server.take_asked() == [{"q": ODD}]


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("namespace", ["/", "/chat"])
async def test_remote_disconnect(
    spaces: Cluster, spaces_sender: Server, namespace: str, close: bool
) -> None:
    other = "/" if namespace == "/chat" else "/chat"
    sender = spaces_sender
    async with spaces.clients("/", "/chat") as clients:
        leaving, staying = clients[:3], clients[3:]
        for client in leaving:
            sid = client.sids[namespace]
            await sender.remote_disconnect(sid, close, namespace=namespace)
            assert sid not in await client.server.sids(namespace)
        for client in leaving:
            await eventually(lambda client=client: client.gone(namespace))
            if close:
                await eventually(lambda client=client: client.gone(other))
        await sender.emit("last", namespace=namespace)
        await sender.emit("last", namespace=other)
        for client in staying:
            await client.has([["last"]], namespace)
            assert not client.gone(namespace)
        for client in staying if close else clients:
            await client.has([["last"]], other)
            assert not client.gone(other)
        if isinstance(sender, PythonServer) or namespace == spaces.counted:
            assert await sender.clients(namespace=namespace) == sids(staying, namespace)


async def test_our_requests_where_node_does_not_count(
    spaces: Cluster, spaces_ours: PythonServer
) -> None:
    ours = spaces_ours
    more = node_server(spaces.uri, spaces.prefix, "more", ["/", "/chat", "/more"])
    lean = node_server(spaces.uri, spaces.prefix, "lean", ["/"])
    async with more as server, lean as lean_server:
        servers = [*spaces.servers.values(), server]
        async with (
            spaces.clients("/", "/chat", servers=servers) as clients,
            spaces.clients("/", servers=[lean_server]) as leans,
        ):
            everyone = [*clients, *leans]
            assert await ours.clients() == sids(everyone)
            assert await ours.all_rooms() == sids(everyone)
            answers = await ours.custom_request("q")
            names = unordered([*SENDERS, "more", "lean"])
            assert unordered(answers) == [[name, "q"] for name in names]
            assert await ours.clients(namespace="/chat") == sids(clients, "/chat")
            assert await ours.all_rooms(namespace="/chat") == sids(clients, "/chat")
            answers = await ours.custom_request("q", namespace="/chat")
            names = unordered([*SENDERS, "more"])
            assert unordered(answers) == [[name, "q"] for name in names]
            for client in clients:
                sid = client.sids["/chat"]
                await ours.remote_join(sid, "r", namespace="/chat")
                assert await ours.client_rooms(sid, namespace="/chat") == sorted([sid, "r"])
            for call in ("client_rooms", "remote_disconnect"):
                with anyio.fail_after(20), pytest.raises(RemoteError, match="UnknownSocketError"):
                    await ours.manager(call, "/chat#nobody", namespace="/chat")
    await until(lambda: spaces.acquainted(3))


async def test_clusters_of_two_prefixes_do_not_mix(cluster: Cluster, spaces: Cluster) -> None:
    async with cluster.clients() as clients, spaces.clients("/", "/chat") as strangers:
        both = ((cluster, clients), (spaces, strangers))
        for which, _ in both:
            for server in which.servers.values():
                await server.take_asked()
                await server.emit(server.name, which.prefix, "x" * 9_000)
        for which, of in both:
            for client in of:
                # its own server's event comes to a client at once
                expected = [[name, which.prefix, "x" * 9_000] for name in which.servers]
                await client.has(expected, ordered=False)
        for name in OURS:
            ours = spaces.ours(name)
            assert await ours.clients() == sids(strangers)
            assert await ours.all_rooms() == sids(strangers)
            answers = await ours.custom_request("q")
            assert unordered(answers) == [[name, "q"] for name in SENDERS]
            for call in ("client_rooms", "remote_disconnect"):
                with pytest.raises(RemoteError, match="UnknownSocketError"):
                    await ours.manager(call, clients[0].sid)
        for server in cluster.servers.values():
            assert await server.take_asked() == []
            assert await server.clients() == sids(clients)
            assert await server.all_rooms() == sids(clients)
