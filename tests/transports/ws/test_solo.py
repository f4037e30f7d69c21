"""Who reads and who closes, in every interleaving; and the model is sharp: each rule left out is found."""

from __future__ import annotations

import pytest

from tests.transports.ws.solo import Found, Model, search

# What is broken; which rule of `connection.py` says otherwise; how many steps the shortest way to the fault has.
MUTANTS = {
    "takes a role that is taken": (1, 3),
    "the queue before the role": (2, 13),
    "the end of a visit is not told": (3, 6),
    "death before the role": (4, 9),
    "closes under a reader": (4, 7),
    "no look at death: consumer": (4, 6),
    "no look at death: visitor": (4, 6),
    "no look at death: writer": (4, 5),
    "no look at death: killer": (4, 2),
    "the wake-up before the flag": (5, 7),
    "an interrupt keeps the role": (6, 3),
    "an interrupt gives back anyone's role": (6, 6),
    "dirty is not condemned": (7, 7),
}


def told(found: Found) -> str:
    return "\n".join([found.fault or "no fault", *found.trace])


@pytest.mark.parametrize(("waits", "states", "steps"), [(False, 15_578, 36), (True, 15_366, 35)])
def test_nobody_waits_in_vain_and_the_last_one_closes(waits: bool, states: int, steps: int) -> None:
    """A consumer, a visitor, a writer, one that ends it, a cancel: thousands of states, none with a fault."""
    found = search(Model(waits=waits))
    assert not found.fault, told(found)
    assert (found.states, len(found.steps)) == (states, steps), "a model that never takes a step shows nothing about it"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(mutant: str) -> None:
    """Breadth first, so that what is found is the shortest way."""
    found = search(Model(mutant))
    assert found.fault and len(found.trace) == MUTANTS[mutant][1], told(found)
    assert search(Model(mutant, waits=True)).fault


def test_every_rule_has_a_mutant() -> None:
    """Rules 8 and 9 are no hand-over: the house's tests and those of a stream's beginning show them."""
    assert {rule for rule, _ in MUTANTS.values()} == set(range(1, 8))
