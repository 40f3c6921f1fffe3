"""The tasks that a server owns, and how each of them starts and ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..reporting import Reporter
from .primitives import BackgroundTask, Event
from .timetable import Timetable

T = TypeVar("T")


class ServerTasks:
    """A server's task group: handlers, transports, background tasks and the timetable."""

    def __init__(self, logger: logging.Logger):
        self.timetable = Timetable()
        self._logger = logger
        self._group: TaskGroup | None = None
        self._handlers = 0
        self._no_handlers = Event()
        self._no_handlers.set()
        self._last_words: set[anyio.CancelScope] = set()

    @property
    def running(self) -> bool:
        """Whether there is a task group to start something in."""
        return self._group is not None

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Own the tasks for the block; none of them outlives it."""
        # the server may have been made in another event loop, or in none
        self._no_handlers = Event()
        self._no_handlers.set()
        async with Reporter(None).task_group() as group:
            self._group = group
            group.start_soon(self.timetable.run)
            try:
                yield
            finally:
                self._group = None

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        """Start a task that deals with its own errors."""
        self._running_group().start_soon(function, *args)

    async def begin(self, handler: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Start a handler, and return once it has run to its first suspension.

        Tasks that are merely spawned begin in any order on Trio; those that are begun here one
        after the other begin in that order. What a handler raises is logged.
        """
        await self._running_group().start(self._begin, handler, args)

    async def _begin(
        self,
        handler: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        with self._handling():
            task_status.started()
            await self._contained(handler, *args)

    def background(self, target: Callable[..., Any], args: Any, kwargs: Any) -> BackgroundTask[Any]:
        """Start a task of the application's."""
        task: BackgroundTask[Any] = BackgroundTask()
        self._running_group().start_soon(self._background, task, target, args, kwargs)
        return task

    async def _background(
        self, task: BackgroundTask[Any], target: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        try:
            with task._scope:
                result = target(*args, **kwargs)
                task._result = await result if isinstance(result, Awaitable) else result
        except Exception as exc:
            task._exception = exc
            self._logger.exception("the background task %s raised", _name(target))
        finally:
            task._ended.set()

    def speak_last(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Start a task that cancellation from outside does not end, only :meth:`hush`."""
        self._running_group().start_soon(self._speak_last, function, args)

    async def _speak_last(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        with anyio.CancelScope(shield=True) as scope, self._handling():
            self._last_words.add(scope)
            try:
                await self._contained(function, *args)
            finally:
                self._last_words.discard(scope)

    def hush(self) -> int:
        """Cancel what cancellation from outside does not end; return how many tasks that were."""
        for scope in self._last_words:
            scope.cancel()
        return len(self._last_words)

    async def settle(self) -> None:
        """Return once no handler runs."""
        await self._no_handlers.wait()

    async def apart(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await something in a task of this group.

        An ASGI server may shield its ``send`` from cancellation, for as long as a client does not
        read; its own task, that it waits for, must not be in there.
        """
        outcome: list[T] = []
        failure: list[Exception] = []
        ended = anyio.Event()
        scope = anyio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    outcome.append(await function(*args))
            except Exception as exc:  # noqa: BLE001 - raised where it is awaited
                failure.append(exc)
            finally:
                ended.set()

        self._running_group().start_soon(run)
        try:
            await ended.wait()
        except BaseException:
            scope.cancel()
            raise
        if failure:
            raise failure[0]
        if not outcome:
            raise RuntimeError("the server has ended")
        return outcome[0]

    @contextmanager
    def _handling(self) -> Generator[None]:
        self._handlers += 1
        self._no_handlers.clear()
        try:
            yield
        finally:
            self._handlers -= 1
            if not self._handlers:
                self._no_handlers.set()

    async def _contained(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except Exception:
            self._logger.exception("%s raised", _name(function))

    def _running_group(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError(
                "the server does not run: its tasks live in its block, `async with server:`"
            )
        return self._group


def _name(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", repr(function))
    return name
