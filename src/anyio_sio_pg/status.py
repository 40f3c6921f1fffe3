"""What a node tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What a node can do for the cluster, and the cluster for it."""

    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    ISOLATED = "isolated"
    """Deaf, or without a session for longer than ``heartbeat_timeout``: for the others it is gone."""
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Counters of a node since it was started; messages, where nothing else is said."""

    sent: int
    """Committed by PostgreSQL."""
    received: int
    """Messages of others that came in, heartbeats included."""
    delivered: int
    """Events put on the queues of this node's clients, for each client one."""
    dropped: int
    """Refused by PostgreSQL, or answers for which the outbox had no room."""
    lost: int
    """Messages of others that did not arrive here."""
    repeated: int
    """Messages of others that came a second time and were left out."""
    garbage: int
    """Notifications that are not messages of the cluster."""
    reconnects: int
    """Sessions made anew."""
    queue_depth: int
    """In the outbox now."""
    batches: int
    """Statements that sent something."""
    nodes: int
    """Other nodes that have been heard, and are not gone."""
