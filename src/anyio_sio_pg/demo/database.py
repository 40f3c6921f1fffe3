"""The demo's PostgreSQL, in a process of its own: it runs until standard input ends."""

from __future__ import annotations

import signal
import sys

from anyio_sio_pg.testing import EmbeddedPostgres


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
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def _ignore(*_: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
