"""The pytest plugin: the fixtures ``pixir_server`` and ``pixir_environment``, and the marker ``pixir_server``.

Rules kept here:

* Every run of pytest imports this module wherever pixir_sync is installed: at its top it imports nothing but pytest. The local
  server, and aiohttp with it, is imported when a fixture is used.
* A fixture lives as long as its test: what one test does to its server no other test sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pixir_sync.local import LocalServer

__all__ = ["pixir_environment", "pixir_server", "pytest_configure"]

_MARKER = "pixir_server"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for ``--markers`` and ``--strict-markers``."""
    config.addinivalue_line("markers", f"{_MARKER}(**options): options of the LocalServer that the fixture {_MARKER} starts.")


@pytest.fixture
def pixir_server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """A running LocalServer for this test; @pytest.mark.pixir_server(model=..., scenario=..., faults=...) sets its options.

    Of several markers (the test's, its class's, its module's) the nearest one decides about each option. When the test has
    ended the server is closed, and what failed inside it (a scenario, for example) is an error of the test.
    """
    options = _options(request.node)
    from pixir_sync.local import LocalServer

    with LocalServer(**options) as server:
        yield server


@pytest.fixture
def pixir_environment(pixir_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    """The pixir_server, with OPENAI_BASE_URL, OPENAI_API_KEY and PIXIR_MODEL set to it for this test and no proxy in the way.

    Nor is the configuration file of whoever runs it: PIXIR_CONFIG names none, PIXIR_ENDPOINT is blank.
    For a program that makes its own Provider (or an official client) without arguments; its processes inherit it too.
    """
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")  # the proxies that an operating system keeps elsewhere
    for name, value in {**pixir_server.environment, "PIXIR_CONFIG": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return pixir_server


def _options(node: pytest.Item) -> dict[str, Any]:
    """The options that the markers of a test give, the nearest marker first. Raises pytest.UsageError for a nameless one."""
    options: dict[str, Any] = {}
    for marker in node.iter_markers(_MARKER):
        if marker.args:
            raise pytest.UsageError(f"the marker {_MARKER} takes the options of LocalServer by name: {_MARKER}(model=...)")
        options = {**marker.kwargs, **options}
    return options
