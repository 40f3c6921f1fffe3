"""Whatever happens to a cluster, each client gets what is for it, once and in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
import socketio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from anyio_sio_pg import PostgresManager
from anyio_sio_pg.server import AnyIOServer
from anyio_sio_pg.testing import SimulatedClient, SimulatedCluster, SimulatedNetwork, virtual_time
from anyio_sio_pg.testing.machine import Script, Stage, run, scripts

SOAK = settings.get_current_profile_name() == "soak"

pytestmark = [
    pytest.mark.usefixtures("short_settling"),
    # a failure takes its time to shrink, and the soak its hours
    pytest.mark.timeout(0 if SOAK else 900),
]

MODES = pytest.mark.parametrize("durable", [False, True], ids=["plain", "durable"])
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def examples(count: int, soak: int) -> Any:
    """Run a test with so many examples, or more of them in the long profile."""
    return settings(
        max_examples=soak if SOAK else count,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


@BACKENDS
@MODES
def test_with_postgresql(uri: str, backend: str, durable: bool) -> None:
    @examples(16, soak=1_000)
    @hypothesis.given(scripts(durable=durable))
    def machine(script: Script) -> None:
        run(script, uri, backend=backend, durable=durable)

    machine()


@BACKENDS
@MODES
def test_with_a_network_that_doubles_and_breaks(backend: Any, durable: bool) -> None:
    @examples(50, soak=5_000)
    @hypothesis.given(scripts(durable=durable), st.integers(0, 1_000))
    def machine(script: Script, seed: int) -> None:
        run(
            script,
            lambda: SimulatedNetwork(seed, duplicate=0.1, unsure=0.1),
            backend=backend,
            backend_options=virtual_time(backend),
            durable=durable,
        )

    machine()


def make_server(manager: PostgresManager) -> AnyIOServer:
    server = AnyIOServer(client_manager=manager, namespaces="*")

    @server.event
    async def say(sid: str, text: str) -> None:
        await server.emit("said", text)

    server.on("say", say, namespace="/chat")
    return server


def test_actions_and_check_of_the_user() -> None:
    said = 0
    checked = 0

    async def say(client: SimulatedClient, namespace: str) -> None:
        nonlocal said
        said += 1
        await client.call("say", "hello", namespace=namespace)

    async def check(cluster: SimulatedCluster) -> None:
        nonlocal checked
        # what is not the script's own is left alone
        nodes = [node for node in cluster.nodes if node.running]
        checked += any(["said", "hello"] in c.received() for n in nodes for c in n.clients)

    @examples(20, soak=500)
    @hypothesis.given(scripts(actions=1, steps=(30, 60), faults=[]))
    def machine(script: Script) -> None:
        run(
            script,
            SimulatedNetwork,
            backend_options=virtual_time("asyncio"),
            make_server=make_server,
            actions=[say],
            check=check,
        )

    machine()
    assert said
    assert checked


def test_the_stock_server() -> None:
    def make_stock(manager: PostgresManager) -> socketio.AsyncServer:
        return socketio.AsyncServer(async_mode="asgi", client_manager=manager, namespaces="*")

    async def main() -> None:
        async with SimulatedCluster(SimulatedNetwork(), make_server=make_stock) as cluster:
            one = await cluster.start()
            two = await cluster.start()
            alice = await one.connect()
            bob = await two.connect("/chat")
            await two.server.enter_room(alice.sid, "lobby")
            await two.server.emit("said", "hello", room="lobby")
            await one.server.emit("said", "hello there", namespace="/chat")
            await cluster.quiet()
            assert alice.received() == [["said", "hello"]]
            assert bob.received("/chat") == [["said", "hello there"]]

    anyio.run(main, backend_options=virtual_time("asyncio"))


async def lonely(stage: Stage, cluster: SimulatedCluster) -> None:
    node = await stage.start()
    client = await stage.connect(node, "/")
    stage.expect(client, "/", [1])
    await stage.quiet()


@BACKENDS
def test_a_failure_is_raised_as_it_is(uri: str, backend: str) -> None:
    with pytest.raises(AssertionError, match=r"client1@node1 in / did not get \[1\]"):
        run(lonely, uri, backend=backend)


def test_a_failing_script_is_printed_as_a_program(uri: str, tmp_path: Path) -> None:
    lines = [
        "node1 = await stage.start()",
        "node2 = await stage.start()",
        'client1 = await stage.connect(node1, "/")',
        'await node2.server.emit("node2", (1, LARGE))',
        'stage.expect(client1, "/", [2])',
        "await stage.quiet()",
    ]
    with pytest.raises(AssertionError) as caught:
        run(Script(lines, durable=True), uri, durable=True)
    (note,) = caught.value.__notes__
    code = note.partition("\n\n")[2]
    assert "postgresql://localhost/postgres" in code
    for expected, failure in (("[2]", "got what was not for it: [1]"), ("[1]", "")):
        program = tmp_path / "program.py"
        program.write_text(
            code.replace("postgresql://localhost/postgres", uri).replace("[2]", expected)
        )
        done = subprocess.run(
            [sys.executable, program], capture_output=True, text=True, check=False, timeout=60
        )
        assert failure in done.stderr
        assert bool(done.returncode) == bool(failure), done.stderr


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match="pip install hypothesis"):
        scripts()


def test_unknown_faults() -> None:
    with pytest.raises(ValueError, match="faults are stop, crash, cut; not flood"):
        scripts(faults=["cut", "flood"])
