from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest
from engineio.packet import MESSAGE, Packet
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.local_manager import SharedPacket

orders = st.lists(st.booleans(), min_size=1, max_size=6)


@given(st.binary(), orders)
def test_binary_data_is_sent_as_each_transport_wants_it(data: bytes, order: list[bool]) -> None:
    packet = SharedPacket(data)
    for b64 in order:
        expected = "b" + base64.b64encode(data).decode() if b64 else data
        assert packet.encode(b64=b64) == expected


@given(st.text(), orders)
def test_text_is_the_same_on_every_transport(text: str, order: list[bool]) -> None:
    packet = SharedPacket(text)
    for b64 in order:
        assert packet.encode(b64=b64) == "4" + text


@pytest.mark.parametrize("data", ["2[]", b"\x00\xff", b""])
@pytest.mark.parametrize("order", list(itertools.product([False, True], repeat=2)))
def test_it_is_encoded_as_a_packet_of_its_own_would_be(data: Any, order: tuple[bool, ...]) -> None:
    shared = SharedPacket(data)
    assert shared.packet_type == MESSAGE
    assert shared.binary == isinstance(data, bytes)
    for b64 in order:
        assert shared.encode(b64=b64) == Packet(MESSAGE, data).encode(b64=b64)


def test_text_is_encoded_once_for_all() -> None:
    packet = SharedPacket("2[]")
    assert packet.encode() is packet.encode()
    binary = SharedPacket(b"x")
    assert binary.encode(b64=True) is binary.encode(b64=True)
