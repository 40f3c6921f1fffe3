"""What a wire format must do."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from .messages import Attached, Message


class Outgoing(Struct, frozen=True):
    """One notification to be.

    Without ``body``, ``head`` is the whole payload. With it, the body goes into the attachments
    table, and the payload is ``head``, the row's id in decimal, and ``tail``. A message that says
    nothing to the application is ``control``: nothing is lost with it.
    """

    channel: str
    head: bytes
    body: bytes | None = None
    tail: bytes = b""
    control: bool = False


class Wire(Protocol):
    """Turns messages into notifications and back, for one way of writing them."""

    def channel(self, namespace: str) -> str:
        """Return the channel on which a namespace's messages travel.

        :raises ValueError: PostgreSQL cannot have a channel of that name.
        """
        ...

    def encode(self, message: Message, max_inline: int) -> Outgoing:
        """Encode a message, with a body when it has binary data or over ``max_inline`` bytes."""
        ...

    def own(self, uid: str) -> tuple[bytes, ...]:
        """Return the prefixes that tell a node's own payloads without decoding them."""
        ...

    def decode(self, namespace: str, payload: bytes) -> Message:
        """Decode a notification that came on the namespace's channel.

        :raises ProtocolError: it is not a message of the cluster.
        """
        ...

    def decode_body(self, attached: Attached, body: bytes) -> Message:
        """Decode the attachment of a message.

        :raises ProtocolError: it is not a message of the cluster.
        """
        ...
