"""Holds what the local server sends against the official SDK's own types.

The SDK reads leniently: it builds its objects without a check, and a wrong field only shows where a program uses it. Here every
byte is validated by pydantic, strictly, and a field that the SDK's type does not have counts as a mismatch too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from openai.types.responses.response_stream_event import ResponseStreamEvent
from openai.types.responses.responses_server_event import ResponsesServerEvent
from pydantic import BaseModel, ValidationError

__all__ = ["HTTP_EVENTS", "WEBSOCKET_EVENTS", "Models", "event_mismatches", "mismatches"]

Models = dict[str, type[BaseModel]]


_BEYOND = {("Response", "store"), ("ResponseCustomToolCall", "status")}
"""What the service sends though the SDK's types do not have it, as the service's own documentation shows."""


def _by_type(union: Any) -> Models:
    """The models of a union by the ``type`` that they stand for."""
    members = get_args(get_args(union)[0])
    return {name: model for model in members for name in get_args(model.model_fields["type"].annotation)}


HTTP_EVENTS = _by_type(ResponseStreamEvent)
WEBSOCKET_EVENTS = _by_type(ResponsesServerEvent)


def _telling(errors: Iterable[Any]) -> Iterator[str]:
    """Of a union's errors only those of the member that the data's ``type`` (and ``role``) names, if there is one."""
    errors = list(errors)
    wrong = {error["loc"][:-1] for error in errors if error["loc"][-1] in ("type", "role") and error["type"] == "literal_error"}
    told = [error for error in errors if not any(error["loc"][: len(place)] == place for place in wrong if place)]
    for error in told or errors:
        yield f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']} (it is {error['input']!r:.80})"


def _unknown(value: Any, path: str) -> Iterator[str]:
    """The fields that no type has."""
    if isinstance(value, BaseModel):
        kind = type(value).__name__
        for name in value.model_extra or ():
            if (kind, name) not in _BEYOND:
                yield f"{path}.{name}: no such field in {kind}"
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _unknown(one, f"{path}[{index}]")


def mismatches(model: type[BaseModel], data: bytes) -> list[str]:
    """What is wrong with this JSON as a ``model``; an empty list where nothing is."""
    try:
        value = model.model_validate_json(data, strict=True)
    except ValidationError as error:
        return list(_telling(error.errors(include_url=False)))
    return list(_unknown(value, model.__name__))


def event_mismatches(models: Models, data: bytes) -> list[str]:
    """What is wrong with this event, each fault with the event's type."""
    kind = json.loads(data).get("type")
    if kind not in models:
        return [f"{kind}: no such event"]
    return [f"{kind}: {fault}" for fault in mismatches(models[kind], data)]
