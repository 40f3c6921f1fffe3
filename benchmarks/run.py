"""Runs the measures, one after the other, and makes the report of their results."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import report
from support import Options, awake

if TYPE_CHECKING:
    from support import Results

MEASURES = (
    "events",
    "latency",
    "nodes",
    "deliveries",
    "questions",
    "rooms",
    "idle",
    "websocket_clients",
    "capacity",
    "layers",
)

ASLEEP = ("idle", "latency", "rooms", "websocket_clients")
"""What is measured on a machine that may go to sleep.

Now and then a wake-up waits for a busy loop; and what keeps a core busy by itself needs none.
"""


@dataclass(frozen=True)
class Measure:
    """A module of this folder."""

    name: str
    title: str
    run: Callable[[Options], Awaitable[Results]]


def load(name: str) -> Measure:
    module: Any = importlib.import_module(name)
    return Measure(module.NAME, module.TITLE, module.run)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only see that all works: the figures mean nothing"
    )
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=None, help="5; with --quick 1")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="about, of one contestant in one round (1)"
    )
    parser.add_argument(
        "--results", metavar="FOLDER", type=Path, default=None, help="with --quick: build"
    )
    parser.add_argument(
        "--figures", metavar="FOLDER", type=Path, default=None, help="of the tables and plots"
    )
    parser.add_argument("--report", action="store_true", help="only make the report again")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",") if chosen.only else list(MEASURES)
    if unknown := set(chosen.only) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    if chosen.results is None:
        # what means nothing does not take the place of what does
        chosen.results = report.FOLDER / "build" if chosen.quick else report.RESULTS
    if chosen.figures is None:
        same = chosen.results == report.RESULTS
        chosen.figures = report.FIGURES if same else chosen.results / "figures"
    return chosen


def main() -> None:
    chosen = arguments()
    chosen.results.mkdir(parents=True, exist_ok=True)
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    options = Options(rounds=rounds, seconds=chosen.seconds, quick=chosen.quick)
    run = uuid.uuid4().hex[:8]
    failed: list[str] = []
    for name in [] if chosen.report else chosen.only:
        measure = load(name)
        print(f"{name}: {measure.title}", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            with awake() if name not in ASLEEP else nullcontext():
                results = anyio.run(measure.run, options)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - told, and the run fails
            # a run takes long: the others are measured all the same
            if isinstance(exc, SystemExit):
                print(f"{name}: {exc}", file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
            failed.append(name)
            continue
        results.run = run
        results.date = datetime.now(UTC).date().isoformat()
        results.seconds = round(time.monotonic() - started, 1)
        results.save(chosen.results)
        print(f"{name}: {results.seconds:.0f} s", file=sys.stderr, flush=True)
    report.write(chosen.results, chosen.figures)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
