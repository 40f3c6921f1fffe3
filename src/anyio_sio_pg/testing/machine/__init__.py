"""A Hypothesis machine: scripts of what may happen to a cluster, and the check of what came of it.

A script is made first, by a model that is a few sets and does no I/O; then it runs. So a failing
one can be printed as it ran, and run again by itself.
"""

from .model import BINARY, FAULTS, LARGE, ROOMS
from .runner import run
from .script import Script
from .stage import Stage
from .strategies import scripts

__all__ = ["BINARY", "FAULTS", "LARGE", "ROOMS", "Script", "Stage", "run", "scripts"]
