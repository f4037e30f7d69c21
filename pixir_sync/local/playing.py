"""What is sent in answer to one request: the model's answer or the scenario's, through the faults that are in place. Pure.

Rules kept here:

* The engine sees everything that is said in its place, so that what a scenario completes can be continued from, and what a
  fault refuses is forgotten.
* Lazy from end to end: nothing is made before the step before it has left.
* What a scenario or a fault raises is an `Exception` that is no ConnectionError, or becomes one that is chained to it. To the
  front a ConnectionError says that the client has gone, and what is no `Exception` (``pytest.fail``, ``sys.exit``) would be lost.
* What a scenario or a fault gives that is no step raises TypeError: a client would wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args, get_origin

from pixir_sync.local.answers import Answer
from pixir_sync.local.faults import Exchange
from pixir_sync.local.scenario import given
from pixir_sync.local.state import Connection
from pixir_sync.local.steps import HttpError, Step, events_in

if TYPE_CHECKING:
    from pixir_sync.local.shared import Shared

__all__ = ["play"]

_PLAYED = tuple(get_origin(kind) or kind for kind in get_args(Step) if kind is not Answer)


def play(shared: Shared, exchange: Exchange, connection: Connection | None) -> Iterator[Step]:
    """The steps that answer this request. The iterator raises `ApiError` where the engine refuses it."""
    try:
        yield from _played(shared, exchange, connection)
    except (GeneratorExit, Exception) as error:
        if isinstance(error, ConnectionError):
            raise _failed(error) from error
        raise
    except BaseException as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> RuntimeError:
    return RuntimeError(f"a scenario or a fault raised {type(error).__name__}: {error}")


def _played(shared: Shared, exchange: Exchange, connection: Connection | None) -> Iterator[Step]:
    for step in shared.faults.on_answer(_source(shared, exchange, connection), exchange):
        if not isinstance(step, _PLAYED):
            raise TypeError(f"{type(step).__name__} is no step: a scenario gives a text, an Answer, a list of steps, or None")
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
