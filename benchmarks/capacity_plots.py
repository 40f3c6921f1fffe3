"""The plots of what one PostgreSQL carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plots import (
    BLUE,
    COLOURS,
    INK,
    MUTED,
    WIDTH,
    Plots,
    Series,
    curves,
    lines,
    log_axis,
    name_lines,
    series,
    tick,
)
from support import Results

RED = "#c0392b"

COLOURS |= {
    "in batches": BLUE,
    "in batches, packed": "#7ea6ea",
    "one by one": RED,
    "one by one, another channel": "#e07f74",
    "one by one, another database": "#5b6370",
    "commits": BLUE,
    "commits that notify": RED,
}


def place(part: str, key: str) -> Callable[[dict[str, Any]], float | None]:
    # a logarithmic axis has no place for none
    return lambda case: (case[key] or None) if case.get("part") == part else None


def rate_by_listeners(results: Results) -> Figure | None:
    return curves(
        series(results, "rate", place("listeners", "listeners")),
        "Messages a second, by the number of listening sessions",
        "listening sessions",
    )


def commits_by_sessions(results: Results) -> Figure | None:
    where = place("commits", "sessions")
    parts: dict[str, Series] = {
        "Commits a second": series(results, "rate", where),
        "A statement of the cluster meanwhile, median in ms": series(
            results, "cluster_p50_ms", where
        ),
    }
    if not all(parts.values()):
        return None
    figure = Figure(figsize=(WIDTH, 4.2))
    for number, (title, found) in enumerate(parts.items()):
        axes: Axes = figure.add_axes((0.075 + number * 0.39, 0.13, 0.33, 0.72))
        log_axis(axes, "x", sorted({x for points in found.values() for x, _ in points}))
        log_axis(axes, "y")
        axes.grid(visible=False, axis="x")
        lines(axes, found)
        axes.margins(x=0.06, y=0.1)
        axes.set_title(title, fontsize=10, fontweight="normal", color=MUTED)
        tick(axes.yaxis)
        if number:
            name_lines(axes, found)
    figure.text(0.435, 0.015, "the application's sessions", ha="center", color=MUTED)
    figure.text(
        0.02,
        0.945,
        "An application's commits, with and without a NOTIFY in each",
        color=INK,
        fontsize=11,
        fontweight="bold",
    )
    return figure


PLOTS: Plots = {
    "capacity_listeners": ("capacity", rate_by_listeners),
    "capacity_commits": ("capacity", commits_by_sessions),
}
