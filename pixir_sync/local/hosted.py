"""Hosted tools: what each kind's item has, and which events say that it works.

Rules kept here:

* One table. A kind that is not in it is announced and done, with no event between.
* Of ``output_item.added`` the fields are what is known before the work; the done item has the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.local.answers import HostedCall
from pixir_sync.local.model import pieces
from pixir_sync.local.output import Event, Output

__all__ = ["write_hosted"]

Json = dict[str, Any]
Work = Callable[[Output, Json, Json], Iterator[Event]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind: the prefix of its ids, the fields that it needs, those that are not known before its work, and its events.

    An event is a stage, which has no content and is named behind the item's type, or a function that writes some. ``status``:
    with which the item begins, None where it has none. ``call_id``: whether it has one of its own.
    """

    prefix: str
    needs: Mapping[str, Any] = field(default_factory=dict)
    early: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[str | Work, ...] = ()
    status: str | None = "in_progress"
    call_id: bool = False


def write_hosted(part: HostedCall, output: Output) -> Iterator[Event]:
    """The events of one hosted call."""
    kind = _KINDS.get(part.type, _OTHER)
    item: Json = {"id": output.make_id(kind.prefix), "type": part.type}
    if kind.call_id:
        item["call_id"] = output.make_id("call")
    item |= {**kind.needs, **part.fields}
    added, place = output.added({**item, **kind.early, **({"status": kind.status} if kind.status else {})})
    yield added
    ending = part.fields.get("status", "completed")
    for event in kind.events:
        if callable(event):
            yield from event(output, item, place)
        else:
            stage = "failed" if event == "completed" and ending == "failed" else event
            yield output.event(f"{part.type}.{stage}", **place)
    yield output.done(item | ({"status": ending} if kind.status else {}))


def _code(output: Output, item: Json, place: Json) -> Iterator[Event]:
    for piece in pieces(item["code"] or ""):
        yield output.event("code_interpreter_call_code.delta", **place, delta=piece)
    yield output.event("code_interpreter_call_code.done", **place, code=item["code"] or "")


def _image(output: Output, item: Json, place: Json) -> Iterator[Event]:
    yield output.event(
        "image_generation_call.partial_image", **place, partial_image_index=0, partial_image_b64=item["result"]
    )


def _mcp(output: Output, item: Json, place: Json) -> Iterator[Event]:
    for piece in pieces(item["arguments"], 12):
        yield output.event("mcp_call_arguments.delta", **place, delta=piece)
    yield output.event("mcp_call_arguments.done", **place, arguments=item["arguments"])


def _shell(output: Output, item: Json, place: Json) -> Iterator[Event]:
    for index, command in enumerate(item["action"]["commands"]):
        at = {"output_index": place["output_index"], "command_index": index}
        yield output.event("shell_call_command.added", **at, command="")
        for piece in pieces(command):
            yield output.event("shell_call_command.delta", **at, delta=piece)
        yield output.event("shell_call_command.done", **at, command=command)


_PIXEL = (  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
_SEARCH = {"type": "search", "query": "weather", "queries": ["weather"]}
_SEARCHES = ("in_progress", "searching", "completed")
_RESULT = {"stdout": "", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
_OTHER = _Kind("item", events=(), status=None)
_KINDS: dict[str, _Kind] = {
    "web_search_call": _Kind("ws", {"action": _SEARCH}, events=_SEARCHES),
    "file_search_call": _Kind("fs", {"queries": ["weather"], "results": None}, events=_SEARCHES),
    "code_interpreter_call": _Kind(
        "ci",
        {"code": "print(1 + 1)", "container_id": "cntr_1", "outputs": None},
        early={"code": ""},
        events=("in_progress", _code, "interpreting", "completed"),
    ),
    "image_generation_call": _Kind(
        "ig", {"result": _PIXEL}, early={"result": None}, events=("in_progress", "generating", _image, "completed")
    ),
    "mcp_call": _Kind(
        "mcp",
        {"name": "lookup", "server_label": "local", "arguments": "{}", "output": "found"},
        early={"arguments": "", "output": None},
        events=("in_progress", _mcp, "completed"),
    ),
    "mcp_list_tools": _Kind(
        "mcpl", {"server_label": "local", "tools": []}, early={"tools": []}, events=("in_progress", "completed"), status=None
    ),
    "mcp_approval_request": _Kind("mcpr", {"name": "lookup", "server_label": "local", "arguments": "{}"}, status=None),
    "mcp_approval_response": _Kind("mcpa", {"approval_request_id": "mcpr_1", "approve": True}, status=None),
    "shell_call": _Kind(
        "sh", {"action": {"commands": ["ls"]}}, early={"action": {"commands": []}}, events=(_shell,), call_id=True
    ),
    "shell_call_output": _Kind("sho", {"output": [_RESULT]}, call_id=True),
    "local_shell_call": _Kind("lsh", {"action": {"type": "exec", "command": ["ls"], "env": {}}}, call_id=True),
    "local_shell_call_output": _Kind("lsho", {"output": ""}, call_id=True),
    "computer_call": _Kind("cu", {"action": {"type": "screenshot"}, "pending_safety_checks": []}, call_id=True),
    "computer_call_output": _Kind("cuo", {"output": {"type": "computer_screenshot"}}, call_id=True),
    "apply_patch_call": _Kind("apc", {"operation": {"type": "delete_file", "path": "a.txt"}}, call_id=True),
    "apply_patch_call_output": _Kind("apco", {"output": ""}, status="completed", call_id=True),
    "tool_search_call": _Kind("tsc", {"arguments": {}, "execution": "server", "call_id": None}),
    "tool_search_output": _Kind("tso", {"execution": "server", "tools": [], "call_id": None}),
    "program": _Kind("prg", {"code": "1", "fingerprint": "fp"}, status=None, call_id=True),
    "program_output": _Kind("prgo", {"result": "1"}, status="completed", call_id=True),
}
