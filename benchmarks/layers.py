"""Where the CPU time of an event goes: a sampling profile of the sender and of the receiver."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from events import ASYNCIO, TRIO, Case, Field, cluster, measure, servers
from support import Options, Results, machine

NAME = "layers"
TITLE = "Where the CPU time of an event goes"

_SAMPLES = 250
"""Looks at a process in a second."""

_EVENTS = Case(100, binary=False)

# by what stands in the frames that belong to it; the event loop takes what is left
_LAYERS = {
    "JSON of the arguments": ("json/", "protocol/messages.py"),
    "python-socketio": ("socketio/", "engineio/"),
    "wire format": ("protocol/cluster_wire.py", "protocol/values.py"),
    "order and membership": ("protocol/sequence.py", "protocol/membership.py"),
    "delivery to the client": (
        "anyio_sio_pg/local_manager.py",
        "anyio_sio_pg/member.py",
        "queues.py",
    ),
    "driver, libpq and kernel": ("psycopg/", "postgres/connection.py"),
    "batches": ("protocol/batch.py", "postgres/publisher.py"),
    "notifications": ("postgres/listener.py",),
    "manager and node": ("anyio_sio_pg/",),
    "the benchmark itself": ("(node.py",),
    "event loop": ("asyncio/", "trio/", "anyio/", "selectors"),
}


def layer_of(stack: str) -> str:
    """Return the layer of the innermost frame that has one; py-spy writes the outermost first."""
    for frame in reversed(stack.split(";")):
        for layer, parts in _LAYERS.items():
            if any(part in frame for part in parts):
                return layer
    return "event loop"


async def sample(pid: int, seconds: float, shares: dict[str, float]) -> None:
    """Set each layer's share of the time that a process uses."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "samples")
        command = ["py-spy", "record", "--pid", str(pid), "--duration", str(max(1, round(seconds)))]
        await anyio.run_process(
            [*command, "--rate", str(_SAMPLES), "--format", "raw", "--output", str(file)]
        )
        counts: Counter[str] = Counter()
        for line in file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            if "_bootstrap" not in stack:
                # not the thread that waits for the benchmark's next command
                counts[layer_of(stack)] += int(count)
    total = counts.total()
    if not total:
        raise RuntimeError("py-spy has seen nothing of the process")
    shares.update({layer: counts[layer] / total for layer in _LAYERS})


async def profile(found: Field, name: str, options: Options) -> dict[str, dict[str, float]]:
    """Return the µs for an event of each layer of the sender and of the receiver."""
    contestant = found.contestants[name]
    server_cpu = partial(found.server_cpu, contestant)
    async with cluster(contestant, 1) as pair:
        run = partial(measure, pair, _EVENTS, server_cpu=server_cpu)
        rate = (await run(seconds=0.2, patience=1))["rate"]
        shares: dict[str, dict[str, float]] = {"sender": {}, "receiver": {}}
        figures: dict[str, float] = {}
        async with anyio.create_task_group() as tg:
            for party, node in (("sender", pair.sender), ("receiver", pair.receivers[0])):
                tg.start_soon(sample, node.pid, options.seconds, shares[party])
            # as long as the samples are taken, and for a while before and after
            events = round(rate * (options.seconds * 1.5 + 1))
            figures = await pair.send(events, _EVENTS, server_cpu=server_cpu)
    return {
        party: {layer: share * figures[f"{party}_us"] for layer, share in found_shares.items()}
        for party, found_shares in shares.items()
    }


async def run(options: Options) -> Results:
    if shutil.which("py-spy") is None:
        raise SystemExit("py-spy is not installed (PyPI: py-spy)")
    with servers() as found:
        results = Results(NAME, TITLE, machine(found.postgres_uri, found.redis_url), options)
        for number in range(1, options.rounds + 1):
            for name in (ASYNCIO, TRIO):
                for party, layers in (await profile(found, name, options)).items():
                    for layer, us in layers.items():
                        case: dict[str, Any] = {"process": party, "manager": name}
                        results.add(layer, case, number, {"us": us})
    return results
