"""Values as JSON and as MessagePack hold them, and the ways between the two."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from .messages import RESERVED_EVENTS, Data, Tree, join_binary

_RESERVED_STARTS = tuple(f'["{event}"'.encode() for event in RESERVED_EVENTS)
_SHORT = 128
_PLAIN_NAME = re.compile(rb'\["[^"\\]*"')
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][\da-fA-F]{2})|.)",
    re.DOTALL,
)


def no_extension(_code: int, _data: memoryview) -> None:
    """Read extension types of MessagePack, which JSON does not have, as null."""


tree_from_msgpack = msgspec.msgpack.Decoder[Any](ext_hook=no_extension)
tree_from_json = msgspec.json.Decoder[Any]()
items_from_json = msgspec.json.Decoder[Any](list[Raw])
encode_json = msgspec.json.Encoder().encode

MALFORMED = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, IndexError)


def lenient(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    """Decode JSON in which halves of surrogate pairs may stand, as JavaScript's strings can.

    They become replacement characters, which is what a WebSocket makes of them.
    """
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        whole = _ESCAPE.sub(lambda match: b"\\ufffd" if match["half"] else match[0], text)
        if whole == text:
            raise
        return decoder.decode(whole)


def pack(tree: Any) -> bytes:
    """Encode a value as MessagePack."""
    try:
        return msgspec.msgpack.encode(tree)
    except OverflowError:
        return msgspec.msgpack.encode(narrow(tree))


def narrow(value: Tree | Struct) -> Any:
    """Make numbers that MessagePack cannot hold into floats, as JavaScript reads them anyway."""
    if isinstance(value, dict):
        return {key: narrow(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [narrow(item) for item in value]
    if isinstance(value, Struct):
        return narrow(msgspec.structs.asdict(value))
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value


def json_tree(value: Tree, attachments: list[bytes] | None) -> Any:
    """Return what JSON can hold of a MessagePack value, bytes in ``attachments`` (or kept)."""
    if isinstance(value, bytes):
        if attachments is None:
            return value
        attachments.append(value)
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else _key(key): json_tree(item, attachments)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [json_tree(item, attachments) for item in value]
    if isinstance(value, datetime.datetime):
        # what JSON.stringify makes of a Date
        text = value.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
        return text.replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _key(key: Any) -> str:
    if isinstance(key, int | float):
        return str(key)
    raise ValueError(f"a key must be text, not {type(key).__name__}")


def data_from_json(raw: Raw) -> Data:
    """Return a value that came as JSON as it goes to clients.

    :raises ValueError: it is not valid Unicode.
    """
    text = bytes(raw)
    if not text.isascii():
        text.decode()
    return Data(text)


def data_from_msgpack(raw: Raw, decode: Callable[[Raw], Any] = tree_from_msgpack.decode) -> Data:
    """Return a value that came as MessagePack as it goes to clients.

    :raises ValueError: JSON cannot hold it.
    """
    attachments: list[bytes] = []
    tree = json_tree(decode(raw), attachments)
    text = encode_json(tree)
    if attachments and text.count(b'"_placeholder":true') != len(attachments):
        raise ValueError("a value poses as an attachment")
    return Data(text, tuple(attachments))


@lru_cache(1_024)
def _is_reserved(start: bytes) -> bool | None:
    """Tell from an event's text up to the second quotation mark; None where that is not enough."""
    return start in _RESERVED_STARTS if _PLAIN_NAME.fullmatch(start) else None


def check_event(data: Data, *, reserved: bool) -> Data:
    """Return an event that came, which must be ``[name, *args]``.

    :raises ValueError: it is not, or (``reserved``) clients do not accept its name.
    """
    text = data.json
    # most events have a short name that came before
    refused = _is_reserved(text[: text.find(b'"', 2, _SHORT) + 1])
    if refused is None:
        items: list[Raw] = items_from_json.decode(text)
        if not items or bytes(items[0])[:1] not in b'"-0123456789':
            raise ValueError("an event must be an array that begins with the event's name")
        refused = tree_from_json.decode(items[0]) in RESERVED_EVENTS
    if reserved and refused:
        raise ValueError("an event must not have a reserved name")
    return data


def tree_of(data: Data) -> Any:
    """Return the value that ``data`` holds, with its binary parts."""
    tree = lenient(tree_from_json, data.json)
    return join_binary(tree, data.attachments) if data.attachments else tree
