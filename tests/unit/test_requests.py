from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.open_requests import OpenRequests, Pending
from anyio_sio_pg.protocol.requests import Acknowledgements, Answers

uids = st.sampled_from("abcd")
node_sets = st.sets(uids)


@given(
    node_sets,
    st.lists(st.tuples(st.sampled_from(["answered", "joined", "left"]), uids), max_size=40),
)
def test_answers_do_what_the_model_does(expected: set[str], script: list[tuple[str, str]]) -> None:
    answers: Answers[int] = Answers(expected)
    owing = set(expected)
    given_by: dict[str, int] = {}
    for number, (kind, uid) in enumerate(script):
        if kind == "answered":
            answers.answered(uid, number)
            given_by.setdefault(uid, number)
            owing -= {uid}
        elif kind == "joined":
            answers.joined(uid)
            owing |= {uid} - given_by.keys()
        else:
            answers.left(uid)
            owing -= {uid}
        assert answers.missing == owing
        assert answers.complete == (not owing)
        assert answers.answers == list(given_by.values())


def test_a_question_to_nobody_is_answered() -> None:
    assert Answers[int]([]).complete
    assert Acknowledgements[int]([]).complete


def test_a_second_answer_of_a_node_is_ignored() -> None:
    answers: Answers[str] = Answers(["a", "b"])
    answers.answered("a", "first")
    answers.answered("a", "second")
    assert answers.answers == ["first"]
    assert answers.missing == {"b"}


def test_a_node_that_is_announced_after_its_answer_is_not_waited_for() -> None:
    answers: Answers[int] = Answers([])
    answers.answered("late", 1)
    answers.joined("late")
    assert answers.complete


def test_the_expected_nodes_are_the_callers_to_change() -> None:
    expected = {"a"}
    answers: Answers[int] = Answers(expected)
    answers.answered("a", 1)
    assert expected == {"a"}


@given(
    node_sets,
    st.lists(
        st.tuples(
            st.sampled_from(["counted", "acknowledged", "joined", "left"]), uids, st.integers(0, 3)
        ),
        max_size=40,
    ),
)
def test_acknowledgements_do_what_the_model_does(
    expected: set[str], script: list[tuple[str, str, int]]
) -> None:
    acks: Acknowledgements[int] = Acknowledgements(expected)
    counts: dict[str, int] = {}
    received = dict.fromkeys("abcd", 0)
    known, gone = set(expected), set()
    answers: list[int] = []
    for number, (kind, uid, count) in enumerate(script):
        if kind == "counted":
            acks.counted(uid, count)
            counts.setdefault(uid, count)
            known.add(uid)
        elif kind == "acknowledged":
            acks.acknowledged(uid, number)
            received[uid] += 1
            answers.append(number)
        elif kind == "joined":
            acks.joined(uid)
            known.add(uid)
        else:
            acks.left(uid)
            gone.add(uid)
        # a node owes its count, then as many answers; one that has left owes nothing
        owing = {uid for uid in known - gone if uid not in counts or received[uid] < counts[uid]}
        assert acks.missing == owing
        assert acks.complete == (not owing)
        assert acks.answers == answers


def test_a_node_that_has_none_of_the_clients_says_so() -> None:
    acks: Acknowledgements[str] = Acknowledgements(["a", "b"])
    acks.counted("a", 0)
    assert acks.missing == {"b"}
    acks.counted("b", 2)
    acks.acknowledged("b", "x")
    assert not acks.complete
    acks.acknowledged("b", "y")
    assert acks.complete
    assert acks.answers == ["x", "y"]


def test_an_answer_may_overtake_its_nodes_count() -> None:
    acks: Acknowledgements[str] = Acknowledgements(["a"])
    acks.acknowledged("a", "x")
    assert not acks.complete
    acks.counted("a", 1)
    assert acks.complete


def test_the_first_count_is_the_one_that_counts() -> None:
    acks: Acknowledgements[str] = Acknowledgements(["a"])
    acks.counted("a", 1)
    acks.counted("a", 0)
    assert acks.missing == {"a"}


def test_the_clients_of_a_node_that_has_left_are_not_waited_for() -> None:
    acks: Acknowledgements[str] = Acknowledgements(["a"])
    acks.counted("a", 5)
    acks.acknowledged("a", "x")
    acks.left("a")
    assert acks.complete
    assert acks.answers == ["x"]


def test_a_node_that_turns_up_joins_only_the_requests_that_do_not_wait_for_it_yet() -> None:
    # those that it joins may be told later that they have waited for it in vain
    requests = OpenRequests()
    pending = Pending("/", Answers[str](["a"]))
    requests.add(pending)
    assert requests.joined("/", "a", numbered=True) == []
    assert requests.joined("/", "b", numbered=True) == [pending]
    assert pending.tracker.missing == {"a", "b"}
