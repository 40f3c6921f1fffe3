"""Messages that are cut into pieces, each a notification of its own, and put together again.

As ``socket.io-adapter-postgres`` 1.x does it: each piece begins with a header of 50 characters,
``_chunk_ID_INDEX_COUNT`` padded with spaces.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Struct

LIFETIME: Final = 60.0
"""Seconds after which a message that has not come whole is given up."""

MAX_BYTES: Final = 1 << 28
"""Characters of incomplete messages that are kept; beyond that the oldest is given up."""

START: Final = "_chunk_"
_HEADER: Final = 50
_PIECE: Final = 5_000
_MAX_COUNT: Final = 1_000_000
_OVERHEAD: Final = 500
"""Characters for which the memory would do that a piece takes beside its own."""

_LONGEST_ESCAPE: Final = 4
"""Bytes that a character of JSON or base64 takes at most inside a JSON string."""

_NAME = re.compile(r"_chunk_([^_\s]{1,64})_(\d{1,7})_(\d{1,7})\s*", re.ASCII)

_encode = msgspec.json.Encoder().encode


class Incomplete(Struct, frozen=True):
    """A message that was given up: ``received`` pieces of ``count`` had come."""

    channel: str
    received: int
    count: int


class _Open(Struct):
    since: float
    count: int
    pieces: dict[int, str]
    size: int = 0


def payloads(channel: str, text: str, max_bytes: int, chunk_id: str) -> tuple[bytes, ...]:
    """Return ``[channel, text]`` as one payload, or as several of at most ``max_bytes``.

    The limit gives way where it leaves no room beside the channel's name and the header.
    """
    whole = _encode([channel, text])
    if len(whole) <= max_bytes:
        return (whole,)
    room = max_bytes - len(_encode([channel, ""])) - _HEADER
    size = min(_PIECE, room)
    if size < 1 or any(
        len(_encode(text[i : i + size])) - 2 > room for i in range(0, len(text), size)
    ):
        size = max(room // _LONGEST_ESCAPE, _HEADER)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return tuple(
        _encode([channel, f"{START}{chunk_id}_{index}_{len(pieces)}".ljust(_HEADER) + piece])
        for index, piece in enumerate(pieces)
    )


class Chunks:
    """The messages of which some pieces have come. Times are in seconds, on any rising clock."""

    def __init__(self, lifetime: float = LIFETIME, max_size: int = MAX_BYTES):
        self._lifetime = lifetime
        self._max_size = max_size
        self._open: dict[tuple[str, str], _Open] = {}
        self._size = 0

    def add(self, channel: str, text: str, now: float) -> str | None:
        """Take a piece; return the whole message when it was the last one missing.

        :raises ValueError: its header is not one, or not that of the other pieces.
        """
        name = _NAME.fullmatch(text[:_HEADER])
        if name is None:
            raise ValueError(f"a piece's header must be _chunk_ID_INDEX_COUNT, not {text[:50]!r}")
        key, index, count = (channel, name[1]), int(name[2]), int(name[3])
        piece = text[_HEADER:]
        known = self._open.get(key)
        if known is None:
            if not 0 < count <= _MAX_COUNT:
                raise ValueError(f"a message must have 1 to {_MAX_COUNT} pieces, not {count}")
            known = _Open(now, count, {})
        if index >= known.count or count != known.count:
            raise ValueError(f"piece {index} of {count} is not one of {known.count}")
        self._open[key] = known
        old = known.pieces.get(index)
        added = len(piece) + _OVERHEAD if old is None else len(piece) - len(old)
        known.pieces[index] = piece
        known.size += added
        self._size += added
        if len(known.pieces) < known.count:
            return None
        self._forget(key)
        return "".join(known.pieces[i] for i in range(known.count))

    def expire(self, now: float) -> list[Incomplete]:
        """Give up the messages whose time is over, and the oldest of those that are too much."""
        gone: list[Incomplete] = []
        # in the order in which they began
        for key, known in list(self._open.items()):
            if now - known.since < self._lifetime and self._size <= self._max_size:
                break
            self._forget(key)
            gone.append(Incomplete(key[0], len(known.pieces), known.count))
        return gone

    def _forget(self, key: tuple[str, str]) -> None:
        self._size -= self._open.pop(key).size
