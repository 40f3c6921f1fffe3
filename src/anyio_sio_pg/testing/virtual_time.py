"""Event loops whose clock jumps: whoever waits for time does not wait at all."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any, Literal


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop; when all tasks wait for time, it is that time."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the seconds that have passed, for the tasks."""
        return self._now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout is not None and timeout > 0:
            self._loop._now += timeout
        return ready


def virtual_time(backend: Literal["asyncio", "trio"]) -> dict[str, Any]:
    """Return the ``backend_options`` of ``anyio.run`` for a clock that jumps.

    Only for what waits for nothing but tasks of its own loop: a :class:`.SimulatedNetwork`, not a
    real server.
    """
    if backend == "asyncio":
        return {"loop_factory": VirtualTimeLoop}
    from trio.testing import MockClock

    return {"clock": MockClock(autojump_threshold=0)}
