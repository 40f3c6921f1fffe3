"""Every option at its bounds, and what never stands in an error."""

from __future__ import annotations

import os
import re
import traceback
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from anyio_sio_pg import PostgresManager, open_postgres_adapter, open_postgres_emitter
from anyio_sio_pg.options import (
    MAX_CHANNEL,
    MAX_PAYLOAD,
    Options,
    OptionValues,
    channel,
    check_names,
    table_parts,
    with_defaults,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


def just_above(value: float) -> float:
    return value * 1.001 + 1e-9


RANGES: dict[str, tuple[float, float]] = {
    "requests_timeout": (0.001, 3_600),
    "heartbeat_interval": (0.01, 3_600),
    "heartbeat_timeout": (0.02, 86_400),
    "payload_threshold": (1, MAX_PAYLOAD + 1),
    "cleanup_interval": (1, 86_400),
    "outbox_limit": (1, 10_000_000),
    "publish_timeout": (0, 86_400),
    "shutdown_timeout": (0, 3_600),
}
WHOLE = {"payload_threshold", "outbox_limit"}
SECONDS = sorted(RANGES.keys() - WHOLE)
IN_ERRORS = {0.001: "0.001", 86_400: "86400", 3_600: "3600", 8_000: "8000", 10_000_000: "10000000"}


def options(name: str, value: Any) -> Options:
    """Set one option, and leave room for a heartbeat_interval at its bound."""
    values = {"heartbeat_interval": 0.01, "heartbeat_timeout": 86_400, name: value}
    return Options(**values)


@pytest.mark.parametrize("name", RANGES)
def test_the_bounds_themselves_are_taken(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(options(name, value), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_what_is_out_of_range_is_refused_by_name_value_and_range(name: str) -> None:
    low, high = RANGES[name]
    outside: list[float] = [low - 1, high + 1] if name in WHOLE else [low - 1e-9, just_above(high)]
    for value in (*outside, -1, 10**400):
        with pytest.raises(ValueError, match=rf"^{name} must be ") as caught:
            options(name, value)
        text = str(caught.value)
        assert f"not {value!r}" in text
        assert f"{IN_ERRORS.get(low, f'{low:g}')} to {IN_ERRORS[high]}" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", SECONDS)
def test_a_time_must_be_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .* seconds, not {value!r}"):
        options(name, value)


@pytest.mark.parametrize("value", ["1", None, True, False, [1], 1j])
@pytest.mark.parametrize("name", RANGES)
def test_a_number_must_be_one(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a .*number.*, not "):
        options(name, value)


@pytest.mark.parametrize("value", [1.0, 2.5, float("nan")])
@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_count_must_be_whole(name: str, value: float) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a whole number, not {value!r}"):
        options(name, value)


@pytest.mark.parametrize("timeout", [1.0, 2.0])
def test_a_node_must_not_be_down_between_two_heartbeats(timeout: float) -> None:
    assert Options(heartbeat_interval=1, heartbeat_timeout=2.1).heartbeat_timeout == 2.1
    pattern = rf"^heartbeat_timeout must be more than heartbeat_interval \(2\), not {timeout!r}"
    with pytest.raises(ValueError, match=pattern):
        Options(heartbeat_interval=2, heartbeat_timeout=timeout)


@pytest.mark.parametrize("name", ["prefix", "table"])
@pytest.mark.parametrize("value", [None, 7, b"x"])
def test_a_name_must_be_text(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a string, not {type(value).__name__}$"):
        Options(**{name: value})


@pytest.mark.parametrize("name", ["prefix", "table"])
@pytest.mark.parametrize("value", ["", "x" * 200, "é" * 32 + "é" * 32, "a\0b", "\ud800"])
def test_a_name_that_postgresql_cannot_have_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} ") as caught:
        Options(**{name: value})
    assert type(caught.value) is ValueError
    assert not value or repr(value) in str(caught.value)


def test_the_longest_names_are_taken() -> None:
    prefix = "x" * (MAX_CHANNEL - len("#/"))
    assert Options(prefix=prefix).prefix == prefix
    with pytest.raises(ValueError, match="PostgreSQL allows 1 to 63"):
        Options(prefix=prefix + "x")
    table = "s" * 63 + "." + "é" * 31
    assert Options(table=table).table == table


@pytest.mark.parametrize("table", [".", "a.", ".a", "a.b.c", "é" * 32, "s." + "x" * 64])
def test_a_table_is_a_name_or_a_schema_and_a_name(table: str) -> None:
    assert table_parts("a") == ("a",)
    assert table_parts('A b"%.c') == ('A b"%', "c")
    with pytest.raises(ValueError, match=r"^table must be NAME or SCHEMA\.NAME"):
        table_parts(table)


@pytest.mark.parametrize("wire", ["", "Cluster", "Legacy"])
def test_an_unknown_wire_is_refused(wire: Any) -> None:
    with pytest.raises(ValueError, match=r"^wire must be 'cluster' or 'legacy', not "):
        Options(wire=wire)


@pytest.mark.parametrize("wire", [None, 5, b"cluster", ["cluster"]])
def test_a_wire_must_be_text(wire: Any) -> None:
    with pytest.raises(TypeError, match=r"^wire must be 'cluster' or 'legacy', not "):
        Options(wire=wire)


@pytest.mark.parametrize("durable", [None, 1, 0, b"unlogged", ["unlogged"]])
def test_durable_must_be_a_bool_or_text(durable: Any) -> None:
    with pytest.raises(TypeError, match=r"^durable must be False, True or 'unlogged', not "):
        Options(durable=durable)


@pytest.mark.parametrize("name", ["connect", "on_error"])
@pytest.mark.parametrize("value", [1, "x", object()])
def test_a_callable_must_be_one(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an? "):
        Options(**{name: value})
    assert getattr(Options(**{name: print}), name) is print


@pytest.mark.parametrize("name", ["uri", "listen_uri"])
def test_connect_makes_the_connections_itself(name: str) -> None:
    with pytest.raises(ValueError, match="uri and listen_uri must be None"):
        Options(connect=print, **{name: "host=h"})  # type: ignore[arg-type]


UNKNOWN = {
    "nosuch": r"unknown option 'nosuch'",
    "prefx": r"unknown option 'prefx': did you mean prefix\?",
    "url": r"unknown option 'url': its name is uri",
    "request_timeout": r"unknown option 'request_timeout': did you mean requests_timeout or .*",
    "write_only": r"unknown option 'write_only': open_postgres_emitter is for those who only send",
    "channel": r"unknown option 'channel': prefix is the first part of the channels' names",
    "logger": r"unknown option 'logger': .* goes to logging.getLogger\('anyio_sio_pg'\)",
    "redis_options": r"unknown option 'redis_options': parameters .* go into uri",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_option_is_refused_with_the_nearest_names(name: str) -> None:
    options: Any = {"prefix": "p", name: "SECRET"}
    for make in (PostgresManager, open_postgres_adapter):
        with pytest.raises(TypeError) as caught:
            make("postgresql://h/d", **options)
        assert re.fullmatch(UNKNOWN[name], str(caught.value))
        assert "SECRET" not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.anyio
@pytest.mark.parametrize("name", UNKNOWN)
async def test_an_emitter_refuses_an_unknown_option_too(name: str) -> None:
    options: Any = {name: "SECRET"}
    with pytest.raises(TypeError) as caught:
        async with open_postgres_emitter("postgresql://h/d", **options):
            raise AssertionError("the block was entered")
    assert re.fullmatch(UNKNOWN[name], str(caught.value))


def test_the_known_options_are_those_that_are_declared() -> None:
    check_names(dict.fromkeys(["uri", *OptionValues.__annotations__]))


@pytest.mark.parametrize("namespace", ["/", "/é", "x" * (MAX_CHANNEL - 3)])
def test_a_channel_is_prefix_and_namespace(namespace: str) -> None:
    assert channel("p", namespace) == f"p#{namespace}"


@pytest.mark.parametrize("namespace", ["/" + "x" * 62, "é" * 31, "/\0", "/\ud800"])
def test_a_namespace_that_no_channel_can_have_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace ") as caught:
        channel("p", namespace)
    assert repr(namespace) in str(caught.value)


@pytest.mark.parametrize(("threshold", "most"), [(1, 0), (8_000, 7_999), (100, 99)])
def test_a_message_travels_inline_below_the_threshold(threshold: int, most: int) -> None:
    assert Options(payload_threshold=threshold).max_inline == most


@pytest.mark.parametrize("name", ["uri", "listen_uri"])
@pytest.mark.parametrize("value", [1, b"host=h", ["host=h"]])
def test_a_connection_string_must_be_text(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a string or None, not "):
        Options(**{name: value})


@pytest.mark.parametrize("short", ["localhost:5432", "db-1.example_x.org:1", "10.0.0.1:65535"])
def test_the_short_form_is_host_and_port(short: str) -> None:
    host, port = short.split(":")
    given = Options(uri=short, listen_uri=short)
    assert conninfo_to_dict(given.uri or "") == {"host": host, "port": port}
    assert given.listen_uri == given.uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "postgresql://localhost/app",
        "postgres://u@h1:1,h2:2/app?target_session_attrs=read-write",
        "host=/tmp dbname=app",
        "host=h connect_timeout=3",
    ],
)
def test_what_libpq_takes_is_kept_as_it_is(uri: str) -> None:
    assert Options(uri=uri, listen_uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["localhost:", "localhost", "h:123456", "a b:1", "mysql://h/d", "host=h nonsense"]
)
@pytest.mark.parametrize("name", ["uri", "listen_uri"])
def test_another_string_is_refused_with_what_would_do(name: str, uri: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is not a connection string .* HOST:PORT$"):
        Options(**{name: uri})


@pytest.mark.parametrize("timeout", ["x", "1.5", "''"])
def test_a_connect_timeout_that_libpq_would_refuse_later_is_refused_now(timeout: str) -> None:
    if timeout == "''":
        pattern, uri = "not ''", "connect_timeout=''"
    else:
        pattern, uri = f"not '{timeout}'", f"postgresql://h/?connect_timeout={timeout}"
    with pytest.raises(ValueError, match=f"^uri: connect_timeout must be whole seconds, {pattern}"):
        Options(uri=uri)


BROKEN = [
    "postgresql://u:SECRET@h/d?nonsense=1",
    "postgresql://u:%zzSECRET@h/d",
    "postgresql://u:%00SECRET@h/d",
    "postgresql://u:%ffSECRET@h/d",
    "postgresql://u:SECRET\ud800@h/d",
    "postgresql://u:SECRET\0@h/d",
    "postgresql://u:SECRET@[::1/d",
    "host=h password='SECRET",
    "host=h password=SECRET x",
    "host=h password SECRET",
    "host=h password=SECRET\0",
    "host=h password=SECRET\udcff",
    "SECRET",
    "host=h pasword=SECRET",
]


@pytest.mark.parametrize("uri", BROKEN, ids=ascii)
@pytest.mark.parametrize("name", ["uri", "listen_uri"])
def test_a_broken_connection_string_is_not_repeated_in_the_error(name: str, uri: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is not a connection string") as caught:
        Options(**{name: uri})
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
    assert "SECRET" not in shown
    assert caught.value.__suppress_context__


TELLING = {
    "postgresql+asyncpg://u:SECRET@h/d": "leave out '+asyncpg' of the URL's scheme",
    "postgres+psycopg://u:SECRET@h/d?x=SECRET": "leave out '+psycopg' of the URL's scheme",
    "postgresql+psycopg2://h/d": "leave out '+psycopg2' of the URL's scheme",
    "postgresql://h/d?nosuch=SECRET": "it does not know the parameter 'nosuch'",
    "postgresql://u:SECRET@h:1,i:2/d?ssl=true&sslmode=SECRET&no_such=SECRET&other=1": (
        "it does not know the parameter 'no_such'"
    ),
    "host=a bogus=SECRET": "it does not know the parameter 'bogus'",
    "host = 'a \\'b' bogus = SECRET x=1": "it does not know the parameter 'bogus'",
    "host=a pasword=SECRET SECRET=1": "it does not know the parameter 'pasword'",
}


@pytest.mark.parametrize("uri", TELLING)
@pytest.mark.parametrize("name", ["uri", "listen_uri"])
def test_an_error_says_what_is_wrong_with_a_connection_string(name: str, uri: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        Options(**{name: uri})
    assert str(caught.value) == (
        f"{name} is not a connection string that libpq takes: {TELLING[uri]}"
    )


SECRET_NAMES = [
    "postgresql://u:a?secret=b/c@h/d",
    "postgresql://u:1?x=1&secret=b/c@h/d",
    "postgresql://u:a@b?secret@h/d",
    "postgresql://h/d?password=a&secret=1",
    "postgresql://h/d?sslpassword=a&secret=1",
    "postgresql://h/d?secret",
    "postgresql://h/d?s%65cret=1 s",
    "postgresql://u:a?secret=b",
    "host=h password=ab://c?secret=1 x=1",
    "dbname=postgresql://u:a secret=b@h/d",
    "postgresql+secret:a@h/d",
    "host=h password=a secret=1",
    "password = a secret = 1",
    "host=h passfile=a secret=1",
    "host=h password='a'secret=1",
    "host=h password=a secret=1 bogus=1",
    "host='a secret=1",
    "host=h user=a secret",
    "secret",
    "user:secret=@h",
    "a secret=1",
]
"""Strings that are not written as they have to be, in which a part of a password looks like a
parameter's name."""


@pytest.mark.parametrize("uri", SECRET_NAMES)
def test_a_name_that_may_be_part_of_a_password_is_not_said(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^uri (is not a connection string|has a host)") as caught:
        Options(uri=uri)
    assert "secret" not in str(caught.value)


parts = st.text("ab=&?@:/' \\+%#", max_size=6)


@given(
    parts,
    parts,
    st.sampled_from(
        [
            "host=h password={} bogus=1",
            "password = '{}' bogus=1",
            "postgresql://u:{}@h/d?bogus=1",
            "postgresql://u:{}@h,i/d?ssl=true&bogus=1",
            "postgresql://h/d?password={}&bogus=1",
            "postgresql+asyncpg://u:{}@h/d",
        ]
    ),
)
@example("", " zq=", "host=h password={} bogus=1")
@example("1?", "=/", "postgresql://u:{}@h/d?bogus=1")
def test_no_part_of_a_password_passes_for_a_name(before: str, after: str, template: str) -> None:
    shown = ""
    try:
        # a backslash may make all the rest the password, which libpq takes
        Options(uri=template.format(f"{before}zq{after}"))
    except ValueError as exc:
        shown = str(exc)
    assert "zq" not in shown


def test_a_connection_string_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(TypeError) as caught:
        Options(connect="postgresql://u:SECRET@h/")  # type: ignore[arg-type]
    assert "SECRET" not in str(caught.value)


passwords = st.text(
    st.characters(codec="utf-8", exclude_characters="\0*"), min_size=4, max_size=12
).filter(lambda text: text.strip() and text not in "postgresql://host=h user=u password=***")


def conninfos(password: str) -> list[str]:
    percent = "".join(f"%{byte:02x}" for byte in password.encode())
    return [
        f"postgresql://u:{quote(password, safe='')}@h:1/d",
        f"postgresql://u:{percent}@h/d",
        f"postgresql://h/d?user=u&password={quote(password, safe='')}&sslpassword={percent}",
        make_conninfo(host="h", password=password),
    ]


@given(passwords, st.sampled_from(["uri", "listen_uri"]))
def test_no_password_is_ever_shown(password: str, name: str) -> None:
    spellings = {password, quote(password, safe="")}
    for conninfo in conninfos(password):
        given = Options(**{name: conninfo})
        assert conninfo not in repr(given)
        shown = given.redact(ValueError(f"<{conninfo}> <{password}> <{quote(password, safe='')}>"))
        assert shown.endswith("> <***> <***>")
        for spelling in spellings:
            assert spelling not in shown
        # an error of another option, beside it
        with pytest.raises(ValueError, match=r"^outbox_limit must be 1 to 10000000, not 0$"):
            Options(**{name: conninfo, "outbox_limit": 0})


@pytest.mark.parametrize(
    "conninfo", [*conninfos("s3/cr@t'\\x"), "host=h password = 's3/cr@t\\'\\\\x'"]
)
def test_the_connection_string_itself_can_be_redacted(conninfo: str) -> None:
    shown = Options(uri=conninfo).redact(conninfo)
    assert "***" in shown
    assert "cr" not in shown
    assert "%63%72" not in shown


def test_the_other_secrets_are_redacted_too() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    secrets = known & {"sslpassword", "oauth_client_secret"}
    assert "sslpassword" in secrets
    for secret in secrets:
        given = Options(listen_uri=f"host=h {secret}=SECRET")
        assert given.redact("a SECRET b") == "a *** b"


def test_both_connection_strings_are_redacted() -> None:
    given = Options(uri="host=h password=ONE1", listen_uri="host=h password=TWO2")
    assert given.redact("ONE1 TWO2 THREE") == "*** *** THREE"


@pytest.mark.parametrize("password", ["SECRET", "SE\udcffCRET"], ids=ascii)
def test_the_environments_password_is_redacted(
    monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("PGPASSWORD", password)
    assert Options().redact(f"a {password} b") == "a *** b"
    assert Options(uri="host=h password=OTHER").redact(f"{password} OTHER") == "*** ***"


@pytest.mark.parametrize("uri", ["postgresql://u@h:5432/d", "host=h user=u@d", "h:5432"])
def test_without_passwords_nothing_is_redacted(uri: str) -> None:
    assert Options(uri=uri).redact(ValueError(uri)) == uri


def test_a_password_that_contains_another_leaves_no_rest() -> None:
    given = Options(uri="host=h password=abcdef sslpassword=abc")
    assert given.redact("abcdef abc") == "*** ***"


def test_defaults_give_way_to_the_string_and_to_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defaults = {"connect_timeout": 7, "application_name": "us"}
    assert conninfo_to_dict(with_defaults(None, **defaults)) == {
        "connect_timeout": "7",
        "application_name": "us",
    }
    given = conninfo_to_dict(with_defaults("postgresql://h/?connect_timeout=3", **defaults))
    assert given == {"host": "h", "connect_timeout": "3", "application_name": "us"}
    monkeypatch.setenv("PGAPPNAME", "theirs")
    assert conninfo_to_dict(with_defaults("", **defaults)) == {"connect_timeout": "7"}
