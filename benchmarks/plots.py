"""The plots of the report."""

from __future__ import annotations

from pathlib import Path

import matplotlib  # noqa: F401
from support import Results


def draw(everything: dict[str, Results], folder: Path) -> set[str]:
    """Draw what there are results for and return the names of the plots."""
    return set()
