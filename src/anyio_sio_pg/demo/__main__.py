"""``python -m anyio_sio_pg.demo``: the command of the demo.

Its exit code: 0 when a signal (Ctrl-C, SIGTERM, SIGHUP) ended the demo and all of it has stopped,
or when ``--check`` saw all that it expects; 130 when a signal cut ``--check`` short; 1 when
something was not as it should be; 2 when the arguments are wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import anyio
from anyio import CancelScope

from .cluster import NODES, DemoError, missing_packages, running_cluster

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="anyio-sio-pg-demo",
        description="Two Socket.IO servers that act as one, through an embedded PostgreSQL, "
        "with a chat on each. Ctrl-C ends it and leaves nothing running.",
    )
    parser.add_argument(
        "--port",
        type=_port,
        help="node one's port, node two has the next; without it, free ones are taken",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="play a conversation between clients on both nodes, print what is seen, and end",
    )
    options = parser.parse_args(arguments)
    if missing := missing_packages():
        print(
            f"The demo needs {', '.join(missing)}: pip install 'anyio-sio-pg[demo]'",
            file=sys.stderr,
        )
        return 1
    try:
        return anyio.run(_run, options.port, options.check, backend="asyncio")
    except KeyboardInterrupt:
        # on Windows, where signals come as this
        return _ended_by_signal(options.check)


async def _run(port: int | None, check: bool) -> int:
    code = _ended_by_signal(check)
    try:
        # outside of what it cancels: more signals change nothing, what runs ends in order
        with _signals() as signals:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_at_first, signals, tasks.cancel_scope)
                code = await (_check(port) if check else _show(port))
                tasks.cancel_scope.cancel()
    except* DemoError as group:
        for exc in group.exceptions:
            print(exc, file=sys.stderr)
        code = 1
    if code == 0 and not check:
        print("\nBoth nodes and PostgreSQL have ended; nothing is left.")
    return code


async def _show(port: int | None) -> int:
    print("Starting PostgreSQL and two nodes ...", flush=True)
    async with running_cluster(port) as cluster:
        print()
        for name, address in cluster.addresses.items():
            print(f"  node {name}   {address}")
        print("\nOpen both and talk across them. Ctrl-C ends the demo.", flush=True)
        raise DemoError(await cluster.failure())


async def _check(port: int | None) -> int:
    # not needed, nor its imports, by those who only look at the page
    from .check import checking

    async with checking() as check:
        async with running_cluster(port) as cluster:
            well = await check.converse(cluster.addresses)
        return 0 if await check.farewell() and well else 1


def _signals() -> AbstractContextManager[AsyncIterator[signal.Signals] | None]:
    if sys.platform == "win32":
        return nullcontext()
    return anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def _cancel_at_first(
    signals: AsyncIterator[signal.Signals] | None, scope: CancelScope
) -> None:
    if signals is not None:
        await anext(signals)
        scope.cancel()


def _ended_by_signal(check: bool) -> int:
    return _INTERRUPTED if check else 0


def _port(text: str) -> int:
    highest = 65_535 - len(NODES) + 1
    if not text.isdecimal() or not 1 <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to {highest}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
