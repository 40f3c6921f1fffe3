"""A conversation between real clients on both nodes, and what should be seen of it."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import socketio

STEP_TIMEOUT = 15.0
"""Seconds in which each thing has to happen."""
WHOLE_TIMEOUT = 120.0
_PICTURE = random.Random(4).randbytes(100_000)
_LINES = 50


class Unexpected(Exception):
    """Something was seen that should not be, or not seen that should."""


class Person:
    """A client, with all that it has received."""

    def __init__(
        self,
        name: str,
        node: str,
        address: str,
        transport: str,
        session: aiohttp.ClientSession,
    ):
        self.name = name
        self.node = node
        self.address = address
        self.transport = transport
        self.received: list[tuple[str, Any]] = []
        self.gone = False
        self._client = socketio.AsyncClient(
            reconnection=False, http_session=session, handle_sigint=False
        )
        self._client.on("*", self._take)
        self._client.on("disconnect", self._go)
        self._news = anyio.Event()

    async def _take(self, event: str, data: Any = None) -> Any:
        self.received.append((event, data))
        self._news.set()
        return {"waved back": self.name} if event == "wave" else None

    async def _go(self, reason: str = "") -> None:
        self.gone = True
        self._news.set()

    async def connect(self) -> None:
        """Connect and be welcomed."""
        await self._client.connect(
            self.address, auth={"name": self.name}, transports=[self.transport]
        )
        hello = await self.ask("hello")
        _equal(f"what {self.name} is told", (hello["name"], hello["node"]), (self.name, self.node))
        _equal(f"{self.name}'s transport", self._client.transport(), self.transport)

    async def disconnect(self) -> None:
        """Leave; nothing when that has happened."""
        await self._client.disconnect()

    async def ask(self, event: str, data: Any = None) -> Any:
        """Send an event and return the server's answer."""
        answer = await self._client.call(event, data, timeout=STEP_TIMEOUT)
        if "error" in answer:
            raise Unexpected(f"{self.name}'s {event!r} was refused: {answer['error']}")
        return answer

    async def refusal(self, event: str, data: Any) -> str:
        """Send an event that is to be refused; return the reason."""
        answer = await self._client.call(event, data, timeout=STEP_TIMEOUT)
        if "error" not in answer:
            raise Unexpected(f"{self.name}'s {event!r} should have been refused")
        return str(answer["error"])

    def all(self, event: str) -> list[Any]:
        """Return the data of all events of this name."""
        return [data for name, data in self.received if name == event]

    async def sees(self, what: str, condition: Callable[[Person], Any]) -> Any:
        """Return the condition's value as soon as something received makes it true."""
        with anyio.move_on_after(STEP_TIMEOUT):
            while not (value := condition(self)):
                self._news = anyio.Event()
                await self._news.wait()
            return value
        events = ", ".join(name for name, _ in self.received[-10:])
        raise Unexpected(f"{self.name} did not see {what}; the last events: {events or 'none'}")

    async def texts(self, room: str, count: int) -> list[str]:
        """Return the messages of a room, once there are so many."""

        def found() -> list[str]:
            return [m["text"] for m in self.all("message") if m["room"] == room]

        await self.sees(f"{count} messages in {room}", lambda _: len(found()) >= count)
        return found()


class Check:
    """The people of the conversation; they outlive the nodes, to see how those say goodbye."""

    def __init__(self, session: aiohttp.ClientSession):
        self._session = session
        self._people: list[Person] = []

    async def converse(self, addresses: dict[str, str]) -> bool:
        """Play the conversation on the nodes, print what is seen, and tell whether all was well."""
        with self._verdict() as verdict, anyio.fail_after(WHOLE_TIMEOUT):
            (one, at_one), (two, at_two) = addresses.items()
            self._people = [
                Person("Ada", one, at_one, "websocket", self._session),
                Person("Ben", two, at_two, "websocket", self._session),
                Person("Cleo", one, at_one, "polling", self._session),
                Person("Dan", two, at_two, "polling", self._session),
            ]
            for person in self._people:
                await person.connect()
                _saw(f"{person.name} is connected to node {person.node} by {person.transport}")
            await _play(self._people)
            verdict.well = True
        return verdict.well

    async def farewell(self) -> bool:
        """Tell whether the nodes, which have ended, took leave of everyone."""
        with self._verdict() as verdict:
            for person in self._people:
                await person.sees("its node's goodbye", lambda person: person.gone)
            _saw("the nodes have said goodbye to their clients and ended, PostgreSQL after them")
            verdict.well = True
        return verdict.well

    @contextmanager
    def _verdict(self) -> Generator[_Verdict]:
        verdict = _Verdict()
        try:
            yield verdict
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is what the check has found
            print(f"\u2717 {exc if isinstance(exc, Unexpected) else repr(exc)}", flush=True)


@dataclass
class _Verdict:
    well: bool = False


@asynccontextmanager
async def checking() -> AsyncGenerator[Check]:
    """Make the check; its block has to enclose the nodes'."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # a terminal that has no tick shows something else instead
        reconfigure(errors="replace")
    async with aiohttp.ClientSession() as session:
        yield Check(session)


async def _play(people: list[Person]) -> None:
    ada, ben, cleo, dan = people

    where = {person.name: person.node for person in people}
    for person in people:
        await person.sees(
            "everyone in the list of people",
            lambda person: _where(person.all("people")[-1:]) == where,
        )
        listed = (await person.ask("who"))["people"]
        _equal(f"whom {person.name} is told of", _where([listed]), where)
    _saw("on both nodes: " + ", ".join(f"{name} is on {node}" for name, node in where.items()))

    members: list[Any] = []
    for number, person in enumerate(people, 1):
        members = (await person.ask("join", "tea"))["members"]
        _equal("the room's members", len(members), number)
    _equal("the room's members", _where([members]), where)
    _saw("all four joined the room tea, and its members are listed across the nodes")

    text = "Tea is served \u2615 <b>\u00e0 tous</b>"
    await ada.ask("say", {"room": "tea", "text": text})
    for person in people:
        _equal(f"{person.name}'s messages", await person.texts("tea", 1), [text])
    _saw("Ada's message from node one reached the room on both nodes, each client once")

    lines = [f"line {number}" for number in range(_LINES)]
    for line in lines:
        await dan.ask("say", {"room": "tea", "text": line})
    for person in people:
        heard = await person.texts("tea", 1 + _LINES)
        _equal(f"what {person.name} heard", heard, [text, *lines])
    _saw(f"Dan's {_LINES} messages from node two came in order, each once, to both nodes")

    listed = (await ada.ask("who"))["people"]
    ids = {person["name"]: person["id"] for person in listed}
    for waving, waved_at in ((ada, dan), (ben, cleo)):
        answer = await waving.ask("wave", ids[waved_at.name])
        _equal("the answer", answer["answer"], {"waved back": waved_at.name})
        _saw(
            f"{waving.name} waved at {waved_at.name} on the other node and has the "
            f"acknowledgement back after {answer['ms']:.1f} ms"
        )

    await ben.ask("share", {"room": "tea", "type": "image/png", "data": _PICTURE})
    for person in people:
        picture = (await person.sees("the picture", lambda person: person.all("picture")))[0]
        _equal(f"{person.name}'s picture", picture["data"] == _PICTURE, True)
    _saw(f"Ben's {len(_PICTURE):,} bytes of binary data arrived unchanged on both nodes")

    long = "20 kB \u2713 " + "x" * 20_000
    await cleo.ask("say", {"room": "tea", "text": long})
    for person in people:
        _equal("the long message", (await person.texts("tea", 2 + _LINES))[-1] == long, True)
    _saw("Cleo's message of 20 kB, larger than a NOTIFY can hold, arrived on both nodes")

    reason = await ada.refusal("say", {"room": "coffee", "text": "Anyone?"})
    _saw(f"what is wrong is refused: {reason}")

    await dan.ask("leave", "tea")
    for person in (ada, ben, cleo):
        await person.sees(
            "Dan leave",
            lambda person: any(
                note["what"] == "left" and note["from"]["name"] == "Dan"
                for note in person.all("note")
            ),
        )
    await ada.ask("say", {"room": "tea", "text": "Has Dan gone?"})
    for person in (ada, ben, cleo):
        _equal("the last message", (await person.texts("tea", 3 + _LINES))[-1], "Has Dan gone?")
    # this comes after that message, in the same order from the same node
    await ada.ask("wave", ids["Dan"])
    _equal("the messages that Dan has", len(await dan.texts("tea", 0)), 2 + _LINES)
    _saw("Dan left the room: the others saw it, and what is said there reaches him no more")

    await ben.disconnect()
    for person in (ada, cleo, dan):
        await person.sees(
            "Ben gone from the list of people",
            lambda person: "Ben" not in _where(person.all("people")[-1:]),
        )
    _saw("Ben disconnected, and both nodes know it")

    for person in (cleo, dan):
        pulse = await person.sees(
            "the round trip",
            lambda person: [p for p in person.all("pulse") if p["ms"] is not None][-1:],
        )
        _equal(f"what node {person.node} has lost", pulse[0]["lost"], 0)
        _saw(
            f"node {person.node} measures {pulse[0]['ms']:.2f} ms for the round trip through "
            "PostgreSQL, and has lost nothing"
        )


def _where(lists: list[Any]) -> dict[str, str]:
    return {person["name"]: person["node"] for people in lists for person in people}


def _equal(what: str, seen: Any, expected: Any) -> None:
    if seen != expected:
        raise Unexpected(f"{what}: {_short(seen)} where {_short(expected)} was expected")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ... ({len(text):,} characters)"


def _saw(text: str) -> None:
    print(f"\u2713 {text}", flush=True)
