"""The demo's PostgreSQL, in a process of its own: it runs until standard input ends."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress

import psycopg

from anyio_sio_pg.testing import EmbeddedPostgres

_GOODBYE_TIMEOUT = 5.0
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def main() -> int:
    """Run the server; print its URI once it takes connections.

    Signals do not end this process: the nodes have to go before their database, and standard input
    ends in any case when the demo does, however it does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # not SIG_IGN, which PostgreSQL's own processes would inherit
        signal.signal(number, _ignore)
    try:
        with EmbeddedPostgres() as postgres:
            print(postgres.uri, flush=True)
            sys.stdin.buffer.read()
            _wait_for_nodes(postgres.uri)
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _wait_for_nodes(uri: str) -> None:
    """Return when they have gone, or after a while: when the demo is killed, all end at once."""
    deadline = time.monotonic() + _GOODBYE_TIMEOUT
    with suppress(psycopg.Error), psycopg.connect(uri, autocommit=True) as connection:
        while connection.execute(_OTHERS).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.05)


def _ignore(*_: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
