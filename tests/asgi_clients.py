"""Socket.IO clients without a network: a test holds both ends of their ASGI connections."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import anyio
import anyio.lowlevel
import socketio
from anyio.abc import TaskGroup

from anyio_sio_pg import AnyIOServer

SEPARATOR = "\x1e"
PATIENCE = 10.0


class Connection:
    """One ASGI connection: what the app sends is kept, what it receives a test decides."""

    def __init__(self, app: Any, scope: dict[str, Any], *received: dict[str, Any]):
        self.scope = scope
        self.sent: deque[dict[str, Any]] = deque()
        self._app = app
        self.received = deque(received)
        self._news = anyio.Event()
        self.ended = False
        self.send_error: Exception | None = None
        """What the app's sends raise."""

    async def __call__(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        finally:
            self.ended = True
            self._notify()

    def put(self, event: dict[str, Any]) -> None:
        """Let the app receive an event."""
        self.received.append(event)
        self._notify()

    async def take(self) -> dict[str, Any] | None:
        """Return what the app sends next, None when it has ended."""
        with anyio.fail_after(PATIENCE):
            while not self.sent:
                if self.ended:
                    return None
                await self._news.wait()
        return self.sent.popleft()

    async def _receive(self) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        while not self.received:
            await self._news.wait()
        return self.received.popleft()

    async def _send(self, event: dict[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(event)
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = anyio.Event()


def make_scope(kind: str, query: dict[str, Any], **extra: Any) -> dict[str, Any]:
    query = {"EIO": "4", **query}
    return {
        "type": kind,
        "path": "/socket.io/",
        "query_string": urlencode(query).encode(),
        "headers": [],
        "client": ("192.0.2.7", 5050),
        **extra,
    }


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def packets(self) -> list[str]:
        assert self.status == 200, self
        return self.text.split(SEPARATOR)


def http(
    app: Any, method: str = "GET", body: str = "", scope: Any = None, **query: Any
) -> Connection:
    """Return a request that is ready to be run."""
    return Connection(
        app,
        make_scope("http", {"transport": "polling", **query}, method=method, **(scope or {})),
        {"type": "http.request", "body": body.encode()},
    )


async def fetch(connection: Connection, *, in_parts: bool = False) -> Response:
    """Run a request and return its response; ``in_parts``: its body is not in one event."""
    if in_parts:
        connection.received[0]["more_body"] = True
    with anyio.fail_after(PATIENCE):
        await connection()
    start, body = connection.sent
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], headers, body["body"].decode())


class Client:
    """What both transports have in common; frames are str or bytes."""

    sid: str
    """Of Engine.IO."""

    def __init__(self) -> None:
        self.sids: dict[str, str] = {}
        self._pending: deque[str] = deque()

    async def join(self, namespace: str = "/", auth: Any = None) -> str:
        prefix = "" if namespace == "/" else f"{namespace},"
        await self.say("40" + prefix + ("" if auth is None else json.dumps(auth)))
        answer = await self.hear("40")
        self.sids[namespace] = json.loads(answer[2 + len(prefix) :])["sid"]
        return self.sids[namespace]

    async def hear(self, start: str) -> str:
        """Return the next text that begins so; what comes before it is lost."""
        while True:
            frame = await self.read()
            if isinstance(frame, str) and frame.startswith(start):
                return frame

    async def event(self) -> list[Any]:
        """Return the next event, with its attachments."""
        while True:
            frame = await self.read()
            if isinstance(frame, str) and frame.startswith("42"):
                return list(json.loads(frame[frame.index("[") :]))
            if isinstance(frame, str) and frame.startswith("45"):
                count, text = frame[2 : frame.index("-")], frame[frame.index("[") :]
                attachments = [await self.read() for _ in range(int(count))]
                assert all(isinstance(item, bytes) for item in attachments), attachments
                return list(_filled(json.loads(text), attachments))

    async def say(self, *frames: str | bytes) -> None:
        raise NotImplementedError

    async def read(self) -> str | bytes:
        raise NotImplementedError


def _filled(value: Any, attachments: list[Any]) -> Any:
    if isinstance(value, list):
        return [_filled(item, attachments) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder"):
            return attachments[value["num"]]
        return {key: _filled(item, attachments) for key, item in value.items()}
    return value


class WebSocketClient(Client):
    def __init__(self, app: Any, query: dict[str, Any] | None = None, **scope: Any):
        super().__init__()
        self.connection = Connection(
            app,
            make_scope("websocket", {"transport": "websocket", **(query or {})}, **scope),
            {"type": "websocket.connect"},
        )
        self.closed = False

    async def handshake(self) -> None:
        self.sid = json.loads((await self.hear("0"))[1:])["sid"]

    async def say(self, *frames: str | bytes) -> None:
        for frame in frames:
            kind = "text" if isinstance(frame, str) else "bytes"
            self.connection.put({"type": "websocket.receive", kind: frame})

    async def read(self) -> str | bytes:
        """Return the next message; pings are answered.

        :raises EOFError: the connection was closed.
        """
        while not self.closed:
            event = await self.connection.take()
            if event is None or event["type"] == "websocket.close":
                self.closed = True
                self.leave()
            elif event["type"] == "websocket.send":
                frame: str | bytes = event["bytes"] if event["text"] is None else event["text"]
                if frame == "2":
                    await self.say("3")
                elif frame != "1":
                    return frame
        raise EOFError

    def leave(self) -> None:
        """Hang up."""
        self.connection.put({"type": "websocket.disconnect", "code": 1006})


class PollingClient(Client):
    def __init__(self, app: Any, query: dict[str, Any] | None = None, **scope: Any):
        super().__init__()
        self.app = app
        self._query = query or {}
        self._scope = scope

    async def handshake(self) -> None:
        response = await fetch(http(self.app, scope=self._scope, **self._query))
        self.sid = json.loads(response.packets[0][1:])["sid"]
        self._pending.extend(response.packets[1:])

    async def say(self, *frames: str | bytes) -> None:
        response = await self.post(*frames)
        assert (response.status, response.text) == (200, "ok")

    async def post(self, *frames: str | bytes) -> Response:
        return await fetch(self.request("POST", SEPARATOR.join(map(_as_text, frames))))

    def request(self, method: str = "GET", body: str = "") -> Connection:
        return http(self.app, method, body, scope=self._scope, sid=self.sid)

    async def read(self) -> str | bytes:
        """Return the next packet; pings are answered.

        :raises EOFError: the session was closed.
        """
        while True:
            while self._pending:
                packet = self._pending.popleft()
                if packet[0] == "b":
                    return base64.b64decode(packet[1:])
                if packet == "1":
                    raise EOFError
                if packet == "2":
                    await self.say("3")
                elif packet != "6":
                    return packet
            response = await fetch(self.request())
            if response.status != 200:
                raise EOFError
            self._pending.extend(response.packets)


def _as_text(frame: str | bytes) -> str:
    return frame if isinstance(frame, str) else "b" + base64.b64encode(frame).decode()


@dataclass
class Site:
    """A server that runs, and a task group for its clients' connections."""

    sio: AnyIOServer
    app: Any
    group: TaskGroup
    log: list[tuple[Any, ...]] = field(default_factory=list)

    async def client(
        self, transport: str, query: dict[str, Any] | None = None, **scope: Any
    ) -> WebSocketClient | PollingClient:
        """Return a client whose session is open."""
        client: WebSocketClient | PollingClient
        if transport == "websocket":
            client = WebSocketClient(self.app, query, **scope)
            self.group.start_soon(client.connection)
        else:
            client = PollingClient(self.app, query, **scope)
        await client.handshake()
        return client

    def of(self, name: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the log's entries that begin so, without that."""
        start = (name, *values)
        return [entry[len(start) :] for entry in self.log if entry[: len(start)] == start]

    def ghosts(self) -> dict[str, Any]:
        """Return what the server still knows of any client."""
        manager: Any = self.sio.manager
        rooms = {
            f"{namespace} {room}": dict(members)
            for namespace, by_room in manager.rooms.items()
            for room, members in by_room.items()
        }
        known = {
            "sockets": dict(self.sio.eio.sockets),
            "environ": list(self.sio.environ),
            "rooms": rooms,
            "callbacks": dict(manager.callbacks),
            "connecting": dict(manager.pending_connect),
            "disconnecting": {k: v for k, v in manager.pending_disconnect.items() if v},
            "joining": dict(self.sio._joining),
            "attachments": dict(self.sio._binary_packet),
        }
        return {name: value for name, value in known.items() if value}


def watch(site: Site, namespaces: Iterable[str] = ("/",)) -> None:
    """Log who connects to and disconnects from a server."""
    for namespace in namespaces:

        async def connect(sid: str, environ: Any, auth: Any, namespace: str = namespace) -> None:
            site.log.append(("connect", namespace, sid))

        async def disconnect(sid: str, reason: str, namespace: str = namespace) -> None:
            site.log.append(("disconnect", namespace, sid, reason))
            await anyio.lowlevel.checkpoint()
            site.log.append(("disconnected", namespace, sid))

        site.sio.on("connect", connect, namespace)
        site.sio.on("disconnect", disconnect, namespace)


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    """Run a server; its clients' connections are cut before its end."""
    options = {"shutdown_timeout": 1.0, **options}
    async with AnyIOServer(**options) as sio, anyio.create_task_group() as group:
        this = Site(sio, socketio.ASGIApp(sio), group)
        watch(this)
        yield this
        group.cancel_scope.cancel()
