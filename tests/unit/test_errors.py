from __future__ import annotations

import pytest

from anyio_sio_pg import errors
from anyio_sio_pg.errors import (
    AdapterError,
    MessagesLostError,
    PublishError,
    RequestTimeoutError,
    UnknownSocketError,
)

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__name__ != "Any"
]


@pytest.mark.parametrize("kind", [k for k in KINDS if issubclass(k, Exception)])
def test_every_error_is_an_adapter_error(kind: type[Exception]) -> None:
    assert issubclass(kind, AdapterError)


def test_a_timeout_is_one_for_those_who_catch_the_builtin() -> None:
    with pytest.raises(TimeoutError, match="late"):
        raise RequestTimeoutError("late", partial=("a", "b"), missing=["u", "u"])


def test_a_timeout_keeps_what_came_and_who_did_not_answer() -> None:
    error = RequestTimeoutError("late", partial=("a", "b"), missing=["u", "u"])
    assert error.partial == ["a", "b"]
    assert error.missing == frozenset({"u"})
    assert RequestTimeoutError("late").partial == []
    assert RequestTimeoutError("late").missing == frozenset()


def test_an_unknown_socket_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="nobody"):
        raise UnknownSocketError("nobody")


def test_a_publish_error_counts_what_was_not_delivered() -> None:
    error = PublishError("full", 3)
    assert (str(error), error.undelivered) == ("full", 3)


def test_lost_messages_say_whose_and_how_many() -> None:
    error = MessagesLostError("lost", "u", "/n", 2)
    assert (str(error), error.sender, error.namespace, error.count) == ("lost", "u", "/n", 2)
