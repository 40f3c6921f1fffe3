"""A script in the making: the model, the lines so far, and the waiting where that makes sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .model import Client, Model, Node, Socket
from .script import rooms_text


class Draft:
    """What is written already, and what is so by then."""

    def __init__(self, *, durable: bool, namespaces: Sequence[str]):
        self.model = Model(durable=durable)
        self.namespaces = namespaces
        self.lines: list[str] = []
        self.expected: dict[tuple[Client, str], tuple[list[int], ...]] = {}
        """What was last written of a client, by namespace."""

    def end(self) -> None:
        """Mend everything, and compare everything."""
        self.mend_all()
        self.quiet_now()
        for namespace in self.namespaces:
            self.agree_in(namespace)

    def settle(self, still: Callable[[], bool]) -> None:
        """Wait until something is no longer so, and mend what stands in its way."""
        if still():
            self.quiet_now()
        if still():
            self.mend_all()
            self.quiet_now()

    def may_reach(self, origin: Node, sockets: set[Socket]) -> bool:
        """Tell whether it is sure what becomes of a change; wait where that helps."""
        away = {s for s in sockets if s.node is not origin}
        if any(s.node.cut and self.model.deaf(s) for s in away):
            return False
        self.settle(lambda: any(self.model.deaf(s) for s in away))
        return True

    def mend_all(self) -> None:
        """Let all nodes connect again."""
        for node in self.model.nodes:
            if node.cut:
                self.mend_one(node)

    def mend_one(self, node: Node) -> None:
        """Let a node connect again."""
        self.lines.append(f"stage.mend({node.name})")
        node.cut = False

    def quiet_now(self) -> None:
        """Wait until all is there that can be, and write down what that is."""
        self.model.quiet()
        self.expect()
        self.lines.append("await stage.quiet()")

    def expect(self) -> None:
        """Write down what clients have, where it is not what was written before."""
        for (client, namespace), (must, maybe, counted) in sorted(
            self.model.expected().items(), key=lambda item: (item[0][0].name, item[0][1])
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
        """Write down what all nodes that can be asked must know of a namespace."""
        asked = [n.name for n in self.model.nodes if namespace in n.namespaces and not n.cut]
        there = [s for s in self.model.sockets if s.namespace == namespace and not s.node.cut]
        if asked:
            rooms = ", ".join(f"{s.client.name}: {rooms_text(sorted(s.rooms))}" for s in there)
            self.lines.append(
                f'await stage.agree("{namespace}", {{{rooms}}}, asked=[{", ".join(asked)}])'
            )
