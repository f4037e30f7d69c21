"""Charts as SVG, to stand in a page: stacked columns, and bars behind the rows of a table.

Rules kept here:

* Colours are classes (``s0``, ``s1``, ...) that the page gives a light and a dark value; what is drawn is told in words, too.
* Every word goes through `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "bar", "columns", "legend"]

_WIDTH, _HEIGHT = 400, 180  # in the units of the drawing, which is scaled to the page
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 4, 8, 22


@dataclass(frozen=True)
class Series:
    """One colour of a chart: its name, its number, and a value for each column."""

    name: str
    number: int
    values: Sequence[int]


def columns(what: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    """Stacked columns, one for each label; ``what`` says in words what is seen."""
    totals = [sum(one.values[at] for one in series) for at in range(len(labels))]
    top = _rounded(max(totals, default=0))
    width, height = (_WIDTH - _LEFT - _RIGHT) / max(1, len(labels)), _HEIGHT - _TOP - _BOTTOM
    drawn = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(what)}">', *_grid(top, height)]
    for at, label in enumerate(labels):
        x, below = _LEFT + at * width, 0
        for one in series:
            value = one.values[at]
            if not value:
                continue
            below += value
            y, tall = _TOP + height * (1 - below / top), height * value / top
            gap = min(1.5, width * 0.1)
            drawn.append(f'<rect class="s{one.number}" x="{x + gap:.1f}" y="{y:.1f}" width="{width - 2 * gap:.1f}" '
                         f'height="{tall:.1f}"><title>{escape(f"{label}, {one.name}: {value:,}")}</title></rect>')  # fmt: skip
    drawn += _below(labels, width)
    return "".join([*drawn, "</svg>"])


def _rounded(most: int) -> int:
    """A round number that is not below, and that has a whole half."""
    size = int("1" + "0" * (len(str(most)) - 1))
    return next(top for top in (2 * size, 4 * size, 6 * size, 8 * size, 10 * size) if top >= most)


def _grid(top: int, height: float) -> list[str]:
    lines = []
    for value in (0, top // 2, top):
        y = _TOP + height * (1 - value / top)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 4}" y="{y + 3.5:.1f}" text-anchor="end">{_short(value)}</text>')
    return lines


def _below(labels: Sequence[str], width: float) -> list[str]:
    """As many labels as have room."""
    half = max(map(len, labels), default=1) * 3
    every = max(1, -int(-(2 * half + 8) // width)) if labels else 1
    places = ((at, max(half, _LEFT + (at + 0.5) * width)) for at in range(0, len(labels), every))
    return [f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(labels[at])}</text>'
            for at, x in places if x <= _WIDTH - half]  # fmt: skip


def _short(value: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return str(value)


def legend(series: Sequence[Series]) -> str:
    """The colours and what they mean."""
    keys = (f'<span class="key"><i class="s{one.number}"></i>{escape(one.name)}</span>' for one in series)
    return f'<p class="legend">{"".join(keys)}</p>'


def bar(share: float, number: int = 0) -> str:
    """A bar for a cell of a table, ``share`` of it filled, from 0 to 1."""
    filled = max(0.0, min(1.0, share)) * 100
    return (f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="s{number}" width="{filled:.1f}" height="10"/></svg>')  # fmt: skip
