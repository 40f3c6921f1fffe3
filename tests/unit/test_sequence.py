from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.protocol.sequence import Seen, Sequence, Verdict

DELIVER = Seen(Verdict.DELIVER)
REPEAT = Seen(Verdict.REPEAT)
MAX = 4

keys = st.tuples(st.sampled_from("abcdef"), st.sampled_from(["/", "/n"]))
steps = st.lists(
    st.tuples(st.sampled_from(["message", "tail"]), keys, st.integers(0, 12)),
    max_size=60,
)


class Model:
    """The last number of each of the ``MAX`` senders heard most recently."""

    def __init__(self) -> None:
        self.last: OrderedDict[tuple[str, str], int] = OrderedDict()

    def hear(self, key: tuple[str, str], number: int) -> int | None:
        """Return how far ahead of the last number this one is; None where there is none."""
        last = self.last.pop(key, None)
        self.last[key] = number if last is None else max(last, number)
        if len(self.last) > MAX:
            self.last.popitem(last=False)
        return None if last is None else number - last


@given(steps)
def test_it_does_what_the_model_does(
    script: list[tuple[str, tuple[str, str], int]],
) -> None:
    sequence, model = Sequence(MAX), Model()
    for kind, key, number in script:
        ahead = model.hear(key, number)
        if kind == "tail":
            assert sequence.tail(*key, number) == max(0, ahead or 0)
        elif ahead is None:
            assert sequence.message(*key, number) == DELIVER
        elif ahead <= 0:
            assert sequence.message(*key, number) == REPEAT
        else:
            assert sequence.message(*key, number) == Seen(Verdict.DELIVER, ahead - 1)


@given(st.lists(st.integers(1, 50), min_size=1))
def test_each_number_is_delivered_once_or_missing_once(numbers: list[int]) -> None:
    sequence = Sequence()
    first = numbers[0]
    delivered, missing = [], 0
    for number in numbers:
        seen = sequence.message("a", "/", number)
        missing += seen.missing
        if seen.verdict is Verdict.DELIVER:
            delivered.append(number)
    missing += sequence.tail("a", "/", 60)
    assert delivered == sorted(set(delivered))
    assert len(delivered) + missing == 60 - first + 1


def test_a_sender_that_only_repeats_itself_is_not_forgotten() -> None:
    # a quiet node's heartbeats go on naming the same number
    sequence = Sequence(max_senders=2)
    sequence.message("quiet", "/", 5)
    for number in range(10):
        sequence.message(f"short-lived {number}", "/", 1)
        assert sequence.tail("quiet", "/", 5) == 0
    assert sequence.tail("quiet", "/", 7) == 2

    for number in range(10):
        sequence.message(f"short-lived {number}", "/", 1)
        assert sequence.message("quiet", "/", 7) == REPEAT


def test_no_more_senders_are_remembered_than_allowed() -> None:
    sequence = Sequence(max_senders=2)
    for sender in "abc":
        sequence.message(sender, "/", 5)
    assert sequence.message("b", "/", 5) == REPEAT
    assert sequence.message("a", "/", 5) == DELIVER
