"""A caller's history as the input of a turn: checked, repaired, and recognised where a connection holds it already. Pure.

Rules kept here:

* What a baseline holds was checked and repaired when it was sent: of a history that begins with it, only the rest is looked
  at, and the baseline's own snapshots stand for the beginning. What grows with the history is one comparison and one shallow
  pass.
* That shortcut is taken only where it gives what the long way gives. In doubt the whole history is checked and repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from pixir_sync.protocol.history import CALLS, repair
from pixir_sync.protocol.items import check_history, developer

__all__ = ["Known", "take_in"]

_Item = dict[str, Any]
Known = Sequence[list[_Item]]
"""The inputs that connections hold and that a history may begin with. Each only ever grows, by the turn that it belongs to."""


def take_in(
    history: Any, context: str, known: Known, *, managed: bool, warn: Callable[[str], None], glance: bool = False
) -> tuple[list[_Item], int, list[_Item]]:
    """The items to send: the input of a baseline, how many of its items come first, and the rest.

    Args:
        context: the developer's context, the first item; ``""`` for none.
        managed: the caller owns the context, and its items go as they are.
        warn: told, without any content, what the repair left out.
        glance: what is found is not sent: an input that is the same at both ends passes for the same.

    Raises `InvalidRequest` that names the item and the field.
    """
    lead = [developer(context)] if context else []
    if known and not managed and isinstance(history, (list, tuple)):
        held, count = _longest(lead, history, known, glance)
        if count:
            start = count - len(lead)
            rest = check_history(history[start:], start)
            if glance or (held[count - 1].get("type") not in CALLS and repair(rest, warn=_nobody) is rest):
                return held, count, rest
    items = check_history(history)
    return [], 0, lead + (items if managed else repair(items, warn=warn))


def _longest(lead: list[_Item], history: Sequence[_Item], known: Known, glance: bool) -> tuple[list[_Item], int]:
    """The longest of the known inputs that this one begins with, and its length now; or nothing.

    Plain ``==``: the slow form is the plan's.
    """
    for held in sorted(known, key=len, reverse=True):
        count, before = len(held), len(lead)
        start = count - before
        if not before < count <= before + len(history) or held[:before] != lead:
            continue
        if _same(held[before:] if before else held, history, start, glance):
            return held, count
    return [], 0


def _same(held: list[_Item], history: Sequence[_Item], start: int, glance: bool) -> bool:
    """Whether the first items of a history are these: the one shallow pass, and the one comparison.

    It is of two lists, which is a fifth less work than to take their items by pairs. (That another thread may change the history
    meanwhile costs no more than the match.)
    """
    if glance:
        return [held[0], held[-1]] == [*history[:1], *history[start - 1 : start]]
    return held == list(islice(history, start))


def _nobody(message: str) -> None:
    """The long way warns."""
