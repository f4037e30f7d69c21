"""The charts of the page, drawn by matplotlib (the extra bench), which is imported when the first is drawn.

Rules kept here:

* The same figures give the same file: no date, no version, fixed ids, text as text.
* No background, and lines and words in a grey that is read on white and on black; the colours are those of Okabe and Ito that
  stand out on both. A client has one colour in all charts; its variants differ by the dashes of the line or the hatches of the
  bar. For who sees no colour a line has its marker, a bar its figure.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

from tests.benchmarks.section import Chart

__all__ = ["draw", "looks", "short"]

_GREY = "#767676"
_BLUE, _VERMILION, _GREEN, _PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
_KNOWN = {"official": _VERMILION, "orjson": _BLUE, "json": _GREEN}
_OTHERS = (_BLUE, _GREEN, _PURPLE, _VERMILION)
_MARKERS, _DASHES, _HATCHES = "osD^vXPd", ("-", "--", ":", "-."), ("", "////", "....", "xxxx")
_SETTINGS = {
    "svg.hashsalt": "pixir_sync", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold",
    "text.color": _GREY, "axes.labelcolor": _GREY, "axes.edgecolor": _GREY, "axes.titlecolor": _GREY, "xtick.color": _GREY,
    "ytick.color": _GREY, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": _GREY,
    "grid.alpha": 0.25, "grid.linewidth": 0.5, "hatch.linewidth": 0.5, "legend.frameon": False, "axes.formatter.useoffset": False,
}  # fmt: skip
_WIDTH, _HEIGHT = 7.0, 3.0  # inches


def draw(chart: Chart, path: Path) -> None:
    """Write the chart as SVG. Raises ModuleNotFoundError where matplotlib is missing."""
    matplotlib = importlib.import_module("matplotlib")
    Figure = importlib.import_module("matplotlib.figure").Figure
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the settings of this machine are
        matplotlib.rcParams.update(_SETTINGS)
        rows_of_names = (len(chart.series) + 2) // 3
        figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.15 * rows_of_names), layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
        axes.grid(axis="y")
        (_bars if chart.kind == "bars" else _lines)(axes, chart)
        for axis in (axes.yaxis,) if _has_labels(chart) else (axes.yaxis, axes.xaxis):  # after the scale, which brings its own
            axis.set_major_formatter(lambda figure, _: short(figure))
            axis.set_minor_formatter("")
        if len(chart.series) > 1:
            figure.legend(loc="outside lower center", ncols=min(3, len(chart.series)))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def _has_labels(chart: Chart) -> bool:
    """Whether x has labels, and no numbers."""
    return chart.kind == "bars" or any(isinstance(x, str) for points in chart.series.values() for x, _ in points)


def _bars(axes: Any, chart: Chart) -> None:
    """Bars in groups, each with its figure above it."""
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.margins(y=0.12)
    labels = list(dict.fromkeys(str(x) for points in chart.series.values() for x, _ in points))
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    for name, (colour, variant) in looks(list(chart.series)).items():
        points = chart.series[name]
        places, width = _places(chart, labels, name)
        hatch = _HATCHES[variant % len(_HATCHES)]
        bars = axes.bar(places, [y for _, y in points], width * 0.9, label=name, color=colour, hatch=hatch)
        axes.bar_label(bars, [short(y) for _, y in points], padding=1, fontsize=7)


def _places(chart: Chart, labels: Sequence[str], name: str) -> tuple[list[float], float]:
    """Where the bars of a series stand, in the middle of their groups, some of which may have fewer bars; and their width."""
    width = 0.8 / len(chart.series)
    groups = {label: [one for one, points in chart.series.items() if label in {str(x) for x, _ in points}] for label in labels}
    found = []
    for x, _ in chart.series[name]:
        group = groups[str(x)]
        found.append(labels.index(str(x)) + (group.index(name) - (len(group) - 1) / 2) * width)
    return found, width


def _lines(axes: Any, chart: Chart) -> None:
    """Lines with a marker at each point, of many points at some."""
    if chart.logarithmic:
        axes.set(yscale="log", xscale="linear" if _has_labels(chart) else "log")
    for (name, (colour, variant)), marker in zip(looks(list(chart.series)).items(), cycle(_MARKERS), strict=False):
        xs, ys = zip(*chart.series[name], strict=True)
        dashes, every = _DASHES[variant % len(_DASHES)], 1 + len(xs) // 15
        axes.plot(xs, ys, dashes, marker=marker, markevery=every, markersize=4, linewidth=1.5, label=name, color=colour)
    if not chart.logarithmic:
        axes.set_ylim(0, 1.1 * max(y for points in chart.series.values() for _, y in points))


def looks(names: Sequence[str]) -> Mapping[str, tuple[str, int]]:
    """The colour of each series, and which of those that share it this one is; a series that is no client's has its own."""
    own = {name: next((colour for word, colour in _KNOWN.items() if word in name), "") for name in names}
    free: Iterator[str] = chain((colour for colour in _OTHERS if colour not in own.values()), repeat(_GREY))
    found: dict[str, tuple[str, int]] = {}
    for name in names:
        colour = own[name] or next(free)
        found[name] = colour, [taken for taken, _ in found.values()].count(colour)
    return found


def short(figure: float) -> str:
    """A figure in as many characters as a bar is wide: 313k, 12.4, 0.23."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(figure) >= 0.9995 * size:
            return f"{figure / size:.3g}{letter}"
    return f"{figure:.3g}"
