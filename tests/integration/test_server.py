"""The embedded server that tests and the demo start."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from anyio_sio_pg.testing import EmbeddedPostgres
from harness import eventually

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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
