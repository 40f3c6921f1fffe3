"""What other nodes see of a listening session: the lock that it holds, and its name.

PostgreSQL knows within milliseconds that a process has died: its sessions are gone then, and what
they held is free.
"""

from __future__ import annotations

import hashlib
import logging
import string
from collections.abc import Iterable
from typing import Final, NamedTuple

import anyio
import psycopg

from ..errors import AdapterError, ConnectionLostError
from .connection import AnyConnection, backoff, close_session
from .publisher import Open, Report

logger = logging.getLogger("anyio_sio_pg")

_LOCK: Final = (0x61736970, 1)
"""The advisory lock that the sessions of this package hold together: "asip" in ASCII."""

HOLD: Final = b"""\
SELECT pg_catalog.pg_try_advisory_lock_shared(k.key) FROM pg_catalog.unnest(%b::int8[]) AS k(key)"""

_HOLD_TOO: Final = HOLD + b" WHERE pg_catalog.pg_backend_pid() = %b::int4"

_HALF: Final = 0xFFFF_FFFF

_HELD = b"""\
WITH held AS MATERIALIZED (
  SELECT (l.classid::int8 << 32) | l.objid::int8 AS key
  FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_database AS d ON d.oid = l.database
  WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
  AND d.datname = pg_catalog.current_database()
)
"""

ABSENT: Final = (
    _HELD
    + b"""\
SELECT k.key FROM pg_catalog.unnest(%b::int8[]) AS k(key)
WHERE NOT EXISTS (SELECT FROM held WHERE held.key = k.key)"""
)

LISTENING: Final = (
    _HELD
    + b"""\
SELECT DISTINCT node.key FROM held AS node JOIN held AS listens
ON listens.key = (%b::int8 << 32) | (node.key & 4294967295) AND listens.key <> node.key"""
)

_INTRODUCE = """\
SELECT pg_catalog.pg_try_advisory_lock_shared(%b::int4, %b::int4)"""

_RENAME = """\
WITH renamed AS MATERIALIZED (SELECT pg_catalog.set_config('application_name', %b::text, false))
SELECT count(*) FROM renamed"""

_NAME = """\
SELECT application_name FROM pg_catalog.pg_stat_activity
WHERE pid = pg_catalog.pg_backend_pid()"""

_OTHERS = """\
SELECT a.pid, a.application_name FROM pg_catalog.pg_stat_activity AS a
WHERE a.datname = pg_catalog.current_database() AND a.application_name LIKE 'socket.io-%%'
AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_locks AS l
  WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.objsubid = 2
  AND l.classid = %b::int8 AND l.objid = %b::int8
)"""

_HEX_DIGITS = 16
_CHARACTERS = 6
"""The lengths of the two kinds of uid: hexadecimal digits, and the legacy wire's letters and digits."""


class Session(NamedTuple):
    """A session of a node that does not run this package."""

    pid: int
    name: str


def _digest(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest())


def _key(uid: str) -> int:
    """Return the lock that says that a node is alive: its uid, so that others can read it."""
    if len(uid) == _HEX_DIGITS and not uid.strip(string.hexdigits):
        key = int(uid, 16)
    elif len(uid) == _CHARACTERS and uid.isascii():
        key = int.from_bytes(uid.encode())
    else:
        # whoever has that one does not run this package
        key = _digest(uid, 8)
    return _signed(key)


def _uid(key: int, length: int) -> str:
    octets = key.to_bytes(8, signed=True)
    return octets.hex() if length == _HEX_DIGITS else octets[-length:].decode(errors="replace")


def listens_key(cluster: int, key: int) -> int:
    """Return the lock that says that a node listens; only its listening session holds it.

    ``cluster`` is a number that stands for the cluster, ``key`` the node's other lock.
    """
    return _signed(cluster << 32 | key & _HALF)


def _listens(cluster: str, uid: str) -> int:
    return listens_key(_digest(cluster, 4), _key(uid))


def _signed(key: int) -> int:
    return key - (1 << 64) if key >> 63 else key


async def hold(connection: AnyConnection, cluster: str, uid: str) -> None:
    """Let others see, for as long as the session lives, that a node listens."""
    await connection.execute(HOLD, [[_key(uid), _listens(cluster, uid)]], binary=True)


async def hold_too(connection: AnyConnection, uid: str) -> None:
    """Let others see, while the listening session is made anew, that its node is alive.

    :raises AdapterError: PostgreSQL refuses, or the session was lost.
    """
    try:
        # not through a pooler, which has a pid of its own and keeps its sessions
        await connection.execute(
            _HOLD_TOO, [[_key(uid)], connection.pgconn.backend_pid], binary=True
        )
    except psycopg.Error as exc:
        raise AdapterError(f"the publisher cannot make itself known: {exc}".strip()) from None


async def absent(connection: AnyConnection, uids: Iterable[str]) -> list[str]:
    """Return those of the nodes that have no session."""
    return await _without_lock(connection, {_key(uid): uid for uid in uids})


async def deaf(connection: AnyConnection, cluster: str, uids: Iterable[str]) -> list[str]:
    """Return those of the nodes that have no listening session."""
    return await _without_lock(connection, {_listens(cluster, uid): uid for uid in uids})


async def listening(connection: AnyConnection, cluster: str, uid: str) -> set[str]:
    """Return the uids, which look like ``uid``, of the nodes that have a listening session."""
    cursor = await connection.execute(LISTENING, [_digest(cluster, 4)], binary=True)
    return {_uid(row[0], len(uid)) for row in await cursor.fetchall()}


async def _without_lock(connection: AnyConnection, by_key: dict[int, str]) -> list[str]:
    cursor = await connection.execute(ABSENT, [list(by_key)], binary=True)
    return [by_key[row[0]] for row in await cursor.fetchall()]


async def introduce(connection: AnyConnection, name: str) -> str:
    """Give a session its ``application_name``, marked as this package's; return it as others see it.

    PostgreSQL cuts it after 63 bytes and replaces what is not ASCII.
    """
    # the mark first: without it the session would count as one of the others
    await connection.execute(_INTRODUCE.encode(), _LOCK)
    await connection.execute(_RENAME.encode(), [name])
    cursor = await connection.execute(_NAME.encode())
    row = await cursor.fetchone()
    return name if row is None else str(row[0])


async def others(connection: AnyConnection) -> list[Session]:
    """Return the sessions, in this database, of nodes that do not run this package."""
    cursor = await connection.execute(_OTHERS.encode(), _LOCK)
    return [Session(*row) for row in await cursor.fetchall()]


class Presence:
    """One session that is there to be counted, made again when it is lost.

    ``shown`` is its name as others see it, once there was one.
    """

    def __init__(self, open: Open, name: str, report: Report):
        self._open = open
        self._name = name
        self._report = report
        self._scope = anyio.CancelScope()
        self.shown: str | None = None
        self.tried = anyio.Event()

    def stop(self) -> None:
        """Make :meth:`run` end."""
        self._scope.cancel()

    async def run(self) -> None:
        """Hold the session until :meth:`stop`."""
        attempt = 0
        with self._scope:
            while True:
                try:
                    await self._hold()
                    attempt = 0
                except (AdapterError, psycopg.Error) as exc:
                    if attempt == 0:
                        self._report(
                            ConnectionLostError(
                                f"other nodes do not see this one as {self._name!r}: {exc}"
                            )
                        )
                    attempt += 1
                self.tried.set()
                await anyio.sleep(backoff(attempt))

    async def _hold(self) -> None:
        connection = await self._open()
        try:
            self.shown = await introduce(connection, self._name)
            self.tried.set()
            pgconn = connection.pgconn
            while not connection.closed:
                try:
                    await anyio.wait_readable(pgconn.socket)
                    pgconn.consume_input()
                except (OSError, anyio.ClosedResourceError, psycopg.Error):
                    break
            logger.info("the session %r was lost", self._name)
        finally:
            with anyio.CancelScope(shield=True):
                await close_session(connection, 1.0)
