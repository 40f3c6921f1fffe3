"""Real Socket.IO clients that a test steers, all in the same way, whatever runs them."""

from __future__ import annotations

import base64
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any, ClassVar

import aiohttp
import anyio
import socketio
import socketio.exceptions
from anyio.streams.buffered import BufferedByteReceiveStream

from harness import eventually

HERE = Path(__file__).parent
TIMEOUT = 30.0

MODES = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}

_names = itertools.count(1)


class Blob(bytes):
    """Binary data that a browser is to send as a Blob."""


@dataclass(frozen=True)
class Reasons:
    """The reasons that a client gives for the end of its connection."""

    by_server: str
    """The server has ended the namespace."""
    by_client: str
    by_client_at_server: frozenset[str]
    closed: frozenset[str]
    """The server has ended the connection under it, or it was cut."""


@dataclass
class Seen:
    """What a client has seen in one namespace."""

    connects: list[str] = field(default_factory=list)
    """Its sids."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    disconnects: list[str] = field(default_factory=list)
    events: list[list[Any]] = field(default_factory=list)
    """Each ``[event, *args]``."""


class Client(ABC):
    """A client. It answers a request with the arguments that it was called with."""

    reasons: ClassVar[Reasons]

    def __init__(self, mode: str):
        self.mode = mode
        self.transports: list[str] = []
        self._seen: dict[str, Seen] = {}

    def seen(self, namespace: str = "/") -> Seen:
        return self._seen.setdefault(namespace, Seen())

    def sid(self, namespace: str = "/") -> str:
        return self.seen(namespace).connects[-1]

    def events(self, name: str, namespace: str = "/") -> list[Any]:
        """The arguments of all events of a name."""
        return [args for event, *args in self.seen(namespace).events if event == name]

    async def connected(self, namespace: str = "/", times: int = 1) -> str:
        """Wait until it is connected (for the nth time) and return its sid."""
        await eventually(lambda: len(self.seen(namespace).connects) >= times, TIMEOUT)
        if self.mode == "upgrade":
            await eventually(lambda: self.transports[-1:] == ["websocket"], TIMEOUT)
        return self.sid(namespace)

    async def error(self, namespace: str = "/") -> dict[str, Any]:
        """Wait until it was refused; return the error."""
        await eventually(lambda: self.seen(namespace).errors, TIMEOUT)
        return self.seen(namespace).errors[-1]

    async def disconnected(self, namespace: str = "/") -> str:
        """Wait until its connection has ended; return the reason."""
        await eventually(lambda: self.seen(namespace).disconnects, TIMEOUT)
        return self.seen(namespace).disconnects[-1]

    async def received(self, name: str, count: int, namespace: str = "/") -> list[Any]:
        """Wait until it has got a number of events; return the arguments of each."""
        await eventually(lambda: len(self.events(name, namespace)) >= count, TIMEOUT)
        return self.events(name, namespace)

    @abstractmethod
    async def open(
        self,
        url: str,
        *,
        auth: dict[str, Any] | None = None,
        namespaces: Sequence[str] = ("/",),
        headers: dict[str, str] | None = None,
        reconnect: bool = False,
        msgpack: bool = False,
    ) -> None:
        """Begin to connect."""

    @abstractmethod
    async def emit(self, *events: Sequence[Any], namespace: str = "/") -> None:
        """Send events, each ``[event, *args]``, without waiting between them."""

    @abstractmethod
    async def call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        """Send an event; return the arguments of its acknowledgement."""

    @abstractmethod
    async def leave(self, namespace: str = "/") -> None:
        """Disconnect from one namespace."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class Connector(aiohttp.TCPConnector):
    """Knows its connections: python-engineio drops responses unread, and garbage would tell."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[aiohttp.connector.Connection] = []

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **kwargs)
        self._made.append(connection)
        return connection

    def close_connections(self) -> None:
        for connection in self._made:
            connection.close()


class PythonClient(Client):
    """python-socketio's own client, in the test's event loop."""

    reasons = Reasons(
        "server disconnect",
        "client disconnect",
        # it closes a WebSocket before it has sent that it disconnects
        frozenset({"client disconnect", "transport close"}),
        frozenset({"server disconnect", "transport error", "transport close"}),
    )

    def __init__(self, mode: str):
        super().__init__(mode)
        self._client: Any = None
        self._http: aiohttp.ClientSession | None = None

    async def open(
        self,
        url: str,
        *,
        auth: dict[str, Any] | None = None,
        namespaces: Sequence[str] = ("/",),
        headers: dict[str, str] | None = None,
        reconnect: bool = False,
        msgpack: bool = False,
    ) -> None:
        # its own sessions it does not always close
        self._connector = Connector()
        self._http = aiohttp.ClientSession(connector=self._connector)
        self._client = client = socketio.AsyncClient(
            http_session=self._http,
            reconnection=reconnect,
            reconnection_delay=0.05,
            randomization_factor=0,
            serializer="msgpack" if msgpack else "default",
        )
        for namespace in namespaces:
            self._watch(namespace)
        try:
            await client.connect(
                url,
                headers=headers or {},
                auth=auth,
                transports=None if self.mode == "upgrade" else MODES[self.mode],
                namespaces=list(namespaces),
                wait_timeout=TIMEOUT,
            )
        except socketio.exceptions.ConnectionError:
            # the handlers were told
            pass

    def _watch(self, namespace: str) -> None:
        client, seen = self._client, self.seen(namespace)

        async def connect() -> None:
            self.transports.append(client.transport())
            seen.connects.append(client.get_sid(namespace))

        async def connect_error(error: Any) -> None:
            seen.errors.append(error if isinstance(error, dict) else {"message": error})

        async def disconnect(reason: str) -> None:
            seen.disconnects.append(reason)

        async def any_event(event: str, *args: Any) -> Any:
            seen.events.append([event, *args])
            return args

        client.on("connect", connect, namespace)
        client.on("connect_error", connect_error, namespace)
        client.on("disconnect", disconnect, namespace)
        client.on("*", any_event, namespace)

    async def emit(self, *events: Sequence[Any], namespace: str = "/") -> None:
        for event, *args in events:
            await self._client.emit(event, tuple(args), namespace)

    async def call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        answers: list[list[Any]] = []
        await self._client.emit(
            event, tuple(args), namespace, callback=lambda *answer: answers.append(list(answer))
        )
        await eventually(lambda: answers, TIMEOUT)
        return answers[0]

    async def leave(self, namespace: str = "/") -> None:
        raise NotImplementedError("this client has no such call")

    async def close(self) -> None:
        if self._client is None or self._http is None:
            return
        if self._client.connected:
            # while it posts, it does not come to send that it disconnects, and hangs on its poll
            with anyio.fail_after(TIMEOUT):
                await self._client.eio.queue.join()
        await self._client.shutdown()
        self._connector.close_connections()
        await self._http.close()


class JavaScript(ABC):
    """A process or a page in which ``agent.js`` runs."""

    def __init__(self) -> None:
        self._clients: dict[str, JavaScriptClient] = {}

    @abstractmethod
    async def run(self, command: dict[str, Any]) -> Any:
        """Have the agent carry out a command; return what it returns."""

    def client(self, mode: str) -> JavaScriptClient:
        client = JavaScriptClient(mode, self, f"client{next(_names)}")
        self._clients[client.name] = client
        return client

    def report(self, message: dict[str, Any]) -> None:
        """Take what the agent reports."""
        self._clients[message["client"]].take(message)


class JavaScriptClient(Client):
    """The official client."""

    reasons = Reasons(
        "io server disconnect",
        "io client disconnect",
        frozenset({"client disconnect"}),
        frozenset({"transport close", "transport error"}),
    )

    def __init__(self, mode: str, runner: JavaScript, name: str):
        super().__init__(mode)
        self.name = name
        self._runner = runner

    def take(self, message: dict[str, Any]) -> None:
        kind, args = message["kind"], unpack(message["args"])
        if kind == "transport":
            self.transports.append(args[0])
            return
        seen = self.seen(message["namespace"])
        if kind == "connect":
            seen.connects.append(args[0])
        elif kind == "connect_error":
            seen.errors.append(args[0])
        elif kind == "disconnect":
            seen.disconnects.append(args[0])
        else:
            assert kind == "event"
            seen.events.append(args)

    async def open(
        self,
        url: str,
        *,
        auth: dict[str, Any] | None = None,
        namespaces: Sequence[str] = ("/",),
        headers: dict[str, str] | None = None,
        reconnect: bool = False,
        msgpack: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "transports": MODES[self.mode],
            "reconnection": reconnect,
            "reconnectionDelay": 50,
            "randomizationFactor": 0,
            "timeout": TIMEOUT * 1000,
        }
        if auth is not None:
            options["auth"] = auth
        if headers is not None:
            options["extraHeaders"] = headers
        await self._run(
            "open",
            url=url,
            namespaces=list(namespaces),
            options=options,
            parser="msgpack" if msgpack else None,
        )

    async def emit(self, *events: Sequence[Any], namespace: str = "/") -> None:
        await self._run("emit", namespace=namespace, events=pack(list(events)))

    async def call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        answer: list[Any] = unpack(
            await self._run("call", namespace=namespace, event=event, args=pack(list(args)))
        )
        return answer

    async def leave(self, namespace: str = "/") -> None:
        await self._run("leave", namespace=namespace)

    async def close(self) -> None:
        await self._run("close")

    async def _run(self, op: str, **command: Any) -> Any:
        return await self._runner.run({"op": op, "client": self.name, **command})


class Answers:
    """Answers that are waited for, by the number of the question."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[anyio.Event, list[dict[str, Any]]]] = {}

    async def ask(self, send: Callable[[int], Awaitable[None]]) -> dict[str, Any]:
        number = next(self._numbers)
        event, answers = self._waiting[number] = anyio.Event(), []
        try:
            await send(number)
            with anyio.fail_after(TIMEOUT):
                await event.wait()
        finally:
            del self._waiting[number]
        return answers[0]

    def take(self, number: int, answer: dict[str, Any]) -> None:
        if number in self._waiting:
            event, answers = self._waiting[number]
            answers.append(answer)
            event.set()


class Agent:
    """A Node process that does what it is told: JSON both ways, an object a line.

    ``report`` takes what is no answer.
    """

    def __init__(self, process: anyio.abc.Process, report: Callable[[dict[str, Any]], None]):
        self._process = process
        self._report = report
        self._answers = Answers()
        self._writing = anyio.Lock()

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        async def send(number: int) -> None:
            assert self._process.stdin is not None
            line = json.dumps({"id": number, **command}).encode() + b"\n"
            async with self._writing:
                await self._process.stdin.send(line)

        return await self._answers.ask(send)

    async def read(self) -> None:
        """Take all that the process says, until it ends."""
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        while True:
            try:
                message = json.loads(await lines.receive_until(b"\n", 64_000_000))
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.ClosedResourceError):
                return
            if "answer" in message:
                self._answers.take(message["answer"], message)
            else:
                self._report(message)


class Node(JavaScript):
    """A Node process that runs clients."""

    def __init__(self, process: anyio.abc.Process):
        super().__init__()
        self.agent = Agent(process, self.report)

    async def run(self, command: dict[str, Any]) -> Any:
        answer = await self.agent.ask(command)
        assert "error" not in answer, answer["error"]
        return answer["value"]


@asynccontextmanager
async def node_process(program: str = "client.js") -> AsyncIterator[Node]:
    # its errors go where the tests' own go
    async with (
        await anyio.open_process(
            ["node", program], cwd=HERE, stdin=PIPE, stdout=PIPE, stderr=None
        ) as process,
        anyio.create_task_group() as tasks,
    ):
        node = Node(process)
        tasks.start_soon(node.agent.read)
        yield node
        assert process.stdin is not None
        await process.stdin.aclose()
        with anyio.fail_after(TIMEOUT):
            await process.wait()


def pack(value: Any) -> Any:
    """Make JSON of a value with binary data in it, as ``agent.js`` does."""
    if isinstance(value, bytes):
        packed: dict[str, Any] = {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, Blob):
            packed["blob"] = True
        return packed
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    return value


def unpack(value: Any) -> Any:
    """Undo :func:`pack`."""
    if isinstance(value, dict):
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item) for item in value]
    return value
