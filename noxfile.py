"""All checks; `nox` runs those that every change must pass."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "typing", "tests", "docs", "demo"]
nox.options.error_on_external_run = True

PYPROJECT = nox.project.load_toml("pyproject.toml")


def group(*names: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, *names)


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, of the library and of its users."""
    session.install("-e", ".[trio,demo]", *group("typing", "test"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, on asyncio and Trio, against real servers."""
    session.install("-e", ".[trio,demo]", *group("test"))
    # much of it is waiting for servers; a file's tests share theirs
    session.run("pytest", "--numprocesses", "3", "--dist", "loadfile", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, warnings being errors."""
    session.install("-e", ".[trio,demo]", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-b", "html", "docs", "docs/_build")


@nox.session
def demo(session: nox.Session) -> None:
    """The demo's scripted conversation."""
    session.install("-e", ".[demo]")
    session.run("python", "-m", "anyio_sio_pg.demo", "--check")


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """The property tests and the machine, for longer; the machine takes an hour or two."""
    session.install("-e", ".[trio,demo]", *group("test"))
    session.run(
        "pytest", "tests/unit", "tests/stateful/test_machine.py", *session.posargs,
        env={"HYPOTHESIS_PROFILE": "soak"},
    )  # fmt: skip


@nox.session(default=False, python=["3.11", "3.12", "3.13", "3.14"])
def pythons(session: nox.Session) -> None:
    """The suite on every Python that is there."""
    session.install("-e", ".[trio,demo]", *group("test"))
    session.run("pytest", "--numprocesses", "3", "--dist", "loadfile", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks; they need a redis-server, and Node."""
    session.install("-e", ".[trio,demo]", *group("bench"))
    session.run("python", "benchmarks/run.py", *session.posargs)
