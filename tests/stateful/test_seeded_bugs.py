"""The machine finds what it is there to find: each test breaks the library in one way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings

from anyio_sio_pg import RequestTimeoutError
from anyio_sio_pg.arrivals import Arrivals
from anyio_sio_pg.cluster_node import ClusterNode
from anyio_sio_pg.manager import PostgresManager
from anyio_sio_pg.protocol.messages import Broadcast, Message, SocketsLeave, Target
from anyio_sio_pg.protocol.sequence import Seen, Sequence, Verdict
from anyio_sio_pg.testing import SimulatedNetwork, virtual_time
from anyio_sio_pg.testing.machine import FAULTS, Script, run, scripts

pytestmark = pytest.mark.usefixtures("short_settling")

Patch = pytest.MonkeyPatch

FOUND = (AssertionError, RequestTimeoutError)


def lose_one(patch: Patch) -> None:
    """Lose one message, as if it had never come."""
    decode = ClusterNode.decode
    number = itertools.count(1)

    def lossy(self: ClusterNode, channel: bytes, payload: bytes) -> Message | None:
        message = decode(self, channel, payload)
        if isinstance(message, Broadcast) and next(number) % 20 == 0:
            return None
        return message

    patch.setattr(ClusterNode, "decode", lossy)


def deliver_twice(patch: Patch) -> None:
    """Deliver one message twice."""
    deliver = ClusterNode.deliver
    number = itertools.count(1)

    def doubling(self: ClusterNode, message: Message, body: bytes | None) -> None:
        deliver(self, message, body)
        if isinstance(message, Broadcast) and next(number) % 20 == 0:
            deliver(self, message, body)

    patch.setattr(ClusterNode, "deliver", doubling)


def swap_two(patch: Patch) -> None:
    """Deliver two messages of one sender in the wrong order."""
    publish = ClusterNode.publish
    number = itertools.count(1)
    held: dict[ClusterNode, Any] = {}

    async def swapping(self: ClusterNode, namespace: str, make: Any) -> None:
        before = held.pop(self, None)
        if before is None and next(number) % 10 == 0:
            held[self] = (namespace, make)
            self.start_soon(flush, self)
            return
        await publish(self, namespace, make)
        if before is not None:
            await publish(self, *before)

    async def flush(self: ClusterNode) -> None:
        if (kept := held.pop(self, None)) is not None:
            await publish(self, *kept)

    patch.setattr(ClusterNode, "publish", swapping)


def forget_remote_leaves(patch: Patch) -> None:
    """Let sockets stay in the rooms that another node lets them leave."""
    on_join_or_leave = PostgresManager._on_join_or_leave

    def forgetful(self: PostgresManager, message: Any) -> None:
        if not isinstance(message, SocketsLeave):
            on_join_or_leave(self, message)

    patch.setattr(PostgresManager, "_on_join_or_leave", forgetful)


def answer_for_the_dead(patch: Patch) -> None:
    """Add to the answers the last ones of those that answer no more."""
    fetch = ClusterNode.fetch
    kept: dict[tuple[ClusterNode, str, str], dict[str, Any]] = {}

    async def remembering(
        self: ClusterNode, namespace: str, target: Any, want: str, **options: Any
    ) -> list[Any]:
        answers = await fetch(self, namespace, target, want, **options)
        known = kept.setdefault((self, namespace, want), {})
        living = {answer.sender for answer in answers}
        dead = [answer for uid, answer in known.items() if uid not in living]
        known.update({answer.sender: answer for answer in answers})
        return [*answers, *dead]

    patch.setattr(ClusterNode, "fetch", remembering)


def ignore_exceptions(patch: Patch) -> None:
    """Deliver the events of other nodes to those that they except."""
    on_broadcast = PostgresManager._on_broadcast

    def indiscriminate(self: PostgresManager, message: Broadcast) -> None:
        target = Target(message.target.rooms, (), message.target.timeout_ms)
        on_broadcast(self, msgspec.structs.replace(message, target=target))

    patch.setattr(PostgresManager, "_on_broadcast", indiscriminate)


def count_no_loss(patch: Patch) -> None:
    """Do not count what was lost while a node was cut off."""
    patch.setattr(Arrivals, "note_lost", lambda *_: None)


def take_repeats_for_new(patch: Patch) -> None:
    """Deliver again what was sent twice because its sender did not know that it had come."""
    patch.setattr(Sequence, "message", lambda *_: Seen(Verdict.DELIVER))


def replay_nothing(patch: Patch) -> None:
    """Do not read the log."""

    async def no_rows(*_: Any) -> list[Any]:
        return []

    patch.setattr("anyio_sio_pg.testing.simulated._Log.rows", no_rows)


class Bug(NamedTuple):
    """A bug, and what the machine says of it."""

    plant: Callable[[Patch], None]
    pattern: str
    durable: bool = False
    duplicate: float = 0.0
    faults: tuple[str, ...] = FAULTS


BUGS = [
    Bug(lose_one, r"did not get|acknowledgements|no answer from|but lacks"),
    Bug(deliver_twice, r"out of order or twice|acknowledgements"),
    Bug(forget_remote_leaves, r"of node\d|clients|got what was not for it|acknowledgements"),
    Bug(answer_for_the_dead, r"of node\d|clients|which has gone", faults=("crash",)),
    Bug(
        swap_two,
        # the two may be an event, a leave and a question as well
        r"out of order or twice|did not get|got what was not for it|of node\d|clients"
        r"|acknowledgements|no answer from|but lacks",
    ),
    Bug(ignore_exceptions, r"got what was not for it|acknowledgements"),
    Bug(count_no_loss, r"has counted 0 as lost, but lacks"),
    Bug(take_repeats_for_new, r"out of order or twice|acknowledgements|has lost", duplicate=0.2),
    Bug(replay_nothing, r"did not get|of node\d|clients|has lost messages", durable=True),
]


def search(bug: Bug, perform: Callable[[Script], None], *, shrink: bool = False) -> BaseException:
    """Return what the machine finds, within a bound."""

    @hypothesis.seed(1)
    @settings(
        max_examples=500,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(scripts(durable=bug.durable, faults=bug.faults, steps=(20, 50)))
    def machine(script: Script) -> None:
        perform(script)

    found: BaseException | None = None
    try:
        machine()
    except BaseException as exc:  # noqa: BLE001 - it is what is looked for
        found = exc
        while isinstance(found, BaseExceptionGroup):
            # the same script may have passed when it was tried again
            found = found.exceptions[0]
    assert found is not None, "not found"
    return found


def simulated(bug: Bug, backend: Any) -> Callable[[Script], None]:
    """Run scripts on a simulated network, the same one each time."""
    return lambda script: run(
        script,
        lambda: SimulatedNetwork(duplicate=bug.duplicate),
        backend=backend,
        backend_options=virtual_time(backend),
        durable=bug.durable,
    )


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.plant.__name__)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_found_with_a_simulated_network(monkeypatch: Patch, bug: Bug, backend: Any) -> None:
    bug.plant(monkeypatch)
    with pytest.raises(FOUND, match=bug.pattern) as caught:
        raise search(bug, simulated(bug, backend))
    assert "async def script" in caught.value.__notes__[0]


@pytest.mark.parametrize("bug", BUGS[:4], ids=lambda bug: bug.plant.__name__)
def test_found_with_postgresql(monkeypatch: Patch, uri: str, bug: Bug) -> None:
    bug.plant(monkeypatch)
    backend = random.choice(["asyncio", "trio"])
    with pytest.raises(FOUND, match=bug.pattern):
        raise search(bug, lambda script: run(script, uri, backend=backend))


def test_shrinks_to_a_readable_script(monkeypatch: Patch) -> None:
    bug = Bug(forget_remote_leaves, "")
    bug.plant(monkeypatch)
    found = search(bug, simulated(bug, "asyncio"), shrink=True)
    _, _, code = found.__notes__[0].partition("async def script(stage, cluster):\n")
    body, _, _ = code.partition("\n\n\n")
    lines = [line.strip() for line in body.splitlines()]
    # two nodes, a client in a room that the other node lets it leave, and the question
    assert len(lines) <= 10, body
    assert any("leave" in line or "close_room" in line for line in lines)
