"""What can go wrong, in users' words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AdapterError(Exception):
    """Base of every error that this package raises of its own accord."""


class AdapterClosedError(AdapterError):
    """The manager or emitter was used before its ``async with`` block or after it."""


class RequestTimeoutError(AdapterError, TimeoutError):
    """Not every node (or client) answered in time.

    ``partial`` holds the answers that came; ``missing`` the uids of the nodes that still owe one.
    The others may still carry out what the call asked for, if it is on its way. What could not be
    sent in time is not sent later, but for the event of ``emit_with_ack``.
    """

    def __init__(self, message: str, partial: Sequence[Any] = (), missing: Sequence[str] = ()):
        super().__init__(message)
        self.partial: list[Any] = list(partial)
        self.missing: frozenset[str] = frozenset(missing)


class UnknownSocketError(AdapterError, LookupError):
    """No node of the cluster has a socket with this id."""


class PublishError(AdapterError):
    """Messages were accepted or offered but could not be handed to PostgreSQL.

    ``undelivered`` is their number.
    """

    def __init__(self, message: str, undelivered: int):
        super().__init__(message)
        self.undelivered = undelivered


class ProtocolError(AdapterError):
    """A notification or an attachment is not a message of the cluster."""


class ConnectionLostError(AdapterError):
    """A session with PostgreSQL broke or could not be made; it is being made anew.

    Reported through ``on_error``, never raised by a call.
    """


class MessagesLostError(AdapterError):
    """Messages of another node did not arrive here.

    Reported through ``on_error``, never raised by a call. ``sender`` is that node's uid, ``count``
    the number of messages.
    """

    def __init__(self, message: str, sender: str, namespace: str, count: int):
        super().__init__(message)
        self.sender = sender
        self.namespace = namespace
        self.count = count
