"""What is checked: what clients got, how nodes have fared, and what nodes know of each other."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from ...errors import ConnectionLostError, MessagesLostError, UnknownSocketError
from ..clients import SimulatedClient
from ..cluster import SimulatedCluster, SimulatedNode
from ..network import PostgresNetwork
from .model import BINARY, LARGE, ROOMS


@dataclass(frozen=True)
class Expectation:
    """Which events a client has in a namespace, by their numbers."""

    must: frozenset[int] = frozenset()
    maybe: frozenset[int] = frozenset()
    counted: frozenset[int] = frozenset()
    """Those that it has unless its node has counted them as lost."""


def check_answers(what: str, got: list[Any], must: set[Any], maybe: set[Any]) -> None:
    """Check that each answer is there once: all of ``must``, and else only some of ``maybe``."""
    if len(got) != len(set(got)) or not must <= set(got) <= must | maybe:
        allowed = f", and maybe {sorted(maybe, key=repr)}" if maybe else ""
        raise AssertionError(f"{what}: {got}, not {sorted(must, key=repr)}{allowed}")


def check_clients(
    cluster: SimulatedCluster,
    clients: Iterable[SimulatedClient],
    expected: Mapping[tuple[SimulatedClient, str], Expectation],
) -> None:
    """Check what clients have got, and that their nodes have counted what is missing."""
    names = {node.name for node in cluster.nodes}
    missing: dict[SimulatedNode, set[int]] = {}
    got_any = {(client, namespace) for client in clients for namespace in client.events}
    for who in sorted(got_any | {*expected}, key=lambda key: (key[0].number, key[1])):
        client, namespace = who
        node = client.node
        if node.running and cluster.network.is_cut(node.name):
            continue
        lacks = _check_events(client, namespace, names, expected.get(who, Expectation()))
        missing.setdefault(node, set()).update(lacks)
    for node, lost in missing.items():
        if node.running and (noted := node.manager.stats().lost) < len(lost):
            raise AssertionError(f"{node!r} has counted {noted} as lost, but lacks {lost}")


def _check_events(
    client: SimulatedClient, namespace: str, senders: set[str], expected: Expectation
) -> Collection[int]:
    """Check what a client has got; return what it lacks and its node must have counted."""
    events = [e for e in client.received(namespace) if e[0] in senders]
    got = [event[1] for event in events]
    where = f"{client!r} in {namespace}"
    for name in senders:
        numbers = [event[1] for event in events if event[0] == name]
        if numbers != sorted(set(numbers)):
            raise AssertionError(f"{where} got from {name}, out of order or twice: {numbers}")
    if wrong := set(got) - expected.must - expected.maybe - expected.counted:
        raise AssertionError(f"{where} got what was not for it: {sorted(wrong)}")
    if lacks := expected.must - set(got):
        raise AssertionError(f"{where} did not get {sorted(lacks)}")
    if any(event[2:] not in ([], [LARGE], [BINARY]) for event in events):
        raise AssertionError(f"{where} got other data than was sent")
    return expected.counted - set(got)


def check_nodes(
    cluster: SimulatedCluster,
    reachable: Iterable[SimulatedNode],
    *,
    durable: bool,
    ever_cut: Collection[SimulatedNode],
) -> None:
    """Check that nodes have lost nothing and reported nothing, but for what a cut explains."""
    for node in reachable:
        stats = node.manager.stats()
        if stats.garbage or stats.dropped:
            raise AssertionError(f"{node!r} has garbage, or dropped messages: {stats}")
        if stats.lost and (durable or node not in ever_cut):
            raise AssertionError(f"{node!r} has lost messages: {stats}; {node.errors}")
        # a simulated network may break sessions by itself
        broken = node in ever_cut or not isinstance(cluster.network, PostgresNetwork)
        if wrong := [e for e in node.errors if not (broken and _of_outage(e))]:
            raise AssertionError(f"{node!r} has reported {wrong!r}")


def _of_outage(error: Exception) -> bool:
    """Tell whether a node reports only that it was cut off, and what came of that."""
    return isinstance(error, (ConnectionLostError, MessagesLostError)) or (
        "could not be deleted" in str(error)
    )


class Census:
    """Which sockets are in which rooms of a namespace, as every node must know.

    ``rooms`` are those of the sockets that are there, by their ids, ``ever`` the ids of all that
    have ever been there.
    """

    def __init__(self, namespace: str, rooms: Mapping[str, set[str]], ever: Collection[str]):
        self.namespace = namespace
        self._rooms = rooms
        self._whole = {sid: {sid, *named} for sid, named in rooms.items()}
        self._mine = {*ROOMS, *ever}
        self._gone = [sid for sid in ever if sid not in rooms]

    async def ask(self, node: SimulatedNode, failures: list[BaseException]) -> None:
        """Ask a node in every way; what it gets wrong is added to ``failures``."""

        async def contained(question: Callable[..., Awaitable[None]], *args: str) -> None:
            try:
                await question(node, *args)
            except Exception as exc:  # noqa: BLE001 - of several, one is told
                failures.append(exc)

        async with anyio.create_task_group() as task_group:
            for question in (self._all_rooms, self._clients, self._sockets):
                task_group.start_soon(contained, question)
            for room in ROOMS:
                task_group.start_soon(contained, self._clients_in, room)
            for sid in self._rooms:
                task_group.start_soon(contained, self._rooms_of, sid)
            for sid in self._gone[-2:]:
                task_group.start_soon(contained, self._unknown, sid)

    def _check(self, what: str, node: SimulatedNode, got: Any, expected: Any) -> None:
        if got != expected:
            raise AssertionError(f"{what} of {node!r} in {self.namespace}: {got}, not {expected}")

    async def _all_rooms(self, node: SimulatedNode) -> None:
        found = await node.manager.all_rooms(namespace=self.namespace)
        expected = {room for rooms in self._whole.values() for room in rooms}
        self._check("all_rooms", node, found & self._mine, expected)

    async def _clients(self, node: SimulatedNode) -> None:
        found = await node.manager.clients(namespace=self.namespace)
        self._check("clients", node, found, set(self._rooms))

    async def _clients_in(self, node: SimulatedNode, room: str) -> None:
        found = await node.manager.clients(room, namespace=self.namespace)
        expected = {sid for sid, rooms in self._rooms.items() if room in rooms}
        self._check(f"clients in {room}", node, found, expected)

    async def _sockets(self, node: SimulatedNode) -> None:
        sockets = await node.manager.fetch_sockets(namespace=self.namespace)
        found = [(s.id, {*s.rooms} & self._mine) for s in sockets]
        self._check("fetch_sockets", node, sorted(found), sorted(self._whole.items()))

    async def _rooms_of(self, node: SimulatedNode, sid: str) -> None:
        found = await node.manager.client_rooms(sid, namespace=self.namespace)
        self._check(f"client_rooms({sid!r})", node, found & self._mine, self._whole[sid])

    async def _unknown(self, node: SimulatedNode, sid: str) -> None:
        with contextlib.suppress(UnknownSocketError):
            found = await node.manager.client_rooms(sid, namespace=self.namespace)
            raise AssertionError(f"{node!r} knows rooms of {sid}, which has gone: {found}")
