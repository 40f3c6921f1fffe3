"""What the benchmarks share: servers, processes, rounds and tables."""

from __future__ import annotations

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
from typing import Any

import anyio
import psutil
import psycopg
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_sio_pg.testing import EmbeddedPostgres

_FOLDER = Path(__file__).parent
_PEERS = _FOLDER / "peers"
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
    "socketio-pg-manager",
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
    options: dict[str, Any] | None = None
    program: str = "node.py"
    """What its processes run: a file beside this one."""

    def spec(self, clients: int) -> str:
        return json.dumps(
            {
                "manager": self.manager,
                "backend": self.backend,
                "address": self.address,
                "options": self.options,
                "clients": clients,
            }
        )


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 1.0
    quick: bool = False
    """Only enough to see that it works; the figures mean nothing."""


@dataclass(frozen=True)
class Record:
    """What one contestant did in one round of one case, such as ``{"bytes": 100, "nodes": 2}``."""

    contestant: str
    case: dict[str, Any]
    round: int
    figures: dict[str, float]


@dataclass
class Results:
    """The figures of one measure, as they were taken; ``report.py`` makes medians of them."""

    measure: str
    title: str
    machine: dict[str, Any]
    options: Options
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know, such as a contestant that is left out."""
    run: str = ""
    """The id of the run that it belongs to: only figures of one run are comparable."""
    date: str = ""
    seconds: float = 0.0
    """How long the measure took."""

    def add(
        self, contestant: str, case: dict[str, Any], round: int, figures: dict[str, float]
    ) -> None:
        self.records.append(Record(contestant, case, round, figures))
        where = ", ".join(f"{key} {value}" for key, value in case.items())
        what = ", ".join(f"{key} {value:,.6g}" for key, value in figures.items())
        print(
            f"{self.measure} ({where}) round {round}: {contestant}: {what}",
            file=sys.stderr,
            flush=True,
        )

    def save(self, folder: Path) -> None:
        file = folder / f"{self.measure}.json"
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def load(file: Path) -> Results:
        tree = json.loads(file.read_text())
        tree["options"] = Options(**tree["options"])
        tree["records"] = [Record(**record) for record in tree["records"]]
        return Results(**tree)


class Child:
    """A process of node.py."""

    def __init__(self, process: Process):
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    async def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._stdout.receive_until(b"\n", _LINE))
        return answer

    async def tell(self, do: str, **arguments: Any) -> None:
        await self._stdin.send(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def say(self, value: Any) -> None:
        """Send a line that is no command, to one that waits for it."""
        await self._stdin.send(json.dumps(value).encode() + b"\n")

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        await self.tell(do, **arguments)
        return await self.answer()


@asynccontextmanager
async def child(contestant: Contestant, clients: int) -> AsyncIterator[Child]:
    """Start a node and yield it once its clients are connected; end it with the block."""
    script = _FOLDER / contestant.program
    async with process_of(script, contestant.spec(clients), contestant.name) as node:
        with anyio.fail_after(_START_TIMEOUT):
            await node.answer()
        yield node


@asynccontextmanager
async def process_of(script: Path, spec: str, name: str) -> AsyncIterator[Child]:
    """Start a process and yield it; end it with the block."""
    command = ["node"] if script.suffix == ".js" else [sys.executable]
    process = await anyio.open_process(
        [*command, str(script), spec], stderr=None, env={**os.environ, "NODE_ENV": "production"}
    )
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
    case: dict[str, Any],
    start: int,
    per_unit: int = 1,
    seconds: float | None = None,
) -> None:
    """Measure the contestants in turn, round after round, in processes made for each.

    ``measure`` does a given amount of work, beginning with ``start``: each contestant's is then
    set to what takes it about ``seconds``, or as many as the options say. A unit of work counts for ``per_unit`` in
    the figure ``rate``.
    """
    options = results.options
    amounts: dict[str, int] = {}
    for contestant in contestants:
        if options.quick:
            amounts[contestant.name] = start
            continue
        with anyio.fail_after(_ROUND_TIMEOUT):
            rate = (await measure(contestant, start))["rate"]
        amounts[contestant.name] = max(start, round(rate / per_unit * (seconds or options.seconds)))
    for number in range(1, options.rounds + 1):
        for contestant in contestants:
            with anyio.fail_after(_ROUND_TIMEOUT):
                figures = await measure(contestant, amounts[contestant.name])
            results.add(contestant.name, case, number, figures)


_SPIN = """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while True:
    pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep the cores from going to sleep, at the priority that gives way to everything else.

    A virtual machine's core that has nothing to do is given back to the host, and takes from some µs to
    more than a ms to be had again: at some hours ten times as long as at others.
    """
    spinning = [
        subprocess.Popen([sys.executable, "-S", "-c", _SPIN]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def warm_up(amount: int) -> int:
    return max(1, round(amount * _WARM_UP))


@contextmanager
def postgres(*settings: str) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL server that writes to the disk at each commit, as servers do."""
    with EmbeddedPostgres(settings=["fsync = on", *settings]) as server:
        yield server


def node_packages() -> None:
    """Install what the Node processes need, where it is missing or older than the lock file."""
    if shutil.which("npm") is None:
        raise SystemExit("Node is not installed (version 20 or later, with npm)")
    # npm writes it at the end of each installation
    installed = _PEERS / "node_modules" / ".package-lock.json"
    lock = _PEERS / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=_PEERS, stdout=sys.stderr, check=True
        )


def server_cpu(pid: int) -> float:
    """Return the CPU seconds of a server: its processes, and those that have ended."""
    server = psutil.Process(pid)
    ended = server.cpu_times()
    total = ended.children_user + ended.children_system
    for process in [server, *server.children(recursive=True)]:
        tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        try:
            # in nanoseconds: the usual times are in ticks of 10 ms, in each of many processes
            total += sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def redis_pid(address: str) -> int:
    """Return the process id of a local Redis."""
    import redis as client

    with client.Redis.from_url(address) as server:
        return int(server.info("server")["process_id"])


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
    if (node := shutil.which("node")) is not None:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
        found["Node"] = answer.stdout.strip().removeprefix("v")
    if _PEERS.exists():
        wanted: dict[str, str] = json.loads((_PEERS / "package.json").read_text())["dependencies"]
        locked = json.loads((_PEERS / "package-lock.json").read_text())["packages"]
        for package in wanted:
            found[f"npm {package}"] = locked[f"node_modules/{package}"]["version"]
    return found
