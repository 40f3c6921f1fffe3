"""psycopg's AsyncConnection on AnyIO: on asyncio and on Trio alike.

psycopg's generators speak libpq's protocol and yield when they would block; only the waiting, the
resolving of host names, the lock and the cancelling of a running query are tied to asyncio in
:class:`psycopg.AsyncConnection`. Those are replaced here.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakSet

import anyio
import anyio.lowlevel
import psycopg
from psycopg import errors, generators, pq
from psycopg._conninfo_utils import get_param, get_param_def, is_ip_address, split_attempts
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.conninfo import conninfo_to_dict, make_conninfo, timeout_from_conninfo
from psycopg.rows import tuple_row

from ..errors import AdapterError
from ..options import Connect, Options, with_defaults
from ..protocol.batch import TextArray

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from psycopg.abc import RV, ConnDict, PQGen, PQGenConn

_READ = 1
_WRITE = 2
_ACTIVE = pq.TransactionStatus.ACTIVE
_LONGEST_TURN = 0.01

CONNECT_TIMEOUT = 10
"""Seconds for each address to connect, where neither the uri nor PGCONNECT_TIMEOUT says so."""

_KEEPALIVE: dict[str, str | int] = {
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}
"""A network that has gone silent is noticed in 5 seconds, where libpq alone takes two hours."""

_LISTENER_USER_TIMEOUT = 60_000
"""Milliseconds for which the server waits for a listener that does not read.

Linux counts them also while the receiver's window is full: a process that stands still for a while,
and is sent much, would lose all of it.
"""

_SERVER_KEEPALIVE = """\
SELECT pg_catalog.set_config(ours.name, ours.value, false)
FROM (VALUES ('tcp_keepalives_idle', '2'), ('tcp_keepalives_interval', '1'),
  ('tcp_keepalives_count', '3'), ('tcp_user_timeout', %b::text),
  ('idle_session_timeout', '0')) AS ours(name, value)
JOIN pg_catalog.pg_settings AS s ON s.name = ours.name
WHERE pg_catalog.pg_backend_pid() = %b::int4
AND CASE ours.name WHEN 'idle_session_timeout' THEN s.source NOT IN ('default', 'client')
  ELSE s.source = 'default' AND pg_catalog.inet_client_addr() IS NOT NULL END"""
"""Who listens is idle, whatever the role's or the database's sessions may be."""

AnyConnection: TypeAlias = "psycopg.AsyncConnection[Any]"


class AnyIOConnection(psycopg.AsyncConnection[Any]):
    """A psycopg connection whose every wait goes through AnyIO.

    It is used like :class:`psycopg.AsyncConnection`. ``cancel_timeout`` bounds, in seconds, how
    long a cancelled call may go on to stop its query on the server; after that the connection is
    closed.
    """

    cancel_timeout: float = 5.0

    moves: int = 0
    """How often something could be read from the server or written to it."""

    def __init__(self, pgconn: pq.abc.PGconn, row_factory: Any = tuple_row):
        super().__init__(pgconn, row_factory)
        self.lock = cast("Any", anyio.Lock())

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect to the first server that can be reached and return the connection.

        Takes what :meth:`psycopg.AsyncConnection.connect` takes.

        :raises psycopg.OperationalError: no server could be reached within ``connect_timeout``
            (seconds, for each address; libpq's rules) or it refused the connection.
        """
        options = {
            name: kwargs.pop(name)
            for name in ("autocommit", "prepare_threshold", "context", "row_factory")
            if name in kwargs
        }
        cursor_factory = kwargs.pop("cursor_factory", None)
        params = conninfo_to_dict(conninfo, **kwargs)
        timeout = timeout_from_conninfo(params)
        failures: list[errors.Error] = []
        for attempt in await _attempts(params):
            try:
                with anyio.fail_after(timeout):
                    rv = await _wait_connection(cls._connect_gen(make_conninfo("", **attempt)))
            except TimeoutError:
                failures.append(
                    errors.ConnectionTimeout(f"connection timeout expired ({_where(attempt)})")
                )
            except errors.Error as exc:
                failures.append(exc)
            else:
                rv._autocommit = bool(options.get("autocommit", False))
                rv.prepare_threshold = options.get("prepare_threshold", 5)
                if options.get("row_factory") is not None:
                    rv.row_factory = options["row_factory"]
                if cursor_factory is not None:
                    rv.cursor_factory = cursor_factory
                if options.get("context") is not None:
                    rv._adapters = AdaptersMap(options["context"].adapters)
                return rv
        if len(failures) == 1:
            raise failures[0]
        raise type(failures[-1])("; ".join(str(failure).strip() for failure in failures))

    async def wait(self, gen: PQGen[RV], interval: float = 0.0, timeout: float | None = None) -> RV:
        """Run a generator that works on the connection until it ends.

        :raises psycopg.errors._WaitTimeout: it did not end within ``timeout`` seconds.
        """
        if not _turn_taken():
            # not to be cancelled: psycopg's generators count on being begun
            await anyio.lowlevel.cancel_shielded_checkpoint()
        try:
            if timeout is None:
                return await self._wait(gen)
            with anyio.move_on_after(timeout):
                return await self._wait(gen, look=True)
            raise errors._WaitTimeout("wait timeout expired")
        except (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit):
            if self.pgconn.transaction_status == _ACTIVE:
                await self._stop_query(gen)
            raise

    async def _wait(self, gen: PQGen[RV], *, look: bool = False) -> RV:
        """Run a generator to its end; with ``look`` it sees what is ready even if there is no time."""
        fd = self.pgconn.socket
        try:
            wanted: int = next(gen)
            while True:
                ready = (_look(fd) & wanted if look else 0) or await _ready(fd, wanted)
                self.moves += 1
                wanted = gen.send(cast("Any", ready))
        except StopIteration as stop:
            return cast("RV", stop.value)
        except (OSError, anyio.ClosedResourceError) as exc:
            raise errors.OperationalError("connection socket closed") from exc

    async def _wait_for_cancelled(self, gen: PQGen[Any]) -> None:
        try:
            await self._wait(gen)
        except errors.QueryCanceled:
            pass

    async def _stop_query(self, gen: PQGen[Any]) -> None:
        """Cancel the running query and read its end; close the connection where that fails."""
        stopped = False
        with anyio.move_on_after(self.cancel_timeout, shield=True):
            try:
                await self.cancel_safe(timeout=self.cancel_timeout)
                # what a pipeline still owes cannot be told: its connection is of no more use
                if self._pipeline is None:
                    await self._wait_for_cancelled(gen)
                    if self.pgconn.transaction_status == _ACTIVE:
                        # the rest of a stream; a COPY's end is left to its own block
                        rest = generators.fetch_many(self.pgconn)
                        await self._wait_for_cancelled(rest)
                    stopped = True
            except errors.Error:
                pass
        if not stopped:
            self._finish()

    async def _try_cancel(self, *, timeout: float = 5.0) -> None:
        # psycopg calls it to tidy up in a task that may be cancelled already
        with anyio.CancelScope(shield=True):
            await super()._try_cancel(timeout=min(timeout, self.cancel_timeout))

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[psycopg.AsyncTransaction]:
        """Run the block in a transaction; where it is cancelled it is rolled back all the same.

        Takes what :meth:`psycopg.AsyncConnection.transaction` takes.
        """
        transaction = _Transaction(self, savepoint_name, force_rollback)
        async with AsyncExitStack() as stack:
            if self._pipeline is not None:
                await stack.enter_async_context(self.pipeline())
                await stack.enter_async_context(transaction)
                await stack.enter_async_context(self.pipeline())
            else:
                await stack.enter_async_context(transaction)
            yield transaction

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[psycopg.AsyncPipeline]:
        """Run the block in pipeline mode; where it is cancelled the connection is closed."""
        try:
            async with super().pipeline() as pipeline:
                yield pipeline
        except anyio.get_cancelled_exc_class():
            self._finish()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """End the transaction and close the connection; at once where it is cancelled."""
        try:
            if exc_type is None or issubclass(exc_type, Exception):
                await super().__aexit__(exc_type, exc_val, exc_tb)
        finally:
            await self.close()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the query that is running.

        :raises psycopg.errors.CancellationTimeout: that took more than ``timeout`` seconds.
        """
        if not self._should_cancel():
            return
        try:
            with anyio.fail_after(timeout or None):
                if psycopg.capabilities.has_cancel_safe():
                    await _wait_connection(self._cancel_gen())
                else:
                    await anyio.to_thread.run_sync(self.cancel)
        except TimeoutError:
            raise errors.CancellationTimeout("cancellation timeout expired") from None

    async def close(self) -> None:
        """Close the connection at once; the server ends the session soon after."""
        if self.closed:
            return
        self._closed = True
        self._finish()

    def _finish(self) -> None:
        if not self.closed:
            anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()


class _Transaction(psycopg.AsyncTransaction):
    """A transaction that leaves nothing open where its task is cancelled."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        if exc_type is not None and not issubclass(exc_type, Exception):
            await self._roll_back(exc_val)
            return False
        try:
            return await super().__aexit__(exc_type, exc_val, exc_tb)
        except anyio.get_cancelled_exc_class() as exc:
            if self.status is self.Status.ACTIVE:
                # it was still waiting for its turn on the connection
                await self._roll_back(exc)
            raise

    async def _roll_back(self, exc: BaseException | None) -> None:
        connection = cast("AnyIOConnection", self._conn)
        with anyio.move_on_after(connection.cancel_timeout, shield=True):
            await super().__aexit__(type(exc) if exc else None, exc, None)
            return
        connection._finish()


async def open_session(options: Options, *, listening: bool) -> AnyConnection:
    """Make a connection for publishing or listening, in autocommit mode and in UTF-8.

    :raises AdapterError: PostgreSQL could not be reached or refused; no password is in the text.
    """
    role = "listener" if listening else "publisher"
    try:
        if options.connect is not None:
            connection = await _connect_by(options.connect)
        else:
            uri = options.listen_uri if listening and options.listen_uri else options.uri
            connection = await AnyIOConnection.connect(
                with_defaults(
                    uri,
                    connect_timeout=CONNECT_TIMEOUT,
                    client_encoding="UTF8",
                    fallback_application_name=f"anyio-sio-pg {role}",
                    **_KEEPALIVE,
                )
            )
        try:
            # the user's connect may have chosen others
            connection.row_factory = tuple_row
            connection.cursor_factory = psycopg.AsyncCursor
            # a pooler hands statements to sessions that have not prepared them
            connection.prepare_threshold = None
            connection.adapters.register_dumper(TextArray, _TextArrayDumper)
            if isinstance(connection, AnyIOConnection):
                # a statement that is given up means a dead network, or the end
                connection.cancel_timeout = 0.25
            if not connection.autocommit:
                await connection.set_autocommit(True)
            with anyio.fail_after(CONNECT_TIMEOUT):
                if connection.info.encoding != "utf-8":
                    await connection.execute("SET client_encoding TO 'UTF8'")
                # not through a pooler, which has a pid of its own and lends its sessions to others
                timeout = _LISTENER_USER_TIMEOUT if listening else _KEEPALIVE["tcp_user_timeout"]
                await connection.execute(
                    _SERVER_KEEPALIVE, [str(timeout), connection.pgconn.backend_pid]
                )
        except BaseException:
            await connection.close()
            raise
    except (psycopg.Error, OSError) as exc:
        raise AdapterError(
            f"the {role} cannot connect to PostgreSQL:"
            f" {options.redact(exc).strip() or type(exc).__name__}"
        ) from None
    return connection


class _TextArrayDumper(Dumper):
    """Pass an array on that is in PostgreSQL's format already."""

    format = pq.Format.BINARY
    oid = psycopg.adapters.types["text"].array_oid

    def dump(self, obj: TextArray) -> TextArray:
        return obj


_sessions: WeakSet[AnyConnection] = WeakSet()


async def _connect_by(connect: Connect) -> AnyConnection:
    """Call the user's ``connect``; whatever it raises, trying again later may help."""
    try:
        connection = await connect()
    except (psycopg.Error, OSError):
        raise
    except Exception as exc:
        raise AdapterError(f"connect failed: {type(exc).__name__}: {exc}") from exc
    if not isinstance(connection, psycopg.AsyncConnection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AdapterError(
            "connect must return a psycopg.AsyncConnection (on Trio, an AnyIOConnection),"
            f" not {type(connection).__name__}"
        )
    if connection in _sessions:
        raise AdapterError("connect must return a new connection each time that it is called")
    _sessions.add(connection)
    return connection


async def close_session(connection: AnyConnection, timeout: float) -> bool:
    """Close a connection and wait until the server has ended the session.

    Returns whether it has, within ``timeout`` seconds: it is then gone from ``pg_stat_activity``.
    """
    if connection.closed:
        await connection.close()
        return True
    watch = _duplicate(connection.pgconn.socket)
    await connection.close()
    if watch is None:
        return True
    ended = False
    try:
        with anyio.move_on_after(timeout):
            while not ended:
                await anyio.wait_readable(watch)
                try:
                    ended = not watch.recv(65_536)
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
    finally:
        anyio.notify_closing(watch)
        watch.close()
    return ended


def _duplicate(fd: int) -> socket.socket | None:
    if sys.platform == "win32":
        # a socket of libpq's cannot be duplicated there by its number
        return None
    watch = socket.socket(fileno=os.dup(fd))
    watch.setblocking(False)
    return watch


def backoff(attempt: int, first: float = 0.05, most: float = 5.0) -> float:
    """Return the seconds to wait before the ``attempt``-th retry (from 0): growing, jittered."""
    return min(most, first * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1.0)  # noqa: S311


async def _wait_connection(gen: PQGenConn[RV]) -> RV:
    try:
        fd, wanted = next(gen)
        while True:
            fd, wanted = gen.send(cast("Any", await _ready(fd, wanted)))
    except StopIteration as stop:
        return cast("RV", stop.value)
    except (OSError, anyio.ClosedResourceError) as exc:
        raise errors.OperationalError("connection socket closed") from exc
    finally:
        # with it goes the socket of an attempt that was given up
        gen.close()


async def _ready(fd: int, wanted: int) -> int:
    """Wait until a socket can be read from or written to, as wanted; return which."""
    if wanted == _READ:
        await anyio.wait_readable(fd)
        return _READ
    if wanted == _WRITE:
        await anyio.wait_writable(fd)
        return _WRITE
    # a socket to be written to nearly always can be: a look is cheaper than two tasks
    if ready := _look(fd):
        if not _turn_taken():
            await anyio.lowlevel.checkpoint()
        return ready
    ready = 0
    closed = False
    async with anyio.create_task_group() as tg:

        async def until(which: int) -> None:
            nonlocal ready, closed
            try:
                await (anyio.wait_readable(fd) if which == _READ else anyio.wait_writable(fd))
                ready |= which
            except (OSError, anyio.ClosedResourceError):
                closed = True
            tg.cancel_scope.cancel()

        tg.start_soon(until, _READ)
        tg.start_soon(until, _WRITE)
    if closed:
        raise anyio.ClosedResourceError
    return ready


_turns = threading.local()


def _turn_taken() -> bool:
    """Tell whether other tasks may still wait: False once in a while, when they have to run."""
    now = time.monotonic()
    if now - getattr(_turns, "last", 0.0) < _LONGEST_TURN:
        return True
    _turns.last = now
    return False


def _look(fd: int) -> int:
    readable, writable, _ = (
        _poll(fd) if hasattr(select, "poll") else select.select([fd], [fd], [], 0)
    )
    return (_READ if readable else 0) | (_WRITE if writable else 0)


def _poll(fd: int) -> tuple[int, int, int]:
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    found = poll.poll(0)
    mask = found[0][1] if found else 0
    broken = mask & ~(select.POLLIN | select.POLLOUT)
    return (mask & select.POLLIN) | broken, mask & select.POLLOUT, 0


def _where(attempt: ConnDict) -> str:
    host = attempt.get("host") or attempt.get("hostaddr") or "local socket"
    return f"host {str(host)!r}, port {attempt.get('port') or 5432}"


async def _attempts(params: ConnDict) -> list[ConnDict]:
    """Return the connections to try: each host, and each address of a host, by itself."""
    standby_first = get_param(params, "target_session_attrs") == "prefer-standby"
    if standby_first:
        params = {k: v for k, v in params.items() if k != "target_session_attrs"}
    attempts: list[ConnDict] = []
    unresolved: list[str] = []
    for attempt in split_attempts(params):
        try:
            attempts += await _resolve(attempt)
        except OSError as exc:
            unresolved.append(f"failed to resolve host {attempt.get('host')!r}: {exc}")
    if not attempts:
        raise errors.OperationalError("; ".join(unresolved))
    if get_param(params, "load_balance_hosts") == "random":
        random.shuffle(attempts)
    if standby_first:
        attempts = [{**a, "target_session_attrs": "standby"} for a in attempts] + attempts
    return attempts


async def _resolve(params: ConnDict) -> list[ConnDict]:
    host = get_param(params, "host")
    local = not host or host.startswith(("/", "@")) or host[1:2] == ":"
    if local or get_param(params, "hostaddr"):
        return [params]
    assert host is not None  # noqa: S101 - for the type checkers
    if is_ip_address(host):
        return [{**params, "hostaddr": host}]
    default = get_param_def("port")
    port = get_param(params, "port") or (default and default.compiled) or "5432"
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [{**params, "hostaddr": str(item[4][0])} for item in found]
