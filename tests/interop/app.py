"""The server that the clients talk to, and what its handlers saw."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import socketio
import socketio.exceptions

from anyio_sio_pg import AnyIOServer
from harness import eventually
from interop.clients import HERE, TIMEOUT
from serving import Kind, Running, serving

BUNDLES = HERE / "node_modules/socket.io-client/dist"
PAGE = HERE.parent / "browser/page.html"

PAGES = {
    "/page.html": str(PAGE),
    "/agent.js": str(HERE / "agent.js"),
    "/default.js": str(BUNDLES / "socket.io.min.js"),
    "/msgpack.js": str(BUNDLES / "socket.io.msgpack.min.js"),
}


class Handlers:
    """The handlers of one namespace, and what they saw."""

    def __init__(self, sio: Any, namespace: str):
        self._sio = sio
        self._namespace = namespace
        self.sids: dict[str, list[str]] = defaultdict(list)
        """By the tag in the client's auth: the sids that it had, one after the other."""
        self.auth: dict[str, Any] = {}
        self.environ: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, str] = {}
        """By sid: the reason of the disconnection."""
        self.said: dict[str, list[list[Any]]] = defaultdict(list)
        """By sid: the arguments of its ``say`` events."""

    def register(self) -> None:
        on = functools.partial(self._sio.on, namespace=self._namespace)
        for name in ("connect", "disconnect", "echo", "say", "enter", "leave", "count"):
            on(name, getattr(self, name))

    async def connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.auth[sid] = auth
        self.environ[sid] = environ
        auth = auth or {}
        if "greet" in auth:
            await self._sio.emit(
                "greeting", (auth["greet"], b"you"), to=sid, namespace=self._namespace
            )
        self.sids[auth.get("tag", "")].append(sid)
        if "refuse" in auth:
            raise socketio.exceptions.ConnectionRefusedError(*auth["refuse"])
        await self._sio.save_session(sid, {"count": 0}, namespace=self._namespace)

    async def disconnect(self, sid: str, reason: str) -> None:
        self.ended[sid] = reason

    async def echo(self, sid: str, *args: Any) -> Any:
        return args

    async def say(self, sid: str, *args: Any) -> None:
        self.said[sid].append(list(args))

    async def enter(self, sid: str, room: str) -> str:
        await self._sio.enter_room(sid, room, namespace=self._namespace)
        return room

    async def leave(self, sid: str, room: str) -> str:
        await self._sio.leave_room(sid, room, namespace=self._namespace)
        return room

    async def count(self, sid: str) -> int:
        async with self._sio.session(sid, namespace=self._namespace) as session:
            session["count"] += 1
        session = await self._sio.get_session(sid, namespace=self._namespace)
        count: int = session["count"]
        return count


class Shop(socketio.AsyncNamespace):  # type: ignore[misc]
    """A class-based namespace."""

    def __init__(self, namespace: str):
        super().__init__(namespace)
        self.seen: dict[str, list[Any]] = defaultdict(list)

    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        await self.save_session(sid, auth)
        self.seen[sid].append("connect")

    async def on_disconnect(self, sid: str, reason: str) -> None:
        self.seen[sid].append(["disconnect", reason])

    async def on_order(self, sid: str, item: str) -> dict[str, Any]:
        await self.enter_room(sid, item)
        await self.emit("ordered", item, room=item)
        return {"item": item, "by": (await self.get_session(sid))["tag"]}


class App:
    """A Socket.IO server with its handlers."""

    def __init__(self, **options: Any):
        self.sio: Any = AnyIOServer(**options)
        self.handlers = {name: Handlers(self.sio, name) for name in ("/", "/news", "/more")}
        for handlers in self.handlers.values():
            handlers.register()
        self.shop = Shop("/shop")
        self.sio.register_namespace(self.shop)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Any]:
        async with self.sio:
            yield socketio.ASGIApp(self.sio, static_files=PAGES)


class Server:
    """A server that runs; its calls are made in its own event loop."""

    def __init__(self, running: Running, app: App):
        self.url = running.url
        self.port = running.port
        self.app = app
        self._portal = running.portal

    def handlers(self, namespace: str = "/") -> Handlers:
        return self.app.handlers[namespace]

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        future = self._portal.start_task_soon(functools.partial(function, *args, **kwargs))
        await eventually(future.done, TIMEOUT)
        return future.result()

    async def emit(self, *args: Any, **kwargs: Any) -> None:
        await self.run(self.app.sio.emit, *args, **kwargs)

    async def emit_all(self, *events: tuple[str, Any], **kwargs: Any) -> None:
        """Emit events one after the other, in one task."""

        async def emit() -> None:
            for event, data in events:
                await self.app.sio.emit(event, data, **kwargs)

        await self.run(emit)

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        return await self.run(self.app.sio.call, *args, timeout=TIMEOUT, **kwargs)

    async def sid(self, tag: str, namespace: str = "/") -> str:
        """Wait until the connect handler has seen a client; return its sid there."""
        sids = self.handlers(namespace).sids
        await eventually(lambda: sids.get(tag), TIMEOUT)
        return sids[tag][-1]

    async def ended(self, sid: str, namespace: str = "/") -> str:
        """Wait until the disconnect handler has seen a client; return the reason."""
        handlers = self.handlers(namespace)
        await eventually(lambda: sid in handlers.ended, TIMEOUT)
        return handlers.ended[sid]

    async def said(self, sid: str, count: int, namespace: str = "/") -> list[list[Any]]:
        """Wait until a client has said something so many times; return it."""
        said = self.handlers(namespace).said[sid]
        await eventually(lambda: len(said) >= count, TIMEOUT)
        return said


@contextmanager
def app_served(kind: Kind, **options: Any) -> Iterator[Server]:
    app = App(**options)
    with serving(kind, app.run) as running:
        yield Server(running, app)
        # or the ASGI servers wait for the WebSockets that are still open
        running.portal.call(app.sio.shutdown)
