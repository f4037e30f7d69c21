"""What a Provider takes from the environment, and in which order."""

from __future__ import annotations

import pickle

import pytest

from pixir_sync import InvalidRequest, Network, Provider, ProviderConfig
from pixir_sync.local import LocalServer


def test_a_program_without_arguments_finds_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL, OPENAI_API_KEY and PIXIR_MODEL are enough, on either transport."""
    with LocalServer(model="from-the-environment") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for transport in ("websocket", "http_sse"):
            with Provider(transport=transport, network=Network(trust_env=False)) as provider:
                assert provider.complete("Hi").text == "Heard: Hi (context: 1)"
        assert {request.model for request in server.requests} == {"from-the-environment"}


def test_an_endpoint_of_the_users_own_does_not_lead_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds the local server is not undone by what else is set where the program runs."""
    monkeypatch.setenv("PIXIR_ENDPOINT", "xai")
    monkeypatch.setenv("XAI_API_KEY", "real")
    with LocalServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with Provider(network=Network(trust_env=False)) as provider:
            assert provider.complete("Hi").text == "Heard: Hi (context: 1)"


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL, a preset and a configuration that has one of them are asked first."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://environment.test/v1")
    assert Provider(api_key="k").config.base_url == "https://environment.test/v1"
    assert Provider(api_key="k", base_url="https://argument.test/v1").config.base_url == "https://argument.test/v1"
    assert Provider(api_key="k", endpoint="xai").config.base_url is None
    assert Provider(api_key="k", config=ProviderConfig(base_url="https://config.test/v1")).config.base_url == "https://config.test/v1"
    assert Provider(api_key="k", config=ProviderConfig(endpoint="openai")).config.base_url is None


def test_the_variable_is_read_when_the_provider_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says later changes nothing, and a pickled provider takes its address along."""
    monkeypatch.setenv("OPENAI_BASE_URL", " https://first.test/v1 ")
    provider = Provider(api_key="k")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://second.test/v1")
    assert provider.config.base_url == "https://first.test/v1"
    assert pickle.loads(pickle.dumps(provider)).config.base_url == "https://first.test/v1"


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_is_none(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    """As the official SDK has it."""
    monkeypatch.setenv("OPENAI_BASE_URL", blank)
    assert Provider(api_key="k").config.base_url is None


@pytest.mark.row("D5")
@pytest.mark.parametrize("wrong", ["no url", "ftp://host/v1", "http://far.test/v1", "https://user:secret@host/v1"])
def test_a_wrong_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """When the provider is made, without a quote of what it says."""
    monkeypatch.setenv("OPENAI_BASE_URL", wrong)
    with pytest.raises(InvalidRequest, match="^OPENAI_BASE_URL") as caught:
        Provider(api_key="k")
    assert "secret" not in caught.value.message
