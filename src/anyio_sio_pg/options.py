"""Every option, checked once, with the range in the error."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, TypedDict
from urllib.parse import quote

import psycopg
from psycopg.abc import ConnDict
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Connect: TypeAlias = Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]]
OnError: TypeAlias = Callable[[Exception], object]
WireName: TypeAlias = Literal["cluster", "legacy"]
Durable: TypeAlias = Literal[False, True, "unlogged"]

MAX_PAYLOAD = 7_999
"""Bytes that one notification can carry (PostgreSQL's NOTIFY_PAYLOAD_MAX_LENGTH less one)."""

MAX_CHANNEL = 63
"""Bytes that a channel's name can have (PostgreSQL's NAMEDATALEN less one)."""

MAX_LEGACY_PREFIX = 100
"""Characters that a prefix can have with ``wire="legacy"``, whose channel has always one name."""

_NOT_IN_FILES = ("client_encoding", "fallback_application_name")
"""Parameters that are given also where a service file may set others."""

_SHORT_FORM = re.compile(r"[\w.-]+:\d{1,5}", re.ASCII)
_DIALECT = re.compile(r"postgres(?:ql)?(\+[a-z][a-z0-9_]{,19})://", re.ASCII)
"""What SQLAlchemy's URLs begin with."""
_PAIR = re.compile(r"\s*([^\s=]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\']|\\.)*)(?=\s|\Z)", re.DOTALL)
_PLAIN_NAME = re.compile(r"[a-z][a-z_]{,39}", re.ASCII)
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_IN_URL = re.compile(rf"(?:^\w+://[^:@/]*:(?=[^@/]*@)|[?&](?:{'|'.join(_SECRETS)})=)([^@&]+)")


class OptionValues(TypedDict, total=False):
    """The options beside ``uri`` that the manager and the emitter take, with their types."""

    listen_uri: str | None
    connect: Connect | None
    prefix: str
    wire: WireName
    requests_timeout: float
    heartbeat_interval: float
    heartbeat_timeout: float
    table: str
    payload_threshold: int
    cleanup_interval: float
    durable: Durable
    retention: float
    log_table: str
    outbox_limit: int
    publish_timeout: float
    shutdown_timeout: float
    on_error: OnError | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a manager or an emitter; all times are in seconds.

    :raises ValueError: an option is out of range; the message names it, its value and the range,
        and never holds a password.
    :raises TypeError: an option is of a wrong type.
    """

    uri: str | None = field(default=None, repr=False)
    listen_uri: str | None = field(default=None, repr=False)
    connect: Connect | None = field(default=None, repr=False)
    prefix: str = "socket.io"
    wire: WireName = "cluster"
    requests_timeout: float = 1.0
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 10.0
    table: str = "socket_io_attachments"
    payload_threshold: int = 8_000
    cleanup_interval: float = 30.0
    durable: Durable = False
    retention: float = 60.0
    log_table: str = "socket_io_log"
    outbox_limit: int = 10_000
    publish_timeout: float = 10.0
    shutdown_timeout: float = 5.0
    on_error: OnError | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", _conninfo("uri", self.uri))
        object.__setattr__(self, "listen_uri", _conninfo("listen_uri", self.listen_uri))
        if self.connect is not None:
            if not callable(self.connect):
                # what was passed may be a connection string, with its password
                raise TypeError(
                    f"connect must be an async callable, not {type(self.connect).__name__}"
                )
            if self.uri is not None or self.listen_uri is not None:
                raise ValueError(
                    "connect makes the connections itself: uri and listen_uri must be None"
                )
        if self.on_error is not None and not callable(self.on_error):
            raise TypeError(f"on_error must be a callable or None, not {self.on_error!r}")
        _text("prefix", self.prefix)
        if not isinstance(self.wire, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"wire must be 'cluster' or 'legacy', not {self.wire!r}")
        if self.wire not in ("cluster", "legacy"):
            raise ValueError(f"wire must be 'cluster' or 'legacy', not {self.wire!r}")
        if self.wire == "cluster":
            channel(self.prefix, "/")
        elif len(self.prefix) > MAX_LEGACY_PREFIX or not _is_storable(self.prefix):
            raise ValueError(
                f"prefix must have 1 to {MAX_LEGACY_PREFIX} characters of Unicode and no NUL,"
                f" not {self.prefix[:80]!r}"
            )
        table_parts(self.table)
        durable: object = self.durable
        if not isinstance(durable, bool) and durable != "unlogged":
            error = ValueError if isinstance(durable, str) else TypeError
            raise error(f"durable must be False, True or 'unlogged', not {durable!r}")
        if self.durable and self.wire == "legacy":
            raise ValueError("durable needs wire='cluster': the 1.x wire has no place for it")
        _seconds("retention", self.retention, 1, 86_400)
        table_parts(self.log_table, "log_table")
        if self.log_table == self.table:
            raise ValueError(f"log_table must not be the attachments table, {self.table!r}")
        _seconds("requests_timeout", self.requests_timeout, 0.001, 3_600)
        _seconds("heartbeat_interval", self.heartbeat_interval, 0.01, 3_600)
        _seconds("heartbeat_timeout", self.heartbeat_timeout, 0.02, 86_400)
        if self.heartbeat_timeout <= self.heartbeat_interval:
            raise ValueError(
                "heartbeat_timeout must be more than heartbeat_interval"
                f" ({self.heartbeat_interval!r}), not {self.heartbeat_timeout!r}"
            )
        _count("payload_threshold", self.payload_threshold, 1, MAX_PAYLOAD + 1)
        _seconds("cleanup_interval", self.cleanup_interval, 1, 86_400)
        _count("outbox_limit", self.outbox_limit, 1, 10_000_000)
        _seconds("publish_timeout", self.publish_timeout, 0, 86_400)
        _seconds("shutdown_timeout", self.shutdown_timeout, 0, 3_600)

    @property
    def max_inline(self) -> int:
        """Bytes up to which a message travels in the notification itself."""
        return min(self.payload_threshold - 1, MAX_PAYLOAD)

    def redact(self, text: object) -> str:
        """Return ``text`` without any password that the connection strings hold."""
        result = str(text)
        for conninfo in (self.uri, self.listen_uri):
            for secret in _secrets(conninfo):
                result = result.replace(secret, "***")
        return result


_ELSEWHERE: Final[Mapping[str, str]] = {
    "channel": "prefix is the first part of the channels' names",
    "logger": "what is logged goes to logging.getLogger('anyio_sio_pg')",
    "redis_options": "parameters of the connection go into uri",
    "url": "its name is uri",
    "write_only": "open_postgres_emitter is for those who only send",
}
"""What the options of python-socketio's AsyncRedisManager are here."""


def check_names(given: Mapping[str, object]) -> None:
    """Refuse options that do not exist.

    :raises TypeError: there is one; the message has names that are like it, but not its value.
    """
    known = [option.name for option in fields(Options)]
    for name in given:
        if name not in known:
            hint = _ELSEWHERE.get(name)
            if hint is None and (near := difflib.get_close_matches(name, known)):
                hint = f"did you mean {' or '.join(near)}?"
            raise TypeError(f"unknown option {name!r}" + (f": {hint}" if hint else ""))


def own_channel(prefix: str, uid: str) -> str | None:
    """Return the channel for one node only; None where PostgreSQL cannot have one of that name."""
    # a namespace's has a '#' there
    name = f"{prefix}@{uid}"
    try:
        return name if len(name.encode()) <= MAX_CHANNEL and "\0" not in name else None
    except UnicodeEncodeError:
        return None


def channel(prefix: str, namespace: str) -> str:
    """Return the name of the channel that carries a namespace: ``PREFIX#NAMESPACE``.

    :raises ValueError: the name would have more than 63 bytes, PostgreSQL's limit, or a NUL.
    """
    name = f"{prefix}#{namespace}"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(
            f"prefix {prefix!r} and namespace {namespace!r} must be valid Unicode text"
        ) from None
    if size > MAX_CHANNEL:
        raise ValueError(
            f"prefix {prefix!r} and namespace {namespace!r} make a channel name of {size} bytes;"
            f" PostgreSQL allows 1 to {MAX_CHANNEL}"
        )
    if "\0" in name:
        raise ValueError(
            f"prefix {prefix!r} and namespace {namespace!r} must not hold a NUL character"
        )
    return name


def table_parts(table: str, name: str = "table") -> tuple[str, ...]:
    """Split ``table`` or ``schema.table`` into its names, unquoted.

    :raises ValueError: a part is empty, has more than 63 bytes, holds a NUL or is not valid
        Unicode.
    """
    _text(name, table)
    parts = tuple(table.split("."))
    if len(parts) > 2 or not all(map(_is_identifier, parts)):
        raise ValueError(
            f"{name} must be NAME or SCHEMA.NAME, each of 1 to 63 bytes, not {table!r}"
        )
    return parts


def _is_identifier(part: str) -> bool:
    return 1 <= len(part.encode(errors="replace")) <= 63 and _is_storable(part)


def _is_storable(text: str) -> bool:
    """Tell whether PostgreSQL and libpq can have the text: valid Unicode without a NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _conninfo(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a string or None, not {type(value).__name__}")
    if _SHORT_FORM.fullmatch(value):
        value = f"postgresql://{value}"
    try:
        if not _is_storable(value):
            raise ValueError
        parsed = conninfo_to_dict(value)
    except (psycopg.Error, ValueError):
        # their message quotes parts of the string, which may hold the password
        reason = _what_is_wrong(value) or (
            "a URL (postgresql://host/database), 'key=value' pairs, or HOST:PORT"
        )
        raise ValueError(f"{name} is not a connection string that libpq takes: {reason}") from None
    if _looks_cut(value, parsed):
        # libpq takes it, and its errors would name the host or port that is part of a password
        raise ValueError(
            f"{name} has a host, port or database that cannot be right. In a URL, write the"
            " characters @ / : ? # % of a user name or password percent-encoded (@ is %40)"
        )
    timeout = parsed.get("connect_timeout")
    if timeout is not None and not re.fullmatch(r"\s*-?\d+\s*", str(timeout)):
        raise ValueError(f"{name}: connect_timeout must be whole seconds, not {timeout!r}")
    return value


def _what_is_wrong(conninfo: str) -> str | None:
    """Tell what libpq does not take, where that can be told without any value."""
    if scheme := _DIALECT.match(conninfo):
        return f"leave out '{scheme[1]}' of the URL's scheme"
    unknown = _unknown_parameter(conninfo)
    return None if unknown is None else f"it does not know the parameter {unknown!r}"


def _unknown_parameter(conninfo: str) -> str | None:
    """Return the first name that is not one of a parameter, unless it may be part of a secret.

    A password that is not written as it has to be looks like more parameters.
    """
    if conninfo.startswith(("postgresql://", "postgres://")):
        place, _, query = conninfo.partition("://")[2].partition("?")
        if "@" in query or ("@" not in place and re.search(r":[^\d/,]", place)):
            return None
        names = [part.partition("=")[0] for part in query.split("&") if "=" in part]
    elif "://" in conninfo:
        return None
    else:
        names = [pair[1] for pair in _pairs(conninfo)]
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    known.add("ssl")  # in URLs, as JDBC has it
    for name in names:
        if name not in known:
            return name if _PLAIN_NAME.fullmatch(name) else None
        if "pass" in name or "secret" in name:
            return None
    return None


def _pairs(conninfo: str) -> Iterator[re.Match[str]]:
    at = 0
    while pair := _PAIR.match(conninfo, at):
        yield pair
        at = pair.end()


def _looks_cut(value: str, parsed: ConnDict) -> bool:
    hosts = str(parsed.get("host") or "").split(",")
    path = value.partition("://")[2].partition("?")[0].partition("/")[2]
    return (
        any("@" in host[1:] and not host.startswith("/") for host in hosts)
        or re.fullmatch(r"[\d,\s]*", str(parsed.get("port") or "")) is None
        or (value.startswith(("postgresql://", "postgres://")) and "@" in path)
    )


def with_defaults(conninfo: str | None, **defaults: str | int) -> str:
    """Add connection parameters that neither the string nor the environment sets."""
    given = conninfo_to_dict(conninfo or "")
    if given.get("service") or os.environ.get("PGSERVICE"):
        # what its file sets is weaker than any parameter; only libpq reads it
        defaults = {key: value for key, value in defaults.items() if key in _NOT_IN_FILES}
    environment = {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar
    }
    missing = {
        key: value
        for key, value in defaults.items()
        if key not in given and environment.get(key, "") not in os.environ
    }
    return make_conninfo(conninfo or "", **missing)


def _secrets(conninfo: str | None) -> list[str]:
    values = conninfo_to_dict(conninfo) if conninfo else {}
    found = [str(values[key]) for key in _SECRETS if values.get(key)]
    if password := os.environ.get("PGPASSWORD"):
        found.append(password)
    spelt = {
        *found,
        *_IN_URL.findall(conninfo or ""),
        *(quote(secret, safe="", errors="surrogateescape") for secret in found),
        *(secret.replace("\\", "\\\\").replace("'", "\\'") for secret in found),
    }
    return sorted(spelt, key=len, reverse=True)


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def _seconds(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not low <= value <= high:  # nor is NaN
        raise ValueError(f"{name} must be {low:g} to {high:g} seconds, not {value!r}")


def _count(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
