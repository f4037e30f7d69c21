"""The law of continuation, over a real WebSocket: whatever is edited, the server sees what a full replay would show it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixir_sync import PixirError, Provider, Result, tool_output, user
from pixir_sync.local import LocalServer
from tests.protocol.context_model import canonical, meaning
from tests.protocol.test_continuation import edited, stored

Json = dict[str, Any]
TOOLS = [{"type": "function", "name": name, "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
         for name in ("look", "find")]  # fmt: skip
TEXTS = st.sampled_from(["one", "two", "please look", "look and find", "find, then look"])
FIELDS = st.fixed_dictionaries({
    "reasoning_effort": st.sampled_from([None, None, "low"]), "model": st.sampled_from(["m"] * 8 + ["n"]),
    "system_prompt": st.sampled_from([None, "be brief"]), "extra_body": st.sampled_from([{}] * 8 + [{"truncation": "auto"}]),
})  # fmt: skip
ACCIDENTS = st.sampled_from(["none"] * 9 + ["cut", "release"])


class World:
    """A local server, a provider that continues on its WebSocket, and one that sends everything over HTTP.

    Attributes: ``contexts`` (by response id, what the server holds after it, put together from the frames that it got).
    """

    def __init__(self, server: LocalServer, stack: ExitStack) -> None:
        self.server = server
        self.contexts: dict[str, list[Json]] = {}
        self.deltas = self.turns = 0
        options: Json = {"base_url": server.base_url, "api_key": server.api_key, "model": "m", "retry": 0}
        self._socket = stack.enter_context(Provider(transport="websocket", **options))
        self._replay = stack.enter_context(Provider(transport="http_sse", **options))
        assert self._socket._engine is not None and self._replay._engine is not None
        self._replay._engine.origins = self._socket._engine.origins  # which model some reasoning came from decides what is sent

    def turn(self, history: list[Any], **options: Any) -> tuple[Result | PixirError, Result | PixirError]:
        """The same turn on the session's socket and as a full replay."""
        session = options.pop("session")
        return self._outcome(self._socket, history, session=session, **options), self._outcome(self._replay, history, **options)

    @staticmethod
    def _outcome(provider: Provider, history: list[Any], **options: Any) -> Result | PixirError:
        try:
            return provider.complete(history, tools=TOOLS, **options)
        except PixirError as error:
            return error

    def frames(self) -> list[Json]:
        return [request.body for request in self.server.requests if request.transport == "websocket"]

    def seen(self, create: Json) -> list[Json]:
        """The context of a frame's turn: what the server held after the response that it goes on from, and the frame's input."""
        previous = create.get("previous_response_id")
        return [*(self.contexts[previous] if previous is not None else []), *create["input"]]

    def release(self, session: str) -> None:
        self._socket.release(session)

    def preview(self, history: list[Any], **options: Any) -> list[Json]:
        """What a full replay sends."""
        sent: list[Json] = self._replay.request_body_preview(copy.deepcopy(history), tools=TOOLS, **options)["input"]
        return sent


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack.enter_context(LocalServer()), stack)


def said(outcome: Result | PixirError) -> Any:
    """What the model made of its context: its words and calls, or the error."""
    if isinstance(outcome, PixirError):
        return outcome.kind, outcome.code
    return outcome.text, [(call.name, call.arguments) for call in outcome.function_calls], len(outcome.reasoning_items)


def kept(item: Json, how: str) -> Json | None:
    """The item as a caller stores it, with new objects or with the very ones that it got."""
    return json.loads(json.dumps(item)) if how == "rebuilt" else stored(item, how)


def answered(draw: Callable[..., Any], history: list[Any], result: Result) -> list[Any]:
    """The history with the answer as this caller keeps it, and the outputs of its calls in one of the legal orders."""
    how, between = draw(st.sampled_from(["verbatim", "no_ids", "text", "rebuilt"])), draw(st.booleans())
    late: list[Any] = []
    for item in result.output_items:
        copy_of = kept(item, how)
        history = history if copy_of is None else [*history, copy_of]
        if item["type"] == "function_call":
            output = tool_output(item["call_id"], f"done {draw(st.integers(0, 2))}")
            (history := [*history, output]) if between else late.append(output)
    return history + (late if draw(st.booleans()) else late[::-1])


def run(draw: Callable[..., Any], there: World, session: str | None) -> None:
    """A conversation of some turns with edits between them. Each turn is checked against the full replay."""
    history: list[Any] = []
    made_in: dict[Any, int] = {}
    for number in range(draw(st.integers(2, 6))):
        history = draw(edited(history))
        if not history or draw(st.integers(0, 3)):
            history = [*history, user(draw(TEXTS))]
        accident = draw(ACCIDENTS)
        if accident == "cut":
            there.server.cut_connections()
        elif accident == "release" and session is not None:
            there.release(session)
        options: Json = {**draw(FIELDS), "session": session}
        before = len(there.frames())
        asked = copy.deepcopy(history)
        live, replay = there.turn(history, **options)
        assert said(live) == said(replay)
        if isinstance(live, PixirError):
            continue
        assert live.response_id is not None
        create = there.frames()[-1]
        assert len(there.frames()) > before
        held = there.seen(create)
        del options["session"]
        assert canonical(held, made_in) == canonical(there.preview(asked, **options), made_in)
        there.turns += 1
        there.deltas += "previous_response_id" in create
        there.contexts[live.response_id] = [*held, *live.output_items]
        for item in live.output_items:
            made_in[item["call_id"] if "call_id" in item else meaning(item)] = number
            made_in[meaning(item)] = number
        history = answered(draw, history, live)


@pytest.mark.row("B2")
@pytest.mark.parametrize("session", ["s", None])
def test_what_the_server_holds_is_what_a_full_replay_would_give(session: str | None) -> None:
    """Over any turns, edits, lost connections and ways to store an answer: the same words, calls and context, delta or not."""
    with world() as there:

        @settings(max_examples=60, deadline=None)
        @given(st.data())
        def law(data: st.DataObject) -> None:
            if session is not None:
                there.release(session)
            run(data.draw, there, session)

        law()
        assert there.deltas > there.turns / 10  # or nothing was shown
