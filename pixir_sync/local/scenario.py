"""Scenarios: what a test makes the server say instead of the model's answer.

Rules kept here:

* A scenario is called with each request's body, on the server's event loop: it never blocks. To wait, it gives a `Pause`.
* None is the model's own answer. An `Answer` is written by the server, with ids, order, usage and state as they are to be;
  steps are sent as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pixir_sync.local.answers import Answer
from pixir_sync.local.steps import Step

__all__ = ["Reply", "Scenario", "Script", "begun", "given"]

Body = dict[str, Any]

Reply = str | Answer | Iterable[Step] | None
"""What a scenario gives: a message's text, an answer, steps, or None, for the model."""

Scenario = Callable[[Body], Reply] | str | Answer
"""A function of the request's body; or a text or an `Answer`, for every request the same."""


class Script:
    """A scenario for a known order: the n-th request gets the n-th reply, those after the last one the model.

    A reply is what a scenario may give, or a scenario itself. Only requests for a response count.
    """

    def __init__(self, *replies: Scenario | Iterable[Step] | None) -> None:
        self._replies = replies
        self._left: Iterator[Scenario | Iterable[Step] | None] = iter(replies)

    def anew(self) -> Script:
        """The same script from its beginning: each server that is given one plays all of it."""
        return Script(*self._replies)

    def __call__(self, body: Body) -> Reply:
        """The next reply."""
        reply = next(self._left, None)
        return reply(body) if callable(reply) else reply


def begun(scenario: Scenario | None) -> Scenario | None:
    """The scenario as a server plays it: a script from its beginning, whoever else was given it."""
    return scenario.anew() if isinstance(scenario, Script) else scenario


def given(scenario: Scenario | None, body: Body) -> Iterable[Step] | None:
    """The steps that the scenario gives for this request; None where the model answers."""
    reply = scenario(body) if callable(scenario) else scenario
    if isinstance(reply, str):
        return [Answer(reply)]
    return [reply] if isinstance(reply, Answer) else reply
