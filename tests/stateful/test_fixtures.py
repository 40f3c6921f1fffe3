"""The fixtures that users get, as they use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = 'pytest_plugins = ["anyio_sio_pg.testing.fixtures"]\n'

TEST = """
import pytest

from anyio_sio_pg.testing import SimulatedCluster

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def test_a_cluster(postgres_network):
    async with SimulatedCluster(postgres_network) as cluster:
        a, b = await cluster.start(), await cluster.start()
        client = await b.connect()
        await a.server.emit("hello")
        await cluster.quiet()
        assert client.received() == [["hello"]]
"""


def test_users_run_clusters_on_an_embedded_postgres(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cluster.py").write_text(TEST)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
