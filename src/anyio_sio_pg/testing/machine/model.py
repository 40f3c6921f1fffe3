"""What is so by some line of a script: who is where, what is on its way, and who must get it.

Plain data and no I/O. A :class:`Model` is told what happens, and tells what is unsure; whether the
script waits before it goes on is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, TypeAlias

LARGE: Final = "x" * 9_000
"""What no notification can carry."""

BINARY: Final = b"\x00\x80\xff"

ROOMS: Final = ("r1", "r2", "r3")

FAULTS: Final = ("stop", "crash", "cut")
"""What a machine may do to nodes, beside starting them."""


class Everyone:
    """The room that every socket of a namespace is in."""

    def __repr__(self) -> str:
        return "everyone"


EVERYONE: Final = Everyone()


@dataclass(eq=False)
class Node:
    """A node, and what it need not have heard."""

    name: str
    namespaces: set[str] = field(default_factory=lambda: {"/"})
    fresh: set[str] = field(default_factory=lambda: {"/"})
    """Namespaces in which others may not have heard of it yet."""
    known: set[tuple[Node, str]] = field(default_factory=lambda: set())
    """Those whose numbers it knows, by namespace."""
    up: bool = True
    cut: bool = False
    unsure: bool = False
    """Whether it was cut off, and what came since need not have reached it."""
    late: set[str] = field(default_factory=lambda: set())
    """Namespaces which it has never listened to, because it was cut off."""


@dataclass(eq=False)
class Client:
    """A client, which may be in several namespaces."""

    name: str
    node: Node


@dataclass(eq=False)
class Socket:
    """A client in one namespace."""

    client: Client
    namespace: str
    rooms: set[str] = field(default_factory=lambda: set())

    @property
    def node(self) -> Node:
        """The node that it is connected to."""
        return self.client.node

    @property
    def sid(self) -> str:
        """Its id, as a script writes it."""
        return f'{self.client.name}.sids["{self.namespace}"]'

    def within(self, room: Room) -> bool:
        """Tell whether it is in a room."""
        return self is room or room in self.rooms


Room: TypeAlias = "str | Socket | Everyone"


@dataclass(eq=False)
class Event:
    """An event that was sent, and who gets it."""

    number: int
    sender: Node
    namespace: str
    rooms: set[Room]
    """All rooms on which it depends who gets it."""
    must: set[Socket]
    maybe: set[Socket]
    counted: set[Socket]
    """Those that have it unless their node has counted it as lost."""
    open: bool = True
    """Whether it may still be on its way."""

    def doubt(self, socket: Socket) -> None:
        """Take note that a socket need not get it."""
        if socket in self.must or socket in self.counted:
            self.must.discard(socket)
            self.counted.discard(socket)
            self.maybe.add(socket)

    def lose(self, socket: Socket) -> None:
        """Take note that a socket's node need not hear of it."""
        self.must.discard(socket)
        known = (self.sender, self.namespace) in socket.node.known
        (self.counted if known else self.maybe).add(socket)


@dataclass(eq=False)
class Change:
    """Sockets that enter or leave rooms, as other nodes hear of it some time later."""

    origin: Node
    namespace: str
    rooms: set[Room]
    """All rooms on which it depends whom it concerns."""
    writes: set[tuple[Socket, Room]]

    @property
    def remote(self) -> set[tuple[Socket, Room]]:
        """What is not done at once."""
        return {(s, room) for s, room in self.writes if s.node is not self.origin}


class Model:
    """A cluster as it can be known from the script alone."""

    def __init__(self, *, durable: bool):
        self.durable = durable
        self.nodes: list[Node] = []
        self.sockets: list[Socket] = []
        self.clients: list[Client] = []
        self.kicked: set[tuple[Client, str]] = set()
        """Those that were disconnected, and may not know it yet."""
        self.events: list[Event] = []
        self.changes: list[Change] = []
        """What others may not have heard of yet."""

    # What is so

    def inhabited(self, namespace: str) -> bool:
        """Tell whether any socket is in a namespace."""
        return any(s.namespace == namespace for s in self.sockets)

    def reached(
        self, namespace: str, to: Collection[Room], without: Collection[Room]
    ) -> set[Socket]:
        """Return the sockets that are in any of some rooms, or in the namespace."""
        return {
            socket
            for socket in self.sockets
            if socket.namespace == namespace
            and (not to or any(map(socket.within, to)))
            and not any(map(socket.within, without))
        }

    def deaf(self, socket: Socket) -> bool:
        """Tell whether what others send now need not reach a socket."""
        node = socket.node
        return socket.namespace in node.late if self.durable else node.unsure

    # What is unsure

    def doubtful(self, origin: Node, namespace: str, rooms: set[Room]) -> set[Socket]:
        """Return the sockets of which others may just be changing whether they are in rooms."""
        return {
            socket
            for change in self.changes
            if change.origin is not origin and change.namespace == namespace
            for socket, room in change.remote
            if room in rooms
        }

    def clashes(self, change: Change) -> bool:
        """Tell whether the outcome depends on another change that may still be on its way."""
        return any(
            other.origin is not change.origin
            and other.namespace == change.namespace
            and (
                any(w in change.writes or w[1] in change.rooms for w in other.remote)
                or any(
                    room in other.rooms and socket.node is not other.origin
                    for socket, room in change.writes
                )
            )
            for other in self.changes
        )

    def overtaken(self, change: Change) -> list[tuple[Event, Socket]]:
        """Return the events that a change may come before, and for whom that makes a difference."""
        return [
            (event, socket)
            for event in self.events
            if event.open and event.sender is not change.origin
            if event.namespace == change.namespace
            for socket, room in change.writes
            if room in event.rooms and socket.node is not event.sender
        ]

    # What happens to nodes

    def take_part(self, node: Node, namespace: str) -> None:
        """Let a node listen to a namespace."""
        if namespace not in node.namespaces:
            node.namespaces.add(namespace)
            node.fresh.add(namespace)
            if node.unsure:
                node.late.add(namespace)

    def end_node(self, node: Node, *, crash: bool) -> None:
        """Take a node away, with its clients."""
        for event in self.events:
            for socket in event.must | event.counted:
                if socket.node is node and event.open:
                    event.doubt(socket)
            if event.sender is not node:
                continue
            for socket in list(event.counted):
                # nobody tells the numbers that it had reached
                if event.open or socket.node.unsure:
                    event.doubt(socket)
            if event.open and (crash or node.cut):
                for socket in list(event.must):
                    if socket.node is not node:
                        event.doubt(socket)
        node.up = False
        self.nodes.remove(node)
        self.forget(lambda client: client.node is node)

    def cut(self, node: Node) -> None:
        """Cut a node off."""
        if not self.durable:
            for event in self.events:
                if event.open and event.sender is not node:
                    for socket in list(event.must):
                        if socket.node is node:
                            event.lose(socket)
        node.cut = node.unsure = True

    # What happens to clients

    def hang_up(self, client: Client) -> None:
        """Let what is on its way to a client be lost with its connection."""
        for event in self.events:
            if event.open:
                for socket in list(event.must):
                    if socket.client is client:
                        event.doubt(socket)

    def vanish(self, socket: Socket, change: Change, concerned: Collection[Event]) -> None:
        """Take a socket away, by a change; ``concerned`` are the events that it may have got."""
        for event in self.events:
            if event.open and event not in concerned:
                # it was not to have it, and will not now
                event.maybe.discard(socket)
            if socket in event.counted:
                event.doubt(socket)
        if change.remote:
            self.changes.append(change)
        if socket in self.sockets:
            self.sockets.remove(socket)

    def forget(self, which: Callable[[Client], bool]) -> None:
        """Take clients away."""
        for event in self.events:
            for socket in list(event.counted):
                if which(socket.client):
                    event.doubt(socket)
        self.sockets = [s for s in self.sockets if not which(s.client)]
        self.clients = [client for client in self.clients if not which(client)]

    # What is sent

    def send(
        self, node: Node, namespace: str, to: Collection[Room], without: Collection[Room]
    ) -> Event:
        """Let a node send the next event."""
        rooms = depends_on(to, without)
        doubtful = self.doubtful(node, namespace, rooms)
        must = self.reached(namespace, to, without) - doubtful
        event = Event(len(self.events) + 1, node, namespace, rooms, must, doubtful, set())
        self.events.append(event)
        self.take_part(node, namespace)
        for socket in list(must):
            if socket.node is not node and self.deaf(socket):
                event.lose(socket)
        return event

    # What is left once it is quiet

    def quiet(self) -> None:
        """Let all arrive that can."""
        for node in self.nodes:
            if not node.cut:
                node.unsure = False
                node.fresh.clear()
                node.late.clear()
        for node in self.nodes:
            if not node.cut:
                node.known = {
                    (other, namespace)
                    for other in self.nodes
                    if not other.cut
                    for namespace in other.namespaces & node.namespaces
                }
        # what was sent meanwhile reaches those that are away once they are back
        away = self.durable and any(node.cut for node in self.nodes)
        for event in self.events:
            event.open = event.open and (away or (event.sender.up and event.sender.cut))
        self.changes = [change for change in self.changes if away or change.origin.cut]
        waiting = {(s.client, s.namespace) for c in self.changes for s, _ in c.remote}
        self.kicked = {k for k in self.kicked if k in waiting or k[0].node.cut}

    def expected(self) -> dict[tuple[Client, str], tuple[list[int], list[int], list[int]]]:
        """Return the events that clients must have, may have, and have or else miss as counted."""
        found: dict[tuple[Client, str], tuple[list[int], list[int], list[int]]] = {}
        for event in self.events:
            here = event.sender
            for kind, sockets in enumerate((event.must, event.maybe, event.counted)):
                for socket in sockets:
                    # nobody has told yet that it was sent
                    held_up = (
                        here.up
                        and here.cut
                        and socket.node is not here
                        and (event.open or kind == 2)
                    )
                    lists = found.setdefault((socket.client, socket.namespace), ([], [], []))
                    lists[1 if held_up else kind].append(event.number)
        return found


def depends_on(to: Collection[Room], without: Collection[Room]) -> set[Room]:
    """Return all rooms on which it depends who is reached."""
    return {*(to or [EVERYONE]), *without}


def sure(sockets: set[Socket], namespace: str) -> set[Socket]:
    """Return those of the sockets that a request is sure to reach."""
    return {s for s in sockets if not s.node.cut and namespace not in s.node.fresh}


def not_sure(event: Event, namespace: str) -> set[Socket]:
    """Return the sockets that may acknowledge an event, and need not."""
    sockets = event.maybe | {s for s in event.must if namespace in s.node.fresh}
    return {s for s in sockets if not s.node.cut}
