"""`Body`: a checked request as the transports send it. Pure.

Rules kept here:

* The items are a baseline's own, and then the caller's, repaired. What a server would refuse of them is left out, or refused, on
  the way to the wire.
* What ``on_payload`` gives is checked as a request of the caller's is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.protocol import checks
from pixir_sync.protocol.checks import RESERVED
from pixir_sync.protocol.compare import copied, snapshot
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.history import check_references, for_full_input
from pixir_sync.protocol.items import check_history

__all__ = ["Body", "stores"]


def stores(body: Mapping[str, Any]) -> bool:
    """Whether a second run would have effects of its own: it is kept, or the provider runs some of the tools itself."""
    tools = body.get("tools")
    if body.get("store") or not isinstance(tools, list):
        return bool(body.get("store"))
    return any(tool.get("type") not in ("function", "custom") for tool in tools if isinstance(tool, Mapping))


@dataclass(eq=False, repr=False)
class Body:
    """A checked request, ready to be sent. It is not changed.

    Its input is that of a baseline and what follows; the two are put together only where all of it is needed.

    Attributes:
        fields: everything but the input. rest: the items after those of the baseline; all, where it begins with none.
        parse: makes ``result.parsed`` of the answer's JSON, or None.
        stores: whether a second run would have effects of its own (``store: true``, hosted tools).
        held: the baseline's own list, which may grow. settled: how many items of it come first: known to be right, never changed.
    """

    fields: dict[str, Any]
    rest: list[dict[str, Any]]
    parse: Callable[[Any], Any] | None
    stores: bool
    caller_managed: bool
    held: list[dict[str, Any]] = field(default_factory=list)
    settled: int = 0

    def __repr__(self) -> str:
        return f"<Body fields={len(self.fields)} items={self.count} settled={self.settled}>"

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as the caller gave it, repaired."""
        return self.held[: self.settled] + self.rest if self.settled else self.rest

    @property
    def count(self) -> int:
        """How many items the input has."""
        return self.settled + len(self.rest)

    def after(self, held: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """The items without their beginning, where that is this very list, and how many that leaves out; else all, and 0."""
        if held is self.held and len(held) == self.settled:
            return self.rest, self.settled
        return self.items, 0

    @property
    def payload(self) -> dict[str, Any]:
        """The body before anything is left out for the wire."""
        return self.fields | {"input": self.items}

    def full(self, origin_of: Callable[[str], str | None]) -> dict[str, Any]:
        """The body with the whole input, as the server accepts it. Raises `InvalidRequest` for what it would refuse."""
        return self.payload if self.caller_managed else self.fields | {"input": self.for_wire(self.items, origin_of)}

    def for_wire(self, items: list[dict[str, Any]], origin_of: Callable[[str], str | None]) -> list[dict[str, Any]]:
        """Some of the items as the server accepts them. Raises `InvalidRequest` for what it would refuse."""
        return for_full_input(items, store=bool(self.fields.get("store")), model=self.fields["model"], origin_of=origin_of)

    def check_rest(self) -> None:
        """Raise what `full` would raise, for the items that no baseline holds; the others were sent before."""
        if not self.caller_managed and not self.fields.get("store"):
            check_references(self.rest, self.settled)

    def frozen(self, *, constant: bool = False) -> Body:
        """The body as it is now, whatever the caller does to its objects. Raises RecursionError for what contains itself.

        ``constant``: of its fields none is the caller's object.
        """
        fields, rest = self.fields if constant else copied(self.fields), snapshot(self.rest)
        return Body(fields, rest, self.parse, self.stores, self.caller_managed, self.held, self.settled)

    def replaced(self, payload: Any) -> Body:
        """The body after ``on_payload`` changed or replaced the payload. Raises `InvalidRequest` where it is none any more."""
        if not isinstance(payload, Mapping):
            raise InvalidRequest(f"on_payload must return a mapping or None, not {type(payload).__name__}")
        rest = dict(payload)
        items = check_history(rest.pop("input", None))
        checks.text("on_payload: model", rest.get("model"))
        for name in RESERVED - {"model", "input"}:
            if name in rest:
                raise InvalidRequest(f"on_payload: {name} is set by the library, leave it out")
        managed = rest.get("previous_response_id") is not None or rest.get("conversation") is not None
        return Body(rest, items, self.parse, stores(rest), managed)
