"""The requests of a node that wait for answers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from .protocol.messages import (
    BroadcastAck,
    BroadcastClientCount,
    Data,
    FetchSocketsResponse,
    ServerSideEmitResponse,
)
from .protocol.requests import Acknowledgements, Answers

ACK_LIFETIME: Final = 3_600.0
"""Seconds for which the callback of an event waits for clients of other nodes."""


@dataclass(eq=False)
class Pending:
    """An open request."""

    namespace: str
    tracker: Answers[Any] | Acknowledgements[Any]
    numbered_only: bool = False
    enough: Callable[[Any], bool] | None = None
    acknowledged: Callable[[Data], None] | None = None
    expires_at: float = math.inf
    satisfied: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def complete(self) -> bool:
        """Whether nothing more has to come."""
        return self.satisfied or self.tracker.complete

    async def change(self) -> None:
        """Wait until something has happened to the request."""
        self.changed = anyio.Event()
        await self.changed.wait()


class OpenRequests:
    """The requests by their ids; hands them what concerns them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Pending] = {}

    def add(self, pending: Pending) -> str:
        """Make a request known under a new id, which is returned."""
        request_id = secrets.token_hex(8)
        self._by_id[request_id] = pending
        return request_id

    def remove(self, request_id: str) -> None:
        """Forget a request."""
        self._by_id.pop(request_id, None)

    def wake_all(self) -> None:
        """Let every request look again whether it has to go on."""
        for pending in self._by_id.values():
            pending.changed.set()

    def joined(self, namespace: str, uid: str, *, numbered: bool) -> list[Pending]:
        """Take note that a node has turned up; return the requests that now wait for it, too."""
        asked = [
            pending
            for pending in self._by_id.values()
            if pending.namespace == namespace
            and (numbered or not pending.numbered_only)
            and uid not in pending.tracker.missing
        ]
        for pending in asked:
            pending.tracker.joined(uid)
        return asked

    def wait_in(self, namespace: str) -> bool:
        """Tell whether an answer is still waited for in a namespace."""
        return any(pending.namespace == namespace for pending in self._by_id.values())

    def awaited(self) -> set[tuple[str, str]]:
        """Return the ids of the requests that wait, each with the uids of those it waits for."""
        return {
            (request_id, uid)
            for request_id, pending in self._by_id.items()
            if pending.acknowledged is None and not pending.complete
            for uid in pending.tracker.missing
        }

    def left(self, namespace: str, uid: str) -> None:
        """Take note that a node has left."""
        for pending in self._by_id.values():
            if pending.namespace == namespace:
                pending.tracker.left(uid)
                pending.changed.set()

    def purge(self, now: float, grace: float) -> None:
        """Forget callbacks that have expired, or have had all their answers for ``grace`` s."""
        for request_id, pending in list(self._by_id.items()):
            if pending.expires_at <= now:
                del self._by_id[request_id]
            elif pending.acknowledged is not None and pending.complete:
                pending.expires_at = min(pending.expires_at, now + grace)

    def answer(
        self,
        message: (
            FetchSocketsResponse | ServerSideEmitResponse | BroadcastClientCount | BroadcastAck
        ),
    ) -> None:
        """Hand an answer to the request that it is for."""
        pending = self._by_id.get(message.request_id)
        if pending is None or pending.namespace != message.namespace:
            return
        tracker = pending.tracker
        if isinstance(tracker, Answers):
            if not isinstance(message, BroadcastClientCount | BroadcastAck):
                tracker.answered(message.sender, message)
                if pending.enough is not None and pending.enough(message):
                    pending.satisfied = True
        elif isinstance(message, BroadcastClientCount):
            tracker.counted(message.sender, message.count)
        elif isinstance(message, BroadcastAck):
            tracker.acknowledged(message.sender, message.data)
            if pending.acknowledged is not None:
                pending.acknowledged(message.data)
        pending.changed.set()
