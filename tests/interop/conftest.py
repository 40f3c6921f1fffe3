"""The fixtures of the tests with real clients."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "interop.cases", "interop.clients", "interop.app", "interop.legacy_cluster"
)

from interop.fixtures import (
    anyio_backend,
    kind,
    mode,
    no_errors_logged,
    open_client,
    packages,
    serve,
    server,
)

__all__ = [
    "anyio_backend",
    "kind",
    "mode",
    "no_errors_logged",
    "open_client",
    "packages",
    "serve",
    "server",
]
