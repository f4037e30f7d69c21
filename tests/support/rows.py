"""Tests know their rows: the marker ``row("A14")`` and the list of rows that no test shows.

Rules kept here:

* The acceptance list is docs/reference/behaviours.md; a marker that names a row which is not there is a usage error.
* A row is shown when at least one of its tests passed and none failed. A skipped test shows nothing.
* The list is printed only after a full run: a part of the tests says nothing about what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

LIST = Path("docs") / "reference" / "behaviours.md"
_ROW = re.compile(r"^\| ([A-Z][0-9]+) \|", re.MULTILINE)


def rows_of(text: str) -> list[str]:
    """The ids of the acceptance list, in its order."""
    return _ROW.findall(text)


def ids_of(item: pytest.Item) -> tuple[str, ...]:
    """The rows that a test claims by its markers."""
    return tuple(str(name) for marker in item.iter_markers("row") for name in marker.args)


def by_section(rows: Iterable[str]) -> dict[str, list[str]]:
    """The rows by their letter: A1, A2, B1 gives ``{"A": ["A1", "A2"], "B": ["B1"]}``."""
    sections: dict[str, list[str]] = {}
    for row in rows:
        sections.setdefault(row[0], []).append(row)
    return sections


class Rows:
    """What is known about each row during one run of pytest."""

    def __init__(self, known: list[str], testpaths: list[str]) -> None:
        self.known = known
        self.testpaths = testpaths
        self.claims: dict[str, tuple[str, ...]] = {}  # by the test's node id
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.deselected = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note each test's rows; refuse unknown ones, and a marker that names none."""
        for item in items:
            claimed = ids_of(item)
            if unknown := [name for name in claimed if name not in self.known]:
                raise pytest.UsageError(f"{item.nodeid}: no row {', '.join(unknown)} in {LIST.as_posix()}")
            if not claimed and item.get_closest_marker("row") is not None:
                raise pytest.UsageError(f"{item.nodeid}: the marker row names no row")
            self.claims[item.nodeid] = claimed

    def pytest_deselected(self) -> None:
        """Something was left out by -k, -m or --deselect: not a full run."""
        self.deselected = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passed if its call did and no phase of it failed."""
        claimed = self.claims.get(report.nodeid, ())
        if report.failed:
            self.failed.update(claimed)
        elif report.when == "call" and report.passed:
            self.passed.update(claimed)

    def missing(self) -> list[str]:
        """The rows that nothing shows, in the list's order."""
        return [row for row in self.known if row not in self.passed or row in self.failed]

    def full(self, config: pytest.Config) -> bool:
        """Whether all the tests were asked for."""
        wanted = {(config.rootpath / path).resolve() for path in self.testpaths}
        given = {(config.invocation_params.dir / arg).resolve() for arg in config.args}
        return wanted <= given and not self.deselected

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode, config: pytest.Config
    ) -> None:
        """The rows that no passing test claims, a line per section, and how many are shown."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not self.full(config):
            return
        missing = self.missing()
        terminalreporter.write_sep("-", "rows that no passing test claims")
        for line in summary(by_section(self.known), by_section(missing)):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"{len(self.known) - len(missing)} of {len(self.known)} rows are shown")


def summary(known: Mapping[str, list[str]], missing: Mapping[str, list[str]]) -> list[str]:
    """One line per section: how many of its rows are missing, and which."""
    lines = []
    for section, rows in known.items():
        lacking = missing.get(section, [])
        which = "none" if not lacking else "all" if len(lacking) == len(rows) else " ".join(lacking)
        lines.append(f"{section}: {len(lacking)} of {len(rows)} missing: {which}")
    return lines


def pytest_configure(config: pytest.Config) -> None:
    """Read the acceptance list and watch the run."""
    try:
        text = (config.rootpath / LIST).read_text(encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"the acceptance list is missing: {LIST.as_posix()}") from error
    config.pluginmanager.register(Rows(rows_of(text), config.getini("testpaths")), "pixir_rows")
