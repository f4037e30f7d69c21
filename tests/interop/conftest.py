"""What the interop tests share: the local server, and the official client in front of it, alone with each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import agents
import pytest
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection

from pixir_sync.local import LocalServer
from tests.interop.loopback import only_loopback


@pytest.fixture(scope="session", autouse=True)
def _nothing_leaves_loopback() -> Iterator[None]:
    """What a library tried to reach by itself fails the run, also where the library hid that it was refused."""
    agents.set_tracing_disabled(True)
    with only_loopback() as refused:
        yield
    assert refused == []


@pytest.fixture(autouse=True)
def _no_openai_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients know only what a test tells them, and a proxy has no business on loopback."""
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """The local server with its own model."""
    with LocalServer() as server:
        yield server


@pytest.fixture
def client(server: LocalServer) -> Iterator[OpenAI]:
    """The official client, which does not retry by itself."""
    with OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
def connection(client: OpenAI) -> Iterator[ResponsesConnection]:
    """One WebSocket of the official client."""
    with client.responses.connect() as connection:
        yield connection
