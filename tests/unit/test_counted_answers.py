"""Who owes an answer where only some of those who are asked say who they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.legacy_node import CountedAnswers

uids = st.sampled_from("abc")
sessions = st.frozensets(st.integers(1, 6))
UNKNOWN = "an unknown number of socket.io-adapter-postgres 1.x"


def unsigned(number: int) -> str:
    return f"{number} of socket.io-adapter-postgres 1.x"


def asked(certain: set[int], possible: set[int] | None = None) -> CountedAnswers[int]:
    answers: CountedAnswers[int] = CountedAnswers()
    answers.count(certain, possible or set())
    return answers


def answer(answers: CountedAnswers[int], times: int = 1) -> None:
    for number in range(times):
        answers.answered("", number)


@given(
    st.lists(
        st.tuples(st.sampled_from(["answered", "joined", "left", "excuse"]), uids)
        | st.tuples(st.just("unsigned"), st.just(""))
        | st.tuples(st.just("count"), st.tuples(sessions, sessions)),
        max_size=40,
    )
)
def test_counted_answers_do_what_the_model_does(script: list[tuple[str, object]]) -> None:
    answers: CountedAnswers[int] = CountedAnswers()
    owing: set[str] = set()
    signed: set[str] = set()
    given_answers: list[int] = []
    counts: list[tuple[frozenset[int], frozenset[int]]] = []
    came = 0
    for number, (kind, what) in enumerate(script):
        if kind == "count":
            assert isinstance(what, tuple)
            counts.append(what)
            answers.count(set(what[0]), set(what[1]))
        elif kind == "unsigned":
            answers.answered("", number)
            given_answers.append(number)
            came += 1
        else:
            uid = str(what)
            if kind == "answered":
                answers.answered(uid, number)
                if uid not in signed:
                    given_answers.append(number)
                signed.add(uid)
                owing -= {uid}
            elif kind == "joined":
                answers.joined(uid)
                owing |= {uid} - signed
            else:
                getattr(answers, kind)(uid)
                owing -= {uid}
        if not counts:
            missing = {UNKNOWN}
            done = False
        else:
            first = counts[0]
            if len(counts) == 1:
                required = len(first[0] | first[1])
            else:
                # of those that were there at first, who were there at the last count but one
                alive = first[0] if len(counts) == 2 else first[0] & counts[-2][0]
                required = len(alive)
            done = came >= required
            missing = set() if done else {unsigned(required - came)}
        assert answers.missing == owing | missing
        assert answers.complete == (done and not owing)
        assert answers.answers == given_answers


def test_nothing_is_complete_before_the_first_count() -> None:
    answers: CountedAnswers[int] = CountedAnswers()
    answer(answers, 100)
    assert not answers.complete
    assert answers.missing == {UNKNOWN}
    answers.count({1}, set())
    assert answers.complete
    assert answers.missing == set()
    assert answers.answers == list(range(100))


def test_where_no_1x_node_is_only_those_with_a_uid_are_waited_for() -> None:
    answers = asked(set())
    assert answers.complete
    answers.joined("a")
    assert answers.missing == {"a"}
    answers.answered("a", 1)
    answers.answered("a", 2)
    assert answers.complete
    assert answers.answers == [1]


def test_answers_without_a_uid_all_count() -> None:
    answers = asked({1, 2})
    answer(answers)
    assert answers.missing == {unsigned(1)}
    answer(answers)
    assert answers.complete
    # which of them was one too many nobody can tell
    answer(answers)
    assert len(answers.answers) == 3
    assert answers.missing == set()


def test_an_answer_with_a_uid_is_none_of_the_counted() -> None:
    answers = asked({1})
    answers.joined("a")
    answer(answers)
    assert answers.missing == {"a"}
    answers.answered("a", 1)
    assert answers.complete
    answers = asked({1})
    answers.answered("a", 1)
    assert not answers.complete


def test_those_that_may_answer_are_waited_for_until_the_next_count() -> None:
    answers = asked({1}, {2, 3})
    answer(answers)
    assert answers.missing == {unsigned(2)}
    answers.count({1}, {2, 3})
    assert answers.complete


def test_those_that_may_answer_need_not_be_waited_for_when_they_have() -> None:
    answers = asked({1}, {2, 3})
    answer(answers, 3)
    assert answers.complete


def test_a_session_that_is_certain_and_possible_counts_once() -> None:
    answers = asked({1, 2}, {2})
    answer(answers, 2)
    assert answers.complete


def test_a_dead_one_is_missed_from_the_second_count_on() -> None:
    answers = asked({1, 2})
    answer(answers)
    answers.count({1}, set())
    # the answer that is here may be the dead one's, its neighbour's on its way
    assert answers.missing == {unsigned(1)}
    answers.count({1}, set())
    assert answers.complete


def test_all_may_die() -> None:
    answers = asked({1, 2})
    answers.count(set(), set())
    assert not answers.complete
    answers.count(set(), set())
    assert answers.complete
    assert answers.answers == []


@pytest.mark.parametrize("times", [1, 2, 5])
def test_those_that_come_later_have_not_been_asked(times: int) -> None:
    answers = asked({1})
    for _ in range(times):
        answers.count({1, 2, 3}, {4})
        assert answers.missing == {unsigned(1)}
    answer(answers)
    assert answers.complete


def test_another_session_does_not_stand_in_for_a_dead_one() -> None:
    answers = asked({1, 2})
    answers.count({1, 3}, set())
    answers.count({1, 3}, set())
    assert answers.missing == {unsigned(1)}
