"""One comparison by itself: ``python -m tests.benchmarks.turns --quick``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.section import Section, Setting

__all__ = ["main"]


def main(compare: Callable[[Setting], Section]) -> None:
    """Measure and print the section; the exit status is 1 where a target is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--venv", type=Path, help="the official SDK's environment; without it that SDK is left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codecs", nargs="+", default=["orjson", "json"])
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    official = given.venv / "bin" / "python" if given.venv else Path()
    setting = Setting(official, given.rounds, given.codecs, quick=given.quick, without_official=given.venv is None)
    section = compare(setting)
    print(f"## {section.title}\n\n{section.text}\n")
    for chart in section.charts:
        print(f"chart {chart.name}: {[(name, len(points)) for name, points in chart.series.items()]}", file=sys.stderr)
    print(*section.missed, sep="\n", file=sys.stderr)
    sys.exit(1 if section.missed else 0)
