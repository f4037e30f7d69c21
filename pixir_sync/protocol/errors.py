"""The errors, all of them. Every failure of this library is a `PixirError`.

::

    PixirError
    ├ InvalidRequest invalid_args · NotAuthenticated not_authenticated · Cancelled cancelled · ProviderClosed closed
    ├ TransportError transport_error
    │   ├ ConnectFailed connect_failed · HandshakeRefused handshake_refused
    │   └ ConnectionLost connection_lost · FrameTooLarge frame_too_large
    ├ DeadlineExceeded deadline_exceeded (also a TimeoutError)
    │   ├ ConnectTimeout connect_timeout · PoolTimeout pool_timeout (SessionBusy session_busy)
    │   ├ FirstEventTimeout first_event_timeout · IdleTimeout idle_timeout
    │   └ WriteTimeout write_timeout · TotalTimeout total_timeout
    ├ InvalidResponse invalid_response
    └ ProviderError provider_http_error
        ├ RateLimited rate_limited · Overloaded overloaded · UsageLimitReached usage_limit_reached
        ├ QuotaExceeded quota_exceeded · ContextOverflow context_overflow · ModelNotSupported model_not_supported
        └ PermissionDenied permission_denied · ResponseFailed response_failed · ResponseCancelled response_cancelled

Rules kept here:

* ``repr`` and ``to_dict`` never hold a credential, a prompt or an answer. ``message`` of a provider's error is the provider's
  own text and may quote the request: it goes to the caller, never to a log.
* An error pickles with everything it knows, so that it crosses a process pool.
* This module imports nothing of the project.
"""

from __future__ import annotations

import copyreg
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from pixir_sync.protocol.result import Result

__all__ = [
    "MESSAGE_LIMIT", "Cancelled", "ConnectFailed", "ConnectTimeout", "ConnectionLost", "ContextOverflow", "DeadlineExceeded",
    "FirstEventTimeout", "FrameTooLarge", "HandshakeRefused", "IdleTimeout", "InvalidRequest", "InvalidResponse",
    "ModelNotSupported", "NotAuthenticated", "Overloaded", "PermissionDenied", "Phase", "PixirError", "PoolTimeout",
    "ProviderClosed", "ProviderError", "QuotaExceeded", "RateLimited", "ResponseCancelled", "ResponseFailed", "SessionBusy",
    "TotalTimeout", "TransportError", "UsageLimitReached", "WriteTimeout",
]  # fmt: skip

Phase = Literal["shape", "auth", "pool", "connect", "send", "first_event", "stream"]

MESSAGE_LIMIT = 2_000
"""The longest message of an error, in characters."""


class PixirError(Exception):
    """Base of every error that this library raises.

    Attributes:
        kind: the stable name of the error's class, for programs that do not import the classes.
        message: one sentence; the provider's own where the provider refused (at most `MESSAGE_LIMIT` characters).
        details: further facts as plain JSON; which ones depends on the kind.
        code: the provider's machine-readable code, or None.
        retryable: whether the same call may succeed later.
        phase: how far the call had come (shape, auth, pool, connect, send, first_event, stream), or None outside of a call.
        request_sent: whether the server may have seen the request.
        output_seen: whether output had reached the caller; such a call is never replayed.
        status: the HTTP status, or the status that an error event names; or None.
        retry_after: the server's delay in seconds, or None.
        response_id, request_id: the provider's ids for support, where known.
        partial: the `Result` assembled so far; never None once the stream has started. Not in `to_dict`.
    """

    kind: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        code: str | None = None,
        retryable: bool | None = None,
        phase: Phase | None = None,
        request_sent: bool = False,
        output_seen: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
        response_id: str | None = None,
        request_id: str | None = None,
        partial: Result | None = None,
    ) -> None:
        if len(message) > MESSAGE_LIMIT:
            message = message[: MESSAGE_LIMIT - 1] + "…"
        super().__init__(message)
        self.args = (message,)  # said outright, because OSError, a base of the deadlines, keeps none
        self.message = message
        self.details: dict[str, Any] = details if details is not None else {}
        self.code = code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.phase = phase
        self.request_sent = request_sent
        self.output_seen = output_seen
        self.status = status
        self.retry_after = retry_after
        self.response_id = response_id
        self.request_id = request_id
        self.partial = partial

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        facts = [self.kind]
        facts += [f"{n}={v!r}" for n in ("status", "code", "phase") if (v := getattr(self, n)) is not None]
        return f"<{type(self).__name__} {' '.join(facts)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The state travels in __dict__; the constructor is not called again (its keywords would have to match for ever).
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        super().__setstate__(state)
        self.args = (self.message,)

    def to_dict(self) -> dict[str, Any]:
        """Everything but `partial`, as plain JSON. The message may quote the request: do not log it."""
        names = ("kind", "message", "details", "code", "retryable", "phase", "request_sent", "output_seen", "status",
                 "retry_after", "response_id", "request_id")  # fmt: skip
        return {name: getattr(self, name) for name in names}


class InvalidRequest(PixirError):
    """An option, a value or a history item is wrong. Found before any network; the message names the field."""

    kind = "invalid_args"


class NotAuthenticated(PixirError):
    """No key, a key that cannot be sent, or a key that the provider refused (status 401)."""

    kind = "not_authenticated"


class Cancelled(PixirError):
    """The caller cancelled the stream, or closed it early."""

    kind = "cancelled"


class ProviderClosed(PixirError):
    """The `Provider` was closed, before the call or during it."""

    kind = "closed"


class TransportError(PixirError):
    """The network failed, not the provider."""

    kind = "transport_error"
    default_retryable = True


class ConnectFailed(TransportError):
    """No connection: name resolution, TCP, proxy or TLS. ``details["certificate"]`` is true for an untrusted certificate."""

    kind = "connect_failed"


class HandshakeRefused(TransportError):
    """The server did not agree to a WebSocket (`status`, and its headers and body in `details`)."""

    kind = "handshake_refused"


class ConnectionLost(TransportError):
    """The connection ended before the response did."""

    kind = "connection_lost"


class FrameTooLarge(TransportError):
    """The request, or an event of the server's, is over the size limit of a frame or an event."""

    kind = "frame_too_large"
    default_retryable = False


class DeadlineExceeded(PixirError, TimeoutError):
    """A time limit of `Timeouts` passed."""

    kind = "deadline_exceeded"


class ConnectTimeout(DeadlineExceeded):
    """No connection within ``Timeouts.connect``. Nothing was sent, so that another try is safe."""

    kind = "connect_timeout"
    default_retryable = True


class PoolTimeout(DeadlineExceeded):
    """No connection became free within ``Timeouts.pool``."""

    kind = "pool_timeout"
    default_retryable = True


class SessionBusy(PoolTimeout):
    """The session is in use by the very thread that asks for it: waiting would never end."""

    kind = "session_busy"
    default_retryable = False


class FirstEventTimeout(DeadlineExceeded):
    """The request was sent and no event came within ``Timeouts.first_event``."""

    kind = "first_event_timeout"


class IdleTimeout(DeadlineExceeded):
    """The stream had begun and no further event came within ``Timeouts.idle``."""

    kind = "idle_timeout"


class WriteTimeout(DeadlineExceeded):
    """Not one byte of the request was accepted for ``Timeouts.write``."""

    kind = "write_timeout"


class TotalTimeout(DeadlineExceeded):
    """The call, all its attempts counted, took longer than ``Timeouts.total``."""

    kind = "total_timeout"


class InvalidResponse(PixirError):
    """The server sent what the protocol does not allow, or the answer is not what was asked for; see `partial`."""

    kind = "invalid_response"


class ProviderError(PixirError):
    """The provider answered with an error that has no narrower class here."""

    kind = "provider_http_error"


class RateLimited(ProviderError):
    """Too many requests for now; `retry_after` says how long, where the provider told."""

    kind = "rate_limited"
    default_retryable = True


class Overloaded(ProviderError):
    """The provider has no capacity for now."""

    kind = "overloaded"
    default_retryable = True


class UsageLimitReached(ProviderError):
    """The plan's usage limit is reached; ``details`` has ``plan_type``, ``resets_at`` and ``resets_in_minutes`` where told."""

    kind = "usage_limit_reached"


class QuotaExceeded(ProviderError):
    """No credit, or a spending limit is reached."""

    kind = "quota_exceeded"


class ContextOverflow(ProviderError):
    """The input is longer than the model's context."""

    kind = "context_overflow"


class ModelNotSupported(ProviderError):
    """The model does not exist here, or not for this account."""

    kind = "model_not_supported"


class PermissionDenied(ProviderError):
    """The credential is known and may not do this (status 403)."""

    kind = "permission_denied"


class ResponseFailed(ProviderError):
    """The response began and the provider ended it as failed."""

    kind = "response_failed"


class ResponseCancelled(ProviderError):
    """The response was cancelled on the provider's side."""

    kind = "response_cancelled"
