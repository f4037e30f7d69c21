"""``pixir-sync doctor``: the way to the server, and whatever is in it: names, ports, certificates, proxies."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from pixir_sync.local import LocalServer
from tests.cli.conftest import Command
from tests.cli.doctor_support import WAY, WEBSOCKET, Diagnose, serving_tls
from tests.cli.support import refused_url
from tests.support.events import text_response
from tests.support.peer import Conn, ScriptedPeer
from tests.support.proxy import ConnectProxy
from tests.support.tls import authority
from tests.support.ws_peer import WebSocketPeer
from tests.transports.http.helpers import full_backlog, linux

# The way: name, TCP, TLS.


def test_a_name_that_does_not_resolve(diagnose: Diagnose) -> None:
    """No resolver is asked: a label of 64 characters is no name anywhere. Nothing that follows is tried."""
    report = diagnose(f"https://{'a' * 64}.invalid/v1")
    assert report.of("wrong") == ["dns"] and "could not be resolved" in report.says("dns")
    assert report.needs("dns") == ["tcp", "proxy", "tls", *WEBSOCKET, "http"]


@pytest.mark.parametrize(
    ("url", "advice"),
    [("https://api.openai.com/v1", "Check that this machine is online; "),
     ("https://api.example/v1", "Check the host in the base URL; ")],
)  # fmt: skip
def test_a_machine_that_knows_no_name_of_the_outside(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, url: str, advice: str
) -> None:
    """As behind a company's proxy: that is named, also for a host that nobody typed."""

    def look_up(*args: object, **options: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    report = diagnose(url)
    assert report.of("wrong") == ["dns"] and "could not be resolved" in report.says("dns")
    assert report.advises("dns") == f"{advice}if its network asks for a proxy, set HTTPS_PROXY."


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, None])
def test_a_name_server_that_fails(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """One that is out of reach is told from a wrong name, and one that is too slow is given up."""
    over = threading.Event()

    def look_up(*args: object, **options: object) -> list[Any]:
        over.wait(0 if code else 20)
        raise socket.gaierror(code or 0, "unavailable")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    report = diagnose("https://api.example/v1", timeout=0.3)
    over.set()
    assert report.of("wrong") == ["dns"]
    assert report.says("dns") == (
        "no name server answered for api.example" if code else "the name api.example was not resolved within 0.3 s")  # fmt: skip


def test_a_dead_port(diagnose: Diagnose) -> None:
    """A refused connection, at once."""
    report = diagnose(refused_url())
    assert report.of("wrong") == ["tcp"] and "cannot be reached: Connection refused" in report.says("tcp")
    assert report.needs("tcp") == ["proxy", "tls", *WEBSOCKET, "http"] and report.checks["tcp"]["ms"] < 2000


@linux
def test_a_port_that_drops_what_is_sent(diagnose: Diagnose) -> None:
    """As behind a firewall: no answer, until the limit."""
    with full_backlog() as port:
        report = diagnose(f"http://127.0.0.1:{port}/v1", timeout=0.3)
    assert report.of("wrong") == ["tcp"] and "did not accept a connection in time" in report.says("tcp")
    assert "set HTTPS_PROXY" in report.advises("tcp")


EXPIRED = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
CERTIFICATES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "expired": (
        lambda: authority().ca.issue_cert("127.0.0.1", not_before=EXPIRED - datetime.timedelta(days=9), not_after=EXPIRED),
        "has expired", "renewed",
    ),
    "another host's": (lambda: authority().ca.issue_cert("api.example.test"), "mismatch", "another host's"),
    "of another authority": (lambda: trustme.CA().issue_cert("127.0.0.1"), "", "SSL_CERT_FILE"),
}  # fmt: skip


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_is_not_trusted(diagnose: Diagnose, trusted: None, name: str) -> None:
    """Why, and what to do about each; the key goes nowhere."""
    made, says, advice = CERTIFICATES[name]
    with serving_tls(made()) as url:
        report = diagnose(url)
    assert report.of("wrong") == ["tls"] and report.says("tls").startswith("the certificate of 127.0.0.1 is not trusted: ")
    assert says in report.says("tls") and advice in report.advises("tls")
    assert report.needs("tls") == [*WEBSOCKET, "http"]


def test_a_bundle_that_cannot_be_read(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong setting, which is named; nothing is opened."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    report = diagnose("https://api.example/v1")
    assert report.of("wrong") == ["settings"] and report.says("settings").startswith("SSL_CERT_FILE: ")
    assert report.needs("settings") == ["key", *WAY, *WEBSOCKET, "http", "streaming"]


def test_a_server_without_tls(diagnose: Diagnose, server: LocalServer) -> None:
    """https to a port that speaks something else."""
    report = diagnose(server.base_url.replace("http://", "https://"))
    assert report.of("wrong") == ["tls"] and report.says("tls").startswith("no TLS with 127.0.0.1: ")
    assert "plain http" in report.advises("tls")


def test_a_server_that_is_silent_within_tls(diagnose: Diagnose) -> None:
    """It takes the connection, and that is all."""
    with WebSocketPeer(lambda wire: wire.hold(), upgrade=False) as peer:
        report = diagnose(peer.base_url.replace("http://", "https://"), timeout=0.3)
    assert report.of("wrong") == ["tls"] and report.says("tls") == "127.0.0.1 took the connection and said nothing"


def test_a_server_that_ends_tls_connections(diagnose: Diagnose) -> None:
    """At the first word of the handshake, as some filters do."""

    def script(conn: Conn) -> None:
        assert conn.sock.recv(1)
        conn.reset()

    with ScriptedPeer(script) as peer:
        report = diagnose(peer.base_url.replace("http://", "https://"))
    assert report.of("wrong") == ["tls"] and report.says("tls").startswith("no TLS with 127.0.0.1: ")


def test_http_to_a_port_that_speaks_tls(diagnose: Diagnose) -> None:
    """The other way round: what answers is no HTTP, and the scheme is named."""
    with serving_tls() as url:
        report = diagnose(url.replace("https://", "http://"))
    assert report.of("wrong") == ["http"] and report.of("limited") == ["upgrade"] and "scheme" in report.advises("upgrade")


# The proxy.


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as running:
        yield running


def test_a_proxy_that_works(diagnose: Diagnose, trusted: None, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one, from which variable, without its login; all of the rest goes through it."""
    monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:wombat@"))
    with serving_tls() as url:
        report = diagnose(url)
    assert report.of("wrong") == report.of("limited") == []
    assert report.says("proxy").startswith(f"{proxy.url} with a login from https_proxy, a tunnel to 127.0.0.1:")
    assert report.says("dns") == "127.0.0.1, the proxy of https_proxy, is an address"
    assert len(proxy.heads) == 3, "the upgrade, the calls over the WebSocket, the call over HTTP"


def test_a_proxy_that_is_bypassed(diagnose: Diagnose, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY is named, and what it overrules."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.invalid:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    report = diagnose(server.base_url)
    assert report.says("proxy") == "none: ALL_PROXY is set, and NO_PROXY names this host" and report.of("wrong") == []


def test_locally_no_proxy_is_used(command: Command) -> None:
    """Whatever the environment names."""
    done = command("doctor", "--local", HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="socks5://127.0.0.1:1")
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize(
    ("kind", "says", "advice"),
    [("refuse", "CONNECT with 403: it does not allow", "NO_PROXY"),
     ("login", "CONNECT with 407: it wants a login", "NAME:PASSWORD"),
     ("hang", "took the connection and said nothing", "port")],
)  # fmt: skip
def test_a_proxy_in_the_way(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, kind: str, says: str, advice: str
) -> None:
    """A proxy that forbids, one that refuses the login, one that hangs; the login is shown by none."""
    with ConnectProxy(login="me:other" if kind == "login" else None) as proxy:
        proxy.refuse, proxy.hang = kind == "refuse", kind == "hang"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:wombat@"))
        report = diagnose("https://127.0.0.1:1/v1", timeout=0.5)
    assert report.of("wrong") == ["proxy"] and says in report.says("proxy") and advice in report.advises("proxy")
    assert "HTTPS_PROXY" in report.says("proxy") and report.needs("proxy") == ["tls", *WEBSOCKET, "http"]
    assert "wombat" not in report.done.out + report.done.err


@pytest.mark.parametrize(
    ("answer", "says"),
    [(b"HTTP/1.1 502 No\r\n\r\n", "CONNECT with 502: it did not reach 127.0.0.1:1"), (b"SSH-2.0\r\n", "is not HTTP")],
)  # fmt: skip
def test_a_proxy_that_does_not_get_there(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, answer: bytes, says: str
) -> None:
    """Whose fault it is: the target's, or what listens there is no proxy."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.send(answer)

    with ScriptedPeer(script) as peer:
        monkeypatch.setenv("HTTPS_PROXY", peer.base_url.removesuffix("/v1"))
        report = diagnose("https://127.0.0.1:1/v1")
    assert report.of("wrong") == ["proxy"] and says in report.says("proxy")


def test_a_proxy_that_is_not_there(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead port, and whose it is."""
    monkeypatch.setenv("HTTPS_PROXY", refused_url().removesuffix("/v1"))
    report = diagnose("https://api.example/v1")
    assert report.of("wrong") == ["tcp"] and "the proxy in HTTPS_PROXY" in report.advises("tcp")


@pytest.mark.parametrize("value", ["socks5://me:wombat@127.0.0.1:1", "http://me:wom/bat@127.0.0.1:1", "http://me:7/bat@127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Another kind, or a login that was not percent-encoded: told with its variable, and without a character of the login."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    report = diagnose("https://api.example/v1")
    assert report.of("wrong") == ["proxy"] and "HTTPS_PROXY" in report.advises("proxy")
    assert report.needs("proxy") == ["dns", "tcp", "tls", *WEBSOCKET, "http"]
    assert "wom" not in report.done.out and "bat@" not in report.done.out and "me:7" not in report.done.out


def test_a_proxy_over_https(diagnose: Diagnose, trusted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No WebSocket goes through it, HTTP does: limited; and wrong where only the WebSocket is wanted."""
    with ConnectProxy(authority().server_context()) as proxy, serving_tls() as url:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        both, alone, http = (diagnose(url, *more) for more in ((), ("--transport", "websocket"), ("--transport", "http_sse")))
    assert both.of("limited") == ["proxy"] and both.checks["http"]["state"] == "ok" and both.needs("proxy") == list(WEBSOCKET)
    assert alone.of("wrong") == ["proxy"] and "http:// URL" in alone.advises("proxy")
    assert http.of("wrong") == http.of("limited") == []


@pytest.mark.parametrize(
    ("kind", "advice"), [("refuse", "does not allow it: ask who runs it"), ("login", "wants a login")],
)  # fmt: skip
def test_a_proxy_over_https_in_the_way(
    diagnose: Diagnose, trusted: None, monkeypatch: pytest.MonkeyPatch, kind: str, advice: str
) -> None:
    """Its tunnel is opened by the call alone: the advice is about the proxy there, too."""
    with ConnectProxy(authority().server_context(), login="me:other" if kind == "login" else None) as proxy, serving_tls() as url:
        proxy.refuse = kind == "refuse"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:wombat@"))
        report = diagnose(url, "--transport", "http_sse")
    assert report.of("wrong") == ["http"] and advice in report.advises("http") and "wombat" not in report.done.out


@pytest.mark.parametrize(("status", "advice"), [(302, "a login page comes first"), (407, "NAME:PASSWORD")])
def test_plain_http_that_a_proxy_answers_itself(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, status: int, advice: str
) -> None:
    """With a login page, or because it wants a login."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(status, "<html>wombat</html>", {"location": "https://login.example/", "content-type": "text/html"})

    with ScriptedPeer(script) as peer:
        monkeypatch.setenv("HTTP_PROXY", peer.base_url.removesuffix("/v1"))
        report = diagnose("http://localhost:1/v1", "--transport", "http_sse")
    assert report.of("wrong") == ["http"] and advice in report.advises("http")


def test_plain_http_through_a_proxy_without_connect(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forwards, and opens no tunnel: HTTP works, a WebSocket does not."""

    def script(conn: Conn) -> None:
        request = conn.read_request()
        if request.method == "CONNECT":
            conn.respond(405)
            return
        conn.start_sse()
        for event in text_response("One ", "two"):
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(script) as peer:
        monkeypatch.setenv("HTTP_PROXY", peer.base_url.removesuffix("/v1"))
        both, http = diagnose("http://localhost:1/v1"), diagnose("http://localhost:1/v1", "--transport", "http_sse")
    assert both.of("limited") == ["proxy"] and "CONNECT with 405" in both.says("proxy") and both.checks["http"]["state"] == "ok"
    assert http.says("proxy").endswith("from HTTP_PROXY, which plain http is sent to") and http.of("limited") == []
