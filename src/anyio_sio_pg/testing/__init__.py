"""For tests: a cluster in one process, and an embedded PostgreSQL."""

from .clients import RefusedError, SimulatedClient
from .cluster import SimulatedCluster, SimulatedNode
from .network import Network, PostgresNetwork
from .server import EmbeddedPostgres

__all__ = [
    "EmbeddedPostgres",
    "Network",
    "PostgresNetwork",
    "RefusedError",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedNode",
]
