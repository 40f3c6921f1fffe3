"""pytest fixtures: ``pytest_plugins = ["anyio_sio_pg.testing.fixtures"]`` in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .network import PostgresNetwork
from .server import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """Run an embedded PostgreSQL, which all tests share."""
    with EmbeddedPostgres(settings=["max_connections = 200"]) as server:
        yield server


@pytest.fixture
def postgres_network(postgres_server: EmbeddedPostgres) -> PostgresNetwork:
    """Return how the nodes of a :class:`.SimulatedCluster` reach that PostgreSQL."""
    return PostgresNetwork(postgres_server.uri)
