"""A Node server, a stock python-socketio server and an AnyIOServer on Trio in one cluster.

Node's is ``@socket.io/postgres-adapter`` 0.5.0 with ``socket.io`` 4.8.4. The tests' comments say
where it behaves otherwise than ours.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import anyio
import psycopg
import pytest
from multidict import CIMultiDict

from anyio_sio_pg import emit_statement, open_postgres_emitter
from harness import eventually
from interop import peers
from interop.clients import HERE, TIMEOUT, Node, node_process
from interop.peers import NodePeer, PythonPeer, node_peer, python_peer, unordered
from processes import RealClient, RemoteError, until

pytestmark = pytest.mark.anyio

NAMES = ["node", "stock", "trio"]
OURS = NAMES[1:]
HEARTBEATS = {"heartbeat_interval": 1.0, "heartbeat_timeout": 3.0}
PATIENCE = 2.5
"""Seconds in which all answers come that do come, on a busy machine, too."""


class Server(ABC):
    """A server of the cluster; all are told what to do in the same words.

    ``where`` is ``to`` and ``except_rooms`` (lists), ``namespace`` and ``local``.
    """

    name: str
    url: str

    @abstractmethod
    async def emit(self, event: str, *args: Any, **where: Any) -> None:
        """Return when it is committed."""

    @abstractmethod
    async def emit_with_ack(
        self, event: str, *args: Any, timeout: float = TIMEOUT, **where: Any
    ) -> list[Any]: ...

    @abstractmethod
    async def fetch_sockets(self, **where: Any) -> list[dict[str, Any]]: ...

    @abstractmethod
    async def sockets_join(self, rooms: list[str], **where: Any) -> None: ...

    @abstractmethod
    async def sockets_leave(self, rooms: list[str], **where: Any) -> None: ...

    @abstractmethod
    async def disconnect_sockets(self, close: bool, **where: Any) -> None: ...

    @abstractmethod
    async def server_side_emit(self, event: str, *args: Any, namespace: str = "/") -> None: ...

    @abstractmethod
    async def server_side_call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]: ...

    @abstractmethod
    async def join(self, sid: str, room: Any, namespace: str = "/") -> None:
        """Let a client of this server enter a room."""

    @abstractmethod
    async def set_data(self, sid: str, data: Any) -> None:
        """Set the data of a client of this server."""

    @abstractmethod
    async def take_heard(self) -> list[Any]:
        """Return the server-side events that it has got since the last call."""

    @abstractmethod
    async def uid(self, namespace: str = "/") -> str: ...

    @abstractmethod
    async def leave(self) -> None:
        """End the server as programs do; return when it has taken leave of the cluster."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None: ...

    async def ids(self, **where: Any) -> list[str]:
        return sorted(socket["id"] for socket in await self.fetch_sockets(**where))


class PythonServer(PythonPeer, Server):
    """A stock server or an AnyIOServer."""

    async def emit_with_ack(
        self, event: str, *args: Any, timeout: float = TIMEOUT, **where: Any
    ) -> list[Any]:
        answers: list[Any] = await self.hooks(
            "spread", "emit_with_ack", event, *args, timeout=timeout, **where
        )
        return answers

    async def fetch_sockets(self, **where: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.manager("fetch_sockets", **where)
        return found

    async def sockets_join(self, rooms: list[str], **where: Any) -> None:
        await self.manager("sockets_join", rooms, **where)

    async def sockets_leave(self, rooms: list[str], **where: Any) -> None:
        await self.manager("sockets_leave", rooms, **where)

    async def disconnect_sockets(self, close: bool, **where: Any) -> None:
        await self.manager("disconnect_sockets", close=close, **where)

    async def server_side_emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        await self.manager("server_side_emit", event, *args, namespace=namespace)

    async def server_side_call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        answers: list[Any] = await self.manager(
            "server_side_call", event, *args, namespace=namespace
        )
        return answers

    async def set_data(self, sid: str, data: Any) -> None:
        await self.server("save_session", sid, data)

    async def take_heard(self) -> list[Any]:
        heard: list[Any] = await self.hooks("take", "heard")
        return heard

    async def uid(self, namespace: str = "/") -> str:
        uid: str = await self.manager("uid")
        return uid


class NodeServer(NodePeer, Server):
    """``node_server.js``, in a process of its own."""

    async def emit_with_ack(
        self, event: str, *args: Any, timeout: float = TIMEOUT, **where: Any
    ) -> list[Any]:
        answers: list[Any] = await self.run(
            "emit_with_ack", args=[event, *args], timeout=timeout, **where
        )
        return answers

    async def fetch_sockets(self, **where: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.run("fetch_sockets", **where)
        return [{**socket, "rooms": unordered(socket["rooms"])} for socket in found]

    async def sockets_join(self, rooms: list[str], **where: Any) -> None:
        await self.run("sockets_join", rooms=rooms, **where)

    async def sockets_leave(self, rooms: list[str], **where: Any) -> None:
        await self.run("sockets_leave", rooms=rooms, **where)

    async def disconnect_sockets(self, close: bool, **where: Any) -> None:
        await self.run("disconnect_sockets", close=close, **where)

    async def server_side_emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        await self.run("server_side_emit", args=[event, *args], namespace=namespace)

    async def server_side_call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        answers: list[Any] = await self.run(
            "server_side_call", args=[event, *args], namespace=namespace
        )
        return answers

    async def set_data(self, sid: str, data: Any) -> None:
        await self.run("set_data", sid=sid, data=data)

    async def take_heard(self) -> list[Any]:
        heard: list[Any] = await self.run("take_heard")
        return heard

    async def uid(self, namespace: str = "/") -> str:
        uid: str = await self.run("uid", namespace=namespace)
        return uid


def node_server(uri: str, prefix: str, name: str) -> AbstractAsyncContextManager[NodeServer]:
    options = {
        "uri": uri,
        "name": name,
        "prefix": prefix,
        "heartbeatInterval": HEARTBEATS["heartbeat_interval"] * 1_000,
        "heartbeatTimeout": HEARTBEATS["heartbeat_timeout"] * 1_000,
    }
    return node_peer(NodeServer, ["node_server.js"], HERE, options)


def python_server(
    uri: str, prefix: str, style: str, name: str
) -> AbstractAsyncContextManager[PythonServer]:
    return python_peer(PythonServer, uri, style, name, prefix=prefix, **HEARTBEATS)


Client: TypeAlias = peers.Client[Server]


def silence(client: Client) -> None:
    """Let a client of python-socketio leave "ask" unanswered."""
    raw = client.raw
    assert isinstance(raw, RealClient)

    async def ask(*args: Any) -> None:
        raw.log.append(("/", ["ask", *args]))
        await anyio.sleep_forever()

    raw.client.on("ask", ask)


@dataclass
class Cluster:
    """The three servers, and what runs the official clients."""

    uri: str
    prefix: str
    servers: dict[str, Server]
    javascript: Node

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    @property
    def node(self) -> NodeServer:
        node = self.servers["node"]
        assert isinstance(node, NodeServer)
        return node

    def ours(self, name: str) -> PythonServer:
        server = self.servers[name]
        assert isinstance(server, PythonServer)
        return server

    def others(self, name: str) -> list[Server]:
        return [server for known, server in self.servers.items() if known != name]

    @asynccontextmanager
    async def clients(
        self, *namespaces: str, servers: Iterable[Server] = ()
    ) -> AsyncIterator[list[Client]]:
        """Two clients of each server: first python-socketio's of all, then the official ones."""
        wanted = namespaces or ("/",)
        of = [*(servers or self.servers.values())]
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            async with anyio.create_task_group() as tasks:
                for official in (False, True):
                    for server in of:
                        raw = self.javascript.client("websocket") if official else RealClient()
                        stack.push_async_callback(raw.close if official else raw.leave)
                        clients.append(Client(server, raw))
                        kind = "official" if official else "python"
                        open_ = partial(
                            clients[-1].open,
                            query="?a=1&b=2&b=3",
                            headers={"X-Test": kind},
                            auth={"token": kind},
                        )
                        tasks.start_soon(open_, wanted)
            yield clients
        await until(partial(self._is_empty, *wanted))

    async def _is_empty(self, *namespaces: str) -> bool:
        for namespace in namespaces:
            if await self.node.ids(namespace=namespace):
                return False
        return True

    @asynccontextmanager
    async def joined(self, style: str) -> AsyncIterator[Server]:
        """A fourth server, which may end as it likes."""
        if style == "node":
            fourth = node_server(self.uri, self.prefix, "fourth")
        else:
            fourth = python_server(self.uri, self.prefix, style, "fourth")
        async with fourth as server:
            all_four = Cluster(
                self.uri, self.prefix, {**self.servers, "fourth": server}, self.javascript
            )
            await until(all_four.acquainted)
            yield server
        await until(self.acquainted)

    async def see_all(self, namespace: str, clients: list[Client]) -> bool:
        """Tell whether each server sees all the clients in a namespace."""
        expected = sids(clients, namespace)
        return all(
            [await server.ids(namespace=namespace) == expected for server in self.servers.values()]
        )

    async def acquainted(self) -> bool:
        """Tell whether each server knows all the others in each namespace."""
        for namespace in ("/", "/chat"):
            count = len(self.servers)
            if await self.node.run("servers", namespace=namespace) != count:
                return False
            for server in self.servers.values():
                answers = await server.server_side_call("who", namespace=namespace)
                if len(answers) != count - 1:
                    return False
        return True


@pytest.fixture(scope="module")
async def cluster(postgres: Any) -> AsyncIterator[Cluster]:
    """One cluster for the whole module; its servers have nothing to complain of at the end."""
    uri, prefix = postgres.uri, "with-node"
    async with AsyncExitStack() as stack:
        javascript = await stack.enter_async_context(node_process())
        servers: dict[str, Server] = {}
        # Python's are first: they make the table
        for name, style in (("stock", "block"), ("trio", "trio")):
            servers[name] = await stack.enter_async_context(python_server(uri, prefix, style, name))
        servers["node"] = await stack.enter_async_context(node_server(uri, prefix, "node"))
        cluster = Cluster(uri, prefix, {name: servers[name] for name in NAMES}, javascript)
        await until(cluster.acquainted)
        yield cluster
        for name in OURS:
            stats = await cluster.ours(name).manager("stats")
            faults = ("lost", "garbage", "repeated", "dropped", "reconnects")
            assert {fault: stats[fault] for fault in faults} == dict.fromkeys(faults, 0)


@pytest.fixture(params=NAMES)
def sender(request: pytest.FixtureRequest, cluster: Cluster) -> Server:
    """The server that acts: each operation is tried from each."""
    return cluster[request.param]


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest, cluster: Cluster) -> PythonServer:
    return cluster.ours(request.param)


def sids(clients: Iterable[Client], namespace: str = "/") -> list[str]:
    return sorted(client.sids[namespace] for client in clients)


ARGUMENTS: list[list[Any]] = [
    [],
    [None],
    [1, "two", None, [3, [4, {}]], {"five": 5.5, "six": [True, None]}, -(2**40)],
    ["\0 and \U0001f600, \u2028, häl\0lo\0", {"\0": "\U0001f600"}],
    [b"\0\xff", {"a": b"1", "b": [b"2" * 9_000, {"c": b""}]}, "text"],
    ["x" * 120_000],
    ["\U0001f600" * 3_000],
    [b"\xff" * 120_000, 1],
]


@pytest.mark.parametrize("namespace", ["/", "/chat"])
async def test_events_reach_every_client(cluster: Cluster, sender: Server, namespace: str) -> None:
    async with cluster.clients("/", "/chat") as clients:
        events = [[f"event {n}", *args] for n, args in enumerate(ARGUMENTS)]
        events.append(['\0 "\\ \U0001f600'])
        for event in events:
            await sender.emit(*event, namespace=namespace)
        other = "/" if namespace == "/chat" else "/chat"
        await sender.emit("other", namespace=other)
        for client in clients:
            # Node's adapter lets the small ones overtake those that it reads from the table
            await client.has(events, namespace, ordered=client.server is not cluster.node)
            await client.has([["other"]], other)


async def test_events_to_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        pythons, officials = clients[:3], clients[3:]
        for client in clients:
            await client.server.join(client.sid, "all")
            await client.server.join(client.sid, "red" if client in pythons else "blue")
        here = [client for client in clients if client.server is sender]
        far = next(client for client in pythons if client.server is not sender)
        sent: list[tuple[str, dict[str, Any], list[Client]]] = [
            ("room", {"to": ["red"]}, pythons),
            ("rooms", {"to": ["red", "all", "blue"]}, clients),
            ("except", {"except_rooms": ["blue"]}, pythons),
            ("except sid", {"except_rooms": [far.sid]}, [c for c in clients if c is not far]),
            ("room except", {"to": ["all"], "except_rooms": ["red", "other"]}, officials),
            ("sid", {"to": [far.sid]}, [far]),
            ("sids", {"to": [far.sid, officials[0].sid, "nobody"]}, [far, officials[0]]),
            ("nobody", {"to": ["nowhere"]}, []),
            ("local", {"local": True}, here),
            ("local room", {"to": ["red"], "local": True}, [c for c in here if c in pythons]),
            ("last", {}, clients),
        ]
        for name, where, _ in sent:
            await sender.emit(name, **where)
        for client in clients:
            await client.has([name] for name, _, reached in sent if client in reached)


async def test_rooms_of_a_namespace(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients("/", "/chat") as clients:
        for client in clients:
            await client.server.join(client.sid, "r")
        inside = clients[:4]
        for client in inside:
            await client.server.join(client.sids["/chat"], "r", "/chat")
        await sender.emit("in chat", b"1", to=["r"], namespace="/chat")
        assert await sender.ids(to=["r"], namespace="/chat") == sids(inside, "/chat")
        # or Node, which still reads the event, finds nobody in the room
        for client in inside:
            await client.has([["in chat", b"1"]], "/chat")
        await sender.sockets_leave(["r"], namespace="/chat")
        assert await sender.ids(to=["r"], namespace="/chat") == []
        assert await sender.ids(to=["r"]) == sids(clients)
        await sender.emit("last", namespace="/chat")
        await sender.emit("last")
        for client in clients[4:]:
            await client.has([["last"]], "/chat")
        for client in clients:
            await client.has([["last"]])


@pytest.mark.parametrize(
    "answer",
    [None, "text", {"b": [b"\0\xff", "\0\U0001f600"]}, "x" * 120_000, b"y" * 9_000],
    ids=["nothing", "text", "binary", "large", "large-binary"],
)
async def test_acknowledgements(cluster: Cluster, sender: Server, answer: Any) -> None:
    async with cluster.clients() as clients:
        for client in clients[:3]:
            client.raw.answers["ask"] = answer
        # the official clients answer with what they were asked
        question = () if answer is None else (answer,)
        came = await sender.emit_with_ack("ask", *question)
        assert came == [answer] * 6
        for client in clients:
            assert await sender.emit_with_ack("ask", *question, to=[client.sid]) == [answer]
        assert await sender.emit_with_ack("ask", *question, to=["nowhere"]) == []
        out = [client.sid for client in clients[1:4]]
        assert await sender.emit_with_ack("ask", *question, except_rooms=out) == [answer] * 3


async def test_acknowledgements_with_several_values(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        came = unordered(await sender.emit_with_ack("ask", "one", b"2", 3, to=sids(clients[3:])))
        # Node passes on only the first of several values, of its own clients and of ours, both in
        # what it says and in what it takes. Ours keeps all, as a call of a client here does.
        keeps = sum(client.server is not cluster.node for client in clients[3:])
        if sender is cluster.node:
            keeps = 0
        assert came == unordered(["one"] * (3 - keeps) + [["one", b"2", 3]] * keeps)


async def test_acknowledgements_that_do_not_come(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for client in clients[:2]:
            silence(client)
        clients[2].raw.answers["ask"] = "python"
        with pytest.raises(RemoteError) as caught:
            await sender.emit_with_ack("ask", "official", timeout=PATIENCE)
        assert unordered(caught.value.partial) == ["official"] * 3 + ["python"]
        if sender is cluster.node:
            assert str(caught.value) == "Error: operation has timed out"
        else:
            assert caught.value.kind == "RequestTimeoutError"
            silent = [await client.server.uid() for client in clients[:2]]
            assert sorted(caught.value.missing) == sorted(silent)
        answered = [clients[2].sid, *sids(clients[3:])]
        assert len(await sender.emit_with_ack("ask", "official", to=answered)) == 4


async def test_fetch_sockets(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for n, client in enumerate(clients):
            await client.server.join(client.sid, "\0\U0001f600")
            await client.server.set_data(client.sid, {"n": n, "long": "\U0001f600" * 2_000})
        found = {socket["id"]: socket for socket in await sender.fetch_sockets()}
        assert sorted(found) == sids(clients)
        for n, client in enumerate(clients):
            socket = found[client.sid]
            # all see it as its own server does
            assert socket in await client.server.fetch_sockets(local=True)
            assert socket["rooms"] == sorted([client.sid, "\0\U0001f600"])
            assert socket["data"] == {"n": n, "long": "\U0001f600" * 2_000}
            handshake = socket["handshake"]
            kind = "official" if client.official else "python"
            assert handshake["auth"] == {"token": kind}
            assert handshake["headers"]["x-test"] == kind
            assert handshake["headers"]["host"] in client.server.url
            asked = {} if client.official else {"a": "1", "b": "3"}
            expected = {**asked, "transport": "websocket", "EIO": "4"}
            assert expected.items() <= handshake["query"].items()
            url = "/socket.io/?" if client.official else "/socket.io/?a=1&b=2&b=3&"
            assert handshake["url"].startswith(url)
            assert handshake["address"] == "127.0.0.1"
            assert (handshake["secure"], handshake["xdomain"]) == (False, False)
            assert abs(handshake["issued"] / 1_000 - time.time()) < 60
            moment = datetime.strptime(handshake["time"][:33], "%a %b %d %Y %H:%M:%S GMT%z")
            assert abs(moment.timestamp() - handshake["issued"] / 1_000) <= 1
            assert set(handshake) == HANDSHAKE
        assert await sender.ids(to=[clients[0].sid, clients[4].sid]) == sids(
            [clients[0], clients[4]]
        )
        assert await sender.ids(to=["\0\U0001f600"], except_rooms=[clients[1].sid]) == sids(
            client for client in clients if client is not clients[1]
        )
        assert await sender.ids(to=["nowhere"]) == []


@pytest.mark.parametrize(
    ("query", "auth"),
    [
        ("?a=%F0%9F%98%80%20+b&empty=&flag&two=1&two=2&%C3%A4%26=%3D%25", {"a": ["\0\U0001f600"]}),
        ("?%zz=%FF&__proto__=1&=nothing&;a=1;b=2", {}),
        ("", None),
    ],
)
async def test_handshakes_are_as_node_shows_them(
    cluster: Cluster, query: str, auth: dict[str, Any] | None
) -> None:
    headers = {"X-Empty": "", "X_Y": "1", "X-Umlaut": "\xe4", "Cookie": "a=1; b=2"}
    headers |= {"User-Agent": "test", "Content-Type": "text/plain"}
    twice = [("X-Twice", "1"), ("X-Twice", "2")]
    shown: dict[tuple[str, str, str], Any] = {}
    async with AsyncExitStack() as stack:
        for name, server in cluster.servers.items():
            client = RealClient()
            stack.push_async_callback(client.leave)
            await client.client.connect(
                server.url + query,
                headers=CIMultiDict([*headers.items(), *twice, ("Origin", server.url)]),
                auth=auth,
                transports=["websocket"],
                namespaces=["/", "/chat"],
                wait_timeout=TIMEOUT,
            )
            for namespace, sid in client.client.namespaces.items():
                for asker in NAMES:
                    (socket,) = await cluster[asker].fetch_sockets(to=[sid], namespace=namespace)
                    handshake = socket["handshake"]
                    # what is another for each connection
                    for key in ("time", "issued"):
                        assert handshake.pop(key)
                    for key in ("host", "origin", "sec-websocket-key"):
                        assert handshake["headers"].pop(key)
                    handshake["url"] = handshake["url"].replace(handshake["query"].pop("t"), "")
                    # Node could not read a large answer of ours with that key
                    kept = handshake["query"].pop("__proto__", None)
                    assert kept is None or name == "node"
                    shown[asker, name, namespace] = handshake
    expected = shown["node", "node", "/"]
    assert expected["auth"] == (auth or {})
    assert expected["headers"]["x-twice"] == "1, 2"
    for handshake in shown.values():
        assert handshake == expected


async def test_handshakes_behind_a_proxy_that_ends_tls(cluster: Cluster) -> None:
    for server in cluster.servers.values():
        client = RealClient()
        try:
            await client.client.connect(
                server.url,
                headers={"X-Forwarded-Proto": "https"},
                transports=["websocket"],
                wait_timeout=TIMEOUT,
            )
            for asker in cluster.servers.values():
                (socket,) = await asker.fetch_sockets(to=[client.sid])
                # Node looks at the connection only, which comes from the proxy
                assert socket["handshake"]["secure"] == (server is not cluster.node)
        finally:
            await client.leave()


async def test_sizes_about_which_a_notification_is_full(
    cluster: Cluster, ours: PythonServer
) -> None:
    async with cluster.clients() as clients:
        # of 8,000 bytes, what is about the event takes something over 100
        events = [["n", "x" * size] for size in range(7_820, 7_900)]
        for event in events:
            await ours.manager("emit", *event)
        for client in clients:
            await client.has(events, ordered=client.server is not cluster.node)


async def test_numbers_that_javascript_does_not_have(cluster: Cluster, ours: PythonServer) -> None:
    numbers = [2**53 + 1, 2**64, -(2**70), 10**30]
    async with cluster.clients() as clients:
        for args in ([], [b"binary"], ["x" * 9_000]):
            await ours.emit("numbers", *numbers, *args)
        for client in clients:
            await eventually(lambda client=client: len(client.events()) == 3)
            for name, *came in client.events():
                assert name == "numbers"
                # Node and the official client have only floats
                assert [float(number) for number in came[:4]] == [float(n) for n in numbers]


async def test_operations_keep_their_order(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        expected: list[list[Any]] = []
        for n in range(20):
            await ours.manager("sockets_join", ["r"])
            await ours.manager("emit", "in", n, to="r")
            await ours.manager("sockets_leave", ["r"])
            await ours.manager("emit", "not in", n, to="r")
            expected.append(["in", n])
        await ours.manager("disconnect_sockets", to=clients[0].sid)
        await ours.manager("emit", "last")
        for client in clients:
            await client.has([*expected, *([["last"]] if client is not clients[0] else [])])


async def test_nodes_remote_sockets(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        for client in clients[:3]:
            client.raw.answers["ask"] = "answer"
        for client in clients:
            answer = await cluster.node.run(
                "use_socket", sid=client.sid, event="ask", args=["answer"], room="r"
            )
            assert answer == "answer"
            found = await client.server.fetch_sockets(to=[client.sid], local=True)
            assert found[0]["rooms"] == sorted([client.sid, "r"])
            await cluster.node.run("end_socket", sid=client.sid)
            await eventually(client.gone)


HANDSHAKE = {
    *("headers", "time", "address", "xdomain", "secure", "issued", "url", "query", "auth"),
}


async def test_binary_data_of_sockets(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for client in clients:
            await client.server.set_data(client.sid, {"picture": b"\0png"})
        # Node's adapter leaves binary data in sockets' data to JSON, which shows a Buffer's inside:
        # what was bytes is an object at the other end. Ours sends bytes as bytes, which Node takes.
        buffer = {"type": "Buffer", "data": [*b"\0png"]}
        for socket in await sender.fetch_sockets():
            server = next(client.server for client in clients if client.sid == socket["id"])
            mangled = server is cluster.node and sender is not server
            assert socket["data"] == {"picture": buffer if mangled else b"\0png"}


async def test_sockets_join_and_leave(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        await sender.sockets_join(["r", "s", "\0\U0001f600"], except_rooms=[clients[0].sid])
        assert await sender.ids(to=["r"]) == sids(clients[1:])
        assert await sender.ids(to=["\0\U0001f600"]) == sids(clients[1:])
        await sender.sockets_leave(["s"], to=[clients[1].sid, clients[5].sid])
        assert await sender.ids(to=["s"]) == sids(clients[2:5])
        await sender.sockets_join(["t"], to=["s"], except_rooms=[clients[2].sid])
        assert await sender.ids(to=["t"]) == sids(clients[3:5])
        await sender.sockets_leave(["r", "s", "t"])
        assert await sender.ids(to=["r", "s", "t"]) == []
        assert await sender.ids(to=["\0\U0001f600"]) == sids(clients[1:])


@pytest.mark.parametrize("close", [False, True])
async def test_disconnect_sockets(cluster: Cluster, sender: Server, close: bool) -> None:
    async with cluster.clients("/", "/chat") as clients:
        leaving, staying = [clients[1], *clients[3:]], [clients[0], clients[2]]
        for client in leaving:
            await client.server.join(client.sid, "r")
        await sender.disconnect_sockets(close, to=["r"])
        await sender.emit("after")
        for client in leaving:
            await eventually(lambda client=client: client.gone())
            assert client.events() == []
        assert await sender.ids() == sids(staying)
        if close:
            for client in leaving:
                await eventually(lambda client=client: client.gone("/chat"))
            await until(lambda: _only(sender, sids(staying, "/chat")))
        await sender.emit("last", namespace="/chat")
        for client in staying if close else clients:
            await client.has([["last"]], "/chat")
        for client in staying:
            await client.has([["after"]])
            assert not client.gone()
        # without a room: everyone
        await sender.disconnect_sockets(close, except_rooms=[staying[0].sid])
        await eventually(lambda: staying[1].gone())
        assert await sender.ids() == [staying[0].sid]


async def _only(server: Server, expected: list[str]) -> bool:
    return await server.ids(namespace="/chat") == expected


@pytest.mark.parametrize(
    "args",
    [[], [1, "two", None], [b"\0\xff", {"b": [b"1"]}], ["x" * 120_000], ["\0\U0001f600"]],
    ids=["none", "many", "binary", "large", "text"],
)
async def test_servers_talk_to_each_other(
    cluster: Cluster, sender: Server, args: list[Any]
) -> None:
    others = cluster.others(sender.name)
    for server in cluster.servers.values():
        await server.take_heard()
    await sender.server_side_emit("who", "first")
    answers = await sender.server_side_call("who", *args)
    assert unordered(answers) == unordered([server.name, *args] for server in others)
    for server in others:
        heard = unordered(await server.take_heard())
        assert heard == unordered([["who", *args], ["who", "first"]])
    assert await sender.take_heard() == []
    answers = await sender.server_side_call("who", *args, namespace="/chat")
    assert unordered(answers) == unordered([server.name, "/chat", *args] for server in others)


async def test_server_side_events_that_nobody_handles(cluster: Cluster, sender: Server) -> None:
    if sender is cluster.node:
        # ours answers null, as "nothing to say": the asker need not wait for its timeout
        assert await sender.server_side_call("unheard", 1) == [None, None]
        return
    # Node never answers what it has no handler for
    ours = cluster.ours(sender.name)
    with pytest.raises(RemoteError, match="RequestTimeoutError") as caught:
        await ours.manager("server_side_call", "unheard", 1, timeout=PATIENCE)
    assert caught.value.partial == [None]
    assert caught.value.missing == [await cluster.node.uid()]


async def test_a_node_server_counts_once(cluster: Cluster, ours: PythonServer) -> None:
    # it has another uid in each namespace, and ours has one
    assert await cluster.node.uid("/") != await cluster.node.uid("/chat")
    assert (await ours.manager("stats"))["nodes"] == 2


async def test_events_to_those_who_are_in_several_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for n, client in enumerate(clients):
            for room in ("one", "two", "three")[: n % 3 + 1]:
                await client.server.join(client.sid, room)
        rooms = ["one", "two", "three", "nowhere"]
        # of what comes with binary data or is large, only the notification is read by all
        for data in ("text", b"\0binary", "x" * 120_000):
            await sender.emit("rooms", data, to=rooms)
            await sender.emit("some", data, to=["two", "three"], except_rooms=["three"])
            await sender.emit("one", data, to=["three", "nowhere"])
            await sender.emit("none", data, to=["nowhere"])
        await sender.emit("last")
        for n, client in enumerate(clients):
            names = ["rooms", *[[], ["some"], ["one"]][n % 3]]
            data = ["text", b"\0binary", "x" * 120_000]
            expected = [*([name, item] for item in data for name in names), ["last"]]
            await client.has(expected, ordered=client.server is not cluster.node)


ROOMS = [
    *(
        "",
        " ",
        "'\";-- \\",
        "\r\n\t",
        "\0",
        "\x7f\x80",
        "\ufeff",
        "\u2028",
        "\U0001f600",
        "#/",
        ",",
    ),
    *("h\xe4", "ha\u0308", "R", "r", "%s %(x)s $1 {x}", "null", "__proto__", "constructor", "*"),
    *("5", "x" * 9_000, "\U0001f600" * 400),
]


async def test_rooms_with_special_names(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        for n, room in enumerate(ROOMS):
            for client in (clients[n % 6], clients[(n + 1) % 6]):
                await client.server.join(client.sid, room)
        expected: dict[str, list[list[Any]]] = {client.sid: [] for client in clients}
        for n, room in enumerate(ROOMS):
            event = ["to", n] if n % 2 else ["to", n, b"binary"]
            await sender.emit(*event, to=[room])
            await sender.emit("but", n, to=[room], except_rooms=[ROOMS[n - 1]])
            inside = [clients[n % 6], clients[(n + 1) % 6]]
            for client in inside:
                expected[client.sid].append(event)
            before = [clients[(n - 1) % len(ROOMS) % 6], clients[((n - 1) % len(ROOMS) + 1) % 6]]
            for client in inside:
                if client not in before:
                    expected[client.sid].append(["but", n])
            assert await sender.ids(to=[room]) == sids(inside)
        for client in clients:
            await client.has(
                expected[client.sid], ordered=cluster.node not in (sender, client.server)
            )
        # what does not fit in a notification, Node does in any order
        short = [room for room in ROOMS if len(room) < 100]
        await sender.sockets_leave(short)
        assert await sender.ids(to=short) == []
        await sender.sockets_join(short, to=[clients[0].sid, clients[4].sid])
        for room in short:
            assert await sender.ids(to=[room]) == sids([clients[0], clients[4]])
        for client in (clients[0], clients[4]):
            found = await client.server.fetch_sockets(to=[client.sid], local=True)
            assert {client.sid, *short} <= set(found[0]["rooms"])


async def test_rooms_that_are_numbers(cluster: Cluster, sender: Server) -> None:
    # a number is another room than its digits, for Node as for us
    numbers = [0, 5, -7, 2**40]
    async with cluster.clients() as clients:
        inside, outside = clients[:4], clients[4:]
        for client in clients:
            for number in numbers:
                room = number if client in inside else str(number)
                await client.server.join(client.sid, room)
        for data in ("text", b"binary"):
            for number in numbers:
                await sender.emit("to", number, data, to=[number])
                await sender.emit("but", number, data, except_rooms=[str(number), "other"])
        expected = [
            [name, number, data]
            for data in ("text", b"binary")
            for number in numbers
            for name in ("to", "but")
        ]
        await sender.emit("last", 1)
        for client in clients:
            events = expected if client in inside else []
            await client.has([*events, ["last", 1]], ordered=False)
        assert await sender.ids(to=[5]) == sids(inside)
        assert await sender.ids(to=["5"]) == sids(outside)
        assert await sender.emit_with_ack("ask", to=[5], except_rooms=["5"]) == [None] * 4
        for socket in await sender.fetch_sockets(to=[0]):
            assert socket["rooms"] == unordered([socket["id"], *numbers])
        await sender.sockets_leave(numbers)
        await sender.sockets_join([9], to=["5"])
        assert await sender.ids(to=numbers) == []
        assert await sender.ids(to=[9]) == sids(outside)


async def test_rooms_that_only_javascript_has(cluster: Cluster) -> None:
    # such as a key that is missing: the other servers get it as null
    strange = [None, 1.5, True]
    async with cluster.clients() as clients:
        theirs = [client for client in clients if client.server is cluster.node]
        for client in theirs:
            for room in ("r", *strange):
                await cluster.node.join(client.sid, room)
        for name in OURS:
            ours = cluster.ours(name)
            assert await ours.ids() == sids(clients)
            assert await ours.manager("clients", "r") == sids(theirs)
            rooms = await ours.manager("client_rooms", theirs[0].sid)
            assert {theirs[0].sid, "r"} <= set(rooms)
            assert {theirs[0].sid, "r"} <= set(await ours.manager("all_rooms"))
            await ours.sockets_join(["s"], to=["r"])
        await cluster.node.emit("to nobody else", to=[None])
        await cluster.node.emit("to nobody else", to=[1.5, True])
        for client in clients:
            await client.server.join(client.sid, "t")
        await cluster.node.emit("all", to=[None, "t"], except_rooms=[2.5, False])
        for client in clients:
            nobody = [["to nobody else"]] * 2 if client in theirs else []
            await client.has([*nobody, ["all"]], ordered=False)


async def test_rooms_named_after_another_socket(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        mine = next(client for client in clients if client.server is sender)
        other = next(client for client in clients if client.server is not sender)
        if sender is cluster.node:
            # it lets every socket into the room of another. Ours keep those rooms for their owners,
            # as python-socketio does, where they know the owner
            await sender.sockets_join([other.sid])
            theirs = [client for client in clients if client.server is not other.server]
            assert await sender.ids(to=[other.sid]) == sids([*theirs, other])
            return
        with pytest.raises(RemoteError, match="cannot enter a sid room"):
            await sender.sockets_join([mine.sid])
        assert await sender.ids(to=[mine.sid]) == [mine.sid]


async def test_events_with_nodes_flags(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        for client in clients[:3]:
            client.raw.answers["ask"] = "answer"
        flags: list[dict[str, Any]] = [
            {"volatile": True},
            {"compress": False},
            {"timeout": 5},
            {"volatile": True, "compress": True, "timeout": 0.001},
        ]
        events: list[list[Any]] = []
        for n, options in enumerate(flags):
            for data in ("text", b"binary", "x" * 9_000):
                events.append(["event", n, data])
                await cluster.node.emit(*events[-1], **options)
            where: dict[str, Any] = {**options, "timeout": TIMEOUT}
            came = await cluster.node.emit_with_ack("ask", "answer", **where)
            assert came == ["answer"] * 6
            events.append(["ask", "answer"])
            assert await cluster.node.ids(**where) == sids(clients)
        for client in clients:
            await client.has(events, ordered=False)


async def test_flags_that_are_none_in_python(cluster: Cluster) -> None:
    # timers take text, and anything is true or false
    async with cluster.clients() as clients:
        for client in clients[:3]:
            client.raw.answers["ask"] = "answer"
        options: Any = {"timeout": "15000"}
        assert await cluster.node.emit_with_ack("ask", "answer", **options) == ["answer"] * 6
        assert await cluster.node.ids(**options) == sids(clients)
        for close, left in ((1, clients[2:]), (None, clients[4:])):
            leaving = [client for client in clients if client not in left][-2:]
            await cluster.node.disconnect_sockets(close, to=sids(leaving))
            for client in leaving:
                await eventually(client.gone)
            assert await cluster.node.ids() == sids(left)


async def test_nodes_local_operations_stay_there(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        theirs = [client for client in clients if client.server is cluster.node]
        mine = [client for client in clients if client not in theirs]
        await cluster.node.sockets_join(["r"], local=True)
        assert await cluster["trio"].ids(to=["r"]) == sids(theirs)
        await cluster["trio"].sockets_join(["r"])
        assert await cluster["trio"].ids(to=["r"]) == sids(clients)
        await cluster.node.sockets_leave(["r"], local=True)
        assert await cluster["trio"].ids(to=["r"]) == sids(mine)
        theirs[0].raw.answers["ask"] = "answer"
        # it waits for the other servers all the same
        with pytest.raises(RemoteError, match="operation has timed out") as caught:
            await cluster.node.emit_with_ack("ask", "answer", local=True, timeout=PATIENCE)
        assert caught.value.partial == ["answer"] * 2
        await cluster.node.disconnect_sockets(False, local=True)
        for client in theirs:
            await eventually(client.gone)
        assert await cluster["stock"].ids() == sids(mine)
        await cluster.node.emit("last")
        for client in mine:
            await client.has([["last"]])


async def test_a_socket_of_node_speaks_to_the_others(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        for client in clients[:3]:
            client.raw.answers["ask"] = "answer"
        speaker = next(client for client in clients if client.server is cluster.node)
        rest = [client for client in clients if client is not speaker]
        for client in clients:
            await client.server.join(client.sid, "r")
        for client in clients[:2]:
            await client.server.join(client.sid, "s")
        speak = partial(cluster.node.emit, **{"from": speaker.sid})
        await speak("broadcast")
        await speak("binary", b"1", to=["r"])
        await speak("except", to=["r", "s"], except_rooms=["s"])
        await speak("volatile", volatile=True, compress=False)
        came = await cluster.node.emit_with_ack("ask", "answer", **{"from": speaker.sid})
        assert came == ["answer"] * 5
        # as a handler of ours does
        ours = cluster.ours("trio")
        mine = next(client for client in clients if client.server is ours)
        await ours.server("emit", "skip", skip_sid=mine.sid, room="r")
        for client in rest:
            events = [["broadcast"], ["binary", b"1"], ["volatile"], ["ask", "answer"]]
            if client not in clients[:2]:
                events.append(["except"])
            if client is not mine:
                events.append(["skip"])
            await client.has(events, ordered=False)
        await speaker.has([["skip"]])


async def test_values_that_only_javascript_has(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        for args in ([], ["x" * 9_000], [b"binary"]):
            await cluster.node.run("emit_values", args=args)
        await cluster.node.run("emit_views")
        await cluster.node.emit("last")
        epoch = "1970-01-01T00:00:00.000Z"
        values = [None, None, None, 0, [None, 1]]
        plain = ["values", epoch, None, *values, {"b": 1}, {}, {}, {"point": 1}]
        # Node's package writes other values to the table than to a notification
        packed = ["values", epoch, epoch, *values, {"a": None, "b": 1}, {}, {}, {"x": 1}]
        buffer = bytes(range(1, 9))
        views = {"views": [buffer[2:6], buffer[6:], bytes(8)]}
        for client in clients:
            large = plain if client.server is cluster.node else packed
            # halves of a character are no Unicode: ours passes them on as a WebSocket would
            here = client.server is cluster.node
            half = ["half " + chr(0xD83D), chr(0xDE00)] if here else ["half \ufffd", "\ufffd"]
            expected = [
                [*plain, *half],
                [*large, *half, "x" * 9_000],
                [*large, *half, b"binary"],
                # an ArrayBuffer it forgets
                ["views", buffer if here else {}, views],
                ["last"],
            ]
            await client.has(expected, ordered=False)


@pytest.mark.parametrize("namespace", ["/room-1", "/room-\xe4 '\U0001f600"])
async def test_dynamic_namespaces(cluster: Cluster, sender: Server, namespace: str) -> None:
    async with cluster.clients("/", namespace) as clients:
        # it exists since the first client came
        await cluster.node.run("listening", namespaces=[namespace])
        await until(partial(cluster.see_all, namespace, clients))
        here = [client.sids[namespace] for client in clients]
        for client in clients[1:5]:
            await client.server.join(client.sids[namespace], "r", namespace)
        events: list[list[Any]] = [["text"], ["binary", b"1"], ["large", "x" * 120_000]]
        for event in events:
            await sender.emit(*event, namespace=namespace)
        await sender.emit("room", to=["r"], except_rooms=[here[4]], namespace=namespace)
        await sender.emit("elsewhere", namespace=namespace + "0")
        came = await sender.emit_with_ack("ask", to=["r", here[0]], namespace=namespace)
        assert came == [None] * 5
        for n, client in enumerate(clients):
            room = [["room"]] if 1 <= n < 4 else []
            asked = [["ask"]] if n < 5 else []
            await client.has([*events, *room, *asked], namespace, ordered=False)
            assert client.events() == []
        await sender.sockets_join(["s"], to=["r"], namespace=namespace)
        assert await sender.ids(to=["s"], namespace=namespace) == sorted(here[1:5])
        await sender.disconnect_sockets(False, to=["s"], namespace=namespace)
        for client in clients[1:5]:
            await eventually(lambda client=client: client.gone(namespace))
        assert await sender.ids(namespace=namespace) == sorted([here[0], here[5]])
        assert await sender.ids() == sids(clients)


async def test_a_namespace_that_node_cannot_listen_to(cluster: Cluster) -> None:
    # its package does not escape a quotation mark in LISTEN
    namespace = '/room-"'
    async with cluster.clients("/", namespace) as clients:
        mine = [client for client in clients if client.server is not cluster.node]
        for name in OURS:
            await cluster[name].emit(name, namespace=namespace)
        await cluster.node.emit("node", namespace=namespace)
        for client in clients:
            from_ours = [[name] for name in OURS] if client in mine else []
            await client.has([*from_ours, ["node"]], namespace, ordered=False)


async def test_nodes_parent_namespaces(cluster: Cluster) -> None:
    namespaces = ("/room-2", "/room-3")
    async with cluster.clients("/", *namespaces) as clients:
        await cluster.node.run("listening", namespaces=namespaces)
        for namespace in namespaces:
            await until(partial(cluster.see_all, namespace, clients))
        await cluster.node.run("emit_to_dynamic", args=["to each", b"1"])
        await cluster.node.emit("last")
        for client in clients:
            for namespace in namespaces:
                await client.has([["to each", b"1"]], namespace)
            await client.has([["last"]])


async def test_acknowledgements_of_rooms(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients("/", "/chat") as clients:
        for n, client in enumerate(clients):
            for room in ("one", "two", "three")[: n % 3 + 1]:
                await client.server.join(client.sids["/chat"], room, "/chat")
        results: dict[tuple[str, ...], Any] = {}

        async def ask_rooms(*rooms: str) -> None:
            results[rooms] = await sender.emit_with_ack(
                "ask", *rooms, to=list(rooms), except_rooms=["three"], namespace="/chat"
            )

        # at the same time
        async with anyio.create_task_group() as tasks:
            for rooms in (["one"], ["one", "two", "three"], ["two"], ["three"]):
                tasks.start_soon(ask_rooms, *rooms)
        officials = [client for n, client in enumerate(clients) if n % 3 < 2][2:]
        assert len(officials) == 2
        # the official clients answer with the question, whose first value Node passes on
        assert [len(results[tuple(r)]) for r in (["one"], ["two"], ["three"])] == [4, 2, 0]
        assert unordered(results["one",]) == unordered([None] * 2 + ["one"] * 2)
        assert unordered(results["two",]) == unordered([None, "two"])
        answers = [
            a if a is None or isinstance(a, str) else a[0] for a in results["one", "two", "three"]
        ]
        assert unordered(answers) == unordered([None] * 2 + ["one"] * 2)
        assert all(client.events() == [] for client in clients)


async def test_a_client_leaves_without_its_acknowledgement(
    cluster: Cluster, sender: Server
) -> None:
    async with cluster.clients() as clients:
        silence(clients[0])
        silence(clients[1])
        results: dict[str, Any] = {}
        asked = sids([clients[0], clients[1], *clients[4:]])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                partial(
                    ask,
                    results,
                    sender,
                    "emit_with_ack",
                    "ask",
                    "official",
                    to=asked,
                    timeout=PATIENCE,
                )
            )
            for client in clients[:2]:
                await eventually(lambda client=client: client.events())
                await client.server.disconnect_sockets(False, to=[client.sid])
        # nobody says that an answer will never come: the others' are kept
        message, partial_answers = results[f"{sender.name} emit_with_ack"]
        assert "timed out" in message or "RequestTimeoutError" in message
        assert partial_answers == ["official"] * 2


async def test_custom_requests_are_not_for_node(cluster: Cluster, ours: PythonServer) -> None:
    # they are server-side events, which Node would leave unanswered
    answers = await ours.manager("custom_request", {"q": b"\0"})
    assert unordered(answers) == unordered([name, {"q": b"\0"}] for name in OURS)


async def test_our_calls_for_clients_of_node(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        theirs = [client for client in clients if client.server is cluster.node]
        python, official = theirs[0].sid, theirs[1].sid
        await cluster.node.join(python, "r")
        await cluster.node.join(official, "\0\U0001f600")
        manager, server = ours.manager, ours.server
        assert await manager("clients") == sids(clients)
        assert await manager("clients", "r") == [python]
        assert await manager("client_rooms", python) == sorted([python, "r"])
        expected = sorted([*sids(clients), "r", "\0\U0001f600"])
        assert await manager("all_rooms") == expected
        await manager("remote_join", official, "s")
        await manager("remote_leave", python, "r")
        # they return when it is done
        for sid, rooms in ((python, []), (official, ["\0\U0001f600", "s"])):
            found = await cluster.node.fetch_sockets(to=[sid], local=True)
            assert found[0]["rooms"] == sorted([sid, *rooms])
        await server("enter_room", python, "t")
        await server("leave_room", official, "s")
        assert await manager("clients", "t") == [python]
        assert await manager("clients", "s") == []
        await server("close_room", "t")
        assert await manager("clients", "t") == []
        await manager("remote_disconnect", python)
        assert await cluster.node.ids(local=True) == [official]
        await server("disconnect", official)
        await eventually(lambda: all(client.gone() for client in theirs))
        for call in ("remote_disconnect", "client_rooms"):
            with pytest.raises(RemoteError, match="UnknownSocketError"):
                await manager(call, python)


async def test_our_callbacks_for_clients_of_node(cluster: Cluster, ours: PythonServer) -> None:
    async with cluster.clients() as clients:
        theirs = [client for client in clients if client.server is cluster.node]
        theirs[0].raw.answers["ask"] = b"\0python"
        assert await ours.server("call", "ask", b"1", to=theirs[0].sid) == b"\0python"
        assert await ours.server("call", "ask", "x" * 9_000, to=theirs[1].sid) == "x" * 9_000
        await ours.hooks("take", "answers")
        await ours.hooks("ask", "ask", {"all": 1})

        async def answered() -> bool:
            return len(await ours.hooks("answers")) == 6

        await until(answered)
        # a handler of python-socketio's client that returns nothing acknowledges with nothing
        expected = [*[[{"all": 1}]] * 3, [b"\0python"], [], []]
        assert unordered(await ours.hooks("take", "answers")) == unordered(expected)


async def test_nodes_emitter(cluster: Cluster) -> None:
    async with cluster.clients("/", "/chat") as clients:
        theirs = [client for client in clients if client.server is cluster.node]
        mine = [client for client in clients if client not in theirs]
        for client in clients:
            await client.server.join(client.sid, "r")
        events: list[list[Any]] = [
            ["plain", 1, "two", None],
            ["nothing"],
            ["binary", b"\0\xff", {"b": b"1"}],
            ["large", "x" * 120_000],
            ["text", "\0\U0001f600"],
        ]
        emit, first = cluster.node.run, mine[0]
        for event in events:
            await emit("emitter", method="emit", args=event)
        await emit("emitter", method="emit", args=["room"], to=["r", "s"])
        await emit("emitter", method="emit", args=["sid"], to=[first.sid])
        await emit("emitter", method="emit", args=["but"], except_rooms=[first.sid])
        flags = {"volatile": True, "compress": False}
        await emit("emitter", method="emit", args=["flags", b"1"], to=["r"], **flags)
        await emit("emitter", method="emit", args=["chat"], namespace="/chat")
        await emit("emitter", method="socketsJoin", args=[["a", "b"]])
        await emit("emitter", method="socketsLeave", args=["b"], to=[first.sid])
        await emit("emitter", method="disconnectSockets", args=[], to=[mine[1].sid])
        await cluster.node.emit("last")
        await cluster.node.emit("last", namespace="/chat")
        for client in mine:
            only = ["sid"] if client is first else ["but"]
            last = [["last"]] if client is not mine[1] else []
            await client.has([*events, ["room"], only, ["flags", b"1"], *last])
            await client.has([["chat"], ["last"]], "/chat")
        # Node's own adapter drops them: they name their namespace only by their channel
        for client in theirs:
            await client.has([["last"]])
            await client.has([["last"]], "/chat")
        assert await cluster["trio"].ids(to=["a"]) == sids([first, *mine[2:]])
        assert await cluster["trio"].ids(to=["b"]) == sids(mine[2:])
        await eventually(mine[1].gone)
        for server in cluster.servers.values():
            await server.take_heard()
        await emit("emitter", method="serverSideEmit", args=["who", b"1"])
        for name in OURS:
            await until(lambda name=name: _heard(cluster[name], ["who", b"1"]))
        assert await cluster.node.take_heard() == []


async def _heard(server: Server, event: list[Any]) -> bool:
    return event in await server.take_heard()


async def test_our_emitter(cluster: Cluster) -> None:
    async with (
        cluster.clients("/", "/chat") as clients,
        open_postgres_emitter(cluster.uri, prefix=cluster.prefix) as emitter,
    ):
        for client in clients:
            await client.server.join(client.sid, "r")
        out, left = clients[0], clients[3]
        events: list[list[Any]] = [[f"event {n}", *args] for n, args in enumerate(ARGUMENTS)]
        for name, *args in events:
            await emitter.emit(name, tuple(args))
        await emitter.emit("room", to=["r", "s"], except_rooms=out.sid)
        await emitter.emit("sid", to=out.sid)
        await emitter.emit("chat", (1, b"2"), namespace="/chat")
        await emitter.sockets_join(["a", "b"])
        await emitter.sockets_leave("b", to=out.sid)
        # Node's adapter lets the small messages overtake those that it reads from the table
        for client in clients:
            expected = [*events, ["sid" if client is out else "room"]]
            await client.has(expected, ordered=client.server is not cluster.node)
            await client.has([["chat", 1, b"2"]], "/chat")
        await emitter.disconnect_sockets(to=left.sid)
        await eventually(left.gone)
        assert await cluster.node.ids(to=["a"]) == sids(c for c in clients if c is not left)
        assert await cluster.node.ids(to=["b"]) == sids(c for c in clients if c not in (out, left))
        for server in cluster.servers.values():
            await server.take_heard()
        await emitter.server_side_emit("who", b"1", "x" * 9_000)
        for server in cluster.servers.values():
            await until(lambda server=server: _heard(server, ["who", b"1", "x" * 9_000]))
        # it is no node: nobody waits for its answers
        assert await cluster.node.run("servers", namespace="/") == 3


async def test_statements(cluster: Cluster) -> None:
    async with cluster.clients() as clients:
        for client in clients[:3]:
            await client.server.join(client.sid, "r")
        with psycopg.connect(cluster.uri) as connection:
            # one transaction, and two that are equal
            for event, data, where in (
                ("same", "same", {}),
                ("same", "same", {}),
                ("room", ("two", 2), {"to": "r", "except_rooms": clients[0].sid}),
                ("binary", {"b": b"\0\xff"}, {}),
                ("large", "\U0001f600" * 30_000, {}),
            ):
                statement = emit_statement(event, data, prefix=cluster.prefix, **where)
                connection.execute(*statement)
            connection.commit()
            connection.execute(*emit_statement("undone", prefix=cluster.prefix))
            connection.rollback()
            connection.execute(*emit_statement("last", prefix=cluster.prefix))
        for client in clients:
            room = [["room", "two", 2]] if client in clients[1:3] else []
            large = [["binary", {"b": b"\0\xff"}], ["large", "\U0001f600" * 30_000]]
            expected = [["same", "same"], ["same", "same"], *room, *large, ["last"]]
            await client.has(expected, ordered=client.server is not cluster.node)


async def test_300_events_arrive_in_order(cluster: Cluster, sender: Server) -> None:
    async with cluster.clients() as clients:
        expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        if sender is cluster.node:
            await cluster.node.run("emit_burst", events=expected)
        else:
            await cluster.ours(sender.name).hooks("emit_many", 300, 7, 9_000)
        for client in clients:
            await client.has(expected, ordered=False)
            came = client.events()
            if sender is cluster.node:
                # it publishes on ten connections at once, so that nobody can know its order
                continue
            if client.server is not cluster.node:
                assert came == expected
            # Node acts on what comes in a notification at once, and on what it has to read from the
            # table when it has read it: only our nodes keep the order where events are that large
            small = [event for event in expected if not event[2]]
            assert [event for event in came if not event[2]] == small


async def test_300_events_of_our_emitter_arrive_in_order(cluster: Cluster) -> None:
    async with (
        cluster.clients() as clients,
        open_postgres_emitter(cluster.uri, prefix=cluster.prefix) as emitter,
    ):
        expected = [["n", n, "" if n % 7 else "x" * 9_000] for n in range(300)]
        for name, *args in expected:
            await emitter.emit(name, tuple(args))
        for client in clients:
            if client.server is not cluster.node:
                await client.has(expected)
            else:
                await client.has(expected, ordered=False)
                small = [event for event in expected if not event[2]]
                assert [event for event in client.events() if not event[2]] == small


async def test_small_events_arrive_in_order_at_node_too(
    cluster: Cluster, ours: PythonServer
) -> None:
    async with cluster.clients() as clients:
        await ours.hooks("emit_many", 300, 7, 7_000)
        expected = [["n", n, "" if n % 7 else "x" * 7_000] for n in range(300)]
        for client in clients:
            await client.has(expected)


@pytest.mark.parametrize("data", ["the same", b"the same"], ids=["text", "binary"])
async def test_100_identical_events_arrive_100_times(
    cluster: Cluster, sender: Server, data: str | bytes
) -> None:
    async with cluster.clients() as clients:
        event = ["same", {"always": data}]
        if sender is cluster.node:
            await cluster.node.run("emit_burst", events=[event] * 100)
        else:
            await cluster.ours(sender.name).hooks("emit_same", 100, data)
        # all that was sent before has come when this has, but for what Node still reads
        await sender.emit("last")
        for client in clients:
            ordered = client.server is not cluster.node or isinstance(data, str)
            await client.has([*[event] * 100, ["last"]], ordered=ordered)


@pytest.mark.parametrize("data", ["the same", b"the same"], ids=["text", "binary"])
async def test_100_identical_events_of_emitters_arrive_100_times(
    cluster: Cluster, data: str | bytes
) -> None:
    async with (
        cluster.clients() as clients,
        open_postgres_emitter(cluster.uri, prefix=cluster.prefix) as emitter,
    ):
        for _ in range(100):
            await emitter.emit("ours", data)
        await emitter.flush()
        # one transaction, in which PostgreSQL would take two equal notifications for one
        with psycopg.connect(cluster.uri) as connection:
            for _ in range(100):
                connection.execute(*emit_statement("statement", data, prefix=cluster.prefix))
        await cluster.node.run("emitter_burst", events=[["node", data]] * 100)
        ours, statements = [["ours", data]] * 100, [["statement", data]] * 100
        for client in clients:
            # as above, those of its own emitter do not reach Node
            nodes = [] if client.server is cluster.node else [["node", data]] * 100
            await client.has([*ours, *statements, *nodes], ordered=False)


async def ask(
    results: dict[str, Any], server: Server, name: str, *args: Any, **options: Any
) -> None:
    """Note what a request comes to."""
    try:
        results[f"{server.name} {name}"] = await getattr(server, name)(*args, **options)
    except RemoteError as exc:
        results[f"{server.name} {name}"] = (str(exc), unordered(exc.partial))


@pytest.mark.parametrize("style", ["node", "block", "trio"])
async def test_a_server_leaves_while_requests_are_pending(cluster: Cluster, style: str) -> None:
    async with cluster.joined(style) as leaver:
        staying = [*cluster.servers.values()]
        results: dict[str, Any] = {}
        async with (
            cluster.clients(servers=[*staying, leaver]) as clients,
            anyio.create_task_group() as tasks,
        ):
            silence(clients[3])
            for client in clients[:3]:
                client.raw.answers["ask"] = "python"
            asked = sids(clients[:7])
            for server in staying:
                tasks.start_soon(ask, results, server, "server_side_call", "stall", leaver.name)
                # Node counts the clients of a node that has left as before, and waits for them
                options = {"timeout": 3 if server is cluster.node else TIMEOUT, "to": asked}
                tasks.start_soon(
                    partial(ask, results, server, "emit_with_ack", "ask", "q", **options)
                )
            heard: list[Any] = []
            await until(partial(_all_heard, heard, leaver, 3))
            assert heard == [["stall", leaver.name]] * 3
            for client in clients[:7]:
                await eventually(lambda client=client: len(client.events()) == 3)
            assert results == {}
            await leaver.leave()
            # a server that is merely silent would be waited for, for 3 s
            await eventually(lambda: len(results) == 5, 2)
            await eventually(lambda: len(results) == 6)
            assert await cluster.node.ids() == sids(c for c in clients if c.server is not leaver)
        answers = ["python"] * 3 + ["q"] * 3
        for server in staying:
            others = [[other.name] for other in cluster.others(server.name)]
            assert unordered(results[f"{server.name} server_side_call"]) == others
        for name in OURS:
            assert unordered(results[f"{name} emit_with_ack"]) == answers
        assert results["node emit_with_ack"] == ("Error: operation has timed out", answers)


async def _all_heard(heard: list[Any], server: Server, count: int) -> bool:
    heard += [event for event in await server.take_heard() if event[0] == "stall"]
    return len(heard) >= count


@pytest.mark.parametrize("style", ["node", "block", "trio"])
async def test_a_server_is_killed_while_requests_are_pending(cluster: Cluster, style: str) -> None:
    async with cluster.joined(style) as killed:
        staying = [*cluster.servers.values()]
        results: dict[str, Any] = {}
        async with (
            cluster.clients(servers=[*staying, killed]) as clients,
            anyio.create_task_group() as tasks,
        ):
            here = [client for client in clients if client.server is not killed]
            for client in clients[:3]:
                client.raw.answers["ask"] = "python"
            killed.signal(signal.SIGSTOP)
            for server in staying:
                tasks.start_soon(ask, results, server, "ids")
                tasks.start_soon(ask, results, server, "server_side_call", "who", "x" * 9_000)
                # as above, Node waits for a server that is gone
                options = {"timeout": 3 if server is cluster.node else TIMEOUT}
                tasks.start_soon(
                    partial(ask, results, server, "emit_with_ack", "ask", "q", **options)
                )
            for client in here:
                await eventually(lambda client=client: len(client.events()) == 3)
            assert results == {}
            killed.signal(signal.SIGKILL)
            # Node's server-side event would end with an error after 5 s
            await eventually(lambda: len(results) == 9)
        answers = ["python"] * 3 + ["q"] * 3
        for server in staying:
            others = [[other.name, "x" * 9_000] for other in cluster.others(server.name)]
            assert unordered(results[f"{server.name} server_side_call"]) == others
            assert results[f"{server.name} ids"] == sids(here)
        for name in OURS:
            assert unordered(results[f"{name} emit_with_ack"]) == answers
        assert results["node emit_with_ack"] == ("Error: operation has timed out", answers)
