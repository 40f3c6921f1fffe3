"""A node in a process of its own that sends numbered events without end, or says which came."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from typing import Any

import anyio

from harness import node
from load import numbers, payload


def say(*what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


async def send(uri: str, prefix: str, options: dict[str, Any]) -> None:
    async with node(uri, prefix, **options) as sender:
        say("ready", sender.manager.uid)
        for number in itertools.count():
            await sender.manager.emit("n", payload(number))


async def receive(uri: str, prefix: str, options: dict[str, Any]) -> None:
    async with node(uri, prefix, **options) as receiver:
        client = await receiver.client()
        say("ready", receiver.manager.listener.info.backend_pid)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                # what has come by now
                stats = receiver.manager.stats()
                say("came", numbers(client), stats.lost, stats.reconnects)


if __name__ == "__main__":
    role, backend, uri, prefix, options = sys.argv[1:]
    anyio.run(
        {"send": send, "receive": receive}[role], uri, prefix, json.loads(options), backend=backend
    )
