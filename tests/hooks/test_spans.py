"""`OpenTelemetry`: one span for each turn, by the conventions, in its place and its time."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pixir_sync import InvalidRequest, PixirError, TurnRecord, user
from pixir_sync.hooks import OpenTelemetry
from pixir_sync.local import HttpError, LocalServer, faults
from tests.support.both import Peer, TransportName
from tests.support.fake import provider_for


class Spans:
    """A tracer provider, and the spans that ended in it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def chats(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith("chat")]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_turn_is_a_span(spans: Spans, transport: TransportName) -> None:
    """A client's, with the names of the conventions, the times of the turn, and what the server said of itself."""
    before = time.time_ns()
    with LocalServer() as server, provider_for(server, transport=transport, hooks=OpenTelemetry(spans.provider)) as provider:
        history = [user("Hi")]
        first = provider.complete(history, session="s")
        result = provider.complete([*history, *first.output_items, user("again")], session="s")
        port = server.port
    _, span = spans.chats
    found = attributes(span)
    usage = result.usage_summary or {}
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-5.5", "gen_ai.request.stream": True, "openai.api.type": "responses",
        "server.address": "127.0.0.1", "server.port": port,
        "gen_ai.response.model": result.model, "gen_ai.response.id": result.response_id,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": usage["input_tokens"], "gen_ai.usage.output_tokens": usage["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["cached_tokens"],
        "pixir_sync.active_transport": transport, "pixir_sync.attempts": 1,
        "pixir_sync.continuation": "delta" if transport == "websocket" else "full",
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert (span.name, span.kind, span.status.status_code) == ("chat gpt-5.5", SpanKind.CLIENT, StatusCode.UNSET)
    assert "error.type" not in found and span.events == ()
    assert span.start_time and span.end_time and before <= span.start_time < span.end_time <= time.time_ns()
    assert span.end_time - span.start_time == pytest.approx(result.provider_metadata["total_ms"] * 1e6, abs=1e6)


def test_a_failure_is_an_error_without_its_message(spans: Spans, transport: TransportName) -> None:
    """The status says so, ``error.type`` is the error's kind, and the provider's words stay out."""
    refusal = HttpError(400, {"error": {"message": "zebra", "code": "zebra"}})
    with Peer(transport, [refusal]) as peer, peer.provider(hooks=OpenTelemetry(spans.provider)) as provider:
        with pytest.raises(PixirError, match="zebra"):
            provider.complete("Hi")
    [span] = spans.chats
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert attributes(span)["error.type"] == "provider_http_error" and "zebra" not in span.to_json()


def test_a_stream_that_is_left_is_no_error(spans: Spans, transport: TransportName) -> None:
    """Its span ends when it was left, not when it is told of."""
    with LocalServer() as server, provider_for(server, transport=transport, hooks=OpenTelemetry(spans.provider)) as provider:
        with spans.tracer.start_as_current_span("parent") as parent, provider.stream("Hi") as stream:
            next(stream)
        left = time.time_ns()
        assert spans.chats == []
        provider.stats()
    [span] = spans.chats
    assert span.status.status_code is StatusCode.UNSET and attributes(span)["pixir_sync.cancelled"] is True
    assert "error.type" not in attributes(span) and span.end_time and span.end_time <= left + 1_000_000
    assert span.parent and span.parent.span_id == parent.get_span_context().span_id


def test_the_parent_is_the_span_that_asked(spans: Spans) -> None:
    """Whoever reads the stream, and under whatever span."""
    with LocalServer() as server, provider_for(server, hooks=OpenTelemetry(spans.provider)) as provider:
        with spans.tracer.start_as_current_span("asked") as asked:
            stream = provider.stream("Hi")

        def read() -> None:
            with spans.tracer.start_as_current_span("reads"):
                stream.result()

        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
        provider.complete("nobody asks")
    first, second = spans.chats
    assert first.parent and first.parent.span_id == asked.get_span_context().span_id
    assert first.context and first.context.trace_id == asked.get_span_context().trace_id and second.parent is None


def test_retries_and_fallbacks_are_attributes(spans: Spans) -> None:
    """One span for all the attempts, which says how many there were and why."""
    with LocalServer() as server, provider_for(server, hooks=OpenTelemetry(spans.provider)) as provider:
        with server.fault(faults.RefuseUpgrade(426)), server.fault(faults.Refuse(status=503), times=1):
            provider.complete("Hi")
    [span] = spans.chats
    found = attributes(span)
    assert (found["pixir_sync.attempts"], found["pixir_sync.fallback_reason"]) == (3, "websocket_unsupported")
    assert [name for name in found if name.startswith("pixir_sync.replays.")] == ["pixir_sync.replays.overloaded"]


@pytest.mark.parametrize(
    ("host", "provider", "system"),
    [("api.openai.com", "openai", "openai"), ("me.openai.azure.com", "azure.ai.openai", "az.ai.openai"),
     ("api.x.ai", "x_ai", "xai"), ("netflix.ai", "openai", "openai"), (None, "openai", "openai")],
)  # fmt: skip
def test_the_provider_is_known_by_its_host(spans: Spans, host: str | None, provider: str, system: str) -> None:
    """The conventions' names for those that they name; others speak OpenAI's protocol."""
    OpenTelemetry(spans.provider)(TurnRecord(started_at=1.0, server_address=host))
    [span] = spans.chats
    found = attributes(span)
    assert (found["gen_ai.provider.name"], found["gen_ai.system"], span.name) == (provider, system, "chat")


def test_without_a_sdk_nothing_happens() -> None:
    """The global provider of a program that set none makes spans of nothing; the turn does not notice."""
    with LocalServer() as server, provider_for(server, hooks=OpenTelemetry()) as provider:
        assert provider.complete("Hi").text
        assert provider.stats()["hook_failures"] == 0
    assert isinstance(trace.get_current_span().get_span_context().trace_id, int)


def test_it_pickles_and_says_what_it_is(spans: Spans) -> None:
    """With the global provider, as part of a provider that goes to another process."""
    assert repr(pickle.loads(pickle.dumps(OpenTelemetry()))) == "<OpenTelemetry default>"
    assert repr(OpenTelemetry(spans.provider)) == "<OpenTelemetry TracerProvider>"


def test_what_is_no_tracer_provider_is_refused() -> None:
    """Where it is made, by the name of the argument."""
    with pytest.raises(InvalidRequest, match="tracer_provider must be a TracerProvider, not str"):
        OpenTelemetry("http://collector")  # type: ignore[arg-type]


MISSING = """
import sys
sys.modules["opentelemetry"] = None
from pixir_sync.hooks import JsonLines, OpenTelemetry
try:
    OpenTelemetry()
except ImportError as error:
    print(error)
"""


def test_a_missing_extra_is_named() -> None:
    """The hooks import without it, and this one says what to install."""
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "the OpenTelemetry hook needs opentelemetry-api: pip install 'pixir-sync[otel]'\n"
