"""`TurnRecord`: what stands in it, and that nothing else can."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import Any

import pytest

from pixir_sync import Call, PixirError, Provider, TurnRecord, user
from pixir_sync.local import HttpError, LocalServer, faults
from pixir_sync.protocol.result import Evidence
from tests.support.both import Peer, TransportName
from tests.support.events import completed, created, response, text_response
from tests.support.fake import FakeTransport, provider_for


@pytest.mark.row("C4")
def test_retries_are_in_the_record(transport: TransportName) -> None:
    """Two refusals and an answer, over a real socket: one record, with the attempts, their reasons and the time of them all."""
    told: list[TurnRecord] = []
    again = [HttpError(503, {"error": {"message": "no", "code": None}}, {"retry-after-ms": "20"})]
    before = time.time()
    with Peer(transport, again, again, text_response("ok")) as peer, peer.provider(hooks=told.append) as provider:
        provider.complete("Hi")
        stats = provider.stats()
    [record] = told
    assert (record.attempts, record.replays, record.finish_reason) == (3, {"overloaded": 2}, "stop")
    assert record.active_transport == transport and record.fallback_reason is None
    assert before <= record.started_at <= time.time() and record.total_ms is not None and 40 <= record.total_ms < 60_000
    assert record.bytes_sent_total == stats["bytes_sent"] > 2 * record.bytes_sent > 0


def test_a_turn_that_never_connected_sent_nothing(transport: TransportName) -> None:
    """Neither all nor what was new, whatever it was about to send."""
    told: list[TurnRecord] = []
    with LocalServer() as server:
        provider = provider_for(server, transport=transport, hooks=told.append, retry=0)
    with provider, pytest.raises(PixirError):
        provider.complete("Hi")
    [record] = told
    assert (record.error_kind, record.active_transport) == ("connect_failed", transport)
    assert (record.continuation, record.bytes_sent_total) == (None, 0)


def test_a_fallback_is_in_the_record() -> None:
    """Under the transport that was used in the end, with the reason in the library's own words."""
    told: list[TurnRecord] = []
    with LocalServer(faults=[faults.RefuseUpgrade(426)]) as server, provider_for(server, hooks=told.append) as provider:
        provider.complete("Hi")
        assert (told[0].server_address, told[0].server_port) == ("127.0.0.1", server.port)
    [record] = told
    assert (record.attempts, record.replays, record.fallback_reason) == (2, {}, "websocket_unsupported")
    assert (record.transport_preference, record.active_transport, record.continuation) == ("auto", "http_sse", "full")
    assert record.fallback_message


def test_a_delta_says_what_it_saved() -> None:
    """The bytes that the connection held are those of the input before, and of the answer to it."""
    told: list[TurnRecord] = []
    with LocalServer() as server, provider_for(server, transport="websocket", hooks=told.append) as provider:
        history = [user("Good morning " * 100)]
        result = provider.complete(history, session="s")
        history += [*result.output_items, user("And now?")]
        provider.complete(history, session="s")
    first, second = told
    assert (first.continuation, first.input_bytes_held, first.input_items_sent) == ("full", 0, 1)
    assert (second.continuation, second.input_items_sent, second.input_items_total) == ("delta", 1, 3)
    held = len(json.dumps(history[:2]))
    assert 0.8 * held < second.input_bytes_held < 1.2 * held and second.bytes_sent < 400 < first.bytes_sent
    assert first.websocket_key == second.websocket_key is not None
    assert (first.connection_reused, second.connection_reused) == (False, True)


def test_a_record_is_the_evidence_and_the_end(transport: TransportName) -> None:
    """What is in ``provider_metadata`` is in the record, under the same names and equal; so are the result's own facts."""
    told: list[TurnRecord] = []
    with LocalServer() as server, provider_for(server, transport=transport, hooks=told.append) as provider:
        result = provider.complete("Hi", session="s")
    record = told[0].to_dict()
    assert {name: record[name] for name in result.provider_metadata} == result.provider_metadata
    assert {f.name for f in dataclasses.fields(Evidence)} <= {f.name for f in dataclasses.fields(TurnRecord)}
    assert (record["usage"], record["response_id"], record["response_model"]) == (
        result.usage_summary, result.response_id, result.model,
    )  # fmt: skip
    assert record["output_items"] == {"message": 1} and record["output_seen"] and record["error_kind"] is None
    assert record["model"] == "gpt-5.5" and record["total_ms"] >= record["first_event_ms"] > 0


def test_a_record_is_plain_json_and_cannot_be_changed(transport: TransportName) -> None:
    """Of an error, too: kind, phase, status, whether it may be tried again."""
    told: list[TurnRecord] = []
    refusal = HttpError(429, {"error": {"message": "zebra", "code": "rate_limit_exceeded"}})
    with Peer(transport, [refusal]) as peer, peer.provider(hooks=told.append, retry=0) as provider:
        with pytest.raises(Exception, match="zebra"):
            provider.complete("Hi")
    [record] = told
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()
    assert (record.error_kind, record.error_status, record.error_retryable) == ("rate_limited", 429, True)
    assert record.error_phase == {"websocket": "stream", "http_sse": "first_event"}[transport]
    assert (record.finish_reason, record.usage, record.output_items) == (None, None, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.attempts = 5  # type: ignore[misc]
    assert not hasattr(record, "__dict__") and "zebra" not in repr(record)


@pytest.mark.row("A26")
@pytest.mark.parametrize("odd", ["two\nlines", "two words", "x" * 201, "\ud800", "żubr", "\N{RIGHT-TO-LEFT OVERRIDE}x", ""])
def test_what_a_server_names_oddly_is_left_out(odd: str) -> None:
    """Ids and types of items go where a person reads them, or a terminal: only short words do."""
    told: list[TurnRecord] = []
    message: dict[str, Any] = {"type": "message", "role": "assistant", "content": []}
    items: list[dict[str, Any]] = [{"type": odd, "id": "i"}, message, {"type": "Mr Quagga's", "id": "j"}]
    begun = created(odd)
    begun["response"]["model"] = odd
    script = [begun, completed({**response(odd, output=items), "model": odd})]

    def play(call: Call) -> list[list[dict[str, Any]]]:
        call.evidence.rate_limits = {"x-ratelimit-policy": odd, "x-ratelimit-remaining-tokens": "5"}
        call.evidence.request_id = odd
        return [script]

    with Provider(transport=FakeTransport(play), model="m", hooks=told.append) as provider:
        provider.complete("Hi")
    [record] = told
    assert (record.response_id, record.response_model, record.request_id) == (None, None, None)
    assert record.rate_limits == {"x-ratelimit-remaining-tokens": "5"}
    assert record.output_items == {"other": 2, "message": 1}
    assert (record.server_address, record.server_port) == (None, None)


def test_every_field_is_documented() -> None:
    """Each name stands in the docstring."""
    names = set(re.findall(r"\w+", TurnRecord.__doc__ or ""))
    assert {f.name for f in dataclasses.fields(TurnRecord)} <= names
