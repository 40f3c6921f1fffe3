"""What the demo's nodes share: when a node ends, where it listens, and how it reports.

How they serve the chat is in ``asyncio_node`` and ``trio_node``.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import cast

import anyio
import anyio.from_thread
import anyio.lowlevel

from anyio_sio_pg import AdapterError

HOST = "127.0.0.1"
GOODBYE_TIMEOUT = 2.0
"""Seconds that clients have to take their leave."""
GRACEFUL_TIMEOUT = 3
"""Seconds that the ASGI server then waits for what is still open."""


@asynccontextmanager
async def told_to_stop() -> AsyncGenerator[anyio.Event]:
    """Make an event that is set when standard input ends or a signal comes, while the block runs.

    All signals are taken: more of them do not disturb the end that the first has begun.
    """
    told = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_input, told)
        if sys.platform != "win32":
            tasks.start_soon(_watch_signals, told)
        yield told
        tasks.cancel_scope.cancel()


async def _watch_input(told: anyio.Event) -> None:
    # it ends when the process that started this one ends or wishes it
    token = anyio.lowlevel.current_token()

    def read() -> None:
        with suppress(OSError):
            while os.read(0, 1_024):
                pass
        with suppress(anyio.RunFinishedError):
            anyio.from_thread.run_sync(told.set, token=token)

    # a daemon: it must not keep the process when that ends for another reason
    threading.Thread(target=read, name="standard input", daemon=True).start()


async def _watch_signals(told: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            told.set()


def expect_refusals() -> None:
    """Say nothing of the clients that come back while the node ends: that is no error."""
    logging.getLogger("engineio.server").setLevel(logging.CRITICAL)


def listen(port: int) -> socket.socket:
    """Return a socket that listens; port 0 stands for a free one."""
    # asyncio turns Nagle's delays off where the protocol is named, and nowhere else
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(100)
    except BaseException:
        listening.close()
        raise
    return listening


def announce(port: int) -> None:
    """Print the address, for the process that waits for it: the node serves."""
    print(f"http://{HOST}:{port}", flush=True)


def runs_on(asgi_server: str) -> str:
    """Return what the page shows: the ASGI server, and the event loop that this code runs on."""
    loop = anyio.get_cancelled_exc_class().__module__.partition(".")[0]
    return f"{asgi_server} on {'Trio' if loop == 'trio' else loop}"


def run(serve: Callable[[str, str, int], Awaitable[None]], backend: str) -> int:
    """Run a node with the arguments of the command line; return the exit code."""
    name, uri, port = sys.argv[1:]
    code = 0
    try:
        anyio.run(serve, name, uri, int(port), backend=backend)
    except* (AdapterError, OSError) as group:
        for exc in _leaves(group):
            print(f"node {name}: {exc}", file=sys.stderr)
        code = 1
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Generator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", exc))
        else:
            yield exc
