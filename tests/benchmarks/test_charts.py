"""The charts: what of them can be told without eyes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.charts import draw, looks, short
from tests.benchmarks.section import Chart

BARS = Chart("bars", "Bars", "", "µs", "bars", {"official": [("HTTP", 487.0), ("SSE", 212.0)], "ours": [("SSE", 1244.0)]})
LINES = Chart("lines", "Lines", "KB", "ms", "lines", {"a": [(10, 0.1), (1000, 2)], "b": [(10, 3), (1000, 200)]}, logarithmic=True)
WORDS = Chart("words", "Words", "history", "ms", "lines", {"a": [("10 KB", 0.1), ("1 MB", 2)]}, logarithmic=True)
CURVE = Chart("curve", "Curve", "events", "MB", "lines", {"a": [(number, 40.0) for number in range(100)]})


@pytest.mark.parametrize("chart", [BARS, LINES, WORDS, CURVE], ids=lambda chart: chart.name)
def test_the_same_figures_give_the_same_file(chart: Chart, tmp_path: Path) -> None:
    """So that a rerun changes only what has changed; other figures give another file."""
    pytest.importorskip("matplotlib", reason="the extra bench")
    first, second, other = (tmp_path / name for name in ("a.svg", "b.svg", "c.svg"))
    draw(chart, first)
    draw(chart, second)
    draw(chart._replace(series={name: [(x, y + 1) for x, y in points] for name, points in chart.series.items()}), other)
    text = first.read_text(encoding="utf-8")
    assert text == second.read_text(encoding="utf-8") != other.read_text(encoding="utf-8")
    assert "<dc:date>" not in text and len(text) < 40_000
    assert all(f">{word}<" in text for word in (chart.title, chart.y_label))


def test_a_bar_has_its_figure(tmp_path: Path) -> None:
    """It can be read without the colours."""
    pytest.importorskip("matplotlib", reason="the extra bench")
    draw(BARS, tmp_path / "bars.svg")
    text = (tmp_path / "bars.svg").read_text(encoding="utf-8")
    assert [text.count(f">{figure}<") for figure in ("487", "212", "1.24k")] == [1, 1, 1]


def test_the_points_of_a_line_may_have_labels(tmp_path: Path) -> None:
    """Numbers are shortened, labels stay."""
    pytest.importorskip("matplotlib", reason="the extra bench")
    for chart, labels in ((WORDS, ("10 KB", "1 MB")), (LINES, ("10", "1k"))):
        draw(chart, tmp_path / "lines.svg")
        text = (tmp_path / "lines.svg").read_text(encoding="utf-8")
        assert all(f">{label}<" in text for label in labels)


def test_a_client_has_one_colour_in_all_charts() -> None:
    """Whatever else is in the chart; its variants share it, and no two series look the same."""
    alone, among = looks(["pixir_sync, json"]), looks(["official SDK 3.51.0", "pixir_sync, orjson", "pixir_sync, json"])
    assert alone["pixir_sync, json"] == among["pixir_sync, json"]
    many = looks(["pixir_sync, orjson", "raw socket", "pixir_sync, orjson, list rebuilt", "official SDK", "nobody", "noone"])
    assert many["pixir_sync, orjson, list rebuilt"] == (many["pixir_sync, orjson"][0], 1)
    assert len(set(many.values())) == len(many)


@pytest.mark.parametrize(
    ("figure", "words"),
    [(313_180, "313k"), (12.44, "12.4"), (0.234_5, "0.234"), (999.4, "999"), (999.6, "1k"), (1_240_000, "1.24M"), (0, "0")],
)
def test_figures_are_short(figure: float, words: str) -> None:
    """Three digits."""
    assert short(figure) == words
