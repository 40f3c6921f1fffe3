"""A namespace in which a node takes part."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio

from .protocol.membership import Membership


@dataclass(eq=False)
class Namespace:
    """A namespace in which this node takes part."""

    name: str
    members: Membership
    last_used: float
    used: bool = False
    joined_at: float = math.inf
    heartbeat_waits: bool = False
    answer_waits: bool = False
    ready: anyio.Event = field(default_factory=anyio.Event)
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    open: bool = False
    """Whether messages need not wait for their turn."""
    returned: bool = False
    """Whether a node not heard of yet has started while this one was away."""
