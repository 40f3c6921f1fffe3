"""Clients that send exactly what a test says, and what a test may know of the server's side."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import parse_qs

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from serving import HOST, Kind, serving

TIMEOUT = 10.0
SEPARATOR = "\x1e"

_numbers = itertools.count(1)


def until(condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """Return the condition's value as soon as it is true."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {condition}")
        time.sleep(0.002)
    return value


class Log:
    """What a server saw: its handlers' calls by session, and the requests that reached it."""

    def __init__(self) -> None:
        self._entries: defaultdict[str, list[list[Any]]] = defaultdict(list)
        self._requests: set[str] = set()

    def add(self, sid: str, *entry: Any) -> None:
        self._entries[sid].append(list(entry))

    def of(self, sid: str, name: str) -> list[list[Any]]:
        """Return the entries of a session that begin with a name, without it."""
        return [entry[1:] for entry in list(self._entries[sid]) if entry[0] == name]

    def wait(self, sid: str, name: str) -> list[Any]:
        """Return a session's first entry of a name, once it is there."""
        return until(lambda: self.of(sid, name))[0]

    def wait_for_request(self, mark: str) -> None:
        """Return when the app has begun with the request that carries the mark."""
        until(lambda: mark in self._requests)

    def watching(self, app: Any) -> Any:
        """Wrap an ASGI app so that the requests which it begins to read are known."""

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            query = parse_qs(scope.get("query_string", b"").decode())

            async def noting() -> Any:
                event = await receive()
                self._requests.update(query.get("t", []))
                return event

            await app(scope, noting, send)

        return watched


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    """Their names are in lower case."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def packets(self) -> list[str]:
        assert self.status == 200, self
        return self.text.split(SEPARATOR)


class Exchange:
    """An HTTP request on a connection of its own; its response is read when a test wants it."""

    def __init__(
        self,
        port: int,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ):
        self.mark = f"t{next(_numbers)}"
        fields = {"Host": f"{HOST}:{port}", **(headers or {})}
        if body is not None and "Transfer-Encoding" not in fields:
            fields.setdefault("Content-Length", str(len(body)))
        target += ("&" if "?" in target else "?") + f"t={self.mark}"
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        self._socket = socket.create_connection((HOST, port), TIMEOUT)
        self.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        self._method = method

    def send(self, data: bytes) -> None:
        """Send more of the body; a server that has answered may have hung up already."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def response(self) -> Response | None:
        """Return the response, or None where the server hung up without one."""
        answer = HTTPResponse(self._socket, method=self._method)
        try:
            answer.begin()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, headers, answer.read())
        except (HTTPException, ConnectionError):
            return None
        finally:
            answer.close()
            self.abort()

    def abort(self) -> None:
        self._socket.close()


class Socket:
    """A WebSocket; a message is a frame, text or binary."""

    def __init__(self, connection: ClientConnection):
        self._connection = connection

    def send(self, *messages: str | bytes) -> None:
        """Send messages; that the server has hung up meanwhile is for the reader to find."""
        try:
            for message in messages:
                self._connection.send(message)
        except ConnectionClosed:
            pass

    def read(self) -> str | bytes:
        return self._connection.recv(TIMEOUT)

    def read_text(self) -> str:
        message = self.read()
        assert isinstance(message, str), message
        return message

    def read_many(self, count: int) -> list[str | bytes]:
        return [self.read() for _ in range(count)]

    def rest(self) -> list[str | bytes]:
        """Return what comes until the server closes the connection, which it has to."""
        messages = []
        try:
            while True:
                messages.append(self.read())
        except ConnectionClosed:
            return messages

    def close(self) -> None:
        self._connection.close()

    def drop(self) -> None:
        """Cut the connection, without the closing handshake."""
        self._connection.socket.shutdown(socket.SHUT_RDWR)


@dataclass
class Site:
    """A server, and the clients of the test that is using it."""

    port: int
    log: Log
    path: str = "/engine.io/"
    clients: ExitStack = field(default_factory=ExitStack)

    def target(self, **query: str | None) -> str:
        """Return the path with the protocol's query; None leaves a parameter out."""
        parameters = {"EIO": "4", "transport": "polling", **query}
        return self.path + "?" + "&".join(f"{k}={v}" for k, v in parameters.items() if v)

    def start(
        self,
        method: str,
        target: str,
        body: str | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Exchange:
        """Send a request and return without its response."""
        data = body.encode() if isinstance(body, str) else body
        exchange = Exchange(self.port, method, target, data, headers)
        self.clients.callback(exchange.abort)
        return exchange

    def request(
        self,
        method: str,
        target: str,
        body: str | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        response = self.start(method, target, body, headers).response()
        assert response is not None, "the server hung up"
        return response

    def get(self, **query: str | None) -> Response:
        return self.request("GET", self.target(**query))

    def connect(self, origin: str | None = None, **query: str | None) -> Socket:
        """Open a WebSocket."""
        query = {"transport": "websocket", **query}
        opening = connect(
            f"ws://{HOST}:{self.port}{self.target(**query)}",
            origin=origin,  # type: ignore[arg-type]
            compression=None,
            open_timeout=TIMEOUT,
            close_timeout=1,
            ping_interval=None,
            max_size=None,
        )
        return Socket(self.clients.enter_context(opening))

    def refuses(self, origin: str | None = None, **query: str | None) -> bool:
        """Whether a WebSocket is refused, or closed before anything was said."""
        try:
            client = self.connect(origin, **query)
        except InvalidHandshake:
            return True
        return client.rest() == []

    def websocket(self) -> tuple[Socket, dict[str, Any]]:
        """Open a session on a WebSocket; return it with what the handshake says."""
        client = self.connect()
        return client, handshake(client.read_text())

    def polling(self, **query: str) -> Polling:
        """Open a session with HTTP long-polling."""
        return Polling(self, handshake(self.get(**query).text))


def handshake(packet: str) -> dict[str, Any]:
    assert packet[0] == "0", packet
    value = json.loads(packet[1:])
    assert isinstance(value, dict)
    return value


class Polling:
    """A session over HTTP."""

    def __init__(self, site: Site, details: dict[str, Any]):
        self.site = site
        self.details = details
        self.sid: str = details["sid"]

    @property
    def target(self) -> str:
        return self.site.target(sid=self.sid)

    def poll(self) -> Response:
        return self.site.request("GET", self.target)

    def start_poll(self) -> Exchange:
        """Send a poll and return once the server waits for packets to answer it with."""
        return self.start("GET")

    def post(self, *packets: str) -> Response:
        return self.site.request("POST", self.target, SEPARATOR.join(packets))

    def start_post(self, body: bytes, length: int) -> Exchange:
        """Send the beginning of a POST and return once the server is reading it."""
        return self.start("POST", body, {"Content-Length": str(length)})

    def start(
        self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Exchange:
        exchange = self.site.start(method, self.target, body, headers)
        self.site.log.wait_for_request(exchange.mark)
        return exchange

    def say(self, *packets: str) -> None:
        """Post packets that the server has to accept."""
        response = self.post(*packets)
        assert (response.status, response.text) == (200, "ok")

    def hear(self, count: int) -> list[str]:
        """Poll until so many packets have come."""
        packets: list[str] = []
        while len(packets) < count:
            packets += self.poll().packets
        return packets

    def is_closed(self) -> bool:
        return self.poll().status == 400

    def upgrade(self) -> Socket:
        """Begin an upgrade; the probe has been answered."""
        client = self.site.connect(sid=self.sid)
        client.send("2probe")
        assert client.read() == "3probe"
        return client


class Sites:
    """The servers of a kind, one for each set of options, started when first asked for."""

    def __init__(self, kind: Kind, make_app: Callable[..., Any], path: str, stack: ExitStack):
        self._kind = kind
        self._make_app = make_app
        self._path = path
        self._stack = stack
        self._running: dict[str, tuple[int, Log]] = {}

    def __call__(self, clients: ExitStack, **options: Any) -> Site:
        key = repr(sorted(options.items()))
        if key not in self._running:
            log = Log()
            app = partial(self._make_app, log, **options)
            self._running[key] = self._stack.enter_context(serving(self._kind, app)).port, log
        port, log = self._running[key]
        return Site(port, log, self._path, clients)


@contextmanager
def sites(kind: Kind, make_app: Callable[..., Any], path: str) -> Iterator[Sites]:
    with ExitStack() as stack:
        yield Sites(kind, make_app, path, stack)
