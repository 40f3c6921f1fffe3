"""The benchmarks: the one command runs, and its report tells what the results say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
LONG = 300
"""Seconds, on a machine that has more to do."""

# "nodes" is not here: it is "events" with more processes, which take long to start; and "layers"
# needs a profiler
BESIDE_REDIS = ("events", "latency", "rooms", "idle")
BY_ITSELF = ("deliveries", "questions", "websocket_clients", "capacity")
ASYNCIO, TRIO, REDIS = "PostgresManager, asyncio", "PostgresManager, Trio", "AsyncRedisManager"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(RUN), *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("names", [BY_ITSELF, BESIDE_REDIS], ids=["by_itself", "beside_redis"])
def test_every_measure_runs_and_is_reported(names: tuple[str, ...], tmp_path: Path) -> None:
    run("--quick", "--only", ",".join(names), "--results", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    runs = set()
    for name in names:
        results = json.loads((tmp_path / f"{name}.json").read_text())
        assert results["measure"] == name
        if name not in ("websocket_clients", "capacity"):
            assert {ASYNCIO, TRIO} <= {r["contestant"] for r in results["records"]}
        assert f"\n## {results['title']}\n\n**" in text
        runs.add(results["run"])
    assert len(runs) == 1
    assert "from one run" in text
    assert "the figures mean nothing" in text
    figures = tmp_path / "figures"
    assert (figures / "summary.inc").exists()
    drawn = {file.stem for file in figures.glob("*.svg")}
    assert drawn
    assert drawn == {file.stem for file in figures.glob("*.png")}
    assert all(file.stat().st_size < 100_000 for file in figures.glob("*.svg"))


def results(name: str, run: str, rates: dict[str, list[float]], case: Any) -> dict[str, Any]:
    return {
        "measure": name,
        "title": f"The {name}",
        "machine": {"cores": 2},
        "options": {"rounds": 3, "seconds": 1.0, "quick": False},
        "records": [
            {"contestant": who, "case": case, "round": number, "figures": {"rate": rate}}
            for who, each in rates.items()
            for number, rate in enumerate(each, 1)
        ],
        "notes": ["something to know"],
        "run": run,
        "date": "2026-01-02",
        "seconds": 1.0,
    }


def test_ratios_are_of_the_rounds(tmp_path: Path) -> None:
    # a machine whose speed changes from round to round, and with it everyone's
    rates = {
        REDIS: [1_000.0, 4_000.0, 2_000.0],
        ASYNCIO: [13_000.0, 52_000.0, 26_000.0],
        TRIO: [11_000.0, 80_000.0, 22_000.0],
    }
    case = {"bytes": 100, "binary": False}
    (tmp_path / "events.json").write_text(json.dumps(results("events", "a", rates, case)))
    run("--report", "--results", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    # the medians' ratio would be the same for asyncio only
    assert f"| **{ASYNCIO}** | 26,000 | 13,000 to 52,000 | 13.0 |" in text
    assert f"| **{TRIO}** | 22,000 | 11,000 to 80,000 | 11.0 |" in text
    # one of the two loops does not meet it
    assert f"| events a second, 100 B | {REDIS} | at least 12 | 13.0 | 11.0 | no |" in text
    assert "- something to know" in text
    assert "from one run" in text


def test_figures_of_several_runs_are_told_apart(tmp_path: Path) -> None:
    rates = {"AsyncManager": [1.0], ASYNCIO: [20.0], TRIO: [15.0]}
    for name, which, case in (
        ("events", "a", {"bytes": 100, "binary": False}),
        ("deliveries", "b", {"sockets": 1_000}),
    ):
        text = json.dumps(results(name, which, rates, case))
        (tmp_path / f"{name}.json").write_text(text)
    run("--report", "--results", str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert "from 2 runs" in text
    assert (
        "| deliveries to 1,000 local sockets | AsyncManager | at least 15 | 20.0 | 15.0 | yes |"
    ) in text
    # what was not measured is said to be missing, where the documentation includes it
    assert "not been measured" in (tmp_path / "figures" / "latency.inc").read_text()


def test_an_unknown_measure_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--only", "everything"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no such measure: everything" in done.stderr


def test_what_the_readme_claims_was_measured() -> None:
    root = RUN.parents[1]
    claims = " ".join((root / "README.md").read_text().split())
    table = (root / "benchmarks" / "results" / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    for words, what, beside, least in (
        ("15 times as many a second as python-socketio's Redis manager", "events", REDIS, 15),
        (
            "8 times Node's PostgreSQL adapter",
            "events",
            "@socket.io/postgres-adapter",
            7.9,
        ),
        ("nearly twice Node's Redis adapter", "events", "@socket.io/redis-adapter", 1.8),
        ("20 times as many as python-socketio's own manager", "deliveries", "AsyncManager", 20),
    ):
        assert words in claims
        (row,) = (
            r for r in rows if r[0].startswith(what) and r[1:2] == [beside] and "16" not in r[0]
        )
        assert min(map(float, row[3:5])) >= least
