"""Who is alive, given the time."""

from __future__ import annotations

from msgspec import Struct


class Member(Struct):
    """Another node, in one namespace.

    ``numbered`` nodes carry sequence numbers: they run this package, and answer whatever they are
    asked; a Node server leaves a server-side event that it has no handler for unanswered.
    """

    last_seen: float
    numbered: bool
    heard: bool = True


class Membership:
    """The other nodes of one namespace. Times are in seconds, on any clock that only rises."""

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._members: dict[str, Member] = {}

    def __len__(self) -> int:
        """Return the number of nodes that were heard of."""
        return len(self._members) - len(self.unheard())

    def seen(self, uid: str, now: float, *, numbered: bool) -> bool:
        """Take note of a sign of life; return whether it is the first one."""
        member = self._members.get(uid)
        if member is None:
            self._members[uid] = Member(now, numbered)
            return True
        first = not member.heard
        member.heard = True
        member.last_seen = now
        member.numbered = member.numbered or numbered
        return first

    def told(self, uid: str, now: float) -> None:
        """Take note of a node, of this package, that is there; it has half a timeout to be heard."""
        if uid not in self._members:
            self._members[uid] = Member(now - self._timeout / 2, numbered=True, heard=False)

    def unheard(self) -> set[str]:
        """Return the uids of the nodes that are there and have said nothing yet."""
        return {uid for uid, member in self._members.items() if not member.heard}

    def is_numbered(self, uid: str) -> bool:
        """Tell whether a node is known, and runs this package."""
        member = self._members.get(uid)
        return member is not None and member.numbered

    def left(self, uid: str) -> bool:
        """Take note that a node has left; return whether it was known."""
        return self._members.pop(uid, None) is not None

    def expired(self, now: float) -> list[str]:
        """Remove the nodes that were silent for the timeout, and return their uids."""
        gone = [u for u, m in self._members.items() if now - m.last_seen >= self._timeout]
        for uid in gone:
            del self._members[uid]
        return gone

    def refresh(self, now: float) -> None:
        """Give every node a whole timeout from now: we could not have heard it until now."""
        for member in self._members.values():
            member.last_seen = now

    def uids(self, *, numbered_only: bool = False) -> set[str]:
        """Return the uids of the nodes that are alive."""
        if numbered_only:
            return {uid for uid, member in self._members.items() if member.numbered}
        return set(self._members)
