"""What a wire format must do."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from .messages import Message


class Outgoing(Struct, frozen=True):
    """One message, as one notification or several.

    Without ``body``, ``head`` is the whole payload. With it, the body goes into the attachments
    table, and the payload is ``head``, the row's id in decimal, and ``tail``. What does not fit
    into one notification of a wire that has no such table follows in ``more``. A message that says
    nothing to the application is ``control``: nothing is lost with it. With ``seq``, its sender's
    number on that channel, it can be kept for nodes that are away.
    """

    channel: str
    head: bytes
    body: bytes | None = None
    tail: bytes = b""
    control: bool = False
    more: tuple[bytes, ...] = ()
    seq: int | None = None


class Wire(Protocol):
    """Turns messages into notifications, for one way of writing them; each reads in its own way."""

    def channel(self, namespace: str) -> str:
        """Return the channel on which a namespace's messages travel.

        :raises ValueError: the namespace's name does not begin with a slash, or PostgreSQL cannot
            have a channel of that name.
        :raises TypeError: it is no text.
        """
        ...

    def encode(self, message: Message, max_inline: int) -> Outgoing:
        """Encode a message; no payload has more than ``max_inline`` bytes."""
        ...
