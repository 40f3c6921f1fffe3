"""Node's official client and python-socketio's own, on every ASGI server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from engineio.payload import Payload

from interop.app import Server
from interop.cases import Cases, JavaScriptCases, tag
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


class TestNodeClient(JavaScriptCases, RefusedOrigin):
    """socket.io-client, in Node."""

    @pytest.fixture
    def make_client(self, node: Node) -> MakeClient:
        return node.client


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestPythonClient(Cases, RefusedOrigin):
    """python-socketio's AsyncClient."""

    @pytest.fixture
    def make_client(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Client]:
        # it takes no more packets than that in one answer to a poll, and gives up otherwise
        monkeypatch.setattr(Payload, "max_decode_packets", 500)
        return PythonClient
