"""``durable=True``: nothing is lost while a node, or PostgreSQL, is away; nothing comes twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from harness import Client, TestNode, acquainted, eventually, node, terminate

pytestmark = pytest.mark.anyio

DURABLE: dict[str, Any] = {"durable": True, "retention": 60, "publish_timeout": 30}

big = b"\0" * 9_000


def log_of(prefix: str) -> dict[str, Any]:
    return {**DURABLE, "log_table": f"{prefix}_log", "table": f"{prefix}_attachments"}


def payload(number: int) -> Any:
    """What event ``number`` carries: some of it is binary, some too large for a notification."""
    return (
        [number, "x" * 9_000] if number % 7 == 0 else [number, big] if number % 31 == 0 else number
    )


def numbers(client: Client, name: str = "n") -> list[int]:
    """The numbers of the events so far, their data checked."""
    found: list[int] = []
    for event, data in client.events():
        assert event == name
        number = data[0] if isinstance(data, list) else data
        assert data == payload(number)
        found.append(number)
    return found


async def send_during(
    sender: TestNode, trouble: Callable[[], Awaitable[None]], least: int = 500
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
            await sender.manager.emit("n", payload(count))
            count += 1
            if count % 10 == 0:
                # some thousand events a second: nobody's outbox is to be full
                await anyio.sleep(0.002)
    await sender.manager.flush()
    return count


def backend(manager: Any, which: str) -> int:
    """The server's pid of a session, or 0 while there is none."""
    session = getattr(manager, which)
    return 0 if session is None else session.info.backend_pid


async def kill_again_and_again(uri: str, manager: Any, which: str, times: int) -> None:
    last = 0
    for _ in range(times):
        await eventually(lambda last=last: backend(manager, which) not in (0, last))
        last = backend(manager, which)
        terminate(uri, last)


@pytest.mark.parametrize("victims", ["listener", "publisher", "both"])
@pytest.mark.parametrize("durable", [True, "unlogged"])
async def test_sessions_are_terminated_again_and_again(
    uri: str, prefix: str, victims: str, durable: Any
) -> None:
    options = {**log_of(prefix), "durable": durable}
    async with node(uri, prefix, **options) as a, node(uri, prefix, **options) as b:
        await acquainted(a, b)
        there = await b.client()

        async def trouble() -> None:
            async with anyio.create_task_group() as tg:
                if victims != "publisher":
                    tg.start_soon(kill_again_and_again, uri, b.manager, "listener", 10)
                if victims != "listener":
                    tg.start_soon(kill_again_and_again, uri, a.manager, "publisher", 10)

        count = await send_during(a, trouble)
        await eventually(lambda: there.read() or len(there.log) >= count)
        assert numbers(there) == list(range(count))
        assert b.manager.stats().lost == 0
        if victims != "publisher":
            assert b.manager.stats().reconnects >= 9
        if victims != "listener":
            assert a.manager.stats().reconnects >= 9
