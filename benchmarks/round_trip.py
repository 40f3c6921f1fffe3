"""One process of the bare round trip: a question and its answer through PostgreSQL, nothing else.

Two of them, with a session for sending and one for listening each, as a node has. The one with the
role "ask" takes commands as node.py does; the other answers, and both end with their input.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Any

import psycopg

_QUESTIONS = "questions"
_ANSWERS = "answers"
_NOTIFY = "SELECT pg_catalog.pg_notify(%s, %s)"


class Sessions:
    """The two sessions of a process."""

    def __init__(self, address: str, listen: str, notify: str):
        self._listening = psycopg.connect(address, autocommit=True)
        self._listening.execute(f"LISTEN {listen}")
        self._publishing = psycopg.connect(address, autocommit=True)
        self._publishing.prepare_threshold = 0
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


def main(spec: dict[str, Any]) -> None:
    if spec["role"] == "answer":
        sessions = Sessions(spec["address"], _QUESTIONS, _ANSWERS)
        print("{}", flush=True)
        while questions := sessions.receive():
            for question in questions:
                sessions.send(question)
        return
    sessions = Sessions(spec["address"], _ANSWERS, _QUESTIONS)
    print("{}", flush=True)
    for line in sys.stdin:
        ms: list[float] = []
        for number in range(json.loads(line)["times"]):
            started = time.monotonic_ns()
            sessions.send(str(number))
            if sessions.receive() != [str(number)]:
                raise RuntimeError("another answer than expected")
            ms.append((time.monotonic_ns() - started) / 1e6)
        print(json.dumps({"ms": ms}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
