"""The tasks that a server owns, and how each of them starts and ends."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ..reporting import Reporter
from .primitives import BackgroundTask, Event
from .timetable import Timetable

T = TypeVar("T")


_handled_here: ContextVar[frozenset[object]] = ContextVar("handled_here", default=frozenset())
"""What this task does for the server, and what the tasks did that it was started from."""


class ServerTasks:
    """A server's task group: handlers, transports, background tasks and the timetable."""

    def __init__(self, logger: logging.Logger):
        self.timetable = Timetable()
        self._logger = logger
        self._group: TaskGroup | None = None
        self._under_way: set[object] = set()
        self._one_less = Event()
        self._last_words: dict[object, anyio.CancelScope] = {}

    @property
    def running(self) -> bool:
        """Whether there is a task group to start something in."""
        return self._group is not None

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Own the tasks for the block; none of them outlives it."""
        # the server may have been made in another event loop, or in none
        self._one_less = Event()
        async with Reporter(None).task_group() as group:
            self._group = group
            group.start_soon(self.timetable.run)
            try:
                yield
            finally:
                self._group = None

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Start a task; what it raises is logged."""
        self._running_group().start_soon(self._contained, function, *args)

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
                try:
                    result = target(*args, **kwargs)
                    task._result = await result if isinstance(result, Awaitable) else result
                except anyio.get_cancelled_exc_class():
                    if being_cancelled():
                        raise
                    self._logger.error("the background task %s was cancelled", _name(target))
        except Exception as exc:
            task._exception = exc
            self._logger.exception("the background task %s raised", _name(target))
        finally:
            task._ended.set()

    def speak_last(
        self, subject: object, function: Callable[..., Awaitable[Any]], *args: Any
    ) -> None:
        """Start a task that cancellation from outside does not end, only :meth:`hush`."""
        scope = anyio.CancelScope(shield=True)
        self._running_group().start_soon(self._speak_last, subject, scope, function, args)
        # it may be hushed before it has begun
        self._last_words[subject] = scope

    async def _speak_last(
        self,
        subject: object,
        scope: anyio.CancelScope,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
    ) -> None:
        with scope, self._handling(subject):
            try:
                await self._contained(function, *args)
            finally:
                del self._last_words[subject]

    async def finish(
        self, function: Callable[..., Awaitable[Any]], *args: Any, subject: object = None
    ) -> None:
        """Await something as :meth:`apart` does; it goes on if the one that awaits is cancelled."""
        ended = anyio.Event()

        async def run() -> None:
            try:
                with self._handling(subject):
                    await function(*args)
            finally:
                ended.set()

        self.speak_last(object(), run)
        await ended.wait()

    def hush(self) -> int:
        """Cancel what cancellation from outside does not end; return how many tasks that were."""
        scopes = [scope for subject, scope in self._last_words.items() if not self.is_mine(subject)]
        for scope in scopes:
            scope.cancel()
        return len(scopes)

    def is_mine(self, subject: object) -> bool:
        """Whether it is this very task that deals with it: to wait for its end would be for ever."""
        return subject in _handled_here.get()

    async def settle(self) -> None:
        """Return once no handler runs, but for the one that waits here."""
        while not self._under_way <= _handled_here.get():
            self._one_less.clear()
            await self._one_less.wait()

    async def apart(
        self, function: Callable[..., Awaitable[T]], *args: Any, subject: object = None
    ) -> T:
        """Await something in a task of this group.

        An ASGI server may shield its ``send`` from cancellation, for as long as a client does not
        read; its own task, that it waits for, must not be in there.

        :raises EndedError: the server's block has ended meanwhile.
        """
        outcome: list[T] = []
        failure: list[Exception] = []
        ended = anyio.Event()
        scope = anyio.CancelScope()

        async def run() -> None:
            try:
                with scope, self._handling(subject):
                    try:
                        outcome.append(await function(*args))
                    except anyio.get_cancelled_exc_class():
                        if being_cancelled():
                            raise
                        self._logger.error("%s was cancelled", _name(function))
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
            raise EndedError(f"{_name(function)} was cancelled")
        return outcome[0]

    @contextmanager
    def _handling(self, subject: object = None) -> Generator[None]:
        this = object()
        token = _handled_here.set(_handled_here.get() | {this, subject})
        self._under_way.add(this)
        try:
            yield
        finally:
            self._under_way.discard(this)
            self._one_less.set()
            _handled_here.reset(token)

    async def _contained(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except anyio.get_cancelled_exc_class():
            if being_cancelled():
                raise
            self._logger.error("%s was cancelled", _name(function))
        except Exception:
            self._logger.exception("%s raised", _name(function))

    def _running_group(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError(
                "the server does not run: its tasks live in its block, `async with server:`"
            )
        return self._group


class EndedError(Exception):
    """What was awaited has been cancelled, most likely by the end of the server's block."""


def being_cancelled() -> bool:
    """Whether this task is, where asyncio's CancelledError may also stem from what it awaits."""
    return anyio.current_effective_deadline() == -math.inf


def _name(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", repr(function))
    return name
