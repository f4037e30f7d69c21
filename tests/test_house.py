"""The house rules that no other tool checks: sizes, the top level, and what must not stand in a tracked file."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "docs", "pixir_sync", "setup.cfg", "setup.py", "tests",
    "tox.ini",
}  # fmt: skip
FILE_LINES, TEST_LINES, FUNCTION_LINES = 300, 600, 40

# Written in two halves, so that this file passes its own rules.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|tmp/[a-z]{2})/[\w.-]+")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def tracked() -> list[Path]:
    """The files that git knows; without git, or outside of a repository, there is nothing to check."""
    try:
        command = ["git", "ls-files", "-z"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not a repository")
    names = [name for name in done.stdout.split("\0") if name]
    if not names:
        pytest.skip("nothing is tracked")
    return [path for name in names if (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    """The Python files of the package and of its tests."""
    return [path for path in tracked() if path.suffix == ".py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts() -> Iterator[tuple[str, str]]:
    """Every tracked text with its name; recorded bodies are data, not ours to word."""
    for path in tracked():
        if not name_of(path).startswith("tests/data/"):
            yield name_of(path), path.read_text(encoding="utf-8")


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function from its ``def`` to its end, without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def test_files_are_short() -> None:
    """A file is read in one sitting."""
    limits = {p: TEST_LINES if name_of(p).startswith("tests/") else FILE_LINES for p in sources()}
    counts = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in limits}
    assert {name_of(p): counts[p] for p in limits if counts[p] >= limits[p]} == {}


def test_functions_fit_on_a_screen() -> None:
    """Docstrings apart: a signature with many documented options is not a long function."""
    long: dict[str, int] = {}
    for path in sources():
        if not name_of(path).startswith("pixir_sync/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) >= FUNCTION_LINES:
                long[f"{name_of(path)}:{node.lineno} {node.name}"] = length(node)
    assert long == {}


def test_the_top_level_holds_nothing_else() -> None:
    """A newcomer sees the whole house at one glance."""
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_path_of_a_machine() -> None:
    """The project stands alone, wherever it is cloned."""
    assert [f"{name}: {found[0]}" for name, text in texts() if (found := MACHINE_PATH.findall(text))] == []


def test_nothing_is_left_for_later() -> None:
    """What is missing stands in an issue or in the acceptance list, not in the code."""
    assert [name for name, text in texts() if UNFINISHED.search(text)] == []


@pytest.mark.parametrize("path", ["/home/" + "me/x", "in /ro" + "ot/x.", '"/wo' + 'rk/it"', "(/Us" + "ers/me)"])
def test_the_pattern_knows_a_machine_path(path: str) -> None:
    """Without this the check above might check nothing."""
    assert MACHINE_PATH.search(path)


@pytest.mark.parametrize("path", ["https://host/ho" + "me/page", "docs/wo" + "rk/x", "/v1/responses", "a/ro" + "ot/b"])
def test_the_pattern_leaves_other_paths(path: str) -> None:
    """A URL or a relative path is no path of a machine."""
    assert not MACHINE_PATH.search(path)


def test_length_counts_no_docstring() -> None:
    """The measure itself: from ``def`` to the end, less the docstring's lines."""
    code = 'def f(\n    a: int,\n) -> int:\n    """One.\n\n    Two.\n    """\n    b = a\n    return b\n'
    function = ast.parse(code).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert length(function) == 5


CHECK = ("-p -m parts", "-p -m halves", "-e coverage")


def test_the_check_is_the_readmes() -> None:
    """The README's second command is what .ci/run runs, so that it cannot go stale."""
    steps = ["python3 -m venv .venv", ".venv/bin/pip install -q tox", *(f".venv/bin/tox {rest}" for rest in CHECK)]
    command = " && ".join(steps)
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
