"""What python-socketio's users get from ``create_queue`` and ``create_event``, on AnyIO."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Generator
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")

QueueEmpty: Final = queue.Empty
"""Raised by :meth:`Queue.get_nowait`."""
QueueFull: Final = queue.Full
"""Raised by :meth:`Queue.put_nowait`."""


class Event:
    """An event that can be cleared, with the methods of :class:`asyncio.Event`."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def set(self) -> None:
        """Set it, and wake all that wait."""
        self._event.set()

    def clear(self) -> None:
        """Unset it."""
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self) -> bool:
        """Return True once it is set."""
        await self._event.wait()
        return True


class Queue(Generic[T]):
    """A queue with the methods of :class:`asyncio.Queue`; ``maxsize`` 0 is no limit."""

    def __init__(self, maxsize: int = 0):
        self.maxsize = maxsize
        self._items: deque[T] = deque()
        self._getters: deque[anyio.Event] = deque()
        self._putters: deque[anyio.Event] = deque()
        self._unfinished = 0
        self._finished = Event()
        self._finished.set()

    def qsize(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there is no item."""
        return not self._items

    def full(self) -> bool:
        """Whether there is no room."""
        return 0 < self.maxsize <= len(self._items)

    async def put(self, item: T) -> None:
        """Add an item, once there is room."""
        await anyio.lowlevel.checkpoint()
        while self.full():
            await self._turn(self._putters)
        self.put_nowait(item)

    def put_nowait(self, item: T) -> None:
        """Add an item.

        :raises queue.Full: there is no room.
        """
        if self.full():
            raise QueueFull
        self._items.append(item)
        self._unfinished += 1
        self._finished.clear()
        _wake_next(self._getters)

    async def get(self) -> T:
        """Return the next item, once there is one."""
        await anyio.lowlevel.checkpoint()
        while self.empty():
            await self._turn(self._getters)
        return self.get_nowait()

    def get_nowait(self) -> T:
        """Return the next item.

        :raises queue.Empty: there is none.
        """
        if self.empty():
            raise QueueEmpty
        item = self._items.popleft()
        _wake_next(self._putters)
        return item

    def task_done(self) -> None:
        """Say that an item that was taken has been dealt with.

        :raises ValueError: more often than items were put.
        """
        if self._unfinished == 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
        if self._unfinished == 0:
            self._finished.set()

    async def join(self) -> None:
        """Return once every item has been taken and dealt with."""
        await self._finished.wait()

    async def _turn(self, waiting: deque[anyio.Event]) -> None:
        turn = anyio.Event()
        waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                # it was this one's turn: somebody else has to take it
                _wake_next(waiting)
            else:
                waiting.remove(turn)
            raise


def _wake_next(waiting: deque[anyio.Event]) -> None:
    if waiting:
        waiting.popleft().set()


class BackgroundTask(Generic[T]):
    """A task that ``start_background_task`` has started; awaiting it returns its result."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._result: T | None = None
        self._exception: BaseException | None = None

    def cancel(self) -> None:
        """Cancel it."""
        self._scope.cancel()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    async def wait(self) -> T | None:
        """Wait for its end; return what it returned (None if it was cancelled) or raise."""
        await self._ended.wait()
        if self._exception is not None:
            raise self._exception
        return self._result

    def __await__(self) -> Generator[Any, Any, T | None]:
        return self.wait().__await__()
