"""`upgrade`: from a URL to a socket that speaks WebSocket; `reach`: the way to it alone. The only importer of websocket-client.

Rules kept here:

* TCP, proxy, TLS and upgrade have one deadline together, and end with a cancel; see `pixir_sync.transports.ws.handshake`.
* websocket-client words the request and checks the answer, over a socket of ours. It opens nothing, reads no variable of the
  environment, follows no redirect. It sees neither our headers, which a trace of it would log, nor a cookie, which it would keep
  for the whole process and for everybody; what it adds from there is taken out.
* A refusal is the error that it would be over HTTP; one that the provider gave no name is `HandshakeRefused`.
* Nothing that the peer said is quoted but a refusal's body, headers and status, without the credential values.
"""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401  # getaddrinfo imports it at its first call, where no fork waits for that
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, unquote

import websocket

from pixir_sync.cancellation import CancelToken
from pixir_sync.config import Network
from pixir_sync.credentials import check_headers
from pixir_sync.deadline import Deadline
from pixir_sync.network import connect_tcp, proxy_for
from pixir_sync.protocol.classify import from_http, redact
from pixir_sync.protocol.errors import ConnectFailed, HandshakeRefused, PixirError, ProviderError, ResponseFailed
from pixir_sync.transports.ws.handshake import Head, Opening
from pixir_sync.urls import split

__all__ = ["Told", "Upgraded", "reach", "upgrade"]

Told = Callable[[str, socket.socket], None]
"""Is told of each step that was made, ``tcp``, ``proxy`` (a tunnel through one), ``tls``, with the socket as it is then."""

_CHECKED = ("upgrade", "connection", "sec-websocket-accept")  # what websocket-client looks at
_UNASKED = ("sec-websocket-extensions", "sec-websocket-protocol")  # RFC 6455, 4.1: what was not offered must not be agreed to
_HIDDEN = re.compile("cookie|auth|secret|api-?key")
_VALUE_LIMIT, _HEADERS_LIMIT = 200, 40


class Upgraded(NamedTuple):
    """A connection that was upgraded.

    Attributes:
        sock: plain or TLS, non-blocking; the holder closes it.
        leftover: the bytes that came behind the head of the 101: the first frames.
        headers: of the 101, names in lower case, without cookies.
        connect_ms: how long all of the opening took, in milliseconds.
    """

    sock: socket.socket
    leftover: bytes
    headers: dict[str, str]
    connect_ms: float

    def __repr__(self) -> str:
        return f"<Upgraded {self.sock!r} connect_ms={self.connect_ms:.0f}>"


class _Place(NamedTuple):
    """Where a URL leads. ``name`` is the host and port as headers have them, without the port that goes without saying."""

    host: str
    port: int
    secure: bool
    name: str


class _Way(NamedTuple):
    """How to get there."""

    place: _Place
    tls: ssl.SSLContext | None
    proxy: SplitResult | None


def _nobody(step: str, sock: socket.socket) -> None:
    """Nobody wants to be told."""


def upgrade(
    url: str,
    headers: Mapping[str, str],
    network: Network,
    context: Callable[[], ssl.SSLContext],
    deadline: Deadline,
    cancel: CancelToken,
    secrets: Sequence[str] = (),
    told: Told = _nobody,
) -> Upgraded:
    """Open a WebSocket: TCP, the proxy, TLS and the upgrade.

    Args:
        url: ``ws://`` or ``wss://``, with its query.
        headers: all that the request has beside those of the upgrade itself.
        context: the SSL context, asked for only where TLS is needed.
        deadline: for all of it.
        secrets: the credential values, which are replaced in what a refusal says.
        told: see `Told`.

    Raises `ConnectFailed`, `ConnectTimeout`, `Cancelled` or `ProviderClosed`; `HandshakeRefused` or a provider's error for an
    answer other than 101; `InvalidRequest` for headers or settings that cannot be used.
    """
    began = time.monotonic()
    way = _way(url, network, context, headers)
    with _connected(way, deadline, cancel) as opening:
        _secured(opening, way, told)
        answered = _agreed(opening, url, way.place, headers, secrets)
        return Upgraded(*opening.hand_over(), answered, (time.monotonic() - began) * 1000)


def reach(
    url: str,
    network: Network,
    context: Callable[[], ssl.SSLContext],
    deadline: Deadline,
    cancel: CancelToken,
    told: Told = _nobody,
) -> None:
    """Go the way that `upgrade` goes, up to TLS, ask for nothing there, and close: to learn what is in the way.

    The arguments are those of `upgrade`. Raises what it raises, but for refusals.
    """
    way = _way(url, network, context, {})
    with _connected(way, deadline, cancel) as opening:
        _secured(opening, way, told)


def _way(url: str, network: Network, context: Callable[[], ssl.SSLContext], headers: Mapping[str, str]) -> _Way:
    """The way to a URL, with all that can be wrong before any network."""
    place = _place(url)
    check_headers(headers, "headers")
    return _Way(place, context() if place.secure else None, _proxy(url, network))


def _connected(way: _Way, deadline: Deadline, cancel: CancelToken) -> Opening:
    place, _, proxy = way
    host, port = (place.host, place.port) if proxy is None else (proxy.hostname or "", proxy.port or 80)
    return Opening(connect_tcp(host, port, deadline, cancel), deadline, cancel)


def _secured(opening: Opening, way: _Way, told: Told) -> None:
    """Through the proxy and TLS, where the way has them."""
    told("tcp", opening.sock)
    if way.proxy is not None:
        _tunnel(opening, way.proxy, way.place)
        told("proxy", opening.sock)
    if way.tls is not None:
        opening.secure(way.tls, way.place.host.rstrip("."))
        told("tls", opening.sock)


def _place(url: str) -> _Place:
    parts = split("the WebSocket's URL", url)
    secure = parts.scheme == "wss"
    usual = 443 if secure else 80
    try:
        host = parts.hostname.encode("idna").decode()
    except UnicodeError:
        raise ConnectFailed(f"the name {parts.hostname} could not be resolved", phase="connect", retryable=False) from None
    shown = f"[{host}]" if ":" in host else host
    port = parts.port or usual
    return _Place(host, port, secure, shown if port == usual else f"{shown}:{port}")


def _proxy(url: str, network: Network) -> SplitResult | None:
    address = proxy_for(url, network)
    if address is None:
        return None
    parts: SplitResult = split("the proxy", address)
    if parts.scheme != "http":
        raise ConnectFailed(
            f"a WebSocket cannot go through a proxy that is reached over {parts.scheme}", phase="connect", retryable=False
        )
    return parts


def _tunnel(opening: Opening, proxy: SplitResult, place: _Place) -> None:
    """Have the proxy connect us to the place."""
    opening.fault = "the proxy did not open a connection"
    host = f"[{place.host}]" if ":" in place.host else place.host
    lines = [f"CONNECT {host}:{place.port} HTTP/1.1", f"Host: {host}:{place.port}"]
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        codec = "latin-1" if all(ord(char) < 256 for char in login) else "utf-8"  # the former is what requests sends
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login.encode(codec)).decode()}")
    opening.send("\r\n".join([*lines, "", ""]).encode())
    status = opening.head().status
    if not 200 <= status < 300:
        raise ConnectFailed(f"{opening.fault}: it answered with status {status}", details={"proxy_status": status},
                            retryable=status >= 500, phase="connect")  # fmt: skip


def _agreed(opening: Opening, url: str, place: _Place, headers: Mapping[str, str], secrets: Sequence[str]) -> dict[str, str]:
    """Ask for the upgrade; the headers of the server's yes."""
    opening.fault = "the server did not answer the upgrade"
    end = _End(opening, headers, secrets)
    client = websocket.WebSocket(enable_multithread=False)
    try:
        client.connect(url, socket=end, host=place.name, suppress_origin=True, redirect_limit=0)  # type: ignore[no-untyped-call]
    except websocket.WebSocketException:
        raise ConnectFailed("the server's answer to the upgrade is not a WebSocket's", phase="connect") from None
    finally:
        client.sock = None
        del client.frame_buffer  # it refers to the client: a cycle
    if any(end.headers.get(name) for name in _UNASKED):
        raise ConnectFailed("the server agreed to a WebSocket extension or protocol that was not offered", phase="connect")
    return end.headers


class _End:
    """What websocket-client has for a socket: as much of one as it uses for the upgrade."""

    def __init__(self, opening: Opening, headers: Mapping[str, str], secrets: Sequence[str]) -> None:
        self.headers: dict[str, str] = {}
        self._opening = opening
        self._own = [f"{n}: {v}".encode("latin-1") for n, v in headers.items() if not n.lower().startswith("sec-websocket-")]
        self._secrets = secrets
        self._answer = b""

    def gettimeout(self) -> float:
        """0 makes the library leave the waiting to us."""
        return 0.0

    def send(self, data: bytes) -> int:
        """Send the request, with our headers, and without what other connections of this process left in the cookie jar."""
        lines = [line for line in data.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(b"cookie:")]
        self._opening.send(b"\r\n".join([*lines, *self._own, b"", b""]))
        return len(data)

    def recv(self, size: int) -> bytes:
        """So many bytes of the answer, as far as it is the library's business. Raises what a refusal means."""
        if not self._answer:
            self._answer = self._agreement()
        part, self._answer = self._answer[:size], self._answer[size:]
        return part

    def close(self) -> None:
        """The opening closes the socket."""

    def _agreement(self) -> bytes:
        head = self._opening.head()
        if head.status != 101:
            raise _refusal(head, self._opening.body(head), self._secrets)
        self.headers = head.headers
        lines = [f"{name}: {head.headers[name]}" for name in _CHECKED if name in head.headers]
        return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def _refusal(head: Head, body: bytes, secrets: Sequence[str]) -> PixirError:
    """What an answer other than 101 means."""
    error = from_http(head.status, head.headers, body, secrets=secrets, now=time.time())
    if type(error) in (ProviderError, ResponseFailed):
        error = HandshakeRefused(
            error.message, details=error.details, code=error.code, status=error.status, retry_after=error.retry_after,
            request_id=error.request_id, retryable=error.retryable,
        )  # fmt: skip
    error.details["headers"] = _told(head.headers, secrets)
    error.phase, error.request_sent = "connect", False
    return error


def _told(headers: Mapping[str, str], secrets: Sequence[str]) -> dict[str, str]:
    """The headers that may be shown: no credential, short, and where a redirect leads without its query."""
    shown = {name: value for name, value in headers.items() if not _HIDDEN.search(name)}
    if "location" in shown:
        shown["location"] = re.sub("//[^/]*@", "//", re.split("[?#]", shown["location"])[0])
    return {name: redact(value, secrets)[:_VALUE_LIMIT] for name, value in list(shown.items())[:_HEADERS_LIMIT]}
