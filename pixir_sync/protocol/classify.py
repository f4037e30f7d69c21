"""From what a server said to the error it means: one table by code and type, one by status, one by close code.

Rules kept here:

* Every shape is read alike: ``{"error": {…}}``, the flat ``error`` event, ``response.failed`` with ``response.error``,
  ``{"detail": …}``, a bare string. ``status``, ``code`` and ``type`` may each be missing; a code may be a number.
* The code decides, then the type, then what the message says, then the status. An error in a stream that nothing names
  is `ResponseFailed`; a refusal before it is `ProviderError`. ``x-should-retry`` overrides what the status says, and a
  code's yes, never a code's no.
* Credential values are replaced in everything that is kept; bodies are capped at `BODY_LIMIT` bytes, with a flag.
* Pure: the wall clock (for delays given as dates) is passed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pixir_sync.protocol.codec import CodecError, loads
from pixir_sync.protocol.errors import (
    ConnectionLost,
    ContextOverflow,
    FrameTooLarge,
    HandshakeRefused,
    ModelNotSupported,
    NotAuthenticated,
    Overloaded,
    PermissionDenied,
    PixirError,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ResponseCancelled,
    ResponseFailed,
    UsageLimitReached,
)
from pixir_sync.protocol.retry import retry_after

__all__ = ["BODY_LIMIT", "from_close", "from_event", "from_http", "redact"]

BODY_LIMIT = 16_384
"""How much of an error's body is kept, in bytes."""

_NEVER, _RETRY = False, True

# What each code (or, where there is none, type) means: the error's class, and whether the same call may be sent again.
CODES: dict[str, tuple[type[PixirError], bool]] = {
    "previous_response_not_found": (ProviderError, _NEVER),  # the replay table sends the whole input instead
    "websocket_connection_limit_reached": (ProviderError, _NEVER),  # the replay table opens a fresh socket
    "websocket_stream_limit_reached": (ProviderError, _NEVER),
    "invalid_stream_id": (ProviderError, _NEVER),
    "rate_limit_exceeded": (RateLimited, _RETRY),
    "rate_limit_error": (RateLimited, _RETRY),
    "slow_down": (RateLimited, _RETRY),
    "too_many_requests": (RateLimited, _RETRY),
    "server_is_overloaded": (Overloaded, _RETRY),
    "service_unavailable_error": (Overloaded, _RETRY),
    "overloaded": (Overloaded, _RETRY),
    "overloaded_error": (Overloaded, _RETRY),
    "insufficient_quota": (QuotaExceeded, _NEVER),
    "credit_balance_exhausted": (QuotaExceeded, _NEVER),
    "billing_hard_limit_reached": (QuotaExceeded, _NEVER),
    "usage_limit_reached": (UsageLimitReached, _NEVER),
    "usage_not_included": (UsageLimitReached, _NEVER),
    "context_length_exceeded": (ContextOverflow, _NEVER),
    "model_not_found": (ModelNotSupported, _NEVER),
    "model_not_supported": (ModelNotSupported, _NEVER),
    "invalid_api_key": (NotAuthenticated, _NEVER),
    "authentication_error": (NotAuthenticated, _NEVER),
    "permission_denied": (PermissionDenied, _NEVER),
    "invalid_prompt": (ProviderError, _NEVER),
    "bio_policy": (ProviderError, _NEVER),
    "cyber_policy": (ProviderError, _NEVER),
    "misalignment_policy_violation": (ProviderError, _NEVER),
    "data_residency_mismatch": (ProviderError, _NEVER),
}
_ENDINGS: dict[str, tuple[type[PixirError], bool]] = {
    "_spend_limit_exceeded": (QuotaExceeded, _NEVER),
    "_usage_limit_exceeded": (QuotaExceeded, _NEVER),
}

# What a message without a telling code says; the code that it stands for. Only a failure asks: `re` compiles them then.
_MESSAGES = (
    (r"(?i)previous response (with id )?.*not found", "previous_response_not_found"),
    (r"previous_response_not_found", "previous_response_not_found"),
    (r"(?i)maximum context length|context window|context length", "context_length_exceeded"),
    (r"(?i)model\b.*\b(not supported|does not exist)", "model_not_supported"),
)
_TOO_GENERAL = frozenset({
    "", "invalid_request_error", "invalid_request", "not_found", "not_found_error", "api_error", "error",
})  # fmt: skip

STATUSES: dict[int, tuple[type[PixirError], bool]] = {
    401: (NotAuthenticated, _NEVER),
    403: (PermissionDenied, _NEVER),
    429: (RateLimited, _RETRY),
    503: (Overloaded, _RETRY),
    529: (Overloaded, _RETRY),
}
_RETRIED_STATUSES = frozenset({408, 409})

CLOSE_CODES: dict[int, tuple[type[PixirError], bool]] = {
    1001: (ConnectionLost, _RETRY),
    1005: (ConnectionLost, _RETRY),
    1006: (ConnectionLost, _RETRY),
    1008: (HandshakeRefused, _NEVER),
    1009: (FrameTooLarge, _NEVER),
    1011: (ConnectionLost, _RETRY),
    1012: (ConnectionLost, _RETRY),
    1013: (ConnectionLost, _RETRY),
    4402: (QuotaExceeded, _NEVER),
}


@dataclass(eq=False, repr=False)
class _Facts:
    """What a server said, whichever shape it chose."""

    message: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without the credential values."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= 4:
            text = text.replace(secret, "[credential]")
    return text


def _redact_end(text: str, secrets: Iterable[str]) -> str:
    """The text of a body that was cut off, without the beginning of a credential value at its end."""
    for secret in secrets:
        for size in range(len(secret) - 1, 3, -1):
            if text.endswith(secret[:size]):
                return text[:-size] + "[credential]"
    return text


_STATUS = "[45][0-9][0-9]"
_KEPT = ("param", "plan_type", "resets_at", "resets_in_seconds")


def _text(value: Any) -> str:
    """A code or a message as text: numbers are accepted, anything else that is no text is nothing."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _read(data: Any, status: int | None, headers: Mapping[str, str]) -> _Facts:
    """The facts of an error object in any of its shapes."""
    facts = _Facts(status=status, headers=headers)
    if isinstance(data, str):
        facts.message = data
        return facts
    if not isinstance(data, dict):
        return facts
    inner = data.get("error")
    response = data.get("response")
    detail = data.get("detail")
    if inner is None and isinstance(response, dict):
        inner = response.get("error")
    if inner is None and isinstance(detail, dict):
        inner = detail
    body = inner if isinstance(inner, dict) else data
    facts.message = inner if isinstance(inner, str) else _text(body.get("message"))
    if not facts.message and detail is not None:
        facts.message = detail if isinstance(detail, str) else _detail_messages(detail)
    facts.code = _text(body.get("code"))
    if body is not data or not _is_event(data):
        facts.type = _text(body.get("type"))
    for holder in (data, body):
        if facts.status is None and type(holder.get("status")) is int:
            facts.status = holder["status"]
        if isinstance(holder.get("headers"), dict):
            facts.headers = {str(k).lower(): _text(v) for k, v in holder["headers"].items()} | dict(facts.headers)
    if facts.status is None and re.fullmatch(_STATUS, facts.code):
        facts.status = int(facts.code)
    facts.details = {n: body[n] for n in _KEPT if isinstance(body.get(n), (str, int, float))}
    if facts.type:
        facts.details["type"] = facts.type
    return facts


def _is_event(data: dict[str, Any]) -> bool:
    """Whether the object's type is an event's, which says nothing about the error."""
    kind = data.get("type")
    return isinstance(kind, str) and (kind == "error" or kind.startswith("response."))


def _detail_messages(detail: Any) -> str:
    """The messages of FastAPI's list of validation errors; it quotes inputs elsewhere, which are left out."""
    rows = detail if isinstance(detail, list) else [detail]
    return "; ".join(_text(row.get("msg") or row.get("message")) for row in rows if isinstance(row, dict))


def _rule(facts: _Facts, in_stream: bool) -> tuple[type[PixirError], bool]:
    for name in (facts.code, facts.type):
        if name in CODES:
            return CODES[name]
        for ending, rule in _ENDINGS.items():
            if name.endswith(ending):
                return rule
    if facts.code in _TOO_GENERAL or facts.code.isdecimal():
        for pattern, code in _MESSAGES:
            if re.search(pattern, facts.message):
                facts.code = code
                return CODES[code]
    status = facts.status or 0
    if status in STATUSES:
        return STATUSES[status]
    server_fault = status >= 500 or facts.code == "server_error" or facts.type == "server_error"
    kind = ResponseFailed if in_stream and not 400 <= status < 500 else ProviderError
    return kind, server_fault or status in _RETRIED_STATUSES


def _usage_details(facts: _Facts, now: float) -> None:
    """When a usage limit resets, in minutes: from the seconds or the time given."""
    for name, since in (("resets_in_seconds", 0.0), ("resets_at", now)):
        value = facts.details.get(name)
        if isinstance(value, (int, float)) and abs(value) < 1e12:
            facts.details["resets_in_minutes"] = max(0, math.ceil((value - since) / 60))
            return


def _error(facts: _Facts, *, in_stream: bool, secrets: Iterable[str], now: float) -> PixirError:
    kind, retryable = _rule(facts, in_stream)
    named = kind not in (ProviderError, ResponseFailed) or facts.code in CODES or facts.type in CODES
    if kind is UsageLimitReached:
        _usage_details(facts, now)
    advice = facts.headers.get("x-should-retry")
    if advice in ("true", "false") and (retryable or not named):
        retryable = advice == "true"
    said = facts.message or f"the provider answered with {facts.status or facts.code or 'an error'}"
    return kind(
        redact(said, secrets),
        details={name: redact(v, secrets) if isinstance(v, str) else v for name, v in facts.details.items()},
        code=redact(facts.code or facts.type, secrets) or None,
        retryable=retryable,
        status=facts.status,
        retry_after=retry_after(facts.headers, facts.message, now),
        request_id=facts.headers.get("x-request-id"),
    )


def from_event(data: dict[str, Any], *, secrets: Iterable[str] = (), now: float = 0.0) -> PixirError:
    """The error of an ``error`` event, or of a terminal event whose response failed or was cancelled.

    ``now`` is the wall clock in seconds, for delays that are given as dates.
    """
    response = data.get("response")
    status = response.get("status") if isinstance(response, dict) else None
    facts, secrets = _read(data, None, {}), tuple(secrets)
    if data.get("type") == "response.cancelled" or (status == "cancelled" and data.get("type") != "error"):
        return ResponseCancelled(redact(facts.message, secrets) or "the response was cancelled on the provider's side",
                                 code=redact(facts.code, secrets) or None)  # fmt: skip
    return _error(facts, in_stream=True, secrets=secrets, now=now)


def from_http(
    status: int, headers: Mapping[str, str], body: bytes, *, secrets: Iterable[str] = (), now: float = 0.0
) -> PixirError:
    """The error of an HTTP refusal.

    Args:
        headers: with names in lower case.
        body: up to ``BODY_LIMIT + 1`` bytes; one more than the limit says that it was cut off.
    """
    secrets = tuple(secrets)
    cut = len(body) > BODY_LIMIT
    body = body[:BODY_LIMIT]
    text = redact(body.decode("utf-8", "replace"), secrets)
    text = _redact_end(text, secrets) if cut else text
    try:
        data = loads(body)
    except CodecError:
        data = text.strip() if "<html" not in text[:1000].lower() else None
    facts = _read(data, status, headers)
    error = _error(facts, in_stream=False, secrets=secrets, now=now)
    error.details |= {"body": text, "body_truncated": cut}
    return error


def from_close(code: int, reason: str, *, secrets: Iterable[str] = ()) -> PixirError:
    """The error of a connection that the server closed before a terminal event."""
    kind, retryable = CLOSE_CODES.get(code, (ConnectionLost, _NEVER))
    message = f"the server closed the connection with code {code}" + (f": {redact(reason, secrets)}" if reason else "")
    return kind(message, details={"close_code": code}, retryable=retryable)
