"""The plots of the report: one look for each contestant in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from report import (
    ASYNCIO,
    HIREDIS,
    NODE_POSTGRES,
    NODE_REDIS,
    PIPE,
    REDIS,
    SMALL,
    STOCK,
    TRIO,
    cases,
    contestants,
    middle,
)
from support import Results

BLUE = "#1457c8"
TEAL = "#008573"
INK = "#22262e"
MUTED = "#5b6370"
GRID = "#e4e7ec"

COLOURS = {
    ASYNCIO: BLUE,
    TRIO: TEAL,
    "AnyIOManager, asyncio": "#7ea6ea",
    "AnyIOManager, Trio": "#6cbfb3",
    "PostgresManager, durable=True": "#3c3f94",
    'PostgresManager, durable="unlogged"': "#8185d6",
    REDIS: "#c0392b",
    HIREDIS: "#e07f74",
    NODE_POSTGRES: "#d98a00",
    NODE_REDIS: "#9b59b6",
    "socketio-pg-manager": "#8c6d46",
    PIPE: "#22262e",
    "bare pipe, asyncio": "#7a828e",
    STOCK: "#c0392b",
}
OTHER_COLOURS = ("#1457c8", "#d98a00", "#9b59b6", "#008573", "#c0392b", "#5b6370")
OURS = (ASYNCIO, TRIO)
THICKNESS = {ASYNCIO: 3.6, TRIO: 1.8}
MARKERS = {PIPE: ""}

WIDTH = 8.0
"""Inches; in the docs a figure is about 46 em wide."""

STYLE = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#b8bec8",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.size": 0,
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "legend.frameon": False,
    # text stays text: small files, and sharp in each browser
    "svg.fonttype": "none",
    # the same data give the same file
    "svg.hashsalt": "anyio-sio-pg",
}

_FEW = 300
"""An axis from one end to the other, where powers of ten alone are too few ticks."""

LABEL_GAP = 0.052
"""Of an axes' height, between two labels at the ends of lines."""

Series = dict[str, list[tuple[float, float]]]


Plots = dict[str, tuple[str, Callable[[Results], Figure | None]]]


def draw(everything: dict[str, Results], folder: Path, more: Plots) -> set[str]:
    """Draw what there are results for and return the names of the plots."""
    drawn: set[str] = set()
    with mpl.rc_context(STYLE):
        for name, (measure, make) in (PLOTS | more).items():
            if measure not in everything:
                continue
            figure = make(everything[measure])
            if figure is None:
                continue
            save(figure, folder / name)
            drawn.add(name)
    return drawn


def save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(
        path.with_suffix(".png"),
        dpi=144,
        metadata={"Software": None},
        pil_kwargs={"optimize": True},
    )


# Parts of plots


def series(
    results: Results, figure: str, place: Callable[[dict[str, Any]], float | None]
) -> Series:
    """Return each contestant's medians, by where a case is on the axis (None: nowhere)."""
    found: Series = {}
    for case in cases(results):
        x = place(case)
        if x is None:
            continue
        for name in contestants(results, case):
            y = middle(results, name, case, figure)
            if y is not None:
                found.setdefault(name, []).append((x, y))
    return {name: sorted(points) for name, points in found.items()}


def colour_of(name: str, number: int = 0) -> str:
    return COLOURS.get(name) or OTHER_COLOURS[number % len(OTHER_COLOURS)]


def lines(axes: Axes, found: Series) -> None:
    """Draw lines, ours last and thicker: the thinner of the two is seen on the other."""
    for number, (name, points) in enumerate(found.items()):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour_of(name, number),
            linewidth=THICKNESS.get(name, 1.4),
            linestyle=(0, (4, 2)) if name == PIPE else "-",
            marker=MARKERS.get(name, "o"),
            markersize=6.5 if name == ASYNCIO else 4.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            zorder=2.5 + THICKNESS.get(name, 0) / 100 + (name == TRIO),
        )


def name_lines(axes: Axes, found: Series) -> None:
    """Write each line's name at its end, once the axes' limits are what they will be."""
    last = max(x for points in found.values() for x, _ in points)
    ends: list[tuple[float, str, str]] = []
    for number, (name, points) in enumerate(found.items()):
        x, y = points[-1]
        if x == last:
            ends.append((y, name, colour_of(name, number)))
            continue
        axes.annotate(
            name,
            (x, y),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour_of(name, number),
            va="center",
            fontsize=9,
        )
    name_ends(axes, ends)


def name_ends(axes: Axes, ends: Iterable[tuple[float, str, str]]) -> None:
    """Write names right of the axes, each as near to its line's end as the others let it."""
    # where they want to be, as a share of the axes' height
    to_share = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    wanted = sorted(
        (float(to_share.transform((x, y))[1]), name, colour) for y, name, colour in ends
    )
    for place, (_, name, colour) in zip(spread([w for w, _, _ in wanted]), wanted, strict=True):
        axes.annotate(
            name,
            (1.0, place),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9,
            fontweight="bold" if name in OURS else "normal",
            annotation_clip=False,
        )


def spread(places: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Move sorted places apart, as little as it takes."""
    groups: list[list[float]] = []
    # a group is [its places' sum, how many there are]: those that touch share their middle
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1:
            (low_sum, low_count), (high_sum, high_count) = groups[-2:]
            top = low_sum / low_count + (low_count - 1) * gap / 2
            bottom = high_sum / high_count - (high_count - 1) * gap / 2
            if bottom - top >= gap:
                break
            groups[-2:] = [[low_sum + high_sum, low_count + high_count]]
    found: list[float] = []
    for total, count in groups:
        first = total / count - (count - 1) * gap / 2
        found += [first + number * gap for number in range(round(count))]
    return found


def plain(value: float, _: Any = None) -> str:
    if value >= 1_000_000:
        return f"{value / 1e6:g} M"
    if value >= 1:
        return f"{value:,.0f}"
    return f"{value:g}"


def size(value: float, _: Any = None) -> str:
    return f"{value:.0f} B" if value < 1_000 else f"{value / 1_000:.0f} kB"


def log_axis(axes: Axes, which: str, values: Sequence[float] = ()) -> None:
    """Make an axis logarithmic, with ticks at values or at powers of ten."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain))
    if values:
        axis.set_ticks(list(values))


def tick(axis: Axis) -> None:
    """Give a logarithmic axis more ticks where it has few powers of ten."""
    low, high = axis.get_view_interval()
    if high / low < _FEW:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def one(height: float = 4.4, right: float = 0.73) -> tuple[Figure, Axes]:
    """Return a figure with one axes and room for names on its right."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.085, 0.13, right - 0.085, 0.77))
    return figure, axes


def curves(
    found: Series, title: str, x_label: str, ticks: Callable[[float, Any], str] = plain
) -> Figure | None:
    if not found:
        return None
    figure, axes = one()
    places = sorted({x for points in found.values() for x, _ in points})
    log_axis(axes, "x", places)
    log_axis(axes, "y")
    axes.xaxis.set_major_formatter(FuncFormatter(ticks))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(x_label)
    axes.set_title(title, pad=12)
    lines(axes, found)
    axes.margins(x=0.03, y=0.08)
    tick(axes.yaxis)
    name_lines(axes, found)
    return figure


# Plots


def rate_by_size(results: Results) -> Figure | None:
    found = series(
        results,
        "rate",
        lambda case: None if case["binary"] else case["bytes"],
    )
    # one that has only the smallest size is no curve
    found = {name: points for name, points in found.items() if len(points) > 1} or found
    return curves(found, "Events a second, by the size of an event", "size of an event", size)


def rate_by_nodes(results: Results) -> Figure | None:
    found = series(results, "rate", lambda case: None if case.get("idle") else case.get("nodes"))
    return curves(found, "Events a second, by the number of nodes", "nodes")


def deliveries_by_sockets(results: Results) -> Figure | None:
    found = series(results, "rate", lambda case: case.get("sockets"))
    return curves(found, "Deliveries a second, by the number of local sockets", "local sockets")


def latency_by_rate(results: Results) -> Figure | None:
    parts = {
        "Median": series(results, "pooled_p50_ms", lambda case: case["rate"]),
        "99th percentile": series(results, "pooled_p99_ms", lambda case: case["rate"]),
    }
    if not all(parts.values()):
        return None
    figure = Figure(figsize=(WIDTH, 4.4))
    every = [y for found in parts.values() for points in found.values() for _, y in points]
    for number, (title, found) in enumerate(parts.items()):
        axes = figure.add_axes((0.075 + number * 0.345, 0.13, 0.315, 0.74))
        log_axis(axes, "x", sorted({x for points in found.values() for x, _ in points}))
        log_axis(axes, "y")
        axes.grid(visible=False, axis="x")
        axes.set_ylim(min(every) / 1.3, max(every) * 1.3)
        lines(axes, found)
        axes.margins(x=0.06)
        axes.set_title(title, fontsize=10, fontweight="normal", color=MUTED)
        tick(axes.yaxis)
        if number:
            axes.tick_params(labelleft=False)
            name_lines(axes, found)
    figure.text(0.405, 0.015, "events a second", ha="center", color=MUTED)
    figure.text(0.02, 0.945, "Latency in ms, by rate", color=INK, fontsize=11, fontweight="bold")
    return figure


PARTIES = {
    "sender_us": ("sender", "#2f3e5c"),
    "receiver_us": ("receiver", "#7d93b8"),
    "server_us": ("PostgreSQL or Redis", "#cdd4de"),
}


def cpu_by_party(results: Results) -> Figure | None:
    names = [
        name
        for name in contestants(results, SMALL)
        if middle(results, name, SMALL, "sender_us") is not None
    ]
    if not names:
        return None

    def total(name: str) -> float:
        return sum(middle(results, name, SMALL, figure) or 0.0 for figure in PARTIES)

    names.sort(key=total)
    height = 1.0 + 0.36 * len(names)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.36, 0.15 / height, 0.58, 1 - 1.0 / height))
    starts = [0.0] * len(names)
    for party, (label, colour) in PARTIES.items():
        widths = [middle(results, name, SMALL, party) or 0.0 for name in names]
        axes.barh(names, widths, left=starts, height=0.62, color=colour, label=label)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, name in enumerate(names):
        axes.annotate(
            f"{total(name):,.0f}" if total(name) >= 20 else f"{total(name):.1f}",
            (total(name), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, max(starts) * 1.08)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for label in axes.get_yticklabels():
        label.set_color(INK)
        if label.get_text() in OURS:
            label.set_fontweight("bold")
    figure.text(
        0.02,
        1 - 0.25 / height,
        "CPU time for an event of 100 bytes, in µs",
        color=INK,
        fontsize=11,
        fontweight="bold",
        va="center",
    )
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=3, fontsize=9, handlelength=1,
        handleheight=1, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip
    return figure


PLOTS: Plots = {
    "rate_by_size": ("events", rate_by_size),
    "cpu_by_party": ("events", cpu_by_party),
    "latency_by_rate": ("latency", latency_by_rate),
    "rate_by_nodes": ("nodes", rate_by_nodes),
    "deliveries_by_sockets": ("deliveries", deliveries_by_sockets),
}
"""What is drawn: from the results of which measure, and how."""
