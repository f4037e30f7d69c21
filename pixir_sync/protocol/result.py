"""What a call gives back: `Result`, with `Usage` for the two naming schemes and `Evidence` of how the call ran.

Rules kept here:

* Everything in a `Result` but `parsed` is plain JSON or a data class of it: it goes through ``to_json`` and back.
* ``repr`` shows no text of the answer.
* dataclasses-json does the conversion. It is imported at its first use: it costs more than all else here together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, Self, TypeVar

from pixir_sync.protocol.values import Value

__all__ = ["Evidence", "FinishReason", "FunctionCall", "JsonData", "Result", "Usage", "made_of", "usage_counts"]

T = TypeVar("T")
FinishReason = Literal["stop", "tool_calls", "length", "content_filter", "steered"]


class JsonData(Value):
    """Conversion to and from JSON by dataclasses-json, for a data class that inherits it. Unknown keys are left out."""

    def to_dict(self, encode_json: bool = False) -> dict[str, Any]:
        """The fields as plain data, deeply copied."""
        from dataclasses_json import DataClassJsonMixin

        return DataClassJsonMixin.to_dict(self, encode_json=encode_json)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The fields as JSON text."""
        from pixir_sync.protocol.codec import dumps

        return dumps(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises KeyError for a missing field that has no default."""
        from dataclasses_json import DataClassJsonMixin

        made: Self = DataClassJsonMixin.from_dict.__func__(cls, data)  # type: ignore[attr-defined]
        return made

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`. Raises `CodecError` where the text is no JSON object."""
        from pixir_sync.protocol.codec import CodecError, loads

        data = loads(text)
        if not isinstance(data, dict):
            raise CodecError("not a JSON object")
        return cls.from_dict(data)


def made_of(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A frozen data class with these fields; the others are its class's defaults, but for those that a factory makes.

    (Its own ``__init__`` sets each by a call: of a `Result` and a `Request` a thirtieth of a turn.)
    """
    made = object.__new__(kind)
    vars(made).update(fields)
    return made


@dataclass(frozen=True, eq=False, repr=False)
class FunctionCall(JsonData):
    """A tool call that waits for its output.

    Attributes:
        call_id: to be given back with ``tool_output(call_id, …)``.
        name: the tool.
        args: the parsed arguments; None where there is no JSON object (a custom tool, or a call cut off by a limit).
        arguments: the arguments exactly as they came; a custom tool's free text.
        type: ``function_call`` or ``custom_tool_call``.

    >>> from pixir_sync import FunctionCall, tool_output
    >>> call = FunctionCall(call_id="call_1", name="add", args={"a": 1, "b": 2}, arguments='{"a":1,"b":2}')
    >>> tool_output(call.call_id, sum(call.args.values()))["output"]
    '3'
    """

    call_id: str
    name: str
    args: dict[str, Any] | None
    arguments: str
    type: str = "function_call"

    def __repr__(self) -> str:
        return f"<FunctionCall {self.name} {self.call_id}>"


def _first(raw: Any, *names: str) -> int:
    """The first of these that is a count; 0 where none is."""
    for name in names if isinstance(raw, dict) else ():
        value = raw.get(name)
        if type(value) is int and 0 <= value < 2**63:
            return value
    return 0


@dataclass(frozen=True, eq=False, repr=False)
class Usage(JsonData):
    """Token counts in one naming, read from either of the two that servers use. Every field is in tokens.

    ``cache_hit_rate`` is cached over input tokens, None where there was no input.

    >>> from pixir_sync import Usage
    >>> usage = Usage.read({"prompt_tokens": 8, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}})
    >>> usage.input_tokens, usage.total_tokens, usage.cache_hit_rate
    (8, 10, 0.5)
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_hit_rate: float | None = None

    @classmethod
    def read(cls, raw: Any) -> Usage | None:
        """From a server's ``usage`` object; None where there is none."""
        counts = usage_counts(raw)
        return made_of(cls, counts) if counts is not None else None


def _detail(groups: list[Any], name: str) -> int:
    """The count in the first of these groups that has one above 0."""
    for group in groups:
        if count := _first(group, name):
            return count
    return 0


def usage_counts(raw: Any) -> dict[str, Any] | None:
    """The fields of `Usage` from a server's ``usage`` object; None where there is none."""
    if not isinstance(raw, dict):
        return None
    of_input = [raw[name] for name in ("input_tokens_details", "prompt_tokens_details") if name in raw]
    of_output = [raw[name] for name in ("output_tokens_details", "completion_tokens_details") if name in raw]
    inputs = _first(raw, "input_tokens", "prompt_tokens")
    outputs = _first(raw, "output_tokens", "completion_tokens")
    cached = _detail(of_input, "cached_tokens")
    return {
        "input_tokens": inputs,
        "output_tokens": outputs,
        "total_tokens": _first(raw, "total_tokens") or inputs + outputs,
        "cached_tokens": cached,
        "cache_write_tokens": _detail(of_input, "cache_write_tokens"),
        "reasoning_tokens": _detail(of_output, "reasoning_tokens"),
        "cache_hit_rate": cached / inputs if inputs else None,
    }


@dataclass(slots=True, eq=False, repr=False)  # to make the last two would be 0.3 ms of a cold start
class Evidence:
    """How the delivered call ran, as ``provider_metadata``; who learns a fact fills it in. Times in milliseconds."""

    transport_preference: str = "auto"
    active_transport: str | None = None
    fallback_reason: str | None = None
    fallback_message: str | None = None
    continuation_attempted: bool = False
    continuation_reset_reason: str | None = None
    used_previous_response_id: bool = False
    websocket_captured_response_id: str | None = None
    websocket_stored_previous_response_id: str | None = None
    websocket_key: str | None = None
    connection_reused: bool = False
    close_code: int | None = None
    attempts: int = 0
    bytes_sent: int = 0
    input_bytes_held: int = 0
    input_items_sent: int = 0
    input_items_total: int = 0
    malformed_events: int = 0
    request_id: str | None = None
    processing_ms: float | None = None
    rate_limits: dict[str, str] = field(default_factory=dict)
    connect_ms: float | None = None
    first_event_ms: float | None = None
    total_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain JSON, a copy."""
        return {**dict(zip(_FACTS, _facts(self), strict=True)), "rate_limits": dict(self.rate_limits)}

    def next_attempt(self) -> None:
        """Forget what described an attempt that failed: the evidence tells of the delivered one."""
        if self.attempts or self.active_transport is not None:
            for name, default in _OF_AN_ATTEMPT.items():
                setattr(self, name, default)
            self.rate_limits = {}
        self.attempts += 1


_FACTS = tuple(f.name for f in fields(Evidence))
_facts = attrgetter(*_FACTS)  # all in one step: a tenth of the work of dataclasses.asdict
_OF_A_CALL = {"transport_preference", "fallback_reason", "fallback_message", "attempts", "continuation_reset_reason"}
_OF_AN_ATTEMPT = {f.name: f.default for f in fields(Evidence) if f.name not in _OF_A_CALL and f.default is not MISSING}


@dataclass(frozen=True, eq=False, repr=False)
class Result(JsonData):
    """The outcome of one call. ``str(result)`` is its text.

    Attributes:
        text: the answer. reasoning: the reasoning summary, or the reasoning itself where the server shows it.
        refusal: why the model declined; ``""`` where it did not.
        reasoning_items: the reasoning items, as they came.
        function_calls: the calls that wait for an output, in order.
        output_items: every item in arrival order, plain dicts, ready to append to a history.
        provider_hosted_tools: what ran on the provider's side: type, id, status of each call.
        web_search: how many searches ran and what they cited, without the queries.
        finish_reason: why the answer ended; None for a partial result that has no end.
        parsed: the value of the answer where ``output_schema`` was given; does not travel in JSON.
        usage: the server's object; usage_summary: the same in one naming (`Usage`), with the cache hit rate.
        response_id, model: the server's. response: the server's last response object.
        provider_metadata: how the delivered call ran (`Evidence`).

    >>> from pixir_sync import Result
    >>> result = Result(text="Hi", finish_reason="stop")
    >>> print(result, repr(result))
    Hi <Result stop characters=2 items=0 calls=0 id=None>
    >>> Result.from_json(result.to_json()) == result
    True
    """

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    reasoning_items: list[dict[str, Any]] = field(default_factory=list)
    function_calls: list[FunctionCall] = field(default_factory=list)
    output_items: list[dict[str, Any]] = field(default_factory=list)
    provider_hosted_tools: list[dict[str, Any]] = field(default_factory=list)
    web_search: dict[str, Any] = field(default_factory=dict)
    finish_reason: FinishReason | None = None
    parsed: Any = None
    usage: dict[str, Any] | None = None
    usage_summary: dict[str, Any] | None = None
    response_id: str | None = None
    model: str | None = None
    response: dict[str, Any] | None = None
    provider_metadata: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return (f"<Result {self.finish_reason or 'partial'} characters={len(self.text)} items={len(self.output_items)}"
                f" calls={len(self.function_calls)} id={self.response_id}>")  # fmt: skip

    def to_dict(self, encode_json: bool = False) -> dict[str, Any]:
        """The fields as plain data; ``parsed`` may hold any object and is left out."""
        data = super().to_dict(encode_json)
        data.pop("parsed", None)
        return data
