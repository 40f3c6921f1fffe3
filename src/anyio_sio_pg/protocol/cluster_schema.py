"""Node's payloads, as typed structures: what is wrong in a message is found by decoding it.

The tags are the message types of ``@socket.io/postgres-adapter`` 0.5. Keys that are not named here
are ignored, as Node does.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from .messages import Room, SocketInfo, Want

MAX_BIGINT = 2**63 - 1

_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
_Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_BIGINT)]


class Flags(Struct):
    """What a sender asks of the broadcast; ``timeout`` is in milliseconds."""

    timeout: float | None = None


class Opts(Struct):
    """Whom a message is for."""

    rooms: tuple[Room, ...] = ()
    except_: tuple[Room, ...] = msgspec.field(default=(), name="except")
    flags: Flags | None = None


class Packet(Struct):
    """An event, ``[event, *args]``, undecoded."""

    data: Raw
    type: int = 2


class BroadcastBody(Struct):
    """``data`` of BROADCAST; with ``requestId`` it asks for acknowledgements."""

    packet: Packet
    opts: Opts
    requestId: _Id | None = None


class RoomsBody(Struct):
    """``data`` of SOCKETS_JOIN and SOCKETS_LEAVE."""

    opts: Opts
    rooms: tuple[Room, ...]


class DisconnectBody(Struct):
    """``data`` of DISCONNECT_SOCKETS."""

    opts: Opts
    close: bool = False


class FetchBody(Struct):
    """``data`` of FETCH_SOCKETS."""

    opts: Opts
    requestId: _Id
    want: Want = "sockets"
    settle: bool = False
    direct: bool = False


class FetchResponseBody(Struct):
    """``data`` of FETCH_SOCKETS_RESPONSE."""

    requestId: _Id
    sockets: tuple[SocketInfo, ...] = ()
    rooms: tuple[Room, ...] | None = None


class ServerSideBody(Struct):
    """``data`` of SERVER_SIDE_EMIT; ``packet`` is ``[event, *args]``."""

    packet: Raw
    requestId: _Id | None = None
    direct: bool = False


class AnswerBody(Struct):
    """``data`` of SERVER_SIDE_EMIT_RESPONSE and BROADCAST_ACK; what is left out is empty."""

    requestId: _Id
    packet: Raw = Raw()
    args: Raw = Raw()


class CountBody(Struct):
    """``data`` of BROADCAST_CLIENT_COUNT."""

    requestId: _Id
    clientCount: _Number


class Envelope(Struct, kw_only=True, tag_field="type"):
    """What every payload carries, ours and Node's."""

    uid: _Id
    seq: _Number | None = None
    origin: _Id | None = None
    attachmentId: str | int | None = None
    rooms: tuple[Room, ...] | None = None


class NamespaceOnly(Struct):
    """What tells, on a node's own channel, which namespace a payload is about."""

    nsp: str


class Owner(Struct):
    """Whose an attachment is; Node's have no number."""

    uid: str
    seq: int | None = None
    origin: str | None = None


class InitialHeartbeatEnvelope(Envelope, kw_only=True, tag=1):
    """INITIAL_HEARTBEAT: every other node answers with a HEARTBEAT."""

    probe: _Number | None = None


class HeartbeatEnvelope(Envelope, kw_only=True, tag=2):
    """HEARTBEAT."""

    probe: _Number | None = None


class BroadcastEnvelope(Envelope, kw_only=True, tag=3):
    """BROADCAST."""

    data: BroadcastBody | None = None


class SocketsJoinEnvelope(Envelope, kw_only=True, tag=4):
    """SOCKETS_JOIN."""

    data: RoomsBody | None = None


class SocketsLeaveEnvelope(Envelope, kw_only=True, tag=5):
    """SOCKETS_LEAVE."""

    data: RoomsBody | None = None


class DisconnectSocketsEnvelope(Envelope, kw_only=True, tag=6):
    """DISCONNECT_SOCKETS."""

    data: DisconnectBody | None = None


class FetchSocketsEnvelope(Envelope, kw_only=True, tag=7):
    """FETCH_SOCKETS."""

    data: FetchBody | None = None


class FetchSocketsResponseEnvelope(Envelope, kw_only=True, tag=8):
    """FETCH_SOCKETS_RESPONSE."""

    data: FetchResponseBody | None = None


class ServerSideEmitEnvelope(Envelope, kw_only=True, tag=9):
    """SERVER_SIDE_EMIT."""

    data: ServerSideBody | None = None


class ServerSideEmitResponseEnvelope(Envelope, kw_only=True, tag=10):
    """SERVER_SIDE_EMIT_RESPONSE."""

    data: AnswerBody | None = None


class BroadcastClientCountEnvelope(Envelope, kw_only=True, tag=11):
    """BROADCAST_CLIENT_COUNT."""

    data: CountBody | None = None


class BroadcastAckEnvelope(Envelope, kw_only=True, tag=12):
    """BROADCAST_ACK."""

    data: AnswerBody | None = None


class AdapterCloseEnvelope(Envelope, kw_only=True, tag=13):
    """ADAPTER_CLOSE."""


AnyEnvelope: TypeAlias = (
    InitialHeartbeatEnvelope
    | HeartbeatEnvelope
    | BroadcastEnvelope
    | SocketsJoinEnvelope
    | SocketsLeaveEnvelope
    | DisconnectSocketsEnvelope
    | FetchSocketsEnvelope
    | FetchSocketsResponseEnvelope
    | ServerSideEmitEnvelope
    | ServerSideEmitResponseEnvelope
    | BroadcastClientCountEnvelope
    | BroadcastAckEnvelope
    | AdapterCloseEnvelope
)
