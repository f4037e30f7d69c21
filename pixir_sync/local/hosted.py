"""Hosted tools: what each kind's item has, and which events say that it works.

Rules kept here:

* One table. A kind that is not in it is announced and done, with ``in_progress`` and ``completed`` between.
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
    """One kind: the prefix of its ids, the fields that it needs, those that are only known at the end, and its events.

    ``stages`` are events without content, named behind the item's type; ``work`` writes what stands between the first and the
    second of them. ``status``: whether the item has one.
    """

    prefix: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    late: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("in_progress", "completed")
    work: Work | None = None
    status: bool = True
    events: str | None = None


def write_hosted(part: HostedCall, output: Output) -> Iterator[Event]:
    """The events of one hosted call."""
    kind = _KINDS.get(part.type, _OTHER)
    item: Json = {"id": output.make_id(kind.prefix), "type": part.type}
    if kind.status:
        item["status"] = "in_progress"
    if "call_id" in kind.defaults:
        item["call_id"] = output.make_id("call")
    item |= {**{name: value for name, value in kind.defaults.items() if name != "call_id"}, **part.fields}
    added, place = output.added({**item, **kind.late})
    yield added
    family = kind.events or part.type
    for number, stage in enumerate(kind.stages):
        if number == len(kind.stages) - 1 and part.fields.get("status") == "failed":
            stage = "failed"
        yield output.event(f"{family}.{stage}", **place)
        if number == 0 and kind.work is not None:
            yield from kind.work(output, item, place)
    if kind.work is not None and not kind.stages:
        yield from kind.work(output, item, place)
    yield output.done(item | ({"status": part.fields.get("status", "completed")} if kind.status else {}))


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
_OTHER = _Kind("item")
_KINDS: dict[str, _Kind] = {
    "web_search_call": _Kind("ws", {"action": _SEARCH}, stages=("in_progress", "searching", "completed")),
    "file_search_call": _Kind(
        "fs", {"queries": ["weather"], "results": None}, stages=("in_progress", "searching", "completed")
    ),
    "code_interpreter_call": _Kind(
        "ci",
        {"code": "print(1 + 1)", "container_id": "cntr_1", "outputs": None},
        late={"code": ""},
        stages=("in_progress", "interpreting", "completed"),
        work=_code,
    ),
    "image_generation_call": _Kind(
        "ig", {"result": _PIXEL}, late={"result": None}, stages=("in_progress", "generating", "completed"), work=_image
    ),
    "mcp_call": _Kind(
        "mcp",
        {"name": "lookup", "server_label": "local", "arguments": "{}", "output": "found"},
        late={"arguments": "", "output": None},
        work=_mcp,
    ),
    "mcp_list_tools": _Kind("mcpl", {"server_label": "local", "tools": []}, late={"tools": []}, status=False),
    "shell_call": _Kind(
        "sh", {"call_id": None, "action": {"commands": ["ls"]}}, late={"action": {"commands": []}}, stages=(), work=_shell
    ),
}
