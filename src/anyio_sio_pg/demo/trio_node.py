"""A node of the demo on Trio: the chat, on an ``AnyIOServer`` under Hypercorn."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import hypercorn.config
import hypercorn.trio

from anyio_sio_pg import AnyIOServer, open_postgres_adapter

from . import node
from .chat import Chat


async def serve(name: str, uri: str, port: int) -> None:
    """Serve the chat until the process is told to stop."""
    with node.listen(port) as listening:
        port = listening.getsockname()[1]
        config = hypercorn.config.Config()
        # a descriptor of Hypercorn's own, which it closes
        config.bind = [f"fd://{listening.dup().detach()}"]
        config.loglevel = "WARNING"
        config.graceful_timeout = node.GRACEFUL_TIMEOUT
        async with (
            open_postgres_adapter(uri) as manager,
            AnyIOServer(client_manager=manager, shutdown_timeout=node.GOODBYE_TIMEOUT) as sio,
            node.told_to_stop() as told,
            anyio.create_task_group() as tasks,
        ):
            chat = Chat(sio, manager, name, port, node.runs_on("hypercorn"))

            async def until_goodbye() -> None:
                # Hypercorn calls this when it serves, and stops serving when it returns
                node.announce(port)
                await told.wait()
                node.expect_refusals()
                # otherwise Hypercorn would wait for the clients' connections
                await sio.shutdown()

            tasks.start_soon(chat.run)
            app: Any = chat.app  # Hypercorn has types of its own for what ASGI says
            await hypercorn.trio.serve(  # pyright: ignore[reportUnknownMemberType]
                app, config, shutdown_trigger=until_goodbye
            )
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(node.run(serve, "trio"))
