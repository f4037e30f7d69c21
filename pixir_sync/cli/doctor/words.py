"""What a failure means to somebody who wants to get on, and what to do about it: two sentences for each.

Rules kept here:

* What a server said is quoted where it explains something, cut short; never behind a refused key, part of which it may quote.
* Whether the WebSocket's failure leaves calls working is not guessed: the replay table says it, as in a real call.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from pixir_sync.protocol.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    InvalidResponse,
    ModelNotSupported,
    NotAuthenticated,
    Overloaded,
    PixirError,
    QuotaExceeded,
    RateLimited,
    UsageLimitReached,
)
from pixir_sync.protocol.retry import RetryPolicy
from pixir_sync.protocol.turn import Action, Situation, decide

__all__ = ["RESET", "at_proxy", "at_tcp", "at_tls", "at_upgrade", "falls_back", "in_turn"]

Words = tuple[str, str]
"""What is said, and the advice."""

_QUOTED = 300  # characters of a server's message
_NO_WEBSOCKET = "Calls can go over HTTP: the transport auto does that by itself, http_sse saves the attempt."
_LATER = "Try again later; if it stays so while HTTP works, the gateway cannot pass WebSockets on."
_ABSENT = "there is no WebSocket at this address, as with a gateway that serves POST only"
_UPGRADE: Mapping[int, Words] = {
    400: ("it was not taken for an upgrade", "A proxy or gateway may drop the Upgrade header: have it pass WebSockets on."),
    401: ("the key was refused at the upgrade",
          "Check the key in {key}. If HTTP takes it, use the transport http_sse."),
    403: ("this key, or this place, is forbidden at the upgrade",
          "Check what the key may do. If HTTP is let through, WebSockets are forbidden: use the transport http_sse."),
    404: (_ABSENT, _NO_WEBSOCKET),
    405: (_ABSENT, _NO_WEBSOCKET),
    407: ("a proxy on the way wants a login", "Name it in HTTPS_PROXY with its login, http://NAME:PASSWORD@HOST:PORT."),
    426: ("the server offers no WebSocket", _NO_WEBSOCKET),
    429: ("too many requests, or too many connections", "Wait a while and try again."),
    501: ("the server offers no WebSocket", _NO_WEBSOCKET),
    502: ("the gateway did not reach the server", _LATER),
    503: ("the server, or a gateway before it, is overloaded or down", _LATER),
    504: ("the gateway had no answer from the server", _LATER),
}  # fmt: skip

RESET: Mapping[str, str] = {
    "previous_response_not_found": "the server did not know the response before it, on the connection that it came over",
    "websocket_reconnected": "the connection was gone before the second turn",
    "websocket_failed": "the connection was lost with the second turn",
    "output_mismatch": "the answer, sent back, did not match what the connection had given",
    "no_previous_response": "the first answer had no id to go on from",
}
"""Why a second turn went in full, by its reset reason."""


def falls_back(error: PixirError) -> bool:
    """Whether a call with the transport auto goes over HTTP after this failure of the WebSocket."""
    now = Situation(policy=RetryPolicy(max_retries=0), preference="auto", transport="websocket", output=error.output_seen)
    return decide(error, now, 0.0).action is Action.HTTP


def at_tcp(error: PixirError, proxy: str, url: str) -> Words:
    """No connection. ``proxy`` is the name of the setting that the proxy comes from, ``""`` without one."""
    where = f"the proxy in {proxy}" if proxy else f"the host and the port of {url}"
    if isinstance(error, ConnectTimeout):
        other = "" if proxy else ", or this network asks for a proxy (set HTTPS_PROXY)"
        return error.message, f"A firewall may drop what is sent there{other}; else check {where}."
    return error.message, f"Nothing listens there, or something refuses connections: check {where}."


def at_proxy(error: PixirError, source: str, target: str) -> Words:
    """The tunnel was not opened."""
    status = error.details.get("proxy_status")
    if isinstance(error, ConnectTimeout):
        return f"the proxy of {source} took the connection and said nothing", "Check the proxy's port, or ask who runs it."
    if status is None:
        return f"{error.message} (the proxy of {source})", f"What listens there may be no proxy for CONNECT: check {source}."
    answered = f"the proxy of {source} answered CONNECT with {status}"
    if status == 407:
        advice = f"Put the login into {source}, http://NAME:PASSWORD@HOST:PORT, with special characters percent-encoded."
        return f"{answered}: it wants a login, or refuses the one given", advice
    if status in (403, 405):
        advice = f"Ask who runs the proxy to allow {target}, or name the host in NO_PROXY if it can be reached directly."
        return f"{answered}: it does not allow connections to {target}", advice
    return f"{answered}: it did not reach {target}", f"Check that the proxy can reach {target}, or ask who runs it."


def at_tls(error: PixirError, host: str) -> Words:
    """No TLS."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not trusted: {cause.verify_message}", _distrust(cause, host)
    if isinstance(error, ConnectTimeout):
        return f"{host} took the connection and said nothing", "Check that the port speaks TLS, and what is on the way."
    if isinstance(cause, ssl.SSLError):
        reason = (cause.reason or "unknown").replace("_", " ").lower()
        advice = "What listens there may speak plain http, or another version of TLS: check the port and the scheme."
        return f"no TLS with {host}: {reason}", advice
    advice = "The server, or something on the way, ends TLS connections: check the port, and ask who runs the network."
    return f"no TLS with {host}: the connection was lost", advice


def _distrust(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in (9, 10):  # not yet valid, expired
        return "The certificate must be renewed where it is served; or the clock of this machine is wrong."
    if error.verify_code in (62, 64):  # another host name, another address
        return f"The certificate is another host's: check the base URL, and what answers in the place of {host}."
    return ("If you trust its authority (a company's proxy, for example), point SSL_CERT_FILE to a PEM file with it; in a "
            "program, Network(ca_bundle=...).")  # fmt: skip


def at_upgrade(error: PixirError, variable: str) -> Words:
    """No WebSocket. ``variable``: where the key comes from."""
    status = error.status
    if isinstance(error, ConnectTimeout):
        return "the server took the connection and did not answer the upgrade in time", f"It may be stuck. {_NO_WEBSOCKET}"
    if status is None:
        return error.message, "Check that the base URL leads to the API, with the right scheme (http or https) and port."
    if 300 <= status < 400:
        to = (error.details.get("headers") or {}).get("location")
        return f"refused with {status}: the server is elsewhere", f"Check the base URL{f': it leads on to {to}' if to else ''}."
    unknown = "it is not said why", "Ask who runs the server, or the gateway before it, whether it offers WebSockets."
    meaning, advice = _UPGRADE.get(status, unknown)
    return f"refused with {status}: {meaning}", advice.replace("{key}", variable)


def in_turn(error: PixirError, way: str, variable: str) -> Words:
    """A call that failed. ``way``: ``over HTTP``, ``over the WebSocket``; ``variable``: where the key comes from."""
    if isinstance(error, NotAuthenticated):
        advice = f"Check the key in {variable}: it may be revoked, or another server's."
        return f"the key was refused {way} ({error.status or 'without a status'})", advice
    message = error.message if len(error.message) <= _QUOTED else error.message[:_QUOTED] + "…"
    if isinstance(error, DeadlineExceeded):
        return f"{error.kind}: {message}", "The server took the request and is stuck, or needs longer (--timeout)."
    return f"{error.kind}{f' ({error.status})' if error.status else ''}: {message}", _turn_advice(error)


def _turn_advice(error: PixirError) -> str:
    status = error.details.get("proxy_status") or error.status or 0
    if status == 407:
        return "A proxy wants a login, or refuses the one given: put it into the proxy's URL, http://NAME:PASSWORD@HOST:PORT."
    if 300 <= status < 400:
        return "The server is elsewhere, or a login page comes first, and no redirect is followed: check the base URL."
    match error:
        case ConnectFailed() if status:
            return "The proxy does not get there, or does not allow it: ask who runs it, or name the host in NO_PROXY."
        case ModelNotSupported():
            return "Name a model that this key may use with --model; pixir-sync models lists them."
        case QuotaExceeded() | UsageLimitReached():
            return "The account's limit is used up: see its plan and billing at the provider."
        case RateLimited() | Overloaded():
            return "Try again later."
        case InvalidResponse():
            return "Something else than the API answers there, a login page perhaps: check the base URL."
        case ConnectFailed() | ConnectionLost():
            return "The server, or something on the way, ends connections: try again, then ask who runs it."
        case _ if error.status in (404, 405):
            return "There is no Responses API at this address: check the base URL; it usually ends in /v1."
        case _ if error.status == 403:
            return "Check what the key may do, and from where."
        case _ if (error.status or 0) >= 500:
            return "The fault is the server's: try again later."
        case _:
            return "See what the server says; the model may not take such a request."
