"""A history as a server accepts it: repaired, and reduced to what a full input may carry.

Rules kept here:

* Items are the caller's: nothing here changes one. What must differ on the wire is a shallow copy, and a list in which nothing
  differs is the caller's own list.
* A call and its output find each other by call_id: the first output after the call, before another call of that id.
* What is left out is told by its place and kind, never by content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pixir_sync.protocol.errors import InvalidRequest

__all__ = ["CALLS", "OUTPUTS", "check_references", "for_full_input", "repair"]

_Item = dict[str, Any]

CALLS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "local_shell_call": "function_call_output",  # its own kind of output may have no call_id and is left alone
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
}
"""Each kind of call that a client answers, and the kind of its output."""

OUTPUTS = frozenset(CALLS.values())

# The calls for which an output can be made up; those of the others need a shape that only the tool knows.
_TEXT_CALLS = frozenset({"function_call", "custom_tool_call"})
_TEXT_OUTPUTS = frozenset(CALLS[kind] for kind in _TEXT_CALLS)
_PAIRED = OUTPUTS.union(CALLS)
_MISSING_OUTPUT = "No output was recorded for this call."


def repair(items: list[_Item], *, warn: Callable[[str], None]) -> list[_Item]:
    """A history in which every output has its call before it, and every function and custom call one output after it.

    A call without its output gets one that says so, after the last of the calls that stand together. An output that no call
    waits for is left out, and so is a call that stands right with another of the same call_id; ``warn`` is told the place. An
    output of the wrong one of the two kinds goes as its call's kind, since `tool_output` cannot know it. Items with a reference
    among them are left as they are: what it stands for is the server's to know. The same list where nothing changed.
    """
    kinds = {item.get("type") for item in items}
    if "item_reference" in kinds or _PAIRED.isdisjoint(kinds):
        return items
    instead, unanswered = _paired(items)
    missing = {at for at in unanswered if items[at]["type"] in _TEXT_CALLS}
    if not instead and not missing:
        return items
    kept: list[_Item] = []
    owed: list[_Item] = []  # outputs that have to be made up after the calls that stand together
    for at, given in enumerate(items):
        item = instead.get(at, given)
        if item is None:
            what = "a second call of the same call_id" if given["type"] in CALLS else "an output without its call"
            warn(f"history[{at}]: {what} was left out")
            continue
        if owed and given.get("type") not in CALLS:
            kept += owed
            owed = []
        if at in missing:
            owed.append({"type": CALLS[given["type"]], "call_id": given["call_id"], "output": _MISSING_OUTPUT})
        kept.append(item)
    return kept + owed


def _paired(items: list[_Item]) -> tuple[dict[int, _Item | None], list[int]]:
    """What stands at which place instead of the item there (None: nothing), and the places of the calls without an output."""
    instead: dict[int, _Item | None] = {}
    unanswered: list[int] = []
    waiting: dict[Any, int] = {}  # by call_id, the place of the call whose output has not come yet
    together = 0  # where the calls that stand together begin
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind in CALLS:
            earlier = waiting.get(item.get("call_id"))
            if earlier is not None and earlier >= together:
                instead[at] = None
                continue
            if earlier is not None:
                unanswered.append(earlier)
            waiting[item.get("call_id")] = at
            continue
        if kind in OUTPUTS:
            call = waiting.pop(item.get("call_id"), None)
            if call is None:
                instead[at] = None
                continue
            wanted = CALLS[items[call]["type"]]
            if kind != wanted and kind in _TEXT_OUTPUTS and wanted in _TEXT_OUTPUTS:
                instead[at] = {**item, "type": wanted}
        together = at + 1
    return instead, [*unanswered, *waiting.values()]


# The provider's own work that means nothing without the id under which it was stored, and the answer to such an item.
_NEEDS_ID = frozenset({"image_generation_call", "mcp_approval_request", "mcp_approval_response"})


_NOT_SENT = frozenset({"id", "status", "approval_request_id"})  # the last names an item that is left out, see `_NEEDS_ID`
# What looks like an id or a status and is content: the shell's output names its call by `id` where it has no call_id, and
# whether a patch was applied is its output's status.
_KEPT = {"local_shell_call_output": ("id",), "apply_patch_call_output": ("status",)}


def for_full_input(items: list[_Item], *, store: bool, model: str, origin_of: Callable[[str], str | None]) -> list[_Item]:
    """The items as a server accepts them in a full input. Raises `InvalidRequest` for a reference that cannot be resolved.

    With ``store`` they go as they are. Without it nothing was stored under an id: ids and statuses are left out, and so is
    reasoning that has no encrypted content or is known to be another model's; other reasoning goes verbatim.

    Args:
        origin_of: tells which model some encrypted content came from, None where that is not known.
    """
    if store:
        return items
    sent: list[_Item] = []
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "item_reference":
            raise _unresolved(at)
        if kind in _NEEDS_ID or (kind == "reasoning" and not _travels(item, model, origin_of)):
            continue
        if not _NOT_SENT.isdisjoint(item):
            kept = _KEPT.get(kind, ()) if item.get("call_id") is None or kind != "local_shell_call_output" else ()
            item = {name: value for name, value in item.items() if name not in _NOT_SENT or name in kept}
            if item.keys() <= {"type"}:
                continue  # it was nothing but its id
        sent.append(item)
    return sent


def check_references(items: list[_Item], start: int) -> None:
    """Refuse what `for_full_input` would refuse without ``store``. ``start``: the place of the first item."""
    for at, item in enumerate(items, start):
        if item.get("type") == "item_reference":
            raise _unresolved(at)


def _unresolved(at: int) -> InvalidRequest:
    return InvalidRequest(f"input[{at}] is an item_reference, which needs store=True")


def _travels(item: _Item, model: str, origin_of: Callable[[str], str | None]) -> bool:
    content = item.get("encrypted_content")
    return isinstance(content, str) and bool(content) and origin_of(content) in (None, model)
