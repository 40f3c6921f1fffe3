"""One node: an AnyIOServer, under an ASGI server and on an event loop that its arguments name."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import socketio
import uvicorn
from control import OPTIONS, URI, equip

from anyio_sio_pg import AnyIOServer, open_postgres_adapter
from serving import Kind, listening, served


@asynccontextmanager
async def make_app() -> AsyncIterator[socketio.ASGIApp]:
    async with (
        open_postgres_adapter(URI, **OPTIONS) as manager,
        # so long that a test can tell when the end has to wait for it
        AnyIOServer(client_manager=manager, namespaces="*", shutdown_timeout=30) as sio,
    ):
        equip(sio, manager)
        yield socketio.ASGIApp(sio)


@contextmanager
def leave_signals(_: uvicorn.Server) -> Iterator[None]:
    yield


# uvicorn would take the signals as well, and close the connections before the server has
uvicorn.Server.capture_signals = leave_signals


async def main(kind: Kind) -> None:
    with (
        listening() as listener,
        anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
    ):
        async with served(kind, make_app, listener) as app:
            host, port = listener.getsockname()
            # as uvicorn says it
            sys.stdout.write(f"running on http://{host}:{port}\n")
            sys.stdout.flush()
            async for _ in signals:
                break
            # while the ASGI server still serves: it would wait for connections that are open
            await app.engineio_server.shutdown()


if __name__ == "__main__":
    kind = Kind(*sys.argv[1:])
    anyio.run(main, kind, backend=kind.backend)
