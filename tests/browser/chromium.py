"""Headless Chromium, steered over its DevTools protocol."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import DEVNULL, PIPE
from typing import Any

import aiohttp
import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from harness import eventually
from interop.clients import TIMEOUT, Answers, JavaScript

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-sync",
    # tabs are opened by the hundred
    "--renderer-process-limit=1",
    "--no-proxy-server",
    # nothing but this machine is reachable
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
]


class Browser:
    """A browser, and the pages that are open in it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket = socket
        self._answers = Answers()
        self._pages: dict[str, Page] = {}

    async def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        async def send(number: int) -> None:
            message: dict[str, Any] = {"id": number, "method": method, "params": params}
            if session is not None:
                message["sessionId"] = session
            await self._socket.send_json(message)

        answer = await self._answers.ask(send)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def read(self) -> None:
        """Take all that the browser says, until it ends."""
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers.take(content["id"], content)
            elif content.get("sessionId") in self._pages:
                self._pages[content["sessionId"]].take(content["method"], content["params"])

    async def open(self, url: str) -> Page:
        """Open a page in a tab of its own, and wait until its agent runs."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        page = self._pages[session] = Page(self, target, session)
        await page.send("Runtime.enable")
        await page.send("Runtime.addBinding", name="report")
        await page.send("Page.enable")
        await page.go(url)
        return page


class Page(JavaScript):
    """A tab."""

    def __init__(self, browser: Browser, target: str, session: str):
        super().__init__()
        self._browser = browser
        self._target = target
        self._session = session
        self._closed = False
        self.ready = 0
        """How often the page was loaded."""
        self.errors: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.send(method, self._session, **params)

    async def go(self, url: str) -> None:
        loaded = self.ready
        answer = await self.send("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await eventually(lambda: self.ready > loaded, TIMEOUT)

    async def reload(self) -> None:
        loaded = self.ready
        await self.send("Page.reload")
        await eventually(lambda: self.ready > loaded, TIMEOUT)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._browser.send("Target.closeTarget", targetId=self._target)

    async def run(self, command: dict[str, Any]) -> Any:
        if self._closed:
            return None
        answer = await self.send(
            "Runtime.evaluate",
            expression=f"agent({json.dumps(command)})",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.bindingCalled":
            message = json.loads(params["payload"])
            if "ready" in message:
                self.ready += 1
            else:
                self.report(message)
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    assert program, "install the Debian package 'chromium', as the script 'run' does"
    with tempfile.TemporaryDirectory(prefix="anyio-sio-pg-", ignore_cleanup_errors=True) as profile:
        async with await anyio.open_process(
            # it ends with the tests, even when they are killed
            [*("setpriv", "--pdeathsig", "KILL"), program, *FLAGS, f"--user-data-dir={profile}"],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env={**os.environ, "HOME": profile},
            # its own children end with it
            start_new_session=True,
        ) as process:
            try:
                assert process.stderr is not None
                said = BufferedByteReceiveStream(process.stderr)
                async with (
                    anyio.create_task_group() as tasks,
                    aiohttp.ClientSession() as http,
                ):
                    with anyio.fail_after(30):
                        address = await _address(said)
                    async with http.ws_connect(address, max_msg_size=0) as socket:
                        browser = Browser(socket)
                        tasks.start_soon(_drain, said)
                        tasks.start_soon(browser.read)
                        yield browser
                        await browser.send("Browser.close")
                    with anyio.fail_after(TIMEOUT):
                        await process.wait()
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)


async def _address(said: BufferedByteReceiveStream) -> str:
    """Wait until the browser has said where its DevTools listen."""
    while True:
        line = (await said.receive_until(b"\n", 1_000_000)).decode()
        if found := re.match(r"DevTools listening on (ws://127\.0\.0\.1:\S+)", line):
            return found[1]


async def _drain(said: BufferedByteReceiveStream) -> None:
    try:
        while True:
            await said.receive()
    except (anyio.EndOfStream, anyio.ClosedResourceError):
        pass
