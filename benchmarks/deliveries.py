"""Deliveries a second to the local clients of one process."""

from __future__ import annotations

import anyio
from support import Child, Contestant, Options, Results, child, machine, postgres

NAME = "deliveries"
TITLE = "Deliveries to the local clients of one process"

_BYTES = 100
_CLIENTS = (1, 100, 1_000, 10_000)
_ROOM = "some"
_ROOM_SIZE = 100
_FIRST = 20_000
"""Deliveries of a warm-up, from which the amount for a round follows."""
_ROUND_TIMEOUT = 180


async def run(options: Options) -> Results:
    sizes = _CLIENTS[:2] if options.quick else _CLIENTS
    with postgres() as server:
        results = Results(NAME, TITLE, machine(server.uri), options)
        contestants = [
            Contestant("AsyncManager", "stock"),
            Contestant("AnyIOManager, asyncio", "anyio"),
            Contestant("AnyIOManager, Trio", "anyio", "trio"),
            Contestant("PostgresManager, asyncio", "postgres", address=server.uri),
            Contestant("PostgresManager, Trio", "postgres", "trio", server.uri),
        ]
        for number in range(1, options.rounds + 1):
            for contestant in contestants:
                with anyio.fail_after(_ROUND_TIMEOUT):
                    # one process for all: to connect 10,000 clients takes longer than to measure
                    async with child(contestant, 0) as node:
                        for clients in sizes:
                            await node.ask("more", clients=clients)
                            figures = await _measure(node, clients, None, options)
                            case = {"sockets": clients}
                            results.add(contestant.name, case, number, figures)
                        # those who are not in the room should not cost anything
                        in_room = min(_ROOM_SIZE, clients // 2)
                        await node.ask("join", room=_ROOM, clients=in_room)
                        figures = await _measure(node, in_room, _ROOM, options)
                        case = {"room": in_room, "of": clients}
                        results.add(contestant.name, case, number, figures)
    return results


async def _measure(
    node: Child, recipients: int, room: str | None, options: Options
) -> dict[str, float]:
    async def deliver(emits: int) -> float:
        answer = await node.ask("deliver", emits=emits, bytes=_BYTES, room=room, clients=recipients)
        seconds: float = answer["seconds"]
        return seconds

    emits = max(2, min(1_000, _FIRST // recipients))
    seconds = await deliver(emits)
    if not options.quick:
        emits = max(emits, round(emits / seconds * options.seconds / 2))
        seconds = await deliver(emits)
    return {
        "rate": emits * recipients / seconds,
        "emit_us": seconds / emits * 1e6,
        "emits": float(emits),
    }
