"""What is sent in answer to one request: the model's answer or the scenario's, through the faults that are in place. Pure.

Rules kept here:

* The engine sees everything that is said in its place, so that what a scenario completes can be continued from, and what a
  fault refuses is forgotten.
* Lazy from end to end: nothing is made before the step before it has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pixir_sync.local.answers import Answer
from pixir_sync.local.faults import Exchange
from pixir_sync.local.scenario import given
from pixir_sync.local.state import Connection
from pixir_sync.local.steps import HttpError, Step, events_in

if TYPE_CHECKING:
    from pixir_sync.local.shared import Shared

__all__ = ["play"]


def play(shared: Shared, exchange: Exchange, connection: Connection | None) -> Iterator[Step]:
    """The steps that answer this request. The iterator raises `ApiError` where the engine refuses it."""
    for step in shared.faults.on_answer(_source(shared, exchange, connection), exchange):
        if isinstance(step, HttpError):
            shared.engine.observe(exchange.body, connection, step.frame())
        for event in events_in(step):
            if event.get("type") in ("error", "response.failed"):
                shared.engine.observe(exchange.body, connection, event)
        yield step


def _source(shared: Shared, exchange: Exchange, connection: Connection | None) -> Iterator[Step]:
    engine, body = shared.engine, exchange.body
    steps = given(shared.scenario, body) if shared.scenario is not None else None
    if steps is None:
        yield from engine.respond(body, connection)
        return
    for step in steps:
        if isinstance(step, Answer):
            yield from engine.respond(body, connection, step)
        else:
            for event in events_in(step):
                engine.observe(body, connection, event)
            yield step
