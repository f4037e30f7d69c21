"""All comparisons with the official SDK, in one command: ``python -m tests.benchmarks``; needs the extra bench.

Rules kept here:

* The comparisons run one after the other, each interleaved by itself; what one found is written before the next begins.
* The command writes the parts of the page that stand between its comments, and the charts; the rest of the page is by hand.
* The exit status is 1 where a target is missed, 2 where what is needed is not installed. A quick run is judged by nobody.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from pixir_sync.version import __version__
from tests.benchmarks import charts, page
from tests.benchmarks.process import OFFICIAL, ROOT, official_python
from tests.benchmarks.section import Section, Setting

__all__ = ["COMPARISONS", "PAGE", "conditions", "main", "write"]

COMPARISONS: tuple[str, ...] = (
    "streaming",
    "turns",
    "cold_start",
    "threads",
    "batch",
    "idle",
    "memory",
)
"""The modules of this folder that have ``compare(setting) -> Section``, in the order in which they run."""

PAGE = ROOT / "docs" / "explanation" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit status."""
    options = _options(arguments)
    codecs = ("json",) if options.no_orjson else ("orjson", "json")
    if missing := [name for name in ("matplotlib", *codecs) if importlib.util.find_spec(name) is None]:
        hint = "pip install 'pixir-sync[bench]', or for orjson measure with --no-orjson"
        print(f"not installed: {', '.join(missing)} ({hint})", file=sys.stderr)
        return 2
    rounds, output = options.rounds or (1 if options.quick else 5), options.output
    setting = Setting(official_python(options.venv), rounds, codecs, options.seconds, options.quick)
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        if output is None:  # the figures of a quick run say nothing: they are for no page, unless one is named
            output = Path(folder) / PAGE.name if options.quick else PAGE
        for name in (name for name in COMPARISONS if name in options.only):
            compare: Callable[[Setting], Section] = importlib.import_module(f"tests.benchmarks.{name}").compare
            began = time.monotonic()
            section = compare(setting)
            print(f"{name}: {time.monotonic() - began:.0f} seconds", file=sys.stderr)
            print(write(name, section, setting, output), end="\n\n")
            missed += [] if options.quick else section.missed
    print(*(f"missed: {words}" for words in missed), sep="\n", end="\n" if missed else "", file=sys.stderr)
    return 1 if missed else 0


def write(name: str, section: Section, setting: Setting, output: Path) -> str:
    """Put a section into the page, which is made where it is missing, and draw its charts beside it. Gives the section's text."""
    text = page.written(section, conditions(setting._replace(rounds=section.rounds or setting.rounds)))
    before = output.read_text(encoding="utf-8") if output.exists() else f"# {PAGE.stem.capitalize()}\n"
    output.write_text(page.replaced(before, name, text), encoding="utf-8")
    for chart in section.charts:
        charts.draw(chart, output.parent / page.CHARTS / f"{chart.name}.svg")
    return text


def conditions(setting: Setting) -> str:
    """How it was measured, in a line that names no machine and no path."""
    rounds = f"medians of {setting.rounds} rounds" if setting.rounds > 1 else "one round"
    if setting.quick:
        rounds = "a quick run, whose figures say nothing"
    codec = [f"orjson {version('orjson')}"] if "orjson" in setting.codecs else []
    versions = ", ".join([f"pixir_sync {__version__}", f"official SDK {OFFICIAL}", *codec])
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{machine}; {versions}; {rounds}."


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    python = "".join(platform.python_version_tuple()[:2])
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Side by side with the official SDK.")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=COMPARISONS, metavar="NAME",
                        help=f"some of the comparisons: {', '.join(COMPARISONS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="how often everything is measured, in turn (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long bulk answers are read in a round (default: 1.5)")
    parser.add_argument("--quick", action="store_true", help="one round with small numbers, to see that all of it runs; "
                        "writes no page unless --output names one")  # fmt: skip
    parser.add_argument("--no-orjson", action="store_true", help="only the variant with the standard library's JSON")
    parser.add_argument("--venv", type=Path, default=ROOT / ".tox" / f"openai-{OFFICIAL}-py{python}",
                        help="the official SDK's environment, made where it is missing")  # fmt: skip
    parser.add_argument("--output", type=Path, help=f"the page to write (default: {PAGE.relative_to(ROOT).as_posix()})")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
