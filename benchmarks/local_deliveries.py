"""Deliveries a second to the local clients of one process."""

from __future__ import annotations

import argparse

import anyio
from support import Contestant, Results, arguments, child, compare, machine, postgres, warm_up

_FIRST = 20


async def main(options: argparse.Namespace) -> None:
    with postgres() as server:
        results = Results(
            benchmark=f"Deliveries to {options.clients:,} clients of one process",
            unit="deliveries/s",
            machine=machine(server.uri),
            options={
                "bytes": options.bytes,
                "seconds": options.seconds,
                "clients": options.clients,
            },
        )

        async def measure(contestant: Contestant, emits: int) -> dict[str, float]:
            async with child(contestant, options.clients) as node:
                await node.ask("deliver", emits=warm_up(emits), bytes=options.bytes)
                answer = await node.ask("deliver", emits=emits, bytes=options.bytes)
            return {
                "rate": emits * options.clients / answer["seconds"],
                "emits": emits,
                "emit_us": answer["seconds"] / emits * 1e6,
            }

        contestants = [
            Contestant("socketio.AsyncManager, asyncio", "stock"),
            Contestant("AnyIOManager, asyncio", "anyio"),
            Contestant("AnyIOManager, Trio", "anyio", "trio"),
            Contestant("PostgresManager, asyncio", "postgres", address=server.uri),
            Contestant("PostgresManager, Trio", "postgres", "trio", server.uri),
        ]
        await compare(
            results,
            contestants,
            measure,
            rounds=options.rounds,
            seconds=options.seconds,
            start=_FIRST,
            per_unit=options.clients,
        )
    results.show(options.json, {"emit_us": "µs for an emit"})


if __name__ == "__main__":
    parser = arguments(__doc__ or "", rounds=7)
    parser.add_argument("--clients", type=int, default=1_000)
    anyio.run(main, parser.parse_args())
