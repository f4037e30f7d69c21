"""The page of the figures: what the command writes, and what it leaves alone."""

from __future__ import annotations

import pytest

from tests.benchmarks.__main__ import COMPARISONS, PAGE
from tests.benchmarks.page import markers, replaced, written
from tests.benchmarks.section import Chart, Section, table

BEGIN, END = markers("streaming")
PROSE = f"# Figures\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"


def test_only_what_stands_between_the_comments_is_replaced() -> None:
    """Everything else stays as it was written."""
    assert replaced(PROSE, "streaming", "| new |") == f"# Figures\n\nBefore.\n\n{BEGIN}\n\n| new |\n\n{END}\n\nAfter.\n"


def test_each_section_has_its_own_comments() -> None:
    """Writing one leaves the others, and comes to the same in either order."""
    both = replaced(replaced(PROSE, "threads", "T"), "streaming", "S")
    assert both == replaced(replaced(PROSE, "streaming", "S"), "threads", "T")
    assert both.endswith("\nAfter.\n\n" + "\n\nT\n\n".join(markers("threads")) + "\n")


@pytest.mark.parametrize("page", ["", "# Figures\n", PROSE])
def test_writing_twice_changes_nothing(page: str) -> None:
    """Neither where the section had a place nor where it got one."""
    once = replaced(page, "streaming", "a text")
    assert replaced(once, "streaming", "a text") == once
    assert replaced(once, "streaming", "another") == replaced(page, "streaming", "another")


@pytest.mark.parametrize("page", [BEGIN, END, f"{END}\n{BEGIN}", f"{PROSE}{BEGIN}", f"{PROSE}{END}", f"{BEGIN}{PROSE}"])
def test_a_page_with_half_a_pair_is_refused(page: str) -> None:
    """Rather than to lose what somebody wrote."""
    with pytest.raises(ValueError, match="once each"):
        replaced(page, "streaming", "text")


def test_a_section_tells_how_it_was_measured_and_shows_its_charts() -> None:
    """Title, conditions, text, charts."""
    chart = Chart("bulk", "Bulk answers", "", "events", "bars", {})
    assert written(Section("What it costs", "\nA table.\n", [chart]), "Somewhere.") == (
        "### What it costs\n\nSomewhere.\n\nA table.\n\n![Bulk answers, events](charts/bulk.svg)"
    )


def test_a_table_aligns_its_figures() -> None:
    """The first columns are text, the others numbers."""
    assert table(["a", "b", "c"], [["x", "1", "2"]], words=1) == "| a | b | c |\n| --- | ---: | ---: |\n| x | 1 | 2 |"


def test_the_page_has_what_the_command_writes() -> None:
    """Every comparison has been run, and each chart that the page shows is there, and no other."""
    text = PAGE.read_text(encoding="utf-8")
    for name in COMPARISONS:
        assert replaced(text, name, "new") != text
        assert all(text.count(marker) == 1 for marker in markers(name))
    drawn = {path.name for path in (PAGE.parent / "charts").iterdir()}
    assert drawn == {word.partition(")")[0] for word in text.split("](charts/")[1:]}
