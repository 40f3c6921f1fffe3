"""Servers beside the shared one: frozen, read-only, with passwords, with TLS, behind PgBouncer."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg

from anyio_sio_pg.testing import EmbeddedPostgres


def distribution_binaries() -> Path:
    """The newest PostgreSQL that the distribution has installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.parent.name)],
    )
    assert found, "install the Debian package 'postgresql', as the script 'run' does"
    return found[-1]


def free_port() -> int:
    """A port on which nobody listens, of those that the system gives to nobody by itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
            return port


def sql(uri: str, *statements: str) -> list[Any]:
    """Run statements as the superuser; return the rows of the last one."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def with_user(uri: str, user: str, password: str | None = None) -> str:
    """The same connection string, for another role."""
    login = user if password is None else f"{user}:{password}"
    return uri.replace("postgres@", f"{login}@", 1)


def sockets_to(port: int) -> int:
    """How many sockets this process has that lead to a port of this machine."""
    return sum(
        bool(found.raddr) and found.raddr.port == port
        for found in psutil.Process().net_connections("tcp")
    )


def sockets_of(path: Path) -> int:
    """How many Unix sockets are connected to the server whose socket is at a path."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {path}") and line.split()[5] == "03" for line in lines)


@contextmanager
def password_server() -> Iterator[EmbeddedPostgres]:
    """A server that asks every role but the superuser for its password."""
    with EmbeddedPostgres() as server:
        (server.data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        sql(server.uri, "SELECT pg_reload_conf()")
        yield server


@contextmanager
def standby_of(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A hot standby of a server."""
    standby = EmbeddedPostgres()
    with standby:
        standby.stop("immediate")
        shutil.rmtree(standby.data)
        backup = [str(_binaries(primary) / "pg_basebackup"), "-D", str(standby.data)]
        subprocess.run(
            [*backup, "-d", primary.uri, "-R", "--checkpoint=fast", "--no-sync"],
            check=True,
            cwd=standby.data.parent,
            user=server_user(primary),
        )
        with (standby.data / "postgresql.conf").open("a") as conf:
            conf.write(f"port = {standby.port}\n")
            conf.write(f"unix_socket_directories = '{standby.data.parent}'\n")
        standby.start()
        yield standby


@contextmanager
def tls_server() -> Iterator[EmbeddedPostgres]:
    """A server of the distribution's that takes TLS only; its certificate is for ``localhost``."""
    with EmbeddedPostgres(binaries=distribution_binaries()) as server:
        certificate, key = certificate_of(server), server.data / "server.key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        for path in (certificate, key):
            path.chmod(0o600)
            if user := server_user(server):
                shutil.chown(path, user)
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        with (server.data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\n")
        server.stop()
        server.start()
        yield server


def certificate_of(server: EmbeddedPostgres) -> Path:
    return server.data / "server.crt"


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop a server's processes as they stand: sockets stay open, nobody answers."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


class PgBouncer:
    """PgBouncer in transaction mode in front of a server, on a free port of 127.0.0.1."""

    def __init__(self, server: EmbeddedPostgres, settings: Sequence[str] = ()):
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install the Debian package 'pgbouncer', as the script 'run' does"
        self._program = program
        # it refuses to run as root
        self._user = server_user(server)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="anyio-sio-pg-"))
        self.port = free_port()
        self._config = self._folder / "pgbouncer.ini"
        self._config.write_text(
            "\n".join(
                [
                    "[databases]",
                    f"postgres = host=127.0.0.1 port={server.port} user=postgres",
                    "[pgbouncer]",
                    "pool_mode = transaction",
                    "listen_addr = 127.0.0.1",
                    f"listen_port = {self.port}",
                    "unix_socket_dir =",
                    "auth_type = any",
                    *settings,
                    "",
                ]
            )
        )
        self._folder.chmod(0o755)

    @property
    def uri(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it and return when it takes connections."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._config)],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def server_user(server: EmbeddedPostgres) -> str | None:
    """The OS user that a server runs as, when that is another one than this process's."""
    owner = server.data.owner()
    return owner if server.data.stat().st_uid != os.geteuid() else None


def _binaries(server: EmbeddedPostgres) -> Path:
    return Path(psutil.Process(server.pid).exe()).parent
