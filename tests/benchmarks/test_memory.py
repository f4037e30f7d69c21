"""The measurement of memory: how it counts, its verdict, and one run of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.memory import Curve, Point, compare, missed, slope
from tests.benchmarks.memory_clients import sizes
from tests.benchmarks.section import Setting


def test_each_object_counts_once() -> None:
    """The whole is containers and leaves; what stands in two places is one object."""
    leaf, inner = "a text", ["x"]
    value = {"one": leaf, "two": [leaf, inner, inner]}
    containers = [value, value["two"], inner]
    leaves = ["one", "two", leaf, "x"]
    expected = sum(map(sys.getsizeof, containers))
    assert sizes(value) == (expected + sum(map(sys.getsizeof, leaves)), expected)


def line(used: float, own: float, containers: float, first: int = 0) -> list[Point]:
    return [Point(at, int(first + used * at), int(own * at), int(containers * at)) for at in range(0, 2_001, 100)]


def test_what_was_there_before_is_no_slope() -> None:
    """Nor is what comes in the first quarter, where tables and caches fill."""
    jump = [Point(at, 50_000 * (at > 200) + 10 * at, at, at) for at in range(0, 2_001, 100)]
    assert slope(line(10, 4, 2, first=1_000_000)) == slope(jump)[:1] + (4, 2) == (10, 4, 2)


def test_a_slope_beyond_its_bound_is_missed() -> None:
    """The text's pieces and a tenth; the history, its containers again, and a quarter of those."""
    end = [Point(2_001, 9_000_000, 0, 0)]  # the last point of a stream is its result's
    good = {"stream": {"json": Curve(line(110, 100, 0) + end, [])}, "conversation": {"json": Curve(line(2_000, 1_000, 800), [])}}
    assert missed(good) == []
    bad = {"stream": {"json": Curve(line(112, 100, 0) + end, [])}, "conversation": {"json": Curve(line(2_010, 1_000, 800), [])}}
    assert missed(bad) == [
        "a long stream, pixir_sync, json: 112.0 bytes per event, not 110.0",
        "a long conversation, pixir_sync, json: 1010 bytes of ours per turn, not 1000",
    ]


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_runs() -> None:
    """Thirteen thousand events are enough to see that a stream keeps its text and no more."""
    section = compare(Setting(Path(), codecs=["orjson"], quick=True))
    assert [missing for missing in section.missed if "stream" in missing] == []
    assert [chart.name for chart in section.charts] == ["memory_stream", "memory_conversation"]
