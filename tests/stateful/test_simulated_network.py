"""What only a simulated network does: it drops, repeats, delays, and is silent, as often as asked."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import anyio
import psycopg
import pytest

from anyio_sio_pg import MessagesLostError, RequestTimeoutError, Status
from anyio_sio_pg.dead_nodes import LONGEST_LOOK, LOOK
from anyio_sio_pg.postgres.presence import absent
from anyio_sio_pg.testing import SimulatedCluster, SimulatedNetwork, SimulatedNode, virtual_time
from harness import eventually

pytestmark = pytest.mark.anyio

SEEDS = range(4)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param, virtual_time(request.param)


async def trouble(cluster: SimulatedCluster, network: SimulatedNetwork, seed: int) -> list[int]:
    """Send 300 events from three nodes while nodes are cut off and fall silent."""
    chance = random.Random(seed)
    counts = [0, 0, 0]
    for _ in range(300):
        number = chance.randrange(3)
        data = b"\0" * 9_000 if chance.random() < 0.1 else None
        await cluster.nodes[number].server.emit("n", (number, counts[number], data))
        counts[number] += 1
        victim = chance.choice(cluster.nodes)
        if chance.random() < 0.03:
            cluster.cut(victim)
            await anyio.sleep(chance.random() * 2)
            cluster.mend(victim)
        if chance.random() < 0.02:
            network.silence(victim.name)
            await anyio.sleep(chance.random() * 20)
            cluster.mend(victim)
        if chance.random() < 0.2:
            await anyio.sleep(chance.random() * 0.05)
    return counts


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("durable", [False, True], ids=["plain", "durable"])
@pytest.mark.parametrize("fault", ["none", "drop", "duplicate", "unsure"])
async def test_every_loss_is_counted_and_with_durable_there_is_none(
    seed: int, durable: bool, fault: str
) -> None:
    network = SimulatedNetwork(seed)
    async with SimulatedCluster(network, durable=durable, publish_timeout=60) as cluster:
        nodes = [await cluster.start() for _ in range(3)]
        clients = [await node.connect() for node in nodes]
        await cluster.quiet()
        if fault != "none":
            setattr(network, fault, 0.1 if fault == "unsure" else 0.03)
        counts = await trouble(cluster, network, seed)
        if fault != "none":
            setattr(network, fault, 0.0)
        # a silent node has to find that out; then heartbeats tell of what is missing at the tail
        await anyio.sleep(30)
        await cluster.quiet()
        for node, client in zip(nodes, clients, strict=True):
            lost = 0
            for sender, count in enumerate(counts):
                numbers = [n for _, who, n, _ in client.received() if who == sender]
                assert numbers == sorted(set(numbers))
                lost += count - len(numbers)
            assert node.manager.stats().lost == lost
            assert sum(e.count for e in node.errors if isinstance(e, MessagesLostError)) == lost
            if durable:
                assert lost == 0
        if fault == "none" and not durable:
            assert any(node.manager.stats().lost for node in nodes)
        happened = {"drop": network.dropped, "duplicate": network.duplicated}
        assert happened.get(fault, 1)
        assert fault != "unsure" or network.broken


async def acquainted(cluster: SimulatedCluster, **options: Any) -> list[SimulatedNode]:
    nodes = [await cluster.start(**options) for _ in range(3)]
    await cluster.quiet()
    return nodes


async def test_a_silent_node_is_waited_for_until_the_heartbeats_tell() -> None:
    network = SimulatedNetwork()
    async with SimulatedCluster(
        network, requests_timeout=30, heartbeat_interval=5, heartbeat_timeout=10
    ) as cluster:
        a, _, c = await acquainted(cluster)
        network.silence(c.name)
        started = anyio.current_time()
        await a.manager.clients()
        # it holds its session, for all that PostgreSQL knows
        assert 5 <= anyio.current_time() - started <= 16
        started = anyio.current_time()
        await a.manager.clients()
        assert anyio.current_time() - started < 1


async def test_a_silent_node_knows_that_it_is_isolated_and_recovers() -> None:
    network = SimulatedNetwork()
    async with SimulatedCluster(network, heartbeat_interval=5, heartbeat_timeout=10) as cluster:
        a, _, c = await acquainted(cluster)
        there = await c.connect()
        await cluster.quiet()
        assert c.manager.status is Status.CONNECTED
        network.silence(c.name)
        with pytest.raises(RequestTimeoutError):
            await c.manager.ping()
        await eventually(lambda: c.manager.status is Status.ISOLATED, timeout=60)
        cluster.mend(c)
        await eventually(lambda: c.manager.status is Status.CONNECTED, timeout=60)
        await cluster.quiet()
        await a.server.emit("back")
        await cluster.quiet()
        assert ["back"] in there.received()


async def test_attachments_that_are_gone_come_from_the_log() -> None:
    network = SimulatedNetwork(delay=(0.01, 0.02))
    async with SimulatedCluster(network, durable=True) as cluster:
        a, b, _ = await acquainted(cluster)
        there = await b.connect()
        await cluster.quiet()
        for number in range(10):
            await a.server.emit("big", (number, b"\0" * 9_000))
            await a.manager.flush()
            network.forget_attachments()
        await cluster.quiet()
        assert [n for _, n, _ in there.received()] == list(range(10))
        assert b.manager.stats().lost == 0


# The search for the dead


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When PostgreSQL was asked who is dead."""
    times: list[float] = []

    async def look(connection: Any, uids: Any) -> list[str]:
        times.append(anyio.current_time())
        return await absent(connection, uids)

    monkeypatch.setattr("anyio_sio_pg.dead_nodes.absent", look)
    return times


async def never(_: Any) -> None:
    await anyio.sleep(math.inf)


async def test_looks_for_a_node_that_is_alive_but_silent_grow_rare(looks: list[float]) -> None:
    network = SimulatedNetwork(delay=(0.001, 0.001))
    async with SimulatedCluster(network, requests_timeout=20) as cluster:
        a, b, _ = await acquainted(cluster)
        b.manager.custom_hook(never)
        # they are frequent again for the second request
        for _ in range(2):
            looks.clear()
            began = anyio.current_time()
            with pytest.raises(RequestTimeoutError) as caught:
                await a.manager.custom_request("q")
            assert caught.value.missing == {b.manager.uid}
            assert len(looks) >= 10
            for n, (earlier, later) in enumerate(pairwise([began, *looks])):
                least = min(LOOK * 1.5**n, LONGEST_LOOK)
                assert least - 0.01 < later - earlier < least + LOOK + 0.01


@pytest.mark.parametrize("victim", ["the one that is waited for", "another"])
async def test_a_new_request_does_not_wait_as_long_as_an_old_one_for_the_next_look(
    looks: list[float], victim: str
) -> None:
    network = SimulatedNetwork(delay=(0.001, 0.001))
    beats = {"heartbeat_interval": 30, "heartbeat_timeout": 90}
    async with SimulatedCluster(network, requests_timeout=1, **beats) as cluster:
        a, b, c = await acquainted(cluster)
        b.manager.custom_hook(never)

        async def ask() -> None:
            await a.manager.custom_request("q", timeout=60)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            # they have grown rare
            await eventually(lambda: len(looks) == 10)
            await (c if victim == "another" else b).crash()
            began = anyio.current_time()
            assert await a.manager.clients() == set()
            assert anyio.current_time() - began < 3 * LOOK
            tasks.cancel_scope.cancel()


async def test_old_messages_that_are_replayed_do_not_bring_a_dead_node_back() -> None:
    network = SimulatedNetwork(delay=(0.001, 0.001))
    beats = {"heartbeat_interval": 30, "heartbeat_timeout": 90}
    async with SimulatedCluster(network, durable=True, **beats) as cluster:
        a, b, c = await acquainted(cluster)
        there = await a.connect()
        await cluster.quiet()
        network.drop = 1.0
        await c.server.emit("missed")
        await c.manager.flush()
        await network.settled()
        network.drop = 0.0
        await c.crash()
        await a.manager.clients()
        await b.manager.clients()
        assert a.manager.stats().nodes == b.manager.stats().nodes == 1
        cluster.cut(a)
        await eventually(lambda: a.manager.status is not Status.CONNECTED)
        cluster.mend(a)
        await eventually(lambda: ["missed"] in there.received())
        assert a.manager._node is not None
        assert a.manager._node.members("/") == {b.manager.uid}


async def test_the_dead_are_found_while_the_log_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SimulatedNetwork()
    async with SimulatedCluster(network, durable=True, requests_timeout=10) as cluster:
        a, b, _ = await acquainted(cluster)
        assert a.manager._node is not None
        asked: list[Any] = []
        answers: list[Any] = []
        refused = 0

        @b.manager.custom_hook
        async def hook(data: Any) -> None:
            asked.append(data)
            await never(data)

        async def ask() -> None:
            answers.extend(await a.manager.custom_request("q"))

        async def refuse(*_: Any) -> None:
            nonlocal refused
            refused += 1
            raise psycopg.errors.DiskFull("the disk is full")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await eventually(lambda: asked)
            monkeypatch.setattr(a.manager._node.publisher, "_commit", refuse)
            await a.server.emit("n")
            await eventually(lambda: refused >= 2)
            await b.crash()
        assert answers == [None, None]
        assert a.manager.stats().queue_depth
        monkeypatch.undo()


async def test_a_client_that_is_not_in_the_main_namespace_says_where_it_is() -> None:
    async with SimulatedCluster(SimulatedNetwork()) as cluster:
        node = await cluster.start()
        client = await node.connect("/chat")
        with pytest.raises(LookupError, match=r"not in the namespace '/'.*sids\['/chat'\]"):
            assert client.sid
        assert client.sids["/chat"] in await node.manager.clients(namespace="/chat")
        assert await client.join() == client.sid
        await client.leave("/chat")
        await client.leave()
        with pytest.raises(LookupError, match="nor in any other"):
            assert client.sid


def test_a_cluster_has_a_prefix_of_its_own_or_the_one_it_is_given() -> None:
    network = SimulatedNetwork()
    assert SimulatedCluster(network).prefix != SimulatedCluster(network).prefix
    assert SimulatedCluster(network, prefix="socket.io").prefix == "socket.io"
