"""A node of the demo on asyncio: the chat, on a stock python-socketio server under uvicorn."""

from __future__ import annotations

import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import socketio
import uvicorn

from anyio_sio_pg import open_postgres_adapter

from . import node
from .chat import Chat


async def serve(name: str, uri: str, port: int) -> None:
    """Serve the chat until the process is told to stop."""
    with node.listen(port) as listening:
        port = listening.getsockname()[1]
        async with open_postgres_adapter(uri) as manager:
            sio = socketio.AsyncServer(async_mode="asgi", client_manager=manager)
            chat = Chat(sio, manager, name, port, node.runs_on("uvicorn"))
            config = uvicorn.Config(
                chat.app,
                log_level="warning",
                lifespan="off",
                timeout_graceful_shutdown=node.GRACEFUL_TIMEOUT,
            )
            server = Server(config, port)

            async def stop(told: anyio.Event) -> None:
                await told.wait()
                await _say_goodbye(sio)
                server.should_exit = True

            async with node.told_to_stop() as told, anyio.create_task_group() as tasks:
                tasks.start_soon(chat.run)
                tasks.start_soon(stop, told)
                await server.serve(sockets=[listening])
                tasks.cancel_scope.cancel()


class Server(uvicorn.Server):
    """A uvicorn server that says when it serves, and leaves the signals alone.

    uvicorn raises the signals that it took once more when it has ended, and that would end the
    process before the manager's block has.
    """

    def __init__(self, config: uvicorn.Config, port: int):
        super().__init__(config)
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve; then say so."""
        await super().startup(sockets)
        node.announce(self._port)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take no signals."""
        yield


async def _say_goodbye(sio: socketio.AsyncServer) -> None:
    """Disconnect the clients; uvicorn would wait for their requests."""
    node.expect_refusals()
    with anyio.move_on_after(node.GOODBYE_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for eio_sid in list(sio.eio.sockets):
                tasks.start_soon(sio.eio.disconnect, eio_sid)


if __name__ == "__main__":
    sys.exit(node.run(serve, "asyncio"))
