"""pytest fixtures: ``pytest_plugins = ["anyio_sio_pg.testing.fixtures"]`` in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .network import PostgresNetwork
from .server import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """An embedded PostgreSQL that all tests of the run share."""
    with EmbeddedPostgres(settings=["max_connections = 200"]) as server:
        yield server


@pytest.fixture
def postgres_network(postgres_server: EmbeddedPostgres) -> PostgresNetwork:
    """How the nodes of a :class:`.SimulatedCluster` of this test reach that PostgreSQL."""
    return PostgresNetwork(postgres_server.uri)
