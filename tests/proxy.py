"""A TCP proxy in front of PostgreSQL that can hold back, refuse and cut."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream


class Proxy:
    """What passes through it: ``answers`` towards the client, ``questions`` towards the server."""

    def __init__(self, target_port: int):
        self._target_port = target_port
        self._streams: set[SocketStream] = set()
        self._gates = {"questions": _Gate(), "answers": _Gate()}
        self._sinks: dict[str, set[SocketStream]] = {"questions": set(), "answers": set()}
        self._cuts: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self.port = 0
        self.refusing = False
        self.refused = 0

    @property
    def uri(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def connections(self) -> int:
        return len(self._streams)

    def hold(self, direction: str) -> None:
        """Let nothing through in one direction, without a word."""
        self._gates[direction].close()

    def release(self) -> None:
        """Let everything through again, what was held back first."""
        for gate in self._gates.values():
            gate.open()

    def slow_down(self, direction: str, rate: float) -> None:
        """Let at most ``rate`` bytes a second through in one direction of each connection."""
        self._rates[direction] = rate

    async def cut(self) -> None:
        """Break all connections; what is held back is lost."""
        for stream in list(self._streams):
            await anyio.aclose_forcefully(stream)

    async def half_close(self, direction: str) -> None:
        """Say in one direction of all connections that nothing more comes, and let nothing more."""
        sinks, self._sinks[direction] = self._sinks[direction], set()
        for sink in sinks:
            await sink.send_eof()

    def cut_within(self, direction: str, size: int) -> None:
        """Break the connection by which the next ``size`` bytes come, after half of those."""
        self._cuts[direction] = size

    @property
    def cutting(self) -> bool:
        """Whether a cut is still to come."""
        return bool(self._cuts)

    async def _serve(self, client: SocketStream) -> None:
        async with client:
            if self.refusing:
                self.refused += 1
                return
            async with await anyio.connect_tcp("127.0.0.1", self._target_port) as server:
                self._streams.add(client)
                sinks = {"questions": server, "answers": client}
                for direction, sink in sinks.items():
                    self._sinks[direction].add(sink)
                try:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(self._pump, client, server, "questions", tg.cancel_scope)
                        tg.start_soon(self._pump, server, client, "answers", tg.cancel_scope)
                finally:
                    self._streams.discard(client)
                    for direction, sink in sinks.items():
                        self._sinks[direction].discard(sink)

    async def _pump(
        self, source: SocketStream, sink: SocketStream, direction: str, scope: anyio.CancelScope
    ) -> None:
        gate = self._gates[direction]
        try:
            while True:
                data = await source.receive()
                await gate.wait()
                if len(data) >= (size := self._cuts.get(direction, len(data) + 1)):
                    del self._cuts[direction]
                    await sink.send(data[: size // 2])
                    break
                rate = self._rates.get(direction)
                size = len(data) if rate is None else max(int(rate / 50), 1)
                for start in range(0, len(data), size):
                    if sink in self._sinks[direction]:
                        await sink.send(data[start : start + size])
                    if rate is not None:
                        await anyio.sleep(size / rate)
            scope.cancel()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()


class _Gate:
    def __init__(self) -> None:
        self._opened = anyio.Event()
        self._opened.set()

    def close(self) -> None:
        if self._opened.is_set():
            self._opened = anyio.Event()

    def open(self) -> None:
        self._opened.set()

    async def wait(self) -> None:
        await self._opened.wait()


@asynccontextmanager
async def proxy(target_port: int, *, buffer: int | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy; ``buffer`` is how many bytes the kernel keeps of what comes from a client."""
    made = Proxy(target_port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        if buffer is not None:
            raw = listener.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, made._serve)
            yield made
            tg.cancel_scope.cancel()
