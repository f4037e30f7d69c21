"""The measurement of memory: how it counts, its verdict, and one run of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.memory import Point, measured, report, slope
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


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("codec", ["orjson", "json"])
def test_a_stream_keeps_its_text_and_no_more(codec: str) -> None:
    """Thirteen thousand events are enough to see it; the tenth is for containers that grow by leaps. A conversation runs, too."""
    found = measured(Setting(Path(), codecs=[codec], quick=True))
    used, text, _ = slope(found["stream"][codec].held[:-1])
    assert 0 < used < 1.1 * text
    assert [chart.name for chart in report(found).charts] == ["memory_stream", "memory_conversation"]
