"""The demo's application: a chat with rooms. It knows nothing of how it is served."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import socketio

from anyio_sio_pg import AdapterError, PostgresManager, RemoteSocket, RequestTimeoutError

PULSE = 2.0
"""Seconds between two measurements of the round trip."""
LONGEST_TEXT = 50_000
LARGEST_PICTURE = 500_000
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_LONGEST_NAME = 24
_MOST_ROOMS = 12
_WAVE_TIMEOUT = 5.0
# rooms of the chat have names that no socket's own room can have
_ROOM = "chat:"
_PAGE = Path(__file__).parent / "page"

Answer = dict[str, Any]


class Refused(Exception):
    """A client has asked for something that it cannot have; the message is its answer."""


def _answering(handler: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    @functools.wraps(handler)
    async def answer(*args: Any) -> Answer:
        try:
            return await handler(*args)
        except (Refused, AdapterError) as exc:
            return {"error": str(exc)}

    return answer


class Chat:
    """The chat on one node: the handlers of its events, and its page.

    ``runs_on`` tells the page what serves this node. ``app`` is the ASGI application; beside it,
    :meth:`run` has to run.
    """

    def __init__(
        self,
        server: socketio.AsyncServer,
        manager: PostgresManager,
        node: str,
        port: int,
        runs_on: str,
    ):
        self._server = server
        self._manager = manager
        self._node = node
        self._about = {"name": node, "port": port, "runs_on": runs_on, "pid": os.getpid()}
        self._names: dict[str, str] = {}
        self._changed = anyio.Event()
        self._people: list[Answer] = []
        self._pulse: Answer = {}
        static = {f"/{path.name}": str(path) for path in _PAGE.iterdir()}
        self.app = socketio.ASGIApp(server, static_files={**static, "/": str(_PAGE / "index.html")})
        for event in ("connect", "disconnect"):
            server.on(event, getattr(self, f"_on_{event}"))
        for event in ("hello", "rename", "join", "leave", "say", "share", "wave", "who"):
            server.on(event, _answering(getattr(self, f"_on_{event}")))
        manager.on_server_side("changed")(self._someone_changed)
        manager.custom_hook(self._who_is_this)

    async def run(self) -> None:
        """Keep this node's clients informed, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_people_current)
            tasks.start_soon(self._measure)

    # What clients send

    async def _on_connect(self, sid: str, environ: Answer, auth: Any = None) -> None:
        try:
            name = _line(_field(auth, "name"), _LONGEST_NAME, "A name")
        except Refused as exc:
            raise socketio.exceptions.ConnectionRefusedError(str(exc)) from None
        await self._call(sid, name)

    async def _on_disconnect(self, sid: str, reason: str = "") -> None:
        for room in self._rooms(sid):
            await self._note(sid, room, "left")
        self._names.pop(sid, None)
        await self._tell_change()

    async def _on_hello(self, sid: str) -> Answer:
        return {
            "id": sid,
            "name": self._names[sid],
            "node": self._node,
            "pulse": self._pulse,
            "people": self._people,
        }

    async def _on_rename(self, sid: str, name: Any) -> Answer:
        await self._call(sid, _line(name, _LONGEST_NAME, "A name"))
        return {"name": self._names[sid]}

    async def _on_join(self, sid: str, room: Any) -> Answer:
        room = _line(room, _LONGEST_NAME, "A room's name")
        rooms = self._rooms(sid)
        if room not in rooms:
            if len(rooms) >= _MOST_ROOMS:
                raise Refused(f"{_MOST_ROOMS} rooms at once are the most.")
            await self._server.enter_room(sid, _ROOM + room)
            await self._note(sid, room, "joined")
            await self._tell_change()
        members = await self._manager.fetch_sockets(to=_ROOM + room)
        return {"room": room, "members": _described(members)}

    async def _on_leave(self, sid: str, room: Any) -> Answer:
        room = self._own_room(sid, room)
        await self._server.leave_room(sid, _ROOM + room)
        await self._note(sid, room, "left")
        await self._tell_change()
        return {"room": room}

    async def _on_say(self, sid: str, message: Any) -> Answer:
        room = self._own_room(sid, _field(message, "room"))
        text = _field(message, "text")
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
            raise Refused(f"A message has 1 to {LONGEST_TEXT:,} characters.")
        await self._to_room("message", sid, room, text=text)
        return {"room": room}

    async def _on_share(self, sid: str, picture: Any) -> Answer:
        room = self._own_room(sid, _field(picture, "room"))
        kind, data = _field(picture, "type"), _field(picture, "data")
        if kind not in PICTURES:
            raise Refused("A picture is a PNG, JPEG, GIF or WebP file.")
        if not isinstance(data, bytes) or not 0 < len(data) <= LARGEST_PICTURE:
            raise Refused(f"A picture has 1 to {LARGEST_PICTURE:,} bytes.")
        await self._to_room("picture", sid, room, type=kind, data=data)
        return {"room": room}

    async def _on_wave(self, sid: str, to: Any) -> Answer:
        if not isinstance(to, str) or to.startswith(_ROOM):
            raise Refused("Only a person can be waved at.")
        started = time.perf_counter()
        answers = await self._manager.emit_with_ack(
            "wave", {"from": self._sender(sid)}, to=to, timeout=_WAVE_TIMEOUT
        )
        if not answers:
            raise Refused("They are gone.")
        return {"answer": answers[0], "ms": _milliseconds(time.perf_counter() - started)}

    async def _on_who(self, sid: str) -> Answer:
        return {"people": _described(await self._manager.fetch_sockets())}

    # What this node tells its clients

    async def _keep_people_current(self) -> None:
        while True:
            # by itself too: a node that died says nothing
            with anyio.move_on_after(PULSE):
                await self._changed.wait()
            self._changed = anyio.Event()
            try:
                sockets = await self._manager.fetch_sockets()
            except RequestTimeoutError as exc:
                sockets = exc.partial
            except AdapterError:
                continue
            people = _described(sockets)
            if people != self._people:
                self._people = people
                await self._manager.emit("people", people, local=True)

    async def _measure(self) -> None:
        while True:
            milliseconds: float | None = None
            nodes: list[Any] = [self._about]
            try:
                milliseconds = _milliseconds(await self._manager.ping())
                nodes = await self._manager.custom_request("who are you?")
            except RequestTimeoutError as exc:
                nodes = [node for node in exc.partial if isinstance(node, dict)] or nodes
            except AdapterError:
                pass  # the page shows that there is no answer, and why
            stats = self._manager.stats()
            self._pulse = {
                "ms": milliseconds,
                "status": str(self._manager.status),
                "nodes": sorted((node for node in nodes if node), key=lambda node: node["name"]),
                "sent": stats.sent,
                "received": stats.received,
                "lost": stats.lost,
            }
            await self._manager.emit("pulse", self._pulse, local=True)
            await anyio.sleep(PULSE)

    def _who_is_this(self, question: Any) -> Answer:
        return self._about

    def _someone_changed(self) -> None:
        self._changed.set()

    async def _tell_change(self) -> None:
        self._changed.set()
        await self._manager.server_side_emit("changed")

    # Helpers

    async def _call(self, sid: str, name: str) -> None:
        self._names[sid] = name
        await self._server.save_session(sid, self._sender(sid))
        await self._tell_change()

    def _sender(self, sid: str) -> Answer:
        return {"id": sid, "name": self._names.get(sid, "someone"), "node": self._node}

    def _rooms(self, sid: str) -> list[str]:
        return [str(r).removeprefix(_ROOM) for r in self._server.rooms(sid) if _is_chat(r)]

    def _own_room(self, sid: str, room: Any) -> str:
        if room not in self._rooms(sid):
            raise Refused("You are not in that room.")
        return str(room)

    async def _note(self, sid: str, room: str, what: str) -> None:
        await self._to_room("note", sid, room, what=what)

    async def _to_room(self, event: str, sid: str, room: str, **more: Any) -> None:
        data = {"room": room, "from": self._sender(sid), "at": round(time.time() * 1_000), **more}
        await self._server.emit(event, data, to=_ROOM + room)


def _is_chat(room: str | int) -> bool:
    return isinstance(room, str) and room.startswith(_ROOM)


def _described(sockets: list[RemoteSocket]) -> list[Answer]:
    """Return who is there, where, and in which rooms; without those who are still connecting."""
    people = [
        {
            **{key: str(_field(socket.data, key)) for key in ("id", "name", "node")},
            "rooms": sorted(str(r).removeprefix(_ROOM) for r in socket.rooms if _is_chat(r)),
        }
        for socket in sockets
        if _field(socket.data, "name") is not None
    ]
    return sorted(people, key=lambda person: (person["node"], person["name"], person["id"]))


def _field(value: Any, name: str) -> Any:
    return cast("Answer", value).get(name) if isinstance(value, dict) else None


def _line(value: Any, longest: int, what: str) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not 0 < len(text) <= longest or not text.isprintable():
        raise Refused(f"{what} has 1 to {longest} characters.")
    return text


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1_000, 2)
