"""`OpenTelemetry`: one span for each turn, by the conventions for generative AI. The only importer of opentelemetry.

Rules kept here:

* The span is made when the turn has ended, with the times at which it began and ended.
* No attribute holds content: neither the messages nor the message of an error.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pixir_sync.forking import importing
from pixir_sync.hooks.record import Hook, TurnRecord
from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetry"]

# By the end of the host's name: today's gen_ai.provider.name, and the older gen_ai.system. Other hosts speak OpenAI's protocol.
_PROVIDERS = {
    "openai.azure.com": ("azure.ai.openai", "az.ai.openai"),
    "x.ai": ("x_ai", "xai"),
}  # fmt: skip
_OPENAI = ("openai", "openai")
_USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_OWN = ("active_transport", "continuation", "continuation_reset_reason", "fallback_reason", "attempts", "connection_reused",
        "bytes_sent_total", "input_bytes_held")  # fmt: skip
_LEFT = "cancelled"  # the caller's own wish, not a failure


class OpenTelemetry:
    """A hook that makes one span of kind CLIENT for each turn, named ``chat MODEL``. Threads share it.

    Its parent is the span that was current on the thread that called ``stream()``, whoever reads the stream. It has the
    attributes of OpenTelemetry's conventions for generative AI, without content, and some of `TurnRecord` under ``pixir_sync.``.
    The status of a turn that failed is ERROR, and ``error.type`` the error's kind; one that the caller cancelled or left has
    neither.

    Args:
        tracer_provider: where the spans go; default: the global one, also where that is set later.

    Raises:
        ImportError: without opentelemetry-api (extra ``otel``). InvalidRequest: for what is no tracer provider.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        try:
            with importing:
                from opentelemetry import context, trace
        except ImportError as error:
            raise ImportError("the OpenTelemetry hook needs opentelemetry-api: pip install 'pixir-sync[otel]'") from error
        if tracer_provider is not None and not callable(getattr(tracer_provider, "get_tracer", None)):
            raise InvalidRequest(f"tracer_provider must be a TracerProvider, not {type(tracer_provider).__name__}")
        self._given = tracer_provider
        self._trace, self._current = trace, context.get_current
        self._tracer = trace.get_tracer("pixir_sync", __version__, tracer_provider)

    def begin_turn(self) -> Hook:
        """A turn is asked for: remember under which span."""
        return partial(self._span, self._current())

    def __call__(self, record: TurnRecord) -> None:
        """Make the span of a turn under the current one."""
        self._span(self._current(), record)

    def _span(self, parent: Context, record: TurnRecord) -> None:
        began = int(record.started_at * 1e9)
        name = " ".join(filter(None, ("chat", record.model)))
        kind = self._trace.SpanKind.CLIENT
        span = self._tracer.start_span(name, parent, kind, attributes=_asked(record), start_time=began)
        if span.is_recording():
            span.set_attributes(_answered(record))
            if record.error_kind not in (None, _LEFT):
                span.set_status(self._trace.StatusCode.ERROR)
        span.end(began + int((record.total_ms or 0) * 1e6))

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenTelemetry, (self._given,)

    def __repr__(self) -> str:
        return f"<OpenTelemetry {'default' if self._given is None else type(self._given).__name__}>"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _asked(record: TurnRecord) -> dict[str, Any]:
    """What is known when a turn begins: a sampler may look at it."""
    host = record.server_address or ""
    ends = (end for end in _PROVIDERS if host == end or host.endswith("." + end))
    provider, system = _PROVIDERS.get(next(ends, ""), _OPENAI)
    return _given({
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": provider, "gen_ai.system": system,
        "gen_ai.request.model": record.model, "gen_ai.request.stream": True, "openai.api.type": "responses",
        "server.address": record.server_address, "server.port": record.server_port,
    })  # fmt: skip


def _answered(record: TurnRecord) -> dict[str, Any]:
    usage = record.usage or {}
    return _given({
        "gen_ai.response.model": record.response_model, "gen_ai.response.id": record.response_id,
        "gen_ai.response.finish_reasons": [record.finish_reason] if record.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": None if record.first_event_ms is None else record.first_event_ms / 1000,
        "error.type": None if record.error_kind == _LEFT else record.error_kind,
        **{name: usage.get(of) for of, name in _USAGE.items()},
        **{f"pixir_sync.{name}": getattr(record, name) for name in _OWN},
        **{f"pixir_sync.replays.{reason}": count for reason, count in record.replays.items()},
        "pixir_sync.cancelled": True if record.error_kind == _LEFT else None,
    })  # fmt: skip
