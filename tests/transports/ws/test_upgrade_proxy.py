"""A WebSocket through a proxy: CONNECT, its limits, its credentials (row B19 over a WebSocket)."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pixir_sync import Cancelled, CancelToken, ConnectFailed, ConnectTimeout, InvalidRequest, Network
from pixir_sync.deadline import Deadline
from pixir_sync.transports.ws.upgrade import reach
from tests.support.peer import Conn, ScriptedPeer
from tests.support.proxy import ConnectProxy
from tests.transports.http.helpers import DEADLINE, linux, nothing_left, took
from tests.transports.ws.upgrade_helpers import (
    FRAME,
    KEY,
    address,
    agreement,
    agrees,
    opened,
    peer_of,
    received,
    says,
    server_context,
    trusting,
    upgraded,
)

both = pytest.mark.parametrize("kind", ["plain", "tls"])


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine's own gets into a test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as made:
        yield made


def through(url: str) -> Network:
    return Network(proxy=url, trust_env=False)


def at(peer: ScriptedPeer, login: str = "") -> Network:
    """The peer is the proxy."""
    return through(f"http://{login}127.0.0.1:{peer.port}")


TARGET = "wss://api.example/v1/responses"  # never resolved here: that is the proxy's business


@both
def test_each_step_is_told_when_it_is_made(kind: str, proxy: ConnectProxy) -> None:
    """To `reach`, which asks for nothing, as to `upgrade`: TCP, the tunnel, TLS; each with the socket as it is then."""
    steps: list[tuple[str, bool]] = []

    def told(step: str, sock: socket.socket) -> None:
        steps.append((step, isinstance(sock, ssl.SSLSocket)))

    def script(conn: Conn) -> None:
        conn.send(agreement(conn))
        conn.wait_closed()

    expected = [("tcp", False), ("proxy", False)] + [("tls", True)] * (kind == "tls")
    with peer_of(kind, script) as peer, upgraded(address(peer), network=through(proxy.url), told=told):
        assert steps == expected
    steps.clear()
    with peer_of(kind, lambda conn: conn.wait_closed()) as peer:
        reach(address(peer), through(proxy.url), trusting, Deadline(5), CancelToken(), told)
    assert steps == expected and bytes(peer.connections[0].received) == b""


@pytest.mark.parametrize(("status", "steps"), [(b"403 No", ["tcp"]), (b"200 OK", ["tcp", "proxy"])])
def test_a_step_that_failed_is_not_told(status: bytes, steps: list[str]) -> None:
    """The one behind the last that was told is the one that failed."""
    found: list[str] = []

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 " + status + b"\r\n\r\n")
        conn.close()

    with ScriptedPeer(script) as peer, pytest.raises(ConnectFailed):
        reach(TARGET, at(peer), trusting, Deadline(5), CancelToken(), lambda step, sock: found.append(step))
    assert found == steps


@pytest.mark.row("B19")
@both
def test_a_websocket_goes_through_a_tunnel(kind: str, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a plain one; NO_PROXY does not bypass a proxy that was chosen; the proxy never sees the key over TLS."""
    monkeypatch.setenv("NO_PROXY", "*")

    def script(conn: Conn) -> None:
        conn.send(agreement(conn) + FRAME)
        conn.wait_closed()

    with peer_of(kind, script) as peer:
        with upgraded(address(peer), network=Network(proxy=proxy.url)) as found:
            assert (found.sock.gettimeout(), found.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == (0, 1)
            assert found.leftover + received(found.sock, len(FRAME) - len(found.leftover)) == FRAME
    assert proxy.heads == [f"CONNECT 127.0.0.1:{peer.port} HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\n\r\n"]
    assert peer.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "proxy-authorization" not in peer.requests[0].headers


@pytest.mark.row("B19")
@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"HTTPS_PROXY": "{}"}, True),
        ({"https_proxy": "{}"}, True),
        ({"ALL_PROXY": "{}"}, True),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "127.0.0.1"}, False),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "*"}, False),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "7.0.0.1,.0.0.1x"}, True),
        ({"HTTP_PROXY": "{}"}, False),
        ({}, False),
    ],
)
def test_the_environments_proxy_is_https_as_over_http(
    proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], used: bool
) -> None:
    """The same variables decide as over HTTP, and none where the environment is not trusted: websocket-client reads none."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(proxy.url))
    with peer_of("tls", agrees) as peer:
        with upgraded(address(peer), network=Network()):
            pass
        assert len(proxy.heads) == used
        with upgraded(address(peer)):
            pass
    assert len(proxy.heads) == used


def test_no_proxy_does_not_match_the_end_of_another_name(proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.openai.com`` does not stand for ``evilopenai.com``."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", ".openai.localhost")
    proxy.refuse = True
    with pytest.raises(ConnectFailed, match="proxy"):
        opened("wss://evilopenai.localhost:9/", network=Network())
    assert len(proxy.heads) == 1


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy of the environment is refused, not taken for an HTTP one."""
    with ScriptedPeer([]) as peer:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{peer.port}")
        with pytest.raises(InvalidRequest, match="socks5"):
            opened(TARGET, network=Network())
    assert peer.connections == []


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("me:pass%2Fword@", b"me:pass/word"),
        ("me@", b"me:"),
        ("m%40e:p%C3%A9@", b"m@e:p\xe9"),
        ("me:%E2%82%AC@", "me:€".encode()),
        ("", None),
    ],
)
def test_the_name_and_password_of_a_proxy(login: str, sent: bytes | None) -> None:
    """They go to the proxy as requests would send them, and are shown nowhere; a 407 says its status."""
    answer = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="swordfish"\r\nContent-Length: 9\r\n\r\nswordfish'
    with ScriptedPeer(says(answer)) as peer, pytest.raises(ConnectFailed, match="proxy.* status 407") as caught:
        opened(TARGET, network=at(peer, login))
    expected = None if sent is None else f"Basic {base64.b64encode(sent).decode()}"
    assert peer.requests[0].headers.get("proxy-authorization") == expected
    assert peer.requests[0].path == "api.example:443"
    assert b"Bearer" not in peer.connections[0].received
    error = caught.value
    assert (error.phase, error.request_sent, error.status, error.retryable) == ("connect", False, None, False)
    assert error.details == {"proxy_status": 407}
    shown = f"{error} {error!r} {error.to_dict()} {error.__cause__} {error.__context__}"
    assert "pass" not in shown and "swordfish" not in shown


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (502, True), (101, False), (302, False)])
def test_a_proxy_that_refuses(status: int, retryable: bool) -> None:
    """Any status but 2xx is the proxy's no; it is ConnectFailed, and no answer of the server's."""
    with ScriptedPeer(says(b"HTTP/1.1 %d No\r\nLocation: http://x\r\n\r\n" % status)) as peer:
        with pytest.raises(ConnectFailed, match=f"status {status}") as caught:
            opened(TARGET, network=at(peer))
    assert (caught.value.retryable, caught.value.status) == (retryable, None)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("wss://[::1]:9/x", "[::1]:9"),
        ("ws://api.example/x", "api.example:80"),
        ("wss://API.example./x", "api.example.:443"),
    ],
)
def test_the_target_is_a_host_and_a_port(url: str, target: str) -> None:
    """With the port in any case, and brackets around an IPv6 address."""
    with ScriptedPeer(says(b"HTTP/1.1 503 No\r\n\r\n")) as peer, pytest.raises(ConnectFailed):
        opened(url, network=at(peer))
    assert (peer.requests[0].method, peer.requests[0].path, peer.requests[0].headers) == ("CONNECT", target, {"host": target})


def test_the_host_header_leaves_the_usual_port_out() -> None:
    """And keeps the brackets of an IPv6 address; the certificate is checked for the server, not for the proxy."""
    hosts = {"a.example": "a.example", "a.example:444": "a.example:444", "a.example:80": "a.example:80", "[::1]": "[::1]",
             "A.example.:443": "a.example."}  # fmt: skip
    for place, expected in hosts.items():
        heads: list[str] = []

        def script(conn: Conn, heads: list[str] = heads) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\n\r\n")
            conn.sock.settimeout(DEADLINE)
            conn.sock = server_context("a.example", "::1").wrap_socket(conn.sock, server_side=True)
            heads.append(conn.read_request().headers["host"])

        with ScriptedPeer(script) as peer, pytest.raises(ConnectFailed, match="did not answer the upgrade"):
            opened(f"wss://{place}/", network=at(peer))
        assert heads == [expected]


def test_the_certificate_behind_a_proxy_is_checked() -> None:
    """A proxy that puts itself between is noticed."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\n\r\n")
        conn.sock.settimeout(DEADLINE)
        with suppress(OSError):
            conn.sock = server_context("proxy.example").wrap_socket(conn.sock, server_side=True)

    with ScriptedPeer(script) as peer, pytest.raises(ConnectFailed, match="certificate is not trusted") as caught:
        opened(TARGET, network=at(peer))
    assert caught.value.details == {"certificate": True}


def test_what_comes_before_tls_is_not_the_servers() -> None:
    """A proxy cannot put an answer in front of the handshake, and have it taken for what came through it."""
    forged = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 6\r\n\r\nforged"

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(forged)
        conn.sock.settimeout(DEADLINE)
        with suppress(OSError):
            conn.sock = server_context("api.example").wrap_socket(conn.sock, server_side=True)

    with ScriptedPeer(script) as peer, pytest.raises(ConnectFailed, match="not TLS"):
        opened(TARGET, network=at(peer))


def test_an_https_proxy_is_not_for_websockets() -> None:
    """It says so, without the credentials, before any connection; HTTP can use one."""
    with ScriptedPeer([]) as peer, pytest.raises(ConnectFailed, match="WebSocket cannot .* proxy .* https") as caught:
        opened(TARGET, network=through(f"https://me:swordfish@127.0.0.1:{peer.port}"))
    assert "swordfish" not in str(caught.value)
    assert (caught.value.retryable, caught.value.phase) == (False, "connect")
    assert peer.connections == []


def test_a_proxy_that_is_not_there(proxy: ConnectProxy) -> None:
    """A dead proxy is ConnectFailed; nobody goes around it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://me:swordfish@127.0.0.1:{listener.getsockname()[1]}"
    with peer_of("plain", agrees) as peer, pytest.raises(ConnectFailed, match="refused") as caught:
        opened(address(peer), network=through(dead))
    assert peer.connections == []
    assert "swordfish" not in str(caught.value)


def drips(conn: Conn) -> None:
    conn.read_request()
    with suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
            conn.send(bytes([byte]))
            time.sleep(0.05)


def mute(conn: Conn) -> None:
    conn.read_request()
    conn.wait_closed()


@pytest.mark.row("C6")
@pytest.mark.parametrize("script", [drips, mute])
@linux
def test_a_proxy_that_takes_its_time(script: object) -> None:
    """The one limit holds for the proxy's answer too."""
    with ScriptedPeer(script) as peer, nothing_left(), took(0.29, 1.8):  # type: ignore[arg-type]
        with pytest.raises(ConnectTimeout) as caught:
            opened(TARGET, network=at(peer), limit=0.3)
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


@pytest.mark.row("C6")
def test_the_proxy_has_no_limit_of_its_own() -> None:
    """A proxy and a TLS handshake behind it that are each within the limit, and together are not, are too late."""
    context = server_context("api.example")

    def script(conn: Conn) -> None:
        conn.read_request()
        time.sleep(0.7)
        conn.send(b"HTTP/1.1 200 OK\r\n\r\n")
        time.sleep(0.7)
        with suppress(OSError):
            conn.sock = context.wrap_socket(conn.sock, server_side=True)
            conn.send(agreement(conn))

    with ScriptedPeer(script) as peer, pytest.raises(ConnectTimeout):
        opened(TARGET, network=at(peer), limit=1.0)


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0-swordfish\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: swordfish\r\n" * 10_000, b"HTTP/1.1 200 OK\r\n\r\nswordfish"],
    ids=["closes", "garbage", "endless", "talks on"],
)
@linux
def test_a_proxy_that_is_none(said: bytes) -> None:
    """A close, garbage, endless headers, or more than an answer before TLS: ConnectFailed, which quotes nothing."""

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):
            conn.send(said)
        conn.cut()

    with ScriptedPeer(script) as peer, nothing_left(), pytest.raises(ConnectFailed) as caught:
        opened(TARGET, network=at(peer))
    assert "swordfish" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


@linux
def test_a_cancel_ends_the_wait_for_a_proxy() -> None:
    """From another thread, with no limit of time; nothing is left behind."""
    token, asked = CancelToken(), threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        asked.set()
        conn.wait_closed()

    def cancel() -> None:
        assert asked.wait(DEADLINE)
        token.cancel()

    with ScriptedPeer(script) as peer, nothing_left():
        thread = threading.Thread(target=cancel, name="test-cancel")
        thread.start()
        with pytest.raises(Cancelled):
            opened(TARGET, network=at(peer), limit=None, cancel=token)
        thread.join(DEADLINE)
