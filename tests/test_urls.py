"""URLs: what is put behind a base, and what is no base."""

from __future__ import annotations

import pytest

from pixir_sync import InvalidRequest, Network, Provider
from pixir_sync.local import LocalServer
from pixir_sync.urls import join


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        ("https://host/v1", "/responses", "https://host/v1/responses"),
        ("https://host/v1/", "/responses", "https://host/v1/responses"),
        ("https://host", "/models", "https://host/models"),
        ("https://host/v1?api-version=1", "/responses", "https://host/v1/responses?api-version=1"),
        ("https://host/v1?a=1", "/x/input_items?limit=2", "https://host/v1/x/input_items?a=1&limit=2"),
        ("https://host/v1", "/x?limit=2", "https://host/v1/x?limit=2"),
    ],
)
def test_a_path_goes_behind_the_bases_own_and_queries_stay(base: str, path: str, url: str) -> None:
    """The query of a base belongs behind the path, not in the middle of it."""
    assert join(base, path) == url


def test_a_query_of_the_base_reaches_the_server_and_no_repr() -> None:
    """It is sent with every request, and it may hold a key."""
    with LocalServer() as server:
        provider = Provider(model="m", base_url=f"{server.base_url}?version=secret-7", api_key=server.api_key)
        assert provider.complete("Hi").text == "Heard: Hi (context: 1)"
        assert provider.models()
        assert [(seen.path, seen.query) for seen in server.requests] == [
            ("/v1/responses", "version=secret-7"),
            ("/v1/models", "version=secret-7"),
        ]
        assert "secret-7" not in repr(provider)


@pytest.mark.parametrize("base", ["https://host/v1#part", "https://host/v1###", "https://host#/v1", "#", "##"])
def test_a_fragment_is_no_part_of_a_base(base: str) -> None:
    """It would never reach the server; only one or two marks at the end mean something."""
    with pytest.raises(InvalidRequest, match="base_url"):
        Provider(base_url=base, api_key="k")


@pytest.mark.row("B20")
@pytest.mark.parametrize(
    ("base", "http", "websocket", "models"),
    [
        ("https://host/v1", "https://host/v1/responses", "wss://host/v1/responses", "https://host/v1/models"),
        ("http://localhost:1/v1", "http://localhost:1/v1/responses", "ws://localhost:1/v1/responses", "http://localhost:1/v1/models"),
        ("https://host", "https://host/responses", "wss://host/responses", "https://host/models"),
        ("https://host#", "https://host/responses", "wss://host/responses", "https://host/models"),
        ("https://host/api/#", "https://host/api/responses", "wss://host/api/responses", "https://host/api/models"),
        ("https://host/v1?a=1#", "https://host/v1/responses?a=1", "wss://host/v1/responses?a=1", "https://host/v1/models?a=1"),
        ("https://host/own/way##", "https://host/own/way", "wss://host/own/way", None),
        ("https://host/own/way/?a=1##", "https://host/own/way/?a=1", "wss://host/own/way/?a=1", None),
    ],
)
def test_where_a_base_leads(base: str, http: str, websocket: str, models: str | None) -> None:
    """http becomes ws, the query stays, # adds no version path, ## adds nothing at all."""
    config = Provider(base_url=base, api_key="k").config
    assert (config.address("/responses"), config.websocket_address) == (http, websocket)
    if models is None:
        with pytest.raises(InvalidRequest, match="##"):
            config.address("/models")
    else:
        assert config.address("/models") == models


@pytest.mark.row("B20")
@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
@pytest.mark.parametrize("mark", ["#", "##"])
def test_a_marked_base_reaches_the_server(transport: str, mark: str) -> None:
    """The call arrives on the path that the base means, and no fragment with it; stored responses are below it."""
    with LocalServer() as server:
        base = server.base_url + ("/responses##" if mark == "##" else "#")
        with Provider(model="m", base_url=base, api_key=server.api_key, transport=transport, store=True) as provider:
            result = provider.complete("Hi")
            assert result.text == "Heard: Hi (context: 1)" and result.response_id is not None
            assert provider.retrieve(result.response_id)["id"] == result.response_id
        assert {recorded.path for recorded in server.requests} == {"/v1/responses", f"/v1/responses/{result.response_id}"}


@pytest.mark.row("B20")
@pytest.mark.parametrize(("given", "scheme"), [("base_url", "http"), ("websocket_url", "ws")])
def test_plain_text_goes_to_this_machine_only(given: str, scheme: str) -> None:
    """Unless that is allowed by name."""
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]", "api.localhost"):
        Provider(api_key="k", **{given: f"{scheme}://{host}:1/v1"})
    for host in ("host", "10.0.0.1", "localhost.example.test", "127.0.0.1.example.test", "[::2]", "0.0.0.0"):
        with pytest.raises(InvalidRequest, match=f"^{given}: plain {scheme}"):
            Provider(api_key="k", **{given: f"{scheme}://{host}:1/v1"})
        Provider(api_key="k", network=Network(allow_insecure=True), **{given: f"{scheme}://{host}:1/v1"})


@pytest.mark.parametrize("response_id", [".", ".."])
def test_an_id_cannot_name_another_resource(response_id: str) -> None:
    """Dots would be taken for a step in the path; nothing is sent."""
    with LocalServer() as server:
        provider = Provider(model="m", base_url=server.base_url, api_key=server.api_key)
        for call in (provider.retrieve, provider.delete, provider.cancel_response, provider.input_items):
            with pytest.raises(InvalidRequest, match="id"):
                call(response_id)
        assert server.connections == 0


@pytest.mark.row("D5")
@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection", "Expect"])
def test_framing_headers_are_the_librarys_own(name: str) -> None:
    """A second opinion on where a request ends is refused before any network."""
    provider = Provider(model="m", api_key="k")
    with pytest.raises(InvalidRequest, match=name):
        provider.stream("Hi", headers={name: "1"})
    with pytest.raises(InvalidRequest, match=name):
        Network(headers={name: "1"})


@pytest.mark.parametrize("name", ["trust_env", "allow_insecure"])
def test_a_network_flag_is_true_or_false(name: str) -> None:
    """A string would count as true."""
    with pytest.raises(InvalidRequest, match=name):
        Provider(api_key="k", network={name: "false"})


def test_a_preview_refuses_what_sending_refuses() -> None:
    """What contains itself, or has no JSON form, is InvalidRequest there too."""
    cycle: dict[str, object] = {}
    cycle["a"] = cycle
    provider = Provider(model="m", api_key="k")
    for value in (cycle, {1}):
        with pytest.raises(InvalidRequest):
            provider.request_body_preview("Hi", extra_body={"z": value})
