"""What every test can ask for: a PostgreSQL server, both event loops, a prefix of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from anyio_sio_pg.postgres.connection import close_session
from anyio_sio_pg.testing import EmbeddedPostgres

hypothesis.settings.register_profile("default", max_examples=200, deadline=None)
hypothesis.settings.register_profile("soak", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

_numbers = itertools.count(1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A server that the whole run shares; nobody stops it."""
    with EmbeddedPostgres(settings=["max_connections = 200"]) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to be stopped, frozen and killed."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def uri(postgres: EmbeddedPostgres) -> str:
    return postgres.uri


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses: nobody else is in this test's cluster."""
    return f"test{next(_numbers)}"


@pytest.fixture
def patient_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for the end of a session than the second after which a node gives it up."""

    async def wait(connection: Any, timeout: float) -> bool:
        return await close_session(connection, timeout + 20)

    for module in ("listener", "publisher"):
        monkeypatch.setattr(f"anyio_sio_pg.postgres.{module}.close_session", wait)
