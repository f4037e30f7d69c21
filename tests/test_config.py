"""The settings: every wrong value is refused by name, before any network; the right ones mean what they say."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from pixir_sync import InvalidRequest, Keepalive, Network, PoolOptions, Provider, ProviderConfig, RetryPolicy, Timeouts
from pixir_sync.local import LocalServer
from pixir_sync.sources import resolve
from tests.support.both import TransportName
from tests.support.fake import anywhere, provider_for

NAN, INF = float("nan"), float("inf")

URLS: list[tuple[Any, str]] = [
    ("", "must be a string that is not blank"),
    ("  ", "must be a string that is not blank"),
    (5, "must be a string"),
    (b"https://host/v1", "must be a string"),
    ("host/v1", "no URL"),
    ("api.example.test", "no URL"),
    ("https://", "no URL"),
    ("https:///v1", "no URL"),
    ("https://host:port/v1", "no URL"),
    ("https://host:99999/v1", "no URL"),
    ("https://[::1/v1", "no URL"),
    ("ftp://host/v1", "must begin with http:// or https://"),
    ("file:///etc/passwd", "no URL|must begin"),
    ("ws://127.0.0.1/v1", "must begin with http:// or https://"),
    ("https://user@host/v1", "must not hold a user name or a password"),
    ("https://user:pass@host/v1", "must not hold a user name or a password"),
    ("https://:@host/v1", "must not hold a user name or a password"),
    ("https://ho st/v1", "white space"),
    (" https://host/v1", "white space"),
    ("https://host/v1\r\nX: y", "control characters"),
    ("https://host/\x00v1", "control characters"),
    ("https://host/v1\t", "control characters"),
    ("https://hôst/v1", "ASCII"),
    ("http://host/v1", "plain http goes to this machine only"),
    ("http://10.0.0.1/v1", "plain http goes to this machine only"),
    ("http://localhost.example.test/v1", "plain http goes to this machine only"),
    ("http://127.0.0.1.example.test/v1", "plain http goes to this machine only"),
    ("HTTP://host/v1", "plain http goes to this machine only"),
]


@pytest.mark.row("D5")
@pytest.mark.parametrize(("url", "says"), URLS, ids=[repr(row[0])[:40] for row in URLS])
def test_a_wrong_base_url_is_refused(url: Any, says: str) -> None:
    """When the provider is made, by name; what stood in the URL is not quoted."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        Provider(base_url=url, api_key="k", model="m")
    assert caught.value.message.startswith("base_url")
    assert "pass" not in caught.value.message.replace("password", "")


@pytest.mark.parametrize(
    "url",
    ["https://host/v1", "https://host:8443", "http://localhost:1/v1", "http://127.0.0.1/v1", "http://127.8.0.1:80", "http://[::1]:9/v1",
     "http://app.localhost/v1", "HTTPS://Host/v1/"],
)  # fmt: skip
def test_a_right_base_url_is_taken(url: str) -> None:
    """https anywhere and http to this machine; a slash at the end does not count."""
    with Provider(base_url=url, model="m") as provider:
        assert provider.config.url == url.replace("HTTPS", "https").rstrip("/")


def test_plain_http_to_other_hosts_can_be_allowed() -> None:
    """Network(allow_insecure=True) is the one way."""
    config = resolve({"base_url": "http://host/v1", "network": Network(allow_insecure=True), "model": "m"})
    assert config.url == "http://host/v1"
    with pytest.raises(InvalidRequest, match="base_url: plain http"):
        resolve({"base_url": "http://host/v1", "network": {"trust_env": False}})


@pytest.mark.parametrize("url", ["http://127.0.0.1/v1", "ws://host/v1", "wss://user@host", "wss://", "", 5])
def test_a_wrong_websocket_url_is_refused(url: Any) -> None:
    """It has its own schemes and the same rules."""
    with pytest.raises(InvalidRequest, match="websocket_url"):
        Provider(websocket_url=url, model="m")


def test_a_path_and_a_slash_at_the_end_lead_to_the_same_place(transport: TransportName) -> None:
    """The request, or the upgrade, goes to base_url with /responses behind it."""
    seen: list[tuple[str, dict[str, Any]]] = []
    with anywhere(transport, seen) as peer:
        for url in (peer.base_url, f"{peer.base_url}/", peer.base_url.replace("/v1", "/a/b")):
            with provider_for(peer, transport=transport, base_url=url) as provider:
                provider.complete("Hi")
    assert [path for path, _ in seen] == ["/v1/responses", "/v1/responses", "/a/b/responses"]


NUMBERS: list[tuple[Any, str, bool]] = [
    *((Timeouts, f.name, True) for f in fields(Timeouts)),
    *((Keepalive, f.name, True) for f in fields(Keepalive)),
    *((PoolOptions, name, True) for name in ("max_size", "max_idle", "max_lifetime")),
    (PoolOptions, "max_retained_bytes", False),
    *((RetryPolicy, name, False) for name in ("max_retries", "initial_delay", "max_delay", "jitter", "max_server_delay")),
]


@pytest.mark.parametrize(("kind", "name", "positive"), NUMBERS, ids=[f"{row[0].__name__}.{row[1]}" for row in NUMBERS])
def test_a_wrong_number_is_refused(kind: Any, name: str, positive: bool) -> None:
    """A setting takes no bool, no NaN, no infinity, nothing negative, no string; and the error names it."""
    for wrong in (True, False, NAN, INF, -INF, -1, -0.001, "5", [5], 1j, *([0, 0.0] if positive else [])):
        with pytest.raises(InvalidRequest, match=rf"\b{name} must be"):
            kind(**{name: wrong})
    assert getattr(kind(**{name: 1}), name) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeouts": -1}, r"timeouts\.idle"), ({"timeouts": NAN}, r"timeouts\.idle"), ({"timeouts": 0}, r"timeouts\.idle"),
        ({"timeouts": True}, "timeouts must be Timeouts or a number, not bool"), ({"timeouts": "5"}, "timeouts must be"),
        ({"timeouts": None}, "timeouts must be"), ({"timeouts": {"conect": 1}}, "did you mean 'connect'"),
        ({"retry": -1}, r"retry\.max_retries"), ({"retry": 1.5}, r"retry\.max_retries"), ({"retry": True}, "retry must be"),
        ({"retry": {"replay": "always"}}, r"retry\.replay must be one of"), ({"retry": {"jitter": 2}}, r"retry\.jitter"),
        ({"keepalive": 5}, "keepalive must be Keepalive, not int"), ({"keepalive": {"interval": 0}}, r"keepalive\.interval"),
        ({"pool": 5}, "pool must be"), ({"pool": {"max_size": 1.5}}, r"pool\.max_size"), ({"pool": {"lanes": 1}}, r"pool\.lanes"),
        ({"network": "proxy"}, "network must be"), ({"network": {"proxie": "x"}}, "did you mean 'proxy'"),
        ({"network": {"proxy": "socks5://host:1"}}, r"network\.proxy"), ({"network": {"proxy": "host"}}, r"network\.proxy"),
        ({"network": {"proxy": 5}}, r"network\.proxy"), ({"network": {"ca_bundle": ""}}, r"network\.ca_bundle"),
        ({"network": {"client_cert": ("a",)}}, r"network\.client_cert"),
        ({"network": {"headers": {"A": "b\n"}}}, r"network\.headers\['A'\]"), ({"network": {"headers": []}}, r"network\.headers"),
        ({"requests_per_minute": 0}, "requests_per_minute"), ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"requests_per_minute": NAN}, "requests_per_minute"), ({"requests_per_minute": True}, "requests_per_minute"),
        ({"requests_per_minute": 1.5}, "requests_per_minute must be a whole number"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_setting_is_refused(options: dict[str, Any], says: str) -> None:
    """Each with the name of the field within it."""
    with pytest.raises(InvalidRequest, match=says):
        Provider(model="m", **options)


def test_numbers_and_mappings_stand_for_settings() -> None:
    """One number is the idle limit, or the retries; a mapping names fields; the class itself is taken as it is."""
    config = resolve({"model": "m", "timeouts": 7, "retry": 0, "pool": {"max_size": 3}, "keepalive": Keepalive(interval=5)})
    assert config.timeouts == Timeouts(idle=7) and config.retry == RetryPolicy(max_retries=0)
    assert config.pool == PoolOptions(max_size=3) and config.keepalive.interval == 5


def test_the_defaults_are_those_of_the_contract() -> None:
    """Seconds and counts as documented; store is false."""
    assert Timeouts() == Timeouts(connect=10, pool=30, write=60, first_event=None, idle=600, total=None)
    assert Keepalive() == Keepalive(interval=20, timeout=20)
    assert PoolOptions() == PoolOptions(max_size=128, max_idle=1800, max_lifetime=3000, max_retained_bytes=64 << 20, lanes=False)
    assert RetryPolicy() == RetryPolicy(
        max_retries=2, initial_delay=0.5, max_delay=8, jitter=0.25, max_server_delay=120, replay="before_output"
    )
    config = ProviderConfig()
    assert (config.url, config.store) == ("https://api.openai.com/v1", False)
    assert config.transport == config.continuation == "auto"
    assert config.network == Network() and config.network.trust_env and not config.network.allow_insecure


def test_settings_are_frozen_and_travel() -> None:
    """They cannot be changed, and copies and pickles are equal to them."""
    config = resolve({"model": "m", "timeouts": 7, "network": {"proxy": "http://proxy:1"}})
    with pytest.raises(FrozenInstanceError):
        config.model = "n"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        config.timeouts.idle = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_presets_name_their_services() -> None:
    """A preset brings its URL and key variable; base_url wins over its URL."""
    for endpoint, url in (("openai", "https://api.openai.com/v1"), ("xai", "https://api.x.ai/v1"),
                          ("chatgpt", "https://chatgpt.com/backend-api/codex")):  # fmt: skip
        assert resolve({"endpoint": endpoint, "model": "m"}).url == url
    assert resolve({"endpoint": "xai", "base_url": "https://host/v1", "model": "m"}).url == "https://host/v1"
    assert resolve({"endpoint": "chatgpt", "model": "m"}).chatgpt


@pytest.mark.parametrize(("path", "chatgpt"), [("/backend-api/codex", True), ("/v1", False)])
def test_the_chatgpt_backend_is_known_by_its_path(path: str, chatgpt: bool) -> None:
    """There store must be false, for a call as for the provider."""
    with Provider(base_url=f"https://host{path}", api_key="k", model="m") as provider:
        assert provider.config.chatgpt is chatgpt
        for fields_ in ({"store": True}, {"extra_body": {"store": True}}):
            if chatgpt:
                with pytest.raises(InvalidRequest, match="store: the ChatGPT backend"):
                    provider.stream("Hi", **fields_)
            else:
                assert provider.request_body_preview("Hi", **fields_)["store"] is True


def test_store_of_the_provider_is_the_default_of_its_calls() -> None:
    """A call may say otherwise; false for the call wins over true for the provider."""
    with LocalServer() as server, provider_for(server, store=True) as provider:
        provider.complete("one")
        provider.complete("two", store=False)
        assert [request.body["store"] for request in server.requests] == [True, False]
