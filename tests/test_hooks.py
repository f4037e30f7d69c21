"""Hooks are told of attempts, retries and ends, in order, and of nothing that was said."""

from __future__ import annotations

from dataclasses import fields

import pytest

from pixir_sync import Cancelled, CancelToken, HookEvent, InvalidRequest, Provider, ProviderError, RateLimited
from pixir_sync.local import HttpError, LocalServer, faults
from tests.support.both import Peer, TransportName
from tests.support.events import completed, created, incomplete, text_response
from tests.support.fake import QUICK, FakeTransport, provider_for


def told(events: list[HookEvent]) -> list[tuple[str, int, str]]:
    return [(event.name, event.attempt, event.reason) for event in events]


@pytest.mark.row("C4")
def test_hooks_see_attempts_retries_and_the_end(transport: TransportName) -> None:
    """Two refusals and an answer, over a real socket: the waits and the time since the call began are told, too."""
    events: list[HookEvent] = []
    again = [HttpError(503, {"error": {"message": "no", "code": None}}, {"retry-after-ms": "20"})]
    with Peer(transport, again, again, text_response("ok")) as peer, peer.provider(hooks=events.append) as provider:
        provider.complete("Hi")
    assert told(events) == [
        ("attempt", 1, ""), ("retry", 1, "overloaded"), ("attempt", 2, ""), ("retry", 2, "overloaded"), ("attempt", 3, ""),
        ("finish", 3, "completed"),
    ]  # fmt: skip
    assert all(event.transport == transport for event in events)
    assert [event.delay >= 0.02 for event in events] == [False, True, False, True, False, False]
    times = [event.elapsed for event in events]
    assert times == sorted(times) and times[-1] >= 0.04


def test_hooks_see_a_fallback() -> None:
    """It stands between the attempt that failed and the one over HTTP, under the transport that is used from there on."""
    events: list[HookEvent] = []
    with LocalServer(faults=[faults.RefuseUpgrade(426)]) as server, provider_for(server, hooks=events.append) as provider:
        provider.complete("Hi")
    assert told(events) == [
        ("attempt", 1, ""), ("fallback", 1, "websocket_unsupported"), ("attempt", 2, ""), ("finish", 2, "completed"),
    ]  # fmt: skip
    assert [event.transport for event in events] == ["websocket", "http_sse", "http_sse", "http_sse"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [([text_response("a")], "completed"), ([[incomplete()]], "incomplete"), ([], "connection_lost")],
)
def test_the_end_says_how_the_call_ended(script: list[list[dict[str, object]]], reason: str) -> None:
    """As completed or incomplete, or with an error's kind."""
    events: list[HookEvent] = []
    with Provider(transport=FakeTransport(script), model="m", hooks=[events.append], retry=0) as provider:
        stream = provider.stream("Hi")
        assert events == []
        try:
            stream.result()
        except Exception as error:
            assert getattr(error, "kind", None) == reason
    assert told(events) == [("attempt", 1, ""), ("finish", 1, reason)]


def test_a_cancelled_call_has_an_end_and_no_attempt() -> None:
    """Cancelled before it began, there is one event."""
    events: list[HookEvent] = []
    token = CancelToken()
    token.cancel()
    with Provider(transport=FakeTransport([]), model="m", hooks=events.append) as provider, pytest.raises(Cancelled):
        provider.complete("Hi", cancel=token)
    assert told(events) == [("finish", 0, "cancelled")]


def test_several_hooks_are_told_in_their_order() -> None:
    """A list of hooks is called from first to last for each event."""
    order: list[str] = []
    hooks = [lambda event: order.append(f"a {event.name}"), lambda event: order.append(f"b {event.name}")]
    with Provider(transport=FakeTransport([text_response("x")]), model="m", hooks=hooks) as provider:
        provider.complete("Hi")
    assert order == ["a attempt", "b attempt", "a finish", "b finish"]


def test_what_a_hook_raises_ends_the_call(transport: TransportName) -> None:
    """At an attempt nothing is sent; after a retry was announced nothing more is."""

    def stop_at(name: str) -> object:
        def hook(event: HookEvent) -> None:
            if event.name == name:
                raise KeyError("the hook's own")

        return hook

    with Peer(transport, [HttpError(500)], text_response("ok")) as peer:
        with peer.provider(hooks=stop_at("attempt")) as provider, pytest.raises(KeyError):
            provider.complete("Hi")
        assert peer.connections == 0
        with peer.provider(hooks=stop_at("retry")) as provider:
            stream = provider.stream("Hi")
            with pytest.raises(KeyError):
                next(stream)
            with pytest.raises(Cancelled):
                stream.result()
        assert len(peer.bodies) == 1


def test_an_error_of_a_hook_at_the_end_keeps_the_result() -> None:
    """What was paid for is not lost to a hook that fails after it, and is not asked for again."""

    def hook(event: HookEvent) -> None:
        if event.name == "finish":
            raise KeyError("the hook's own")

    fake = FakeTransport([text_response("paid")])
    with Provider(transport=fake, model="m", hooks=hook) as provider:
        stream = provider.stream("Hi")
        with pytest.raises(KeyError):
            list(stream)
        assert stream.result().text == "paid" and len(fake.calls) == 1


def test_an_error_of_a_hook_at_the_end_sends_nothing_again() -> None:
    """Even one that the replay table would try again, after an answer without output."""

    def hook(event: HookEvent) -> None:
        if event.name == "finish":
            raise RateLimited("the hook's own", retryable=True)

    fake = FakeTransport([[created(), completed()]])
    with Provider(transport=fake, model="m", hooks=hook, retry=QUICK) as provider, pytest.raises(RateLimited):
        provider.complete("Hi")
    assert len(fake.calls) == 1


@pytest.mark.row("A26")
def test_hook_events_hold_facts_only(transport: TransportName) -> None:
    """Numbers and words of the library's and the provider's codes; and they cannot be changed."""
    assert {f.name for f in fields(HookEvent)} == {"name", "transport", "attempt", "reason", "delay", "elapsed"}
    events: list[HookEvent] = []
    refusal = HttpError(400, {"error": {"message": "zebra is no word", "code": "bad"}})
    with Peer(transport, [refusal]) as peer, peer.provider(hooks=events.append) as provider:
        with pytest.raises(ProviderError, match="zebra"):
            provider.complete("zebra")
    assert told(events)[-1] == ("finish", 1, "provider_http_error") and "zebra" not in repr(events)
    with pytest.raises(InvalidRequest):
        Provider(hooks=5, model="m")
