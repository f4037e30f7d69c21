"""The comparison of cold starts: its verdict, and one run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.cold_start import TARGET, Case, Start, compare, missed, report
from tests.benchmarks.fresh import Client
from tests.benchmarks.section import Setting

OURS, OFFICIAL = Client("pixir", "orjson"), Client("official")


def test_the_median_wall_time_over_each_protocol_is_held() -> None:
    """One slow start decides nothing; the import and the bare interpreter are reported only."""
    good = [Start(1, 9), Start(1, 9), Start(50, 9)]
    found = {Case(OURS, stage): good for stage in ("import", "WebSocket", "SSE")}
    theirs = {Case(OFFICIAL, stage): [Start(TARGET, 9)] for stage in ("WebSocket", "SSE")}
    theirs[Case(OFFICIAL, "import")] = [Start(1, 9)]
    assert missed(found | theirs) == []
    assert missed(found | theirs | {Case(OFFICIAL, "SSE"): [Start(7.9, 99)]}) == [
        "cold start over SSE, pixir_sync, orjson: 7.9 times faster than the official SDK, not 8"
    ]


def test_without_the_official_sdk_nothing_is_held() -> None:
    """There is nothing to compare with."""
    assert missed({Case(OURS, "SSE"): [Start(100, 100)]}) == []


def test_the_table_shows_both_times() -> None:
    """Milliseconds, and how many times less than the official SDK's."""
    stages = ("bare Python", "import", "WebSocket", "SSE")
    found = {Case(client, stage): [Start(wall, wall / 2)] for stage in stages for client, wall in ((OURS, 0.1), (OFFICIAL, 0.8))}
    assert "| first event, SSE | pixir_sync, orjson | 100 | 8.0 | 50 | 8.0 |" in report(found, 1).text.splitlines()


@pytest.mark.timeout(120)
def test_it_runs_without_the_official_sdk() -> None:
    """Each stage is a program that ends well, and reaches its first event later than the stage before."""
    section = compare(Setting(Path(), codecs=["orjson"], quick=True, without_official=True))
    assert section.missed == []
    for points in section.charts[0].series.values():
        bare, imported, websocket, _ = (wall for _, wall in points)
        assert 0 < bare < imported and websocket > 0
