"""One node: a stock python-socketio server under uvicorn, in either of the two styles.

Run as a program, it opens the adapter around the server that it runs. Imported by uvicorn
(``python -m uvicorn stock_node:app``), it makes the manager at import time and runs it in the
lifespan.
"""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack

import anyio
import socketio
import uvicorn
from control import OPTIONS, URI, equip

from anyio_sio_pg import PostgresManager, open_postgres_adapter


def make_server(manager: PostgresManager) -> socketio.AsyncServer:
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, namespaces="*")
    equip(server, manager)
    return server


async def main() -> None:
    async with open_postgres_adapter(URI, **OPTIONS) as manager:
        app = socketio.ASGIApp(make_server(manager))
        config = uvicorn.Config(app, port=0, lifespan="off", timeout_graceful_shutdown=2)
        # At its end uvicorn raises the signal that has stopped it once more. Unless somebody
        # takes it, a SIGTERM kills the process there and then, before this block has ended.
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT):
            await uvicorn.Server(config).serve()


if __name__ == "__main__":
    anyio.run(main)
else:
    manager = PostgresManager(URI, **OPTIONS)
    stack = AsyncExitStack()

    async def start() -> None:
        await stack.enter_async_context(manager)

    app = socketio.ASGIApp(make_server(manager), on_startup=start, on_shutdown=stack.aclose)
