"""`TurnRecord`: what is known of one turn when it has ended; and `Hook`, which gets it.

Rules kept here:

* A record has facts only: no prompt, no answer, no tool's name or arguments, no message of an error, no credential.
* What a server named freely (ids, models, headers, types of items) is kept where it is one short word of ASCII, else left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.result import Evidence, Result

__all__ = ["Hook", "TurnRecord", "copied", "record_of"]

_WORD, _WORDS_LIMIT = re.compile(r"[!-~]{1,200}"), 40
_ITEM_TYPE = re.compile(r"[a-z][a-z0-9_]{0,40}")


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn that has ended, on whichever way: one stream, over all its attempts. Plain data that `to_dict` makes JSON of.

    Those of its names that `Result.provider_metadata` has, too, mean the same, and tell of the last attempt only.

    Attributes:
        started_at: when the first ``next()`` came, in seconds since the epoch.
        total_ms: from there to the end, over all attempts, in milliseconds.
        model: what was asked for; None where the call ended before its request was read. It, and what a server named (ids,
            models, headers), is kept where it is one word of at most 200 characters of ASCII.
        server_address, server_port: the host (no path, no query) and port of the endpoint behind the transport that was last
            used, whatever proxy is between; None with a `Transport` of your own.
        transport_preference, active_transport: what was asked for, and what the turn ran over; None where it never began to.
        continuation: ``"delta"`` where only what was new was sent, ``"full"`` where all was, None where nothing was, as without a
            connection.
        continuation_attempted, continuation_reset_reason, used_previous_response_id: the same in more detail, and why not.
        websocket_captured_response_id, websocket_stored_previous_response_id: the chain on the connection.
        websocket_key: a digest of endpoint, credential, headers, scope and session: equal for the turns of one conversation
            within one process, and of no meaning outside of it.
        connection_reused: whether an open connection was used. close_code: the WebSocket's, if it was closed.
        fallback_reason, fallback_message: why it ran over HTTP and not over a WebSocket; both in this library's own words.
        attempts: how many were made. replays: how many further ones there were, by the reason; a fallback is not among them.
        bytes_sent: what the last attempt sent, in bytes, over HTTP with its headers. bytes_sent_total: what all of them did.
        input_bytes_held: with a delta, the bytes of the history that the server had already and that were not sent, counted as
            they were when they went over the wire; 0 else.
        input_items_sent, input_items_total: the items that were sent, and those of the whole history.
        connect_ms: how long the opening of a connection took, None where none was opened.
        first_event_ms: from the sending to the first event. processing_ms: what the server says it took.
        malformed_events: events that were no JSON objects, and were skipped.
        finish_reason: as `Result`'s; None for an error.
        error_kind, error_phase, error_status, error_retryable: as `PixirError`'s; None where there is a result.
        output_seen: whether output had come before the end.
        output_items: how many items came, by type.
        usage: tokens as in ``Result.usage_summary``; None where the server told none.
        response_id, response_model, request_id: the server's.
        rate_limits: the server's headers about limits.
    """

    started_at: float
    total_ms: float | None = None
    model: str | None = None
    server_address: str | None = None
    server_port: int | None = None
    transport_preference: str = "auto"
    active_transport: str | None = None
    continuation: Literal["delta", "full"] | None = None
    continuation_attempted: bool = False
    continuation_reset_reason: str | None = None
    used_previous_response_id: bool = False
    websocket_captured_response_id: str | None = None
    websocket_stored_previous_response_id: str | None = None
    websocket_key: str | None = None
    connection_reused: bool = False
    close_code: int | None = None
    fallback_reason: str | None = None
    fallback_message: str | None = None
    attempts: int = 0
    replays: dict[str, int] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_sent_total: int = 0
    input_bytes_held: int = 0
    input_items_sent: int = 0
    input_items_total: int = 0
    connect_ms: float | None = None
    first_event_ms: float | None = None
    processing_ms: float | None = None
    malformed_events: int = 0
    finish_reason: str | None = None
    error_kind: str | None = None
    error_phase: str | None = None
    error_status: int | None = None
    error_retryable: bool | None = None
    output_seen: bool = False
    output_items: dict[str, int] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    response_id: str | None = None
    response_model: str | None = None
    request_id: str | None = None
    rate_limits: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON, a copy."""
        return asdict(self)


def copied(record: TurnRecord) -> TurnRecord:
    """An equal record with dicts of its own."""
    usage = None if record.usage is None else dict(record.usage)
    own = {"replays": dict(record.replays), "output_items": dict(record.output_items), "rate_limits": dict(record.rate_limits)}
    return replace(record, usage=usage, **own)  # type: ignore[arg-type]


class Hook(Protocol):
    """A callable that gets one `TurnRecord` for each turn that has ended, once. Give it to ``Provider(hooks=...)``.

    It runs on the thread that reads the stream, after the connection was given back and before the end is told, so it should be
    quick; several threads may be in it at once. What it raises harms no turn: the type of the exception is logged once, and
    ``stats()["hook_failures"]`` counts. Only what is no `Exception`, such as KeyboardInterrupt, goes on to the consumer.

    The record of a stream that was left early (`close`, a ``break``, a stream that is dropped) may come out of the garbage
    collector, where nobody's code may run. It waits, and arrives with the provider's next call, ``stats()`` or ``close()``, on
    that thread. A child process tells nothing of the streams that it inherited: they are its parent's.

    A class that wants to know where a turn was asked for may have a method ``begin_turn()``: it is called by ``stream()``, on
    that thread, and gives the callable that gets this turn's record. Of several hooks each gets a record of its own.
    """

    def __call__(self, record: TurnRecord, /) -> object: ...


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _counted(items: list[dict[str, Any]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for item in items:
        kind = item.get("type", "message")
        known = isinstance(kind, str) and _ITEM_TYPE.fullmatch(kind) and (kind in found or len(found) < _WORDS_LIMIT)
        found[kind if known else "other"] += 1
    return dict(found)


def _words(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in list(headers.items())[:_WORDS_LIMIT] if _word(name) and _word(value)}


def _continuation(ended: Result | PixirError, evidence: Evidence) -> str | None:
    """What the last attempt sent. A `Transport` of somebody's own may count no bytes: an answer is proof, too."""
    answered = isinstance(ended, Result) or ended.output_seen
    if evidence.active_transport is None or not (evidence.bytes_sent or answered):
        return None
    return "delta" if evidence.used_previous_response_id else "full"


_COPIED = {f.name for f in fields(TurnRecord)} & {f.name for f in fields(Evidence)}
_NAMED_BY_THE_SERVER = ("websocket_captured_response_id", "websocket_stored_previous_response_id")


def record_of(ended: Result | PixirError, evidence: Evidence, **known: Any) -> TurnRecord:
    """The record of a turn that ended so. ``known``: the fields that neither of the two knows."""
    facts = {name: getattr(evidence, name) for name in _COPIED}
    facts |= {name: _word(facts[name]) for name in _NAMED_BY_THE_SERVER}
    result = ended.partial if isinstance(ended, PixirError) else ended
    if isinstance(ended, PixirError):
        facts |= {"error_kind": ended.kind, "error_phase": ended.phase, "error_status": ended.status}
        facts |= {"error_retryable": ended.retryable, "output_seen": ended.output_seen}
    if result is not None:
        items = result.output_items
        facts |= {"output_items": _counted(items), "usage": result.usage_summary and dict(result.usage_summary)}
        facts |= {"response_id": _word(result.response_id), "response_model": _word(result.model)}
    if isinstance(ended, Result):
        facts |= {"finish_reason": ended.finish_reason, "output_seen": bool(ended.output_items)}
    return TurnRecord(**{
        **facts, **known, "continuation": _continuation(ended, evidence), "model": _word(known.get("model")),
        "rate_limits": _words(evidence.rate_limits), "request_id": _word(evidence.request_id),
    })  # fmt: skip
