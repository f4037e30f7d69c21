"""The comparison of cold starts: its verdict, and one run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.cold_start import TARGET, Start, measured, missed, report
from tests.benchmarks.process import Case, cases
from tests.benchmarks.section import Setting
from tests.benchmarks.short_peer import ShortPeer

STAGES = ("bare Python", "import", "WebSocket", "SSE")


def test_the_median_wall_time_over_each_protocol_is_held() -> None:
    """One slow start decides nothing; the import and the bare interpreter are reported only."""
    good = [Start(1, 9), Start(1, 9), Start(50, 9)]
    found = {case: good if case.codec else [Start(TARGET, 9)] for case in cases(STAGES[2:], ["orjson"])}
    found |= dict.fromkeys(cases(STAGES[:2], ["orjson"]), good)
    assert missed(found) == []
    assert missed(found | {Case("official", "SSE"): [Start(7.9, 99)]}) == [
        "cold start over SSE, pixir_sync, orjson: 7.9 times faster than the official SDK, not 8"
    ]


def test_the_table_shows_both_times() -> None:
    """Milliseconds, and how many times less than the official SDK's; the target where there is one."""
    found = {case: [Start(wall, wall / 2)] for case in cases(STAGES, ["orjson"]) for wall in [0.1 if case.codec else 0.8]}
    lines = report(found, 1).text.splitlines()
    assert "| first event, SSE | pixir_sync, orjson | 100 | 8.0 | 8 | 50 | 8.0 |" in lines
    assert "| import | pixir_sync, orjson | 100 | 8.0 |  | 50 | 8.0 |" in lines


@pytest.mark.timeout(120)
@pytest.mark.parametrize("codec", ["orjson", "json"])
def test_our_starts_run(codec: str, tmp_path: Path) -> None:
    """Each stage is a program that ends well, and the import takes longer than nothing."""
    with ShortPeer() as peer:
        found = [measured(Case("pixir", stage, codec=codec), Setting(Path()), peer, str(tmp_path)) for stage in STAGES]
    bare, imported, *events = found
    assert 0 < bare.cpu < imported.cpu and all(0 < bare.cpu < event.cpu and event.wall > 0 for event in events)
