from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyio_sio_pg.protocol.chunks import LIFETIME, Chunks, Incomplete, payloads

CHANNEL = "socket.io#/#"
LIMIT = 7_999

# as JSON and base64 are: no control characters
characters = st.characters(codec="utf-8", exclude_categories=["Cc"])
texts = st.text(characters, min_size=1, max_size=200)
long_texts = st.builds(
    lambda part, times: part * times,
    st.text(characters, min_size=1, max_size=8) | st.sampled_from(['"', "\\", "é", "😀", "x"]),
    st.integers(1, 20_000),
)


def piece(text: str, index: int | str, count: int | str, chunk_id: str = "abcdef") -> str:
    return f"_chunk_{chunk_id}_{index}_{count}".ljust(50) + text


def parsed(pieces: tuple[bytes, ...]) -> list[str]:
    """Return the texts, of which each must be on the channel."""
    result: list[str] = []
    for payload in pieces:
        channel, text = json.loads(payload)
        assert channel == CHANNEL
        result.append(text)
    return result


# Cutting


@given(long_texts)
def test_a_text_is_cut_so_that_each_piece_fits(text: str) -> None:
    found = payloads(CHANNEL, text, LIMIT, "abcdef1")
    assert max(map(len, found)) <= LIMIT
    if len(found) > 1:
        # no more pieces than it takes: Node's own have up to 5,000 characters
        assert len(found) <= -(-len(text) // 1_900)


@given(texts, st.integers(80, 400))
def test_a_small_limit_is_kept_where_it_leaves_room(text: str, limit: int) -> None:
    # 19 of it are the channel's, 50 the header's
    found = payloads(CHANNEL, text, limit + 250, "abcdef1")
    assert max(map(len, found)) <= limit + 250


@given(texts, st.integers(1, 400))
def test_an_impossible_limit_ends_in_pieces_all_the_same(text: str, limit: int) -> None:
    found = payloads(CHANNEL, text, limit, "abcdef1")
    if len(found) > 1:
        chunks = Chunks()
        whole = [chunks.add(CHANNEL, one, 0.0) for one in parsed(found)]
        assert whole == [*[None] * (len(found) - 1), text]


@pytest.mark.parametrize("size", [7_980, 7_981])
def test_a_text_that_fits_is_not_cut(size: int) -> None:
    found = payloads(CHANNEL, "x" * size, LIMIT, "abcdef1")
    whole = json.dumps([CHANNEL, "x" * size], separators=(",", ":")).encode()
    assert len(whole) == size + 19
    if len(whole) <= LIMIT:
        assert found == (whole,)
    else:
        assert [text[50:] for text in parsed(found)] == ["x" * 5_000, "x" * (size - 5_000)]


def test_the_pieces_are_as_node_cuts_them() -> None:
    text = "x" * 5_000 + "y" * 5_000 + "z"
    assert parsed(payloads(CHANNEL, text, LIMIT, "aB3xY9")) == [
        "_chunk_aB3xY9_0_3                                 " + "x" * 5_000,
        "_chunk_aB3xY9_1_3                                 " + "y" * 5_000,
        "_chunk_aB3xY9_2_3                                 z",
    ]


# Putting together


@given(long_texts, st.randoms(use_true_random=False))
def test_the_pieces_of_a_text_come_together_in_any_order(text: str, random: Any) -> None:
    pieces = parsed(payloads(CHANNEL, text, 1_000, "abcdef1"))
    if len(pieces) > 1:
        random.shuffle(pieces)
        chunks = Chunks()
        *before, last = [chunks.add(CHANNEL, one, 0.0) for one in pieces]
        assert before == [None] * len(before)
        assert last == text
        assert chunks.expire(1e9) == []


@given(st.lists(st.text(max_size=3), min_size=1, max_size=6), st.data())
def test_repeats_change_nothing(parts: list[str], data: st.DataObject) -> None:
    order = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=30))
    chunks = Chunks()
    here: set[int] = set()
    for index in order:
        here.add(index)
        whole = chunks.add(CHANNEL, piece(parts[index], index, len(parts)), 0.0)
        assert whole == ("".join(parts) if len(here) == len(parts) else None)
        if whole is not None:
            # what comes after it begins anew
            here.clear()
    lost = chunks.expire(LIFETIME)
    assert lost == ([Incomplete(CHANNEL, len(here), len(parts))] if here else [])


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"])),
        st.lists(texts, min_size=1, max_size=4),
        min_size=1,
    ),
    st.randoms(use_true_random=False),
)
def test_texts_of_several_channels_and_senders_do_not_mix(
    whole: dict[tuple[str, str], list[str]], random: Any
) -> None:
    pieces = [
        (key, piece(part, i, len(parts), key[1]))
        for key, parts in whole.items()
        for i, part in enumerate(parts)
    ]
    random.shuffle(pieces)
    chunks = Chunks()
    found: dict[tuple[str, str], str] = {}
    for key, text in pieces:
        result = chunks.add(key[0], text, 0.0)
        if result is not None:
            assert found.setdefault(key, result) is result
    assert found == {key: "".join(parts) for key, parts in whole.items()}


def test_a_piece_may_be_empty_and_a_text_may_be_one_piece() -> None:
    chunks = Chunks()
    assert chunks.add(CHANNEL, piece("", 0, 1), 0.0) == ""
    assert chunks.add(CHANNEL, piece("x", 0, 1), 0.0) == "x"
    assert chunks.add(CHANNEL, piece("", 1, 2), 0.0) is None
    assert chunks.add(CHANNEL, piece("x", 0, 2), 0.0) == "x"
    assert chunks.expire(1e9) == []


def test_only_the_header_is_cut_off() -> None:
    chunks = Chunks()
    assert chunks.add(CHANNEL, piece("  _chunk_", 0, 1), 0.0) == "  _chunk_"


# What is no piece


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_chunk_",
        "_chunk_a",
        "_chunk_a_0",
        "_chunk__0_1",
        "_chunk_a_0_",
        "_chunk_a__1",
        "_chunk_a_-1_1",
        "_chunk_a_0_-1",
        "_chunk_a_x_1",
        "_chunk_a_0x0_1",
        "_chunk_a_1.0_2",
        "_chunk_a_+0_1",
        "_chunk_a_²_3",
        "_chunk_a_\u0660_\u0661",
        "_chunk_a_0_1_2",
        "_chunk_a b_0_1",
        "_chunk_a_0_1 x",
        "_chunk_a_00000000_1",
        "_chunk_a_0_10000000",
        "_chunk_" + "a" * 60 + "_0_1",
        "_Chunk_a_0_1",
        " _chunk_a_0_1",
        "_chunk_a_0_0",
        "_chunk_a_1_1",
        "_chunk_a_2_1",
        "_chunk_a_0_1000001",
        "_chunk_a_9999999_9999999",
    ],
)
def test_a_header_that_is_none_is_refused(text: str) -> None:
    chunks = Chunks()
    with pytest.raises(ValueError, match="piece"):
        chunks.add(CHANNEL, text.ljust(50) + "text", 0.0)
    # and leaves nothing behind
    assert chunks.expire(1e9) == []


@example("_chunk_a_0_1")
@given(st.text(st.characters(), max_size=120))
def test_any_header_is_a_piece_or_refused(text: str) -> None:
    for start in ("", "_chunk_", "_chunk_a_0_", "_chunk_a_1_2"):
        chunks = Chunks()
        try:
            whole = chunks.add(CHANNEL, start + text, 0.0)
        except ValueError:
            continue
        assert whole is None or whole == (start + text)[50:]


def test_a_header_without_a_text_is_enough() -> None:
    # a text that begins with spaces is not cut off, one that Node has trimmed is
    assert Chunks().add(CHANNEL, "_chunk_a_0_1", 0.0) == ""


@pytest.mark.parametrize("wrong", [(0, 3), (2, 3), (1, 1), (0, 1), (2, 2), (1, 4)])
def test_pieces_that_contradict_the_first_are_refused_and_change_nothing(
    wrong: tuple[int, int],
) -> None:
    chunks = Chunks()
    assert chunks.add(CHANNEL, piece("a", 0, 2), 0.0) is None
    with pytest.raises(ValueError, match="is not one of 2"):
        chunks.add(CHANNEL, piece("wrong", *wrong), 1.0)
    assert chunks.add(CHANNEL, piece("b", 1, 2), 2.0) == "ab"
    assert chunks.expire(1e9) == []


# What does not come whole


def test_a_text_that_has_not_come_whole_in_a_minute_is_given_up() -> None:
    chunks = Chunks()
    chunks.add("one", piece("a", 0, 3), 100.0)
    chunks.add("two", piece("a", 0, 2, "other"), 130.0)
    # its time counts from its first piece
    chunks.add("one", piece("c", 2, 3), 159.0)
    assert chunks.expire(159.9) == []
    assert chunks.expire(160.0) == [Incomplete("one", 2, 3)]
    assert chunks.expire(160.0) == []
    # its last piece is the first of another one now
    assert chunks.add("one", piece("b", 1, 3), 161.0) is None
    assert chunks.add("two", piece("b", 1, 2, "other"), 189.0) == "ab"
    assert chunks.expire(1e9) == [Incomplete("one", 1, 3)]


def test_the_oldest_are_given_up_when_all_is_too_much() -> None:
    chunks = Chunks(max_size=25_000)
    for number in range(3):
        chunks.add(CHANNEL, piece("x" * 9_000, 0, 2 + number, f"id{number}"), float(number))
    assert chunks.expire(3.0) == [Incomplete(CHANNEL, 1, 2)]
    assert chunks.expire(3.0) == []
    # what has been given up or is whole does not count any more
    assert chunks.add(CHANNEL, piece("", 1, 3, "id1"), 4.0) is None
    assert chunks.add(CHANNEL, piece("", 2, 3, "id1"), 4.0) == "x" * 9_000
    chunks.add(CHANNEL, piece("x" * 9_000, 0, 2, "new"), 5.0)
    assert chunks.expire(5.0) == []
    chunks.add(CHANNEL, piece("x" * 9_000, 0, 2, "newer"), 6.0)
    assert chunks.expire(6.0) == [Incomplete(CHANNEL, 1, 4)]


def test_a_repeated_piece_counts_once() -> None:
    chunks = Chunks(max_size=25_000)
    for _ in range(10):
        chunks.add(CHANNEL, piece("x" * 9_000, 0, 2), 0.0)
    assert chunks.expire(1.0) == []
    chunks.add(CHANNEL, piece("", 0, 2), 0.0)
    chunks.add(CHANNEL, piece("x" * 20_000, 0, 2, "other"), 0.0)
    assert chunks.expire(1.0) == []
    chunks.add(CHANNEL, piece("x" * 9_000, 0, 2), 0.0)
    assert len(chunks.expire(1.0)) == 1


@pytest.mark.parametrize("style", ["many texts", "many pieces", "a channel each"])
def test_pieces_of_nothing_do_not_fill_the_memory(style: str) -> None:
    chunks = Chunks(max_size=100_000)
    tracemalloc.start()
    try:
        for number in range(20_000):
            if style == "many pieces":
                chunks.add(CHANNEL, piece("", number, 1_000_000), 0.0)
            elif style == "many texts":
                chunks.add(CHANNEL, piece("", 0, 2, f"{number}"), 0.0)
            else:
                chunks.add(f"{CHANNEL}{number}#", piece("", 0, 2), 0.0)
            if number % 100 == 0:
                chunks.expire(0.0)
        chunks.expire(0.0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1_000_000
