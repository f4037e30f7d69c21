"""The examples of the documentation: those of the docstrings, and those of the pages.

Rules kept here:

* A page is one program: its blocks share their names, from the top down. A docstring stands for itself.
* What is skipped is no example.
"""

from __future__ import annotations

import ast
import doctest
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pixir_sync

__all__ = ["DOCS", "Names", "all_examples", "names_in", "of_docstrings", "of_pages"]

DOCS = Path(__file__).parents[2] / "docs"
_PAGES = sorted(DOCS.rglob("*.md"))
_BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def of_pages() -> Iterator[doctest.DocTest]:
    """One test for each page that has examples."""
    parser = doctest.DocTestParser()
    for page in _PAGES:
        text = page.read_text(encoding="utf-8")
        examples: list[doctest.Example] = []
        for block in _BLOCK.finditer(text):
            above = text.count("\n", 0, block.start(1))
            for example in parser.get_examples(block[1], page.name):
                example.lineno += above
                examples.append(example)
        if examples:
            yield doctest.DocTest(examples, {}, page.relative_to(DOCS).as_posix(), str(page), 0, text)


def of_docstrings() -> Iterator[doctest.DocTest]:
    """One test for each docstring of the package that has examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in [pixir_sync, *map(import_module, _modules())]:
        for test in finder.find(found, extraglobs={"__name__": "__main__"}):
            if any(doctest.SKIP not in example.options for example in test.examples):
                yield test


def _modules() -> list[str]:
    found = pkgutil.walk_packages(pixir_sync.__path__, "pixir_sync.")
    return [module.name for module in found if not module.name.endswith(".__main__")]


def all_examples() -> list[doctest.DocTest]:
    """Those of the docstrings, then those of the pages."""
    return [*of_docstrings(), *of_pages()]


class Names(NamedTuple):
    """What examples use: names by themselves (``Provider``, ``pixir_sync.Provider``), and what stands behind a dot."""

    names: set[str]
    attributes: set[str]


def names_in(tests: list[doctest.DocTest]) -> Names:
    """The names that the examples use; to import a name is not to use it."""
    found = Names(set(), set())
    for example in (example for test in tests for example in test.examples if doctest.SKIP not in example.options):
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.Name):
                found.names.add(node.id)
            elif isinstance(node, ast.Attribute):
                of_package = isinstance(node.value, ast.Name) and node.value.id == "pixir_sync"
                (found.names if of_package else found.attributes).add(node.attr)
    return found
