"""How late an event comes: from the time at which it is due in one process to a queue in another.

The load is open: events are due at fixed times, whether or not those before have gone out, and the
time counts from there. A thread of this process wakes the sender up at these times through a
socket, as a client's message does; what the system lets it sleep too long, less than 0.1 ms, counts.
"""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

import anyio
import anyio.to_thread
import events
from support import Options, Results, machine

NAME = "latency"
TITLE = "Latency of events of 100 bytes from one process to another"

_BYTES = 100
_CONTESTANTS = (
    events.REDIS,
    events.HIREDIS,
    events.NODE_POSTGRES,
    events.NODE_REDIS,
    events.ASYNCIO,
    events.TRIO,
)
_SECONDS = {10: 2.0, 1_000: 1.0, 10_000: 0.7}
"""How long events are sent, for each rate, as a share of the options' seconds."""
_QUICK = {10: 0.3, 1_000: 0.1}
_LEAD = 20_000_000
"""Nanoseconds until the first event."""
_WARM_UP = 400
_WARM_UP_RATE = 1_000
_QUIET = 10.0
"""Seconds without an event after which those that are missing are lost."""
_TIMEOUT = 60


async def run(options: Options) -> Results:
    with events.servers() as found, tempfile.TemporaryDirectory() as folder:
        results = Results(NAME, TITLE, machine(found.postgres_uri, found.redis_url), options)
        ticks = Path(folder) / "ticks"
        pooled: dict[tuple[str, int], list[float]] = {}
        for number in range(1, options.rounds + 1):
            for name in _CONTESTANTS:
                async with events.cluster(found.contestants[name], 1) as pair:
                    await _send(pair, ticks, _WARM_UP, _WARM_UP_RATE)
                    for rate, share in (_QUICK if options.quick else _SECONDS).items():
                        amount = max(2, round(rate * share * options.seconds))
                        ms, figures = await _send(pair, ticks, amount, rate)
                        if lost := figures.get("lost"):
                            text = f"{name} lost {lost:.0f} of {amount} events at {rate:,} a second"
                            if name in events.LOSSLESS:
                                raise RuntimeError(text)
                            results.notes.append(text)
                        all_rounds = pooled.setdefault((name, rate), [])
                        all_rounds += ms
                        if number == options.rounds:
                            # few events have no 99th percentile of their own
                            figures |= _percentiles(all_rounds, "pooled_")
                        results.add(name, {"rate": rate}, number, figures)
    return results


async def _send(
    pair: events.Cluster, ticks: Path, amount: int, rate: int
) -> tuple[list[float], dict[str, float]]:
    """Send so many events at a rate; return how late each came, in ms, and the figures."""
    (receiver,) = pair.receivers
    gap = 1_000_000_000 // rate
    with anyio.fail_after(_TIMEOUT), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(ticks))
        listening.listen()
        await receiver.ask("watch")
        await pair.sender.tell("paced", events=amount, gap=gap, bytes=_BYTES, ticks=str(ticks))
        await anyio.to_thread.run_sync(_tick, listening, gap, amount)
        sent = await pair.sender.answer()
        received = await receiver.ask("latencies", events=amount, quiet=_QUIET)
        ticks.unlink()
    ms: list[float] = received["ms"]
    if len(ms) < 2:
        raise RuntimeError(f"{len(ms)} events of {amount} have arrived")
    figures = {
        **_percentiles(ms),
        "max_ms": max(ms),
        "rate": amount / (received["last"] - sent["start"]) * 1e9,
        "events": float(amount),
        "sender_us": sent["cpu"] / amount * 1e6,
        "receiver_us": received["cpu"] / amount * 1e6,
    }
    if len(ms) < amount:
        figures["lost"] = float(amount - len(ms))
    return ms, figures


def _tick(listening: socket.socket, gap: int, amount: int) -> None:
    """Say when the first event is due, and write a byte at each event's time."""
    listening.settimeout(_TIMEOUT)
    connection, _ = listening.accept()
    # the sender closes it as soon as it has sent the last, which may be before the last byte
    with connection, suppress(ConnectionError):
        start = time.monotonic_ns() + _LEAD
        connection.send(f"{start:019}".encode())
        for number in range(amount):
            wait = start + number * gap - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            connection.send(b".")


def _percentiles(ms: list[float], prefix: str = "") -> dict[str, float]:
    parts = quantiles(ms, n=100, method="inclusive")
    return {f"{prefix}p50_ms": parts[49], f"{prefix}p99_ms": parts[98]}
