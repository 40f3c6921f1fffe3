"""How long the questions to a cluster take, beside a bare question and answer through PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
from support import (
    Child,
    Contestant,
    Options,
    Results,
    child,
    machine,
    node_packages,
    postgres,
    process_of,
)

NAME = "questions"
TITLE = "Questions to a cluster of 4 nodes"

_BARE = {
    "bare round trip": ("blocking", 1),
    "bare round trip, 3 answers": ("blocking", 3),
    "bare round trip, asyncio": ("asyncio", 1),
}
"""What waits for notifications (the process itself, or psycopg on an event loop), and how many
processes answer."""
_ROUND_TRIP = Path(__file__).with_name("round_trip.py")
_NODES = 4
_SOCKETS = (40, 10_000)
_SOME = 100
_PATIENCE = {"requests_timeout": 30.0}
"""10,000 sockets in one answer may take longer than the second that is the default."""
_PAUSE = 0.002
"""Seconds between two questions, so that each finds the cluster at rest."""
_ROUNDS = 0.6
"""As a share of the options'."""
_WARM_UP = 10
_FEWEST = 3
_MOST = 200
_SLOW = 0.2
"""Seconds from which a question needs no warm-up."""
_ROUND_TIMEOUT = 180


Key = tuple[str, int | str]


@dataclass(frozen=True)
class Call:
    """A question: what is asked, of how many sockets, and how many things the answer has."""

    name: str
    of: int | str
    argument: str | None
    found: int

    @property
    def key(self) -> Key:
        return self.name, self.of

    def case(self, sockets: int) -> dict[str, Any]:
        return {"call": self.name, "of": self.of, "sockets": sockets}


async def run(options: Options) -> Results:
    node_packages()
    with postgres() as server:
        address = server.uri
        results = Results(NAME, TITLE, machine(address), options)
        results.notes.append(
            "python-socketio's Redis manager is not here: it cannot ask other processes for their"
            " sockets or rooms."
        )
        contestants = [
            Contestant(
                "@socket.io/postgres-adapter",
                "node-postgres",
                address=address,
                program="peers/node.js",
            ),
            Contestant("PostgresManager, asyncio", "postgres", "asyncio", address, _PATIENCE),
            Contestant("PostgresManager, Trio", "postgres", "trio", address, _PATIENCE),
        ]
        for number in range(1, max(1, round(options.rounds * _ROUNDS)) + 1):
            for sockets in _SOCKETS[:1] if options.quick else _SOCKETS:
                figures: dict[str, dict[Key, dict[str, float]]] = {}
                with anyio.fail_after(_ROUND_TIMEOUT):
                    bare = {name: await _bare(address, name, options) for name in _BARE}
                    for contestant in contestants:
                        async with _cluster(contestant, sockets) as (asker, calls):
                            figures[contestant.name] = {
                                call.key: await _measure(asker, call, options) for call in calls
                            }
                # the last one has all the calls
                for call in calls:
                    case = call.case(sockets)
                    for name, found in bare.items():
                        results.add(name, case, number, found)
                    for name, by_call in figures.items():
                        if call.key in by_call:
                            results.add(name, case, number, by_call[call.key])
    return results


async def _bare(address: str, name: str, options: Options) -> dict[str, float]:
    kind, answers = _BARE[name]
    async with AsyncExitStack() as stack:
        processes: list[Child] = []
        for role in [*["answer"] * answers, "ask"]:
            spec = json.dumps({"role": role, "kind": kind, "address": address})
            process = await stack.enter_async_context(process_of(_ROUND_TRIP, spec, name))
            await process.answer()
            processes.append(process)

        async def ask(times: int) -> list[float]:
            answer = await processes[-1].ask("ask", times=times, pause=_PAUSE, answers=answers)
            ms: list[float] = answer["ms"]
            return ms

        await ask(_WARM_UP)
        return _figures(await ask(_WARM_UP if options.quick else _MOST))


@asynccontextmanager
async def _cluster(contestant: Contestant, sockets: int) -> AsyncIterator[tuple[Child, list[Call]]]:
    """Start the nodes, each with its share of the sockets; yield one, and what to ask it."""
    each = sockets // _NODES
    nodes: list[Child] = []
    async with AsyncExitStack() as stack:
        for _ in range(_NODES):
            node = await stack.enter_async_context(child(contestant, each))
            nodes.append(node)
        # the rooms are everywhere, but for the one whose socket is on another node
        in_some = min(_SOME, sockets // 2)
        for node in nodes:
            await node.ask("join", room="some", clients=in_some // _NODES)
        sids = (await nodes[-1].ask("join", room="one", clients=1))["sids"]
        calls = [
            Call("fetch_sockets", 1, "one", 1),
            Call("fetch_sockets", in_some, "some", in_some),
            Call("fetch_sockets", "all", None, sockets),
        ]
        if contestant.manager == "postgres":
            calls += [
                Call("clients", 1, "one", 1),
                Call("clients", in_some, "some", in_some),
                Call("client_rooms", 1, sids[0], 3),
                Call("all_rooms", "all", None, sockets + 2),
            ]
        await _meet(nodes[0], sockets)
        yield nodes[0], calls


async def _meet(asker: Child, sockets: int) -> None:
    """Ask until all nodes know one another."""
    while (await asker.ask("request", call="fetch_sockets", times=1, pause=0))["found"] < sockets:
        await anyio.sleep(0.1)


async def _measure(asker: Child, call: Call, options: Options) -> dict[str, float]:
    async def ask(times: int) -> list[float]:
        answer = await asker.ask(
            "request", call=call.name, times=times, argument=call.argument, pause=_PAUSE
        )
        if answer["found"] != call.found:
            raise RuntimeError(f"{call}: {answer['found']} found")
        ms: list[float] = answer["ms"]
        return ms

    ms = await ask(1)
    if options.quick:
        return _figures(ms + await ask(1))
    if ms[0] < _SLOW * 1e3:
        ms = await ask(_WARM_UP)
    # half a contestant's time for each of several calls
    times = round(options.seconds / 2 / (sum(ms) / len(ms) / 1e3))
    return _figures(await ask(max(_FEWEST, min(_MOST, times))))


def _figures(ms: list[float]) -> dict[str, float]:
    parts = quantiles(ms, n=100, method="inclusive")
    return {
        "p50_ms": parts[49],
        "p99_ms": parts[98],
        "max_ms": max(ms),
        "times": float(len(ms)),
    }
