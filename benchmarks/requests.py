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
from support import Child, Contestant, Options, Results, child, machine, postgres, process_of

NAME = "requests"
TITLE = "Questions to a cluster of 4 nodes"

_BARE = "bare round trip"
_ROUND_TRIP = Path(__file__).with_name("round_trip.py")
_NODES = 4
_SOCKETS = (40, 10_000)
_SOME = 100
_PATIENCE = {"requests_timeout": 30.0}
"""10,000 sockets in one answer may take longer than the second that is the default."""
_WARM_UP = 5
_MOST = 300
_ROUND_TIMEOUT = 180


@dataclass(frozen=True)
class Call:
    """A question: what is asked, of how many sockets, and how many things the answer has."""

    name: str
    of: int | str
    argument: str | None
    found: int

    def case(self, sockets: int) -> dict[str, Any]:
        return {"call": self.name, "of": self.of, "sockets": sockets}


async def run(options: Options) -> Results:
    with postgres() as server:
        results = Results(NAME, TITLE, machine(server.uri), options)
        results.notes.append(
            "python-socketio's Redis manager is not here: it cannot ask other processes for their"
            " sockets or rooms."
        )
        contestants = [
            Contestant("@socket.io/postgres-adapter", "node-postgres", address=server.uri),
            Contestant("PostgresManager, asyncio", "postgres", "asyncio", server.uri, _PATIENCE),
            Contestant("PostgresManager, Trio", "postgres", "trio", server.uri, _PATIENCE),
        ]
        for number in range(1, options.rounds + 1):
            for sockets in _SOCKETS[:1] if options.quick else _SOCKETS:
                with anyio.fail_after(_ROUND_TIMEOUT):
                    bare = await _bare(server.uri, options)
                cases: list[dict[str, Any]] = []
                for contestant in contestants:
                    with anyio.fail_after(_ROUND_TIMEOUT):
                        async with _cluster(contestant, sockets) as (asker, calls):
                            for call in calls:
                                figures = await _measure(asker, call, options)
                                case = call.case(sockets)
                                if case not in cases:
                                    cases.append(case)
                                    results.add(_BARE, case, number, bare)
                                results.add(contestant.name, case, number, figures)
    return results


async def _bare(address: str, options: Options) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        processes: list[Child] = []
        for role in ("answer", "ask"):
            spec = json.dumps({"role": role, "address": address})
            process = await stack.enter_async_context(process_of(_ROUND_TRIP, spec, _BARE))
            await process.answer()
            processes.append(process)
        asker = processes[1]
        await asker.ask("ask", times=_WARM_UP)
        answer = await asker.ask("ask", times=_WARM_UP if options.quick else _MOST)
        return _figures(answer["ms"])


@asynccontextmanager
async def _cluster(contestant: Contestant, sockets: int) -> AsyncIterator[tuple[Child, list[Call]]]:
    """Start the nodes, each with its share of the sockets; yield one, and what to ask it."""
    each = sockets // _NODES
    nodes: list[Child] = []
    python = contestant.manager == "postgres"
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
        if python:
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
    while (await asker.ask("request", call="fetch_sockets", times=1))["found"] < sockets:
        await anyio.sleep(0.1)


async def _measure(asker: Child, call: Call, options: Options) -> dict[str, float]:
    async def ask(times: int) -> list[float]:
        answer = await asker.ask("request", call=call.name, times=times, argument=call.argument)
        if answer["found"] != call.found:
            raise RuntimeError(f"{call}: {answer['found']} found")
        ms: list[float] = answer["ms"]
        return ms

    ms = await ask(_WARM_UP)
    if not options.quick:
        # half a contestant's time for each of several calls
        times = options.seconds / 2 / (sum(ms) / len(ms) / 1e3)
        ms = await ask(max(_WARM_UP, min(_MOST, round(times))))
    return _figures(ms)


def _figures(ms: list[float]) -> dict[str, float]:
    parts = quantiles(ms, n=100, method="inclusive")
    return {
        "p50_ms": parts[49],
        "p99_ms": parts[98],
        "max_ms": max(ms),
        "times": float(len(ms)),
    }
