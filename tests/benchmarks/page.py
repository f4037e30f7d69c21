"""The page that the figures go into: what is written by hand stays, each section has its place between two comments.

Rules kept here:

* Pure: texts in, texts out.
* Writing the same section twice gives the same page. A section that has no place yet gets one at the page's end.
* What is written names no machine and no path: the version of Python, the platform, its cores.
"""

from __future__ import annotations

from tests.benchmarks.section import Section

__all__ = ["CHARTS", "markers", "replaced", "written"]

CHARTS = "charts"
"""The folder of the charts, beside the page."""


def markers(name: str) -> tuple[str, str]:
    """The two comments between which a section stands."""
    return f"<!-- {name}: written by python -m tests.benchmarks -->", f"<!-- {name}: end -->"


def written(section: Section, conditions: str) -> str:
    """A section as Markdown: its title, how it was measured, its text, its charts."""
    charts = [f"![{chart.title}, {chart.y_label}]({CHARTS}/{chart.name}.svg)" for chart in section.charts]
    return "\n\n".join([f"### {section.title}", conditions, section.text.strip(), *charts])


def replaced(page: str, name: str, text: str) -> str:
    """The page with this text as the section of that name.

    Raises ValueError where the two comments are not there once each, in their order.
    """
    begin, end = markers(name)
    block = f"{begin}\n\n{text}\n\n{end}"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    before, _, rest = page.partition(begin)
    between, found, after = rest.partition(end)
    if not found or any(marker in before + between + after for marker in (begin, end)):
        raise ValueError(f"the page must have these two lines once each, in this order: {begin} {end}")
    return f"{before}{block}{after}"
