"""Events a second to many nodes, and what nodes cost that listen to something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import psycopg
from events import (
    ASYNCIO,
    HIREDIS,
    NODE_POSTGRES,
    NODE_REDIS,
    Case,
    Field,
    check,
    cluster,
    field,
    measure,
)
from support import Options, Results, machine

NAME = "nodes"
TITLE = "Events a second to many nodes"

NODES = (2, 4, 8, 16, 32)
"""One of them sends; each other has a client, and all is done when the last has all events."""

IDLE = (0, 8, 32)
"""Nodes that listen to other channels of the same database, beside two that work."""

CASE = Case(100, binary=False)

_ROUNDS = 0.6
"""The processes take most of the time to start, and so there are fewer rounds."""

_SECONDS = 0.6
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


async def one(field: Field, results: Results, name: str, nodes: int) -> dict[str, float]:
    contestant = field.contestants[name]
    async with cluster(contestant, nodes - 1) as together:
        figures = await measure(
            together,
            CASE,
            seconds=results.options.seconds * (_QUICK if results.options.quick else _SECONDS),
            server_cpu=partial(field.server_cpu, contestant),
        )
    check(results, contestant, CASE, figures)
    return figures


async def run(options: Options) -> Results:
    with field() as found:
        results = Results(NAME, TITLE, machine(found.postgres_uri, found.redis_url), options)
        results.notes.append(
            "An idle node is a session that listens to a channel of its own, without a process."
        )
        rounds = 1 if options.quick else max(1, round(options.rounds * _ROUNDS))
        for nodes in (4,) if options.quick else NODES:
            for number in range(1, rounds + 1):
                for name in (HIREDIS, NODE_POSTGRES, NODE_REDIS, ASYNCIO):
                    figures = await one(found, results, name, nodes)
                    results.add(name, {"nodes": nodes}, number, figures)
        for number in range(1, rounds + 1):
            for count in (8,) if options.quick else IDLE:
                for name in (NODE_POSTGRES, ASYNCIO):
                    with idle(found.postgres_uri, count):
                        figures = await one(found, results, name, 2)
                    results.add(name, {"nodes": 2, "idle": count}, number, figures)
    return results
