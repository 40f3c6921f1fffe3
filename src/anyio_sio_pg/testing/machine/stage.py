"""The stage: where a script runs, with its nodes and clients, and says what must be so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio

from ...errors import AdapterClosedError, RequestTimeoutError
from ...status import Status
from ..clients import PATIENCE, SimulatedClient
from ..cluster import SimulatedCluster, SimulatedNode
from .checks import Census, Expectation, check_answers, check_clients, check_nodes


class Stage:
    """What a script uses beside the cluster: it knows the clients, and checks what they got."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        *,
        durable: bool = False,
        actions: Sequence[Callable[[SimulatedClient, str], object]] = (),
        check: Callable[[SimulatedCluster], object] | None = None,
    ):
        self.cluster = cluster
        self._durable = durable
        self._actions = actions
        self._check = check
        self._clients: dict[tuple[str, str], SimulatedClient] = {}
        self._all: list[SimulatedClient] = []
        self._expected: dict[tuple[SimulatedClient, str], Expectation] = {}
        self._ever_cut: set[SimulatedNode] = set()
        self._found: set[tuple[str, str]] = set()
        self._running = 0
        self._failures: list[BaseException] = []

    async def start(self) -> SimulatedNode:
        """Start a node."""
        return await self.cluster.start()

    def cut(self, node: SimulatedNode) -> None:
        """Cut a node off from PostgreSQL."""
        self._ever_cut.add(node)
        self.cluster.cut(node)

    def mend(self, node: SimulatedNode) -> None:
        """Let a node connect again."""
        self.cluster.mend(node)

    async def connect(self, node: SimulatedNode, namespace: str) -> SimulatedClient:
        """Connect a client, which acknowledges events with its number."""
        client = await node.connect(namespace)
        client.answer = lambda *_: client.number
        self._all.append(client)
        self._clients[namespace, client.sids[namespace]] = client
        return client

    async def join(self, client: SimulatedClient, namespace: str) -> None:
        """Connect a client to one more namespace."""
        self._clients[namespace, await client.join(namespace)] = client

    async def act(self, number: int, client: SimulatedClient, namespace: str) -> None:
        """Call one of the user's actions."""
        await _called(self._actions[number], client, namespace)

    def meanwhile(self, request: Callable[..., Awaitable[Any]], *, namespace: str) -> None:
        """Let a request run beside the script; it may fail only with what is to be expected."""
        self._running += 1
        self.cluster._task_group.start_soon(self._ask, request, namespace)

    async def _ask(self, request: Callable[..., Awaitable[Any]], namespace: str) -> None:
        try:
            found = await request(namespace=namespace)
            if request.__name__ != "all_rooms":
                # who is just connecting is not known here yet
                self._found |= {(namespace, getattr(each, "id", each)) for each in found}
        except (RequestTimeoutError, AdapterClosedError):
            # it was cut off, or has ended
            pass
        except Exception as exc:  # noqa: BLE001 - raised when the script waits
            self._failures.append(exc)
        finally:
            self._running -= 1

    def expect(
        self,
        client: SimulatedClient,
        namespace: str,
        must: Iterable[int],
        *,
        maybe: Iterable[int] = (),
        counted: Iterable[int] = (),
    ) -> None:
        """Say which events a client has once the cluster is quiet; ``counted`` or else lost."""
        self._expected[client, namespace] = Expectation(
            frozenset(must), frozenset(maybe), frozenset(counted)
        )

    def acknowledged(
        self,
        answers: list[Any],
        must: list[SimulatedClient],
        *,
        maybe: Iterable[SimulatedClient] = (),
    ) -> None:
        """Check whose acknowledgements there are."""
        check_answers(
            "acknowledgements", answers, {c.number for c in must}, {c.number for c in maybe}
        )

    def found(
        self,
        answer: Iterable[Any],
        namespace: str,
        must: list[SimulatedClient],
        *,
        maybe: Iterable[SimulatedClient] = (),
    ) -> None:
        """Check which clients a request has found."""
        clients = [self._clients[namespace, getattr(each, "id", each)] for each in answer]
        check_answers("clients", clients, set(must), set(maybe))

    async def quiet(self) -> None:
        """Wait until all has arrived, and check what every client has."""
        with anyio.fail_after(PATIENCE):
            for node in self._reachable():
                while node.manager.status is not Status.CONNECTED:  # noqa: ASYNC110 - has no event
                    await anyio.sleep(0.002)
            while self._running:  # noqa: ASYNC110 - so that a failure needs no task group
                await anyio.sleep(0.002)
        await self.cluster.quiet()
        if self._failures:
            raise self._failures[0]
        if strangers := self._found - set(self._clients):
            raise AssertionError(f"found, though they never were there: {strangers}")
        check_clients(self.cluster, self._all, self._expected)
        check_nodes(self.cluster, self._reachable(), durable=self._durable, ever_cut=self._ever_cut)
        if self._check is not None:
            await _called(self._check, self.cluster)

    def _reachable(self) -> list[SimulatedNode]:
        cut = self.cluster.network.is_cut
        return [n for n in self.cluster.nodes if n.running and not cut(n.name)]

    async def agree(
        self,
        namespace: str,
        rooms: Mapping[SimulatedClient, Iterable[str]],
        *,
        asked: Iterable[SimulatedNode],
    ) -> None:
        """Check that every node finds these clients in these rooms, whichever way it is asked."""
        sids = {client.sids[namespace]: {*named} for client, named in rooms.items()}
        ever = [sid for ns, sid in self._clients if ns == namespace]
        census = Census(namespace, sids, ever)
        async with anyio.create_task_group() as task_group:
            for node in asked:
                task_group.start_soon(census.ask, node, self._failures)
        if self._failures:
            raise self._failures[0]


async def _called(function: Callable[..., Any], *args: Any) -> None:
    result = function(*args)
    if isinstance(result, Awaitable):
        await result
