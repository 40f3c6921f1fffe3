"""How long a server that owes an answer may be silent."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Final, TypeVar

import anyio

from .connection import AnyConnection, AnyIOConnection

T = TypeVar("T")

_STEPS: Final = 8
"""Looks within the time; a process that stands still misses at most one."""


class SilentError(Exception):
    """Nothing has come for too long: the connection is of no more use."""


class Patience:
    """Ends statements on a connection on which nothing moves for ``seconds``.

    A clock would also count the time in which this process stands still, and cannot read; and that
    which a question takes over a slow link, or what is to come before its answer. On a connection
    that listens, notifications also come where the question does not arrive: so there is a
    ``longest`` time, in seconds. Of connections that are no :class:`.AnyIOConnection` nobody sees
    what moves.

    :meth:`run` has to be running meanwhile.
    """

    def __init__(self, seconds: float, longest: float = math.inf):
        self._seconds = seconds
        self._longest = longest
        self._scope: anyio.CancelScope | None = None
        self._connection: AnyConnection | None = None
        self._asleep = False
        self._begun = anyio.Event()
        self._stop = anyio.CancelScope()
        self._ended: anyio.CancelScope | None = None
        self._waited = 0.0
        self.moved_at = 0.0
        """When something was last seen to move, on the loop's clock."""

    def begin(self, connection: AnyConnection, scope: anyio.CancelScope) -> None:
        """Cancel a scope once nothing has moved for too long, unless :meth:`end` comes before."""
        self._connection = connection
        self._scope = scope
        if self._asleep:
            self._asleep = False
            self._begun.set()

    def end(self) -> None:
        """Take note that the answer is there, or no longer waited for."""
        self._scope = None

    def check(self, scope: anyio.CancelScope) -> None:
        """Raise :exc:`SilentError` if that is why a scope was cancelled."""
        if scope is self._ended:
            raise SilentError(f"a statement had no answer within {self._waited:g} s")

    async def wait(self, connection: AnyConnection, call: Awaitable[T]) -> T:
        """Return what a statement returns.

        :raises SilentError: nothing has come for too long.
        """
        with anyio.CancelScope() as scope:
            self.begin(connection, scope)
            try:
                return await call
            finally:
                self.end()
        self.check(scope)
        raise AssertionError("nobody else cancels it")

    def stop(self) -> None:
        """Make :meth:`run` end."""
        self._stop.cancel()

    async def run(self) -> None:
        """Watch the statements until :meth:`stop`."""
        with self._stop:
            while True:
                while (scope := self._scope) is not None:
                    await self._watch(scope)
                self._begun = anyio.Event()
                self._asleep = True
                await self._begun.wait()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        step = self._seconds / _STEPS
        steps = silent = 0
        moves = self._moves()
        while silent < _STEPS and steps * step < self._longest:
            await anyio.sleep(step)
            if self._scope is not scope:
                return
            steps += 1
            silent += 1
            if (now := self._moves()) != moves:
                silent, moves = 0, now
                self.moved_at = anyio.current_time()
        self._ended = scope
        self._waited = steps * step
        scope.cancel()
        self.end()

    def _moves(self) -> int:
        connection = self._connection
        return connection.moves if isinstance(connection, AnyIOConnection) else 0
