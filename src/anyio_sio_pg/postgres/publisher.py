"""The outbox and its group commit."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import psycopg
from anyio.abc import TaskGroup, TaskStatus
from psycopg import generators, pq
from psycopg.errors import Diagnostic

from ..errors import AdapterClosedError, AdapterError, ConnectionLostError, PublishError
from ..protocol.batch import ONE, Log, statement, take
from ..protocol.wire import Outgoing
from .connection import AnyConnection, AnyIOConnection, backoff, close_session
from .patience import Patience, SilentError

logger = logging.getLogger("anyio_sio_pg")

Open = Callable[[], Awaitable[AnyConnection]]
Prepare = Callable[[AnyConnection], Awaitable[None]]
Report = Callable[[Exception], None]

_TEXTS = (psycopg.adapters.types["text"].oid,) * 2
_BINARY = (pq.Format.BINARY,) * 2
_QUEUE_FULL = "54000"
_UNDEFINED_TABLE = "42P01"
_RECONNECT = {"25006", "57P01", "57P02", "57P03", "57P04", "57P05"}
RETRY_CLASSES = ("40", "53", "55", "57")
_QUEUE_FILLS = "asyncQueueFillWarning"
_HOLDER = """\
SELECT a.pid, a.application_name, a.usename, pg_catalog.host(a.client_addr), a.state
FROM pg_catalog.pg_stat_activity AS a
WHERE (a.pid = %b::int4 AND a.state IS NULL) OR a.state LIKE 'idle in transaction%%' OR a.wait_event = 'ClientWrite'
ORDER BY (a.pid = %b::int4) IS TRUE DESC, a.xact_start LIMIT 1"""
_CONTROL_RESERVE = 2
"""Control messages (heartbeats, answers) may fill the outbox up to this multiple of its limit."""


class Statement(Protocol):
    """Something to run on the publishing connection between two batches."""

    async def __call__(self, connection: AnyConnection, /) -> Any:
        """Run it."""


@dataclass(eq=False)
class _Waiting:
    """A message that waits for room."""

    make: Callable[[], Outgoing]
    done: anyio.Event
    error: Exception | None = None


@dataclass(eq=False)
class _Job:
    """A statement that waits for its turn on the connection."""

    run: Statement
    done: anyio.Event
    result: Any = None
    error: Exception | None = None


class _LostError(Exception):
    """The publishing connection is of no more use."""


class Publisher:
    """Commits messages in the order in which they were put in, a batch in one statement.

    While a batch is being committed the next one fills. A batch whose fate is unknown, because the
    connection broke before the answer, is sent again on the next connection. A message that comes
    while there is nothing else to do is on its way before :meth:`put` returns.

    ``open`` makes a connection; ``prepare`` makes the attachments table usable on it; ``resume`` is
    awaited on each but the first before anything is sent;
    ``log`` is where messages are kept for nodes that are away; with it nothing is given up for want
    of resources. ``limit`` is the outbox's size in messages; ``silence`` the seconds after which a
    connection on which nothing moves before the answer counts as dead; ``tries_for`` those for which
    a batch that the server refuses for want of resources is tried again; ``drain_timeout`` those
    that the outbox is given to empty itself at the end.
    """

    def __init__(
        self,
        *,
        open: Open,
        prepare: Prepare,
        resume: Prepare | None = None,
        table: str,
        log: Log | None = None,
        limit: int,
        silence: float,
        tries_for: float,
        drain_timeout: float,
        report: Report,
        redact: Callable[[object], str] = str,
    ):
        self._open = open
        self._prepare = prepare
        self._resume = resume
        self._table = table
        self._log = log
        self._limit = limit
        self._patience = Patience(silence)
        self._tries_for = tries_for
        self._drain_timeout = drain_timeout
        self._report = report
        self._redact = redact
        self._outbox: deque[Outgoing] = deque()
        self._accepted = 0
        self._settled = 0
        self._waiting: deque[_Waiting] = deque()
        self._jobs: deque[_Job] = deque()
        self._flushes: deque[tuple[int, anyio.Event]] = deque()
        self._commits: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake: anyio.CancelScope | None = None
        self._ahead = False
        self._ready = anyio.Event()
        self._stop = anyio.CancelScope()
        self._connection: AnyConnection | None = None
        self._drain_until: float | None = None
        self._refusal = ""
        self._complaint = ""
        self._keeps = False
        self._queue_full = False
        self._holder: int | None = None
        self._blamed: int | None = None
        self._attempt = 0
        self.closed = False
        self.batches = 0
        self.sent = 0
        self.dropped = 0
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return self._connection is not None

    @property
    def depth(self) -> int:
        """Messages in the outbox."""
        return len(self._outbox)

    @property
    def has_room(self) -> bool:
        """Whether a message need not wait for its turn."""
        return not (self._waiting or self.closed) and len(self._outbox) < self._limit

    def put(self, message: Outgoing, committed: Callable[[], None] | None = None) -> None:
        """Add a message; ``committed`` is called once it has been sent (or refused)."""
        self._outbox.append(message)
        self._accepted += 1
        if committed is not None:
            self._commits.append((self._accepted, committed))
        if not self._ahead and not self._send_ahead(message):
            self._rouse()

    def _send_ahead(self, message: Outgoing) -> bool:
        """Send the outbox's only message, where the connection is idle; tell whether it was.

        That spares waking the task, which is woken by the answer.
        """
        connection, wake = self._connection, self._wake
        if (
            connection is None
            or wake is None
            or len(self._outbox) > 1
            or self._jobs
            or self._log is not None
            or message.body is not None
            or message.more
        ):
            return False
        pgconn = connection.pgconn
        try:
            pgconn.send_query_params(ONE, [message.channel.encode(), message.head], _TEXTS, _BINARY)
            if pgconn.flush():
                # the rest has to wait until the socket takes it
                wake.cancel()
        except psycopg.Error:
            # the task will find the same, and reconnect
            return False
        self._ahead = True
        self._patience.begin(connection, wake)
        return True

    def put_control(
        self, make: Callable[[], Outgoing], committed: Callable[[], None] | None = None
    ) -> bool:
        """Add a message without waiting for room, unless there is far too much; tell whether."""
        if self.closed or len(self._outbox) >= self._limit * _CONTROL_RESERVE + 100:
            self.dropped += 1
            return False
        self.put(make(), committed)
        return True

    async def offer(self, make: Callable[[], Outgoing], timeout: float) -> None:
        """Add a message as soon as there is room, first come first served.

        ``make`` is called when its turn has come, so that numbers are given in that order.

        :raises PublishError: there was no room within ``timeout`` seconds.
        :raises AdapterClosedError: the publisher is closed.
        """
        if self.closed:
            raise AdapterClosedError("the adapter is closed")
        if self.has_room:
            self.put(make())
            return
        entry = _Waiting(make, anyio.Event())
        self._waiting.append(entry)
        try:
            with anyio.fail_after(timeout):
                await entry.done.wait()
        except TimeoutError:
            if entry in self._waiting:
                raise PublishError(
                    f"the outbox is full: {len(self._outbox)} messages wait for PostgreSQL, and"
                    f" there was no room for another within {timeout:g} s",
                    1,
                ) from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        if entry.error is not None:
            raise entry.error

    @property
    def undelivered(self) -> int:
        """Messages of the application that are in the outbox or wait for room."""
        return len(self._waiting) + sum(not message.control for message in self._outbox)

    @property
    def connection(self) -> AnyConnection | None:
        """The session, or None while there is none."""
        return self._connection

    async def ready(self) -> None:
        """Return once what is put in now would be sent at once, or never."""
        while not self._ready.is_set():
            await self._ready.wait()

    def _set_ready(self, ready: bool) -> None:
        if ready or self._drain_until is not None:
            self._ready.set()
        elif self._ready.is_set():
            self._ready = anyio.Event()

    async def flush(self) -> None:
        """Return when all that was put in before has been committed or refused.

        :raises AdapterClosedError: the publisher is closed, or was meanwhile.
        """
        if self.closed:
            raise AdapterClosedError("the adapter is closed")
        if self._settled >= self._accepted:
            await anyio.lowlevel.checkpoint()
            return
        goal = self._accepted
        done = anyio.Event()
        self._flushes.append((goal, done))
        await done.wait()
        if self._settled < goal:
            raise AdapterClosedError("closed before everything was sent")

    async def execute(self, run: Statement) -> Any:
        """Run something else on the publishing connection, between two batches.

        :raises ConnectionLostError: there is no connection, or it broke.
        """
        if self._connection is None:
            raise ConnectionLostError("the publisher has no connection")
        job = _Job(run, anyio.Event())
        self._jobs.append(job)
        self._rouse()
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    @asynccontextmanager
    async def running(self, task_group: TaskGroup) -> AsyncGenerator[None]:
        """Connect and publish during the block, then drain the outbox and disconnect.

        :raises AdapterError: PostgreSQL cannot be reached or refuses.
        :raises PublishError: at the end, messages were left over. When the block ends with an
            error that one is raised, with a note.
        """
        connection = await self._open()
        task_group.start_soon(self._patience.run)
        try:
            await self._prepare(connection)
            await task_group.start(self._run, connection)
        except psycopg.Error as exc:
            raise AdapterError(self._redact(exc).strip()) from None
        finally:
            if not self.connected:
                await connection.close()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as exc:
            failure = exc
            raise
        finally:
            undelivered = await self.drain()
            self.stop()
            if undelivered:
                lost = PublishError(
                    f"{undelivered} message(s) could not be sent before the adapter was closed",
                    undelivered,
                )
                self._report(lost)
                if failure is None:
                    raise lost
                failure.add_note(str(lost))

    async def drain(self) -> int:
        """Give what is in the outbox its time to go out, whoever cancels; return what is left.

        All calls together take no longer than ``drain_timeout``.
        """
        if self._drain_until is None:
            self._drain_until = anyio.current_time() + self._drain_timeout
            self._set_ready(True)
        if not self.closed and (self.connected or self.undelivered):
            with anyio.CancelScope(deadline=self._drain_until, shield=True):
                waiting = True
                while waiting and not self.closed:
                    waiting = bool(self._waiting)
                    await self.flush()
        return self.undelivered

    async def _run(
        self,
        connection: AnyConnection,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish until :meth:`stop`, beginning on an open connection."""
        current: AnyConnection | None = connection
        self._connection = connection
        self._set_ready(True)
        try:
            with self._stop:
                task_status.started()
                # whoever was cancelled while it started this task waits for it to end
                await anyio.lowlevel.checkpoint_if_cancelled()
                self._stop.shield = True
                while True:
                    if current is None:
                        current = await self._reconnect()
                    try:
                        if self._connection is None and self._resume is not None:
                            await self._resume(current)
                        self._connection = current
                        self._set_ready(True)
                        await self._publish(current)
                    except (_LostError, SilentError, psycopg.Error) as exc:
                        self._connection = None
                        self._set_ready(False)
                        # what was on its way is still in the outbox
                        self._ahead = False
                        await current.close()
                        current = None
                        lost = ConnectionLostError(
                            f"the publisher lost its session: {self._redact(exc).strip()}"
                        )
                        self._fail_jobs(lost)
                        self._report(lost)
        finally:
            self._connection = None
            self.closed = True
            self._release()
            if current is not None:
                with anyio.CancelScope(shield=True):
                    await close_session(current, 1.0)

    def stop(self) -> None:
        """Make :meth:`_run` end, whatever it is doing."""
        self.closed = True
        self._patience.stop()
        if isinstance(self._connection, AnyIOConnection):
            self._connection.cancel_timeout = 0.25
        self._stop.cancel()

    async def _reconnect(self) -> AnyConnection:
        reported = False
        while True:
            await anyio.sleep(backoff(self._attempt))
            self._attempt += 1
            try:
                connection = await self._open()
            except (AdapterError, psycopg.Error) as exc:
                if not reported:
                    self._report(ConnectionLostError(str(exc)))
                    reported = True
            else:
                self.reconnects += 1
                logger.warning("the publisher is connected again")
                return connection

    async def _publish(self, connection: AnyConnection) -> None:
        connection.add_notice_handler(self._take_notice)
        while True:
            if self._ahead:
                await self._send(connection, [self._outbox[0]])
            while self._jobs:
                await self._run_job(connection, self._jobs.popleft())
            if batch := take(self._outbox):
                await self._send(connection, batch)
            elif not self._jobs:
                await self._idle(connection)

    async def _run_job(self, connection: AnyConnection, job: _Job) -> None:
        try:
            job.result = await self._patience.wait(connection, job.run(connection))
        except (psycopg.Error, SilentError) as exc:
            job.error = ConnectionLostError(self._redact(exc).strip())
            if connection.closed:
                raise _LostError(str(job.error)) from None
        finally:
            job.done.set()

    async def _idle(self, connection: AnyConnection) -> None:
        """Wait for a message, an answer, or for the server to say that the session is over."""
        with anyio.CancelScope() as scope:
            self._wake = scope
            try:
                await anyio.wait_readable(connection.pgconn.socket)
            except (OSError, anyio.ClosedResourceError) as exc:
                raise _LostError("its socket was closed") from exc
            finally:
                self._wake = None
                self._patience.end()
            connection.pgconn.consume_input()
            if connection.closed:
                raise _LostError("the server ended it")
        self._patience.check(scope)

    async def _send(
        self, connection: AnyConnection, batch: list[Outgoing], since: float | None = None
    ) -> None:
        started = anyio.current_time() if since is None else since
        self._keeps = self._log is not None
        attempt = 0
        mended = False
        while True:
            try:
                await self._execute(connection, batch)
            except psycopg.Error as exc:
                _raise_if_lost(connection, exc)
                if exc.sqlstate == _UNDEFINED_TABLE and not mended:
                    failure = await self._mend(connection)
                    if failure is None:
                        mended = True
                        continue
                    if isinstance(failure, AdapterError):
                        if not self._keeps:
                            break
                        # better heard by those who listen than by nobody
                        self._keeps = False
                        continue
                    exc = failure
                state = exc.sqlstate or ""
                if state == _QUEUE_FULL:
                    await self._patience.wait(connection, self._heal_queue(connection, exc))
                elif not state.startswith(RETRY_CLASSES) or (
                    anyio.current_time() - started >= self._tries_for and self._log is None
                ):
                    break
                elif attempt == 0:
                    self._report(
                        AdapterError(
                            f"PostgreSQL cannot take messages now: {self._redact(exc).strip()};"
                            " they are tried again"
                        )
                    )
                self._set_ready(False)
                while self._jobs:
                    # to delete old rows may be what helps
                    await self._run_job(connection, self._jobs.popleft())
                await anyio.sleep(backoff(attempt))
                attempt += 1
            else:
                self._sent(len(batch))
                return
        await self._send_apart(connection, batch, started)

    async def _execute(self, connection: AnyConnection, batch: list[Outgoing]) -> None:
        self._refusal = ""
        ahead, self._ahead = self._ahead, False
        send = self._take_answer(connection) if ahead else self._commit(connection, batch)
        try:
            await self._patience.wait(connection, send)
        except psycopg.Error as exc:
            self._refusal = str(exc).strip()
            raise

    async def _commit(self, connection: AnyConnection, batch: list[Outgoing]) -> None:
        log = self._log if self._keeps else None
        query, parameters = statement(batch, self._table, log)
        await connection.execute(query.encode(), parameters, binary=True)

    async def _take_answer(self, connection: AnyConnection) -> None:
        """Take the answer to what :meth:`_send_ahead` has sent."""
        result = (await connection.wait(generators.execute(connection.pgconn)))[-1]
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)

    async def _heal_queue(self, connection: AnyConnection, error: psycopg.Error) -> None:
        # without this call PostgreSQL goes on refusing after the cause has gone
        await connection.execute("SELECT pg_catalog.pg_notification_queue_usage()")
        # again when it is known whom to blame: PostgreSQL says so once in 5 s, to one session
        if not self._queue_full or (self._holder is not None and self._blamed is None):
            self._queue_full = True
            self._blamed = self._holder
            self._report(
                ConnectionLostError(
                    f"PostgreSQL's notification queue is full ({str(error).strip()}):"
                    f" {await self._blame(connection)}; what is in the outbox waits"
                )
            )

    async def _blame(self, connection: AnyConnection) -> str:
        """Describe the session that keeps the notification queue from being emptied."""
        known = self._holder
        cursor = await connection.execute(_HOLDER.encode(), [known, known])
        row = await cursor.fetchone()
        if row is None:
            return "some session listens and does not read"
        pid, application, user, host, state = row
        # of other roles' sessions an ordinary role sees no more than name and user
        seen = [f"application_name {application!r}", f"user {user!r}"]
        seen += [f"client {host}"] if host else []
        seen += [state] if state else []
        who = f"session {pid} ({', '.join(seen)})"
        if pid != known:
            return f"some session listens and does not read, and it may be {who}"
        return f"{who} listens and does not read"

    def _take_notice(self, notice: Diagnostic) -> None:
        # PostgreSQL says who holds the queue, in the server's language
        if notice.source_function == _QUEUE_FILLS:
            found = re.search(r"\d+", notice.message_detail or "")
            self._holder = int(found[0]) if found else None

    async def _mend(self, connection: AnyConnection) -> AdapterError | psycopg.Error | None:
        """Make the tables again; return why that failed."""
        try:
            await self._patience.wait(connection, self._prepare(connection))
        except AdapterError as exc:
            if str(exc) != self._complaint:
                self._complaint = str(exc)
                self._report(exc)
            return exc
        except psycopg.Error as exc:
            _raise_if_lost(connection, exc)
            return exc
        self._complaint = ""
        return None

    async def _send_apart(
        self, connection: AnyConnection, batch: list[Outgoing], since: float
    ) -> None:
        """Send a refused batch in halves, until the message that is to blame stands alone."""
        if len(batch) == 1:
            self._set_ready(True)
            self.dropped += 1
            self._settle(1)
            self._report(
                PublishError(f"PostgreSQL refused a message: {self._redact(self._refusal)}", 1)
            )
            return
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            await self._send(connection, part, since)

    def _sent(self, count: int) -> None:
        self._attempt = 0
        if not self._ready.is_set():
            self._set_ready(True)
        if self._queue_full:
            self._queue_full = False
            self._holder = self._blamed = None
        self.batches += 1
        self.sent += count
        self._settle(count)

    def _settle(self, count: int) -> None:
        for _ in range(count):
            self._outbox.popleft()
        self._settled += count
        while self._commits and self._commits[0][0] <= self._settled:
            self._commits.popleft()[1]()
        while self._flushes and self._flushes[0][0] <= self._settled:
            self._flushes.popleft()[1].set()
        self._admit()

    def _admit(self) -> None:
        """Take in, of the messages that wait, as many as there is room for."""
        while self._waiting and len(self._outbox) < self._limit:
            entry = self._waiting.popleft()
            try:
                self.put(entry.make())
            except Exception as exc:  # noqa: BLE001 - raised where the message came from
                entry.error = exc
            entry.done.set()

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _fail_jobs(self, error: Exception) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            job.error = error
            job.done.set()

    def _release(self) -> None:
        """Let everyone who waits find that the publisher is closed."""
        self._fail_jobs(ConnectionLostError("the publisher is closed"))
        while self._waiting:
            entry = self._waiting.popleft()
            entry.error = AdapterClosedError("closed while the message waited for room")
            entry.done.set()
        while self._flushes:
            self._flushes.popleft()[1].set()


def _raise_if_lost(connection: AnyConnection, error: psycopg.Error) -> None:
    state = error.sqlstate or ""
    # what the server has refused has a state
    unanswered = not state and isinstance(error, psycopg.OperationalError)
    if connection.closed or unanswered or state in _RECONNECT or state.startswith("08"):
        raise error
