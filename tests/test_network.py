"""The network setting: proxies, certificates, headers, and the opening of connections (rows B19, C6)."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from pixir_sync import Cancelled, CancelToken, ConnectFailed, ConnectTimeout, InvalidRequest, Network, ProviderClosed
from pixir_sync.config import ProviderConfig
from pixir_sync.deadline import Deadline
from pixir_sync.network import connect_tcp, proxy_for, proxy_source, shared_headers, tls_context, user_agent
from tests.transports.http.helpers import full_backlog, linux, nothing_left, took

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://a.example/v1", {}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"https_proxy": "p:1"}, "http://p:1"),
        ("wss://a.example/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.example/v1", {"HTTPS_PROXY": "http://p:1"}, None),
        ("ws://a.example/v1", {"http_proxy": "https://p:1"}, "https://p:1"),
        ("https://a.example/v1", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"ALL_PROXY": "http://q:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b, .example"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example:443"}, "http://p:1"),
        ("https://a.example:443/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example:443"}, None),
        ("https://evila.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".a.example,a.example"}, "http://p:1"),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("https://a.example/v1", {"HTTPS_PROXY": "", "ALL_PROXY": ""}, None),
    ],
)
def test_the_proxy_is_decided_once(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], expected: str | None
) -> None:
    """The environment's proxy for the scheme, else for all, unless NO_PROXY names the host."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url, Network()) == expected
    assert proxy_for(url, Network(trust_env=False)) is None
    assert proxy_for(url, Network(proxy="http://mine:2")) == "http://mine:2"
    assert proxy_for(url, Network(proxy="http://mine:2", trust_env=False)) == "http://mine:2"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("", False)),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, ("HTTPS_PROXY", False)),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:1"}, ("https_proxy", False)),
        ({"HTTPS_PROXY": "http://q:1", "https_proxy": "http://p:1"}, ("https_proxy", False)),
        ({"HTTP_PROXY": "http://p:1", "all_proxy": "http://q:1"}, ("all_proxy", False)),
        ({"HTTP_PROXY": "http://p:1"}, ("", False)),
        ({"Https_Proxy": "http://p:1", "NO_PROXY": "a.example"}, ("Https_Proxy", True)),
        ({"NO_PROXY": "a.example"}, ("", False)),
    ],
)
def test_where_the_proxy_comes_from(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[str, bool]
) -> None:
    """The variable that names it, over both transports, and whether NO_PROXY overrules it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for url in ("https://a.example/v1", "wss://a.example/v1/responses"):
        assert proxy_source(url, Network()) == expected
        assert proxy_source(url, Network(trust_env=False)) == ("", False)
        assert proxy_source(url, Network(proxy="http://mine:2")) == ("network.proxy", False)
        assert (proxy_for(url, Network()) is None) == (expected[0] == "" or expected[1])


@pytest.mark.parametrize("value", ["socks5://p:1", "ftp://p:1"])
def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A SOCKS proxy is not taken for an HTTP one; what NO_PROXY names does not need it."""
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(InvalidRequest, match=value.split(":")[0]):
        proxy_for("https://a.example/v1", Network())
    monkeypatch.setenv("NO_PROXY", "a.example")
    assert proxy_for("https://a.example/v1", Network()) is None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_bundle_of_the_environment(bundle: Path, variable: str) -> None:
    """A bundle that the environment names is trusted, where the environment is; a chosen one goes over it."""
    environ = {variable: str(bundle)}
    assert len(tls_context(Network(), environ).get_ca_certs()) == 1
    assert len(tls_context(Network(trust_env=False), environ).get_ca_certs()) != 1
    assert len(tls_context(Network(ca_bundle=str(bundle)), {variable: "/nowhere"}).get_ca_certs()) == 1


def test_a_directory_of_authorities(bundle: Path) -> None:
    """The bundle may be a directory."""
    context = tls_context(Network(ca_bundle=str(bundle.parent)), {})
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_bundle_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    """A file that is missing or holds no certificate is refused with the name of the setting, not of its content."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match="network.ca_bundle"):
        tls_context(Network(ca_bundle=str(path)), {})
    with pytest.raises(InvalidRequest, match="REQUESTS_CA_BUNDLE"):
        tls_context(Network(), {"REQUESTS_CA_BUNDLE": str(path)})
    with pytest.raises(InvalidRequest, match="network.client_cert"):
        tls_context(Network(client_cert=str(path)), {})
    with pytest.raises(InvalidRequest, match="network.client_cert"):
        tls_context(Network(client_cert=(str(path), str(path))), {})


def test_a_host_without_authorities_has_certifis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system has no authorities at all, those of certifi are trusted."""
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *args: None)
    empty = ssl.DefaultVerifyPaths("", str(tmp_path), "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: empty)
    assert len(tls_context(Network(), {}).get_ca_certs()) > 50


def test_shared_headers() -> None:
    """Our user agent and the configured names; the user's own headers go over them."""
    assert shared_headers(ProviderConfig()) == {"User-Agent": user_agent()}
    assert user_agent().startswith("pixir-sync/") and user_agent().isascii()
    config = ProviderConfig(organization="o", project="p", originator="me", network=Network(headers={"User-Agent": "x"}))
    expected = {"OpenAI-Organization": "o", "OpenAI-Project": "p", "originator": "me", "User-Agent": "x"}
    assert shared_headers(config) == expected


class Marked(socket.socket):
    """A kind of socket of the caller's own."""


def test_a_connection_is_of_the_given_kind() -> None:
    """The socket is connected, of the caller's kind, non-blocking, without delay and with keepalive."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        connect_tcp("127.0.0.1", listener.getsockname()[1], Deadline(5), CancelToken(), Marked) as sock,
    ):
        assert type(sock) is Marked
        assert sock.getpeername() == listener.getsockname()
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def addresses(*places: Any) -> Any:
    return lambda *args, **kwargs: [(family, socket.SOCK_STREAM, 6, "", place) for family, place in places]


@linux
def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead address, one that does not answer, and one of an unknown family do not hide one that works."""
    with socket.create_server(("127.0.0.1", 0)) as listener, full_backlog() as full, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        alive = listener.getsockname()
        places = [(socket.AF_INET, unused.getsockname()), (socket.AF_INET, ("127.0.0.1", full)), (12345, ("x", 1)),
                  (socket.AF_INET, alive)]  # fmt: skip
        monkeypatch.setattr(socket, "getaddrinfo", addresses(*places))
        with took(0, 2), connect_tcp("many.example", 1, Deadline(0.6), CancelToken()) as sock:
            assert sock.getpeername() == alive


@linux
@pytest.mark.row("C6")
def test_all_addresses_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several addresses that do not answer take no longer together than the limit, and leave no file open."""
    with full_backlog() as port, nothing_left():
        monkeypatch.setattr(socket, "getaddrinfo", addresses(*[(socket.AF_INET, ("127.0.0.1", port))] * 4))
        with took(0.25, 1.5), pytest.raises(ConnectTimeout) as caught:
            connect_tcp("many.example", port, Deadline(0.3), CancelToken())
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


def test_a_dead_port_is_named() -> None:
    """The error says where, and why."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port} cannot be reached: Connection refused"):
        connect_tcp("127.0.0.1", port, Deadline(5), CancelToken())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".example", "a..b"])
def test_a_name_that_does_not_resolve(host: str) -> None:
    """An unknown name, and one that is none, is ConnectFailed."""
    with pytest.raises(ConnectFailed, match="could not be resolved"):
        connect_tcp(host, 443, Deadline(5), CancelToken())


@linux
@pytest.mark.parametrize(("reason", "kind"), [("cancelled", Cancelled), ("closed", ProviderClosed)])
def test_connecting_ends_with_a_cancel(reason: str, kind: type[Exception]) -> None:
    """A cancel ends the wait for a connection soon, and leaves no file open."""
    token = CancelToken()
    with full_backlog() as port, nothing_left():
        timer = threading.Timer(0.1, token.cancel, [reason])
        timer.start()
        with took(0.05, 1), pytest.raises(kind):
            connect_tcp("127.0.0.1", port, Deadline(None), token)
        timer.join()
