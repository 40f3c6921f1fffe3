"""Node's official client and python-socketio's own, on every ASGI server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from interop.app import Server
from interop.cases import Cases, tag
from interop.clients import Client, Node, PythonClient, node_process
from interop.fixtures import MakeClient, Open

__all__ = ["tag"]

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def node() -> AsyncIterator[Node]:
    """One process, in which the clients of all tests run."""
    async with node_process() as process:
        yield process


class RefusedOrigin:
    """Clients that say where their page is from."""

    async def test_refused_origin(self, server: Server, open_client: Open, tag: str) -> None:
        foreign = await open_client(headers={"Origin": "http://example.invalid"}, auth={"tag": tag})
        assert await foreign.error()
        assert foreign.seen().connects == []
        assert tag not in server.handlers().sids
        own = await open_client(headers={"Origin": server.url}, auth={"tag": tag})
        assert await server.sid(tag) == await own.connected()

    async def test_accepted_origins(self, open_client: Open, serve: Callable[..., Server]) -> None:
        server = serve(cors_allowed_origins=["http://one.invalid", "http://two.invalid"])
        foreign = await open_client(server.url, headers={"Origin": "http://example.invalid"})
        assert await foreign.error()
        for origin in ("http://one.invalid", "http://two.invalid"):
            client = await open_client(server.url, headers={"Origin": origin})
            assert await client.connected()


class TestNodeClient(Cases, RefusedOrigin):
    """socket.io-client, in Node."""

    @pytest.fixture
    def make_client(self, node: Node) -> MakeClient:
        return node.client

    async def test_leaves_one_namespace(self, server: Server, open_client: Open, tag: str) -> None:
        client = await open_client(namespaces=["/", "/news"], auth={"tag": tag})
        sid, news = await client.connected(), await client.connected("/news")
        await client.leave("/news")
        assert await client.disconnected("/news") == client.reasons.by_client
        assert await server.ended(news, "/news") == "client disconnect"
        assert await client.call("echo", 1) == [1]
        assert sid not in server.handlers().ended


class TestPythonClient(Cases, RefusedOrigin):
    """python-socketio's AsyncClient."""

    @pytest.fixture
    def make_client(self) -> Callable[[str], Client]:
        return PythonClient
