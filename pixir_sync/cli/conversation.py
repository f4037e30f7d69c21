"""The demo's conversation: what is said, which tools there are, and what each answer must be.

Rules kept here:

* The history is kept here, as any program keeps it: what the user said, ``result.output_items``, the tools' outputs.
* What is expected is worked out from the script alone, never from what came back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pixir_sync.deadline import Deadline
from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.items import tool_output, user
from pixir_sync.protocol.result import FunctionCall, Result
from pixir_sync.protocol.schema import tool_spec
from pixir_sync.provider import Provider

__all__ = ["CALLS", "LOST_AFTER", "SCRIPT", "Conversation", "Turn"]


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"dry and 7 degrees in {city}"


def get_time(city: str) -> str:
    """The local time in a city."""
    return f"half past nine in {city}"


_FUNCTIONS = {"get_weather": get_weather, "get_time": get_time}

SCRIPT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Hello, I plan a journey.", ()),
    ("First I go to the north.", ()),
    ("Please use get_weather for Oslo.", ("get_weather",)),
    ("Good, I take a coat.", ()),
    ("I leave on Monday.", ()),
    ("Use get_time for Oslo.", ("get_time",)),
    ("I call my friend now.", ()),
    ("From there I go west.", ()),
    ("Use get_weather and get_time for Bergen.", ("get_weather", "get_time")),
    ("I take an umbrella too.", ()),
    ("It is seven hours by rail.", ()),
    ("I bring a book to read.", ()),
    ("Use get_weather again.", ("get_weather",)),
    ("I stay for three days.", ()),
    ("Then I fly home.", ()),
    ("Thank you, that is all.", ()),
)
"""What the user says, and the tools that it makes the model call."""

CALLS = len(SCRIPT) + sum(bool(tools) for _, tools in SCRIPT)
"""The model calls of a whole conversation: one for each text, one more where tools answered."""


@dataclass(frozen=True)
class Turn:
    """How one model call ran.

    ``input``: ``delta`` where only what is new was sent, else why it was all of it. ``full_bytes``: what a full replay sends.
    ``problem``: ``""`` if all is well.
    """

    number: int
    what: str
    text: str
    transport: str | None
    input: str
    bytes_sent: int
    full_bytes: int | None
    first_event_ms: float | None
    total_ms: float | None
    problem: str


LOST_AFTER = CALLS // 2
"""After how many calls a conversation that loses its socket does so."""


class Conversation:
    """The conversation while it is held: `turns` so far, `tool_calls` made. ``loses``: its connection is cut in the middle."""

    def __init__(self, provider: Provider, *, exact: bool, limit: float, loses: bool = False) -> None:
        self.turns: list[Turn] = []
        self.tool_calls = 0
        self._provider = provider
        self._exact = exact
        self._deadline = Deadline(limit)
        self._history: list[dict[str, Any]] = []
        self._users = 0
        self._loses = loses

    def run(self) -> Iterator[Turn]:
        """Hold it. Ends early at a call that fails, since nothing after it would be as expected."""
        for text, tools in SCRIPT:
            self._users += 1
            self._history.append(user(text))
            result, turn = self._call(text, f"Heard: {text}", tools)
            yield turn
            if result is None:
                return
            if result.function_calls:
                outputs = self._run_tools(result.function_calls)
                result, turn = self._call("output of " + ", ".join(tools), f"Tool answered: {_quoted(outputs)}", ())
                yield turn
            if result is None:
                return

    def _call(self, what: str, says: str, tools: Sequence[str]) -> tuple[Result | None, Turn]:
        """One model call, checked; its result, None where it failed."""
        wanted = "" if tools else f"{says} (context: {self._users})"
        if self._loses and len(self.turns) == LOST_AFTER:
            self._provider.drop_connections()
        limits = {"total": max(0.001, self._deadline.remaining())}
        stream = self._provider.stream(self._history, session="demo", tools=_TOOLS, timeouts=limits)
        result: Result | None = None
        try:
            with stream:
                streamed = "".join(stream.text_stream)
                result = stream.result()
            problem = self._problem(result, streamed, wanted, tools)
            self._history += result.output_items
        except PixirError as error:
            problem = f"{error.kind}: {error.message}"
        text = result.text if result is not None else ""
        turn = _turn(len(self.turns) + 1, what, text, stream.metadata, problem)
        self.turns.append(turn)
        return result, turn

    def _problem(self, result: Result, streamed: str, wanted: str, tools: Sequence[str]) -> str:
        """What is wrong with an answer; ``""`` if nothing is."""
        called = [call.name for call in result.function_calls]
        if called != list(tools) and (self._exact or tools):
            return f"called {', '.join(called) or 'no tool'} where {', '.join(tools) or 'no tool'} was expected"
        if streamed != result.text:
            return "the text that was streamed is not the text of the result"
        if self._exact and result.text != wanted:
            return f"{result.text!r} where {wanted!r} was expected"
        return "" if result.text or called else "the answer is empty"

    def _run_tools(self, calls: Sequence[FunctionCall]) -> list[str]:
        """Run what the model called and put the outputs into the history; each is unlike any before it."""
        outputs = []
        for call in calls:
            self.tool_calls += 1
            outputs.append(f"reading {self.tool_calls}: {_run(call)}")
            self._history.append(tool_output(call.call_id, outputs[-1]))
        return outputs


_TOOLS = [tool_spec(function) for function in _FUNCTIONS.values()]


def _run(call: FunctionCall) -> str:
    function = _FUNCTIONS.get(call.name)
    city = (call.args or {}).get("city")
    if function is None or not isinstance(city, str):
        return "there is no such tool"
    return function(city)


def _quoted(outputs: Sequence[str]) -> str:
    return ", ".join(f'"{output}"' for output in outputs)


def _turn(number: int, what: str, text: str, metadata: dict[str, Any], problem: str) -> Turn:
    how = "delta" if metadata["used_previous_response_id"] else metadata["continuation_reset_reason"] or "full"
    return Turn(number, what, text, metadata["active_transport"], how, metadata["bytes_sent"], None, metadata["first_event_ms"],
                metadata["total_ms"], problem)  # fmt: skip
