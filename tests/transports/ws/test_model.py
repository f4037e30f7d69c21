"""The hand-over of the reading role holds in every interleaving; and the model is sharp: each rule left out is found."""

from __future__ import annotations

import pytest

from tests.transports.ws.model import Found, Model, search

# What is broken, by the name that the model's steps ask for; which rule of `multiplexed.py` says otherwise; how many steps the
# shortest way to the fault has. Two names: the first is harmless by itself, and shows what the rule of the second is there for.
MUTANTS = {
    # 2: the order of the decision
    "role before data": (2, 5),
    "role before cancelled": (2, 5),
    "cancelled before data": (2, 7),
    "dead before data": (2, 7),
    "late before role": (2, 4),
    # 3: parking and un-parking
    "parked after the decision": (3, 4),
    "a late waiter stays parked": (3, 5),
    "who takes the role stays parked": (3, 7),
    # 4: the baton
    "no baton: holder, data": (4, 5),
    "no baton: holder, cancelled": (4, 4),
    "no baton: holder, overflowed": (4, 5),
    "no baton: holder, late": (4, 3),
    "no baton: holder, interrupt": (4, 3),
    "no baton: waiter, cancelled": (4, 6),
    "no baton: waiter, interrupt": (4, 4),
    "no baton: keepalive": (4, 3),
    "baton counts on one already woken + no baton: waiter, data": (4, 7),
    "baton counts on one already woken + no baton: waiter, overflowed": (4, 7),
    "baton forgets the cancelled": (4, 8),
    "baton goes to a full queue": (4, 3),
    # 5: who is told of data and of death
    "dispatch unparks nobody": (5, 5),
    "dispatch forgets the overflowed": (5, 5),
    "death unparks one": (5, 4),
    "death by another wakes no reader": (5, 2),
    # 6: cancel
    "the wake-up before the flag": (6, 5),
    "flags before the wake-up is emptied": (6, 7),
    "a reader looks at its own flag only": (6, 6),
    # 7: one try, and its handler
    "role taken outside the try": (7, 2),
    "role given back outside the try": (7, 3),
    "an interrupt gives back anyone's role": (7, 3),
    "an interrupted waiter stays parked": (7, 5),
    # 8: bytes in hand
    "dirty is not condemned": (8, 4),
}

STEPS = {
    "calls", "pops", "wakes and decides", "is late", "polls no more", "is interrupted", "unwinds", "is cancelled",
    "is followed by a wake-up", "empties the wake-up", "receives", "looks", "dispatches", "dies of the end",
    "bytes come", "the peer closes", "another kills it", "the socket is shut down", "a wake-up for a lane that has left",
    "keepalive comes", "keepalive receives", "keepalive dispatches", "keepalive finds the end", "keepalive goes",
}  # fmt: skip


def told(found: Found) -> str:
    return "\n".join([found.fault or "no fault", *found.trace])


def verbs(found: Found) -> set[str]:
    """What happened, without how it ended."""
    return {step.split(":")[0].split(",")[0] for step in found.steps}


@pytest.mark.timeout(300)  # 9 s of one core; several times that on a busy machine, with coverage
def test_no_wake_up_is_lost() -> None:
    """Three consumers and the keepalive thread: 187,037 states, none with a fault, none where somebody waits in vain."""
    found = search(Model())
    assert found.fault is None, told(found)
    assert not found.circle, "the threads can go round for ever without the world's help"
    assert found.states == 187_037
    assert verbs(found) == STEPS, "a model that never takes a step shows nothing about it"


def test_no_wake_up_is_lost_with_longer_queues() -> None:
    """Two consumers whose queues hold up to three entries: 57,613 states."""
    found = search(Model(consumers=2, limit=3))
    assert found.fault is None, told(found)
    assert not found.circle, "the threads can go round for ever without the world's help"
    assert found.states == 57_613


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_found(mutant: str) -> None:
    """Breadth first, so that what is found is the shortest way; the steps are coarse, each a whole section."""
    found = search(Model(frozenset(mutant.split(" + "))))
    assert found.fault is not None
    assert len(found.trace) == MUTANTS[mutant][1], told(found)


def test_every_rule_has_a_mutant() -> None:
    """Rule 1 is what "two have the role" says of every state; rules 2 to 8 are each broken at least once."""
    assert {rule for rule, _ in MUTANTS.values()} == set(range(2, 9))


def test_a_trace_can_be_read() -> None:
    """The way to a fault is told of consumers that keep their names, with the state after each step."""
    found = search(Model(frozenset({"no baton: holder, late"})))
    assert found.fault == "somebody waits and nobody reads"
    assert found.trace == [
        "A calls  ->  quiet | poll role | away | away",
        "B calls  ->  quiet | poll role | parked lock | away",
        "A polls no more: late  ->  quiet | away | parked lock | away",
    ]
