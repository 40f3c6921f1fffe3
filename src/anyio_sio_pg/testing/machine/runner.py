"""Running a script: an event loop and a cluster for it, and nothing left of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
import psycopg

from ...manager import PostgresManager
from ...postgres.connection import AnyIOConnection
from ..clients import SimulatedClient
from ..cluster import SimulatedCluster
from ..network import Network, PostgresNetwork
from .script import Script
from .stage import Stage

_PATIENT: Final = {"requests_timeout": 10.0, "heartbeat_interval": 1.0, "heartbeat_timeout": 3.0}
"""A request outlasts all that its nodes need to tell who is dead, on a slow machine too."""


def run(
    script: Callable[[Stage, SimulatedCluster], Awaitable[None]],
    network: Callable[[], Network] | str,
    *,
    backend: str = "asyncio",
    backend_options: dict[str, Any] | None = None,
    make_server: Callable[[PostgresManager], Any] | None = None,
    actions: Sequence[Callable[[SimulatedClient, str], object]] = (),
    check: Callable[[SimulatedCluster], object] | None = None,
    durable: bool = False,
    **options: Any,
) -> None:
    """Run a script in an event loop of its own, with a new cluster, and check what is left.

    ``network`` makes the cluster's network, or is the URI of a PostgreSQL; ``backend`` and
    ``backend_options`` are those of ``anyio.run``; ``make_server`` and ``options`` those of
    :class:`.SimulatedCluster`. ``actions`` are functions of a client and a namespace of it, sync
    or async, that the script calls in between; ``check`` is called with the cluster whenever it is
    quiet. What they, and the server's handlers, do must leave alone the rooms "r1" to "r3" and the
    events "node1", "node2" and so on.

    :raises AssertionError: the cluster did not keep a promise; a note has the script.
    """
    make_network = _to_postgres(network) if isinstance(network, str) else network

    async def main() -> None:
        before = set(anyio.get_running_tasks())
        made = make_network()
        settings: dict[str, Any] = {**_PATIENT, "durable": durable, **options}
        async with SimulatedCluster(made, make_server=make_server, **settings) as cluster:
            stage = Stage(cluster, durable=durable, actions=actions, check=check)
            await script(stage, cluster)
            prefix = str(cluster._options["prefix"])
        if left := set(anyio.get_running_tasks()) - before:
            raise AssertionError(f"tasks are left: {left}")
        if isinstance(made, PostgresNetwork):
            await _no_session(made.uri, prefix)

    try:
        anyio.run(main, backend=backend, backend_options=backend_options)
    except BaseException as exc:
        if isinstance(script, Script):
            exc.add_note(f"The script, on {backend}:\n\n{script!r}")
        raise


def _to_postgres(uri: str) -> Callable[[], Network]:
    return lambda: PostgresNetwork(uri)


async def _no_session(uri: str, name: str) -> None:
    connection = await AnyIOConnection.connect(uri, autocommit=True)
    try:
        query = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = %s"
        with anyio.move_on_after(5):
            while True:
                cursor: psycopg.AsyncCursor[Any] = await connection.execute(query, [name])
                row = await cursor.fetchone()
                if row is not None and row[0] == 0:
                    return
                await anyio.sleep(0.002)
    finally:
        await connection.close()
    raise AssertionError("sessions are left")
