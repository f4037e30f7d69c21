"""Steering: user input that is queued for a response while it runs, and what becomes of it. Pure.

Rules kept here:

* A steer is checked when it comes: it names a response that runs on this connection now, and holds user messages only. What
  is refused is handed back in ``response.steer.failed`` with its input; what is accepted has an id.
* Accepted input is the server's until a successor begins with it, until it fails, or until the connection ends: then it is gone.
* Steer events belong to the lane of the response they name, and take their numbers from its sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_STEERS", "Refused", "Steer", "check_steer", "failure", "items_of", "required_input"]

MOST_STEERS = 8
"""Steers that may wait for one response; the service names no figure."""

_EVENT = {"type", "previous_response_id", "input"}
_MESSAGE = {"type", "role", "content"}
_PARTS = ("input_text", "input_image", "input_file")
_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


@dataclass(frozen=True, slots=True)
class Steer:
    """One accepted submission: its id, the input as it came, the input as items."""

    id: str
    given: Any
    items: list[dict[str, Any]]


class Refused(Exception):
    """A steer is refused: its code, and a message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def check_steer(body: dict[str, Any]) -> None:
    """Raise `Refused` for a steer that is malformed."""
    if stray := sorted(body.keys() - _EVENT):
        raise Refused("invalid_input", f"Unknown parameter: '{stray[0]}'.")
    given = body.get("input")
    if isinstance(given, str) and given:
        return
    if not isinstance(given, list) or not given:
        raise Refused("invalid_input", "Steering input is a text or a list of messages, and not empty.")
    for item in given:
        _check_message(item)


def _check_message(item: Any) -> None:
    if not isinstance(item, dict) or item.get("role") != "user" or item.get("type", "message") != "message":
        raise Refused("invalid_input", "Steering accepts only messages with the user role.")
    if stray := sorted(item.keys() - _MESSAGE):
        raise Refused("invalid_input", f"A steering message has no '{stray[0]}'.")
    content = item.get("content")
    parts = content if isinstance(content, list) else [{"type": "input_text", "text": content}]
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _PARTS or (kind == "input_text" and not isinstance(part.get("text"), str)):
            raise Refused("invalid_input", f"A steering message's content is text or parts of {', '.join(_PARTS)}.")


def items_of(given: Any) -> list[dict[str, Any]]:
    """Checked steering input as items."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [{"type": "message", **item} for item in given]


def failure(refused: Refused, response_id: Any, given: Any, steer_id: str | None = None) -> dict[str, Any]:
    """What ``response.steer.failed`` says: why, and the input, which is the client's again."""
    steer = {"input": given, "previous_response_id": response_id}
    return {
        "steer": steer if steer_id is None else {"id": steer_id, **steer},
        "error": {"type": "invalid_request_error", "code": refused.code, "message": refused.message},
    }


def required_input(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stubs of the outputs that the calls among these items wait for."""
    stubs = []
    for item in items:
        if (kind := _OUTPUTS.get(item["type"])) is not None:
            name = {"name": item["name"]} if kind == "function_call_output" else {}
            stubs.append({"type": kind, "call_id": item["call_id"], **name})
    return stubs
