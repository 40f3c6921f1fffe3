"""A TCP proxy in front of PostgreSQL that can hold back, refuse and cut."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketStream


class Proxy:
    """What passes through it: ``answers`` towards the client, ``questions`` towards the server."""

    def __init__(self, target_port: int):
        self._target_port = target_port
        self._streams: set[SocketStream] = set()
        self._gates = {"questions": _Gate(), "answers": _Gate()}
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

    async def cut(self) -> None:
        """Break all connections; what is held back is lost."""
        for stream in list(self._streams):
            await anyio.aclose_forcefully(stream)

    async def _serve(self, client: SocketStream) -> None:
        async with client:
            if self.refusing:
                self.refused += 1
                return
            async with await anyio.connect_tcp("127.0.0.1", self._target_port) as server:
                self._streams.add(client)
                try:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(self._pump, client, server, "questions", tg.cancel_scope)
                        tg.start_soon(self._pump, server, client, "answers", tg.cancel_scope)
                finally:
                    self._streams.discard(client)

    async def _pump(
        self, source: ByteStream, sink: ByteStream, direction: str, scope: anyio.CancelScope
    ) -> None:
        gate = self._gates[direction]
        try:
            while True:
                data = await source.receive()
                await gate.wait()
                await sink.send(data)
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
async def proxy(target_port: int) -> AsyncIterator[Proxy]:
    made = Proxy(target_port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        made.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, made._serve)
            yield made
            tg.cancel_scope.cancel()
