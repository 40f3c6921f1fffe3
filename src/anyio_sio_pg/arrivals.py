"""What has come, and what has not: numbers, gaps, repeats and garbage, counted and reported."""

from __future__ import annotations

from collections.abc import Callable

from .errors import MessagesLostError, ProtocolError
from .protocol.messages import AdapterClose, Heartbeat, Message
from .protocol.sequence import MAX_SENDERS, NEXT, Sequence, Verdict

_GARBAGE_KINDS = 32


class Arrivals:
    """The books of what a node receives."""

    def __init__(self, report: Callable[[Exception], None], *, durable: bool):
        self._report = report
        # a sender that is forgotten would be replayed like a new one
        self.sequence = Sequence(MAX_SENDERS * (32 if durable else 1))
        self.received = 0
        self.lost = 0
        self.repeated = 0
        self.garbage = 0
        self._garbage_kinds: set[str] = set()

    def in_sequence(self, message: Message, *, unknown: bool) -> bool:
        """Tell whether a message is to be delivered, not a repeat; count what is missing before it.

        ``unknown`` says that the sender may have started, or sent, while this node was away.
        """
        seq = message.seq
        if seq is None:
            return True
        # of emitters, only their origin is their own
        sender = message.origin or message.sender
        if unknown:
            # one that comes, or comes back, says so itself; what another sent before was missed
            begin = seq if isinstance(message, Heartbeat) and message.initial else 0
            self.sequence.position(sender, message.namespace, begin)
        if isinstance(message, (Heartbeat, AdapterClose)):
            if missing := self.sequence.tail(sender, message.namespace, seq):
                self.note_lost(message, missing, "they did not come through PostgreSQL")
            return True
        seen = self.sequence.message(sender, message.namespace, seq)
        if seen is NEXT:
            return True
        if seen.verdict is Verdict.REPEAT:
            self.repeated += 1
            return False
        if seen.missing:
            self.note_lost(message, seen.missing, "they did not come through PostgreSQL")
        return True

    def note_lost(self, message: Message, count: int, reason: str) -> None:
        """Count and report messages of a sender as lost."""
        self.lost += count
        sender = message.origin or message.sender
        self._report(
            MessagesLostError(
                f"{count} message(s) of node {sender} in namespace {message.namespace} are lost:"
                f" {reason}",
                sender,
                message.namespace,
                count,
            )
        )

    def note_garbage(self, error: ProtocolError) -> None:
        """Count a notification that nobody can read; report the first of each kind."""
        self.garbage += 1
        kind = str(error)[:120]
        if kind not in self._garbage_kinds and len(self._garbage_kinds) < _GARBAGE_KINDS:
            self._garbage_kinds.add(kind)
            self._report(error)
