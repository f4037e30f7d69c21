"""The comparison of idle connections: its verdict, and one run of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.fresh import Client
from tests.benchmarks.idle import Case, Idle, compare, missed, report
from tests.benchmarks.section import Setting

PLAIN, TLS = (Case(Client("pixir", "orjson"), secure) for secure in (False, True))


def idle(kb: float, threads: int = 1) -> Idle:
    return Idle(1_000, kb, threads, share=0.01, woken=2.0, traced=2.0)


def test_only_ours_are_held_to_the_targets() -> None:
    """Memory by the median of the rounds, threads by the worst of them."""
    official = Case(Client("official"), False)
    assert missed({PLAIN: [idle(4), idle(4), idle(9)], TLS: [idle(33)], official: [idle(60, 2_000)]}) == []
    assert missed({PLAIN: [idle(4.1)], TLS: [idle(34, 1), idle(34, 2)]}) == [
        "idle connections, plain, pixir_sync, orjson: 4.1 KB each, not 4",
        "idle connections, TLS 1.3, pixir_sync, orjson: 34.0 KB each, not 33",
        "idle connections, TLS 1.3, pixir_sync, orjson: 2 threads, not 1",
    ]


def test_a_run_that_never_ended_is_shown_as_such() -> None:
    """The official SDK's may hang over TLS: its row has no figures, and the others' stand."""
    section = report({PLAIN: [idle(4)], Case(Client("official"), False): []}, 1)
    lines = section.text.splitlines()
    assert "| plain | pixir_sync, orjson | 1,000 | 4.0 | 2.0 | 1 | 1.00 | 5,000 | 2.0 |" in lines
    assert "| plain | official SDK 3.51.0 | — | — | — | — | — | — | — |" in lines


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_runs_without_the_official_sdk() -> None:
    """Sixty connections, plain and over TLS, and one thread for all of them."""
    section = compare(Setting(Path(), codecs=["orjson"], quick=True, without_official=True))
    assert [row.split(" | ")[5] for row in section.text.splitlines()[-2:]] == ["1", "1"]
    (points,) = section.charts[0].series.values()
    assert [way for way, _ in points] == ["plain", "TLS 1.3"] and all(kb > 0 for _, kb in points)
