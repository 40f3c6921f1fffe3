"""What goes wrong in the background: logged, and handed to ``on_error``."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .errors import AdapterError

logger = logging.getLogger("anyio_sio_pg")


class HandlerError(Exception):
    """What a handler of the application's has raised, its cause; the text says which handler."""


class Reporter:
    """Owns a block's task group, and hears of every error in it that no caller can be given."""

    def __init__(self, on_error: Callable[[Exception], object] | None):
        self._on_error = on_error
        self._task_group: TaskGroup | None = None

    @property
    def running(self) -> bool:
        """Whether the block runs."""
        return self._task_group is not None

    @asynccontextmanager
    async def task_group(self) -> AsyncGenerator[TaskGroup]:
        """Run a task group for the block; at its end what still runs is cancelled.

        An error of the block, or of one task, leaves it as it is, not wrapped in a group.
        """
        try:
            async with anyio.create_task_group() as task_group:
                self._task_group = task_group
                try:
                    yield task_group
                finally:
                    task_group.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group.exceptions[0].__cause__
            raise
        finally:
            self._task_group = None

    def report(self, error: Exception) -> None:
        """Log an error and hand it to ``on_error``."""
        # libpq's texts have several lines, which logs would take for several entries
        logger.warning("%s", _one_line(str(error)))
        self._tell(error)

    def failed(self, what: str, error: Exception) -> None:
        """Log an error with its traceback and hand it to ``on_error``."""
        logger.error("%s", _one_line(what), exc_info=error)
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._on_error is None:
            return
        if isinstance(error, AdapterError):
            error.args = tuple(_one_line(a) if isinstance(a, str) else a for a in error.args)
        try:
            result = self._on_error(error)
            if isinstance(result, Awaitable):
                self.start_soon(_await, result)
        except Exception:
            logger.exception("on_error raised")

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run something in the task group; what it raises is reported, not passed on."""
        if self._task_group is not None:
            self._task_group.start_soon(self._contained, function, *args)

    async def start(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """As :meth:`start_soon`, and return once it has run to its first suspension."""
        if self._task_group is not None:
            await self._task_group.start(self._started, function, *args)

    async def _started(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        task_status: TaskStatus[None],
    ) -> None:
        task_status.started()
        await self._contained(function, *args)

    async def _contained(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await function(*args)
        except HandlerError as exc:
            raised = exc.__cause__
            assert isinstance(raised, Exception)  # noqa: S101 - it is made of nothing else
            self.failed(str(exc), raised)
        except Exception as exc:  # noqa: BLE001 - reported
            self.failed(f"{getattr(function, '__qualname__', function)} failed", exc)


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


async def _await(awaitable: Awaitable[Any]) -> None:
    try:
        await awaitable
    except Exception:
        # reported, it would come here again
        logger.exception("on_error raised")
