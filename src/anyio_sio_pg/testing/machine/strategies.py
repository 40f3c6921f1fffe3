"""How Hypothesis makes scripts: it draws steps, and the rules make of them what makes sense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .model import FAULTS
from .rules import KINDS, NOTHING, Rules, Step
from .script import Script

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def scripts(
    *,
    durable: bool = False,
    nodes: int = 4,
    namespaces: Sequence[str] = ("/", "/chat"),
    steps: tuple[int, int] = (12, 50),
    faults: Iterable[str] = FAULTS,
    actions: int = 0,
) -> SearchStrategy[Script]:
    """Return the Hypothesis strategy of scripts for :func:`run`.

    ``durable`` is what the cluster will have: nothing may then be missing after a cut. At most
    ``nodes`` run at a time. Clients connect to ``namespaces``. ``steps`` is the least and the most
    of what is tried (what makes no sense when its turn comes is left out). ``faults`` are those of
    "stop", "crash" and "cut" that may happen to nodes; a script has any of them. ``actions`` is
    the number of the functions that :func:`run` will be given as ``actions``.

    :raises ImportError: Hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError as exc:
        raise ImportError(
            "the machine needs Hypothesis, which is not installed: pip install hypothesis"
        ) from exc
    faults = tuple(faults)
    if unknown := set(faults) - set(FAULTS):
        raise ValueError(f"faults are {', '.join(FAULTS)}; not {', '.join(sorted(unknown))}")
    numbers = [st.integers(0, most) for most in (3, 7, 7, 3, 159)]
    step = st.builds(Step, st.sampled_from(KINDS), *numbers)
    connect = st.builds(Step, st.just("connect"), *numbers)

    def plan(allowed: set[str], first: int, clients: list[Step], todo: list[Step]) -> Script:
        made = Rules(
            durable=durable, nodes=nodes, namespaces=namespaces, allowed=allowed, actions=actions
        )
        for _ in range(first):
            made.start(NOTHING)
        for each in (*clients, *todo):
            made.do(each)
        made.end()
        return Script(made.lines, durable=durable)

    return st.builds(
        plan,
        st.sets(st.sampled_from(faults)) if faults else st.just(set[str]()),
        st.integers(1, nodes),
        st.lists(connect, max_size=5),
        st.lists(step, min_size=steps[0], max_size=steps[1]),
    )
