"""The rooms of the house: who may import whom, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import anyio_sio_pg

PACKAGE = Path(anyio_sio_pg.__file__).parent
NAME = "anyio_sio_pg"

ORDER = [
    "errors",
    "options",
    "protocol",
    "protocol.messages",
    "protocol.values",
    "protocol.wire",
    "protocol.batch",
    "protocol.sequence",
    "protocol.membership",
    "protocol.requests",
    "protocol.cluster_schema",
    "protocol.cluster_wire",
    "protocol.chunks",
    "protocol.legacy_wire",
    "postgres",
    "postgres.connection",
    "postgres.patience",
    "postgres.schema",
    "postgres.log",
    "postgres.publisher",
    "postgres.listener",
    "postgres.presence",
    "reporting",
    "status",
    "open_requests",
    "base_manager",
    "local_manager",
    "connectivity",
    "arrivals",
    "namespace",
    "dead_nodes",
    "local_side",
    "node",
    "cluster_node",
    "legacy_node",
    "member",
    "calls",
    "manager",
    "emitter",
    "server.primitives",
    "server.outgoing",
    "server.timetable",
    "server.tasks",
    "server.base",
    "server.engine_socket",
    "server.engine_server",
    "server.socketio_server",
    "server",
    "",  # the package itself: the public names
    "testing",
    "demo",
]
"""Each imports only from those before it. ``testing`` and ``demo``, which use the public names as
anybody would, stand for all that is in them."""

WHOLE = ("testing", "demo")
"""The rooms whose inside is their own affair."""

FORBIDDEN_IN_PROTOCOL = {
    "anyio", "trio", "asyncio", "psycopg", "socketio", "engineio", "time", "random", "secrets",
    "uuid", "threading", "socket", "select", "selectors", "ssl", "os", "io", "subprocess",
    "logging",
}  # fmt: skip

MAY_TALK_TO_POSTGRESQL = ("postgres", "options", "testing", "demo")


def modules() -> list[str]:
    names = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(n.parts).removesuffix("__init__").rstrip(".") for n in names)


def test_the_documents_name_every_room() -> None:
    text = (PACKAGE.parents[1] / "docs" / "explanation" / "design.rst").read_text(encoding="utf-8")
    layout = text[text.index(".. code-block:: text") : text.index("What is in ``protocol``")]
    rooms = {word.rstrip("/,") for word in layout.split()}
    missing = [
        name for name in modules() if name.rpartition(".")[2] not in {*rooms, "", "__main__"}
    ]
    assert [name for name in missing if not name.startswith("demo")] == []


@cache
def source(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def is_package(module: str) -> bool:
    return not module or PACKAGE.joinpath(*module.split(".")).is_dir()


def imported(module: str) -> Iterator[str]:
    """Yield the full names that a module imports, wherever in it the statement stands."""
    for node in ast.walk(source(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = [node.module] if node.module else []
            if node.level:
                here = [NAME, *filter(None, module.split("."))]
                above = node.level - is_package(module)
                start = [*here[: len(here) - above], *start]
            base = ".".join(start)
            # "from . import options" names a module, "from .options import channel" does not
            yield from (
                f"{base}.{alias.name}" if within(f"{base}.{alias.name}") else base
                for alias in node.names
            )


def within(name: str) -> bool:
    """Tell whether a full name is one of this package's modules."""
    return name == NAME or (name.startswith(NAME + ".") and name[len(NAME) + 1 :] in modules())


def own_imports(module: str) -> set[str]:
    return {name[len(NAME) + 1 :] for name in imported(module) if within(name)}


def outside_imports(module: str) -> set[str]:
    return {name.split(".")[0] for name in imported(module)} - {NAME}


def room(module: str) -> str:
    top = module.split(".")[0]
    return top if top in WHOLE else module


def test_every_module_has_its_place() -> None:
    missing = {room(module) for module in modules()} - set(ORDER)
    assert not missing, f"give them their place in ORDER: {missing}"
    assert len(set(ORDER)) == len(ORDER)
    gone = set(ORDER) - {room(module) for module in modules()} - set(WHOLE)
    assert not gone, f"take them out of ORDER: {gone}"


@pytest.mark.parametrize("module", modules(), ids=lambda module: module or NAME)
def test_imports_go_one_way(module: str) -> None:
    place = ORDER.index(room(module))
    above = {
        name
        for name in map(room, own_imports(module))
        if ORDER.index(name) >= place and not (name == room(module) and name in WHOLE)
    }
    assert not above, f"{module} imports {above}"


@pytest.mark.parametrize("module", modules(), ids=lambda module: module or NAME)
def test_a_module_of_ours_is_imported_by_its_name(module: str) -> None:
    # else own_imports would not see it
    ours = {name for name in imported(module) if name.split(".")[0] == NAME}
    assert all(within(name) for name in ours), ours


@pytest.mark.parametrize(
    "module", [m for m in modules() if m.split(".")[0] == "protocol"], ids=lambda m: m
)
def test_the_protocol_does_no_io_and_has_no_clock(module: str) -> None:
    assert not outside_imports(module) & FORBIDDEN_IN_PROTOCOL
    asynchronous = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    assert not any(isinstance(node, asynchronous) for node in ast.walk(source(module)))


@pytest.mark.parametrize("module", modules(), ids=lambda module: module or NAME)
def test_only_the_rooms_below_talk_to_postgresql(module: str) -> None:
    if "psycopg" in outside_imports(module):
        assert module.split(".")[0] in MAY_TALK_TO_POSTGRESQL


@pytest.mark.parametrize("module", modules(), ids=lambda module: module or NAME)
def test_no_module_knows_an_event_loop(module: str) -> None:
    # but for the clocks of tests, which belong to one
    if module != "testing.virtual_time":
        assert not outside_imports(module) & {"asyncio", "trio"}


def test_the_reader_reads() -> None:
    # what the tests above rest on
    assert "protocol.messages" in own_imports("protocol.wire")
    assert "options" in own_imports("protocol.cluster_wire")
    assert "options" in own_imports("node")
    assert "postgres.connection" in own_imports("postgres.schema")
    assert "emitter" in own_imports("")
    assert "psycopg" in outside_imports("postgres.connection")
