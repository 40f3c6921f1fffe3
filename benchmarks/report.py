"""Tables and plots from the results: medians of the rounds, and ratios of what one round measured."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from support import Record, Results

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FIGURES = FOLDER.parent / "docs" / "explanation" / "figures"

ASYNCIO = "PostgresManager, asyncio"
TRIO = "PostgresManager, Trio"
REDIS = "AsyncRedisManager"
HIREDIS = "AsyncRedisManager, hiredis"
NODE_POSTGRES = "@socket.io/postgres-adapter"
NODE_REDIS = "@socket.io/redis-adapter"
PIPE = "bare libpq pipe"
ROUND_TRIP = "bare round trip"
STOCK = "AsyncManager"

ORDER = (
    ROUND_TRIP,
    f"{ROUND_TRIP}, asyncio",
    f"{ROUND_TRIP}, 3 answers",
    REDIS,
    HIREDIS,
    NODE_REDIS,
    NODE_POSTGRES,
    "socketio-pg-manager",
    PIPE,
    "bare pipe, asyncio",
    STOCK,
    "AnyIOManager, asyncio",
    "AnyIOManager, Trio",
    ASYNCIO,
    TRIO,
)

PROGRAMS = ("cores", "system", "Python", "PostgreSQL", "Redis", "Node")

MISSING = "This has not been measured."

Case = dict[str, Any]
Value = float | None


@dataclass(frozen=True)
class Target:
    """What is aimed at: a figure of ours over that of another contestant, or by itself."""

    what: str
    words: str
    measure: str
    case: Case
    figure: str
    met: Callable[[float], bool] | None
    """None: it is only told."""
    base: str | None = None
    """None: the figure is taken by itself."""
    ours: tuple[str, str] = (ASYNCIO, TRIO)
    unit: str = ""


@dataclass(frozen=True)
class Detail:
    """A table of one case: a row for each contestant, a column for each figure.

    The first figure also gets its least and most, and its ratio to the base's, unless ``base`` is
    empty; of several bases the first that took part counts.
    """

    title: str
    case: Case
    figures: dict[str, str]
    base: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pivot:
    """A table of one figure: a row for each contestant, a column for each case."""

    title: str
    figure: str
    column: Callable[[Case], str | None]
    """The heading of a case's column; None where the table is not about it."""
    base: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """What the report has of one measure."""

    tables: Sequence[Detail | Pivot]
    plots: dict[str, str] = field(default_factory=dict)
    """What ``plots.py`` draws: the names of its functions, and what they show."""
    measure: str = ""
    """Whose results they are, where a measure has several sections; else the section's name."""


def at_least(factor: float) -> Callable[[float], bool]:
    return lambda ratio: ratio >= factor


def at_most(factor: float) -> Callable[[float], bool]:
    return lambda ratio: ratio <= factor


SMALL: Case = {"bytes": 100, "binary": False}


def size_of(*, binary: bool) -> Callable[[Case], str | None]:
    def column(case: Case) -> str | None:
        size: int = case["bytes"]
        text = f"{size} B" if size < 1_000 else f"{size // 1_000} kB"
        return text if case["binary"] == binary else None

    return column


def count(
    key: str, what: str = "", where: Case | None = None, *, but: str = ""
) -> Callable[[Case], str | None]:
    """Return what makes headings of a number in cases, of which some may not be meant."""

    def column(case: Case) -> str | None:
        if key not in case or but in case or not (where or {}).items() <= case.items():
            return None
        return f"{case[key]:,} {what}".strip()

    return column


def part(name: str, key: str, what: str = "") -> Callable[[Case], str | None]:
    return count(key, what, {"part": name})


def call_of(sockets: int) -> Callable[[Case], str | None]:
    def column(case: Case) -> str | None:
        return f"{case['call']} of {case['of']}" if case["sockets"] == sockets else None

    return column


def room_of(case: Case) -> str | None:
    return f"{case['room']:,} of {case['of']:,}" if "room" in case else None


def target(
    what: str,
    measure: str,
    case: Case,
    figure: str,
    base: str | None,
    words: str,
    met: Callable[[float], bool] | None,
) -> Target:
    return Target(what, words, measure, case, figure, met, base)


EVENTS = "events a second, 100 B"
LATE = "99th percentile at 1,000 events a second"
LOOPS = "one loop over the other, events a second, 100 B"

TARGETS: Sequence[Target] = (
    target(EVENTS, "events", SMALL, "rate", REDIS, "at least 12", at_least(12)),
    target(EVENTS, "events", SMALL, "rate", HIREDIS, "", None),
    target(EVENTS, "events", SMALL, "rate", NODE_POSTGRES, "at least 12", at_least(12)),
    target(EVENTS, "events", SMALL, "rate", NODE_REDIS, "at least 3", at_least(3)),
    target(EVENTS, "events", SMALL, "rate", PIPE, "at least 0.5", at_least(0.5)),
    target(LATE, "latency", {"rate": 1_000}, "p99_ms", REDIS, "at most 1", at_most(1)),
    target(LATE, "latency", {"rate": 1_000}, "p99_ms", HIREDIS, "at most 1", at_most(1)),
    target(
        "deliveries to 1,000 local sockets",
        "deliveries",
        {"sockets": 1_000},
        "rate",
        STOCK,
        "at least 15",
        at_least(15),
    ),
    target(
        "events a second, 16 nodes",
        "nodes",
        {"nodes": 16},
        "rate",
        NODE_POSTGRES,
        "at least 10",
        at_least(10),
    ),
    *(
        target(
            f"{call}, {of}, {sockets:,} sockets",
            "questions",
            {"call": call, "of": 1, "sockets": sockets},
            "p50_ms",
            base,
            words,
            met,
        )
        for call, of in (("clients", "a room of 1"), ("client_rooms", "a client elsewhere"))
        for sockets in (40, 10_000)
        for base, words, met in (
            (ROUND_TRIP, "at most 2", at_most(2)),
            (f"{ROUND_TRIP}, 3 answers", "", None),
        )
    ),
    *(
        target(what, "idle", {"nodes": 1}, figure, None, words, met)
        for what, figure, words, met in (
            ("idle node, notifications a minute", "notify_min", "at most 12", at_most(12.5)),
            ("idle node, other statements a minute", "other_min", "0", at_most(0)),
        )
    ),
    Target(LOOPS, "at least 0.7", "events", SMALL, "rate", at_least(0.7), TRIO, (ASYNCIO, "")),
    Target(LOOPS, "at least 0.7", "events", SMALL, "rate", at_least(0.7), ASYNCIO, ("", TRIO)),
)
"""What is aimed at."""

MICROSECONDS = {
    "sender_us": "sender, µs",
    "receiver_us": "receiver, µs",
    "server_us": "server, µs",
}
BESIDE_HIREDIS = f"; in brackets beside {HIREDIS}"

IN_BATCHES = "; in brackets beside plain batches"

SECTIONS: dict[str, Section] = {
    "events": Section(
        (
            Detail(
                "Events of 100 bytes, and the CPU time for each",
                SMALL,
                {"rate": "events/s", **MICROSECONDS, "lost": "lost"},
                (REDIS,),
            ),
            Pivot(
                f"Events a second, text{BESIDE_HIREDIS}", "rate", size_of(binary=False), (HIREDIS,)
            ),
            Pivot(
                f"Events a second, binary{BESIDE_HIREDIS}", "rate", size_of(binary=True), (HIREDIS,)
            ),
        ),
        {
            "rate_by_size": "Events a second, by the size of an event",
            "cpu_by_party": "CPU time for an event of 100 bytes",
        },
    ),
    "layers": Section(
        (
            Pivot(
                "CPU time of an event of 100 bytes by what it goes into, µs",
                "us",
                lambda case: f"{case['process']}, {case['manager'].rpartition(' ')[2]}",
            ),
        ),
    ),
    "latency": Section(
        (
            Pivot(
                f"Median of the latency in ms{BESIDE_HIREDIS}",
                "p50_ms",
                count("rate", "events/s"),
                (HIREDIS,),
            ),
            Pivot(
                f"99th percentile of the latency in ms, of all rounds together{BESIDE_HIREDIS}",
                "pooled_p99_ms",
                count("rate", "events/s"),
                (HIREDIS,),
            ),
        ),
        {"latency_by_rate": "Latency, by rate"},
    ),
    "nodes": Section(
        (
            Pivot(
                f"Events a second to all nodes, by their number{BESIDE_HIREDIS}",
                "rate",
                count("nodes", "nodes", but="idle"),
                (HIREDIS,),
            ),
            Pivot(
                "Events a second between two nodes, beside idle ones",
                "rate",
                count("idle", "idle"),
            ),
        ),
        {"rate_by_nodes": "Events a second to all nodes, by their number"},
    ),
    "deliveries": Section(
        (
            Pivot(
                f"Deliveries a second to all sockets of a process; in brackets beside {STOCK}",
                "rate",
                count("sockets"),
                (STOCK,),
            ),
            Pivot(
                f"Deliveries a second to a room; in brackets beside {STOCK}",
                "rate",
                room_of,
                (STOCK,),
            ),
        ),
        {"deliveries_by_sockets": "Deliveries a second, by the number of local sockets"},
    ),
    "questions": Section(
        tuple(
            Pivot(
                f"{sockets:,} sockets on 4 nodes: medians in ms; in brackets beside a {ROUND_TRIP}",
                "p50_ms",
                call_of(sockets),
                (ROUND_TRIP,),
            )
            for sockets in (40, 10_000)
        ),
    ),
    "rooms": Section(
        (
            Detail(
                "Joins and leaves of own clients",
                {"change": "own client", "sockets": 1},
                {"rate": "a second", "cpu_us": "CPU, µs"},
                (STOCK,),
            ),
            Pivot(
                f"Joins and leaves of clients elsewhere a second{BESIDE_HIREDIS}",
                "rate",
                count("sockets", "at a time", {"change": "clients elsewhere"}),
                (HIREDIS,),
            ),
            Pivot(
                "Calls of remote_join a second, each until it is done",
                "rate",
                count("at_once", "at once"),
            ),
            Pivot(
                f"Bytes for one more; in brackets beside {STOCK}",
                "bytes",
                lambda case: case.get("memory"),
                (STOCK,),
            ),
        ),
    ),
    "idle": Section(
        tuple(
            Detail(
                what,
                {"nodes": nodes},
                {
                    "wakeups_min": "wake-ups a minute",
                    "notify_min": "notifications",
                    "other_min": "other statements",
                    "cpu_ms_min": "CPU, ms",
                },
            )
            for nodes, what in ((1, "A node by itself"), (2, "One of two nodes"))
        ),
    ),
    "websocket_clients": Section(
        (
            Detail(
                "Deliveries to 1,000 WebSocket clients",
                {"bytes": 100, "clients": 1_000},
                {
                    "rate": "deliveries/s",
                    "cpu_us": "CPU for each, µs",
                    "kb": "kB for a connection",
                },
                ("AsyncServer, uvicorn on asyncio",),
            ),
        ),
    ),
    "capacity_listeners": Section(
        (
            Pivot(
                f"Messages a second to all listening sessions, by their number{IN_BATCHES}",
                "rate",
                part("listeners", "listeners"),
                ("in batches",),
            ),
            Pivot(
                "CPU time of PostgreSQL's end of the sending session for a message, in µs",
                "sender_cpu_us",
                part("listeners", "listeners"),
            ),
            Pivot(
                "CPU time of PostgreSQL's end of each listening session for a message, in µs",
                "listener_cpu_us",
                part("listeners", "listeners"),
            ),
        ),
        {"capacity_listeners": "Messages a second to all listening sessions, by their number"},
        "capacity",
    ),
    "capacity_sizes": Section(
        (
            Pivot(
                "Messages a second to 8 listening sessions, by the size of the event",
                "rate",
                part("sizes", "bytes", "B"),
            ),
            Pivot("MB a second to each of the 8", "mb_each", part("sizes", "bytes", "B")),
            Pivot(
                "Messages a second to 8 listening sessions, by the number of senders",
                "rate",
                part("senders", "senders"),
            ),
        ),
        measure="capacity",
    ),
    "capacity_packed": Section(
        (
            Pivot(
                f"Messages a second to processes that decode them{IN_BATCHES}",
                "rate",
                part("decoding", "listeners", "listeners"),
                ("in batches",),
            ),
            Pivot(
                "CPU time of each of these processes for a message, in µs",
                "client_cpu_us",
                part("decoding", "listeners", "listeners"),
            ),
        ),
        measure="capacity",
    ),
    "capacity_application": Section(
        (
            Detail(
                "An application with 4 sessions, beside a cluster of 8 nodes",
                {"part": "application", "sessions": 4},
                {
                    "rate": "commits/s",
                    "p50_ms": "median, ms",
                    "p99_ms": "99th, ms",
                    "cluster_batch": "batch",
                    "cluster_cores": "cores",
                },
                ("the application alone",),
            ),
            Pivot(
                "An application's commits a second, by its sessions; in brackets beside those"
                " that do not notify",
                "rate",
                part("commits", "sessions"),
                ("commits",),
            ),
            Pivot(
                "What a statement of the cluster takes meanwhile, median in ms",
                "cluster_p50_ms",
                part("commits", "sessions"),
                ("commits",),
            ),
        ),
        {"capacity_commits": "An application's commits, and the cluster's meanwhile"},
        "capacity",
    ),
    "capacity_memory": Section(
        (Detail("Memory of PostgreSQL's end of a session", {"part": "memory"}, {"kb": "kB"}),),
        measure="capacity",
    ),
    "capacity_rows": Section(
        tuple(
            Detail(
                f"Rows for nodes that are away, {size:,} bytes, {how}",
                {"part": "rows", "bytes": size, "batch": batch},
                {
                    "rate": "messages/s",
                    "sender_cpu_us": "CPU, µs",
                    "wal_bytes": "log, B",
                    "deleted_wal_bytes": "deleting, B",
                    "table_bytes": "table, B",
                },
                ("notifications only",),
            )
            for size, batch, how in (
                (100, 512, "in batches"),
                (1_000, 512, "in batches"),
                (100, 1, "one by one"),
            )
        ),
        measure="capacity",
    ),
    "capacity_queue": Section(
        (
            Pivot(
                "Bytes of the queue that a message takes, by the size of the event",
                "bytes",
                part("queue", "bytes", "B"),
            ),
            Pivot(
                "Hours in which a listener that is stuck lets the queue fill, by the size of the"
                " event",
                "hours",
                part("queue", "bytes", "B"),
            ),
        ),
        measure="capacity",
    ),
}


# Figures


def records(results: Results, contestant: str, wanted: Case) -> Iterator[Record]:
    for record in results.records:
        if record.contestant == contestant and record.case == wanted:
            yield record


def values(results: Results, contestant: str, wanted: Case, figure: str) -> list[float]:
    return [
        record.figures[figure]
        for record in records(results, contestant, wanted)
        if figure in record.figures
    ]


def middle(results: Results, contestant: str, wanted: Case, figure: str) -> Value:
    found = values(results, contestant, wanted, figure)
    return median(found) if found else None


def ratio(results: Results, contestant: str, base: str, wanted: Case, figure: str) -> Value:
    """Return the median of the rounds' own ratios: load that comes and goes weighs on both."""
    below = {
        (str(record.case), record.round): record.figures[figure]
        for record in records(results, base, wanted)
        if figure in record.figures
    }
    found = [
        record.figures[figure] / below[key]
        for record in records(results, contestant, wanted)
        if figure in record.figures and below.get(key := (str(record.case), record.round))
    ]
    return median(found) if found else None


def contestants(results: Results, wanted: Case) -> list[str]:
    """Return who took part in a case, those that take part in many measures in one order."""
    names = dict.fromkeys(record.contestant for record in results.records if record.case == wanted)
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def cases(results: Results) -> list[Case]:
    found: dict[str, Case] = {}
    for record in results.records:
        found.setdefault(str(record.case), record.case)
    return list(found.values())


def base_of(results: Results, wanted: Case, bases: Iterable[str]) -> str | None:
    took_part = contestants(results, wanted)
    return next((base for base in bases if base in took_part), None)


def number(value: Value) -> str:
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size == 0:
        return "0"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


# Tables


@dataclass
class Table:
    """Text in rows, in whichever markup."""

    title: str
    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)
    strong: set[int] = field(default_factory=set)
    """The numbers of the rows that are ours."""

    def add(self, *cells: str) -> None:
        if "PostgresManager" in cells[0] or cells[0].startswith("AnyIO"):
            self.strong.add(len(self.rows))
        self.rows.append(list(cells))

    def markdown(self) -> str:
        lines = [
            f"**{self.title}**",
            "",
            _markdown_row(self.headings),
            "|" + "|".join(["---"] + ["---:"] * (len(self.headings) - 1)) + "|",
        ]
        for index, row in enumerate(self.rows):
            first = f"**{row[0]}**" if index in self.strong else row[0]
            lines.append(_markdown_row([first, *row[1:]]))
        return "\n".join(lines) + "\n"

    def rst(self) -> str:
        first = 34
        others = max(8, (100 - first) // max(1, len(self.headings) - 1))
        widths = " ".join([str(first)] + [str(others)] * (len(self.headings) - 1))
        lines = [
            f".. list-table:: {_rst(self.title)}",
            "   :header-rows: 1",
            f"   :widths: {widths}",
            "   :class: figures",
            "",
        ]
        for index, row in enumerate([self.headings, *self.rows]):
            for place, cell in enumerate(row):
                text = _rst(cell)
                if place == 0 and index - 1 in self.strong:
                    text = f"**{text}**"
                lines.append(f"   {'*' if place == 0 else ' '} - {text}".rstrip())
        return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _rst(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def detail_table(results: Results, spec: Detail) -> Table | None:
    took_part = contestants(results, spec.case)
    present = {
        figure: heading
        for figure, heading in spec.figures.items()
        if any(values(results, name, spec.case, figure) for name in took_part)
    }
    if not present:
        return None
    first, *others = present
    base = base_of(results, spec.case, spec.base)
    headings = ["", present[first], "least to most"]
    if base is not None:
        headings.append("ratio")
    table = Table(spec.title, headings + [present[figure] for figure in others])
    for name in took_part:
        found = values(results, name, spec.case, first)
        if not found:
            continue
        cells = [name, number(median(found)), f"{number(min(found))} to {number(max(found))}"]
        if base is not None:
            cells.append(number(ratio(results, name, base, spec.case, first)))
        cells += [number(middle(results, name, spec.case, figure)) for figure in others]
        table.add(*cells)
    return table


def pivot_table(results: Results, spec: Pivot) -> Table | None:
    columns = {
        heading: case for case in cases(results) if (heading := spec.column(case)) is not None
    }
    if not columns:
        return None
    table = Table(spec.title, ["", *columns])
    for name in dict.fromkeys(n for case in columns.values() for n in contestants(results, case)):
        cells = []
        for case in columns.values():
            cell = number(middle(results, name, case, spec.figure))
            base = base_of(results, case, spec.base)
            if base not in (None, name) and cell != "–":
                cell += f" (× {number(ratio(results, name, base, case, spec.figure))})"
            cells.append(cell)
        if set(cells) != {"–"}:
            table.add(name, *cells)
    return table if table.rows else None


def tables_of(results: Results) -> list[Table]:
    specs: list[Detail | Pivot] = [
        spec
        for name, section in SECTIONS.items()
        if results.measure == (section.measure or name)
        for spec in section.tables
    ]
    return tables_in(results, specs) or tables_in(results, every_case(results))


def every_case(results: Results) -> list[Detail]:
    """Return what shows all there is, for what nobody has said how to report."""
    return [
        Detail(
            ", ".join(f"{key} {value}" for key, value in case.items()) or results.title,
            case,
            {figure: figure for record in results.records for figure in record.figures},
        )
        for case in cases(results)
    ]


def tables_in(results: Results, specs: Iterable[Detail | Pivot]) -> list[Table]:
    found = [
        detail_table(results, spec) if isinstance(spec, Detail) else pivot_table(results, spec)
        for spec in specs
    ]
    return [table for table in found if table is not None]


def summary(everything: dict[str, Results]) -> Table:
    table = Table(
        "The targets, and what was measured",
        ["", "beside", "target", "asyncio", "Trio", "met"],
    )
    for target in TARGETS:
        results = everything.get(target.measure)
        if results is None:
            continue
        figures: list[Value] = []
        for name in target.ours:
            if target.base is None:
                figures.append(middle(results, name, target.case, target.figure))
            else:
                figures.append(ratio(results, name, target.base, target.case, target.figure))
        present = [figure for figure in figures if figure is not None]
        if not present:
            continue
        verdict = ""
        if target.met is not None:
            verdict = "yes" if all(map(target.met, present)) else "no"
        table.add(
            target.what,
            target.base or "",
            target.words or "–",
            *(number(figure) for figure in figures),
            verdict,
        )
    return table


# The whole


def about(everything: dict[str, Results]) -> list[str]:
    """Say what the figures depend on: the machine, the versions, the runs."""
    if not everything:
        return [MISSING]
    lines = []
    runs: dict[tuple[str, str], list[str]] = {}
    machines: dict[str, list[str]] = {}
    for results in everything.values():
        runs.setdefault((results.run, results.date), []).append(results.measure)
        # a measure without Redis does not know its version
        for key, value in results.machine.items():
            machines.setdefault(key, [])
            if str(value) not in machines[key]:
                machines[key].append(str(value))
    if len(runs) == 1:
        ((_, date),) = runs
        lines.append(f"All of it is from one run ({date}).")
    else:
        parts = "; ".join(f"{', '.join(names)} on {date}" for (_, date), names in runs.items())
        lines.append(
            f"These are from {len(runs)} runs, whose figures do not compare with each other: {parts}."
        )
    if any(results.options.quick for results in everything.values()):
        lines.append("Only tried out with the option quick: the figures mean nothing.")
    rounds = [
        max(record.round for record in results.records if record.case == case)
        for results in everything.values()
        for case in cases(results)
    ]
    least, most = min(rounds), max(rounds)
    lines.append(
        f"{most if least == most else f'{least} to {most}'} rounds of each. The figures are their"
        " medians, and a ratio is the median of the rounds' own ratios."
    )
    facts = {key: f"{key} {' and '.join(value)}" for key, value in machines.items()}
    programs = [facts.pop(key) for key in PROGRAMS if key in facts]
    packages = facts.values()
    lines.append(f"{', '.join(programs)}; with {', '.join(packages)}.")
    return lines


def load(folder: Path) -> dict[str, Results]:
    found = [Results.load(file) for file in sorted(folder.glob("*.json"))]
    order = [section.measure or name for name, section in SECTIONS.items()]
    found.sort(key=lambda r: order.index(r.measure) if r.measure in order else len(order))
    return {results.measure: results for results in found}


def write(folder: Path, figures: Path) -> None:
    """Write the tables and plots of all that a folder has results of."""
    everything = load(folder)
    figures.mkdir(parents=True, exist_ok=True)
    drawn = draw(everything, figures)
    targets = summary(everything)
    told = about(everything)

    text = ["# Results", "", *(f"- {line}" for line in told), ""]
    if targets.rows:
        text += [targets.markdown()]
    for results in everything.values():
        text += [f"## {results.title}", ""]
        text += [table.markdown() for table in tables_of(results)]
        text += [f"- {note}" for note in results.notes]
        text += [""] * bool(results.notes)
    (folder / "README.md").write_text("\n".join(text).rstrip() + "\n")

    (figures / "about.inc").write_text("".join(f"- {_rst(line)}\n" for line in told))
    (figures / "summary.inc").write_text(targets.rst() if targets.rows else f"{MISSING}\n")
    for name, section in SECTIONS.items():
        parts: list[str] = []
        if (measure := section.measure or name) in everything:
            results = everything[measure]
            parts += [
                f".. image:: figures/{plot}.*\n   :alt: {title}\n"
                for plot, title in section.plots.items()
                if plot in drawn
            ]
            parts += [table.rst() for table in tables_in(results, section.tables)]
            parts += [f"- {_rst(note)}" for note in results.notes]
        (figures / f"{name}.inc").write_text("\n".join(parts) or f"{MISSING}\n")


def draw(everything: dict[str, Results], folder: Path) -> set[str]:
    """Draw the plots and return the names of those that are there."""
    try:
        import capacity_plots
        import plots
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
        print("matplotlib is not installed: no plots", file=sys.stderr)
        return {file.stem for file in folder.glob("*.svg")}
    return plots.draw(everything, folder, capacity_plots.PLOTS)
