"""Events under trouble: numbered, counted, and compared with what came."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
from anyio.streams.buffered import BufferedByteReceiveStream

from anyio_sio_pg import MessagesLostError
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import Client, TestNode, acquainted, eventually, node, terminate
from proxy import Proxy

Trouble = Callable[[], Awaitable[object]]

BIG = b"\0" * 9_000

DURABLE: dict[str, Any] = {"durable": True, "retention": 60, "publish_timeout": 30}
PLAIN: dict[str, Any] = {"publish_timeout": 30, "heartbeat_interval": 0.2, "heartbeat_timeout": 10}
"""Beats that tell at once what was lost at the end, where nobody sends any more."""


def tables(prefix: str) -> dict[str, Any]:
    """Options: tables of the test's own."""
    return {"log_table": f"{prefix}_log", "table": f"{prefix}_attachments"}


def payload(number: int) -> Any:
    """What event ``number`` carries: some of it is binary, some too large for a notification."""
    if number % 7 == 0:
        return [number, "x" * 9_000]
    return [number, BIG] if number % 31 == 0 else number


def numbers(client: Client, namespace: str = "/") -> list[int]:
    """The numbers of the events so far, their data checked."""
    found: list[int] = []
    for event, data in client.events(namespace):
        assert event == "n"
        number = data[0] if isinstance(data, list) else data
        assert data == payload(number)
        found.append(number)
    return found


@dataclass
class Counts:
    """What became of a sender's events at a receiver."""

    sent: int
    delivered: int
    lost: int
    doubled: int


@dataclass(eq=False)
class Losses:
    """An ``on_error`` that adds up what is reported as lost."""

    total: int = 0

    def __call__(self, error: Exception) -> None:
        if isinstance(error, MessagesLostError):
            self.total += error.count


async def send_during(
    send: Callable[[str, Any], Awaitable[None]], trouble: Trouble, least: int = 500
) -> int:
    """Emit numbered events, without end, until the trouble is over; return how many it were."""
    count = 0
    over = False

    async def make_trouble() -> None:
        nonlocal over
        await trouble()
        over = True

    async with anyio.create_task_group() as tg:
        tg.start_soon(make_trouble)
        while not over or count < least:
            await send("n", payload(count))
            count += 1
            if count % 10 == 0:
                # some thousand events a second: nobody's outbox is to be full
                await anyio.sleep(0.004)
    return count


async def under_load(
    sender: TestNode, receiver: TestNode, trouble: Trouble, *, least: int = 500
) -> Counts:
    """Send to a client of the receiver until the trouble is over, and count what came.

    What came is in order, and what did not is known to the receiver.
    """
    there = await receiver.client()
    before = receiver.manager.stats().lost
    sent = await send_during(sender.manager.emit, trouble, least)
    return await counted(sender, receiver, there, sent, before)


async def counted(
    sender: TestNode, receiver: TestNode, there: Client, sent: int, before: int = 0
) -> Counts:
    """Wait until all that was sent is flushed and has come, or is counted as lost."""

    def lost() -> int:
        return receiver.manager.stats().lost - before

    with anyio.fail_after(60):
        await sender.manager.flush()
    try:
        await eventually(lambda: there.read() or len(there.log) + lost() >= sent, 30)
    except AssertionError:
        raise AssertionError(f"{sent} sent, {len(there.log)} came, {lost()} lost") from None
    got = numbers(there)
    assert got == sorted(got), "out of order"
    counts = Counts(sent, len(set(got)), lost(), len(got) - len(set(got)))
    assert counts.delivered + counts.lost == sent
    assert set(got) <= set(range(sent))
    return counts


def backend(manager: Any, which: str) -> int:
    """The server's pid of a session, or 0 while there is none."""
    session = getattr(manager, which)
    return 0 if session is None else int(session.info.backend_pid)


def backends(node: TestNode) -> list[int]:
    """The server's pids of both of a node's sessions."""
    return [backend(node.manager, which) for which in ("publisher", "listener")]


async def kill_again_and_again(uri: str, manager: Any, which: str, times: int) -> None:
    """Terminate a manager's ``listener`` or ``publisher``, each new one as soon as it is there."""
    last = 0
    for _ in range(times):
        await eventually(lambda last=last: backend(manager, which) not in (0, last))
        last = backend(manager, which)
        terminate(uri, last)


async def connected(*nodes: TestNode) -> None:
    """Wait until all nodes are connected."""
    await eventually(lambda: all(n.manager.status == "connected" for n in nodes), 40)


async def crash(server: EmbeddedPostgres) -> None:
    """Kill the postmaster and start it again, once its children have ended."""
    assert server.pid is not None
    children = psutil.Process(server.pid).children(recursive=True)
    server.kill()
    await anyio.to_thread.run_sync(partial(psutil.wait_procs, children, timeout=20))
    await anyio.to_thread.run_sync(server.start)


@asynccontextmanager
async def pair(
    uri: str,
    prefix: str,
    *,
    a_uri: str | None = None,
    listen_uri: str | None = None,
    **options: Any,
) -> AsyncIterator[list[TestNode]]:
    """A sender and a receiver; the sender's publisher, the receiver's listener led elsewhere."""
    async with (
        node(a_uri or uri, prefix, **options, listen_uri=uri) as a,
        node(uri, prefix, **options, listen_uri=listen_uri or uri) as b,
    ):
        await acquainted(a, b)
        yield [a, b]


# Networks


async def stall(way: Proxy, victim: TestNode, direction: str) -> None:
    way.hold(direction)
    # as long as the way is held there is no other
    await eventually(lambda: None in (victim.manager.publisher, victim.manager.listener), 40)
    way.release()


async def drop(way: Proxy, victim: TestNode) -> None:
    """Lose what is under way, in both directions."""
    way.hold("questions")
    way.hold("answers")
    await anyio.sleep(0.1)
    await way.cut()
    await reconnecting(victim)
    way.release()


async def half_close(way: Proxy, victim: TestNode, direction: str) -> None:
    before = backends(victim)
    await way.half_close(direction)
    await eventually(lambda: backends(victim) != before, 40)


async def cut_within(way: Proxy, victim: TestNode, direction: str) -> None:
    before = backends(victim)
    way.cut_within(direction, 60)
    await eventually(lambda: not way.cutting)
    await eventually(lambda: backends(victim) != before, 40)


async def reconnecting(victim: TestNode) -> None:
    """Wait until a node has given up a session; a new one must not be possible yet."""
    await eventually(lambda: 0 in backends(victim), 40)


FAULTS = {
    "drops": drop,
    "stalls questions": partial(stall, direction="questions"),
    "stalls answers": partial(stall, direction="answers"),
    "ends questions": partial(half_close, direction="questions"),
    "ends answers": partial(half_close, direction="answers"),
    "cuts questions": partial(cut_within, direction="questions"),
    "cuts answers": partial(cut_within, direction="answers"),
}


# Processes


class Process:
    """A node in a process of its own (``tests/apps/load_node.py``)."""

    def __init__(self, process: anyio.abc.Process):
        assert process.stdout is not None
        self._process = process
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def says(self) -> list[Any]:
        with anyio.fail_after(20):
            line = await self._lines.receive_until(b"\n", 10_000_000)
        said: list[Any] = json.loads(line)
        return said

    async def came(self) -> tuple[list[int], int, int]:
        """The numbers that have come to a receiver, how many are lost, and its reconnections."""
        self._process.terminate()
        _, got, lost, reconnects = await self.says()
        return got, lost, reconnects

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


@asynccontextmanager
async def process(
    role: str, backend: str, uri: str, prefix: str, **options: Any
) -> AsyncIterator[Process]:
    program = Path(__file__).parent / "apps" / "load_node.py"
    command = [sys.executable, str(program), role, backend, uri, prefix, json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(program.parents[1])}
    async with await anyio.open_process(command, env=environment, stderr=None) as opened:
        try:
            yield Process(opened)
        finally:
            with suppress(ProcessLookupError):
                opened.kill()


async def send_to_a_frozen_receiver(
    uri: str, prefix: str, backend: str, options: dict[str, Any], *, terminated: bool
) -> tuple[int, list[int], int, int]:
    """Stop a receiver's process until the sender takes it for dead, under load.

    Its listening session may be ended meanwhile. Returns how many events were sent, the numbers of
    those that came, how many it knows to be lost, and how often it has reconnected.
    """
    async with (
        process("receive", backend, uri, prefix, **options) as receiver,
        node(uri, prefix, **options) as a,
    ):
        _, pid = await receiver.says()
        await eventually(lambda: a.manager.stats().nodes == 1)

        async def trouble() -> None:
            await eventually(lambda: a.manager.stats().sent > 100)
            receiver.signal(signal.SIGSTOP)
            if terminated:
                terminate(uri, pid)
            await eventually(lambda: a.manager.stats().nodes == 0)
            receiver.signal(signal.SIGCONT)
            await eventually(lambda: a.manager.stats().nodes == 1)

        sent = await send_during(a.manager.emit, trouble)
        await a.manager.flush()
        with anyio.fail_after(20):
            while True:
                got, lost, reconnects = await receiver.came()
                # the listener is back only when it has caught up
                if len(got) + lost >= sent and (reconnects or not terminated):
                    return sent, got, lost, reconnects
                await anyio.sleep(0.05)


async def send_to_a_blocked_receiver(
    uri: str, prefix: str, backend: str, options: dict[str, Any]
) -> tuple[int, list[int], int]:
    """Block a receiver's event loop for 4 s, under load.

    Returns how many events were sent, the numbers of those that came, and how many are known to be
    lost.
    """
    total = 0
    there_is_a_client = threading.Event()
    over = threading.Event()

    async def receive() -> tuple[list[int], int]:
        async with node(uri, prefix, **options) as b:
            there = await b.client()
            there_is_a_client.set()
            await eventually(lambda: there.read() or len(there.log) > 100)
            time.sleep(4)  # noqa: ASYNC251 - this is the trouble
            over.set()
            stats = b.manager.stats
            await eventually(lambda: there.read() or 0 < total <= len(there.log) + stats().lost)
            return numbers(there), stats().lost

    got: list[int] = []
    lost = -1

    async def receive_in_thread() -> None:
        nonlocal got, lost
        got, lost = await anyio.to_thread.run_sync(partial(anyio.run, receive, backend=backend))

    async with node(uri, prefix, **options) as a, anyio.create_task_group() as tg:
        tg.start_soon(receive_in_thread)
        await eventually(there_is_a_client.is_set)
        await eventually(lambda: a.manager.stats().nodes == 1)
        total = await send_during(a.manager.emit, lambda: eventually(over.is_set))
    return total, got, lost
