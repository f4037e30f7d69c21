"""What the tests of the upgrade share: an authority, peers that agree to one, and the call itself with its usual arguments."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache

import trustme

from pixir_sync import CancelToken, Network
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws.upgrade import Told, Upgraded, upgrade
from tests.support.peer import Conn, Script, ScriptedPeer

KEY = "sk-test-0123456789"
HEADERS = {"User-Agent": "tester/1", "Authorization": f"Bearer {KEY}"}
DIRECT = Network(trust_env=False)
FRAME = b"\x81\x02hi"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(*names: str) -> ssl.SSLContext:
    """TLS 1.3 with a certificate for these names, else for this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority().issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
    return context


def trusting() -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def peer_of(kind: str, script: Script) -> ScriptedPeer:
    return ScriptedPeer(script, ssl_context=server_context() if kind == "tls" else None)


def address(peer: ScriptedPeer, path: str = "/v1/responses") -> str:
    return f"{'wss' if peer.base_url.startswith('https') else 'ws'}://{peer.host}:{peer.port}{path}"


def opened(
    url: str,
    *,
    headers: Mapping[str, str] = HEADERS,
    network: Network = DIRECT,
    limit: float | None = 5.0,
    cancel: CancelToken | None = None,
    context: Callable[[], ssl.SSLContext] = trusting,
    told: Told = lambda step, sock: None,
) -> Upgraded:
    """`upgrade`, with the arguments that most tests give it."""
    return upgrade(url, headers, network, context, Deadline(limit), cancel or CancelToken(), [KEY], told)


@contextmanager
def upgraded(url: str, **options: object) -> Iterator[Upgraded]:
    """An upgraded connection that the block's end closes."""
    found = opened(url, **options)  # type: ignore[arg-type]
    with closing(found.sock):
        yield found


def accept_of(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def agreement(conn: Conn, **headers: str) -> bytes:
    """Read the request; the head that agrees to it. A header given replaces the usual one, an empty one is left out."""
    key = conn.read_request().headers["sec-websocket-key"]
    lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_of(key)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 101 Switching Protocols\r\n{text}\r\n".encode("latin-1")


def agrees(conn: Conn) -> None:
    """A script: agree, then wait for the client to leave."""
    conn.send(agreement(conn))
    conn.wait_closed()


def says(data: bytes) -> Script:
    """A script: answer the request with these bytes, then wait for the client to leave."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(data)
        conn.wait_closed()

    return script


def answers(status: int, body: bytes = b"", **headers: str) -> Script:
    """A script: refuse the upgrade, then wait for the client to leave."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(status, body, {name.replace("_", "-"): value for name, value in headers.items()})
        conn.wait_closed()

    return script


def received(sock: socket.socket, size: int) -> bytes:
    """So many bytes from a non-blocking socket, within five seconds."""
    sock.settimeout(5)
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, "the connection ended"
        data += part
    return data
