from __future__ import annotations

from collections import Counter

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer

from anyio_sio_pg.protocol.batch import (
    MAX_BYTES,
    MAX_MESSAGES,
    TextArray,
    size,
    statement,
    take,
    text_array,
)
from anyio_sio_pg.protocol.wire import Outgoing

LOADER = Transformer().get_loader(psycopg.adapters.types["text"].array_oid, pq.Format.BINARY).load

channels = st.sampled_from(["c#/", "c#/é"])
inline = st.builds(Outgoing, channel=channels, head=st.sampled_from([b"1", b"22", b"333"]))
attached = st.builds(
    Outgoing,
    channel=channels,
    head=st.sampled_from([b"1", b"22"]),
    body=st.binary(max_size=6),
    tail=st.sampled_from([b"", b'"}']),
)
queues = st.lists(inline | attached, max_size=30)
limits = st.integers(1, 12)


def bytes_of(batch: list[Outgoing]) -> int:
    return sum(len(m.head) + len(m.body or b"") for m in batch)


def repeats(batch: list[Outgoing]) -> bool:
    pairs = Counter((m.channel, m.head) for m in batch if m.body is None)
    return any(count > 1 for count in pairs.values())


@given(queues, limits, limits)
def test_a_batch_is_a_beginning_within_the_limits(
    queue: list[Outgoing], messages: int, size_limit: int
) -> None:
    batch = take(queue, messages, size_limit)
    assert batch == queue[: len(batch)]
    assert bool(batch) == bool(queue)
    assert len(batch) <= messages
    assert len(batch) <= 1 or bytes_of(batch) <= size_limit
    assert not repeats(batch)


@given(queues, limits, limits)
def test_a_batch_is_the_longest_such_beginning(
    queue: list[Outgoing], messages: int, size_limit: int
) -> None:
    batch = take(queue, messages, size_limit)
    longer = queue[: len(batch) + 1]
    if len(longer) > len(batch):
        pairs = {(m.channel, m.head) for m in batch}
        last = longer[-1]
        # heads of attached messages count too: that only ever ends a batch early
        repeat = last.body is None and (last.channel, last.head) in pairs
        assert len(longer) > messages or bytes_of(longer) > size_limit or repeat


@given(queues, limits, limits)
def test_batch_by_batch_everything_goes_once_and_in_order(
    queue: list[Outgoing], messages: int, size_limit: int
) -> None:
    waiting, sent = list(queue), []
    while waiting:
        batch = take(waiting, messages, size_limit)
        sent += batch
        del waiting[: len(batch)]
    assert sent == queue


def test_two_equal_notifications_never_share_a_statement() -> None:
    one, other = Outgoing("c", b"1"), Outgoing("d", b"1")
    assert take([one, other, one, one]) == [one, other]


def test_two_equal_attachments_may() -> None:
    # each gets a row, and so a number, of its own
    message = Outgoing("c", b"1", b"body")
    assert take([message, message]) == [message, message]


def test_a_message_over_the_limit_goes_alone() -> None:
    small, big = Outgoing("c", b"1"), Outgoing("c", b"2", b"x" * (MAX_BYTES + 1))
    assert take([big, small]) == [big]
    assert take([small, big]) == [small]


def test_the_limits_themselves_are_reached() -> None:
    queue = [Outgoing("c", b"%d" % i) for i in range(MAX_MESSAGES + 1)]
    assert take(queue) == queue[:MAX_MESSAGES]
    half = Outgoing("c", b"", b"x" * (MAX_BYTES // 2))
    assert take([half, half, half]) == [half, half]


def texts(array: TextArray) -> list[str]:
    loaded: list[str] = LOADER(array)
    return loaded


@given(st.lists(st.text(st.characters(exclude_characters="\0")), max_size=5))
def test_an_array_is_what_the_driver_makes_of_a_list(items: list[str]) -> None:
    array = text_array([item.encode() for item in items])
    dumper = Transformer().get_dumper(items, PyFormat.BINARY)
    assert array == (dumper.dump(items) if items else bytes(8) + b"\0\0\0\x19")
    assert texts(array) == items


@pytest.mark.parametrize("length", [0, 1, 7_999, 8_000, 70_000])
def test_texts_of_an_array_may_have_any_length(length: int) -> None:
    assert texts(text_array([b"x" * length, b"y"])) == ["x" * length, "y"]


@given(st.lists(inline | attached, min_size=1, max_size=20))
def test_a_statements_parameters_line_up(batch: list[Outgoing]) -> None:
    text, parameters = statement(batch, '"t"')
    assert text.count("%b") == len(parameters)
    if not any(m.body is not None for m in batch):
        channels, heads = parameters
        if isinstance(channels, str):
            assert {channels} == {m.channel for m in batch}
        else:
            assert texts(channels) == [m.channel for m in batch]
        assert ([heads] if isinstance(heads, str) and len(batch) == 1 else texts(heads)) == [
            m.head.decode() for m in batch
        ]
        return
    bodies, *arrays, keys = parameters
    channels, heads, tails = map(texts, arrays)
    # the k-th body, counted from one, belongs to the message whose key is k; zero is none's
    rebuilt = [
        Outgoing(c, h.encode(), bodies[k - 1] if k else None, t.encode())
        for c, h, t, k in zip(channels, heads, tails, keys, strict=True)
    ]
    assert rebuilt == batch
    assert [key for key in keys if key] == list(range(1, len(bodies) + 1))


def test_no_table_is_named_when_nothing_goes_there() -> None:
    text, _ = statement([Outgoing("c", b"1")], '"t"')
    assert '"t"' not in text


def test_the_tables_name_stands_in_the_statement_for_the_driver_to_read() -> None:
    text, _ = statement([Outgoing("c", b"1", b"")], '"100%"."{x}"')
    assert 'INSERT INTO "100%%"."{x}" (payload)' in text
    assert text.replace("%b", "").replace("%%", "").count("%") == 0


def test_an_empty_body_is_a_body() -> None:
    assert size(Outgoing("c", b"12", b"")) == 2
    assert statement([Outgoing("c", b"1", b"")], "t")[1][0] == [b""]
