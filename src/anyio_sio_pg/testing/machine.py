"""A Hypothesis machine: scripts of what may happen to a cluster, and the check of what came of it.

A script is made first, by a model that is a few sets and does no I/O; then it runs. So a failing one
can be printed as it ran, and run again by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import textwrap
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import psycopg

from ..errors import (
    AdapterClosedError,
    ConnectionLostError,
    MessagesLostError,
    RequestTimeoutError,
    UnknownSocketError,
)
from ..manager import PostgresManager
from ..postgres.connection import AnyIOConnection
from ..status import Status
from .clients import PATIENCE, SimulatedClient
from .cluster import SimulatedCluster, SimulatedNode
from .network import Network, PostgresNetwork

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

LARGE: Final = "x" * 9_000
"""What no notification can carry."""

BINARY: Final = b"\x00\x80\xff"

ROOMS: Final = ("r1", "r2", "r3")

FAULTS: Final = ("stop", "crash", "cut")
"""What a machine may do to nodes, beside starting them."""

_PATIENT: Final = {"requests_timeout": 10.0, "heartbeat_interval": 1.0, "heartbeat_timeout": 3.0}
"""A request outlasts all that its nodes need to tell who is dead, on a slow machine too."""

_scripts = itertools.count(1)


class _Everyone:
    """The room that every socket of a namespace is in."""

    def __repr__(self) -> str:
        return "everyone"


_EVERYONE: Final = _Everyone()


@dataclass(frozen=True)
class _Step:
    """Something to be done, to whatever there is when its turn comes."""

    kind: str
    node: int
    socket: int
    other: int
    room: int
    style: int


@dataclass(eq=False)
class _Node:
    name: str
    namespaces: set[str] = field(default_factory=lambda: {"/"})
    fresh: set[str] = field(default_factory=lambda: {"/"})
    """Namespaces in which others may not have heard of it yet."""
    known: set[tuple[_Node, str]] = field(default_factory=lambda: set())
    """Those whose numbers it knows, by namespace."""
    up: bool = True
    cut: bool = False
    unsure: bool = False
    """Whether it was cut off, and what came since need not have reached it."""
    late: set[str] = field(default_factory=lambda: set())
    """Namespaces which it has never listened to, because it was cut off."""


@dataclass(eq=False)
class _Client:
    name: str
    node: _Node


@dataclass(eq=False)
class _Socket:
    client: _Client
    namespace: str
    rooms: set[str] = field(default_factory=lambda: set())

    @property
    def node(self) -> _Node:
        return self.client.node

    @property
    def sid(self) -> str:
        return f'{self.client.name}.sids["{self.namespace}"]'


_Room: TypeAlias = "str | _Socket | _Everyone"


@dataclass(eq=False)
class _Event:
    number: int
    sender: _Node
    namespace: str
    rooms: set[_Room]
    """All rooms on which it depends who gets it."""
    must: set[_Socket]
    maybe: set[_Socket]
    counted: set[_Socket]
    """Those that have it unless their node has counted it as lost."""
    open: bool = True
    """Whether it may still be on its way."""

    def doubt(self, socket: _Socket) -> None:
        """Take note that a socket need not get it."""
        if socket in self.must or socket in self.counted:
            self.must.discard(socket)
            self.counted.discard(socket)
            self.maybe.add(socket)


@dataclass(eq=False)
class _Change:
    """Sockets that enter or leave rooms, as other nodes hear of it some time later."""

    origin: _Node
    namespace: str
    rooms: set[_Room]
    """All rooms on which it depends whom it concerns."""
    writes: set[tuple[_Socket, _Room]]

    @property
    def remote(self) -> set[tuple[_Socket, _Room]]:
        """What is not done at once."""
        return {(s, room) for s, room in self.writes if s.node is not self.origin}


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


class _Plan:
    """Makes a script: does each step to a model, and writes down what is to be expected."""

    def __init__(
        self,
        *,
        durable: bool,
        nodes: int,
        namespaces: Sequence[str],
        allowed: Iterable[str],
        actions: int,
    ):
        self.durable = durable
        self.namespaces = namespaces
        self.most = nodes
        self.allowed = set(allowed)
        self.actions = actions
        self.lines: list[str] = []
        self.nodes: list[_Node] = []
        self.sockets: list[_Socket] = []
        self.clients: list[_Client] = []
        self.gone: list[_Socket] = []
        self.kicked: set[tuple[_Client, str]] = set()
        self.events: list[_Event] = []
        self.changes: list[_Change] = []
        self.started = 0
        self.connected = 0
        self.expected: dict[tuple[_Client, str], tuple[list[int], ...]] = {}

    def do(self, step: _Step) -> None:
        """Do a step, or nothing where it makes no sense."""
        if not self.nodes:
            self.start(step)
        elif step.kind in FAULTS and step.kind not in self.allowed:
            return
        elif not self.sockets and step.kind not in ("nothing", "start", "connect", *FAULTS):
            self.connect(step)
        else:
            getattr(self, step.kind)(step)

    def end(self) -> None:
        """Mend everything, and compare everything."""
        self.mend_all()
        self.quiet_now()
        for namespace in self.namespaces:
            self.agree_in(namespace)

    # What a step means

    def node(self, step: _Step) -> _Node:
        return self.nodes[step.node % len(self.nodes)]

    def socket(self, number: int, namespace: str | None = None) -> _Socket:
        sockets = [s for s in self.sockets if namespace in (None, s.namespace)]
        return sockets[number % len(sockets)]

    def target(self, step: _Step, namespace: str) -> tuple[list[_Room], list[_Room]]:
        room, another = ROOMS[step.room % 3], ROOMS[(step.room + 1) % 3]
        to: list[_Room] = [room]
        without: list[_Room] = []
        match step.style % 5:
            case 1:
                to = []
            case 2:
                to = [room, another]
            case 3 if any(s.namespace == namespace for s in self.sockets):
                to = [self.socket(step.other, namespace)]
            case 4 if any(s.namespace == namespace for s in self.sockets):
                to = [self.socket(step.other, namespace), room]
            case _:
                pass
        match step.style // 5 % 8:
            case 1:
                without = [ROOMS[step.other % 3]]
            case 2:
                without = [self.socket(step.socket, namespace)]
            case _:
                pass
        return to, without

    def reached(self, namespace: str, to: list[_Room], without: list[_Room]) -> set[_Socket]:
        return {
            socket
            for socket in self.sockets
            if socket.namespace == namespace
            and (not to or any(_within(socket, room) for room in to))
            and not any(_within(socket, room) for room in without)
        }

    # Doubts

    def doubtful(self, origin: _Node, namespace: str, rooms: set[_Room]) -> set[_Socket]:
        """Return the sockets of which others may just be changing whether they are in rooms."""
        return {
            socket
            for change in self.changes
            if change.origin is not origin and change.namespace == namespace
            for socket, room in change.remote
            if room in rooms
        }

    def clashes(self, origin: _Node, change: _Change) -> bool:
        """Tell whether the outcome depends on another change that may still be on its way."""
        return any(
            other.origin is not origin
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

    def settle(self, still: Callable[[], bool]) -> None:
        """Wait until something is no longer so, and mend what stands in its way."""
        if still():
            self.quiet_now()
        if still():
            self.mend_all()
            self.quiet_now()

    def apply(self, step: _Step, change: _Change) -> None:
        """Take note that sockets' rooms change, now or some time later."""
        overtaken = [
            (event, socket)
            for event in self.events
            if event.open and event.sender is not change.origin
            if event.namespace == change.namespace
            for socket, room in change.writes
            if room in event.rooms and socket.node is not event.sender
        ]
        if overtaken and step.style % 2:
            self.settle(lambda: any(event.open for event, _ in overtaken))
            overtaken = [(event, socket) for event, socket in overtaken if event.open]
        for event, socket in overtaken:
            event.doubt(socket)
            event.maybe.add(socket)

    # Nodes

    def nothing(self, step: _Step) -> None:
        """Do nothing: what all steps shrink to."""

    def start(self, step: _Step) -> None:
        if len(self.nodes) < self.most and self.started < self.most + 2:
            self.started += 1
            self.nodes.append(_Node(f"node{self.started}"))
            self.lines.append(f"node{self.started} = await stage.start()")

    def stop(self, step: _Step) -> None:
        self.end_node(self.node(step), crash=False)

    def crash(self, step: _Step) -> None:
        self.end_node(self.node(step), crash=True)

    def end_node(self, node: _Node, *, crash: bool) -> None:
        if len(self.nodes) == 1:
            return
        # whether what it has changed elsewhere goes out would not be known
        self.settle(lambda: any(c.origin is node and c.remote for c in self.changes))
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
        self.lines.append(f"await {node.name}.{'crash' if crash else 'stop'}()")
        node.up = False
        self.nodes.remove(node)
        self.forget(lambda client: client.node is node)

    def cut(self, step: _Step) -> None:
        node = self.node(step)
        if node.cut:
            return
        if step.style % 4:
            # so that it knows the others' numbers, and has to count what it loses
            self.quiet_now()
        if not self.durable:
            self.settle(
                lambda: any(s.node is node for change in self.changes for s, _ in change.remote)
            )
            for event in self.events:
                if event.open and event.sender is not node:
                    for socket in list(event.must):
                        if socket.node is node:
                            self.lose(event, socket)
        self.lines.append(f"stage.cut({node.name})")
        node.cut = node.unsure = True

    def lose(self, event: _Event, socket: _Socket) -> None:
        """Take note that a socket's node need not hear of an event."""
        event.must.discard(socket)
        known = (event.sender, event.namespace) in socket.node.known
        (event.counted if known else event.maybe).add(socket)

    def mend(self, step: _Step) -> None:
        cut = [node for node in self.nodes if node.cut]
        if cut:
            self.mend_one(cut[step.node % len(cut)])

    def mend_all(self) -> None:
        for node in self.nodes:
            if node.cut:
                self.mend_one(node)

    def mend_one(self, node: _Node) -> None:
        self.lines.append(f"stage.mend({node.name})")
        node.cut = False

    # Clients

    def connect(self, step: _Step) -> None:
        node = self.node(step)
        if len(self.sockets) >= 8:
            return
        client = _Client(f"client{self.connected + 1}", node)
        # the first one more often, so that there is company
        socket = _Socket(client, self.namespaces[max(step.room - 2, 0) % len(self.namespaces)])
        self.enter_namespace(step, socket)
        self.connected += 1
        self.clients.append(client)
        self.lines.append(f'{client.name} = await stage.connect({node.name}, "{socket.namespace}")')
        if step.style % 4:
            # most events go to rooms
            self.one(_Step("enter", step.node, -1, 0, step.style, 0), join=True, wait=False)

    def join(self, step: _Step) -> None:
        client = self.clients[step.socket % len(self.clients)]
        there = [s.namespace for s in self.sockets if s.client is client]
        others = [namespace for namespace in self.namespaces if namespace not in there]
        if not others:
            return
        # it may not know yet that it has been disconnected
        self.settle(lambda: (client, others[0]) in self.kicked)
        if client not in self.clients:
            return
        self.enter_namespace(step, _Socket(client, others[0]))
        self.lines.append(f'await stage.join({client.name}, "{others[0]}")')

    def enter_namespace(self, step: _Step, socket: _Socket) -> None:
        node, namespace = socket.node, socket.namespace
        change = _Change(node, namespace, set(), {(socket, _EVERYONE), (socket, socket)})
        self.settle(lambda: self.clashes(node, change))
        self.apply(step, change)
        self.take_part(node, namespace)
        self.sockets.append(socket)

    def take_part(self, node: _Node, namespace: str) -> None:
        if namespace not in node.namespaces:
            node.namespaces.add(namespace)
            node.fresh.add(namespace)
            if node.unsure:
                node.late.add(namespace)

    def leave(self, step: _Step) -> None:
        socket = self.socket(step.socket)
        self.vanish(step, socket)
        self.lines.append(f'await {socket.client.name}.leave("{socket.namespace}")')

    def hang_up(self, step: _Step) -> None:
        client = self.socket(step.socket).client
        for event in self.events:
            if event.open:
                for socket in list(event.must):
                    if socket.client is client:
                        # what is on its way to it is lost with the connection
                        event.doubt(socket)
        for socket in [s for s in self.sockets if s.client is client]:
            self.vanish(step, socket)
        if client in self.clients:
            self.forget(lambda other: other is client)
            self.lines.append(f"await {client.name}.close()")

    def kick(self, step: _Step) -> None:
        socket = self.socket(step.socket)
        node = self.node(step)
        if not self.may_reach(node, {socket}):
            return
        if socket not in self.sockets:
            return
        self.vanish(step, socket, node)
        self.take_part(node, socket.namespace)
        self.kicked.add((socket.client, socket.namespace))
        self.lines.append(
            f'await {node.name}.server.disconnect({socket.sid}, namespace="{socket.namespace}")'
        )

    def vanish(self, step: _Step, socket: _Socket, origin: _Node | None = None) -> None:
        rooms: set[_Room] = {_EVERYONE, socket, *ROOMS}
        change = _Change(
            origin or socket.node, socket.namespace, set(), {(socket, room) for room in rooms}
        )
        reached = [e for e in self.events if socket in (e.must | e.counted | e.maybe)]
        self.apply(step, change)
        for event in self.events:
            if event.open and event not in reached:
                # it was not to have it, and will not now
                event.maybe.discard(socket)
            if socket in event.counted:
                event.doubt(socket)
        if change.remote:
            self.changes.append(change)
        if socket in self.sockets:
            self.sockets.remove(socket)
            self.gone.append(socket)

    def forget(self, which: Callable[[_Client], bool]) -> None:
        self.gone += [s for s in self.sockets if which(s.client)]
        for event in self.events:
            for socket in list(event.counted):
                if which(socket.client):
                    event.doubt(socket)
        self.sockets = [s for s in self.sockets if not which(s.client)]
        self.clients = [client for client in self.clients if not which(client)]

    def may_reach(self, origin: _Node, sockets: set[_Socket]) -> bool:
        """Tell whether it is sure what becomes of a change; wait where that helps."""
        away = {s for s in sockets if s.node is not origin}
        if any(s.node.cut and self.deaf(s) for s in away):
            return False
        self.settle(lambda: any(self.deaf(s) for s in away))
        return True

    def deaf(self, socket: _Socket) -> bool:
        """Tell whether what others send now need not reach a socket."""
        node = socket.node
        return socket.namespace in node.late if self.durable else node.unsure

    # Rooms

    def enter(self, step: _Step) -> None:
        self.one(step, join=True, wait=False)

    def exit(self, step: _Step) -> None:
        self.one(step, join=False, wait=False)

    def remote_join(self, step: _Step) -> None:
        self.one(step, join=True, wait=True)

    def remote_leave(self, step: _Step) -> None:
        self.one(step, join=False, wait=True)

    def one(self, step: _Step, *, join: bool, wait: bool) -> None:
        socket, room = self.socket(step.socket), ROOMS[step.room % 3]
        node = self.node(step)
        namespace = socket.namespace
        if wait and socket.node is not node:
            if node.cut or socket.node.cut or namespace not in node.namespaces:
                return
            self.settle(lambda: node.unsure or namespace in node.fresh | socket.node.fresh)
        change = _Change(node, namespace, set(), {(socket, room)})
        if not self.change(step, change, {socket}, join=join, done=wait):
            return
        if wait:
            call = f"manager.remote_{'join' if join else 'leave'}"
        else:
            call = f"server.{'enter' if join else 'leave'}_room"
        self.lines.append(
            f'await {node.name}.{call}({socket.sid}, "{room}", namespace="{namespace}")'
        )

    def sockets_join(self, step: _Step) -> None:
        self.many(step, join=True)

    def sockets_leave(self, step: _Step) -> None:
        self.many(step, join=False)

    def many(self, step: _Step, *, join: bool) -> None:
        node, namespace = self.node(step), self.socket(step.socket).namespace
        to, without = self.target(step, namespace)
        sockets = self.reached(namespace, to, without)
        names = sorted({ROOMS[step.other % 3], ROOMS[step.style % 3]})
        writes: set[tuple[_Socket, _Room]] = {(s, room) for s in sockets for room in names}
        change = _Change(node, namespace, {*(to or [_EVERYONE]), *without}, writes)
        if self.change(step, change, sockets, join=join):
            self.lines.append(
                f"await {node.name}.manager.sockets_{'join' if join else 'leave'}"
                f"({_rooms(names)}{_target(to, without)}, namespace={_text(namespace)})"
            )

    def close_room(self, step: _Step) -> None:
        node, namespace = self.node(step), self.socket(step.socket).namespace
        room = ROOMS[step.room % 3]
        sockets = self.reached(namespace, [room], [])
        change = _Change(node, namespace, {room}, {(s, room) for s in sockets})
        if self.change(step, change, sockets, join=False):
            self.lines.append(
                f'await {node.name}.server.close_room("{room}", namespace="{namespace}")'
            )

    def change(
        self,
        step: _Step,
        change: _Change,
        sockets: set[_Socket],
        *,
        join: bool,
        done: bool = False,
    ) -> bool:
        """Let sockets enter or leave rooms; tell whether that can be done now."""
        node = change.origin
        if not self.may_reach(node, sockets):
            return False
        self.settle(lambda: self.clashes(node, change))
        self.apply(step, change)
        self.take_part(node, change.namespace)
        for socket, room in change.writes:
            if isinstance(room, str):
                (socket.rooms.add if join else socket.rooms.discard)(room)
        if not done:
            self.changes.append(change)
        return True

    # Events

    def emit(self, step: _Step) -> None:
        self.send(step, self.node(step), plain=step.socket % 2 == 0)

    def burst(self, step: _Step) -> None:
        for number in range(2 + step.other % 3):
            node = self.nodes[(step.node + number * (step.style % 2)) % len(self.nodes)]
            turn = _Step(
                "emit", step.node, step.socket, step.other, step.room, step.style + 20 * number
            )
            self.send(turn, node, plain=True)

    def ask_clients(self, step: _Step) -> None:
        """Send an event that clients acknowledge."""
        node, namespace = self.node(step), self.socket(step.socket).namespace
        if not self.can_ask(node, namespace):
            return
        to, without = self.target(step, namespace)
        rooms: set[_Room] = {*(to or [_EVERYONE]), *without}
        # one that is disconnected before it has acknowledged is waited for
        self.settle(lambda: not self.doubtful(node, namespace, rooms) <= {*self.sockets})
        if not any(s.namespace == namespace for s in self.sockets):
            return
        event = self.send(step, node, acknowledged=True)
        if event is not None:
            self.lines[-1] = (
                f"stage.acknowledged({self.lines[-1]}, {_names(self.sure(event.must, namespace))}"
                + _maybe(self.not_sure(event, namespace))
                + ")"
            )

    def sure(self, sockets: set[_Socket], namespace: str) -> set[_Socket]:
        return {s for s in sockets if not s.node.cut and namespace not in s.node.fresh}

    def not_sure(self, event: _Event, namespace: str) -> set[_Socket]:
        sockets = event.maybe | {s for s in event.must if namespace in s.node.fresh}
        return {s for s in sockets if not s.node.cut}

    def send(
        self, step: _Step, node: _Node, *, plain: bool = False, acknowledged: bool = False
    ) -> _Event | None:
        namespace = self.socket(step.socket).namespace
        to, without = self.target(step, namespace)
        rooms: set[_Room] = {*(to or [_EVERYONE]), *without}
        if not step.style % 3:
            self.settle(lambda: bool(self.doubtful(node, namespace, rooms)))
            if not any(s.namespace == namespace for s in self.sockets):
                return None
        doubtful = self.doubtful(node, namespace, rooms)
        must = self.reached(namespace, to, without) - doubtful
        event = _Event(len(self.events) + 1, node, namespace, rooms, must, doubtful, set())
        self.events.append(event)
        self.take_part(node, namespace)
        for socket in list(must):
            if socket.node is not node and self.deaf(socket):
                self.lose(event, socket)
        size = step.style // 20 % 8
        data = str(event.number)
        if size in (1, 2):
            data = f"({event.number}, {'LARGE' if size == 1 else 'BINARY'})"
        where = _target(to, without) + (f', namespace="{namespace}"' if namespace != "/" else "")
        call = f"await {node.name}.manager.emit"
        if acknowledged:
            call += "_with_ack"
        elif plain and not without:
            call = f"await {node.name}.server.emit"
        elif plain and len(without) == 1 and isinstance(without[0], _Socket):
            call = f"await {node.name}.server.emit"
            where = where.replace("except_rooms=", "skip_sid=")
        self.lines.append(f'{call}("{node.name}", {data}{where})')
        return event

    # Requests

    def can_ask(self, node: _Node, namespace: str) -> bool:
        if node.cut or namespace not in node.namespaces:
            return False
        # one that comes back may owe an answer to what it has not heard
        self.settle(
            lambda: (
                namespace in node.fresh
                or any(other.unsure and not other.cut for other in self.nodes)
            )
        )
        return True

    def request(self, step: _Step) -> None:
        """Ask who is in a room while other things may be on their way."""
        node, namespace = self.node(step), self.socket(step.socket).namespace
        if not self.can_ask(node, namespace):
            return
        if not any(s.namespace == namespace for s in self.sockets):
            return
        to, without = self.target(step, namespace)
        call = f"await {node.name}.manager.fetch_sockets(namespace={_text(namespace)}"
        if step.other % 2:
            without = []
            rooms = _rooms(to) if to else "None"
            call = f"await {node.name}.manager.clients({rooms}, namespace={_text(namespace)}"
        else:
            call += _target(to, without)
        doubtful = self.doubtful(node, namespace, {*(to or [_EVERYONE]), *without})
        reached = self.reached(namespace, to, without)
        sure = self.sure(reached, namespace) | {s for s in reached if s.node is node}
        maybe = {s for s in (reached | doubtful) if not s.node.cut and s.node.up} - (
            sure - doubtful
        )
        self.lines.append(
            f"stage.found({call}), {_text(namespace)}, {_names(sure - doubtful)}{_maybe(maybe)})"
        )

    def meanwhile(self, step: _Step) -> None:
        """Let a request run beside what comes next."""
        node, namespace = self.node(step), self.socket(step.socket).namespace
        if node.cut and step.style % 8:
            # it takes all its time to fail
            return
        self.take_part(node, namespace)
        calls = ("clients", "all_rooms", "fetch_sockets")
        self.lines.append(
            f"stage.meanwhile({node.name}.manager.{calls[step.other % 3]}, namespace={_text(namespace)})"
        )

    def act(self, step: _Step) -> None:
        """Let a client do what the user wants it to."""
        if self.actions:
            socket = self.socket(step.socket)
            self.lines.append(
                f"await stage.act({step.other % self.actions}, {socket.client.name},"
                f" {_text(socket.namespace)})"
            )

    # Waiting

    def quiet(self, step: _Step) -> None:
        self.quiet_now()

    def agree(self, step: _Step) -> None:
        namespace = self.socket(step.socket).namespace
        self.quiet_now()
        self.settle(lambda: bool(self.changes))
        self.agree_in(namespace)

    def quiet_now(self) -> None:
        """Wait until all is there that can be, and write down what that is."""
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
        self.expect()
        self.lines.append("await stage.quiet()")

    def expect(self) -> None:
        found: dict[tuple[_Client, str], tuple[list[int], list[int], list[int]]] = {}
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
        for (client, namespace), (must, maybe, counted) in sorted(
            found.items(), key=lambda item: (item[0][0].name, item[0][1])
        ):
            if client.node.up and client.node.cut:
                continue
            if self.expected.get((client, namespace)) != (must, maybe, counted):
                self.expected[client, namespace] = (must, maybe, counted)
                twice = {*must} | {*counted}
                maybe = [number for number in maybe if number not in twice]
                self.lines.append(
                    f'stage.expect({client.name}, "{namespace}", {must}'
                    + (f", maybe={maybe}" if maybe else "")
                    + (f", counted={counted}" if counted else "")
                    + ")"
                )

    def agree_in(self, namespace: str) -> None:
        asked = [n.name for n in self.nodes if namespace in n.namespaces and not n.cut]
        there = [s for s in self.sockets if s.namespace == namespace and not s.node.cut]
        if asked:
            rooms = ", ".join(f"{s.client.name}: {_rooms(sorted(s.rooms))}" for s in there)
            self.lines.append(
                f'await stage.agree("{namespace}", {{{rooms}}}, asked=[{", ".join(asked)}])'
            )


def _within(socket: _Socket, room: _Room) -> bool:
    return socket is room or room in socket.rooms


def _text(room: _Room) -> str:
    return room.sid if isinstance(room, _Socket) else f'"{room}"'


def _rooms(rooms: Sequence[_Room]) -> str:
    return f"[{', '.join(map(_text, rooms))}]"


def _target(to: list[_Room], without: list[_Room]) -> str:
    text = ""
    for name, rooms in (("to", to), ("except_rooms", without)):
        if len(rooms) == 1:
            text += f", {name}={_text(rooms[0])}"
        elif rooms:
            text += f", {name}={_rooms(rooms)}"
    return text


def _names(sockets: Iterable[_Socket]) -> str:
    return f"[{', '.join(sorted({s.client.name for s in sockets}))}]"


def _maybe(sockets: Iterable[_Socket]) -> str:
    return f", maybe={_names(sockets)}" if sockets else ""


_NOTHING: Final = _Step("nothing", 0, 0, 0, 0, 0)

_KINDS: Final = (
    *("nothing", "start", "start", "connect", "connect", "connect", "join"),
    *("enter", "enter", "enter", "exit", "remote_join", "remote_leave"),
    *("sockets_join", "sockets_leave", "close_room"),
    *("emit", "emit", "emit", "emit", "burst", "burst", "burst", "ask_clients"),
    *("request", "request", "meanwhile", "agree", "quiet", "act"),
    *("leave", "hang_up", "kick", "stop", "crash", "cut", "cut", "mend", "mend"),
)


def scripts(
    *,
    durable: bool = False,
    nodes: int = 4,
    namespaces: Sequence[str] = ("/", "/chat"),
    steps: tuple[int, int] = (12, 50),
    faults: Iterable[str] = FAULTS,
    actions: int = 0,
) -> SearchStrategy[Script]:
    """Return the Hypothesis strategy of scripts for :func:`run`.

    ``durable`` is what the cluster will have: nothing may then be missing after a cut. At most
    ``nodes`` run at a time. Clients connect to ``namespaces``. ``steps`` is the least and the most of what is tried (what makes no
    sense when its turn comes is left out). ``faults`` are those of "stop", "crash" and "cut" that
    may happen to nodes; a script has any of them. ``actions`` is the number of the functions that
    :func:`run` will be given as ``actions``.

    :raises ImportError: Hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError as exc:
        raise ImportError(
            "the machine needs Hypothesis, which is not installed: pip install hypothesis"
        ) from exc
    faults = tuple(faults)
    if unknown := set(faults) - set(FAULTS):
        raise ValueError(f"faults are {', '.join(FAULTS)}; not {', '.join(sorted(unknown))}")
    numbers = [st.integers(0, most) for most in (3, 7, 7, 3, 159)]
    step = st.builds(_Step, st.sampled_from(_KINDS), *numbers)
    connect = st.builds(_Step, st.just("connect"), *numbers)

    def plan(allowed: set[str], first: int, clients: list[_Step], todo: list[_Step]) -> Script:
        made = _Plan(
            durable=durable, nodes=nodes, namespaces=namespaces, allowed=allowed, actions=actions
        )
        for _ in range(first):
            made.start(_NOTHING)
        for each in (*clients, *todo):
            made.do(each)
        made.end()
        return Script(made.lines, durable=durable)

    return st.builds(
        plan,
        st.sets(st.sampled_from(faults)) if faults else st.just(set[str]()),
        st.integers(1, nodes),
        st.lists(connect, max_size=5),
        st.lists(step, min_size=steps[0], max_size=steps[1]),
    )


class Stage:
    """What a script uses beside the cluster: it knows the clients, and checks what they got."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        *,
        durable: bool = False,
        actions: Sequence[Callable[[SimulatedClient, str], object]] = (),
        check: Callable[[SimulatedCluster], object] | None = None,
    ):
        self.cluster = cluster
        self._durable = durable
        self._actions = actions
        self._check = check
        self._clients: dict[tuple[str, str], SimulatedClient] = {}
        self._all: list[SimulatedClient] = []
        self._expected: dict[tuple[SimulatedClient, str], tuple[set[int], set[int], set[int]]] = {}
        self._ever_cut: set[SimulatedNode] = set()
        self._found: set[tuple[str, str]] = set()
        self._running = 0
        self._failures: list[BaseException] = []

    async def start(self) -> SimulatedNode:
        """Start a node."""
        return await self.cluster.start()

    def cut(self, node: SimulatedNode) -> None:
        """Cut a node off from PostgreSQL."""
        self._ever_cut.add(node)
        self.cluster.cut(node)

    def mend(self, node: SimulatedNode) -> None:
        """Let a node connect again."""
        self.cluster.mend(node)

    async def connect(self, node: SimulatedNode, namespace: str) -> SimulatedClient:
        """Connect a client, which acknowledges events with its number."""
        client = await node.connect(namespace)
        client.answer = lambda *_: client.number
        self._all.append(client)
        self._clients[namespace, client.sids[namespace]] = client
        return client

    async def join(self, client: SimulatedClient, namespace: str) -> None:
        """Connect a client to one more namespace."""
        self._clients[namespace, await client.join(namespace)] = client

    async def act(self, number: int, client: SimulatedClient, namespace: str) -> None:
        """Call one of the user's actions."""
        await _called(self._actions[number], client, namespace)

    def meanwhile(self, request: Callable[..., Awaitable[Any]], *, namespace: str) -> None:
        """Let a request run beside the script; it may fail only with what is to be expected."""
        self._running += 1
        self.cluster._task_group.start_soon(self._ask, request, namespace)

    async def _ask(self, request: Callable[..., Awaitable[Any]], namespace: str) -> None:
        try:
            found = await request(namespace=namespace)
            if request.__name__ != "all_rooms":
                # who is just connecting is not known here yet
                self._found |= {(namespace, getattr(each, "id", each)) for each in found}
        except (RequestTimeoutError, AdapterClosedError):
            # it was cut off, or has ended
            pass
        except Exception as exc:  # noqa: BLE001 - raised when the script waits
            self._failures.append(exc)
        finally:
            self._running -= 1

    def expect(
        self,
        client: SimulatedClient,
        namespace: str,
        must: Iterable[int],
        *,
        maybe: Iterable[int] = (),
        counted: Iterable[int] = (),
    ) -> None:
        """Say which events a client has once the cluster is quiet; ``counted`` or else lost."""
        self._expected[client, namespace] = (set(must), set(maybe), set(counted))

    def acknowledged(
        self,
        answers: list[Any],
        must: list[SimulatedClient],
        *,
        maybe: Iterable[SimulatedClient] = (),
    ) -> None:
        """Check whose acknowledgements there are."""
        _same("acknowledgements", answers, {c.number for c in must}, {c.number for c in maybe})

    def found(
        self,
        answer: Iterable[Any],
        namespace: str,
        must: list[SimulatedClient],
        *,
        maybe: Iterable[SimulatedClient] = (),
    ) -> None:
        """Check which clients a request has found."""
        clients = [self._clients[namespace, getattr(each, "id", each)] for each in answer]
        _same("clients", clients, set(must), set(maybe))

    async def quiet(self) -> None:
        """Wait until all has arrived, and check what every client has."""
        with anyio.fail_after(PATIENCE):
            for node in self._reachable():
                while node.manager.status is not Status.CONNECTED:  # noqa: ASYNC110 - has no event
                    await anyio.sleep(0.002)
            while self._running:  # noqa: ASYNC110 - so that a failure needs no task group
                await anyio.sleep(0.002)
        await self.cluster.quiet()
        if self._failures:
            raise self._failures[0]
        if strangers := self._found - set(self._clients):
            raise AssertionError(f"found, though they never were there: {strangers}")
        self._check_clients()
        self._check_nodes()
        if self._check is not None:
            await _called(self._check, self.cluster)

    def _reachable(self) -> list[SimulatedNode]:
        cut = self.cluster.network.is_cut
        return [n for n in self.cluster.nodes if n.running and not cut(n.name)]

    def _check_clients(self) -> None:
        names = {node.name for node in self.cluster.nodes}
        missing: dict[SimulatedNode, set[int]] = {}
        got_any = {(client, namespace) for client in self._all for namespace in client.events}
        for who in sorted(got_any | {*self._expected}, key=lambda key: (key[0].number, key[1])):
            client, namespace = who
            node = client.node
            if node.running and self.cluster.network.is_cut(node.name):
                continue
            nothing: tuple[set[int], set[int], set[int]] = (set(), set(), set())
            must, maybe, counted = self._expected.get(who, nothing)
            events = [e for e in client.received(namespace) if e[0] in names]
            got = [event[1] for event in events]
            where = f"{client!r} in {namespace}"
            for name in names:
                numbers = [event[1] for event in events if event[0] == name]
                if numbers != sorted(set(numbers)):
                    raise AssertionError(
                        f"{where} got from {name}, out of order or twice: {numbers}"
                    )
            if wrong := set(got) - must - maybe - counted:
                raise AssertionError(f"{where} got what was not for it: {sorted(wrong)}")
            if lacks := must - set(got):
                raise AssertionError(f"{where} did not get {sorted(lacks)}")
            if any(event[2:] not in ([], [LARGE], [BINARY]) for event in events):
                raise AssertionError(f"{where} got other data than was sent")
            missing.setdefault(node, set()).update(counted - set(got))
        for node, lost in missing.items():
            if node.running and (noted := node.manager.stats().lost) < len(lost):
                raise AssertionError(f"{node!r} has counted {noted} as lost, but lacks {lost}")

    def _check_nodes(self) -> None:
        for node in self._reachable():
            stats = node.manager.stats()
            if stats.garbage or stats.dropped:
                raise AssertionError(f"{node!r} has garbage, or dropped messages: {stats}")
            if stats.lost and (self._durable or node not in self._ever_cut):
                raise AssertionError(f"{node!r} has lost messages: {stats}; {node.errors}")
            # a simulated network may break sessions by itself
            broken = node in self._ever_cut or not isinstance(self.cluster.network, PostgresNetwork)
            if wrong := [e for e in node.errors if not (broken and _of_outage(e))]:
                raise AssertionError(f"{node!r} has reported {wrong!r}")

    async def agree(
        self,
        namespace: str,
        rooms: Mapping[SimulatedClient, Iterable[str]],
        *,
        asked: Iterable[SimulatedNode],
    ) -> None:
        """Check that every node finds these clients in these rooms, whichever way it is asked."""
        sids = {client.sids[namespace]: {*named} for client, named in rooms.items()}
        async with anyio.create_task_group() as task_group:
            for node in asked:
                task_group.start_soon(self._agrees, node.manager, namespace, sids, repr(node))
        if self._failures:
            raise self._failures[0]

    async def _agrees(
        self, manager: PostgresManager, namespace: str, sids: dict[str, set[str]], who: str
    ) -> None:
        mine = {*ROOMS, *(sid for ns, sid in self._clients if ns == namespace)}
        whole = {sid: {sid, *rooms} for sid, rooms in sids.items()}
        gone = [s for ns, s in self._clients if ns == namespace and s not in sids]

        def check(what: str, got: Any, expected: Any) -> None:
            if got != expected:
                raise AssertionError(f"{what} of {who} in {namespace}: {got}, not {expected}")

        async def all_rooms() -> None:
            found = await manager.all_rooms(namespace=namespace)
            check("all_rooms", found & mine, {room for rooms in whole.values() for room in rooms})

        async def clients() -> None:
            check("clients", await manager.clients(namespace=namespace), set(sids))

        async def clients_in(room: str) -> None:
            found = await manager.clients(room, namespace=namespace)
            check(f"clients in {room}", found, {s for s, rooms in sids.items() if room in rooms})

        async def sockets() -> None:
            found = [
                (s.id, {*s.rooms} & mine) for s in await manager.fetch_sockets(namespace=namespace)
            ]
            check("fetch_sockets", sorted(found), sorted(whole.items()))

        async def rooms_of(sid: str) -> None:
            found = await manager.client_rooms(sid, namespace=namespace)
            check(f"client_rooms({sid!r})", found & mine, whole[sid])

        async def unknown(sid: str) -> None:
            with contextlib.suppress(UnknownSocketError):
                found = await manager.client_rooms(sid, namespace=namespace)
                raise AssertionError(f"{who} knows rooms of {sid}, which has gone: {found}")

        async def contained(question: Callable[..., Awaitable[None]], *args: str) -> None:
            try:
                await question(*args)
            except Exception as exc:  # noqa: BLE001 - of several, one is told
                self._failures.append(exc)

        async with anyio.create_task_group() as task_group:
            for question in (all_rooms, clients, sockets):
                task_group.start_soon(contained, question)
            for room in ROOMS:
                task_group.start_soon(contained, clients_in, room)
            for sid in sids:
                task_group.start_soon(contained, rooms_of, sid)
            for sid in gone[-2:]:
                task_group.start_soon(contained, unknown, sid)


def _of_outage(error: Exception) -> bool:
    """Tell whether a node reports only that it was cut off, and what came of that."""
    return isinstance(error, (ConnectionLostError, MessagesLostError)) or (
        "could not be deleted" in str(error)
    )


def _same(what: str, got: list[Any], must: set[Any], maybe: set[Any]) -> None:
    if len(got) != len(set(got)) or not must <= set(got) <= must | maybe:
        allowed = f", and maybe {sorted(maybe, key=repr)}" if maybe else ""
        raise AssertionError(f"{what}: {got}, not {sorted(must, key=repr)}{allowed}")


async def _called(function: Callable[..., Any], *args: Any) -> None:
    result = function(*args)
    if isinstance(result, Awaitable):
        await result


def run(
    script: Callable[[Stage, SimulatedCluster], Awaitable[None]],
    network: Callable[[], Network] | str,
    *,
    backend: str = "asyncio",
    backend_options: dict[str, Any] | None = None,
    make_server: Callable[[PostgresManager], Any] | None = None,
    actions: Sequence[Callable[[SimulatedClient, str], object]] = (),
    check: Callable[[SimulatedCluster], object] | None = None,
    durable: bool = False,
    **options: Any,
) -> None:
    """Run a script in an event loop of its own, with a new cluster, and check what is left.

    ``network`` makes the cluster's network, or is the URI of a PostgreSQL; ``backend`` and
    ``backend_options`` are those of ``anyio.run``; ``make_server`` and ``options`` those of
    :class:`.SimulatedCluster`. ``actions`` are functions of a client and a namespace of
    it, sync or async, that the script calls in between; ``check`` is called with the cluster whenever it is quiet. What they,
    and the server's handlers, do must leave alone the rooms "r1" to "r3" and the events "node1",
    "node2" and so on.

    :raises AssertionError: the cluster did not keep a promise; a note has the script.
    """
    make_network = _to_postgres(network) if isinstance(network, str) else network

    async def main() -> None:
        before = set(anyio.get_running_tasks())
        made = make_network()
        settings: dict[str, Any] = {**_PATIENT, "durable": durable, **options}
        async with SimulatedCluster(made, make_server=make_server, **settings) as cluster:
            stage = Stage(cluster, durable=durable, actions=actions, check=check)
            await script(stage, cluster)
            prefix = str(cluster._options["prefix"])
        if left := set(anyio.get_running_tasks()) - before:
            raise AssertionError(f"tasks are left: {left}")
        if isinstance(made, PostgresNetwork):
            await _no_session(made.uri, prefix)

    try:
        anyio.run(main, backend=backend, backend_options=backend_options)
    except BaseException as exc:
        if isinstance(script, Script):
            exc.add_note(f"The script, on {backend}:\n\n{script!r}")
        raise


def _to_postgres(uri: str) -> Callable[[], Network]:
    return lambda: PostgresNetwork(uri)


async def _no_session(uri: str, name: str) -> None:
    connection = await AnyIOConnection.connect(uri, autocommit=True)
    try:
        query = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = %s"
        with anyio.move_on_after(5):
            while True:
                cursor: psycopg.AsyncCursor[Any] = await connection.execute(query, [name])
                row = await cursor.fetchone()
                if row is not None and row[0] == 0:
                    return
                await anyio.sleep(0.002)
    finally:
        await connection.close()
    raise AssertionError("sessions are left")
