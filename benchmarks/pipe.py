"""The limit: what libpq, a JSON codec and nothing else carry from one process to another.

No sequence numbers of its own, no rooms, no clients and no event loop: a sender that encodes each
event and commits a batch in one statement, encoding the next batch meanwhile; and a receiver that
decodes each notification. And the same on an event loop. It takes commands as node.py does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus

CHANNEL = "pipe"

AT_ONCE = 512
"""Events in one statement, as many as the manager puts in one."""

OUTBOX = 10_000
"""Events that may wait, as many as with the manager."""

STATEMENT = (
    b"SELECT count(pg_notify(m.channel, m.payload)) FROM unnest($1, $2) AS m(channel, payload)"
)

BINARY = 1


class Pipe:
    """One process of the pipe."""

    def __init__(self, address: str, listen: bool):
        self.connection = psycopg.connect(address, autocommit=True)
        if listen:
            self.connection.execute(f"LISTEN {CHANNEL}")

    def emit(self, *, name: str, events: int, bytes: int, binary: bool = False) -> dict[str, Any]:
        if binary:
            raise ValueError("the pipe is for text")
        payload = "x" * bytes
        pgconn = self.connection.pgconn
        encode = msgspec.json.Encoder().encode
        first = time.monotonic_ns()
        sent = 0
        while sent < events:
            until = min(events, sent + AT_ONCE)
            # the number keeps equal payloads apart: PostgreSQL would merge them
            batch = [encode((name, number, payload)).decode() for number in range(sent, until)]
            transformer = Transformer(self.connection)
            values = transformer.dump_sequence(
                [[CHANNEL] * len(batch), batch], [PyFormat.BINARY, PyFormat.BINARY]
            )
            # the batch before was being committed until here
            self._settle()
            pgconn.send_query_params(
                STATEMENT, values, transformer.types, transformer.formats, BINARY
            )
            sent = until
        self._settle()
        return {"first": first, "accepted": time.monotonic_ns()}

    def _settle(self) -> None:
        pgconn = self.connection.pgconn
        while pgconn.transaction_status == TransactionStatus.ACTIVE:
            result = pgconn.get_result()
            if result is not None and result.status != ExecStatus.TUPLES_OK:
                raise RuntimeError(result.error_message.decode())

    def expect(self, *, name: str, events: int) -> dict[str, Any]:
        # nothing is read before
        self.expected = name, events
        return {}

    def receive(self, *, quiet: float) -> dict[str, Any]:
        name, events = self.expected
        pgconn = self.connection.pgconn
        decode = msgspec.json.Decoder(tuple[str, int, str]).decode
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        count = 0
        last = time.monotonic_ns()
        while count < events and poll.poll(quiet * 1000):
            pgconn.consume_input()
            while (notification := pgconn.notifies()) is not None:
                event, _, _ = decode(notification.extra)
                count += event == name
            last = time.monotonic_ns()
        return {"events": count, "last": last}

    def cpu(self) -> dict[str, Any]:
        return {"cpu": time.process_time()}


class LoopPipe:
    """The same on an event loop, for a caller who sends each event by itself.

    Beside the pipe it has what any library must have: a queue that fills while a batch is being
    committed, and psycopg's own connection on asyncio.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]):
        self.connection = connection
        self._waiting: deque[str] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._encode = msgspec.json.Encoder().encode

    async def publish(self) -> None:
        waiting = self._waiting
        while True:
            await self._filled.wait()
            while waiting:
                batch = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
                await self.connection.execute(
                    "SELECT count(pg_notify(m.channel, m.payload))"
                    " FROM unnest(%b, %b) AS m(channel, payload)",
                    [[CHANNEL] * len(batch), batch],
                )
                self._emptied.set()
            self._filled.clear()
            self._emptied.set()

    async def _put(self, name: str, number: int, payload: str) -> None:
        while len(self._waiting) >= OUTBOX:
            self._emptied.clear()
            await self._emptied.wait()
        self._waiting.append(self._encode((name, number, payload)).decode())
        self._filled.set()

    async def emit(
        self, *, name: str, events: int, bytes: int, binary: bool = False
    ) -> dict[str, Any]:
        if binary:
            raise ValueError("the pipe is for text")
        payload = "x" * bytes
        first = time.monotonic_ns()
        for number in range(events):
            await self._put(name, number, payload)
        while self._filled.is_set():
            self._emptied.clear()
            await self._emptied.wait()
        return {"first": first, "accepted": time.monotonic_ns()}

    async def expect(self, *, name: str, events: int) -> dict[str, Any]:
        # nothing is read before
        self.expected = name, events
        return {}

    async def receive(self, *, quiet: float) -> dict[str, Any]:
        name, events = self.expected
        pgconn = self.connection.pgconn
        decode = msgspec.json.Decoder(tuple[str, int, str]).decode
        count = 0
        last = time.monotonic_ns()
        done = asyncio.Event()

        def read() -> None:
            nonlocal count, last
            pgconn.consume_input()
            while (notification := pgconn.notifies()) is not None:
                event, _, _ = decode(notification.extra)
                count += event == name
            last = time.monotonic_ns()
            if count >= events:
                done.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(pgconn.socket, read)
        seen = -1
        while count > seen and not done.is_set():
            seen = count
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), quiet)
        loop.remove_reader(pgconn.socket)
        return {"events": count, "last": last}

    async def cpu(self) -> dict[str, Any]:
        return {"cpu": time.process_time()}


async def serve(spec: dict[str, Any]) -> None:
    async with await psycopg.AsyncConnection.connect(spec["address"], autocommit=True) as own:
        if spec["clients"]:
            await own.execute(f"LISTEN {CHANNEL}")
        pipe = LoopPipe(own)
        publisher = asyncio.create_task(pipe.publish())
        commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "emit": pipe.emit,
            "expect": pipe.expect,
            "receive": pipe.receive,
            "cpu": pipe.cpu,
        }
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            print(json.dumps(await commands[command.pop("do")](**command)), flush=True)
        publisher.cancel()


def main() -> None:
    spec = json.loads(sys.argv[1])
    if spec["manager"] == "loop-pipe":
        asyncio.run(serve(spec))
        return
    pipe = Pipe(spec["address"], listen=spec["clients"] > 0)
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "emit": pipe.emit,
        "expect": pipe.expect,
        "receive": pipe.receive,
        "cpu": pipe.cpu,
    }
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(commands[command.pop("do")](**command)), flush=True)


if __name__ == "__main__":
    main()
