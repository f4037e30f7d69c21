"""The verdicts and the tables of the comparisons."""

from __future__ import annotations

import pytest

from tests.benchmarks.batch import Batch, batch_table, batches
from tests.benchmarks.figures import Sample, bars, bulk_table, cpu, missed, paced_table
from tests.benchmarks.process import Case, cases, interleaved
from tests.benchmarks.streaming import BULK, PACED

OFFICIAL = Case("official", "websocket")
OURS = Case("pixir", "websocket", codec="orjson")


def sample(cpu: float) -> Sample:
    return Sample(events=1_000_000, cpu=cpu, wall=2 * cpu, p50=0.000_02, p99=0.000_05)


def test_the_median_of_the_rounds_counts() -> None:
    """One slow round of either client decides nothing."""
    good = {OFFICIAL: [sample(20), sample(20), sample(1)], OURS: [sample(1), sample(1), sample(50)]}
    assert missed("bulk", good, BULK) == []
    short = {OFFICIAL: [sample(19.9)], OURS: [sample(1)]}
    assert missed("bulk", short, BULK) == ["bulk, WebSocket, plain, orjson: 19.9 times the official SDK, not 20"]


def test_what_is_out_of_reach_is_told() -> None:
    """A raw socket shows what can be reached."""
    found = {OFFICIAL: [sample(6)], OURS: [sample(1)], Case("raw", "websocket"): [sample(0.8)]}
    assert missed("paced", found, PACED) == [
        "paced, WebSocket, plain, orjson: 6.0 times the official SDK, not 7 (a raw socket that decodes nothing: 7.5)"
    ]
    assert paced_table(found).splitlines()[4] == "| WebSocket, plain | raw socket | 0.8 | 7.5 | 20 | 50 |"


@pytest.mark.parametrize(
    ("protocol", "codec", "secure", "bulk", "paced"),
    [
        ("websocket", "orjson", False, 20, 7), ("websocket", "orjson", True, 20, 5), ("websocket", "json", False, 12, 6),
        ("websocket", "json", True, 12, 4), ("sse", "orjson", False, 10, 0), ("sse", "orjson", True, 10, 0),
        ("sse", "json", False, 7, 0), ("sse", "json", True, 7, 0),
    ],
)  # fmt: skip
def test_each_case_is_held_to_its_target(protocol: str, codec: str, secure: bool, bulk: float, paced: float) -> None:
    """What is exactly reached is reached; a little less is not. Paced SSE is held to nothing."""
    case = Case("pixir", protocol, secure, codec)
    for work, targets, target in (("bulk", BULK, bulk), ("paced", PACED, paced)):
        assert missed(work, {case.official: [sample(target + 0.01)], case: [sample(1)]}, targets) == []
        short = missed(work, {case.official: [sample(target - 0.1)], case: [sample(1)]}, targets)
        assert [f" {target - 0.1:.1f} " in words and words.endswith(f"not {target}") for words in short] == [True] * bool(target)


def test_each_case_runs_beside_what_it_is_compared_with() -> None:
    """A B A B: between the two of a pair stands at most the provider's other variant, in every round."""
    order = list(cases(("websocket", "sse"), ("orjson", "json"), secure=(False, True)))
    assert len(order) == len(set(order)) == 12
    assert all(1 <= order.index(case) - order.index(case.official) <= 2 for case in order if case.codec)
    assert [*cases(("websocket", "sse"), ("json",), raw=True)][2:4] == [Case("raw", "websocket"), Case("official", "sse")]
    ran: list[Case] = []

    def measure(case: Case) -> int:
        ran.append(case)
        return len(ran)

    found = interleaved("nothing", order, 3, measure)
    assert ran == order * 3
    assert found[order[1]] == [2, 14, 26]


def test_the_tables_show_the_ratios() -> None:
    """Microseconds of CPU per event, events per second, the ratio with its lowest and highest round, and the target."""
    found = {OFFICIAL: [sample(60), sample(80), sample(100)], OURS: [sample(2), sample(2), sample(2)]}
    assert bulk_table(found, BULK).splitlines() == [
        "| way | client | CPU µs per event | events per CPU second | times the official | target | events per second | times |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| WebSocket, plain | official SDK 3.51.0 | 80.00 | 12,500 | 1 |  | 6,250 | 1 |",
        "| WebSocket, plain | pixir_sync, orjson | 2.00 | 500,000 | 40.0 (30.0 to 50.0) | 20 | 250,000 | 40.0 |",
    ]
    assert paced_table(found).splitlines()[3] == "| WebSocket, plain | pixir_sync, orjson | 2.0 | 40.0 (30.0 to 50.0) | 20 | 50 |"


def test_a_chart_has_a_bar_for_each_case() -> None:
    """A series for each client, a group for each way."""
    found = {OFFICIAL: [sample(80)], OURS: [sample(2)], OURS._replace(secure=True): [sample(4)]}
    chart = bars("name", "title", "µs", found, lambda samples: cpu(samples) * 1e6)
    assert chart.series == {
        "official SDK 3.51.0": [("WebSocket, plain", 80)],
        "pixir_sync, orjson": [("WebSocket, plain", 2), ("WebSocket, TLS", 4)],
    }


def test_a_batch_is_compared_with_the_official_sdk_over_http() -> None:
    """Every row's ratio, the official SDK's other ways too."""
    order = list(batches(["orjson"]))
    assert order[0] == Case("official", "http") and len(order) == len(set(order)) == 5
    found = {case: [Batch(1_000, cpu=4 - number, wall=8 - number)] for number, case in enumerate(order[:3])}
    assert batch_table(found).splitlines()[2:] == [
        "| HTTP | official SDK 3.51.0 | 4,000 | 1.0 | 125 | 1.0 |",
        "| WebSocket | pixir_sync, orjson | 3,000 | 1.3 | 143 | 1.1 |",
        "| WebSocket | official SDK 3.51.0 | 2,000 | 2.0 | 167 | 1.3 |",
    ]
