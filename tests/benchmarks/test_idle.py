"""The comparison of idle connections: its verdict, and one run of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.idle import Idle, measured, missed, report
from tests.benchmarks.process import Case
from tests.benchmarks.section import Setting
from tests.benchmarks.short_peer import ShortPeer

PLAIN, TLS = (Case("pixir", "websocket", secure, "orjson") for secure in (False, True))


def idle(kb: float, threads: int = 1) -> Idle:
    return Idle(1_000, kb, threads, share=0.01, woken=2.0, traced=2.0)


def test_only_ours_are_held_to_the_targets() -> None:
    """Memory and threads, each to its own."""
    official = {PLAIN.official: idle(60, 2_000), TLS.official: idle(80, 2_000)}
    assert missed(official | {PLAIN: idle(4), TLS: idle(33)}) == []
    assert missed(official | {PLAIN: idle(4.1), TLS: idle(34, 2)}) == [
        "idle connections, plain, pixir_sync, orjson: 4.1 KB each, not 4",
        "idle connections, TLS 1.3, pixir_sync, orjson: 34.0 KB each, not 33",
        "idle connections, TLS 1.3, pixir_sync, orjson: 2 threads, not 1",
    ]


def test_the_table_shows_the_targets() -> None:
    """Beside our figures; the official SDK's have none, and no visits of a thread of ours."""
    lines = report({PLAIN: idle(4), TLS.official: idle(80, 2_000)._replace(traced=None)}).text.splitlines()
    assert "| plain | pixir_sync, orjson | 4.0 | 4 | 2.0 | 1 | 1 | 1.00 | 5,000 | 2.0 |" in lines
    assert "| TLS 1.3 | official SDK 3.51.0 | 80.0 |  |  | 2,000 |  | 1.00 |  | 2.0 |" in lines


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", [PLAIN, TLS])
def test_ours_run(case: Case) -> None:
    """Sixty connections, and one thread for all of them."""
    with ShortPeer() as peer:
        found = measured(case, Setting(Path(), quick=True), peer)
    assert (found.connections, found.threads) == (60, 1) and found.kb > 0 and found.traced
