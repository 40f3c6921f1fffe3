"""Any number of nodes in one process, with clients in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import socketio
from anyio.abc import TaskGroup, TaskStatus

from ..errors import AdapterError, RequestTimeoutError
from ..manager import PostgresManager
from ..server import AnyIOServer
from ..status import Status
from .clients import PATIENCE, SimulatedClient
from .network import Network, PostgresNetwork

if TYPE_CHECKING:
    from typing import Self

_clusters = itertools.count(1)


class SimulatedNode:
    """A server and its manager; :meth:`SimulatedCluster.start` makes one.

    ``server`` is the Socket.IO server, ``manager`` its :class:`.PostgresManager`, ``errors`` what
    its ``on_error`` was given.
    """

    def __init__(self, cluster: SimulatedCluster, name: str, manager: PostgresManager):
        self.cluster = cluster
        self.name = name
        self.manager = manager
        self.server: Any = None
        self.app: Any = None
        self.errors: list[Exception] = []
        self.clients: list[SimulatedClient] = []
        self.running = False
        self._scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._ended = anyio.Event()

    def __repr__(self) -> str:
        return self.name

    async def connect(
        self,
        namespace: str = "/",
        *,
        auth: Any = None,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> SimulatedClient:
        """Connect a client to this node, and to a namespace.

        :raises RefusedError: the server refused it.
        """
        client = SimulatedClient(self, next(self.cluster._numbers))
        self.cluster._task_group.start_soon(client._run, self.app, query or {}, headers or {})
        await client._until(lambda: client.open)
        await client.join(namespace, auth)
        self.clients.append(client)
        return client

    async def stop(self) -> None:
        """Let the node's blocks end, and return when they have."""
        self._leave.set()
        await self._ended.wait()

    async def crash(self) -> None:
        """End the node as if its process had been killed: nobody is told, nothing is flushed."""
        self.cluster.network.cut(self.name)
        for client in self.clients:
            client.hang_up()
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            with self._scope, contextlib.suppress(AdapterError):
                async with self.manager, self.cluster._serving(self):
                    self.running = True
                    task_status.started()
                    await self._leave.wait()
        finally:
            self.running = False
            self._ended.set()


class SimulatedCluster(anyio.AsyncContextManagerMixin):
    """A cluster of any number of nodes in one process, on asyncio or Trio.

    An async context manager. ``network`` is a :class:`.SimulatedNetwork`, a
    :class:`.PostgresNetwork`, or the URI of a PostgreSQL; ``make_server`` makes the server of a
    node around its manager (None: an :class:`.AnyIOServer`), with its handlers. The other options
    are those of every node's :class:`.PostgresManager`. At the end all nodes are stopped.

    Each cluster has a ``prefix`` of its own: an emitter, or a statement of
    :func:`.emit_statement`, reaches it with ``prefix=cluster.prefix``. For one that uses the default
    prefix, make the cluster with ``prefix="socket.io"``.
    """

    def __init__(
        self,
        network: Network | str,
        *,
        make_server: Callable[[PostgresManager], Any] | None = None,
        **options: Any,
    ):
        self.network: Network = PostgresNetwork(network) if isinstance(network, str) else network
        self.nodes: list[SimulatedNode] = []
        self._make_server = make_server or _default_server
        self.prefix: str = options.setdefault("prefix", f"simulated{next(_clusters)}")
        self._options = {"shutdown_timeout": 1.0, **options}
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self._task_group: TaskGroup

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        try:
            async with anyio.create_task_group() as task_group:
                self._task_group = task_group
                await self.network.serve(task_group)
                try:
                    yield self
                finally:
                    await self._stop_all()
                    task_group.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # a test's own failure is raised as it is
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group.exceptions[0].__cause__
            raise

    async def _stop_all(self) -> None:
        with anyio.CancelScope(deadline=anyio.current_time() + PATIENCE, shield=True):
            for node in self.nodes:
                if node.running:
                    await node.stop()

    async def start(self, **options: Any) -> SimulatedNode:
        """Start a node, with options of its own, and return it once it takes part."""
        name = f"node{next(self._names)}"
        errors: list[Exception] = []
        manager = self.network.manager(
            name, **{"on_error": errors.append, **self._options, **options}
        )
        node = SimulatedNode(self, name, manager)
        node.errors = errors
        await self._task_group.start(node._run)
        self.nodes.append(node)
        return node

    def cut(self, node: SimulatedNode) -> None:
        """End a node's sessions, and refuse it new ones until :meth:`mend`."""
        self.network.cut(node.name)

    def mend(self, node: SimulatedNode) -> None:
        """Let a node connect again."""
        self.network.mend(node.name)

    async def quiet(self, timeout: float = PATIENCE) -> None:
        """Return when all that was sent has arrived, and all that it led to as well.

        Nodes that are cut off are not waited for.

        :raises TimeoutError: that was not so within ``timeout`` seconds.
        """
        with anyio.fail_after(timeout):
            before: list[int] | None = None
            while (now := await self._round()) != before:
                before = now

    async def _round(self) -> list[int]:
        nodes = [
            node
            for node in self.nodes
            if node.running and node.manager.status is not Status.CLOSED and not self._is_cut(node)
        ]
        for node in nodes:
            await node.manager.flush()
        await self.network.settled()
        for node in nodes:
            while True:
                with contextlib.suppress(RequestTimeoutError):
                    await node.manager.ping()
                    break
            await _settled(node.manager)
            for client in list(node.clients):
                await client.settled()
        return [sum(_inner(node.manager)._numbers.values()) for node in nodes]

    def _is_cut(self, node: SimulatedNode) -> bool:
        return self.network.is_cut(node.name)

    @asynccontextmanager
    async def _serving(self, node: SimulatedNode) -> AsyncGenerator[None]:
        server = node.server = self._make_server(node.manager)
        node.app = socketio.ASGIApp(server)
        if isinstance(server, AnyIOServer):
            async with server:
                yield
        else:
            yield


def _default_server(manager: PostgresManager) -> AnyIOServer:
    return AnyIOServer(client_manager=manager, namespaces="*")


def _inner(manager: PostgresManager) -> Any:
    return manager._node


async def _settled(manager: PostgresManager) -> None:
    """Return when a node has acted on all that it has heard."""
    node = _inner(manager)
    listener = node.listener
    while (  # noqa: ASYNC110 - what the application's handlers do tells nobody when it ends
        listener._inbox or listener._pending or node._events or manager._disconnecting
    ):
        await anyio.sleep(0.001)
