"""Socket.IO servers in many processes act as one, through PostgreSQL, on asyncio and on Trio."""

from .calls import RemoteSocket
from .emitter import PostgresEmitter, Statement, emit_statement, open_postgres_emitter
from .errors import (
    AdapterClosedError,
    AdapterError,
    ConnectionLostError,
    MessagesLostError,
    ProtocolError,
    PublishError,
    RequestTimeoutError,
    UnknownSocketError,
)
from .local_manager import AnyIOManager
from .manager import PostgresManager, open_postgres_adapter
from .postgres.connection import AnyIOConnection
from .postgres.log import create_log_statement
from .postgres.schema import create_statement as create_table_statement
from .server import AnyIOEngineServer, AnyIOServer
from .status import Stats, Status

__all__ = [
    "AdapterClosedError",
    "AdapterError",
    "AnyIOConnection",
    "AnyIOEngineServer",
    "AnyIOManager",
    "AnyIOServer",
    "ConnectionLostError",
    "MessagesLostError",
    "PostgresEmitter",
    "PostgresManager",
    "ProtocolError",
    "PublishError",
    "RemoteSocket",
    "RequestTimeoutError",
    "Statement",
    "Stats",
    "Status",
    "UnknownSocketError",
    "create_log_statement",
    "create_table_statement",
    "emit_statement",
    "open_postgres_adapter",
    "open_postgres_emitter",
]
