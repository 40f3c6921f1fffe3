"""What every node has: clients of the namespace ``/control`` may call whatever it offers."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import socketio

from anyio_sio_pg import AdapterClosedError, PostgresManager

URI = os.environ["NODE_URI"]
NAME = os.environ["NODE_NAME"]
OPTIONS = json.loads(os.environ["NODE_OPTIONS"])


class Hooks:
    """What the tests need beside the manager's and the server's own methods."""

    def __init__(self, manager: PostgresManager, server: socketio.AsyncServer):
        self.manager = manager
        self.server = server
        self.answers: list[Any] = []
        self.heard: list[Any] = []
        self.left: list[str] = []
        self.asked: list[Any] = []

        @manager.on_server_side("who")
        async def who(*args: Any) -> Any:
            self.heard.append(["who", *args])
            return [NAME, *args]

        @manager.on_server_side("stall")
        async def stall(*names: str) -> Any:
            self.heard.append(["stall", *names])
            if names and NAME not in names:
                return [NAME]
            await anyio.sleep_forever()

        @manager.on_server_side("left")
        def left(*args: Any) -> None:
            self.heard.append(["left", *args])

        @manager.on_server_side("who", namespace="/chat")
        def who_in_chat(*args: Any) -> Any:
            return [NAME, "/chat", *args]

        @manager.custom_hook
        async def hook(data: Any) -> Any:
            self.asked.append(data)
            if data == ["stall", NAME]:
                await anyio.sleep_forever()
            return [NAME, data]

    def take(self, what: str) -> list[Any]:
        taken: list[Any] = getattr(self, what)
        setattr(self, what, [])
        return taken

    async def ask(self, event: str, data: Any = None, **to: Any) -> None:
        await self.server.emit(
            event, data, callback=lambda *args: self.answers.append(list(args)), **to
        )

    async def spread(self, method: str, event: str, *args: Any, **options: Any) -> Any:
        """Call one of the manager's methods with any number of the event's arguments."""
        return await getattr(self.manager, method)(event, args or None, **options)

    async def emit_burst(self, events: list[list[Any]], **to: Any) -> None:
        for event, *args in events:
            await self.server.emit(event, tuple(args), **to)

    async def emit_many(self, count: int, long_one_in: int, size: int, event: str = "n") -> None:
        for number in range(count):
            filling = "x" * size if number % long_one_in == 0 else ""
            await self.server.emit(event, (number, filling))

    async def emit_same(self, count: int, data: Any = "the same") -> None:
        for _ in range(count):
            await self.server.emit("same", {"always": data})

    async def stall_others(self) -> None:
        """Leave a request pending that only the end of the node ends."""
        self.server.start_background_task(self._stall_others)

    async def _stall_others(self) -> None:
        with suppress(AdapterClosedError):
            await self.manager.server_side_call("stall", timeout=100)


def equip(server: socketio.AsyncServer, manager: PostgresManager) -> None:
    """Add the handlers that the tests rely on; the server has to take all namespaces."""
    hooks = Hooks(manager, server)
    owners = {"manager": manager, "server": server, "hooks": hooks}

    @server.on("do", namespace="/control")
    async def do(_: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        owner, _, name = path.partition(".")
        try:
            result = getattr(owners[owner], name)
            if callable(result):
                result = result(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        except Exception as exc:  # noqa: BLE001 - the test is told
            partial = plain(getattr(exc, "partial", None))
            missing = plain(getattr(exc, "missing", None))
            return {"error": [type(exc).__name__, str(exc), partial, missing]}
        return {"result": plain(result)}

    @server.on("echo")
    def echo(_: str, *args: Any) -> Any:
        return args

    @server.on("bye", namespace="*")
    async def bye(namespace: str, sid: str) -> None:
        await server.eio.disconnect(manager.eio_sid_from_sid(sid, namespace))

    @server.on("disconnect")
    def left(sid: str, reason: str) -> None:
        hooks.left.append([sid, reason])

    @server.on("disconnect", namespace="/presence")
    async def absent(sid: str, reason: str) -> None:
        # the adapter still has to carry what a handler sends while its node shuts down
        await anyio.lowlevel.checkpoint()
        await manager.server_side_emit("left", sid, reason)


def plain(value: Any) -> Any:
    """Return a result as JSON (with binary) holds it; sets become sorted lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in vars(value).items()}
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
