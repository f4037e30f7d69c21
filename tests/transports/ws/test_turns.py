"""Turns on a real WebSocket: one upgrade for many, only what is new on each, and a new beginning after every other end."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from pixir_sync import ConnectionLost, InvalidRequest, PixirError, Provider, RetryPolicy, assistant, tool_output, user
from tests.support.events import Json, completed, created, error, failed, incomplete, response, text_response
from tests.support.ws_peer import Script, Wire, answering, conversation
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, answer_of, cut, how, http_peer, message, never, overlapping, with_http

# B1: the socket is lazy, and one is enough.


def keepalive_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pixir")]


LAZY = """
import socket, threading
def refuse(*a, **k): raise AssertionError("something was started")
socket.socket.__init__ = refuse
threading.Thread.start = refuse
import pixir_sync
provider = pixir_sync.Provider(model="m", api_key="k")
stream = provider.stream("Hi", session="s")
provider.stats(), provider.has_session("s"), provider.release("s"), provider.request_body_preview("Hi")
stream.close()
provider.close()
"""


@pytest.mark.row("B1")
def test_import_and_construction_start_nothing() -> None:
    """No socket is made and no thread started by the import, the provider, a stream that nobody asks, or their ends."""
    subprocess.run([sys.executable, "-W", "error", "-c", LAZY], check=True, timeout=30)


@pytest.mark.row("B1", "A4")
def test_one_upgrade_serves_many_turns(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The first ``next`` connects; from then on each turn of the session sends one frame with what is new, on that socket."""
    peer = peer_of(answering())
    before = len(keepalive_threads())
    provider = provider_of(peer)
    talk = Talk(provider)
    stream = provider.stream("nobody asks", session="s")
    assert peer.connections == [] and len(keepalive_threads()) == before and not provider.has_session("s")
    turns = [talk.say(f"turn {n}") for n in range(12)]
    stream.close()
    assert [how(turn) for turn in turns] == ["no_previous_response"] + ["delta"] * 11
    assert len(peer.connections) == 1 and len(keepalive_threads()) == before + 1 and provider.has_session("s")
    assert provider.stats()["connections"] == {"opened": 1, "reused": 11, "live": 1}
    assert provider.stats()["turns"]["websocket"] == {"full": 1, "delta": 11}
    for number, create in enumerate(peer.creates):
        assert create["type"] == "response.create" and create["store"] is False
        assert "stream" not in create and "background" not in create and "stream_id" not in create
        assert create["input"] == [user(f"turn {number}")]
        assert create.get("previous_response_id") == (f"resp_{number}" if number else None)


@pytest.mark.row("A25")
def test_the_evidence_of_a_turn(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It says which connection, which response it went on from, how many items and bytes went out."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer))
    first, second = (talk.say(text).provider_metadata for text in ("one", "two"))
    assert first["active_transport"] == first["transport_preference"] == "websocket"
    assert (first["connection_reused"], second["connection_reused"]) == (False, True)
    assert first["connect_ms"] > 0 and second["connect_ms"] is None
    assert first["websocket_key"] == second["websocket_key"]
    assert (first["websocket_captured_response_id"], first["websocket_stored_previous_response_id"]) == ("resp_1", None)
    assert (second["websocket_captured_response_id"], second["websocket_stored_previous_response_id"]) == ("resp_2", "resp_1")
    assert (first["input_items_sent"], first["input_items_total"]) == (1, 1)
    assert (second["input_items_sent"], second["input_items_total"]) == (1, 3)
    assert first["bytes_sent"] + second["bytes_sent"] == len(peer.connections[0].received)
    assert first["attempts"] == second["attempts"] == 1
    assert first["fallback_reason"] is second["fallback_reason"] is None
    assert second["total_ms"] >= second["first_event_ms"] > 0


@pytest.mark.row("A25")
def test_the_evidence_after_a_drop_is_of_the_delivered_attempt(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A delta that was lost with its connection, and replayed in full on another: the evidence tells of the latter."""
    peer = peer_of([conversation("one", then=cut), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    turn = talk.say("two")
    facts = turn.provider_metadata
    assert [len(create["input"]) for create in peer.creates] == [1, 1, 3]
    assert peer.creates[1]["previous_response_id"] == "resp_1" and "previous_response_id" not in peer.creates[2]
    assert how(turn) == "websocket_reconnected" and turn.response_id == "resp_2"
    assert (facts["attempts"], facts["connection_reused"], facts["close_code"]) == (2, False, None)
    assert (facts["websocket_captured_response_id"], facts["websocket_stored_previous_response_id"]) == ("resp_2", None)
    assert (facts["input_items_sent"], facts["input_items_total"]) == (3, 3) and facts["connect_ms"] > 0
    assert facts["bytes_sent"] == len(peer.connections[1].received)
    assert facts["active_transport"] == "websocket" and facts["fallback_reason"] is None
    stats = provider.stats()
    assert stats["turns"]["websocket"] == {"full": 2} and stats["replays"] == {"reused_connection_lost": 1}


# A3: which transport.


@pytest.mark.row("A3")
@pytest.mark.parametrize(
    ("transport", "active", "preference"),
    [("auto", "websocket", "auto"), ("websocket", "websocket", "websocket"), ("http_sse", "http_sse", "http_sse"),
     ("sse", "http_sse", "http_sse")],
)  # fmt: skip
def test_the_transport_is_the_callers_choice(
    transport: str, active: str, preference: str, peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool
) -> None:
    """``auto`` and ``websocket`` open a WebSocket, ``http_sse`` and its alias none; what serves both needs no second try."""
    http = http_peer(stack, tls, never) if active == "websocket" else http_peer(stack, tls)
    peer = peer_of(answering())
    result = Talk(provider_of(peer, **with_http(peer, http, transport=transport))).say("Hi")
    facts = result.provider_metadata
    assert (facts["active_transport"], facts["transport_preference"]) == (active, preference)
    assert (len(peer.connections), len(http.connections)) == ((1, 0) if active == "websocket" else (0, 1))
    assert how(result) == ("no_previous_response" if active == "websocket" else None)


@pytest.mark.row("A3")
@pytest.mark.parametrize("transport", ["websockets", "http", "", "AUTO", None, 1])
def test_another_transport_is_refused(transport: Any) -> None:
    """It is never silently changed."""
    with pytest.raises(InvalidRequest):
        Provider(model="m", api_key="k", transport=transport)


# B2: every case of the rule, as it goes over the wire.

REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "sealed"}
SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
SAID = message("Hello")
COMMENT = message("Hello", phase="commentary")


def call(number: int, arguments: str = '{"a": 1, "b": 2}', **more: Any) -> Json:
    made = {"id": f"fc_{number}", "type": "function_call", "call_id": f"c{number}", "name": "look", "arguments": arguments}
    return {**made, "status": "completed", **more}


CUSTOM = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "c1", "name": "run", "input": "ls", "status": "completed"}
CUSTOM_OUTPUT = {"type": "custom_tool_call_output", "call_id": "c1", "output": "x"}
HI, MORE, OUT1, OUT2 = user("Hi"), user("more"), tool_output("c1", "x"), tool_output("c2", "y")
PARTS = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
IDLESS = {"role": "assistant", "content": [{"type": "output_text", "text": "Hello", "logprobs": None, "annotations": [{"x": 1}]}],
          "id": "other", "status": "incomplete", "metadata": {"mine": 1}, "phase": None}  # fmt: skip

DELTAS: dict[str, tuple[list[Json], list[Json], list[Json]]] = {
    "verbatim": ([SAID], [HI, SAID, MORE], [MORE]),
    "text only": ([SAID], [HI, assistant("Hello"), MORE], [MORE]),
    "a string without a type": ([SAID], [HI, {"role": "assistant", "content": "Hello"}, MORE], [MORE]),
    "what is ignored differs": ([SAID], [HI, IDLESS, MORE], [MORE]),
    "the input in parts": ([SAID], [PARTS, SAID, MORE], [MORE]),
    "several new items": ([SAID], [HI, SAID, MORE, user("and more")], [MORE, user("and more")]),
    "reasoning kept": ([REASONING, SAID], [HI, REASONING, SAID, MORE], [MORE]),
    "reasoning left out": ([REASONING, SAID], [HI, SAID, MORE], [MORE]),
    "reasoning at the end left out": ([SAID, REASONING], [HI, SAID, MORE], [MORE]),
    "a tool's output": ([call(1)], [HI, call(1), OUT1], [OUT1]),
    "a tool's output and more": ([call(1)], [HI, call(1), OUT1, MORE], [OUT1, MORE]),
    "outputs between the calls": ([call(1), call(2)], [HI, call(1), OUT1, call(2), OUT2], [OUT1, OUT2]),
    "outputs after the calls": ([REASONING, call(1), call(2)], [HI, call(1), call(2), OUT1, OUT2], [OUT1, OUT2]),
    "outputs in another order": ([call(1), call(2)], [HI, call(1), call(2), OUT2, OUT1], [OUT2, OUT1]),
    "arguments spelt anew": ([call(1)], [HI, call(1, '{"b":2,"a":1}', id="x"), OUT1], [OUT1]),
    "a custom tool": ([CUSTOM], [HI, CUSTOM, CUSTOM_OUTPUT], [CUSTOM_OUTPUT]),
    "a hosted item": ([SEARCH, SAID], [HI, SEARCH, SAID, MORE], [MORE]),
    "a hosted item by its id": ([SEARCH, SAID], [HI, {"id": "ws_1", "type": "web_search_call"}, SAID, MORE], [MORE]),
    "a phase left out": ([COMMENT], [HI, SAID, MORE], [MORE]),
    "a phase kept": ([COMMENT], [HI, COMMENT, MORE], [MORE]),
}

FULLS: dict[str, tuple[list[Json], list[Json], str]] = {
    "the input edited": ([SAID], [user("Hey"), SAID, MORE], "prefix_mismatch"),
    "the input deleted": ([SAID], [SAID, MORE], "prefix_mismatch"),
    "the input moved": ([SAID], [SAID, HI, MORE], "prefix_mismatch"),
    "something before it": ([SAID], [user("first"), HI, SAID, MORE], "prefix_mismatch"),
    "the output deleted": ([SAID], [HI, MORE], "output_mismatch"),
    "the output edited": ([SAID], [HI, assistant("Bye"), MORE], "output_mismatch"),
    "the output twice": ([SAID], [HI, SAID, SAID, MORE], "output_mismatch"),
    "the output after the new": ([SAID], [HI, MORE, SAID], "output_mismatch"),
    "an answer that was not given": ([SAID], [HI, SAID, assistant("mine"), MORE], "output_mismatch"),
    "a call that was not made": ([SAID], [HI, SAID, call(9), tool_output("c9", "x")], "output_mismatch"),
    "calls in another order": ([call(1), call(2)], [HI, call(2), call(1), OUT1, OUT2], "output_mismatch"),
    "one of the calls deleted": ([call(1), call(2)], [HI, call(1), OUT1], "output_mismatch"),
    "other arguments": ([call(1)], [HI, call(1, '{"a": 2}'), OUT1], "output_mismatch"),
    "another call id": ([call(1)], [HI, call(2, id="fc_1"), OUT2], "output_mismatch"),
    "another name": ([call(1)], [HI, call(1, name="find"), OUT1], "output_mismatch"),
    "a message between the calls": ([call(1), call(2)], [HI, call(1), OUT1, MORE, call(2), OUT2], "output_mismatch"),
    "another input of a custom tool": ([CUSTOM], [HI, {**CUSTOM, "input": "rm"}, CUSTOM_OUTPUT], "output_mismatch"),
    "a hosted item left out": ([SEARCH, SAID], [HI, SAID, MORE], "output_mismatch"),
    "another hosted item": ([SEARCH, SAID], [HI, {**SEARCH, "id": "ws_2"}, SAID, MORE], "output_mismatch"),
    "another phase": ([COMMENT], [HI, {**COMMENT, "phase": "final_answer"}, MORE], "output_mismatch"),
    "other reasoning": ([REASONING, SAID], [HI, {**REASONING, "encrypted_content": "x"}, SAID, MORE], "output_mismatch"),
    "nothing new": ([SAID], [HI, SAID], "empty_delta"),
}


def second_turn(peer_of: PeerOf, provider_of: ProviderOf, output: list[Json], history: list[Json]) -> tuple[str | None, Json]:
    """How a turn with this history goes after one that was given "Hi" and put out these items; and its frame."""
    peer = peer_of(conversation(answer_of(output), answer_of([message("next", 2)], "resp_2")))
    provider = provider_of(peer)
    provider.complete([copy.deepcopy(HI)], session="s")
    result = provider.complete(copy.deepcopy(history), session="s")
    assert len(peer.connections) == 1
    return how(result), peer.creates[1]


@pytest.mark.row("B2")
@pytest.mark.parametrize("case", DELTAS)
def test_only_what_is_new_is_sent(case: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """In whichever legal form the caller kept the answer."""
    output, history, new = DELTAS[case]
    went, create = second_turn(peer_of, provider_of, output, history)
    assert went == "delta"
    assert (create["previous_response_id"], create["input"]) == ("resp_1", new)


@pytest.mark.row("B2")
@pytest.mark.parametrize("case", FULLS)
def test_where_the_server_would_see_something_else_all_is_sent(case: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """On the same socket, without the last response's id, and the evidence says why."""
    output, history, why = FULLS[case]
    went, create = second_turn(peer_of, provider_of, output, history)
    assert went == why
    assert "previous_response_id" not in create and len(create["input"]) == len(history)


@pytest.mark.row("B2")
@pytest.mark.parametrize(
    ("mode", "changed", "went"),
    [
        ("auto", {}, "delta"), ("auto", {"system_prompt": "be long"}, "delta"), ("auto", {"temperature": 0}, "delta"),
        ("auto", {"tools": [{"name": "f", "parameters": {"type": "object"}}]}, "delta"),
        ("auto", {"extra_body": {"user": "x"}}, "request_changed"),
        ("auto", {"metadata": {"a": "b"}}, "delta"), ("auto", {"extra_body": {"truncation": "auto"}}, "request_changed"),
        ("auto", {"extra_body": {"brand_new": 1}}, "request_changed"), ("auto", {"store": True}, "request_changed"),
        ("auto", {"model": "other"}, "model_changed"), ("exact", {}, "delta"), ("exact", {"metadata": {"a": "b"}}, "delta"),
        ("exact", {"system_prompt": "be long"}, "request_changed"), ("exact", {"temperature": 0}, "request_changed"),
        ("exact", {"model": "other"}, "model_changed"), ("off", {}, "continuation_off"),
    ],
)  # fmt: skip
def test_the_other_fields_decide_too(
    mode: str, changed: Json, went: str, peer_of: PeerOf, provider_of: ProviderOf
) -> None:
    """``auto``: the table says which may change; ``exact``: only the metadata may; ``off``: there is never a delta."""
    peer = peer_of(conversation(answer_of([SAID]), answer_of([SAID], "resp_2")))
    provider = provider_of(peer, continuation=mode)
    provider.complete([HI], session="s")
    assert how(provider.complete([HI, SAID, MORE], session="s", **changed)) == went
    create = peer.creates[1]
    assert len(create["input"]) == (1 if went == "delta" else 3) and ("previous_response_id" in create) == (went == "delta")
    if "system_prompt" in changed:
        assert create["instructions"] == "be long"  # it is not inherited: a delta says it again


@pytest.mark.row("B2")
def test_a_history_that_is_changed_in_place_is_noticed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """What was sent and what was answered are remembered as they were, not as the caller's objects are now."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    assert how(talk.say("two")) == "delta"
    talk.history[0]["content"] = "edited"
    assert how(talk.say("three")) == "prefix_mismatch"
    assert peer.creates[2]["input"][0] == user("edited")
    talk.history[-1]["content"][0]["text"] = "never said"
    assert how(talk.say("four")) == "output_mismatch"
    assert how(talk.say("five")) == "delta"
    del talk.history[1]
    assert how(talk.say("six")) == "prefix_mismatch"


@pytest.mark.row("B2")
def test_what_the_caller_does_while_the_answer_comes_has_no_effect(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The request is read once, when it is sent; a list that changes under the stream is only compared at the next turn."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    history: list[Any] = [user("one")]
    stream = provider.stream(history, session="s", tools=(tools := [{"type": "function", "name": "f"}]))
    next(stream)
    history[0]["content"], tools[0]["name"] = "changed", "g"
    first = stream.result()
    history[0]["content"] = "one"
    assert how(provider.complete([*history, *first.output_items, user("two")], session="s")) == "delta"


@pytest.mark.row("B2")
def test_what_on_payload_keeps_is_not_what_is_remembered(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The payload that it was given is its to change, at any time; what was sent stays what was sent."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    seen: list[Json] = []
    first = provider.complete([HI], session="s", on_payload=seen.append)
    seen[0]["input"][0]["content"] = "changed later"
    assert how(provider.complete([HI, *first.output_items, MORE], session="s")) == "delta"


@pytest.mark.row("B2")
def test_a_history_that_is_rebuilt_each_time_is_recognised(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A program that keeps its history in a database makes new objects for every turn, and loses nothing by it."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    stored = "[]"
    for number in range(6):
        history = [*json.loads(stored), user(f"turn {number}")]
        result = provider.complete(history, session="s")
        assert how(result) == ("delta" if number else "no_previous_response")
        stored = json.dumps([*history, {"role": "assistant", "content": result.text}])
    assert [len(create["input"]) for create in peer.creates] == [1] * 6


# B5: commit on completed only.


def ends_with(*events: Json) -> Any:
    return lambda wire, create: wire.send_all(events)


BEGUN = text_response("Hel", "lo")[:-1]
BAD_ENDS: dict[str, Json] = {
    "failed": failed(),
    "incomplete": incomplete(output=[SAID]),
    "completed, but incomplete": {"type": "response.completed",
                                  "response": response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})},
    "cancelled": {"type": "response.cancelled", "response": response(status="cancelled")},
    "error": error(),
    "completed without an id": {"type": "response.completed", "response": {"status": "completed", "output": [SAID]}},
}  # fmt: skip


@pytest.mark.row("B5")
@pytest.mark.parametrize("case", BAD_ENDS)
def test_only_a_completed_response_is_gone_on_from(case: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """After any other terminal event the next turn sends everything, on the same socket; the one after it is a delta again."""
    begun = [{"type": "response.created"}, *BEGUN[2:]] if case == "completed without an id" else BEGUN
    end = ends_with(*begun, BAD_ENDS[case])
    peer = peer_of(conversation("one", end, "three", "four"))
    talk = Talk(provider_of(peer))
    talk.say("one")
    try:
        talk.say("two")
    except PixirError as ended:
        assert ended.output_seen and ended.partial is not None and ended.partial.text == "Hello"
        talk.history.extend(ended.partial.output_items)
    third = talk.say("three")
    assert how(third) == "response_failed" and third.provider_metadata["connection_reused"]
    assert len(peer.creates[2]["input"]) == len(talk.history) - 1 and "previous_response_id" not in peer.creates[2]
    assert how(talk.say("four")) == "delta"
    assert len(peer.connections) == 1


def half_way(wire: Wire) -> None:
    """Begins an answer, and waits for the client to leave."""
    wire.read_create()
    wire.send_all(BEGUN, at_once=True)
    wire.expect_closed()


@pytest.mark.row("B5")
@pytest.mark.parametrize("way", ["cancel", "break", "collected", "exception"])
def test_a_turn_that_is_left_leaves_nothing_behind(way: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Its connection goes, and the next turn sends everything on another."""
    peer = peer_of([conversation("one", then=half_way), answering()])
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    history = [*talk.history, user("two")]
    stream = provider.stream(history, session="s")
    texts = iter(stream.text_stream)
    assert next(texts) == "Hel"
    if way == "cancel":
        stream.cancel()
        with pytest.raises(PixirError):
            list(texts)
    elif way == "exception":
        with pytest.raises(RuntimeError), stream:
            raise RuntimeError("the consumer's own")
    elif way == "break":
        stream.close()
    del texts, stream
    third = talk.say("three")
    assert how(third) == "caller_cancelled" and not third.provider_metadata["connection_reused"]
    assert peer.creates[2]["input"] == [user("one"), assistant_sent(talk.history[1]), user("three")]
    assert how(talk.say("four")) == "delta" and len(peer.connections) == 2


def assistant_sent(item: Json) -> Json:
    """An answer's item as it goes in a full input."""
    return {name: value for name, value in item.items() if name not in ("id", "status")}


# B9: without a session.


@pytest.mark.row("B9")
def test_a_script_without_sessions_sends_deltas(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The second turn finds the connection that holds the first."""
    peer = peer_of(answering())
    talk = Talk(provider_of(peer), session=None)
    assert [how(talk.say(f"turn {n}")) for n in range(5)] == ["no_previous_response", *["delta"] * 4]
    assert len(peer.connections) == 1


@pytest.mark.row("B9")
def test_conversations_without_sessions_find_their_own_connections(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Of the idle connections it is the one with the longest beginning of the input, in whichever order they come back."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talks = [Talk(provider, session=None) for _ in range(3)]
    overlapping(provider, *talks)
    assert len(peer.connections) == 3
    for number in (2, 0, 1, 1, 0, 2):
        assert how(talks[number].say("on")) == "delta"
    branch = Talk(provider, session=None)
    branch.history = list(talks[0].history)
    assert how(talks[0].say("one way")) == "delta"
    assert how(branch.say("another way")) != "delta"
    assert len(peer.connections) == 3


@pytest.mark.row("B9")
def test_a_stranger_takes_the_connection_used_longest_ago(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A conversation that fits none begins on the one that was idle longest; the others keep what they hold."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talks = [Talk(provider, session=None) for _ in range(2)]
    overlapping(provider, *talks)
    assert how(talks[0].say("on")) == "delta"  # so that the second is the older one
    assert how(Talk(provider, session=None).say("a stranger")) == "prefix_mismatch"
    assert how(talks[0].say("on")) == "delta"
    assert how(talks[1].say("on")) == "prefix_mismatch"
    assert len(peer.connections) == 2


@pytest.mark.row("B8", "B9")
@pytest.mark.parametrize("session", [None, "s"])
def test_scopes_never_meet(session: str | None, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The same input, with the same session's name or none, in another scope has another connection."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    talks = [Talk(provider, session=session, scope=scope) for scope in (None, "tenant 1", "tenant 2")]
    for talk in talks:
        assert how(talk.say("one")) == "no_previous_response"
    keys = {talk.say("two").provider_metadata["websocket_key"] for talk in talks}
    assert len(peer.connections) == len(keys) == 3
    assert [len(create["input"]) for create in peer.creates] == [1] * 6
    if session is not None:
        provider.release("s", "tenant 1")
        assert [provider.has_session("s", scope) for scope in (None, "tenant 1", "tenant 2")] == [True, False, True]


@pytest.mark.row("B9")
def test_without_a_session_reasoning_must_be_there(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Two conversations may differ in nothing but what was thought: without a name a match has to be whole."""
    output = [REASONING, SAID]
    peer = peer_of(conversation(answer_of(output), answer_of([SAID], "resp_2"), answer_of([SAID], "resp_3")))
    provider = provider_of(peer)
    provider.complete([HI])
    assert how(provider.complete([HI, SAID, MORE])) == "output_mismatch"
    assert how(provider.complete([HI, SAID, MORE, SAID, MORE])) == "delta"


@pytest.mark.row("B9")
def test_threads_without_sessions_never_share_a_connection_at_once(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Each conversation of four threads is right on every turn, whatever connection it gets, and mostly it gets its own."""
    script = conversation_echo()
    peer = peer_of(script)
    provider = provider_of(peer)

    def run(name: str) -> list[str | None]:
        talk, went = Talk(provider, session=None), []
        for number in range(8):
            result = talk.say(f"{name} {number}")
            assert result.text == f"{name} {number}"
            went.append(how(result))
        return went

    runs = [in_thread(lambda name=name: run(name)) for name in "abcd"]  # type: ignore[misc]
    went = [run.result(30) for run in runs]
    assert len(peer.connections) <= 4
    assert all(how in ("delta", "no_previous_response", "prefix_mismatch") for one in went for how in one)
    assert len(peer.creates) == 32


def conversation_echo() -> Script:
    """Answers every create with the last user's text in its input."""

    def script(wire: Wire) -> None:
        while True:
            create = wire.read_create(30)
            wire.answer(create["input"][-1]["content"], to=create)

    return script


def test_a_lost_connection_is_not_committed(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """After a loss with output the error has the partial result, and the next turn is full on a fresh socket."""

    def lose(wire: Wire) -> None:
        wire.read_create()
        wire.send_all(BEGUN, at_once=True)
        wire.hang_up()

    peer = peer_of([conversation("one", then=lose), answering()])
    provider = provider_of(peer, retry=RetryPolicy(max_retries=2))
    talk = Talk(provider)
    talk.say("one")
    with pytest.raises(ConnectionLost) as caught:
        talk.say("two")
    assert caught.value.output_seen and caught.value.partial is not None and caught.value.partial.text == "Hello"
    wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connection to go")
    assert how(talk.say("three")) == "websocket_failed"


def test_completed_without_output_counts_as_well(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A response that put out nothing is a baseline like any other."""
    nothing = [created("resp_1"), completed(response("resp_1"))]
    peer = peer_of(conversation(nothing, "two"))
    provider = provider_of(peer)
    provider.complete([HI], session="s")
    assert how(provider.complete([HI, MORE], session="s")) == "delta"
    assert peer.creates[1]["input"] == [MORE]
