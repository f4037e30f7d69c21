"""What the tests of the local server start from: a server of their own, or one that they share and leave as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pixir_sync.local import LocalServer


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A server for one test."""
    with LocalServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalServer]:
    """A server for the tests of a file that leave nothing behind in it."""
    with LocalServer() as server:
        yield server


@pytest.fixture(scope="module")
def law_server() -> Iterator[LocalServer]:
    """A server for the examples of the laws of a file, which set what they need anew each time."""
    with LocalServer() as server:
        yield server
