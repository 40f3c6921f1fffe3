"""What a cluster promises, over a real PostgreSQL and over the simulated one, on both loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from anyio_sio_pg import MessagesLostError, RequestTimeoutError, UnknownSocketError
from anyio_sio_pg.testing import (
    Network,
    PostgresNetwork,
    RefusedError,
    SimulatedClient,
    SimulatedCluster,
    SimulatedNetwork,
    SimulatedNode,
    virtual_time,
)
from harness import sessions

pytestmark = pytest.mark.anyio

KINDS = ["postgres-asyncio", "postgres-trio", "simulated-asyncio", "simulated-trio"]

BIG = "x" * 9_000


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def anyio_backend(kind: str) -> Any:
    network, backend = kind.split("-")
    return (backend, virtual_time(backend)) if network == "simulated" else backend  # type: ignore[arg-type]


@pytest.fixture
def network(kind: str, request: pytest.FixtureRequest) -> Iterator[Network]:
    if kind.startswith("simulated"):
        yield SimulatedNetwork(seed=1)
    else:
        yield PostgresNetwork(request.getfixturevalue("uri"))


async def three(cluster: SimulatedCluster, **options: Any) -> list[SimulatedNode]:
    """Start three nodes, and wait until they know each other."""
    nodes = [await cluster.start(**options) for _ in range(3)]
    await cluster.quiet()
    assert [node.manager.stats().nodes for node in nodes] == [2, 2, 2]
    return nodes


async def one_each(nodes: list[SimulatedNode], namespace: str = "/") -> list[SimulatedClient]:
    return [await node.connect(namespace) for node in nodes]


def names(client: SimulatedClient, namespace: str = "/") -> list[str]:
    return [event for event, *_ in client.received(namespace)]


async def test_an_event_reaches_those_it_is_for_once(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        a, b, c = await three(cluster)
        x, y, z = await one_each([a, b, c])
        other = await c.connect("/chat")
        for client, rooms in ((x, "r"), (y, "rs"), (z, "s")):
            for room in rooms:
                await client.node.server.enter_room(client.sid, room)
        for node in (a, b, c):
            emit = node.manager.emit
            await emit("all", {"é": [1, None, "\0\U0001f600"]})
            await emit("room", to="r")
            await emit("rooms", to=["r", "s"])
            await emit("one", (1, 2), to=z.sid)
            await emit("but", except_rooms="s")
            await emit("skip", skip_sid=y.sid)
            await emit("chat", b"\0", namespace="/chat")
            await emit("big", [BIG, b"\xff" * 9_000])
            await emit("here", local=True)
            await cluster.quiet()
        every = ["all", "room", "rooms", "one", "but", "skip", "big", "here"]
        only = {
            x: {"all", "room", "rooms", "but", "skip", "big"},
            y: {"all", "room", "rooms", "big"},
            z: {"all", "rooms", "one", "skip", "big"},
        }
        for number, client in enumerate((x, y, z)):
            expected = [
                name
                for sender in range(3)
                for name in every
                if name in only[client] or (name == "here" and sender == number)
            ]
            assert names(client) == expected
        assert other.received("/chat") == [["chat", b"\0"]] * 3
        assert x.received()[0] == ["all", {"é": [1, None, "\0\U0001f600"]}]
        assert z.received()[2] == ["one", 1, 2]


async def test_each_senders_order_is_kept(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        nodes = await three(cluster)
        clients = await one_each(nodes)

        async def send(node: SimulatedNode) -> None:
            for number in range(60):
                data = b"\0" * 9_000 if number % 7 == 0 else BIG if number % 11 == 0 else number
                await node.server.emit("n", (node.name, number, data))

        async with anyio.create_task_group() as tg:
            for node in nodes:
                tg.start_soon(send, node)
        await cluster.quiet()
        for client in clients:
            for node in nodes:
                numbers = [n for _, name, n, _ in client.received() if name == node.name]
                assert numbers == list(range(60))


async def test_rooms_are_entered_and_left_from_anywhere(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        a, b, c = await three(cluster)
        x, y, z = await one_each([a, b, c])
        await c.server.enter_room(x.sid, "r")
        await a.manager.remote_join(y.sid, "r")
        await b.manager.sockets_join(["r", "s"], to=z.sid)
        await cluster.quiet()
        for node in (a, b, c):
            assert await node.manager.clients("r") == {x.sid, y.sid, z.sid}
            assert await node.manager.client_rooms(z.sid) == {z.sid, "r", "s"}
            assert await node.manager.all_rooms() == {x.sid, y.sid, z.sid, "r", "s"}
            found = {socket.id: socket.rooms for socket in await node.manager.fetch_sockets()}
            assert found == {
                x.sid: {x.sid, "r"},
                y.sid: {y.sid, "r"},
                z.sid: {z.sid, "r", "s"},
            }
        # the sender's later event finds its earlier command done
        await a.manager.remote_leave(z.sid, "s")
        await a.server.emit("nobody", room="s")
        await b.server.leave_room(x.sid, "r")
        await b.server.emit("two", room="r")
        await cluster.quiet()
        await c.server.close_room("r")
        await c.server.emit("none", room="r")
        await cluster.quiet()
        assert [names(client) for client in (x, y, z)] == [[], ["two"], ["two"]]
        assert await a.manager.all_rooms() == {x.sid, y.sid, z.sid}
        with pytest.raises(UnknownSocketError):
            await a.manager.client_rooms("nobody")


async def test_requests_are_answered_by_all(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        a, b, c = await three(cluster)
        clients = await one_each([a, b, c])
        for number, client in enumerate(clients):
            client.answer = lambda question, number=number: [question, number]
        answers = await a.manager.emit_with_ack("q", "?")
        assert sorted(answers) == [["?", 0], ["?", 1], ["?", 2]]
        assert await b.manager.emit_with_ack("q", "!", to=clients[2].sid) == [["!", 2]]
        assert await b.manager.emit_with_ack("q", "!", to="nobody") == []
        clients[1].answer = None
        with pytest.raises(RequestTimeoutError) as caught:
            await c.manager.emit_with_ack("q", "?", timeout=2)
        assert sorted(caught.value.partial) == [["?", 0], ["?", 2]]
        for node in (a, b, c):
            node.manager.on_server_side("sum")(lambda *n, node=node: [node.name, sum(n)])
            node.manager.custom_hook(lambda data, node=node: [node.name, data])
        assert sorted(await a.manager.server_side_call("sum", 1, 2)) == [
            [b.name, 3],
            [c.name, 3],
        ]
        assert sorted(await a.manager.custom_request(7)) == [[n.name, 7] for n in (a, b, c)]


async def test_a_client_is_disconnected_from_anywhere(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        a, b, c = await three(cluster)
        x, y, z = await one_each([a, b, c])
        await c.manager.remote_disconnect(x.sid)
        await a.manager.disconnect_sockets(to=y.sid, close=True)
        await cluster.quiet()
        assert await b.manager.clients() == {z.sid}
        assert x.disconnected == {"/"}
        assert y.disconnected == {"/"}
        assert not x.closed
        with anyio.fail_after(20):
            await y.ended.wait()


async def test_a_server_may_refuse_a_client(network: Network) -> None:
    async with SimulatedCluster(network) as cluster:
        a, b, _ = await three(cluster)

        @a.server.on("connect")
        async def connect(sid: str, environ: Any, auth: Any) -> bool:
            return bool(auth == {"key": 1})

        await a.connect(auth={"key": 1})
        with pytest.raises(RefusedError):
            await a.connect(auth={"key": 2})
        assert len(await b.manager.clients()) == 1


async def test_nodes_that_stop_or_crash_are_not_waited_for(network: Network) -> None:
    async with SimulatedCluster(network, requests_timeout=40, heartbeat_timeout=60) as cluster:
        a, b, c = await three(cluster)
        x, _, _ = await one_each([a, b, c])
        await b.stop()
        with anyio.fail_after(20):
            assert len(await a.manager.clients()) == 2
        await c.crash()
        with anyio.fail_after(20):
            assert await a.manager.clients() == {x.sid}
        assert a.manager.stats().nodes == 0
        d = await cluster.start()
        await cluster.quiet()
        with anyio.fail_after(20):
            assert await d.manager.clients() == {x.sid}


@pytest.mark.parametrize("durable", [False, True])
async def test_a_node_is_cut_off_for_a_while(network: Network, durable: bool, prefix: str) -> None:
    tables = {"table": f"{prefix}_attachments", "log_table": f"{prefix}_log"}
    async with SimulatedCluster(network, durable=durable, **tables) as cluster:
        a, b, c = await three(cluster)
        x, y, z = await one_each([a, b, c])
        await a.server.emit("before")
        await cluster.quiet()
        cluster.cut(c)
        for number in range(20):
            await a.server.emit("meanwhile", number)
            # what this node accepts waits for PostgreSQL to come back
            await c.server.emit("from afar", number)
        await a.manager.flush()
        cluster.mend(c)
        await cluster.quiet()
        await a.server.emit("after")
        await cluster.quiet()
        stats = c.manager.stats()
        heard = [event for event in z.received() if event[0] == "meanwhile"]
        if durable:
            assert heard == [["meanwhile", number] for number in range(20)]
            assert stats.lost == 0
        else:
            assert heard == []
            assert stats.lost == 20
            (lost,) = [e for e in c.errors if isinstance(e, MessagesLostError)]
            assert lost.count == 20
        for client in (x, y):
            afar = [event for event in client.received() if event[0] == "from afar"]
            assert afar == [["from afar", number] for number in range(20)]
        assert names(z)[0] == "before"
        assert names(z)[-1] == "after"
        assert a.manager.stats().lost == b.manager.stats().lost == 0


async def test_nothing_is_left_at_the_end(network: Network, prefix: str) -> None:
    tasks = len(anyio.get_running_tasks())
    async with SimulatedCluster(network) as cluster:
        a, b, c = await three(cluster)
        await one_each([a, b, c])
        await a.crash()
        await b.stop()
        assert c.running
    assert len(anyio.get_running_tasks()) == tasks
    if isinstance(network, PostgresNetwork):
        own = [name for _, name in sessions(network.uri, cluster.prefix)]
        assert own == []
