"""The README and the documentation: their programs run, their snippets compile, their tables agree."""

from __future__ import annotations

import ast
import dataclasses
import inspect
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

import aiohttp
import anyio
import psycopg
import pytest
import socketio

import anyio_sio_pg
from anyio_sio_pg.options import Options
from anyio_sio_pg.testing import EmbeddedPostgres
from interop.fixtures import packages  # noqa: F401 - it is used by all tests here

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INTEROP = ROOT / "tests" / "interop"
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

    def __init__(self, folder: Path, *arguments: str, uri: str = "", **environment: str):
        self._output = folder / f"output{len(list(folder.glob('output*')))}"
        command = ["node"] if arguments[0].endswith("js") else [sys.executable]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=folder,
                env={**os.environ, "DATABASE_URL": uri, "PYTHONUNBUFFERED": "1", **environment},
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
async def program(
    folder: Path, *arguments: str, uri: str = "", **environment: str
) -> AsyncIterator[Program]:
    started = Program(folder, *arguments, uri=uri, **environment)
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


ADDRESS = r".*[Rr]unning on (http://\S+).*"


def sessions(uri: str) -> int:
    """Return how many sessions of ours PostgreSQL has."""
    with psycopg.connect(uri) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ %s"
        (count,) = connection.execute(query, ["^(anyio-sio-pg|socket.io-)"]).fetchone() or (0,)
    return int(count)


async def no_sessions(uri: str) -> None:
    """Wait until PostgreSQL has seen that ours have ended: it may do so after the program has."""
    await until(lambda: sessions(uri) == 0)


@asynccontextmanager
async def two_servers(folder: Path, uri: str) -> AsyncIterator[tuple[str, str]]:
    """Run the folder's ``asgi.py`` twice, as the pages say; yield the addresses."""
    command = ("-m", "uvicorn", "--port", "0", "asgi:app")
    async with (
        program(folder, *command, uri=uri) as one,
        program(folder, *command, uri=uri) as two,
    ):
        yield await one.prints(ADDRESS), await two.prints(ADDRESS)
        for server in (one, two):
            server.process.send_signal(signal.SIGINT)
            await server.prints(".*Application shutdown complete.*")
            await server.ends()
            assert "Traceback" not in server.output
    await no_sessions(uri)


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

        assert 'bind="127.0.0.1:8003"' in readme[2]
        (tmp_path / "third.py").write_text(readme[2].replace(":8003", ":0"))
        async with (
            program(tmp_path, "third.py", uri=database.uri) as third,
            client(one) as alice,
            client(await third.prints(ADDRESS)) as carol,
        ):
            for each in (alice, carol):
                await each.call("join", "lobby")
            await alice.emit("say", ("lobby", "hello Trio"))
            await until(lambda: carol.heard == [("said", "hello Trio")])
            await carol.emit("say", ("lobby", "hello asyncio"))
            await until(lambda: alice.heard[1:] == [("said", "hello asyncio")])
            third.process.send_signal(signal.SIGINT)
            assert await third.ends() == 0, third.output


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

        worker = block(TRIO, "worker.py")
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
    await no_sessions(database.uri)


TRIO = DOCS / "howto" / "trio.rst"
SERVERS = ["trio_server.py", "anycorn_server.py", "uvicorn_server.py", "hypercorn_server.py"]


def changed(code: str, *changes: tuple[str, str]) -> str:
    """Replace what a test needs otherwise; each must be there."""
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    return code


def server_program(name: str, graceful_timeout: int) -> str:
    """Return a page's program for any free port, with the ASGI server's graceful timeout."""
    code = block(TRIO, name)
    if name == "uvicorn_server.py":
        return changed(
            code,
            ("port=8001", "port=0"),
            ("timeout_graceful_shutdown=3", f"timeout_graceful_shutdown={graceful_timeout}"),
        )
    return changed(
        code,
        ('["127.0.0.1:8001"]', f'["127.0.0.1:0"]; config.graceful_timeout = {graceful_timeout}'),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_serves_and_ends_without_waiting_for_its_clients(
    database: EmbeddedPostgres, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    # a graceful timeout that would be missed: the clients must be closed before
    (tmp_path / name).write_text(server_program(name, 300))
    async with program(tmp_path, name, uri=database.uri) as server:
        url = await server.prints(ADDRESS)
        async with (
            client(url, transports=["polling"]) as alice,
            client(url, transports=["websocket"]) as bob,
        ):
            for sender, text in ((alice, "hello"), (bob, "hello yourself")):
                await sender.call("join", "lobby")
                await sender.emit("say", ("lobby", text))
                await until(lambda sender=sender, text=text: ("said", text) in sender.heard)
            await until(lambda: alice.heard == [("said", "hello"), ("said", "hello yourself")])
            server.process.send_signal(number)
            assert await server.ends() == 0, server.output
            assert "Traceback" not in server.output
    await no_sessions(database.uri)


@asynccontextmanager
async def deaf_client(url: str) -> AsyncIterator[None]:
    """Have a client in the room "lobby" that has stopped to read, with more to come for it."""
    async with aiohttp.ClientSession() as session:
        hears_not = await session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket")
        await hears_not.send_str("40")
        await hears_not.send_str('42["join","lobby"]')
        async with client(url, transports=["websocket"]) as alice:
            # what its end of the connection takes, and aiohttp's buffer, is soon full
            transport = hears_not._response.connection.transport
            transport.pause_reading()
            await alice.call("join", "lobby")
            for _ in range(100):
                await alice.emit("say", ("lobby", "x" * 200_000))
            await until(lambda: len(alice.heard) == 100)
        yield
        transport.abort()


@pytest.mark.parametrize("name", SERVERS[:3])
async def test_a_server_ends_in_spite_of_a_client_that_does_not_read(
    database: EmbeddedPostgres, tmp_path: Path, name: str
) -> None:
    code = server_program(name, 1)
    code = changed(code, ("client_manager=manager", "client_manager=manager, shutdown_timeout=1"))
    (tmp_path / name).write_text(code)
    async with (
        program(tmp_path, name, uri=database.uri) as server,
        deaf_client(await server.prints(ADDRESS)),
    ):
        server.process.terminate()
        assert await server.ends() == 0, server.output
    await no_sessions(database.uri)


async def test_tcp_user_timeout_bounds_a_client_that_does_not_read(
    database: EmbeddedPostgres, tmp_path: Path
) -> None:
    listening = block(TRIO, "listener.listen(100)")
    bound = "    config = hypercorn.config.Config()\n" + '    config.bind = ["127.0.0.1:8001"]\n'
    code = changed(
        block(TRIO, "hypercorn_server.py"),
        (bound, textwrap.indent(changed(listening, ("30_000", "1_000"), ("8001", "0")), "    ")),
        ("import hypercorn.config\n", ""),
        ("client_manager=manager", "client_manager=manager, shutdown_timeout=1"),
    )
    (tmp_path / "server.py").write_text(code)
    async with (
        program(tmp_path, "server.py", uri=database.uri) as server,
        deaf_client(await server.prints(ADDRESS)),
    ):
        server.process.terminate()
        assert await server.ends() == 0, server.output


LIFESPAN = DOCS / "howto" / "lifespan.rst"
COMMANDS = re.findall(r"^   (\w+ .* anyio_asgi:app)$", LIFESPAN.read_text(), re.MULTILINE)
AFTER_A_FAILURE = {
    "uvicorn": "logs and serves on",
    "hypercorn": "serves on",
    "hypercorn --worker-class trio": "ends with 0",
    "anycorn --worker-class trio": "ends with 1",
}
"""What the page says of the ASGI servers whose lifespan has failed."""


@asynccontextmanager
async def lifespan_program(
    folder: Path, command: str, code: str, uri: str
) -> AsyncIterator[tuple[Program, str]]:
    (folder / "anyio_asgi.py").write_text(code)
    arguments = changed(command, ("8001", "0")).split()
    async with program(folder, "-m", *arguments, uri=uri) as server:
        yield server, await server.prints(ADDRESS)


@pytest.mark.parametrize("command", COMMANDS)
async def test_lifespan_with_an_anyio_server(
    database: EmbeddedPostgres, tmp_path: Path, command: str
) -> None:
    code = block(LIFESPAN, "anyio_asgi.py")
    async with (
        lifespan_program(tmp_path, command, code, database.uri) as (server, url),
        client(url) as alice,
        aiohttp.ClientSession() as session,
    ):
        await alice.call("join", "lobby")
        await alice.emit("say", ("lobby", "hello"))
        await until(lambda: alice.heard == [("said", "hello")])
        async with session.get(f"{url}/ready") as response:
            assert response.status == 200
            assert await response.json() == {"status": "connected"}
        if (
            sys.version_info >= (3, 12)
            and command.startswith("hypercorn")
            and "trio" not in command
        ):
            # the page says that it waits for them
            await alice.disconnect()
            await session.close()
        server.process.terminate()
        # uvicorn raises the signal once more
        assert await server.ends() in (0, -signal.SIGTERM), server.output
    await no_sessions(database.uri)


CANNOT_BEGIN = {"uvicorn": 3, "hypercorn": 0, "anycorn": 1}
"""The exit codes that the page has for a lifespan that cannot begin."""


@pytest.mark.parametrize("command", COMMANDS)
async def test_lifespan_that_cannot_begin(tmp_path: Path, command: str) -> None:
    (tmp_path / "anyio_asgi.py").write_text(block(LIFESPAN, "anyio_asgi.py"))
    arguments = changed(command, ("8001", "0")).split()
    # nobody listens there
    async with program(tmp_path, "-m", *arguments, uri="127.0.0.1:1") as server:
        assert await server.ends() == CANNOT_BEGIN[arguments[0]]
        assert "AdapterError" in server.output


async def test_block_around_the_asgi_server_that_cannot_begin(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(block(LIFESPAN, "main.py"))
    async with program(tmp_path, "main.py", uri="127.0.0.1:1") as main:
        assert await main.ends() == 1
        assert "AdapterError" in main.output


async def test_a_route_in_a_thread_sends(database: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "asgi.py").write_text(block(LIFESPAN, "sync_asgi.py"))
    async with (
        two_servers(tmp_path, database.uri) as (one, two),
        client(one) as alice,
        client(two) as bob,
        aiohttp.ClientSession() as session,
    ):
        for each in (alice, bob):
            await each.call("join", "lobby")
        async with session.post(f"{one}/rooms/lobby/notices?text=hello") as response:
            assert await response.json() == {"sent": True, "clients": 2}
        for each in (alice, bob):
            await until(lambda each=each: each.heard == [("notice", "hello")])


@pytest.mark.parametrize("command", COMMANDS)
async def test_lifespan_that_fails(
    database: EmbeddedPostgres, tmp_path: Path, command: str
) -> None:
    failing = """\
asked = anyio.Event()


@sio.on("fail")
async def on_fail(sid):
    asked.set()


async def fail():
    await asked.wait()
    raise ValueError("as asked")


@asynccontextmanager
async def lifespan(app):
    async with manager, sio, anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        yield
"""
    code = block(LIFESPAN, "anyio_asgi.py")
    lifespan = code[code.index("@asynccontextmanager\n") : code.index("\n\napp =")]
    code = changed(
        code, (lifespan, failing), ("import socketio\n", "import anyio\nimport socketio\n")
    )
    kind = re.sub(r" --(bind|port|timeout\S+) \S+| anyio_asgi:app", "", command)
    expected = AFTER_A_FAILURE[kind]
    async with (
        lifespan_program(tmp_path, command, code, database.uri) as (server, url),
        client(url) as alice,
        aiohttp.ClientSession() as session,
    ):
        await alice.emit("fail")
        if expected.startswith("ends"):
            assert f"ends with {await server.ends()}" == expected
        else:
            await until(lambda: not alice.connected)
            async with session.get(f"{url}/ready") as response:
                assert response.status == 503
                assert await response.json() == {"status": "closed"}
            async with session.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
                assert response.status == 503
            if "logs" in expected:
                await until(lambda: "ValueError: as asked" in server.output)
            else:
                assert "ValueError: as asked" not in server.output
            server.process.terminate()
            await server.ends()
        assert "ValueError: as asked" in server.output
    await no_sessions(database.uri)


async def test_block_around_the_asgi_server_that_fails(
    database: EmbeddedPostgres, tmp_path: Path
) -> None:
    failing = """\
        tasks = await blocks.enter_async_context(anyio.create_task_group())

        @sio.on("fail")
        async def on_fail(sid):
            tasks.start_soon(fail)

        async def fail():
            raise ValueError("as asked")

        @sio.event
        async def join"""
    code = changed(
        server_program("anycorn_server.py", 1),
        ("        @sio.event\n        async def join", failing),
        (" as sio,\n", " as sio,\n        AsyncExitStack() as blocks,\n"),
        ("import os\n", "import os\nfrom contextlib import AsyncExitStack\n"),
    )
    (tmp_path / "main.py").write_text(code)
    async with (
        program(tmp_path, "main.py", uri=database.uri) as main,
        client(await main.prints(ADDRESS)) as alice,
    ):
        await alice.emit("fail")
        assert await main.ends() == 1
        assert "ValueError: as asked" in main.output
    await no_sessions(database.uri)


TESTING = DOCS / "howto" / "testing.rst"


SAY = 'await sio.emit("said", text, room=room)'


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("test_chat.py", "pass"),
        ("test_time.py", "pass"),
        ("test_machine.py", f"{SAY}; {SAY}"),
    ],
    ids=["chat", "time", "machine"],
)
async def test_tests_of_an_application(tmp_path: Path, name: str, wrong: str) -> None:
    for file in ("chat.py", "conftest.py", name):
        (tmp_path / file).write_text(block(TESTING, file))
    async with program(tmp_path, "-m", "pytest", "-W", "error", name) as tests:
        assert await tests.ends() == 0, tests.output
    # with a server that is wrong they must fail; to shrink that would take its time
    (tmp_path / "chat.py").write_text(changed(block(TESTING, "chat.py"), (SAY, wrong)))
    code = block(TESTING, name).replace("deadline=None", "deadline=None, phases=[Phase.generate]")
    (tmp_path / name).write_text(code.replace("import given", "import Phase, given"))
    async with program(tmp_path, "-m", "pytest", name) as tests:
        assert await tests.ends() == 1, tests.output


async def test_tests_of_what_is_sent_from_outside(tmp_path: Path) -> None:
    name = "test_outside.py"
    for file in ("chat.py", "conftest.py", name):
        (tmp_path / file).write_text(block(TESTING, file))
    async with program(tmp_path, "-m", "pytest", "-W", "error", name) as tests:
        assert await tests.ends() == 0, tests.output
    # without the prefixes nothing arrives, as the page says
    code = block(TESTING, name)
    code = changed(code, (', prefix="socket.io"', ""), (", prefix=cluster.prefix", ""))
    (tmp_path / name).write_text(code)
    async with program(tmp_path, "-m", "pytest", name) as tests:
        assert await tests.ends() == 1, tests.output
        assert "4 failed" in tests.output


async def test_failure_of_the_machine(database: EmbeddedPostgres, tmp_path: Path) -> None:
    code = changed(block(TESTING, "failure.py"), ("postgresql://localhost/postgres", database.uri))
    assert await run(tmp_path, code, database.uri) == ""


MIGRATE = DOCS / "howto" / "migrate.rst"
UVICORN = ("-m", "uvicorn", "--port", "0")


async def test_before_and_after_redis(database: EmbeddedPostgres, tmp_path: Path) -> None:
    before, after = block(MIGRATE, "redis_asgi.py"), block(MIGRATE, "postgres_asgi.py")
    (tmp_path / "redis_asgi.py").write_text(before)
    # as the page says, it starts without Redis, logs errors, and serves its own clients
    environment = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    async with (
        program(tmp_path, *UVICORN, "redis_asgi:app", **environment) as server,
        client(await server.prints(ADDRESS)) as alice,
    ):
        await alice.call("join", "lobby")
        await alice.emit("say", ("lobby", "hello"))
        await until(lambda: alice.heard == [("said", "hello")])
        await server.prints("Cannot publish to redis... giving up")
    (tmp_path / "asgi.py").write_text(after)
    async with (
        two_servers(tmp_path, database.uri) as (one, two),
        client(one) as alice,
        client(two) as bob,
    ):
        await bob.call("join", "lobby")
        await alice.emit("say", ("lobby", "hello"))
        await until(lambda: bob.heard == [("said", "hello")])
    lifespan = after[after.index("@asynccontextmanager") : after.index("app =")]
    assert after == changed(
        before,
        ("import os\n", "import os\nfrom contextlib import asynccontextmanager\n"),
        ("import socketio\n", "import socketio\nfrom anyio_sio_pg import PostgresManager\n"),
        ("socketio.AsyncRedisManager", "PostgresManager"),
        ("REDIS_URL", "DATABASE_URL"),
        ("channel=", "prefix="),
        ("app =", lifespan + "app ="),
        ("Starlette()", "Starlette(lifespan=lifespan)"),
    )


def javascript(page: Path, caption: str) -> str:
    """Return a page's JavaScript program by its file's name."""
    pattern = rf"^\.\. code-block:: javascript\n   :caption: {caption}\n\n((?:   .*\n|\n)+)"
    (code,) = re.findall(pattern, page.read_text(), re.MULTILINE)
    return textwrap.dedent(code)


def install(folder: Path, name: str, modules: Path, code: str) -> None:
    """Write a program for Node that prints its port."""
    port = "\nio.httpServer.once('listening', function () { console.log(this.address().port) });\n"
    (folder / name).write_text(code + port)
    (folder / "node_modules").symlink_to(modules)


OLD_CLIENT = """
const socket = require("socket.io-client")(process.argv[2]);
socket.on("said", (text) => console.log("heard: " + text));
socket.on("connect_error", () => console.log("refused"));
socket.emit("join", "lobby", () => console.log("joined"));
const lines = require("readline").createInterface({ input: process.stdin });
lines.on("line", (text) => {
  if (text === "count") socket.emit("count", "lobby", (count) => console.log("here: " + count));
  else socket.emit("say", "lobby", text);
});
lines.on("close", () => process.exit());
"""


async def test_one_cluster_with_the_1x_package(database: EmbeddedPostgres, tmp_path: Path) -> None:
    install(tmp_path, "node.js", INTEROP / "legacy/node_modules", javascript(MIGRATE, "node.js"))
    (tmp_path / "client.js").write_text(OLD_CLIENT)
    (tmp_path / "asgi.py").write_text(block(MIGRATE, "legacy_asgi.py"))
    requests = block(MIGRATE, "legacy_requests.py")
    assert "nobody" in await run(tmp_path, requests, database.uri)
    async with (
        two_servers(tmp_path, database.uri) as (one, two),
        program(tmp_path, "node.js", uri=database.uri, PORT="0") as node,
        program(tmp_path, "client.js", f"http://127.0.0.1:{await node.prints('([0-9]+)')}") as old,
        client(one) as alice,
        client(two) as bob,
    ):
        await old.prints("joined")
        for each in (alice, bob):
            await each.call("join", "lobby")
        said = []
        for text in ("from Node", "from Python", "x" * 40_000):
            if text == "from Node":
                old.types(text)
            else:
                await alice.emit("say", ("lobby", text))
            said.append(("said", text))
            await until(lambda: alice.heard == bob.heard == said)
            await old.prints(f"heard: {text}")
        output = await run(tmp_path, requests, database.uri)
        assert output == "in the lobby: 3\nnobody has this id\n"
        old.types("count")
        await old.prints("here: 3")
        for each in (alice, bob):
            assert await each.call("count", "lobby") == 3
        # each kind of server has clients of its own kind
        async with program(tmp_path, "client.js", one) as old_stray:
            await old_stray.prints("refused")
        async with aiohttp.ClientSession() as session:
            stray = socketio.AsyncClient(reconnection=False, http_session=session)
            with pytest.raises(socketio.exceptions.ConnectionError):
                await stray.connect(f"http://127.0.0.1:{node.output.split()[0]}")
        assert "rror" not in node.output


async def test_both_wires(database: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "both_wires.py").write_text(block(MIGRATE, "both_wires.py"))
    command = (*UVICORN, "both_wires:app")
    async with (
        program(tmp_path, *command, uri=database.uri, WIRE="legacy") as before,
        program(tmp_path, *command, uri=database.uri, WIRE="cluster") as after,
        client(await before.prints(ADDRESS)) as alice,
        client(await before.prints(ADDRESS)) as bob,
        client(await after.prints(ADDRESS)) as carol,
    ):
        everyone = (alice, bob, carol)
        for each in everyone:
            await each.call("join", "lobby")
        for number, each in enumerate(everyone * 5):
            await each.emit("say", ("lobby", number))
            await until(lambda n=number: all(each.heard[-1:] == [("said", n)] for each in everyone))
        for each in everyone:
            assert each.heard == [("said", number) for number in range(15)]


async def test_beside_a_node_server(database: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "beside_node.py").write_text(block(MIGRATE, "beside_node.py"))
    install(tmp_path, "node.mjs", INTEROP / "node_modules", javascript(MIGRATE, "node.mjs"))
    async with (
        program(tmp_path, "node.mjs", uri=database.uri, PORT="0") as node,
        program(tmp_path, *UVICORN, "beside_node:app", uri=database.uri) as python,
        client(f"http://127.0.0.1:{await node.prints(r'([0-9]+)')}") as alice,
        client(await python.prints(ADDRESS)) as bob,
    ):
        for each in (alice, bob):
            await each.call("join", "lobby")
        await alice.emit("say", ("lobby", "hello"))
        await until(lambda: bob.heard == [("said", "hello")])
        large = "x" * 7_999
        await bob.emit("say", ("lobby", large))
        await until(lambda: alice.heard == [("said", "hello"), ("said", large)])
        await alice.emit("say", ("lobby", b"binary"))
        await until(lambda: ("said", b"binary") in bob.heard)
        # messages of exactly 8,000 bytes, in which there is no room for so long a text
        overhead = 8_000 - len(await notified(database.uri, "chat#/", alice, "x"))
        for length in range(overhead - 3, overhead + 5):
            await alice.emit("say", ("lobby", "y" * length))
            await until(lambda length=length: ("said", "y" * length) in bob.heard)
        assert "rror" not in node.output + python.output


async def notified(uri: str, channel: str, sender: Any, text: str) -> str:
    """Return the notification by which a client's text goes to the cluster."""
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as connection:
        await connection.execute(f'LISTEN "{channel}"')
        await sender.emit("say", ("lobby", text))
        async for notification in connection.notifies(timeout=30):
            if f'"{text}"' in notification.payload:
                return notification.payload.replace(f'"{text}"', '""')
    raise AssertionError("there was no notification")


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


def test_servers_options_table_agrees_with_the_source() -> None:
    text = (DOCS / "reference" / "server.rst").read_text()
    options = text[text.index("\nOptions\n") : text.index("\nWhere it differs")]
    rows = re.findall(r"   \* - ``(\w+)``\n     - ``(.*)``", options)
    parameters = inspect.signature(anyio_sio_pg.AnyIOServer).parameters
    assert rows == [(name, repr(each.default)) for name, each in parameters.items()]
    engine = inspect.signature(anyio_sio_pg.AnyIOEngineServer).parameters
    both = {"shutdown_timeout", "logger", "json", "async_handlers"}
    both.update(list(parameters)[list(parameters).index("async_mode") :])
    assert set(engine) == both
    for name, each in engine.items():
        assert each.default == parameters[name].default


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    named = set(
        re.findall(
            r"^ *\.\. (?:auto)?\w+:: (?:(?:PostgresManager|AnyIOServer)\.)?(\w+)",
            text,
            re.MULTILINE,
        )
    )
    assert set(anyio_sio_pg.__all__) <= named
    for described in (anyio_sio_pg.PostgresManager, anyio_sio_pg.AnyIOServer):
        assert {name for name in vars(described) if not name.startswith("_")} <= named
