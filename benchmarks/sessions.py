"""Bare sessions with PostgreSQL, for what the server itself can carry: no node, no event loop.

One process has many of them, so that the server is the limit and not the clients. It takes commands
as node.py does.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import ExecStatus, Format

CHANNEL = "socket.io#/"

LARGEST = 7_999
"""Bytes of a notification."""

AT_ONCE = 512
"""Messages in one statement at most, as of a node."""

MOST_BYTES = 1 << 20
"""Bytes in one statement at most, as of a node."""

FRAME = 1 + 4 + 4 + len(CHANNEL) + 1 + 1
"""Bytes of a notification on its way to a client, beside the payload."""

SENDS = b"SELECT count(pg_notify($1, m.payload)) FROM unnest($2::text[]) AS m(payload)"
ROWS = 10_000
"""Of the application's table."""

BINARY = 1
TEXT = 25

NUMBER = b'"seq":0'
"""What is to be numbered in a message."""


class ArrayDumper(Dumper):
    """Passes on what is in PostgreSQL's format already."""

    format = Format.BINARY
    oid = psycopg.adapters.types["text"].array_oid

    def dump(self, obj: bytes) -> bytes:
        return obj


def heads(count: int, head: str, start: int) -> Iterator[bytes]:
    """Number the payloads, which would be merged if they were equal."""
    before, after = head.encode().split(NUMBER)
    before += NUMBER[:-1]
    for number in range(start, start + count):
        yield before + str(number).encode() + after


def batches(payloads: Iterator[bytes], most: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    total = 0
    for payload in payloads:
        if batch and (len(batch) == most or total + len(payload) > MOST_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(payload)
        total += len(payload)
    if batch:
        yield batch


def packed(batch: list[bytes]) -> list[bytes]:
    """Put several messages into each notification, as a JSON array."""
    found: list[bytes] = []
    part: list[bytes] = []
    size = 1
    for payload in batch:
        if part and size + len(payload) + 1 > LARGEST:
            found.append(b"[" + b",".join(part) + b"]")
            part, size = [], 1
        part.append(payload)
        size += len(payload) + 1
    found.append(b"[" + b",".join(part) + b"]")
    return found


def array(texts: list[bytes]) -> bytes:
    """PostgreSQL's binary form of a text[]."""
    parts = [struct.pack("!iiiii", 1, 0, TEXT, len(texts), 1)]
    for text in texts:
        parts += (struct.pack("!i", len(text)), text)
    return b"".join(parts)


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def times(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {
        "p50_ms": percentile(seconds, 0.5) * 1e3,
        "p99_ms": percentile(seconds, 0.99) * 1e3,
    }


class Sessions:
    """Some sessions, each of which does one statement at a time."""

    def __init__(self, address: str, sessions: int, listen: str | None):
        self.address = address
        self.connections = [psycopg.connect(address, autocommit=True) for _ in range(sessions)]
        self.pids = [connection.info.backend_pid for connection in self.connections]
        for connection in self.connections:
            connection.pgconn.prepare(b"send", SENDS)
            # a statement is handed to the kernel as a whole
            connection.pgconn.nonblocking = 0
        # all numbers have the same length
        self.number = 10**14
        if listen is not None:
            self.listen(channel=listen)
        self.ready: list[list[bytes]] = []
        self.messages = 0

    def _run(self, submit: Callable[[int], bool], wait: Callable[[], float | None]) -> list[float]:
        """Give each idle session a statement until none is left; return how long each took.

        ``submit`` sends the next one on a session; it is False while there is none. ``wait`` tells
        for how long there will be none, or None for good.
        """
        took: list[float] = []
        idle = list(range(len(self.connections)))
        busy: dict[int, tuple[int, float]] = {}
        poll = select.poll()
        for connection in self.connections:
            poll.register(connection.pgconn.socket, select.POLLIN)
        sessions = {c.pgconn.socket: i for i, c in enumerate(self.connections)}
        while True:
            while idle:
                begun = time.monotonic()
                if not submit(idle[-1]):
                    break
                index = idle.pop()
                busy[self.connections[index].pgconn.socket] = (index, begun)
            pause = wait() if idle else 60.0
            if pause is None:
                if not busy:
                    return took
                pause = 60.0
            for fd, _ in poll.poll(max(0.0, pause) * 1_000):
                pgconn = self.connections[sessions[fd]].pgconn
                pgconn.consume_input()
                while not pgconn.is_busy():
                    result = pgconn.get_result()
                    if result is None:
                        if (found := busy.pop(fd, None)) is not None:
                            took.append(time.monotonic() - found[1])
                            idle.append(found[0])
                        break
                    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                        raise RuntimeError(result.error_message.decode())

    def prepare(self, *, messages: int, head: str, most: int, pack: bool) -> dict[str, Any]:
        """Make what :meth:`send` sends; tell how many bytes each listener will get."""
        payloads = heads(messages, head, self.number)
        self.number += messages
        self.messages = messages
        self.ready = []
        total = 0
        for batch in batches(payloads, most):
            notifications = packed(batch) if pack else batch
            total += sum(map(len, notifications)) + FRAME * len(notifications)
            self.ready.append([CHANNEL.encode(), array(notifications)])
        self.ready.reverse()
        return {"bytes": total, "statements": len(self.ready)}

    def send(self) -> dict[str, Any]:
        ready = self.ready

        def submit(index: int) -> bool:
            if not ready:
                return False
            self.connections[index].pgconn.send_query_prepared(
                b"send", ready.pop(), [BINARY, BINARY], BINARY
            )
            return True

        begun = time.monotonic()
        took = self._run(submit, lambda: None)
        return {"begun": begun, "ended": time.monotonic(), **times(took)}

    def pace(self, *, rate: float, seconds: float, head: str) -> dict[str, Any]:
        """Send events at given times, as a publisher does: all that are due, in one statement."""
        payloads = list(heads(int(rate * seconds), head, self.number))
        self.number += len(payloads)
        begun = time.monotonic()
        sent = 0

        def submit(index: int) -> bool:
            nonlocal sent
            due = min(len(payloads), int((time.monotonic() - begun) * rate))
            if due <= sent:
                return False
            batch = payloads[sent : min(due, sent + AT_ONCE)]
            sent += len(batch)
            self.connections[index].pgconn.send_query_prepared(
                b"send", [CHANNEL.encode(), array(batch)], [BINARY, BINARY], BINARY
            )
            return True

        def wait() -> float | None:
            if sent == len(payloads):
                return None
            return begun + (sent + 1) / rate - time.monotonic()

        took = self._run(submit, wait)
        return {
            "sent": sent,
            "statements": len(took),
            "bytes": sum(map(len, payloads)) + FRAME * len(payloads),
            "seconds": time.monotonic() - begun,
            **times(took),
        }

    def commit(self, *, seconds: float, notify: str | None) -> dict[str, Any]:
        """Commit changes of a table, as an application does; tell how many a second."""
        begun = time.monotonic()
        until = begun + seconds
        chosen = random.Random(0)
        count = 0
        payloads = heads(1 << 40, notify or NUMBER.decode(), self.number)
        total = 0

        def submit(index: int) -> bool:
            nonlocal count, total
            if time.monotonic() >= until:
                return False
            count += 1
            row = chosen.randrange(ROWS)
            more = "1"
            if notify is not None:
                payload = next(payloads).decode()
                total += len(payload) + FRAME
                more = f"pg_notify('{CHANNEL}', '{payload}')"
            self.connections[index].pgconn.send_query(
                f"UPDATE application SET value = value + 1 WHERE id = {row}; SELECT {more}".encode()
            )
            return True

        took = self._run(submit, lambda: None)
        self.number += count
        return {"rate": count / (time.monotonic() - begun), "bytes": total, **times(took)}

    def log(self, *, messages: int, head: str, most: int, table: str | None) -> dict[str, Any]:
        """Send as a node does, with a row for each message in ``table``; tell what it takes."""
        from anyio_sio_pg.protocol.batch import Log, TextArray, statement
        from anyio_sio_pg.protocol.wire import Outgoing

        connection = self.connections[0]
        connection.adapters.register_dumper(TextArray, ArrayDumper)
        log = None if table is None else Log(table, "0123456789abcdef")
        outgoing: list[list[Any]] = []
        start = self.number
        self.number += messages
        seq = start
        for batch in batches(heads(messages, head, start), most):
            outgoing.append([Outgoing(CHANNEL, head, seq=seq + i) for i, head in enumerate(batch)])
            seq += len(batch)
        with connection.cursor(binary=True) as cursor:
            before = _position(cursor)
            size = _size(cursor, table)
            begun = time.monotonic()
            for some in outgoing:
                query, parameters = statement(some, "none", log)
                cursor.execute(query.encode(), parameters)
            took = time.monotonic() - begun
            wal = _position(cursor) - before
            figures = {
                "rate": messages / took,
                "wal_bytes": wal / messages,
                "table_bytes": (_size(cursor, table) - size) / messages,
            }
            if table is not None:
                before = _position(cursor)
                cursor.execute(f"DELETE FROM {table}".encode())
                figures["deleted_wal_bytes"] = (_position(cursor) - before) / messages
                cursor.execute(f"TRUNCATE {table}".encode())
            return figures

    def tables(self) -> dict[str, Any]:
        from anyio_sio_pg import create_log_statement

        connection = self.connections[0]
        for table, unlogged in (("logged", False), ("unlogged", True)):
            connection.execute(create_log_statement(table, unlogged=unlogged).encode())
        connection.execute("CREATE TABLE application (id int PRIMARY KEY, value int)")
        connection.execute("INSERT INTO application SELECT generate_series(0, %s), 0", [ROWS])
        connection.execute("VACUUM ANALYZE application")
        return {}

    def listen(self, *, channel: str | None) -> dict[str, Any]:
        """Listen to one channel, or to none."""
        for connection in self.connections:
            connection.execute("UNLISTEN *")
            if channel is not None:
                name = psycopg.sql.Identifier(channel)
                connection.execute(psycopg.sql.SQL("LISTEN {}").format(name))
        return {}

    def receive(self, *, bytes: int | None) -> Iterator[dict[str, Any]]:
        """Read until each session has ``bytes`` bytes, as cheaply as Python can.

        None: the next line of the input tells how many they are.
        """
        sockets = {
            connection.fileno(): socket.socket(fileno=os.dup(connection.fileno()))
            for connection in self.connections
        }
        had = dict.fromkeys(sockets, 0)
        poll = select.epoll()
        for fd in sockets:
            poll.register(fd, select.EPOLLIN)
        if bytes is None:
            poll.register(sys.stdin.fileno(), select.EPOLLIN)
        buffer = bytearray(1 << 20)
        yield {}
        used = time.process_time()
        while bytes is None or sum(had.values()) < bytes * len(had):
            for fd, _ in poll.poll():
                if fd == sys.stdin.fileno():
                    poll.unregister(fd)
                    bytes = int(read_line())
                    continue
                count = sockets[fd].recv_into(buffer)
                if not count:
                    raise RuntimeError("PostgreSQL has ended a session")
                had[fd] += count
        if any(count != bytes for count in had.values()):
            raise RuntimeError("the listeners got other bytes than were sent")
        yield {"ended": time.monotonic(), "cpu": time.process_time() - used}
        poll.close()
        for one in sockets.values():
            one.close()

    def decode(self, *, messages: int, pack: bool) -> Iterator[dict[str, Any]]:
        """Read ``messages`` messages as a node does, with libpq, and decode them."""
        import msgspec

        from anyio_sio_pg.protocol.cluster_wire import ClusterWire

        pgconn = self.connections[0].pgconn
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
        decode = ClusterWire("socket.io").decode
        count = 0
        yield {}
        used = time.process_time()
        while count < messages:
            poll.poll()
            pgconn.consume_input()
            while (found := pgconn.notifies()) is not None:
                if pack:
                    some = parts(found.extra)
                    for part in some:
                        decode("/", part)
                    count += len(some)
                else:
                    decode("/", found.extra)
                    count += 1
        yield {"ended": time.monotonic(), "cpu": time.process_time() - used}

    def usage(self) -> dict[str, Any]:
        """How full the notification queue is, of 1."""
        connection = self.connections[0]
        cursor = connection.execute("SELECT pg_notification_queue_usage()")
        row = cursor.fetchone()
        assert row is not None
        return {"used": row[0]}

    def begin(self) -> dict[str, Any]:
        """Sit in a transaction, so that no notification is taken."""
        self.connections[0].execute("BEGIN")
        return {}

    def rollback(self) -> dict[str, Any]:
        self.connections[0].execute("ROLLBACK")
        return {}


def _position(cursor: psycopg.Cursor[Any]) -> int:
    cursor.execute(b"SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8")
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _size(cursor: psycopg.Cursor[Any], table: str | None) -> int:
    if table is None:
        return 0
    cursor.execute(b"SELECT pg_total_relation_size(%s::regclass)", [table])
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def read_line() -> bytes:
    """Read no more than a line, so that a poll sees what comes after it."""
    line: bytes = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
    return line


def main() -> None:
    spec = json.loads(sys.argv[1])
    sessions = Sessions(spec["address"], spec["sessions"], spec["listen"])
    if spec["decodes"]:
        # what takes long is to be over before anything is measured
        import anyio_sio_pg.protocol.cluster_wire  # noqa: F401
    print(json.dumps({"pids": sessions.pids}), flush=True)
    while line := read_line():
        command = json.loads(line)
        answers = getattr(sessions, command.pop("do"))(**command)
        # a command that waits says first that it has begun
        for answer in [answers] if isinstance(answers, dict) else answers:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
