"""What the benchmarks share: servers, processes, rounds and tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import psycopg
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_sio_pg.testing import EmbeddedPostgres

_NODE = Path(__file__).with_name("node.py")
_LINE = 1 << 20
_START_TIMEOUT = 20
_ROUND_TIMEOUT = 180
_WARM_UP = 0.1
"""How much of a round's work the warm-up does, which is not counted."""

_PACKAGES = (
    "anyio-sio-pg",
    "anyio",
    "trio",
    "psycopg",
    "msgspec",
    "python-socketio",
    "python-engineio",
    "redis",
    "hiredis",
    "uvicorn",
    "websockets",
    "hypercorn",
    "anycorn",
    "wsproto",
)


@dataclass(frozen=True)
class Contestant:
    """One of the things that are compared."""

    name: str
    manager: str
    backend: str = "asyncio"
    address: str | None = None

    def spec(self, clients: int) -> str:
        return json.dumps(
            {
                "manager": self.manager,
                "backend": self.backend,
                "address": self.address,
                "clients": clients,
            }
        )


@dataclass
class Results:
    """The figures of a run: for each contestant, its rounds in order."""

    benchmark: str
    unit: str
    machine: dict[str, Any]
    options: dict[str, Any]
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def rates(self, name: str) -> list[float]:
        return [figures["rate"] for figures in self.rounds[name]]

    def ratio(self, name: str) -> float:
        """Return the median of the rounds' ratios to the first contestant."""
        base = self.rates(next(iter(self.rounds)))
        return median(rate / peer for rate, peer in zip(self.rates(name), base, strict=True))

    def summary(self) -> dict[str, dict[str, float]]:
        return {
            name: {key: median(r[key] for r in rounds) for key in rounds[0]}
            | {"ratio": self.ratio(name), "least": min(self.rates(name))}
            | {"most": max(self.rates(name))}
            for name, rounds in self.rounds.items()
        }

    def table(self, extra: dict[str, str]) -> str:
        """Return a Markdown table; ``extra`` are further figures, with their headings."""
        rows = [["", self.unit, "least to most", "ratio", *extra.values()]]
        for name, figures in self.summary().items():
            rows.append(
                [
                    name,
                    f"{figures['rate']:,.0f}",
                    f"{figures['least']:,.0f} to {figures['most']:,.0f}",
                    f"{figures['ratio']:.1f}",
                    *(f"{figures[key]:,.1f}" for key in extra),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "| "
            + " | ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            + " |"
            for row in rows
        ]
        rule = "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths))
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]])

    def show(self, file: Path | None, extra: dict[str, str]) -> None:
        print(f"\n{self.benchmark}, {len(self.rates(next(iter(self.rounds))))} rounds\n")
        print(self.table(extra))
        print("\n" + ", ".join(f"{key} {value}" for key, value in self.machine.items()))
        if file is not None:
            file.write_text(json.dumps(asdict(self) | {"summary": self.summary()}, indent=1) + "\n")


class Child:
    """A process of node.py."""

    def __init__(self, process: Process):
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._stdout.receive_until(b"\n", _LINE))
        return answer

    async def tell(self, do: str, **arguments: Any) -> None:
        await self._stdin.send(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        await self.tell(do, **arguments)
        return await self.answer()


@asynccontextmanager
async def child(contestant: Contestant, clients: int) -> AsyncIterator[Child]:
    """Start a node and yield it once its clients are connected; end it with the block."""
    async with process_of(_NODE, contestant.spec(clients), contestant.name) as node:
        with anyio.fail_after(_START_TIMEOUT):
            await node.answer()
        yield node


@asynccontextmanager
async def process_of(script: Path, spec: str, name: str) -> AsyncIterator[Child]:
    """Start a process and yield it; end it with the block."""
    process = await anyio.open_process([sys.executable, str(script), spec], stderr=None)
    # leaving the process's own block without an error closes its input, and so lets it end by
    # itself; with an error it is killed
    async with process:
        node = Child(process)
        yield node
        assert process.stdin is not None
        await process.stdin.aclose()
        with anyio.fail_after(_START_TIMEOUT):
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"a node of {name} ended with {process.returncode}")


Measure = Callable[[Contestant, int], Awaitable[dict[str, float]]]


async def compare(
    results: Results,
    contestants: Sequence[Contestant],
    measure: Measure,
    *,
    rounds: int,
    seconds: float,
    start: int,
    per_unit: int = 1,
) -> None:
    """Measure the contestants in turn, round after round, in processes made for each.

    ``measure`` does a given amount of work, beginning with ``start``: each contestant's is then
    set to what takes it about ``seconds``. A unit of work counts for ``per_unit`` in the rate.
    """
    amounts: dict[str, int] = {}
    for contestant in contestants:
        with anyio.fail_after(_ROUND_TIMEOUT):
            rate = (await measure(contestant, start))["rate"]
        amounts[contestant.name] = max(start, round(rate / per_unit * seconds))
    for number in range(rounds):
        for contestant in contestants:
            with anyio.fail_after(_ROUND_TIMEOUT):
                figures = await measure(contestant, amounts[contestant.name])
            results.rounds.setdefault(contestant.name, []).append(figures)
            rate = figures["rate"]
            print(
                f"round {number + 1}: {contestant.name}: {rate:,.0f}", file=sys.stderr, flush=True
            )


def warm_up(amount: int) -> int:
    return max(1, round(amount * _WARM_UP))


@contextmanager
def postgres() -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL server that writes to the disk at each commit, as servers do."""
    with EmbeddedPostgres(settings=["fsync = on"]) as server:
        yield server


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis server on a free port and yield its address."""
    import redis as client

    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed (Debian: apt install redis-server)")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        server = subprocess.Popen(
            [*command, "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            with client.Redis(port=port) as connection:
                deadline = time.monotonic() + _START_TIMEOUT
                while True:
                    try:
                        connection.ping()
                        break
                    except client.ConnectionError:
                        if time.monotonic() > deadline or server.poll() is not None:
                            raise
                        time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def machine(postgres_uri: str, redis_url: str | None = None) -> dict[str, Any]:
    """Return what the figures depend on."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }
    with psycopg.connect(postgres_uri) as connection:
        found["PostgreSQL"] = str(connection.info.server_version // 10_000) + (
            f".{connection.info.server_version % 10_000}"
        )
    if redis_url is not None:
        import redis as client

        with client.Redis.from_url(redis_url) as server:
            found["Redis"] = server.info("server")["redis_version"]
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round, about")
    parser.add_argument("--bytes", type=int, default=100, help="size of an event's payload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser
