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


def test_a_fragment_is_no_part_of_a_base() -> None:
    """It would never reach the server."""
    with pytest.raises(InvalidRequest, match="base_url"):
        Provider(base_url="https://host/v1#part", api_key="k")


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
