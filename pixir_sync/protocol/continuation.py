"""Continuation: whether a turn can be sent as a delta on the server's last response, and what the delta is. Pure.

Rules kept here:

* A delta is sent only if the server's context after it is what a full replay would give. Where that is in doubt the answer is
  `Full` with the reason; it costs time, never the truth.
* The new input must begin with the last one. In what follows, the items that the server put out must stand once each and in
  their order; outputs of tools may stand between them, after their call. They are taken out; the rest is the delta.
* Reasoning may be absent (many callers store only text), unless the match must be strict; hosted items may not.
* Every field of a body has a decision in `FIELD_RULES`; one that has none breaks the continuation.
* A baseline holds snapshots, extended turn by turn and never copied again: what grows with the history is one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pixir_sync.protocol.compare import kept, same_item

__all__ = ["FIELD_RULES", "Baseline", "Delta", "Draft", "FieldRule", "Full", "ResetReason", "begins_with", "plan"]

_Item = dict[str, Any]
Mode = Literal["auto", "exact", "off"]
ResetReason = Literal[
    "continuation_off", "caller_managed", "no_previous_response", "model_changed", "request_changed", "prefix_mismatch",
    "output_mismatch", "empty_delta",
]  # fmt: skip


class FieldRule(Enum):
    """What a change of a field does to a continuation."""

    HARMLESS = "harmless"  # the server does not inherit it; it is sent every turn
    BREAKING = "breaking"
    CALLER = "caller"  # the caller owns the context: there is no plan at all
    INPUT = "input"  # what the plan is about


_HARMLESS = frozenset({
    "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "max_output_tokens", "temperature", "top_p",
    "top_logprobs", "reasoning", "text", "include", "metadata", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "service_tier", "stream_options", "moderation", "generate",
})  # fmt: skip
_BREAKING = ("model", "store", "truncation", "context_management", "prompt", "user", "safety_identifier")

FIELD_RULES: Mapping[str, FieldRule] = {
    **dict.fromkeys(_HARMLESS, FieldRule.HARMLESS),
    **dict.fromkeys(_BREAKING, FieldRule.BREAKING),
    "previous_response_id": FieldRule.CALLER,
    "conversation": FieldRule.CALLER,
    "input": FieldRule.INPUT,
}
"""The decision for each field of a request body."""

_CALLERS = tuple(name for name, rule in FIELD_RULES.items() if rule is FieldRule.CALLER)
_NEVER_COUNTS = frozenset({"metadata", "generate"})  # the latter is our own: what makes a turn a warm-up
_ABSENT = object()
_NO_PHASES: Mapping[int, str] = MappingProxyType({})


class Full(NamedTuple):
    """Send the whole input; `reason` says why."""

    reason: ResetReason


class Delta(NamedTuple):
    """Send only `input`, on `previous_response_id`. `matched` is how many items of the new input were the last input.

    `phases` has the phase, by its place in the new input, of each message of the server's that the caller keeps without one.
    """

    input: list[_Item]
    previous_response_id: str
    matched: int
    phases: Mapping[int, str] = _NO_PHASES

    def __repr__(self) -> str:
        return f"<Delta items={len(self.input)} matched={self.matched}>"


class Baseline:
    """What a connection (a lane) holds on the server's side: the last input and what the server put out after it.

    Attributes:
        response_id: the last response. input, output: snapshots. fields: the other fields that it was sent with.
        phases: by place in the input, the phases that the server holds and the caller's copy lacks. A missing phase equals
            every phase, so that without these a caller could change one in two steps.
    """

    __slots__ = ("fields", "input", "output", "phases", "response_id")

    def __init__(
        self,
        response_id: str,
        input: list[_Item],
        output: list[_Item],
        fields: Mapping[str, Any],
        phases: Mapping[int, str] | None = None,
    ) -> None:
        self.phases = phases or _NO_PHASES
        self.response_id = response_id
        self.input = input
        self.output = output
        self.fields = fields

    def __repr__(self) -> str:
        return f"<Baseline {self.response_id} input={len(self.input)} output={len(self.output)}>"


class Draft:
    """A turn as it was sent, before it is known how it ends: what the baseline lacks of it.

    What it is given is kept and never changed: snapshots (`Body.frozen`), so that what the caller does to its history while the
    answer comes has no effect. `commit` on a completed response; on any other end the draft, and the baseline that it was made
    from, are dropped.
    """

    __slots__ = ("_base", "_fields", "_phases", "_tail")

    def __init__(
        self, fields: Mapping[str, Any], items: list[_Item], base: Baseline | None, chosen: Full | Delta, *, matched: int = 0
    ) -> None:
        """``matched``: as for `plan`; nothing may be left out of a turn that is sent in full."""
        self._base = base if isinstance(chosen, Delta) else None
        self._tail = items[chosen.matched - matched :] if isinstance(chosen, Delta) else items[:]
        self._fields = fields
        self._phases = chosen.phases if isinstance(chosen, Delta) else _NO_PHASES

    def commit(self, response_id: str, output: list[_Item]) -> Baseline:
        """The baseline of the next turn. The one that this draft was made from is used up."""
        if self._base is None:
            held = self._tail
        else:
            held = self._base.input
            held += self._tail
            if self._phases:
                self._phases = {**self._base.phases, **self._phases}
            else:
                self._phases = self._base.phases
        return Baseline(response_id, held, kept(output), self._fields, self._phases)


def begins_with(items: list[_Item], baseline: Baseline) -> int:
    """How many items of this input the baseline holds as its last input: all of them, or 0. For choosing among baselines."""
    held = baseline.input
    count = len(held)
    if len(items) < count:
        return 0
    begins = items[:count] == held or all(a == b or same_item(a, b) for a, b in zip(held, items, strict=False))
    if begins and baseline.phases:
        begins = all(items[at].get("phase") in (None, phase) for at, phase in baseline.phases.items())
    return count if begins else 0


def plan(
    fields: Mapping[str, Any],
    items: list[_Item],
    baseline: Baseline | None,
    mode: Mode = "auto",
    *,
    require_reasoning: bool = False,
    matched: int = 0,
) -> Full | Delta:
    """How to send a turn.

    Args:
        fields: the body without its input. items: the input as the caller gave it, repaired.
        baseline: what the connection holds, None for a fresh one.
        mode: ``auto`` (the table decides), ``exact`` (any field but metadata that changed breaks), ``off`` (never a delta).
        matched: how many items were left out before these, because they are known to be the baseline's last input.
        require_reasoning: the server's reasoning must stand in the input, too: for a match without a session's name.
    """
    if mode == "off":
        return Full("continuation_off")
    if any(fields.get(name) is not None for name in _CALLERS):
        return Full("caller_managed")
    if baseline is None:
        return Full("no_previous_response")
    changed = _changed(fields, baseline.fields, exact=mode == "exact")
    if changed is not None:
        return Full("model_changed" if changed == "model" else "request_changed")
    count = matched or begins_with(items, baseline)
    if count < len(baseline.input):
        return Full("prefix_mismatch")
    phases: dict[int, str] = {}
    delta = _without_output(items[count - matched :], count, baseline.output, require_reasoning, phases)
    if delta is None:
        return Full("output_mismatch")
    return Delta(delta, baseline.response_id, count, phases) if delta else Full("empty_delta")


def _changed(now: Mapping[str, Any], then: Mapping[str, Any], *, exact: bool) -> str | None:
    """A field whose change breaks the continuation; the model before all others."""
    counting = (now.keys() | then.keys()) - (_NEVER_COUNTS if exact else _HARMLESS)
    changed = [name for name in counting if now.get(name, _ABSENT) != then.get(name, _ABSENT)]
    return "model" if "model" in changed else changed[0] if changed else None


def _without_output(
    items: list[_Item], start: int, output: list[_Item], strict: bool, phases: dict[int, str]
) -> list[_Item] | None:
    """The items, which stand from `start` on, without the server's own; None where they are not what the server put out.

    The phases that only the server's copies have go into `phases`.
    """
    delta: list[_Item] = []
    answered: set[Any] = set()  # the calls that came so far, and None for what is no call
    due = 0  # the next item of the server's
    for place, item in enumerate(items, start):
        at = due if due == len(output) else _match(output, due, item, strict)
        if at < len(output):
            answered.add(item.get("call_id"))
            if output[at].get("phase") is not None and item.get("phase") is None:
                phases[place] = output[at]["phase"]
            due = at + 1
        elif due < len(output) and _is_tool_output(item) and item.get("call_id") in answered - {None}:
            delta.append(item)
        elif _optional(output, due, strict) and _is_input(item):
            due = len(output)
            delta.append(item)
        else:
            return None
    return delta if _optional(output, due, strict) else None


def _match(output: list[_Item], due: int, item: _Item, strict: bool) -> int:
    """Where among the items that are due this one stands, over reasoning that may be absent; the length where it does not."""
    for at in range(due, len(output)):
        theirs = output[at]
        if theirs == item or same_item(theirs, item):
            return at
        if strict or theirs.get("type") != "reasoning":
            break
    return len(output)


def _optional(output: list[_Item], due: int, strict: bool) -> bool:
    """Whether everything that is still due may be absent."""
    return due == len(output) or (not strict and all(item.get("type") == "reasoning" for item in output[due:]))


def _is_tool_output(item: _Item) -> bool:
    return str(item.get("type", "message")).endswith("_output")


def _is_input(item: _Item) -> bool:
    """Whether an item can only come from the caller: anything else there would be an answer that the server never gave."""
    kind = item.get("type", "message")
    if kind == "message":
        return item.get("role") != "assistant"
    return kind in ("item_reference", "mcp_approval_response") or _is_tool_output(item)
