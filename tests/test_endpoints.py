"""The presets: which server a name or a URL means, and what is done, and left out, because of it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pixir_sync import FrameTooLarge, InvalidRequest, Network, NotAuthenticated, PoolOptions, Provider, ProviderConfig
from pixir_sync.endpoints import FRAME_LIMIT, OTHER, PRESETS, recognised
from pixir_sync.local import LocalServer
from pixir_sync.sources import resolve
from tests.support.events import text_response
from tests.support.fake import provider_for
from tests.support.peer import Conn, ScriptedPeer

Json = dict[str, Any]
HTTP_ONLY = ["openrouter", "ollama", "vllm", "llamacpp", "lmstudio"]
KEYLESS = ["litellm", "ollama", "vllm", "llamacpp", "lmstudio"]
RESOURCE = "https://me.openai.azure.com/openai/v1"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of any service, and no resource."""
    for name in {preset.key_variable for preset in PRESETS.values()} | {"AZURE_OPENAI_ENDPOINT"}:
        monkeypatch.delenv(name, raising=False)


def test_the_presets_are_these() -> None:
    """Adding one is a decision. Each but Azure has a URL, and each but OpenAI's two a variable of its own for its key."""
    assert list(PRESETS) == ["openai", "chatgpt", "azure", "xai", "openrouter", "vercel", "litellm", *HTTP_ONLY[1:]]
    assert [name for name, preset in PRESETS.items() if preset.base_url is None] == ["azure"]
    assert [name for name, preset in PRESETS.items() if not preset.websocket] == HTTP_ONLY
    assert [name for name, preset in PRESETS.items() if not preset.needs_key] == KEYLESS
    assert [name for name, preset in PRESETS.items() if preset.lanes] == ["openai"]
    assert [name for name, preset in PRESETS.items() if not preset.store] == ["chatgpt", "openrouter", "ollama", "llamacpp"]
    variables = [preset.key_variable for name, preset in PRESETS.items() if name != "chatgpt"]
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "azure"])
def test_every_preset_is_a_usable_endpoint(name: str) -> None:
    """By its name alone; and its own URL, given by itself, means the same wherever that can be told."""
    with Provider(endpoint=name, model="m") as provider:
        assert provider.config.url == PRESETS[name].base_url and provider.config.service == name
    told = recognised(str(PRESETS[name].base_url))
    assert told == (name if name not in ("litellm", "vllm", "llamacpp") else None)


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://api.openai.com/v1", "openai"), ("https://eu.api.openai.com/v1/", "openai"), ("https://API.X.AI/v1", "xai"),
        ("https://us-east-1.api.x.ai/v1", "xai"), (RESOURCE, "azure"), ("https://me.services.ai.azure.com/openai/v1", "azure"),
        ("https://openrouter.ai/api/v1#", "openrouter"), ("https://ai-gateway.vercel.sh/v1/responses##", "vercel"),
        ("https://host/backend-api/codex", "chatgpt"), ("https://chatgpt.com/v1", "chatgpt"),
        ("https://api.x.ai/backend-api/codex", "xai"), ("https://openrouter.ai./api/v1", "openrouter"),
        ("https://me.openai.azure.us/openai/v1", "azure"), ("http://localhost:11434/v1", "ollama"),
        ("http://127.0.0.1:11434/v1", "ollama"), ("http://[::1]:1234/v1", "lmstudio"),
        ("http://localhost:8000/v1", ""), ("http://localhost:8080/v1", ""), ("https://host:11434/v1", ""),
        ("https://api.openai.com.example.test/v1", ""), ("https://notapi.x.ai/v1", ""), ("https://openai.azure.com/v1", ""),
        ("https://host/v1?next=https://api.x.ai/v1", ""),
    ],
)  # fmt: skip
def test_a_url_is_known_by_its_host(url: str, service: str) -> None:
    """By a whole name or the end of one, on this machine by a port that nobody else uses; anything else is nobody's."""
    config = resolve({"base_url": url, "model": "m"})
    assert config.service == service and config.preset is PRESETS.get(service, OTHER)


def test_a_name_wins_over_what_the_url_says() -> None:
    """A server of one's own at another's port; but the URL of one service is none of another's, whose key would go there."""
    assert resolve({"endpoint": "vllm", "base_url": "http://localhost:11434/v1"}).service == "vllm"
    assert resolve({"endpoint": "openai", "base_url": "https://gateway.test/v1"}).service == "openai"
    assert resolve({"endpoint": "openai", "base_url": "https://host/backend-api/codex"}).service == "chatgpt"
    with pytest.raises(InvalidRequest, match="^base_url is a URL of the endpoint openai, and the endpoint given is xai$"):
        Provider(endpoint="xai", base_url="https://api.openai.com/v1")


@pytest.mark.parametrize(
    ("variable", "url"),
    [("https://me.openai.azure.com", RESOURCE), (" https://me.openai.azure.com/ ", RESOURCE), (RESOURCE, RESOURCE),
     ("https://me.openai.azure.com/openai", RESOURCE), ("https://gateway.test/azure/v1", "https://gateway.test/azure/v1")],
)  # fmt: skip
def test_azure_finds_its_resource_in_the_environment(variable: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when the provider is made: a pickled one takes it along. An argument wins."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", variable)
    provider = Provider(endpoint="azure", model="deployment")
    assert provider.config.url == url and provider.config.websocket_address == f"wss{url.removeprefix('https')}/responses"
    assert Provider(endpoint="azure", base_url="https://other.openai.azure.com/openai/v1").config.url.startswith("https://other.")
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT")
    assert pickle.loads(pickle.dumps(provider)).config.url == url


def test_azure_without_a_resource_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways; and a wrong variable is refused by its name."""
    with pytest.raises(InvalidRequest, match=r"base_url='https://\{resource\}\.openai\.azure\.com/openai/v1'.*AZURE_OPENAI_ENDPOINT"):
        Provider(endpoint="azure")
    for wrong in ("me", "http://me.openai.azure.com"):
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", wrong)
        with pytest.raises(InvalidRequest, match="^AZURE_OPENAI_ENDPOINT"):
            Provider(endpoint="azure")


@pytest.mark.parametrize("name", HTTP_ONLY)
def test_without_a_websocket_no_upgrade_is_tried(name: str) -> None:
    """The first request goes over HTTP, and the evidence says why; nothing else is different."""
    with LocalServer() as server, provider_for(server, endpoint=name, model="local-model") as provider:
        for text in ("one", "two"):
            found = provider.complete(text, session="s").provider_metadata
            assert (found["transport_preference"], found["active_transport"], found["attempts"]) == ("auto", "http_sse", 1)
            assert found["fallback_reason"] == "websocket_unsupported"
            assert found["fallback_message"] == f"{PRESETS[name].title} offers no WebSocket"
        assert not provider.warm_up("Hi", session="s") and not provider.has_session("s")
        assert len(server.requests) == 2 and len(server.upgrades) == 0
        assert pickle.loads(pickle.dumps(provider)).complete("Hi").provider_metadata["active_transport"] == "http_sse"


@pytest.mark.row("A3")
@pytest.mark.parametrize("name", HTTP_ONLY)
def test_without_a_websocket_none_can_be_asked_for(name: str) -> None:
    """Both are named, before any network; a URL for it says that there is one after all."""
    with pytest.raises(InvalidRequest, match=f"^transport: the endpoint {name} offers no WebSocket"):
        Provider(endpoint=name, transport="websocket")
    with LocalServer() as server:
        there = server.base_url.replace("http", "ws", 1) + "/responses"
        with provider_for(server, endpoint=name, transport="websocket", websocket_url=there) as provider:
            assert provider.complete("Hi").provider_metadata["active_transport"] == "websocket"


@pytest.mark.parametrize("name", sorted({*PRESETS} - {*HTTP_ONLY}))
def test_with_a_websocket_it_is_used(name: str) -> None:
    """Every other preset opens one, with the headers that it wants at the upgrade."""
    with LocalServer() as server, provider_for(server, endpoint=name) as provider:
        found = provider.complete("Hi").provider_metadata
        assert (found["active_transport"], found["fallback_reason"]) == ("websocket", None)
        beta = server.upgrades.only.headers.get("openai-beta")
        assert beta == ("responses_websockets=2026-02-06" if name == "chatgpt" else None)


@pytest.mark.row("B18")
def test_a_frame_limit_of_its_own() -> None:
    """Five million bytes go over HTTP at Vercel, and in one message elsewhere; without HTTP that is the error."""
    text = "x" * 5_000_000
    assert PRESETS["vercel"].frame_limit < 4 << 20 < FRAME_LIMIT == PRESETS["openai"].frame_limit == 16_000_000
    with LocalServer() as server:
        with provider_for(server, endpoint="vercel") as provider:
            found = provider.complete(text, session="s").provider_metadata
            assert (found["active_transport"], found["fallback_reason"]) == ("http_sse", "frame_too_large")
            assert len(server.upgrades) == 0
            assert provider.complete("small", session="s").provider_metadata["active_transport"] == "websocket"
        with provider_for(server, endpoint="openai") as provider:
            assert provider.complete(text).provider_metadata["active_transport"] == "websocket"
        with provider_for(server, endpoint="vercel", transport="websocket") as provider, pytest.raises(FrameTooLarge):
            provider.complete(text)


@pytest.mark.row("B11")
def test_an_age_limit_of_its_own() -> None:
    """Connections are replaced well before the service ends them, unless the caller said when."""
    ages = {name: (resolve({"endpoint": name, "base_url": RESOURCE if name == "azure" else None}).pool) for name in PRESETS}
    assert (ages["xai"].max_lifetime, ages["xai"].max_idle) == (1250, 1800)
    assert (ages["vercel"].max_lifetime, ages["vercel"].max_idle) == (650, 250)
    assert all(pool == PoolOptions() for name, pool in ages.items() if name not in ("xai", "vercel"))
    assert resolve({"base_url": "https://api.x.ai/v1"}).pool.max_lifetime == 1250
    mine = resolve({"endpoint": "xai", "pool": PoolOptions(max_size=3, max_lifetime=None)}).pool
    assert (mine.max_size, mine.max_lifetime) == (3, None)
    assert resolve({"endpoint": "xai", "pool": {"max_lifetime": 60}}).pool.max_lifetime == 60
    assert resolve({"endpoint": "xai", "pool": PoolOptions(max_size=3)}).pool.max_lifetime == 1250
    assert pickle.loads(pickle.dumps(Provider(endpoint="xai"))).config.pool.max_lifetime == 1250


@pytest.mark.row("D1")
@pytest.mark.parametrize("name", KEYLESS)
def test_a_server_of_ones_own_needs_no_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its variable no authorisation is sent at all; with it, that key; and OpenAI's never."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-you")
    seen: list[str | None] = []

    def answer(conn: Conn) -> None:
        seen.append(conn.read_request().headers.get("authorization"))
        conn.start_sse()
        for event in text_response("ok"):
            conn.sse(event)
        conn.finish()

    with ScriptedPeer(answer) as peer:
        with provider_for(peer, endpoint=name, credential=None, transport="http_sse") as provider:
            assert provider.complete("Hi").text == "ok"
            monkeypatch.setenv(PRESETS[name].key_variable, "mine")
            assert provider.complete("Hi").text == "ok"
    assert seen == [None, "Bearer mine"]


@pytest.mark.row("D1")
def test_a_key_goes_with_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL of another service means its own variable. The variables that OpenAI's software shares are a pair, and stay one."""
    monkeypatch.setenv("OPENAI_API_KEY", "pair")
    with pytest.raises(NotAuthenticated, match="set XAI_API_KEY"):
        resolve({"base_url": "https://api.x.ai/v1"}).credentials().headers()
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.x.ai/v1")
    paired = resolve({})
    assert paired.service == "xai" and paired.credentials().headers() == {"Authorization": "Bearer pair"}
    with pytest.raises(NotAuthenticated, match="set XAI_API_KEY"):
        resolve({"endpoint": "xai"}).credentials().headers()
    monkeypatch.setenv("XAI_API_KEY", "own")
    assert paired.credentials().headers() == {"Authorization": "Bearer own"}
    assert resolve({"base_url": "https://gateway.test/v1"}).credentials().headers() == {"Authorization": "Bearer pair"}


@pytest.mark.parametrize("name", ["openrouter", "ollama", "llamacpp"])
def test_a_server_that_keeps_nothing_is_not_asked_to(name: str) -> None:
    """Store is refused for the provider and for a call, by the server's name."""
    with pytest.raises(InvalidRequest, match=f"^store: {PRESETS[name].title} keeps no responses, store must be false"):
        Provider(endpoint=name, store=True)
    with Provider(endpoint=name, model="m") as provider, pytest.raises(InvalidRequest, match="store: .* keeps no responses"):
        provider.request_body_preview("Hi", store=True)


@pytest.mark.parametrize("name", sorted({*PRESETS} - {"azure"}))
def test_what_a_service_does_not_know_is_left_out(name: str) -> None:
    """Encrypted reasoning and the retention of a cache, where there is neither."""
    with Provider(endpoint=name, model="gpt-5.5") as provider:
        body = provider.request_body_preview("Hi", reasoning_effort="low", prompt_cache_retention="24h")
    own = name in ("ollama", "vllm", "llamacpp", "lmstudio")
    assert ("include" not in body) is own and ("prompt_cache_retention" not in body) is (own or name == "chatgpt")


def test_plain_http_is_for_this_machine_with_every_preset() -> None:
    """A server of one's own elsewhere needs https, or the word for it."""
    with pytest.raises(InvalidRequest, match="^base_url: plain http goes to this machine only"):
        Provider(endpoint="vllm", base_url="http://gpu.test:8000/v1")
    allowed = ProviderConfig(endpoint="vllm", network=Network(allow_insecure=True))
    assert Provider(base_url="http://gpu.test:8000/v1", config=allowed).config.service == "vllm"
