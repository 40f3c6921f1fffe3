"""Sending to a cluster without being a node of it."""

from __future__ import annotations

import json as stdlib_json
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, LiteralString, NamedTuple, TypeAlias

import msgspec

from .errors import AdapterClosedError, AdapterError
from .options import MAX_PAYLOAD, Options, OptionValues, WireName, check_names
from .postgres.connection import open_session
from .postgres.log import ensure_tables
from .postgres.publisher import Publisher
from .postgres.schema import check_writable, quoted
from .protocol.batch import Log
from .protocol.cluster_wire import ClusterWire
from .protocol.legacy_wire import LegacyWire
from .protocol.messages import (
    EMITTER,
    Broadcast,
    DisconnectSockets,
    Message,
    Room,
    ServerSideEmit,
    SocketsJoin,
    SocketsLeave,
    check_server_event,
    event_data,
    json_text,
    make_target,
    named_rooms,
    to_data,
)
from .protocol.wire import Wire
from .reporting import Reporter

if TYPE_CHECKING:
    from typing import Unpack

Rooms: TypeAlias = Room | Iterable[Room] | None
ParamStyle: TypeAlias = Literal["pyformat", "format", "named", "numeric", "qmark", "numeric_dollar"]

_STYLES: dict[str, Callable[[str, int], str]] = {
    "pyformat": lambda name, _: f"%({name})s",
    "format": lambda _name, _number: "%s",
    "named": lambda name, _: f":{name}",
    "numeric": lambda _, number: f":{number}",
    "qmark": lambda _name, _number: "?",
    "numeric_dollar": lambda _, number: f"${number}",
}
_MOST_CALLS = 1_600
"""Notifications in one statement of :func:`emit_statement` (PostgreSQL has 1,664 columns at most)."""

_BY_NAME = ("pyformat", "named")


class Statement(NamedTuple):
    """SQL and its parameters: a dict for the styles with names, else a list."""

    sql: LiteralString
    params: Any


class PostgresEmitter:
    """Sends events and commands to a cluster; :func:`open_postgres_emitter` makes one.

    All methods raise :class:`PublishError` when the outbox stayed full for ``publish_timeout``,
    and :class:`AdapterClosedError` after the block. An empty ``to``, and a namespace that does not
    begin with a slash or whose channel's name would have more than 63 bytes, raise ValueError; a
    room that is neither a str nor an int raises TypeError. With ``wire="legacy"`` all but
    :meth:`emit` and :meth:`flush` raise :class:`AdapterError`: the 1.x wire has commands for single
    sockets only, which a sender that cannot ask does not know.
    """

    def __init__(self, options: Options, publisher: Publisher, origin: str):
        self._options = options
        self._publisher = publisher
        self._wire = _wire(options)
        self._origin = origin
        self._numbers: dict[str, int] = {}

    async def emit(
        self,
        event: str,
        data: Any = None,
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
    ) -> None:
        """Send an event to a room, a sid or several; none means everyone in the namespace.

        ``data``: a tuple is several arguments, None is none.

        :raises ValueError: the event's name is reserved, JSON cannot hold a number in the data, or
            ``to`` is empty.
        :raises TypeError: JSON cannot hold the data.
        :raises AdapterError: ``except_rooms`` with ``wire="legacy"``.
        """
        _check_except(self._options, except_rooms)
        packet = event_data(event, data, json_text)
        target = make_target(to, None, except_rooms)
        await self._publish(Broadcast, namespace, data=packet, target=target)

    async def sockets_join(
        self,
        rooms: Room | Iterable[Room],
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
    ) -> None:
        """Let the sockets of a target enter rooms."""
        names, target = named_rooms(rooms), make_target(to, None, except_rooms)
        await self._publish(SocketsJoin, namespace, target=target, rooms=names)

    async def sockets_leave(
        self,
        rooms: Room | Iterable[Room],
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
    ) -> None:
        """Let the sockets of a target leave rooms."""
        names, target = named_rooms(rooms), make_target(to, None, except_rooms)
        await self._publish(SocketsLeave, namespace, target=target, rooms=names)

    async def disconnect_sockets(
        self,
        *,
        to: Rooms = None,
        except_rooms: Rooms = None,
        namespace: str = "/",
        close: bool = False,
    ) -> None:
        """Disconnect the sockets of a target; ``close`` ends their transport as well."""
        target = make_target(to, None, except_rooms)
        await self._publish(DisconnectSockets, namespace, target=target, close=close)

    async def server_side_emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        """Send an event to every server's handler.

        :raises ValueError: the name is one that Node's servers take for their own.
        """
        check_server_event(event)
        data = to_data([event, *args], json_text)
        await self._publish(ServerSideEmit, namespace, data=data)

    async def flush(self) -> None:
        """Return when all that was accepted before this call is committed (or refused)."""
        self._check_open()
        await self._publisher.flush()

    async def _publish(self, kind: type[Message], namespace: str, **fields: Any) -> None:
        self._check_open()
        if self._options.wire == "legacy" and kind is not Broadcast:
            raise AdapterError("wire='legacy' carries an emitter's events only")
        self._wire.channel(namespace)
        await self._publisher.offer(
            partial(self._encode, kind, namespace, fields), self._options.publish_timeout
        )

    def _check_open(self) -> None:
        if self._publisher.closed:
            raise AdapterClosedError("the emitter is closed")

    def _encode(self, kind: type[Message], namespace: str, fields: dict[str, Any]) -> Any:
        number = self._numbers.get(namespace, 0) + 1
        message = kind(
            sender=EMITTER, origin=self._origin, namespace=namespace, seq=number, **fields
        )
        outgoing = self._wire.encode(message, self._options.max_inline)
        self._numbers[namespace] = number
        if self._options.durable:
            return msgspec.structs.replace(outgoing, seq=number)
        return outgoing


@asynccontextmanager
async def open_postgres_emitter(
    uri: str | None = None, **options: Unpack[OptionValues]
) -> AsyncGenerator[PostgresEmitter]:
    """Yield a :class:`PostgresEmitter`, which neither listens nor counts as a node.

    Takes what :class:`.PostgresManager` takes. At the end of the block the outbox is flushed
    within ``shutdown_timeout``.

    :raises ValueError: an option is out of range.
    :raises TypeError: an option is of a wrong type, or there is none of that name.
    :raises AdapterError: PostgreSQL cannot be reached or refuses.
    :raises PublishError: at the end of the block, messages could not be sent in time.
    """
    check_names(options)
    checked = Options(uri=uri, **options)
    reporter = Reporter(checked.on_error)
    origin = secrets.token_hex(8)
    publisher = Publisher(
        open=partial(open_session, checked, listening=False),
        prepare=check_writable if checked.wire == "legacy" else partial(ensure_tables, checked),
        table=quoted(checked.table),
        log=Log(quoted(checked.log_table), origin) if checked.durable else None,
        limit=checked.outbox_limit,
        silence=checked.heartbeat_timeout,
        tries_for=checked.publish_timeout,
        drain_timeout=checked.shutdown_timeout,
        report=reporter.report,
        redact=checked.redact,
    )
    async with reporter.task_group() as task_group, publisher.running(task_group):
        yield PostgresEmitter(checked, publisher, origin)


def emit_statement(
    event: str,
    data: Any = None,
    *,
    to: Rooms = None,
    except_rooms: Rooms = None,
    namespace: str = "/",
    prefix: str = "socket.io",
    wire: WireName = "cluster",
    table: str = "socket_io_attachments",
    payload_threshold: int = MAX_PAYLOAD + 1,
    paramstyle: ParamStyle = "pyformat",
    json: Any = stdlib_json,
) -> Statement:
    """Return the SQL, and its parameters, that sends one event to a cluster.

    Execute it on any PostgreSQL connection, inside your own transaction: the event goes out when,
    and only when, that commits. Every statement made is an event of its own, also of two that are
    equal. Nothing is connected or sent here.

    ``to``, ``except_rooms``, ``namespace`` and ``data`` are as for :meth:`PostgresEmitter.emit`;
    ``prefix``, ``wire``, ``table`` and ``payload_threshold`` as the servers have them. ``paramstyle`` is the
    driver's: ``"pyformat"`` (psycopg, Django), ``"format"``, ``"named"`` (SQLAlchemy's ``text``),
    ``"numeric"``, ``"qmark"``, or ``"numeric_dollar"`` (asyncpg). ``json`` is a module with a
    ``dumps`` function. An event over 7,999 bytes, or with binary data, goes through the table,
    which must exist (see :func:`.create_table_statement`); with ``wire="legacy"`` it goes in pieces.

    :raises AdapterError: ``except_rooms`` with ``wire="legacy"``.
    :raises ValueError: an argument is out of range, the event's name is reserved, ``to`` is empty,
        or JSON cannot hold a number in the data.
    :raises TypeError: JSON cannot hold the data, or a room is neither a str nor an int.
    """
    style = _STYLES.get(paramstyle)
    if style is None:
        raise ValueError(f"paramstyle must be one of {', '.join(_STYLES)}, not {paramstyle!r}")
    options = Options(prefix=prefix, wire=wire, table=table, payload_threshold=payload_threshold)
    _check_except(options, except_rooms)
    dumps = json_text if json is stdlib_json else partial(json.dumps, separators=(",", ":"))
    message = Broadcast(
        sender=EMITTER,
        # without it PostgreSQL would take two equal events of one transaction for one
        origin=secrets.token_hex(8),
        namespace=namespace,
        data=event_data(event, data, dumps),
        target=make_target(to, None, except_rooms),
    )
    checked = _wire(options)
    checked.channel(namespace)
    outgoing = checked.encode(message, options.max_inline)
    values: dict[str, Any] = {}

    def parameter(name: str, kind: str, value: Any) -> str:
        values[name] = value
        return f"CAST({style(name, len(values))} AS {kind})"

    if outgoing.body is None:
        if len(outgoing.more) >= _MOST_CALLS:
            raise ValueError(
                f"the event makes {len(outgoing.more) + 1} notifications of the 1.x wire; one"
                f" statement can send 1 to {_MOST_CALLS}"
            )
        calls: list[str] = []
        for number, payload in enumerate((outgoing.head, *outgoing.more)):
            suffix = f"_{number}" if number else ""
            channel = parameter(f"channel{suffix}", "text", outgoing.channel)
            text = parameter(f"payload{suffix}", "text", payload.decode())
            calls.append(f"pg_catalog.pg_notify({channel}, {text})")
        sql = f"SELECT {', '.join(calls)}"
    else:
        name = quoted(table)
        if paramstyle in ("pyformat", "format"):
            name = name.replace("%", "%%")
        body = parameter("body", "bytea", outgoing.body)
        channel = parameter("channel", "text", outgoing.channel)
        head = parameter("head", "text", outgoing.head.decode())
        tail = parameter("tail", "text", outgoing.tail.decode())
        sql = (
            f"WITH stored AS (INSERT INTO {name} (payload) VALUES ({body}) RETURNING id)"  # noqa: S608
            f" SELECT pg_catalog.pg_notify({channel}, {head} || CAST(id AS text) || {tail})"
            " FROM stored"
        )
    params = values if paramstyle in _BY_NAME else list(values.values())
    # type checkers do not know that the one part that is no literal, the table's name, is quoted
    return Statement._make((sql, params))


def _wire(options: Options) -> Wire:
    kind = LegacyWire if options.wire == "legacy" else ClusterWire
    return kind(options.prefix)


def _check_except(options: Options, except_rooms: Rooms) -> None:
    if options.wire == "legacy" and except_rooms is not None:
        raise AdapterError("wire='legacy' cannot carry except_rooms")
