"""The README and the documentation: their programs run, their snippets compile, their tables agree."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import psycopg
import pytest
import socketio

import anyio_sio_pg
from anyio_sio_pg.options import Options
from anyio_sio_pg.testing import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.rst"))]

pytestmark = pytest.mark.anyio


class Block(NamedTuple):
    """A code block: where it begins, its file's name if it has one, and its text."""

    page: Path
    line: int
    caption: str
    code: str


def blocks(page: Path) -> list[Block]:
    """Return a page's Python blocks in order."""
    text = page.read_text()
    if page.suffix == ".md":
        pattern = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
    else:
        pattern = re.compile(
            r"^(?P<indent> *)\.\. code-block:: python\n"
            r"(?:(?P=indent)   :caption: (?P<caption>\S+)\n)?\n"
            r"(?P<code>(?:(?P=indent)   .*\n|\n)+)",
            re.MULTILINE,
        )
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found.groupdict().get("caption") or "",
            textwrap.dedent(found["code"]).strip("\n") + "\n",
        )
        for found in pattern.finditer(text)
    ]


def block(page: Path, containing: str) -> str:
    """Return the one block of a page that contains a text, or that has it as its file's name."""
    (found,) = [b for b in blocks(page) if containing in (b.caption, *b.code.splitlines())]
    return found.code


ALL_BLOCKS = [found for page in PAGES for found in blocks(page)]


class Program:
    """A process in a folder, with what it has printed."""

    def __init__(self, folder: Path, *arguments: str, uri: str = ""):
        self._output = folder / f"output{len(list(folder.glob('output*')))}"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env={**os.environ, "DATABASE_URL": uri, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    async def prints(self, pattern: str) -> str:
        """Wait until the output has a line like this; return the pattern's first group, or it."""
        with anyio.move_on_after(30):
            while True:
                ended = self.process.poll() is not None
                if found := re.search(f"^{pattern}$", self.output, re.MULTILINE):
                    return found[found.re.groups and 1]
                assert not ended, self.output
                await anyio.sleep(0.02)
        raise AssertionError(f"not printed: {pattern}\n{self.output}")

    def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def ends(self) -> int:
        """Wait for the end; return the exit code."""
        with anyio.move_on_after(30):
            while (code := self.process.poll()) is None:
                await anyio.sleep(0.02)
            return code
        raise AssertionError(f"still running:\n{self.output}")


@asynccontextmanager
async def program(folder: Path, *arguments: str, uri: str = "") -> AsyncIterator[Program]:
    started = Program(folder, *arguments, uri=uri)
    try:
        yield started
    finally:
        started.end_input()
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()


async def run(folder: Path, code: str, uri: str) -> str:
    """Run a whole program; return what it has printed."""
    path = folder / f"program{len(list(folder.glob('program*')))}.py"
    path.write_text(code)
    async with program(folder, path.name, uri=uri) as running:
        assert await running.ends() == 0, running.output
        return running.output


@asynccontextmanager
async def two_servers(folder: Path, uri: str) -> AsyncIterator[tuple[str, str]]:
    """Run the folder's ``asgi.py`` twice, as the pages say; yield the addresses."""
    command = ("-m", "uvicorn", "--port", "0", "asgi:app")
    async with (
        program(folder, *command, uri=uri) as one,
        program(folder, *command, uri=uri) as two,
    ):
        address = r".*running on (http://\S+).*"
        yield await one.prints(address), await two.prints(address)
        for server in (one, two):
            server.process.send_signal(signal.SIGINT)
            await server.prints(".*Application shutdown complete.*")
            await server.ends()
            assert "Traceback" not in server.output
    with psycopg.connect(uri) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'anyio-sio-pg%'"
        assert connection.execute(query).fetchone() == (0,)


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Any]:
    """Yield a connected client; ``client.heard`` are all events that it has received."""
    connected: Any = socketio.AsyncClient(reconnection=False)
    connected.heard = []
    connected.on("*", lambda event, *args: connected.heard.append((event, *args)))
    await connected.connect(url, **options)
    try:
        yield connected
    finally:
        await connected.disconnect()


async def until(condition: Callable[[], Any]) -> None:
    with anyio.move_on_after(30):
        while not condition():
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"not within 30 s: {condition}")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def database() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


async def test_readme(database: EmbeddedPostgres, tmp_path: Path) -> None:
    readme = [found.code for found in blocks(ROOT / "README.md")]
    (tmp_path / "asgi.py").write_text(readme[0])
    async with two_servers(tmp_path, database.uri) as (one, two):
        async with client(one) as alice, client(two) as bob:
            await bob.call("join", "lobby")
            await alice.emit("say", ("lobby", "hello"))
            await until(lambda: bob.heard == [("said", "hello")])
            await bob.emit("say", ("lobby", "hello to all"))
            await until(lambda: bob.heard[1:] == [("said", "hello to all")])
            assert alice.heard == []

        both = readme[1].replace("http://127.0.0.1:8001", one).replace("http://127.0.0.1:8002", two)
        assert await run(tmp_path, both, database.uri) == "bob hears: hello\n"

        async with client(one) as alice:
            await alice.call("join", "lobby")
            printed = await run(tmp_path, readme[2], database.uri)
            assert printed == f"{ {alice.namespaces['/']} }\n"
            await until(lambda: alice.heard == [("said", "hello from Trio")])


async def test_snippets_that_send(database: EmbeddedPostgres, tmp_path: Path) -> None:
    with psycopg.connect(database.uri) as connection:
        connection.execute("CREATE TABLE orders AS SELECT 7 AS id, false AS paid")
    (tmp_path / "asgi.py").write_text(blocks(ROOT / "README.md")[0].code)
    transactions = DOCS / "howto" / "transactions.rst"
    async with (
        two_servers(tmp_path, database.uri) as (one, two),
        client(one) as alice,
        client(two) as bob,
    ):
        for each in (alice, bob):
            for room in ("lobby", "user:42", "clock"):
                await each.call("join", room)

        await run(tmp_path, block(transactions, "import psycopg"), database.uri)
        for each in (alice, bob):
            await until(lambda each=each: each.heard == [("paid", {"order": 7})])
            each.heard.clear()

        emitting = "from anyio_sio_pg import open_postgres_emitter"
        await run(tmp_path, block(transactions, emitting), database.uri)
        for each in (alice, bob):
            await until(lambda each=each: len(each.heard) == 1_000)
            assert each.heard == [("tick", number) for number in range(1_000)]
            each.heard.clear()

        worker = block(DOCS / "howto" / "trio.rst", "worker.py")
        assert await run(tmp_path, worker, database.uri) == "in the lobby: 2\n"
        for each in (alice, bob):
            await until(lambda each=each: len(each.heard) == 3)
            assert each.heard == [("progress", percent) for percent in (0, 50, 100)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_block_outside_of_uvicorn_ends_after_a_signal(
    database: EmbeddedPostgres, tmp_path: Path, number: signal.Signals
) -> None:
    code = block(DOCS / "howto/lifespan.rst", "main.py")
    assert "port=8001" in code
    (tmp_path / "main.py").write_text(
        code.replace("port=8001", "port=0").replace(
            "asyncio.run(main())", "asyncio.run(main())\nprint('the block has ended')"
        )
    )
    async with program(tmp_path, "main.py", uri=database.uri) as main:
        await main.prints(r".*Uvicorn running on.*")
        main.process.send_signal(number)
        await main.prints("the block has ended")
        await until(lambda: main.process.poll() == 0)
    with psycopg.connect(database.uri) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'anyio-sio-pg%'"
        ).fetchone()
    assert row == (0,)


async def test_tutorial(tmp_path: Path) -> None:
    tutorial = DOCS / "tutorial.rst"
    for found in blocks(tutorial):
        (tmp_path / found.caption).write_text(found.code)
    async with program(tmp_path, "database.py") as server:
        uri = await server.prints(r"export DATABASE_URL=(.*)")
        async with two_servers(tmp_path, uri) as (one, two):
            async with (
                client(one, auth={"name": "alice"}) as alice,
                client(two, auth={"name": "bob"}) as bob,
            ):
                assert await alice.call("join", "lobby") == ["alice"]
                assert await bob.call("join", "lobby") == ["alice", "bob"]
                await alice.emit("say", ("lobby", "hello"))
                await until(lambda: bob.heard == [("said", "alice", "hello")])
                await until(lambda: alice.heard == bob.heard)

            async with program(tmp_path, "chat.py", one, "alice", "square") as at_one:
                await at_one.prints("here: alice")
                async with program(tmp_path, "chat.py", two, "bob", "square") as at_two:
                    await at_two.prints("here: alice, bob")
                    at_one.types("hello")
                    await at_two.prints("alice: hello")
                    await at_one.prints("alice: hello")
                    at_two.end_input()
                    assert await at_two.ends() == 0, at_two.output
                at_one.end_input()
                assert await at_one.ends() == 0, at_one.output
        server.types("")
        assert await server.ends() == 0, server.output


@pytest.mark.parametrize(
    "found", ALL_BLOCKS, ids=[f"{b.page.relative_to(ROOT)}:{b.line}" for b in ALL_BLOCKS]
)
def test_python_compiles(found: Block) -> None:
    compile(found.code, f"{found.page}:{found.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_page_is_looked_at() -> None:
    directives = sum(page.read_text().count("code-block:: python") for page in PAGES)
    fences = PAGES[0].read_text().count("```python")
    assert len(ALL_BLOCKS) == directives + fences


def test_readme_has_the_two_commands() -> None:
    bash = re.findall(r"^```bash\n(.*?)^```$", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    assert "./run demo\n./run test\n" in bash


def test_options_table_agrees_with_the_source() -> None:
    cell = r"\n     - ``(.*)``"
    rows = re.findall(rf"   \* - ``(\w+)``{cell}", (DOCS / "reference" / "options.rst").read_text())
    expected = [(field.name, repr(field.default)) for field in dataclasses.fields(Options)]
    assert rows == expected
    text = (ROOT / "README.md").read_text()
    options = text[text.index("\n## Options") : text.index("\n## Limits")]
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", options, re.MULTILINE)
    assert [(name, default.replace('"', "'")) for name, default in rows] == expected


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    named = set(
        re.findall(r"^ *\.\. (?:auto)?\w+:: (?:PostgresManager\.)?(\w+)", text, re.MULTILINE)
    )
    assert set(anyio_sio_pg.__all__) <= named
    calls = {name for name in vars(anyio_sio_pg.PostgresManager) if not name.startswith("_")}
    assert calls <= named
