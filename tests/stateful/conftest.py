"""What the machines need: less waiting for nodes that may not have been heard of yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import anyio_sio_pg.node


@pytest.fixture(scope="module")
def short_settling() -> Iterator[None]:
    """A script asks only nodes that all others know; without this each question takes 0.5 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio_sio_pg.node, "SETTLE", 0.05)
        yield
