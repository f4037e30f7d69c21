"""The command that runs the comparisons: what it writes, when it fails. The comparison here measures nothing."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks.section import Section, Setting

GIVEN: list[Setting] = []


def _given(section: Section, setting: Setting) -> Section:
    GIVEN.append(setting)
    return section


@pytest.fixture(autouse=True)
def comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two comparisons, the second of which misses a target; everything that is asked for is installed."""
    GIVEN.clear()
    for name, missed in (("one", []), ("two", ["two: 19.0 times, not 20"])):
        module = ModuleType(f"tests.benchmarks.{name}")
        section = Section(name.capitalize(), f"The figures of {name}.", missed=missed, rounds=1 if name == "two" else None)
        monkeypatch.setattr(module, "compare", partial(_given, section), raising=False)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(command, "COMPARISONS", ("one", "two"))
    monkeypatch.setattr(command, "official_python", lambda folder: folder / "python")
    monkeypatch.setattr(command, "version", lambda name: "9.9")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_it_writes_all_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In their order, with how they were measured; a missed target is told and is the exit status."""
    output = tmp_path / "page.md"
    assert command.main(["--output", str(output), "--rounds=3", "--seconds=2", "--venv", str(tmp_path)]) == 1
    text, captured = output.read_text(encoding="utf-8"), capsys.readouterr()
    assert re.findall(r"^### \w+|^The .*", text, re.M) == ["### One", "The figures of one.", "### Two", "The figures of two."]
    assert captured.err == "one: 0 seconds\ntwo: 0 seconds\nmissed: two: 19.0 times, not 20\n"
    assert "The figures of two." in captured.out
    assert [*GIVEN] == [Setting(tmp_path / "python", 3, ("orjson", "json"), 2.0, False)] * 2
    assert str(tmp_path) not in text
    assert re.findall("medians of 3 rounds|one round", text) == ["medians of 3 rounds", "one round"]


def test_one_section_leaves_the_others(tmp_path: Path) -> None:
    """`--only` replaces that one's part."""
    output = tmp_path / "page.md"
    command.main(["--output", str(output)])
    before = output.read_text(encoding="utf-8")
    assert command.main(["--output", str(output), "--only", "one", "--rounds=2", "--no-orjson"]) == 0
    after = output.read_text(encoding="utf-8")
    first, second = before.split("<!-- two:"), after.split("<!-- two:")
    assert first[1:] == second[1:] and first[0] != second[0]
    assert "medians of 2 rounds" in after and GIVEN[-1].codecs == ("json",)


def test_a_quick_run_writes_no_page_and_is_judged_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures say nothing, unless somebody names a page for them."""
    page = tmp_path / "performance.md"
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.main(["--quick"]) == 0
    assert not page.exists() and all(setting.quick and setting.rounds == 1 for setting in GIVEN)
    assert command.main(["--quick", "--output", str(page)]) == 0
    assert "a quick run" in page.read_text(encoding="utf-8")


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main([]) == 2
    assert "not installed: matplotlib, orjson, json" in capsys.readouterr().err
    assert GIVEN == []


def test_the_conditions_name_no_machine_and_no_path() -> None:
    """Versions, the platform, its cores, the rounds."""
    words = command.conditions(Setting(Path("somewhere"), rounds=1, codecs=("json",)))
    assert re.fullmatch(r"Python [\d.]+\w*, \w+ \w+, \d+ cores; pixir_sync [^,]+, official SDK 3.51.0; one round\.", words)
