"""What a node does that has nothing to do: wake-ups, CPU time and statements a minute."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import psycopg
import redis as redis_client
from support import Contestant, Options, Results, child, machine, node_packages, redis

from anyio_sio_pg.testing import EmbeddedPostgres

NAME = "idle"
TITLE = "A node that has nothing to do"

_WINDOW = 60.0
"""Seconds, whatever the options say: some work is done once in half a minute."""

_QUICK_WINDOW = 2.0

_SETTLE = 7.0
"""Seconds for what comes with the start, the first heartbeat included."""

_QUICK_SETTLE = 0.5
_MOST_ROUNDS = 2

# the entry goes on in lines that begin with a tab
_STATEMENT = re.compile(
    r"^db=(?P<database>\w+) LOG:  (?:statement|execute [^:]*): (?P<text>.*(?:\n\t.*)*)",
    re.MULTILINE,
)
_OWN_COMMANDS = {"cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo", "cmdstat_ping"}


@dataclass(frozen=True)
class Counts:
    """What is counted of a process and of what it asks its server."""

    wake_ups: int
    nanoseconds: int
    statements: list[str]
    commands: int


@dataclass(frozen=True)
class Idler:
    """A node that runs beside all others, in a database of its own."""

    contestant: Contestant
    nodes: int
    database: str
    pid: int

    def counts(self, log: str, redis_url: str) -> Counts:
        wake_ups, nanoseconds = 0, 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            status = (task / "status").read_text()
            wake_ups += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
            nanoseconds += int((task / "schedstat").read_text().split()[0])
        statements = [
            " ".join(entry["text"].split())
            for entry in _STATEMENT.finditer(log)
            if entry["database"] == self.database
        ]
        commands = 0
        if self.contestant.address == redis_url:
            with redis_client.Redis.from_url(redis_url) as server:
                stats = server.info("commandstats")
            commands = sum(stats[name]["calls"] for name in stats.keys() - _OWN_COMMANDS)
        return Counts(wake_ups, nanoseconds, statements, commands)


async def run(options: Options) -> Results:
    node_packages()
    settings = ["log_statement = all", "log_line_prefix = 'db=%d '"]
    with EmbeddedPostgres(settings=settings) as server, redis() as redis_url:
        results = Results(NAME, TITLE, machine(server.uri, redis_url), options)
        contestants = [
            Contestant("AsyncManager", "stock"),
            Contestant("AsyncRedisManager", "redis", address=redis_url),
            Contestant(
                "@socket.io/postgres-adapter",
                "node-postgres",
                address=server.uri,
                program="peers/node.js",
            ),
            Contestant("PostgresManager, asyncio", "postgres", address=server.uri),
            Contestant("PostgresManager, Trio", "postgres", "trio", server.uri),
        ]
        for number in range(1, min(options.rounds, _MOST_ROUNDS) + 1):
            await _round(results, contestants, number, server, redis_url)
    return results


async def _round(
    results: Results,
    contestants: list[Contestant],
    number: int,
    server: EmbeddedPostgres,
    redis_url: str,
) -> None:
    """Let all do nothing, at the same time."""
    quick = results.options.quick
    log = server.data / "server.log"
    async with AsyncExitStack() as stack:
        idlers: list[Idler] = []
        for contestant in contestants:
            for nodes in (1,) if quick else (1, 2):
                database = f"idle{len(idlers)}_{number}"
                alone = contestant
                if contestant.address == server.uri:
                    with psycopg.connect(server.uri, autocommit=True) as connection:
                        connection.execute(f"CREATE DATABASE {database}".encode())
                    uri = server.uri.removesuffix("/postgres") + f"/{database}"
                    alone = replace(contestant, address=uri)
                for _ in range(nodes):
                    node = await stack.enter_async_context(child(alone, 1))
                idlers.append(Idler(contestant, nodes, database, node.pid))
        await anyio.sleep(_QUICK_SETTLE if quick else _SETTLE)
        started = anyio.current_time()
        text = log.read_text()
        before = [idler.counts(text, redis_url) for idler in idlers]
        await anyio.sleep(_QUICK_WINDOW if quick else _WINDOW)
        seconds = anyio.current_time() - started
        text = log.read_text()
        after = [idler.counts(text, redis_url) for idler in idlers]
    per_minute = 60 / seconds
    for idler, first, last in zip(idlers, before, after, strict=True):
        # two of them share a server: what it was asked is halved
        statements = last.statements[len(first.statements) :]
        others = [text for text in statements if "notify" not in text.lower()]
        share = per_minute / idler.nodes
        figures = {
            "wakeups_min": (last.wake_ups - first.wake_ups) * per_minute,
            "cpu_ms_min": (last.nanoseconds - first.nanoseconds) / 1e6 * per_minute,
            "notify_min": (len(statements) - len(others)) * share,
            "other_min": (len(others) + last.commands - first.commands) * share,
        }
        results.add(idler.contestant.name, {"nodes": idler.nodes}, number, figures)
        for text in dict.fromkeys(others):
            note = f"{idler.contestant.name} executes, beside its heartbeats: {text[:200]}"
            if note not in results.notes:
                results.notes.append(note)
