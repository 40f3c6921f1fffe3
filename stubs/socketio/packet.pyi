from collections.abc import Sequence
from typing import Any, Final

CONNECT: Final = 0
DISCONNECT: Final = 1
EVENT: Final = 2
ACK: Final = 3
CONNECT_ERROR: Final = 4
BINARY_EVENT: Final = 5
BINARY_ACK: Final = 6

class Packet:
    uses_binary_events: bool
    json: Any
    packet_type: int
    data: Any
    namespace: str | None
    id: int | None
    attachment_count: int
    attachments: list[bytes]
    def __init__(
        self,
        packet_type: int = ...,
        data: Any = ...,
        namespace: str | None = ...,
        id: int | None = ...,
        binary: bool | None = ...,
        encoded_packet: str | bytes | None = ...,
    ) -> None: ...
    # bytes: the packets of socketio.msgpack_packet
    def encode(self) -> str | bytes | list[str | bytes]: ...
    def decode(self, encoded_packet: Any) -> int | None: ...
    def add_attachment(self, attachment: bytes) -> bool: ...
    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: Sequence[bytes]) -> Any: ...
    @classmethod
    def deconstruct_binary(cls, data: Any) -> tuple[Any, list[bytes]]: ...
    @classmethod
    def data_is_binary(cls, data: Any) -> bool: ...
