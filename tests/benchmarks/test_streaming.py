"""The verdict of the streaming benchmark."""

from __future__ import annotations

import pytest

from tests.benchmarks.streaming import TARGET, Case, Sample, bulk_table, cases, missed, paced_table

OFFICIAL = Case("official", "websocket", False)
OURS = Case("pixir", "websocket", False, "orjson")


def sample(cpu: float) -> Sample:
    return Sample(events=1_000_000, cpu=cpu, wall=2 * cpu, p50=0.000_02, p99=0.000_05)


def test_the_median_of_the_rounds_counts() -> None:
    """One slow round of either client decides nothing."""
    good = {OFFICIAL: [sample(TARGET), sample(TARGET), sample(1)], OURS: [sample(1), sample(1), sample(50)]}
    assert missed(good) == []
    short = {OFFICIAL: [sample(TARGET - 0.1)], OURS: [sample(1)]}
    assert missed(short) == ["WebSocket, plain: 14.9 times the official SDK, not 15"]


@pytest.mark.parametrize("case", [OURS._replace(protocol="sse"), OURS._replace(codec="json")])
def test_only_websocket_with_orjson_is_held_to_the_target(case: Case) -> None:
    """The other figures are reported."""
    assert missed({case.official: [sample(5)], case: [sample(1)]}) == []


def test_each_case_runs_beside_what_it_is_compared_with() -> None:
    """A B A B: between the two of a pair stands at most the provider's other variant."""
    order = list(cases(["websocket", "sse"], ["orjson", "json"]))
    assert len(order) == len(set(order)) == 12
    assert all(1 <= order.index(case) - order.index(case.official) <= 2 for case in order if case.codec)


def test_the_tables_show_the_ratios() -> None:
    """Microseconds of CPU per event, events per second, and the ratio with its lowest and highest round."""
    found = {OFFICIAL: [sample(60), sample(80), sample(100)], OURS: [sample(2), sample(2), sample(2)]}
    assert bulk_table(found).splitlines()[2:] == [
        "| WebSocket, plain | official SDK 3.51.0 | 80.00 | 12,500 | 1 | 6,250 | 1 |",
        "| WebSocket, plain | pixir_sync, orjson | 2.00 | 500,000 | 40.0 (30.0 to 50.0) | 250,000 | 40.0 |",
    ]
    assert paced_table(found).splitlines()[3] == "| WebSocket, plain | pixir_sync, orjson | 2.0 | 40.0 | 20 | 50 |"
