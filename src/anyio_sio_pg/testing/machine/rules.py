"""The rules: what each kind of step does to the model, and how it is written down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .draft import Draft
from .model import (
    EVERYONE,
    FAULTS,
    ROOMS,
    Change,
    Client,
    Event,
    Node,
    Room,
    Socket,
    depends_on,
    not_sure,
    sure,
)
from .script import clients_text, maybe_text, rooms_text, target_text, text

KINDS: Final = (
    *("nothing", "start", "start", "connect", "connect", "connect", "join"),
    *("enter", "enter", "enter", "exit", "remote_join", "remote_leave"),
    *("sockets_join", "sockets_leave", "close_room"),
    *("emit", "emit", "emit", "emit", "burst", "burst", "burst", "ask_clients"),
    *("request", "request", "meanwhile", "agree", "quiet", "act"),
    *("leave", "hang_up", "kick", "stop", "crash", "cut", "cut", "mend", "mend"),
)
"""The kinds of steps, those that are to come more often more than once."""


@dataclass(frozen=True)
class Step:
    """Something to be done, to whatever there is when its turn comes."""

    kind: str
    node: int
    socket: int
    other: int
    room: int
    style: int


NOTHING: Final = Step("nothing", 0, 0, 0, 0, 0)


class Rules(Draft):
    """Makes a script of steps: each kind of step has a method of its name, all others are private.

    A step is done to whatever there is: its numbers say which of it.
    """

    def __init__(
        self,
        *,
        durable: bool,
        nodes: int,
        namespaces: Sequence[str],
        allowed: Iterable[str],
        actions: int,
    ):
        super().__init__(durable=durable, namespaces=namespaces)
        self.most = nodes
        self.allowed = set(allowed)
        self.actions = actions
        self.started = 0
        self.connected = 0

    def do(self, step: Step) -> None:
        """Do a step, or nothing where it makes no sense."""
        if not self.model.nodes:
            self.start(step)
        elif step.kind in FAULTS and step.kind not in self.allowed:
            return
        elif not self.model.sockets and step.kind not in ("nothing", "start", "connect", *FAULTS):
            self.connect(step)
        else:
            getattr(self, step.kind)(step)

    # What a step means

    def _node(self, step: Step) -> Node:
        return self.model.nodes[step.node % len(self.model.nodes)]

    def _socket(self, number: int, namespace: str | None = None) -> Socket:
        sockets = [s for s in self.model.sockets if namespace in (None, s.namespace)]
        return sockets[number % len(sockets)]

    def _target(self, step: Step, namespace: str) -> tuple[list[Room], list[Room]]:
        room, another = ROOMS[step.room % 3], ROOMS[(step.room + 1) % 3]
        to: list[Room] = [room]
        without: list[Room] = []
        match step.style % 5:
            case 1:
                to = []
            case 2:
                to = [room, another]
            case 3 if self.model.inhabited(namespace):
                to = [self._socket(step.other, namespace)]
            case 4 if self.model.inhabited(namespace):
                to = [self._socket(step.other, namespace), room]
            case _:
                pass
        match step.style // 5 % 8:
            case 1:
                without = [ROOMS[step.other % 3]]
            case 2:
                without = [self._socket(step.socket, namespace)]
            case _:
                pass
        return to, without

    # Doubts

    def _apply(self, step: Step, change: Change) -> None:
        """Take note that sockets' rooms change, now or some time later."""
        overtaken = self.model.overtaken(change)
        if overtaken and step.style % 2:
            self.settle(lambda: any(event.open for event, _ in overtaken))
            overtaken = [(event, socket) for event, socket in overtaken if event.open]
        for event, socket in overtaken:
            event.doubt(socket)
            event.maybe.add(socket)

    # Nodes

    def nothing(self, step: Step) -> None:
        """Do nothing: what all steps shrink to."""

    def start(self, step: Step) -> None:
        """Start one more node, up to the most."""
        if len(self.model.nodes) < self.most and self.started < self.most + 2:
            self.started += 1
            self.model.nodes.append(Node(f"node{self.started}"))
            self.lines.append(f"node{self.started} = await stage.start()")

    def stop(self, step: Step) -> None:
        """Let a node's blocks end."""
        self._end_node(self._node(step), crash=False)

    def crash(self, step: Step) -> None:
        """End a node as if it had been killed."""
        self._end_node(self._node(step), crash=True)

    def _end_node(self, node: Node, *, crash: bool) -> None:
        if len(self.model.nodes) == 1:
            return
        # whether what it has changed elsewhere goes out would not be known
        self.settle(lambda: any(c.origin is node and c.remote for c in self.model.changes))
        self.model.end_node(node, crash=crash)
        self.lines.append(f"await {node.name}.{'crash' if crash else 'stop'}()")

    def cut(self, step: Step) -> None:
        """Cut a node off from PostgreSQL."""
        node = self._node(step)
        if node.cut:
            return
        if step.style % 4:
            # so that it knows the others' numbers, and has to count what it loses
            self.quiet_now()
        if not self.model.durable:
            self.settle(
                lambda: any(s.node is node for c in self.model.changes for s, _ in c.remote)
            )
        self.model.cut(node)
        self.lines.append(f"stage.cut({node.name})")

    def mend(self, step: Step) -> None:
        """Let one of those that are cut off connect again."""
        cut = [node for node in self.model.nodes if node.cut]
        if cut:
            self.mend_one(cut[step.node % len(cut)])

    # Clients

    def connect(self, step: Step) -> None:
        """Connect a client, most often into a room too."""
        node = self._node(step)
        if len(self.model.sockets) >= 8:
            return
        client = Client(f"client{self.connected + 1}", node)
        # the first one more often, so that there is company
        socket = Socket(client, self.namespaces[max(step.room - 2, 0) % len(self.namespaces)])
        self._enter_namespace(step, socket)
        self.connected += 1
        self.model.clients.append(client)
        self.lines.append(f'{client.name} = await stage.connect({node.name}, "{socket.namespace}")')
        if step.style % 4:
            # most events go to rooms
            self._one(Step("enter", step.node, -1, 0, step.style, 0), join=True, wait=False)

    def join(self, step: Step) -> None:
        """Let a client connect to one more namespace."""
        client = self.model.clients[step.socket % len(self.model.clients)]
        there = [s.namespace for s in self.model.sockets if s.client is client]
        others = [namespace for namespace in self.namespaces if namespace not in there]
        if not others:
            return
        # it may not know yet that it has been disconnected
        self.settle(lambda: (client, others[0]) in self.model.kicked)
        if client not in self.model.clients:
            return
        self._enter_namespace(step, Socket(client, others[0]))
        self.lines.append(f'await stage.join({client.name}, "{others[0]}")')

    def _enter_namespace(self, step: Step, socket: Socket) -> None:
        node, namespace = socket.node, socket.namespace
        change = Change(node, namespace, set(), {(socket, EVERYONE), (socket, socket)})
        self.settle(lambda: self.model.clashes(change))
        self._apply(step, change)
        self.model.take_part(node, namespace)
        self.model.sockets.append(socket)

    def leave(self, step: Step) -> None:
        """Let a client leave a namespace."""
        socket = self._socket(step.socket)
        self._vanish(step, socket)
        self.lines.append(f'await {socket.client.name}.leave("{socket.namespace}")')

    def hang_up(self, step: Step) -> None:
        """Let a client's connection end."""
        client = self._socket(step.socket).client
        self.model.hang_up(client)
        for socket in [s for s in self.model.sockets if s.client is client]:
            self._vanish(step, socket)
        if client in self.model.clients:
            self.model.forget(lambda other: other is client)
            self.lines.append(f"await {client.name}.close()")

    def kick(self, step: Step) -> None:
        """Let a node disconnect a socket, which may be another's."""
        socket = self._socket(step.socket)
        node = self._node(step)
        if not self.may_reach(node, {socket}):
            return
        if socket not in self.model.sockets:
            return
        self._vanish(step, socket, node)
        self.model.take_part(node, socket.namespace)
        self.model.kicked.add((socket.client, socket.namespace))
        self.lines.append(
            f'await {node.name}.server.disconnect({socket.sid}, namespace="{socket.namespace}")'
        )

    def _vanish(self, step: Step, socket: Socket, origin: Node | None = None) -> None:
        rooms: set[Room] = {EVERYONE, socket, *ROOMS}
        change = Change(
            origin or socket.node, socket.namespace, set(), {(socket, room) for room in rooms}
        )
        reached = [e for e in self.model.events if socket in (e.must | e.counted | e.maybe)]
        self._apply(step, change)
        self.model.vanish(socket, change, reached)

    # Rooms

    def enter(self, step: Step) -> None:
        """Let a socket enter a room, and not wait for it."""
        self._one(step, join=True, wait=False)

    def exit(self, step: Step) -> None:
        """Let a socket leave a room, and not wait for it."""
        self._one(step, join=False, wait=False)

    def remote_join(self, step: Step) -> None:
        """Let a socket enter a room, and wait until it has."""
        self._one(step, join=True, wait=True)

    def remote_leave(self, step: Step) -> None:
        """Let a socket leave a room, and wait until it has."""
        self._one(step, join=False, wait=True)

    def _one(self, step: Step, *, join: bool, wait: bool) -> None:
        socket, room = self._socket(step.socket), ROOMS[step.room % 3]
        node = self._node(step)
        namespace = socket.namespace
        if wait and socket.node is not node:
            if node.cut or socket.node.cut or namespace not in node.namespaces:
                return
            self.settle(lambda: node.unsure or namespace in node.fresh | socket.node.fresh)
        change = Change(node, namespace, set(), {(socket, room)})
        if not self._change(step, change, {socket}, join=join, done=wait):
            return
        if wait:
            call = f"manager.remote_{'join' if join else 'leave'}"
        else:
            call = f"server.{'enter' if join else 'leave'}_room"
        self.lines.append(
            f'await {node.name}.{call}({socket.sid}, "{room}", namespace="{namespace}")'
        )

    def sockets_join(self, step: Step) -> None:
        """Let all that are in some rooms enter others."""
        self._many(step, join=True)

    def sockets_leave(self, step: Step) -> None:
        """Let all that are in some rooms leave others."""
        self._many(step, join=False)

    def _many(self, step: Step, *, join: bool) -> None:
        node, namespace = self._node(step), self._socket(step.socket).namespace
        to, without = self._target(step, namespace)
        sockets = self.model.reached(namespace, to, without)
        names = sorted({ROOMS[step.other % 3], ROOMS[step.style % 3]})
        writes: set[tuple[Socket, Room]] = {(s, room) for s in sockets for room in names}
        change = Change(node, namespace, depends_on(to, without), writes)
        if self._change(step, change, sockets, join=join):
            self.lines.append(
                f"await {node.name}.manager.sockets_{'join' if join else 'leave'}"
                f"({rooms_text(names)}{target_text(to, without)}, namespace={text(namespace)})"
            )

    def close_room(self, step: Step) -> None:
        """Let all leave a room."""
        node, namespace = self._node(step), self._socket(step.socket).namespace
        room = ROOMS[step.room % 3]
        sockets = self.model.reached(namespace, [room], [])
        change = Change(node, namespace, {room}, {(s, room) for s in sockets})
        if self._change(step, change, sockets, join=False):
            self.lines.append(
                f'await {node.name}.server.close_room("{room}", namespace="{namespace}")'
            )

    def _change(
        self,
        step: Step,
        change: Change,
        sockets: set[Socket],
        *,
        join: bool,
        done: bool = False,
    ) -> bool:
        """Let sockets enter or leave rooms; tell whether that can be done now."""
        node = change.origin
        if not self.may_reach(node, sockets):
            return False
        self.settle(lambda: self.model.clashes(change))
        self._apply(step, change)
        self.model.take_part(node, change.namespace)
        for socket, room in change.writes:
            if isinstance(room, str):
                (socket.rooms.add if join else socket.rooms.discard)(room)
        if not done:
            self.model.changes.append(change)
        return True

    # Events

    def emit(self, step: Step) -> None:
        """Send an event."""
        self._send(step, self._node(step), plain=step.socket % 2 == 0)

    def burst(self, step: Step) -> None:
        """Send some events in a row, from one node or several."""
        for number in range(2 + step.other % 3):
            node = self.model.nodes[(step.node + number * (step.style % 2)) % len(self.model.nodes)]
            turn = Step(
                "emit", step.node, step.socket, step.other, step.room, step.style + 20 * number
            )
            self._send(turn, node, plain=True)

    def ask_clients(self, step: Step) -> None:
        """Send an event that clients acknowledge."""
        node, namespace = self._node(step), self._socket(step.socket).namespace
        if not self._can_ask(node, namespace):
            return
        to, without = self._target(step, namespace)
        rooms = depends_on(to, without)
        # one that is disconnected before it has acknowledged is waited for
        self.settle(
            lambda: not self.model.doubtful(node, namespace, rooms) <= {*self.model.sockets}
        )
        if not self.model.inhabited(namespace):
            return
        event = self._send(step, node, acknowledged=True)
        if event is not None:
            self.lines[-1] = (
                f"stage.acknowledged({self.lines[-1]}, {clients_text(sure(event.must, namespace))}"
                + maybe_text(not_sure(event, namespace))
                + ")"
            )

    def _send(
        self, step: Step, node: Node, *, plain: bool = False, acknowledged: bool = False
    ) -> Event | None:
        namespace = self._socket(step.socket).namespace
        to, without = self._target(step, namespace)
        rooms = depends_on(to, without)
        if not step.style % 3:
            self.settle(lambda: bool(self.model.doubtful(node, namespace, rooms)))
            if not self.model.inhabited(namespace):
                return None
        event = self.model.send(node, namespace, to, without)
        size = step.style // 20 % 8
        data = str(event.number)
        if size in (1, 2):
            data = f"({event.number}, {'LARGE' if size == 1 else 'BINARY'})"
        where = target_text(to, without) + (
            f', namespace="{namespace}"' if namespace != "/" else ""
        )
        call = f"await {node.name}.manager.emit"
        if acknowledged:
            call += "_with_ack"
        elif plain and not without:
            call = f"await {node.name}.server.emit"
        elif plain and len(without) == 1 and isinstance(without[0], Socket):
            call = f"await {node.name}.server.emit"
            where = where.replace("except_rooms=", "skip_sid=")
        self.lines.append(f'{call}("{node.name}", {data}{where})')
        return event

    # Requests

    def _can_ask(self, node: Node, namespace: str) -> bool:
        if node.cut or namespace not in node.namespaces:
            return False
        # one that comes back may owe an answer to what it has not heard
        self.settle(
            lambda: (
                namespace in node.fresh
                or any(other.unsure and not other.cut for other in self.model.nodes)
            )
        )
        return True

    def request(self, step: Step) -> None:
        """Ask who is in a room while other things may be on their way."""
        node, namespace = self._node(step), self._socket(step.socket).namespace
        if not self._can_ask(node, namespace):
            return
        if not self.model.inhabited(namespace):
            return
        to, without = self._target(step, namespace)
        call = f"await {node.name}.manager.fetch_sockets(namespace={text(namespace)}"
        if step.other % 2:
            without = []
            rooms = rooms_text(to) if to else "None"
            call = f"await {node.name}.manager.clients({rooms}, namespace={text(namespace)}"
        else:
            call += target_text(to, without)
        doubtful = self.model.doubtful(node, namespace, depends_on(to, without))
        reached = self.model.reached(namespace, to, without)
        certain = sure(reached, namespace) | {s for s in reached if s.node is node}
        certain -= doubtful
        maybe = {s for s in (reached | doubtful) if not s.node.cut and s.node.up} - certain
        self.lines.append(
            f"stage.found({call}), {text(namespace)}, {clients_text(certain)}{maybe_text(maybe)})"
        )

    def meanwhile(self, step: Step) -> None:
        """Let a request run beside what comes next."""
        node, namespace = self._node(step), self._socket(step.socket).namespace
        if node.cut and step.style % 8:
            # it takes all its time to fail
            return
        self.model.take_part(node, namespace)
        calls = ("clients", "all_rooms", "fetch_sockets")
        self.lines.append(
            f"stage.meanwhile({node.name}.manager.{calls[step.other % 3]},"
            f" namespace={text(namespace)})"
        )

    def act(self, step: Step) -> None:
        """Let a client do what the user wants it to."""
        if self.actions:
            socket = self._socket(step.socket)
            self.lines.append(
                f"await stage.act({step.other % self.actions}, {socket.client.name},"
                f" {text(socket.namespace)})"
            )

    # Waiting

    def quiet(self, step: Step) -> None:
        """Wait until all has arrived, and compare what clients have."""
        self.quiet_now()

    def agree(self, step: Step) -> None:
        """Ask all nodes who is in a namespace, and where."""
        namespace = self._socket(step.socket).namespace
        self.quiet_now()
        self.settle(lambda: bool(self.model.changes))
        self.agree_in(namespace)
