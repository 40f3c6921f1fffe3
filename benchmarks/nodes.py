"""Events a second to many nodes, and what nodes cost that listen to something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from typing import Any

import psycopg
from events import (
    ASYNCIO,
    HIREDIS,
    NODE_POSTGRES,
    NODE_REDIS,
    Case,
    Cluster,
    Field,
    check,
    cluster,
    measure,
    servers,
)
from support import Options, Results, machine

NAME = "nodes"
TITLE = "Events a second to many nodes"

NODES = (2, 4, 8, 16, 32)
"""One of them sends; each other has a client, and all is done when the last has all events."""

IDLE = (0, 8, 32)
"""Nodes that listen to other channels of the same database, beside two that work."""

SENT = Case(100, binary=False)

_ROUNDS = 0.6
"""The processes take most of the time to start, and so there are fewer rounds."""

_SECONDS = 0.6

_PATIENCE = 12
"""The most that the warm-up of a contestant takes, in the seconds of the options."""

_QUICK = 0.05


@contextmanager
def idle(uri: str, nodes: int) -> Iterator[None]:
    """Keep the sessions of idle nodes.

    A session is all that a node is to PostgreSQL between its heartbeats, and costs it as much:
    the server wakes it for each commit and finds nothing for it.
    """
    with ExitStack() as stack:
        for number in range(nodes):
            session = stack.enter_context(psycopg.connect(uri, autocommit=True))
            session.execute(f'LISTEN "idle{number}#/"')
        yield


class Rounds:
    """Measures contestants in turn, whose processes go on through all rounds of a case.

    To start 32 processes takes far longer than a round, and V8 needs thousands of events in each
    until it has compiled what it runs.
    """

    def __init__(self, results: Results):
        options = results.options
        self.results = results
        self.number = 1 if options.quick else max(1, round(options.rounds * _ROUNDS))
        self.seconds = options.seconds * (_QUICK if options.quick else _SECONDS)
        self.patience = options.seconds * (_QUICK if options.quick else _PATIENCE)

    async def one(
        self, field: Field, name: str, cluster: Cluster, number: int, case: dict[str, Any]
    ) -> None:
        contestant = field.contestants[name]
        figures = await measure(
            cluster,
            SENT,
            seconds=self.seconds,
            patience=self.patience if number == 1 else 0,
            server_cpu=partial(field.server_cpu, contestant),
        )
        check(self.results, contestant, SENT, figures)
        self.results.add(name, case, number, figures)

    async def busy(self, fields: dict[str, Field], nodes: int) -> None:
        """Measure with so many nodes that all get the events, but for the one that sends."""
        async with AsyncExitStack() as stack:
            clusters = {
                name: await stack.enter_async_context(cluster(field.contestants[name], nodes - 1))
                for name, field in fields.items()
            }
            for number in range(1, self.number + 1):
                for name, field in fields.items():
                    await self.one(field, name, clusters[name], number, {"nodes": nodes})

    async def idle(self, fields: dict[str, Field], counts: Sequence[int]) -> None:
        """Measure two nodes, beside some that hear nothing of them."""
        async with AsyncExitStack() as stack:
            clusters = {
                name: await stack.enter_async_context(cluster(field.contestants[name], 1))
                for name, field in fields.items()
            }
            for number in range(1, self.number + 1):
                for count in counts:
                    for name, field in fields.items():
                        with idle(field.postgres_uri, count):
                            case = {"nodes": 2, "idle": count}
                            await self.one(field, name, clusters[name], number, case)


async def run(options: Options) -> Results:
    # each contestant has a server of its own, or what listens to it would cost the others
    with servers() as one, servers() as other:
        results = Results(NAME, TITLE, machine(one.postgres_uri, one.redis_url), options)
        results.notes.append(
            "An idle node is a session that listens to a channel of its own, without a process"
        )
        rounds = Rounds(results)
        fields = {HIREDIS: one, NODE_POSTGRES: one, NODE_REDIS: other, ASYNCIO: other}
        for nodes in (4,) if options.quick else NODES:
            await rounds.busy(fields, nodes)
        fields = {NODE_POSTGRES: one, ASYNCIO: other}
        await rounds.idle(fields, (8,) if options.quick else IDLE)
    return results
