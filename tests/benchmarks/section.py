"""What a comparison of this folder is given, and what it gives: one part of docs/explanation/performance.md.

Rules kept here:

* A comparison is a module with ``compare(setting) -> Section``. It measures in turn (A B A B), each run in a process of its own,
  and gives medians.
* A section tells its figures and no opinion; what falls short of a target stands in ``missed``, in words that hold both figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["Chart", "Section", "Setting", "table"]


class Setting(NamedTuple):
    """How to measure.

    Attributes:
        official: the interpreter of the environment that has the official SDK.
        rounds: how often everything is measured, in turn.
        codecs: the JSON libraries that the provider is measured with: ``orjson``, ``json``.
        seconds: how long a run of bulk answers lasts.
        quick: small numbers, to see that all of it runs; the figures then say nothing.
    """

    official: Path
    rounds: int = 5
    codecs: Sequence[str] = ("orjson", "json")
    seconds: float = 1.5
    quick: bool = False

    @property
    def few(self) -> int:
        """The rounds of what has no target, or takes a minute and more."""
        return min(self.rounds, 3)


class Chart(NamedTuple):
    """One chart. ``series`` has the points of each line, or of each group's bars, by its name; x is a number or a label."""

    name: str
    title: str
    x_label: str
    y_label: str
    kind: Literal["bars", "lines"]
    series: Mapping[str, Sequence[tuple[float | str, float]]]
    logarithmic: bool = False


class Section(NamedTuple):
    """What one comparison found.

    Attributes:
        text: Markdown without a heading.
        missed: the targets that were not reached.
        rounds: how often it was measured, where that is not as often as the setting says.
    """

    title: str
    text: str
    charts: Sequence[Chart] = ()
    missed: Sequence[str] = ()
    rounds: int | None = None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 2) -> str:
    """A Markdown table whose first columns (``words`` of them) are text and the others numbers."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
