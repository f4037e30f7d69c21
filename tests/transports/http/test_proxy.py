"""A proxy: chosen or from the environment, never bypassed, within the limits (row B19 over HTTP)."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat

import pytest

from pixir_sync import ConnectFailed, ConnectTimeout, PixirError
from tests.support.peer import Conn
from tests.support.proxy import ConnectProxy
from tests.transports.http.helpers import KEY, Wire, answer, answers, drip, took


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as made:
        yield made


def test_a_chosen_proxy_is_used(wire: Wire, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS through a tunnel, and NO_PROXY does not bypass a proxy that was chosen; the key is not the proxy's business."""
    monkeypatch.setenv("NO_PROXY", "*")
    with wire.peer(answers) as peer, wire.provider(peer.base_url, proxy=proxy.url, trust_env=True) as provider:
        for _ in range(2):
            assert provider.complete("x").text == "hi"
        assert len(peer.connections) == 1
    assert len(peer.requests) == 2
    first = proxy.heads[0].split("\r\n")[0]
    if wire.server:
        assert first.startswith(f"CONNECT 127.0.0.1:{peer.port} HTTP/1.")
        assert KEY not in "".join(proxy.heads)
    else:
        assert first == f"POST http://127.0.0.1:{peer.port}/v1/responses HTTP/1.1"


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ({"HTTPS_PROXY": "{}"}, True),
        ({"https_proxy": "{}"}, True),
        ({"ALL_PROXY": "{}"}, True),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "127.0.0.1"}, False),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "other.example, 127.0.0.1:{}"}, False),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "*"}, False),
        ({"HTTPS_PROXY": "{}", "NO_PROXY": "7.0.0.1"}, True),
        ({"HTTP_PROXY": "{}"}, False),
        ({}, False),
    ],
)
def test_the_proxy_of_the_environment(
    tls: Wire, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], used: bool
) -> None:
    """The environment's proxy is used for what NO_PROXY does not name, and only where the environment is trusted."""
    with tls.peer(answers) as peer:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(peer.port if name == "NO_PROXY" else proxy.url))
        with tls.provider(peer.base_url, trust_env=True) as provider:
            assert provider.complete("x").text == "hi"
        assert len(proxy.heads) == used
        with tls.provider(peer.base_url, trust_env=False) as provider:
            assert provider.complete("x").text == "hi"
    assert len(proxy.heads) == used


def test_the_name_and_password_of_a_proxy(tls: Wire, proxy: ConnectProxy) -> None:
    """They are sent to the proxy, and shown nowhere."""
    url = proxy.url.replace("http://", "http://me:pass%2Fword@")
    proxy.refuse = True
    with (
        tls.peer([]) as peer,
        tls.provider(peer.base_url, proxy=url, retry=0) as provider,
        pytest.raises(ConnectFailed, match="proxy") as caught,
    ):
        provider.complete("x")
    expected = base64.b64encode(b"me:pass/word").decode()
    assert f"proxy-authorization: basic {expected.lower()}" in proxy.heads[0].lower()
    shown = f"{caught.value} {caught.value.to_dict()} {provider!r} {provider.config!r} {provider.config.network!r}"
    assert "pass" not in shown
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


def test_a_proxy_that_is_not_there(wire: Wire) -> None:
    """A dead proxy is ConnectFailed; nobody goes around it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        wire.peer([]) as peer,
        wire.provider(peer.base_url, proxy=dead, retry=0) as provider,
        pytest.raises(ConnectFailed),
    ):
        provider.complete("x")
    assert peer.connections == []


@pytest.mark.row("C6")
@pytest.mark.parametrize("drip", [False, True], ids=["mute", "dripping"])
def test_a_proxy_that_does_not_answer(tls: Wire, plain: Wire, drip: bool) -> None:
    """The connect limit holds for the proxy's answer too, also one that comes byte by byte."""
    over = threading.Event()

    def script(conn: Conn) -> None:
        conn.read_request()
        with suppress(OSError):
            while drip and not over.wait(0.02):
                conn.send(b"H")
        conn.wait_closed()

    with plain.peer(script) as slow:
        address = f"http://127.0.0.1:{slow.port}"
        with (
            tls.provider("https://127.0.0.1:9/v1", proxy=address, retry=0, timeouts={"connect": 0.2}) as provider,
            took(0.19, 1.7),
            pytest.raises(ConnectTimeout) as caught,
        ):
            provider.complete("x")
        over.set()
    assert (caught.value.phase, caught.value.request_sent) == ("connect", False)


def test_tls_through_a_proxy_that_speaks_tls(tls: Wire) -> None:
    """TLS within TLS: the call works, the connection is kept, and its limits hold."""
    half = threading.Event()

    def script(conn: Conn) -> None:
        answer(conn)
        answer(conn)
        conn.read_request()
        conn.start_sse()
        half.set()
        drip(conn, repeat(b"9\r\n: more\n\n\n\r\n"))

    with ConnectProxy(tls.server) as proxy, tls.peer([script]) as peer:
        with tls.provider(peer.base_url, proxy=proxy.url, retry=0) as provider:
            assert provider.complete("x").text == "hi"
            assert provider.complete("x").text == "hi"
            with took(0.39, 2), pytest.raises(PixirError) as caught:
                provider.complete("x", timeouts=0.4)
            assert caught.value.kind == "first_event_timeout"
        assert len(peer.connections) == 1
    assert half.is_set()
