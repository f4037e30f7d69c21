"""The warm-up: a turn without an answer, ahead of the first one (row B6)."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, suppress
from typing import Any

import pytest

import pixir_sync.warm_up
from pixir_sync import InvalidRequest, Provider, ProviderClosed, assistant, user
from pixir_sync.local import LocalServer
from tests.support.events import Json, completed, created, error, failed, incomplete, response, text_response, usage
from tests.support.ws_peer import Script, Wire, answering, conversation
from tests.transports.http.helpers import in_thread, took
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.turn_helpers import Talk, accepting, how, http_peer, message, never, refusing, silent, with_http

PROMPT = [user("Here are the rules of the house.")]


def warmed(tokens: int = 7) -> list[Json]:
    """A warm-up's answer."""
    return [created("resp_w"), completed(response("resp_w", usage=usage(tokens, 0)))]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.row("B6")
def test_a_warm_up_is_a_turn_without_an_answer(
    peer_of: PeerOf, provider_of: ProviderOf, caplog: pytest.LogCaptureFixture
) -> None:
    """One frame with ``generate: false``, after which the session's connection stands and the next turn is a delta on it."""
    peer = peer_of(conversation(warmed(), "ok"))
    provider = provider_of(peer)
    assert provider.warm_up({"input": PROMPT, "system_prompt": "be brief"}, session="s") is True
    assert provider.has_session("s")
    assert peer.creates[0] == {
        "type": "response.create", "model": "m", "instructions": "be brief", "store": False, "generate": False, "input": PROMPT,
    }  # fmt: skip
    result = provider.complete([*PROMPT, user("one")], session="s", system_prompt="be brief")
    assert how(result) == "delta" and result.provider_metadata["connection_reused"]
    assert (peer.creates[1]["previous_response_id"], peer.creates[1]["input"]) == ("resp_w", [user("one")])
    assert "generate" not in peer.creates[1] and len(peer.connections) == 1
    assert warnings(caplog) == []


@pytest.mark.row("B6")
@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_warm_ups_are_chained(mode: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A warm-up goes on from a warm-up, and from a turn; what was asked only of a warm-up is no change of the request."""
    peer = peer_of(conversation(warmed(), warmed(), "ok", warmed(), "ok"))
    provider = provider_of(peer, continuation=mode)
    history: list[Any] = []
    for number in range(2):
        history.append(user(f"prompt {number}"))
        assert provider.warm_up(list(history), session="s")
    history.append(user("one"))
    first = provider.complete(history, session="s")
    history += [*first.output_items, user("more to know")]
    assert provider.warm_up(history, session="s")
    history.append(user("two"))
    second = provider.complete(history, session="s")
    assert how(first) == how(second) == "delta"
    assert [len(create["input"]) for create in peer.creates] == [1] * 5
    assert [create.get("generate") for create in peer.creates] == [False, False, None, False, None]
    assert [create.get("previous_response_id") for create in peer.creates][1:] == ["resp_w", "resp_w", "resp_1", "resp_w"]


@pytest.mark.row("B6")
def test_a_turn_with_the_very_input_of_the_warm_up_is_right(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """There is nothing new to send: everything goes out, on the same connection."""
    peer = peer_of(conversation(warmed(), "ok"))
    provider = provider_of(peer)
    assert provider.warm_up(PROMPT, session="s")
    result = provider.complete(PROMPT, session="s")
    assert how(result) == "empty_delta" and result.text == "ok" and peer.creates[1]["input"] == PROMPT
    assert len(peer.connections) == 1


@pytest.mark.row("B6")
def test_its_usage_is_counted_apart(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """In ``stats()["warm_ups"]``; the turns know nothing of it."""
    peer = peer_of(conversation(warmed(7), warmed(5), [error()], "ok"))
    provider = provider_of(peer)
    assert "warm_ups" not in provider.stats()
    history = [*PROMPT]
    for done in (True, True, False):
        assert provider.warm_up(history, session="s") is done
        history = [*history, user("more")]
    result = provider.complete(history, session="s")
    assert provider.stats()["warm_ups"] == {"succeeded": 2, "failed": 1, "input_tokens": 12}
    assert provider.stats()["turns"] == {"websocket": {"full": 1}}
    assert result.usage is not None and result.usage["input_tokens"] == 10


# Failure only warns, and harms nothing.


def refuse_429(wire: Wire) -> None:
    wire.refuse(429, {"Retry-After": "60"}, {"error": {"message": "slow", "code": "slow_down"}})


def closes(wire: Wire) -> None:
    wire.accept()
    wire.read_create()
    wire.close(1011, "oops")
    wire.expect_closed()


def leaves(wire: Wire) -> None:
    wire.accept()
    wire.read_create()
    wire.cut()


def begins_and_leaves(wire: Wire) -> None:
    wire.accept()
    wire.read_create()
    wire.send_all(text_response("Hel")[:4], at_once=True)
    wire.hang_up()


def garbage(wire: Wire) -> None:
    wire.accept()
    wire.read_create()
    wire.frame(2, b"binary")
    wire.expect_closed()


LOST: dict[str, Script] = {
    "401": refusing(401), "403": refusing(403), "404": refusing(404), "426": refusing(426), "429": refuse_429,
    "500": refusing(500), "closed": closes, "cut": leaves, "lost in the middle": begins_and_leaves, "a binary frame": garbage,
}  # fmt: skip


@pytest.mark.row("B6")
@pytest.mark.parametrize("case", LOST)
def test_a_lost_warm_up_only_warns(
    case: str, peer_of: PeerOf, provider_of: ProviderOf, caplog: pytest.LogCaptureFixture
) -> None:
    """False, one warning without a word of the request, and the next turn opens a connection of its own."""
    peer = peer_of([LOST[case], accepting(answering())], upgrade=False)
    provider = provider_of(peer)
    assert provider.warm_up(PROMPT, session="s") is False
    assert len(warnings(caplog)) == 1 and "rules" not in warnings(caplog)[0]
    result = provider.complete([*PROMPT, user("one")], session="s")
    assert result.text == "ok" and result.provider_metadata["attempts"] == 1
    assert how(result) != "delta" and len(peer.creates[-1]["input"]) == 2 and len(peer.connections) == 2


ENDS: dict[str, list[Json]] = {
    "error": [error()], "failed": [created(), failed()], "incomplete": [created(), incomplete()],
    "an error with a status": [error("invalid_prompt", status=400)],
    "generate is unknown": [error("unknown_parameter", "Unknown parameter: 'generate'.", status=400)],
    "completed without an id": [{"type": "response.completed", "response": {"status": "completed"}}],
}  # fmt: skip


@pytest.mark.row("B6")
@pytest.mark.parametrize("case", ENDS)
def test_a_refused_warm_up_only_warns(
    case: str, peer_of: PeerOf, provider_of: ProviderOf, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is kept, nothing is held on it, and the next turn sends everything."""
    peer = peer_of(conversation(ENDS[case], "ok"))
    provider = provider_of(peer)
    done = provider.warm_up(PROMPT, session="s")
    assert done is (case == "completed without an id") and len(warnings(caplog)) == (0 if done else 1)
    result = provider.complete([*PROMPT, user("one")], session="s")
    assert how(result) == "response_failed" and len(peer.creates[1]["input"]) == 2
    assert result.provider_metadata["connection_reused"] and len(peer.connections) == 1


@pytest.mark.row("B6")
def test_a_warm_up_that_fails_after_a_turn_costs_only_what_was_held(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """In the middle of a conversation, too, the next turn is right."""
    peer = peer_of(conversation("one", [error("previous_response_not_found", status=400)], "two", "three"))
    provider = provider_of(peer)
    talk = Talk(provider)
    talk.say("one")
    assert not provider.warm_up([*talk.history, user("more")], session="s")
    assert how(talk.say("two")) == "previous_response_not_found" and how(talk.say("three")) == "delta"


@pytest.mark.row("B6")
@pytest.mark.parametrize("state", ["opening", "silent", "in the middle"])
def test_it_has_a_limit_of_its_own(
    state: str, peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the timeouts are: after it the warm-up is given up, and the next turn is as if there had been none."""
    assert pixir_sync.warm_up.LIMIT == 8.0
    monkeypatch.setattr(pixir_sync.warm_up, "LIMIT", 1.0)

    def script(wire: Wire) -> None:
        wire.read_request()
        if state != "opening":
            wire.accept()
            wire.read_create()
        if state == "in the middle":
            wire.send(created())
        with suppress(OSError):
            wire.expect_closed()

    peer = peer_of([script, accepting(answering())], upgrade=False)
    provider = provider_of(peer, timeouts={"idle": 600, "connect": 60})
    with took(1.0, 5.0):
        assert provider.warm_up(PROMPT, session="s") is False
    assert len(warnings(caplog)) == 1
    result = provider.complete([*PROMPT, user("one")], session="s")
    assert how(result) != "delta" and len(peer.creates[-1]["input"]) == 2


@pytest.mark.row("B6")
def test_shorter_timeouts_hold_for_it_too(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The limit is an upper one."""
    peer = peer_of([silent, answering()])
    provider = provider_of(peer, timeouts={"first_event": 1.0})
    with took(1.0, 5.0):
        assert provider.warm_up(PROMPT, session="s") is False


@pytest.mark.row("B6")
def test_the_first_events_limit_is_that_of_the_first_event(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """Once it came, what follows has the idle limit."""

    def script(wire: Wire) -> None:
        create = wire.read_create()
        wire.send(created())
        assert not wire.gone.wait(1.5), "the client left"
        wire.answer(to=create, created=False)
        wire.hold()

    provider = provider_of(peer_of(script), timeouts={"first_event": 0.5, "idle": 30})
    assert provider.warm_up(PROMPT, session="s") is True


@pytest.mark.row("B6")
def test_a_session_that_is_in_use_is_not_waited_for_by_its_own_thread(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """The thread in the middle of a turn gets false at once, and its turn goes on."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    stream = provider.stream("one", session="s")
    next(stream)
    assert provider.warm_up(PROMPT, session="s") is False
    assert stream.result().text == "ok" and len(peer.creates) == 1


@pytest.mark.row("B6")
def test_a_turn_waits_for_the_warm_up_of_its_session(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A warm-up on another thread, and the turn right behind it: one after the other, on one connection."""
    go = threading.Event()

    def slow(wire: Wire, create: Json) -> None:
        wire.hold(until=go)
        wire.send_all(warmed())

    peer = peer_of(conversation(slow, "ok"))
    provider = provider_of(peer)
    warm = in_thread(lambda: provider.warm_up(PROMPT, session="s"))
    peer.wait_creates(1)
    turn = in_thread(lambda: provider.complete([*PROMPT, user("one")], session="s"))
    go.set()
    assert warm.result(5) is True and how(turn.result(5)) == "delta"
    assert len(peer.connections) == 1


@pytest.mark.row("B6")
def test_a_wrong_request_is_the_callers_mistake(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """It is raised; nothing is opened."""
    peer = peer_of(answering())
    provider = provider_of(peer)
    wrong: list[Any] = [[], {"input": "x", "temprature": 1}, [{"type": "item_reference", "id": "x"}]]
    for request in wrong:
        with pytest.raises(InvalidRequest):
            provider.warm_up(request, session="s")
    with pytest.raises(InvalidRequest):
        provider.warm_up(PROMPT, session="")
    assert peer.connections == []
    provider.close()
    with pytest.raises(ProviderClosed):
        provider.warm_up(PROMPT, session="s")


@pytest.mark.row("B6")
def test_close_ends_a_warm_up(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """From another thread: false, at once."""
    peer = peer_of([silent])
    provider = provider_of(peer)
    warm = in_thread(lambda: provider.warm_up(PROMPT, session="s"))
    peer.wait_creates(1)
    with took(0.0, 4.0):
        provider.close()
        assert warm.result(5) is False


@pytest.mark.row("B6")
@pytest.mark.parametrize("transport", ["http_sse", "auto"])
def test_over_http_there_is_nothing_to_prepare(
    transport: str, peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool
) -> None:
    """Without a WebSocket it is false, and nothing is sent."""
    peer, http = peer_of(refusing(404), upgrade=False), http_peer(stack, tls, never)
    provider = provider_of(peer, **with_http(peer, http, transport=transport))
    assert provider.warm_up(PROMPT, session="s") is False
    assert len(peer.connections) == (1 if transport == "auto" else 0) and http.requests == []


@pytest.mark.row("B6")
def test_the_turn_after_a_failed_warm_up_still_chooses(
    peer_of: PeerOf, provider_of: ProviderOf, stack: ExitStack, tls: bool
) -> None:
    """With ``auto`` a warm-up that found no WebSocket leaves the next turn to HTTP, as a turn would have."""
    peer, http = peer_of(refusing(404), upgrade=False), http_peer(stack, tls)
    provider = provider_of(peer, **with_http(peer, http))
    assert provider.warm_up(PROMPT, session="s") is False
    result = provider.complete(PROMPT, session="s")
    assert result.provider_metadata["active_transport"] == "http_sse" and result.text == "hi"
    assert provider.warm_up(PROMPT, session="s") is False


@pytest.mark.row("B6")
def test_scopes_are_warmed_apart(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A warm-up is for its session in its scope."""
    peer = peer_of([conversation(warmed(), "ok"), answering()])
    provider = provider_of(peer)
    assert provider.warm_up(PROMPT, session="s", scope="one")
    assert not provider.has_session("s") and provider.has_session("s", "one")
    assert how(provider.complete([*PROMPT, user("x")], session="s", scope="two")) == "no_previous_response"
    assert how(provider.complete([*PROMPT, user("x")], session="s", scope="one")) == "delta"


@pytest.mark.row("B6")
def test_the_local_server_counts_what_was_warmed_as_context() -> None:
    """What it prepared is in front of the model at the next turn, and comes from its cache."""
    with (
        LocalServer() as server,
        Provider(base_url=server.base_url, api_key=server.api_key, model="m", transport="websocket") as provider,
    ):
        history: list[Any] = [user("a"), assistant("b"), user("c")]
        assert provider.warm_up(history, session="s")
        result = provider.complete([*history, user("d")], session="s")
        assert result.text == "Heard: d (context: 3)" and how(result) == "delta"
        assert result.usage_summary is not None and result.usage_summary["cached_tokens"] > 0
        assert [request.body.get("generate") for request in server.requests] == [False, None]
        assert len(server.upgrades) == 1


def test_a_stray_message_of_the_warm_up_is_nobodys(peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A second terminal event of it, which comes late, does not end the turn."""

    def late(wire: Wire, create: Json) -> None:
        wire.send_all([warmed()[-1]])
        wire.answer(message("ok")["content"][0]["text"], to=create)

    peer = peer_of(conversation(warmed(), late))
    provider = provider_of(peer)
    assert provider.warm_up(PROMPT, session="s")
    assert provider.complete([*PROMPT, user("one")], session="s").text == "ok"
