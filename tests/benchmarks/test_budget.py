"""What an event, a turn and a first call cost, held to `budget.ini`: in counts, which are the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import budget
from tests.benchmarks.budget import Budget, Found

pytestmark = pytest.mark.timeout(300)

MUTANT = """
import logging, threading
from pixir_sync.protocol.assembly import HANDLERS
lock, log = threading.Lock(), logging.getLogger("pixir_sync")
view, take = HANDLERS["response.output_text.delta"]
def taken(assembler, data):
    {more}
    take(assembler, data)
HANDLERS["response.output_text.delta"] = view, taken
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """Everything as it is measured here."""
    if (reason := budget.unheld(budget.read())) is not None:
        pytest.skip(reason)
    return {name: one for codec in budget.codecs() for name, one in budget.measure(codec).items()}


def test_nothing_costs_more_than_its_budget(found: dict[str, Found]) -> None:
    """Per event, turn and first call, with each JSON library that is installed."""
    if told := budget.over(budget.read(), found):
        pytest.fail(told, pytrace=False)


def test_every_figure_of_the_budget_is_measured(found: dict[str, Found]) -> None:
    """A figure that nobody measures any more holds nothing."""
    limits = budget.read().figures
    assert {name: {*limits[name]} for name in found} == {name: {*one.figures} for name, one in found.items()}


def test_what_is_counted_is_the_path_of_an_event(found: dict[str, Found]) -> None:
    """An event costs something in each way; a turn that is sent as a delta does nothing in Python for an item of its history."""
    paced, turn = (found[f"websocket {what}, {budget.codecs()[0]}"] for what in ("paced", "turn"))
    assert all(paced.figures[name] >= 1 for name in ("bytecodes", "python calls", "c calls", "system calls"))
    assert paced.figures["locks"] == 0 < turn.figures["locks"], "a plain socket is read without a lock; a lease takes some"
    assert any(place.startswith("pixir_sync.turn:") for place, _, _ in paced.table)


@pytest.fixture(scope="module")
def unmutated() -> dict[str, Found]:
    """The bulk path with a wrapper that adds nothing."""
    return mutant("pass")


def mutant(more: str) -> dict[str, Found]:
    """The bulk path with one more line for each event."""
    return budget.measure(budget.codecs()[0], ["websocket bulk"], prelude=MUTANT.format(more=more), memory=False)


@pytest.mark.parametrize(
    ("figure", "more"),
    [("locks", "with lock: pass"), ("python calls", "log.debug('an event')"), ("c calls", "data = data.copy()")],
)
def test_one_more_line_for_each_event_is_seen(unmutated: dict[str, Found], figure: str, more: str) -> None:
    """A lock, a call of the log, a copy: each exceeds what the same path without it may cost."""
    limits = budget.renewed(unmutated)
    assert budget.over(limits, unmutated) == ""
    assert f": {figure}: " in budget.over(limits, mutant(more))


MADE_UP = Budget("3.11", {"urllib3": "0.0"}, {"sse paced, json": {"bytecodes": (1000.0, 1050.0), "locks": (0.0, 0.0)}})


def test_the_message_says_what_where_and_how_to_renew() -> None:
    """Which figure, measured, allowed, where it is spent, and the command."""
    spent = [("pixir_sync.turn:Turn._events", 800.0, 2.0), ("json:loads", 300.5, 1.0)]
    told = budget.over(MADE_UP, {"sse paced, json": Found({"bytecodes": 1100.5, "locks": 0.0, "c calls": 3.0}, spent)})
    first, second, _, *rest = told.splitlines()
    assert first == "sse paced, json: bytecodes: 1,100.50 measured, 1,050.00 allowed (1,000.00 when the budget was written)"
    assert second == "sse paced, json: c calls: 3.00 measured, and the budget has no such figure"
    assert rest[:4] == [
        "Where sse paced, json spends now:",
        "  function                      bytecodes    calls",
        "  pixir_sync.turn:Turn._events     800.00     2.00",
        "  json:loads                       300.50     1.00",
    ]
    assert "Not the versions that the budget was measured with: urllib3 " in told and "(then 0.0)" in told
    assert told.endswith("renew the budget: python -m tests.benchmarks.budget --write")


def test_what_is_allowed_is_no_message() -> None:
    """The most itself is allowed, and less is."""
    assert budget.over(MADE_UP, {"sse paced, json": Found({"bytecodes": 1050.0, "locks": 0.0}, [])}) == ""


def test_what_has_fallen_far_is_named() -> None:
    """A budget that nobody renews after a gain would let it go again."""
    fallen = {"sse paced, json": Found({"bytecodes": 949.0, "locks": 0.0}, [])}
    assert budget.loose(MADE_UP, fallen) == ["sse paced, json: bytecodes"]
    assert budget.loose(MADE_UP, {"sse paced, json": Found({"bytecodes": 950.0}, [])}) == []


def test_another_python_is_held_to_nothing() -> None:
    """It is told why."""
    reason = budget.unheld(MADE_UP._replace(python="3.99"))
    assert reason is not None and reason.startswith("the budget is one of CPython 3.99; this is ")
    assert reason.endswith("whose bytecode differs, so it is held to nothing")


def test_a_budget_is_written_and_read(tmp_path: Path) -> None:
    """What is written holds what was measured, with its headroom; nothing stays nothing."""
    path = tmp_path / "budget.ini"
    measured = {"sse turn, json": Found({"bytecodes": 200.0, "locks": 0.0, "bytes at the peak": 100.0}, [])}
    budget.write(budget.renewed(measured), path)
    read = budget.read(path)
    limits = {"bytecodes": (200.0, 210.0), "locks": (0.0, 0.0), "bytes at the peak": (100.0, 125.0)}
    assert read.figures == {"sse turn, json": limits}
    assert read == budget.renewed(measured)


def test_a_failed_count_says_why() -> None:
    """An error in the counting process is shown, not taken for figures."""
    with pytest.raises(RuntimeError, match="no such scenario"):
        budget.measure("json", [], prelude="raise ValueError('no such scenario')")
