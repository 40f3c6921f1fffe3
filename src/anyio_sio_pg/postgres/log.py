"""The log of ``durable=True``: each message is also a row, for nodes that were away when it went.

Rows are keyed by channel, sender and the sender's number. Nobody can rely on the order of serial
ids, which are taken before the order of commits is decided; a sender's own numbers are in order,
because it commits on one connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg
from psycopg import errors, sql

from ..errors import AdapterError
from ..options import Options, table_parts
from ..protocol.messages import Attached
from .connection import AnyConnection
from .schema import check_writable, ensure_table, quoted

_COLUMNS = {
    "channel": "text",
    "sender": "text",
    "seq": "int8",
    "created_at": "timestamptz",
    "payload": "text",
    "body": "bytea",
}

AT_ONCE: Final = 500
"""Rows that are read or deleted in one statement."""

BYTES_AT_ONCE: Final = 4 << 20
"""Bytes after which no more rows are read in one statement."""

_CLEANER: Final = (0x61736970, 2)
"""The advisory lock of the node that deletes old rows: "asip" in ASCII."""

_SENDERS = """\
WITH RECURSIVE s AS (
  (SELECT sender FROM {table} WHERE channel = %(channel)b::text ORDER BY sender LIMIT 1)
  UNION ALL
  SELECT n.sender FROM s CROSS JOIN LATERAL (
    SELECT l.sender FROM {table} AS l
    WHERE l.channel = %(channel)b::text AND l.sender > s.sender ORDER BY l.sender LIMIT 1
  ) AS n
)
SELECT s.sender, (SELECT max(l.seq) FROM {table} AS l
  WHERE l.channel = %(channel)b::text AND l.sender = s.sender) FROM s"""

_FIRST = """\
SELECT min(seq) FROM {table} WHERE channel = %b::text AND sender = %b::text"""

_CLOCK = b"SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8"

_OLDER = """\
SELECT seq FROM {table} WHERE channel = %b::text AND sender = %b::text
AND created_at < pg_catalog.to_timestamp(%b::float8)
ORDER BY seq DESC LIMIT 1"""

_ROWS = """\
SELECT seq, payload, body FROM (
  SELECT seq, payload, body, sum(size) OVER (ORDER BY seq) - size AS before FROM (
    SELECT seq, payload, body, coalesce(pg_catalog.octet_length(body), 0) AS size FROM {table}
    WHERE channel = %b::text AND sender = %b::text AND seq > %b::int8 ORDER BY seq LIMIT {limit}
  ) AS next
) AS summed WHERE before < {bytes} ORDER BY seq"""

_BODY = """\
SELECT body FROM {table} WHERE channel = %b::text AND sender = %b::text AND seq = %b::int8"""

_PAIRS = """\
WITH RECURSIVE s AS (
  (SELECT channel, sender FROM {table} ORDER BY channel, sender LIMIT 1)
  UNION ALL
  SELECT n.channel, n.sender FROM s CROSS JOIN LATERAL (
    SELECT l.channel, l.sender FROM {table} AS l
    WHERE (l.channel, l.sender) > (s.channel, s.sender) ORDER BY l.channel, l.sender LIMIT 1
  ) AS n
)
SELECT channel, sender FROM s WHERE pg_catalog.starts_with(channel, %b::text)"""

_DELETE = """\
WITH turn AS MATERIALIZED (
  SELECT pg_catalog.pg_try_advisory_xact_lock(%b::int4, %b::int4) AS mine
), old AS MATERIALIZED (
  SELECT l.seq FROM {table} AS l, turn WHERE turn.mine
  AND l.channel = %b::text AND l.sender = %b::text ORDER BY l.seq LIMIT {limit}
)
DELETE FROM {table} AS l USING old
WHERE l.channel = %b::text AND l.sender = %b::text AND l.seq = old.seq
AND l.created_at < pg_catalog.now() - pg_catalog.make_interval(secs => %b::float8)"""


class Row(NamedTuple):
    """A message as it was kept."""

    seq: int
    payload: bytes
    body: bytes | None


def create_log_statement(table: str, *, unlogged: bool = False) -> str:
    """Return the SQL that creates the log of ``durable=True``.

    ``unlogged`` is for ``durable="unlogged"``: PostgreSQL empties the table when it has crashed.
    """
    kind = "UNLOGGED TABLE" if unlogged else "TABLE"
    return (
        f"CREATE {kind} IF NOT EXISTS {quoted(table)} (\n"
        '  channel text COLLATE "C",\n'
        '  sender text COLLATE "C",\n'
        "  seq bigint,\n"
        "  created_at timestamptz NOT NULL DEFAULT now(),\n"
        "  payload text NOT NULL,\n"
        "  body bytea,\n"
        "  PRIMARY KEY (channel, sender, seq)\n"
        ") WITH (autovacuum_vacuum_scale_factor = 0.05);"
    )


async def ensure_log(connection: AnyConnection, table: str, *, unlogged: bool) -> None:
    """Create the log unless it is there, and check that it can be used.

    :raises AdapterError: it is missing and may not be created, or it cannot be used; the text has
        the SQL to run.
    """
    await check_writable(connection)
    create = create_log_statement(table, unlogged=unlogged)
    try:
        found = await _columns(connection, table)
        if not found:
            try:
                await connection.execute(create.encode())
            except (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject):
                # another node has created it at the same moment
                pass
            found = await _columns(connection, table)
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as exc:
        *schema, _ = table_parts(table)
        make = f"CREATE SCHEMA IF NOT EXISTS {quoted(schema[0])};\n" if schema else ""
        raise AdapterError(
            f"the log {table!r} is missing and could not be created ({str(exc).strip()}). Run this"
            f" as a role that may:\n\n{make}{create}\n{_grants(table, connection.info.user)}"
        ) from None
    if not unlogged and await _is_unlogged(connection, table):
        raise AdapterError(
            f"the log {table!r} is unlogged: PostgreSQL empties it when it has crashed. Say"
            f" durable='unlogged', or run:\n\nALTER TABLE {quoted(table)} SET LOGGED;"
        )
    wrong = [
        f"{column} {kind}"
        for column, kind in _COLUMNS.items()
        if found.get(column) != psycopg.adapters.types[kind].oid
    ]
    if wrong:
        raise AdapterError(
            f"the table {table!r} is not a log: it has no column {', '.join(wrong)}. Name another"
            f" one in the option 'log_table', or run:\n\n{create}"
        )
    cursor = await connection.execute(
        "SELECT has_table_privilege(to_regclass(%(t)s), 'SELECT')"
        " AND has_table_privilege(to_regclass(%(t)s), 'INSERT')"
        " AND has_table_privilege(to_regclass(%(t)s), 'DELETE')",
        {"t": quoted(table)},
    )
    row = await cursor.fetchone()
    if not (row and row[0]):
        raise AdapterError(
            f"the role {connection.info.user!r} may not use the log {table!r}. Run:\n\n"
            f"{_grants(table, connection.info.user)}"
        )


async def ensure_tables(options: Options, connection: AnyConnection) -> None:
    """Create, or check, the tables that a cluster needs.

    :raises AdapterError: one is missing and may not be created, or it cannot be used.
    """
    await ensure_table(connection, options.table)
    if options.durable:
        unlogged = options.durable == "unlogged"
        await ensure_log(connection, options.log_table, unlogged=unlogged)


async def _columns(connection: AnyConnection, table: str) -> dict[str, int]:
    cursor = await connection.execute(
        "SELECT attname, atttypid::regtype::oid::int8 FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [quoted(table)],
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def _is_unlogged(connection: AnyConnection, table: str) -> bool:
    cursor = await connection.execute(
        "SELECT relpersistence = 'u' FROM pg_class WHERE oid = to_regclass(%s)", [quoted(table)]
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


def _grants(table: str, user: str) -> str:
    role = sql.Identifier(user).as_string(None)
    schema = table_parts(table)[:-1]
    usage = f"GRANT USAGE ON SCHEMA {quoted(schema[0])} TO {role};\n" if schema else ""
    return f"{usage}GRANT SELECT, INSERT, DELETE ON {quoted(table)} TO {role};"


@dataclass(frozen=True)
class MessageLog:
    """Reads the log, and deletes from it.

    ``ours`` is this node's own uid; ``channel`` the name of a namespace's channel. ``position`` is
    the last number that was had of a channel's sender; where nothing ever was, it takes note of
    the number that it is given, and returns that. For ``retention`` seconds rows are sure to be
    there.
    """

    table: str
    ours: str
    channel: Callable[[str], str]
    position: Callable[[str, str, int], int]
    retention: float = 0.0

    def _sql(self, query: str) -> bytes:
        table = quoted(self.table).replace("%", "%%")
        return query.format(table=table, limit=AT_ONCE, bytes=BYTES_AT_ONCE).encode()

    async def senders(self, connection: AnyConnection, channel: str) -> dict[str, int]:
        """Return the last number of each sender that has rows of a channel."""
        cursor = await connection.execute(self._sql(_SENDERS), {"channel": channel}, binary=True)
        return dict(await cursor.fetchall())

    async def clock(self, connection: AnyConnection) -> float:
        """Return PostgreSQL's time, in seconds since 1970."""
        cursor = await connection.execute(_CLOCK, binary=True)
        ((seconds,),) = await cursor.fetchall()
        return float(seconds)

    async def before(
        self, connection: AnyConnection, channel: str, sender: str, until: float | None = None
    ) -> int:
        """Return the last number that a sender's row had by ``until``, of PostgreSQL's time.

        Where there is none so old, it is the number before the first row.
        """
        if until is not None:
            cursor = await connection.execute(
                self._sql(_OLDER), [channel, sender, until], binary=True
            )
            if row := await cursor.fetchone():
                return int(row[0])
        cursor = await connection.execute(self._sql(_FIRST), [channel, sender], binary=True)
        row = await cursor.fetchone()
        # they may have been deleted meanwhile
        return 0 if row is None or row[0] is None else row[0] - 1

    async def rows(
        self, connection: AnyConnection, channel: str, sender: str, after: int
    ) -> list[Row]:
        """Return the next rows of a sender, in its order; none: there are no more."""
        cursor = await connection.execute(self._sql(_ROWS), [channel, sender, after], binary=True)
        return [Row(row[0], row[1].encode(), row[2]) for row in await cursor.fetchall()]

    async def body(self, connection: AnyConnection, message: Attached) -> bytes | None:
        """Return the body of a message whose attachment is gone; None where it was not kept."""
        key = [self.channel(message.namespace), message.origin or message.sender, message.seq]
        cursor = await connection.execute(self._sql(_BODY), key, binary=True)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def pairs(self, connection: AnyConnection, start: str) -> list[tuple[str, str]]:
        """Return the channels with that start, and their senders, that have rows."""
        cursor = await connection.execute(self._sql(_PAIRS), [start], binary=True)
        return await cursor.fetchall()

    async def delete(
        self, connection: AnyConnection, pair: tuple[str, str], retention: float
    ) -> bool:
        """Delete some rows older than ``retention`` seconds; tell whether there may be more.

        Only one node at a time does it: while another is at it there is nothing to do.
        """
        cursor = await connection.execute(
            self._sql(_DELETE), [*_CLEANER, *pair, *pair, retention], binary=True
        )
        return cursor.rowcount == AT_ONCE
