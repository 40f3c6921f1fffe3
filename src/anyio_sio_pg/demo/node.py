"""A node of the demo: the chat, on a stock python-socketio server under uvicorn."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import socketio
import uvicorn

from anyio_sio_pg import AdapterError, open_postgres_adapter

from .chat import Chat

HOST = "127.0.0.1"
_GOODBYE_TIMEOUT = 2.0


class Server(uvicorn.Server):
    """A uvicorn server that says when it serves, and leaves the signals alone.

    uvicorn raises the signals that it took once more when it has ended, and that would end the
    process before the manager's block has.
    """

    def __init__(self, config: uvicorn.Config, address: str):
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve; then print the address, for the process that waits for it."""
        await super().startup(sockets)
        print(self._address, flush=True)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take no signals."""
        yield


async def serve(name: str, uri: str, port: int) -> None:
    """Serve the chat until standard input ends, or a signal comes."""
    with _listening(port) as listening:
        actual_port: int = listening.getsockname()[1]
        async with open_postgres_adapter(uri) as manager:
            sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
            chat = Chat(sio, manager, name, actual_port, "uvicorn on asyncio")
            config = uvicorn.Config(
                chat.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3
            )
            server = Server(config, f"http://{HOST}:{actual_port}")

            async def stop_after_input() -> None:
                await _end_of_input()
                await _stop(server, sio)

            async def stop_after_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        await _stop(server, sio)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chat.run)
                tasks.start_soon(stop_after_input)
                if sys.platform != "win32":
                    tasks.start_soon(stop_after_signal)
                await server.serve(sockets=[listening])
                tasks.cancel_scope.cancel()


async def _stop(server: uvicorn.Server, sio: socketio.AsyncServer) -> None:
    """Say goodbye to the clients, then end the server; without that it waits for their requests."""
    # whoever polls once more is refused, and that is no error
    logging.getLogger("engineio.server").setLevel(logging.CRITICAL)
    with anyio.move_on_after(_GOODBYE_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for eio_sid in list(sio.eio.sockets):
                tasks.start_soon(sio.eio.disconnect, eio_sid)
    server.should_exit = True


async def _end_of_input() -> None:
    """Return when standard input ends: when the process that started this one ends or wishes it."""
    ended = anyio.Event()
    token = anyio.lowlevel.current_token()

    def read() -> None:
        with suppress(OSError):
            while os.read(0, 1_024):
                pass
        with suppress(anyio.RunFinishedError):
            anyio.from_thread.run_sync(ended.set, token=token)

    # a daemon: it must not keep the process when that ends for another reason
    threading.Thread(target=read, name="standard input", daemon=True).start()
    await ended.wait()


def _listening(port: int) -> socket.socket:
    # asyncio turns Nagle's delays off where the protocol is named, and nowhere else
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(100)
    except BaseException:
        listening.close()
        raise
    return listening


def main(name: str, uri: str, port: str) -> int:
    """Run a node; return the exit code."""
    code = 0
    try:
        anyio.run(serve, name, uri, int(port), backend="asyncio")
    except* (AdapterError, OSError) as group:
        for exc in _leaves(group):
            print(f"node {name}: {exc}", file=sys.stderr)
        code = 1
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Generator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", exc))
        else:
            yield exc


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
