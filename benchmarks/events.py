"""Events a second from ``emit`` in one process to a client's queue in another, and their CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
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
    redis,
    redis_pid,
    server_cpu,
)

NAME = "events"
TITLE = "Events a second from one process to another"

QUIET = 5.0
"""Seconds without an event after which those that are missing are lost."""

_MEET_TIMEOUT = 20
WARM = {
    "node.py": 200,
    "pipe.py": 10_000,
    # V8 takes that many until it has compiled what it runs
    "peers/node.js": 10_000,
}
"""Events that are sent before those that count, by what the process runs."""

_PROBE = 0.2
"""The part of the time in which it is seen how many events fill it."""

LARGER = (1_000, 16_000, 256_000)

_NOTIFICATION = 7_000
"""Bytes of data that surely fit into a notification."""

_QUICK = 0.05

_FEWEST = 20
_STARTING = 2
"""Processes that start at the same time."""


@dataclass(frozen=True)
class Field:
    """The contestants, their servers, and what is expected of them."""

    contestants: dict[str, Contestant]
    postgres_pid: int
    redis_pid: int
    postgres_uri: str
    redis_url: str

    def server_cpu(self, contestant: Contestant) -> float:
        on_redis = contestant.address == self.redis_url
        return server_cpu(self.redis_pid if on_redis else self.postgres_pid)


REDIS = "AsyncRedisManager"
HIREDIS = "AsyncRedisManager, hiredis"
NODE_POSTGRES = "@socket.io/postgres-adapter"
NODE_REDIS = "@socket.io/redis-adapter"
PG_MANAGER = "socketio-pg-manager"
PIPE = "bare libpq pipe"
LOOP_PIPE = "bare pipe, asyncio"
ASYNCIO = "PostgresManager, asyncio"
TRIO = "PostgresManager, Trio"
DURABLE = "PostgresManager, durable=True"
UNLOGGED = 'PostgresManager, durable="unlogged"'

LOSSLESS = (PIPE, LOOP_PIPE, ASYNCIO, TRIO, DURABLE, UNLOGGED)
"""Of whom a lost event is a failure of the measure."""


@contextmanager
def servers() -> Iterator[Field]:
    """Run the servers."""
    node_packages()
    with postgres() as server, redis() as redis_url:
        uri = server.uri
        peer = "peers/node.js"
        contestants = [
            Contestant(REDIS, "redis", address=redis_url),
            Contestant(HIREDIS, "hiredis", address=redis_url),
            Contestant(NODE_POSTGRES, "node-postgres", address=uri, program=peer),
            Contestant(NODE_REDIS, "node-redis", address=redis_url, program=peer),
            Contestant(PG_MANAGER, "pg-manager", address=uri),
            Contestant(PIPE, "pipe", address=uri, program="pipe.py"),
            Contestant(LOOP_PIPE, "loop-pipe", address=uri, program="pipe.py"),
            Contestant(ASYNCIO, "postgres", address=uri),
            Contestant(TRIO, "postgres", "trio", address=uri),
            Contestant(DURABLE, "logged", address=uri),
            Contestant(UNLOGGED, "unlogged", address=uri),
        ]
        pid = server.pid
        assert pid is not None
        yield Field(
            {contestant.name: contestant for contestant in contestants},
            pid,
            redis_pid(redis_url),
            uri,
            redis_url,
        )


@dataclass(frozen=True)
class Case:
    """What is sent."""

    bytes: int
    binary: bool

    @property
    def case(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "binary": self.binary}

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes of {'binary data' if self.binary else 'text'}"


@dataclass
class Cluster:
    """A sender, and receivers with a client each."""

    program: str
    sender: Child
    receivers: list[Child]
    sent: int = 0
    done: Counter[Case] = field(default_factory=Counter)
    """Events that all have got."""

    async def send(
        self, events: int, case: Case, *, server_cpu: Callable[[], float]
    ) -> dict[str, float]:
        """Send and return the figures, which end with the last receiver's last event."""
        # each time another name: what is late from the time before does not count
        self.sent += 1
        name = f"event{self.sent}"
        everyone = [self.sender, *self.receivers]
        before = [(await node.ask("cpu"))["cpu"] for node in everyone]
        server = server_cpu()
        for node in self.receivers:
            await node.ask("expect", name=name, events=events)
        for node in self.receivers:
            await node.tell("receive", quiet=QUIET)
        sent = await self.sender.ask(
            "emit", name=name, events=events, bytes=case.bytes, binary=case.binary
        )
        received = [await node.answer() for node in self.receivers]
        server = server_cpu() - server
        after = [(await node.ask("cpu"))["cpu"] for node in everyone]
        cpu = [(now - then) / events * 1e6 for now, then in zip(after, before, strict=True)]
        arrived = min(answer["events"] for answer in received)
        last = max(answer["last"] for answer in received)
        seconds = max(last - sent["first"], 1) / 1e9
        figures = {
            "rate": arrived / seconds,
            "events": float(events),
            "seconds": seconds,
            "emitted_seconds": (sent["accepted"] - sent["first"]) / 1e9,
            "sender_us": cpu[0],
            "receiver_us": sum(cpu[1:]) / len(self.receivers),
            "server_us": server / events * 1e6,
        }
        self.done[case] += events
        if arrived != events:
            figures["lost"] = float(events - arrived)
        return figures

    async def meet(self) -> None:
        """Send until something arrives everywhere: a subscription may take its time."""
        with anyio.fail_after(_MEET_TIMEOUT):
            waiting = set(range(len(self.receivers)))

            async def wait(number: int) -> None:
                node = self.receivers[number]
                arrived = False
                while not arrived:
                    await node.ask("expect", name="hello", events=1)
                    arrived = (await node.ask("receive", quiet=1))["events"] > 0
                waiting.discard(number)

            async with anyio.create_task_group() as tg:
                for number in waiting:
                    tg.start_soon(wait, number)
                while waiting:
                    await self.sender.ask("emit", name="hello", events=1, bytes=1)
                    await anyio.sleep(0.05)


@asynccontextmanager
async def cluster(contestant: Contestant, receivers: int) -> AsyncIterator[Cluster]:
    """Start a sender and receivers, and yield them once they hear each other."""
    nodes: list[Child] = []
    turns = anyio.Semaphore(_STARTING)
    ready = anyio.Event()
    finished = anyio.Event()

    async def keep() -> None:
        await turns.acquire()
        async with child(contestant, 1) as node:
            turns.release()
            nodes.append(node)
            if len(nodes) == receivers:
                ready.set()
            await finished.wait()

    async with anyio.create_task_group() as tg, child(contestant, 0) as sender:
        for _ in range(receivers):
            tg.start_soon(keep)
        await ready.wait()
        together = Cluster(contestant.program, sender, nodes)
        await together.meet()
        yield together
        finished.set()


async def measure(
    cluster: Cluster,
    case: Case,
    *,
    seconds: float,
    patience: float,
    server_cpu: Callable[[], float],
) -> dict[str, float]:
    """Send for about so many seconds; before the first time warm up, with some ``patience``."""
    send = partial(cluster.send, case=case, server_cpu=server_cpu)
    deadline = anyio.current_time() + patience
    figures = await send(_FEWEST)
    while cluster.done[case] < WARM[cluster.program] and anyio.current_time() < deadline:
        figures = await send(max(_FEWEST, round(figures["rate"] * seconds * _PROBE)))
    figures = await send(max(_FEWEST, round(figures["rate"] * seconds * _PROBE)))
    return await send(max(_FEWEST, round(figures["rate"] * seconds)))


def check(results: Results, contestant: Contestant, case: Case, figures: dict[str, float]) -> None:
    """Fail, or note it, where events were lost."""
    if "lost" not in figures:
        return
    text = f"{contestant.name} lost events of {case}"
    if contestant.name in LOSSLESS:
        raise RuntimeError(f"{text}: {figures['lost']:.0f} of {figures['events']:.0f}")
    if text not in results.notes:
        results.notes.append(text)


async def compare(
    contest: Field,
    results: Results,
    names: Sequence[str],
    cases: Sequence[tuple[Case, float]],
    *,
    rounds: int,
) -> None:
    """Measure the contestants in turn, round after round; each does all cases in one go.

    A case comes with its share of the options' seconds.
    """
    for number in range(1, rounds + 1):
        for name in names:
            contestant = contest.contestants[name]
            async with cluster(contestant, 1) as pair:
                for case, share in cases:
                    if not can(name, case):
                        continue
                    figures = await measure(
                        pair,
                        case,
                        seconds=share * results.options.seconds,
                        patience=_QUICK if results.options.quick else results.options.seconds,
                        server_cpu=partial(contest.server_cpu, contestant),
                    )
                    check(results, contestant, case, figures)
                    results.add(name, case.case, number, figures)


def can(name: str, case: Case) -> bool:
    if name in (PIPE, LOOP_PIPE):
        return case.bytes <= _NOTIFICATION and not case.binary
    if name == PG_MANAGER:
        return case.bytes <= _NOTIFICATION
    if name in (DURABLE, UNLOGGED):
        return not case.binary
    return True


async def run(options: Options) -> Results:
    with servers() as found:
        results = Results(NAME, TITLE, machine(found.postgres_uri, found.redis_url), options)
        results.notes.append(
            f"{PG_MANAGER} is measured up to 1 kB, the pipes with text up to 1 kB: they put an event"
            " into one notification, and PostgreSQL refuses those of 8,000 bytes and more"
        )
        if options.quick:
            names = (HIREDIS, NODE_POSTGRES, NODE_REDIS, PIPE, LOOP_PIPE, ASYNCIO, TRIO)
            cases = [(Case(100, False), _QUICK), (Case(100, True), _QUICK)]
            await compare(found, results, names, cases, rounds=options.rounds)
            return results
        await compare(
            found,
            results,
            tuple(found.contestants),
            [(Case(100, False), 1.0), (Case(100, True), 0.5)],
            rounds=options.rounds,
        )
        await compare(
            found,
            results,
            (HIREDIS, NODE_POSTGRES, NODE_REDIS, PG_MANAGER, PIPE, LOOP_PIPE, ASYNCIO, TRIO),
            [(Case(bytes, binary), 0.4) for bytes in LARGER for binary in (False, True)],
            rounds=max(1, round(options.rounds * 0.6)),
        )
    return results
