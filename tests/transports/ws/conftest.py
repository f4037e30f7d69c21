"""Fixtures of the WebSocket tests: every one of them runs plain and over TLS 1.3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from pixir_sync import Network, Provider
from tests.support.ws_peer import Script, WebSocketPeer

PeerOf = Callable[..., WebSocketPeer]
ProviderOf = Callable[..., Provider]


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether the peer speaks TLS."""
    return bool(request.param == "tls")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed at the end of the test, the last first."""
    with ExitStack() as closing:
        yield closing


@pytest.fixture
def peer_of(tls: bool, stack: ExitStack) -> PeerOf:
    """A scripted peer that runs until the test ends: ``peer_of(script)``."""

    def make(script: Script | Sequence[Script], **options: Any) -> WebSocketPeer:
        return stack.enter_context(WebSocketPeer(script, tls=tls, **options))

    return make


@pytest.fixture
def provider_of(stack: ExitStack) -> ProviderOf:
    """A provider for a peer, closed before it: ``provider_of(peer, transport="auto")``."""

    def make(peer: WebSocketPeer, **options: Any) -> Provider:
        given: dict[str, Any] = {
            "model": "m", "api_key": "sk-test", "base_url": peer.base_url, "transport": "websocket", "retry": 0,
            "network": Network(ca_bundle=peer.ca_file, trust_env=False),
        }  # fmt: skip
        return stack.enter_context(Provider(**{**given, **options}))

    return make
