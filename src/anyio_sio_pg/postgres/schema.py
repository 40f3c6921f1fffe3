"""The attachments table, created or checked.

Its layout is Node's (``@socket.io/postgres-adapter``), with which it is shared.
"""

from __future__ import annotations

import psycopg
from psycopg import errors, sql

from ..errors import AdapterError
from ..options import table_parts
from .connection import AnyConnection

_COLUMNS = {"id": "int8", "payload": "bytea", "created_at": "timestamptz"}


def quoted(table: str) -> str:
    """Return ``table`` or ``schema.table`` as an SQL identifier."""
    return sql.Identifier(*table_parts(table)).as_string(None)


def create_statement(table: str) -> str:
    """Return the SQL that creates the attachments table."""
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (\n"
        "  id bigserial UNIQUE,\n"
        "  created_at timestamptz DEFAULT now(),\n"
        "  payload bytea\n"
        ");"
    )


async def ensure_table(connection: AnyConnection, table: str) -> None:
    """Create the attachments table unless it is there, and check that it can be used.

    :raises AdapterError: it is missing and may not be created, or it cannot be used; the text has
        the SQL to run.
    """
    await check_writable(connection)
    try:
        if not await _exists(connection, table):
            try:
                await connection.execute(create_statement(table).encode())
            except (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject):
                # another node has created it at the same moment
                pass
        await _check(connection, table)
    except (
        errors.InsufficientPrivilege,
        errors.InvalidSchemaName,
        errors.UndefinedTable,
    ) as exc:
        raise AdapterError(
            f"the attachments table {table!r} is missing and could not be created"
            f" ({str(exc).strip()}). Run this as a role that may:\n\n"
            f"{_create_schema(table)}{create_statement(table)}\n"
            f"{_grants(table, connection.info.user)}"
        ) from None


def _create_schema(table: str) -> str:
    *schema, _ = table_parts(table)
    return f"CREATE SCHEMA IF NOT EXISTS {quoted(schema[0])};\n" if schema else ""


def _grants(table: str, user: str) -> str:
    role = sql.Identifier(user).as_string(None)
    *schema, name = table_parts(table)
    # PostgreSQL shortens the table's part of the name
    start = name.encode()[: 63 - len("_id_seq")].decode(errors="ignore")
    sequence = sql.Identifier(*schema, f"{start}_id_seq").as_string(None)
    usage = f"GRANT USAGE ON SCHEMA {quoted(schema[0])} TO {role};\n" if schema else ""
    return (
        f"{usage}GRANT SELECT, INSERT, DELETE ON {quoted(table)} TO {role};\n"
        f"GRANT USAGE ON SEQUENCE {sequence} TO {role};"
    )


async def check_writable(connection: AnyConnection) -> None:
    """Check that the server takes notifications.

    :raises AdapterError: it is a standby, or read-only.
    """
    cursor = await connection.execute("SELECT current_setting('transaction_read_only')::bool")
    row = await cursor.fetchone()
    if row and row[0]:
        raise AdapterError(
            "PostgreSQL takes no writes on this connection: the server is a standby, or"
            " default_transaction_read_only is on. Name a primary"
            " (target_session_attrs=read-write finds it among several hosts)"
        )


async def _exists(connection: AnyConnection, table: str) -> bool:
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [quoted(table)])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _check(connection: AnyConnection, table: str) -> None:
    name = quoted(table)
    cursor = await connection.execute(
        "SELECT attname, atttypid::regtype::oid::int8 FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [name],
    )
    found = {row[0]: row[1] for row in await cursor.fetchall()}
    wrong = [
        f"{column} {kind}"
        for column, kind in _COLUMNS.items()
        if found.get(column) != psycopg.adapters.types[kind].oid
    ]
    if wrong:
        raise AdapterError(
            f"the table {table!r} is not an attachments table: it has no column"
            f" {', '.join(wrong)}. Name another one in the option 'table', or run:\n\n"
            f"{create_statement(table)}"
        )
    cursor = await connection.execute(
        "SELECT has_table_privilege(to_regclass(%(t)s), 'SELECT')"
        " AND has_table_privilege(to_regclass(%(t)s), 'INSERT')"
        " AND has_table_privilege(to_regclass(%(t)s), 'DELETE')"
        " AND coalesce(has_sequence_privilege(pg_get_serial_sequence(%(t)s, 'id'), 'USAGE'), true)",
        {"t": name},
    )
    row = await cursor.fetchone()
    if not (row and row[0]):
        raise AdapterError(
            f"the role {connection.info.user!r} may not use the attachments table {table!r}. Run:"
            f"\n\n{_grants(table, connection.info.user)}"
        )
