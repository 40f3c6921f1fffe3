"""One client's Engine.IO session, over HTTP long-polling or WebSocket."""

from __future__ import annotations

import base64
import itertools
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

import anyio
import anyio.lowlevel
from engineio import exceptions
from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE, NOOP, PING, PONG, UPGRADE, Packet, packet_names

from .outgoing import Outgoing
from .timetable import Timer

if TYPE_CHECKING:
    from .base import Reason
    from .primitives import Queue
    from .tasks import ServerTasks

UPGRADE_TIMEOUT: Final = 10.0
"""Seconds in which a client has to complete an upgrade, as in the reference server."""
_UPGRADE_POLL: Final = 0.1
"""Seconds after which a poll during an upgrade is ended, as in the reference server."""
_TOO_BIG: Final = 1009
"""RFC 6455, section 7.4.1: a message that is too big to process."""
SEPARATOR: Final = "\x1e"
"""What parts the packets of a payload (Engine.IO protocol v4, section "Packet encoding")."""
_SHIELDED_SEND: Final = 0.5
"""Seconds for which a writer that has been cancelled is waited for."""
_YIELD_AFTER: Final = 64
"""Packets of one client after which the other tasks get their turn."""
_ESCAPED_LINE_END: Final = re.compile(r"(\\)?\\n")
_IGNORED: Final = frozenset({0, UPGRADE, NOOP})
"""Packets that a client may send at times when they mean nothing."""


class RefusedError(Exception):
    """A request breaks the protocol; it is answered with an HTTP error.

    ``code`` is the reference server's number for it, ``status`` the HTTP status line.
    """

    def __init__(self, code: int, message: str, log: str, status: str = "400 BAD REQUEST"):
        super().__init__(log)
        self.code = code
        self.message = message
        self.status = status


class _InvalidPacketError(Exception):
    """What a client has sent is not a packet, or none that it may send."""


class SocketServer(Protocol):
    """What a session needs of its server."""

    ping_interval: float
    ping_timeout: float
    max_http_buffer_size: int
    async_handlers: bool
    monitor_clients: bool
    handles_messages_inline: bool
    shutdown_timeout: float
    reason: type[Reason]
    logger: logging.Logger
    tasks: ServerTasks
    _async: dict[str, Any]

    @property
    def sockets(self) -> dict[str, AnyIOSocket]:
        """The sessions, by their sids."""
        ...

    def create_queue(self) -> Queue[Any]:
        """Return what :class:`AsyncSocket` takes for its queue."""
        ...

    async def read_body(self, environ: dict[str, Any]) -> bytes:
        """Return a request's body."""
        ...

    async def next_chunk(self, environ: dict[str, Any]) -> bytes | None:
        """Return the next part of a request's body, None after the last."""
        ...

    async def _trigger_event(self, event: str, *args: Any, run_async: bool = False) -> Any: ...


class AnyIOSocket(AsyncSocket):
    """An Engine.IO session (Engine.IO protocol v4).

    It is *connected* once the handshake is accepted, *closing* when nothing more is accepted for
    it, and *closed*, and no longer among the server's sockets, when its transport has ended and
    the disconnect handler has run.
    """

    # declared here, too, for type checkers that have no stubs for python-engineio
    server: SocketServer
    sid: str
    queue: Outgoing
    last_ping: float | None
    connected: bool
    upgrading: bool
    upgraded: bool
    closing: bool
    closed: bool
    session: dict[str, Any]

    def __init__(self, server: SocketServer, sid: str):
        super().__init__(server, sid)
        self.queue = Outgoing()
        # the timetable knows when a pong is due; a wall clock that jumps must not matter
        self.last_ping = None
        self._accepted = False
        self._saying_goodbye = False
        self._reason = ""
        self._ping_is_out = False
        self._timer: Timer | None = None
        self._polling = False
        self._posting = False
        self._probed = False
        self._read_scope: anyio.CancelScope | None = None
        self._write_scope: anyio.CancelScope | None = None
        self._upgrade_scope: anyio.CancelScope | None = None
        self._body_scope: anyio.CancelScope | None = None
        self._flushed = anyio.Event()
        self._transport_ended = anyio.Event()
        self._handled = anyio.Event()
        self.judged = anyio.Event()
        """Set once the application has accepted the session, or has not."""
        self.inline = object()
        """Stands for a handler that the transport waits for before it goes on."""

    @property
    def gone(self) -> bool:
        """Whether the session is over as far as its client can see."""
        return self._saying_goodbye or self._transport_ended.is_set()

    def accept(self) -> None:
        """Take note that the application has accepted the session."""
        self._accepted = True
        self.schedule_ping()

    def conclude(self) -> None:
        """Take note that the application has accepted the session, or has not."""
        self.judged.set()
        if self.closing and self.server.tasks.running:
            self._tell_of_its_end()

    async def send(self, pkt: Packet) -> None:
        """Send a packet; nothing to a session that is closing."""
        self.put(pkt)

    def put(self, pkt: Packet) -> None:
        """Send a packet, without ever yielding."""
        self.queue.put_nowait(pkt)
        self._log_packet("Sending", pkt)

    async def check_ping_timeout(self) -> bool:
        """Whether the client is still there, as far as its pongs tell.

        :raises engineio.exceptions.SocketIsClosedError: the session is over.
        """
        if self.closed:
            raise exceptions.SocketIsClosedError()
        return not self.closing

    def schedule_ping(self) -> None:
        """Send the next ping in time (Engine.IO protocol v4, section "Heartbeat")."""
        if not self.closing:
            self._later(self.server.ping_interval, self._ping)

    def _ping(self) -> None:
        self._ping_is_out = True
        self.put(Packet(PING))
        if self.server.monitor_clients:
            self._later(self.server.ping_timeout, self._ping_timed_out)

    def _ping_timed_out(self) -> None:
        self.server.logger.info("%s: Client is gone, closing socket", self.sid)
        self.begin_close(self.server.reason.PING_TIMEOUT, goodbye=True)

    def _later(self, delay: float, function: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.server.tasks.timetable.call_later(delay, function)

    def _log_packet(self, doing: str, pkt: Packet) -> None:
        if self.server.logger.isEnabledFor(logging.INFO):
            data = "<binary>" if isinstance(pkt.data, bytes) else pkt.data
            name = packet_names[pkt.packet_type]
            self.server.logger.info("%s: %s packet %s data %s", self.sid, doing, name, data)

    # closing

    async def close(
        self, wait: bool = True, abort: bool = False, reason: str | None = None
    ) -> None:
        """Close the session; with ``wait``, return when its client has been sent all.

        The wait ends after the server's ``shutdown_timeout``. ``abort`` closes it without a CLOSE
        packet, and at once. Cancelling the call leaves the session closing all the same.
        """
        if self.closing:
            return
        self.begin_close(
            reason or self.server.reason.SERVER_DISCONNECT, goodbye=not abort, linger=not abort
        )
        if wait:
            with anyio.move_on_after(self.server.shutdown_timeout):
                await self._flushed.wait()
                await self._wait_until_handled()

    def begin_close(self, reason: str, *, goodbye: bool = False, linger: bool = False) -> None:
        """Close the session, without waiting for what that takes.

        ``goodbye``: its client is sent a CLOSE packet, if it still listens. ``linger``: it may
        take that, and what it has not been sent before, with its next poll.
        """
        if self.closing:
            return
        self.closing = True
        self._reason = reason
        if self._timer is not None:
            self._timer.cancel()
        if goodbye:
            self.put(Packet(CLOSE))
        self.queue.close()
        for scope in (self._upgrade_scope, self._body_scope):
            if scope is not None:
                scope.cancel()
        if self._write_scope is not None:
            self._limit_patience()
        elif not self._polling and not self.upgraded:
            if linger and self.connected:
                self._later(self.server.shutdown_timeout, self.end_transport)
            elif not self._saying_goodbye:
                self.end_transport()
        if self.judged.is_set():
            self._tell_of_its_end()

    def _tell_of_its_end(self) -> None:
        self.server.tasks.speak_last(self, self._disconnected)

    def _limit_patience(self) -> None:
        limit = anyio.current_time() + self.server.shutdown_timeout
        for scope in (self._write_scope, self._read_scope):
            if scope is not None:
                scope.deadline = limit

    async def _disconnected(self) -> None:
        try:
            if self._accepted:
                await self.server._trigger_event("disconnect", self.sid, self._reason)
        finally:
            self._handled.set()
            self._end()

    async def _wait_until_handled(self) -> None:
        # but for a handler of its own that waits here
        tasks = self.server.tasks
        if not tasks.is_mine(self) and not tasks.is_mine(self.judged):
            await self._handled.wait()

    def end_transport(self) -> None:
        """Take note that nothing will be sent or received any more."""
        self.queue.take()
        self._flushed.set()
        self._transport_ended.set()
        self._end()

    def _end(self) -> None:
        if self._handled.is_set() and self._transport_ended.is_set():
            self.closed = True
            if self._timer is not None:
                self._timer.cancel()
            if self.server.sockets.get(self.sid) is self:
                del self.server.sockets[self.sid]

    async def ended(self) -> None:
        """Return once the session is closed, but for a handler of its own that waits here."""
        await self._wait_until_handled()
        if self.server.tasks.is_mine(self.inline):
            await self._flushed.wait()
        else:
            await self._transport_ended.wait()

    # HTTP long-polling

    async def handle_get_request(self, environ: dict[str, Any]) -> list[Packet]:
        """Return what a poll is answered with, once there is something.

        :meth:`answered` has to be called when the answer has been sent, or could not be.

        :raises RefusedError: another poll is pending, or the session is over or upgraded.
        """
        if self._polling:
            # "Should it happen, the server MUST return an HTTP 400 error status and close"
            self.begin_close(self.server.reason.TRANSPORT_ERROR, goodbye=True)
            raise RefusedError(3, "Bad request", f"Overlapping polls of session {self.sid}")
        self._polling = True
        try:
            packets = await self._next_packets(environ)
        except BaseException:
            if not self.upgraded:
                self.begin_close(self.server.reason.TRANSPORT_ERROR)
                self.end_transport()
            raise
        finally:
            self._polling = False
        if self.upgraded:
            raise RefusedError(3, "Bad request", f"Unexpected HTTP request for session {self.sid}")
        self._saying_goodbye = self.closing
        return packets

    def answered(self, *, whole: bool) -> None:
        """Take note of what has become of a poll's answer."""
        if not whole:
            # what was in it is lost, and the client must know
            self.begin_close(self.server.reason.TRANSPORT_ERROR)
        if self._saying_goodbye or not whole:
            self.end_transport()

    async def _next_packets(self, environ: dict[str, Any]) -> list[Packet]:
        packets = self.queue.take()
        if packets:
            return packets
        if self._probed:
            with anyio.move_on_after(_UPGRADE_POLL):
                await self.queue.wait()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, environ, tasks.cancel_scope)
                await self.queue.wait()
                tasks.cancel_scope.cancel()
        if self.upgraded:
            return []
        return self.queue.take() or [Packet(NOOP)]

    async def _watch(self, environ: dict[str, Any], polling: anyio.CancelScope) -> None:
        try:
            while await self.server.next_chunk(environ) is not None:
                pass
            event = environ["wsgi.input"].event
            while event["type"] != "http.disconnect":
                event = await environ["asgi.receive"]()
        except Exception as exc:  # noqa: BLE001 - whatever the ASGI server raises for it
            self.server.logger.info("%s: The connection is broken: %r", self.sid, exc)
        self.server.logger.info("%s: The client has given up its poll", self.sid)
        if not self.upgraded:
            self.begin_close(self.server.reason.TRANSPORT_ERROR)
        polling.cancel()

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        """Take the packets of a POST request.

        :raises RefusedError: it is not made of packets, or another POST is being worked on.
        """
        if self._posting:
            self.begin_close(self.server.reason.TRANSPORT_ERROR, goodbye=True)
            raise RefusedError(3, "Bad request", f"Overlapping POSTs of session {self.sid}")
        self._posting = True
        try:
            body: bytes | None = None
            with anyio.CancelScope() as self._body_scope:
                if self.closing:
                    self._body_scope.cancel()
                body = await self.server.read_body(environ)
            if body is None:
                if self._reason == self.server.reason.SERVER_DISCONNECT:
                    # it is told with its next poll, for which it must not have given up
                    return
                raise RefusedError(3, "Bad request", f"Session {self.sid} was closed meanwhile")
            for number, encoded in enumerate(_split(body), 1):
                if self.closing:
                    break
                await self._take(encoded)
                if number % _YIELD_AFTER == 0:
                    await anyio.lowlevel.checkpoint()
        except RefusedError:
            self.begin_close(self.server.reason.TRANSPORT_ERROR, goodbye=True)
            raise
        except _InvalidPacketError as exc:
            self.begin_close(self.server.reason.TRANSPORT_ERROR, goodbye=True)
            raise RefusedError(3, "Bad request", f"Session {self.sid}: {exc}") from exc
        finally:
            self._posting = False

    # WebSocket

    async def serve_websocket(self, environ: dict[str, Any]) -> str:
        """Accept a WebSocket connection and serve it; a second one is closed at once."""
        connection = self.server._async["websocket"](self._websocket_handler, self.server)
        response: str = await connection(environ)
        return response

    async def _websocket_handler(self, ws: Any) -> None:
        """Serve a WebSocket connection that has been accepted, until it has ended."""
        if not self.connected:
            self.connected = self.upgraded = True
        elif not await self._upgraded(ws):
            return
        self.server.logger.info("%s: Upgrade to websocket successful", self.sid)
        written = anyio.Event()
        self._write_scope = anyio.CancelScope()
        self.server.tasks.start_soon(self._write, ws, self._write_scope, written)
        try:
            with anyio.CancelScope() as self._read_scope:
                if self.closing:
                    self._limit_patience()
                await self._read(ws)
            if self._read_scope.cancelled_caught:
                # it was closed here, and the client has not answered
                self._leave_draining(ws)
        finally:
            self.begin_close(self.server.reason.TRANSPORT_CLOSE)
            self._write_scope.cancel()
            try:
                # it has been cancelled; but a send may be shielded until the connection ends
                with anyio.move_on_after(_SHIELDED_SEND, shield=True):
                    await written.wait()
            finally:
                # asyncio's own cancellation knows no shield
                self.end_transport()

    async def _read(self, ws: Any) -> None:
        for number in itertools.count(1):
            try:
                frame = await ws.wait()
            except OSError:
                return
            if number % _YIELD_AFTER == 0:
                # what the ASGI server has received already comes without a wait
                await anyio.lowlevel.checkpoint()
            if self.closing:
                continue
            try:
                self._check_size(frame)
                await self._take(frame)
            except _InvalidPacketError as exc:
                self.server.logger.info("%s: %s", self.sid, exc)
                self.begin_close(self.server.reason.TRANSPORT_ERROR)

    async def _write(self, ws: Any, scope: anyio.CancelScope, written: anyio.Event) -> None:
        try:
            with scope:
                while True:
                    packets = self.queue.take()
                    for pkt in packets:
                        await ws.send(as_frame(pkt))
                    if packets:
                        continue
                    if self.queue.closed:
                        break
                    await self.queue.wait()
                await ws.asgi_send({"type": "websocket.close", "code": self._close_code})
        except Exception as exc:  # noqa: BLE001 - whatever the ASGI server raises for it
            self.server.logger.info("%s: The connection is broken: %r", self.sid, exc)
            self.begin_close(self.server.reason.TRANSPORT_ERROR)
        except anyio.get_cancelled_exc_class():
            # with the server's block; the client will not be told, and so does not answer
            if self._read_scope is not None:
                self._read_scope.cancel()
            raise
        finally:
            self._flushed.set()
            written.set()

    _close_code = 1000

    def _check_size(self, frame: str | bytes) -> None:
        limit = self.server.max_http_buffer_size
        size = len(frame)
        if size <= limit and isinstance(frame, str) and not frame.isascii():
            size = len(frame.encode())
        if size > limit:
            self._close_code = _TOO_BIG
            raise _InvalidPacketError(f"a message of {size} bytes, where {limit} are allowed")

    async def _upgraded(self, ws: Any) -> bool:
        """Whether this WebSocket has taken over; if not, its connection has been dealt with."""
        try:
            if await self._upgrade(ws):
                return True
        except OSError:
            self.server.logger.info("%s: The client has given up its upgrade", self.sid)
            return False
        await ws.close()
        with anyio.move_on_after(self.server.shutdown_timeout) as scope:
            await _until_disconnected(ws)
        if scope.cancelled_caught:
            self._leave_draining(ws)
        return False

    async def _upgrade(self, ws: Any) -> bool:
        """Let the WebSocket take over (Engine.IO protocol v4, section "Upgrade").

        :raises OSError: the connection has ended.
        """
        if self.upgrading or self.upgraded or self.closing:
            return False
        self.upgrading = True
        try:
            with anyio.move_on_after(UPGRADE_TIMEOUT) as self._upgrade_scope:
                probe = _decode(await ws.wait())
                if probe.packet_type != PING or probe.data != "probe":
                    raise _InvalidPacketError("no probe")
                await ws.send(Packet(PONG, data="probe").encode())
                self._probed = True
                # ends the poll that is pending, with a NOOP
                self.queue.wake()
                upgrade = _decode(await ws.wait())
                if upgrade.packet_type != UPGRADE:
                    raise _InvalidPacketError("no UPGRADE packet after the probe")
                self.upgraded = not self.closing
        except (ValueError, RecursionError, _InvalidPacketError) as exc:
            self.server.logger.info("%s: Failed websocket upgrade: %s", self.sid, exc)
        finally:
            self._upgrade_scope = None
            self.upgrading = self._probed = False
        self.queue.wake()
        return self.upgraded

    def _leave_draining(self, ws: Any) -> None:
        # an ASGI server puts what still comes into a queue, and waits while that is full
        if self.server.tasks.running:
            self.server.tasks.start_soon(_until_disconnected, ws)

    # packets

    async def _take(self, encoded: str | bytes) -> None:
        try:
            pkt = _decode(encoded, parse=not self.server.handles_messages_inline)
        except (ValueError, RecursionError) as exc:
            raise _InvalidPacketError(f"not a packet: {encoded[:100]!r}") from exc
        try:
            await self.receive(pkt)
        except exceptions.UnknownPacketError as exc:
            raise _InvalidPacketError(
                f"a packet of type {pkt.packet_type}, which no client may send"
            ) from exc

    async def receive(self, pkt: Packet) -> None:
        """Deal with a packet of the client's.

        :raises engineio.exceptions.UnknownPacketError: no client may send such a packet.
        """
        if pkt.packet_type == MESSAGE:
            self._log_packet("Received", pkt)
            await self.server._trigger_event(
                "message", self.sid, pkt.data, run_async=self.server.async_handlers
            )
        elif pkt.packet_type == PONG:
            if self._ping_is_out:
                self._ping_is_out = False
                self.schedule_ping()
        elif pkt.packet_type == CLOSE:
            self.begin_close(self.server.reason.CLIENT_DISCONNECT)
        elif pkt.packet_type not in _IGNORED:
            raise exceptions.UnknownPacketError()


def _decode(encoded: str | bytes, *, parse: bool = True) -> Packet:
    """Return a packet; with ``parse``, a message that is JSON becomes what it holds.

    :raises ValueError: it is none.
    """
    if isinstance(encoded, str):
        if not encoded[:1].isascii():
            # to int() the digits of any script are digits
            raise ValueError(f"a packet of type {encoded[:1]!r}")
        if encoded[:1] == "4" and not parse:
            return Packet(MESSAGE, encoded[1:])
    return Packet(encoded_packet=encoded)


def as_text(pkt: Packet) -> str:
    """Return a packet as it goes into a payload."""
    encoded = pkt.encode(b64=True)
    if isinstance(encoded, str):
        return encoded
    # it has been encoded for a WebSocket before, and has kept that
    return "b" + base64.b64encode(encoded).decode()


def as_frame(pkt: Packet) -> str | bytes:
    """Return a packet as it goes into a WebSocket message."""
    if pkt.binary:
        return bytes(pkt.data)
    return pkt.encode()


def _split(body: bytes) -> list[str]:
    """Return the packets in a POST request's body (section "Packet encoding")."""
    try:
        text = body.decode()
        if text.startswith("d="):
            # a form, as JSONP sends it, with the line ends escaped once more
            text = _ESCAPED_LINE_END.sub(
                lambda match: "\\n" if match[1] else "\n", parse_qs(text)["d"][0]
            )
    except (UnicodeDecodeError, KeyError) as exc:
        raise _InvalidPacketError("the request's body is not a payload") from exc
    return text.split(SEPARATOR)


async def _until_disconnected(ws: Any) -> None:
    while True:
        try:
            await ws.wait()
        except Exception:  # noqa: BLE001 - an ASGI server's own way to say that it has ended
            return
