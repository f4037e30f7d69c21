"""A model of what a server holds: the referee of the continuation laws. It knows nothing of the planner."""

from __future__ import annotations

from typing import Any

from pixir_sync.protocol.codec import loads

Item = dict[str, Any]


def meaning(item: Item) -> Any:
    """What an item says to a model, however a client stored it."""
    kind = item.get("type", "message")
    if kind == "message":
        content = item["content"]
        if isinstance(content, str):
            return kind, item["role"], (content,)
        return kind, item["role"], tuple(part.get("text", part.get("refusal")) for part in content)
    if kind == "function_call":
        return kind, item["call_id"], item["name"], repr(sorted(loads(item["arguments"]).items()))
    if kind == "function_call_output":
        return kind, item["call_id"], item["output"]
    return kind, item.get("encrypted_content")


class Server:
    """One lane: keeps its latest context, takes full inputs and deltas."""

    def __init__(self) -> None:
        self.context: list[Item] = []
        self.response_id: str | None = None

    def take(self, items: list[Item], previous: str | None, output: list[Item], response_id: str) -> list[Item]:
        """The context that the model sees for this turn; then it answers with `output`."""
        if previous is not None:
            assert previous == self.response_id, "a delta on a response that is not the latest"
            seen = self.context + items
        else:
            seen = list(items)
        self.context = seen + output
        self.response_id = response_id
        return seen


def canonical(items: list[Item], made_in: dict[Any, int]) -> list[Any]:
    """A context as the model understands it; `made_in` tells which turn's answer an item, or the output of its call, belongs to.

    Reasoning is left out (a caller may not have it). Within one answer and the outputs of its own calls the outputs go last, in
    their order: the legal orders (call, output, call, output and call, call, output, output) say the same. Nothing else moves.
    """
    said: list[Any] = []
    outputs: list[Any] = []
    present: int | None = None
    for item in items:
        if item.get("type") == "reasoning":
            continue
        is_output = item.get("type") == "function_call_output"
        turn = made_in.get(item["call_id"] if is_output else meaning(item))
        if turn is None or turn != present:
            said += outputs
            outputs, present = [], turn
        (outputs if is_output else said).append(meaning(item))
    return said + outputs
