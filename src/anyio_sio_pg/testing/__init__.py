"""For tests: an embedded PostgreSQL."""

from .server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
