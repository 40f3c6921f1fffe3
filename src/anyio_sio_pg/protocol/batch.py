"""Messages in, one SQL statement out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter
from struct import Struct
from typing import Any, NamedTuple

from .wire import Outgoing


class Log(NamedTuple):
    """Where a sender's messages are kept: the table's name, quoted, and whose they are."""

    table: str
    sender: str


class TextArray(bytes):
    """A one-dimensional ``text[]`` in PostgreSQL's binary format (its source, ``array_send``)."""


_TEXT_OID = 25
_DIMENSIONS = Struct("!iiIii").pack
_LENGTH = Struct("!i").pack
_LENGTHS = tuple(_LENGTH(length) for length in range(8_000))
"""Those of the texts that fit into a notification."""


def text_array(texts: Iterable[bytes]) -> TextArray:
    """Return an array of texts in UTF-8; psycopg would take several times as long."""
    parts: list[bytes] = [b""]
    for text in texts:
        length = len(text)
        parts.append(_LENGTHS[length] if length < 8_000 else _LENGTH(length))
        parts.append(text)
    count = len(parts) // 2
    parts[0] = _DIMENSIONS(1, 0, _TEXT_OID, count, 1) if count else _EMPTY
    return TextArray(b"".join(parts))


_EMPTY = Struct("!iiI").pack(0, 0, _TEXT_OID)

MAX_MESSAGES = 512
"""Messages in one statement; more gain nothing and delay the first."""

MAX_BYTES = 1 << 20
"""Bytes in one statement, after which it is closed; a single larger message goes alone."""

ONE = b"SELECT pg_catalog.pg_notify($1, $2)"
"""For one message, libpq's placeholders: half the work of one that takes arrays."""

_ONE = "SELECT pg_catalog.pg_notify(%b::text, %b::text)"

_ONE_CHANNEL = """\
SELECT pg_catalog.count(pg_catalog.pg_notify(%b::text, m.head))
FROM unnest(%b::text[]) AS m(head)"""

_INLINE = """\
SELECT pg_catalog.count(pg_catalog.pg_notify(m.channel, m.head))
FROM unnest(%b::text[], %b::text[]) AS m(channel, head)"""

_ATTACHED = """\
WITH stored AS (
  INSERT INTO {table} (payload)
  SELECT b.payload FROM pg_catalog.unnest(%b::bytea[]) WITH ORDINALITY AS b(payload, k)
  ORDER BY b.k
  RETURNING id
), numbered AS (
  SELECT id, pg_catalog.row_number() OVER (ORDER BY id) AS k FROM stored
)
SELECT pg_catalog.pg_notify(
  m.channel, m.head || coalesce(n.id::text, '') || m.tail)
FROM unnest(%b::text[], %b::text[], %b::text[], %b::int8[]) WITH ORDINALITY
  AS m(channel, head, tail, k, i)
LEFT JOIN numbered AS n ON n.k = m.k
ORDER BY m.i"""

_LOGGED = """\
WITH sent AS MATERIALIZED (
  SELECT * FROM unnest(%b::text[], %b::text[], %b::int8[]) WITH ORDINALITY
    AS m(channel, head, seq, i)
), logged AS (
  INSERT INTO {log} (channel, sender, seq, payload)
  SELECT channel, %b::text, seq, head FROM sent WHERE seq IS NOT NULL
  ON CONFLICT DO NOTHING
  RETURNING channel, seq
), fresh AS (
  SELECT s.* FROM sent AS s LEFT JOIN logged AS l ON l.channel = s.channel AND l.seq = s.seq
  WHERE s.seq IS NULL OR l.seq IS NOT NULL
  ORDER BY s.i
)
SELECT pg_catalog.count(pg_catalog.pg_notify(f.channel, f.head)) FROM fresh AS f"""

_LOGGED_ATTACHED = """\
WITH bodies AS MATERIALIZED (
  SELECT * FROM pg_catalog.unnest(%b::bytea[]) WITH ORDINALITY AS b(payload, k)
), sent AS MATERIALIZED (
  SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::int8[], %b::int8[]) WITH ORDINALITY
    AS m(channel, head, tail, k, seq, i)
), logged AS (
  INSERT INTO {log} (channel, sender, seq, payload, body)
  SELECT s.channel, %b::text, s.seq,
    CASE WHEN b.k IS NULL THEN s.head ELSE s.head || '1' || s.tail END, b.payload
  FROM sent AS s LEFT JOIN bodies AS b ON b.k = s.k WHERE s.seq IS NOT NULL
  ON CONFLICT DO NOTHING
  RETURNING channel, seq
), fresh AS MATERIALIZED (
  SELECT s.* FROM sent AS s LEFT JOIN logged AS l ON l.channel = s.channel AND l.seq = s.seq
  WHERE s.seq IS NULL OR l.seq IS NOT NULL
), stored AS (
  INSERT INTO {table} (payload)
  SELECT b.payload FROM fresh AS f JOIN bodies AS b ON b.k = f.k ORDER BY f.k
  RETURNING id
), numbered AS (
  SELECT id, pg_catalog.row_number() OVER (ORDER BY id) AS n FROM stored
), ranked AS (
  SELECT k, pg_catalog.row_number() OVER (ORDER BY k) AS n FROM fresh WHERE k > 0
)
SELECT pg_catalog.pg_notify(f.channel, f.head || coalesce(n.id::text, '') || f.tail)
FROM fresh AS f LEFT JOIN ranked AS r ON r.k = f.k LEFT JOIN numbered AS n ON n.n = r.n
ORDER BY f.i"""
"""An attachment's id is of no use in the log, which has the body itself: it is 1 there."""


_more = attrgetter("more")


def size(message: Outgoing) -> int:
    """Return what a message counts for against :data:`MAX_BYTES`."""
    rest = message.more if message.body is None else (message.body,)
    return len(message.head) + sum(map(len, rest))


def take(
    waiting: Sequence[Outgoing], max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES
) -> list[Outgoing]:
    """Return the longest beginning of ``waiting`` that can go in one statement.

    PostgreSQL delivers two equal notifications of one transaction only once, so that the second of
    them begins the next batch. Never empty when ``waiting`` is not.
    """
    batch: list[Outgoing] = []
    seen: set[bytes] = set()
    total = 0
    for message in islice(waiting, max_messages):
        head = message.head
        total += len(head) if message.body is None and not message.more else size(message)
        if batch and (total > max_bytes or (head in seen and _repeats(message, batch))):
            break
        seen.add(head)
        batch.append(message)
    return batch


def _repeats(message: Outgoing, batch: Sequence[Outgoing]) -> bool:
    return message.body is None and any(
        message.channel == other.channel and message.head == other.head for other in batch
    )


def statement(
    batch: Sequence[Outgoing], table: str, log: Log | None = None
) -> tuple[str, list[Any]]:
    """Return the SQL and the parameters that send a batch, in order.

    ``table`` is the attachments table's name, quoted. With ``log``, each message that has a number
    is also kept there, and sent only if it was not there yet: what is sent again because its fate
    is unknown goes out once. Placeholders are psycopg's, binary.
    """
    bodies = [message.body for message in batch if message.body is not None]
    channels = [message.channel for message in batch]
    heads = [message.head for message in batch]
    if not bodies:
        seqs = [message.seq for message in batch]
        if log is not None and seqs.count(None) < len(seqs):
            query = _LOGGED.format(log=log.table.replace("%", "%%"))
            return query, [_texts(channels), text_array(heads), seqs, log.sender]
        if any(map(_more, batch)):
            parts = [(m.channel, part) for m in batch for part in (m.head, *m.more)]
            channels, heads = [part[0] for part in parts], [part[1] for part in parts]
        if len(heads) == 1:
            return _ONE, [channels[0], heads[0].decode()]
        if channels.count(channels[0]) == len(channels):
            return _ONE_CHANNEL, [channels[0], text_array(heads)]
        return _INLINE, [_texts(channels), text_array(heads)]
    keys: list[int] = []
    k = 0
    for message in batch:
        k += message.body is not None
        keys.append(k if message.body is not None else 0)
    tails = text_array([message.tail for message in batch])
    if log is not None:
        seqs = [message.seq for message in batch]
        query = _LOGGED_ATTACHED.format(
            log=log.table.replace("%", "%%"), table=table.replace("%", "%%")
        )
        texts = [_texts(channels), text_array(heads), tails]
        return query, [bodies, *texts, keys, seqs, log.sender]
    query = _ATTACHED.format(table=table.replace("%", "%%"))
    return query, [bodies, _texts(channels), text_array(heads), tails, keys]


def _texts(texts: Iterable[str]) -> TextArray:
    return text_array([text.encode() for text in texts])
