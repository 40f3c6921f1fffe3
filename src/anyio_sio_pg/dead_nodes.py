"""The search for nodes that owe an answer and have died, which PostgreSQL knows at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import anyio

from .connectivity import Connectivity
from .errors import ConnectionLostError
from .namespace import Namespace
from .open_requests import OpenRequests
from .postgres.presence import absent
from .postgres.publisher import Publisher

LOOK: Final = 0.2
"""Seconds after which a node that owes an answer is looked for, and again and again."""

LONGEST_LOOK: Final = 2.0
"""Seconds between two looks at most, while no new request waits."""


class DeadNodes:
    """Looks for the dead while requests wait; calls ``gone`` for each namespace of each."""

    def __init__(
        self,
        requests: OpenRequests,
        namespaces: Mapping[str, Namespace],
        connectivity: Connectivity,
        publisher: Publisher,
        gone: Callable[[Namespace, str, str], None],
    ):
        self._requests = requests
        self._namespaces = namespaces
        self._connectivity = connectivity
        self._publisher = publisher
        self._gone = gone
        self._asked = anyio.Event()

    def asked(self) -> None:
        """Take note that a request is waiting for one more node."""
        self._asked.set()

    async def search(self) -> None:
        """Wait no longer for nodes that have no listening session: their process has died."""
        while True:
            looked_for: set[tuple[str, str]] = set()
            pause, due = LOOK, 0.0
            while waiting := self._waiting():
                await anyio.sleep(LOOK)
                waiting &= self._waiting()
                now = anyio.current_time()
                if waiting - looked_for:
                    # another request has waited that long now
                    pause = LOOK
                elif now < due:
                    continue
                # who is alive but has nothing to say may be long about it
                pause = min(pause * 1.5, LONGEST_LOOK)
                due = now + pause
                looked_for = waiting
                if waiting:
                    await self._remove({uid for _, uid in waiting})
            self._asked = anyio.Event()
            await self._asked.wait()

    def _waiting(self) -> set[tuple[str, str]]:
        """Return who waits for whom: a request's id and a node's uid."""
        # a Node server holds no lock, and is found dead by its silence
        known = self._namespaces.values()
        return {
            (request_id, uid)
            for request_id, uid in self._requests.awaited()
            if any(namespace.members.is_numbered(uid) for namespace in known)
        }

    async def _remove(self, uids: set[str]) -> None:
        self._connectivity.look()
        if not self._connectivity.steady:
            # what has cut off this node may have cut off the others, who are on their way back
            return
        try:
            dead: list[str] = await self._publisher.execute(partial(absent, uids=uids))
        except ConnectionLostError:
            # nobody can be heard meanwhile; heartbeats tell when it is over
            return
        for uid in dead:
            for namespace in self._namespaces.values():
                if namespace.members.left(uid):
                    self._gone(namespace, uid, "has no listening session, in")
