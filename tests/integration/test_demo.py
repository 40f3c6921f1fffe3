"""The demo as a user starts it: a command, its pages, and what is left of it at the end."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import aiohttp
import anyio
import psutil
import pytest

from anyio_sio_pg.demo.check import Person

COMMAND = [sys.executable, "-m", "anyio_sio_pg.demo"]
ADDRESS = re.compile(r"node (\w+) +(http://127\.0\.0\.1:\d+)")
LONG = 90
"""Seconds after which something has gone wrong."""

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts its data; PostgreSQL's own user, under root, has to get there."""
    path = Path(tempfile.mkdtemp(prefix="demo-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Demo:
    """A demo that runs: its addresses, and every process of it."""

    def __init__(self, folder: Path, *arguments: str):
        self.folder = folder
        self.output = ""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "TMPDIR": str(folder),
                "PYTHONIOENCODING": "utf-8",
                "PYTHONUNBUFFERED": "1",
            },
        )
        self.addresses: dict[str, str] = {}
        self.children: list[psutil.Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LONG)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read_until(self, text: str) -> str:
        """Read what it prints until ``text`` is in it ("": to the end)."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + LONG
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not text or text not in self.output:
                remaining = deadline - time.monotonic()
                assert remaining > 0, f"{text!r} is not in:\n{self.output}"
                assert selector.select(remaining), f"{text!r} is not in:\n{self.output}"
                read = self.process.stdout.read1()  # type: ignore[attr-defined]
                if not read:
                    break
                self.output += read.decode()
        assert text in self.output, self.output
        return self.output

    def started(self) -> Self:
        self.addresses = dict(ADDRESS.findall(self.read_until("Ctrl-C ends the demo.")))
        assert list(self.addresses) == ["one", "two"]
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        # two nodes and what keeps PostgreSQL; that is no child of it itself
        assert len(self.children) == 3
        assert len(self.processes()) > 3
        return self

    def processes(self) -> list[psutil.Process]:
        """Return what runs of it now, PostgreSQL included."""
        running = [p for p in self.children if is_running(p)]
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join(process.cmdline()):
                    running.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return running

    def ended(self) -> int:
        """Return the exit code, once it has ended."""
        self.read_until("")
        return self.process.wait(LONG)

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == []
        assert list(self.folder.iterdir()) == []
        assert "Traceback" not in self.output
        for address in self.addresses.values():
            with pytest.raises(urllib.error.URLError):
                fetch(address)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def fetch(address: str) -> tuple[str, str]:
    with urllib.request.urlopen(address, timeout=LONG) as response:
        assert response.status == 200
        return response.headers["Content-Type"], response.read().decode()


def status_of(address: str) -> int | None:
    """Return the status of the answer to a GET; None where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=LONG) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    except OSError:
        return None


async def nodes_according_to(address: str, node: str) -> dict[str, dict[str, Any]]:
    """Return what a node tells a client of both nodes, by their names."""
    async with aiohttp.ClientSession() as session:
        person = Person("Eve", node, address, "websocket", session)
        await person.connect()
        whole = await person.sees(
            "both nodes",
            lambda person: [p["nodes"] for p in person.all("pulse") if len(p["nodes"]) == 2],
        )
        await person.disconnect()
    return {about["name"]: about for about in whole[0]}


def test_the_check_sees_a_conversation_across_both_nodes(folder: Path) -> None:
    with Demo(folder, "--check") as demo:
        code = demo.ended()
        lines = demo.output.splitlines()
        assert code == 0, demo.output
        assert len(lines) > 10
        assert all(line.startswith("\u2713 ") for line in lines), demo.output
        demo.assert_nothing_is_left()


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_it_serves_its_pages_and_ends_with_a_signal(folder: Path, number: signal.Signals) -> None:
    with Demo(folder) as demo:
        demo.started()
        for address in demo.addresses.values():
            kind, page = fetch(address)
            assert kind == "text/html"
            sources = re.findall(r'(?:src|href)="([^":]+)"', page)
            assert set(sources) == {"chat.css", "chat.js", "socket.io.min.js"}
            kind, script = fetch(f"{address}/socket.io.min.js")
            assert kind == "application/javascript"
            assert "Released under the MIT License" in script[:200]
            assert fetch(f"{address}/chat.js")[1]
            assert fetch(f"{address}/chat.css")[0] == "text/css"
            with pytest.raises(urllib.error.HTTPError, match="404") as not_found:
                fetch(f"{address}/chat.py")
            not_found.value.close()
        demo.process.send_signal(number)
        assert demo.ended() == 0, demo.output
        assert "nothing is left" in demo.output
        demo.assert_nothing_is_left()


@posix_only
def test_node_one_is_a_stock_server_on_asyncio_and_node_two_ours_on_trio(folder: Path) -> None:
    with Demo(folder) as demo:
        demo.started()
        served_by = {}
        without_transport = {}
        for name, address in demo.addresses.items():
            with urllib.request.urlopen(address, timeout=LONG) as response:
                served_by[name] = response.headers["Server"]
            # the protocol demands that it is refused, which the stock server does not do
            without_transport[name] = status_of(f"{address}/socket.io/?EIO=4")
            about = anyio.run(nodes_according_to, address, name)
            assert {node: known["runs_on"] for node, known in about.items()} == {
                "one": "uvicorn on asyncio",
                "two": "hypercorn on Trio",
            }
            commands = {node: psutil.Process(about[node]["pid"]).cmdline() for node in about}
            assert "anyio_sio_pg.demo.asyncio_node" in commands["one"]
            assert "anyio_sio_pg.demo.trio_node" in commands["two"]
        assert served_by == {"one": "uvicorn", "two": "hypercorn-h11"}
        assert without_transport == {"one": 200, "two": 400}
        demo.process.send_signal(signal.SIGINT)
        assert demo.ended() == 0, demo.output
        demo.assert_nothing_is_left()


@posix_only
def test_clients_that_come_while_it_ends_are_nothing_to_talk_about(folder: Path) -> None:
    with Demo(folder) as demo, ThreadPoolExecutor() as threads:
        demo.started()
        printed = demo.output
        # sessions that nobody polls: the nodes wait for them, for a while
        for address in demo.addresses.values():
            assert status_of(address + HANDSHAKE) == 200

        def knock(address: str) -> set[int]:
            statuses: set[int] = set()
            while (status := status_of(address + HANDSHAKE)) is not None:
                statuses.add(status)
            return statuses

        knocking = {n: threads.submit(knock, address) for n, address in demo.addresses.items()}
        demo.process.send_signal(signal.SIGINT)
        assert demo.ended() == 0, demo.output
        assert 503 in knocking["two"].result(LONG)
        knocking["one"].result(LONG)
        said = demo.output.removeprefix(printed).strip()
        assert said == "Both nodes and PostgreSQL have ended; nothing is left."
        demo.assert_nothing_is_left()


@posix_only
def test_a_signal_while_it_starts_ends_it_too(folder: Path) -> None:
    with Demo(folder) as demo:
        demo.read_until("Starting")
        demo.process.send_signal(signal.SIGINT)
        assert demo.ended() == 0, demo.output
        demo.assert_nothing_is_left()


@posix_only
def test_a_signal_cuts_the_check_short(folder: Path) -> None:
    with Demo(folder, "--check") as demo:
        demo.read_until("connected to node one")
        demo.process.send_signal(signal.SIGINT)
        assert demo.ended() == 130, demo.output
        demo.assert_nothing_is_left()


@posix_only
def test_when_a_node_dies_the_demo_ends_and_says_so(folder: Path) -> None:
    with Demo(folder) as demo:
        demo.started()
        victim = next(child for child in demo.children if "two" in child.cmdline())
        victim.kill()
        assert demo.ended() == 1, demo.output
        assert "node two has ended by itself" in demo.output
        demo.assert_nothing_is_left()


@posix_only
def test_when_it_is_killed_its_parts_end_by_themselves(folder: Path) -> None:
    with Demo(folder) as demo:
        demo.started()
        printed = demo.output
        demo.process.kill()
        demo.process.wait(LONG)
        # they hold its output: that ends with the last of them
        demo.read_until("")
        _, alive = psutil.wait_procs(demo.processes(), timeout=LONG)
        assert alive == []
        # in order, too: no node has missed PostgreSQL
        assert demo.output.removeprefix(printed).strip() == ""
        demo.assert_nothing_is_left()


def test_a_port_can_be_chosen_and_one_in_use_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Demo(folder, "--port", str(port)) as demo:
            assert demo.ended() == 1
            assert "in use" in demo.output
            assert "node one did not start" in demo.output
            demo.assert_nothing_is_left()


@pytest.mark.parametrize("port", ["0", "65535", "-1", "http"])
def test_a_port_out_of_range_is_refused(folder: Path, port: str) -> None:
    with Demo(folder, f"--port={port}") as demo:
        assert demo.ended() == 2
        assert "a port is a number from 1 to 65534" in demo.output
