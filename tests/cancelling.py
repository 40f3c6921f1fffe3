"""Cancel something at each of its awaits, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel

MANY = 200
"""More awaits than anything here has."""


class Stepped:
    """Awaits something and counts its suspensions; calls a function at one of them."""

    def __init__(self, awaitable: Awaitable[Any], at: int, function: Callable[[], object]):
        self.count = 0
        self._awaitable = awaitable
        self._at = at
        self._function = function

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        proceed, value = steps.send, None
        while True:
            try:
                awaited = proceed(value)
            except StopIteration as end:
                return end.value
            self.count += 1
            if self.count == self._at:
                self._function()
            try:
                proceed, value = steps.send, (yield awaited)
            except BaseException as exc:  # noqa: BLE001 - passed on
                proceed, value = steps.throw, exc


async def cancel_at(
    at: int, function: Callable[[], Awaitable[Any]], *, native: bool = False
) -> bool:
    """Cancel what a function does at one of its suspensions; False where it has not so many.

    The cancellation has to pass through, unwrapped. ``native`` is asyncio's own way, as an ASGI
    server does it: once, and not again at the next await.
    """
    if native:
        return await _cancel_natively(at, function)
    with anyio.CancelScope() as scope:
        stepped = Stepped(function(), at, scope.cancel)
        try:
            await stepped
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:
            if stepped.count >= at:
                raise AssertionError(f"not a plain cancellation: {exc!r}") from exc
            raise
        if stepped.count >= at:
            # what it was waiting for may have come at the same time
            await anyio.lowlevel.checkpoint()
            raise AssertionError(f"the cancellation at await {at} was swallowed")
    return stepped.count >= at


async def _cancel_natively(at: int, function: Callable[[], Awaitable[Any]]) -> bool:
    stepped: Stepped

    async def run() -> None:
        nonlocal stepped
        task = asyncio.current_task()
        assert task is not None
        stepped = Stepped(function(), at, task.cancel)
        await stepped

    task = asyncio.ensure_future(run())
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
    if stepped.count < at:
        task.result()
        return False
    assert task.cancelled(), f"the cancellation at await {at} was swallowed: {task!r}"
    return True
