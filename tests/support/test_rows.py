"""The row plugin: unknown rows are refused, and what no passing test claims is listed after a full run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rows import LIST, by_section, rows_of, summary

TABLE = """
## A. One
| # | behaviour | shown by |
|---|---|---|
| A1 | first | x |
| A2 | second | x |
## B. Two
| # | behaviour | shown by |
|---|---|---|
| B1 | third | x |
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of its own, with an acceptance list of three rows and the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # importing them anew for each run costs a second
    pytester.path.joinpath(LIST).parent.mkdir(parents=True)
    pytester.path.joinpath(LIST).write_text(TABLE, encoding="utf-8")
    pytester.makeini(f"""
        [pytest]
        testpaths = tests
        pythonpath = {Path(__file__).parents[2].as_posix()}
        addopts = --strict-markers -p no:cacheprovider
        markers = row(*ids): rows
    """)
    tests = pytester.mkdir("tests")
    tests.joinpath("conftest.py").write_text('pytest_plugins = ["tests.support.rows"]\n', encoding="utf-8")
    return pytester


def write(project: pytest.Pytester, code: str) -> None:
    project.path.joinpath("tests", "test_it.py").write_text("import pytest\n" + code, encoding="utf-8")


def run(project: pytest.Pytester, *args: str) -> tuple[str, int]:
    result = project.runpytest_inprocess(*args)
    return result.stdout.str() + result.stderr.str(), int(result.ret)


def test_rows_of_reads_the_first_column() -> None:
    """Only table rows that begin with a letter and a number are rows."""
    assert rows_of(TABLE) == ["A1", "A2", "B1"]


def test_the_real_list_is_read() -> None:
    """The project's own list has its five sections, and no id twice."""
    rows = rows_of((Path(__file__).parents[2] / LIST).read_text(encoding="utf-8"))
    assert list(by_section(rows)) == list("ABCDE")
    assert len(set(rows)) == len(rows) >= 60


def test_summary_is_one_line_per_section() -> None:
    """A section says none, all, or which rows are missing."""
    known = {"A": ["A1", "A2"], "B": ["B1"], "C": ["C1", "C2"]}
    lines = summary(known, {"A": ["A2"], "C": ["C1", "C2"]})
    assert lines == ["A: 1 of 2 missing: A2", "B: 0 of 1 missing: none", "C: 2 of 2 missing: all"]


def test_passing_tests_claim_their_rows(project: pytest.Pytester) -> None:
    """One marker may name several rows, and a full run lists the rest with a count."""
    write(project, '@pytest.mark.row("A1", "B1")\ndef test_a():\n    assert True\n')
    text, code = run(project)
    assert code == 0
    assert "A: 1 of 2 missing: A2" in text
    assert "B: 0 of 1 missing: none" in text
    assert "2 of 3 rows are shown" in text


def test_a_row_with_a_failing_test_is_not_shown(project: pytest.Pytester) -> None:
    """One failure outweighs any number of passes, whichever phase it happens in."""
    write(project, """
@pytest.fixture
def broken():
    yield
    assert False

@pytest.mark.row("A1")
def test_passes():
    assert True

@pytest.mark.row("A1")
def test_fails():
    assert False

@pytest.mark.row("A2")
def test_fails_afterwards(broken):
    assert True
""")
    text, code = run(project)
    assert code == 1
    assert "0 of 3 rows are shown" in text


def test_a_skipped_test_shows_nothing(project: pytest.Pytester) -> None:
    """A claim without a run is no claim."""
    write(project, '@pytest.mark.row("A1")\n@pytest.mark.skip("not here")\ndef test_a():\n    assert True\n')
    text, code = run(project)
    assert code == 0
    assert "0 of 3 rows are shown" in text


@pytest.mark.parametrize("marker", ['row("Z9")', "row()", "row"])
def test_a_wrong_marker_is_a_usage_error(project: pytest.Pytester, marker: str) -> None:
    """An unknown row, and a marker without a row, stop the run before any test."""
    write(project, f"@pytest.mark.{marker}\ndef test_a():\n    assert True\n")
    text, code = run(project)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_a" in text
    assert "no row" in text


@pytest.mark.parametrize("args", [("-k", "test_a"), ("tests/test_it.py",)])
def test_a_part_of_the_tests_prints_no_list(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    """A part of the tests says nothing about what is missing."""
    write(project, '@pytest.mark.row("A1")\ndef test_a():\n    assert True\n\ndef test_b():\n    assert True\n')
    text, code = run(project, *args)
    assert code == 0
    assert "rows are shown" not in text


def test_a_missing_list_is_a_usage_error(project: pytest.Pytester) -> None:
    """Without the acceptance list nothing can be checked, and the run says so."""
    project.path.joinpath(LIST).unlink()
    write(project, "def test_a():\n    assert True\n")
    text, code = run(project)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "acceptance list" in text
