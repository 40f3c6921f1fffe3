"""What is asked, who has answered, what is late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Answers(Generic[T]):
    """A question to which every node gives one answer."""

    def __init__(self, expected: Iterable[str]):
        self._missing = set(expected)
        self._answered: set[str] = set()
        self.answers: list[T] = []

    def answered(self, uid: str, answer: T) -> None:
        """Take a node's answer; a second one of the same node is ignored."""
        if uid in self._answered:
            return
        self._answered.add(uid)
        self._missing.discard(uid)
        self.answers.append(answer)

    def joined(self, uid: str) -> None:
        """Wait for a node that has turned up while the question was on its way."""
        if uid not in self._answered:
            self._missing.add(uid)

    def left(self, uid: str) -> None:
        """Wait no longer for a node that has left."""
        self._missing.discard(uid)

    def excuse(self, uid: str) -> None:
        """Wait no longer for a node that seems not to have been asked."""
        self._missing.discard(uid)

    @property
    def missing(self) -> frozenset[str]:
        """The uids of the nodes that still owe an answer."""
        return frozenset(self._missing)

    @property
    def complete(self) -> bool:
        """Whether every node that is alive has answered."""
        return not self._missing


class Acknowledgements(Generic[T]):
    """A broadcast whose clients acknowledge: each node says how many it has, then each answers."""

    def __init__(self, expected: Iterable[str]):
        self._counts: dict[str, int | None] = dict.fromkeys(expected)
        self._received: dict[str, int] = {}
        self.answers: list[T] = []

    def counted(self, uid: str, count: int) -> None:
        """Take the number of clients that a node has delivered to; the first one counts."""
        if self._counts.get(uid) is None:
            self._counts[uid] = count

    def acknowledged(self, uid: str, answer: T) -> None:
        """Take a client's answer."""
        self._received[uid] = self._received.get(uid, 0) + 1
        self.answers.append(answer)

    def joined(self, uid: str) -> None:
        """Wait for the count of a node that has turned up while the broadcast was on its way."""
        self._counts.setdefault(uid, None)

    def left(self, uid: str) -> None:
        """Wait no longer for a node that has left, nor for its clients."""
        self._counts[uid] = self._received.get(uid, 0)

    def excuse(self, uid: str) -> None:
        """Wait no longer for the count of a node that seems not to have been asked."""
        if uid in self._counts and self._counts[uid] is None:
            del self._counts[uid]

    @property
    def missing(self) -> frozenset[str]:
        """The uids of the nodes that owe their count, or an answer of one of their clients."""
        return frozenset(
            uid
            for uid, count in self._counts.items()
            if count is None or self._received.get(uid, 0) < count
        )

    @property
    def complete(self) -> bool:
        """Whether every client of every living node has answered."""
        return not self.missing
