"""The replay table: what follows a failure that came before any output. Pure, and the only place that decides it.

Rules kept here:

* A transport makes exactly one attempt; only the turn engine sends again, and only as this table says.
* After the first output nothing is ever replayed: somebody paid for it, and it is in the error's ``partial``.
* The provider's own errors are never hidden by a change of transport.
* Where the caller owns the context (``previous_response_id``, ``conversation``) nothing is sent that would drop it.
* A row marked *once* happens once in a call, whatever comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pixir_sync.protocol.errors import (
    Cancelled,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    FrameTooLarge,
    HandshakeRefused,
    NotAuthenticated,
    PixirError,
    ProviderClosed,
    ProviderError,
)
from pixir_sync.protocol.retry import RetryPolicy

__all__ = ["Action", "Decision", "Situation", "decide", "own_words"]

NO_WEBSOCKET = frozenset({404, 405, 426, 501})
"""Statuses of an upgrade that say: there is no WebSocket here. Remembered for ten minutes."""


GATED = frozenset({"breaker_open", "websocket_unsupported", "message_too_large"})
"""Codes that say: nothing was tried, because it failed lately, or could not but fail."""


STALE = "stale_connection"
"""The code of a connection that had died before anything was sent on it."""


class Action(Enum):
    """What the turn engine does next."""

    RAISE = "raise"
    RETRY = "retry"  # the same transport, after the delay; counts as a retry
    REFRESH = "refresh"  # refresh the credential, then the same again
    FULL_SAME_SOCKET = "full_same_socket"
    FULL_FRESH_SOCKET = "full_fresh_socket"
    HTTP = "http"


@dataclass(eq=False, repr=False)
class Situation:
    """What the table looks at besides the error itself.

    Attributes:
        policy: the call's retry policy. preference: ``auto``, ``websocket`` or ``http_sse``.
        transport: the one that failed, ``websocket`` or ``http_sse``.
        connection_reused: whether the attempt ran on a connection that had served before.
        any_event, created, output: how far the attempt came.
        stores: the request has ``store: true`` or hosted tools, so that a second run has effects of its own.
        caller_managed: the caller owns the context.
        refreshable: the credential can be refreshed.
        retries: how many retries there were. once: the rows that were used up.
    """

    policy: RetryPolicy
    preference: str = "auto"
    transport: str = "http_sse"
    connection_reused: bool = False
    any_event: bool = False
    created: bool = False
    output: bool = False
    stores: bool = False
    caller_managed: bool = False
    refreshable: bool = False
    retries: int = 0
    once: set[str] = field(default_factory=set)


class Decision(NamedTuple):
    """The next step. ``delay`` in seconds for a retry; ``reason`` names the row, for the counters and the evidence."""

    action: Action
    reason: str = ""
    delay: float = 0.0
    remember: bool = False


_RAISE = Decision(Action.RAISE)

# What fails before the request is sent: to send it then is no replay.
_UNSENT = (ConnectFailed, ConnectTimeout, HandshakeRefused, FrameTooLarge)


def decide(error: PixirError, now: Situation, chance: float) -> Decision:
    """What follows this failure. Marks the *once* rows in ``now.once``.

    ``chance`` (0 to 1) is the random part of the backoff.
    """
    if now.output or isinstance(error, (Cancelled, ProviderClosed)):
        return _RAISE
    unsent = (error.code == STALE or isinstance(error, _UNSENT)) and not error.request_sent
    if now.policy.replay == "never" and not unsent:
        return _RAISE
    if now.policy.replay == "before_created" and now.created:
        return _RAISE
    if isinstance(error, DeadlineExceeded) and not isinstance(error, ConnectTimeout):
        return _RAISE  # a ten-minute think is not paid for twice
    at_upgrade = error.phase == "connect" and now.transport == "websocket" and error.status not in (None, 401, 403, 429)
    if isinstance(error, (NotAuthenticated, ProviderError)) and not at_upgrade:
        return _provider(error, now, chance)
    if isinstance(error, HandshakeRefused) and error.status is None and (now.connection_reused or now.any_event):
        return _lost(error, now, chance)  # close 1008 refuses an upgrade only where it comes right behind one
    if at_upgrade or isinstance(error, (ConnectFailed, ConnectTimeout, HandshakeRefused)):
        return _not_connected(error, now, chance)
    if isinstance(error, FrameTooLarge):
        return _too_large(now)
    if isinstance(error, ConnectionLost):
        return _lost(error, now, chance)
    return _RAISE


def own_words(error: PixirError) -> str:
    """What failed, without a word of the server's, which might quote the request."""
    if error.status is not None:
        return f"the server answered with status {error.status}"
    return error.message.partition(": ")[0]


def _once(now: Situation, row: str, action: Action) -> Decision:
    if row in now.once:
        return _RAISE
    now.once.add(row)
    return Decision(action, row)


def _retry(error: PixirError, now: Situation, chance: float, reason: str) -> Decision:
    if now.retries >= now.policy.max_retries:
        return _RAISE
    delay = now.policy.delay(now.retries, error.retry_after, chance)
    return _RAISE if delay is None else Decision(Action.RETRY, reason, delay)


def _http_or_retry(error: PixirError, now: Situation, chance: float, reason: str, remember: bool = False) -> Decision:
    """A transport failure: from the WebSocket to HTTP where the caller left the choice, else the retry policy."""
    if now.transport == "websocket" and now.preference == "auto":
        # Nothing is dropped by this: HTTP sends the caller's own context as it stands.
        return Decision(Action.HTTP, reason, remember=remember)
    if isinstance(error, ProviderError) and not error.retryable:
        return _RAISE  # the provider named what no retry can change
    return _retry(error, now, chance, reason)


_SOCKET_CODES = {
    "previous_response_not_found": ("previous_response_not_found", Action.FULL_SAME_SOCKET),
    "websocket_connection_limit_reached": ("max_lifetime", Action.FULL_FRESH_SOCKET),
}


def _provider(error: PixirError, now: Situation, chance: float) -> Decision:
    if error.code in _SOCKET_CODES:
        # Over HTTP the input was whole already.
        return _RAISE if now.caller_managed or now.transport != "websocket" else _once(now, *_SOCKET_CODES[error.code])
    if isinstance(error, NotAuthenticated):
        return _refresh(now)
    return _retry(error, now, chance, error.kind) if error.retryable else _RAISE


def _refresh(now: Situation) -> Decision:
    return _once(now, "credential_refreshed", Action.REFRESH) if now.refreshable else _RAISE


def _not_connected(error: PixirError, now: Situation, chance: float) -> Decision:
    if error.details.get("certificate"):
        return _RAISE
    if error.code in GATED:
        return Decision(Action.HTTP, str(error.code))
    if isinstance(error, HandshakeRefused) and error.status in NO_WEBSOCKET:
        falls_back = now.transport == "websocket" and now.preference == "auto"
        return Decision(Action.HTTP, "websocket_unsupported", remember=True) if falls_back else _RAISE
    if error.status in (401, 403, 429):  # the provider's own no, as over HTTP: no change of transport hides it
        if error.status == 429:
            return _retry(error, now, chance, error.kind)
        return _refresh(now) if error.status == 401 else _RAISE
    return _http_or_retry(error, now, chance, error.kind)


def _too_large(now: Situation) -> Decision:
    fits = now.transport == "websocket" and now.preference == "auto" and not (now.stores and now.created)
    return _once(now, "frame_too_large", Action.HTTP) if fits else _RAISE


def _lost(error: PixirError, now: Situation, chance: float) -> Decision:
    if now.connection_reused and not now.any_event and "reused_connection_lost" not in now.once:
        if now.caller_managed and now.transport == "websocket" and error.code != STALE:
            return _RAISE  # the context that the caller named may have died with the socket
        return _once(now, "reused_connection_lost", Action.FULL_FRESH_SOCKET)
    if now.stores and now.created:
        return _RAISE
    return _http_or_retry(error, now, chance, "connection_lost")
