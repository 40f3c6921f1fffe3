"""How the nodes of a simulated cluster reach PostgreSQL, and how they are kept from it."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import psycopg

from ..manager import PostgresManager
from ..postgres.connection import AnyIOConnection

if TYPE_CHECKING:
    from anyio.abc import TaskGroup


class Network(Protocol):
    """Connects nodes, by their names, to one PostgreSQL, real or simulated."""

    def manager(self, node: str, **options: Any) -> PostgresManager:
        """Make the manager of a node."""
        ...

    def cut(self, node: str) -> None:
        """End a node's sessions, and refuse it new ones."""

    def mend(self, node: str) -> None:
        """Let a node connect again."""

    def is_cut(self, node: str) -> bool:
        """Tell whether a node is kept from PostgreSQL."""
        ...

    async def settled(self) -> None:
        """Return when nothing is on its way any more."""

    async def serve(self, task_group: TaskGroup) -> None:
        """Start what the network needs to run."""


class PostgresNetwork:
    """A real PostgreSQL, which ``uri`` names."""

    def __init__(self, uri: str):
        self.uri = uri
        self._sessions: defaultdict[str, WeakSet[AnyIOConnection]] = defaultdict(WeakSet)
        self._cut: set[str] = set()

    def manager(self, node: str, **options: Any) -> PostgresManager:
        """Make the manager of a node."""

        async def connect() -> AnyIOConnection:
            if node in self._cut:
                raise psycopg.OperationalError(f"{node} is cut off")
            connection = await AnyIOConnection.connect(
                self.uri, autocommit=True, application_name=options["prefix"]
            )
            self._sessions[node].add(connection)
            if node in self._cut:
                _break(connection)
            return connection

        return PostgresManager(connect=connect, **options)

    def cut(self, node: str) -> None:
        """End a node's sessions as if its process had died, and refuse it new ones."""
        self._cut.add(node)
        for connection in self._sessions.pop(node, ()):
            _break(connection)

    def mend(self, node: str) -> None:
        """Let a node connect again."""
        self._cut.discard(node)

    def is_cut(self, node: str) -> bool:
        """Tell whether a node is kept from PostgreSQL."""
        return node in self._cut

    async def settled(self) -> None:
        """Do nothing: a notification of one's own comes after all that was sent before it."""

    async def serve(self, task_group: TaskGroup) -> None:
        """Do nothing: the server runs already."""


def _break(connection: AnyIOConnection) -> None:
    if connection.closed:
        return
    # both ends find it closed; the descriptor itself stays libpq's
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)
