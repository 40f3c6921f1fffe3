"""Messages in, one SQL statement out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from .wire import Outgoing

MAX_MESSAGES = 512
"""Messages in one statement; more gain nothing and delay the first."""

MAX_BYTES = 1 << 20
"""Bytes in one statement, after which it is closed; a single larger message goes alone."""

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
    seen: set[tuple[str, bytes]] = set()
    total = 0
    for message in islice(waiting, max_messages):
        total += size(message)
        key = (message.channel, message.head)
        if batch and (total > max_bytes or (message.body is None and key in seen)):
            break
        seen.add(key)
        batch.append(message)
    return batch


def statement(batch: Sequence[Outgoing], table: str) -> tuple[str, list[Any]]:
    """Return the SQL and the parameters that send a batch, in order.

    ``table`` is the attachments table's name, quoted. Placeholders are psycopg's, binary.
    """
    bodies = [message.body for message in batch if message.body is not None]
    channels = [message.channel for message in batch]
    heads = [message.head.decode() for message in batch]
    if not bodies:
        if any(message.more for message in batch):
            parts = [(m.channel, part.decode()) for m in batch for part in (m.head, *m.more)]
            channels, heads = ([part[i] for part in parts] for i in (0, 1))
        return _INLINE, [channels, heads]
    keys: list[int] = []
    k = 0
    for message in batch:
        k += message.body is not None
        keys.append(k if message.body is not None else 0)
    tails = [message.tail.decode() for message in batch]
    return _ATTACHED.format(table=table.replace("%", "%%")), [bodies, channels, heads, tails, keys]
