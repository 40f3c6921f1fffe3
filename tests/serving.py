"""ASGI servers in a thread with an event loop of their own: one for each that we support."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anycorn
import anyio
import hypercorn.asyncio
import hypercorn.config
import hypercorn.trio
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal

HOST = "127.0.0.1"
STOP_TIMEOUT = 20.0
GRACEFUL_TIMEOUT = 3
"""Seconds for which the ASGI servers wait for open connections at their end."""
KEEP_ALIVE_TIMEOUT = 5
"""Seconds after which they close an idle connection; what all of them do by default."""

AppFactory = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes an async context manager (such as a server's block) that yields an ASGI app."""


@dataclass(frozen=True)
class Kind:
    """An ASGI server and the event loop that it runs on."""

    server: str
    backend: str

    def __str__(self) -> str:
        return f"{self.server}-{self.backend}"


KINDS = [
    Kind("uvicorn", "asyncio"),
    Kind("hypercorn", "asyncio"),
    Kind("hypercorn", "trio"),
    Kind("anycorn", "trio"),
]


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    kind: Kind
    port: int
    portal: BlockingPortal
    """Runs functions in the server's event loop."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{HOST}:{self.port}"


@contextmanager
def serving(kind: Kind, make_app: AppFactory) -> Iterator[Running]:
    """Serve an app for the block; the app's block is entered and left in the server's loop."""
    with (
        listening() as listener,
        start_blocking_portal(kind.backend) as portal,
        portal.wrap_async_context_manager(served(kind, make_app, listener)),
    ):
        yield Running(kind, listener.getsockname()[1], portal)


@contextmanager
def listening() -> Iterator[socket.socket]:
    # asyncio turns Nagle's delays off where the protocol is named, and nowhere else
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, 0))
        listener.listen(1_000)
        yield listener


@asynccontextmanager
async def served(kind: Kind, make_app: AppFactory, listener: socket.socket) -> AsyncIterator[Any]:
    """Serve an app in this event loop for the block; yield it."""
    async with make_app() as app, anyio.create_task_group() as tasks:
        stop = anyio.Event()
        stopped = anyio.Event()

        async def run() -> None:
            await SERVERS[kind.server, kind.backend](app, listener, stop)
            stopped.set()

        tasks.start_soon(run)
        try:
            yield app
        finally:
            stop.set()
            with anyio.fail_after(STOP_TIMEOUT, shield=True):
                await stopped.wait()


async def _uvicorn(
    app: Any,
    listener: socket.socket,
    stop: anyio.Event,
    *,
    graceful_timeout: int = GRACEFUL_TIMEOUT,
    keep_alive_timeout: int = KEEP_ALIVE_TIMEOUT,
) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            lifespan="off",
            ws="websockets-sansio",
            timeout_graceful_shutdown=graceful_timeout,
            timeout_keep_alive=keep_alive_timeout,
        )
    )
    async with anyio.create_task_group() as tasks:

        async def stop_server() -> None:
            await stop.wait()
            await _accept_no_more(listener.fileno())
            server.should_exit = True

        tasks.start_soon(stop_server)
        await server.serve(sockets=[listener])


def _config(
    kind: type,
    listener: socket.socket,
    graceful_timeout: int = GRACEFUL_TIMEOUT,
    keep_alive_timeout: int = KEEP_ALIVE_TIMEOUT,
) -> Any:
    config = kind()
    # it closes the descriptor
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = graceful_timeout
    config.keep_alive_timeout = keep_alive_timeout
    return config


async def _accept_no_more(descriptor: int) -> None:
    """Have asyncio accept nothing more, and the server know of all that was accepted.

    uvicorn and Hypercorn do not close a connection that comes while they end.
    """
    asyncio.get_running_loop().remove_reader(descriptor)
    # asyncio takes three rounds from a connection to the server's own task
    for _ in range(10):
        await asyncio.sleep(0)


async def _hypercorn_asyncio(
    app: Any, listener: socket.socket, stop: anyio.Event, **timeouts: int
) -> None:
    config = _config(hypercorn.config.Config, listener, **timeouts)
    descriptor = int(config.bind[0].removeprefix("fd://"))

    async def stop_server() -> None:
        await stop.wait()
        await _accept_no_more(descriptor)

    await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop_server)


async def _hypercorn_trio(
    app: Any, listener: socket.socket, stop: anyio.Event, **timeouts: int
) -> None:
    config = _config(hypercorn.config.Config, listener, **timeouts)
    await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait)


async def _anycorn(app: Any, listener: socket.socket, stop: anyio.Event, **timeouts: int) -> None:
    config = _config(anycorn.Config, listener, **timeouts)
    await anycorn.serve(app, config, shutdown_trigger=stop.wait)


SERVERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("uvicorn", "asyncio"): _uvicorn,
    ("hypercorn", "asyncio"): _hypercorn_asyncio,
    ("hypercorn", "trio"): _hypercorn_trio,
    ("anycorn", "trio"): _anycorn,
    ("anycorn", "asyncio"): _anycorn,
}
