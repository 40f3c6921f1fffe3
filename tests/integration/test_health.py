"""What an application is told of each state: status, on_error, ping, and the guide's routes."""

from __future__ import annotations

import json
import re
import secrets
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from anyio_sio_pg import (
    AdapterClosedError,
    AnyIOConnection,
    ConnectionLostError,
    PostgresManager,
    RequestTimeoutError,
    Status,
)
from anyio_sio_pg.postgres import presence
from anyio_sio_pg.testing import EmbeddedPostgres
from harness import FAST, acquainted, eventually, node
from proxy import proxy

pytestmark = pytest.mark.anyio

OPTIONS: dict[str, Any] = {
    "heartbeat_interval": 0.2,
    "heartbeat_timeout": 3.0,
    "requests_timeout": 0.2,
}
"""Long enough between two states for all that is tried in the first, even on a busy machine."""
GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "health.rst"


class Health:
    """A node's health as its application sees it: by the manager and by the guide's routes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uri: str, prefix: str, **options: Any):
        self.errors: list[Exception] = []
        self.manager = PostgresManager(
            uri, prefix=prefix, on_error=self.errors.append, **{**OPTIONS, **options}
        )
        # the guide's manager is the one under test
        monkeypatch.setattr("anyio_sio_pg.PostgresManager", lambda: self.manager)
        self._guide: dict[str, Any] = {}
        for code in re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", GUIDE.read_text()):
            if "Route(" in code:
                exec(textwrap.dedent(code), self._guide)

    @property
    def status(self) -> Status:
        return self.manager.status

    async def becomes(self, status: str) -> None:
        await eventually(lambda: self.status == status)

    async def ask(self, route: str) -> tuple[int, dict[str, Any]]:
        """Call one of the guide's routes; return its HTTP status and its JSON."""
        response = await self._guide[route](None)
        return response.status_code, json.loads(response.body)

    def take_errors(self) -> list[str]:
        """What on_error has been given since it was asked for the last time."""
        taken, self.errors[:] = list(self.errors), []
        assert {type(error) for error in taken} <= {ConnectionLostError}
        return [str(error) for error in taken]

    async def is_up(self) -> None:
        assert await self.ask("ready") == (200, {"status": "connected"})
        code, body = await self.ask("healthy")
        with anyio.fail_after(20):
            # on a busy machine, not every notification comes back in so short a time
            while code == 503 and body["status"] == "connected":
                code, body = await self.ask("healthy")
        assert (code, body["status"]) == (200, "connected")
        assert body["ping"] > 0

    async def is_down(self, status: str, *, ready: int) -> None:
        with (
            anyio.fail_after(20),
            pytest.raises(RequestTimeoutError, match="no notification came back"),
        ):
            await self.manager.ping()
        assert await self.ask("ready") == (ready, {"status": status})
        code, body = await self.ask("healthy")
        assert (code, body["status"]) == (503, status)

    async def is_closed(self) -> None:
        assert self.status == "closed"
        with pytest.raises(AdapterClosedError):
            await self.manager.ping()
        assert await self.ask("ready") == (503, {"status": "closed"})
        code, body = await self.ask("healthy")
        assert (code, body["status"]) == (503, "closed")
        assert self.take_errors() == []


async def test_connected_reconnecting_isolated_and_closed(
    own_postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = Health(monkeypatch, own_postgres.uri, prefix)
    await health.is_closed()
    async with health.manager:
        await health.is_up()
        assert health.take_errors() == []
        await anyio.to_thread.run_sync(own_postgres.stop)
        await health.becomes("reconnecting")
        await health.is_down("reconnecting", ready=200)
        assert {text.partition(" ")[2].partition(":")[0] for text in health.take_errors()} >= {
            "publisher lost its session",
            "listener lost its session",
        }
        await health.becomes("isolated")
        await health.is_down("isolated", ready=503)
        await anyio.to_thread.run_sync(own_postgres.start)
        await health.becomes("connected")
        await health.is_up()
        health.take_errors()
        await health.is_up()
        # no more is said than once of each session's loss, and once that it is not back yet
        assert health.take_errors() == []
    await health.is_closed()


async def test_deaf(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(postgres.port) as gate:
        health = Health(monkeypatch, postgres.uri, prefix, listen_uri=gate.uri)
        async with health.manager, node(postgres.uri, prefix) as other:
            await eventually(lambda: health.manager.stats().nodes == 1)
            await health.is_up()
            gate.hold("answers")
            # a health check that asks knows it before the heartbeats do
            code, body = await health.ask("healthy")
            assert (code, body["status"]) == (503, "connected")
            await health.becomes("isolated")
            await health.is_down("isolated", ready=503)
            # it is told when it is known that the heartbeat had been sent
            await eventually(lambda: health.errors)
            assert "it is deaf" in health.take_errors()[0]
            # it can still be heard
            assert other.manager.stats().nodes == 1
            await gate.cut()
            gate.release()
            await health.becomes("connected")
            await acquainted(other)
            health.take_errors()
            await health.is_up()
            assert health.take_errors() == []
        await health.is_closed()


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_what_others_send_does_not_show_that_a_node_hears_itself(
    uri: str, prefix: str, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """It may be behind; but after a failover its listener may also be on another server."""
    errors: list[str] = []
    asked = 0

    async def deaf(connection: AnyIOConnection, cluster: str, uids: list[str]) -> list[str]:
        nonlocal asked
        asked += 1
        return uids if elsewhere else await presence.deaf(connection, cluster, uids)

    monkeypatch.setattr("anyio_sio_pg.connectivity.deaf", deaf)
    report = lambda error: errors.append(str(error))
    async with node(uri, prefix) as a, node(uri, prefix, on_error=report, **FAST) as b:
        assert b.manager._node is not None
        with monkeypatch.context() as unheard, anyio.fail_after(10):
            unheard.setattr(b.manager._node._connectivity, "heard", lambda number: None)
            while not errors and asked < 5:
                await a.manager.emit("goes on")
                await anyio.sleep(0.01)
        if elsewhere:
            assert "it is deaf" in errors[0]
            await eventually(lambda: b.manager.stats().reconnects >= 1)
        else:
            assert errors == []
            assert b.manager.stats().reconnects == 0


@pytest.mark.parametrize("length", [6, 16])
async def test_a_node_that_only_sends_is_deaf_and_not_dead(
    uri: str, prefix: str, length: int
) -> None:
    async with await AnyIOConnection.connect(uri) as one, await AnyIOConnection.connect(uri) as two:
        both = [secrets.token_hex(8)[:length] for _ in range(2)]
        assert set(await presence.absent(two, both)) == set(both)
        await presence.hold_too(one, both[0])
        await presence.hold(one, prefix, both[1])
        assert await presence.absent(two, both) == []
        assert await presence.deaf(two, prefix, both) == [both[0]]
        assert await presence.listening(two, prefix, both[0]) == {both[1]}


@pytest.mark.parametrize("which", ["publisher", "listener"])
async def test_one_session_lost_is_not_connected(
    postgres: EmbeddedPostgres, prefix: str, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    async with proxy(postgres.port) as gate:
        uris = {"publisher": postgres.uri, "listener": postgres.uri}
        uris[which] = gate.uri
        health = Health(monkeypatch, uris["publisher"], prefix, listen_uri=uris["listener"])
        async with health.manager:
            await health.is_up()
            gate.refusing = True
            await gate.cut()
            await health.becomes("reconnecting")
            await health.becomes("isolated")
            await health.is_down("isolated", ready=503)
            assert health.take_errors()[0].startswith(f"the {which} lost its session")
            gate.refusing = False
            await health.becomes("connected")
            await health.is_up()
        health.take_errors()
        await health.is_closed()
