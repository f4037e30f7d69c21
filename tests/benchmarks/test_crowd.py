"""The crowd that the local server bears, at its full size."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.crowd import measure


@pytest.mark.timeout(150)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_connections_and_two_hundred_streams() -> None:
    """1,000 connections are idle, pinged, and then served at once; 200 streams run at once: no error, no answer mixed up."""
    found = measure(idle=1000, streams=200)
    assert found.streams == 200 and found.events > 200 * 200
    assert found.kb_per_connection < 100  # no more than a thread's worth
