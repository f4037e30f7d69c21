"""What both sides of the soak know: the right answer to a turn, and what may be made to go wrong with one.

Rules kept here:

* The right answer follows from the whole context, by a digest: a wrong delta, a lost item or another conversation's context gives
  another text.
* A fate is asked for by the turn itself, in its metadata, so that the same seed gives the same fates whatever the threads do.
  Each fate has the list of the ends that it may lead to; another end is a defect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local import faults
from pixir_sync.local.faults import Fault

__all__ = ["FATES", "KEY", "SENTINEL", "TOOL", "Fate", "answer_to", "digest", "users"]

Json = dict[str, Any]

SENTINEL = "sOaK"
"""Stands in every prompt, and so in every answer: what no log line may hold."""
KEY = "sk-sOaK-secret"
TOOL: Json = {
    "type": "function", "name": "look_up", "description": "Looks up.", "strict": False,
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
}  # fmt: skip


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _said(items: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    said = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                said.append(["message", item["role"], _text(item["content"])])
            case "function_call":
                said.append(["call", item["name"], json.dumps(json.loads(item["arguments"]), sort_keys=True)])
            case "function_call_output":
                said.append(["output", _text(item["output"])])
    return said


def digest(items: Iterable[Mapping[str, Any]]) -> str:
    """What a context says, in twelve characters: messages, calls and outputs, in their order."""
    return hashlib.sha256(json.dumps(_said(items)).encode()).hexdigest()[:12]


def users(items: Iterable[Mapping[str, Any]]) -> int:
    """The user messages of a context."""
    return sum(item.get("role") == "user" for item in items)


def answer_to(items: list[Json]) -> str:
    """The one right answer to this whole input, which ends with a user message or with a tool's output."""
    last = items[-1]
    said = f'Tool answered: "{last["output"]}"' if "output" in last else f"Heard: {_text(last['content'])}"
    return f"{said} (context: {users(items)}) #{digest(items)}"


@dataclass(frozen=True)
class Fate:
    """What goes wrong with an answer, and the kinds of error that it may end with; a `Result` may always come, if it is right.

    ``patient``: the turn has to have a limit or a cancel of its own, else it takes as long as the idle limit.
    """

    fault: Callable[[], Fault]
    kinds: frozenset[str] = field(default_factory=frozenset)
    patient: bool = False


def _fate(fault: Callable[[], Fault], *kinds: str, patient: bool = False) -> Fate:
    return Fate(fault, frozenset(kinds), patient)


_LOST, _FAILED = "connection_lost", ("response_failed", "provider_http_error")
_EXTRA = ({"type": "keepalive"}, {"type": "codex.rate_limits", "x": 1}, {"type": "response.news", "delta": "no text"})

FATES: dict[str, Fate] = {
    "drop 0": _fate(lambda: faults.Drop(0), _LOST),
    "drop 0 reset": _fate(lambda: faults.Drop(0, reset=True), _LOST),
    "drop 1 close": _fate(lambda: faults.Drop(1, code=1001), _LOST),
    "drop 2": _fate(lambda: faults.Drop(2), _LOST),
    "drop 3 reset": _fate(lambda: faults.Drop(3, reset=True), _LOST),
    "drop 6": _fate(lambda: faults.Drop(6), _LOST),
    "drop 6 close": _fate(lambda: faults.Drop(6, code=1011), _LOST),
    "drop 7 reset": _fate(lambda: faults.Drop(7, reset=True), _LOST),
    "stall 0": _fate(lambda: faults.Stall(0), "first_event_timeout", "idle_timeout", "total_timeout", patient=True),
    "stall 5": _fate(lambda: faults.Stall(5), "idle_timeout", "total_timeout", patient=True),
    "garbage": _fate(lambda: faults.Garbage(4)),
    "binary": _fate(lambda: faults.BinaryFrame(4), _LOST),
    "delays": _fate(lambda: faults.Delays(0.05)),
    "slow bytes": _fate(lambda: faults.SlowBytes(0.001, 60)),
    "age": _fate(faults.AgeLimit, *_FAILED),
    "output omitted": _fate(lambda: faults.Ending(output="omitted")),
    "output null": _fate(lambda: faults.Ending(output="null")),
    "output empty": _fate(lambda: faults.Ending(output="empty")),
    "incomplete": _fate(lambda: faults.Ending(status="incomplete")),
    "no set-up": _fate(faults.WithoutSetUp),
    "no indexes": _fate(faults.WithoutIndexes),
    "done marker": _fate(faults.DoneMarker),
    "extra": _fate(lambda: faults.Extra(*_EXTRA, after=3)),
    "refuse nested": _fate(lambda: faults.Refuse(500, "server_error"), *_FAILED),
    "refuse flat": _fate(lambda: faults.Refuse(500, "server_error", shape="flat", after=1), *_FAILED),
    "refuse failed": _fate(lambda: faults.Refuse(None, "server_error", shape="failed", after=5), *_FAILED),
    "refuse twice": _fate(lambda: faults.Refuse(None, "server_error", shape="error_then_failed", after=2), *_FAILED),
    "refuse string": _fate(lambda: faults.Refuse(500, None, shape="string"), *_FAILED),
    "refuse bare": _fate(lambda: faults.Refuse(500, None, shape="bare"), *_FAILED),
    "refuse detail": _fate(lambda: faults.Refuse(400, None, shape="detail"), *_FAILED),
    "refuse text": _fate(lambda: faults.Refuse(502, None, shape="text"), *_FAILED),
    "limited": _fate(
        lambda: faults.Refuse(429, "rate_limit_exceeded", "Wait.", headers={"retry-after": "0.05"}), "rate_limited"),
    "overloaded": _fate(lambda: faults.Refuse(503, "server_is_overloaded"), "overloaded"),
    "forbidden": _fate(lambda: faults.Refuse(400, "invalid_prompt"), *_FAILED),
    "not found": _fate(
        lambda: faults.Refuse(400, "previous_response_not_found", "Previous response not found."), *_FAILED),
    "too long": _fate(lambda: faults.Refuse(400, "context_length_exceeded"), "context_overflow"),
}  # fmt: skip
"""By name; a turn's metadata says which one, and for how many of its attempts."""
