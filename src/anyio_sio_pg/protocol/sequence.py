"""Order, gaps and repeats: what the senders' numbers tell a receiver."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final, TypeAlias

from msgspec import Struct

MAX_SENDERS: Final = 4_096
"""Senders that are remembered; of more, the one heard least recently is forgotten."""

_Key: TypeAlias = tuple[str, str]


class Verdict(Enum):
    """What to do with a message."""

    DELIVER = "deliver"
    REPEAT = "repeat"


class Seen(Struct, frozen=True):
    """A verdict, and how many messages are missing before this one."""

    verdict: Verdict
    missing: int = 0


NEXT: Final = Seen(Verdict.DELIVER)
"""What nearly every message is: the one after the last."""

_REPEAT = Seen(Verdict.REPEAT)


class Sequence:
    """The last number seen of each sender (a node's uid, an emitter's origin) in each namespace.

    The first number seen of a sender is taken as it comes: what it sent before was not for us.
    """

    def __init__(self, max_senders: int = MAX_SENDERS):
        self._last: OrderedDict[_Key, int] = OrderedDict()
        self._max = max_senders

    def message(self, sender: str, namespace: str, seq: int) -> Seen:
        """Take note of a message's own number."""
        key = (sender, namespace)
        last = self._last.get(key)
        if last is None:
            self._remember(key, seq)
            return NEXT
        self._last.move_to_end(key)
        if seq <= last:
            return _REPEAT
        self._last[key] = seq
        return NEXT if seq == last + 1 else Seen(Verdict.DELIVER, seq - last - 1)

    def tail(self, sender: str, namespace: str, last_used: int) -> int:
        """Take note of the last number that a sender used; return how many of them are missing."""
        key = (sender, namespace)
        last = self._last.get(key)
        if last is None:
            self._remember(key, last_used)
            return 0
        self._last.move_to_end(key)
        if last_used <= last:
            return 0
        self._last[key] = last_used
        return last_used - last

    def gap(self, sender: str, namespace: str, seq: int) -> bool:
        """Tell whether messages before a number are missing, without taking note of it."""
        last = self._last.get((sender, namespace))
        return last is not None and seq > last + 1

    def position(self, sender: str, namespace: str, begin: int) -> int:
        """Return the last number seen of a sender; where none was, take ``begin`` for it."""
        key = (sender, namespace)
        if key not in self._last:
            self._remember(key, begin)
        return self._last[key]

    def forget_namespace(self, namespace: str) -> None:
        """Forget the senders of a namespace that is no longer listened to."""
        for key in [key for key in self._last if key[1] == namespace]:
            del self._last[key]

    def _remember(self, key: _Key, seq: int) -> None:
        self._last[key] = seq
        if len(self._last) > self._max:
            self._last.popitem(last=False)
