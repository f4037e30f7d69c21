"""The comparison of turns: its conversation, its verdict, and one run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.fresh import Client
from tests.benchmarks.section import Setting
from tests.benchmarks.turn_clients import history_of
from tests.benchmarks.turns import HELD, Case, Turn, compare, missed, report

OURS, OFFICIAL = Client("pixir", "orjson"), Client("official")
FIRST, LAST = 10_000, 10_000_000


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_the_history_has_its_size(size: int) -> None:
    """Messages of about a kilobyte, none like another, in as much JSON as asked for."""
    history = history_of(size)
    texts = [json.dumps(item, ensure_ascii=False) for item in history]
    assert size * 0.9 < sum(len(text.encode()) for text in texts) < size * 1.1
    assert all(800 < len(text) < 1_200 for text in texts)
    assert len(set(texts)) == len(texts)


def found(delta: float, grown: float, theirs: float, replay: float) -> dict[Case, dict[int, list[Turn]]]:
    def at(held: float, last: float = 1.0) -> dict[int, list[Turn]]:
        costs = {FIRST: 1.0, HELD: held, LAST: last}
        return {size: [Turn(cpu, cpu, 1), Turn(cpu, cpu, 1), Turn(99, 99, 1)] for size, cpu in costs.items()}

    ours = {Case(OURS, "kept"): at(delta, grown), Case(OURS, "rebuilt"): at(99, 99), Case(OURS, "full"): at(99, 99)}
    return ours | {Case(OFFICIAL, "delta"): at(theirs), Case(OFFICIAL, "full"): at(replay), Case(OFFICIAL, "http"): at(1)}


def test_what_reaches_the_targets_is_not_missed() -> None:
    """The median of the rounds counts, of the delta with the list kept; the other ways are reported."""
    assert missed(found(delta=2, grown=14.9, theirs=16, replay=2_000)) == []


def test_what_falls_short_is_told_with_both_figures() -> None:
    """Each target for itself."""
    assert missed(found(delta=2, grown=15, theirs=15, replay=1_999)) == [
        "a turn at 1 MB, pixir_sync, orjson: the official SDK's full replay costs 999.5 times our delta, not 1,000",
        "a turn at 1 MB, pixir_sync, orjson: the official SDK's delta by hand costs 7.5 times our delta, not 8",
        "a turn from 10 KB to 10 MB, pixir_sync, orjson: grows 15.0 times, not less than 15",
    ]


def test_the_tables_show_each_way_and_the_ratios() -> None:
    """Microseconds per size; then the official SDK's ways in times of ours."""
    lines = report(found(delta=2, grown=10, theirs=16, replay=2_000), 3).text.splitlines()
    assert "| pixir_sync, orjson | delta, list kept | 1,000,000 | 2,000,000 | 10,000,000 |" in lines
    assert "| pixir_sync, orjson | delta, list kept | 8.0 | 1,000.0 | 0.5 | 10.0 |" in lines


@pytest.mark.timeout(120)
def test_it_runs_without_the_official_sdk() -> None:
    """Small numbers, our ways only: the figures mean nothing, that the peer saw one item in a delta and all of a replay does."""
    section = compare(Setting(Path(), codecs=["orjson"], quick=True, without_official=True))
    assert list(section.charts[0].series) == [
        "pixir_sync, orjson, delta, list kept", "pixir_sync, orjson, delta, list rebuilt", "pixir_sync, orjson, full replay",
    ]  # fmt: skip
    assert all(y > 0 for points in section.charts[0].series.values() for _, y in points)
    assert not [line for line in section.missed if "official" in line]
