"""A node whose process has died is not waited for; one that is slow, frozen or cut off is."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from anyio_sio_pg import AnyIOConnection, RequestTimeoutError, UnknownSocketError
from anyio_sio_pg.postgres.presence import absent, hold
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, Client, TestNode, acquainted, eventually, node, stopwatch, terminate
from processes import NodeProcess, connected, started, until
from proxy import proxy
from servers import sql

pytestmark = pytest.mark.anyio

SLOW: dict[str, Any] = {"heartbeat_timeout": 10.0, "requests_timeout": 8.0}
"""Neither the heartbeats nor the requests' own end can be what a test sees within its bound."""

AT_ONCE = 3.0
"""Seconds within which a dead node is known: a second, and what a loaded machine adds."""

WIRES = ["cluster", "legacy"]


class Cluster:
    """Two nodes here, and one in a process of its own that bears the test's prefix as its name."""

    def __init__(self, here: TestNode, there: TestNode, process: NodeProcess):
        self.here = here
        self.there = there
        self.process = process
        self.wire = here.manager._options.wire
        # what the process says of itself is no URL
        self.far, self.mute = process.url.removeprefix("http://").split("/")
        self.clients: list[Client] = []

    @property
    def uid(self) -> str:
        """The uid of the node in the process."""
        (uid,) = self.here.manager._node.members("/") - {self.there.manager.uid}
        return uid

    @property
    def waiting(self) -> list[frozenset[str]]:
        """Whom each open request waits for."""
        return [p.tracker.missing for p in self.here.manager._node.requests._by_id.values()]

    def requests(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        """Every kind of request that the wire can carry."""
        manager = self.here.manager
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "clients": manager.clients,
            "all_rooms": manager.all_rooms,
            "custom_request": partial(manager.custom_request, "q"),
        }
        if self.wire == "cluster":
            asked["server_side_call"] = partial(manager.server_side_call, "who")
            asked["fetch_sockets"] = manager.fetch_sockets
            asked["emit_with_ack"] = partial(manager.emit_with_ack, "ask", except_rooms="mute")
        return asked

    def expected(self, *, far: bool = False) -> dict[str, Any]:
        """What the requests return, with or without the node in the process."""
        sids = sorted(client.sid for client in self.clients)
        remote = [self.far, self.mute] if far else []
        name = [self.process.name] if far else []
        rooms = ["far", "mute"] if far else []
        answers: dict[str, Any] = {
            "clients": sorted([*sids, *remote]),
            "all_rooms": sorted([*sids, *remote, "here", "there", *rooms]),
            "custom_request": sorted([[n, "q"] for n in (*name, "here", "there")]),
        }
        if self.wire == "cluster":
            answers["server_side_call"] = sorted([*name, "there"])
            answers["fetch_sockets"] = answers["clients"]
            answers["emit_with_ack"] = sorted([*name, "here", "there"])
        return answers

    async def ask(self) -> dict[str, Any]:
        """Make every kind of request at once, and return what they return, or raise, sorted."""
        results: dict[str, Any] = {}

        async def one(name: str, request: Callable[[], Awaitable[Any]]) -> None:
            try:
                results[name] = _plain(name, await request())
            except RequestTimeoutError as exc:
                results[name] = (_plain(name, exc.partial), set(exc.missing))

        async with anyio.create_task_group() as tasks:
            for name, request in self.requests().items():
                tasks.start_soon(one, name, request)
        return results

    async def answer(self) -> None:
        """Let the clients here acknowledge what they are asked, for ever."""
        async with anyio.create_task_group() as tasks:
            for client, name in zip(self.clients, ("here", "there"), strict=True):
                tasks.start_soon(_answer, client, name)


async def _answer(client: Client, name: str) -> None:
    while True:
        try:
            await client.answer(name)
        except AssertionError:
            # nobody has asked for long
            continue


def _plain(name: str, result: Any) -> list[Any]:
    if name == "fetch_sockets":
        result = [socket.id for socket in result]
    return sorted(result)


@asynccontextmanager
async def cluster(uri: str, prefix: str, backend: str, **options: Any) -> AsyncIterator[Cluster]:
    options = {**SLOW, **options}
    with process(f"bare-{backend}", uri, prefix, **options) as started_process:
        async with node(uri, prefix, **options) as here, node(uri, prefix, **options) as there:
            await anyio.to_thread.run_sync(started_process.wait_started)
            await acquainted(here, there)
            await eventually(
                lambda: all(len(n.manager._node.members("/")) == 2 for n in (here, there))
            )
            made = Cluster(here, there, started_process)
            for member, name in ((here, "here"), (there, "there")):
                member.manager.on_server_side("who")(lambda name=name: name)
                member.manager.custom_hook(lambda data, name=name: [name, data])
                made.clients.append(await member.client(rooms=[name]))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(made.answer)
                # a request that comes before a node has settled may wait for it in vain
                assert await made.ask() == made.expected(far=True)
                yield made
                tasks.cancel_scope.cancel()


@contextmanager
def process(style: str, uri: str, prefix: str, **options: Any) -> Iterator[NodeProcess]:
    made = NodeProcess(style, uri, f"far-{prefix}", prefix=prefix, **options)
    try:
        yield made
    finally:
        made.end()


# Its process is dead


@pytest.mark.parametrize("wire", WIRES)
async def test_requests_that_wait_for_a_node_end_when_it_is_killed(
    uri: str, prefix: str, anyio_backend: str, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[str]] = []

    async def look(connection: Any, uids: Any) -> list[str]:
        looked.append(await absent(connection, uids))
        return looked[-1]

    monkeypatch.setattr("anyio_sio_pg.dead_nodes.absent", look)
    async with cluster(uri, prefix, anyio_backend, wire=wire) as made, stopwatch() as took:
        uid = made.uid
        # it cannot answer before it is killed
        made.process.signal(signal.SIGSTOP)
        results: dict[str, Any] = {}

        async def ask() -> None:
            results.update(await made.ask())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            waiting = [{uid}] * len(made.requests())
            await eventually(lambda: made.waiting == waiting)
            # it has been looked for, and was there
            looked.clear()
            await eventually(lambda: looked)
            assert looked == [[]]
            assert results == {}
            took.seconds = 0.0
            made.process.signal(signal.SIGKILL)
        assert took.seconds < AT_ONCE
        assert results == made.expected()
        assert made.here.manager.stats().nodes == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_requests_begun_after_a_node_was_killed_do_not_wait_for_it(
    uri: str, prefix: str, anyio_backend: str, wire: str
) -> None:
    async with cluster(uri, prefix, anyio_backend, wire=wire) as made, stopwatch() as took:
        made.process.signal(signal.SIGKILL)
        assert await made.ask() == made.expected()
        with pytest.raises(UnknownSocketError):
            await made.here.manager.client_rooms(made.far)
        assert took.seconds < AT_ONCE
        # and from now on nobody is looked for
        took.seconds = 0.0
        assert await made.ask() == made.expected()
        assert took.seconds < 1


async def test_clients_of_a_killed_node_are_not_waited_for(
    uri: str, prefix: str, anyio_backend: str
) -> None:
    async with cluster(uri, prefix, anyio_backend) as made, stopwatch() as took:
        answers: list[Any] = []

        async def ask() -> None:
            answers.extend(await made.here.manager.emit_with_ack("ask"))

        def answered() -> bool:
            (pending,) = made.here.manager._node.requests._by_id.values()
            # all but the client that never answers
            return sorted(
                made.here.manager._answer_value(answer) for answer in pending.tracker.answers
            ) == [made.process.name, "here", "there"] and pending.tracker.missing == {uid}

        uid = made.uid
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await eventually(lambda: made.waiting and answered())
            took.seconds = 0.0
            made.process.signal(signal.SIGKILL)
        assert took.seconds < AT_ONCE
        # what the dead node's client had answered before stays
        assert sorted(answers) == [made.process.name, "here", "there"]


@pytest.mark.parametrize("style", ["block", "lifespan", "asyncio", "trio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_killed_web_server_is_not_waited_for(uri: str, prefix: str, style: str) -> None:
    # python-socketio's client is made for asyncio
    pair = started(uri, prefix, ["block" if style != "block" else "asyncio", style], **SLOW)
    try:
        async with connected(*pair) as (a, b), stopwatch() as took:
            here, there = await a.client(), await b.client()
            pair[1].signal(signal.SIGSTOP)
            results: dict[str, Any] = {}

            async def request(name: str, *args: Any) -> None:
                results[name] = await a.manager(name, *args)

            sent = (await a.manager("stats"))["sent"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(request, "clients")
                tasks.start_soon(request, "server_side_call", "who")
                tasks.start_soon(request, "emit_with_ack", "ask")

                async def all_sent() -> bool:
                    return bool((await a.manager("stats"))["sent"] >= sent + 3)

                await until(all_sent)
                await here.has(["ask"])
                assert results == {}
                took.seconds = 0.0
                pair[1].signal(signal.SIGKILL)
            assert took.seconds < AT_ONCE
            assert results == {
                "clients": [here.sid],
                "server_side_call": [],
                "emit_with_ack": [None],
            }
            assert there.events() == []
    finally:
        for member in pair:
            member.end()


# It is alive, or nobody can tell


@pytest.mark.parametrize("wire", WIRES)
async def test_a_frozen_node_is_waited_for(
    uri: str, prefix: str, anyio_backend: str, wire: str
) -> None:
    timeout = 4.0
    async with cluster(uri, prefix, anyio_backend, wire=wire, requests_timeout=timeout) as made:
        uid = made.uid
        made.process.signal(signal.SIGSTOP)
        began = anyio.current_time()
        async with stopwatch() as took:
            results = await made.ask()
        assert anyio.current_time() - began > timeout - 0.1
        assert took.seconds < timeout + 2
        assert results == {name: (answer, {uid}) for name, answer in made.expected().items()}
        made.process.signal(signal.SIGCONT)
        assert await made.ask() == made.expected(far=True)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_node_that_starts_waits_for_a_frozen_one(
    uri: str, prefix: str, anyio_backend: str, wire: str
) -> None:
    """PostgreSQL says who listens, also of those who do not answer the first heartbeat."""
    async with cluster(uri, prefix, anyio_backend, wire=wire) as made:
        uid = made.uid
        made.process.signal(signal.SIGSTOP)
        async with (
            node(uri, prefix + "x", wire=wire) as elsewhere,
            node(uri, prefix, **{**SLOW, "wire": wire, "requests_timeout": 2.0}) as newcomer,
        ):
            nodes = {uid, made.here.manager.uid, made.there.manager.uid}
            assert newcomer.manager._node.members("/") == nodes
            assert elsewhere.manager._node.members("/") == set()
            with pytest.raises(RequestTimeoutError) as raised:
                await newcomer.manager.clients()
            assert set(raised.value.missing) == {uid}
            assert sorted(raised.value.partial) == made.expected()["clients"]
            made.process.signal(signal.SIGCONT)

            async def answered() -> bool:
                return (
                    sorted(await newcomer.manager.clients()) == made.expected(far=True)["clients"]
                )

            await until(answered)


@pytest.mark.parametrize("wire", WIRES)
async def test_who_listens_and_never_says_a_word_is_given_up(
    uri: str, prefix: str, wire: str
) -> None:
    uid = secrets.token_hex(8)[: 6 if wire == "legacy" else 16]
    async with await AnyIOConnection.connect(uri) as connection:
        await hold(connection, f"{wire} {prefix}", uid)
        async with node(uri, prefix, wire=wire, **FAST) as newcomer:
            assert newcomer.manager._node.members("/") == {uid}
            assert newcomer.manager.stats().nodes == 0
            # a process that is frozen for long must not be in the way of each one that starts
            await eventually(lambda: not newcomer.manager._node.members("/"))
            assert await newcomer.manager.clients() == set()


@pytest.mark.parametrize("wire", WIRES)
async def test_a_busy_node_is_waited_for(
    uri: str, prefix: str, anyio_backend: str, wire: str
) -> None:
    async with cluster(uri, prefix, anyio_backend, wire=wire) as made:

        @made.there.manager.custom_hook
        async def slow(data: Any) -> Any:
            await anyio.sleep(data["busy"])
            return ["there", data]

        began = anyio.current_time()
        busy = {"busy": 2.0}
        async with stopwatch() as took:
            answers = await made.here.manager.custom_request(busy)
        names = ["here", "there", made.process.name]
        assert sorted(answers, key=str) == sorted(([name, busy] for name in names), key=str)
        assert anyio.current_time() - began >= 2
        assert took.seconds < 2 + AT_ONCE


@pytest.mark.parametrize("wire", WIRES)
async def test_a_node_whose_listener_comes_back_is_asked_again(
    uri: str, prefix: str, anyio_backend: str, wire: str
) -> None:
    async with cluster(uri, prefix, anyio_backend, wire=wire) as made:
        manager = made.there.manager
        for number in range(1, 4):
            assert manager.listener is not None
            terminate(uri, manager.listener.info.backend_pid)
            await eventually(lambda n=number: manager.stats().reconnects == n)
            # others have to hear it first, if they have taken it for dead
            await eventually(lambda: len(made.here.manager._node.members("/")) == 2)
            assert await made.ask() == made.expected(far=True)


async def test_no_answer_is_left_out_while_a_listener_comes_back(uri: str, prefix: str) -> None:
    async with (
        node(uri, prefix, requests_timeout=1.0) as a,
        node(uri, prefix, requests_timeout=1.0) as b,
    ):
        await acquainted(a, b)
        both = {(await a.client()).sid, (await b.client()).sid}
        missing: list[Any] = []
        # what is asked in the moments without a session is lost, but not without a word
        for number in range(1, 4):
            assert b.manager.listener is not None
            terminate(uri, b.manager.listener.info.backend_pid)
            try:
                assert await a.manager.clients() == both
            except RequestTimeoutError as exc:
                missing.append(list(exc.missing))
            await eventually(lambda n=number: b.manager.stats().reconnects == n)
        assert missing
        assert all(uids == [b.manager.uid] for uids in missing)


async def test_a_node_that_is_cut_off_is_given_up_by_its_heartbeats(
    postgres: EmbeddedPostgres, prefix: str
) -> None:
    options = {"heartbeat_interval": 0.25, "heartbeat_timeout": 3, "requests_timeout": 20}
    async with (
        proxy(postgres.port) as gate,
        node(postgres.uri, prefix, **options) as a,
        node(gate.uri, prefix, **options) as b,
    ):
        await acquainted(a, b)
        here, there = await a.client(), await b.client()
        both = {here.sid, there.sid}
        assert await a.manager.clients() == both
        gate.hold("questions")
        gate.hold("answers")
        began = anyio.current_time()
        # PostgreSQL has its session still
        async with stopwatch() as took:
            assert await a.manager.clients() == {here.sid}
        assert anyio.current_time() - began > 1.0
        assert took.seconds < 3 + AT_ONCE
        await gate.cut()
        gate.release()
        assert b.manager._node is not None
        # what is asked before it listens again does not reach it
        listener = b.manager._node.listener
        await eventually(lambda: listener.reconnects and b.manager.status == "connected")
        await acquainted(a, b)
        assert await a.manager.clients() == both


async def test_a_server_without_a_lock_is_given_up_by_its_heartbeats(uri: str, prefix: str) -> None:
    async with node(uri, prefix, requests_timeout=1.5) as a:
        # as a Node server says it: without a number
        for uid in ("0" * 16, "1" * 16):
            payload = f'{{"uid":"{uid}","type":2,"nsp":"/"}}'
            sql(uri, f"SELECT pg_notify('{prefix}#/', '{payload}')")
        await eventually(lambda: a.manager.stats().nodes == 2)
        began = anyio.current_time()
        with pytest.raises(RequestTimeoutError) as caught:
            await a.manager.clients()
        assert anyio.current_time() - began >= 1.4
        assert caught.value.missing == {"0" * 16, "1" * 16}
