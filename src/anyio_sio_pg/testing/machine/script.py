"""Scripts: Python source that runs, can be printed, and run again by itself."""

from __future__ import annotations

import itertools
import linecache
import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .model import BINARY, LARGE, Room, Socket

if TYPE_CHECKING:
    from ..cluster import SimulatedCluster
    from .stage import Stage

_scripts = itertools.count(1)


class Script:
    """What happens to a cluster, as Python source that runs; :func:`scripts` makes one."""

    def __init__(self, lines: Sequence[str], *, durable: bool = False):
        self.lines = list(lines)
        self.durable = durable

    @property
    def body(self) -> str:
        """The function that runs."""
        return "async def script(stage, cluster):\n" + textwrap.indent(
            "\n".join(self.lines) or "pass", "    "
        )

    def __repr__(self) -> str:
        durable = ", durable=True" if self.durable else ""
        return (
            "from anyio_sio_pg.testing.machine import BINARY, LARGE, run\n\n\n"
            f'{self.body}\n\n\nrun(script, "postgresql://localhost/postgres"{durable})\n'
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis would print how it was made
        printer.text(f"the script\n\n{self!r}\n")

    async def __call__(self, stage: Stage, cluster: SimulatedCluster) -> None:
        """Do what the script says."""
        # its lines are to be seen in a traceback
        filename = f"<script {next(_scripts)}>"
        source = f"{self.body}\n"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        scope: dict[str, Any] = {"BINARY": BINARY, "LARGE": LARGE}
        exec(compile(source, filename, "exec"), scope)
        await scope["script"](stage, cluster)
        del linecache.cache[filename]


def text(room: Room) -> str:
    """Write a room, or any other name."""
    return room.sid if isinstance(room, Socket) else f'"{room}"'


def rooms_text(rooms: Iterable[Room]) -> str:
    """Write a list of rooms."""
    return f"[{', '.join(map(text, rooms))}]"


def target_text(to: Sequence[Room], without: Sequence[Room]) -> str:
    """Write the arguments that say who is meant."""
    written = ""
    for name, rooms in (("to", to), ("except_rooms", without)):
        if len(rooms) == 1:
            written += f", {name}={text(rooms[0])}"
        elif rooms:
            written += f", {name}={rooms_text(rooms)}"
    return written


def clients_text(sockets: Iterable[Socket]) -> str:
    """Write a list of clients."""
    return f"[{', '.join(sorted({s.client.name for s in sockets}))}]"


def maybe_text(sockets: Collection[Socket]) -> str:
    """Write the argument that says who else may have answered."""
    return f", maybe={clients_text(sockets)}" if sockets else ""
