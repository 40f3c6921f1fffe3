"""For tests: a cluster in one process, and an embedded PostgreSQL."""

from .clients import RefusedError, SimulatedClient
from .cluster import SimulatedCluster, SimulatedNode
from .network import Network, PostgresNetwork
from .server import EmbeddedPostgres
from .simulated import SimulatedNetwork
from .virtual_time import virtual_time

__all__ = [
    "EmbeddedPostgres",
    "Network",
    "PostgresNetwork",
    "RefusedError",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedNetwork",
    "SimulatedNode",
    "virtual_time",
]
