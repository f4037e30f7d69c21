"""One setting of proxy, TLS and headers, which both transports obey (B19)."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from pixir_sync import ConnectFailed, ConnectionLost, ConnectTimeout, InvalidRequest, Network, PixirError, Provider
from pixir_sync.local import LocalServer
from tests.support.fake import provider_for
from tests.support.proxy import ConnectProxy
from tests.support.tls import authority

pytestmark = pytest.mark.row("B19")
SECURE = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
ANSWER = "Heard: Hi (context: 1)"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no bundle of the machine's own gets into a test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serving() -> Iterator[Callable[..., LocalServer]]:
    """Starts a server, plain or with this certificate."""
    with ExitStack() as stack:

        def start(certificate: trustme.LeafCert | SelfSigned | None = None, **options: Any) -> LocalServer:
            context = None
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                certificate.configure_cert(context)
            return stack.enter_context(LocalServer(ssl_context=options.pop("context", context), **options))

        yield start


def provider_of(server: LocalServer, transport: str, **network: Any) -> Provider:
    """A provider that tries once."""
    return provider_for(server, transport=transport, retry=0, network=Network(**{"trust_env": False, **network}))


def secured(secure: bool, **network: Any) -> dict[str, Any]:
    return {**network, **({"ca_bundle": authority().ca_file()} if secure else {})}


def context_of(secure: bool) -> ssl.SSLContext | None:
    return authority().server_context() if secure else None


# Proxies


@SECURE
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_proxy_is_used(
    serving: Callable[..., LocalServer], transport: str, secure: bool, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one given, whatever NO_PROXY says; or the environment's, for the scheme of the URL."""
    server = serving(context=context_of(secure))
    with ConnectProxy() as proxy:
        if how == "argument":
            monkeypatch.setenv("NO_PROXY", "*")
            given = secured(secure, proxy=proxy.url, trust_env=True)
        else:
            monkeypatch.setenv("HTTPS_PROXY" if secure else "http_proxy", proxy.url)
            given = secured(secure, trust_env=True)
        with provider_of(server, transport, **given) as provider:
            assert provider.complete("Hi").text == ANSWER
    assert len(proxy.heads) == 1
    tunnelled = proxy.heads[0].startswith(f"CONNECT {server.host}:{server.port} ")
    assert tunnelled == (secure or transport == "websocket")
    assert tunnelled != (server.api_key in proxy.heads[0])  # the proxy sees the key only where all is plain


@pytest.mark.parametrize(
    ("exempt", "used"),
    [("127.0.0.1", False), ("*", False), ("example.com,127.0.0.1", False), (".example.com", True), ("7.0.0.1", True), ("", True)],
)
def test_no_proxy(
    serving: Callable[..., LocalServer], transport: str, exempt: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names a host or its domain, and never the end of another name."""
    server = serving()
    with ConnectProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", exempt)
        with provider_of(server, transport, trust_env=True) as provider:
            assert provider.complete("Hi").text == ANSWER
    assert bool(proxy.heads) == used


@SECURE
def test_the_name_and_password_of_a_proxy(serving: Callable[..., LocalServer], transport: str, secure: bool) -> None:
    """Are told to the proxy, and to nobody else; a wrong one is a proxy that did not open a connection."""
    server = serving(context=context_of(secure))
    with ConnectProxy(login="user:p@ss word") as proxy:
        place = proxy.url.removeprefix("http://")
        with provider_of(server, transport, **secured(secure, proxy=f"http://user:p%40ss%20word@{place}")) as provider:
            assert provider.complete("Hi").text == ANSWER
        arrived = server.upgrades if transport == "websocket" else server.requests
        assert not [name for name in arrived.only.headers if name.lower().startswith("proxy-")]
        with provider_of(server, transport, **secured(secure, proxy=f"http://user:wrong@{place}")) as provider:
            with pytest.raises(PixirError) as caught:
                provider.complete("Hi")
    tunnelled = secure or transport == "websocket"
    assert isinstance(caught.value, ConnectFailed) == tunnelled  # over plain HTTP the proxy answers in the server's place
    assert not tunnelled or caught.value.details == {"proxy_status": 407}
    assert "wrong" not in repr(caught.value) + str(caught.value) and len(server.requests) == 1


@SECURE
@pytest.mark.parametrize(("way", "kind"), [("refuse", ConnectFailed), ("hang", ConnectTimeout)])
def test_a_proxy_that_is_of_no_use(
    serving: Callable[..., LocalServer], transport: str, secure: bool, way: str, kind: type[PixirError]
) -> None:
    """Its refusal, or its silence, is an error in time; nothing goes past it."""
    if way == "hang" and transport == "http_sse" and not secure:
        pytest.skip("a plain request is sent to the proxy: its silence is the server's, and has the limit of the first event")
    server = serving(context=context_of(secure))
    with ConnectProxy() as proxy:
        setattr(proxy, way, True)
        with provider_of(server, transport, **secured(secure, proxy=proxy.url)) as provider:
            with pytest.raises(PixirError) as caught:
                provider.complete("Hi", timeouts={"connect": 0.5, "idle": 5})
    assert isinstance(caught.value, kind) or (way == "refuse" and not secure and caught.value.status == 403)
    assert len(server.requests) == 0 and server.connections == 0


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
def test_a_socks_proxy_of_the_environment_is_refused_by_name(
    serving: Callable[..., LocalServer], transport: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for an HTTP proxy, and not passed by in silence."""
    server = serving()
    monkeypatch.setenv(variable, "socks5://127.0.0.1:1")
    with provider_of(server, transport, trust_env=True) as provider, pytest.raises(InvalidRequest, match="socks5"):
        provider.complete("Hi")
    assert server.connections == 0


# Certificates

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
CERTIFICATES: dict[str, Callable[[], Any]] = {
    "another host's": lambda: authority().ca.issue_cert("api.example.test"),
    "expired": lambda: authority().ca.issue_cert(
        "127.0.0.1", not_before=YESTERDAY - datetime.timedelta(days=9), not_after=YESTERDAY
    ),
    "of another authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
    "self-signed": lambda: SelfSigned(),
    "of an authority below another one": lambda: trustme.CA().create_child_ca().issue_cert("127.0.0.1"),
}


class SelfSigned:
    """A certificate that vouches for itself, as quickly made ones do."""

    def configure_cert(self, context: ssl.SSLContext) -> None:
        own = trustme.CA()
        with own.private_key_pem.tempfile() as key, own.cert_pem.tempfile() as certificate:
            context.load_cert_chain(certificate, key)


@pytest.mark.parametrize("name", CERTIFICATES)
@pytest.mark.parametrize("proxied", [False, True])
def test_a_certificate_that_is_not_trusted(
    serving: Callable[..., LocalServer], transport: str, name: str, proxied: bool
) -> None:
    """The same error over both, never tried again, through a proxy too; not a word of the request was sent."""
    server = serving(CERTIFICATES[name]())
    with ConnectProxy() as proxy:
        given = secured(True, **({"proxy": proxy.url} if proxied else {}))
        with provider_for(server, transport=transport, network=Network(trust_env=False, **given)) as provider:
            with pytest.raises(ConnectFailed, match="certificate is not trusted") as caught:
                provider.complete("Hi")
    assert caught.value.details == {"certificate": True} and not caught.value.retryable and not caught.value.request_sent
    assert len(server.requests) == len(server.upgrades) == 0 and len(proxy.heads) == proxied


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(serving: Callable[..., LocalServer], transport: str, version: ssl.TLSVersion) -> None:
    """1.2 and 1.3 both serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority().certificate.configure_cert(context)
    with provider_of(serving(context=context), transport, **secured(True)) as provider:
        assert [provider.complete("Hi", session="s").text for _ in range(2)] == [ANSWER] * 2


@pytest.mark.parametrize("source", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environments_bundle(
    serving: Callable[..., LocalServer], transport: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is used by both, unless the environment is not trusted, or a bundle is given."""
    server = serving(context=context_of(True))
    monkeypatch.setenv(source, authority().ca_file())
    with provider_of(server, transport, trust_env=True) as provider:
        assert provider.complete("Hi").text == ANSWER
    with provider_of(server, transport) as provider, pytest.raises(ConnectFailed, match="not trusted"):
        provider.complete("Hi")


@pytest.mark.parametrize("form", ["file", "pair", "none"])
def test_client_certificates(serving: Callable[..., LocalServer], transport: str, form: str, tmp_path: Path) -> None:
    """A server that asks for one gets it, from one file or from two; without it the call fails in time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().certificate.configure_cert(context)
    authority().ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = authority().ca.issue_cert("me@example.test")
    whole, chain, key = (str(tmp_path / name) for name in ("me.pem", "chain.pem", "key.pem"))
    mine.private_key_and_cert_chain_pem.write_to_path(whole)
    mine.cert_chain_pems[0].write_to_path(chain)
    mine.private_key_pem.write_to_path(key)
    shown = {"file": whole, "pair": (chain, key), "none": None}[form]
    with provider_of(serving(context=context), transport, **secured(True, client_cert=shown)) as provider:
        if shown is not None:
            assert provider.complete("Hi").text == ANSWER
        else:
            with pytest.raises((ConnectFailed, ConnectionLost)):
                provider.complete("Hi")


# Headers


def test_headers_of_the_network(serving: Callable[..., LocalServer], transport: str) -> None:
    """Go with everything: the upgrade, the POST, the rest of the API; a call's own win over them."""
    server = serving()
    with provider_of(server, transport, headers={"X-Team": "blue", "X-Other": "1"}) as provider:
        provider.complete("Hi", headers={"x-team": "red"})
        provider.models()
    arrived = [*(server.upgrades if transport == "websocket" else server.requests[:1]), server.requests.last]
    assert [(recorded.headers["x-team"], recorded.headers["x-other"]) for recorded in arrived] == [("red", "1"), ("blue", "1")]
