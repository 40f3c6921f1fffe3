"""When to do what: the pings, the time-outs and the deadlines of every client, in one task."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

import anyio

_FEW: Final = 100
"""Timers that are not worth a look at which of them were cancelled."""


class Timer:
    """Something to be called at a time, unless it is cancelled before."""

    __slots__ = ("_function", "_number", "_when")

    def __init__(self, when: float, number: int, function: Callable[[], None]):
        self._when = when
        self._number = number
        self._function: Callable[[], None] | None = function

    def __lt__(self, other: Timer) -> bool:
        return (self._when, self._number) < (other._when, other._number)

    @property
    def when(self) -> float:
        """The time, on the event loop's clock."""
        return self._when

    @property
    def cancelled(self) -> bool:
        """Whether it calls nothing any more."""
        return self._function is None

    def cancel(self) -> None:
        """Do not call it; what it would have called is let go of."""
        self._function = None

    def fire(self) -> None:
        """Call it, if it has not been cancelled."""
        if self._function is not None:
            function, self._function = self._function, None
            function()


class Timetable:
    """Calls functions, none of which waits, when their time has come."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._sooner = anyio.Event()
        self._many = _FEW

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        """Call a function in so many seconds."""
        if len(self._timers) >= self._many:
            # those of clients that have gone would stay until their time has come
            self._timers = [timer for timer in self._timers if not timer.cancelled]
            heapq.heapify(self._timers)
            self._many = max(_FEW, 2 * len(self._timers))
        timer = Timer(anyio.current_time() + delay, next(self._numbers), function)
        heapq.heappush(self._timers, timer)
        if self._timers[0] is timer:
            self._sooner.set()
        return timer

    async def run(self) -> None:
        """Call what is due, for ever."""
        while True:
            now = anyio.current_time()
            while self._timers and self._timers[0].when <= now:
                heapq.heappop(self._timers).fire()
            self._sooner = anyio.Event()
            with anyio.CancelScope() as scope:
                if self._timers:
                    scope.deadline = self._timers[0].when
                await self._sooner.wait()
