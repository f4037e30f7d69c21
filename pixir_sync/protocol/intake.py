"""A caller's history as the input of a turn: checked, repaired, and recognised where a connection holds it already. Pure.

Rules kept here:

* What a baseline holds was checked and repaired when it was sent: of a history that begins with it, only the rest is looked
  at, and the baseline's own snapshots stand for the beginning. What grows with the history is one comparison and one shallow
  pass.
* That shortcut is taken only where it gives what the long way gives. In doubt the whole history is checked and repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pixir_sync.protocol.history import CALLS, repair
from pixir_sync.protocol.items import check_history, developer

__all__ = ["Known", "take_in"]

_Item = dict[str, Any]
Known = Sequence[Sequence[_Item]]
"""The inputs that connections hold and that a history may begin with."""


def take_in(history: Any, context: str, known: Known, *, managed: bool, warn: Callable[[str], None]) -> tuple[list[_Item], int]:
    """The items to send, and how many of them, from the first on, are a baseline's own.

    Args:
        context: the developer's context, the first item; ``""`` for none.
        managed: the caller owns the context, and its items go as they are.
        warn: told, without any content, what the repair left out.

    Raises `InvalidRequest` that names the item and the field.
    """
    lead = [developer(context)] if context else []
    if not managed and isinstance(history, (list, tuple)):
        held = _longest(lead, history, known)
        start = len(held) - len(lead)
        if held:
            rest = check_history(history[start:], start)
            if held[-1].get("type") not in CALLS and repair(rest, warn=_nobody) is rest:
                return held + rest, len(held)
    items = check_history(history)
    return lead + (items if managed else repair(items, warn=warn)), 0


def _longest(lead: list[_Item], history: Sequence[_Item], known: Known) -> list[_Item]:
    """The longest of the known inputs that this one begins with, or nothing. Plain ``==``: the slow form is the plan's."""
    found: list[_Item] = []
    for inputs in known:
        held = list(inputs)  # it may be extended meanwhile, by the turn that it belongs to
        fits = len(found) < len(held) <= len(lead) + len(history) and held[: len(lead)] == lead
        if fits and held[len(lead) :] == list(history[: len(held) - len(lead)]):
            found = held
    return found


def _nobody(message: str) -> None:
    """The long way warns."""
