"""The official SDK as the comparisons of tests/benchmarks run it: it reads all that the peer sends, alone and in threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks import clients
from tests.benchmarks.answers import OTHER_EVENTS
from tests.benchmarks.peer import Peer

DELTAS, PACED_DELTAS, THREADS = 50, 20, 4


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """A peer with short answers."""
    with Peer(DELTAS, PACED_DELTAS) as running:
        yield running


@pytest.mark.parametrize("protocol", ["websocket", "sse"])
def test_it_reads_every_event(peer: Peer, protocol: str) -> None:
    """In bulk and paced, by itself and in threads that share the client."""
    client = clients.CLIENTS["official", protocol]
    alone, together = clients.measure(client, peer.plain, 0.0), clients.measure_threads(client, peer.plain, THREADS, 0.0)
    for found in (alone, together):
        assert found["events"] == found["answers"] * (DELTAS + OTHER_EVENTS)
        assert found["characters"] == found["answers"] * peer.characters
    assert (alone["answers"], together["answers"]) == (1, THREADS)
    assert clients.measure_paced(client, peer.plain)["events"] == PACED_DELTAS
    assert clients.measure_paced_threads(client, peer.plain, THREADS)["events"] == THREADS * PACED_DELTAS


@pytest.mark.parametrize("protocol", ["websocket", "sse", "http"])
def test_threads_share_a_batch(peer: Peer, protocol: str) -> None:
    """Each request is answered, in each of its three ways."""
    found = clients.measure_batch(clients.CLIENTS["official", protocol], peer.plain, THREADS, 20)
    assert (found["requests"], found["characters"]) == (20, 20 * peer.characters)
