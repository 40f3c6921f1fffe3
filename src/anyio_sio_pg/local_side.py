"""What a node needs of the manager: the clients and handlers of this process."""

from __future__ import annotations

from typing import Protocol

from .protocol.messages import (
    Attached,
    Broadcast,
    DisconnectSockets,
    FetchSockets,
    ServerSideEmit,
    SocketsJoin,
    SocketsLeave,
)


class LocalSide(Protocol):
    """What a node needs of the manager: the clients and handlers of this process."""

    def _wants(self, namespace: str, message: Attached) -> bool:
        """Tell whether an attachment concerns anybody here."""
        ...

    def _keeps(self, namespace: str) -> bool:
        """Tell whether a namespace is in use here."""
        ...

    def _has_clients(self, namespace: str) -> bool:
        """Tell whether a namespace has clients here."""
        ...

    def _declares(self, namespace: str) -> bool:
        """Tell whether the application itself has named a namespace, not only a client."""
        ...

    def _forget_overdue(self, now: float) -> None:
        """Wait no longer for acknowledgements that nobody would read any more."""

    def _on_broadcast(self, message: Broadcast) -> None:
        """Deliver an event to this node's clients."""

    def _on_join_or_leave(self, message: SocketsJoin | SocketsLeave) -> None:
        """Let this node's sockets enter or leave rooms."""

    def _on_disconnect(self, message: DisconnectSockets) -> None:
        """Disconnect this node's sockets."""

    def _on_fetch(self, message: FetchSockets) -> None:
        """Answer with this node's sockets."""

    def _is_local(self, sid: str, namespace: str) -> bool:
        """Tell whether a socket is connected here."""
        ...

    async def _on_server_side(self, message: ServerSideEmit) -> None:
        """Run the handler of a server-side event and answer."""
