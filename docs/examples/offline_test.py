"""A test of a program, without a network: the local server answers, and tells what it was asked."""

from __future__ import annotations

from pixir_sync import Provider
from pixir_sync.local import LocalServer


def summarise(provider: Provider, text: str) -> str:
    """The program under test."""
    return provider.complete(text, system_prompt="Summarise in one line.").text


def test_summarise_sends_the_instructions() -> None:
    with (
        LocalServer() as server,
        Provider(model="local-model", base_url=server.base_url, api_key=server.api_key) as provider,
    ):
        answer = summarise(provider, "A long story")
    assert answer == "Heard: A long story (context: 1)"
    assert server.requests[-1].body["instructions"] == "Summarise in one line."


if __name__ == "__main__":
    test_summarise_sends_the_instructions()
    print("passed")
