"""What is logged, and what on_error is given."""

from __future__ import annotations

import logging

import pytest

from anyio_sio_pg import AdapterError, MessagesLostError
from anyio_sio_pg.reporting import HandlerError, Reporter

pytestmark = pytest.mark.anyio

REFUSED = """connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused
\tIs the server running on that host and accepting TCP/IP connections?
"""
"""As libpq says it."""


async def contained(error: Exception, reporter: Reporter) -> None:
    """Let a task of the reporter's fail."""

    async def fail() -> None:
        raise error

    async with reporter.task_group():
        await reporter.start(fail)


def test_an_error_of_several_lines_is_reported_and_logged_on_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Exception] = []
    reporter = Reporter(told.append)
    error = MessagesLostError(REFUSED, "u", "/", 2)
    reporter.report(error)
    text = (
        'connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused'
        " Is the server running on that host and accepting TCP/IP connections?"
    )
    assert told == [error]
    assert (str(error), error.count) == (text, 2)
    Reporter(None).report(AdapterError("two\r\nlines"))
    assert [record.getMessage() for record in caplog.records] == [text, "two lines"]
    # what is not of this package's making is not changed
    other = ValueError("one\ntwo")
    reporter.report(other)
    assert other.args == ("one\ntwo",)
    assert caplog.records[-1].getMessage() == "one two"


async def test_what_a_task_raises_is_logged_once_with_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Exception] = []
    error = AdapterError(REFUSED)
    await contained(error, Reporter(told.append))
    assert told == [error]
    assert "\n" not in str(error)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[1] is error


async def test_what_a_handler_raises_is_logged_once_by_the_handlers_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Exception] = []
    error = HandlerError("the handler of 'a'\nhas failed")
    error.__cause__ = ZeroDivisionError("on purpose")
    await contained(error, Reporter(told.append))
    assert told == [error.__cause__]
    (record,) = caplog.records
    assert record.getMessage() == "the handler of 'a' has failed"
    assert record.exc_info
    assert record.exc_info[1] is error.__cause__
