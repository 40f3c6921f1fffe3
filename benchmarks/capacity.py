"""What one PostgreSQL carries, with bare sessions: no node, so that the server is the limit.

A part of it asks what several messages in one notification give, and another what an application
feels whose database it is. It reads /proc, and so needs Linux.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
from support import Child, Options, Results, machine, postgres, process_of

from anyio_sio_pg.protocol.cluster_wire import ClusterWire
from anyio_sio_pg.protocol.messages import EVERYONE, Broadcast, Data

NAME = "capacity"
TITLE = "What one PostgreSQL carries"

CHANNEL = "socket.io#/"
OTHER = "another"

BY_ONE = "one by one"
BATCHES = "in batches"
PACKED = "in batches, packed"
OTHER_CHANNEL = "one by one, another channel"
OTHER_DATABASE = "one by one, another database"

ALONE = "the application alone"
LOADS = {f"beside {rate:,} events/s": rate for rate in (100, 1_000, 10_000)}
SILENT = "commits"
NOTIFYING = "commits that notify"

SESSION = "session"
LISTENING = "listening session"
BUSY = "listening session that has read"

NO_LOG = "notifications only"
LOGGED = "with rows"
UNLOGGED = "with rows, unlogged"

QUEUED = "a message in the queue"

AT_ONCE = 512
"""Messages in one statement, as many as a node puts in one."""

SHARE = 0.2
"""How much of the options' seconds a contestant takes, of which there are many here."""

APPLICATION_SHARE = 0.6
"""The same, beside an application: few events a second need their time."""

MOST = 100_000
"""Messages of one round at most: they are made before it begins."""

SETTLE = 0.2
"""Seconds after which sessions have looked at what came for others."""

CLUSTER = 8
"""Listeners, where their number is not what it is about."""

_SCRIPT = Path(__file__).with_name("sessions.py")
_TIMEOUT = 120

Figures = dict[str, float]
Measure = Callable[[int], Awaitable[Figures]]


def head(size: int) -> str:
    """Return the message of an event whose only argument has ``size`` bytes."""
    event = Data(json.dumps(["event", "x" * size], separators=(",", ":")).encode())
    message = Broadcast(
        sender="0123456789abcdef", namespace="/", seq=0, origin=None, data=event, target=EVERYONE
    )
    return ClusterWire("socket.io").encode(message, 7_999).head.decode()


class Sessions:
    """A process with bare sessions."""

    def __init__(self, child: Child, pids: Sequence[int]):
        self.ask = child.ask
        self.tell = child.tell
        self.answer = child.answer
        self.say = child.say
        self.pids = pids

    def cpu(self) -> float:
        """Return the processor time, in seconds, of PostgreSQL's ends of them."""
        used = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in self.pids)
        return sum(map(int, used)) / 1e9

    def private(self) -> float:
        """Return what one of PostgreSQL's ends has in memory for itself, in kB."""
        total = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1])
        return total / len(self.pids)


@asynccontextmanager
async def processes(
    *wanted: tuple[str, int, str | None], decodes: bool = False
) -> AsyncIterator[list[Sessions]]:
    """Start a process for each: the server's address, how many sessions, and their channel."""
    async with AsyncExitStack() as stack:
        children: list[Child] = []
        for address, count, listen in wanted:
            spec = {
                "address": address,
                "sessions": count,
                "listen": listen,
                "decodes": decodes and listen is not None,
            }
            child = process_of(_SCRIPT, json.dumps(spec), "bare sessions")
            children.append(await stack.enter_async_context(child))
        with anyio.fail_after(_TIMEOUT):
            started = [Sessions(child, (await child.answer())["pids"]) for child in children]
        yield started


async def in_turn(
    results: Results, case: dict[str, Any], contestants: Mapping[str, Measure], start: int
) -> None:
    """Measure the contestants, round after round, each with what takes it about its share."""
    options = results.options
    amounts = dict.fromkeys(contestants, start)
    if not options.quick:
        for name, measure in contestants.items():
            with anyio.fail_after(_TIMEOUT):
                rate = (await measure(start))["rate"]
            amounts[name] = min(MOST, max(start, round(rate * options.seconds * SHARE)))
    for number in range(1, options.rounds + 1):
        for name, measure in contestants.items():
            with anyio.fail_after(_TIMEOUT):
                results.add(name, case, number, await measure(amounts[name]))


async def send(
    messages: int,
    *,
    senders: Sessions,
    listeners: Sequence[Sessions] = (),
    idle: Sessions | None = None,
    size: int = 100,
    most: int = 1,
    pack: bool = False,
    decode: bool = False,
) -> Figures:
    """Send messages and wait until the last listener has all of them.

    ``idle`` are sessions that listen to something else.
    """
    made = await senders.ask("prepare", messages=messages, head=head(size), most=most, pack=pack)
    for one in listeners:
        if decode:
            await one.ask("decode", messages=messages, pack=pack)
        else:
            await one.ask("receive", bytes=made["bytes"])
    hearing = [*listeners] if idle is None else [idle]
    before = [one.cpu() for one in (senders, *hearing)]
    sent = await senders.ask("send")
    done = [await one.answer() for one in listeners]
    if idle is not None:
        await anyio.sleep(SETTLE)
    sending, *heard = (
        (one.cpu() - begun) * 1e6 / messages
        for one, begun in zip((senders, *hearing), before, strict=True)
    )
    seconds = max([sent["ended"], *(answer["ended"] for answer in done)]) - sent["begun"]
    count = sum(len(one.pids) for one in hearing)
    figures = {
        "rate": messages / seconds,
        "sender_cpu_us": sending,
        "p50_ms": sent["p50_ms"],
        "p99_ms": sent["p99_ms"],
    }
    if count:
        figures["listener_cpu_us"] = sum(heard) / count
    if count and listeners:
        figures["mb_each"] = made["bytes"] / seconds / 1e6
        figures["client_cpu_us"] = sum(a["cpu"] for a in done) * 1e6 / messages / count
    return figures


async def by_listeners(results: Results, address: str, other: str) -> None:
    for count in (2,) if results.options.quick else (0, 1, 8, 32, 100):
        case = {"part": "listeners", "listeners": count}
        wanted = [(address, 1, None), (address, count, None), (other, count, None)]
        async with processes(*wanted) as (senders, here, there):

            async def measure(
                messages: int,
                *,
                near: str | None = None,
                far: str | None = None,
                parties: tuple[Sessions, Sessions, Sessions] = (senders, here, there),
                **more: Any,
            ) -> Figures:
                senders, here, there = parties
                await here.ask("listen", channel=near)
                await there.ask("listen", channel=far)
                if near == CHANNEL:
                    return await send(messages, senders=senders, listeners=[here], **more)
                return await send(messages, senders=senders, idle=here if near else there, **more)

            await in_turn(
                results,
                case,
                {
                    BATCHES: partial(measure, near=CHANNEL, most=AT_ONCE),
                    PACKED: partial(measure, near=CHANNEL, most=AT_ONCE, pack=True),
                },
                2_048,
            )
            contestants = {BY_ONE: partial(measure, near=CHANNEL)}
            if count:
                contestants[OTHER_CHANNEL] = partial(measure, near=OTHER)
                contestants[OTHER_DATABASE] = partial(measure, far=CHANNEL)
            await in_turn(results, case, contestants, 100)


async def by_size_and_senders(results: Results, address: str) -> None:
    quick = results.options.quick
    listeners = 2 if quick else CLUSTER
    counts = (2,) if quick else (1, 4, 16)
    wanted = [(address, count, None) for count in counts]
    async with processes((address, listeners, CHANNEL), *wanted) as (here, *groups):
        for size in (7_000,) if quick else (100, 1_000, 7_000):
            measure = partial(send, senders=groups[0], listeners=[here], size=size)
            case = {"part": "sizes", "bytes": size, "listeners": listeners}
            await in_turn(results, case, {BATCHES: partial(measure, most=AT_ONCE)}, 1_024)
            await in_turn(results, case, {BY_ONE: measure}, 100)
        for count, senders in zip(counts, groups, strict=True):
            measure = partial(send, senders=senders, listeners=[here])
            case = {"part": "senders", "senders": count, "listeners": listeners}
            batches = {BATCHES: partial(measure, most=AT_ONCE)}
            await in_turn(results, case, batches, 2_048 * count)
            await in_turn(results, case, {BY_ONE: measure}, 100)


async def decoding(results: Results, address: str) -> None:
    """Let processes listen that decode what they hear, as nodes do."""
    count = 2 if results.options.quick else 31
    case = {"part": "decoding", "listeners": count}
    wanted = [(address, 1, CHANNEL)] * count
    async with processes((address, 1, None), *wanted, decodes=True) as (senders, *here):
        measure = partial(send, senders=senders, listeners=here, most=AT_ONCE, decode=True)
        contestants = {BATCHES: measure, PACKED: partial(measure, pack=True)}
        await in_turn(results, case, contestants, 2_048)


async def application(results: Results, address: str) -> None:
    """Let an application commit beside a cluster, whose events all have to arrive."""
    options = results.options
    seconds = 0.2 if options.quick else options.seconds * APPLICATION_SHARE
    counts = (4,) if options.quick else (1, 4, 16)
    wanted = [(address, count, None) for count in counts]
    async with processes((address, 4, None), (address, CLUSTER, CHANNEL), *wanted) as (
        cluster,
        here,
        *groups,
    ):

        async def measure(who: Sessions, rate: int, notify: str | None = None) -> Figures:
            await here.ask("receive", bytes=None)
            before = cluster.cpu() + here.cpu()
            if rate:
                await cluster.tell("pace", rate=rate, seconds=seconds, head=head(100))
            done = await who.ask("commit", seconds=seconds, notify=notify)
            figures = {key: done[key] for key in ("rate", "p50_ms", "p99_ms")}
            expected = done["bytes"]
            if rate:
                paced = await cluster.answer()
                expected += paced["bytes"]
                figures["cluster_rate"] = paced["sent"] / paced["seconds"]
                figures["cluster_batch"] = paced["sent"] / paced["statements"]
                figures["cluster_p50_ms"] = paced["p50_ms"]
                figures["cluster_p99_ms"] = paced["p99_ms"]
            await here.say(expected)
            await here.answer()
            figures["cluster_cores"] = (cluster.cpu() + here.cpu() - before) / seconds
            return figures

        users = groups[counts.index(4)]
        contestants = {ALONE: 0, **LOADS}
        for number in range(1, options.rounds + 1):
            for name, rate in contestants.items():
                with anyio.fail_after(_TIMEOUT):
                    figures = await measure(users, rate)
                results.add(name, {"part": "application", "sessions": 4}, number, figures)
        for count, committing in zip(counts, groups, strict=True):
            for number in range(1, options.rounds + 1):
                for name, notify in ((SILENT, None), (NOTIFYING, head(100))):
                    with anyio.fail_after(_TIMEOUT):
                        figures = await measure(committing, 100, notify)
                    results.add(name, {"part": "commits", "sessions": count}, number, figures)


async def memory(results: Results, address: str) -> None:
    case = {"part": "memory"}
    for number in range(1, (1 if results.options.quick else 3) + 1):
        async with processes((address, 1, None), (address, CLUSTER, None)) as (senders, here):
            results.add(SESSION, case, number, {"kb": here.private()})
            await here.ask("listen", channel=CHANNEL)
            results.add(LISTENING, case, number, {"kb": here.private()})
            await send(10_000, senders=senders, listeners=[here], most=AT_ONCE)
            results.add(BUSY, case, number, {"kb": here.private()})


async def rows(results: Results, address: str) -> None:
    """Keep each message as a row, as ``durable=True`` does."""
    options = results.options
    async with processes((address, 1, None)) as (senders,):

        async def measure(messages: int, size: int, most: int, table: str | None) -> Figures:
            before = senders.cpu()
            done = await senders.ask(
                "log", messages=messages, head=head(size), most=most, table=table
            )
            return {**done, "sender_cpu_us": (senders.cpu() - before) * 1e6 / messages}

        for size in (100,) if options.quick else (100, 1_000):
            for most in (AT_ONCE, 1) if size == 100 else (AT_ONCE,):
                contestants = {
                    name: partial(measure, size=size, most=most, table=table)
                    for name, table in ((NO_LOG, None), (LOGGED, "logged"), (UNLOGGED, "unlogged"))
                }
                case = {"part": "rows", "bytes": size, "batch": most}
                await in_turn(results, case, contestants, 1_024 if most > 1 else 100)


async def queue(results: Results, address: str) -> None:
    """Let a listener sit in a transaction, and see how the queue of notifications grows."""
    with psycopg.connect(address) as connection:
        row = connection.execute(
            "SELECT coalesce(current_setting('max_notify_queue_pages', true)::int8, 1048576)"
            " * current_setting('block_size')::int8"
        ).fetchone()
    assert row is not None
    total = row[0]
    sizes = (100,) if results.options.quick else (100, 1_000, 7_000)
    async with processes((address, 1, None)) as (senders,):
        for size in sizes:
            messages = 30_000_000 // (size + 200)
            # what it has not read is gone with it
            async with processes((address, 1, CHANNEL)) as (stuck,):
                await stuck.ask("begin")
                before = (await senders.ask("usage"))["used"]
                await send(messages, senders=senders, size=size, most=AT_ONCE)
                used = ((await senders.ask("usage"))["used"] - before) * total / messages
                case = {"part": "queue", "bytes": size}
                results.add(QUEUED, case, 1, {"bytes": used})
                for rate in (100, 1_000, 10_000):
                    figures = {"hours": total / used / rate / 3_600}
                    results.add(f"{rate:,} events/s", case, 1, figures)


async def run(options: Options) -> Results:
    # the listeners of two databases, and the rest
    with postgres("max_connections = 300") as server:
        with psycopg.connect(server.uri, autocommit=True) as connection:
            connection.execute("CREATE DATABASE other")
        other = server.uri.removesuffix("/postgres") + "/other"
        results = Results(NAME, TITLE, machine(server.uri), options)
        async with processes((server.uri, 1, None)) as (first,):
            await first.ask("tables")
        await by_listeners(results, server.uri, other)
        await by_size_and_senders(results, server.uri)
        await decoding(results, server.uri)
        await application(results, server.uri)
        await memory(results, server.uri)
        await rows(results, server.uri)
        await queue(results, server.uri)
    return results
