"""The comparison of turns: its conversation, its verdict, and one run of it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from tests.benchmarks.process import Case
from tests.benchmarks.section import Setting
from tests.benchmarks.short_peer import ShortPeer
from tests.benchmarks.turn_clients import history_of
from tests.benchmarks.turns import HELD, Turn, measured, missed, report, ways

FIRST, LAST = 10_000, 10_000_000


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_the_history_has_its_size(size: int) -> None:
    """Messages of about a kilobyte, none like another, in as much JSON as asked for."""
    history = history_of(size)
    texts = [json.dumps(item, ensure_ascii=False) for item in history]
    assert size * 0.9 < sum(len(text.encode()) for text in texts) < size * 1.1
    assert all(800 < len(text) < 1_200 for text in texts)
    assert len(set(texts)) == len(texts)


def found(delta: float, grown: float, theirs: float, replay: float) -> dict[tuple[Case, int], list[Turn]]:
    held = {Case("pixir", "kept", codec="orjson"): (1.0, delta, grown), Case("official", "delta"): (1.0, theirs, 1.0)}
    held[Case("official", "full")] = (1.0, replay, 1.0)
    return {
        (case, size): [Turn(cpu, cpu, 1), Turn(cpu, cpu, 1), Turn(99, 99, 1)]
        for case in ways(["orjson"])
        for size, cpu in zip((FIRST, HELD, LAST), held.get(case, (99.0,) * 3), strict=True)
    }


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
    lines = report(found(delta=2, grown=10, theirs=16, replay=2_000)).text.splitlines()
    assert "| pixir_sync, orjson | delta, list kept | 1,000,000 | 2,000,000 | 10,000,000 |" in lines
    assert "| pixir_sync, orjson | delta, list kept | 8.0 | 1,000.0 | 49.5 | 10.0 |" in lines
    assert "| target | delta, list kept | 8 | 1,000 |  | less than 15 |" in lines


@pytest.mark.timeout(120)
def test_our_ways_run() -> None:
    """The figures mean nothing; that the peer saw one item in a delta and all of them in a replay has been looked at."""
    setting = Setting(Path(), quick=True)
    with ShortPeer() as peer:
        ours = [case for case in ways(setting.codecs) if case.codec]
        turns = {case: measured(case, FIRST, setting, peer) for case in ours}
    assert [(case.codec, case.does) for case in turns] == [*product(("orjson", "json"), ("kept", "rebuilt", "full"))]
    assert all(turn.cpu > 0 and turn.wall > 0 for turn in turns.values())
    assert {case.does for case, turn in turns.items() if turn.sent > FIRST * 0.9} == {"full"}
