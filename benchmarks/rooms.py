"""Joins and leaves a second, here and across the cluster, and what sockets and rooms take."""

from __future__ import annotations

from functools import partial

import anyio
from support import (
    Contestant,
    Options,
    Results,
    child,
    compare,
    machine,
    postgres,
    redis,
    warm_up,
)

NAME = "rooms"
TITLE = "Joins and leaves, and the memory of sockets and rooms"

_HERE = "own client"
_ELSEWHERE = "clients elsewhere"
_UNTIL_DONE = "remote_join"
_MEMORY = "memory"

_SHARE = 0.4
"""Of the seconds of a round: there are several cases."""

_ROUND_TIMEOUT = 120
_MEET_TIMEOUT = 20


async def run(options: Options) -> Results:
    with postgres() as server, redis() as redis_url:
        results = Results(NAME, TITLE, machine(server.uri, redis_url), options)
        ours = [
            Contestant("PostgresManager, asyncio", "postgres", address=server.uri),
            Contestant("PostgresManager, Trio", "postgres", "trio", server.uri),
        ]
        local = [
            Contestant("AsyncManager", "stock"),
            Contestant("AnyIOManager, asyncio", "anyio"),
            Contestant("AnyIOManager, Trio", "anyio", "trio"),
            *ours,
        ]
        if options.quick:
            # the start of the processes is what takes the time
            local = [local[0], *ours]
        through_redis = Contestant("AsyncRedisManager, hiredis", "hiredis", address=redis_url)
        in_turn = partial(compare, results, seconds=options.seconds * _SHARE)
        await in_turn(local, _here, case={"change": _HERE, "sockets": 1}, start=500)
        for sockets in (20,) if options.quick else (1, 1_000):
            await in_turn(
                [through_redis, *ours],
                partial(_elsewhere, sockets),
                case={"change": _ELSEWHERE, "sockets": sockets},
                start=200 if sockets == 1 else 2,
                per_unit=sockets * 2,
            )
        for at_once in (100,) if options.quick else (1, 100):
            await in_turn(
                ours,
                partial(_until_done, at_once),
                case={"change": _UNTIL_DONE, "at_once": at_once},
                start=200,
            )
        # the same each time: it is counted, not timed
        for contestant in local:
            with anyio.fail_after(_ROUND_TIMEOUT):
                async with child(contestant, 1) as node:
                    held = await node.ask("memory", count=200 if options.quick else 10_000)
            for what, size in held.items():
                results.add(contestant.name, {_MEMORY: what}, 1, {"bytes": size})
    return results


async def _here(contestant: Contestant, times: int) -> dict[str, float]:
    async with child(contestant, 1) as node:
        await node.ask("own_rooms", times=warm_up(times))
        answer = await node.ask("own_rooms", times=times)
    return {
        "rate": times * 2 / answer["seconds"],
        "cpu_us": answer["cpu"] / (times * 2) * 1e6,
    }


async def _elsewhere(sockets: int, contestant: Contestant, times: int) -> dict[str, float]:
    """Join rooms, and leave them again, until all sockets of the other process have."""
    async with child(contestant, sockets) as there, child(contestant, 0) as here:
        sids = (await there.ask("join", room="crowd", clients=sockets))["sids"]
        room = "crowd" if sockets > 1 else None
        seconds = 0.0
        # a subscription may take its time: the first change is made again until it arrives
        with anyio.fail_after(_MEET_TIMEOUT):
            await there.tell("until_rooms", members=sockets, times=1)
            async with anyio.create_task_group() as tasks:

                async def wait() -> None:
                    await there.answer()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(wait)
                while True:
                    await here.ask("others_rooms", sids=sids, room=room, times=1, join=True)
                    await anyio.sleep(0.1)
        for amount in warm_up(times), times:
            seconds = 0.0
            for join in True, False:
                members = sockets if join else 0
                await there.tell("until_rooms", members=members, times=amount)
                answer = await here.ask(
                    "others_rooms", sids=sids, room=room, times=amount, join=join
                )
                seconds += ((await there.answer())["last"] - answer["first"]) / 1e9
    return {"rate": times * sockets * 2 / seconds}


async def _until_done(at_once: int, contestant: Contestant, times: int) -> dict[str, float]:
    async with child(contestant, 1) as there, child(contestant, 0) as here:
        (sid,) = (await there.ask("join", room="one", clients=1))["sids"]
        # nodes of ours know each other once the block has begun
        for amount in warm_up(times), times:
            answer = await here.ask("remote_join", sid=sid, times=amount, at_once=at_once)
        await there.ask("until_rooms", members=1, times=times)
    return {"rate": times / answer["seconds"], "ms": answer["seconds"] * at_once / times * 1e3}
