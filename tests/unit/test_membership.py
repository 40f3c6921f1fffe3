from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anyio_sio_pg.protocol.membership import Membership

TIMEOUT = 10

uids = st.sampled_from("abcd")
steps = st.lists(
    st.tuples(st.sampled_from(["seen", "told", "left", "expired", "refresh"]), uids,
              st.booleans(), st.integers(0, 12)),
    max_size=50,
)  # fmt: skip


@given(steps)
def test_it_does_what_the_model_does(script: list[tuple[str, str, bool, int]]) -> None:
    membership = Membership(TIMEOUT)
    heard: dict[str, float] = {}
    numbered: set[str] = set()
    unheard: set[str] = set()
    now = 1_000
    for kind, uid, with_number, pause in script:
        now += pause
        if kind == "seen":
            first = uid not in heard or uid in unheard
            assert membership.seen(uid, now, numbered=with_number) == first
            heard[uid] = now
            unheard.discard(uid)
            if with_number:
                numbered.add(uid)
        elif kind == "told":
            membership.told(uid, now)
            if uid not in heard:
                heard[uid] = now - TIMEOUT / 2
                unheard.add(uid)
                numbered.add(uid)
        elif kind == "left":
            assert membership.left(uid) == (uid in heard)
            heard.pop(uid, None)
        elif kind == "refresh":
            membership.refresh(now)
            heard = dict.fromkeys(heard, now)
        else:
            gone = {uid for uid, when in heard.items() if now - when >= TIMEOUT}
            result = membership.expired(now)
            assert len(result) == len(gone)
            assert set(result) == gone
            for each in gone:
                del heard[each]
        numbered &= heard.keys()
        unheard &= heard.keys()
        assert membership.unheard() == unheard
        assert membership.uids() == heard.keys()
        assert membership.uids(numbered_only=True) == numbered
        assert len(membership) == len(heard) - len(unheard)


def test_a_node_is_down_when_it_was_silent_for_the_timeout_and_not_before() -> None:
    membership = Membership(TIMEOUT)
    membership.seen("a", 100.0, numbered=False)
    assert membership.expired(109.999) == []
    assert membership.expired(110.0) == ["a"]
    assert membership.expired(110.0) == []
    assert membership.seen("a", 111.0, numbered=False)


def test_a_node_without_numbers_once_is_still_numbered() -> None:
    # an answer of ours may come through an attachment whose notification was a repeat
    membership = Membership(TIMEOUT)
    membership.seen("a", 0.0, numbered=True)
    membership.seen("a", 1.0, numbered=False)
    assert membership.uids(numbered_only=True) == {"a"}


def test_the_uids_are_the_callers_to_change() -> None:
    membership = Membership(TIMEOUT)
    membership.seen("a", 0.0, numbered=True)
    membership.uids().clear()
    assert membership.uids() == {"a"}
