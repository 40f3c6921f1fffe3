"""What the tests with real clients share: the servers, and clients that are closed at the end."""

from __future__ import annotations

import fcntl
import logging
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from interop.app import Server, app_served
from interop.clients import HERE, MODES, Client
from serving import KINDS, Kind

Open = Callable[..., Awaitable[Client]]
MakeClient = Callable[[str], Client]


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """The official JavaScript packages, in the versions of the lock files."""
    for folder in (HERE, HERE / "legacy"):
        installed = folder / "node_modules/.package-lock.json"
        lock = folder / "package-lock.json"
        with lock.open() as held:
            # other processes of the same run want them as well
            fcntl.flock(held, fcntl.LOCK_EX)
            if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
                subprocess.run(
                    ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"],
                    cwd=folder,
                    check=True,
                )


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The clients run on asyncio; the servers have threads and event loops of their own."""
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    value: Kind = request.param
    return value


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def server(kind: Kind) -> Iterator[Server]:
    """A server that the module's tests share; it takes messages of 1 MB."""
    with app_served(kind, max_http_buffer_size=3_000_000) as served:
        yield served


@pytest.fixture
def serve(kind: Kind) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own, with options of its own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            app_served(kind, **{"cors_allowed_origins": "*", **options})
        )


@pytest.fixture
async def open_client(
    server: Server,
    serve: object,  # stopped after the clients are closed
    mode: str,
    make_client: MakeClient,
) -> AsyncIterator[Open]:
    """Open a client in the test's mode; it is closed at the end."""
    async with AsyncExitStack() as stack:

        async def open_(url: str | None = None, *, mode: str = mode, **options: Any) -> Client:
            client = make_client(mode)
            stack.push_async_callback(client.close)
            await client.open(url or server.url, **options)
            return client

        yield open_


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does makes a server log an error."""
    yield
    errors = [
        record
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.ERROR
        # the clients log that they were cut, or refused
        and record.name not in ("engineio.client", "socketio.client")
        # the first bad request is logged as an error; some of the tests make one
        and "(further occurrences of this error will be logged" not in record.getMessage()
    ]
    assert not errors, [record.getMessage() for record in errors]
