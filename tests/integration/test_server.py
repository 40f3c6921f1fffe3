"""The servers that tests and the demo start: PostgreSQL, and ASGI servers."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
import socketio
import uvicorn

from anyio_sio_pg import AnyIOServer
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import eventually
from serving import KINDS, Kind, listening, served
from wire_clients import Wire

pytestmark = pytest.mark.anyio


async def test_a_server_starts_stops_and_leaves_nothing() -> None:
    with EmbeddedPostgres(settings=["max_connections = 17"]) as server:
        with psycopg.connect(server.uri) as connection:
            row = connection.execute("SHOW max_connections").fetchone()
        assert row == ("17",)
        server.stop()
        assert server.pid is None
        server.start()
        pid, data = server.pid, server.data
        assert pid is not None
    await eventually(lambda: not _alive(pid))
    assert not data.exists()
    with pytest.raises(RuntimeError, match="not been entered"):
        _ = server.data


async def test_a_server_that_was_killed_is_cleaned_up() -> None:
    with EmbeddedPostgres() as server:
        data = server.data
        server.kill()
        await eventually(lambda: server.pid is None)
    assert not data.exists()


def test_a_server_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="max_connections"),
        EmbeddedPostgres(settings=["max_connections = many"]),
    ):
        raise AssertionError("it must not start")


def test_missing_binaries_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="initdb"), EmbeddedPostgres(binaries=tmp_path):
        raise AssertionError("it must not start")


@asynccontextmanager
async def _make_app() -> AsyncIterator[Any]:
    async with AnyIOServer() as sio:
        yield socketio.ASGIApp(sio)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.backend == "asyncio"], ids=str)
def test_no_connection_that_comes_while_an_asgi_server_ends_stays_open(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later test would be told of its transport, as garbage that nobody has closed."""
    shutdown = uvicorn.Server.shutdown

    async def serve_and_connect(rounds: int) -> None:
        loop = asyncio.get_running_loop()

        def connect(after: int) -> None:
            if after:
                loop.call_soon(connect, after - 1)
            else:
                late.connect(listener.getsockname())

        async def connect_before(*args: Any, **kwargs: Any) -> None:
            connect(0)
            for _ in range(rounds):
                await asyncio.sleep(0)
            await shutdown(*args, **kwargs)

        with listening() as listener, socket.socket() as late:
            async with served(kind, _make_app, listener):
                first = await Wire.connect(listener.getsockname()[1])
                await first.request("GET", "transport=none")
                assert (await first.response())[0] == 400
                await first.close()
                if kind.server == "uvicorn":
                    # it does not end at once when it is told to
                    monkeypatch.setattr(uvicorn.Server, "shutdown", connect_before)
                else:
                    connect(rounds)

    for rounds in range(6):
        anyio.run(serve_and_connect, rounds, backend=kind.backend)
        gc.collect()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
