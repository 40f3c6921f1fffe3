"""The Engine.IO server (Engine.IO protocol v4)."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast, overload
from urllib.parse import parse_qs

import anyio
import anyio.lowlevel
from engineio.packet import OPEN, Packet

from .base import BaseEngineServer
from .engine_socket import SEPARATOR, AnyIOSocket, RefusedError, as_text
from .primitives import BackgroundTask, Event, Queue, QueueEmpty
from .tasks import EndedError, ServerTasks

if TYPE_CHECKING:
    import logging
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")

_SERVER_GONE: Final = "the server does not run"
_NOT_ENTERED: Final = (
    "Requests are answered with 503, because the server does not run: enter its block first"
    " (async with sio: ...)"
)
_NOT_WANTED: Final = re.compile(r"q=0(\.0*)?")
"""The weight of an encoding that a client refuses (RFC 9110, section 12.4.2)."""
_TRANSPORTS: Final = ("polling", "websocket")


class AnyIOEngineServer(BaseEngineServer, anyio.AsyncContextManagerMixin):
    """An Engine.IO server on asyncio and on Trio, behind any ASGI server.

    It serves inside its ``async with`` block, whose task group owns each of its tasks; outside of
    it, requests are answered with 503. The options are those of :class:`engineio.AsyncServer`,
    with the same defaults and meaning (``async_mode`` can only be "asgi"), and this one:

    :param shutdown_timeout: Seconds for which the end of the block, and :meth:`disconnect`, wait
        for disconnect handlers to end and for clients to take what they have not been sent yet.
    :raises ValueError: an option is out of its range.
    :raises TypeError: there is no such option.
    """

    if TYPE_CHECKING:

        @property
        def sockets(self) -> dict[str, AnyIOSocket]:  # noqa: D102 - an attribute, in truth
            ...

    def __init__(
        self,
        async_mode: Literal["asgi"] | None = None,
        ping_interval: float | tuple[float, float] = 25,
        ping_timeout: float = 20,
        max_http_buffer_size: int = 1_000_000,
        allow_upgrades: bool = True,
        http_compression: bool = True,
        compression_threshold: int = 1024,
        cookie: str | Mapping[str, Any] | None = None,
        cors_allowed_origins: str | Iterable[str] | Callable[..., bool] | None = None,
        cors_credentials: bool = True,
        logger: bool | logging.Logger = False,
        json: Any = None,
        async_handlers: bool = True,
        monitor_clients: bool | None = None,
        transports: str | Iterable[str] | None = None,
        *,
        shutdown_timeout: float = 5.0,
    ):
        _check_ping_interval(ping_interval)
        check_number("ping_timeout", ping_timeout, least=0, included=False)
        check_number("max_http_buffer_size", max_http_buffer_size, least=1)
        check_number("compression_threshold", compression_threshold, least=0)
        check_number("shutdown_timeout", shutdown_timeout, least=0)
        _check_cookie(cookie)
        if async_mode not in (None, "asgi"):
            raise ValueError(f"async_mode is {async_mode!r}, and can only be 'asgi'")
        super().__init__(
            async_mode="asgi",
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_http_buffer_size=max_http_buffer_size,
            allow_upgrades=allow_upgrades,
            http_compression=http_compression,
            compression_threshold=compression_threshold,
            cookie=cookie,
            cors_allowed_origins=cors_allowed_origins,
            cors_credentials=cors_credentials,
            logger=logger,
            json=json,
            async_handlers=async_handlers,
            monitor_clients=monitor_clients,
            transports=_transports(transports),
        )
        self.monitor_clients = monitor_clients is None or monitor_clients
        self.shutdown_timeout = shutdown_timeout
        self.tasks = ServerTasks(self.logger)
        self.handles_messages_inline = False
        self._accepting = False
        self._has_run = False

    def async_modes(self) -> list[str]:
        """Return the modes that there are."""
        return ["asgi"]

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self.tasks.running:
            raise RuntimeError(f"this {type(self).__name__} runs already")
        async with self.tasks.run():
            self._accepting = self._has_run = True
            try:
                yield self
            finally:
                try:
                    with anyio.CancelScope(shield=True):
                        await self.shutdown()
                finally:
                    # asyncio's own cancellation knows no shield
                    self._cut_off()

    async def shutdown(self) -> None:
        """Close all clients, and refuse new ones.

        Call it before the ASGI server is told to end, so that this need not wait for open
        connections; the end of the block does it, too. It returns when all handlers have ended,
        but for the one that calls it, and after ``shutdown_timeout`` seconds at the latest;
        disconnect handlers that have not ended then are cancelled.
        """
        self._accepting = False
        if not self.tasks.running:
            return
        sockets = self._say_goodbye()
        with anyio.move_on_after(self.shutdown_timeout):
            for socket in sockets:
                await socket.ended()
            await self.tasks.settle()
        self._cut_off()

    def _cut_off(self) -> None:
        cancelled = self.tasks.hush()
        if cancelled:
            self.logger.warning(
                "%d disconnect handlers took longer than %g s and were cancelled",
                cancelled,
                self.shutdown_timeout,
            )
        for socket in list(self.sockets.values()):
            socket.end_transport()

    async def disconnect(self, sid: str | None = None) -> None:
        """Disconnect a client; without ``sid``, all of them.

        Returns when they have been sent what was due to them and their disconnect handlers have
        run, but for one that calls this, and after ``shutdown_timeout`` seconds at the latest.
        """
        if sid is not None:
            socket = self.sockets.get(sid)
            if socket is not None:
                await socket.close(reason=self.reason.SERVER_DISCONNECT)
            return
        sockets = self._say_goodbye()
        with anyio.move_on_after(self.shutdown_timeout):
            for socket in sockets:
                await socket.ended()

    def _say_goodbye(self) -> list[AnyIOSocket]:
        sockets = list(self.sockets.values())
        for socket in sockets:
            socket.begin_close(self.reason.SERVER_DISCONNECT, goodbye=True, linger=True)
        return sockets

    def abort(self, sid: str, reason: str) -> None:
        """Close a client that breaks the protocol, without waiting."""
        socket = self.sockets.get(sid)
        if socket is not None:
            socket.begin_close(reason, goodbye=True)

    async def send(self, sid: str, data: Any) -> None:
        """Send a message to a client: str, bytes, or a list or dict, as JSON."""
        await super().send(sid, data)
        # a task that only sends must let the others run
        await anyio.lowlevel.checkpoint()

    @overload
    def start_background_task(
        self, target: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> BackgroundTask[T]: ...
    @overload
    def start_background_task(
        self, target: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> BackgroundTask[T]: ...
    def start_background_task(
        self, target: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> BackgroundTask[Any]:
        """Start a task of the application's in the server's block; its end cancels it.

        Awaiting what this returns waits for the task and returns its result. What it raises is
        logged, too. Tasks that are started together begin in any order on Trio.

        :raises RuntimeError: the block does not run.
        """
        return self.tasks.background(target, args, kwargs)

    async def sleep(self, seconds: float = 0) -> None:
        """Sleep for so many seconds."""
        await anyio.sleep(seconds)

    def create_queue(self, maxsize: int = 0) -> Queue[Any]:
        """Return a queue with the methods of :class:`asyncio.Queue`."""
        return Queue(maxsize)

    def get_queue_empty_exception(self) -> type[Exception]:
        """Return what the queues' ``get_nowait`` raises: :class:`queue.Empty`."""
        return QueueEmpty

    def create_event(self) -> Event:
        """Return an event with the methods of :class:`asyncio.Event`."""
        return Event()

    # requests

    async def handle_request(self, *args: Any, **kwargs: Any) -> Any:
        """Serve an HTTP request or a WebSocket: ``(scope, receive, send)`` of ASGI."""
        environ: dict[str, Any] = await self._async["translate_request"](*args, **kwargs)
        if not environ:
            # the client has gone before it had asked for anything
            return None
        scope = environ["asgi.scope"]
        if "HTTP_X_FORWARDED_PROTO" not in environ:
            secure = scope.get("scheme") in ("https", "wss")
            environ["wsgi.url_scheme"] = "https" if secure else "http"
        if scope.get("client"):
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = map(str, scope["client"][:2])
        try:
            response = await self._respond(environ)
        except RefusedError as exc:
            if not self._has_run:
                # at the end of a block to refuse is nothing to tell of, but without one it is
                self._log_error_once(_NOT_ENTERED, "not-entered")
            elif self._accepting or exc.message != _SERVER_GONE:
                self._log_error_once(str(exc), f"refused-{exc.code}-{exc.status}")
            response = _refusal(exc)
        except EndedError:
            response = _refusal(_gone())
        if not isinstance(response, dict):
            return response
        if scope["type"] == "websocket":
            return await self._make_response(response, environ)
        await self._send_response(response, environ)
        return None

    async def _send_response(self, response: dict[str, Any], environ: dict[str, Any]) -> bool:
        """Send a response; return False if the connection has ended meanwhile."""
        headers: list[tuple[str, str]] = response["headers"]
        if _has_more(environ):
            # an ASGI server may wait until a request's body has been taken
            if environ["asgi.scope"].get("http_version", "1.1").startswith("1"):
                headers.append(("Connection", "close"))
            if self.tasks.running:
                self.tasks.start_soon(self._drain, environ)
        self._compress(response, environ)
        headers.append(("Content-Length", str(len(response["response"]))))
        if not self.tasks.running:
            await self._make_response(response, environ)
            return True
        try:
            await self.tasks.apart(self._make_response, response, environ)
        except EndedError:
            pass
        except Exception as exc:  # noqa: BLE001 - whatever the ASGI server raises for it
            self.logger.info("The connection is broken: %r", exc)
            return False
        return True

    async def _drain(self, environ: dict[str, Any]) -> None:
        while await self.next_chunk(environ) is not None:
            pass

    async def _respond(self, environ: dict[str, Any]) -> dict[str, Any] | str:
        if not self.tasks.running:
            raise _gone()
        self._check_origin(environ)
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            return self._ok()
        query = parse_qs(environ["QUERY_STRING"])
        websocket = environ["asgi.scope"]["type"] == "websocket"
        transport = query.get("transport", [""])[0]
        if transport not in self.transports:
            raise RefusedError(0, "Transport unknown", f"Invalid transport {transport!r}")
        if (transport == "websocket") != websocket:
            raise RefusedError(3, "Bad request", "Invalid websocket upgrade")
        jsonp_index = _jsonp_index(query)
        sid = query["sid"][0] if "sid" in query else None
        # it is mandatory within a session, too
        if query.get("EIO") != ["4"]:
            raise RefusedError(
                5,
                "Unsupported protocol version",
                "The client is using an unsupported version of the Socket.IO or Engine.IO "
                "protocols",
            )
        if sid is not None:
            return await self._handle_session(environ, sid, jsonp_index)
        if not self._accepting:
            # sessions that are closing have yet to take their goodbye, with a poll
            raise _gone()
        if method != "GET":
            raise RefusedError(2, "Bad handshake method", f"A handshake by {method}")
        return await self._handle_connect(environ, transport, jsonp_index)

    def _check_origin(self, environ: dict[str, Any]) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if not origin or self.cors_allowed_origins == []:
            return
        allowed = self._cors_allowed_origins(environ)
        if allowed is not None and origin not in allowed:
            message = f"{origin} is not an accepted origin."
            raise RefusedError(3, message, message)

    async def _handle_session(
        self, environ: dict[str, Any], sid: str, jsonp_index: int | None
    ) -> dict[str, Any] | str:
        socket = self.sockets.get(sid)
        method = environ["REQUEST_METHOD"]
        if socket is None or socket.gone or not socket.connected:
            raise RefusedError(1, "Session ID unknown", f"Invalid session {sid!r}")
        if environ["asgi.scope"]["type"] == "websocket":
            if not self.allow_upgrades:
                raise RefusedError(3, "Bad request", f"Session {sid} cannot be upgraded")
            return await socket.serve_websocket(environ)
        if socket.upgraded:
            raise RefusedError(3, "Bad request", f"Unexpected HTTP request for session {sid}")
        if method == "GET":
            return await self._answer_poll(socket, environ, jsonp_index)
        if method == "POST":
            await socket.handle_post_request(environ)
            return self._ok(jsonp_index=jsonp_index)
        raise RefusedError(3, "Bad request", f"Method {method} not supported")

    async def _answer_poll(
        self, socket: AnyIOSocket, environ: dict[str, Any], jsonp_index: int | None
    ) -> str:
        packets = await socket.handle_get_request(environ)
        whole = False
        try:
            response = self._ok(packets, jsonp_index=jsonp_index)
            whole = await self._send_response(response, environ)
        finally:
            socket.answered(whole=whole)
        return ""

    async def _handle_connect(
        self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None
    ) -> dict[str, Any] | str:
        """Open a session (Engine.IO protocol v4, section "Handshake")."""
        sid = self.generate_id()
        socket = AnyIOSocket(self, sid)
        self.sockets[sid] = socket
        try:
            interval = self.ping_interval + self.ping_interval_grace_period
            handshake = {
                "sid": sid,
                "upgrades": [
                    name for name in self._upgrades(sid, transport) if name in self.transports
                ],
                "pingTimeout": round(self.ping_timeout * 1000),
                "pingInterval": round(interval * 1000),
                "maxPayload": self.max_http_buffer_size,
            }
            socket.put(Packet(OPEN, handshake))
            accepted = await self.tasks.apart(self._admit, socket, environ, subject=socket.judged)
        except BaseException:
            if self.tasks.running:
                # what the application has accepted, or is about to, it is told the end of
                socket.begin_close(self.reason.TRANSPORT_ERROR)
            else:
                self.sockets.pop(sid, None)
            raise
        if accepted is not None and accepted is not True:
            self.sockets.pop(sid, None)
            self.logger.warning("Application rejected connection")
            return self._unauthorized(accepted or None)
        if socket.closing:
            raise RefusedError(3, "Bad request", f"Session {sid} was closed at once")
        if transport == "websocket":
            try:
                return await socket.serve_websocket(environ)
            finally:
                # unless it has begun, there is nobody who would close it
                socket.begin_close(self.reason.TRANSPORT_ERROR)
        socket.connected = True
        headers: list[tuple[str, str]] = []
        if self.cookie:
            attributes = self.cookie
            if isinstance(attributes, str):
                attributes = {"name": attributes, "path": "/", "SameSite": "Lax"}
            headers.append(("Set-Cookie", self._generate_sid_cookie(sid, attributes)))
        return self._ok(socket.queue.take(), headers=headers, jsonp_index=jsonp_index)

    async def _admit(self, socket: AnyIOSocket, environ: dict[str, Any]) -> Any:
        try:
            accepted = await self._trigger_event("connect", socket.sid, environ)
            if accepted is None or accepted is True:
                socket.accept()
            return accepted
        finally:
            socket.conclude()

    async def read_body(self, environ: dict[str, Any]) -> bytes:
        """Return a request's body.

        :raises RefusedError: it is larger than ``max_http_buffer_size``, or incomplete.
        """
        limit = self.max_http_buffer_size
        chunks: list[bytes] = []
        size = 0
        while (chunk := await self.next_chunk(environ)) is not None:
            size += len(chunk)
            if size > limit:
                raise RefusedError(
                    3,
                    "Payload too large",
                    f"A request of more than the {limit} bytes that max_http_buffer_size allows",
                    "413 PAYLOAD TOO LARGE",
                )
            chunks.append(chunk)
        if environ["wsgi.input"].event["type"] == "http.disconnect":
            raise RefusedError(3, "Bad request", "A request whose body has broken off")
        return b"".join(chunks)

    async def next_chunk(self, environ: dict[str, Any]) -> bytes | None:
        """Return the next part of a request's body, None after the last."""
        body = environ["wsgi.input"]
        if body.event is None:
            body.event = await environ["asgi.receive"]()
        if "body" not in body.event and not body.event.get("more_body"):
            return None
        chunk: bytes = body.event.pop("body", b"")
        if body.event.get("more_body"):
            body.event = None
        return chunk

    # python-engineio's own, which ask for another event loop or another answer

    def _ok(
        self,
        packets: list[Packet] | None = None,
        headers: list[tuple[str, str]] | None = None,
        jsonp_index: int | None = None,
    ) -> dict[str, Any]:
        headers = [*(headers or ()), ("Cache-Control", "no-store")]
        if packets is None:
            # "the server MUST return an HTTP 200 response, with the string `ok`"; as plain text,
            # some browsers would offer it for download
            headers.append(("Content-Type", "text/html"))
            return {"status": "200 OK", "headers": headers, "response": b"ok"}
        payload = SEPARATOR.join(map(as_text, packets))
        content_type = "text/plain"
        if jsonp_index is not None:
            content_type = "text/javascript"
            text = json.dumps(payload, ensure_ascii=False)
            # JSON allows them in a string, JavaScript did not always
            text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
            payload = f"___eio[{jsonp_index}]({text});"
        headers.append(("Content-Type", f"{content_type}; charset=UTF-8"))
        # halves of surrogate pairs, which only an application can have put there
        encoded = payload.encode(errors="replace")
        return {"status": "200 OK", "headers": headers, "response": encoded}

    def _compress(self, response: dict[str, Any], environ: dict[str, Any]) -> None:
        if not self.http_compression or len(response["response"]) < self.compression_threshold:
            return
        for accepted in environ.get("HTTP_ACCEPT_ENCODING", "").split(","):
            encoding, _, weight = accepted.replace(" ", "").partition(";")
            if encoding in self.compression_methods and not _NOT_WANTED.fullmatch(weight):
                response["response"] = getattr(self, f"_{encoding}")(response["response"])
                response["headers"].append(("Content-Encoding", encoding))
                return

    async def _trigger_event(self, event: str, *args: Any, run_async: bool = False) -> Any:
        handler = self.handlers.get(event)
        if handler is None:
            return None
        if event != "message" or self.handles_messages_inline:
            return await self._run_handler(event, handler, args)
        if run_async:
            await self.tasks.begin(self._run_handler, event, handler, args)
        else:
            socket = self.sockets.get(args[0])
            subject = None if socket is None else socket.inline
            with suppress(EndedError):
                await self.tasks.apart(self._run_handler, event, handler, args, subject=subject)
        return None

    async def _run_handler(
        self, event: str, handler: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        if event == "disconnect" and not accepts(handler, len(args)):
            # handlers of old take no reason
            args = args[:-1]
        try:
            result = handler(*args)
            return cast("Any", await result) if isinstance(result, Awaitable) else result
        except Exception:
            self.logger.exception("%s handler error", event)
            # a connection that its handler could not judge is refused
            return False if event == "connect" else None


def _gone() -> RefusedError:
    return RefusedError(3, _SERVER_GONE, _SERVER_GONE, "503 SERVICE UNAVAILABLE")


def _has_more(environ: dict[str, Any]) -> bool:
    """Tell whether part of a request's body has not been taken."""
    event = environ["wsgi.input"].event
    return event is None or bool(event.get("more_body"))


def accepts(handler: Callable[..., Any], count: int) -> bool:
    """Tell whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(handler).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        # a builtin that does not tell
        return True
    return True


def check_number(name: str, value: Any, *, least: float, included: bool = True) -> None:
    """Check an option.

    :raises ValueError: it is not a number, infinite, or too small.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (value >= least if included else value > least)
        or value == math.inf
    ):
        bound = f"{least} or more" if included else f"more than {least}"
        raise ValueError(f"{name} is {value!r}, and has to be a number, {bound}")


def _check_ping_interval(value: float | tuple[float, ...]) -> None:
    parts = value if isinstance(value, tuple) else (value, 0)
    if len(parts) != 2:
        raise ValueError(
            f"ping_interval is {value!r}, and has to be a number or (interval, grace period)"
        )
    interval, grace = parts
    check_number("ping_interval", interval, least=0, included=False)
    check_number("ping_interval's grace period", grace, least=0)


def _check_cookie(value: Any) -> None:
    if value is not None and not isinstance(value, str | Mapping):
        raise ValueError(f"cookie is {value!r}, and has to be a name, a mapping, or None")


def listed(value: Iterable[Any]) -> list[Any]:
    """Return what an option has that may be one thing or several."""
    if isinstance(value, str):
        return [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def _transports(transports: Any) -> list[str] | None:
    if transports is None:
        return None
    names = listed(transports)
    for name in names:
        if name not in _TRANSPORTS:
            raise ValueError(f"transports has {name!r}, and can have {' and '.join(_TRANSPORTS)}")
    if not names:
        raise ValueError("transports is empty, and has to name at least one")
    return names


def _jsonp_index(query: dict[str, list[str]]) -> int | None:
    if "j" not in query:
        return None
    try:
        return int(query["j"][0])
    except ValueError:
        raise RefusedError(3, "Bad request", "Invalid JSONP index number") from None


def _refusal(exc: RefusedError) -> dict[str, Any]:
    return {
        "status": exc.status,
        "headers": [("Content-Type", "application/json")],
        "response": json.dumps({"code": exc.code, "message": exc.message}).encode(),
    }
