"""Events a second from ``emit`` in one process to a client's queue in another."""

from __future__ import annotations

import argparse

import anyio
from support import (
    Child,
    Contestant,
    Results,
    arguments,
    child,
    compare,
    machine,
    postgres,
    redis,
    warm_up,
)

_FIRST = 2_000


async def _meet(sender: Child, receiver: Child) -> None:
    """Send until something arrives: a subscription may take its time."""
    async with anyio.create_task_group() as tg:
        arrived = False

        async def wait() -> None:
            nonlocal arrived
            await receiver.ask("receive", marker="hello")
            arrived = True

        tg.start_soon(wait)
        while not arrived:
            await sender.ask("emit", events=0, bytes=0, marker="hello")
            await anyio.sleep(0.1)


async def _send(sender: Child, receiver: Child, events: int, size: int) -> dict[str, float]:
    await receiver.tell("receive", marker="last")
    sent = await sender.ask("emit", events=events, bytes=size, marker="last")
    received = await receiver.answer()
    if received["events"] != events:
        raise RuntimeError(f"{received['events']} events of {events} arrived")
    seconds = (received["last"] - sent["first"]) / 1e9
    return {
        "rate": events / seconds,
        "events": events,
        "seconds": seconds,
        "emitted": (sent["accepted"] - sent["first"]) / 1e9,
        "sender_us": sent["cpu"] / events * 1e6,
        "receiver_us": received["cpu"] / events * 1e6,
    }


async def main(options: argparse.Namespace) -> None:
    with postgres() as server, redis() as redis_url:
        results = Results(
            benchmark=f"Events of {options.bytes} bytes between two processes",
            unit="events/s",
            machine=machine(server.uri, redis_url),
            options={"bytes": options.bytes, "seconds": options.seconds},
        )

        async def measure(contestant: Contestant, events: int) -> dict[str, float]:
            async with child(contestant, 1) as receiver, child(contestant, 0) as sender:
                await _meet(sender, receiver)
                await _send(sender, receiver, warm_up(events), options.bytes)
                return await _send(sender, receiver, events, options.bytes)

        address = server.uri
        contestants = [
            Contestant("AsyncRedisManager, asyncio", "redis", address=redis_url),
            Contestant("PostgresManager, asyncio", "postgres", address=address),
            Contestant("PostgresManager, Trio", "postgres", "trio", address),
        ]
        if options.durable:
            contestants = [
                Contestant("plain, asyncio", "postgres", address=address),
                Contestant('durable="unlogged", asyncio', "unlogged", address=address),
                Contestant("durable=True, asyncio", "logged", address=address),
                Contestant("durable=True, Trio", "logged", "trio", address),
            ]
        await compare(
            results,
            contestants,
            measure,
            rounds=options.rounds,
            seconds=options.seconds,
            start=_FIRST,
        )
    results.show(options.json, {"sender_us": "sender, µs", "receiver_us": "receiver, µs"})


if __name__ == "__main__":
    parser = arguments(__doc__ or "", rounds=7)
    parser.add_argument("--durable", action="store_true", help="what the log costs, instead")
    anyio.run(main, parser.parse_args())
