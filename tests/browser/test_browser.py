"""The official client's browser bundles in Chromium, on every ASGI server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from browser.chromium import Browser, Page, chromium
from harness import eventually
from interop.app import Server
from interop.cases import NESTED, JavaScriptCases, quick_pings, tag
from interop.clients import Blob
from interop.fixtures import MakeClient, Open

__all__ = ["tag"]

pytestmark = pytest.mark.anyio

GONE = {
    # between two polls it says nothing
    "polling": ("transport error", "ping timeout"),
    "websocket": ("transport close",),
    "upgrade": ("transport close",),
}

OWN_PAGE = {"test_msgpack", "test_page_is_reloaded", "test_tab_is_closed"}


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests."""
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
async def shared_page(server: Server, browser: Browser) -> AsyncIterator[Page]:
    """A page from the shared server, for the many tests that leave nothing in it."""
    opened = await browser.open(f"{server.url}/page.html")
    yield opened
    await opened.close()


@pytest.fixture
async def page(
    request: pytest.FixtureRequest,
    server: Server,
    serve: object,  # stopped after the page is closed
    browser: Browser,
    shared_page: Page,
) -> AsyncIterator[Page]:
    """The page of the test."""
    name = request.function.__name__
    if name not in OWN_PAGE:
        yield shared_page
        assert shared_page.errors == []
        return
    bundle = "msgpack" if name == "test_msgpack" else "default"
    opened = await browser.open(f"{server.url}/page.html?bundle={bundle}")
    yield opened
    await opened.close()
    assert opened.errors == []


class TestBrowser(JavaScriptCases):
    @pytest.fixture
    def make_client(self, page: Page) -> MakeClient:
        return page.client

    async def test_blobs(self, server: Server, open_client: Open) -> None:
        client = await open_client()
        sid = await client.connected()
        await client.emit(["say", {"file": Blob(b"\x00\xff" * 1_000)}, Blob(b"two")])
        assert await server.said(sid, 1) == [[{"file": b"\x00\xff" * 1_000}, b"two"]]

    async def test_refused_origin(
        self, server: Server, open_client: Open, serve: Callable[..., Server], tag: str
    ) -> None:
        """The page is from another port; the default is to serve pages of the same origin only."""
        other = serve(cors_allowed_origins=None)
        foreign = await open_client(other.url, auth={"tag": tag})
        assert await foreign.error()
        assert foreign.seen().connects == []
        assert tag not in other.handlers().sids
        own = await open_client(server.url, auth={"tag": tag})
        assert await server.sid(tag) == await own.connected()

    async def test_accepted_origin(
        self, server: Server, open_client: Open, serve: Callable[..., Server]
    ) -> None:
        other = serve(cors_allowed_origins=["http://one.invalid", server.url])
        client = await open_client(other.url)
        await client.connected()
        assert await client.call("echo", NESTED) == [NESTED]

    async def test_page_is_reloaded(
        self, open_client: Open, serve: Callable[..., Server], page: Page, mode: str, tag: str
    ) -> None:
        server = serve(**quick_pings(mode))
        client = await open_client(server.url, auth={"tag": tag})
        sid = await client.connected()
        # the client takes itself for upgraded before the server does
        assert await client.call("echo", 1) == [1]
        await page.reload()
        assert await server.ended(sid) in GONE[mode]
        again = await open_client(server.url, auth={"tag": tag})
        assert await again.connected() != sid
        assert await again.call("echo", 1) == [1]

    async def test_tab_is_closed(
        self, open_client: Open, serve: Callable[..., Server], page: Page, mode: str, tag: str
    ) -> None:
        server = serve(**quick_pings(mode))
        client = await open_client(server.url, auth={"tag": tag})
        sid = await client.connected()
        # the client takes itself for upgraded before the server does
        assert await client.call("echo", 1) == [1]
        await page.close()
        assert await server.ended(sid) in GONE[mode]
        await eventually(lambda: not server.app.sio.eio.sockets)
