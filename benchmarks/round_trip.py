"""One process of the bare round trip: a question and its answer through PostgreSQL, nothing else.

Two of them or more, with a session for sending and one for listening each, as a node has. The one with the
role "ask" takes commands as node.py does; the others answer, and all end with their input.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
import time
from typing import Any

import psycopg

_QUESTIONS = "questions"
_ANSWERS = "answers"
_NOTIFY = "SELECT pg_catalog.pg_notify(%s, %s)"


class Blocking:
    """The two sessions of a process that waits for nothing else."""

    def __init__(self, address: str, listen: str, notify: str):
        self._listening = psycopg.connect(address, autocommit=True)
        self._listening.execute(f"LISTEN {listen}")
        self._publishing = psycopg.connect(address, autocommit=True, prepare_threshold=0)
        self._notify = notify

    def send(self, payload: str) -> None:
        self._publishing.execute(_NOTIFY, [self._notify, payload])

    def receive(self) -> list[str]:
        """Return what has come once something has, or nothing at the end of the input."""
        pgconn = self._listening.pgconn
        while True:
            found: list[str] = []
            while notification := pgconn.notifies():
                found.append(notification.extra.decode())
            if found:
                return found
            readable, _, _ = select.select([pgconn.socket, sys.stdin], [], [])
            if sys.stdin in readable:
                return []
            pgconn.consume_input()


def blocking(role: str, address: str) -> None:
    if role == "answer":
        sessions = Blocking(address, _QUESTIONS, _ANSWERS)
        print("{}", flush=True)
        while questions := sessions.receive():
            for question in questions:
                sessions.send(question)
        return
    sessions = Blocking(address, _ANSWERS, _QUESTIONS)
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        ms: list[float] = []
        for number in range(command["times"]):
            started = time.monotonic_ns()
            sessions.send(str(number))
            answers: list[str] = []
            while len(answers) < command["answers"]:
                answers += sessions.receive()
            if set(answers) != {str(number)}:
                raise RuntimeError("another answer than expected")
            ms.append((time.monotonic_ns() - started) / 1e6)
            time.sleep(command["pause"])
        print(json.dumps({"ms": ms}), flush=True)


async def on_asyncio(role: str, address: str) -> None:
    """Do the same with psycopg on an event loop."""
    connect = psycopg.AsyncConnection.connect
    listening = await connect(address, autocommit=True)
    publishing = await connect(address, autocommit=True, prepare_threshold=0)
    listen, notify = (_QUESTIONS, _ANSWERS) if role == "answer" else (_ANSWERS, _QUESTIONS)
    await listening.execute(f"LISTEN {listen}")
    print("{}", flush=True)
    notifications = listening.notifies()

    async def answer() -> None:
        async for question in notifications:
            await publishing.execute(_NOTIFY, [notify, question.payload])

    if role == "answer":
        answering = asyncio.create_task(answer())
        await asyncio.to_thread(sys.stdin.readline)
        answering.cancel()
        return
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        ms: list[float] = []
        for number in range(command["times"]):
            started = time.monotonic_ns()
            await publishing.execute(_NOTIFY, [notify, str(number)])
            if (await anext(notifications)).payload != str(number):
                raise RuntimeError("another answer than expected")
            ms.append((time.monotonic_ns() - started) / 1e6)
            await asyncio.sleep(command["pause"])
        print(json.dumps({"ms": ms}), flush=True)


if __name__ == "__main__":
    spec: dict[str, Any] = json.loads(sys.argv[1])
    if spec["kind"] == "blocking":
        blocking(spec["role"], spec["address"])
    else:
        asyncio.run(on_asyncio(spec["role"], spec["address"]))
